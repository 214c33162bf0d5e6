//! The only unsafe code: system calls that neither `std` nor `rustix` offers safely. And how small files are replaced,
//! because every crate that does so stands on this one.
//!
//! Everything here takes and returns safe types, knows no other crate of Bygone, and has a `SAFETY` comment at every
//! `unsafe`. What `std` and `rustix` already have does not belong here: `std::fs::File::try_lock` locks whole files,
//! `rustix` has pidfds, `poll`, termios and `fallocate`.
#![cfg(target_os = "linux")]

mod image_lock;
mod session;
mod whole;
mod writing;

pub use image_lock::{ImageLock, ImageLockError, ImageUse};
pub use session::detach;
pub use whole::{write_whole, write_whole_by};
pub use writing::begin_writing;

#[cfg(test)]
mod tests;

//! What this crate says of images made by the real tools, compared with those tools and with the kernel's own drivers.
//!
//! The tools come from `scripts/setup`. Images are mounted through loop devices, which needs root: a test that cannot
//! mount says so and makes its image in another way.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod btrfs;
mod ext;
mod fat;
mod guest;
mod image;
mod lvm;
mod packages;
mod snapshot;
mod volumes;
mod xfs;

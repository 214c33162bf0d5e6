//! The manager of targets: what is protected and how it is made up, machines in QEMU, moments, restoring, and the API
//! through which all of it is asked for.
//!
//! Knows nothing of command lines and terminals. One engine serves both a running manager and commands without one: see
//! [`ask`].
#![forbid(unsafe_code)]

mod bench;
mod calls;
mod error;
mod exports;
mod failure;
mod fs_state;
#[doc(hidden)]
pub mod fuzzing;
mod history;
mod import;
mod jobs;
mod lifecycle;
mod machine;
mod manager;
mod outside;
mod restore;
mod runner;
mod serve;
mod socket;
mod store_dir;
mod target;
mod timeline;

use bygone_api::{self as api, config};

pub use bench::{BenchRow, bench};
pub use error::{Error, Result, Usage};
pub use serve::{ServeInfo, ServeOptions, ask, console, init, serve, stop_serving};

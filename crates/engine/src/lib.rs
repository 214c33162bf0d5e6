//! The manager of targets: their configuration, their machines in QEMU, moments, restores, and the API for all of this.
//!
//! Knows nothing of command lines and terminals. A running manager and a command without one use the same engine: see
//! [`ask`].
#![forbid(unsafe_code)]

mod bench;
mod calls;
mod child;
mod error;
mod exports;
mod failure;
mod file_systems;
mod grade;
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
mod software;
mod store_dir;
mod target;
mod timeline;
mod variables;

use bygone_api::{self as api, config};

pub use bench::{BenchRow, bench};
pub use child::serve_if_asked as serve_child_if_asked;
pub use error::{Error, Result, Usage};
pub use serve::{ServeInfo, ServeOptions, ask, console, init, serve, stop_serving, target_names};

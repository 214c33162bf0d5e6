//! Running targets in QEMU.
//!
//! | module | does |
//! |---|---|
//! | [`spec`] | describes a machine and makes QEMU's command line of it; pure |
//! | [`firmware`] | finds the UEFI firmware of this computer |
//! | [`accel`] | finds out whether KVM works |
//! | [`process`] | starts, finds, waits for and ends the process |
//! | [`qmp`] | speaks to its monitor |
//! | [`watch`] | does all of that for one machine: start or adopt it, tell what happens to it, stop it |
//! | [`console`] | attaches to its serial console |
//! | [`seed`] | makes the volume by which cloud-init sets a machine up |
//! | [`image`] | recognises images of disks, and makes raw ones of them |
//!
//! Invariants:
//! - a guest outlives its manager: nothing about a running machine depends on the process that started it;
//! - everything about a running machine is in its [`Places`], so that a later manager finds it;
//! - whatever a guest, or a QEMU compromised by one, sends becomes an error or a report here, never a panic, and is
//!   bounded.
//!
//! This crate must not know the store, how disks are served, or what a stop means for a target's history.
#![forbid(unsafe_code)]

pub mod accel;
pub mod console;
mod deadline;
mod error;
pub mod firmware;
#[doc(hidden)]
pub mod fuzzing;
pub mod image;
mod places;
pub mod process;
pub mod qmp;
mod running;
pub mod seed;
pub mod spec;
mod tool;
pub mod watch;

pub use accel::Accel;
pub use deadline::Deadline;
pub use error::{Error, ProtocolError, Result, SOCKET_PATH_BYTES_MAX};
pub use places::Places;
pub use running::Running;
pub use spec::{Disk, Display, Firmware, Kernel, Machine, Net};
pub use watch::{By, Happening, Held, Phase, Reason, Report, Step, Stopped, Vm, find_qemu};

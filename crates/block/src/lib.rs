//! Block devices, the layers they are made of, and the NBD server in front of them.
//!
//! This crate knows nothing of QEMU, targets or policy: the caller brings the store's log and decides which device is
//! exported under which name.
#![forbid(unsafe_code)]

mod device;
mod fault;
mod fuse;
mod log_device;
pub mod nbd;
mod parts;
mod raw;
mod read_only;
mod samples;
mod tap;
pub mod walk;

pub use device::{BlockDevice, Change, Extent, Geometry, IoError, Reading, Writing};
pub use fault::{FaultDevice, Faults};
pub use fuse::{FileExport, FuseError, serve_file};
pub use log_device::{AsOfDevice, LogDevice, WhenFull};
pub use raw::{OsDisk, RawDisk, file_identity};
pub use samples::samples;
pub use tap::{DiskTrouble, Reread, TapDevice, TapState};

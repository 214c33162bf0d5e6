//! Block devices, the layers they are made of, and the NBD server in front of them.
//!
//! Knows nothing of QEMU, targets or policy: whoever calls brings the store's log and says which device
//! is exported under which name.
#![forbid(unsafe_code)]

mod device;
pub mod nbd;

pub use device::{BlockDevice, Change, Extent, Geometry, IoError, Reading, Writing};

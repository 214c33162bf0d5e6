//! Input of the manager: from people and programs over its socket, from QEMU, from disks, and from its own files.

pub(crate) mod api;
pub(crate) mod config;
mod disk;
pub(crate) mod files;
pub(crate) mod image;
pub(crate) mod qmp;
pub(crate) mod volumes;

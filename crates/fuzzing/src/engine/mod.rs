//! What the manager is told: by people and programs over its socket, by QEMU, by disks, by its own files.

pub(crate) mod api;
pub(crate) mod config;
pub(crate) mod ext;
pub(crate) mod image;
pub(crate) mod qmp;

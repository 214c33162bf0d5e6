//! The description of a machine, and QEMU's command line for it. Pure: no file, clock or process is accessed.
//!
//! Invariants:
//! - the same description gives the same command line, so the guest sees the same hardware at every boot, whatever its
//!   display, its accelerator or the moment it is started from;
//! - the machine is paused at every shutdown and every reset, so that its disks do not change until the engine is done
//!   with them;
//! - no I/O error reaches the guest: QEMU waits up to [`RECONNECT_SECONDS_MAX`] for a disk that is not served, and
//!   pauses the machine if a request fails nevertheless;
//! - nothing in a name or path can become another option. What is meant as QEMU's own options (for the network, for
//!   VNC, [`Machine::extra_args`]) is passed on unchanged.

mod argv;
mod word;

use std::path::{Path, PathBuf};

use super::{
    accel::Accel,
    error::{Error, Result},
    places,
};

/// How long QEMU tries to reconnect to a disk: its maximum (32 bits of seconds, 136 years), because the absence of a
/// manager, however long, must not cause I/O errors.
pub const RECONNECT_SECONDS_MAX: u32 = u32::MAX;

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its name, shown in window titles and process lists.
    pub name: String,
    /// What tells it from all other machines and never changes, unlike its name: its network cards' addresses are made
    /// from it.
    pub identity: String,
    /// Its memory, in MiB.
    pub memory_mib: u32,
    /// Its processors.
    pub cpus: u32,
    /// The firmware.
    pub firmware: Firmware,
    /// A kernel to start directly; otherwise it boots from its first disk.
    pub kernel: Option<Kernel>,
    /// Its disks, in the order in which the guest sees them.
    pub disks: Vec<Disk>,
    /// A CD image, from which it boots when none of its disks is bootable.
    pub cdrom: Option<PathBuf>,
    /// The volume from which cloud-init configures it; see [`super::seed`].
    pub seed: Option<PathBuf>,
    /// Its network cards.
    pub nets: Vec<Net>,
    /// Where its screen is shown.
    pub display: Display,
    /// How its processors are run.
    pub accel: Accel,
    /// Confine QEMU with seccomp (`-sandbox`). False only for a QEMU built without it.
    pub sandbox: bool,
    /// Additional arguments for everything not described here; they come last.
    pub extra_args: Vec<String>,
}

/// The firmware of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Firmware {
    /// A PC BIOS, which comes with QEMU.
    #[default]
    Bios,
    /// UEFI; see [`super::firmware`].
    Uefi {
        /// Its code, opened read-only.
        code: PathBuf,
        /// The machine's own copy of the UEFI variables, writable by the guest.
        vars: PathBuf,
    },
}

/// A Linux kernel to start without a boot loader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The kernel.
    pub image: PathBuf,
    /// Its initial file system.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub append: String,
}

/// A disk, served over NBD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its name within the machine, which is also its serial number (`/dev/disk/by-id/virtio-ID`).
    pub id: String,
    /// The unix socket it is served on.
    pub socket: PathBuf,
    /// The NBD export.
    pub export: String,
    /// The logical block size of the guest's disk in bytes: a power of two from 512 to 32768.
    pub block_bytes: u32,
    /// Whether the guest may only read.
    pub read_only: bool,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Net {
    /// QEMU's user-mode network, which needs no privileges.
    User {
        /// Additional QEMU options, such as `hostfwd=tcp:127.0.0.1:2222-:22`.
        options: Vec<String>,
    },
    /// On an existing network interface.
    Tap {
        /// Its name.
        interface: String,
    },
}

/// Where the screen is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Display {
    /// Nowhere.
    #[default]
    None,
    /// In a window.
    Gtk,
    /// To VNC clients at an address, such as `127.0.0.1:1` or `unix:/path`.
    Vnc(String),
}

/// The character device for the firmware's debug output, and how much of it is kept, in bytes. One start prints some 4
/// KiB, and its first line must still be there at its end.
pub(crate) const FIRMWARE_LOG: &str = "firmware";
pub(crate) const FIRMWARE_LOG_BYTES: u32 = 64 << 10;

impl Machine {
    /// A machine with 1 GiB, two processors, and nothing else; its identity is its name.
    #[must_use]
    pub fn new(name: impl Into<String>, accel: Accel) -> Machine {
        let name = name.into();
        Machine {
            identity: name.clone(),
            name,
            memory_mib: 1024,
            cpus: 2,
            firmware: Firmware::Bios,
            kernel: None,
            disks: Vec::new(),
            cdrom: None,
            seed: None,
            nets: Vec::new(),
            display: Display::None,
            accel,
            sandbox: true,
            extra_args: Vec::new(),
        }
    }

    /// Checks that QEMU accepts every part.
    ///
    /// # Errors
    /// The variants of [`Error`] under "the description of the machine has to be changed".
    pub fn check(&self) -> Result<()> {
        if self.memory_mib == 0 || self.cpus == 0 {
            return Err(Error::TooSmall);
        }
        for (at, disk) in self.disks.iter().enumerate() {
            if self.disks[..at].iter().any(|other| other.id == disk.id) {
                return Err(Error::DuplicateDisk { id: disk.id.clone() });
            }
            disk.check()?;
        }
        Ok(())
    }
}

impl Disk {
    /// The longest name: the length of a virtio disk's serial number.
    pub const ID_BYTES_MAX: usize = 20;

    /// A writable disk with blocks of 512 bytes.
    #[must_use]
    pub fn new(id: impl Into<String>, socket: &Path, export: impl Into<String>) -> Disk {
        Disk {
            id: id.into(),
            socket: socket.to_owned(),
            export: export.into(),
            block_bytes: 512,
            read_only: false,
        }
    }

    fn check(&self) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let starts_well = self.id.starts_with(|c: char| c.is_ascii_alphanumeric());
        if !starts_well || self.id.len() > Disk::ID_BYTES_MAX || !self.id.chars().all(plain) {
            return Err(Error::BadDiskId { id: self.id.clone() });
        }
        if !self.block_bytes.is_power_of_two() || !(512..=32 << 10).contains(&self.block_bytes) {
            return Err(Error::BadBlockSize { id: self.id.clone(), bytes: self.block_bytes });
        }
        places::check_socket(&self.socket)
    }

    /// The name of QEMU's block node for the disk called `id`.
    #[must_use]
    pub fn node_name(id: &str) -> String {
        format!("disk-{id}")
    }

    /// The disk behind a QEMU name: the name of a node, or the path of a device.
    #[must_use]
    pub fn id_of(qemu_name: &str) -> Option<&str> {
        if let Some(id) = qemu_name.strip_prefix("disk-") {
            return Some(id);
        }
        qemu_name.split('/').find_map(|part| part.strip_prefix("virtio-")).filter(|id| *id != "backend")
    }
}

#[cfg(test)]
mod tests;

//! What a machine is made of, and QEMU's command line for it. Pure: no file is looked at, no clock, no process.
//!
//! Invariants:
//! - the same description gives the same command line, so the guest sees the same hardware at every boot,
//!   whatever its display, its accelerator or the moment it is run from;
//! - the machine holds still at every stop and every reset, so that its disks are at rest until the engine has taken
//!   what it wants;
//! - no I/O error reaches the guest: QEMU waits for a disk that is not served for [`RECONNECT_SECONDS_MAX`], and
//!   holds the machine still where a request fails all the same;
//! - nothing that a name or path contains can become another option; what is meant as QEMU's own options (of the
//!   network, of VNC, [`Machine::extra_args`]) is passed on as the user wrote it.

mod argv;
mod word;

use std::path::{Path, PathBuf};

use super::{
    accel::Accel,
    error::{Error, Result},
    places,
};

/// How long QEMU tries to get a disk's connection back: the most it takes (32 bits of seconds, 136 years), because
/// a manager that is away is no reason for I/O errors, however long.
pub const RECONNECT_SECONDS_MAX: u32 = u32::MAX;

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its name, shown in window titles and process lists.
    pub name: String,
    /// Its memory, in MiB.
    pub memory_mib: u32,
    /// Its processors.
    pub cpus: u32,
    /// What it runs first.
    pub firmware: Firmware,
    /// A kernel to start directly; otherwise it boots from its first disk.
    pub kernel: Option<Kernel>,
    /// Its disks, in the order in which the guest finds them.
    pub disks: Vec<Disk>,
    /// An image of a CD, from which it boots when none of its disks can be booted.
    pub cdrom: Option<PathBuf>,
    /// The volume by which cloud-init sets it up; see [`super::seed`].
    pub seed: Option<PathBuf>,
    /// Its network cards.
    pub nets: Vec<Net>,
    /// Where its screen is shown.
    pub display: Display,
    /// How its processors are run.
    pub accel: Accel,
    /// Confine QEMU with seccomp (`-sandbox`). Off only for a QEMU built without.
    pub sandbox: bool,
    /// More arguments, for what is not described here; they come last.
    pub extra_args: Vec<String>,
}

/// The first thing a machine runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Firmware {
    /// A PC BIOS; QEMU brings it.
    #[default]
    Bios,
    /// UEFI; see [`super::firmware`].
    Uefi {
        /// Its code, only read.
        code: PathBuf,
        /// The machine's own copy of its variables, written to by the guest.
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
    /// The smallest unit the guest can address, in bytes: a power of two from 512 to 32768.
    pub block_bytes: u32,
    /// May the guest only read?
    pub read_only: bool,
}

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Net {
    /// Out through this computer's own connection, by no privilege at all.
    User {
        /// More of QEMU's options, such as `hostfwd=tcp:127.0.0.1:2222-:22`.
        options: Vec<String>,
    },
    /// On a network interface that somebody made.
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
    /// In a window, as if only the target ran.
    Gtk,
    /// To VNC clients at an address, such as `127.0.0.1:1` or `unix:/path`.
    Vnc(String),
}

/// The character device that takes what the firmware says while it starts, and how much of it is kept, in bytes. A
/// whole start is some 4 KiB, and its first line must still be there at the end of it.
pub(crate) const FIRMWARE_LOG: &str = "firmware";
pub(crate) const FIRMWARE_LOG_BYTES: u32 = 64 << 10;

impl Machine {
    /// A machine with 1 GiB, two processors, and nothing else.
    #[must_use]
    pub fn new(name: impl Into<String>, accel: Accel) -> Machine {
        Machine {
            name: name.into(),
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

    /// Is every part one that QEMU can be given?
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
    /// The longest name: what a virtio disk has room for as its serial number.
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

    /// The disk behind one of QEMU's names for it: a node name, or the path of a device.
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

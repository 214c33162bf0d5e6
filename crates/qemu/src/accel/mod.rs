//! Probes whether KVM works on this host.
//!
//! That `/dev/kvm` can be opened proves nothing: on hosts that are virtual machines themselves, KVM may emulate every
//! instruction of a guest's kernel, thousands of times too slowly, and fail on those it does not know. So a tiny guest
//! runs the instructions that kernels use (see `probe.S`) and has to finish in time.
//!
//! Invariants: [`Accel::Kvm`] is only returned after that guest ran to its end. A probe ends by its deadline and leaves
//! neither a process nor a file behind. The result stays valid until the host reboots, so callers keep it.

mod probe;

use std::{fmt, fs, io::Write, path::Path, process::Command, time::Duration};

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    deadline::Deadline,
    error::{Error, Result},
    places::{tail, utf8},
    process::{Exit, Process},
};

/// How the processors of a guest are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// By the host's processors.
    Kvm,
    /// Translated by QEMU, one thread per processor.
    Tcg,
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        })
    }
}

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finding {
    /// The guest ran to its end under KVM.
    KvmWorks,
    /// This computer has no KVM.
    NoKvm,
    /// The host has KVM, but this process may not use it.
    NotAllowed,
    /// The guest did not finish in time: its instructions are emulated one by one.
    TooSlow,
    /// KVM gave up on an instruction.
    GivesUp,
    /// QEMU ended without having run the guest.
    Fails,
}

impl Finding {
    /// The accelerator to run guests with.
    #[must_use]
    pub fn accel(self) -> Accel {
        if self == Finding::KvmWorks { Accel::Kvm } else { Accel::Tcg }
    }

    /// The reason in words, and what to do about it.
    #[must_use]
    pub fn explain(self) -> &'static str {
        match self {
            Finding::KvmWorks => "KVM works: guests run at the full speed of this computer",
            Finding::NoKvm => {
                "no /dev/kvm: guests are translated and slow; switch virtualisation on in the firmware, and load kvm_intel or kvm_amd"
            }
            Finding::NotAllowed => {
                "/dev/kvm may not be used by this user: guests are translated and slow; add the user to the group 'kvm'"
            }
            Finding::TooSlow => {
                "KVM emulates instruction by instruction here: guests are translated instead; nested virtualisation is missing"
            }
            Finding::GivesUp => {
                "KVM cannot run an ordinary kernel here: guests are translated instead; nested virtualisation is missing"
            }
            Finding::Fails => "QEMU could not use KVM: guests are translated and slow",
        }
    }
}

/// The time limit of the probe guest: twenty times what it takes on a slow host where KVM works.
pub const PROBE_MAX: Duration = Duration::from_secs(5);

/// The exit code of QEMU when the guest has finished.
const THROUGH: i32 = 99;

/// A size that a BIOS accepts for a disk.
const PROBE_DISK_BYTES: u64 = 1 << 20;

/// Finds out whether KVM works, with the QEMU at `qemu`. Takes up to `within` (see [`PROBE_MAX`]), during which two
/// small files are in `scratch`, an existing directory.
///
/// # Errors
/// [`Error::NotInstalled`], [`Error::File`]. KVM that does not work is not an error.
pub fn probe(qemu: &Path, scratch: &Path, within: Duration) -> Result<Finding> {
    let device = Path::new("/dev/kvm");
    if !device.exists() {
        return Ok(Finding::NoKvm);
    }
    if access(device, Access::READ_OK | Access::WRITE_OK).is_err() {
        return Ok(Finding::NotAllowed);
    }
    run_probe(qemu, scratch, "kvm", within)
}

fn run_probe(qemu: &Path, scratch: &Path, accel: &str, within: Duration) -> Result<Finding> {
    let disk = scratch.join(format!("probe-{}.img", std::process::id()));
    let log = disk.with_extension("log");
    let result = write_disk(&disk).and_then(|()| watch_probe(qemu, &disk, &log, accel, within));
    for file in [disk, log] {
        // It may not exist.
        let _ = fs::remove_file(file);
    }
    result
}

fn write_disk(disk: &Path) -> Result<()> {
    let write = || {
        let mut file = fs::File::create(disk)?;
        file.write_all(&probe::PROBE)?;
        file.set_len(PROBE_DISK_BYTES)
    };
    write().map_err(Error::file(disk))
}

fn watch_probe(qemu: &Path, disk: &Path, log: &Path, accel: &str, within: Duration) -> Result<Finding> {
    let node = json!({
        "driver": "raw",
        "node-name": "disk",
        "read-only": true,
        "file": { "driver": "file", "filename": utf8(disk)? },
    });
    let mut command = Command::new(qemu);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-m", "32"]);
    command.args(["-accel", accel, "-cpu", "max", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
    command.args(["-blockdev", &node.to_string(), "-device", "virtio-blk-pci,drive=disk,bootindex=0"]);

    let deadline = Deadline::after(within);
    let process = Process::spawn(&mut command, log)?;
    loop {
        let step = Deadline::after(Duration::from_millis(50).min(deadline.remaining()));
        if let Some(exit) = process.wait(step)? {
            return Ok(if exit == Exit::Code(THROUGH) { Finding::KvmWorks } else { Finding::Fails });
        }
        let said = tail(log, 64 << 10).unwrap_or_default();
        let gave_up = String::from_utf8_lossy(&said).contains("KVM internal error");
        if gave_up || deadline.passed() {
            process.kill()?;
            process.wait(Deadline::after(Duration::from_secs(5)))?;
            return Ok(if gave_up { Finding::GivesUp } else { Finding::TooSlow });
        }
    }
}

#[cfg(test)]
mod tests;

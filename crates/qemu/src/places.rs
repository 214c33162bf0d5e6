//! The paths of the files of one running machine.
//!
//! Invariants: all are in one directory that belongs to this machine alone; every socket in it has a path short
//! enough for a unix socket; none of the paths depends on whether the machine runs.

use std::{
    fs, io,
    io::{Read, Seek, SeekFrom},
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::error::{Error, Result, SOCKET_PATH_BYTES_MAX};

/// The run directory of one machine, with the names in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    dir: PathBuf,
}

impl Places {
    /// Uses `dir`, which need not exist yet.
    ///
    /// # Errors
    /// [`Error::SocketPathTooLong`] and [`Error::NotUtf8`] when QEMU could not use it.
    pub fn new(dir: impl Into<PathBuf>) -> Result<Places> {
        let places = Places { dir: dir.into() };
        check_socket(&places.console_socket())?;
        Ok(places)
    }

    /// Creates the directory, readable by its owner only: whoever can open its sockets controls the machine.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn make(&self) -> Result<()> {
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(Error::file(&self.dir)(e)),
            _ => Ok(()),
        }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// QEMU's monitor. It accepts one connection, the supervisor's.
    #[must_use]
    pub fn qmp_socket(&self) -> PathBuf {
        self.dir.join("qmp.sock")
    }

    /// The machine's serial console. It accepts one connection.
    #[must_use]
    pub fn console_socket(&self) -> PathBuf {
        self.dir.join("console.sock")
    }

    /// Locked by the client that is attached to the console.
    #[must_use]
    pub fn console_lock(&self) -> PathBuf {
        self.dir.join("console.lock")
    }

    /// Everything printed on the console, up to a size (see [`super::console`]).
    #[must_use]
    pub fn console_log(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// QEMU's own output: warnings, and why it did not start.
    #[must_use]
    pub fn qemu_log(&self) -> PathBuf {
        self.dir.join("qemu.log")
    }

    /// Everything QEMU sent on its monitor, whether a client was connected or not; see [`super::watch`].
    #[must_use]
    pub fn qmp_log(&self) -> PathBuf {
        self.dir.join("qmp.log")
    }

    /// QEMU's process number, written and locked by QEMU.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.dir.join("qemu.pid")
    }

    /// The identity of the process, for a later manager; see [`super::Running`].
    #[must_use]
    pub fn state_file(&self) -> PathBuf {
        self.dir.join("qemu.json")
    }

    /// The volume from which cloud-init configures the machine; see [`super::seed`].
    #[must_use]
    pub fn seed(&self) -> PathBuf {
        self.dir.join("seed.iso")
    }

    /// The machine's own copy of the UEFI variables.
    #[must_use]
    pub fn uefi_vars(&self) -> PathBuf {
        self.dir.join("uefi-vars.fd")
    }

    /// Rotates the output of an earlier QEMU (to `qemu.log.1`), so that the log is about one QEMU only.
    pub(super) fn put_by_old_log(&self) -> Result<()> {
        let log = self.qemu_log();
        match fs::rename(&log, older(&log)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file(&log)(e)),
            _ => Ok(()),
        }
    }

    /// The end of QEMU's own output, for people: at most `bytes_max`, with control characters replaced.
    #[must_use]
    pub fn last_words(&self, bytes_max: u64) -> String {
        let bytes = tail(&self.qemu_log(), bytes_max).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let clean = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
        text.trim().chars().map(clean).collect()
    }
}

/// The path to which a log is rotated.
pub(super) fn older(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// The last `bytes_max` bytes of a file.
pub(super) fn tail(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    let len_bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(len_bytes.saturating_sub(bytes_max)))?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Checks that a path can be the path of a unix socket and can be passed on QEMU's command line.
pub(super) fn check_socket(path: &Path) -> Result<()> {
    if path.as_os_str().as_bytes().len() > SOCKET_PATH_BYTES_MAX {
        return Err(Error::SocketPathTooLong { path: path.to_owned() });
    }
    utf8(path).map(drop)
}

/// The path as UTF-8, which QEMU's options require.
pub(super) fn utf8(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::NotUtf8 { path: path.to_owned() })
}

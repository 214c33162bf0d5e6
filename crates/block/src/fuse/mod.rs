//! One device as a raw file that any tool can open: a FUSE file system whose root is a regular file, mounted over
//! the file itself.
//!
//! Invariants:
//! - A write is acknowledged to a tool only after the device has acknowledged it: no page cache lies between (see
//!   `filesystem`).
//! - The file below the mount is empty and stays empty; if the export created it, the export removes it at its end.
//! - An export that ends, however it ends, leaves no mount of a living process behind. A killed process leaves a dead
//!   mount (it answers "not connected"), which the next export at this path clears away.
//! - No request stops the server: an invalid one is refused, and a panic of the device is an I/O error.

mod bytes;
mod error;
mod filesystem;
mod mountpoint;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel},
    },
    thread,
    time::Duration,
};

use fuser::{Config, Session, SessionACL};

pub use self::error::FuseError;
use self::{bytes::Waiting, filesystem::DeviceFile, mountpoint::Mountpoint};
use crate::BlockDevice;

/// How many requests can wait for the device at the same time.
const THREADS: usize = 8;
/// How long to wait for the session to end once the file is unmounted. The session does not end while another mount
/// namespace has a copy of the mount.
const END_WAIT: Duration = Duration::from_secs(5);

/// Serves `device` as the raw file `path` until the export is stopped or dropped.
///
/// `path` is an empty file, or does not exist yet: then it is created, and removed at the end. The file belongs to the
/// user of this process, and only that user and root can open it. Writes need not be aligned to the device's blocks,
/// but another client of the device (over NBD, say) must stay out of blocks that are written in part here.
///
/// # Errors
/// [`FuseError`]; nothing is mounted then, and a file that was created is removed.
pub fn serve_file(device: Arc<dyn BlockDevice>, path: &Path) -> Result<FileExport, FuseError> {
    let read_only = device.geometry().read_only;
    let mountpoint = Mountpoint::find_or_make(path)?;
    let path = mountpoint.path().to_owned();
    let served = mountpoint.mount(read_only).and_then(|fd| {
        let file = DeviceFile::new(Arc::clone(&device), mountpoint.made_at());
        let waiting = Arc::clone(file.waiting());
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        // The kernel decides who may open the file: the mount has no allow_other, or the file's mode is checked.
        let started = Session::from_fd(file, fd, SessionACL::All, config).and_then(|session| {
            let (alive, ended) = channel();
            thread::Builder::new().name("file-export".to_owned()).spawn(move || {
                if let Err(error) = session.run() {
                    tracing::warn!(%error, "a file export ended");
                }
                drop(alive);
            })?;
            Ok((ended, waiting))
        });
        started.map_err(|source| {
            mountpoint.detach();
            FuseError::Session { path: path.clone(), source }
        })
    });
    match served {
        Ok((ended, waiting)) => {
            let live = Mutex::new(Some(Live { mountpoint, ended, waiting }));
            Ok(FileExport { path, device, read_only, live })
        }
        Err(error) => {
            mountpoint.remove_file();
            Err(error)
        }
    }
}

struct Live {
    mountpoint: Mountpoint,
    /// Nothing is ever sent on it; it disconnects when the session ends.
    ended: Receiver<()>,
    waiting: Arc<Waiting>,
}

/// A device that is served as a file. Dropping it unmounts the file, even while it is in use; [`FileExport::stop`]
/// does not.
pub struct FileExport {
    path: PathBuf,
    device: Arc<dyn BlockDevice>,
    read_only: bool,
    /// `None` once it was stopped.
    live: Mutex<Option<Live>>,
}

impl fmt::Debug for FileExport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileExport").field("path", &self.path).finish_non_exhaustive()
    }
}

impl FileExport {
    /// The path of the file, with symbolic links resolved.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file was unmounted by somebody else, or the export was stopped.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.live().as_ref().is_none_or(|live| live.ended.try_recv() == Err(TryRecvError::Disconnected))
    }

    /// Unmounts the file, flushes the device, and removes the file if the export created it. Idempotent. Writes that
    /// wait for room fail first, because the file stays open as long as they wait.
    ///
    /// # Errors
    /// [`FuseError::Busy`] while the file is open or a loop device has it; it is served as before, and `stop` can be
    /// called again. [`FuseError::Flush`] when the device fails; the file is unmounted nevertheless.
    pub fn stop(&self) -> Result<(), FuseError> {
        let mut guard = self.live();
        let Some(live) = guard.as_ref() else {
            return Ok(());
        };
        if live.ended.try_recv() == Err(TryRecvError::Disconnected) {
            live.mountpoint.clear_dead()?;
        } else {
            live.waiting.end();
            if let Err(error) = live.mountpoint.unmount() {
                live.waiting.go_on();
                return Err(error);
            }
            if live.ended.recv_timeout(END_WAIT) == Err(RecvTimeoutError::Timeout) {
                tracing::warn!(path = %self.path.display(), "unmounted here, still in use in another mount namespace");
            }
        }
        live.mountpoint.remove_file();
        *guard = None;
        drop(guard);
        self.flush()
    }

    fn flush(&self) -> Result<(), FuseError> {
        if self.read_only { Ok(()) } else { self.device.flush().map_err(FuseError::Flush) }
    }

    fn live(&self) -> MutexGuard<'_, Option<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for FileExport {
    fn drop(&mut self) {
        let Err(error) = self.stop() else {
            return;
        };
        tracing::warn!(%error, "a file export was given up");
        let live = self.live().take();
        if let Some(live) = live {
            // Processes that have the file open keep using it as long as this process lives, but no longer wait for
            // room.
            live.waiting.end();
            live.mountpoint.detach();
            live.mountpoint.remove_file();
            if let Err(error) = self.flush() {
                tracing::error!(%error, "what was written to a file export may not be durable");
            }
        }
    }
}

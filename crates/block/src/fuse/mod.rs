//! One device as a raw file that any tool can open: a FUSE file system whose root is a regular file, mounted over
//! the file itself.
//!
//! Invariants:
//! - A write that was acknowledged to a tool was acknowledged by the device before: nothing waits in a page cache
//!   (see `filesystem`).
//! - The file below the mount is empty and stays so; if we made it, it is gone when the export is.
//! - An export that ends, however it ends, leaves no mount of a living process behind. What a killed process leaves
//!   (a mount that answers "not connected") the next export at this path clears away.
//! - No request stops the server: a request that makes no sense is refused, a device that panics is a medium error.

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

/// Requests that can wait for the device at the same time.
const THREADS: usize = 8;
/// How long the end of the session is waited for once the file is unmounted. It does not end as long as another
/// mount namespace has a copy of the mount.
const END_WAIT: Duration = Duration::from_secs(5);

/// Serves `device` as the raw file `path` until the export is stopped or dropped.
///
/// `path` is a file that does not exist yet (it is made, and removed at the end) or an empty one. It belongs to the
/// user who serves it, and nobody else can open it but root. Writes need not be aligned to the device's blocks; but
/// whoever else writes to the device meanwhile (an NBD client) must stay out of blocks that are written in part here.
///
/// # Errors
/// [`FuseError`]; then nothing is mounted, and a file that was made is removed.
pub fn serve_file(device: Arc<dyn BlockDevice>, path: &Path) -> Result<FileExport, FuseError> {
    let read_only = device.geometry().read_only;
    let mountpoint = Mountpoint::find_or_make(path)?;
    let path = mountpoint.path().to_owned();
    let served = mountpoint.mount(read_only).and_then(|fd| {
        let file = DeviceFile::new(Arc::clone(&device), mountpoint.made_at());
        let waiting = Arc::clone(file.waiting());
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        // Who may open the file is the kernel's to decide: mounted without allow_other, or with the file's mode.
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
    /// Nothing is ever sent: it disconnects when the session has ended.
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
    /// Where the file is; links are resolved.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Somebody unmounted the file behind our back, or the export was stopped.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.live().as_ref().is_none_or(|live| live.ended.try_recv() == Err(TryRecvError::Disconnected))
    }

    /// Unmounts the file, makes what was written durable, and removes the file if we made it. Does nothing when that
    /// was done already. Writes that wait for room are told that there is none: as long as they wait, the file is open.
    ///
    /// # Errors
    /// [`FuseError::Busy`] while the file is open or a loop device has it; then it is served as before, and `stop`
    /// can be called again. [`FuseError::Flush`] when the device fails; then the file is gone nevertheless.
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
            // Who has the file open goes on with it, as long as this process lives, but waits for no room any more.
            live.waiting.end();
            live.mountpoint.detach();
            live.mountpoint.remove_file();
            if let Err(error) = self.flush() {
                tracing::error!(%error, "what was written to a file export may not be durable");
            }
        }
    }
}

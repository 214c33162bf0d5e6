//! Why a device could not be served as a file.

use std::{io, path::PathBuf};

use crate::IoError;

/// Why a file export failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub enum FuseError {
    // ---- another path
    /// A directory, a device, or a path that cannot name a file.
    #[error("{} is not a regular file", path.display())]
    NotAFile { path: PathBuf },
    /// The mount would hide data.
    #[error("{} exists and is not empty", path.display())]
    NotEmpty { path: PathBuf },
    /// Something else is mounted there and in use, such as another export.
    #[error("something is mounted at {} already", path.display())]
    AlreadyMounted { path: PathBuf },
    /// The file cannot be examined, created or mounted over.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },

    // ---- something has to be put right on this computer
    /// The kernel has no FUSE.
    #[error("this computer has no FUSE: {source}")]
    NoFuse { source: io::Error },
    /// This process may not mount, and there is no helper program to do it.
    #[error("only root may mount without fusermount3, which cannot be started: {source}")]
    NoHelper { source: io::Error },
    /// fusermount3 refused.
    #[error("fusermount3 failed at {}: {said}", path.display())]
    HelperFailed { path: PathBuf, said: String },

    // ---- close it, then try again
    /// The file is open, or a loop device has it.
    #[error("{} is in use", path.display())]
    Busy { path: PathBuf },

    // ---- stop
    /// The FUSE handshake with the kernel failed, or no thread could be started.
    #[error("cannot serve {}: {source}", path.display())]
    Session { path: PathBuf, source: io::Error },
    /// The device could not be flushed when the export ended.
    #[error("what was written may not be durable: {0}")]
    Flush(#[source] IoError),
}

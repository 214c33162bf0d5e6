//! Why a device could not be served as a file.

use std::{io, path::PathBuf};

use crate::IoError;

/// Why something with a file export did not work.
#[derive(Debug, thiserror::Error)]
pub enum FuseError {
    // ---- another path
    /// A directory, a device, or no name of a file at all.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The mount would hide data.
    #[error("{} exists and is not empty", path.display())]
    NotEmpty {
        /// The path.
        path: PathBuf,
    },
    /// Something is mounted there and alive, such as another export.
    #[error("something is mounted at {} already", path.display())]
    AlreadyMounted {
        /// The path.
        path: PathBuf,
    },
    /// The file cannot be looked at, made or mounted over.
    #[error("{}: {source}", path.display())]
    File {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    // ---- something has to be put right on this computer
    /// The kernel has no FUSE.
    #[error("this computer has no FUSE: {source}")]
    NoFuse {
        /// What the system said.
        source: io::Error,
    },
    /// We may not mount, and there is no program that does it for us.
    #[error("only root may mount without fusermount3, which cannot be started: {source}")]
    NoHelper {
        /// What the system said.
        source: io::Error,
    },
    /// fusermount3 refused.
    #[error("fusermount3 failed at {}: {said}", path.display())]
    HelperFailed {
        /// The path.
        path: PathBuf,
        /// Its own words.
        said: String,
    },

    // ---- close it, then try again
    /// It is open somewhere.
    #[error("{} is in use", path.display())]
    Busy {
        /// The path.
        path: PathBuf,
    },

    // ---- stop
    /// The kernel and we do not understand each other, or there is no thread for it.
    #[error("cannot serve {}: {source}", path.display())]
    Session {
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was written may not be durable.
    #[error("what was written may not be durable: {0}")]
    Flush(#[source] IoError),
}

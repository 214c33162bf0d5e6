//! The folder of a target's log, until the target is removed.
//!
//! Invariant: once [`Folder::leave`] has returned, no file is made, opened, removed or synced through it any more. So whoever still
//! holds the log of a removed target cannot bring its folder back.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
};

use bygone_store::env::{Dir, File, RealDir};

/// See the module's comment.
pub(crate) struct Folder {
    dir: RealDir,
    left: RwLock<bool>,
}

impl Folder {
    /// The folder `path`, which is there.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Arc<Folder> {
        Arc::new(Folder { dir: RealDir::new(path), left: RwLock::new(false) })
    }

    /// Waits for what is under way, and refuses everything from then on.
    pub(crate) fn leave(&self) {
        *self.left.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn within<T>(&self, act: impl FnOnce(&RealDir) -> io::Result<T>) -> io::Result<T> {
        let left = self.left.read().unwrap_or_else(PoisonError::into_inner);
        if *left {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the target was removed"));
        }
        act(&self.dir)
    }
}

impl Dir for Folder {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.within(|dir| dir.create(name))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.within(|dir| dir.open(name))
    }
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.within(|dir| dir.list(folder))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.within(|dir| dir.remove(name))
    }
    fn sync(&self, folder: &str) -> io::Result<()> {
        self.within(|dir| dir.sync(folder))
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.within(|dir| dir.free_bytes())
    }
}

//! Access to the folder of a target's log, until the target is removed.
//!
//! Invariant: once [`Folder::leave`] has returned, nothing in the folder is created, opened, removed or listed through
//! it, and no folder is synced. So a remaining holder of a removed target's log cannot bring its folder back. Files
//! opened before can still be used.

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
    #[cfg(test)]
    syncs_left: faults::SyncsLeft,
    #[cfg(test)]
    panics: Arc<std::sync::atomic::AtomicBool>,
}

impl Folder {
    /// The existing folder `path`.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Arc<Folder> {
        Arc::new(Folder {
            dir: RealDir::new(path),
            left: RwLock::new(false),
            #[cfg(test)]
            syncs_left: faults::endless(),
            #[cfg(test)]
            panics: Arc::default(),
        })
    }

    /// Waits for the operations in progress, and refuses all later ones.
    pub(crate) fn leave(&self) {
        *self.left.write().unwrap_or_else(PoisonError::into_inner) = true;
    }

    #[cfg(not(test))]
    fn of(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        file
    }

    #[cfg(test)]
    fn of(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(faults::Failing { file, syncs_left: self.syncs_left.clone(), panics: self.panics.clone() })
    }

    /// Makes the syncs of its files fail after `count` more.
    #[cfg(test)]
    pub(crate) fn fail_after_syncs(&self, count: u64) {
        self.syncs_left.store(count, std::sync::atomic::Ordering::Release);
    }

    /// Makes the syncs of its files panic, or not any more.
    #[cfg(test)]
    pub(crate) fn panic_at_syncs(&self, panics: bool) {
        self.panics.store(panics, std::sync::atomic::Ordering::Release);
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
        self.within(|dir| dir.create(name)).map(|file| self.of(file))
    }
    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.within(|dir| dir.publish(name, bytes))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.within(|dir| dir.open(name)).map(|file| self.of(file))
    }
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.within(|dir| dir.list(folder))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.within(|dir| dir.remove(name))
    }
    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        self.within(|dir| dir.replace(from, to))
    }
    fn sync(&self, folder: &str) -> io::Result<()> {
        self.within(|dir| dir.sync(folder))
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.within(|dir| dir.free_bytes())
    }
}

/// A medium that fails on demand.
#[cfg(test)]
mod faults {
    use std::{
        io::{self, IoSlice},
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicU64, Ordering},
        },
    };

    use bygone_store::env::{File, FileId};

    pub(super) type SyncsLeft = Arc<AtomicU64>;

    pub(super) fn endless() -> SyncsLeft {
        Arc::new(AtomicU64::new(u64::MAX))
    }

    pub(super) struct Failing {
        pub(super) file: Arc<dyn File>,
        pub(super) syncs_left: SyncsLeft,
        pub(super) panics: Arc<AtomicBool>,
    }

    impl File for Failing {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            self.file.read_at(buf, offset)
        }
        fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
            self.file.write_at(parts, offset)
        }
        fn sync(&self) -> io::Result<()> {
            assert!(!self.panics.load(Ordering::Acquire), "as it was told to");
            let (acquire, release) = (Ordering::Acquire, Ordering::Release);
            let less = |left: u64| left.checked_sub(1);
            match self.syncs_left.fetch_update(release, acquire, less) {
                Ok(_) => self.file.sync(),
                Err(_) => Err(io::Error::other("injected fault")),
            }
        }
        fn id(&self) -> io::Result<Option<FileId>> {
            self.file.id()
        }
        fn len_bytes(&self) -> io::Result<u64> {
            self.file.len_bytes()
        }
        fn set_len(&self, len_bytes: u64) -> io::Result<()> {
            self.file.set_len(len_bytes)
        }
        fn reserve(&self, len_bytes: u64) -> io::Result<()> {
            self.file.reserve(len_bytes)
        }
        fn prefetch(&self, offset: u64, len_bytes: u64) {
            self.file.prefetch(offset, len_bytes);
        }
    }
}

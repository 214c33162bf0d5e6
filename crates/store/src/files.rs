//! A bounded number of open files.

use std::sync::{Arc, atomic::Ordering};

use quick_cache::sync::Cache;

use crate::{env::File, error::Result, sync::AtomicU64};

/// With full segments of 64 MiB, the files of the most recently read 32 GiB of a log stay open.
const OPEN_FILES_MAX: usize = 512;

/// A cache of open files, by number.
pub(crate) struct FileCache {
    open: Cache<u32, Arc<dyn File>>,
    /// How often a file was dropped.
    dropped: AtomicU64,
}

impl FileCache {
    pub(crate) fn new() -> FileCache {
        FileCache { open: Cache::new(OPEN_FILES_MAX), dropped: 0.into() }
    }

    /// The file `number`, which `open` opens if it is not open yet.
    ///
    /// # Errors
    /// Those of `open`.
    pub(crate) fn get(
        &self,
        number: u32,
        open: impl FnOnce() -> Result<Arc<dyn File>>,
    ) -> Result<Arc<dyn File>> {
        if let Some(file) = self.open.get(&number) {
            return Ok(file);
        }
        let dropped = || self.dropped.load(Ordering::SeqCst);
        let before = dropped();
        let file = open()?;
        self.open.insert(number, file.clone());
        // It may have been replaced since it was opened. Whoever asked for it then gets what was there; whoever asks
        // later gets the other one.
        if dropped() != before {
            self.open.remove(&number);
        }
        Ok(file)
    }

    /// Drops a file from the cache; the next [`FileCache::get`] opens it again.
    pub(crate) fn forget(&self, number: u32) {
        self.dropped.fetch_add(1, Ordering::SeqCst);
        self.open.remove(&number);
    }
}

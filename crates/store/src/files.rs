//! A bounded number of open files.

use std::sync::Arc;

use quick_cache::sync::Cache;

use crate::{
    env::{Dir, File},
    error::{Damage, Error, Result},
};

/// With full segments of 64 MiB, the files of the most recently read 32 GiB of a log stay open.
const OPEN_FILES_MAX: usize = 512;

/// A cache of open files, by number.
pub(crate) struct FileCache {
    dir: Arc<dyn Dir>,
    open: Cache<u32, Arc<dyn File>>,
}

impl FileCache {
    pub(crate) fn new(dir: Arc<dyn Dir>) -> FileCache {
        FileCache { dir, open: Cache::new(OPEN_FILES_MAX) }
    }

    /// The file `number`. If it is not open yet, it is opened under the name that `name` returns.
    ///
    /// # Errors
    /// [`Damage::Missing`] if there is no such file; any other error of the medium.
    pub(crate) fn get(&self, number: u32, name: impl FnOnce() -> Result<String>) -> Result<Arc<dyn File>> {
        if let Some(file) = self.open.get(&number) {
            return Ok(file);
        }
        let name = name()?;
        let file = self.dir.open(&name).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::damaged(&name, 0, Damage::Missing),
            _ => Error::io("opening", &name, e),
        })?;
        self.open.insert(number, file.clone());
        Ok(file)
    }

    /// Drops a file from the cache; the next [`FileCache::get`] opens it again.
    pub(crate) fn forget(&self, number: u32) {
        self.open.remove(&number);
    }
}

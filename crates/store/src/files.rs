//! A bounded number of open files.

use std::sync::Arc;

use quick_cache::sync::Cache;

use crate::{
    env::{Dir, File},
    error::{Damage, Error, Result},
};

/// With whole segments of 64 MiB, the most recently read 32 GiB of a log stay open.
const OPEN_FILES_MAX: usize = 512;

/// Keeps files open that are read again and again.
pub(crate) struct FileCache {
    dir: Arc<dyn Dir>,
    open: Cache<u32, Arc<dyn File>>,
}

impl FileCache {
    pub(crate) fn new(dir: Arc<dyn Dir>) -> FileCache {
        FileCache { dir, open: Cache::new(OPEN_FILES_MAX) }
    }

    /// The file `number`, opened by the name that `name` gives if need be.
    ///
    /// # Errors
    /// Damage when it is missing; else what the medium says.
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

    /// The next one who asks opens it anew.
    pub(crate) fn forget(&self, number: u32) {
        self.open.remove(&number);
    }
}

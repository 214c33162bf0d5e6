//! A bounded number of open files.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use rustc_hash::FxHashMap;

use crate::{
    env::{Dir, File},
    error::{Damage, Error, Result},
};

const OPEN_FILES_MAX: usize = 128;

/// Keeps files open that are read again and again; closes those that were opened first.
pub(crate) struct FileCache {
    dir: Arc<dyn Dir>,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    files: FxHashMap<u32, Arc<dyn File>>,
    /// In the order in which they were opened.
    order: VecDeque<u32>,
}

impl FileCache {
    pub(crate) fn new(dir: Arc<dyn Dir>) -> FileCache {
        FileCache { dir, open: Mutex::default() }
    }

    /// The file `number`, opened by the name that `name` gives if need be.
    ///
    /// # Errors
    /// Damage when it is missing; else what the medium says.
    pub(crate) fn get(&self, number: u32, name: impl FnOnce() -> Result<String>) -> Result<Arc<dyn File>> {
        if let Some(file) = self.open.lock().unwrap_or_else(PoisonError::into_inner).files.get(&number) {
            return Ok(file.clone());
        }
        let name = name()?;
        let file = self.dir.open(&name).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Error::damaged(&name, 0, Damage::Missing),
            _ => Error::io("opening", &name, e),
        })?;
        self.insert(number, file.clone());
        Ok(file)
    }

    /// Keeps a file that is open already.
    pub(crate) fn insert(&self, number: u32, file: Arc<dyn File>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Open { files, order } = &mut *open;
        if files.insert(number, file).is_none() {
            order.push_back(number);
            if order.len() > OPEN_FILES_MAX
                && let Some(oldest) = order.pop_front()
            {
                files.remove(&oldest);
            }
        }
    }
}

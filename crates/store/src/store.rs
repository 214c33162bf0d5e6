//! What all logs of a store have in common: memory, and whoever does their upkeep.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, Weak},
};

use crate::{
    index::cache::PageCache,
    log::Log,
    memory::{Memory, Share},
    sync::{Mutex, MutexGuard},
};

/// The memory for index pages unless told otherwise.
pub const CACHE_BYTES: u64 = 48 << 20;
/// The memory for what is in no checkpoint yet unless told otherwise.
pub const MEMORY_BYTES: u64 = 512 << 20;

/// See the module's comment. Logs are of the store that their options name.
pub struct Store {
    pub(crate) cache: Arc<PageCache>,
    memory: Arc<Memory>,
    /// Those that wait for their turn. A log that is being worked on is not among them.
    logs: Mutex<VecDeque<Weak<Log>>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl Default for Store {
    fn default() -> Store {
        Store::new(CACHE_BYTES, MEMORY_BYTES)
    }
}

impl Store {
    /// With so much memory for index pages, and so much for what is in no checkpoint yet: for all logs together, however many
    /// there are.
    #[must_use]
    pub fn new(cache_bytes: u64, memory_bytes: u64) -> Store {
        Store {
            cache: PageCache::new(cache_bytes),
            memory: Arc::new(Memory::new(memory_bytes)),
            logs: Mutex::default(),
        }
    }

    /// What its logs have drawn of the memory for what is in no checkpoint yet, in bytes.
    #[must_use]
    pub fn drawn_bytes(&self) -> u64 {
        self.memory.drawn()
    }

    pub(crate) fn share(&self) -> Share {
        Share::of(&self.memory)
    }

    fn logs(&self) -> MutexGuard<'_, VecDeque<Weak<Log>>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, log: &Arc<Log>) {
        self.logs().push_back(Arc::downgrade(log));
    }

    /// Gives each log its turn, in which it does one piece of upkeep if there is one to do; says whether any was done. Several
    /// threads may call it. A log whose upkeep fails is not tried again at once, and holds nobody up.
    /// What keeps a log's upkeep from being done, [`Log::upkeep_trouble`] says.
    pub fn work(&self) -> bool {
        let mut done = false;
        let turns = self.logs().len();
        for _ in 0..turns {
            let Some(next) = self.logs().pop_front() else { break };
            let Some(log) = next.upgrade() else { continue };
            let _turn = Turn { store: self, log: next };
            done |= !log.has_just_failed() && log.maintain().unwrap_or(false);
        }
        done
    }
}

/// A log that has its turn. It gets the next one too, whatever becomes of this one.
struct Turn<'a> {
    store: &'a Store,
    log: Weak<Log>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.store.logs().push_back(self.log.clone());
    }
}

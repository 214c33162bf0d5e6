//! What all logs of a store have in common: memory, and whoever does their upkeep.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, Weak},
};

use bygone_model::Micros;

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

/// What upkeep that nobody waits for reads and writes, in bytes a second, unless told otherwise.
pub const BACKGROUND_BYTES_PER_S: u64 = 32 << 20;

/// See the module's comment. Logs are of the store that their options name.
pub struct Store {
    pub(crate) cache: Arc<PageCache>,
    memory: Arc<Memory>,
    pub(crate) rate: Rate,
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
            rate: Rate::new(BACKGROUND_BYTES_PER_S),
            logs: Mutex::default(),
        }
    }

    /// So many bytes a second for upkeep that nobody waits for, of all logs together.
    #[must_use]
    pub fn with_background(self, bytes_per_s: u64) -> Store {
        Store { rate: Rate::new(bytes_per_s), ..self }
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

/// How much upkeep that nobody waits for may do: so many bytes a second, and no more than those of a quarter of a second at once. The
/// logs of a store have one clock.
pub(crate) struct Rate {
    bytes_per_s: u64,
    left: Mutex<Left>,
}

#[derive(Default)]
struct Left {
    bytes: u64,
    since: Option<Micros>,
}

impl Rate {
    /// What may be done at once.
    const BURST_S_DIVISOR: u64 = 4;

    fn new(bytes_per_s: u64) -> Rate {
        Rate { bytes_per_s, left: Mutex::default() }
    }

    /// Takes `bytes` for a piece of work if there are so many by now. One that is larger than what may be done at once has to find all of
    /// that.
    pub(crate) fn take(&self, now: Micros, bytes: u64) -> bool {
        let burst = self.bytes_per_s / Self::BURST_S_DIVISOR;
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = left.since.map(|since| now.0.saturating_sub(since.0).max(0).cast_unsigned());
        let come = passed.map_or(burst, |micros| {
            u64::try_from(u128::from(self.bytes_per_s) * u128::from(micros) / 1_000_000).unwrap_or(u64::MAX)
        });
        let there = left.bytes.saturating_add(come).min(burst);
        let wanted = bytes.min(burst).max(1);
        // What has come is counted from the last time that something was taken, so that no part of a byte is lost in between.
        if there < wanted {
            return false;
        }
        *left = Left { bytes: there - wanted, since: Some(now) };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_taken_than_has_come_and_idle_time_is_not_saved_up() {
        let rate = Rate::new(4000);
        let taken = |micros: std::ops::Range<i64>| micros.filter(|now| rate.take(Micros(*now), 10)).count();
        // A quarter of a second's worth at once, then as they come.
        assert_eq!(taken(0..1_000_000), 100 + 400 - 1);
        assert_eq!(taken(900_000_000..900_000_001), 1);
        assert_eq!((0..1000).filter(|_| rate.take(Micros(900_000_001), 10)).count(), 99);
        // Nothing is too large to be done at all, and a clock that goes back gives nothing.
        assert!(rate.take(Micros(999_000_000), 1 << 40) && !rate.take(Micros(0), 1));
        assert!(!Rate::new(0).take(Micros(1 << 40), 1));
        let free = Rate::new(u64::MAX);
        assert!((0..1000).all(|_| free.take(Micros(0), 1 << 30)));
    }
}

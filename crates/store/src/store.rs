//! What all logs of a store share: the page cache, the memory budget, and turns and bandwidth for their upkeep.

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

/// The default size of the page cache.
pub const CACHE_BYTES: u64 = 48 << 20;
/// The default memory budget for versions that are not in a checkpoint yet.
pub const MEMORY_BYTES: u64 = 512 << 20;

/// The default rate of background upkeep, in bytes read and written per second.
pub const BACKGROUND_BYTES_PER_S: u64 = 32 << 20;

/// See the module's comment. A log belongs to the store in its [`LogOptions`](crate::LogOptions).
pub struct Store {
    pub(crate) cache: Arc<PageCache>,
    memory: Arc<Memory>,
    pub(crate) rate: Rate,
    /// The logs that wait for their turn. A log whose upkeep is being done is not among them.
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
    /// A store with a page cache of `cache_bytes` and a memory budget of `memory_bytes` for versions that are not in a
    /// checkpoint yet. All logs share both, however many there are.
    #[must_use]
    pub fn new(cache_bytes: u64, memory_bytes: u64) -> Store {
        Store {
            cache: PageCache::new(cache_bytes),
            memory: Arc::new(Memory::new(memory_bytes)),
            rate: Rate::new(BACKGROUND_BYTES_PER_S),
            logs: Mutex::default(),
        }
    }

    /// Limits background upkeep of all logs together to `bytes_per_s`.
    #[must_use]
    pub fn with_background(self, bytes_per_s: u64) -> Store {
        Store { rate: Rate::new(bytes_per_s), ..self }
    }

    /// The bytes that its logs have drawn of the memory budget.
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

    /// Gives each log a turn to do one piece of upkeep, if it has any to do; returns whether any log did. Several
    /// threads may call this. A log whose upkeep fails is not retried at once and delays no other;
    /// [`Log::upkeep_trouble`] has the error.
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

/// A log's turn. The log goes back into the queue at the end, even if the turn panics.
struct Turn<'a> {
    store: &'a Store,
    log: Weak<Log>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.store.logs().push_back(self.log.clone());
    }
}

/// The rate limit of background upkeep: a token bucket that holds at most what comes in a quarter of a second. All logs
/// of a store must have the same clock.
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
    /// The bucket holds `1 / BURST_S_DIVISOR` seconds' worth of bytes.
    const BURST_S_DIVISOR: u64 = 4;

    fn new(bytes_per_s: u64) -> Rate {
        Rate { bytes_per_s, left: Mutex::default() }
    }

    /// Takes `bytes` for a piece of work; returns whether there were enough. A piece larger than the bucket takes a
    /// full bucket.
    pub(crate) fn take(&self, now: Micros, bytes: u64) -> bool {
        let burst = self.bytes_per_s / Self::BURST_S_DIVISOR;
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = left.since.map(|since| now.0.saturating_sub(since.0).max(0).cast_unsigned());
        let come = passed.map_or(burst, |micros| {
            u64::try_from(u128::from(self.bytes_per_s) * u128::from(micros) / 1_000_000).unwrap_or(u64::MAX)
        });
        let there = left.bytes.saturating_add(come).min(burst);
        let wanted = bytes.min(burst).max(1);
        // A refusal must not move `since`, or fractions of bytes would be lost.
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
        // A quarter of a second's worth at once, then at the rate.
        assert_eq!(taken(0..1_000_000), 100 + 400 - 1);
        assert_eq!(taken(900_000_000..900_000_001), 1);
        assert_eq!((0..1000).filter(|_| rate.take(Micros(900_000_001), 10)).count(), 99);
        // No piece is too large to be done at all, and a clock that goes back adds nothing.
        assert!(rate.take(Micros(999_000_000), 1 << 40) && !rate.take(Micros(0), 1));
        assert!(!Rate::new(0).take(Micros(1 << 40), 1));
        let free = Rate::new(u64::MAX);
        assert!((0..1000).all(|_| free.take(Micros(0), 1 << 30)));
    }
}

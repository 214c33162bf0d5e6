//! The memory budget that all logs of a store share, for versions that are in no segment's index and in no checkpoint
//! yet.
//!
//! A quarter of the budget is divided equally into floors, one for each log, which other logs cannot take; the rest is a
//! pool. Once three quarters of the pool are drawn, logs that have drawn more than the average free memory by sealing
//! their segment and writing a checkpoint early. Once all of the pool is drawn, a log that has reached its floor is
//! refused until it has freed its own memory. So a refused log waits for no other log, and a log whose medium fails
//! blocks no other.
//!
//! Invariant: the logs together draw no more than the budget, except for what one call of each may add, what is lent for
//! work that frees more and for views ([`Share::lend`]), and floors of [`FLOOR_BYTES_MIN`] where there are so many logs
//! that an equal part would be less (more than 2,000 with the default budget). So the budget is what is aimed at, and no
//! bound: as long as views keep what was lent to them, it may be exceeded by as much.

use std::sync::{Arc, atomic::Ordering};

use crate::sync::{AtomicBool, AtomicU64};

/// The smallest floor, however many logs there are. A log is not asked to free less than this either: it would not be
/// worth the work.
pub(crate) const FLOOR_BYTES_MIN: u64 = 64 << 10;

/// See the module's comment.
#[derive(Debug)]
pub(crate) struct Memory {
    bytes_max: u64,
    logs: AtomicU64,
    drawn: AtomicU64,
}

impl Memory {
    pub(crate) fn new(bytes_max: u64) -> Memory {
        Memory { bytes_max, logs: 0.into(), drawn: 0.into() }
    }

    /// The bytes that logs may draw beyond their floors.
    fn pool(&self) -> u64 {
        self.bytes_max / 4 * 3
    }

    /// The bytes that no other log can take from a log.
    fn floor(&self) -> u64 {
        let logs = self.logs.load(Ordering::Relaxed).max(1);
        ((self.bytes_max - self.pool()) / logs).max(FLOOR_BYTES_MIN)
    }

    /// The bytes that all logs have drawn.
    pub(crate) fn drawn(&self) -> u64 {
        self.drawn.load(Ordering::Relaxed)
    }
}

/// One log's share of the memory.
pub(crate) struct Share {
    memory: Arc<Memory>,
    drawn: AtomicU64,
    /// The part of `drawn` that the log's upkeep can free. The rest waits for a tapped disk.
    givable: AtomicU64,
    /// The log was refused memory and has not gone below its floor since.
    refused: AtomicBool,
}

impl Share {
    /// The share of a new log.
    pub(crate) fn of(memory: &Arc<Memory>) -> Share {
        memory.logs.fetch_add(1, Ordering::Relaxed);
        Share { memory: memory.clone(), drawn: 0.into(), givable: 0.into(), refused: false.into() }
    }

    /// Sets the bytes that the log has drawn, and how many of them its upkeep can free. Only one thread of a log may
    /// call this at a time.
    pub(crate) fn set(&self, bytes: u64, givable: u64) {
        self.givable.store(givable, Ordering::Relaxed);
        let before = self.drawn.swap(bytes, Ordering::Relaxed);
        if bytes >= before {
            self.memory.drawn.fetch_add(bytes - before, Ordering::Relaxed);
        } else {
            self.memory.drawn.fetch_sub(before - bytes, Ordering::Relaxed);
        }
        // Freeing less than that is not enough: the log would be refused again.
        if bytes < self.memory.floor() {
            self.refused.store(false, Ordering::Relaxed);
        }
    }

    /// Draws memory until the returned guard is dropped. Never refused: it is for work that frees more, and for reading,
    /// which must need nothing that writing needs.
    pub(crate) fn lend(&self, bytes: u64) -> Lent {
        self.memory.drawn.fetch_add(bytes, Ordering::Relaxed);
        Lent { memory: self.memory.clone(), bytes }
    }

    /// Whether the log may draw more. If not, it has to free what it has first.
    pub(crate) fn may_grow(&self) -> bool {
        let may = self.memory.drawn() < self.memory.pool()
            || self.drawn.load(Ordering::Relaxed) < self.memory.floor();
        if !may {
            self.refused.store(true, Ordering::Relaxed);
        }
        may
    }

    /// Whether the log should free what it has drawn; no if that is not worth the work.
    pub(crate) fn should_give(&self) -> bool {
        let asked = self.refused.load(Ordering::Relaxed)
            || self.is_much() && self.memory.drawn() >= self.memory.pool() / 4 * 3;
        asked && self.givable.load(Ordering::Relaxed) >= FLOOR_BYTES_MIN
    }

    /// Whether the log should free memory at once instead of waiting until upkeep gets to it.
    pub(crate) fn should_give_at_once(&self) -> bool {
        self.should_give() && self.is_much() && self.memory.drawn() >= self.memory.pool() / 8 * 7
    }

    /// Whether the log can free at least as much as logs have drawn on average.
    fn is_much(&self) -> bool {
        let logs = self.memory.logs.load(Ordering::Relaxed).max(1);
        self.givable.load(Ordering::Relaxed) >= self.memory.drawn() / logs
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0, 0);
        self.memory.logs.fetch_sub(1, Ordering::Relaxed);
    }
}

/// See [`Share::lend`].
pub(crate) struct Lent {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.memory.drawn.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(bytes_max: u64, logs: usize) -> Vec<Share> {
        let memory = Arc::new(Memory::new(bytes_max));
        (0..logs).map(|_| Share::of(&memory)).collect()
    }

    #[test]
    fn who_drew_most_gives_first_and_who_waits_needs_nobody_else() {
        let shares = shares(16 << 20, 4);
        let mib = |n: u64| n << 20;
        shares[0].set(mib(8), mib(8));
        assert!(!shares[0].should_give(), "three quarters of the pool are not drawn yet");
        shares[1].set(mib(1), mib(1));
        assert!(shares[0].should_give() && !shares[1].should_give());
        assert!(!shares[0].should_give_at_once());
        shares[0].set(mib(11), mib(11));
        assert!(shares[0].should_give_at_once() && !shares[1].should_give_at_once());
        // The pool is used up. A log that has less than its floor may draw more all the same.
        assert!(!shares[0].may_grow() && !shares[1].may_grow());
        assert!(shares[2].may_grow());
        // A log that was refused is asked to free even a little, and no longer once it has.
        assert!(shares[1].should_give());
        shares[1].set(0, 0);
        assert!(!shares[1].should_give() && shares[1].may_grow());
        drop(shares);
    }

    #[test]
    fn who_has_given_a_part_only_is_still_asked_and_what_cannot_be_given_is_not_asked_for() {
        let shares = shares(16 << 20, 4);
        shares[0].set(12 << 20, 0);
        shares[1].set(3 << 20, 3 << 20);
        assert!(!shares[0].may_grow() && !shares[1].may_grow());
        assert!(
            !shares[0].should_give() && !shares[0].should_give_at_once(),
            "a disk outside has to take it"
        );
        shares[1].set(2 << 20, 2 << 20);
        assert!(shares[1].should_give());
        shares[1].set(2 << 20, 100);
        assert!(!shares[1].should_give(), "so little is not worth the work");
    }

    #[test]
    fn what_a_log_drew_goes_with_it() {
        let shares = shares(16 << 20, 2);
        let memory = shares[0].memory.clone();
        shares[0].set(100, 100);
        let lent = shares[1].lend(50);
        assert_eq!(memory.drawn(), 150);
        drop(lent);
        drop(shares);
        assert_eq!((memory.drawn(), memory.logs.load(Ordering::Relaxed)), (0, 0));
    }
}

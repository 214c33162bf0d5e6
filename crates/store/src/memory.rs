//! The memory of all logs of a store for what is in no segment's index and in no checkpoint yet.
//!
//! Invariant: what logs have drawn together stays within [`Memory::new`]'s bound, but for what one call of each adds at most, what is
//! lent for a piece of work, and the smallest floors of more than some 2,000 logs. Each log has a floor that the others cannot take from it; what is left is a pool. When three quarters of the pool are drawn, logs that have
//! drawn more than others give theirs up, by an early end of a segment and an early checkpoint. When it is used up, a log that
//! has its floor is refused until it has given up its own. So whoever waits needs nobody else, and a log whose medium fails
//! keeps no other from going on.

use std::sync::{Arc, atomic::Ordering};

use crate::sync::{AtomicBool, AtomicU64};

/// A log's floor is no smaller, however many logs there are, and less is not given up: it frees little for the work that it takes.
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

    /// What logs may draw beyond their floors.
    fn pool(&self) -> u64 {
        self.bytes_max / 4 * 3
    }

    /// What each log has for itself.
    fn floor(&self) -> u64 {
        let logs = self.logs.load(Ordering::Relaxed).max(1);
        ((self.bytes_max - self.pool()) / logs).max(FLOOR_BYTES_MIN)
    }

    /// What all logs have drawn, in bytes.
    pub(crate) fn drawn(&self) -> u64 {
        self.drawn.load(Ordering::Relaxed)
    }
}

/// What one log has drawn.
pub(crate) struct Share {
    memory: Arc<Memory>,
    drawn: AtomicU64,
    /// What of that upkeep of the log can give back. The rest waits for a disk outside the store.
    givable: AtomicU64,
    /// It was refused more, and has not given anything up since.
    refused: AtomicBool,
}

impl Share {
    /// For one more log.
    pub(crate) fn of(memory: &Arc<Memory>) -> Share {
        memory.logs.fetch_add(1, Ordering::Relaxed);
        Share { memory: memory.clone(), drawn: 0.into(), givable: 0.into(), refused: false.into() }
    }

    /// The log has drawn so much now, of which its upkeep can give back the part `givable`. One thread of a log says so at a time.
    pub(crate) fn set(&self, bytes: u64, givable: u64) {
        self.givable.store(givable, Ordering::Relaxed);
        let before = self.drawn.swap(bytes, Ordering::Relaxed);
        if bytes >= before {
            self.memory.drawn.fetch_add(bytes - before, Ordering::Relaxed);
        } else {
            self.memory.drawn.fetch_sub(before - bytes, Ordering::Relaxed);
        }
        // A part of it is not enough: it would be refused again.
        if bytes < self.memory.floor() {
            self.refused.store(false, Ordering::Relaxed);
        }
    }

    /// Draws for a piece of work until what is returned is dropped. It is never refused: the work gives more back.
    pub(crate) fn lend(&self, bytes: u64) -> Lent<'_> {
        self.memory.drawn.fetch_add(bytes, Ordering::Relaxed);
        Lent { memory: &self.memory, bytes }
    }

    /// The log may draw more. If not, it has to give up what it has before it asks again.
    pub(crate) fn may_grow(&self) -> bool {
        let may = self.memory.drawn() < self.memory.pool()
            || self.drawn.load(Ordering::Relaxed) < self.memory.floor();
        if !may {
            self.refused.store(true, Ordering::Relaxed);
        }
        may
    }

    /// The log should give up what it has drawn, if that is worth the work.
    pub(crate) fn should_give(&self) -> bool {
        let asked = self.refused.load(Ordering::Relaxed)
            || self.is_much() && self.memory.drawn() >= self.memory.pool() / 4 * 3;
        asked && self.givable.load(Ordering::Relaxed) >= FLOOR_BYTES_MIN
    }

    /// The log should give up at once, and not wait until upkeep gets to it.
    pub(crate) fn should_give_at_once(&self) -> bool {
        self.should_give() && self.is_much() && self.memory.drawn() >= self.memory.pool() / 8 * 7
    }

    /// It could give no less than logs have drawn on average.
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
pub(crate) struct Lent<'a> {
    memory: &'a Memory,
    bytes: u64,
}

impl Drop for Lent<'_> {
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
        // The pool is used up. A log that has less than its floor goes on, whatever the others do.
        assert!(!shares[0].may_grow() && !shares[1].may_grow());
        assert!(shares[2].may_grow());
        // Who was refused is asked to give, however little it has, and is asked no more once it has given.
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

//! The memory budget for reads that are done outside of their connection's own thread.
//!
//! Invariants: the server's limit holds over all connections, and the connection's limit for each. A ticket returns
//! exactly what it took, once. Nobody waits for a ticket: without one, the work is done in the connection's own memory,
//! so a client that hoards its share slows others down but never stops them. Every job has a minimum cost (`job.rs`),
//! so the number of queued jobs is bounded as well.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// A counter of bytes taken, at most `max`.
struct Account {
    max: u64,
    taken: AtomicU64,
}

impl Account {
    fn new(max: u64) -> Self {
        Self { max, taken: AtomicU64::new(0) }
    }

    fn take(&self, bytes: u64) -> bool {
        let add = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= self.max);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    fn give_back(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// The budget of all connections of a server.
pub(crate) struct Budget(Account);

impl Budget {
    pub(crate) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self(Account::new(bytes_max)))
    }

    /// The share of one connection.
    pub(crate) fn share(self: &Arc<Self>, bytes_max: u64) -> Arc<Share> {
        Arc::new(Share { own: Account::new(bytes_max), budget: Arc::clone(self) })
    }
}

/// One connection's share of a [`Budget`].
pub(crate) struct Share {
    own: Account,
    budget: Arc<Budget>,
}

impl Share {
    pub(crate) fn take(self: &Arc<Self>, bytes: u64) -> Option<Ticket> {
        if !self.own.take(bytes) {
            return None;
        }
        if !self.budget.0.take(bytes) {
            self.own.give_back(bytes);
            return None;
        }
        Some(Ticket { share: Arc::clone(self), bytes })
    }
}

/// The right to hold some bytes; dropping it returns them.
pub(crate) struct Ticket {
    share: Arc<Share>,
    bytes: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.share.budget.0.give_back(self.bytes);
        self.share.own.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;

    #[test]
    fn neither_limit_is_exceeded_and_all_comes_back() {
        let budget = Budget::new(100);
        let (one, other) = (budget.share(60), budget.share(60));
        let first = one.take(60).unwrap();
        assert!(one.take(1).is_none(), "the connection's own limit");
        let second = other.take(40).unwrap();
        assert!(other.take(1).is_none(), "the server's limit");
        assert!(other.take(u64::MAX).is_none(), "no overflow");
        drop(first);
        let third = other.take(20).unwrap();
        assert!(other.take(1).is_none());
        drop((second, third));
        assert!(one.take(60).is_some());
    }
}

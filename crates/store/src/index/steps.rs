//! Counts what a lookup does, so that a test can say how its cost grows without looking at a clock.

#[cfg(test)]
thread_local! {
    static DONE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// So many entries or ranges were looked at.
#[inline]
pub(super) fn count(steps: usize) {
    #[cfg(test)]
    DONE.set(DONE.get() + steps as u64);
    #[cfg(not(test))]
    let _ = steps;
}

/// The steps of this thread so far.
#[cfg(test)]
pub(super) fn done() -> u64 {
    DONE.get()
}

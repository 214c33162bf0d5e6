//! Counts the steps of a lookup, so that a test can check how its cost grows without a clock.

#[cfg(test)]
thread_local! {
    static DONE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Counts `steps` entries or ranges that were looked at. Does nothing outside tests.
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

//! The only module of this crate that reads a clock.
//!
//! Invariant: nothing in this crate waits for a guest, a socket or a process without a [`Deadline`] or a stop signal.

use std::time::{Duration, Instant};

use rustix::event::Timespec;

/// A point in time by which something must have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `duration` from now on (a century at most).
    #[must_use]
    pub fn after(duration: Duration) -> Deadline {
        const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
        Deadline(Instant::now() + duration.min(CENTURY))
    }

    /// The time left; zero once it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    #[must_use]
    pub fn passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// The same as a timeout for `poll`.
    pub(crate) fn timeout(self) -> Timespec {
        timespec(self.remaining())
    }
}

pub(crate) fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

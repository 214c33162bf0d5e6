//! A simulated clock: it stands still until it is advanced, and jumps on request.

use std::sync::atomic::{AtomicI64, Ordering};

use bygone_model::Micros;
use bygone_store::env::Clock;

/// See the module's comment.
#[derive(Debug)]
pub struct SimClock {
    wall: AtomicI64,
    monotonic: AtomicI64,
}

impl SimClock {
    /// A clock that shows `wall`.
    #[must_use]
    pub fn new(wall: Micros) -> SimClock {
        SimClock { wall: wall.0.into(), monotonic: 0.into() }
    }

    /// Lets time pass.
    pub fn advance(&self, by_micros: i64) {
        self.wall.fetch_add(by_micros, Ordering::Relaxed);
        self.monotonic.fetch_add(by_micros, Ordering::Relaxed);
    }

    /// Sets the wall clock forwards or backwards, without time passing.
    pub fn jump(&self, by_micros: i64) {
        self.wall.fetch_add(by_micros, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn wall(&self) -> Micros {
        Micros(self.wall.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Micros {
        Micros(self.monotonic.load(Ordering::Relaxed))
    }
}

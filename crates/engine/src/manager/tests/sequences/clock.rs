//! The clock of the manager's computer, which is set now and then, and what a time means to whoever asks a log that it
//! was set under.

use std::sync::atomic::{AtomicI64, Ordering};

use bygone_model::Micros;
use bygone_store::env::{Clock, SystemClock};

/// A clock that can be set.
#[derive(Default)]
pub(super) struct Set {
    ahead_us: AtomicI64,
}

impl Set {
    pub(super) fn step(&self, by_us: i64) {
        self.ahead_us.fetch_add(by_us, Ordering::AcqRel);
    }
}

impl Clock for Set {
    fn wall(&self) -> Micros {
        Micros(SystemClock::new().wall().0 + self.ahead_us.load(Ordering::Acquire))
    }

    fn monotonic(&self) -> Micros {
        SystemClock::new().monotonic()
    }
}

/// The records that a time may mean, looked for in all of them: the last one at or before it of every stretch in which
/// the clock did not go back, but of one that had ended before that time. If there is no other, the latest of those.
pub(super) fn meant(times: &[Micros], time: Micros) -> Vec<u64> {
    let (mut known, mut ended): (Vec<u64>, Vec<(Micros, u64)>) = Default::default();
    let mut first = 0;
    while first < times.len() {
        let back = (first + 1..times.len()).find(|next| times[*next] < times[next - 1]);
        let end = back.unwrap_or(times.len());
        if let Some(last) = (first..end).rev().find(|at| times[*at] <= time) {
            let seq = last as u64 + 1;
            if back.is_some() && last + 1 == end && times[last] < time {
                ended.push((times[last], seq));
            } else {
                known.push(seq);
            }
        }
        first = end;
    }
    if known.is_empty() {
        known.extend(ended.iter().max().map(|(_, seq)| *seq));
    }
    known
}

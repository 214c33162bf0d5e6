//! Turns resets into events: single ones at first, and a few that carry a count during a storm.
//!
//! Invariant: every reset is counted in exactly one event, and the number of events is bounded however fast a machine
//! resets: the events of a storm become rarer, each with the number of its resets and the times of the first and the
//! last.

use std::time::{Duration, Instant};

use bygone_model::{At, Event, Kind, Micros, Seq};
use bygone_qemu::{By, Reason};

use super::{
    Machine,
    follow::{mark_console, who},
};
use crate::{
    target::{Target, lock},
    timeline,
};

/// How many resets get an event each before they are counted.
const SINGLE_MAX: u32 = 64;
/// The pause between the events of a storm: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// How many of the last records are searched for a reset that an earlier manager may have written before it died.
const NOTED_SEQS_MAX: u64 = 1000;
/// A storm is over after this time without a reset.
const CALM: Duration = Duration::from_secs(120);

/// Resets that share one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) count: u64,
    pub(super) first: Micros,
    pub(super) last: Micros,
}

/// The detail with the time of the reset by QEMU's clock, which identifies the reset.
const QEMU_TIME: &str = "qemu_time_us";

/// The resets of one machine.
#[derive(Debug)]
pub(super) struct Resets {
    single: u32,
    pause: Duration,
    /// When the next event of a storm may be written.
    next_at: Option<Instant>,
    last_at: Option<Instant>,
    waiting: Option<Counted>,
}

impl Resets {
    pub(super) fn new() -> Resets {
        Resets { single: 0, pause: PAUSE_MIN, next_at: None, last_at: None, waiting: None }
    }

    /// Adds a reset at `time`. Returns the event to write now, or `None` if it waits for the next one.
    pub(super) fn add(&mut self, now: Instant, time: Micros) -> Option<Counted> {
        if self.last_at.is_some_and(|last| now.saturating_duration_since(last) >= CALM) {
            let waiting = self.waiting.take();
            *self = Resets { waiting, ..Resets::new() };
        }
        self.last_at = Some(now);
        let waiting = self.waiting.get_or_insert(Counted { count: 0, first: time, last: time });
        waiting.count += 1;
        waiting.last = time;
        if self.single < SINGLE_MAX {
            self.single += 1;
            return self.waiting.take();
        }
        let next_at = *self.next_at.get_or_insert(now + self.pause);
        if now < next_at {
            return None;
        }
        self.rest(now)
    }

    /// When the waiting resets have to be written even if no other one comes.
    pub(super) fn due(&self) -> Option<Instant> {
        let (next_at, last_at) = (self.next_at?, self.last_at?);
        self.waiting.map(|_| next_at.min(last_at + CALM))
    }

    /// Takes the waiting resets, when they are due or the machine has ended.
    pub(super) fn rest(&mut self, now: Instant) -> Option<Counted> {
        let rest = self.waiting.take()?;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.next_at = Some(now + self.pause);
        Some(rest)
    }
}

impl Machine {
    /// Handles a reset at `time` by QEMU's clock; `held` if the machine was held until now. Returns whether the start
    /// that follows gets an event of its own.
    pub(super) fn note_reset(
        &self,
        target: &Target,
        resets: &mut Resets,
        (by, reason): (By, &Reason),
        time: Micros,
        held: bool,
    ) -> bool {
        let Some(counted) = resets.add(Instant::now(), time) else { return false };
        if counted.count > 1 {
            self.note_resets(target, Some(counted));
        } else {
            let event = Event::new(Kind::Reset, format!("the target was reset by {}", who(by)));
            let event = event.with("reason", reason.to_string()).with(QEMU_TIME, time.0);
            self.note(target, &Event { at: if held { None } else { since(target, time) }, ..event });
        }
        true
    }

    /// Writes one event for several resets.
    pub(super) fn note_resets(&self, target: &Target, counted: Option<Counted>) {
        let Some(Counted { count, first, last }) = counted else { return };
        let times = if count == 1 { "once more" } else { &format!("{count} times") };
        let event =
            Event::new(Kind::Reset, format!("the target was reset {times} until {}", timeline::local(last)))
                .with("count", count)
                .with("first", timeline::rfc3339(first))
                .with("last", timeline::rfc3339(last))
                .with(QEMU_TIME, last.0);
        self.note(target, &event);
    }

    /// Writes a boot after a reset; the machine is held before its first instruction.
    pub(super) fn note_boot_again(&self, target: &Target) {
        let event = Event::new(Kind::Boot, "started over after a reset");
        if let Some(booted) = self.note(target, &event) {
            mark_console(target, &lock(&self.kept), At::exactly(booted.last, booted.time));
        }
    }

    /// Whether an earlier manager wrote this reset and died before it let the machine go on. If so, it is among the
    /// last records.
    pub(super) fn is_noted(&self, target: &Target, time: Micros) -> bool {
        let head = target.log.head_seq();
        let mut noted = false;
        let read = target.log.events(Seq(head.0.saturating_sub(NOTED_SEQS_MAX)), head, &mut |event| {
            noted |= event.event.kind == Kind::Reset
                && event.branch == self.branch
                && event.event.details.get(QEMU_TIME).and_then(serde_json::Value::as_i64) == Some(time.0);
            !noted
        });
        if let Err(error) = read {
            tracing::warn!(target = target.name, %error, "the last events cannot be read");
        }
        noted
    }
}

/// The range of moments between `time`, by this computer's clock, and now.
fn since(target: &Target, time: Micros) -> Option<At> {
    let log = &target.log;
    let seq = log.head_seq();
    // The log's clock follows the computer's, except where that was set back.
    let hits = log.at_time(time).ok()?;
    let earliest = hits.iter().rev().find(|hit| hit.within).map_or(seq, |hit| hit.seq);
    Some(At { seq, earliest, time: log.time_of(seq).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays resets at these milliseconds, and the timer whenever it is due. Returns the events with their times.
    fn play(times_ms: impl IntoIterator<Item = u64>) -> Vec<(u64, Counted)> {
        let start = Instant::now();
        let mut resets = Resets::new();
        let mut written = Vec::new();
        for ms in times_ms {
            let now = start + Duration::from_millis(ms);
            while let Some(due) = resets.due().filter(|due| *due < now) {
                let at = (due - start).as_millis() as u64;
                written.extend(resets.rest(due).map(|counted| (at, counted)));
            }
            let time = Micros(ms as i64 * 1000);
            written.extend(resets.add(now, time).map(|counted| (ms, counted)));
        }
        let end = resets.due();
        let rest = end.and_then(|end| Some(((end - start).as_millis() as u64, resets.rest(end)?)));
        written.extend(rest);
        assert_eq!(resets.due(), None);
        written
    }

    #[test]
    fn resets_are_events_of_their_own_however_soon_they_come() {
        let written = play((0..u64::from(SINGLE_MAX)).map(|n| n * 50));
        assert_eq!(written.len(), SINGLE_MAX as usize);
        for (n, (at, counted)) in written.into_iter().enumerate() {
            let time = Micros(n as i64 * 50_000);
            assert_eq!((at, counted), (n as u64 * 50, Counted { count: 1, first: time, last: time }));
        }
    }

    #[test]
    fn a_storm_is_counted_to_the_last_reset_in_a_bounded_number_of_events() {
        // Ten a second, for a week.
        let count = 7 * 86_400 * 10;
        let written = play((0..count).map(|n| n * 100));
        assert_eq!(written.iter().map(|(_, counted)| counted.count).sum::<u64>(), count);
        assert!(written.len() < 250, "{}", written.len());
        for pair in written.windows(2) {
            assert_eq!(pair[1].1.first.0, pair[0].1.last.0 + 100_000, "each is in one, in order");
        }
    }

    #[test]
    fn the_end_of_a_storm_is_written_and_after_some_calm_each_is_one_again() {
        let storm = (0..100).map(|n| n * 100);
        let later = CALM.as_millis() as u64 * 2;
        let written = play(storm.chain([later, later + 1]));
        let [.., rest, second, third] = written.as_slice() else { panic!("{written:?}") };
        assert_eq!(rest.1.count, 100 - u64::from(SINGLE_MAX));
        assert_eq!(rest.1.last, Micros(9_900_000));
        assert!(rest.0 < 20_000, "it does not wait for the next one");
        assert_eq!((second.1.count, third.1.count), (1, 1));
    }
}

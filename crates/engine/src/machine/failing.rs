//! Turns failing requests of a machine into events: the first failure of each kind, and the number of its repetitions
//! once the disk works again.
//!
//! Invariant: while requests go on failing no further event is written, however many disks fail in turn.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// A disk counts as working again after this time without a failure of the same kind.
const WORKS_AGAIN: Duration = Duration::from_secs(10);
/// How many kinds are told apart: more than a machine can have disks. All others count as one.
const KINDS_MAX: usize = 64;

/// The requests that fail now, by what fails of which disk.
#[derive(Debug, Default)]
pub(super) struct Failing(BTreeMap<String, Failures>);

#[derive(Debug)]
struct Failures {
    times: u64,
    last: Instant,
}

impl Failing {
    /// Counts a failure. Returns the label of its event if it is the first of its kind.
    pub(super) fn add(&mut self, disk: Option<&str>, write: bool, now: Instant) -> Option<String> {
        let what = if write { "write" } else { "read" };
        let mut kind = format!("a {what} failed on disk {}", disk.unwrap_or("?"));
        if self.0.len() >= KINDS_MAX && !self.0.contains_key(&kind) {
            "a request failed on another disk".clone_into(&mut kind);
        }
        let is_first = !self.0.contains_key(&kind);
        let failures = self.0.entry(kind.clone()).or_insert(Failures { times: 0, last: now });
        failures.times += 1;
        failures.last = now;
        is_first.then_some(kind)
    }

    /// When the next kind counts as over.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().map(|failures| failures.last + WORKS_AGAIN).min()
    }

    /// Takes those kinds that are over, each with its number of failures if there was more than one.
    pub(super) fn over(&mut self, now: Instant) -> Vec<(String, u64)> {
        let mut over = Failing::default();
        self.0.retain(|kind, failures| {
            let goes_on = failures.last + WORKS_AGAIN > now;
            if !goes_on {
                over.0.insert(kind.clone(), Failures { ..*failures });
            }
            goes_on
        });
        over.rest()
    }

    /// Takes all kinds, as [`Failing::over`].
    pub(super) fn rest(&mut self) -> Vec<(String, u64)> {
        let all = std::mem::take(&mut self.0).into_iter();
        all.filter(|(_, failures)| failures.times > 1)
            .map(|(kind, failures)| (kind, failures.times))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_that_fail_in_turn_have_one_event_each_and_one_count_each() {
        let (begun, mut failing) = (Instant::now(), Failing::default());
        let mut first = Vec::new();
        for second in 0..300 {
            let now = begun + Duration::from_secs(second);
            assert_eq!(failing.over(now), []);
            for (disk, write) in [("vda", true), ("vdb", true), ("vda", false)] {
                first.extend(failing.add(Some(disk), write, now));
            }
        }
        assert_eq!(
            first,
            ["a write failed on disk vda", "a write failed on disk vdb", "a read failed on disk vda"]
        );
        // One goes on.
        let now = begun + Duration::from_secs(305);
        assert_eq!(failing.add(Some("vdb"), true, now), None);
        let end = failing.due().unwrap();
        assert_eq!(
            failing.over(end),
            [("a read failed on disk vda".to_owned(), 300), ("a write failed on disk vda".to_owned(), 300)]
        );
        assert_eq!(failing.over(end), []);
        assert_eq!(failing.rest(), [("a write failed on disk vdb".to_owned(), 301)]);
        assert_eq!(failing.due(), None);
        // What works again and fails again is told again; a single failure has no number.
        assert!(failing.add(Some("vda"), true, now).is_some());
        assert_eq!(failing.rest(), []);
    }

    #[test]
    fn however_many_names_there_are_little_is_kept_and_told() {
        let mut failing = Failing::default();
        let now = Instant::now();
        let told = (0..10_000).filter(|n| failing.add(Some(&n.to_string()), false, now).is_some()).count();
        assert_eq!(told, KINDS_MAX + 1);
        let another = ("a request failed on another disk".to_owned(), 10_000 - KINDS_MAX as u64);
        assert_eq!(failing.rest(), [another]);
    }
}

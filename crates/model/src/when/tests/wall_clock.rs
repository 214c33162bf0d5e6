//! Clocks that go back and forward: New York, 2026-03-08 02:00 → 03:00 and 2026-11-01 02:00 → 01:00.

use jiff::Zoned;

use super::{Listed, new_york, now_in, parsed};
use crate::{
    Seq,
    when::{Ambiguity, ResolveError, WholeDay},
};

fn fold() -> Listed {
    Listed::of_times([
        "2026-11-01T00:30:00-04:00",
        "2026-11-01T01:20:00-04:00",
        "2026-11-01T01:20:00-05:00",
        "2026-11-01T08:00:00-05:00",
    ])
}

fn new_york_at(text: &str) -> Zoned {
    now_in(text, new_york())
}

#[test]
fn a_wall_time_that_came_twice_is_ambiguous() {
    let now = new_york_at("2026-11-01T09:00:00-05:00");
    for text in ["01:30", "today 01:30", "2026-11-01 01:30", "sunday 01:30"] {
        let error = parsed(text).resolve(&fold(), &now).expect_err(text);
        assert!(matches!(error, ResolveError::Ambiguous { why: Ambiguity::WallClock, .. }), "{text:?}");
        let seqs: Vec<u64> = error.candidates().iter().map(|candidate| candidate.place.seq.0).collect();
        assert_eq!(seqs, [30, 20]);
        assert_eq!(error.candidates()[1].label, "at 2026-11-01T01:30:00-04:00");
    }
    assert_eq!(parsed("2026-11-01 01:30 -04:00").resolve(&fold(), &now).unwrap().place.seq, Seq(20));
    assert_eq!(parsed("2026-11-01 01:30 -05:00").resolve(&fold(), &now).unwrap().place.seq, Seq(30));
}

#[test]
fn a_wall_time_that_came_twice_is_not_ambiguous_when_both_lead_to_one_moment() {
    let now = new_york_at("2026-11-01T09:00:00-05:00");
    assert_eq!(parsed("01:10").resolve(&fold(), &now).unwrap_err().candidates().len(), 2);
    let quiet = Listed::of_times(["2026-11-01T00:30:00-04:00", "2026-11-01T08:00:00-05:00"]);
    assert_eq!(parsed("01:10").resolve(&quiet, &now).unwrap().place.seq, Seq(10));
}

#[test]
fn a_wall_time_that_will_come_again_is_the_one_that_came() {
    let now = new_york_at("2026-11-01T01:45:00-04:00");
    for text in ["01:30", "today 01:30", "2026-11-01 01:30"] {
        let early = Listed::of_times(["2026-11-01T00:30:00-04:00", "2026-11-01T01:20:00-04:00"]);
        assert_eq!(parsed(text).resolve(&early, &now).unwrap().place.seq, Seq(20), "{text:?}");
    }
}

#[test]
fn a_wall_time_that_clocks_skipped_is_the_moment_before_they_did() {
    let history = Listed::of_times([
        "2026-03-07T02:10:00-05:00",
        "2026-03-08T01:59:59-05:00",
        "2026-03-08T03:00:00-04:00",
        "2026-03-08T03:40:00-04:00",
    ]);
    let now = new_york_at("2026-03-08T09:00:00-04:00");
    for text in ["02:30", "02:00", "today 02:59:59", "2026-03-08 02:30", "sunday 02:30"] {
        let found = parsed(text).resolve(&history, &now).unwrap();
        assert_eq!(found.place.seq, Seq(20), "{text:?}: {}", found.how);
        assert!(found.how.ends_with("when clocks skipped this time"), "{}", found.how);
    }
    assert_eq!(parsed("03:00").resolve(&history, &now).unwrap().place.seq, Seq(30));
}

#[test]
fn days_ago_keep_the_time_of_day_and_hours_ago_do_not() {
    let history = Listed::of_times([
        "2026-10-31T07:00:00-04:00",
        "2026-10-31T08:30:00-04:00",
        "2026-10-31T09:30:00-04:00",
        "2026-11-01T08:30:00-05:00",
    ]);
    let now = new_york_at("2026-11-01T09:00:00-05:00");
    assert_eq!(parsed("1 day ago").resolve(&history, &now).unwrap().place.seq, Seq(20));
    assert_eq!(parsed("24 hours ago").resolve(&history, &now).unwrap().place.seq, Seq(30));
}

#[test]
fn a_day_starts_and_ends_where_its_clock_says() {
    // Clocks that go forward at midnight: the day starts at 01:00.
    let zone = jiff::tz::TimeZone::posix("AAA4BBB,M3.2.0/0,M11.1.0/0").unwrap();
    let history = Listed::of_times([
        "2026-03-07T23:59:59.999999-04:00",
        "2026-03-08T01:00:00-03:00",
        "2026-03-08T23:59:59.999999-03:00",
        "2026-03-09T00:00:00-03:00",
    ]);
    let now = now_in("2026-03-10T09:00:00-03:00", zone);
    let seq = |day| parsed("2026-03-08").resolve_day(&history, &now, day).unwrap().place.seq;
    assert_eq!((seq(WholeDay::Start), seq(WholeDay::End)), (Seq(20), Seq(30)));
}

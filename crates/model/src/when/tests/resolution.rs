use super::{Listed, at, mark, noon, november, now_in, parsed, tokyo};
use crate::{
    Event, Kind, Seq,
    when::{Ambiguity, ResolveError, Resolved, WholeDay},
};

fn resolve(text: &str, history: &Listed) -> Result<Resolved, ResolveError> {
    parsed(text).resolve(history, &noon())
}

fn refused(text: &str, history: &Listed) -> ResolveError {
    let error = resolve(text, history).expect_err(text);
    assert!(!error.hint().is_empty() && !error.to_string().is_empty());
    error
}

fn candidates(error: &ResolveError) -> Vec<u64> {
    error.candidates().iter().map(|candidate| candidate.place.seq.0).collect()
}

#[test]
fn every_form_of_the_contract_finds_its_moment() {
    let history = november();
    for (text, seq) in [
        ("now", 140),
        ("seq:140", 140),
        ("seq:105", 100),
        ("2026-11-22T15:04:05+09:00", 60),
        ("2026-11-22T06:04:04.999999Z", 50),
        ("2026-11-22 15:04", 50),
        ("2026-11-22 15:04:05", 60),
        ("2026-11-22 15:04:04.999", 50),
        ("15:04", 90),
        ("11:59", 130),
        ("12:00", 140),
        ("3 days ago", 40),
        ("3 days ago 15:00", 50),
        ("an hour ago", 120),
        ("a minute ago", 130),
        ("2h ago", 110),
        ("90s ago", 120),
        ("1 week ago", 40),
        ("2 weeks ago 22:00", 20),
        ("yesterday 14:59", 90),
        ("today 09:00", 110),
        ("tuesday 10:00", 80),
        ("wednesday 11:59", 130),
        ("wednesday 13:00", 40),
        ("last shutdown", 70),
        ("last boot", 80),
        ("last clean", 70),
        ("last stopped", 30),
        ("last flushed", 100),
        ("last point", 100),
        ("last package", 20),
        ("first boot", 10),
        ("first clean", 30),
        ("last shutdown before tuesday", 70),
        ("last shutdown before monday", 30),
        ("last shutdown before 2026-11-23 22:00", 30),
        ("last shutdown before now", 70),
        ("last boot before last boot", 40),
        ("last boot before seq:80", 40),
        ("last point before seq:105", 100),
        ("last shutdown before branch:try-1", 70),
        ("last boot before install nginx", 10),
        ("before install nginx", 20),
        ("before first install", 20),
        ("point:before-upgrade", 100),
        ("last boot before point:before-upgrade", 80),
        ("branch:try-1", 75),
        ("branch:id:1", 75),
        ("try-1@now", 75),
        ("try-1@last boot", 40),
        ("Branch:try-1@Last boot", 40),
        ("id:1@2026-11-22 15:04:05", 60),
        ("try-1@seq:65", 60),
        ("try-1@last boot before yesterday 14:59", 40),
        ("last boot before try-1@last shutdown", 40),
        ("06:04 UTC", 90),
        ("06:04 Z", 90),
        ("at 06:04+00:00", 90),
        ("15:04 +09:00", 90),
        ("2026-11-22 01:04:05 America/New_York", 60),
        ("yesterday 00:59 america/new_york", 60),
        ("try-1@last shutdown before 06:04 GMT", 70),
        ("1 day ago 05:59 UTC", 90),
    ] {
        match resolve(text, &history) {
            Ok(found) => assert_eq!(found.place.seq, Seq(seq), "{text:?}: {}", found.how),
            Err(error) => panic!("{text:?}: {error}"),
        }
    }
}

#[test]
fn the_answer_tells_time_branch_and_how_it_was_understood() {
    let history = november();
    let found = resolve("yesterday 14:59", &history).unwrap();
    assert_eq!(found.time, at("2026-11-24T14:58:00+09:00"));
    assert_eq!(found.how, "the last moment at or before 2026-11-24T14:59:00+09:00");
    let found = resolve("last shutdown before Tuesday", &history).unwrap();
    assert_eq!(found.how, "last shutdown before tuesday: powered off");
    let found = resolve("branch:try-1", &history).unwrap();
    assert_eq!(found.how, "the newest moment of branch try-1");
}

#[test]
fn a_moment_of_a_branch_is_one_of_its_line() {
    let history = november();
    let error = refused("try-1@point:before-upgrade", &history);
    assert_eq!(
        error.to_string(),
        "point \"before-upgrade\" is on branch main, and no moment of branch try-1"
    );
    assert_eq!(candidates(&error), [100]);
    let error = refused("try-1@point:nowhere", &history);
    assert!(matches!(error, ResolveError::UnknownPoint { .. }), "{error}");
    let error = refused("try-1@seq:80", &history);
    assert!(matches!(error, ResolveError::NoSuchSeq { .. }), "{error}");
    assert_eq!(candidates(&error), [75]);
    let error = refused("try-3@15:04", &history);
    assert!(matches!(error, ResolveError::UnknownBranch { .. }), "{error}");
}

#[test]
fn a_zone_that_there_is_not_is_refused() {
    let error = refused("15:04 Mars/Olympus", &november());
    assert!(matches!(&error, ResolveError::UnknownZone { name } if **name == *"Mars/Olympus"), "{error}");
}

#[test]
fn an_impossible_moment_is_refused_with_the_nearest_ones() {
    let history = november();
    for text in ["2026-10-31 10:00", "4294967295 years ago", "4294967295 days ago 10:00", "0000-01-01 00:00"]
    {
        let error = refused(text, &history);
        assert!(matches!(error, ResolveError::BeforeHistory { .. }), "{text:?}: {error}");
        assert_eq!(candidates(&error), [10]);
    }
    for text in ["today 12:01", "2026-11-26", "2026-11-25T12:00:00.000001+09:00", "9999-12-31 23:59"] {
        let error = refused(text, &history);
        assert!(matches!(error, ResolveError::Future { .. }), "{text:?}: {error}");
        assert_eq!(candidates(&error), [140]);
    }
    let beyond = refused("seq:141", &history);
    assert!(matches!(beyond, ResolveError::NoSuchSeq { asked: Seq(141), .. }));
    assert_eq!(candidates(&beyond), [140]);
    assert_eq!(candidates(&refused("seq:9", &history)), [10]);

    let none = refused("last panic", &history);
    assert!(matches!(none, ResolveError::NoSuchEvent { .. }));
    assert_eq!(candidates(&none).first(), Some(&100));
    assert_eq!(none.candidates()[0].label, "point: before-upgrade");
    assert!(matches!(
        refused("last shutdown before last package", &history),
        ResolveError::NoSuchEvent { .. }
    ));
    assert!(matches!(refused("last boot before seq:141", &history), ResolveError::NoSuchSeq { .. }));
    assert!(matches!(refused("before remove nginx", &history), ResolveError::NoSuchEvent { .. }));
    assert!(matches!(refused("last boot before 2026-10-01", &history), ResolveError::BeforeHistory { .. }));

    let point = refused("point:Before-Upgrade", &history);
    assert!(matches!(point, ResolveError::UnknownPoint { .. }));
    assert_eq!(candidates(&point), [100]);
    let branch = refused("branch:try-2", &history);
    assert!(matches!(branch, ResolveError::UnknownBranch { .. }));
    assert_eq!(candidates(&branch), [140, 75]);
}

#[test]
fn an_empty_history_has_no_moment() {
    for text in ["now", "seq:0", "15:04", "yesterday", "last boot", "last boot before now"] {
        assert!(matches!(refused(text, &Listed::default()), ResolveError::Empty), "{text:?}");
    }
}

#[test]
fn an_event_at_the_head_is_before_now() {
    let event = Some(Event::new(Kind::Shutdown, "powered off"));
    let history = Listed::of([("2026-11-25T08:00:00+09:00", event)]);
    assert_eq!(resolve("last shutdown before now", &history).unwrap().place.seq, Seq(10));
}

#[test]
fn a_history_that_fails_is_not_taken_for_an_empty_one() {
    let history = Listed { broken: true, ..november() };
    let error = refused("now", &history);
    assert!(matches!(&error, ResolveError::History(source) if source.to_string() == "the disk is gone"));
}

#[test]
fn a_label_used_twice_is_ambiguous() {
    let point = || Some(Event::new(Kind::Point, "good"));
    let history = Listed::of([
        ("2026-11-20T08:00:00+09:00", point()),
        ("2026-11-21T08:00:00+09:00", None),
        ("2026-11-22T08:00:00+09:00", point()),
    ]);
    let error = refused("point:good", &history);
    assert!(matches!(error, ResolveError::Ambiguous { why: Ambiguity::Label, .. }));
    assert_eq!(candidates(&error), [30, 10]);
    assert_eq!(error.candidates()[0].describe(&noon()), "seq:30, 3 days ago 08:00, point: good");
}

#[test]
fn a_day_alone_is_ambiguous_unless_nothing_happened_on_it() {
    let history = november();
    for (text, expected) in [
        ("yesterday", vec![100, 70]),
        ("tuesday", vec![100, 70]),
        ("2026-11-22", vec![60, 40]),
        ("today", vec![140, 100]),
        ("2026-11-10", vec![20, 10]),
    ] {
        let error = refused(text, &history);
        assert!(matches!(error, ResolveError::Ambiguous { why: Ambiguity::WholeDay, .. }), "{text:?}");
        assert_eq!(candidates(&error), expected, "{text:?}");
    }
    assert_eq!(resolve("2026-11-20", &history).unwrap().place.seq, Seq(40));
    // The first day: nothing exists before its first moment, which is its only one.
    assert_eq!(resolve("2026-11-01", &history).unwrap().place.seq, Seq(10));
}

#[test]
fn a_day_alone_is_its_start_or_its_end_where_that_is_meant() {
    let history = november();
    for (text, start, end) in
        [("yesterday", 70, 100), ("2026-11-22", 40, 60), ("today", 100, 140), ("15:04", 90, 90)]
    {
        let seq = |day| parsed(text).resolve_day(&history, &noon(), day).unwrap().place.seq;
        assert_eq!((seq(WholeDay::Start), seq(WholeDay::End)), (Seq(start), Seq(end)), "{text:?}");
    }
}

/// 10:00, 11:00, 12:00, then the clock is set back: 10:30, 11:30.
fn set_back() -> Listed {
    Listed::of([
        ("2026-11-25T10:00:00+09:00", Some(Event::new(Kind::Boot, "first"))),
        ("2026-11-25T11:00:00+09:00", None),
        ("2026-11-25T12:00:00+09:00", None),
        ("2026-11-25T10:30:00+09:00", Some(Event::new(Kind::Boot, "second"))),
        ("2026-11-25T11:30:00+09:00", None),
    ])
}

#[test]
fn a_time_that_the_logs_clock_passed_twice_is_ambiguous() {
    let history = set_back();
    let error = refused("11:15", &history);
    assert!(matches!(error, ResolveError::Ambiguous { why: Ambiguity::LogClock, .. }));
    assert_eq!(candidates(&error), [40, 20]);
    assert_eq!(candidates(&refused("12:00", &history)), [50, 30]);
    assert_eq!(resolve("10:15", &history).unwrap().place.seq, Seq(10));
    assert!(matches!(refused("09:59", &history), ResolveError::BeforeHistory { .. }));
}

#[test]
fn a_bound_that_is_ambiguous_is_not_when_its_readings_agree() {
    let history = set_back();
    assert_eq!(resolve("last boot before 10:15", &history).unwrap().place.seq, Seq(10));
    let error = refused("last boot before 11:15", &history);
    assert!(matches!(error, ResolveError::Ambiguous { why: Ambiguity::LogClock, .. }));
    assert_eq!(candidates(&error), [40, 10]);
    let quiet = Listed { log: history.log.into_iter().take(3).collect(), ..Listed::default() };
    assert_eq!(resolve("last boot before 11:15", &quiet).unwrap().place.seq, Seq(10));
}

#[test]
fn a_time_that_only_a_wrong_clock_recorded_is_no_future() {
    let history = Listed::of_times([
        "2026-11-25T10:00:00+09:00",
        "2027-01-01T00:00:00+09:00",
        "2026-11-25T11:00:00+09:00",
    ]);
    assert_eq!(resolve("2027-01-01 00:00", &history).unwrap().place.seq, Seq(20));
    assert_eq!(resolve("2026-12-24 00:00", &history).unwrap().place.seq, Seq(10));
    assert!(matches!(refused("2027-01-01 00:01", &history), ResolveError::Future { .. }));
}

#[test]
fn a_label_does_not_steer_the_terminal() {
    let history = Listed::of([("2026-11-20T08:00:00+09:00", Some(Event::new(Kind::Boot, "\u{1b}[2J")))]);
    assert!(!resolve("last boot", &history).unwrap().how.contains('\u{1b}'));
    assert!(!refused("last panic", &history).candidates()[0].label.contains('\u{1b}'));
}

#[test]
fn an_error_carries_few_candidates_whatever_the_history_holds() {
    let times: Vec<String> =
        (0..40).map(|n| format!("2026-11-20T08:{:02}:00+09:00", if n % 2 == 0 { 40 } else { 20 })).collect();
    let mut history = Listed::of_times(times.iter().map(String::as_str));
    let head = mark(400, "2026-11-20T08:20:00+09:00");
    history.branches = (0..40).map(|n| (format!("b{n}"), head)).collect();
    assert_eq!(refused("2026-11-20 08:30", &history).candidates().len(), 8);
    assert_eq!(refused("branch:x", &history).candidates().len(), 8);
}

#[test]
fn the_zone_of_now_is_the_zone_of_the_text() {
    let history = november();
    let berlin = now_in("2026-11-25T03:00:00Z", jiff::tz::TimeZone::posix("CET-1").unwrap());
    let found = parsed("2026-11-22 07:04:05").resolve(&history, &berlin).unwrap();
    assert_eq!(found.place.seq, Seq(60));
    let found = parsed("2026-11-22 15:04:05").resolve(&history, &now_in("2026-11-25T03:00:00Z", tokyo()));
    assert_eq!(found.unwrap().place.seq, Seq(60));
}

use super::{at, new_york, noon, now_in};
use crate::{
    Micros,
    when::{Span, Unit, describe, parse_duration},
};

#[test]
fn a_time_is_told_in_the_words_people_use() {
    for (time, words) in [
        ("2026-11-25T12:00:00+09:00", "now"),
        ("2026-11-25T11:59:59.5+09:00", "now"),
        ("2026-11-25T11:59:59+09:00", "1 second ago"),
        ("2026-11-25T11:59:20+09:00", "40 seconds ago"),
        ("2026-11-25T11:59:00+09:00", "1 minute ago"),
        ("2026-11-25T11:00:01+09:00", "59 minutes ago"),
        ("2026-11-25T11:00:00+09:00", "today 11:00"),
        ("2026-11-25T00:00:00+09:00", "today 00:00"),
        ("2026-11-24T23:59:59+09:00", "yesterday 23:59"),
        ("2026-11-24T14:59:00+09:00", "yesterday 14:59"),
        ("2026-11-22T15:00:00+09:00", "3 days ago 15:00"),
        ("2026-11-19T00:00:00+09:00", "6 days ago 00:00"),
        ("2026-11-18T23:59:00+09:00", "2026-11-18 23:59"),
        ("1999-12-31T23:59:00+09:00", "1999-12-31 23:59"),
        ("2026-11-25T12:00:00.2+09:00", "2026-11-25 12:00"),
        ("2026-11-26T12:00:00+09:00", "2026-11-26 12:00"),
    ] {
        assert_eq!(describe(at(time), &noon()), words, "{time}");
    }
}

#[test]
fn a_time_that_the_clock_showed_twice_is_told_with_its_offset() {
    let now = now_in("2026-11-02T09:00:00-05:00", new_york());
    assert_eq!(describe(at("2026-11-01T01:30:59-04:00"), &now), "2026-11-01T01:30:59-04:00");
    assert_eq!(describe(at("2026-11-01T01:30:00-05:00"), &now), "2026-11-01T01:30:00-05:00");
    assert_eq!(describe(at("2026-11-01T02:30:00-05:00"), &now), "yesterday 02:30");
}

#[test]
fn a_time_beyond_the_calendar_is_told_too() {
    assert_eq!(describe(Micros::MAX, &noon()), "9999-12-31 07:00");
    assert!(!describe(Micros(i64::MIN), &noon()).is_empty());
}

#[test]
fn a_hold_ends_by_the_calendar() {
    let now = now_in("2026-10-31T09:00:00-04:00", new_york());
    assert_eq!(parse_duration("1 day").unwrap().after(&now), at("2026-11-01T09:00:00-05:00"));
    assert_eq!(parse_duration("24h").unwrap().after(&now), at("2026-11-01T08:00:00-05:00"));
    assert_eq!(parse_duration("1 month").unwrap().before(&now), at("2026-09-30T09:00:00-04:00"));
    for unit in [Unit::Second, Unit::Minute, Unit::Hour, Unit::Day, Unit::Week, Unit::Month, Unit::Year] {
        let span = Span { count: u32::MAX, unit };
        assert!(
            span.before(&now) < at("1900-01-01T00:00:00Z") && span.after(&now) > at("2100-01-01T00:00:00Z")
        );
    }
}

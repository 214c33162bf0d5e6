//! Converts wall-clock times to instants.
//!
//! A wall-clock time is one instant, or two where clocks go back. A time that clocks skip as they go forward stands for
//! the last instant before the skip, which is the nearest one at or before it.

use jiff::{
    Timestamp, Zoned,
    civil::{Date, DateTime, Time},
    tz::{AmbiguousOffset, TimeZone},
};

use super::{Day, Span, When};

/// The instants at which a clock shows a given time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Instants {
    /// One, or two in order.
    pub(super) all: Vec<Timestamp>,
    /// The clock skipped the time; the instant is the last one before the skip.
    pub(super) skipped: bool,
}

impl Instants {
    fn one(at: Timestamp) -> Instants {
        Instants { all: vec![at], skipped: false }
    }

    /// Without those after `now`.
    fn past(mut self, now: &Zoned) -> Instants {
        self.all.retain(|at| *at <= now.timestamp());
        self
    }
}

impl When {
    /// The instants that calendar and clock alone determine; `None` if the history has to be queried, and for a day
    /// without a time. Never empty.
    pub(super) fn instants(&self, now: &Zoned) -> Option<Instants> {
        let zone = now.time_zone();
        Some(match *self {
            When::Instant(at) => Instants::one(at),
            When::Clock(time) => latest(now, time, [0, 1, 2]),
            When::Ago { span, at: None } => Instants::one(span.instant_before(now)),
            When::Ago { span, at: Some(time) } => match days_before(now, span) {
                Some(date) => shown(date.to_datetime(time), zone),
                None => Instants::one(Timestamp::MIN),
            },
            When::Day { day: Day::Weekday(weekday), at: Some(time) } => {
                let back = i64::from(weekday.until(now.date().weekday()));
                latest(now, time, [back, back + 7, back + 14])
            }
            When::Day { day, at: Some(time) } => shown(date_of(day, now).to_datetime(time), zone),
            _ => return None,
        })
    }

    /// The first and the last instant of a day without a time.
    pub(super) fn whole_day(&self, now: &Zoned) -> Option<(Timestamp, Timestamp)> {
        let When::Day { day, at: None } = *self else { return None };
        let date = date_of(day, now);
        let start = start_of_day(date, now.time_zone());
        let end = match date.tomorrow() {
            Ok(next) => just_before(start_of_day(next, now.time_zone())),
            Err(_) => Timestamp::MAX,
        };
        Some((start, end.max(start)))
    }
}

/// The last microsecond before.
pub(super) fn just_before(at: Timestamp) -> Timestamp {
    at.saturating_sub(jiff::SignedDuration::from_micros(1)).unwrap_or(Timestamp::MIN)
}

/// The date of a day; for a weekday its last occurrence, today included.
fn date_of(day: Day, now: &Zoned) -> Date {
    let today = now.date();
    let back = match day {
        Day::Date(date) => return date,
        Day::Today => 0,
        Day::Yesterday => 1,
        Day::Weekday(weekday) => i64::from(weekday.until(today.weekday())),
    };
    back_from(today, back)
}

fn back_from(today: Date, days: i64) -> Date {
    today.saturating_sub(jiff::SignedDuration::from_hours(24 * days))
}

/// Today minus a span of days or more; `None` if that is outside the calendar.
fn days_before(now: &Zoned, span: Span) -> Option<Date> {
    now.date().checked_add(span.signed(-1)?).ok()
}

/// The latest of the given days on which the wall clock has shown `time`, and when it did.
fn latest(now: &Zoned, time: Time, days_back: [i64; 3]) -> Instants {
    let on = |back| shown(back_from(now.date(), back).to_datetime(time), now.time_zone());
    days_back
        .into_iter()
        .map(|back| on(back).past(now))
        .find(|instants| !instants.all.is_empty())
        .unwrap_or_else(|| Instants::one(Timestamp::MIN))
}

/// When the clock of a zone shows a time.
fn shown(wall: DateTime, zone: &TimeZone) -> Instants {
    let edge = if wall.year() > 0 { Timestamp::MAX } else { Timestamp::MIN };
    let at = |offset: jiff::tz::Offset| offset.to_timestamp(wall).unwrap_or(edge);
    match zone.to_ambiguous_timestamp(wall).offset() {
        AmbiguousOffset::Unambiguous { offset } => Instants::one(at(offset)),
        AmbiguousOffset::Fold { before, after } => {
            Instants { all: vec![at(before), at(after)], skipped: false }
        }
        AmbiguousOffset::Gap { before, after } => {
            let jump = transition(at(after), at(before), zone);
            Instants { all: vec![just_before(jump)], skipped: true }
        }
    }
}

/// The first instant of a day.
fn start_of_day(date: Date, zone: &TimeZone) -> Timestamp {
    let wall = date.to_datetime(Time::midnight());
    match zone.to_ambiguous_timestamp(wall).offset() {
        AmbiguousOffset::Gap { before, after } => {
            let at = |offset: jiff::tz::Offset| offset.to_timestamp(wall).unwrap_or(Timestamp::MAX);
            transition(at(after), at(before), zone)
        }
        _ => shown(wall, zone).all.first().copied().unwrap_or(Timestamp::MAX),
    }
}

/// The instant at which clocks went forward, which is after `low` and not after `high`.
fn transition(low: Timestamp, high: Timestamp, zone: &TimeZone) -> Timestamp {
    zone.following(low).next().map_or(high, |jump| jump.timestamp().min(high))
}

//! Spans of time: `3 days`, `30d`, `an hour`.

use std::{fmt, str::FromStr, time::Duration};

use jiff::{Timestamp, Zoned};

use super::{MAX_TEXT_BYTES, ParseError, clock, parse::Words};
use crate::Micros;

/// A unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// `s`, `sec`, `second`.
    Second,
    /// `m`, `min`, `minute`.
    Minute,
    /// `h`, `hr`, `hour`.
    Hour,
    /// `d`, `day`: a calendar day, which has 23 or 25 hours when clocks change.
    Day,
    /// `w`, `wk`, `week`.
    Week,
    /// `mo`, `month`: a calendar month; the day is clamped to the length of the month.
    Month,
    /// `y`, `yr`, `year`.
    Year,
}

impl Unit {
    const WORDS: [(Unit, &'static [&'static str]); 7] = [
        (Unit::Second, &["second", "seconds", "s", "sec", "secs"]),
        (Unit::Minute, &["minute", "minutes", "m", "min", "mins"]),
        (Unit::Hour, &["hour", "hours", "h", "hr", "hrs"]),
        (Unit::Day, &["day", "days", "d"]),
        (Unit::Week, &["week", "weeks", "w", "wk", "wks"]),
        (Unit::Month, &["month", "months", "mo", "mos"]),
        (Unit::Year, &["year", "years", "y", "yr", "yrs"]),
    ];

    /// The canonical word, in the singular.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Unit::Second => "second",
            Unit::Minute => "minute",
            Unit::Hour => "hour",
            Unit::Day => "day",
            Unit::Week => "week",
            Unit::Month => "month",
            Unit::Year => "year",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<Unit> {
        Self::WORDS
            .iter()
            .find(|(_, words)| words.iter().any(|known| word.eq_ignore_ascii_case(known)))
            .map(|(unit, _)| *unit)
    }

    /// Its length without a calendar: a month has 30 days, a year 365.
    const fn seconds(self) -> u64 {
        const DAY: u64 = 24 * 60 * 60;
        match self {
            Unit::Second => 1,
            Unit::Minute => 60,
            Unit::Hour => 60 * 60,
            Unit::Day => DAY,
            Unit::Week => 7 * DAY,
            Unit::Month => 30 * DAY,
            Unit::Year => 365 * DAY,
        }
    }
}

/// A span of time in one unit, kept as it was given: three days are not 72 hours when clocks change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The number of units.
    pub count: u32,
    /// The unit.
    pub unit: Unit,
}

impl Span {
    /// Its length without a calendar: a day has 24 hours, a month 30 days, a year 365. Never
    /// overflows.
    #[must_use]
    pub fn to_duration(self) -> Duration {
        Duration::from_secs(u64::from(self.count).saturating_mul(self.unit.seconds()))
    }

    /// The time this long before `now` in the calendar of its zone, clamped to the calendar.
    #[must_use]
    pub fn before(self, now: &Zoned) -> Micros {
        clock::micros(self.instant_before(now))
    }

    /// The time this long after `now` in the calendar of its zone (the end of a hold, say), clamped to the calendar.
    #[must_use]
    pub fn after(self, now: &Zoned) -> Micros {
        clock::micros(self.shift(now, 1).unwrap_or(Timestamp::MAX))
    }

    pub(super) fn instant_before(self, now: &Zoned) -> Timestamp {
        self.shift(now, -1).unwrap_or(Timestamp::MIN)
    }

    fn shift(self, now: &Zoned, sign: i64) -> Option<Timestamp> {
        Some(now.checked_add(self.signed(sign)?).ok()?.timestamp())
    }

    /// The same as a `jiff` span; `None` if it is longer than the calendar.
    pub(super) fn signed(self, sign: i64) -> Option<jiff::Span> {
        let count = i64::from(self.count).checked_mul(sign)?;
        let zero = jiff::Span::new();
        match self.unit {
            Unit::Second => zero.try_seconds(count),
            Unit::Minute => zero.try_minutes(count),
            Unit::Hour => zero.try_hours(count),
            Unit::Day => zero.try_days(count),
            Unit::Week => zero.try_weeks(count),
            Unit::Month => zero.try_months(count),
            Unit::Year => zero.try_years(count),
        }
        .ok()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.count == 1 { "" } else { "s" };
        write!(f, "{} {}{plural}", self.count, self.unit.as_str())
    }
}

impl FromStr for Span {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Span, ParseError> {
        parse_duration(text)
    }
}

/// Parses a span of time as options take it (`--hold 30d`, `--for 10m`): `30d`, `2 weeks`, `12h`, `an hour`. One
/// number, one unit, not zero.
///
/// ```
/// use bygone_model::when::parse_duration;
///
/// let hold = parse_duration("2 weeks")?;
/// assert_eq!(hold.to_duration().as_secs(), 14 * 86_400);
/// assert_eq!(parse_duration("30d")?.to_string(), "30 days");
/// # Ok::<(), bygone_model::when::ParseError>(())
/// ```
///
/// # Errors
/// The text is empty, too long, zero, lacks a number or a known unit, or continues after the unit.
pub fn parse_duration(text: &str) -> Result<Span, ParseError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(ParseError::TooLong { len_bytes: text.len() });
    }
    let mut words = Words::new(text);
    if words.peek().is_none() {
        return Err(ParseError::Empty);
    }
    let span = words.span()?;
    words.end()?;
    if span.count == 0 { Err(ParseError::Zero) } else { Ok(span) }
}

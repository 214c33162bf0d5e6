//! Dates, times of day and offsets as text, and conversion between the log's time and `jiff`'s.

use jiff::{
    Timestamp,
    civil::{Date, Time},
    tz::Offset,
};

use super::{ParseError, Zone};
use crate::Micros;

/// The log's time for an instant, rounded down.
pub(super) fn micros(at: Timestamp) -> Micros {
    Micros(i64::try_from(at.as_nanosecond().div_euclid(1_000)).unwrap_or(i64::MAX))
}

/// The instant for a log's time, clamped to the calendar.
pub(super) fn instant(time: Micros) -> Timestamp {
    Timestamp::from_microsecond(time.0).unwrap_or(if time.0 < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// Reads digits from the front of a text.
struct Digits<'a> {
    rest: &'a str,
}

impl<'a> Digits<'a> {
    /// The next run of digits, if its length is in `min..=max`.
    fn run(&mut self, min: usize, max: usize) -> Option<&'a str> {
        let len = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        if !(min..=max).contains(&len) {
            return None;
        }
        let (digits, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(digits)
    }

    fn number<N: std::str::FromStr>(&mut self, min: usize, max: usize) -> Option<N> {
        self.run(min, max)?.parse().ok()
    }

    fn skip(&mut self, separator: char) -> Option<()> {
        self.rest = self.rest.strip_prefix(separator)?;
        Some(())
    }
}

/// Whether a word is meant as a date: four digits and a dash.
pub(super) fn looks_like_date(word: &str) -> bool {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    digits >= 1 && matches!(word.as_bytes().get(digits), Some(b'-' | b'/'))
}

/// Parses `YYYY-MM-DD` and returns what follows a joining `T`, which is empty for a date alone.
pub(super) fn date(word: &str) -> Result<(Date, &str), ParseError> {
    let read = || {
        let mut digits = Digits { rest: word };
        let year = digits.number(4, 4)?;
        digits.skip('-')?;
        let month = digits.number(2, 2)?;
        digits.skip('-')?;
        let day = digits.number(2, 2)?;
        let date = Date::new(year, month, day).ok()?;
        if digits.rest.is_empty() {
            return Some((date, ""));
        }
        let clock = digits.rest.strip_prefix(['T', 't'])?;
        if clock.is_empty() { None } else { Some((date, clock)) }
    };
    read().ok_or_else(|| ParseError::BadDate { word: word.into() })
}

/// Parses `H:MM[:SS[.fraction]]` and returns what follows.
pub(super) fn time(word: &str) -> Result<(Time, &str), ParseError> {
    let read = || {
        let mut digits = Digits { rest: word };
        let hour = digits.number(1, 2)?;
        digits.skip(':')?;
        let minute = digits.number(2, 2)?;
        let (mut second, mut nanosecond) = (0, 0);
        if digits.skip(':').is_some() {
            second = digits.number(2, 2)?;
            if digits.skip('.').or_else(|| digits.skip(',')).is_some() {
                let fraction = digits.run(1, 9)?;
                nanosecond = format!("{fraction:0<9}").parse().ok()?;
            }
        }
        Some((Time::new(hour, minute, second, nanosecond).ok()?, digits.rest))
    };
    read().ok_or_else(|| ParseError::BadTime { word: word.into() })
}

/// Parses `Z`, `UTC`, `GMT`, `±HH`, `±HHMM`, `±HH:MM`, or an IANA name with a slash.
pub(super) fn zone(word: &str) -> Result<Zone, ParseError> {
    if !word.starts_with(['+', '-']) && word.contains('/') {
        let plain = |c: char| c.is_ascii_alphanumeric() || "/_+-".contains(c);
        let named = word.chars().all(plain).then(|| Zone::Named(word.to_owned()));
        return named.ok_or_else(|| ParseError::BadOffset { word: word.into() });
    }
    offset(word).map(Zone::Fixed)
}

fn offset(word: &str) -> Result<Offset, ParseError> {
    let read = || {
        if ["z", "utc", "gmt"].iter().any(|known| word.eq_ignore_ascii_case(known)) {
            return Some(Offset::UTC);
        }
        let (sign, rest) = match word.strip_prefix('-') {
            Some(rest) => (-1, rest),
            None => (1, word.strip_prefix('+')?),
        };
        let (hours, minutes) = match rest.split_once(':') {
            Some(parts) => parts,
            None => rest.split_at_checked(2)?,
        };
        let hours: i32 = Digits { rest: hours }.number(2, 2).filter(|_| hours.len() == 2)?;
        let minutes: i32 = match minutes {
            "" if !rest.contains(':') => 0,
            _ => Digits { rest: minutes }.number(2, 2).filter(|_| minutes.len() == 2)?,
        };
        if hours > 23 || minutes > 59 {
            return None;
        }
        Offset::from_seconds(sign * (hours * 3_600 + minutes * 60)).ok()
    };
    read().ok_or_else(|| ParseError::BadOffset { word: word.into() })
}

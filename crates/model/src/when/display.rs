//! Formats every value of the grammar as its canonical text.

use std::fmt;

use jiff::{
    civil::{Time, Weekday},
    tz::Offset,
};

use super::{Day, What, When, Zone};
use crate::Grade;

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            When::Now => f.write_str("now"),
            When::Seq(seq) => write!(f, "seq:{seq}"),
            When::Instant(at) => write!(f, "{at}"),
            When::Clock(time) => write_clock(f, *time),
            When::Ago { span, at } => {
                write!(f, "{span} ago")?;
                write_at(f, *at)
            }
            When::Day { day, at } => {
                write!(f, "{day}")?;
                write_at(f, *at)
            }
            When::Last { what: what @ What::Change { .. }, before } => {
                write!(f, "before {what}")?;
                write_before(f, before.as_deref())
            }
            When::First { what: what @ What::Change { .. }, before } => {
                write!(f, "before first {what}")?;
                write_before(f, before.as_deref())
            }
            When::Last { what, before } => {
                write!(f, "last {what}")?;
                write_before(f, before.as_deref())
            }
            When::First { what, before } => {
                write!(f, "first {what}")?;
                write_before(f, before.as_deref())
            }
            When::Point(label) => write!(f, "point:{label}"),
            When::On { branch, when } if **when == When::Now => write!(f, "branch:{branch}"),
            When::On { branch, when } => write!(f, "{branch}@{when}"),
            When::In { zone, when } => write!(f, "{when} {zone}"),
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Zone::Fixed(Offset::UTC) => f.write_str("UTC"),
            Zone::Fixed(offset) => {
                let minutes = offset.seconds() / 60;
                let sign = if minutes < 0 { '-' } else { '+' };
                write!(f, "{sign}{:02}:{:02}", minutes.abs() / 60, minutes.abs() % 60)
            }
            Zone::Named(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Day::Date(date) => write!(f, "{date}"),
            Day::Today => f.write_str("today"),
            Day::Yesterday => f.write_str("yesterday"),
            Day::Weekday(weekday) => f.write_str(match weekday {
                Weekday::Monday => "monday",
                Weekday::Tuesday => "tuesday",
                Weekday::Wednesday => "wednesday",
                Weekday::Thursday => "thursday",
                Weekday::Friday => "friday",
                Weekday::Saturday => "saturday",
                Weekday::Sunday => "sunday",
            }),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Kind(kind) => write!(f, "{kind}"),
            What::Graded(Grade::Crash) => f.write_str("moment"),
            What::Graded(grade) => write!(f, "{grade}"),
            What::Change { change, package: None } => f.write_str(change.as_str()),
            What::Change { change, package: Some(package) } => write!(f, "{} {package}", change.as_str()),
        }
    }
}

/// The `before` bound of an event. A change writes `before` itself.
fn write_before(f: &mut fmt::Formatter<'_>, before: Option<&When>) -> fmt::Result {
    match before {
        None => Ok(()),
        Some(
            when @ (When::Last { what: What::Change { .. }, .. }
            | When::First { what: What::Change { .. }, .. }),
        ) => {
            write!(f, " {when}")
        }
        Some(when) => write!(f, " before {when}"),
    }
}

fn write_at(f: &mut fmt::Formatter<'_>, at: Option<Time>) -> fmt::Result {
    let Some(time) = at else { return Ok(()) };
    f.write_str(" ")?;
    write_clock(f, time)
}

/// `15:04`, with seconds and their fraction if they are not zero.
fn write_clock(f: &mut fmt::Formatter<'_>, time: Time) -> fmt::Result {
    write!(f, "{:02}:{:02}", time.hour(), time.minute())?;
    if time.second() != 0 || time.subsec_nanosecond() != 0 {
        write!(f, ":{:02}", time.second())?;
    }
    if time.subsec_nanosecond() != 0 {
        let fraction = format!("{:09}", time.subsec_nanosecond());
        write!(f, ".{}", fraction.trim_end_matches('0'))?;
    }
    Ok(())
}

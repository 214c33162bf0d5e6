//! Formats a time in the words in which people name it.

use jiff::{RoundMode, Timestamp, TimestampRound, Unit, Zoned, tz::AmbiguousOffset};

use super::clock;
use crate::Micros;

/// A time this many days ago, or more, is shown with its date.
const DAYS_BY_DATE: i32 = 7;

/// Formats a time in words: `now`, `40 seconds ago`, `3 minutes ago`, `today 09:10`, `yesterday 14:59`, `3 days ago
/// 15:00`, `2026-11-22 15:04`.
///
/// The text is in the grammar of moments. For the same `now`, and for times from year 1 on, it names a time that
/// differs from `time` by less than a second (`now`, seconds) or a minute (all others). It is rounded down, so a time
/// of day has no seconds. Where the wall clock alone would be ambiguous the offset is included:
/// `2026-11-01T01:30:00-04:00`.
///
/// ```
/// use bygone_model::{Micros, when::describe};
/// use jiff::{Timestamp, tz::TimeZone};
///
/// let now = "2026-11-25T12:00:00+09:00".parse::<Timestamp>()?.to_zoned(TimeZone::posix("JST-9")?);
/// let ago = |seconds: i64| Micros((now.timestamp().as_second() - seconds) * 1_000_000);
/// assert_eq!(describe(ago(200), &now), "3 minutes ago");
/// assert_eq!(describe(ago(86_400), &now), "yesterday 12:00");
/// assert_eq!(describe(ago(3 * 86_400), &now), "3 days ago 12:00");
/// # Ok::<(), jiff::Error>(())
/// ```
#[must_use]
pub fn describe(time: Micros, now: &Zoned) -> String {
    let then = clock::instant(time);
    let elapsed_seconds = now.timestamp().duration_since(then).as_secs();
    let future = then > now.timestamp();
    match elapsed_seconds {
        0 if !future => return "now".to_owned(),
        1..60 => return ago(elapsed_seconds, "second"),
        60..3_600 => return ago(elapsed_seconds / 60, "minute"),
        _ => {}
    }
    let there = then.to_zoned(now.time_zone().clone());
    let wall = there.strftime("%H:%M");
    let minute = there.datetime().with().second(0).subsec_nanosecond(0).build();
    let shown = minute.map(|minute| now.time_zone().to_ambiguous_timestamp(minute).offset());
    if !matches!(shown, Ok(AmbiguousOffset::Unambiguous { offset }) if offset == there.offset()) {
        return with_offset(then, &there);
    }
    let days = now.date().since(there.date()).map_or(DAYS_BY_DATE, |span| span.get_days());
    match days {
        0 if !future => format!("today {wall}"),
        1 => format!("yesterday {wall}"),
        2..DAYS_BY_DATE => format!("{days} days ago {wall}"),
        _ => format!("{} {wall}", there.date()),
    }
}

fn ago(count: i64, unit: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural} ago")
}

/// In RFC 3339, to the second; in UTC if the offset is not a whole number of minutes.
fn with_offset(then: Timestamp, there: &Zoned) -> String {
    let second = TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Floor);
    let second = then.round(second).unwrap_or(then);
    if there.offset().seconds() % 60 == 0 {
        second.display_with_offset(there.offset()).to_string()
    } else {
        second.to_string()
    }
}

//! The grammar of moments: how people name a position in a target's log, and how positions are shown to people.
//!
//! Invariants:
//! - Pure. "Now" and the time zone are parameters ([`jiff::Zoned`] carries both); the content of the log is queried
//!   through [`History`].
//! - No text panics, hangs or overflows: a text has at most [`MAX_TEXT_BYTES`], a number fits in 32 bits (a position in
//!   64), and a time outside the calendar is clamped to its edge, where it is refused as before the history or in the
//!   future.
//! - `Display` writes every parsed [`When`] in one canonical form that parses back to the same value.
//! - A text names the nearest moment *at or before* it, or is refused. It is ambiguous only if its readings lead to
//!   different moments.
//!
//! The grammar; keywords in any case, any white space between words:
//!
//! ```text
//! WHEN    := MOMENT | BRANCH@MOMENT | branch:BRANCH         (the last is short for BRANCH@now)
//! MOMENT  := now | [at] CLOCK [ZONE] | [on] DAY [[at] CLOCK [ZONE]] | SPAN ago [[at] CLOCK [ZONE]]
//!          | seq:NUMBER | point:LABEL
//!          | [the] last WHAT [before BOUND] | [the] first WHAT
//!          | before CHANGE
//! DAY     := DATE | today | yesterday | monday … sunday | mon … sun
//! DATE    := YYYY-MM-DD                 (a `T` may join it to its CLOCK)
//! CLOCK   := H:MM[:SS[.fraction]]       24 hours
//! ZONE    := Z | UTC | GMT | ±HH[[:]MM] | AREA/CITY     else the caller's zone
//! BRANCH  := NAME | id:NUMBER           no white space, no `@`; the number also names a dropped branch
//! SPAN    := (NUMBER | a | an | one … twelve) (seconds | minutes | hours | days | weeks | months | years)
//! WHAT    := boot | shutdown | … every kind | clean | stopped | flushed      (that grade or better)
//! BOUND   := WHEN | CHANGE
//! CHANGE  := [[the] (first | last)] (install | update | remove) [PACKAGE] [before BOUND]
//! ```
//!
//! `LABEL` runs to the end of the text. A `CLOCK` after `SPAN ago` needs days or more.
//!
//! Which line a text refers to:
//! - a time, a state word and `now` follow the *lived line*: the branch that was the target's present then;
//! - `seq:N` is the record's place on the branch that it was written on, whatever the present is;
//! - `point:LABEL` is a point on any line;
//! - `BRANCH@…` refers to that branch's own line, so `BRANCH@seq:N` can name every moment.

mod clock;
mod describe;
mod display;
mod error;
mod history;
mod parse;
mod resolve;
mod span;
mod wall;
mod what;

#[cfg(test)]
mod tests;

pub use describe::describe;
pub use error::{Ambiguity, Asked, Candidate, HistoryError, ParseError, ResolveError};
pub use history::{History, Line, Mark, TimeHit};
pub use resolve::{Resolved, WholeDay};
pub use span::{Span, Unit, parse_duration};
pub use what::{Change, What};

use jiff::{
    Timestamp,
    civil::{Date, Time, Weekday},
    tz::Offset,
};

use crate::Seq;

/// The longest text that is parsed as a moment or a span, in bytes.
pub const MAX_TEXT_BYTES: usize = 256;

/// The most candidates in an error.
pub const MAX_CANDIDATES: usize = 8;

/// A moment as a person names it, before it is looked up in a history.
///
/// ```
/// use bygone_model::when::When;
///
/// let when = When::parse("the LAST shutdown   before Tuesday")?;
/// assert_eq!(when.to_string(), "last shutdown before tuesday");
/// assert_eq!(When::parse("90s ago")?.to_string(), "90 seconds ago");
/// # Ok::<(), bygone_model::when::ParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum When {
    /// `now`: the head of the history.
    Now,
    /// `seq:12345`: a position in the log.
    Seq(Seq),
    /// `2026-11-22T15:04:05+09:00`: RFC 3339, independent of the time zone.
    Instant(Timestamp),
    /// `15:04`: the last time the wall clock showed this.
    Clock(Time),
    /// `3 days ago`, `3 days ago 15:00`.
    Ago {
        /// How far back from now.
        span: Span,
        /// The time of that day; only with [units](Unit) of days or more.
        at: Option<Time>,
    },
    /// `yesterday 14:59`, `tuesday 10:00`, `2026-11-22 15:04`, or a day alone.
    Day {
        /// The day.
        day: Day,
        /// The time. A day without a time names a moment only where its start or its end is meant: see [`WholeDay`].
        at: Option<Time>,
    },
    /// `last shutdown`, `last clean before tuesday`, `before install nginx`.
    Last {
        /// The requested event.
        what: What,
        /// Only events before this; for a day without a time, before its start.
        before: Option<Box<When>>,
    },
    /// `first boot`, `before first install nginx`.
    First {
        /// The requested event.
        what: What,
        /// Only events before this; the parser sets it for a [`What::Change`] only.
        before: Option<Box<When>>,
    },
    /// `point:LABEL`: the point with that label. Not empty, no white space at its ends.
    Point(String),
    /// `B@WHEN`, or `branch:B` for `B@now`: a moment of that branch's line.
    On {
        /// The branch. Not empty, no white space, no `@`.
        branch: String,
        /// The moment on it; never another [`When::On`].
        when: Box<When>,
    },
    /// `22:44 UTC`, `yesterday 15:00 Europe/Berlin`: the calendar and clock of another zone.
    In {
        /// The zone.
        zone: Zone,
        /// A moment that ends in a time of day.
        when: Box<When>,
    },
}

/// A time zone as a person names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Zone {
    /// `UTC`, `+09:00`.
    Fixed(Offset),
    /// `Europe/Berlin`.
    Named(String),
}

/// A day as a person names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Day {
    /// `2026-11-22`.
    Date(Date),
    /// The current day.
    Today,
    /// The day before the current one.
    Yesterday,
    /// The last day of this name; today counts if the requested time of day has passed.
    Weekday(Weekday),
}

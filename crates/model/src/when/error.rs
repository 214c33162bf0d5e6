//! Why a text does not name a moment, and what to do about it. Every error has a hint; an error of resolution also has
//! the nearest candidates.

use std::fmt;

use jiff::{Timestamp, Zoned, tz::Offset};
use thiserror::Error;

use super::{What, clock, describe};
use crate::{Micros, Place, Seq};

/// Why a text is not in the grammar of moments. The remedy is always to fix the text.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub enum ParseError {
    /// Only white space.
    #[error("the moment is empty")]
    Empty,
    /// Longer than [`MAX_TEXT_BYTES`](super::MAX_TEXT_BYTES).
    #[error("{len_bytes} bytes are too long for a moment")]
    TooLong {
        /// The length of the text, or of its canonical form.
        len_bytes: usize,
    },
    /// The text is incomplete.
    #[error("the moment ends too early")]
    Unfinished,
    /// The moment is complete, but the text goes on.
    #[error("{word:?} is left over after the moment")]
    Trailing { word: Box<str> },
    /// No moment begins with this word.
    #[error("{word:?} does not begin a moment")]
    UnknownWord { word: Box<str> },
    /// After `last` or `first`: no such kind of event.
    #[error("{word:?} is no kind of event")]
    UnknownKind { word: Box<str> },
    /// After `before`: no such change.
    #[error("{word:?} is no change of software")]
    UnknownChange { word: Box<str> },
    /// A span without a number.
    #[error("{word:?} is no number")]
    NoNumber { word: Box<str> },
    /// A number that does not fit in 32 bits.
    #[error("the number is too large")]
    NumberTooLarge,
    /// A number without a unit.
    #[error("the number has no unit")]
    NoUnit,
    /// Not a unit of time.
    #[error("{word:?} is no unit of time")]
    UnknownUnit { word: Box<str> },
    /// A span without `ago`.
    #[error("a span of time alone is no moment")]
    NoAgo,
    /// A span of zero where that is not allowed.
    #[error("the span of time is zero")]
    Zero,
    /// A time of day after `hours ago`.
    #[error("a time of day goes with days, not with shorter units")]
    ClockWithoutDay,
    /// Not in the form of a date, or not in the calendar.
    #[error("{word:?} is no date")]
    BadDate { word: Box<str> },
    /// Not in the form of a time of day, or out of range.
    #[error("{word:?} is no time of day")]
    BadTime { word: Box<str> },
    /// Not in the form of an offset from UTC.
    #[error("{word:?} is no offset from UTC")]
    BadOffset { word: Box<str> },
    /// After `seq:`: not a position.
    #[error("{word:?} is no position in the log")]
    BadSeq { word: Box<str> },
    /// `point:`, `branch:` or `@` without a name.
    #[error("the name is missing")]
    NoName,
    /// A moment of a branch of a branch.
    #[error("a moment is on one branch, and two are named")]
    BranchTwice,
}

impl ParseError {
    /// A hint: what to write instead.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            ParseError::Empty | ParseError::Unfinished | ParseError::UnknownWord { .. } => {
                "a moment is written like `now`, `15:04`, `3 days ago 15:00`, `yesterday 14:59`, \
                 `2026-11-22 15:04`, `last shutdown before tuesday`, `point:LABEL`, \
                 `seq:12345`, `branch:NAME` or `BRANCH@yesterday 14:59`"
            }
            ParseError::TooLong { .. } => "a moment has at most 256 bytes; `seq:12345` is the shortest name",
            ParseError::Trailing { .. } => "leave it out; a label with spaces is written `point:LABEL`",
            ParseError::UnknownKind { .. } => {
                "after `last` or `first` write boot, shutdown, reset, panic, point, gap, base, branch or manager, \
                 or the grade flushed, clean or stopped (every moment is at least of grade crash); a day of the week is the last one without saying so: \
                 `tuesday 10:00`"
            }
            ParseError::UnknownChange { .. } => {
                "after `before` alone stands `install`, `update` or `remove` and a name, which nothing notices by \
                 itself yet; for other events `last shutdown before tuesday`"
            }
            ParseError::NoNumber { .. } => "write a number and a unit, such as `30d`, `2 weeks` or `an hour`",
            ParseError::NumberTooLarge => "numbers go up to 4294967295",
            ParseError::NoUnit | ParseError::UnknownUnit { .. } => {
                "units are seconds (s), minutes (m), hours (h), days (d), weeks (w), months (mo) and years (y); \
                 one number and one unit"
            }
            ParseError::NoAgo => "write `ago` after it: `3 days ago`",
            ParseError::Zero => "write one that is longer, such as `30d`",
            ParseError::ClockWithoutDay => "write `3 hours ago`, or a day with the time: `yesterday 15:00`",
            ParseError::BadDate { .. } => "a date is written year-month-day: `2026-11-22`",
            ParseError::BadTime { .. } => {
                "a time of day is written with 24 hours: `15:04`, `15:04:05` or `15:04:05.123`"
            }
            ParseError::BadOffset { .. } => {
                "a time zone is written `UTC`, `+09:00`, `-05:00` or `Europe/Berlin`"
            }
            ParseError::BadSeq { .. } => "write a number: `seq:12345`; `bygone timeline` lists them",
            ParseError::NoName => "write it, such as `point:before-upgrade`, `branch:main` or `try-1@15:04`",
            ParseError::BranchTwice => "write `BRANCH@WHEN` with one branch: `try-1@last shutdown`",
        }
    }
}

/// A moment that the user may have meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The branch and position.
    pub place: Place,
    /// The time.
    pub time: Micros,
    /// A text that names it unambiguously.
    pub name: String,
    /// A description, to choose by.
    pub label: String,
}

impl Candidate {
    /// One line for people: `seq:120, yesterday 14:59, shutdown: powered off`.
    #[must_use]
    pub fn describe(&self, now: &Zoned) -> String {
        format!("{}, {}, {}", self.name, describe(self.time, now), self.label)
    }
}

/// A requested time, with the offset of the zone in which it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The time.
    pub at: Timestamp,
    /// The offset of that zone from UTC at that time.
    pub offset: Offset,
}

impl Asked {
    pub(super) fn new(at: Timestamp, now: &Zoned) -> Asked {
        // Microseconds are the resolution of the log.
        let at = clock::instant(clock::micros(at));
        Asked { at, offset: now.time_zone().to_offset(at) }
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.at.display_with_offset(self.offset))
    }
}

/// Why several moments fit one text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguity {
    /// Daylight saving time ended: the wall clock showed this time twice.
    WallClock,
    /// The log's clock was set back, so it passed this time more than once.
    LogClock,
    /// Several points have this label.
    Label,
    /// A day without a time has many moments.
    WholeDay,
}

/// The error of an implementation of [`History`](super::History).
pub type HistoryError = Box<dyn std::error::Error + Send + Sync>;

/// Why a moment is not in a history.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The history has no moment at all.
    #[error("the history is empty")]
    Empty,
    /// The time lies before the first moment.
    #[error("{asked} is before the history begins")]
    BeforeHistory {
        /// The requested time.
        asked: Asked,
        /// The first moment.
        candidates: Vec<Candidate>,
    },
    /// The time is in the future.
    #[error("{asked} is in the future")]
    Future {
        /// The requested time.
        asked: Asked,
        /// The last moment.
        candidates: Vec<Candidate>,
    },
    /// The position is not in the history: it is beyond the head, or before the first kept moment.
    #[error("the history has no moment {asked}")]
    NoSuchSeq {
        /// The requested position.
        asked: Seq,
        /// The nearer end of the history.
        candidates: Vec<Candidate>,
    },
    /// There is no such event, or none before the bound.
    #[error("the history has no such event: {what}")]
    NoSuchEvent {
        /// The requested event.
        what: What,
        /// Other events nearby.
        candidates: Vec<Candidate>,
    },
    /// No point has this label.
    #[error("no point is labelled {label:?}")]
    UnknownPoint {
        /// The requested label.
        label: Box<str>,
        /// The newest points.
        candidates: Vec<Candidate>,
    },
    /// The point with this label is not on the requested branch.
    #[error("point {label:?} is on branch {on}, and no moment of branch {asked}")]
    PointElsewhere {
        /// The requested label.
        label: Box<str>,
        /// The branch of the point.
        on: Box<str>,
        /// The requested branch.
        asked: Box<str>,
        /// The point.
        candidates: Vec<Candidate>,
    },
    /// No branch has this name.
    #[error("no branch is named {name:?}")]
    UnknownBranch {
        /// The requested name.
        name: Box<str>,
        /// The heads of the existing branches.
        candidates: Vec<Candidate>,
    },
    /// No time zone has this name.
    #[error("no time zone is named {name:?}")]
    UnknownZone {
        /// The requested name.
        name: Box<str>,
    },
    /// Several moments match.
    #[error("{}", match why {
        Ambiguity::WallClock => "clocks went back that day: the wall clock showed this time twice",
        Ambiguity::LogClock => "the log's clock was set back: it passed this time more than once",
        Ambiguity::Label => "several points have this label",
        Ambiguity::WholeDay => "a whole day is not one moment",
    })]
    Ambiguous {
        /// The kind of ambiguity.
        why: Ambiguity,
        /// The matching moments.
        candidates: Vec<Candidate>,
    },
    /// The history could not be read.
    #[error("the history could not be read")]
    History(#[source] HistoryError),
}

impl ResolveError {
    /// The moments that the user may have meant, the most likely one first; at most
    /// [`MAX_CANDIDATES`](super::MAX_CANDIDATES).
    #[must_use]
    pub fn candidates(&self) -> &[Candidate] {
        match self {
            ResolveError::BeforeHistory { candidates, .. }
            | ResolveError::Future { candidates, .. }
            | ResolveError::NoSuchSeq { candidates, .. }
            | ResolveError::NoSuchEvent { candidates, .. }
            | ResolveError::UnknownPoint { candidates, .. }
            | ResolveError::PointElsewhere { candidates, .. }
            | ResolveError::UnknownBranch { candidates, .. }
            | ResolveError::Ambiguous { candidates, .. } => candidates,
            ResolveError::Empty | ResolveError::UnknownZone { .. } | ResolveError::History(_) => &[],
        }
    }

    /// A hint: what to do instead.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            ResolveError::Empty => "nothing has been recorded yet; start the target under `bygone serve`",
            ResolveError::BeforeHistory { .. } => "choose a later moment; the first one is named below",
            ResolveError::Future { .. } => "the latest moment is `now`",
            ResolveError::NoSuchSeq { .. } => "`bygone points` lists the moments worth choosing from",
            ResolveError::NoSuchEvent { .. } => "`bygone timeline` lists the events there are",
            ResolveError::UnknownPoint { .. } => {
                "`bygone points` lists the labels; they are compared exactly"
            }
            ResolveError::PointElsewhere { .. } => {
                "leave the branch out: `point:LABEL` names it, whatever branch it is on"
            }
            ResolveError::UnknownBranch { .. } => {
                "`bygone branch list` lists the branches; a dropped one is named `id:` and its number"
            }
            ResolveError::UnknownZone { .. } => {
                "write an offset such as `+09:00`, `UTC`, or a name of the time zone database such as `Europe/Berlin`"
            }
            ResolveError::Ambiguous { why: Ambiguity::WallClock, .. } => {
                "write the offset as well, such as `2026-11-01 01:30 -04:00`, or choose one by the name it begins with"
            }
            ResolveError::Ambiguous { why: Ambiguity::WholeDay, .. } => {
                "write a time as well, such as `yesterday 14:59`"
            }
            ResolveError::Ambiguous { .. } => "choose one by the name it begins with",
            ResolveError::History(_) => "`bygone verify` checks the store",
        }
    }
}

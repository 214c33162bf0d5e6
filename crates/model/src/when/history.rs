//! What resolution needs to know about a history.

use jiff::tz::TimeZone;

use super::{HistoryError, What};
use crate::{BranchId, Micros, Moment, Place, Seq};

/// A moment and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The branch and position.
    pub place: Place,
    /// The time, by the clock of the log.
    pub time: Micros,
}

/// A moment at which the log's clock showed a time, or was about to pass it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeHit {
    /// The moment.
    pub mark: Mark,
    /// Its era: a number that increases each time the log's clock is set back.
    pub era: u32,
}

/// The line of history that a text refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Line {
    /// The branch that was the target's present at each time.
    Lived,
    /// A branch, preceded by the branches it descends from.
    Of(BranchId),
}

/// The history of a target: one log, and the lines that share it.
///
/// *Moments* are the positions that retention has kept, in the order of the log. Their times increase, except where the
/// log's clock was set back; there a new *era* begins.
///
/// Every method may fail with an error of the implementation.
pub trait History {
    /// The newest moment of a line; `None` while there is none.
    ///
    /// # Errors
    /// The history could not be read.
    fn head(&self, line: Line) -> Result<Option<Mark>, HistoryError>;

    /// The oldest moment of a line; `None` while there is none.
    ///
    /// # Errors
    /// The history could not be read.
    fn first(&self, line: Line) -> Result<Option<Mark>, HistoryError>;

    /// The nearest moment at or before a position, which must not be beyond the head. On a branch's line: as that line
    /// was then. On [`Line::Lived`]: on the line that the record was written on, whatever the present was.
    ///
    /// # Errors
    /// The history could not be read.
    fn at_seq(&self, line: Line, seq: Seq) -> Result<Option<Mark>, HistoryError>;

    /// The nearest moment of a line at or before a time, in every era in which the log's clock showed that time.
    ///
    /// That is: every moment `m` with `m.time <= time` for which one of these holds: the next moment is later than
    /// `time`; `m.time == time` and the next moment is in a new era; `m` is the head. Of several moments with the same
    /// time in one era only the last counts. The result is in the order of the log, and empty if and only if the time
    /// is before the whole history. If there are more than [`MAX_CANDIDATES`](super::MAX_CANDIDATES), the newest ones
    /// suffice.
    ///
    /// # Errors
    /// The history could not be read.
    fn at_time(&self, line: Line, time: Micros) -> Result<Vec<TimeHit>, HistoryError>;

    /// The last event of a line that [matches](What::matches) and has a position below `before`.
    ///
    /// # Errors
    /// The history could not be read.
    fn last_event(&self, line: Line, what: &What, before: Seq) -> Result<Option<Moment>, HistoryError>;

    /// The first event of a line that [matches](What::matches).
    ///
    /// # Errors
    /// The history could not be read.
    fn first_event(&self, line: Line, what: &What) -> Result<Option<Moment>, HistoryError>;

    /// The points with exactly this label on any line, the newest first; at most `limit`.
    ///
    /// # Errors
    /// The history could not be read.
    fn points(&self, label: &str, limit: usize) -> Result<Vec<Moment>, HistoryError>;

    /// The events of a line nearest to a position, the nearest first, for error messages; at most `limit`.
    ///
    /// # Errors
    /// The history could not be read.
    fn nearest(&self, line: Line, seq: Seq, limit: usize) -> Result<Vec<Moment>, HistoryError>;

    /// Whether a moment lies on a line.
    fn is_on(&self, line: Line, place: Place) -> bool;

    /// The branch that `name` refers to: the one with that name that was not dropped, or any branch by `id:NUMBER`.
    fn branch(&self, name: &str) -> Option<BranchId>;

    /// The target's branches, for error messages; at most `limit`.
    fn branches(&self, limit: usize) -> Vec<BranchId>;

    /// A name with which [`History::branch`] finds this branch.
    fn branch_name(&self, branch: BranchId) -> String;

    /// A text of the grammar that names exactly this moment, whatever happens to the target later.
    ///
    /// # Errors
    /// The history could not be read.
    fn name_of(&self, place: Place) -> Result<String, HistoryError>;

    /// A time zone by its IANA name; `None` if there is none.
    fn zone(&self, name: &str) -> Option<TimeZone>;
}

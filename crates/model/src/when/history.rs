//! What the grammar needs to know of a history.

use jiff::tz::TimeZone;

use super::{HistoryError, What};
use crate::{BranchId, Micros, Moment, Place, Seq};

/// A moment and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Where.
    pub place: Place,
    /// When, by the clock of the log.
    pub time: Micros,
}

/// A moment at which the log's clock was at, or was about to pass, a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeHit {
    /// The moment.
    pub mark: Mark,
    /// In which era it lies: a number that goes up each time the log's clock was set back.
    pub era: u32,
}

/// Which line of history a text speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Line {
    /// What the target's present was at each time: the branch that was the present then.
    Lived,
    /// A branch, and before its start the branches it comes from.
    Of(BranchId),
}

/// The history of a target: one log, and the lines that share it.
///
/// *Moments* are the positions that retention has kept, in the order of the log. Their times go up,
/// except where the log's clock was set back; there a new *era* begins.
///
/// Every method may fail with what the implementation fails with.
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

    /// The nearest moment at or before a position, which is not beyond the head. Of a branch's line: as that
    /// line was then. Of [`Line::Lived`]: on the line that the record was written on, whatever was the present.
    ///
    /// # Errors
    /// The history could not be read.
    fn at_seq(&self, line: Line, seq: Seq) -> Result<Option<Mark>, HistoryError>;

    /// The nearest moment of a line at or before a time, in every era in which the log's clock showed that time.
    ///
    /// That is: every moment `m` with `m.time <= time`, of which the next moment is later than `time`, or
    /// `m.time == time` with the next one in a new era, or which is the head. Of moments of the same
    /// time in one era only the last counts. In the order of the log; empty if and only if the time is
    /// before all of the history. Where there are more than
    /// [`MAX_CANDIDATES`](super::MAX_CANDIDATES), the newest ones are enough.
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

    /// The branch that a person means by `name`: the one of that name that was not dropped, or any one by `id:NUMBER`.
    fn branch(&self, name: &str) -> Option<BranchId>;

    /// The target's branches, for error messages; at most `limit`.
    fn branches(&self, limit: usize) -> Vec<BranchId>;

    /// What [`History::branch`] takes for this branch.
    fn branch_name(&self, branch: BranchId) -> String;

    /// A text of the grammar that means exactly this moment, whatever becomes of the target.
    ///
    /// # Errors
    /// The history could not be read.
    fn name_of(&self, place: Place) -> Result<String, HistoryError>;

    /// A time zone by its IANA name; `None` if there is none.
    fn zone(&self, name: &str) -> Option<TimeZone>;
}

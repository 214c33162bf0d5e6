//! What the grammar needs to know of a history.

use super::{HistoryError, What};
use crate::{Micros, Moment, Seq};

/// A position in the log and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Where in the log.
    pub seq: Seq,
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

/// One line of history of a target: a branch, and before its start the branches it comes from.
///
/// *Moments* are the positions that retention has kept, in the order of the log. Their times go up,
/// except where the log's clock was set back; there a new *era* begins.
///
/// Every method may fail with what the implementation fails with.
pub trait History {
    /// The newest moment; `None` while there is none.
    ///
    /// # Errors
    /// The history could not be read.
    fn head(&self) -> Result<Option<Mark>, HistoryError>;

    /// The oldest moment; `None` while there is none.
    ///
    /// # Errors
    /// The history could not be read.
    fn first(&self) -> Result<Option<Mark>, HistoryError>;

    /// The nearest moment at or before a position, which is not beyond the head.
    ///
    /// # Errors
    /// The history could not be read.
    fn at_seq(&self, seq: Seq) -> Result<Option<Mark>, HistoryError>;

    /// The nearest moment at or before a time, in every era in which the log's clock showed that time.
    ///
    /// That is: every moment `m` with `m.time <= time`, of which the next moment is later than `time`, or
    /// `m.time == time` with the next one in a new era, or which is the head. Of moments of the same
    /// time in one era only the last counts. In the order of the log; empty if and only if the time is
    /// before all of the history. Where there are more than
    /// [`MAX_CANDIDATES`](super::MAX_CANDIDATES), the newest ones are enough.
    ///
    /// # Errors
    /// The history could not be read.
    fn at_time(&self, time: Micros) -> Result<Vec<TimeHit>, HistoryError>;

    /// The last event that [matches](What::matches) and has a position below `before`.
    ///
    /// # Errors
    /// The history could not be read.
    fn last_event(&self, what: &What, before: Seq) -> Result<Option<Moment>, HistoryError>;

    /// The first event that [matches](What::matches).
    ///
    /// # Errors
    /// The history could not be read.
    fn first_event(&self, what: &What) -> Result<Option<Moment>, HistoryError>;

    /// The points with exactly this label, the newest first; at most `limit`.
    ///
    /// # Errors
    /// The history could not be read.
    fn points(&self, label: &str, limit: usize) -> Result<Vec<Moment>, HistoryError>;

    /// The events nearest to a position, the nearest first, for error messages; at most `limit`.
    ///
    /// # Errors
    /// The history could not be read.
    fn nearest(&self, seq: Seq, limit: usize) -> Result<Vec<Moment>, HistoryError>;

    /// The head of a branch of this target; `None` if there is no branch of this name.
    ///
    /// # Errors
    /// The history could not be read.
    fn branch_head(&self, name: &str) -> Result<Option<Mark>, HistoryError>;

    /// The names of the target's branches, for error messages; at most `limit`.
    ///
    /// # Errors
    /// The history could not be read.
    fn branch_names(&self, limit: usize) -> Result<Vec<String>, HistoryError>;
}

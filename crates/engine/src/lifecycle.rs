//! What is being done with a target.

use bygone_model::Micros;

/// A change of a target. There is one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    /// It comes to be.
    Add,
}

impl Change {
    /// In words: "target web is being …".
    pub(crate) fn participle(self) -> &'static str {
        match self {
            Change::Add => "added",
        }
    }
}

/// A change that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doing {
    /// Which.
    pub change: Change,
    /// Since when.
    pub since: Micros,
}

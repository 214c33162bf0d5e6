//! What a call would do, without doing it.

use serde::{Deserialize, Serialize};

use super::{BranchDrop, BranchPromote, Restore, TargetRemove, Undo};

/// Runs the checks of a call and reports what it would do and what would be lost. Nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub of: Plannable,
}

/// A call that may destroy something, or moves the present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Plannable {
    TargetRemove(TargetRemove),
    BranchDrop(BranchDrop),
    Restore(Restore),
    BranchPromote(BranchPromote),
    Undo(Undo),
}

impl From<TargetRemove> for Plannable {
    fn from(call: TargetRemove) -> Plannable {
        Plannable::TargetRemove(call)
    }
}

impl From<BranchDrop> for Plannable {
    fn from(call: BranchDrop) -> Plannable {
        Plannable::BranchDrop(call)
    }
}

impl From<Restore> for Plannable {
    fn from(call: Restore) -> Plannable {
        Plannable::Restore(call)
    }
}

impl From<BranchPromote> for Plannable {
    fn from(call: BranchPromote) -> Plannable {
        Plannable::BranchPromote(call)
    }
}

impl From<Undo> for Plannable {
    fn from(call: Undo) -> Plannable {
        Plannable::Undo(call)
    }
}

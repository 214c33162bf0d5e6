//! What a call would do, without doing it.

use serde::{Deserialize, Serialize};

use super::{BranchDrop, Restore, TargetRemove};

/// Runs the checks of a call that may destroy something and reports what would be lost. Nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub of: Destroying,
}

/// A call that may destroy something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Destroying {
    TargetRemove(TargetRemove),
    BranchDrop(BranchDrop),
    Restore(Restore),
}

impl From<TargetRemove> for Destroying {
    fn from(call: TargetRemove) -> Destroying {
        Destroying::TargetRemove(call)
    }
}

impl From<BranchDrop> for Destroying {
    fn from(call: BranchDrop) -> Destroying {
        Destroying::BranchDrop(call)
    }
}

impl From<Restore> for Destroying {
    fn from(call: Restore) -> Destroying {
        Destroying::Restore(call)
    }
}

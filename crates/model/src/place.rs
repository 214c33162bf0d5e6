//! Where a moment is.

use serde::{Deserialize, Serialize};

use crate::{BranchId, Seq};

/// A moment of a target: a branch, as its line was right after a record of the log.
///
/// All branches share one log, so a seq alone does not say what a target's disks hold: the same record is a moment of
/// every branch. A branch is named by its id; its name can be given to another one later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// On which branch.
    pub branch: BranchId,
    /// After which record.
    pub seq: Seq,
}

impl Place {
    /// The moment after record `seq` of `branch`.
    #[must_use]
    pub const fn new(branch: BranchId, seq: Seq) -> Place {
        Place { branch, seq }
    }
}

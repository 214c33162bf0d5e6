//! The place of a moment.

use serde::{Deserialize, Serialize};

use crate::{BranchId, Seq};

/// A moment of a target: a branch as it was right after a record of the log.
///
/// All branches share one log, so a seq alone does not determine the content of a target's disks: the same record is a
/// moment of every branch. A branch is identified by its id, because its name can be reused later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The branch.
    pub branch: BranchId,
    /// The moment is right after this record.
    pub seq: Seq,
}

impl Place {
    /// The moment after record `seq` of `branch`.
    #[must_use]
    pub const fn new(branch: BranchId, seq: Seq) -> Place {
        Place { branch, seq }
    }
}

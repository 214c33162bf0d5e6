//! The store and its manager.

use serde::{Deserialize, Serialize};

/// What is protected, how far, how full, what is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {}

/// Reads back and checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verify {
    /// Only this target.
    pub name: Option<String>,
    pub newest_first: bool,
    /// End after this time.
    pub for_s: Option<u64>,
}

/// Writes checkpoints of all targets, so that the past is read faster. Frees no history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compact {
    /// Only say what would be done.
    pub dry_run: bool,
}

/// Ends the manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// Leave the targets running; their disk requests wait until another manager adopts them.
    pub keep_targets: bool,
}

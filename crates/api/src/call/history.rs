//! Moments and lines of history, and restoring them.

use std::path::PathBuf;

use bygone_model::Kind;
use serde::{Deserialize, Serialize};

/// Lists events and points, newest last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    pub name: String,
    /// Not before this moment.
    pub since: Option<String>,
    /// Not after this moment.
    pub until: Option<String>,
    /// Only these kinds; all of them if there are none.
    pub kinds: Vec<Kind>,
    /// Only events of this branch: its name, also of a dropped one, or `id:NUMBER`.
    #[serde(default)]
    pub branch: Option<String>,
    /// Only this many of the newest ones.
    #[serde(default)]
    pub limit: Option<u64>,
}

/// Says what a text means, without acting on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct When {
    pub name: String,
    pub at: String,
}

/// Names a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    pub name: String,
    /// Unless given, the newest moment of the branch on which its machine runs, or of the present if none does.
    pub at: Option<String>,
    pub label: String,
    /// The minimum time for which it is kept, such as `30d`.
    pub hold: Option<String>,
}

/// Lists the moments worth choosing from, newest last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Points {
    pub name: String,
}

/// Lists a target's branches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchList {
    pub name: String,
    /// Also those that were dropped.
    #[serde(default)]
    pub dropped: bool,
}

/// Makes a branch the present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchPromote {
    pub name: String,
    /// The only one there is unless given.
    pub branch: Option<String>,
}

/// Drops a branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchDrop {
    pub name: String,
    pub branch: String,
}

/// Undoes the last restore in place, promotion, drop or undo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    pub name: String,
}

/// Restores a moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    pub name: String,
    pub at: String,
    /// Only this disk; all of them unless given.
    pub disk: Option<String>,
    pub to: RestoreTo,
    /// Discard the history after that moment.
    pub discard_later: bool,
}

/// The destination of a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreTo {
    /// The target itself.
    InPlace,
    /// A raw file or block device for one disk; a folder (one that exists, or a path that ends in `/`) gets `ID.raw` of
    /// each disk.
    Path(PathBuf),
}

//! Running targets, and serving their disks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Display;

/// Boots a target; answered once it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    pub name: String,
    /// The moment to run from; the present unless given.
    pub at: Option<String>,
    /// The branch to run on; with `at`, the name of the branch to create.
    pub branch: Option<String>,
    pub display: Option<Display>,
}

/// Waits until a target has stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    pub name: String,
}

/// Shuts a target down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    pub name: String,
    /// At once, as if the power were cut.
    pub force: bool,
    /// How long it may take before it is forced, in seconds: at most a day.
    pub deadline_s: Option<u32>,
}

/// Serves one device until the connection is closed: one item, then nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// `NAME[/DISK][@WHEN]` or `NAME/DISK#BRANCH`.
    pub what: String,
    pub to: ExportTo,
}

/// Where a device is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExportTo {
    /// NBD on a unix socket.
    NbdUnix(PathBuf),
    /// NBD on `HOST:PORT`.
    NbdTcp(String),
    /// A raw file.
    File(PathBuf),
}

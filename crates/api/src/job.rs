//! What is being done for those who asked, and what came of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Failure, Progress};

/// So many jobs that have ended are remembered, and the keys of their calls with them.
pub const JOBS_MAX: usize = 256;
/// A key is at most so long.
pub const KEY_BYTES_MAX: usize = 128;

/// A call that may last, or that has a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobInfo {
    pub id: u64,
    /// The name of the call.
    pub request: String,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The key that whoever asked gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    pub state: JobState,
    /// When it began; RFC 3339.
    pub since: String,
    /// When it ended; RFC 3339. Of one that was interrupted nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// How far it has come, if it says so and is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// It goes on if nobody waits for it.
    pub stays: bool,
    /// Why it could not be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// What it had changed when it was interrupted, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
}

/// How a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    Running,
    Done,
    Failed,
    /// It was given up, by whoever asked or by `job-cancel`.
    Cancelled,
    /// Its manager ended before it did.
    Interrupted,
}

/// `job`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobEnded {
    pub job: JobInfo,
    /// What whoever asked was answered, as JSON, if it was done.
    pub answer: Value,
}

//! Jobs: calls in progress, and their results.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Failure, Progress};

/// How many ended jobs are remembered, and with them the keys of their calls.
pub const JOBS_MAX: usize = 256;
/// The longest key.
pub const KEY_BYTES_MAX: usize = 128;

/// A long call, or one with a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobInfo {
    pub id: u64,
    /// The name of the call.
    pub request: String,
    /// The target that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The key that the caller gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    pub state: JobState,
    /// When it began; RFC 3339.
    pub since: String,
    /// When it ended; RFC 3339. Unknown if it was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// Its progress, if it reports any and is in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// It continues even if no client waits for it.
    pub detached: bool,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// What it had changed, in words, if it was interrupted, failed or was cancelled. Absent: not known (yet).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<Vec<String>>,
}

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    Running,
    Done,
    Failed,
    /// It was cancelled, by its caller or by `job-cancel`.
    Cancelled,
    /// Its manager ended before it did.
    Interrupted,
}

/// `job`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobEnded {
    pub job: JobInfo,
    /// The answer to the caller, as JSON, if it succeeded.
    pub answer: Value,
}

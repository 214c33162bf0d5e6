//! Jobs, of any client.

use serde::{Deserialize, Serialize};

/// Lists jobs, the newest last: those in progress and the last that have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jobs {}

/// Waits until a job has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub id: u64,
}

/// Cancels a job; the answer is its state. What cannot be left half-done continues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCancel {
    pub id: u64,
}

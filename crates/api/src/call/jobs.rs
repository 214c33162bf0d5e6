//! What is being done, whoever asked for it.

use serde::{Deserialize, Serialize};

/// Lists jobs, the newest last: those that are under way and the last that have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jobs {}

/// Waits until a job has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub id: u64,
}

/// Gives up a job; answered with how it is. What cannot be left half-way goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobCancel {
    pub id: u64,
}

//! The lines of an answer, and the traits that receive them.

use serde::{Deserialize, Serialize};

use crate::{Expect, Failure, Request};

/// A request longer than this is refused.
pub const REQUEST_BYTES_MAX: u64 = 1 << 20;
/// A line of an answer longer than this is an error.
pub const REPLY_BYTES_MAX: u64 = 64 << 20;

/// A line of the answer to a [`Call`](crate::Call) with items `I` and answer `A`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply<I, A> {
    /// The progress of long work.
    Progress(Progress),
    /// A text for people in the meantime.
    Note(String),
    /// One of many.
    Item(I),
    /// The last line: the call succeeded.
    Done(A),
    /// The last line: the call failed.
    Failed(Failure),
}

/// The progress of long work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done, in words.
    pub doing: String,
    pub done_bytes: u64,
    /// 0 if unknown.
    pub total_bytes: u64,
}

/// A request as it is sent, with its caller.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    #[serde(flatten)]
    pub request: Request,
    #[serde(flatten)]
    pub caller: Caller,
}

/// Who makes a call, and on which terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The caller's time zone, in which times of day are meant: an IANA name, an offset or a POSIX zone. The manager's
    /// zone if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The manager was started to answer this.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub began: bool,
    /// The call's idempotency key: 1 to 128 printable characters. If the answer is lost, repeating the call with the
    /// key does not do it again. Only for calls that change something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// It is refused unless this still holds, as the plan of the call said. Only for calls that can be planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
    /// If it is a job, it continues when the connection is closed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detached: bool,
}

/// A caller without any terms.
static NOBODY: Caller = Caller { zone: None, began: false, key: None, expect: None, detached: false };

/// Receives progress and notes of a call, and knows its caller.
pub trait Answers {
    /// Its caller; nobody in particular unless it says so.
    fn caller(&self) -> &Caller {
        &NOBODY
    }

    /// Returns false when no client waits for the work any more.
    fn progress(&mut self, progress: Progress) -> bool;
    /// A text for people in the meantime.
    fn note(&mut self, text: String);
    /// Whether a client still waits.
    fn wanted(&mut self) -> bool;
}

/// Receives the items of an answer as they arrive.
pub trait Items<I>: Answers {
    /// Returns false when no more are wanted.
    fn item(&mut self, item: I) -> bool;
}

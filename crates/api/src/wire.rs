//! The lines of an answer, and who listens to them.

use serde::{Deserialize, Serialize};

use crate::{Failure, Request};

/// A request longer than this is refused.
pub const REQUEST_BYTES_MAX: u64 = 1 << 20;
/// A line of an answer longer than this is not believed.
pub const REPLY_BYTES_MAX: u64 = 64 << 20;

/// A line of the answer to a [`Call`](crate::Call) with items `I` and answer `A`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply<I, A> {
    /// Long work goes on.
    Progress(Progress),
    /// For people to read meanwhile.
    Note(String),
    /// One of many.
    Item(I),
    /// The last line: it was done.
    Done(A),
    /// The last line: it could not be done.
    Failed(Failure),
}

/// How far long work has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done, in words.
    pub doing: String,
    pub done_bytes: u64,
    /// 0 when nobody knows.
    pub total_bytes: u64,
}

/// A request as it is sent, with what is known of whoever asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    #[serde(flatten)]
    pub request: Request,
    /// The time zone of whoever asks, in which times of day are meant: an IANA name, an offset or a POSIX zone. That of
    /// the manager, if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The manager was started to answer this.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub began: bool,
    /// Names this call, so that asking again, for want of an answer, does not do it again: 1 to 128 printable characters. Only of calls
    /// that change something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// If it is a job, it goes on when the connection is closed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stays: bool,
}

/// Who is told how long work goes on.
pub trait Answers {
    /// The time zone of whoever asks, as in [`Asked`].
    fn zone(&self) -> Option<&str> {
        None
    }

    /// The manager was started to answer this, as in [`Asked`].
    fn began(&self) -> bool {
        false
    }

    /// The call's key, as in [`Asked`].
    fn key(&self) -> Option<&str> {
        None
    }

    /// It goes on if nobody waits, as in [`Asked`].
    fn stays(&self) -> bool {
        false
    }

    /// Returns false when nobody waits for the work any more.
    fn progress(&mut self, progress: Progress) -> bool;
    /// Something for people to read meanwhile.
    fn note(&mut self, text: String);
    /// Somebody still waits.
    fn wanted(&mut self) -> bool;
}

/// Who takes the items of an answer as they come.
pub trait Items<I>: Answers {
    /// Returns false when no more are wanted.
    fn item(&mut self, item: I) -> bool;
}

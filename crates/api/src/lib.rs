//! The manager's API: one set of types for both ends of its socket, and for a command that does a manager's work
//! itself.
//!
//! - A [`Call`] is a request with the types of its answers. [`call`] has all of them.
//! - On the socket a client sends one [`Request`] (in [`Asked`]) as a line of JSON and reads lines of [`Reply`] until
//!   [`Reply::Done`] or [`Reply::Failed`]. Closing the connection cancels the call, unless the client has set
//!   [`Caller::detached`].
//! - A long call is a job ([`JobInfo`]): other clients can see it, wait for it and cancel it by its id. A call with a
//!   key is done once, however often it is repeated.
//! - Both lines are bounded: [`REQUEST_BYTES_MAX`], [`REPLY_BYTES_MAX`].
//!
//! This crate is data only. It knows neither how anything is done, nor command lines.
#![forbid(unsafe_code)]
#![expect(missing_docs, reason = "fields say by their names what they are; the rest stands beside them")]

mod answer;
pub mod call;
pub mod config;
mod failure;
mod job;
mod problem;
mod state;
mod wire;

pub use answer::*;
pub use call::{Call, Nothing, Request, Role};
pub use failure::{Failure, ImageProblem, IoProblem, MomentProblem, MovedPart, Remedy, ServeProblem};
pub use job::{JOBS_MAX, JobEnded, JobInfo, JobState, KEY_BYTES_MAX};
pub use problem::{Problem, Trouble};
pub use state::{Accelerator, Change, DiskMode, Life, Running, StoreState};
pub use wire::{Answers, Asked, Caller, Items, Progress, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Reply};

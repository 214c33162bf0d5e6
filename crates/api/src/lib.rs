//! What a manager can be asked, and what it answers: one set of types for both ends of its socket, and for a command that
//! is the manager itself for a moment.
//!
//! - A [`Call`] is a request with the types of its answers. [`call`] has all of them.
//! - On the socket a client sends one [`Request`] (in [`Asked`]) as a line of JSON and reads lines of [`Reply`] until [`Reply::Done`] or
//!   [`Reply::Failed`]. Closing the connection gives up what was asked, unless
//!   the client said that it goes on ([`Asked::stays`]).
//! - A call that may last is a job ([`JobInfo`]): others see it, wait for it and cancel it by its id. A call with a key is done once,
//!   however often it is asked for.
//! - Both lines are bounded: [`REQUEST_BYTES_MAX`], [`REPLY_BYTES_MAX`].
//!
//! Data only. How anything is done, and what a command line looks like, is not known here.
#![forbid(unsafe_code)]
#![expect(missing_docs, reason = "fields say by their names what they are; the rest stands beside them")]

mod answer;
pub mod call;
pub mod config;
mod failure;
mod job;
mod problem;
mod wire;

pub use answer::*;
pub use call::{Call, Nothing, Request, Role};
pub use failure::{Failure, ImageProblem, IoProblem, MomentProblem, Remedy, ServeProblem};
pub use job::{JOBS_MAX, JobEnded, JobInfo, JobState, KEY_BYTES_MAX};
pub use problem::{Problem, Trouble};
pub use wire::{Answers, Asked, Items, Progress, REPLY_BYTES_MAX, REQUEST_BYTES_MAX, Reply};

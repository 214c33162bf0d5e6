//! The real binary with real stores, as people and scripts use it. No guest is run.
#![expect(clippy::unwrap_used, reason = "these are tests as a whole; the lints know only test functions")]

mod child;
mod complete;
mod help;
mod jobs;
mod loss;
mod lost;
mod small;
mod world;
mod wrong;
mod zone;

//! Deterministic simulation of a store: a seeded world of a medium, a clock and a store, with faults of every kind. One
//! thread, no real time; the same seed gives the same run, to the last bit.
//!
//! [`run()`] plays one world and compares the store's answers with an [`oracle`] that keeps a plain list of all
//! records. The invariants I1, I2, I4 and I5 of `ARCHITECTURE.md` are checked with every step. [`run_tapped()`] plays a
//! world of one tapped disk, whose log and disk are on two media.
#![forbid(unsafe_code)]

mod clock;
mod inspect;
pub mod medium;
pub mod oracle;
pub mod profile;
pub mod rng;
mod tapped;
mod world;

pub use clock::SimClock;
pub use tapped::run_tapped;
pub use world::{Failure, Outcome, Stats, run, run_twice};

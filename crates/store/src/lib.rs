//! The time-indexed store.
#![forbid(unsafe_code)]

pub mod env;

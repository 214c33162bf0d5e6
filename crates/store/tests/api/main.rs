//! Tests of the store's public API, with real files. What needs power cuts and failing media is in `bygone-sim`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod between;
mod damage;
mod events;
mod exchanged;
mod expendable;
mod fixture;
mod follow;
mod forge;
mod full;
mod hashing;
mod holder;
mod invariants;
mod joining;
mod large;
mod looks;
mod lost;
mod manifest;
mod memory;
mod mending;
mod newest;
mod panics;
mod place;
mod races;
mod stopping;
mod tail;
mod unreadable;
mod watched;
mod world;

//! The locks that a log uses.
//!
//! `crates/races` builds this crate once more with shuttle's locks, whose scheduler decides at each of them which
//! thread runs next.

#[cfg(races)]
pub(crate) use shuttle::sync::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicBool, AtomicU64},
};
#[cfg(not(races))]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicBool, AtomicU64},
};

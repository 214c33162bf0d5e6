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

/// Waits until `changed` is notified, or for this long, with the lock released.
#[cfg(not(races))]
pub(crate) fn pause<T>(changed: &Condvar, guard: MutexGuard<'_, T>, at_most: std::time::Duration) {
    drop(changed.wait_timeout(guard, at_most));
}

/// The same for shuttle, which knows no time: its `wait_timeout` never ends by itself. Here the wait is over whenever
/// the scheduler comes back to this thread.
#[cfg(races)]
pub(crate) fn pause<T>(_: &Condvar, guard: MutexGuard<'_, T>, _: std::time::Duration) {
    drop(guard);
    shuttle::thread::yield_now();
}

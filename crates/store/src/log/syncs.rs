//! The one door to fsync (I4).
//!
//! fsync reports a write-back error once for each open file, and whoever asks next is told that all is well. So whoever makes
//! the log durable (a flush, sealing a segment, going on in a new one) comes through here, one at a time, and the first
//! failure poisons the log before anybody else is answered. Nor is anything acknowledged once another holder took the log over.

use std::sync::{PoisonError, atomic::Ordering};

use super::holder::Holder;
use crate::{
    env::File,
    error::{Error, Result},
    format::segment,
    sync::{AtomicBool, Mutex},
};

/// Its lock is the last one to be taken.
pub(super) struct Syncs {
    pub(super) holder: Holder,
    turn: Mutex<()>,
    poisoned: AtomicBool,
}

impl Syncs {
    pub(super) fn new(holder: Holder) -> Syncs {
        Syncs { holder, turn: Mutex::default(), poisoned: false.into() }
    }

    /// Makes the file of segment `number` durable.
    ///
    /// # Errors
    /// When the medium fails, now or at any time before: the log is poisoned. When another holder was seen.
    pub(super) fn sync(&self, file: &dyn File, number: u32) -> Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        file.sync().map_err(|e| {
            self.poisoned.store(true, Ordering::Release);
            Error::io("syncing", &segment::file_name(number), e)
        })
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.is_poisoned() { Err(Error::Poisoned) } else { self.holder.check() }
    }
}

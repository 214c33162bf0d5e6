//! Syncs the segments of an open log (I4).
//!
//! fsync reports a write-back error only once per open file; the next fsync succeeds. So a flush, the sealing of a
//! segment and the step to a new one all sync here, one at a time, and the first failure poisons the log before any
//! other caller gets an answer. A panic that may have left the sequencer half changed poisons it as well. Once another
//! holder has taken the log over, nothing is acknowledged either.

use std::sync::{Arc, PoisonError, atomic::Ordering};

use super::holder::Holder;
use crate::{
    env::File,
    error::{Error, Result},
    format::segment,
    sync::{AtomicBool, Mutex},
};

/// Its lock is the last in the lock order.
pub(super) struct Syncs {
    pub(super) holder: Arc<Holder>,
    turn: Mutex<()>,
    poisoned: AtomicBool,
}

impl Syncs {
    pub(super) fn new(holder: Arc<Holder>) -> Syncs {
        Syncs { holder, turn: Mutex::default(), poisoned: false.into() }
    }

    /// Makes the file of segment `number` durable.
    ///
    /// # Errors
    /// When the sync fails, which poisons the log; when the log is poisoned already; when another holder was seen.
    pub(super) fn sync(&self, file: &dyn File, number: u32) -> Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        file.sync().map_err(|e| {
            self.poison();
            Error::io("syncing", &segment::file_name(number), e)
        })
    }

    /// From now on nothing is acknowledged any more (I4).
    pub(super) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Acquire)
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.is_poisoned() { Err(Error::Poisoned) } else { self.holder.check() }
    }
}

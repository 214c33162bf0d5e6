//! Syncs the segments of an open log (I4).
//!
//! fsync reports a write-back error only once per open file; the next fsync succeeds. So a flush, the sealing of a
//! segment and the step to a new one all sync here, one at a time, and the first failure poisons the log before any
//! other caller gets an answer. A panic that may have left the sequencer half changed poisons it as well. Once another
//! holder has taken the log over, nothing is acknowledged either.
//!
//! A sync of a file that has no name makes nothing durable. So while a segment in use is known to have lost its name,
//! because writing it anew failed, no flush succeeds.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use super::holder::Holder;
use crate::{
    env::File,
    error::{Error, Result},
    format::segment,
    sync::{AtomicBool, Mutex, MutexGuard},
};

/// Its locks are among the last in the lock order.
pub(super) struct Syncs {
    pub(super) holder: Arc<Holder>,
    turn: Mutex<()>,
    poisoned: AtomicBool,
    /// The segments in use whose files have no name, with the reason.
    unnamed: Mutex<BTreeMap<u32, Arc<Error>>>,
}

impl Syncs {
    pub(super) fn new(holder: Arc<Holder>) -> Syncs {
        Syncs { holder, turn: Mutex::default(), poisoned: false.into(), unnamed: Mutex::default() }
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
            Error::io("syncing", &segment::label(number), e)
        })
    }

    fn unnamed(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Error>>> {
        self.unnamed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the file of segment `number` has no name, because writing it anew failed.
    pub(super) fn lost_name(&self, number: u32, why: Error) {
        self.unnamed().insert(number, Arc::new(why));
    }

    /// Whether it is noted that the file of segment `number` has no name.
    pub(super) fn is_unnamed(&self, number: u32) -> bool {
        self.unnamed().contains_key(&number)
    }

    /// Notes that the file of segment `number` has its name.
    pub(super) fn has_name(&self, number: u32) {
        self.unnamed().remove(&number);
    }

    /// Fails while the file of a segment in use has no name.
    pub(super) fn check_names(&self) -> Result<()> {
        match self.unnamed().first_key_value() {
            Some((&number, why)) => Err(Error::Unnamed { name: segment::label(number), why: why.clone() }),
            None => Ok(()),
        }
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

//! Stripes whose index was found damaged, and where it was rebuilt.
//!
//! A reader that finds damage in the trees of a stripe reports the stripe here. Upkeep rebuilds its index from the
//! segments, as one tree that answers for every moment up to then and replaces the stripe's trees in all older
//! checkpoints. A stripe that cannot be rebuilt is set aside: its trees are kept, and reads that need the damaged ones
//! fail. If that is because the segments are damaged as well, rebuilding it is not tried again in this life of the log,
//! unless segments that were missing come back. If they only cannot be read now, it is tried again after a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use bygone_model::{Micros, Seq, VolumeId};

use super::tree::PageRef;
use crate::{
    error::Error,
    sync::{Mutex, MutexGuard},
};

/// A stripe of a volume.
pub type StripeId = (VolumeId, u32);

/// The most damaged stripes that are remembered; others are reported again when a reader finds the damage again.
const DAMAGED_MAX: usize = 1024;
/// The most stripes that are remembered as set aside, and the most rebuilt ones.
const MENDED_MAX: usize = 4096;
/// How long stripes wait at first, and at most, that could not be rebuilt because of something that may pass.
const AGAIN_MICROS: i64 = 60_000_000;
const AGAIN_MICROS_MAX: i64 = 3_600_000_000;

/// Why a stripe cannot be rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The log does not have all of its versions any more.
    ForGood,
    /// They cannot be read now.
    ForNow,
}

impl Lost {
    /// Because of this error.
    pub(crate) fn by(error: &Error) -> Lost {
        if error.is_lasting_damage() { Lost::ForGood } else { Lost::ForNow }
    }
}

/// See the module's comment.
#[derive(Default)]
pub(crate) struct Mended(Mutex<Known>);

#[derive(Default)]
struct Known {
    damaged: BTreeSet<StripeId>,
    /// Damaged stripes that could not be rebuilt, and whether that is for good.
    aside: BTreeMap<StripeId, Lost>,
    /// When rebuilding those that are not aside for good is tried again, and how long they wait after that. `None`:
    /// none of them waits.
    again: Option<(Micros, i64)>,
    /// The rebuilt tree (`None`: nothing was ever written there), and the last moment for which it answers.
    mended: BTreeMap<StripeId, (Option<PageRef>, Seq)>,
}

impl Mended {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports damage in a stripe.
    pub(crate) fn report(&self, stripe: StripeId) {
        let mut known = self.known();
        if known.damaged.len() < DAMAGED_MAX && !known.aside.contains_key(&stripe) {
            known.damaged.insert(stripe);
        }
    }

    /// The stripes that wait to be rebuilt.
    pub(crate) fn damaged(&self) -> BTreeSet<StripeId> {
        self.known().damaged.clone()
    }

    /// Whether no damage was found in this life of the log.
    pub(crate) fn is_empty(&self) -> bool {
        let known = self.known();
        known.damaged.is_empty() && known.aside.is_empty() && known.mended.is_empty()
    }

    /// Notes that a stripe cannot be rebuilt.
    pub(crate) fn set_aside(&self, stripe: StripeId, lost: Lost) {
        let mut known = self.known();
        known.damaged.remove(&stripe);
        if known.aside.len() < MENDED_MAX {
            known.aside.insert(stripe, lost);
        }
    }

    /// Whether a stripe was set aside.
    pub(crate) fn is_aside(&self, stripe: StripeId) -> bool {
        self.why_aside(stripe).is_some()
    }

    /// Why a stripe was set aside, if it was.
    pub(crate) fn why_aside(&self, stripe: StripeId) -> Option<Lost> {
        self.known().aside.get(&stripe).copied()
    }

    /// Lets upkeep try once more to rebuild the stripes that were set aside.
    pub(crate) fn try_again(&self) {
        let mut known = self.known();
        let aside = std::mem::take(&mut known.aside);
        known.damaged.extend(aside.into_keys());
    }

    /// The same for those that are not aside for good, once they have waited long enough. Each time they wait twice as
    /// long, because trying reads the indexes of all segments.
    pub(crate) fn try_again_at(&self, now: Micros) {
        let mut known = self.known();
        if !known.aside.values().any(|lost| *lost == Lost::ForNow) {
            known.again = None;
            return;
        }
        let wait = match known.again {
            None => AGAIN_MICROS,
            Some((at, _)) if now < at => return,
            Some((_, wait)) => {
                let (again, aside): (BTreeMap<_, _>, _) =
                    std::mem::take(&mut known.aside).into_iter().partition(|aside| aside.1 == Lost::ForNow);
                known.aside = aside;
                known.damaged.extend(again.into_keys());
                wait
            }
        };
        known.again = Some((Micros(now.0.saturating_add(wait)), (2 * wait).min(AGAIN_MICROS_MAX)));
    }

    /// Notes that a stripe was rebuilt: `tree` answers for its moments up to `high`.
    pub(crate) fn add(&self, stripe: StripeId, tree: Option<PageRef>, high: Seq) {
        let mut known = self.known();
        known.damaged.remove(&stripe);
        known.aside.remove(&stripe);
        if known.mended.len() < MENDED_MAX || known.mended.contains_key(&stripe) {
            known.mended.insert(stripe, (tree, high));
        }
    }

    /// If a stripe was rebuilt: the tree that answers for it at `seq`, or `Some(None)` if nothing was ever written
    /// there.
    pub(crate) fn tree_of(&self, stripe: StripeId, seq: Seq) -> Option<Option<PageRef>> {
        self.known().mended.get(&stripe).filter(|(_, high)| seq <= *high).map(|(tree, _)| *tree)
    }
}

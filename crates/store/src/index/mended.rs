//! Stripes whose index was found damaged, and where it was rebuilt.
//!
//! A reader that finds damage in the trees of a stripe reports the stripe here. Upkeep rebuilds its index from the
//! segments, as one tree that answers for every moment up to then and replaces the stripe's trees in all older
//! checkpoints. A stripe that cannot be rebuilt, because the segments are damaged as well, is set aside: its trees are
//! kept, reads that need the damaged ones fail, and rebuilding it is not tried again in this life of the log, unless
//! segments that were missing come back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use bygone_model::{Seq, VolumeId};

use super::tree::PageRef;
use crate::sync::{Mutex, MutexGuard};

/// A stripe of a volume.
pub type StripeId = (VolumeId, u32);

/// The most damaged stripes that are remembered; others are reported again when a reader finds the damage again.
const DAMAGED_MAX: usize = 1024;
/// The most stripes that are remembered as set aside, and the most rebuilt ones.
const MENDED_MAX: usize = 4096;

/// See the module's comment.
#[derive(Default)]
pub(crate) struct Mended(Mutex<Known>);

#[derive(Default)]
struct Known {
    damaged: BTreeSet<StripeId>,
    /// Damaged stripes that could not be rebuilt.
    aside: BTreeSet<StripeId>,
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
        if known.damaged.len() < DAMAGED_MAX && !known.aside.contains(&stripe) {
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
    pub(crate) fn set_aside(&self, stripe: StripeId) {
        let mut known = self.known();
        known.damaged.remove(&stripe);
        if known.aside.len() < MENDED_MAX {
            known.aside.insert(stripe);
        }
    }

    /// Whether a stripe was set aside.
    pub(crate) fn is_aside(&self, stripe: StripeId) -> bool {
        self.known().aside.contains(&stripe)
    }

    /// Lets upkeep try once more to rebuild the stripes that were set aside.
    pub(crate) fn try_again(&self) {
        let mut known = self.known();
        let aside = std::mem::take(&mut known.aside);
        known.damaged.extend(aside);
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

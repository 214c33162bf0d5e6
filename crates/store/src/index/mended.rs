//! Stripes whose index was found damaged, and where they were made anew.
//!
//! A reader that meets damage in the trees of a stripe names the stripe here. Upkeep makes it anew from the segments, as one
//! tree that answers for every moment up to then, which stands in for all that older checkpoints had of the stripe.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use bygone_model::{Seq, VolumeId};

use super::tree::PageRef;
use crate::sync::{Mutex, MutexGuard};

/// A stripe of a volume.
pub type StripeId = (VolumeId, u32);

/// More are not remembered; they are met again.
const DAMAGED_MAX: usize = 1024;
const MENDED_MAX: usize = 4096;

/// See the module's comment.
#[derive(Default)]
pub(crate) struct Mended(Mutex<Known>);

#[derive(Default)]
struct Known {
    damaged: BTreeSet<StripeId>,
    /// The tree (`None`: nothing was ever written there), and up to which moment it answers.
    mended: BTreeMap<StripeId, (Option<PageRef>, Seq)>,
}

impl Mended {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Damage was met in a stripe.
    pub(crate) fn report(&self, stripe: StripeId) {
        let mut known = self.known();
        if known.damaged.len() < DAMAGED_MAX {
            known.damaged.insert(stripe);
        }
    }

    /// The stripes that wait for being made anew.
    pub(crate) fn damaged(&self) -> BTreeSet<StripeId> {
        self.known().damaged.clone()
    }

    /// No damage was met.
    pub(crate) fn is_empty(&self) -> bool {
        let known = self.known();
        known.damaged.is_empty() && known.mended.is_empty()
    }

    /// A stripe was made anew.
    pub(crate) fn add(&self, stripe: StripeId, tree: Option<PageRef>, high: Seq) {
        let mut known = self.known();
        known.damaged.remove(&stripe);
        if known.mended.len() < MENDED_MAX || known.mended.contains_key(&stripe) {
            known.mended.insert(stripe, (tree, high));
        }
    }

    /// What answers for a stripe at `seq`, if it was made anew: a tree, or `None` if nothing was ever written there.
    pub(crate) fn tree_of(&self, stripe: StripeId, seq: Seq) -> Option<Option<PageRef>> {
        self.known().mended.get(&stripe).filter(|(_, high)| seq <= *high).map(|(tree, _)| *tree)
    }
}

//! The parts of the index that were found damaged, and where they were rebuilt.
//!
//! A reader that finds damage in the trees of a stripe reports the stripe here. Upkeep rebuilds its index from the
//! segments, as one tree that answers for every moment up to then and replaces the stripe's trees in all older
//! checkpoints. A stripe that cannot be rebuilt is set aside: its trees are kept, and reads that need the damaged ones
//! fail. Damage in the rest of a checkpoint (its events and its frame) is reported by the checkpoint's number. Upkeep
//! writes that checkpoint again.
//!
//! If something cannot be rebuilt because the segments are damaged as well, it is not tried again in this life of the
//! log. If they only cannot be read now, or a file is missing or ends too early, it is tried again after a while, and at
//! once when a segment that was missing is back.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
};

use bygone_model::{Micros, Seq, VolumeId};

use super::tree::PageRef;
use crate::{
    error::{Damage, Error},
    sync::{Mutex, MutexGuard},
};

/// A stripe of a volume.
pub type StripeId = (VolumeId, u32);

/// The most damaged parts of a kind that are remembered; others are reported again when a reader finds the damage again.
const DAMAGED_MAX: usize = 1024;
/// The most parts of a kind that are remembered as set aside, and the most rebuilt stripes.
const MENDED_MAX: usize = 4096;
/// How long parts wait at first, and at most, that could not be rebuilt because of something that may pass.
const AGAIN_MICROS: i64 = 60_000_000;
const AGAIN_MICROS_MAX: i64 = 3_600_000_000;

/// Why a part of the index cannot be rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The log does not have all of its versions any more.
    ForGood,
    /// The same, unless a file comes back that is missing or was cut.
    UnlessItComesBack,
    /// They cannot be read now.
    ForNow,
}

impl Lost {
    /// Because of this error.
    pub(crate) fn by(error: &Error) -> Lost {
        match error {
            Error::Damaged { damage: Damage::Unreadable, .. } => Lost::ForNow,
            Error::Damaged { damage: Damage::Missing | Damage::Truncated | Damage::Inconsistent, .. } => {
                Lost::UnlessItComesBack
            }
            Error::Damaged { .. } => Lost::ForGood,
            _ => Lost::ForNow,
        }
    }
}

/// See the module's comment.
#[derive(Default)]
pub(crate) struct Mended(Mutex<Known>);

#[derive(Default)]
struct Known {
    stripes: Damaged<StripeId>,
    /// Checkpoints, by number.
    files: Damaged<u32>,
    /// When rebuilding those that are not aside for good is tried again, and how long they wait after that. `None`:
    /// none of them waits.
    again: Option<(Micros, i64)>,
    /// The rebuilt tree (`None`: nothing was ever written there), and the last moment for which it answers.
    mended: BTreeMap<StripeId, (Option<PageRef>, Seq)>,
}

/// Damaged parts of one kind.
struct Damaged<K> {
    /// Those that wait to be rebuilt.
    waiting: BTreeSet<K>,
    /// Those that could not be rebuilt, and why.
    aside: BTreeMap<K, Lost>,
}

impl<K> Default for Damaged<K> {
    fn default() -> Damaged<K> {
        Damaged { waiting: BTreeSet::new(), aside: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> Damaged<K> {
    fn report(&mut self, part: K) {
        if self.waiting.len() < DAMAGED_MAX && !self.aside.contains_key(&part) {
            self.waiting.insert(part);
        }
    }

    fn set_aside(&mut self, part: K, lost: Lost) {
        self.waiting.remove(&part);
        if self.aside.len() < MENDED_MAX {
            self.aside.insert(part, lost);
        }
    }

    fn remove(&mut self, part: K) {
        self.waiting.remove(&part);
        self.aside.remove(&part);
    }

    fn may_come_back(&self) -> bool {
        self.aside.values().any(|lost| *lost != Lost::ForGood)
    }

    /// Lets those wait again of which `which` is true.
    fn take_again(&mut self, which: impl Fn(Lost) -> bool) {
        let (again, aside): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.aside).into_iter().partition(|aside| which(aside.1));
        self.aside = aside;
        self.waiting.extend(again.into_keys());
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.aside.is_empty()
    }
}

impl Mended {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports damage in a stripe.
    pub(crate) fn report(&self, stripe: StripeId) {
        self.known().stripes.report(stripe);
    }

    /// Reports damage in a checkpoint outside its trees.
    pub(crate) fn report_file(&self, number: u32) {
        self.known().files.report(number);
    }

    /// The stripes that wait to be rebuilt.
    pub(crate) fn damaged(&self) -> BTreeSet<StripeId> {
        self.known().stripes.waiting.clone()
    }

    /// The first checkpoint that waits to be written again. A later one is built on it.
    pub(crate) fn damaged_file(&self) -> Option<u32> {
        self.known().files.waiting.first().copied()
    }

    /// Whether no damage was found in this life of the log.
    pub(crate) fn is_empty(&self) -> bool {
        let known = self.known();
        known.stripes.is_empty() && known.files.is_empty() && known.mended.is_empty()
    }

    /// Notes that a stripe cannot be rebuilt.
    pub(crate) fn set_aside(&self, stripe: StripeId, lost: Lost) {
        self.known().stripes.set_aside(stripe, lost);
    }

    /// Notes that a checkpoint cannot be written again.
    pub(crate) fn set_file_aside(&self, number: u32, lost: Lost) {
        self.known().files.set_aside(number, lost);
    }

    /// Notes that a checkpoint is whole again, or not needed any more.
    pub(crate) fn file_mended(&self, number: u32) {
        self.known().files.remove(number);
    }

    /// Whether a stripe was set aside.
    pub(crate) fn is_aside(&self, stripe: StripeId) -> bool {
        self.why_aside(stripe).is_some()
    }

    /// Whether a stripe waits to be rebuilt, or was set aside.
    pub(crate) fn is_reported(&self, stripe: StripeId) -> bool {
        let known = self.known();
        known.stripes.waiting.contains(&stripe) || known.stripes.aside.contains_key(&stripe)
    }

    /// Why a stripe was set aside, if it was.
    pub(crate) fn why_aside(&self, stripe: StripeId) -> Option<Lost> {
        self.known().stripes.aside.get(&stripe).copied()
    }

    /// Why a checkpoint was set aside, if it was.
    pub(crate) fn why_file_aside(&self, number: u32) -> Option<Lost> {
        self.known().files.aside.get(&number).copied()
    }

    /// Lets upkeep try once more to rebuild what was set aside.
    pub(crate) fn try_again(&self) {
        let mut known = self.known();
        known.stripes.take_again(|_| true);
        known.files.take_again(|_| true);
    }

    /// The same for what is not aside for good, once it has waited long enough. Each time it waits twice as long,
    /// because trying reads the indexes of all segments.
    pub(crate) fn try_again_at(&self, now: Micros) {
        let mut known = self.known();
        if !known.stripes.may_come_back() && !known.files.may_come_back() {
            known.again = None;
            return;
        }
        let wait = match known.again {
            None => AGAIN_MICROS,
            Some((at, _)) if now < at => return,
            Some((_, wait)) => {
                known.stripes.take_again(|lost| lost != Lost::ForGood);
                known.files.take_again(|lost| lost != Lost::ForGood);
                wait
            }
        };
        known.again = Some((Micros(now.0.saturating_add(wait)), (2 * wait).min(AGAIN_MICROS_MAX)));
    }

    /// Notes that a stripe was rebuilt: `tree` answers for its moments up to `high`.
    pub(crate) fn add(&self, stripe: StripeId, tree: Option<PageRef>, high: Seq) {
        let mut known = self.known();
        known.stripes.remove(stripe);
        if known.mended.len() < MENDED_MAX || known.mended.contains_key(&stripe) {
            known.mended.insert(stripe, (tree, high));
        }
    }

    /// If a stripe was rebuilt: the tree that answers for it at `seq` (`None`: nothing was ever written there), and the
    /// last moment for which it does.
    pub(crate) fn tree_of(&self, stripe: StripeId, seq: Seq) -> Option<(Option<PageRef>, Seq)> {
        self.known().mended.get(&stripe).filter(|(_, high)| seq <= *high).copied()
    }
}

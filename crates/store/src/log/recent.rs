//! What views keep in memory: versions of a volume that are in no checkpoint yet.
//!
//! They count in the memory that all logs share ([`crate::memory`]), because while no checkpoint can be written a view
//! may have all that wait for one. Views of one volume that show the same versions share them.

use std::sync::{Arc, PoisonError, Weak};

use bygone_model::{Seq, VolumeId};

use crate::{
    format::segment::Entry,
    index::head::{HeadMap, RUN_BYTES},
    memory::{Lent, Share},
    sync::Mutex,
};

/// The versions of a volume after a checkpoint up to some record.
pub(super) struct Recent {
    pub(super) map: HeadMap,
    /// The volume, the end of the checkpoint, and the last version.
    of: (VolumeId, Seq, Seq),
    _lent: Lent,
}

/// Those that some view has.
#[derive(Default)]
pub(super) struct Recents(Mutex<Vec<Weak<Recent>>>);

impl Recents {
    /// The versions that `versions` returns, in order, of a volume after the end of a checkpoint.
    pub(super) fn get<'a, I: Iterator<Item = &'a Entry>>(
        &self,
        (volume, covered): (VolumeId, Seq),
        share: &Share,
        versions: &dyn Fn() -> I,
    ) -> Arc<Recent> {
        let of = (volume, covered, versions().last().map_or(covered, |last| last.seq));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|recent| recent.strong_count() > 0);
        if let Some(same) = known.iter().filter_map(Weak::upgrade).find(|recent| recent.of == of) {
            return same;
        }
        let mut map = HeadMap::default();
        versions().for_each(|version| map.insert(version));
        let _lent = share.lend((map.len() * RUN_BYTES) as u64);
        let made = Arc::new(Recent { map, of, _lent });
        known.push(Arc::downgrade(&made));
        made
    }
}

//! The head map: the newest version of each recently written sector. Its runs never overlap.
//!
//! A volume has up to two: the active one takes new writes; the frozen one is being written to the layer below (a
//! checkpoint, or the tapped disk) and is dropped afterwards. A lookup searches the active one, the frozen one, and
//! then the layer below.

use std::{collections::BTreeMap, sync::Arc};

use bygone_model::{Lba, Sectors, Seq};

use super::Lookup;
use crate::format::segment::{Entry, Location};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    end: u64,
    seq: Seq,
    at: Location,
}

/// Roughly the memory that a run takes, in bytes: the nodes of a B-tree filled in random order are two thirds full.
pub(crate) const RUN_BYTES: usize = 48;

/// See the module's comment.
#[derive(Clone, Debug, Default)]
pub struct HeadMap {
    /// By first sector.
    runs: BTreeMap<u64, Run>,
}

impl HeadMap {
    /// Makes `entry` the newest version of its sectors.
    pub fn insert(&mut self, entry: &Entry) {
        let (first, end) = (entry.lba.0, entry.end().0);
        let run = Run { end, seq: entry.seq, at: entry.at };
        // By far the most frequent case: the same range again.
        if let Some(same) = self.runs.get_mut(&first)
            && same.end == end
        {
            *same = run;
            return;
        }
        if let Some((&before_first, before)) = self.runs.range_mut(..first).next_back()
            && before.end > first
        {
            let tail = *before;
            before.end = first;
            debug_assert!(before_first < first);
            if tail.end > end {
                self.runs.insert(end, tail);
            }
        }
        while let Some((&inner_first, &inner)) = self.runs.range(first..end).next() {
            self.runs.remove(&inner_first);
            if inner.end > end {
                self.runs.insert(end, inner);
            }
        }
        self.runs.insert(first, run);
    }

    /// Looks up the open parts of `lookup`.
    pub fn resolve(&self, lookup: &mut Lookup) {
        if self.runs.is_empty() {
            return;
        }
        for (first, end) in std::mem::take(&mut lookup.open) {
            let from = self
                .runs
                .range(..=first)
                .next_back()
                .filter(|(_, run)| run.end > first)
                .map_or(first, |(&k, _)| k);
            let mut at = first;
            for (&run_first, run) in self.runs.range(from..end) {
                let (a, b) = (run_first.max(first), run.end.min(end));
                if at < a {
                    lookup.leave(at, a);
                }
                lookup.find(a, b, run.seq, run.at);
                at = b;
            }
            if at < end {
                lookup.leave(at, end);
            }
        }
    }

    /// All runs in order: first sector, length, the record that wrote it, and where its content is.
    pub fn iter(&self) -> impl Iterator<Item = (Lba, Sectors, Seq, Location)> + '_ {
        self.runs.iter().map(|(&first, run)| (Lba(first), Sectors(run.end - first), run.seq, run.at))
    }

    /// The number of runs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether there is no run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

/// The head maps of one volume.
#[derive(Debug, Default)]
pub struct Head {
    /// The map that takes new writes.
    pub active: HeadMap,
    /// The map that is being written to the layer below.
    pub frozen: Option<Arc<HeadMap>>,
}

impl Head {
    /// Looks up the open parts of `lookup`.
    pub fn resolve(&self, lookup: &mut Lookup) {
        self.active.resolve(lookup);
        if let Some(frozen) = &self.frozen
            && !lookup.open.is_empty()
        {
            frozen.resolve(lookup);
        }
    }

    /// The number of runs in both maps.
    #[must_use]
    pub fn runs(&self) -> usize {
        self.active.len() + self.frozen.as_ref().map_or(0, |frozen| frozen.len())
    }

    /// Freezes the active map, unless there is a frozen one already; returns the frozen one.
    pub fn freeze(&mut self) -> Arc<HeadMap> {
        self.frozen.get_or_insert_with(|| Arc::new(std::mem::take(&mut self.active))).clone()
    }

    /// Drops the frozen map, because the layer below has its content now.
    pub fn drop_frozen(&mut self) {
        self.frozen = None;
    }
}

#[cfg(test)]
mod tests {
    use bygone_model::VolumeId;
    use proptest::prelude::*;

    use super::*;

    fn entry(lba: u64, sectors: u64, seq: u64) -> Entry {
        let at = Location { segment: 1, offset: seq as u32 * 8 };
        Entry { volume: VolumeId(0), lba: Lba(lba), sectors: Sectors(sectors), seq: Seq(seq), at }
    }

    proptest! {
        #[test]
        fn head_knows_the_newest_version_of_every_sector(writes in prop::collection::vec((0..100_u64, 1..40_u64), 1..60), from in 0..100_u64, len in 1..60_u64) {
            let mut map = HeadMap::default();
            let mut model = [0_u64; 200];
            for (i, &(lba, sectors)) in writes.iter().enumerate() {
                let seq = i as u64 + 1;
                map.insert(&entry(lba, sectors, seq));
                model[lba as usize..(lba + sectors) as usize].fill(seq);
            }
            let mut lookup = Lookup::new(Lba(from), Sectors(len));
            map.resolve(&mut lookup);
            let mut at = from;
            for f in lookup.finish() {
                prop_assert_eq!(f.lba.0, at);
                for sector in at..at + f.sectors.0 {
                    prop_assert_eq!(model[sector as usize], f.found.map_or(0, |(seq, _)| seq.0));
                }
                at += f.sectors.0;
            }
            prop_assert_eq!(at, from + len);
        }
    }
}

//! Searching a page for the entries that are visible at a moment.

use std::sync::OnceLock;

use super::{PAGE_ENTRIES_MAX, Page, PageEntry};
use crate::index::tree::PageRef;

// `ByLba` keeps positions in a page as bytes.
const _: () = assert!(PAGE_ENTRIES_MAX < 1 << 8);

/// With more candidates than this, a scan of the page from the newest version on is faster.
const CANDIDATES_MAX: usize = 16;

/// The entries of a page with overlapping versions, in order of lba, so that a lookup touches only the few entries
/// around its sectors and not every version in the page.
#[derive(Clone, Debug, Default)]
pub(super) struct ByLba {
    /// Their first sectors, ascending.
    firsts: Vec<u32>,
    /// Their positions in the page, in the same order.
    positions: Vec<u8>,
    /// The length of the longest one in sectors.
    longest: u32,
}

impl ByLba {
    fn new(entries: &[PageEntry]) -> ByLba {
        let mut order: Vec<(u32, u8)> = entries.iter().zip(0..).map(|(e, at)| (e.lba, at)).collect();
        order.sort_unstable();
        ByLba {
            firsts: order.iter().map(|&(first, _)| first).collect(),
            positions: order.iter().map(|&(_, at)| at).collect(),
            longest: entries.iter().map(|e| e.sectors).max().unwrap_or(0),
        }
    }

    /// The positions of all entries that overlap `first .. end`, and perhaps of some that do not.
    fn around(&self, first: u32, end: u32) -> &[u8] {
        let from = self.firsts.partition_point(|lba| lba + self.longest <= first);
        let count = self.firsts[from..].partition_point(|lba| *lba < end);
        &self.positions[from..from + count]
    }
}

impl Page {
    /// The memory that this page takes once it has been searched, in bytes.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        let search_bytes = if self.is_disjoint { 0 } else { size_of::<u32>() + size_of::<u8>() };
        self.entries.len() * (size_of::<PageEntry>() + search_bytes)
            + self.children.len() * size_of::<PageRef>()
            + size_of::<Page>()
            + 64
    }

    /// The entries that overlap the sectors `first .. end` of the stripe and are not newer than `seq`, each with the
    /// first sector and the end of the overlap. Where entries overlap each other, the newest comes first.
    pub fn newest_first(
        &self,
        first: u32,
        end: u32,
        seq: u64,
    ) -> impl Iterator<Item = (&PageEntry, u32, u32)> {
        let (mut few, mut count, mut many) = ([0_u8; CANDIDATES_MAX], 0, &[][..]);
        if self.is_disjoint {
            let from = self.entries.partition_point(|e| e.end() <= first);
            let candidates = self.entries[from..].partition_point(|e| e.lba < end);
            many = &self.entries[from..from + candidates];
        } else {
            let around = self.by_lba.get_or_init(|| ByLba::new(&self.entries)).around(first, end);
            if let Some(chosen) = few.get_mut(..around.len()) {
                // Positions in the page are in order of seq.
                chosen.copy_from_slice(around);
                chosen.sort_unstable_by(|a, b| b.cmp(a));
                count = chosen.len();
            } else {
                many = &self.entries[..self.entries.partition_point(|e| e.seq <= seq)];
            }
        }
        let few = few.into_iter().take(count).map(|at| &self.entries[usize::from(at)]);
        few.chain(many.iter().rev()).filter_map(move |entry| {
            let (a, b) = (entry.lba.max(first), entry.end().min(end));
            (entry.seq <= seq && a < b).then_some((entry, a, b))
        })
    }
}

/// Built at the first search, because pages that are only merged need none.
pub(super) type Search = OnceLock<ByLba>;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_newest_in_a_page_is_what_the_plainest_search_finds(
            runs in prop::collection::vec((0_u32..400, 1_u32..12), 0..PAGE_ENTRIES_MAX),
            long in prop::option::of((0_u32..400, 12_u32..400)),
            (first, sectors, seq) in (0_u32..420, 1_u32..60, 0_u64..200),
        ) {
            let runs: Vec<_> = runs.into_iter().chain(long).zip(1..).collect();
            let entries: Vec<_> = runs
                .into_iter()
                .map(|((lba, sectors), seq)| PageEntry { lba, sectors, seq, place: (0, 0) })
                .collect();
            let page = Page::new(0, entries.clone(), Vec::new());
            let found: Vec<_> = page.newest_first(first, first + sectors, seq).collect();
            for &(entry, a, b) in &found {
                prop_assert_eq!((a, b), (entry.lba.max(first), entry.end().min(first + sectors)));
            }
            for sector in first..first + sectors {
                let expected = entries.iter().rev().find(|e| e.seq <= seq && e.lba <= sector && sector < e.end());
                let newest = found.iter().find(|(_, a, b)| (*a..*b).contains(&sector));
                prop_assert_eq!(newest.map(|found| found.0), expected);
            }
        }
    }
}

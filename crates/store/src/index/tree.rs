//! Trees of pages: versions of the sectors of one stripe.
//!
//! A tree answers "which is the newest version of this sector at moment T" by reading one page per level, however many
//! versions there are. A *delta* holds every version of a span of the log; an *image* holds one version of each sector.
//! [`lookup`] reads both.
//!
//! `build` builds both, slice by slice of the stripe, so that memory stays bounded.

mod build;

use std::{ops::Range, sync::Arc};

use bygone_model::Seq;
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

pub use build::{DeltaBuilder, ImageBuilder, PageSink};

use super::{Lookup, head::HeadMap, steps};
use crate::{
    error::Result,
    format::{
        page::{BLOCK_ALIGN_BYTES, LEVELS_MAX, Page, PageEntry, STRIPE_SECTORS},
        segment::{Entry, Location},
    },
};

/// A reference to a page or a table: where it is, and its crc, so that a misplaced or stale one is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "(u32, u64, u32, u32)", into = "(u32, u64, u32, u32)")]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct PageRef {
    /// The number of the checkpoint file.
    pub file: u32,
    pub len_bytes: u32,
    /// In bytes, a multiple of 8.
    pub offset: u64,
    /// The crc with which the page begins.
    pub crc: u32,
}

impl PageRef {
    /// Whether a page may begin at its offset.
    #[must_use]
    pub fn is_aligned(&self) -> bool {
        self.offset.is_multiple_of(BLOCK_ALIGN_BYTES)
    }
}

/// File, offset, bytes, crc.
impl From<(u32, u64, u32, u32)> for PageRef {
    fn from((file, offset, len_bytes, crc): (u32, u64, u32, u32)) -> PageRef {
        PageRef { file, len_bytes, offset, crc }
    }
}

impl From<PageRef> for (u32, u64, u32, u32) {
    fn from(at: PageRef) -> (u32, u64, u32, u32) {
        (at.file, at.offset, at.len_bytes, at.crc)
    }
}

/// Reads and checks pages.
pub trait PageSource {
    /// The page at `at`.
    ///
    /// # Errors
    /// If it cannot be read or is damaged.
    fn page(&self, at: PageRef) -> Result<Arc<Page>>;

    /// The error that the page at `at` contradicts the tree that it is in.
    fn contradiction(&self, at: PageRef) -> crate::Error;
}

/// Looks up the open parts of `lookup`, all of which must lie in the stripe that begins at sector `base`, as of `seq`.
///
/// # Errors
/// If a page cannot be read or is damaged.
pub fn lookup(
    source: &dyn PageSource,
    root: PageRef,
    base: u64,
    seq: Seq,
    lookup: &mut Lookup,
) -> Result<()> {
    let open = std::mem::take(&mut lookup.open);
    let (Some(first), Some(last)) = (open.first(), open.last()) else { return Ok(()) };
    assert!(base <= first.0 && last.1 <= base + STRIPE_SECTORS, "a range outside the stripe");
    let within = |&(first, end): &(u64, u64)| ((first - base) as u32, (end - base) as u32);
    let mut descent = Descent { source, base, seq: seq.0, out: lookup };
    let page = source.page(root)?;
    // By far the most frequent case, and it needs no allocation.
    if let [only] = open.as_slice() {
        return descent.visit(root, &page, LEVELS_MAX + 1, &[within(only)]);
    }
    let ranges: Vec<(u32, u32)> = open.iter().map(within).collect();
    descent.visit(root, &page, LEVELS_MAX + 1, &ranges)
}

/// A part of a range as `(first, end)`, and the newest entry of a page that covers it, if any does.
type Tile = (u32, u32, Option<PageEntry>);

/// A lookup on its way down a tree.
struct Descent<'a> {
    source: &'a dyn PageSource,
    base: u64,
    seq: u64,
    out: &'a mut Lookup,
}

impl Descent<'_> {
    /// Looks up `ranges` (ascending) in a page and the pages below it. A child is visited once for all consecutive
    /// ranges that it covers.
    fn visit(&mut self, at: PageRef, page: &Page, level_below: u8, ranges: &[(u32, u32)]) -> Result<()> {
        if page.level >= level_below || page.level > LEVELS_MAX {
            return Err(self.source.contradiction(at));
        }
        if let &[range] = ranges
            && let Some((&entry, a, b)) = page.newest_first(range.0, range.1, self.seq).next()
            && (a, b) == range
        {
            return self.follow(at, page, &entry, &[range]);
        }
        let mut tiles = Vec::new();
        for &range in ranges {
            tile(page, range, self.seq, &mut tiles);
        }
        let mut parts = Vec::new();
        for same in tiles.chunk_by(|a, b| a.2 == b.2) {
            let Some(entry) = same[0].2 else {
                same.iter().for_each(|&(a, b, _)| self.leave(a, b));
                continue;
            };
            parts.clear();
            parts.extend(same.iter().map(|&(a, b, _)| (a, b)));
            self.follow(at, page, &entry, &parts)?;
        }
        Ok(())
    }

    /// Looks up `ranges`, which `entry` of a page covers, where that entry points.
    fn follow(&mut self, at: PageRef, page: &Page, entry: &PageEntry, ranges: &[(u32, u32)]) -> Result<()> {
        if page.level == 0 {
            let place = Location { segment: entry.place.0, offset: entry.place.1 };
            for &(a, b) in ranges {
                self.out.find(self.base + u64::from(a), self.base + u64::from(b), Seq(entry.seq), place);
            }
            return Ok(());
        }
        let child = child_of(self.source, at, page, entry.place)?;
        let below = self.source.page(child)?;
        self.visit(child, &below, page.level, ranges)
    }

    fn leave(&mut self, first: u32, end: u32) {
        self.out.leave(self.base + u64::from(first), self.base + u64::from(end));
    }
}

/// Cuts a range into tiles, in order. The cost is bounded by the number of entries in the page.
fn tile(page: &Page, (first, end): (u32, u32), seq: u64, tiles: &mut Vec<Tile>) {
    let begun = tiles.len();
    let mut open = vec![(first, end)];
    for (entry, a, b) in page.newest_first(first, end, seq) {
        steps::count(1);
        let from = open.partition_point(|gap| gap.1 <= a);
        let count = open[from..].partition_point(|gap| gap.0 < b);
        let touched = from..from + count;
        steps::count(count);
        let (Some(&left), Some(&right)) = (open[touched.clone()].first(), open[touched.clone()].last())
        else {
            continue;
        };
        tiles.extend(open[touched.clone()].iter().map(|gap| (gap.0.max(a), gap.1.min(b), Some(*entry))));
        let rest = [(left.0, a), (b, right.1)];
        open.splice(touched, rest.into_iter().filter(|gap| gap.0 < gap.1));
        if open.is_empty() {
            break;
        }
    }
    tiles.extend(open.into_iter().map(|gap| (gap.0, gap.1, None)));
    tiles[begun..].sort_unstable_by_key(|tile| tile.0);
}

fn child_of(source: &dyn PageSource, at: PageRef, page: &Page, place: (u32, u32)) -> Result<PageRef> {
    page.child(place).ok_or_else(|| source.contradiction(at))
}

/// Calls `each` with every version in the tree of the sectors `within`. A version may come in several pieces, and a
/// piece several times.
///
/// # Errors
/// If a page cannot be read or is damaged.
pub fn versions(
    source: &dyn PageSource,
    root: PageRef,
    within: &Range<u32>,
    each: &mut dyn FnMut(PageEntry),
) -> Result<()> {
    let mut seen = FxHashSet::default();
    let mut waiting = vec![(root, LEVELS_MAX + 1)];
    while let Some((at, parent_level)) = waiting.pop() {
        let page = source.page(at)?;
        if page.level >= parent_level {
            return Err(source.contradiction(at));
        }
        let inside = page.entries.iter().filter_map(|entry| clipped(entry, within));
        if page.level == 0 {
            inside.for_each(&mut *each);
            continue;
        }
        for entry in inside {
            let child = child_of(source, at, &page, entry.place)?;
            if seen.insert(child) {
                waiting.push((child, page.level));
            }
        }
    }
    Ok(())
}

/// The part of an entry that lies in a range, if any does.
#[must_use]
pub fn clipped(entry: &PageEntry, within: &Range<u32>) -> Option<PageEntry> {
    let (a, b) = (entry.lba.max(within.start), entry.end().min(within.end));
    (a < b).then(|| PageEntry { lba: a, sectors: b - a, ..*entry })
}

/// What is visible after the last of `entries`, which are in order of seq; sorted by lba.
#[must_use]
pub fn current_runs(entries: &[PageEntry]) -> Vec<PageEntry> {
    let mut map = HeadMap::default();
    for e in entries {
        map.insert(&Entry {
            volume: bygone_model::VolumeId(0),
            lba: bygone_model::Lba(u64::from(e.lba)),
            sectors: bygone_model::Sectors(u64::from(e.sectors)),
            seq: Seq(e.seq),
            at: Location { segment: e.place.0, offset: e.place.1 },
        });
    }
    map.iter()
        .map(|(lba, sectors, seq, at)| PageEntry {
            lba: lba.0 as u32,
            sectors: sectors.0 as u32,
            seq: seq.0,
            place: (at.segment, at.offset),
        })
        .collect()
}

/// Sorts versions by seq, joins the pieces of each, and removes duplicates.
#[must_use]
pub fn joined(mut pieces: Vec<PageEntry>) -> Vec<PageEntry> {
    pieces.sort_unstable_by_key(|e| (e.seq, e.lba, e.sectors));
    pieces.dedup_by(|piece, before| {
        let same = before.seq == piece.seq && before.place == piece.place && piece.lba <= before.end();
        if same {
            before.sectors = before.end().max(piece.end()) - before.lba;
        }
        same
    });
    pieces
}

#[cfg(test)]
mod tests;

//! Trees of pages: versions of the sectors of one stripe.
//!
//! A tree answers "which is the newest version of these sectors at moment T" by one page per level, however many
//! versions there are. A *delta* tree holds every version of a span of the log; an *image* holds one version of each
//! sector. Both are read by [`lookup`].
//!
//! Both are built by [`build`], slice by slice of the stripe, so that what is in memory at a time is bounded.

mod build;

use std::{ops::Range, sync::Arc};

use bygone_model::Seq;
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};

pub use build::{DeltaBuilder, ImageBuilder, PageSink};

use super::{Lookup, head::HeadMap};
use crate::{
    error::Result,
    format::{
        page::{BLOCK_ALIGN_BYTES, LEVELS_MAX, Page, PageEntry, STRIPE_SECTORS},
        segment::{Entry, Location},
    },
};

/// Where a page (or a table) is, and how what stands there is known to be the one that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "(u32, u64, u32, u32)", into = "(u32, u64, u32, u32)")]
pub struct PageRef {
    /// The number of the checkpoint file.
    pub file: u32,
    /// Length in bytes.
    pub len_bytes: u32,
    /// The byte offset, a multiple of 8.
    pub offset: u64,
    /// Its crc: the number that it begins with.
    pub crc: u32,
}

impl PageRef {
    /// It begins where a page can begin.
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

/// Brings pages from the medium, checked.
pub trait PageSource {
    /// The page at `at`.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    fn page(&self, at: PageRef) -> Result<Arc<Page>>;

    /// Says that the page at `at` contradicts the tree that it stands in.
    fn contradiction(&self, at: PageRef) -> crate::Error;
}

/// Finds the open parts of `lookup` that lie in the stripe that begins at sector `base`, as of `seq`.
///
/// # Errors
/// When a page cannot be read or is damaged.
pub fn lookup(
    source: &dyn PageSource,
    root: PageRef,
    base: u64,
    seq: Seq,
    lookup: &mut Lookup,
) -> Result<()> {
    let in_stripe = |&(first, end): &(u64, u64)| {
        let (a, b) = (first.max(base), end.min(base + STRIPE_SECTORS));
        (a < b).then(|| ((a - base) as u32, (b - base) as u32))
    };
    // By far the most frequent case, and it needs no memory.
    if let [only] = lookup.open.as_slice() {
        return match in_stripe(only) {
            Some(range) => descend(source, root, &*source.page(root)?, None, range, base, seq.0, lookup),
            None => Ok(()),
        };
    }
    let ranges: Vec<(u32, u32)> = lookup.open.iter().filter_map(in_stripe).collect();
    if ranges.is_empty() {
        return Ok(());
    }
    let page = source.page(root)?;
    for range in ranges {
        descend(source, root, &page, None, range, base, seq.0, lookup)?;
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "a recursion's state; a struct would only rename it")]
fn descend(
    source: &dyn PageSource,
    at: PageRef,
    page: &Page,
    parent_level: Option<u8>,
    (first, end): (u32, u32),
    base: u64,
    seq: u64,
    out: &mut Lookup,
) -> Result<()> {
    if parent_level.is_some_and(|parent| page.level >= parent) || page.level > LEVELS_MAX {
        return Err(source.contradiction(at));
    }
    if page.level == 0 {
        for (entry, a, b) in page.newest_first(first, end, seq) {
            let place = Location { segment: entry.place.0, offset: entry.place.1 };
            out.paint(base + u64::from(a), base + u64::from(b), Seq(entry.seq), place);
            if out.open.is_empty() {
                break;
            }
        }
        return Ok(());
    }
    if let Some((entry, a, b)) = page.newest_first(first, end, seq).next()
        && (a, b) == (first, end)
    {
        let child = child_of(source, at, page, entry.place)?;
        return descend(source, child, &*source.page(child)?, Some(page.level), (a, b), base, seq, out);
    }
    // Which child has which part: painted first, so that a child that was superseded is not even read.
    let mut children = Lookup { found: Vec::new(), open: vec![(u64::from(first), u64::from(end))] };
    for (entry, a, b) in page.newest_first(first, end, seq) {
        let place = Location { segment: entry.place.0, offset: entry.place.1 };
        children.paint(u64::from(a), u64::from(b), Seq(entry.seq), place);
        if children.open.is_empty() {
            break;
        }
    }
    for part in children.found {
        let Some((_, place)) = part.found else { continue };
        let child = child_of(source, at, page, (place.segment, place.offset))?;
        let range = (part.lba.0 as u32, (part.lba.0 + part.sectors.0) as u32);
        descend(source, child, &*source.page(child)?, Some(page.level), range, base, seq, out)?;
    }
    Ok(())
}

fn child_of(source: &dyn PageSource, at: PageRef, page: &Page, place: (u32, u32)) -> Result<PageRef> {
    page.child(place).ok_or_else(|| source.contradiction(at))
}

/// Calls `each` with every version of the sectors `within` that is in the tree; the same version may come in several
/// pieces, and a piece several times.
///
/// # Errors
/// When a page cannot be read or is damaged.
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

/// What is visible of `entries` (in order of seq) at their end, in order of lba.
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

/// Sorts versions by seq and joins the pieces of each; what comes several times comes once.
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

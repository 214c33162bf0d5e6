//! Trees of pages: versions of the sectors of one stripe.
//!
//! A tree answers "which is the newest version of these sectors at moment T" by one page per level, however many
//! versions there are. A *delta* tree holds every version of a span of the log; an *image* holds one version of each
//! sector. Both are read by [`lookup`].
//!
//! Deltas are built by a sweep through the versions in order of seq, as in a multi-version B-tree (Becker et al.,
//! 1996): the stripe is tiled by live pages; a page that is full is closed, and the versions that are still
//! current are copied into one or two fresh pages that are valid from then on; a write that covers several pages
//! closes them and begins one. Every page so has all that a lookup in its range and time needs, and the number of
//! pages stays in proportion to the number of versions, whatever a hostile target writes. The levels
//! above are built from the pages below in the very same way.

use std::{collections::BTreeMap, sync::Arc};

use bygone_model::Seq;
use rustc_hash::FxHashSet;

use super::{Lookup, head::HeadMap};
use crate::{
    error::Result,
    format::{
        page::{self, LEVELS_MAX, PAGE_ENTRIES_MAX, Page, PageEntry, STRIPE_SECTORS},
        segment::{Entry, Location},
    },
};

/// Where a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRef {
    /// The number of the checkpoint file.
    pub file: u32,
    /// The byte offset divided by 8.
    pub offset8: u32,
    /// Length in bytes.
    pub len_bytes: u32,
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

/// Takes encoded pages.
pub trait PageSink {
    /// The number of the file that they go to.
    fn file(&self) -> u32;

    /// Appends `bytes` (a multiple of 8) and says where they are.
    ///
    /// # Errors
    /// When they cannot be written.
    fn append(&mut self, bytes: &[u8]) -> Result<PageRef>;
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
    let ranges: Vec<(u32, u32)> = lookup.open.iter().filter_map(in_stripe).collect();
    if ranges.is_empty() {
        return Ok(());
    }
    let page = source.page(root)?;
    for (first, end) in ranges {
        descend(source, root, &page, None, (first, end), base, seq.0, lookup)?;
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
        for (entry, a, b) in newest_first(page, first, end, seq) {
            let place = Location { segment: entry.place.0, offset: entry.place.1 };
            out.paint(base + u64::from(a), base + u64::from(b), Seq(entry.seq), place);
            if out.open.is_empty() {
                break;
            }
        }
        return Ok(());
    }
    // Which child has which part: painted first, so that a child that was superseded is not even read.
    let mut children = Lookup { found: Vec::new(), open: vec![(u64::from(first), u64::from(end))] };
    for (entry, a, b) in newest_first(page, first, end, seq) {
        let place = Location { segment: entry.place.0, offset: entry.place.1 };
        children.paint(u64::from(a), u64::from(b), Seq(entry.seq), place);
        if children.open.is_empty() {
            break;
        }
    }
    for part in children.found {
        let Some((_, place)) = part.found else { continue };
        let child = PageRef { file: at.file, offset8: place.segment, len_bytes: place.offset };
        let range = (part.lba.0 as u32, (part.lba.0 + part.sectors.0) as u32);
        descend(source, child, &*source.page(child)?, Some(page.level), range, base, seq, out)?;
    }
    Ok(())
}

/// The entries of a page that reach into `first .. end` and are not newer than `seq`, newest first, with the part
/// that they share. Deltas are in order of seq, so the newest come last; in images no two entries overlap.
fn newest_first(page: &Page, first: u32, end: u32, seq: u64) -> impl Iterator<Item = (&PageEntry, u32, u32)> {
    page.entries.iter().rev().filter_map(move |entry| {
        let (a, b) = (entry.lba.max(first), entry.end().min(end));
        (entry.seq <= seq && a < b).then_some((entry, a, b))
    })
}

/// Calls `each` with every version in the tree; the same version may come in several pieces, and a piece
/// several times.
///
/// # Errors
/// When a page cannot be read or is damaged.
pub fn versions(source: &dyn PageSource, root: PageRef, each: &mut dyn FnMut(&PageEntry)) -> Result<()> {
    let mut seen = FxHashSet::default();
    let mut waiting = vec![(root, LEVELS_MAX + 1)];
    while let Some((at, parent_level)) = waiting.pop() {
        let page = source.page(at)?;
        if page.level >= parent_level {
            return Err(source.contradiction(at));
        }
        if page.level == 0 {
            page.entries.iter().for_each(&mut *each);
            continue;
        }
        for entry in &page.entries {
            let child = PageRef { file: at.file, offset8: entry.place.0, len_bytes: entry.place.1 };
            if seen.insert(child) {
                waiting.push((child, page.level));
            }
        }
    }
    Ok(())
}

/// Builds a delta tree from versions of one stripe (lba counted from its start), sorted by seq. Versions with
/// one seq must not overlap. `None` when there are none.
///
/// # Errors
/// When a page cannot be written.
pub fn build_delta(sink: &mut dyn PageSink, versions: &[PageEntry]) -> Result<Option<PageRef>> {
    let mut level = 0;
    let mut below = sweep(sink, level, versions)?;
    while below.len() > 1 {
        level += 1;
        below.sort_unstable_by_key(|page| (page.seq, page.lba));
        below = sweep(sink, level, &below)?;
    }
    Ok(below.first().map(|root| root_of(sink, root)))
}

/// Builds an image from runs that do not overlap, in order of lba. `None` when there are none.
///
/// # Errors
/// When a page cannot be written.
pub fn build_image(sink: &mut dyn PageSink, runs: &[PageEntry]) -> Result<Option<PageRef>> {
    let mut level = 0;
    let mut entries = write_run_pages(sink, level, runs)?;
    while entries.len() > 1 {
        level += 1;
        entries = write_run_pages(sink, level, &entries)?;
    }
    Ok(entries.first().map(|root| root_of(sink, root)))
}

/// One level of an image.
fn write_run_pages(sink: &mut dyn PageSink, level: u8, entries: &[PageEntry]) -> Result<Vec<PageEntry>> {
    let range =
        |chunk: &[PageEntry]| (chunk.first().map_or(0, |e| e.lba), chunk.last().map_or(0, PageEntry::end));
    entries.chunks(PAGE_ENTRIES_MAX).map(|chunk| write_page(sink, level, chunk, range(chunk), 0)).collect()
}

fn root_of(sink: &dyn PageSink, entry: &PageEntry) -> PageRef {
    PageRef { file: sink.file(), offset8: entry.place.0, len_bytes: entry.place.1 }
}

/// Writes one page; returns the entry with which the level above points to it.
fn write_page(
    sink: &mut dyn PageSink,
    level: u8,
    entries: &[PageEntry],
    (first, end): (u32, u32),
    since: u64,
) -> Result<PageEntry> {
    let mut bytes = Vec::with_capacity(page::PAGE_BYTES_MAX);
    page::encode(level, entries, sink.file(), &mut bytes);
    let at = sink.append(&bytes)?;
    Ok(PageEntry { lba: first, sectors: end - first, seq: since, place: (at.offset8, at.len_bytes) })
}

/// A page that still takes versions. Its range is its key in the map and `end`.
struct LivePage {
    end: u32,
    since: u64,
    entries: Vec<PageEntry>,
}

/// One level of a delta tree: tiles `versions` into pages and returns the entries that point to them.
fn sweep(sink: &mut dyn PageSink, level: u8, versions: &[PageEntry]) -> Result<Vec<PageEntry>> {
    let mut done = Vec::new();
    let mut live = BTreeMap::new();
    live.insert(0_u32, LivePage { end: STRIPE_SECTORS as u32, since: 0, entries: Vec::new() });
    for version in versions {
        let (first, end) = (version.lba, version.end());
        let start = live.range(..=first).next_back().map_or(0, |(&k, _)| k);
        let touched: Vec<(u32, u32)> = live.range(start..end).map(|(&k, p)| (k, p.end)).collect();
        let whole: Vec<(u32, u32)> =
            touched.iter().copied().filter(|&(a, b)| first <= a && b <= end).collect();
        if let (Some(&(merged_first, _)), Some(&(last, merged_end))) = (whole.first(), whole.last())
            && merged_first != last
        {
            for (key, _) in &whole {
                if let Some(page) = live.remove(key) {
                    close(sink, level, *key, &page, version.seq, &mut done)?;
                }
            }
            let entry = clipped(version, merged_first, merged_end);
            live.insert(merged_first, LivePage { end: merged_end, since: version.seq, entries: vec![entry] });
        }
        for (key, page_end) in touched {
            if whole.len() > 1 && first <= key && page_end <= end {
                continue;
            }
            let Some(page) = live.get_mut(&key) else { continue };
            page.entries.push(clipped(version, key, page_end));
            if page.entries.len() == PAGE_ENTRIES_MAX
                && let Some(full) = live.remove(&key)
            {
                close(sink, level, key, &full, version.seq.saturating_add(1), &mut done)?;
                renew(&mut live, key, &full, version.seq.saturating_add(1));
            }
        }
    }
    for (key, page) in &live {
        close(sink, level, *key, page, u64::MAX, &mut done)?;
    }
    Ok(done)
}

fn clipped(entry: &PageEntry, first: u32, end: u32) -> PageEntry {
    let (a, b) = (entry.lba.max(first), entry.end().min(end));
    PageEntry { lba: a, sectors: b - a, ..*entry }
}

/// Writes a page that is complete, unless it is empty or was never valid.
fn close(
    sink: &mut dyn PageSink,
    level: u8,
    first: u32,
    page: &LivePage,
    until: u64,
    done: &mut Vec<PageEntry>,
) -> Result<()> {
    if !page.entries.is_empty() && page.since < until {
        done.push(write_page(sink, level, &page.entries, (first, page.end), page.since)?);
    }
    Ok(())
}

/// Begins one or two pages with what is still current in a page that is full.
fn renew(live: &mut BTreeMap<u32, LivePage>, first: u32, full: &LivePage, since: u64) {
    let mut current = current_runs(&full.entries);
    // A page begins at most half full, so that the next split is paid for by as many new versions.
    if current.len() <= PAGE_ENTRIES_MAX / 2 {
        current.sort_unstable_by_key(|e| (e.seq, e.lba));
        live.insert(first, LivePage { end: full.end, since, entries: current });
        return;
    }
    let mut upper = current.split_off(current.len() / 2);
    let middle = upper.first().map_or(full.end, |e| e.lba);
    current.sort_unstable_by_key(|e| (e.seq, e.lba));
    upper.sort_unstable_by_key(|e| (e.seq, e.lba));
    live.insert(first, LivePage { end: middle, since, entries: current });
    live.insert(middle, LivePage { end: full.end, since, entries: upper });
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
    let mut out: Vec<PageEntry> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match out.last_mut() {
            Some(last) if last.seq == piece.seq && last.place == piece.place && piece.lba <= last.end() => {
                last.sectors = last.end().max(piece.end()) - last.lba;
            }
            _ => out.push(piece),
        }
    }
    out
}

#[cfg(test)]
mod tests;

//! Builds trees from the bottom up.
//!
//! A delta is built by a sweep through the versions in order of seq, as in a multi-version B-tree (Becker et al.,
//! 1996). Live pages tile a slice of the stripe. A page that is full is closed, and the versions in it that are still
//! current are copied into new pages, each at most half full, which are valid from then on. A write that covers several
//! whole pages closes them and begins one new page. So each page has everything that a lookup in its range and time
//! needs, and the number of pages is proportional to the number of versions, whatever a hostile target writes. The
//! levels above are built from the pages below in the same way, with the whole stripe as one slice.

use std::{collections::BTreeMap, ops::Range};

use super::{PageRef, clipped, current_runs};
use crate::{
    error::Result,
    format::page::{self, PageEntry, STRIPE_SECTORS},
};

/// The pages of one level that were written, and the entries that point to them from the level above.
#[derive(Debug, Default)]
struct Below {
    pages: Vec<PageRef>,
    /// Their `place` is an index into `pages`.
    entries: Vec<PageEntry>,
}

impl Below {
    fn add(&mut self, page: PageRef, range: &Range<u32>, since: u64) {
        let place = (self.pages.len() as u32, 0);
        self.pages.push(page);
        let sectors = range.end - range.start;
        self.entries.push(PageEntry { lba: range.start, sectors, seq: since, place });
    }

    /// The only page of the highest level, if there is one.
    fn root(&self) -> Option<PageRef> {
        self.pages.first().copied()
    }
}

/// Writes encoded pages.
pub trait PageSink {
    /// The number of the file to which they are written.
    fn file(&self) -> u32;

    /// Appends a page or table, padded to a multiple of 8 bytes, and returns a reference to it.
    ///
    /// # Errors
    /// If it cannot be written.
    fn append(&mut self, bytes: &[u8]) -> Result<PageRef>;

    /// The most entries that a page of a level gets, at least 4. Tests set fewer than fit, to get many pages from
    /// little data.
    fn entries_max(&self, level: u8) -> usize {
        page::entries_max(level)
    }
}

/// The most entries with which a page of a delta begins: half of what fits, so that as many new versions pay for the
/// next split.
fn begin_entries_max(sink: &dyn PageSink, level: u8) -> usize {
    sink.entries_max(level) / 2
}

/// Builds a delta tree of one stripe.
#[derive(Debug, Default)]
pub struct DeltaBuilder {
    /// The leaves written so far.
    below: Below,
}

impl DeltaBuilder {
    /// Adds the versions of a slice of the stripe, which are sorted by seq and inside the slice. Versions with the same
    /// seq must not overlap, nor must slices. `before` is what was visible before the first version, sorted by sector,
    /// as far as the tree is to contain it.
    ///
    /// # Errors
    /// If a page cannot be written.
    pub fn slice(
        &mut self,
        sink: &mut dyn PageSink,
        slice: &Range<u32>,
        before: &[PageEntry],
        versions: &[PageEntry],
    ) -> Result<()> {
        sweep(sink, 0, slice, (before, versions), &[], &mut self.below)
    }

    /// Writes the levels above the leaves; returns the root, or `None` if there was no version.
    ///
    /// # Errors
    /// If a page cannot be written.
    pub fn finish(self, sink: &mut dyn PageSink) -> Result<Option<PageRef>> {
        let mut level = 0;
        let mut below = self.below;
        while below.pages.len() > 1 {
            level += 1;
            below.entries.sort_unstable_by_key(|page| (page.seq, page.lba));
            // The pages that are valid from the start tile the slices, so they are disjoint and, here, in order of
            // sector.
            let entries = below.entries.split_at(below.entries.partition_point(|page| page.seq == 0));
            let mut above = Below::default();
            sweep(sink, level, &(0..STRIPE_SECTORS as u32), entries, &below.pages, &mut above)?;
            below = above;
        }
        Ok(below.root())
    }
}

/// Builds an image of one stripe.
#[derive(Debug, Default)]
pub struct ImageBuilder {
    /// The runs for the next leaf.
    waiting: Vec<PageEntry>,
    /// The leaves written so far.
    below: Below,
    runs: u32,
}

impl ImageBuilder {
    /// Adds runs in order of lba. Runs must not overlap, also between calls.
    ///
    /// # Errors
    /// If a page cannot be written.
    pub fn add(&mut self, sink: &mut dyn PageSink, runs: &[PageEntry]) -> Result<()> {
        for run in runs {
            self.waiting.push(*run);
            if self.waiting.len() == sink.entries_max(0) {
                write_run_page(sink, 0, &self.waiting, &[], &mut self.below)?;
                self.waiting.clear();
            }
        }
        self.runs += runs.len() as u32;
        Ok(())
    }

    /// Writes the rest of the tree; returns the root (`None` if there was no run) and the number of runs.
    ///
    /// # Errors
    /// If a page cannot be written.
    pub fn finish(mut self, sink: &mut dyn PageSink) -> Result<(Option<PageRef>, u32)> {
        if !self.waiting.is_empty() {
            write_run_page(sink, 0, &self.waiting, &[], &mut self.below)?;
        }
        let mut level = 0;
        while self.below.pages.len() > 1 {
            level += 1;
            let mut above = Below::default();
            for chunk in self.below.entries.chunks(sink.entries_max(level)) {
                write_run_page(sink, level, chunk, &self.below.pages, &mut above)?;
            }
            self.below = above;
        }
        Ok((self.below.root(), self.runs))
    }
}

fn write_run_page(
    sink: &mut dyn PageSink,
    level: u8,
    runs: &[PageEntry],
    children: &[PageRef],
    done: &mut Below,
) -> Result<()> {
    let range = runs.first().map_or(0, |e| e.lba)..runs.last().map_or(0, PageEntry::end);
    done.add(write_page(sink, level, runs, children)?, &range, 0);
    Ok(())
}

/// Writes one page. If it is an inner one, its entries point to some of `children`.
fn write_page(
    sink: &mut dyn PageSink,
    level: u8,
    entries: &[PageEntry],
    children: &[PageRef],
) -> Result<PageRef> {
    let mut bytes = Vec::with_capacity(page::PAGE_BYTES_MAX);
    page::encode(level, entries, children, sink.file(), &mut bytes);
    sink.append(&bytes)
}

/// A page that still takes versions. Its first sector is its key in the map.
struct LivePage {
    /// The sector after its last one.
    end: u32,
    /// The seq from which on it is valid; 0: from the start.
    since: u64,
    entries: Vec<PageEntry>,
}

/// Builds one level of a slice of a delta: distributes `before` and `versions` over pages, which it adds to `done`. The
/// entries of an inner level point to `children`.
fn sweep(
    sink: &mut dyn PageSink,
    level: u8,
    slice: &Range<u32>,
    (before, versions): (&[PageEntry], &[PageEntry]),
    children: &[PageRef],
    done: &mut Below,
) -> Result<()> {
    let mut live = BTreeMap::new();
    live.insert(slice.start, LivePage { end: slice.end, since: 0, entries: Vec::new() });
    let mut end = slice.end;
    for (i, entries) in before.chunks(begin_entries_max(sink, level)).enumerate().rev() {
        // The first page also covers the gap before its entries, and each page the gap up to the next one.
        let first = if i == 0 { slice.start } else { entries[0].lba };
        live.insert(first, LivePage { end, since: 0, entries: in_order(entries.to_vec()) });
        end = first;
    }
    for version in versions {
        let (first, end) = (version.lba, version.end());
        let start = live.range(..=first).next_back().map_or(slice.start, |(&k, _)| k);
        let touched: Vec<Range<u32>> = live.range(start..end).map(|(&k, p)| k..p.end).collect();
        let is_whole = |page: &Range<u32>| first <= page.start && page.end <= end;
        let whole: Vec<&Range<u32>> = touched.iter().filter(|page| is_whole(page)).collect();
        let merged = whole.len() > 1;
        if let (true, Some(first_page), Some(last_page)) = (merged, whole.first(), whole.last()) {
            for page in &whole {
                if let Some(old) = live.remove(&page.start) {
                    close(sink, level, (page.start, &old), version.seq, children, done)?;
                }
            }
            let tile = first_page.start..last_page.end;
            let entries = clipped(version, &tile).into_iter().collect();
            live.insert(tile.start, LivePage { end: tile.end, since: version.seq, entries });
        }
        for tile in touched.iter().filter(|tile| !(merged && is_whole(tile))) {
            let Some(page) = live.get_mut(&tile.start) else { continue };
            page.entries.extend(clipped(version, tile));
            assert!(page.entries.len() <= sink.entries_max(level), "a page begins with room for more");
            if page.entries.len() == sink.entries_max(level)
                && let Some(full) = live.remove(&tile.start)
            {
                // The next version may have the same seq, so the new pages are valid from this seq on, not from the
                // next.
                close(sink, level, (tile.start, &full), version.seq, children, done)?;
                split(&mut live, begin_entries_max(sink, level), tile.start, &full, version.seq);
            }
        }
    }
    for (first, page) in &live {
        close(sink, level, (*first, page), u64::MAX, children, done)?;
    }
    Ok(())
}

/// Writes a page that is valid until record `until`, unless it is empty or was never valid.
fn close(
    sink: &mut dyn PageSink,
    level: u8,
    (first, page): (u32, &LivePage),
    until: u64,
    children: &[PageRef],
    done: &mut Below,
) -> Result<()> {
    if !page.entries.is_empty() && page.since < until {
        let written = write_page(sink, level, &page.entries, children)?;
        done.add(written, &(first..page.end), page.since);
    }
    Ok(())
}

/// Begins pages with what is still current in a full page. Newer entries that cut older ones into pieces may leave more
/// current runs than the page has entries, but no more than twice as many.
fn split(live: &mut BTreeMap<u32, LivePage>, begin_max: usize, first: u32, full: &LivePage, since: u64) {
    let current = current_runs(&full.entries);
    let pages = current.len().div_ceil(begin_max).max(1);
    let mut end = full.end;
    for (i, entries) in current.chunks(current.len().div_ceil(pages).max(1)).enumerate().rev() {
        let start = if i == 0 { first } else { entries[0].lba };
        live.insert(start, LivePage { end, since, entries: in_order(entries.to_vec()) });
        end = start;
    }
}

/// Sorts entries as a page of a delta has them.
fn in_order(mut entries: Vec<PageEntry>) -> Vec<PageEntry> {
    entries.sort_unstable_by_key(|e| (e.seq, e.lba));
    entries
}

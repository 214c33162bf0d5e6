//! Writes the trees of one stripe for a new checkpoint.
//!
//! The new versions become a delta. It is merged with older deltas that are not much larger, so the deltas' sizes grow
//! geometrically with age and their number stays logarithmic. Once the deltas have half as many versions as the image
//! below them, a new image is written, on which the next checkpoint builds. The delta then also takes what was visible
//! before it, so that it alone answers for every moment of its span. So the cost of a read depends neither on the
//! length of the history nor on the moment.
//!
//! A stripe is written slice by slice, so that memory stays bounded however scattered the writes were (I8).

use std::{ops::Range, sync::Arc};

use super::{Contents, Version, Writer};
use crate::{
    caller::Caller,
    error::{Error, Result},
    format::{
        checkpoint::{Row, TreeRef},
        page::{Page, PageEntry, STRIPE_SECTORS},
    },
    index::{
        checkpoint::IndexFiles,
        tree::{self, DeltaBuilder, ImageBuilder, PageRef, PageSource},
    },
};

/// A new image is written once the deltas hold this many versions, and half as many as the image.
const IMAGE_ENTRIES_MIN: u64 = 512;

/// Writes the trees of a stripe for the checkpoint of `contents`. `new` are its new versions, in order of seq; `row` is
/// what the previous checkpoint left to build on.
pub(super) fn update(
    out: &mut Writer<'_>,
    index: &IndexFiles,
    row: Row,
    new: &[Version],
    contents: &Contents,
) -> Result<Row> {
    let (added, before) = (new.len() as u64, row.before.map_or(0, |image| u64::from(image.entries)));
    let deltas: u64 = row.deltas.iter().map(|delta| u64::from(delta.entries)).sum();
    if added + deltas >= (before / 2).max(IMAGE_ENTRIES_MIN) {
        let all = added + deltas + before;
        renew(out, index, row, new, slices(all, contents.at_once), contents)
    } else {
        merge(out, index, row, new, contents)
    }
}

/// Puts a delta of `new` on top of a row whose trees are damaged and cannot be rebuilt. The trees are kept: what they
/// still have can be read, and reading the rest fails.
pub(super) fn keep(
    out: &mut Writer<'_>,
    index: &IndexFiles,
    row: Row,
    new: &[Version],
    contents: &Contents,
) -> Result<Row> {
    let source = Unkept(index, out.caller);
    // Deltas that can be read are merged here too, so that their number stays logarithmic.
    let is_whole = |delta: &TreeRef| match tree::versions(&source, delta.root, &(0..u32::MAX), &mut |_| {}) {
        Ok(()) => Ok(true),
        Err(error) if error.is_index_damage() => Ok(false),
        Err(error) => Err(error),
    };
    merge_while(&is_whole, out, index, row, new, contents)
}

/// Puts a delta of `new` on top of the row, merged with the newest of its deltas that are not much larger.
fn merge(
    out: &mut Writer<'_>,
    index: &IndexFiles,
    row: Row,
    new: &[Version],
    contents: &Contents,
) -> Result<Row> {
    merge_while(&|_| Ok(true), out, index, row, new, contents)
}

/// The same up to the first delta for which `may_merge` returns false.
fn merge_while(
    may_merge: &dyn Fn(&TreeRef) -> Result<bool>,
    out: &mut Writer<'_>,
    index: &IndexFiles,
    mut row: Row,
    new: &[Version],
    contents: &Contents,
) -> Result<Row> {
    let (mut low, mut entries, mut merged) = (contents.start, new.len() as u64, 0);
    while let Some(older) = row.deltas.get(merged)
        && u64::from(older.entries) <= 2 * entries
        && may_merge(older)?
    {
        entries += u64::from(older.entries);
        low = older.low;
        merged += 1;
    }
    let older: Vec<TreeRef> = row.deltas.drain(..merged).collect();
    let source = Unkept(index, out.caller);
    let mut delta = DeltaBuilder::default();
    for slice in slices(entries, contents.at_once) {
        let mut versions = versions_of(&source, &older, &slice)?;
        versions.extend(inside(new, &slice));
        delta.slice(out, &slice, &[], &tree::joined(versions))?;
    }
    if let Some(root) = delta.finish(out)? {
        let entries = u32::try_from(entries).unwrap_or(u32::MAX);
        row.deltas.insert(0, TreeRef { root, entries, low, high: contents.end });
    }
    Ok(row)
}

/// Writes a row that needs none of the previous trees: a delta of `new` and what was visible before it, and an image of
/// the end.
fn renew(
    out: &mut Writer<'_>,
    index: &IndexFiles,
    old: Row,
    new: &[Version],
    slices: impl Iterator<Item = Range<u32>>,
    contents: &Contents,
) -> Result<Row> {
    let below: Vec<TreeRef> = old.before.into_iter().chain(old.deltas).collect();
    let source = Unkept(index, out.caller);
    let (mut delta, mut image) = (DeltaBuilder::default(), ImageBuilder::default());
    let mut entries = 0;
    for slice in slices {
        let mut visible = tree::current_runs(&tree::joined(versions_of(&source, &below, &slice)?));
        let newest = tree::joined(inside(new, &slice).collect());
        delta.slice(out, &slice, &visible, &newest)?;
        entries += visible.len() + newest.len();
        visible.extend(newest);
        image.add(out, &tree::current_runs(&visible))?;
    }
    let mut row = Row { stripe: old.stripe, ..Row::default() };
    if let (Some(delta), (Some(image), runs)) = (delta.finish(out)?, image.finish(out)?) {
        let (low, high) = (contents.start, contents.end);
        row.deltas =
            vec![TreeRef { root: delta, entries: u32::try_from(entries).unwrap_or(u32::MAX), low, high }];
        row.after = Some(TreeRef { root: image, entries: runs, low: high, high });
    }
    Ok(row)
}

/// The parts of versions that lie in a slice.
pub(super) fn inside(versions: &[Version], slice: &Range<u32>) -> impl Iterator<Item = PageEntry> {
    versions.iter().filter_map(|version| tree::clipped(&version.2, slice))
}

/// Cuts a stripe into slices of equal width, each with about `at_once` of its versions if they are spread evenly.
pub(super) fn slices(versions: u64, at_once: usize) -> impl Iterator<Item = Range<u32>> {
    let count = versions.div_ceil(at_once.max(1) as u64).clamp(1, STRIPE_SECTORS);
    let border = move |i: u64| (STRIPE_SECTORS * i / count) as u32;
    (0..count).map(move |i| border(i)..border(i + 1))
}

/// The versions of a slice in `trees`, in any order and possibly in pieces.
fn versions_of(source: &dyn PageSource, trees: &[TreeRef], slice: &Range<u32>) -> Result<Vec<PageEntry>> {
    let mut versions = Vec::new();
    for of in trees {
        tree::versions(source, of.root, slice, &mut |version| versions.push(version))?;
    }
    Ok(versions)
}

/// Reads pages past the cache, because pages that are read once must not evict those that readers need.
struct Unkept<'a>(&'a IndexFiles, Caller<'a>);

impl PageSource for Unkept<'_> {
    fn page(&self, at: PageRef) -> Result<Arc<Page>> {
        self.1.check()?;
        self.0.cached_page(at).map_or_else(|| self.0.read_page(at), Ok)
    }
    fn contradiction(&self, at: PageRef) -> Error {
        self.0.contradiction(at)
    }
}

#[cfg(test)]
mod tests {
    use bygone_model::{Lba, Micros, Sectors, Seq, VolumeId};

    use super::*;
    use crate::{
        env::{Dir, RealDir},
        error::{Damage, Place},
        format::{
            page,
            segment::{Entry, Location},
        },
        index::{
            Lookup,
            cache::PageCache,
            checkpoint::{Checkpoint, layers},
            compaction,
        },
    };

    #[test]
    fn i8_slices_tile_the_stripe_and_are_narrow_enough() {
        for (versions, at_once) in [(0, 7), (1, 7), (7, 7), (8, 7), (1 << 20, 1 << 17), (1 << 23, 1), (9, 0)]
        {
            let slices: Vec<_> = slices(versions, at_once).collect();
            assert_eq!(slices.first().map(|slice| slice.start), Some(0));
            assert_eq!(slices.last().map(|slice| slice.end), Some(STRIPE_SECTORS as u32));
            assert!(slices.windows(2).all(|pair| pair[0].end == pair[1].start && !pair[0].is_empty()));
            let widest = slices.iter().map(|slice| slice.len() as u64).max().unwrap_or(0);
            assert!((widest - 1) * versions <= at_once.max(1) as u64 * STRIPE_SECTORS || widest == 1);
        }
    }

    const BLOCKS: u64 = 2000;

    /// Writes a checkpoint after `previous`; in its span the blocks `written` were written, one after the other.
    fn checkpoint(
        index: &IndexFiles,
        previous: Option<&Checkpoint>,
        written: impl IntoIterator<Item = u64>,
    ) -> Checkpoint {
        let start = previous.map_or(0, |before| before.footer.end.0);
        let entries: Vec<Entry> = written
            .into_iter()
            .zip(start + 1..)
            .map(|(block, seq)| Entry {
                volume: VolumeId(0),
                lba: Lba(block * 8),
                sectors: Sectors(8),
                seq: Seq(seq),
                at: Location { segment: 1, offset: seq as u32 * 8 },
            })
            .collect();
        let end = Seq(start + entries.len() as u64);
        let contents = Contents {
            term: 1,
            start: Seq(start),
            end,
            end_time: Micros(0),
            versions: entries.iter().collect(),
            at_once: 700,
            page_entries_max: usize::MAX,
            events: Vec::new(),
            segments: Vec::new(),
            catalog: Arc::default(),
        };
        compaction::write(index, previous, contents, None, Caller::default(), &|| Ok(())).unwrap()
    }

    const ID: [u8; 16] = *b"a log for a test";

    #[test]
    fn a_moment_between_two_images_is_answered_by_one_tree() {
        let folder = tempfile::tempdir().unwrap();
        let dir: Arc<dyn Dir> = Arc::new(RealDir::new(folder.path()));
        let index = IndexFiles::new(dir.clone(), ID, PageCache::new(1 << 20)).unwrap();
        let all = checkpoint(&index, None, 0..BLOCKS);
        // A third of the blocks is too few for a new image, so they stay a delta on top of the old one.
        let some = checkpoint(&index, Some(&all), (0..BLOCKS / 3).map(|i| i * 3));
        let more = checkpoint(&index, Some(&some), (0..BLOCKS).map(|i| i * 7919 % BLOCKS));
        let row = |of: &Checkpoint| index.table(of.tables(VolumeId(0))[0].1).unwrap().row(0).unwrap().clone();
        assert_eq!(layers(&row(&some), some.footer.end).count(), 2);

        let (begin, end) = (some.footer.end.0, more.footer.end.0);
        for seq in [begin + 1, begin.midpoint(end), end] {
            assert_eq!(layers(&row(&more), Seq(seq)).count(), 1);
            let mut lookup = Lookup::new(Lba(0), Sectors(BLOCKS * 8));
            index.resolve(&more, VolumeId(0), Seq(seq), &mut lookup).unwrap();
            let found = lookup.finish();
            let mut expected: Vec<u64> = (1..=BLOCKS).collect();
            (0..BLOCKS / 3).for_each(|i| expected[i as usize * 3] = BLOCKS + i + 1);
            (begin + 1..=seq).for_each(|seq| expected[((seq - begin - 1) * 7919 % BLOCKS) as usize] = seq);
            let since: Vec<u64> = found.iter().map(|part| part.found.map_or(0, |(seq, _)| seq.0)).collect();
            assert_eq!(since, expected);
            assert!(
                found.iter().zip(0..).all(|(part, block)| part.lba.0 == block * 8 && part.sectors.0 == 8)
            );
        }
    }

    #[test]
    fn a_page_that_stands_in_the_place_of_another_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let dir: Arc<dyn Dir> = Arc::new(RealDir::new(folder.path()));
        let index = || IndexFiles::new(dir.clone(), ID, PageCache::new(1 << 20)).unwrap();
        let made = checkpoint(&index(), None, 0..BLOCKS);
        let path = folder.path().join(made.name.file_name());
        let mut bytes = std::fs::read(&path).unwrap();
        let full = page::PAGE_BYTES_MAX;
        let is_leaf = |at: &usize| {
            let page = bytes.get(*at..at + full).and_then(|bytes| page::decode(bytes, made.name.number));
            page.is_some_and(|page| page.level == 0)
        };
        let leaves: Vec<usize> = (0..bytes.len()).step_by(8).filter(is_leaf).collect();
        // A misdirected or lost write: all checksums match.
        let [.., other, wanted] = leaves[..] else { unreachable!() };
        bytes.copy_within(other..other + full, wanted);
        std::fs::write(&path, &bytes).unwrap();
        let mut lookup = Lookup::new(Lba(0), Sectors(BLOCKS * 8));
        let told = index().resolve(&made, VolumeId(0), made.footer.end, &mut lookup);
        let place = Place { file: made.name.file_name(), offset: wanted as u64 };
        assert!(
            matches!(&told, Err(Error::Damaged { place: at, damage: Damage::Misplaced }) if *at == place),
            "{told:?}"
        );
    }
}

use std::{cell::RefCell, collections::BTreeSet};

use bygone_model::{Lba, Sectors};
use proptest::prelude::*;

use super::*;
use crate::{Error, error::Damage, format::page};

#[derive(Default)]
struct Memory(RefCell<Vec<u8>>);

impl PageSink for Memory {
    fn file(&self) -> u32 {
        1
    }
    fn append(&mut self, bytes: &[u8]) -> Result<PageRef> {
        let mut all = self.0.borrow_mut();
        let at = page::place_of(bytes, 1, all.len() as u64);
        all.extend_from_slice(bytes);
        Ok(at)
    }
}

impl PageSource for Memory {
    fn page(&self, at: PageRef) -> Result<Arc<Page>> {
        let start = at.offset as usize;
        let bytes = &self.0.borrow()[start..start + at.len_bytes as usize];
        page::decode(bytes, 1).map(Arc::new).ok_or_else(|| self.contradiction(at))
    }
    fn contradiction(&self, at: PageRef) -> Error {
        Error::damaged("memory", at.offset, Damage::Inconsistent)
    }
}

fn build_delta(memory: &mut Memory, versions: &[PageEntry]) -> PageRef {
    built_of(memory, &slices(&BTreeSet::new()), versions)
}

/// A delta built slice by slice.
fn built_of(memory: &mut Memory, slices: &[Range<u32>], versions: &[PageEntry]) -> PageRef {
    let mut builder = DeltaBuilder::default();
    for slice in slices {
        let inside: Vec<_> = versions.iter().filter_map(|v| clipped(v, slice)).collect();
        builder.slice(memory, slice, &[], &inside).unwrap();
    }
    builder.finish(memory).unwrap().unwrap()
}

fn version(lba: u32, sectors: u32, seq: u64) -> PageEntry {
    PageEntry { lba, sectors, seq, place: (1, seq as u32 * 8) }
}

/// The seq that is visible in a sector, by a linear search.
fn model(versions: &[PageEntry], sector: u32, seq: u64) -> u64 {
    let covers = |v: &&PageEntry| v.lba <= sector && sector < v.end() && v.seq <= seq;
    versions.iter().filter(covers).map(|v| v.seq).max().unwrap_or(0)
}

fn check(memory: &Memory, root: PageRef, versions: &[PageEntry], first: u32, sectors: u32, seq: u64) {
    let mut found = Lookup::new(Lba(u64::from(first)), Sectors(u64::from(sectors)));
    lookup(memory, root, 0, Seq(seq), &mut found).unwrap();
    let mut at = u64::from(first);
    for f in found.finish() {
        assert_eq!(f.lba.0, at);
        for sector in at..at + f.sectors.0 {
            let expected = model(versions, sector as u32, seq);
            assert_eq!(f.found.map_or(0, |(s, _)| s.0), expected, "sector {sector} as of {seq}");
        }
        at += f.sectors.0;
    }
    assert_eq!(at, u64::from(first) + u64::from(sectors));
}

fn slices(borders: &BTreeSet<u32>) -> Vec<Range<u32>> {
    let firsts = std::iter::once(0).chain(borders.iter().copied());
    firsts.zip(borders.iter().copied().chain([STRIPE_SECTORS as u32])).map(|(a, b)| a..b).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_delta_answers_for_every_moment(
        writes in prop::collection::vec((0..600_u32, prop_oneof![8 => 1..16_u32, 1 => 1..600_u32]), 1..1500),
        asks in prop::collection::vec((0..600_u32, 1..64_u32, 0..1600_u64), 30),
        borders in prop::collection::btree_set(1..700_u32, 0..4),
    ) {
        let versions: Vec<_> = writes.iter().enumerate().map(|(i, &(lba, n))| version(lba, n, i as u64 + 1)).collect();
        let mut memory = Memory::default();
        let root = built_of(&mut memory, &slices(&borders), &versions);
        for (first, sectors, seq) in asks {
            check(&memory, root, &versions, first, sectors, seq);
        }
    }

    #[test]
    fn a_delta_that_knows_what_was_before_answers_alone(
        writes in prop::collection::vec((0..6000_u32, prop_oneof![8 => 1..16_u32, 1 => 1..600_u32]), 1..1500),
        asks in prop::collection::vec((0..6000_u32, 1..64_u32, 0..1500_usize), 30),
        borders in prop::collection::btree_set(1..7000_u32, 0..4),
        low in 0..1500_usize,
    ) {
        let versions: Vec<_> = writes.iter().enumerate().map(|(i, &(lba, n))| version(lba, n, i as u64 + 1)).collect();
        let (before, after) = versions.split_at(low.min(versions.len()));
        let mut memory = Memory::default();
        let mut builder = DeltaBuilder::default();
        for slice in slices(&borders) {
            let inside = |all: &[PageEntry]| all.iter().filter_map(|v| clipped(v, &slice)).collect::<Vec<_>>();
            builder.slice(&mut memory, &slice, &current_runs(&inside(before)), &inside(after)).unwrap();
        }
        let root = builder.finish(&mut memory).unwrap().unwrap();
        for (first, sectors, seq) in asks {
            check(&memory, root, &versions, first, sectors, before.len().max(seq) as u64);
        }
    }

    #[test]
    fn joined_versions_are_the_original_ones(
        writes in prop::collection::vec((0..600_u32, 1..100_u32), 1..900),
        borders in prop::collection::btree_set(1..700_u32, 0..4),
        within in (0..600_u32, 1..700_u32),
    ) {
        let originals: Vec<_> = writes.iter().enumerate().map(|(i, &(lba, n))| version(lba, n, i as u64 + 1)).collect();
        let mut memory = Memory::default();
        let root = built_of(&mut memory, &slices(&borders), &originals);
        let all = 0..STRIPE_SECTORS as u32;
        for within in [all, within.0..within.0 + within.1] {
            let mut pieces = Vec::new();
            versions(&memory, root, &within, &mut |e| pieces.push(e)).unwrap();
            let expected: Vec<_> = originals.iter().filter_map(|v| clipped(v, &within)).collect();
            prop_assert_eq!(joined(pieces), expected);
        }
    }
}

#[test]
fn a_page_that_is_full_between_two_entries_of_one_seq_hides_neither() {
    // A split leaf becomes two entries of one seq in the page above; sooner or later the first of them fills that page.
    let versions: Vec<_> = (1..=16_000).map(|seq| version((seq - 1) * 8, 8, u64::from(seq))).collect();
    let mut memory = Memory::default();
    let root = build_delta(&mut memory, &versions);
    for v in &versions {
        let mut found = Lookup::new(Lba(u64::from(v.lba)), Sectors(8));
        lookup(&memory, root, 0, Seq(v.seq), &mut found).unwrap();
        let found: Vec<_> = found.finish().iter().map(|f| f.found.map(|(seq, _)| seq.0)).collect();
        assert_eq!(found, [Some(v.seq)]);
    }
}

#[test]
fn an_image_finds_every_run_and_no_gap() {
    let runs: Vec<_> = (0..5000_u32).map(|i| version(i * 16, 8, u64::from(i) % 77 + 1)).collect();
    let mut memory = Memory::default();
    let mut builder = ImageBuilder::default();
    for part in runs.chunks(777) {
        builder.add(&mut memory, part).unwrap();
    }
    let (root, count) = builder.finish(&mut memory).unwrap();
    assert_eq!(count, 5000);
    let root = root.unwrap();
    for first in (0..80_000).step_by(997) {
        check(&memory, root, &runs, first, 50, 1000);
    }
}

/// Each written sector cuts the run below it once more, so a page full of such sectors has twice as many current runs.
#[test]
fn a_run_that_is_cut_into_pieces_sector_by_sector_fits_its_pages() {
    for (step, gap) in [(2, 0), (2, 3), (3, 1), (7, 0)] {
        let mut versions = vec![version(gap, 4000, 1)];
        versions.extend((0..1500).map(|i| version(gap + 1 + i * step % 3998, 1, u64::from(i) + 2)));
        let mut memory = Memory::default();
        let root = build_delta(&mut memory, &versions);
        for seq in [1, 170, 171, 172, 400, 1501] {
            check(&memory, root, &versions, 0, 4010, seq);
        }
    }
}

#[test]
fn hostile_interleaving_of_trims_and_writes_costs_pages_in_proportion() {
    let mut versions = Vec::new();
    for i in 0..20_000_u32 {
        let seq = u64::from(i) * 2 + 1;
        versions.push(version((i * 7919) % 2_000_000, 8, seq));
        versions.push(version(0, STRIPE_SECTORS as u32, seq + 1));
    }
    let mut memory = Memory::default();
    let root = build_delta(&mut memory, &versions);
    let bytes = memory.0.borrow().len();
    assert!(bytes < versions.len() * 24 * 4, "{bytes} bytes for {} versions", versions.len());
    check(&memory, root, &versions, 7919 * 5, 8, 11);
    check(&memory, root, &versions, 7919 * 5, 8, 12);
}

#[test]
fn one_hot_block_rewritten_often_stays_cheap_to_read() {
    let versions: Vec<_> = (1..=50_000).map(|seq| version(64, 8, seq)).collect();
    let mut memory = Memory::default();
    let root = build_delta(&mut memory, &versions);
    let mut found = Lookup::new(Lba(64), Sectors(8));
    let source = Counting(&memory, std::cell::Cell::new(0));
    lookup(&source, root, 0, Seq(33_333), &mut found).unwrap();
    assert_eq!(found.found[0].found.map(|(s, _)| s), Some(Seq(33_333)));
    assert!(source.1.get() <= 4, "{} pages read", source.1.get());
}

/// Counts the pages that are read.
struct Counting<'a>(&'a Memory, std::cell::Cell<u64>);

impl PageSource for Counting<'_> {
    fn page(&self, at: PageRef) -> Result<Arc<Page>> {
        self.1.set(self.1.get() + 1);
        self.0.page(at)
    }
    fn contradiction(&self, at: PageRef) -> Error {
        self.0.contradiction(at)
    }
}

/// The cost of one lookup, in steps and pages, over an image of `runs` runs with gaps between them, every other of
/// which a delta above partly covers.
fn cost_of_resolving(runs: u32) -> (u64, u64) {
    let image: Vec<_> = (0..runs).map(|i| version(i * 4, 2, u64::from(i) + 1)).collect();
    // In an order far from that of the disk.
    let above: Vec<_> = (0..runs / 2)
        .map(|i| version(i.wrapping_mul(40_503) % (runs / 2) * 8, 1, u64::from(runs + i) + 1))
        .collect();
    let mut memory = Memory::default();
    let mut builder = ImageBuilder::default();
    builder.add(&mut memory, &image).unwrap();
    let below = builder.finish(&mut memory).unwrap().0.unwrap();
    let delta = build_delta(&mut memory, &above);
    let source = Counting(&memory, std::cell::Cell::new(0));
    let before = steps::done();
    let mut found = Lookup::new(Lba(0), Sectors(u64::from(runs) * 4));
    for root in [delta, below] {
        lookup(&source, root, 0, Seq(u64::from(runs) * 2), &mut found).unwrap();
    }
    let steps = steps::done() - before;
    let found = found.finish();
    assert!(found.windows(2).all(|pair| pair[0].lba.0 + pair[0].sectors.0 == pair[1].lba.0));
    assert_eq!(found.iter().filter(|f| f.found.is_some()).count() as u32, runs + runs / 2);
    (steps, source.1.get())
}

#[test]
fn resolving_costs_in_proportion_to_the_fragments_found() {
    let (few_steps, few_pages) = cost_of_resolving(1 << 12);
    let (many_steps, many_pages) = cost_of_resolving(1 << 16);
    assert!(few_steps > 1 << 12 && many_steps <= few_steps * 20, "{few_steps} steps, then {many_steps}");
    assert!(many_pages <= few_pages * 20, "{few_pages} pages, then {many_pages}");
    // Each page is looked up once, not once for each range.
    assert!(many_pages < 1 << 13, "{many_pages} pages");
}

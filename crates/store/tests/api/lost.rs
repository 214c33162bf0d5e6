//! Records that are lost and whose places no index knows: every moment behind them says so.

use std::sync::Arc;

use crate::world::{World, mark, segment_in, write};
use bygone_model::{Lba, Sectors, Seq, VolumeId};
use bygone_store::{Log, catalog::Lost, format::segment::TRAILER_BYTES};

const BLOCK_SECTORS: u64 = 20;

/// A closed log of several sealed segments that the manifest names, and no checkpoint. Returns the seqs of its writes:
/// write i has the mark i + 1 and goes to block i % `blocks`.
fn history(writes: u64, blocks: u64) -> (World, VolumeId, Vec<Seq>) {
    let (world, log, volume) = World::make(1024);
    let seqs =
        (0..writes).map(|i| write(&log, volume, i % blocks * BLOCK_SECTORS, BLOCK_SECTORS, i + 1)).collect();
    log.flush().unwrap();
    drop(log);
    // Opening seals the rest, and upkeep names all of it in a manifest.
    settle(&world.open());
    assert!(!world.path("index").exists() || world.files("index").is_empty(), "a checkpoint");
    (world, volume, seqs)
}

fn settle(log: &Log) {
    while log.maintain().unwrap() {}
}

/// The first and the last record of each segment.
fn spans(world: &World) -> Vec<(u32, Seq, Seq)> {
    let log = world.open();
    let starts: Vec<(u32, Seq)> = world
        .files("log")
        .iter()
        .map(|path| {
            let bytes = std::fs::read(path).unwrap();
            let at = bytes.len() - TRAILER_BYTES;
            let first = u64::from_le_bytes(bytes[at + 32..at + 40].try_into().unwrap());
            (segment_in(path).number, Seq(first))
        })
        .collect();
    let head = log.head_seq();
    let ends = starts.iter().skip(1).map(|(_, next)| Seq(next.0 - 1)).chain([head]);
    starts.iter().zip(ends).map(|(&(number, first), last)| (number, first, last)).collect()
}

/// Whether a block may be older than it should be, as of `seq`.
fn is_uncertain(log: &Arc<Log>, volume: VolumeId, block: u64, seq: Seq) -> bool {
    let (lba, sectors) = (Lba(block * BLOCK_SECTORS), Sectors(BLOCK_SECTORS));
    let uncertain = log.view(volume, seq).unwrap().uncertain(lba, sectors).unwrap();
    assert!(uncertain == Sectors(0) || uncertain == sectors, "{uncertain:?} of a block");
    uncertain == sectors
}

/// The seqs of what is lost behind a moment.
fn lost(log: &Arc<Log>, volume: VolumeId, seq: Seq) -> Vec<(Seq, Seq)> {
    let lost: Vec<Lost> = log.view(volume, seq).unwrap().lost();
    lost.iter().map(|lost| (lost.first, lost.last)).collect()
}

#[test]
fn a_removed_segment_that_no_checkpoint_covers_is_told_at_every_moment_behind_it() {
    const BLOCKS: u64 = 5;
    let (world, volume, seqs) = history(12, BLOCKS);
    let spans = spans(&world);
    assert!(spans.len() > 5, "{spans:?}");
    for &(number, first, last) in &spans[1..] {
        let copy = World::copy_of(world.folder.path());
        std::fs::remove_file(copy.segment(number)).unwrap();
        // In later lives too: also if a checkpoint was written meanwhile, which knows as little.
        for life in 0..4 {
            let log = copy.open();
            if life == 2 {
                log.checkpoint().unwrap();
            }
            let told = (seqs[0].0..=log.head_seq().0).map(Seq);
            for seq in told {
                // A moment between two lost ones is behind the earlier of them.
                let wanted = if seq >= first { vec![(first, last)] } else { vec![] };
                assert_eq!(lost(&log, volume, seq), wanted, "segment {number} at {seq} in life {life}");
            }
            for (i, &seq) in seqs.iter().enumerate() {
                for block in 0..BLOCKS {
                    let newest = (0..=i as u64).rev().find(|i| i % BLOCKS == block);
                    let got = mark(&log, volume, block * BLOCK_SECTORS, seq).unwrap();
                    let newest_seq = newest.map_or(Seq(0), |i| seqs[i as usize]);
                    let is_right = got == newest.map_or(0, |i| i + 1);
                    let uncertain = is_uncertain(&log, volume, block, seq);
                    assert!(is_right || uncertain, "block {block} at {seq} without {number}: {got}");
                    assert_eq!(
                        uncertain,
                        first <= seq && newest_seq <= last,
                        "block {block} at {seq} in {life}"
                    );
                }
            }
            // What is written now is certainly right, and what was not is not.
            if life == 1 {
                let seq = write(&log, volume, 0, BLOCK_SECTORS, 99);
                assert!(seq > last, "a lost seq was given out again");
                assert!(!is_uncertain(&log, volume, 0, seq) && is_uncertain(&log, volume, 50, seq));
                log.flush().unwrap();
            }
        }
    }
}

#[test]
fn a_segment_removed_under_a_running_log_takes_none_of_its_places_with_it() {
    let (world, log, volume) = World::make(1024);
    for i in 0..10 {
        write(&log, volume, i * BLOCK_SECTORS, BLOCK_SECTORS, i + 1);
    }
    while log.maintain().unwrap() {}
    let end = log.head_seq();
    std::fs::remove_file(world.segment(3)).unwrap();
    while log.maintain().unwrap() {}
    drop(log);
    let log = world.open();
    assert_eq!(lost(&log, volume, end), []);
    let unread = (0..10).filter(|block| mark(&log, volume, block * BLOCK_SECTORS, end).is_err()).count();
    assert!(unread > 0, "what is lost is refused and not told to be older");
}

#[test]
fn what_a_cut_segment_lost_is_told_too() {
    let (world, volume, _) = history(12, 12);
    let spans = spans(&world);
    for &(number, first, last) in spans[1..].iter().filter(|span| span.1 < span.2) {
        let copy = World::copy_of(world.folder.path());
        let bytes = std::fs::read(copy.segment(number)).unwrap();
        // In the header of its last record.
        let is_record = |at: &usize| bytes[at + 8..].starts_with(b"ByRe");
        let at = (4096..bytes.len() - 64).step_by(8).rfind(is_record).unwrap();
        std::fs::write(copy.segment(number), &bytes[..at + 32]).unwrap();
        for life in 0..2 {
            let log = copy.open();
            let told = lost(&log, volume, log.head_seq());
            let is_told = |seq: Seq| told.iter().any(|span| (span.0..=span.1).contains(&seq));
            assert!(
                is_told(last) && !is_told(first),
                "segment {number} of {spans:?} in life {life}: {told:?}"
            );
            assert!(log.head_seq() >= last, "a lost seq could be given out again");
        }
    }
}

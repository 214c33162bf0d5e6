//! Damage at the end of the log: in segments without an index, where nothing else proves that the newest records were
//! durable (I5).

use std::path::{Path, PathBuf};

use bygone_model::{Lba, Micros, Sectors, Seq, VolumeId};
use bygone_store::{Below, Error, Log, Wait};

use crate::world::{World, label_of, mark, write};

const HEADER_BYTES: usize = 64;

/// The offsets and seqs of the records of a segment.
fn records(path: &Path) -> Vec<(usize, u64)> {
    let bytes = std::fs::read(path).unwrap();
    let starts = (4096..bytes.len().saturating_sub(HEADER_BYTES)).step_by(8);
    let starts = starts.filter(|at| bytes[*at + 8..].starts_with(b"ByRe"));
    starts.map(|at| (at, u64::from_le_bytes(bytes[at + 16..at + 24].try_into().unwrap()))).collect()
}

/// The newest segment that has record `seq`, and the record's offset.
fn place_of(world: &World, seq: Seq) -> (PathBuf, usize) {
    let find = |path: PathBuf| {
        records(&path).into_iter().find(|found| found.1 == seq.0).map(|found| (path, found.0))
    };
    world.files("log").into_iter().rev().find_map(find).unwrap()
}

fn hurt(path: &Path, change: impl FnOnce(&mut [u8])) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, &bytes).unwrap();
}

/// Flips a bit in the payload of a record.
pub(crate) fn hurt_payload(world: &World, seq: Seq) {
    let (path, at) = place_of(world, seq);
    hurt(&path, |bytes| bytes[at + HEADER_BYTES + 100] ^= 1);
}

/// Makes the header of a record unrecognisable.
pub(crate) fn lose_record(world: &World, seq: Seq) {
    let (path, at) = place_of(world, seq);
    hurt(&path, |bytes| bytes[at..at + HEADER_BYTES].iter_mut().for_each(|byte| *byte ^= 0x5a));
}

/// The damage that verification finds, as files and offsets.
fn found(log: &Log) -> Vec<(String, u64)> {
    let report = log.verify(false, &mut |_, _| true).unwrap();
    report.damaged.into_iter().map(|damaged| (damaged.place.file, damaged.place.offset)).collect()
}

fn name_of(path: &Path) -> String {
    label_of(path)
}

/// A log of ten blocks with the marks 1 to 10, all flushed, and one more write, whose lag proves that they were
/// durable.
fn ten_blocks() -> (World, VolumeId, Vec<Seq>) {
    let (world, log, volume) = World::make_of(1024, 1 << 20);
    let seqs = (0..10).map(|i| write(&log, volume, i * 8, 8, i + 1)).collect();
    log.flush().unwrap();
    write(&log, volume, 400, 8, 99);
    (world, volume, seqs)
}

#[test]
fn a_flipped_bit_of_a_header_costs_its_block_and_never_shows_what_was_there_before() {
    let (world, log, volume) = World::make_of(1024, 1 << 20);
    let before = write(&log, volume, 0, 8, 1);
    let other = write(&log, volume, 8, 8, 2);
    let hit = write(&log, volume, 0, 8, 3);
    log.flush().unwrap();
    let last = write(&log, volume, 16, 8, 4);
    let times: Vec<Micros> = (1..=last.0).map(|seq| log.time_of(Seq(seq)).unwrap()).collect();
    drop(log);
    let (path, at) = place_of(&world, hit);
    for bit in (0..HEADER_BYTES * 8).step_by(19) {
        let copy = World::copy_of(world.folder.path());
        let path = copy.path("log").join(path.file_name().unwrap());
        hurt(&path, |bytes| bytes[at + bit / 8] ^= 1 << (bit % 8));
        for life in 0..2 {
            let log = copy.open();
            assert_eq!(log.head_seq(), last);
            assert!(life > 0 || log.damage_at_open().len() == 1, "{:?}", log.damage_at_open());
            let shown = mark(&log, volume, 1, last);
            assert!(matches!(shown, Err(Error::Damaged { .. })), "bit {bit}: {shown:?}");
            assert_eq!(mark(&log, volume, 1, before).unwrap(), 1);
            assert_eq!(mark(&log, volume, 9, other).unwrap(), 2);
            assert_eq!(mark(&log, volume, 17, last).unwrap(), 4);
            for (seq, time) in (1..).zip(&times) {
                assert_eq!(log.time_of(Seq(seq)).unwrap(), *time, "record {seq}");
            }
            assert_eq!(found(&log), [(name_of(&path), at as u64)]);
            log.checkpoint().unwrap();
        }
    }
}

#[test]
fn a_header_of_which_nothing_is_left_costs_no_other_record() {
    let (world, volume, seqs) = ten_blocks();
    let (path, at) = place_of(&world, seqs[3]);
    hurt(&path, |bytes| bytes[at..at + HEADER_BYTES].fill(0));
    let log = world.open();
    assert_eq!(log.damage_at_open().len(), 1);
    for (i, seq) in seqs.iter().enumerate().filter(|(i, _)| *i != 3) {
        assert_eq!(mark(&log, volume, i as u64 * 8, log.head_seq()).unwrap(), i as u64 + 1);
        assert!(log.time_of(*seq).is_ok(), "{seq}");
    }
    assert!(matches!(log.time_of(seqs[3]), Err(Error::Damaged { .. })));
}

#[test]
fn a_segment_without_its_header_loses_no_record_wherever_a_checkpoint_ends() {
    for (first_too, checkpoint) in [(false, false), (false, true), (true, true)] {
        let (world, log, volume) = World::make_of(1024, 1 << 20);
        drop(log);
        // The log's id and secret are known from the segment before the damaged one.
        let log = world.open();
        let mut seqs: Vec<Seq> = (0..5).map(|i| write(&log, volume, i * 8, 1, i + 1)).collect();
        if checkpoint {
            log.checkpoint().unwrap();
        }
        seqs.extend((5..10).map(|i| write(&log, volume, i * 8, 1, i + 1)));
        log.flush().unwrap();
        let last = write(&log, volume, 400, 1, 99);
        drop(log);
        let (path, _) = place_of(&world, seqs[0]);
        let end = if first_too { 4096 + HEADER_BYTES } else { 4096 };
        hurt(&path, |bytes| bytes[..end].fill(0));
        for _ in 0..3 {
            let log = world.open();
            assert_eq!(log.head_seq(), last, "{first_too} {checkpoint}");
            for (i, seq) in seqs.iter().enumerate() {
                assert_eq!(mark(&log, volume, i as u64 * 8, last).unwrap(), i as u64 + 1);
                assert!(log.time_of(*seq).is_ok(), "{seq} {checkpoint}");
            }
            let found = found(&log);
            assert!(found.contains(&(name_of(&path), 0)), "{found:?}");
            assert_eq!(found.len(), if first_too { 2 } else { 1 }, "{found:?}");
        }
    }
}

#[test]
fn a_flipped_bit_of_the_only_header_costs_nothing_but_a_report() {
    let (world, log, volume) = World::make(1024);
    let written = write(&log, volume, 0, 8, 1);
    log.flush().unwrap();
    drop(log);
    let segments = world.files("log");
    hurt(&segments[0], |bytes| bytes[70] ^= 4);
    // Remove the spare, so that no other segment has the log's id and secret.
    segments[1..].iter().for_each(|spare| std::fs::remove_file(spare).unwrap());
    for _ in 0..2 {
        let log = world.open();
        assert_eq!(found(&log), [(name_of(&segments[0]), 0)]);
        assert_eq!(mark(&log, volume, 0, written).unwrap(), 1);
        write(&log, volume, 8, 8, 2);
    }
}

#[test]
fn a_log_whose_only_header_is_gone_is_known_from_its_manifest() {
    let (world, log, volume) = World::make_of(1024, 1 << 20);
    let seqs: Vec<Seq> = (0..10).map(|i| write(&log, volume, i * 8, 8, i + 1)).collect();
    log.flush().unwrap();
    let (id, last) = (log.id(), write(&log, volume, 400, 8, 99));
    drop(log);
    let segments = world.files("log");
    hurt(&segments[0], |bytes| bytes[..4096].fill(0));
    segments[1..].iter().for_each(|spare| std::fs::remove_file(spare).unwrap());
    for life in 0..3 {
        let log = world.open();
        assert_eq!((log.id(), log.damage_at_open().len()), (id, 1), "{:?}", log.damage_at_open());
        assert_eq!(found(&log), [(name_of(&segments[0]), 0)]);
        for (i, seq) in seqs.iter().enumerate() {
            assert_eq!(mark(&log, volume, i as u64 * 8, last).unwrap(), i as u64 + 1);
            assert!(log.time_of(*seq).is_ok(), "{seq}");
        }
        // By now other segments have the log's id and secret as well.
        write(&log, volume, 800, 8, life);
    }
}

#[test]
fn a_log_without_its_first_header_has_its_times_all_the_same() {
    let (world, log, volume) = World::make(1024);
    let first = write(&log, volume, 0, 8, 1);
    let eras = log.catalog().eras.clone();
    drop(log);
    let log = world.open();
    write(&log, volume, 0, 8, 2);
    log.flush().unwrap();
    drop(log);
    hurt(&world.files("log")[0], |bytes| bytes[..4096].fill(0));
    let log = world.open();
    assert_eq!(log.catalog().eras.len(), eras.len());
    // The time of the first record stands in for that of the header.
    assert_eq!(log.catalog().eras[0].from, log.time_of(Seq(1)).unwrap());
    assert_eq!(mark(&log, volume, 0, first).unwrap(), 1);
}

#[test]
fn what_was_cut_off_a_damaged_segment_is_not_read_again() {
    let (world, log, volume) = World::make_of(1024, 1 << 20);
    let hit = write(&log, volume, 0, 8, 1);
    log.flush().unwrap();
    // Nothing proves that these were durable.
    let cut: Vec<Seq> = (0..4).map(|i| write(&log, volume, 100 + i * 8, 8, 10 + i)).collect();
    drop(log);
    // Because of the first damage the segment gets no index; at the second the log ends, although whole records follow.
    hurt_payload(&world, hit);
    hurt_payload(&world, cut[1]);
    let (path, at) = place_of(&world, hit);
    let mut hurt_places = vec![(name_of(&path), (at + HEADER_BYTES) as u64)];
    for life in 0..3 {
        let log = world.open();
        assert!(life > 0 || log.head_seq() == cut[0]);
        let next = write(&log, volume, 200, 8, 20);
        log.flush().unwrap();
        let head = write(&log, volume, 400, 8, 30);
        for seq in 1..=head.0 {
            assert!(log.time_of(Seq(seq)).is_ok(), "record {seq} in life {life}");
        }
        assert_eq!(found(&log), hurt_places);
        assert_eq!(mark(&log, volume, 100, head).unwrap(), 10);
        assert_eq!(mark(&log, volume, 108, head).unwrap(), 0);
        // The same for a tapped disk, which has none of it.
        log.checkpoint().unwrap();
        log.open_volume(volume, Below::Device, Seq::ZERO).unwrap();
        let fragments = log.resolve_head(volume, Lba(108), Sectors(24), Wait::Yes).unwrap();
        assert!(fragments.iter().all(|fragment| fragment.found.is_none()), "{fragments:?}");
        drop(log);
        if life == 0 {
            // The next segment says where this one ends. Damage its header.
            let (path, _) = place_of(&world, next);
            hurt(&path, |bytes| bytes[4000] ^= 1);
            hurt_places.push((name_of(&path), 0));
        }
    }
}

#[test]
fn what_a_segment_says_behind_its_own_damage_counts_for_the_one_before_it() {
    let (world, log, volume) = World::make(1024);
    let mut seqs = Vec::new();
    // Until there are two records in a segment other than the first.
    let segment_of = |seq| place_of(&world, seq).0;
    while seqs.len() < 3 || segment_of(seqs[seqs.len() - 2]) == segment_of(seqs[seqs.len() - 3]) {
        seqs.push(write(&log, volume, seqs.len() as u64 * 8, 8, seqs.len() as u64 + 1));
    }
    let durable = log.flush().unwrap();
    let unproven = write(&log, volume, 800, 8, 77);
    write(&log, volume, 808, 8, 78);
    drop(log);
    let last_before = seqs[seqs.len() - 3];
    assert_ne!(segment_of(last_before), segment_of(unproven));
    hurt_payload(&world, last_before);
    hurt_payload(&world, unproven);
    let log = world.open();
    assert_eq!(log.head_seq(), durable);
    for (i, seq) in seqs.iter().enumerate() {
        match mark(&log, volume, i as u64 * 8, durable) {
            Ok(found) => assert_eq!(found, i as u64 + 1),
            Err(error) => assert!(*seq == last_before && matches!(error, Error::Damaged { .. }), "{error}"),
        }
    }
}

#[test]
fn what_a_segment_without_a_header_says_behind_its_own_damage_keeps_it() {
    let (world, log, volume) = World::make_of(1024, 1 << 20);
    drop(log);
    let log = world.open();
    let first = write(&log, volume, 0, 1, 1);
    let durable = log.flush().unwrap();
    let unproven = write(&log, volume, 8, 1, 2);
    write(&log, volume, 16, 1, 3);
    drop(log);
    hurt_payload(&world, unproven);
    hurt(&place_of(&world, first).0, |bytes| bytes[..4096].fill(0));
    let log = world.open();
    assert_eq!(log.head_seq(), durable);
    assert_eq!(mark(&log, volume, 0, durable).unwrap(), 1);
}

#[test]
fn verification_names_the_record_also_where_it_is_the_first_of_the_segment_in_use() {
    let (world, log, volume) = World::make(1024);
    let mut newest = write(&log, volume, 0, 8, 1);
    while records(&place_of(&world, newest).0).len() > 1 {
        newest = write(&log, volume, 0, 8, 1);
    }
    let (path, at) = place_of(&world, newest);
    hurt_payload(&world, newest);
    let found = found(&log);
    assert!(
        matches!(&found[..], [(file, offset)] if *file == name_of(&path) && *offset == at as u64),
        "{found:?}"
    );
}

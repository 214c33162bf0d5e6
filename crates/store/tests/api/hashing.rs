//! The manifest knows each sealed segment's file by its hash, so a change is found wherever in the file it is.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use bygone_model::VolumeId;
use bygone_store::{
    Damage, Log, LogOptions, MEMORY_BYTES, Store,
    format::{
        manifest::{self, Entry, Manifest, State},
        segment,
    },
};

use crate::world::{Ticks, World, disk, mark, options, write};

fn upkeep(log: &Log) {
    while log.maintain().unwrap() {}
}

/// Segments of which some records have zeroes between their header and their payload.
fn some_history(bytes_per_s: u64) -> (World, Arc<Log>, VolumeId) {
    let store = Arc::new(Store::new(64 << 10, MEMORY_BYTES).with_background(bytes_per_s));
    let world = World::empty();
    let options = LogOptions { store, ..options(96 << 10) };
    let log = Log::make(world.dir(), Arc::new(Ticks::default()), options, *b"sixteen bytes id").unwrap();
    let volume = log.add_disk(&disk(1 << 20)).unwrap();
    for i in 0..40 {
        write(&log, volume, i * 40, if i % 3 == 0 { 3 } else { 40 }, i + 1);
        upkeep(&log);
    }
    (world, log, volume)
}

/// What the manifests say of living segments, by number.
fn known(world: &World) -> BTreeMap<u32, Entry> {
    let mut known = BTreeMap::new();
    for path in world.files("manifest") {
        let number = manifest::number_of(path.file_name().unwrap().to_str().unwrap()).unwrap();
        let read = Manifest::decode(&std::fs::read(path).unwrap(), number).unwrap();
        known.extend(read.entries.into_iter().map(|entry| (entry.number, entry)));
    }
    known.retain(|_, entry| entry.state == State::Lives);
    known
}

fn path_of(world: &World, number: u32) -> PathBuf {
    world.path(&segment::file_name(number))
}

fn check_all(world: &World) {
    let known = known(world);
    assert!(known.len() > 4, "{}", known.len());
    for (number, entry) in known {
        let bytes = std::fs::read(path_of(world, number)).unwrap();
        assert_eq!(
            (entry.hash, entry.len_bytes),
            (Some(manifest::hash(&bytes)), bytes.len() as u64),
            "{number}"
        );
    }
}

fn verified(log: &Log) -> Vec<(String, Damage)> {
    let report = log.verify(false, &mut |_, _| true).unwrap();
    report.damaged.into_iter().map(|found| (found.place.file, found.damage)).collect()
}

/// Where a record begins whose payload is aligned, with zeroes before it.
fn gap_in(path: &Path) -> Option<usize> {
    let bytes = std::fs::read(path).unwrap();
    (4096..bytes.len().saturating_sub(4096)).step_by(4096).map(|at| at - 1).find(|at| {
        let before = &bytes[at - 63..=*at];
        before.iter().all(|byte| *byte == 0) && bytes[at + 1] != 0
    })
}

#[test]
fn upkeep_hashes_each_segment_once_it_is_sealed() {
    let (world, log, volume) = some_history(u64::MAX);
    check_all(&world);
    // Also those of an earlier life.
    let slow = some_history(0).0;
    assert!(known(&slow).values().all(|entry| entry.hash.is_none()));
    upkeep(&slow.open());
    check_all(&slow);
    write(&log, volume, 0, 8, 1);
    assert_eq!(verified(&log), []);
}

#[test]
fn verification_finds_a_change_that_no_checksum_covers_now_and_in_later_lives() {
    let (world, log, volume) = some_history(u64::MAX);
    let (number, gap) =
        known(&world).into_keys().find_map(|n| Some((n, gap_in(&path_of(&world, n))?))).unwrap();
    let (path, file) = (path_of(&world, number), segment::file_name(number));
    let sound = std::fs::read(&path).unwrap();
    let mut changed = sound.clone();
    changed[gap] ^= 4;
    assert_eq!(verified(&log), []);
    std::fs::write(&path, &changed).unwrap();
    assert_eq!(verified(&log), [(file.clone(), Damage::Changed)]);
    drop(log);
    let log = world.open();
    assert_eq!(log.damage_at_open(), []);
    upkeep(&log);
    assert_eq!(verified(&log), [(file, Damage::Changed)]);
    // No record is hurt.
    for i in 0..40 {
        assert_eq!(mark(&log, volume, i * 40, log.head_seq()).unwrap(), i + 1);
    }
    std::fs::write(&path, &sound).unwrap();
    assert_eq!(verified(&log), []);
}

#[test]
fn verification_hashes_what_it_reads_and_finds_whole() {
    let (world, log, _) = some_history(0);
    let (&first, _) = known(&world).first_key_value().unwrap();
    let path = path_of(&world, first);
    let sound = std::fs::read(&path).unwrap();
    let mut hurt = sound.clone();
    hurt[4096 + 20] ^= 1;
    std::fs::write(&path, hurt).unwrap();
    assert_eq!(verified(&log), [(segment::file_name(first), Damage::Checksum)]);
    upkeep(&log);
    let hashed: Vec<u32> =
        known(&world).into_iter().filter(|(_, e)| e.hash.is_some()).map(|(n, _)| n).collect();
    assert!(!hashed.contains(&first) && hashed.len() + 1 == known(&world).len(), "{hashed:?}");
    std::fs::write(&path, sound).unwrap();
    assert_eq!(verified(&log), []);
    upkeep(&log);
    check_all(&world);
}

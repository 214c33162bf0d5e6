//! The manifest has the hash of each sealed segment's file, so verification finds a change anywhere in the file.

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

use crate::world::{Ticks, World, disk, label_of, mark, options, segment_in, write};

fn upkeep(log: &Log) {
    while log.maintain().unwrap() {}
}

/// A log with sealed segments, some of whose records have padding before their payload.
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

/// The manifests' entries of living segments, by number.
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
    world.segment(number)
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

/// The offset of a padding byte before an aligned payload.
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
    let (path, file) = (path_of(&world, number), segment::label(number));
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
    assert_eq!(verified(&log), [(segment::label(first), Damage::Checksum)]);
    upkeep(&log);
    let hashed: Vec<u32> =
        known(&world).into_iter().filter(|(_, e)| e.hash.is_some()).map(|(n, _)| n).collect();
    assert!(!hashed.contains(&first) && hashed.len() + 1 == known(&world).len(), "{hashed:?}");
    std::fs::write(&path, sound).unwrap();
    assert_eq!(verified(&log), []);
    upkeep(&log);
    check_all(&world);
}

/// A log with a segment that upkeep has not read yet and in which one bit is flipped at `at`; also returns the
/// segment's path and its sound content.
fn rotten(at: impl Fn(&Path) -> usize) -> (World, VolumeId, PathBuf, Vec<u8>) {
    let (world, log, volume) = some_history(0);
    drop(log);
    let known = known(&world);
    let path =
        known.keys().map(|number| path_of(&world, *number)).find(|path| gap_in(path).is_some()).unwrap();
    let sound = std::fs::read(&path).unwrap();
    let mut hurt = sound.clone();
    hurt[at(&path)] ^= 1;
    std::fs::write(&path, hurt).unwrap();
    (world, volume, path, sound)
}

#[test]
fn what_rotted_before_it_was_hashed_gets_no_hash_is_told_of_and_is_sound_once_it_is_put_back() {
    let middle = |path: &Path| std::fs::read(path).unwrap().len() / 2;
    let gap = |path: &Path| gap_in(path).unwrap();
    type At = fn(&Path) -> usize;
    let cases: [(&str, At, Damage); 2] =
        [("payload", middle, Damage::Checksum), ("zeroes before a payload", gap, Damage::Changed)];
    for (what, at, damage) in cases {
        let (world, volume, path, sound) = rotten(at);
        let log = world.open();
        assert_eq!(log.damage_at_open(), [], "{what}");
        upkeep(&log);
        let told: Vec<_> = log.damage().into_iter().map(|(place, damage)| (place.file, damage)).collect();
        let file = label_of(&path);
        assert_eq!(told, [(file.clone(), damage)], "{what}");
        assert_eq!(verified(&log), [(file.clone(), damage)], "{what}");
        let number = segment_in(&path).number;
        assert_eq!(known(&world)[&number].hash, None, "{what}");
        assert!(known(&world).iter().all(|(n, entry)| *n == number || entry.hash.is_some()), "{what}");
        std::fs::write(&path, &sound).unwrap();
        assert_eq!((verified(&log), log.damage()), (Vec::new(), Vec::new()), "{what}");
        upkeep(&log);
        check_all(&world);
        drop(log);
        let log = world.open();
        upkeep(&log);
        assert_eq!((verified(&log), log.damage()), (Vec::new(), Vec::new()), "{what}");
        for i in 0..40 {
            assert_eq!(mark(&log, volume, i * 40, log.head_seq()).unwrap(), i + 1, "{what}");
        }
    }
    // A damaged index or trailer would be rewritten when the log is opened, so here it rots afterwards. Without a valid
    // trailer, upkeep does not even begin to read the segment.
    for from_end in [100, 10] {
        let (world, log, _) = some_history(0);
        let path = path_of(&world, *known(&world).first_key_value().unwrap().0);
        let sound = std::fs::read(&path).unwrap();
        let mut hurt = sound.clone();
        hurt[sound.len() - from_end] ^= 1;
        drop(log);
        let log = world.open();
        std::fs::write(&path, &hurt).unwrap();
        upkeep(&log);
        let told: Vec<Damage> = log.damage().into_iter().map(|found| found.1).collect();
        assert_eq!(told, [Damage::Checksum], "{from_end}");
        std::fs::write(&path, &sound).unwrap();
        assert_eq!((verified(&log), log.damage()), (Vec::new(), Vec::new()), "{from_end}");
    }
}

#[test]
fn rot_in_the_zeroes_of_a_file_that_nobody_hashed_is_not_taken_for_sound_by_verification() {
    let (world, _, path, sound) = rotten(|path| gap_in(path).unwrap());
    let store = Arc::new(Store::new(64 << 10, MEMORY_BYTES).with_background(0));
    let options = LogOptions { store, ..options(96 << 10) };
    let log = Log::open(world.dir(), Arc::new(Ticks::default()), options).unwrap();
    for _ in 0..2 {
        assert_eq!(verified(&log).into_iter().map(|found| found.1).collect::<Vec<_>>(), [Damage::Changed]);
    }
    std::fs::write(&path, sound).unwrap();
    assert_eq!(verified(&log), []);
}

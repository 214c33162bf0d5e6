//! Manifests name the segments that should exist: one that is missing, truncated or replaced is damage, now and after
//! any restart.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use bygone_model::{BranchId, Micros, VolumeId};
use bygone_store::{
    Damage, Error, Log, LogOptions, Place,
    format::{
        manifest::{self, Entry, Manifest, State},
        segment,
    },
};

use crate::watched::{Watch, Watched};
use crate::world::{Ticks, World, mark, options, segment_in, write};

fn upkeep(log: &Log) {
    while log.maintain().unwrap() {}
}

/// A log with many sealed segments; sector `i * 20` holds mark `i + 1`.
fn some_history(writes: u64) -> (World, std::sync::Arc<Log>, VolumeId) {
    let (world, log, volume) = World::make(1 << 20);
    for i in 0..writes {
        write(&log, volume, i * 20, 20, i + 1);
        upkeep(&log);
    }
    (world, log, volume)
}

fn missing(number: u32) -> (Place, Damage) {
    (Place { file: segment::label(number), offset: 0 }, Damage::Missing)
}

fn verified(log: &Log) -> Vec<(Place, Damage)> {
    let report = log.verify(false, &mut |_, _| true).unwrap();
    report.damaged.into_iter().map(|damaged| (damaged.place, damaged.damage)).collect()
}

fn newest_sealed(world: &World) -> (PathBuf, u32) {
    let segments = world.files("log");
    (segments[segments.len() - 3].clone(), u32::try_from(segments.len()).unwrap() - 2)
}

#[test]
fn a_segment_removed_under_a_running_log_is_noticed_and_stays_known() {
    let (world, log, volume) = some_history(60);
    let (path, number) = newest_sealed(&world);
    std::fs::remove_file(path).unwrap();
    assert_eq!(log.damage(), []);
    upkeep(&log);
    assert_eq!(log.damage(), [missing(number)]);
    let end = write(&log, volume, 0, 20, 999);
    drop(log);
    for life in 0..4 {
        let log = world.open();
        assert_eq!(log.damage(), [missing(number)], "life {life}");
        assert_eq!(verified(&log), [missing(number)], "life {life}");
        assert_eq!(mark(&log, volume, 0, end).unwrap(), 999);
        write(&log, volume, 40, 20, life);
        upkeep(&log);
    }
}

#[test]
fn segments_lost_at_the_end_keep_their_numbers_and_seqs() {
    let (world, log, volume) = some_history(60);
    log.flush().unwrap();
    let head = log.head_seq();
    drop(log);
    drop(world.open());
    let log = world.open();
    upkeep(&log);
    drop(log);
    let segments = world.files("log");
    let lost: Vec<u32> = (segments.len() as u32 - 2..=segments.len() as u32).collect();
    for path in &segments[segments.len() - 3..] {
        std::fs::remove_file(path).unwrap();
    }
    // No checkpoint proves that they existed.
    std::fs::remove_dir_all(world.path("index")).unwrap();
    for life in 0..3 {
        let log = world.open();
        for number in &lost {
            assert!(log.damage().contains(&missing(*number)), "{number} in life {life}: {:?}", log.damage());
            assert!(verified(&log).contains(&missing(*number)), "{number} in life {life}");
        }
        assert!(write(&log, volume, 0, 20, life) > head, "no seq is given twice");
        assert!(!lost.iter().any(|number| world.segment(*number).exists()));
        upkeep(&log);
    }
}

#[test]
fn a_segment_that_is_open_gets_its_name_again_with_all_that_it_holds() {
    let (world, log, volume) = some_history(40);
    for round in 0..30 {
        let end = write(&log, volume, 0, 20, 5000 + round);
        let newest = world.files("log").pop().unwrap();
        let spare = std::fs::metadata(&newest).unwrap().len() == 0;
        let open = if spare { world.files("log").iter().rev().nth(1).unwrap().clone() } else { newest };
        std::fs::remove_file(&open).unwrap();
        write(&log, volume, 20, 20, 6000 + round);
        upkeep(&log);
        assert!(open.exists() || spare, "{round}");
        assert_eq!(mark(&log, volume, 0, end).unwrap(), 5000 + round);
        assert_eq!(log.damage(), []);
    }
    log.flush().unwrap();
    let end = log.head_seq();
    drop(log);
    let log = world.open();
    assert_eq!((log.head_seq(), log.damage()), (end, Vec::new()));
    assert_eq!(verified(&log), []);
    assert_eq!(mark(&log, volume, 20, end).unwrap(), 6029);
    for i in 2..40 {
        assert_eq!(mark(&log, volume, i * 20, end).unwrap(), i + 1);
    }
}

/// As `rsync` does into a live store: the name shows another file, and the log still has the old one open.
#[test]
fn a_segment_that_is_open_and_whose_name_shows_another_file_gets_its_name_again() {
    let (world, log, volume) = some_history(40);
    for round in 0..30 {
        let end = write(&log, volume, 0, 20, 5000 + round);
        let files = world.files("log");
        let is_spare = |path: &&PathBuf| std::fs::metadata(path).unwrap().len() == 0;
        let open = files.iter().rev().find(|path| !is_spare(path)).unwrap();
        // An older state of the segment, or none of it.
        let bytes = std::fs::read(open).unwrap();
        let other = world.path("other");
        std::fs::write(&other, &bytes[..bytes.len().min(4096 * (round as usize % 2))]).unwrap();
        std::fs::rename(&other, open).unwrap();
        write(&log, volume, 20, 20, 6000 + round);
        upkeep(&log);
        assert_eq!(mark(&log, volume, 0, end).unwrap(), 5000 + round);
        assert_eq!(log.damage(), []);
    }
    log.flush().unwrap();
    let end = log.head_seq();
    drop(log);
    let log = world.open();
    assert_eq!((log.head_seq(), log.damage()), (end, Vec::new()));
    assert_eq!(verified(&log), []);
    assert_eq!(mark(&log, volume, 20, end).unwrap(), 6029);
}

#[test]
fn a_sealed_segment_that_was_cut_or_exchanged_is_found() {
    let (world, log, volume) = some_history(40);
    let (path, number) = newest_sealed(&world);
    let sound = std::fs::read(&path).unwrap();
    let file = segment::label(number);
    let finds = |log: &Log, bytes: &[u8], damage: Damage| {
        std::fs::write(&path, bytes).unwrap();
        let found = verified(log);
        assert!(found.iter().any(|(place, what)| place.file == file && *what == damage), "{found:?}");
        std::fs::write(&path, &sound).unwrap();
    };
    finds(&log, &sound[..sound.len() - 1], Damage::Truncated);
    finds(&log, &sound[..sound.len() / 2], Damage::Truncated);
    // A segment that another life wrote under this number: it is valid in itself.
    let other = World::copy_of(world.folder.path());
    let numbered = other.files("log");
    for path in &numbered[number as usize - 1..] {
        std::fs::remove_file(path).unwrap();
    }
    for folder in ["index", "manifest"] {
        std::fs::remove_dir_all(other.path(folder)).unwrap();
    }
    let rewritten = other.open();
    for i in 0..20 {
        write(&rewritten, volume, i * 20, 20, 7000 + i);
        upkeep(&rewritten);
    }
    finds(&log, &std::fs::read(&numbered[number as usize - 1]).unwrap(), Damage::Misplaced);
    assert_eq!(verified(&log), []);
}

fn read(path: &Path) -> Manifest {
    let number = manifest::number_of(path.file_name().unwrap().to_str().unwrap()).unwrap();
    Manifest::decode(&std::fs::read(path).unwrap(), number).unwrap()
}

/// Writes a manifest that drops these segments, and leaves their files.
fn drop_segments(world: &World, numbers: &[u32]) {
    let newest = read(world.files("manifest").last().unwrap());
    let bytes = std::fs::read(world.path(&manifest::file_name(newest.number))).unwrap();
    let known: BTreeMap<u32, Entry> = world
        .files("manifest")
        .iter()
        .flat_map(|path| read(path).entries)
        .map(|entry| (entry.number, entry))
        .collect();
    let dropped = |number: &u32| Entry { state: State::Dropped, since: Micros(1), ..known[number] };
    let next = Manifest {
        number: newest.number + 1,
        is_full: false,
        previous: Some((newest.number, manifest::hash(&bytes))),
        entries: numbers.iter().map(dropped).collect(),
        ..newest
    };
    std::fs::write(world.path(&manifest::file_name(next.number)), next.encode()).unwrap();
}

/// As if the power had failed between the manifest that drops them and the removal of their files.
#[test]
fn segments_that_were_dropped_do_not_come_back_if_their_files_are_still_there() {
    for index in [true, false] {
        let (world, log, volume) = some_history(60);
        log.checkpoint().unwrap();
        let end = write(&log, volume, 0, 20, 999);
        upkeep(&log);
        drop(log);
        let gaps = [2, 3, 7, 12];
        drop_segments(&world, &gaps);
        if !index {
            std::fs::remove_dir_all(world.path("index")).unwrap();
        }
        for life in 0..3 {
            let log = world.open();
            assert!(log.head_seq() >= end);
            upkeep(&log);
            for number in gaps {
                assert!(!world.segment(number).exists(), "{number} in life {life}");
            }
            assert_eq!((log.damage(), verified(&log)), (Vec::new(), Vec::new()), "life {life}");
            assert_eq!(mark(&log, volume, 0, end).unwrap(), 999);
            write(&log, volume, 20, 20, life);
            upkeep(&log);
        }
    }
}

#[test]
fn a_folder_with_gaps_that_are_wanted_is_opened_and_verified() {
    let (world, log, volume) = some_history(60);
    log.checkpoint().unwrap();
    let end = write(&log, volume, 0, 20, 999);
    upkeep(&log);
    drop(log);
    let gaps = [1, 2, 3, 7, 12];
    drop_segments(&world, &gaps);
    for number in gaps {
        std::fs::remove_file(world.segment(number)).unwrap();
    }
    for life in 0..3 {
        let log = world.open();
        assert_eq!((log.damage(), verified(&log)), (Vec::new(), Vec::new()), "life {life}");
        assert_eq!(mark(&log, volume, 0, end).unwrap(), 999);
        write(&log, volume, 20, 20, life);
        upkeep(&log);
        // A segment that was not dropped is still missed.
        if life == 2 {
            std::fs::remove_file(world.segment(9)).unwrap();
            upkeep(&log);
            assert_eq!((log.damage(), verified(&log)), (vec![missing(9)], vec![missing(9)]));
        }
    }
}

/// Notes for each segment that is removed whether the manifests' folder was synced before.
#[derive(Clone, Default)]
struct Removals(Arc<Mutex<(bool, Vec<bool>)>>);

impl Watch for Removals {
    fn before_remove(&self, name: &str) {
        let mut known = self.0.lock().unwrap();
        if name.starts_with("log/") {
            let synced = known.0;
            known.1.push(synced);
        }
    }
    fn before_sync_folder(&self, folder: &str) {
        self.0.lock().unwrap().0 |= folder == manifest::folder();
    }
}

/// Whoever published the manifest may have been killed before it was durable.
#[test]
fn a_file_of_a_dropped_segment_is_removed_only_once_the_manifest_that_drops_it_is_durable() {
    let (world, log, _) = some_history(60);
    log.checkpoint().unwrap();
    upkeep(&log);
    drop(log);
    drop(world.open());
    drop_segments(&world, &[2, 3]);
    let removals = Removals::default();
    let dir = Watched::new(world.folder.path(), removals.clone());
    let log = Log::open(dir, Arc::new(Ticks::from(7_200_000_000)), options(24 << 10)).unwrap();
    removals.0.lock().unwrap().1.clear();
    upkeep(&log);
    assert_eq!(removals.0.lock().unwrap().1, [true, true]);
}

#[test]
fn nothing_is_flushed_into_a_segment_that_has_no_name_until_it_has_one_again() {
    let (world, log, volume) = some_history(40);
    log.flush().unwrap();
    for (round, comes_back) in [(0, false), (1, true), (2, false)] {
        write(&log, volume, 0, 20, 5000 + round);
        let is_used = |path: &&PathBuf| std::fs::metadata(path).unwrap().len() > 0;
        let open = world.files("log").iter().rev().find(is_used).unwrap().clone();
        let name = segment_in(&open);
        let (part, away) = (world.path(&name.part_name()), world.path("away"));
        std::fs::rename(&open, &away).unwrap();
        // It cannot be written again either.
        std::fs::create_dir(&part).unwrap();
        assert!((0..20).any(|_| log.maintain().is_err()));
        for _ in 0..2 {
            assert!(matches!(log.flush(), Err(Error::Unnamed { .. })));
            assert!(matches!(log.checkpoint(), Err(Error::Unnamed { .. })));
            assert!(matches!(log.mark_moment(), Err(Error::Unnamed { .. })));
            let _ = log.maintain();
        }
        let branch = log.add_branch(&format!("never-{round}"), BranchId(0), log.head_seq());
        assert!(matches!(branch, Err(Error::Unnamed { .. })), "{branch:?}");
        // Also once the log goes on in the next segment.
        for i in 0..6 {
            write(&log, volume, 100 + i * 20, 20, 6000 + round);
        }
        assert!(matches!(log.flush(), Err(Error::Unnamed { .. })));
        std::fs::remove_dir(&part).unwrap();
        if comes_back {
            std::fs::rename(&away, &open).unwrap();
        }
        upkeep(&log);
        let end = log.flush().unwrap();
        let copy = World::copy_of(world.folder.path());
        let other = copy.open();
        assert_eq!((other.damage(), verified(&other)), (Vec::new(), Vec::new()));
        assert_eq!(mark(&other, volume, 0, end).unwrap(), 5000 + round);
        assert_eq!(mark(&other, volume, 200, end).unwrap(), 6000 + round);
    }
}

#[test]
fn a_segment_that_has_its_name_again_and_is_sealed_before_anybody_looks_keeps_no_flush_from_succeeding() {
    let (world, log, volume) = some_history(40);
    drop(log);
    let ticks = Arc::new(Ticks::from(7_200_000_000));
    let options = LogOptions { inventory_micros: 3_000_000, ..options(24 << 10) };
    let log = Log::open(world.dir(), ticks.clone(), options).unwrap();
    upkeep(&log);
    write(&log, volume, 0, 20, 5000);
    let is_used = |path: &&PathBuf| std::fs::metadata(path).unwrap().len() > 0;
    let open = world.files("log").iter().rev().find(is_used).unwrap().clone();
    let (part, away) = (world.path(&segment_in(&open).part_name()), world.path("away"));
    std::fs::rename(&open, &away).unwrap();
    std::fs::create_dir(&part).unwrap();
    ticks.pass(4_000_000);
    assert!((0..20).any(|_| log.maintain().is_err()));
    assert!(matches!(log.flush(), Err(Error::Unnamed { .. })));
    for i in 0..6 {
        write(&log, volume, 100 + i * 20, 20, 6000);
    }
    std::fs::remove_dir(&part).unwrap();
    std::fs::rename(&away, &open).unwrap();
    // Upkeep is not tried again at once.
    ticks.pass(1_500_000);
    upkeep(&log);
    ticks.pass(4_000_000);
    upkeep(&log);
    log.flush().unwrap();
}

/// Lets the next sync fail, as a system does that reports an error of write-back once.
#[derive(Clone, Default)]
struct FailsOnce(Arc<AtomicBool>);

impl Watch for FailsOnce {
    fn before_sync(&self) -> io::Result<()> {
        match self.0.swap(false, Ordering::Relaxed) {
            true => Err(io::Error::from_raw_os_error(5)),
            false => Ok(()),
        }
    }
}

#[test]
fn i4_a_segment_that_lost_its_name_is_synced_before_it_is_copied_and_an_error_of_that_poisons_the_log() {
    let (world, log, _) = some_history(40);
    drop(log);
    let once = FailsOnce::default();
    let dir = Watched::new(world.folder.path(), once.clone());
    let log = Log::open(dir, Arc::new(Ticks::from(7_200_000_000)), options(24 << 10)).unwrap();
    upkeep(&log);
    write(&log, VolumeId(0), 0, 1, 5000);
    let is_used = |path: &&PathBuf| std::fs::metadata(path).unwrap().len() > 0;
    let open = world.files("log").iter().rev().find(is_used).unwrap().clone();
    std::fs::remove_file(&open).unwrap();
    once.0.store(true, Ordering::Relaxed);
    assert!((0..20).any(|_| log.maintain().is_err()));
    assert!(!once.0.load(Ordering::Relaxed) && log.is_poisoned());
    assert!(matches!(log.flush(), Err(Error::Poisoned)));
}

/// Does something when a segment was opened, once.
#[derive(Clone, Default)]
struct Opened(Arc<Mutex<Option<AtOpening>>>);

/// The number of the segment, and what is done.
type AtOpening = (u32, Box<dyn FnOnce() + Send>);

impl Watch for Opened {
    fn after_open(&self, name: &str) {
        let mut known = self.0.lock().unwrap();
        if let Some((_, meanwhile)) =
            known.take_if(|(number, _)| segment::Name { number: *number, term: 1 }.file_name() == name)
        {
            drop(known);
            meanwhile();
        }
    }
}

#[test]
fn a_reader_that_opened_a_segment_just_before_it_was_written_anew_reads_what_is_appended_later() {
    let (world, log, volume) = some_history(40);
    drop(log);
    let opened = Opened::default();
    let dir = Watched::new(world.folder.path(), opened.clone());
    let log = Log::open(dir, Arc::new(Ticks::from(7_200_000_000)), options(1 << 20)).unwrap();
    let before = write(&log, volume, 0, 20, 5000);
    let open = world.files("log").pop().unwrap();
    let number = segment_in(&open).number;
    let writer = log.clone();
    let meanwhile = move || {
        std::fs::remove_file(open).unwrap();
        upkeep(&writer);
    };
    *opened.0.lock().unwrap() = Some((number, Box::new(meanwhile)));
    assert_eq!(mark(&log, volume, 0, before).unwrap(), 5000);
    assert!(opened.0.lock().unwrap().is_none());
    let after = write(&log, volume, 0, 20, 5001);
    assert_eq!(mark(&log, volume, 0, after).unwrap(), 5001);
}

/// Says of a manifest that was published that there was one already, once.
#[derive(Clone, Default)]
struct Repeats(Arc<Mutex<bool>>);

impl Watch for Repeats {
    fn after_publish(&self, name: &str) -> io::Result<()> {
        match name.starts_with(manifest::folder()) && std::mem::take(&mut *self.0.lock().unwrap()) {
            true => Err(io::ErrorKind::AlreadyExists.into()),
            false => Ok(()),
        }
    }
}

#[test]
fn whoever_is_told_that_its_own_manifest_is_there_already_goes_on() {
    let (world, log, volume) = some_history(40);
    drop(log);
    let repeats = Repeats::default();
    let dir = Watched::new(world.folder.path(), repeats.clone());
    let log = Log::open(dir, Arc::new(Ticks::from(7_200_000_000)), options(24 << 10)).unwrap();
    for round in 0..20 {
        *repeats.0.lock().unwrap() = round % 3 == 0;
        write(&log, volume, 0, 20, 5000 + round);
        write(&log, volume, 20, 20, 5000 + round);
        upkeep(&log);
        assert!(!*repeats.0.lock().unwrap(), "{round}");
    }
    let end = log.flush().unwrap();
    drop(log);
    let log = world.open();
    assert_eq!((log.damage(), verified(&log)), (Vec::new(), Vec::new()));
    assert_eq!(mark(&log, volume, 0, end).unwrap(), 5019);
}

fn in_manifest(path: &Path) -> (Place, Damage) {
    let number = manifest::number_of(path.file_name().unwrap().to_str().unwrap()).unwrap();
    (Place { file: manifest::file_name(number), offset: 0 }, Damage::Checksum)
}

#[test]
fn a_flipped_bit_in_any_manifest_that_counts_is_found_at_opening_and_by_verification() {
    let (world, log, volume) = some_history(20);
    drop(log);
    let log = world.open();
    for i in 0..20 {
        write(&log, volume, i * 20, 20, i);
        upkeep(&log);
    }
    let manifests = world.files("manifest");
    let full = manifests.iter().rposition(|path| read(path).is_full).unwrap();
    assert!(full + 2 < manifests.len());
    for path in &manifests[full..] {
        let sound = std::fs::read(path).unwrap();
        let mut rotten = sound.clone();
        rotten[sound.len() / 2] ^= 8;
        std::fs::write(path, rotten).unwrap();
        assert!(verified(&log).contains(&in_manifest(path)), "{:?}", verified(&log));
        let copy = World::copy_of(world.folder.path());
        let other = copy.open();
        assert!(other.damage_at_open().contains(&in_manifest(path)), "{:?}", other.damage_at_open());
        std::fs::write(path, sound).unwrap();
    }
    assert_eq!(verified(&log), []);
}

#[test]
fn what_was_left_of_manifests_whose_writers_died_is_removed_and_counts_for_nothing() {
    let (world, log, volume) = some_history(40);
    drop(log);
    let newest = world.files("manifest").pop().unwrap();
    let number = manifest::number_of(newest.file_name().unwrap().to_str().unwrap()).unwrap();
    let part = |number: u32| world.path(&format!("{}.0123456789abcdef.part", manifest::file_name(number)));
    for number in [number, number + 1] {
        std::fs::copy(&newest, part(number)).unwrap();
    }
    let log = world.open();
    assert_eq!((log.damage_at_open(), verified(&log)), (&[][..], Vec::new()));
    // Another holder may be about to publish the next one.
    assert!(!part(number).exists() && part(number + 1).exists());
    for i in 0..6 {
        write(&log, volume, i * 20, 20, i);
        upkeep(&log);
    }
    drop(log);
    drop(world.open());
    assert!(!part(number + 1).exists());
}

#[test]
fn manifests_that_are_torn_or_damaged_cost_no_more_than_they_must() {
    let (world, log, _) = some_history(200);
    let first = world.segment(1);
    std::fs::remove_file(&first).unwrap();
    upkeep(&log);
    drop(log);
    let manifests = world.files("manifest");
    assert!(manifests.len() > 20);
    // The newest one is damaged: it is reported, and the ones before it count.
    let torn = World::copy_of(world.folder.path());
    let newest = torn.files("manifest").pop().unwrap();
    let bytes = std::fs::read(&newest).unwrap();
    std::fs::write(&newest, &bytes[..bytes.len() / 2]).unwrap();
    let log = torn.open();
    assert!(log.damage().contains(&in_manifest(&newest)), "{:?}", log.damage());
    upkeep(&log);
    drop(log);
    let log = torn.open();
    assert_eq!(log.damage(), [missing(1)]);
    // All of them gone: what they said is lost, and the next one has at least the log's id and secret.
    let gone = World::copy_of(world.folder.path());
    std::fs::remove_dir_all(gone.path("manifest")).unwrap();
    let log = gone.open();
    upkeep(&log);
    drop(log);
    assert_eq!(read(&gone.files("manifest")[0]).log, read(&manifests[0]).log);
    // One in the middle damaged: it is reported, the others count, and the next full one repairs the chain.
    let middle = &manifests[manifests.len() - 5];
    std::fs::write(middle, b"something else").unwrap();
    let log = world.open();
    let name =
        manifest::file_name(manifest::number_of(middle.file_name().unwrap().to_str().unwrap()).unwrap());
    assert!(log.damage().iter().any(|(place, _)| place.file == name), "{:?}", log.damage());
    assert!(log.damage().contains(&missing(1)));
    upkeep(&log);
    drop(log);
    let log = world.open();
    assert_eq!(log.damage(), [missing(1)]);
}

#[test]
fn manifests_do_not_grow_in_number_and_an_idle_log_writes_none() {
    let (world, log, _) = some_history(400);
    let (segments, manifests) = (world.files("log").len(), world.files("manifest").len());
    assert!(segments > 190 && manifests <= 3 * 64, "{manifests} manifests of {segments} segments");
    for _ in 0..100 {
        upkeep(&log);
    }
    assert_eq!(world.files("manifest").len(), manifests);
    let full: Vec<bool> = world.files("manifest").iter().map(|path| read(path).is_full).collect();
    assert!(full[0] && full.iter().filter(|full| **full).count() <= 3, "{full:?}");
}

#[test]
fn a_log_that_lives_often_and_briefly_keeps_few_manifests() {
    let (world, log, volume) = some_history(20);
    drop(log);
    for life in 0..12 {
        let log = world.open();
        // Enough to seal a segment, so that a manifest is written.
        for i in 0..6 {
            write(&log, volume, i * 20, 20, life);
            upkeep(&log);
        }
    }
    let full = world.files("manifest").iter().filter(|path| read(path).is_full).count();
    assert!((1..=3).contains(&full), "{full} full ones after 12 lives");
    assert_eq!(world.open().damage(), []);
}

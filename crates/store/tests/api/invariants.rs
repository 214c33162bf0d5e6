//! Tests of the invariants of `ARCHITECTURE.md` that the store upholds.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use bygone_model::{BranchId, Event, Kind, Lba, Sectors, Seq};
use bygone_store::{Below, BlockWrite, Content, Error, Log, LogOptions, Wait};

use crate::world::{Ticks, World, mark, sector, write};

#[test]
fn i1_acknowledged_write_survives_the_death_of_the_manager() {
    let (world, log, volume) = World::make(1024);
    let last = (0..100).fold(Seq(0), |_, i| write(&log, volume, i * 8, 8, i + 1));
    // Without a flush.
    drop(log);
    let log = world.open();
    assert_eq!(log.head_seq(), last);
    for i in 0..100 {
        assert_eq!(mark(&log, volume, i * 8 + 3, last).unwrap(), i + 1);
    }
}

#[test]
fn i1_flush_says_up_to_where_the_log_is_durable() {
    let (_world, log, volume) = World::make(1024);
    let last = write(&log, volume, 0, 8, 1);
    assert!(log.durable_seq() < last);
    assert!(log.flush().unwrap() >= last);
    assert!(log.durable_seq() >= last);
}

#[test]
fn i2_a_log_cut_anywhere_is_a_prefix() {
    let (world, log, volume) = World::make(1024);
    let first = write(&log, volume, 0, 8, 1).0;
    for i in 1..5 {
        write(&log, volume, i * 8, 8, i + 1);
    }
    drop(log);
    let newest = world.files("log").pop().unwrap();
    let whole = std::fs::read(&newest).unwrap();
    let mut heads = Vec::new();
    for cut in (0..24 << 10).step_by(488) {
        let copy = World::copy_of(world.folder.path());
        let file = copy.path("log").join(newest.file_name().unwrap());
        std::fs::write(&file, &whole[..cut.min(whole.len())]).unwrap();
        let Ok(log) = copy.try_open() else {
            assert!(cut < 4096, "only without its header is there no log");
            continue;
        };
        let head = log.head_seq();
        assert!(log.damage_at_open().is_empty(), "what was never flushed may be lost");
        for i in 0..5 {
            if head.0 >= first + i {
                assert_eq!(mark(&log, volume, i * 8, head).unwrap(), i + 1);
            } else if head.0 >= first {
                assert_eq!(mark(&log, volume, i * 8, head).unwrap(), 0);
            }
        }
        heads.push(head);
    }
    assert!(heads.is_sorted());
    assert_eq!(heads.last(), Some(&Seq(first + 4)));
}

#[test]
fn i2_one_order_for_writes_and_events() {
    let (_world, log, volume) = World::make(1024);
    let before = write(&log, volume, 0, 1, 1);
    let event = log.event(BranchId(0), &Event::new(Kind::Package, "install nginx")).unwrap();
    let after = write(&log, volume, 0, 1, 2);
    assert!(before < event.first && event.last < after);
    assert_eq!(mark(&log, volume, 0, event.last).unwrap(), 1);
    assert_eq!(mark(&log, volume, 0, after).unwrap(), 2);
}

#[test]
fn i3_sealed_segments_and_checkpoints_are_never_changed() {
    let (world, log, volume) = World::make(1024);
    let mut seen: BTreeMap<std::path::PathBuf, Vec<u8>> = BTreeMap::new();
    let mut log = Some(log);
    for round in 0..6 {
        let open = log.take().unwrap_or_else(|| world.open());
        for i in 0..40 {
            write(&open, volume, i % 16 * 8, 8, round * 100 + i + 1);
        }
        open.append(&[BlockWrite { volume, lba: Lba(64), content: Content::Trim(Sectors(64)), base: false }])
            .unwrap();
        while open.maintain().unwrap() {}
        for (path, bytes) in &seen {
            assert_eq!(&std::fs::read(path).unwrap(), bytes, "{} changed", path.display());
        }
        // All but the newest segment is sealed by now.
        let mut segments = world.files("log");
        segments.pop();
        for path in segments.into_iter().chain(world.files("index")) {
            let bytes = std::fs::read(&path).unwrap();
            // The spare has no content yet.
            if !bytes.is_empty()
                && bytes.ends_with(&[0; 8]).then(|| path.extension() == Some("seg".as_ref())) != Some(true)
            {
                seen.insert(path, bytes);
            }
        }
        open.flush().unwrap();
    }
    assert!(seen.len() > 10);
}

#[test]
fn i4_failed_flush_poisons_the_log() {
    let (world, log, volume) = World::make(1024);
    write(&log, volume, 0, 1, 1);
    world.syncs_fail.store(true, Ordering::Relaxed);
    assert!(matches!(log.flush(), Err(Error::Io { .. })));
    // The next sync of the medium would succeed, but it says nothing about the data that the failed one lost.
    world.syncs_fail.store(false, Ordering::Relaxed);
    assert!(log.is_poisoned());
    assert!(matches!(log.flush(), Err(Error::Poisoned)));
    assert!(matches!(log.maintain(), Err(Error::Poisoned)));
    assert!(matches!(log.event(BranchId(0), &Event::new(Kind::Boot, "")), Err(Error::Poisoned)));
    let data = sector(2);
    let refused =
        log.append(&[BlockWrite { volume, lba: Lba(0), content: Content::Data(&data), base: false }]);
    assert!(matches!(refused, Err(Error::Poisoned)));
}

#[test]
fn i4_failed_sync_while_sealing_poisons_the_log() {
    let (world, log, volume) = World::make(1024);
    for i in 0..20 {
        write(&log, volume, i * 8, 8, i + 1);
    }
    world.syncs_fail.store(true, Ordering::Relaxed);
    while let Ok(more) = log.maintain() {
        assert!(more, "there are segments to seal");
    }
    world.syncs_fail.store(false, Ordering::Relaxed);
    assert!(matches!(log.flush(), Err(Error::Poisoned)));
}

#[test]
fn i8_open_checkpoints_are_bounded_however_long_history_is() {
    let (_world, log, volume) = World::make(1024);
    for i in 0..3000 {
        write(&log, volume, i % 128 * 8, 1, i + 1);
        if i % 20 == 0 {
            while log.maintain().unwrap() {}
        }
    }
    let head = log.head_seq();
    for seq in (10..head.0).step_by(17) {
        mark(&log, volume, 8, Seq(seq)).unwrap();
    }
    assert!(log.open_checkpoints() <= 16, "{} checkpoints are open", log.open_checkpoints());
}

#[test]
fn i8_head_map_is_emptied_by_checkpoints() {
    let (_world, log, volume) = World::make(1 << 20);
    log.open_volume(volume, Below::Index, Seq::ZERO).unwrap();
    for i in 0..2000 {
        write(&log, volume, i * 16, 1, i + 1);
        while log.maintain().unwrap() {}
        assert!(log.head_runs(volume) <= 40, "{} runs", log.head_runs(volume));
    }
    let found = log.resolve_head(volume, Lba(16), Sectors(1), Wait::Yes).unwrap();
    let mut bytes = sector(0);
    log.read_fragment(&found[0], &mut bytes, Wait::Yes).unwrap();
    assert_eq!(bytes, sector(2));
}

#[test]
fn what_was_frozen_keeps_its_moment() {
    let (_world, log, volume) = World::make(1024);
    log.open_volume(volume, Below::Device, Seq::ZERO).unwrap();
    let first = write(&log, volume, 0, 1, 1);
    let (_, at) = log.freeze_head(volume).unwrap();
    assert_eq!(at, first);
    write(&log, volume, 8, 1, 2);
    // The device did not take the frozen map, so it comes again, without what was written since.
    let (map, at) = log.freeze_head(volume).unwrap();
    assert_eq!((map.len(), at), (1, first));
}

#[test]
fn asking_for_the_present_again_and_again_leaves_no_files_without_end() {
    let (world, log, volume) = World::make_of(1024, 1 << 20);
    drop(log);
    // With the default options a checkpoint is due only after many more writes than are made here.
    let options = LogOptions::default();
    let log = Log::open(world.dir(), Arc::new(Ticks::default()), options).unwrap();
    let mut views = Vec::new();
    for n in 0..1000 {
        let seq = write(&log, volume, n % 100 * 4, 4, n + 1);
        let view = log.view(volume, seq).unwrap();
        if n % 50 == 0 {
            views.push((view, n));
        }
        assert_eq!(mark(&log, volume, n % 100 * 4, seq).unwrap(), n + 1);
    }
    let files = std::fs::read_dir(world.path("index")).map_or(0, Iterator::count);
    assert!(files <= 1, "{files} files");
    // A view shows the same after a checkpoint has taken over the versions that it held in memory.
    log.checkpoint().unwrap();
    for (view, n) in views {
        let mut bytes = sector(0);
        view.read(Lba(n % 100 * 4 + 1), &mut bytes, Wait::Yes).unwrap();
        assert_eq!(bytes, sector(n + 1));
    }
}

use std::{fs, path::Path, sync::Arc};

use bygone_block::{
    AsOfDevice, BlockDevice, Change, IoError, OsDisk, Reading, TapDevice, TapState, WhenFull, Writing,
};
use bygone_model::VolumeId;
use bygone_store::{Log, catalog::Keeping};

use super::{Rng, add_disk, assert_reads, change, make_log, open_log};

pub(super) const SIZE: u64 = 8 << 20;

fn open_tap(log: &Arc<Log>, volume: VolumeId, disk: &Path) -> (Arc<TapDevice>, TapState) {
    TapDevice::open(log.clone(), volume, Box::new(OsDisk::open(disk).unwrap()), WhenFull::Fail).unwrap()
}

fn reread(tap: &Arc<TapDevice>) -> bygone_block::Reread {
    tap.reread(&mut |_, _| true).unwrap()
}

/// A disk with content, a log, its volume, and a copy of the content.
pub(super) fn world(dir: &Path) -> (Arc<Log>, VolumeId, std::path::PathBuf, Vec<u8>) {
    let disk = dir.join("disk.raw");
    let mut copy = vec![0_u8; SIZE as usize];
    copy[1 << 20..3 << 20].fill(0xab);
    fs::write(&disk, &copy).unwrap();
    let log = make_log(&dir.join("log"));
    let volume = add_disk(&log, SIZE, Keeping::Tap);
    (log, volume, disk, copy)
}

#[test]
fn after_a_clean_close_the_disk_is_whole_and_known_again() {
    let dir = tempfile::tempdir().unwrap();
    let (log, volume, disk, mut copy) = world(dir.path());
    let mut rng = Rng(2);
    let (tap, state) = open_tap(&log, volume, &disk);
    assert_eq!(state, TapState::New);
    for i in 0..500 {
        change(&*tap, &mut copy, &mut rng);
        if i % 60 == 0 {
            assert_reads(&*tap, &copy, &mut rng);
            tap.destage().unwrap();
            assert_reads(&*tap, &copy, &mut rng);
            while log.maintain().unwrap() {}
        }
    }
    reread(&tap);
    tap.close().unwrap();
    assert!(fs::read(&disk).unwrap() == copy);
    assert!(matches!(tap.write(&[]), Ok(()) | Err(IoError::Closing)));
    drop((tap, log));
    let log = open_log(&dir.path().join("log"));
    let (tap, state) = open_tap(&log, volume, &disk);
    assert_eq!(state, TapState::Known);
    assert_reads(&*tap, &copy, &mut rng);
}

#[test]
fn a_taken_over_disk_is_exact_at_every_moment_after_the_base_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let (log, volume, disk, mut copy) = world(dir.path());
    let mut rng = Rng(3);
    let (tap, _) = open_tap(&log, volume, &disk);
    // The target writes while the disk is being read.
    let found = tap
        .reread(&mut |_, _| {
            change(&*tap, &mut copy, &mut rng);
            tap.destage().unwrap();
            true
        })
        .unwrap();
    assert!(found.changed_bytes >= 1 << 20, "{found:?}");
    let mut moments = vec![(log.head_seq(), copy.clone())];
    for _ in 0..5 {
        for _ in 0..40 {
            change(&*tap, &mut copy, &mut rng);
        }
        moments.push((log.head_seq(), copy.clone()));
        tap.destage().unwrap();
    }
    for (seq, then) in moments {
        let view = log.view(volume, seq).unwrap();
        assert_reads(&AsOfDevice::new(log.clone(), view, 512), &then, &mut rng);
    }
}

#[test]
fn a_killed_manager_loses_nothing_and_the_disk_is_brought_up_to_date_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (log, volume, disk, mut copy) = world(dir.path());
    let mut rng = Rng(4);
    let (tap, _) = open_tap(&log, volume, &disk);
    reread(&tap);
    drop((tap, log));
    for round in 0..6 {
        let log = open_log(&dir.path().join("log"));
        let (tap, state) = open_tap(&log, volume, &disk);
        assert_eq!(state, TapState::Known, "round {round}");
        assert_reads(&*tap, &copy, &mut rng);
        for _ in 0..150 {
            change(&*tap, &mut copy, &mut rng);
            while log.maintain().unwrap() {}
        }
        if round % 2 == 0 {
            tap.destage().unwrap();
            change(&*tap, &mut copy, &mut rng);
        }
        // Dropped without a close: as after SIGKILL, what was written stays and nothing is cleaned up.
    }
    let log = open_log(&dir.path().join("log"));
    let (tap, _) = open_tap(&log, volume, &disk);
    tap.close().unwrap();
    assert!(fs::read(&disk).unwrap() == copy);
}

#[test]
fn a_disk_changed_behind_our_back_is_noticed_and_only_the_change_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (log, volume, disk, mut copy) = world(dir.path());
    let mut rng = Rng(5);
    let (tap, _) = open_tap(&log, volume, &disk);
    reread(&tap);
    tap.close().unwrap();
    drop((tap, log));

    copy[5 << 20..(5 << 20) + 4096].fill(0xcd);
    fs::write(&disk, &copy).unwrap();

    let log = open_log(&dir.path().join("log"));
    let (tap, state) = open_tap(&log, volume, &disk);
    assert_eq!(state, TapState::Changed { waiting_bytes_max: 0 });
    // Not even a crash makes it forget that.
    drop((tap, log));
    let log = open_log(&dir.path().join("log"));
    let (tap, state) = open_tap(&log, volume, &disk);
    assert_eq!(state, TapState::Unfinished);
    let found = reread(&tap);
    assert_eq!(found.changed_bytes, 4096);
    assert_eq!(found.changed_range, Some((5 << 20, (5 << 20) + 4096)));
    let view = log.view(volume, log.head_seq()).unwrap();
    assert_reads(&AsOfDevice::new(log, view, 512), &copy, &mut rng);
    tap.close().unwrap();
}

#[test]
fn a_trimmed_range_costs_the_disk_no_space() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let (log, volume, disk, _) = world(dir.path());
    let (tap, _) = open_tap(&log, volume, &disk);
    let before = fs::metadata(&disk).unwrap().blocks();
    let trim = bygone_block::Change::Trim { len_bytes: 1 << 20 };
    tap.write(&[bygone_block::Writing { offset: 1 << 20, change: trim }]).unwrap();
    tap.close().unwrap();
    assert!(fs::metadata(&disk).unwrap().blocks() + 2000 < before);
    let mut buf = vec![1; 4096];
    tap.read(1 << 20, &mut buf, Reading::MayWait).unwrap();
    assert!(buf.iter().all(|b| *b == 0));
}

#[test]
fn zeroes_whose_space_is_to_stay_make_no_hole_in_the_disk() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let (log, volume, disk, _) = world(dir.path());
    fs::write(&disk, vec![0xab; SIZE as usize]).unwrap();
    let before = fs::metadata(&disk).unwrap().blocks();
    let zero = |offset| Writing { offset, change: Change::Zero { len_bytes: 1 << 20 } };
    let (tap, _) = open_tap(&log, volume, &disk);
    tap.write(&[zero(1 << 20)]).unwrap();
    let mut kinds = Vec::new();
    tap.extents(1 << 20, 1 << 20, &mut |extent| {
        kinds.push((extent.zero, extent.hole));
        true
    })
    .unwrap();
    assert_eq!(kinds, [(true, false)], "nor is one reported");
    tap.destage().unwrap();
    // Also when the manager was killed before it could destage them.
    tap.write(&[zero(4 << 20)]).unwrap();
    drop((tap, log));
    let log = open_log(&dir.path().join("log"));
    let (tap, _) = open_tap(&log, volume, &disk);
    tap.close().unwrap();
    assert!(fs::metadata(&disk).unwrap().blocks() >= before);
    let content = fs::read(&disk).unwrap();
    for offset in [1 << 20, 4 << 20] {
        assert!(content[offset..offset + (1 << 20)].iter().all(|byte| *byte == 0));
    }
    assert!(content[..1 << 20].iter().all(|byte| *byte == 0xab));
}

#[test]
fn a_change_behind_our_back_after_a_kill_is_noticed_whatever_else_was_logged_since() {
    let dir = tempfile::tempdir().unwrap();
    let (log, volume, disk, mut copy) = world(dir.path());
    let (tap, _) = open_tap(&log, volume, &disk);
    reread(&tap);
    tap.close().unwrap();
    drop(tap);
    // Dropped without a close: as after SIGKILL. Nothing of the log was being destaged.
    drop((open_tap(&log, volume, &disk), log));
    std::thread::sleep(std::time::Duration::from_millis(20));
    copy[5 << 20] = 0xcd;
    fs::write(&disk, &copy).unwrap();
    let log = open_log(&dir.path().join("log"));
    log.event(bygone_model::BranchId(0), &bygone_model::Event::new(bygone_model::Kind::Point, "later"))
        .unwrap();
    drop(log);
    let log = open_log(&dir.path().join("log"));
    let (_, state) = open_tap(&log, volume, &disk);
    assert_eq!(state, TapState::Changed { waiting_bytes_max: 0 });
}

#[test]
fn what_had_not_reached_a_disk_that_was_changed_is_written_over_the_change_and_the_rest_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (log, volume, disk, mut copy) = world(dir.path());
    let (tap, _) = open_tap(&log, volume, &disk);
    reread(&tap);
    tap.close().unwrap();
    drop(tap);
    // Logged and not destaged: as after SIGKILL.
    let (tap, _) = open_tap(&log, volume, &disk);
    let data = Change::Data(&[0xee; 4096]);
    tap.write(&[Writing { offset: 5 << 20, change: data }]).unwrap();
    tap.flush().unwrap();
    drop((tap, log));
    copy[5 << 20..(5 << 20) + 8192].fill(0xcd);
    // A file in its place, for the destager may have changed the file itself some seconds after the last write.
    let other = dir.path().join("other.raw");
    fs::write(&other, &copy).unwrap();
    fs::rename(&other, &disk).unwrap();

    let log = open_log(&dir.path().join("log"));
    let (tap, state) = open_tap(&log, volume, &disk);
    assert_eq!(state, TapState::Changed { waiting_bytes_max: 4096 });
    assert_eq!(reread(&tap).changed_bytes, 4096);
    tap.close().unwrap();
    copy[5 << 20..(5 << 20) + 4096].fill(0xee);
    assert!(fs::read(&disk).unwrap() == copy);
}

#[test]
fn i8_a_disk_that_is_written_little_is_marked_as_the_log_grows() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.raw");
    fs::write(&disk, vec![0_u8; SIZE as usize]).unwrap();
    let clock = Arc::new(bygone_store::env::SystemClock::new());
    let folder = Arc::new(bygone_store::env::RealDir::new(dir.path().join("log")));
    let log = Log::make(folder, clock, bygone_store::LogOptions::default(), [7; 16]).unwrap();
    let volume = add_disk(&log, SIZE, Keeping::Tap);
    let (tap, _) = open_tap(&log, volume, &disk);
    reread(&tap);
    let applied = || log.catalog().taps[&volume.0].applied;
    let same = vec![Writing { offset: 0, change: Change::Trim { len_bytes: 512 } }; 256];
    for _ in 0..2 {
        let before = applied();
        for _ in 0..(1 << 18) / same.len() {
            tap.write(&same).unwrap();
            tap.destage().unwrap();
        }
        while log.maintain().unwrap() {}
        assert!(applied().0 >= before.0 + (1 << 18), "after a crash all would be looked through again");
    }
    // The disk has it all, and the log goes on growing by what others write.
    let before = applied();
    for _ in 0..1 << 18 {
        log.event(bygone_model::BranchId(0), &bygone_model::Event::new(bygone_model::Kind::Point, ""))
            .unwrap();
        if log.head_seq().0.is_multiple_of(4096) {
            while log.maintain().unwrap() {}
        }
    }
    tap.destage().unwrap();
    assert!(applied().0 >= before.0 + (1 << 18));
}

#[test]
fn a_disk_of_which_records_are_lost_is_read_again_and_its_history_is_right_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let (log, volume, disk, mut copy) = world(dir.path());
    let mut rng = Rng(9);
    let (tap, _) = open_tap(&log, volume, &disk);
    reread(&tap);
    for block in 0..64_u8 {
        let offset = u64::from(block) << 16;
        let data = vec![block + 1; 1 << 16];
        tap.write(&[Writing { offset, change: Change::Data(&data) }]).unwrap();
        copy[offset as usize..][..1 << 16].copy_from_slice(&data);
        tap.destage().unwrap();
    }
    tap.close().unwrap();
    while log.maintain().unwrap() {}
    drop((tap, log));
    let mut segments: Vec<_> =
        fs::read_dir(dir.path().join("log/log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    fs::remove_file(&segments[segments.len() / 2]).unwrap();

    let log = open_log(&dir.path().join("log"));
    let behind = log.head_seq();
    let lost = |log: &Arc<Log>, seq| !log.view(volume, seq).unwrap().lost().is_empty();
    assert!(lost(&log, behind));
    // The index knows no more than the segments then.
    log.checkpoint().unwrap();
    let (tap, state) = open_tap(&log, volume, &disk);
    assert_eq!(state, TapState::Lost);
    assert_reads(&*tap, &copy, &mut rng);
    drop((tap, log));
    let log = open_log(&dir.path().join("log"));
    let (tap, state) = open_tap(&log, volume, &disk);
    assert_eq!(state, TapState::Unfinished);
    assert!(reread(&tap).changed_bytes > 0);
    let now = log.head_seq();
    assert!(lost(&log, behind) && !lost(&log, now));
    let view = log.view(volume, now).unwrap();
    assert_eq!(view.uncertain(bygone_model::Lba(0), view.sectors()).unwrap().0, 0);
    assert_reads(&AsOfDevice::new(log.clone(), view, 512), &copy, &mut rng);
    tap.close().unwrap();
    drop((tap, log));
    let log = open_log(&dir.path().join("log"));
    assert_eq!(open_tap(&log, volume, &disk).1, TapState::Known);
}

#[test]
fn a_disk_whose_mark_is_older_than_lost_records_can_be_opened() {
    let dir = tempfile::tempdir().unwrap();
    let (log, volume, disk, _) = world(dir.path());
    let (tap, _) = open_tap(&log, volume, &disk);
    reread(&tap);
    for block in 0..64_u8 {
        let data = vec![block + 1; 1 << 16];
        tap.write(&[Writing { offset: u64::from(block) << 16, change: Change::Data(&data) }]).unwrap();
    }
    log.flush().unwrap();
    while log.maintain().unwrap() {}
    // As after a kill: nothing was destaged.
    drop((tap, log));
    let mut segments: Vec<_> =
        fs::read_dir(dir.path().join("log/log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.sort();
    fs::remove_file(&segments[segments.len() / 2]).unwrap();
    let log = open_log(&dir.path().join("log"));
    log.checkpoint().unwrap();
    let (tap, state) = open_tap(&log, volume, &disk);
    assert_ne!(state, TapState::Known);
    reread(&tap);
    tap.close().unwrap();
    // What came behind them is on the disk.
    assert_eq!(fs::read(&disk).unwrap()[(64 << 16) - 1], 64);
}

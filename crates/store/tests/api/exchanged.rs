//! A log's files are replaced by those of another log, or made unreadable: opening removes no file that it does not
//! know.

use std::{collections::BTreeMap, path::PathBuf};

use bygone_model::VolumeId;
use bygone_store::{Damage, Error};

use crate::world::{World, label_of, mark, write};

/// A log with many sealed segments and a checkpoint; sector `i * 20` holds mark `i + 1`.
fn history() -> (World, VolumeId) {
    let (world, log, volume) = World::make(1 << 20);
    for i in 0..60 {
        write(&log, volume, i * 20, 20, i + 1);
        while log.maintain().unwrap() {}
    }
    log.checkpoint().unwrap();
    log.flush().unwrap();
    (world, volume)
}

/// All files except segments without records: a life removes the spare that the previous one had preallocated.
fn files(world: &World) -> BTreeMap<PathBuf, Vec<u8>> {
    let all = ["log", "index", "manifest"].into_iter().flat_map(|folder| world.files(folder));
    let read = all.map(|path| (path.clone(), std::fs::read(path).unwrap()));
    read.filter(|(_, bytes)| bytes[4096.min(bytes.len())..].iter().any(|byte| *byte != 0)).collect()
}

fn remove_all(world: &World, folder: &str) {
    world.files(folder).iter().for_each(|path| std::fs::remove_file(path).unwrap());
}

/// Checks that opening is refused as damage and changes no file.
fn is_refused(world: &World, damage: Damage) {
    let before = files(world);
    for _ in 0..2 {
        let opened = world.try_open().map(|log| log.damage_at_open().to_vec());
        assert!(matches!(&opened, Err(Error::Damaged { damage: what, .. }) if *what == damage), "{opened:?}");
        assert!(files(world) == before);
    }
}

#[test]
fn a_segment_of_another_log_costs_its_own_records_and_no_file_is_removed() {
    let (other, _) = history();
    let segments = other.files("log").len() - 2;
    for number in [0, 1, segments / 2, segments - 1] {
        for (checkpoint, gap) in [(true, false), (false, false), (false, true)] {
            let (world, volume) = history();
            let head = world.open().head_seq();
            let ours = world.files("log");
            if !checkpoint {
                remove_all(&world, "index");
            }
            std::fs::copy(&other.files("log")[number], &ours[number]).unwrap();
            let gone = (gap && number > 0).then(|| ours[number - 1].clone());
            gone.iter().for_each(|path| std::fs::remove_file(path).unwrap());
            let before: Vec<PathBuf> =
                files(&world).into_keys().filter(|path| path.parent().unwrap().ends_with("log")).collect();
            for life in 0..3 {
                let what = format!("segment {number}, {checkpoint}, {gap}, life {life}");
                let log = world.open();
                let left = world.files("log");
                assert!(before.iter().all(|path| left.contains(path)), "{what}: {left:?}");
                assert!(log.head_seq() >= head, "{what}");
                let known = log.verify(false, &mut |_, _| true).unwrap().damaged;
                let name = label_of(&ours[number]);
                assert!(known.iter().any(|damaged| damaged.place.file == name), "{what}: {known:?}");
                let read =
                    |i: u64| mark(&log, volume, i * 20, log.head_seq()).is_ok_and(|mark| mark == i + 1);
                let whole = (0..60).filter(|i| read(*i)).count();
                // Only the first segment and the checkpoints say which disks the log has.
                let knows_disks = checkpoint || number > usize::from(gap);
                assert!(whole >= 50 || !knows_disks, "{what}: {whole}");
            }
        }
    }
}

#[test]
fn a_log_whose_manifests_are_those_of_another_is_refused_and_left_as_it_is() {
    let (other, _) = history();
    let (world, _) = history();
    remove_all(&world, "manifest");
    for path in other.files("manifest") {
        let to = world.files("log")[0].parent().unwrap().parent().unwrap().join("manifest");
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    is_refused(&world, Damage::Misplaced);
}

#[test]
fn segments_of_two_logs_without_a_manifest_are_refused_and_left_as_they_are() {
    let (other, _) = history();
    let (world, _) = history();
    remove_all(&world, "manifest");
    std::fs::copy(&other.files("log")[0], &world.files("log")[0]).unwrap();
    is_refused(&world, Damage::Misplaced);
}

#[test]
fn a_log_of_which_no_record_can_be_read_is_refused_and_left_as_it_is() {
    let (world, _) = history();
    remove_all(&world, "manifest");
    remove_all(&world, "index");
    for path in world.files("log") {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.iter_mut().skip(4096).filter(|byte| **byte != 0).for_each(|byte| *byte ^= 0x5a);
        std::fs::write(path, bytes).unwrap();
    }
    is_refused(&world, Damage::Magic);
}

#[test]
fn a_segment_of_another_log_behind_what_a_power_cut_left_stays() {
    let (world, log, volume) = World::make(1 << 20);
    write(&log, volume, 0, 20, 1);
    let head = log.flush().unwrap();
    let before = world.files("log").len();
    for i in 1..12 {
        write(&log, volume, i * 20, 20, i + 1);
    }
    drop(log);
    // A power cut took the segment after the first. What follows continues nothing.
    let ours = world.files("log");
    let (gone, stale) = (&ours[before..=before], &ours[before + 1..]);
    assert!(stale.len() > 1);
    gone.iter().for_each(|path| std::fs::remove_file(path).unwrap());
    let (other, _) = history();
    let foreign = stale.last().unwrap().with_file_name(format!("{:010}-00000001.seg", ours.len() + 1));
    let bytes = std::fs::read(&other.files("log")[ours.len()]).unwrap();
    std::fs::write(&foreign, &bytes).unwrap();
    for life in 0..3 {
        let log = world.open();
        assert!(log.head_seq() >= head, "{life}");
        assert!(stale.iter().all(|path| !path.exists()), "{life}");
        let place = label_of(&foreign);
        let damage = log.damage_at_open();
        let is_reported = damage.iter().any(|(at, what)| at.file == place && *what == Damage::Misplaced);
        // Later lives begin behind it, with a checkpoint.
        assert!(is_reported || life > 0, "{damage:?}");
        assert_eq!(std::fs::read(&foreign).unwrap(), bytes, "{life}");
        assert_eq!(mark(&log, volume, 0, log.head_seq()).unwrap(), 1, "{life}");
        write(&log, volume, 100, 20, life);
        log.flush().unwrap();
        assert_eq!(mark(&log, volume, 100, log.head_seq()).unwrap(), life);
    }
}

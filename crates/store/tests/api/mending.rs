//! An index that is damaged while the log is in use is rebuilt from the segments.

use std::{path::Path, sync::Arc};

use bygone_model::{Lba, Sectors, Seq, VolumeId};
use bygone_store::{
    Below, BlockWrite, Content, Error, Log, Wait,
    format::checkpoint::{FRAME_BYTES, Trailer},
};

use crate::world::{World, mark, write};

const SECTORS: u64 = 240;

/// Flips a bit in every fiftieth byte of the pages and tables of a checkpoint file.
fn hurt(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let frame = bytes.last_chunk::<FRAME_BYTES>().unwrap();
    let trailer = Trailer::decode(frame, bytes.len() as u64).unwrap();
    for at in (FRAME_BYTES..trailer.offset as usize).step_by(50) {
        bytes[at] ^= 4;
    }
    std::fs::write(path, &bytes).unwrap();
}

/// The mark of a sector in the present.
fn present(log: &Log, volume: VolumeId, lba: u64) -> bygone_store::Result<u64> {
    let mut bytes = [0; 512];
    for fragment in log.resolve_head(volume, Lba(lba), Sectors(1), Wait::Yes)? {
        log.read_fragment(&fragment, &mut bytes, Wait::Yes)?;
    }
    Ok(u64::from_le_bytes(*bytes.first_chunk().unwrap()))
}

/// Some moments, each with the marks of all sectors.
type Moments = Vec<(Seq, Vec<u64>)>;

/// A log with many checkpoints.
fn history() -> (World, Arc<Log>, VolumeId, Moments) {
    let (world, log, volume) = World::make(1024);
    log.open_volume(volume, Below::Index, Seq::ZERO).unwrap();
    let (mut now, mut moments) = (vec![0; SECTORS as usize], Vec::new());
    for i in 1..=600 {
        let lba = i * 37 % (SECTORS - 4);
        let seq = write(&log, volume, lba, 1 + i % 4, i);
        now[lba as usize..(lba + 1 + i % 4) as usize].fill(i);
        if i % 50 == 0 {
            moments.push((seq, now.clone()));
        }
        while log.maintain().unwrap() {}
    }
    log.checkpoint().unwrap();
    (world, log, volume, moments)
}

#[test]
fn an_index_that_is_damaged_while_it_is_in_use_is_made_anew_and_every_moment_is_right() {
    for newest_only in [true, false] {
        let (world, log, volume, moments) = history();
        let files = world.files("index");
        // The last checkpoint has nothing but a flush.
        let skip = if newest_only { files.len() - 2 } else { 0 };
        files[skip..].iter().for_each(|path| hurt(path));
        let (_, now) = moments.last().unwrap();

        // Readers get an error, and no wrong data.
        let refused = (0..SECTORS)
            .filter(|&lba| match present(&log, volume, lba) {
                Ok(mark) => {
                    assert_eq!(mark, now[lba as usize]);
                    false
                }
                Err(Error::Damaged { .. }) => true,
                Err(error) => panic!("{error}"),
            })
            .count();
        assert!(refused > 0, "nothing was damaged");

        // Upkeep rebuilds the index, once.
        while log.maintain().unwrap() {}
        assert!(log.upkeep_trouble().is_none());
        for (lba, mark) in now.iter().enumerate() {
            assert_eq!(present(&log, volume, lba as u64).unwrap(), *mark, "sector {lba}");
        }
        let count = world.files("index").len();
        while log.maintain().unwrap() {}
        assert_eq!(world.files("index").len(), count, "it is made anew only once");

        // Every moment of the past is right, also those for which older checkpoints answered.
        for (seq, then) in &moments {
            for lba in (0..SECTORS).step_by(7) {
                assert_eq!(
                    mark(&log, volume, lba, *seq).unwrap(),
                    then[lba as usize],
                    "sector {lba} as of {seq}"
                );
            }
        }
        // The log goes on.
        for i in 1..=100 {
            write(&log, volume, i * 2, 1, 10_000 + i);
            while log.maintain().unwrap() {}
        }
        assert_eq!(present(&log, volume, 100).unwrap(), 10_050);
    }
}

#[test]
fn upkeep_that_meets_a_damaged_index_makes_it_anew_without_a_reader() {
    let (world, log, volume, moments) = history();
    world.files("index").iter().for_each(|path| hurt(path));
    for i in 1..=100 {
        write(&log, volume, i * 2, 1, 10_000 + i);
        while log.maintain().unwrap() {}
    }
    let (_, then) = moments.last().unwrap();
    for lba in 0..SECTORS {
        let wanted =
            if lba > 0 && lba <= 200 && lba % 2 == 0 { 10_000 + lba / 2 } else { then[lba as usize] };
        assert_eq!(present(&log, volume, lba).unwrap(), wanted, "sector {lba}");
    }
}

/// The marks of all sectors at some moments are right.
fn is_right(log: &Arc<Log>, volume: VolumeId, moments: &Moments) {
    for (seq, then) in moments {
        for lba in (0..SECTORS).step_by(7) {
            assert_eq!(mark(log, volume, lba, *seq).unwrap(), then[lba as usize], "sector {lba} as of {seq}");
        }
    }
}

/// As after a crash under load: far more versions than a checkpoint takes are in no checkpoint.
fn leave_many_uncovered(log: &Arc<Log>, volume: VolumeId, moments: &mut Moments) {
    let mut now = moments.last().unwrap().1.clone();
    for i in 1..=100 {
        let seq = write(log, volume, i * 2, 1, 20_000 + i);
        now[i as usize * 2] = 20_000 + i;
        if i % 50 == 0 {
            moments.push((seq, now.clone()));
        }
    }
    log.flush().unwrap();
}

#[test]
fn an_index_that_is_damaged_where_opening_builds_upon_it_is_made_anew_and_no_file_of_it_is_removed() {
    for damaged in 0..3 {
        let (world, log, volume, mut moments) = history();
        leave_many_uncovered(&log, volume, &mut moments);
        drop(log);
        let files = world.files("index");
        match damaged {
            0 => files.iter().for_each(|path| hurt(path)),
            // The last checkpoint has nothing but a flush.
            1 => hurt(&files[files.len() - 2]),
            _ => hurt(&files[0]),
        }
        for life in 0..2 {
            let log = world.open();
            let left = world.files("index");
            assert!(files.iter().all(|path| left.contains(path)), "{damaged}, {life}: {left:?}");
            assert_eq!(log.damage_at_open(), [], "{damaged}, {life}");
            if life == 0 {
                is_right(&log, volume, &moments);
            }
        }
    }
}

#[test]
fn an_index_that_opening_can_neither_build_upon_nor_make_anew_waits_for_upkeep() {
    let (world, log, volume, mut moments) = history();
    leave_many_uncovered(&log, volume, &mut moments);
    drop(log);
    let files = world.files("index");
    files.iter().for_each(|path| hurt(path));
    let lost = world.files("log").remove(3);
    let bytes = std::fs::read(&lost).unwrap();
    std::fs::remove_file(&lost).unwrap();
    let log = world.open();
    let left = world.files("index");
    assert!(files.iter().all(|path| left.contains(path)), "{left:?}");
    assert!(lost.ends_with(&log.damage_at_open()[0].0.file), "{:?}", log.damage_at_open());
    assert!(log.checkpoint().is_err());
    std::fs::write(&lost, &bytes).unwrap();
    log.checkpoint().unwrap();
    is_right(&log, volume, &moments);
}

#[test]
fn i8_changes_are_refused_before_memory_grows_further_while_the_index_cannot_be_made_anew() {
    let (world, log, volume, _) = history();
    drop(log);
    let options = bygone_store::LogOptions { versions_max: 100, ..crate::world::options(24 << 10) };
    let clock = Arc::new(crate::world::Ticks::default());
    let log = Log::open(world.dir(), clock, options).unwrap();
    log.open_volume(volume, Below::Index, Seq::ZERO).unwrap();
    // The index is damaged, and a segment from which it would be rebuilt is missing.
    world.files("index").iter().for_each(|path| hurt(path));
    let lost = world.files("log").remove(0);
    let bytes = std::fs::read(&lost).unwrap();
    std::fs::remove_file(&lost).unwrap();
    let data = [7; 512];
    let one = |lba| BlockWrite { volume, lba: Lba(lba), content: Content::Data(&data), base: false };
    let (mut taken, mut tried) = (0, 0);
    for i in 0..1000 {
        match log.append(&[one(i % SECTORS)]) {
            Ok(_) => taken += 1,
            Err(Error::Behind { versions }) => assert!(versions <= 100),
            Err(error) => panic!("{error}"),
        }
        if log.is_overdue() {
            tried += 1;
            let _ = log.maintain();
        }
    }
    // Upkeep that failed is not retried at each write, which would take longer than the writes.
    assert!((1..10).contains(&tried), "{tried} times");
    assert!((50..=100).contains(&taken), "{taken} changes were taken");
    assert!(log.upkeep_trouble().is_some());
    // Records other than block records are still accepted: the target's events must not wait for the index.
    log.flush().unwrap();

    std::fs::write(&lost, &bytes).unwrap();
    while log.maintain().unwrap() {}
    assert!(log.upkeep_trouble().is_none());
    log.append(&[one(0)]).unwrap();
}

//! An index that is damaged while the log is in use is rebuilt from the segments.

use std::{path::Path, sync::Arc};

use bygone_model::{Lba, Sectors, Seq, VolumeId};
use bygone_store::{
    Below, BlockWrite, Content, Error, Hold, Log, Wait,
    format::checkpoint::{FRAME_BYTES, Footer, Name, Trailer},
};

use crate::world::{World, label_of, mark, write};

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

/// The same in the pages only.
fn hurt_pages(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let number = Name::parse(path.file_name().unwrap().to_str().unwrap()).unwrap().number;
    let frame = bytes.last_chunk::<FRAME_BYTES>().unwrap();
    let trailer = Trailer::decode(frame, bytes.len() as u64).unwrap();
    let footer = &bytes[trailer.offset as usize..][..trailer.len_bytes as usize];
    let footer: Footer = serde_json::from_slice(footer).unwrap();
    let tables = footer.volumes.iter().flat_map(|(_, tables)| tables).filter(|(_, at)| at.file == number);
    let tables: Vec<_> =
        tables.map(|(_, at)| at.offset as usize..at.offset as usize + at.len_bytes as usize).collect();
    let first = footer.events.first().map_or(trailer.offset, |events| events.block.offset);
    for at in (FRAME_BYTES..first as usize).step_by(50) {
        if !tables.iter().any(|table| table.contains(&at)) {
            bytes[at] ^= 4;
        }
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
fn an_index_that_cannot_be_made_anew_is_once_the_segment_that_was_missing_is_back() {
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
    assert_eq!(log.damage_at_open()[0].0.file, label_of(&lost), "{:?}", log.damage_at_open());
    while log.maintain().unwrap() {}
    assert!(right(&log, volume, &moments).contains(&false));
    std::fs::write(&lost, &bytes).unwrap();
    while log.maintain().unwrap() {}
    is_right(&log, volume, &moments);
}

/// Which reads of some sectors at some moments are right; the others report damage.
fn right(log: &Arc<Log>, volume: VolumeId, moments: &Moments) -> Vec<bool> {
    let sectors =
        moments.iter().flat_map(|(seq, then)| (0..SECTORS).step_by(7).map(move |lba| (seq, then, lba)));
    let is_right = |(seq, then, lba): (&Seq, &Vec<u64>, u64)| match mark(log, volume, lba, *seq) {
        Ok(mark) => {
            assert_eq!(mark, then[lba as usize], "sector {lba} as of {seq}");
            true
        }
        Err(Error::Damaged { .. }) => false,
        Err(error) => unreachable!("{error}"),
    };
    sectors.map(is_right).collect()
}

#[test]
fn an_index_and_a_segment_that_are_both_damaged_keep_no_checkpoint_from_being_written() {
    for pages_only in [true, false] {
        let (world, log, volume, mut moments) = history();
        for path in world.files("index") {
            if pages_only { hurt_pages(&path) } else { hurt(&path) }
        }
        std::fs::remove_file(world.files("log").remove(3)).unwrap();
        assert!(right(&log, volume, &moments).contains(&false));
        let mut now = moments.last().unwrap().1.clone();
        let mut new = Moments::new();
        for i in 1..=300 {
            let lba = i * 41 % 180;
            let seq = write(&log, volume, lba, 1, 30_000 + i);
            now[lba as usize] = 30_000 + i;
            while log.maintain().unwrap() {}
            if i % 100 == 0 {
                new.push((seq, now.clone()));
                right(&log, volume, &moments);
            }
        }
        assert!(log.upkeep_trouble().is_none());
        let end = log.checkpoint().unwrap();
        moments.append(&mut new);
        let files = world.files("index").len();
        while log.maintain().unwrap() {}
        assert_eq!(world.files("index").len(), files, "a stripe that was set aside is no work");
        // What was written since is right, also behind the checkpoints.
        let since = |log: &Arc<Log>| {
            for lba in (0..180).filter(|lba| now[*lba as usize] > 30_000) {
                assert_eq!(mark(log, volume, lba, end).unwrap(), now[lba as usize], "sector {lba}");
            }
        };
        since(&log);
        right(&log, volume, &moments);
        drop(log);
        for life in 0..3 {
            let log = world.open();
            right(&log, volume, &moments);
            while log.maintain().unwrap() {}
            write(&log, volume, 230, 1, 40_000 + life);
            log.checkpoint().unwrap();
            assert_eq!(mark(&log, volume, 230, log.head_seq()).unwrap(), 40_000 + life);
            since(&log);
        }
    }
}

#[test]
fn what_was_cut_off_a_damaged_segment_does_not_keep_opening_from_making_the_index_anew() {
    let (world, log, volume) = World::make_of(1024, 256 << 10);
    write(&log, volume, 0, 1, 1);
    let hit = write(&log, volume, 8, 1, 2);
    log.flush().unwrap();
    // Nothing proves that these were durable.
    let cut: Vec<Seq> = (0..4).map(|i| write(&log, volume, 100 + i * 8, 1, 10 + i)).collect();
    drop(log);
    // Because of the first damage the segment gets no index; at the second the log ends, although whole records follow.
    for seq in [hit, cut[1]] {
        crate::newest::hurt_payload(&world, seq);
    }
    let log = world.open();
    assert_eq!(log.head_seq(), cut[0]);
    let mut now = vec![0; SECTORS as usize];
    (now[0], now[100]) = (1, 10);
    let mut moments = Moments::new();
    for i in 1..=200 {
        let lba = 12 + i * 37 % 80;
        let seq = write(&log, volume, lba, 1, 100 + i);
        now[lba as usize] = 100 + i;
        while log.maintain().unwrap() {}
        if i % 50 == 0 {
            moments.push((seq, now.clone()));
        }
    }
    log.checkpoint().unwrap();
    leave_many_uncovered(&log, volume, &mut moments);
    drop(log);
    world.files("index").iter().for_each(|path| hurt_pages(path));
    let log = world.open();
    for (seq, then) in &moments {
        for lba in (9..SECTORS).step_by(3) {
            assert_eq!(
                mark(&log, volume, lba, *seq).unwrap(),
                then[lba as usize],
                "sector {lba} as of {seq}"
            );
        }
    }
}

#[test]
fn what_the_holder_before_wrote_behind_a_segment_is_in_no_index_that_opening_makes_anew() {
    let (world, old, volume, mut moments) = history();
    while old.maintain().unwrap() {}
    let mut now = moments.last().unwrap().1.clone();
    write(&old, volume, 0, 1, 900);
    now[0] = 900;
    old.flush().unwrap();
    let new = world.try_hold(Hold::TakeOver).unwrap();
    for i in 1..=60 {
        let lba = 3 + i * 37 % 200;
        let seq = write(&new, volume, lba, 20, 1000 + i);
        now[lba as usize..lba as usize + 20].fill(1000 + i);
        moments.push((seq, now.clone()));
        while new.maintain().unwrap() {}
    }
    new.checkpoint().unwrap();
    // The old holder has not looked for a newer term yet. It gives this record the seq of the new one's first.
    write(&old, volume, 1, 1, 7);
    old.flush().unwrap();
    leave_many_uncovered(&new, volume, &mut moments);
    drop((old, new));
    world.files("index").iter().for_each(|path| hurt_pages(path));
    let log = world.open();
    assert_eq!(log.damage_at_open(), []);
    for (seq, then) in &moments {
        for lba in 0..SECTORS {
            assert_eq!(
                mark(&log, volume, lba, *seq).unwrap(),
                then[lba as usize],
                "sector {lba} as of {seq}"
            );
        }
    }
}

#[test]
fn i8_changes_are_refused_before_memory_grows_further_while_the_index_cannot_be_written() {
    let (world, log, volume, _) = history();
    drop(log);
    let options = bygone_store::LogOptions { versions_max: 100, ..crate::world::options(24 << 10) };
    let clock = Arc::new(crate::world::Ticks::default());
    let log = Log::open(world.dir(), clock, options).unwrap();
    log.open_volume(volume, Below::Index, Seq::ZERO).unwrap();
    // No file can be made in the folder.
    std::fs::rename(world.path("index"), world.path("away")).unwrap();
    std::fs::write(world.path("index"), []).unwrap();
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

    std::fs::remove_file(world.path("index")).unwrap();
    std::fs::rename(world.path("away"), world.path("index")).unwrap();
    while log.maintain().unwrap() {}
    assert!(log.upkeep_trouble().is_none());
    log.append(&[one(0)]).unwrap();
}

#[test]
fn an_index_is_not_made_anew_from_a_segment_that_lost_records_that_the_index_knew() {
    for is_last in [true, false] {
        let (world, log, volume) = World::make_of(1024, 256 << 10);
        write(&log, volume, 0, 1, 1);
        write(&log, volume, 8, 1, 2);
        let hit = write(&log, volume, 0, 1, 3);
        log.flush().unwrap();
        write(&log, volume, 16, 1, 4);
        let end = log.checkpoint().unwrap();
        if !is_last {
            drop(log);
            // A later life goes on in another segment.
            let log = world.open();
            write(&log, volume, 24, 1, 5);
            log.flush().unwrap();
        } else {
            drop(log);
        }
        crate::newest::lose_record(&world, hit);
        world.files("index").iter().for_each(|path| hurt_pages(path));
        for life in 0..3 {
            let log = world.open();
            for round in 0..4 {
                for (lba, wanted) in [(0, 3), (8, 2), (16, 4)] {
                    match mark(&log, volume, lba, end) {
                        Ok(mark) => assert_eq!(mark, wanted, "sector {lba}, {is_last}, {life}, {round}"),
                        Err(Error::Damaged { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                write(&log, volume, 100 + round, 1, 9);
                while log.maintain().unwrap() {}
                log.checkpoint().unwrap();
            }
        }
    }
}

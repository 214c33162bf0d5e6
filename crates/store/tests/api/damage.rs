//! Damage and newer versions are reported and never served (I5).

use std::path::{Path, PathBuf};

use bygone_model::{BranchId, Event, Kind, Seq, VolumeId};
use bygone_store::{
    Damage, Error, Hold,
    format::{crc32c, manifest, segment::TRAILER_BYTES},
};

use crate::world::{World, mark, sector, write};

const WRITES: u64 = 60;

/// A closed log of several sealed segments and checkpoints; also returns its volume and last seq.
fn some_history() -> (World, VolumeId, Seq) {
    let (world, log, volume) = World::make(1024);
    for i in 0..WRITES {
        write(&log, volume, i % 12 * 20, 20, i + 1);
        while log.maintain().unwrap() {}
    }
    log.event(BranchId(0), &Event::new(Kind::Point, "end")).unwrap();
    let end = log.checkpoint().unwrap();
    drop(log);
    // Opening seals the rest.
    drop(world.open());
    (world, volume, end)
}

/// Whether a report's `file` is the file at `path`.
fn is_of(path: impl AsRef<Path>, file: &str) -> bool {
    path.as_ref().to_str().unwrap().contains(file)
}

/// Reads every sector that was written, as of `end`.
fn all_marks(world: &World, volume: VolumeId, end: Seq) -> Vec<bygone_store::Result<u64>> {
    let log = world.open();
    (0..240).map(|lba| mark(&log, volume, lba, end)).collect()
}

#[test]
fn i5_flipped_bits_are_reported_and_never_served() {
    let (world, volume, end) = some_history();
    let sound: Vec<u64> = all_marks(&world, volume, end).into_iter().map(Result::unwrap).collect();
    let mut reported = 0;
    for path in world.files("log").into_iter().chain(world.files("index")) {
        let bytes = std::fs::read(&path).unwrap();
        for at in (3..bytes.len()).step_by(bytes.len() / 12 + 1) {
            let mut rotten = bytes.clone();
            rotten[at] ^= 0x10;
            std::fs::write(&path, &rotten).unwrap();
            for (lba, (got, sound)) in all_marks(&world, volume, end).into_iter().zip(&sound).enumerate() {
                match got {
                    Ok(mark) => {
                        assert_eq!(mark, *sound, "sector {lba} after byte {at} of {}", path.display());
                    }
                    Err(Error::Damaged { .. }) => reported += 1,
                    Err(e) => panic!("{e}"),
                }
            }
            // Opening may have removed this checkpoint or rebuilt the index; the old file does no harm.
            let _ = std::fs::write(&path, &bytes);
        }
    }
    assert!(reported > 100, "{reported}");
}

#[test]
fn i5_verification_finds_a_flipped_bit_in_every_file() {
    let (world, ..) = some_history();
    let files: Vec<_> = world.files("log").into_iter().chain(world.files("index")).collect();
    // The newest checkpoint is rebuilt without a report.
    for path in &files[..files.len() - 1] {
        let bytes = std::fs::read(path).unwrap();
        let log = world.open();
        assert!(log.verify(false, &mut |_, _| true).unwrap().damaged.is_empty());
        let mut rotten = bytes.clone();
        let middle = bytes.len() / 2;
        rotten[middle] ^= 0x80;
        std::fs::write(path, &rotten).unwrap();
        let report = log.verify(true, &mut |_, _| true).unwrap();
        assert!(
            report.damaged.iter().any(|damaged| is_of(path, &damaged.place.file)),
            "{} is not in {report:?}",
            path.display()
        );
        std::fs::write(path, &bytes).unwrap();
    }
}

#[test]
fn verification_misses_no_segment() {
    let (world, ..) = some_history();
    let segments = world.files("log");
    std::fs::remove_file(&segments[0]).unwrap();
    std::fs::remove_file(&segments[2]).unwrap();
    let report = world.open().verify(false, &mut |_, _| true).unwrap();
    assert_eq!(report.damaged.iter().filter(|d| d.damage == Damage::Missing).count(), 2);
}

#[test]
fn a_segment_cut_before_its_first_record_is_found_although_the_next_one_cannot_tell() {
    let (world, ..) = some_history();
    let segments = world.files("log");
    assert!(segments.len() > 20);
    for pair in segments.windows(2).take(segments.len() - 3).step_by(3) {
        for lost in [true, false] {
            let copy = World::copy_of(world.folder.path());
            let [cut, next] = [0, 1].map(|i| copy.path("log").join(pair[i].file_name().unwrap()));
            let bytes = std::fs::read(&cut).unwrap();
            std::fs::write(&cut, &bytes[..4100]).unwrap();
            let mut bytes = std::fs::read(&next).unwrap();
            if lost {
                std::fs::remove_file(&next).unwrap();
            } else {
                bytes[4200] ^= 1;
                std::fs::write(&next, &bytes).unwrap();
            }
            let log = copy.open();
            let found = log.verify(true, &mut |_, _| true).unwrap().damaged;
            for path in [cut, next] {
                let is_it = |file: &str| is_of(&path, file);
                assert!(
                    found.iter().any(|damaged| is_it(&damaged.place.file))
                        || log.damage_at_open().iter().any(|(place, _)| is_it(&place.file)),
                    "{} is not in {found:?}",
                    path.display()
                );
            }
        }
    }
}

#[test]
fn cut_segments_are_told_from_whole_ones() {
    let (world, volume, end) = some_history();
    let sound: Vec<u64> = all_marks(&world, volume, end).into_iter().map(Result::unwrap).collect();
    for path in world.files("log") {
        let bytes = std::fs::read(&path).unwrap();
        for len in [0, 100, 4096, bytes.len() / 2, bytes.len() - 1] {
            let copy = World::copy_of(world.folder.path());
            let at = copy.path("log").join(path.file_name().unwrap());
            std::fs::write(&at, &bytes[..len]).unwrap();
            for (got, sound) in all_marks(&copy, volume, end).into_iter().zip(&sound) {
                match got {
                    Ok(mark) => assert_eq!(mark, *sound),
                    Err(Error::Damaged { .. }) => {}
                    Err(e) => panic!("{e}"),
                }
            }
        }
    }
}

#[test]
fn damage_in_a_segment_without_an_index_is_not_hidden_by_giving_it_one() {
    let (world, log, volume) = World::make(1024);
    for i in 0..12 {
        write(&log, volume, i * 20, 20, i + 1);
    }
    let end = log.checkpoint().unwrap();
    drop(log);
    // Damages the last write of the first segment that has one.
    let last_write = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        let at = bytes.windows(13).rposition(|bytes| bytes[8..] == *b"ByRe\x01")?;
        Some((path.clone(), bytes, at))
    };
    let (segment, mut bytes, at) = world.files("log").iter().find_map(last_write).unwrap();
    let lost = Seq(u64::from_le_bytes(bytes[at + 16..at + 24].try_into().unwrap()));
    bytes[at] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    for life in 0..2 {
        let log = world.open();
        // In a later life the segment is not recovered any more.
        assert!(life > 0 || log.damage_at_open().iter().any(|(place, _)| is_of(&segment, &place.file)));
        // The flipped bit is known, and so is everything but the content.
        assert!(log.time_of(lost).is_ok());
        assert!(!log.verify(false, &mut |_, _| true).unwrap().damaged.is_empty());
        let mut refused = 0;
        for lba in 0..240 {
            match mark(&log, volume, lba, end) {
                Ok(mark) => assert_eq!(mark, lba / 20 + 1),
                Err(error) => {
                    assert!(matches!(error, Error::Damaged { .. }), "{error}");
                    refused += 1;
                }
            }
        }
        assert_eq!(refused, 20);
    }
}

#[test]
fn a_lost_index_is_made_again() {
    let (world, volume, end) = some_history();
    let sound: Vec<u64> = all_marks(&world, volume, end).into_iter().map(Result::unwrap).collect();
    let names = world.files("index");
    for lost in [&names[..], &names[..1], &names[1..2], &names[names.len() - 1..]] {
        let copy = World::copy_of(world.folder.path());
        for path in lost {
            std::fs::remove_file(copy.path("index").join(path.file_name().unwrap())).unwrap();
        }
        let again: Vec<u64> = all_marks(&copy, volume, end).into_iter().map(Result::unwrap).collect();
        assert_eq!(again, sound, "without {lost:?}");
    }
}

#[test]
fn a_file_with_an_absurd_number_holds_nobody_up() {
    let (world, volume, end) = some_history();
    let sound: Vec<u64> = all_marks(&world, volume, end).into_iter().map(Result::unwrap).collect();
    for name in [
        "log/4294967295-00000001.seg",
        "log/2000000000-00000001.seg",
        "log/+000000001-00000001.seg",
        "log/0000000000-00000001.seg",
        "log/0000000001-00000000.seg",
        "log/0000000001-ffffffff.seg",
        "log/0000000001.seg",
    ] {
        let copy = World::copy_of(world.folder.path());
        std::fs::write(copy.path(name), [7; 5000]).unwrap();
        let again: Vec<u64> = all_marks(&copy, volume, end).into_iter().map(Result::unwrap).collect();
        assert_eq!(again, sound, "with {name}");
        let log = copy.open();
        write(&log, volume, 0, 1, 77);
        assert!(log.verify(false, &mut |_, _| true).unwrap().damaged.is_empty(), "with {name}");
    }
    let copy = World::copy_of(world.folder.path());
    let index = world.files("index").pop().unwrap();
    let name = index.file_name().unwrap().to_str().unwrap().replacen('0', "+", 1);
    std::fs::write(copy.path("index").join(name), []).unwrap();
    let again: Vec<u64> = all_marks(&copy, volume, end).into_iter().map(Result::unwrap).collect();
    assert_eq!(again, sound);
}

#[test]
fn a_name_alone_takes_no_file_away() {
    let (world, volume, end) = some_history();
    let log = world.try_hold(Hold::TakeOver).unwrap();
    write(&log, volume, 300, 20, 99);
    while log.maintain().unwrap() {}
    drop(log);
    drop(world.open());
    let sound: Vec<u64> = all_marks(&world, volume, end).into_iter().map(Result::unwrap).collect();
    let names = |world: &World| {
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        world.files("log").into_iter().map(name).collect::<Vec<_>>()
    };
    let there = names(&world);
    assert!(there.len() > 8 && there[0].ends_with("-00000001.seg"), "{there:?}");
    let (other, _, _) = some_history();
    for hold in [Hold::Newest, Hold::TakeOver] {
        // The names of the holder that opens the log.
        let term = if hold == Hold::Newest { 2 } else { 3 };
        for content in [vec![], vec![7; 5000], std::fs::read(other.segment(1)).unwrap()] {
            for number in [1, 4] {
                let copy = World::copy_of(world.folder.path());
                let stray = format!("log/{number:010}-{term:08x}.seg");
                std::fs::write(copy.path(&stray), &content).unwrap();
                let what = format!("{hold:?}: {} bytes in {stray}", content.len());
                let log = copy.try_hold(hold).unwrap();
                assert_eq!(log.damage_at_open(), [], "{what}");
                while log.maintain().unwrap() {}
                assert!(log.verify(false, &mut |_, _| true).unwrap().damaged.is_empty(), "{what}");
                drop(log);
                let again: Vec<u64> = all_marks(&copy, volume, end).into_iter().map(Result::unwrap).collect();
                assert_eq!(again, sound, "{what}");
                let left = names(&copy);
                assert!(there.iter().all(|name| left.contains(name)), "{what}: {left:?}");
            }
        }
    }
}

/// Changes the version in a file's header, with a valid checksum.
fn set_version(path: &std::path::Path, header_bytes: usize) {
    set_byte(path, header_bytes, 8, 99);
}

/// Changes a byte of a file's header, with a valid checksum.
fn set_byte(path: &std::path::Path, header_bytes: usize, at: usize, byte: u8) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] = byte;
    let crc = crc32c(&bytes[..header_bytes - 4]);
    bytes[header_bytes - 4..header_bytes].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(path, &bytes).unwrap();
}

#[test]
fn a_segment_of_a_newer_version_is_refused() {
    let (world, ..) = some_history();
    set_version(&world.files("log").pop().unwrap(), 4096);
    assert!(matches!(world.try_open(), Err(Error::NewerVersion { found: 99, .. })));
}

#[test]
fn a_checkpoint_of_a_newer_version_is_refused() {
    let (world, ..) = some_history();
    set_version(&world.files("index").pop().unwrap(), 64);
    assert!(matches!(world.try_open(), Err(Error::NewerVersion { found: 99, .. })));
}

#[test]
fn what_only_a_newer_program_can_have_written_is_refused_and_nothing_is_removed() {
    // Encryption, compression, the kind of segment.
    let places =
        [("log", 4096, 10), ("log", 4096, 11), ("log", 4096, 56), ("index", 64, 10), ("index", 64, 11)];
    for (folder, header_bytes, at) in places {
        let (world, ..) = some_history();
        set_byte(&world.files(folder).pop().unwrap(), header_bytes, at, 1);
        let before = [world.files("log"), world.files("index")];
        let opened = world.try_open();
        assert!(matches!(opened, Err(Error::NewerVersion { found: 2, .. })), "{folder} {at}: {opened:?}");
        assert_eq!([world.files("log"), world.files("index")], before);
    }
    // The kind of a file and its density, in a manifest.
    for at in [128, 130] {
        let (world, ..) = some_history();
        let newest = world.files("manifest").into_iter().rev();
        let path = newest.into_iter().find(|path| std::fs::read(path).unwrap().len() > 160).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] = 2;
        let end = bytes.len() - 32;
        let hash = manifest::hash(&bytes[..end]);
        bytes[end..].copy_from_slice(&hash);
        std::fs::write(path, bytes).unwrap();
        let opened = world.try_open();
        assert!(matches!(opened, Err(Error::NewerVersion { found: 2, .. })), "{at}: {opened:?}");
    }
}

#[test]
fn one_flipped_bit_in_the_newest_segment_costs_that_block_and_nothing_else() {
    let (world, log, volume) = World::make(1024);
    let mut seqs = Vec::new();
    for i in 0..30 {
        seqs.push(write(&log, volume, i * 8, 8, i + 1));
    }
    log.event(BranchId(0), &Event::new(Kind::Point, "then")).unwrap();
    log.flush().unwrap();
    // Its lag proves that everything before it was durable, so that the damage is not taken for a torn tail.
    write(&log, volume, 400, 8, 31);
    let head = log.head_seq();
    let times: Vec<_> = (1..=head.0).map(|seq| log.time_of(Seq(seq)).unwrap()).collect();
    drop(log);
    // The payload of the twentieth write, in a segment that waits for its index.
    let marks = sector(20);
    let place = |path: &PathBuf| std::fs::read(path).unwrap().windows(512).position(|bytes| bytes == marks);
    let path = world.files("log").into_iter().find(|path| place(path).is_some()).unwrap();
    let (mut bytes, at) = (std::fs::read(&path).unwrap(), place(&path).unwrap());
    bytes[at + 700] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    for life in 0..3 {
        let log = world.open();
        // Once a checkpoint covers it, only readers and `verify` report it.
        assert!(life > 0 || log.damage_at_open().len() == 1, "{:?}", log.damage_at_open());
        let found = log.verify(true, &mut |_, _| true).unwrap().damaged;
        assert!(
            !found.is_empty() && found.iter().all(|damaged| is_of(&path, &damaged.place.file)),
            "{found:?}"
        );
        for (seq, time) in (1..).zip(&times) {
            assert_eq!(log.time_of(Seq(seq)).unwrap(), *time, "record {seq}");
            let hits = log.at_time(*time).unwrap();
            assert!(hits.iter().any(|hit| hit.seq >= Seq(seq) && hit.time == *time), "{hits:?} at {time}");
        }
        let mut events = 0;
        log.events(Seq::ZERO, head, &mut |_| {
            events += 1;
            true
        })
        .unwrap();
        assert_eq!(events, 1);
        for (i, seq) in seqs.iter().enumerate() {
            let block = i as u64 * 8;
            match mark(&log, volume, block + 1, head) {
                Ok(found) => assert!(i != 19 && found == i as u64 + 1),
                Err(Error::Damaged { place, .. }) => assert!(i == 19 && is_of(&path, &place.file)),
                Err(e) => panic!("{e}"),
            }
            assert_eq!(mark(&log, volume, 3, *seq).unwrap(), 1, "as of {seq}");
        }
        // The log goes on: upkeep has no trouble, and the damaged block can be overwritten.
        write(&log, volume, 152, 8, 77);
        while log.maintain().unwrap() {}
        log.checkpoint().unwrap();
        assert_eq!(mark(&log, volume, 153, log.head_seq()).unwrap(), 77);
        assert!(log.upkeep_trouble().is_none());
        drop(log);
    }
}

/// A process that is killed within a write may leave a record that lacks only some of its padding.
#[test]
fn a_last_record_without_its_padding_does_not_keep_a_log_from_being_opened() {
    for letters in 1..=8 {
        let (world, log, _) = World::make(1024);
        let label = "x".repeat(letters);
        log.event(BranchId(0), &Event::new(Kind::Point, &label)).unwrap();
        drop(log);
        let newest = world
            .files("log")
            .into_iter()
            .rev()
            .find(|path| std::fs::read(path).unwrap().iter().any(|byte| *byte != 0));
        let newest = newest.unwrap();
        let bytes = std::fs::read(&newest).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        std::fs::write(&newest, &bytes[..end]).unwrap();
        let log = world.open();
        assert!(log.damage().is_empty(), "{letters}: {:?}", log.damage());
        let mut found = false;
        log.events(Seq::ZERO, log.head_seq(), &mut |event| {
            found |= event.event.label == label;
            true
        })
        .unwrap();
        assert!(found, "{letters}");
    }
}

#[test]
fn an_index_of_which_a_power_cut_left_the_trailer_only_is_made_anew_also_where_a_checkpoint_has_it() {
    let (world, log, volume) = World::make(1024);
    (0..20).for_each(|n| _ = write(&log, volume, n * 8, 8, n + 1));
    log.flush().unwrap();
    log.checkpoint().unwrap();
    while log.maintain().unwrap() {}
    drop(log);
    // The last sealed segment; after it come the one in which the checkpoint ends and the spare.
    let files = world.files("log");
    let path = &files[files.len() - 3];
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.len() - TRAILER_BYTES - 20;
    bytes[at] ^= 1;
    std::fs::write(path, &bytes).unwrap();
    let log = world.open();
    assert_eq!(log.damage(), []);
    assert_eq!(log.verify(false, &mut |_, _| true).unwrap().damaged, []);
    (0..20).for_each(|n| assert_eq!(mark(&log, volume, n * 8, log.head_seq()).unwrap(), n + 1));
}

//! What the medium cannot read back is damage of that place and of no other: bad sectors, and rot on file systems with
//! checksums of their own. It may pass, so nothing is given up because of it.

use std::{
    collections::BTreeSet,
    io,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex},
};

use bygone_model::{BranchId, Event, Kind, Seq, VolumeId};
use bygone_store::{
    Cursor, Damage, Damaged, Error, Hold, Log, LogOptions,
    format::{
        checkpoint::{FRAME_BYTES, Trailer},
        cursor, manifest, segment,
    },
};

use crate::watched::{Watch, Watched};
use crate::world::{Ticks, World, label_of, mark, options, write};

/// `EIO`, `ENODATA`, `EBADMSG` and `EUCLEAN`.
const ERRNOS: [i32; 4] = [5, 61, 74, 117];

/// A part of a file.
type Part = (String, Range<u64>);

/// The bad places of a medium.
#[derive(Clone, Default)]
struct Bad(Arc<Mutex<Vec<Part>>>);

impl Bad {
    fn add(&self, name: &str, range: Range<u64>) {
        self.0.lock().unwrap().push((name.to_owned(), range));
    }

    fn heal(&self) {
        self.0.lock().unwrap().clear();
    }
}

impl Watch for Bad {
    fn before_read(&self, name: &str, offset: u64, len_bytes: usize) -> io::Result<()> {
        let end = offset + len_bytes as u64;
        let bad = self.0.lock().unwrap();
        let meets = |bad: &Part| bad.0 == name && bad.1.start < end && offset < bad.1.end;
        match bad.iter().position(meets) {
            Some(i) => Err(io::Error::from_raw_os_error(ERRNOS[i % ERRNOS.len()])),
            None => Ok(()),
        }
    }
}

fn open(world: &World, bad: &Bad) -> bygone_store::Result<Arc<Log>> {
    let dir = Watched::new(world.folder.path(), bad.clone());
    Log::open(dir, Arc::new(Ticks::from(3_600_000_000)), options(24 << 10))
}

/// The name of a file of the log, relative to its folder.
fn name_of(path: &Path) -> String {
    let folder = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
    format!("{folder}/{}", path.file_name().unwrap().to_str().unwrap())
}

/// The place of the pages and tables of a checkpoint file.
fn pages_of(path: &Path) -> Range<u64> {
    let bytes = std::fs::read(path).unwrap();
    let frame = bytes.last_chunk::<FRAME_BYTES>().unwrap();
    FRAME_BYTES as u64..Trailer::decode(frame, bytes.len() as u64).unwrap().offset
}

/// A closed log of several sealed segments and checkpoints. Block `i` of 20 sectors has mark `WRITES - 12 + i + 1`.
fn some_history() -> (World, VolumeId, Seq) {
    let (world, log, volume) = World::make(1024);
    for i in 0..WRITES {
        write(&log, volume, i % 12 * 20, 20, i + 1);
        while log.maintain().unwrap() {}
    }
    let end = log.checkpoint().unwrap();
    while log.maintain().unwrap() {}
    drop(log);
    drop(world.open());
    (world, volume, end)
}

const WRITES: u64 = 60;

/// Checks all blocks as of `end`; returns how many cannot be read because of damage.
fn refused(log: &Arc<Log>, volume: VolumeId, end: Seq) -> usize {
    let is_refused = |i: &u64| match mark(log, volume, i * 20, end) {
        Ok(mark) => {
            assert_eq!(mark, WRITES - 12 + i + 1);
            false
        }
        Err(Error::Damaged { damage: Damage::Unreadable, .. }) => true,
        Err(error) => unreachable!("{error}"),
    };
    (0..12).filter(is_refused).count()
}

#[test]
fn the_seqs_that_an_unreadable_checkpoint_covers_are_not_used_again() {
    let (world, log, volume) = World::make_of(1024, 256 << 10);
    for i in 0..12 {
        write(&log, volume, i * 20, 20, i + 1);
    }
    log.checkpoint().unwrap();
    let hit = write(&log, volume, 0, 20, 50);
    for i in 1..12 {
        write(&log, volume, i * 20, 20, 50 + i);
    }
    let end = log.checkpoint().unwrap();
    drop(log);
    // The tail up to the end of the newest checkpoint is damaged, and that checkpoint cannot be read.
    let segment = world.segment(1);
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(8).position(|eight| eight == 50_u64.to_le_bytes()).unwrap();
    assert!(hit < end);
    bytes[at - 64..].fill(0);
    std::fs::write(&segment, bytes).unwrap();
    let bad = Bad::default();
    bad.add(&name_of(world.files("index").last().unwrap()), 0..u64::MAX);
    let log = open(&world, &bad).unwrap();
    let (first, last) = (write(&log, volume, 100, 20, 99), write(&log, volume, 400, 20, 100));
    assert!(first > end, "{first} was given out before, up to {end}");
    log.flush().unwrap();
    drop(log);
    bad.heal();
    let log = open(&world, &bad).unwrap();
    let marks = |seq: Seq| [0, 100, 120, 400].map(|lba| mark(&log, volume, lba, seq).ok());
    // What was lost is refused, as the checkpoint knows of it again.
    assert_eq!(marks(last), [None, Some(99), None, Some(100)]);
    assert_eq!(marks(end), [None, None, None, Some(0)]);
}

#[test]
fn bad_sectors_in_the_index_are_rebuilt_and_keep_no_checkpoint_from_being_written() {
    let (world, volume, end) = some_history();
    let bad = Bad::default();
    let log = open(&world, &bad).unwrap();
    for path in world.files("index") {
        bad.add(&name_of(&path), pages_of(&path));
    }
    assert!(refused(&log, volume, end) > 0);
    for i in 0..30 {
        write(&log, volume, 400 + i, 1, i);
        log.checkpoint().unwrap();
        while log.maintain().unwrap() {}
    }
    assert!(log.upkeep_trouble().is_none());
    assert_eq!(refused(&log, volume, end), 0);
}

#[test]
fn an_index_and_a_log_that_cannot_be_read_for_a_while_are_as_they_were_afterwards() {
    let (world, volume, end) = some_history();
    let bad = Bad::default();
    let log = open(&world, &bad).unwrap();
    for path in world.files("index") {
        bad.add(&name_of(&path), pages_of(&path));
    }
    for path in world.files("log") {
        bad.add(&name_of(&path), 0..1 << 40);
    }
    for i in 0..3 {
        write(&log, volume, 400 + i, 1, i);
        let _ = log.checkpoint();
    }
    assert_eq!(refused(&log, volume, end), 12);
    bad.heal();
    log.checkpoint().unwrap();
    for seq in [end, log.head_seq()] {
        assert_eq!(refused(&log, volume, seq), 0, "at once");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_read_at_opening_is_reported_and_kept_until_there_is_another() {
    let (world, volume, end) = some_history();
    let files = world.files("index");
    for unreadable in [&files[..], &files[files.len() - 1..], &files[files.len() - 2..]] {
        for place in [0..1, 0..1 << 40, FRAME_BYTES as u64..1 << 40] {
            let copy = World::copy_of(world.folder.path());
            let bad = Bad::default();
            unreadable.iter().for_each(|path| bad.add(&name_of(path), place.clone()));
            let log = open(&copy, &bad).unwrap();
            let newest = name_of(unreadable.last().unwrap());
            let is_it =
                |place: &bygone_store::Place, damage| place.file == newest && damage == Damage::Unreadable;
            assert!(log.damage_at_open().iter().any(|(place, damage)| is_it(place, *damage)));
            assert!(
                unreadable.iter().all(|path| copy.path("index").join(path.file_name().unwrap()).exists())
            );
            assert_eq!(refused(&log, volume, end), 0);
            write(&log, volume, 400, 1, 7);
            let later = log.checkpoint().unwrap();
            drop(log);
            // Readable again or not: the newer one counts, and what it was not made upon goes.
            for heals in [false, true] {
                if heals {
                    bad.heal();
                }
                let log = open(&copy, &bad).unwrap();
                assert_eq!(log.damage_at_open(), [], "{heals}");
                assert_eq!(refused(&log, volume, end), 0);
                assert_eq!(mark(&log, volume, 400, later).unwrap(), 7);
            }
            assert!(!copy.path(&newest).exists());
        }
    }
}

/// What a file is called in reports.
fn reported(path: &Path) -> String {
    if name_of(path).starts_with("log/") { label_of(path) } else { name_of(path) }
}

#[test]
fn verification_goes_on_behind_what_the_medium_cannot_read() {
    let (world, ..) = some_history();
    let bad = Bad::default();
    let log = open(&world, &bad).unwrap();
    assert_eq!(log.verify(false, &mut |_, _| true).unwrap().damaged, []);
    let (segments, checkpoints) = (world.files("log"), world.files("index"));
    let mut expected = BTreeSet::new();
    let mut add = |path: &Path, range: Range<u64>| {
        bad.add(&name_of(path), range);
        expected.insert(reported(path));
    };
    add(&segments[0], 0..512);
    add(&segments[2], 8192..12288);
    let last = std::fs::metadata(&segments[3]).unwrap().len() - 1;
    add(&segments[3], last..last + 1);
    add(&segments[4], 0..1 << 40);
    // Rot behind a bad sector of the same segment.
    let behind = &segments[6];
    add(behind, 0..512);
    let mut bytes = std::fs::read(behind).unwrap();
    bytes[8000] ^= 1;
    std::fs::write(behind, &bytes).unwrap();
    let pages = pages_of(&checkpoints[0]);
    add(&checkpoints[0], pages);
    add(&checkpoints[1], 0..1 << 40);
    world.files("manifest").iter().rev().take(2).for_each(|path| add(path, 0..1));
    // Rot behind bad sectors is found as well.
    let rotten = &segments[5];
    let mut bytes = std::fs::read(rotten).unwrap();
    bytes[8000] ^= 1;
    std::fs::write(rotten, &bytes).unwrap();
    for newest_first in [false, true] {
        let report = log.verify(newest_first, &mut |_, _| true).unwrap();
        assert!(report.complete);
        let unreadable = report.damaged.iter().filter(|found| found.damage == Damage::Unreadable);
        let found: BTreeSet<String> = unreadable.map(|found| found.place.file.clone()).collect();
        assert_eq!(found, expected);
        let is_rot =
            |found: &Damaged| found.place.file == label_of(rotten) && found.damage == Damage::Checksum;
        assert!(report.damaged.iter().any(is_rot));
        let in_behind = report.damaged.iter().filter(|found| found.place.file == label_of(behind));
        let in_behind: Vec<(u64, Damage)> =
            in_behind.map(|found| (found.place.offset, found.damage)).collect();
        let bad = (0, Damage::Unreadable);
        // A record is named by its beginning.
        let is_behind = |at: &&(u64, Damage)| at.1 == Damage::Checksum && (4096..=8000).contains(&at.0);
        assert!(in_behind.contains(&bad) && in_behind.iter().any(|at| is_behind(&at)), "{in_behind:?}");
    }
}

/// Nothing of any segment can be read, and each attempt counts.
#[derive(Clone, Default)]
struct Dead(Arc<Mutex<(bool, usize)>>);

impl Watch for Dead {
    fn before_read(&self, name: &str, _: u64, _: usize) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        if !state.0 || !name.starts_with("log/") {
            return Ok(());
        }
        state.1 += 1;
        Err(io::Error::from_raw_os_error(5))
    }
}

#[test]
fn a_segment_of_which_nothing_can_be_read_is_given_up_soon() {
    let (world, log, volume) = World::make_of(1 << 20, 32 << 20);
    for i in 0..40 {
        write(&log, volume, i * 1000, 1000, i + 1);
    }
    drop(log);
    // Sealed by opening.
    drop(world.open());
    let dead = Dead::default();
    let dir = Watched::new(world.folder.path(), dead.clone());
    let log = Log::open(dir, Arc::new(Ticks::from(3_600_000_000)), options(32 << 20)).unwrap();
    assert_eq!(log.verify(false, &mut |_, _| true).unwrap().damaged, []);
    *dead.0.lock().unwrap() = (true, 0);
    let report = log.verify(false, &mut |_, _| true).unwrap();
    let attempts = dead.0.lock().unwrap().1;
    assert!(report.complete && !report.damaged.is_empty());
    assert!(report.damaged.iter().all(|found| found.damage == Damage::Unreadable), "{report:?}");
    assert!(attempts < 3000, "{attempts} attempts");
}

#[test]
fn an_index_that_cannot_be_made_anew_is_once_the_segment_that_was_cut_is_whole() {
    let (world, volume, end) = some_history();
    let clock = Arc::new(Ticks::from(3_600_000_000));
    let log = Log::open(world.dir(), clock.clone(), options(24 << 10)).unwrap();
    while log.maintain().unwrap() {}
    world.files("index").iter().for_each(|path| hurt(path));
    let segment = &world.files("log")[2];
    let bytes = std::fs::read(segment).unwrap();
    // Right behind its header.
    std::fs::write(segment, &bytes[..4100]).unwrap();
    let reads = || (0..12).filter(|i| mark(&log, volume, i * 20, end).is_ok()).count();
    assert_eq!(reads(), 0);
    while log.maintain().unwrap() {}
    assert_eq!(reads(), 0, "it cannot be made anew");
    std::fs::write(segment, &bytes).unwrap();
    for _ in 0..3 {
        clock.pass(61_000_000);
        while log.maintain().unwrap() {}
    }
    assert_eq!(reads(), 12);
}

#[test]
fn a_takeover_says_where_the_segment_is_that_it_cannot_copy() {
    let (world, log, volume) = World::make(1024);
    write(&log, volume, 0, 8, 1);
    log.flush().unwrap();
    drop(log);
    let bad = Bad::default();
    bad.add(&name_of(&world.segment(1)), 4096..4097);
    let dir = Watched::new(world.folder.path(), bad);
    let hold = LogOptions { hold: Hold::TakeOver, ..options(24 << 10) };
    let told = Log::open(dir, Arc::new(Ticks::from(3_600_000_000)), hold).unwrap_err();
    let Error::Damaged { place, damage: Damage::Unreadable } = &told else { unreachable!("{told}") };
    assert_eq!(place.file, label_of(&world.segment(1)));
}

#[test]
fn a_bad_sector_of_a_segment_costs_the_blocks_in_it() {
    let (world, volume, end) = some_history();
    let bad = Bad::default();
    for path in world.files("log").iter().step_by(2) {
        bad.add(&name_of(path), 8192..8193);
    }
    let log = open(&world, &bad).unwrap();
    let first = refused(&log, volume, end);
    assert!((1..12).contains(&first), "{first}");
    bad.heal();
    assert_eq!(refused(&log, volume, end), 0);
}

#[test]
fn opening_gives_nothing_up_that_cannot_be_read_only_now() {
    let (world, log, volume) = World::make_of(1024, 1 << 20);
    write(&log, volume, 0, 8, 1);
    log.event(BranchId(0), &Event::new(Kind::Point, "here")).unwrap();
    log.add_branch("try", BranchId(0), log.head_seq()).unwrap();
    write(&log, volume, 8, 8, 2);
    log.flush().unwrap();
    let head = log.head_seq();
    drop(log);
    let segment = world.files("log").pop().unwrap();
    let len = std::fs::metadata(&segment).unwrap().len();
    for at in (0..len.min(32 << 10)).step_by(512) {
        let copy = World::copy_of(world.folder.path());
        let bad = Bad::default();
        bad.add(&name_of(&segment), at..at + 1);
        let told = open(&copy, &bad).map(|log| log.head_seq());
        assert!(matches!(&told, Err(Error::Damaged { damage: Damage::Unreadable, .. })), "{at}: {told:?}");
        bad.heal();
        let log = open(&copy, &bad).unwrap();
        assert_eq!((log.head_seq(), log.damage_at_open()), (head, &[][..]));
        assert!(log.catalog().branches.iter().any(|branch| branch.name == "try"));
        assert_eq!(mark(&log, volume, 8, head).unwrap(), 2);
    }
    // In a segment that has an index only what it does not hold is read: what events and changes say.
    let (world, log, volume) = World::make(1024);
    log.event(BranchId(0), &Event::new(Kind::Point, "here")).unwrap();
    log.add_branch("try", BranchId(0), log.head_seq()).unwrap();
    for i in 0..6 {
        write(&log, volume, i * 20, 20, i + 1);
        while log.maintain().unwrap() {}
    }
    assert!(!world.path("index").exists());
    drop(log);
    let (segment, mut refused) = (world.files("log").remove(0), 0);
    for at in (4096..8192).step_by(64) {
        let copy = World::copy_of(world.folder.path());
        let bad = Bad::default();
        bad.add(&name_of(&segment), at..at + 1);
        match open(&copy, &bad) {
            Ok(log) => assert!(log.damage_at_open().is_empty()),
            Err(error) => {
                assert!(matches!(error, Error::Damaged { damage: Damage::Unreadable, .. }), "{error}");
                refused += 1;
            }
        }
        bad.heal();
        let log = open(&copy, &bad).unwrap();
        assert!(log.catalog().branches.iter().any(|branch| branch.name == "try"));
    }
    assert!(refused > 1, "{refused}");
    for path in world.files("manifest") {
        let bad = Bad::default();
        bad.add(&name_of(&path), 0..1);
        assert!(open(&world, &bad).is_err(), "what a manifest says may not be forgotten");
    }
    assert!(world.open().damage_at_open().is_empty());
}

#[test]
fn a_follower_misses_nothing_because_of_a_bad_sector() {
    let (world, ..) = some_history();
    let bad = Bad::default();
    let log = open(&world, &bad).unwrap();
    for (seq, number) in [(3, 1), (9, 2)] {
        log.keep_cursor("mirror", Seq(seq)).unwrap();
        assert_eq!(log.kept_cursor("mirror").unwrap().seq, Seq(seq));
        bad.add(&cursor::file_name("mirror", number), 0..1);
        assert_eq!(log.kept_cursor("mirror").unwrap().seq, Seq::ZERO);
    }
    bad.heal();
    for path in &world.files("log")[..3] {
        bad.add(&name_of(path), 0..1 << 40);
    }
    let mut follower = log.follow(Cursor { log: log.id(), seq: Seq::ZERO }).unwrap();
    assert!(matches!(follower.next_batch(), Err(Error::Damaged { damage: Damage::Unreadable, .. })));
    bad.heal();
    let mut records = 0;
    while let Some(batch) = follower.next_batch().unwrap() {
        assert_eq!(batch.lost, []);
        records += batch.records.len() as u64;
    }
    assert_eq!(records, log.durable_seq().0);
}

#[test]
fn an_index_that_cannot_be_read_keeps_no_other_segment_out_of_the_manifest() {
    let (world, log, volume) = World::make(1024);
    drop(log);
    let bad = Bad::default();
    let log = open(&world, &bad).unwrap();
    // The first of those that are sealed next.
    let next = world.files("log").len() as u32 + 1;
    bad.add(&segment::Name { number: next, term: 1 }.file_name(), 0..1 << 40);
    for i in 0..WRITES {
        write(&log, volume, i % 12 * 20, 20, i + 1);
        while log.maintain().unwrap() {}
    }
    let newest = world.files("manifest").pop().unwrap();
    let number = manifest::number_of(newest.file_name().unwrap().to_str().unwrap()).unwrap();
    let known = manifest::Manifest::decode(&std::fs::read(newest).unwrap(), number).unwrap();
    assert!(known.entries.iter().any(|entry| entry.number > next + 2), "{known:?}");
}

/// Lets one read of a segment fail, counted from when it was set, with this error.
#[derive(Clone, Default)]
struct Once(Arc<Mutex<Option<(usize, i32)>>>);

impl Watch for Once {
    fn before_read(&self, name: &str, _: u64, _: usize) -> io::Result<()> {
        let mut left = self.0.lock().unwrap();
        let Some((count, errno)) = left.as_mut().filter(|_| name.starts_with("log/")) else { return Ok(()) };
        match count.checked_sub(1) {
            Some(less) => *count = less,
            None => {
                let errno = *errno;
                *left = None;
                return Err(io::Error::from_raw_os_error(errno));
            }
        }
        Ok(())
    }
}

/// Flips a bit in every fiftieth byte of the pages and tables of a checkpoint file.
fn hurt(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    pages_of(path).step_by(50).for_each(|at| bytes[at as usize] ^= 4);
    std::fs::write(path, bytes).unwrap();
}

/// Whatever read of a segment fails while a damaged table is rebuilt, and in whatever way, nothing is taken for
/// something that was never written; and once reading works again, the index is rebuilt.
#[test]
fn a_read_that_fails_once_while_the_index_is_rebuilt_hides_nothing_and_is_tried_again() {
    let (world, volume, end) = some_history();
    // `ENOMEM` and `EIO`.
    for errno in [12, 5] {
        let mut failed = 0;
        for count in (0..1000).step_by(23) {
            let copy = World::copy_of(world.folder.path());
            let (once, clock) = (Once::default(), Arc::new(Ticks::from(3_600_000_000)));
            let dir = Watched::new(copy.folder.path(), once.clone());
            let log = Log::open(dir, clock.clone(), options(24 << 10)).unwrap();
            while log.maintain().unwrap() {}
            copy.files("index").iter().for_each(|path| hurt(path));
            // By the checkpoints that there were, and by the newest one.
            let read_all = || -> usize {
                let moments = (0..12).flat_map(|i| [(i, end), (i, log.head_seq())]);
                let is_refused = |(i, seq): &(u64, Seq)| match mark(&log, volume, i * 20, *seq) {
                    Ok(mark) => {
                        assert_eq!(mark, WRITES - 12 + i + 1, "block {i} after read {count} failed");
                        false
                    }
                    Err(Error::Damaged { .. }) => true,
                    Err(error) => unreachable!("{error}"),
                };
                moments.filter(is_refused).count()
            };
            assert_eq!(read_all(), 24);
            *once.0.lock().unwrap() = Some((count, errno));
            for i in 0..3 {
                write(&log, volume, 400 + i, 1, 9);
                // The second of two walks through the log may fail too, and then the checkpoint is tried again.
                let _ = log.checkpoint();
            }
            let is_done = once.0.lock().unwrap().take().is_some();
            let refused = read_all();
            failed += usize::from(refused > 0);
            for _ in 0..3 {
                clock.pass(61_000_000);
                while log.maintain().unwrap_or(true) {}
            }
            assert_eq!(read_all(), 0, "read {count}");
            if is_done {
                assert_eq!(refused, 0);
                break;
            }
        }
        assert!(failed > 1, "{failed}");
    }
}

//! A log has one holder at a time. Each writes in a term of its own, and a previous holder cannot change anything any
//! more.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use bygone_model::{BranchId, Event, Kind, Seq, VolumeId};
use bygone_store::{
    BlockWrite, Content, Error, Hold, Log, LogOptions,
    format::{
        checkpoint::{self, FRAME_BYTES, Name},
        manifest::{self, Manifest},
        segment::SegmentHeader,
    },
};

use crate::watched::{Watch, Watched};
use crate::world::{Ticks, World, mark, options, sector, write};

const ID: [u8; 16] = *b"sixteen bytes id";

fn upkeep(log: &Log) {
    while log.maintain().unwrap() {}
}

/// A log with sealed segments, small checkpoints, and some work left to do.
fn some_history() -> (World, Arc<Log>, VolumeId) {
    let (world, log, volume) = World::make(1 << 20);
    for i in 0..30 {
        write(&log, volume, i * 20, 20, i + 1);
        if i % 7 == 0 {
            log.checkpoint().unwrap();
        }
    }
    upkeep(&log);
    for i in 0..12 {
        write(&log, volume, i * 20, 20, 100 + i);
    }
    log.flush().unwrap();
    (world, log, volume)
}

/// The terms in the files of each kind, in order of number. Segments without a header are left out.
fn terms(world: &World) -> [Vec<u32>; 3] {
    let bytes = |path: &PathBuf| std::fs::read(path).unwrap();
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let segments = world.files("log");
    let segments = segments.iter().filter_map(|path| SegmentHeader::decode(&bytes(path)).ok());
    let checkpoints = world.files("index").into_iter().map(|path| {
        let number = Name::parse(&name(&path)).unwrap().number;
        checkpoint::check_header(&bytes(&path)[..FRAME_BYTES], number, &ID).unwrap()
    });
    let manifests = world.files("manifest").into_iter().map(|path| {
        Manifest::decode(&bytes(&path), manifest::number_of(&name(&path)).unwrap()).unwrap().term
    });
    [segments.map(|(header, _)| header.term).collect(), checkpoints.collect(), manifests.collect()]
}

/// The content of all files of the log.
fn content(world: &World) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = ["log", "index", "manifest"].into_iter().flat_map(|folder| world.files(folder));
    files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn each_kind_of_file_says_which_holder_wrote_it_and_the_newest_of_them_counts() {
    let (world, log, volume) = some_history();
    assert_eq!(log.term(), 1);
    drop(log);
    assert!(terms(&world).iter().flatten().all(|term| *term == 1), "{:?}", terms(&world));

    // The manifest is written before anything else.
    let log = world.try_hold(Hold::TakeOver).unwrap();
    assert_eq!(log.term(), 2);
    let [segments, checkpoints, manifests] = terms(&world);
    assert_eq!(manifests.last(), Some(&2));
    assert!(segments.iter().chain(&checkpoints).all(|term| *term == 1));
    drop(log);
    assert_eq!(world.open().term(), 2, "only the manifest says it");

    let log = world.try_hold(Hold::Term(2)).unwrap();
    for i in 0..12 {
        write(&log, volume, i * 20, 20, 200 + i);
    }
    log.checkpoint().unwrap();
    upkeep(&log);
    drop(log);
    for (kind, found) in ["segments", "checkpoints", "manifests"].iter().zip(terms(&world)) {
        assert!(found.is_sorted() && found.last() == Some(&2), "{kind}: {found:?}");
    }
    // Each kind of file alone is enough.
    for kept in ["log", "index", "manifest"] {
        let part = World::copy_of(world.folder.path());
        if kept != "manifest" {
            std::fs::remove_dir_all(part.path("manifest")).unwrap();
        }
        if kept != "index" {
            std::fs::remove_dir_all(part.path("index")).unwrap();
        }
        if kept != "log" {
            for path in part.files("log") {
                let mut bytes = std::fs::read(&path).unwrap();
                if SegmentHeader::decode(&bytes).is_ok_and(|(header, _)| header.term == 2) {
                    bytes[60..80].fill(0xa5);
                    std::fs::write(path, bytes).unwrap();
                }
            }
        }
        let log = part.open();
        assert_eq!(log.term(), 2, "{kept}");
        assert_eq!(mark(&log, volume, 0, log.head_seq()).unwrap(), 200);
    }
}

#[test]
fn whoever_held_the_log_before_is_refused_whatever_it_does_next_and_changes_nothing() {
    type Act = fn(&Arc<Log>, VolumeId) -> Option<Error>;
    fn fill(log: &Log, volume: VolumeId) -> Option<Error> {
        // Until the log needs another segment.
        let data = sector(7).repeat(8);
        let write =
            BlockWrite { volume, lba: bygone_model::Lba(0), content: Content::Data(&data), base: false };
        (0..100).find_map(|_| log.append(&[write]).err())
    }
    let acts: [(&str, Act); 5] = [
        ("a follower's cursor", |log, _| log.keep_cursor("mirror", Seq(5)).err()),
        ("upkeep", |log, _| (0..20).find_map(|_| log.maintain().err())),
        ("a checkpoint", |log, _| log.checkpoint().err()),
        ("writes", |log, volume| fill(log, volume)),
        ("upkeep of another turn", |log, _| {
            // The first turn may do another piece of upkeep.
            let _ = log.maintain();
            log.maintain().err()
        }),
    ];
    for (what, act) in acts {
        let (world, old, volume) = some_history();
        let end = old.head_seq();
        let new = world.try_hold(Hold::TakeOver).unwrap();
        write(&new, volume, 0, 20, 1000);
        new.flush().unwrap();
        let before = content(&world);
        let told = act(&old, volume);
        assert!(matches!(told, Some(Error::Superseded { term: 1, newest: 2 })), "{what}: {told:?}");
        let refused = [
            fill(&old, volume),
            old.flush().err(),
            old.checkpoint().err(),
            old.event(BranchId(0), &Event::new(Kind::Boot, "never")).err(),
            old.add_branch("never", BranchId(0), Seq(2)).err(),
            old.maintain().err(),
        ];
        for error in refused {
            assert!(matches!(error, Some(Error::Superseded { term: 1, newest: 2 })), "{what}: {error:?}");
        }
        let after = content(&world);
        // Until it had to look for a newer term, it wrote to its open segment.
        let changed: Vec<_> = before.iter().filter(|(path, bytes)| after.get(*path) != Some(bytes)).collect();
        assert!(what == "writes" || changed.is_empty(), "{what}: {changed:?}");
        assert!(before.keys().eq(after.keys()), "{what}: {:?}", after.keys());
        assert_eq!(mark(&old, volume, 400, end).unwrap(), 21, "{what}: reading goes on");
        assert_eq!(mark(&new, volume, 0, new.head_seq()).unwrap(), 1000);
    }
}

#[test]
fn a_holder_that_comes_back_is_refused_if_the_log_was_taken_over() {
    let (world, log, volume) = some_history();
    drop(log);
    world.try_hold(Hold::Term(1)).unwrap();
    drop(world.try_hold(Hold::TakeOver).unwrap());
    let before = content(&world);
    let told = world.try_hold(Hold::Term(1));
    assert!(matches!(told, Err(Error::Superseded { term: 1, newest: 2 })), "{told:?}");
    assert_eq!(content(&world), before);
    let log = world.try_hold(Hold::Term(2)).unwrap();
    write(&log, volume, 0, 20, 5);
    assert_eq!(mark(&log, volume, 0, log.head_seq()).unwrap(), 5);
    drop(log);
    // The files may be an older copy, from before the holder's term.
    assert_eq!(world.try_hold(Hold::Term(7)).unwrap().term(), 7);
}

/// A value that is set later.
type Later<T> = Arc<Mutex<Option<T>>>;

/// Runs a closure just before the next manifest is created.
#[derive(Clone, Default)]
struct Late(Later<Box<dyn FnOnce() + Send>>);

impl Watch for Late {
    fn before_create(&self, name: &str) {
        if name.starts_with(manifest::folder())
            && let Some(meanwhile) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            meanwhile();
        }
    }
}

#[test]
fn of_two_who_take_a_log_over_at_once_one_is_refused() {
    let (world, log, _) = some_history();
    drop(log);
    let world = Arc::new(world);
    let quicker = Arc::new(Mutex::new(None));
    let (other, won) = (world.clone(), quicker.clone());
    let meanwhile = move || *won.lock().unwrap() = Some(other.try_hold(Hold::TakeOver).unwrap());
    let dir = Watched::new(world.folder.path(), Late(Arc::new(Mutex::new(Some(Box::new(meanwhile))))));
    let options = LogOptions { hold: Hold::TakeOver, ..options(24 << 10) };
    let told = Log::open(dir, Arc::new(Ticks::default()), options);
    assert!(matches!(told, Err(Error::Superseded { newest: 2, .. })), "{told:?}");
    let won = quicker.lock().unwrap().take().unwrap();
    upkeep(&won);
    assert_eq!(won.term(), 2);
}

/// A holder that will write a manifest. [`Late`] lets another one take the log over just before that, after the holder
/// has looked for a newer term.
fn taken_over_before_a_manifest() -> (Arc<World>, Arc<Log>, VolumeId, Later<Arc<Log>>, Late) {
    let (world, log, volume) = some_history();
    drop(log);
    let world = Arc::new(world);
    let late = Late::default();
    let dir = Watched::new(world.folder.path(), late.clone());
    let old = Log::open(dir, Arc::new(Ticks::default()), options(24 << 10)).unwrap();
    upkeep(&old);
    for i in 0..12 {
        write(&old, volume, i * 20, 20, 100 + i);
    }
    (world, old, volume, Arc::default(), late)
}

/// Repeats `act` until the other holder has taken the log over; returns the error of the last call.
fn until(done: impl Fn() -> bool, mut act: impl FnMut() -> Option<Error>) -> Option<Error> {
    for _ in 0..40 {
        let error = act();
        if done() {
            return error;
        }
    }
    unreachable!("it was never taken over")
}

#[test]
fn a_log_that_is_taken_over_between_a_look_and_a_manifest_is_lost_at_that_manifest() {
    let (world, old, volume, won, late) = taken_over_before_a_manifest();
    let (other, taken) = (world.clone(), won.clone());
    let meanwhile = move || *taken.lock().unwrap() = Some(other.try_hold(Hold::TakeOver).unwrap());
    *late.0.lock().unwrap() = Some(Box::new(meanwhile));
    let told = until(|| won.lock().unwrap().is_some(), || old.maintain().err());
    assert!(matches!(told, Some(Error::Superseded { term: 1, newest: 2 })), "{told:?}");
    let before = content(&world);
    let data = sector(7).repeat(20);
    let refused =
        BlockWrite { volume, lba: bygone_model::Lba(0), content: Content::Data(&data), base: false };
    for told in
        [old.append(&[refused]).err(), old.flush().err(), old.checkpoint().err(), old.maintain().err()]
    {
        assert!(matches!(told, Some(Error::Superseded { .. })), "{told:?}");
    }
    assert_eq!(content(&world), before);
    drop(old);
    drop(won.lock().unwrap().take());
    let log = world.open();
    assert_eq!((log.term(), mark(&log, volume, 0, log.head_seq()).unwrap()), (2, 100));
}

#[test]
fn whoever_finds_its_number_taken_by_a_manifest_that_cannot_be_read_takes_no_other() {
    let (world, old, volume, won, late) = taken_over_before_a_manifest();
    let (other, taken) = (world.clone(), won.clone());
    let sound: Later<(PathBuf, Vec<u8>)> = Arc::default();
    let kept = sound.clone();
    let meanwhile = move || {
        *taken.lock().unwrap() = Some(other.try_hold(Hold::TakeOver).unwrap());
        let path = other.files("manifest").pop().unwrap();
        *kept.lock().unwrap() = Some((path.clone(), std::fs::read(&path).unwrap()));
        std::fs::write(path, []).unwrap();
    };
    *late.0.lock().unwrap() = Some(Box::new(meanwhile));
    let told = until(|| won.lock().unwrap().is_some(), || old.maintain().err());
    assert!(!matches!(told, Some(Error::Superseded { .. })), "nothing says so yet: {told:?}");
    let (path, bytes) = sound.lock().unwrap().take().unwrap();
    for _ in 0..20 {
        let _ = old.maintain();
        assert_eq!(world.files("manifest").pop().unwrap(), path);
    }
    std::fs::write(&path, bytes).unwrap();
    let told = old.maintain();
    assert!(matches!(told, Err(Error::Superseded { term: 1, newest: 2 })), "{told:?}");
    drop(old);
    drop(won.lock().unwrap().take());
    let log = world.open();
    assert_eq!((log.term(), mark(&log, volume, 0, log.head_seq()).unwrap()), (2, 100));
}

#[test]
fn what_the_holder_before_goes_on_writing_is_in_no_file_of_the_new_one() {
    let (world, old, volume) = some_history();
    write(&old, volume, 0, 2, 900);
    old.flush().unwrap();
    let new = world.try_hold(Hold::TakeOver).unwrap();
    write(&new, volume, 0, 20, 1000);
    new.flush().unwrap();
    upkeep(&new);
    let verified = |log: &Log| log.verify(false, &mut |_, _| true).unwrap().damaged;
    assert_eq!(verified(&new), []);
    // The old holder has not looked for a newer term yet.
    write(&old, volume, 5, 1, 7);
    old.flush().unwrap();
    assert!(matches!(old.maintain(), Err(Error::Superseded { .. })));
    assert_eq!(verified(&new), []);
    let end = new.head_seq();
    drop((old, new));
    let log = world.open();
    assert_eq!(verified(&log), []);
    assert_eq!((log.head_seq(), mark(&log, volume, 0, end).unwrap()), (end, 1000));
}

/// A log, its volume, and its clock, which a test can set forward.
fn some_history_by(clock: &Arc<Ticks>) -> (World, Arc<Log>, VolumeId) {
    let (world, log, volume) = some_history();
    drop(log);
    let log = Log::open(world.dir(), clock.clone(), options(24 << 10)).unwrap();
    upkeep(&log);
    write(&log, volume, 0, 1, 1);
    log.flush().unwrap();
    (world, log, volume)
}

fn try_write(log: &Log, volume: VolumeId, mark: u64) -> bygone_store::Result<()> {
    let data = sector(mark);
    let write = BlockWrite { volume, lba: bygone_model::Lba(0), content: Content::Data(&data), base: false };
    log.append(&[write]).map(drop)
}

#[test]
fn whoever_has_not_looked_for_another_holder_for_long_acknowledges_nothing_before_it_has() {
    type Act = fn(&Log, VolumeId) -> bygone_store::Result<()>;
    let acts: [Act; 3] = [
        |log, volume| try_write(log, volume, 7),
        |log, _| log.flush().map(drop),
        |log, _| log.event(BranchId(0), &Event::new(Kind::Point, "a point")).map(drop),
    ];
    for act in acts {
        let clock = Arc::new(Ticks::from(7_200_000_000));
        let (world, old, volume) = some_history_by(&clock);
        let new = world.try_hold(Hold::TakeOver).unwrap();
        // Upkeep may be busy with another log for some time.
        act(&old, volume).unwrap();
        try_write(&old, volume, 8).unwrap();
        clock.pass(11_000_000);
        let told = act(&old, volume);
        assert!(matches!(told, Err(Error::Superseded { term: 1, newest: 2 })), "{told:?}");
        drop(new);
    }
}

/// Does something before the next write or sync of a file.
#[derive(Clone, Default)]
struct Slow {
    at_write: Later<Box<dyn FnOnce() + Send>>,
    at_sync: Later<Box<dyn FnOnce() + Send>>,
}

impl Watch for Slow {
    fn before_write(&self) {
        let meanwhile = self.at_write.lock().unwrap().take();
        meanwhile.into_iter().for_each(|meanwhile| meanwhile());
    }
    fn before_sync(&self) -> std::io::Result<()> {
        let meanwhile = self.at_sync.lock().unwrap().take();
        meanwhile.into_iter().for_each(|meanwhile| meanwhile());
        Ok(())
    }
}

#[test]
fn what_is_written_so_slowly_that_another_holder_may_have_come_is_not_acknowledged() {
    type Act = fn(&Log, VolumeId) -> bygone_store::Result<()>;
    let acts: [(bool, Act); 4] = [
        (true, |log, volume| try_write(log, volume, 7)),
        (true, |log, _| log.event(BranchId(0), &Event::new(Kind::Point, "a point")).map(drop)),
        (false, |log, _| log.flush().map(drop)),
        (false, |log, _| log.mark_moment().map(drop)),
    ];
    for (at_write, act) in acts {
        for is_taken in [false, true] {
            let clock = Arc::new(Ticks::from(7_200_000_000));
            let (world, log, volume) = some_history();
            drop(log);
            let (world, slow) = (Arc::new(world), Slow::default());
            let dir = Watched::new(world.folder.path(), slow.clone());
            let old = Log::open(dir, clock.clone(), options(24 << 10)).unwrap();
            upkeep(&old);
            try_write(&old, volume, 8).unwrap();
            let won: Later<Arc<Log>> = Arc::default();
            let (other, taken) = (world.clone(), won.clone());
            let meanwhile = move || {
                clock.pass(11_000_000);
                *taken.lock().unwrap() = is_taken.then(|| other.try_hold(Hold::TakeOver).unwrap());
            };
            let when = if at_write { &slow.at_write } else { &slow.at_sync };
            *when.lock().unwrap() = Some(Box::new(meanwhile));
            let told = act(&old, volume);
            assert!(when.lock().unwrap().is_none());
            match told {
                Ok(()) => assert!(!is_taken),
                Err(error) => {
                    assert!(is_taken && matches!(error, Error::Superseded { term: 1, newest: 2 }), "{error}");
                }
            }
        }
    }
}

#[test]
fn whoever_cannot_look_for_another_holder_for_long_acknowledges_nothing_until_it_can() {
    let clock = Arc::new(Ticks::from(7_200_000_000));
    let (world, log, volume) = some_history_by(&clock);
    let (folder, away) = (world.path("manifest"), world.path("away"));
    std::fs::rename(&folder, &away).unwrap();
    std::fs::write(&folder, []).unwrap();
    try_write(&log, volume, 7).unwrap();
    log.flush().unwrap();
    clock.pass(11_000_000);
    for _ in 0..2 {
        assert!(matches!(try_write(&log, volume, 8), Err(Error::Io { .. })));
        assert!(matches!(log.flush(), Err(Error::Io { .. })));
    }
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&away, &folder).unwrap();
    try_write(&log, volume, 9).unwrap();
    log.flush().unwrap();
    assert_eq!(mark(&log, volume, 0, log.head_seq()).unwrap(), 9);
}

#[test]
fn a_manifest_of_a_newer_program_behind_the_own_ones_is_another_holders() {
    let (world, old, volume) = some_history();
    let newest = world.files("manifest").pop().unwrap();
    let number = manifest::number_of(newest.file_name().unwrap().to_str().unwrap()).unwrap();
    let known = Manifest::decode(&std::fs::read(&newest).unwrap(), number).unwrap();
    let next = Manifest { number: number + 1, term: 2, ..known };
    let mut bytes = next.encode();
    bytes[8] = 2;
    let end = bytes.len() - 32;
    let hash = manifest::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&hash);
    std::fs::write(world.path(&manifest::file_name(number + 1)), bytes).unwrap();
    let before = content(&world);
    let told = (0..20).find_map(|_| old.maintain().err());
    assert!(matches!(told, Some(Error::Superseded { term: 1, newest: 2 })), "{told:?}");
    for told in [try_write(&old, volume, 7), old.flush().map(drop), old.checkpoint().map(drop)] {
        assert!(matches!(told, Err(Error::Superseded { .. })), "{told:?}");
    }
    assert_eq!(content(&world), before);
    let told = world.try_open();
    assert!(matches!(told, Err(Error::NewerVersion { found: 2, .. })), "{told:?}");
}

#[test]
fn a_segment_of_which_only_the_trailer_is_left_of_its_index_is_copied_too() {
    let (world, log, volume) = World::make(1024);
    for i in 0..6 {
        write(&log, volume, i * 20, 20, i + 1);
        while log.maintain().unwrap() {}
    }
    log.flush().unwrap();
    let end = log.head_seq();
    drop(log);
    drop(world.open());
    // As a power cut may leave it: the newest one that is sealed has its trailer, and zeroes in the place of its index.
    let is_used = |path: &&std::path::PathBuf| std::fs::metadata(path).unwrap().len() > 0;
    let newest = world.files("log").iter().rev().find(is_used).unwrap().clone();
    let mut bytes = std::fs::read(&newest).unwrap();
    let index = bytes.len() - bygone_store::format::segment::TRAILER_BYTES;
    bytes[index - 8..index].fill(0);
    std::fs::write(&newest, &bytes).unwrap();
    let log = world.try_hold(Hold::TakeOver).unwrap();
    let number = crate::world::segment_in(&newest).number;
    let own = bygone_store::format::segment::Name { number, term: 2 };
    assert!(world.path(&own.file_name()).exists(), "{:?}", world.files("log"));
    for i in 0..6 {
        assert_eq!(crate::world::mark(&log, volume, i * 20, end).unwrap(), i + 1);
    }
}

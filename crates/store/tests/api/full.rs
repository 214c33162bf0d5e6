//! A store on a medium that is full (I6).

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    sync::{Arc, Mutex},
};

use bygone_model::{BranchId, Event, Kind, Lba, Sectors, Seq};
use bygone_store::{
    Below, BlockWrite, Content, Cursor, Error, Hold, Log, LogOptions, Wait,
    env::{Dir, File, FileId, RealDir},
};

use crate::world::{Ticks, World, disk, mark, options, sector, write};

const SEGMENT_BYTES: u64 = 4 << 20;

/// The free space of a medium, and the space of each file.
#[derive(Default)]
struct Room {
    free: u64,
    taken: HashMap<String, u64>,
    /// The file system is copy-on-write and our quota is used up, so that overwriting fails as well.
    quota_reached: bool,
}

impl Room {
    fn take(&mut self, name: &str, upto: u64) -> io::Result<()> {
        let has = self.taken.entry(name.to_owned()).or_default();
        let more = upto.saturating_sub(*has);
        if more > self.free {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *has += more;
        self.free -= more;
        Ok(())
    }

    fn give_back(&mut self, name: &str, downto: u64) {
        let has = self.taken.entry(name.to_owned()).or_default();
        self.free += has.saturating_sub(downto);
        *has = (*has).min(downto);
    }
}

/// A folder on a medium with little space, which the test can change.
#[derive(Clone)]
struct Small {
    inner: Arc<RealDir>,
    room: Arc<Mutex<Room>>,
}

struct SmallFile {
    inner: Arc<dyn File>,
    name: String,
    room: Arc<Mutex<Room>>,
}

impl Small {
    fn new(world: &World, free: u64) -> Small {
        let room = Room { free, ..Room::default() };
        Small { inner: Arc::new(RealDir::new(world.folder.path())), room: Arc::new(Mutex::new(room)) }
    }

    fn set_free(&self, free: u64) {
        self.room.lock().unwrap().free = free;
    }

    fn wrap(&self, name: &str, inner: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(SmallFile { inner, name: name.to_owned(), room: self.room.clone() })
    }

    fn options(&self) -> LogOptions {
        LogOptions { checkpoint_entries: 40, ..options(SEGMENT_BYTES) }
    }

    fn make(&self) -> Arc<Log> {
        let dir = Arc::new(self.clone());
        Log::make(dir, Arc::new(Ticks::default()), self.options(), *b"sixteen bytes id").unwrap()
    }

    fn open(&self) -> Arc<Log> {
        Log::open(Arc::new(self.clone()), Arc::new(Ticks::default()), self.options()).unwrap()
    }
}

impl Dir for Small {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.inner.create(name).map(|file| self.wrap(name, file))
    }
    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut room = self.room.lock().unwrap();
        if room.quota_reached {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        room.take(name, bytes.len() as u64)?;
        drop(room);
        self.inner.publish(name, bytes)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.inner.open(name).map(|file| self.wrap(name, file))
    }
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.inner.list(folder)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)?;
        self.room.lock().unwrap().give_back(name, 0);
        Ok(())
    }
    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.replace(from, to)?;
        let mut room = self.room.lock().unwrap();
        room.give_back(to, 0);
        let taken = room.taken.remove(from).unwrap_or(0);
        room.taken.insert(to.to_owned(), taken);
        Ok(())
    }
    fn sync(&self, folder: &str) -> io::Result<()> {
        self.inner.sync(folder)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.room.lock().unwrap().free)
    }
}

impl File for SmallFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let mut room = self.room.lock().unwrap();
        if room.quota_reached {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        room.take(&self.name, offset + len as u64)?;
        drop(room);
        self.inner.write_at(parts, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn id(&self) -> io::Result<Option<FileId>> {
        self.inner.id()
    }
    fn len_bytes(&self) -> io::Result<u64> {
        self.inner.len_bytes()
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.inner.set_len(len_bytes)?;
        self.room.lock().unwrap().give_back(&self.name, len_bytes);
        Ok(())
    }
    fn reserve(&self, len_bytes: u64) -> io::Result<()> {
        self.room.lock().unwrap().take(&self.name, len_bytes)
    }
    fn prefetch(&self, _: u64, _: u64) {}
}

/// Writes block after block, from number `from` on, until there is no room; returns the number of the block that was
/// refused.
fn fill(log: &Log, volume: bygone_model::VolumeId, from: u64) -> u64 {
    for i in from.. {
        let data = sector(i + 1).repeat(8);
        let one = BlockWrite { volume, lba: Lba(i * 8), content: Content::Data(&data), base: false };
        match log.append(&[one]) {
            Ok(_) => {}
            Err(Error::Full { .. }) => return i,
            Err(e) => unreachable!("{e}"),
        }
        let _ = log.maintain();
    }
    unreachable!()
}

/// A log that has filled its medium; also returns how many blocks it took.
fn full() -> (World, Small, Arc<Log>, bygone_model::VolumeId, u64) {
    let world = World::empty();
    let small = Small::new(&world, 20 << 20);
    let log = small.make();
    let volume = log.add_disk(&crate::world::disk(1 << 20)).unwrap();
    log.open_volume(volume, Below::Index, Seq::ZERO).unwrap();
    let written = fill(&log, volume, 0);
    assert!(written > 100 && log.is_full());
    (world, small, log, volume, written)
}

#[test]
fn a_follower_of_a_full_log_that_lost_a_segment_is_told_which_records() {
    let world = World::empty();
    let small = Small::new(&world, 64 << 20);
    let options = LogOptions { segment_bytes: 24 << 10, ..small.options() };
    let make = |dir: Small| {
        Log::make(Arc::new(dir), Arc::new(Ticks::default()), options.clone(), *b"sixteen bytes id").unwrap()
    };
    let log = make(small.clone());
    let volume = log.add_disk(&disk(1024)).unwrap();
    (0..60).for_each(|n| _ = write(&log, volume, n * 8, 8, n + 1));
    let durable = log.flush().unwrap();
    write(&log, volume, 0, 8, 1);
    log.flush().unwrap();
    drop(log);
    // Nothing is sealed yet, and without space nothing can be, so the index of what comes before the gap stays in
    // memory.
    let files = world.files("log");
    assert!(files.len() > 5);
    std::fs::remove_file(&files[2]).unwrap();
    small.set_free(0);
    small.room.lock().unwrap().taken.clear();
    let log = Log::open(Arc::new(small), Arc::new(Ticks::default()), options.clone()).unwrap();
    let mut follower = log.follow(Cursor { log: log.id(), seq: Seq::ZERO }).unwrap();
    let (mut told, mut lost) = (0, 0);
    while let Some(batch) = follower.next_batch().unwrap() {
        told += batch.records.len() as u64;
        lost += batch.lost.iter().map(|range| range.end().0 - range.start().0 + 1).sum::<u64>();
    }
    assert!(lost > 3 && told > 3 && follower.cursor().seq >= durable);
    assert_eq!(told + lost, follower.cursor().seq.0);
}

#[test]
fn i6_events_flushes_and_branches_find_room_when_writes_do_not() {
    let (_world, small, log, volume, written) = full();
    // Somebody else takes the last of the free space.
    small.set_free(0);
    assert_eq!(fill(&log, volume, written), written);
    let kept = log.event(BranchId(0), &Event::new(Kind::Point, "full")).unwrap();
    log.flush().unwrap();
    let branch = log.add_branch("from-full", BranchId(0), kept.last).unwrap();
    log.promote_branch(branch).unwrap();
    log.promote_branch(BranchId(0)).unwrap();
    assert!(log.durable_seq() >= kept.last && branch != BranchId(0));
    small.set_free(20 << 20);
    assert!(fill(&log, volume, written) > written);
}

#[test]
fn i6_a_full_log_can_be_opened_again_and_again_and_go_on() {
    let (_world, small, log, volume, mut written) = full();
    small.set_free(0);
    drop(log);
    for round in 0..8 {
        let log = small.open();
        assert!(log.damage_at_open().is_empty());
        log.event(BranchId(0), &Event::new(Kind::Manager, format!("life {round}"))).unwrap();
        log.flush().unwrap();
        assert_eq!(fill(&log, volume, written), written, "there is no room");
        // Somebody else takes at once what closing the log freed.
        small.set_free(0);
    }
    small.set_free(20 << 20);
    let log = small.open();
    log.open_volume(volume, Below::Index, Seq::ZERO).unwrap();
    let before = written;
    written = fill(&log, volume, written);
    assert!(written > before);
    small.set_free(20 << 20);
    let head = log.head_seq();
    for i in (0..written).step_by(97) {
        assert_eq!(mark(&log, volume, i * 8 + 3, head).unwrap(), i + 1);
    }
    assert!(log.verify(false, &mut |_, _| true).unwrap().damaged.is_empty());
}

#[test]
fn a_takeover_without_room_for_its_copies_is_refused_before_the_log_is_taken_over() {
    let (_world, small, log, volume, written) = full();
    let hold = |hold| {
        let options = LogOptions { hold, ..small.options() };
        Log::open(Arc::new(small.clone()), Arc::new(Ticks::default()), options)
    };
    small.set_free(8192);
    let told = hold(Hold::TakeOver);
    assert!(matches!(told, Err(Error::Full { .. })), "{told:?}");
    // Whoever holds it goes on.
    log.event(BranchId(0), &Event::new(Kind::Point, "still here")).unwrap();
    log.flush().unwrap();
    drop(log);
    assert_eq!(hold(Hold::Newest).unwrap().term(), 1);
    small.set_free(20 << 20);
    let log = hold(Hold::TakeOver).unwrap();
    assert_eq!(log.term(), 2);
    for i in 0..written {
        assert_eq!(mark(&log, volume, i * 8, log.head_seq()).unwrap(), i + 1);
    }
}

#[test]
fn i6_a_log_whose_quota_is_reached_can_be_opened_where_nothing_is_overwritten() {
    let (_world, small, log, volume, written) = full();
    let head = log.flush().unwrap();
    drop(log);
    assert!(!small.list("index").unwrap().is_empty());
    small.room.lock().unwrap().quota_reached = true;
    let log = small.open();
    assert!(log.damage_at_open().is_empty(), "{:?}", log.damage_at_open());
    assert!(log.head_seq() >= head);
    assert_eq!(mark(&log, volume, (written - 1) * 8, head).unwrap(), written);
}

#[test]
fn i6_every_moment_can_be_read_without_room_for_a_checkpoint() {
    let (_world, small, log, volume, written) = full();
    small.set_free(0);
    let branch = log.add_branch("then", BranchId(0), log.head_seq()).unwrap();
    let checkpoints = log.open_checkpoints();
    let head = log.head_seq();
    for i in (0..written).step_by(97) {
        assert_eq!(mark(&log, volume, i * 8, head).unwrap(), i + 1);
    }
    // Before the last write.
    assert_eq!(mark(&log, volume, (written - 1) * 8, Seq(head.0 - 3)).unwrap(), 0);
    let on_branch = log.catalog().volume_of(branch, "vda").unwrap().id;
    log.open_volume(on_branch, Below::Index, Seq::ZERO).unwrap();
    let found = log.resolve_head(on_branch, Lba((written - 1) * 8), Sectors(1), Wait::Yes).unwrap();
    let mut bytes = sector(0);
    log.read_fragment(&found[0], &mut bytes, Wait::Yes).unwrap();
    assert_eq!(bytes, sector(written));
    assert!(log.open_checkpoints() <= checkpoints + 2);
}

#[test]
fn i6_a_batch_that_finds_no_room_is_not_begun() {
    let (_world, small, log, volume, written) = full();
    small.set_free(0);
    let head = log.head_seq();
    let data: Vec<Vec<u8>> = [1, 7900].iter().map(|sectors| sector(9).repeat(*sectors)).collect();
    let batch: Vec<BlockWrite<'_>> = data
        .iter()
        .map(|data| BlockWrite { volume, lba: Lba(0), content: Content::Data(data), base: false })
        .collect();
    for _ in 0..100 {
        assert!(matches!(log.append(&batch), Err(Error::Full { .. })));
    }
    assert_eq!(log.head_seq(), head);
    assert_eq!(mark(&log, volume, 0, head).unwrap(), 1);
    assert!(written > 0);
}

#[test]
fn i6_asking_for_room_takes_none_from_others() {
    let (_world, small, log, volume, written) = full();
    for free in [0, 1000, SEGMENT_BYTES - 1, SEGMENT_BYTES + 1000] {
        small.set_free(free);
        let _ = log.maintain();
        assert_eq!(
            fill(&log, volume, written),
            written,
            "{free} bytes are no room for a segment and what it needs"
        );
        assert_eq!(small.free_bytes().unwrap(), free);
    }
    write_after_room(&small, &log, volume, written);
}

fn write_after_room(small: &Small, log: &Arc<Log>, volume: bygone_model::VolumeId, written: u64) {
    small.set_free(8 << 20);
    let seq = write(log, volume, written * 8, 8, 77);
    assert!(!log.is_full());
    assert_eq!(mark(log, volume, written * 8, seq).unwrap(), 77);
}

#[test]
fn i6_an_idle_log_reserves_little_and_the_first_write_a_whole_segment() {
    use std::os::unix::fs::MetadataExt;
    let world = World::empty();
    let reserved = || -> u64 {
        world.files("log").iter().map(|path| std::fs::metadata(path).unwrap().blocks() * 512).sum()
    };
    let options = bygone_store::LogOptions::default();
    let segment_bytes = options.segment_bytes;
    let log = Log::make(world.dir(), Arc::new(Ticks::default()), options, *b"sixteen bytes id").unwrap();
    let volume = log.add_disk(&crate::world::disk(1 << 20)).unwrap();
    for i in 0..100 {
        log.event(BranchId(0), &Event::new(Kind::Manager, format!("idle {i}"))).unwrap();
        log.flush().unwrap();
        while log.maintain().unwrap() {}
    }
    // On a file system that cannot preallocate, both figures are small.
    let idle = reserved();
    assert!(idle <= segment_bytes / 16, "{idle} bytes");
    write(&log, volume, 0, 8, 1);
    let busy = reserved();
    assert!(busy >= segment_bytes || busy < segment_bytes / 32, "{busy} bytes");
}

#[test]
fn a_log_that_could_not_be_made_for_want_of_room_is_made_once_there_is_some() {
    let world = World::empty();
    let small = Small::new(&world, 5000);
    let make = || {
        let dir = Arc::new(small.clone());
        Log::make(dir, Arc::new(Ticks::default()), small.options(), *b"sixteen bytes id")
    };
    let told = make();
    assert!(matches!(told, Err(Error::Full { .. })), "{told:?}");
    small.set_free(64 << 20);
    let log = make().unwrap();
    let volume = log.add_disk(&disk(1024)).unwrap();
    write(&log, volume, 0, 8, 7);
    log.flush().unwrap();
    drop(log);
    let told = make();
    assert!(matches!(told, Err(Error::LogExists)), "{told:?}");
    let log = small.open();
    assert_eq!((log.damage(), mark(&log, volume, 0, log.head_seq()).unwrap()), (Vec::new(), 7));
}

/// As if a program had put an equal file in the place of the segment in use.
#[test]
fn a_segment_that_cannot_be_written_again_for_want_of_room_keeps_the_file_that_has_its_name() {
    let world = World::empty();
    let small = Small::new(&world, 64 << 20);
    let log = small.make();
    let volume = log.add_disk(&disk(1024)).unwrap();
    write(&log, volume, 0, 8, 7);
    log.flush().unwrap();
    let open = world.files("log").remove(0);
    let other = world.path("other");
    std::fs::copy(&open, &other).unwrap();
    std::fs::rename(&other, &open).unwrap();
    small.set_free(0);
    for _ in 0..3 {
        while log.maintain().is_ok_and(|more| more) {}
        let killed = World::copy_of(world.folder.path());
        let other = killed.open();
        assert_eq!(mark(&other, volume, 0, other.head_seq()).unwrap(), 7);
    }
    assert!(log.upkeep_trouble().is_some());
    small.set_free(64 << 20);
    while log.maintain().unwrap() {}
    write(&log, volume, 8, 8, 8);
    log.flush().unwrap();
    let killed = World::copy_of(world.folder.path());
    let other = killed.open();
    assert_eq!((other.damage(), mark(&other, volume, 8, other.head_seq()).unwrap()), (Vec::new(), 8));
}

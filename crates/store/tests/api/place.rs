//! Records whose bytes moved: another kind of container takes over the segments, and readers do not notice.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use bygone_model::{BranchId, Event, Kind, Lba, Micros, SECTOR_BYTES, Seq, VolumeId};
use bygone_store::{
    Below, Cursor, Damage, Error, Followed, Log, LogOptions, MEMORY_BYTES, Place, Result, Store, View, Wait,
    format::{
        crc32c, manifest,
        record::{self, Header, Op},
        segment::{Location, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentIndex, TRAILER_BYTES, Trailer},
    },
    place::{Checked, Containers, Piece, Records},
};

use crate::world::{Ticks, World, disk, mark, options, sector, write};

/// A record in a pack.
struct Kept {
    seq: Seq,
    lba: Lba,
    at: usize,
    len: usize,
    crc: u32,
}

/// The content of some segments, with the last record first and every byte inverted.
struct Pack {
    bytes: Mutex<Vec<u8>>,
    kept: BTreeMap<(u32, u32), Kept>,
    indexes: BTreeMap<u32, SegmentIndex>,
    reads: AtomicU64,
    /// Done when an index is asked for.
    meanwhile: Mutex<Option<Meanwhile>>,
}

type Meanwhile = Box<dyn FnOnce() + Send>;

impl Pack {
    fn of(world: &World, numbers: impl Iterator<Item = u32>) -> Pack {
        let (mut contents, mut indexes) = (Vec::new(), BTreeMap::new());
        for number in numbers {
            let bytes = std::fs::read(world.segment(number)).unwrap();
            let key = SegmentHeader::decode(&bytes).unwrap().0.log.header_key();
            let (_, trailer) = bytes.split_at(bytes.len() - TRAILER_BYTES);
            let trailer = Trailer::decode(&key, number, trailer, bytes.len() as u64).unwrap();
            let end = trailer.index_offset() as usize;
            let index = &bytes[end..bytes.len() - TRAILER_BYTES];
            indexes.insert(number, SegmentIndex::decode(&trailer, number, index).unwrap());
            let mut at = SEGMENT_HEADER_BYTES;
            while at < end {
                let header = Header::decode(&key, &bytes[at..]).unwrap().header;
                let next = header.end(at as u64) as usize;
                let (_, payload) = record::check(&key, at as u64, &bytes[at..next]).unwrap();
                if !matches!(header.op, Op::Zero | Op::Trim) {
                    contents.push(((number, at as u32), header.seq, header.lba, payload.to_vec()));
                }
                at = next;
            }
        }
        let (mut bytes, mut kept) = (Vec::new(), BTreeMap::new());
        for (name, seq, lba, payload) in contents.into_iter().rev() {
            let (at, len, crc) = (bytes.len(), payload.len(), crc32c(&payload));
            bytes.extend(payload.iter().map(|byte| !byte));
            kept.insert(name, Kept { seq, lba, at, len, crc });
        }
        Pack {
            bytes: Mutex::new(bytes),
            kept,
            indexes,
            reads: AtomicU64::new(0),
            meanwhile: Mutex::default(),
        }
    }

    fn content(&self, kept: &Kept) -> Option<Vec<u8>> {
        let bytes: Vec<u8> =
            self.bytes.lock().unwrap()[kept.at..kept.at + kept.len].iter().map(|byte| !byte).collect();
        (crc32c(&bytes) == kept.crc).then_some(bytes)
    }
}

fn damaged(offset: usize, damage: Damage) -> Error {
    Error::Damaged { place: Place { file: "pack".to_owned(), offset: offset as u64 }, damage }
}

impl Records for Pack {
    fn read(&self, piece: Piece, buf: &mut [u8], _: Wait) -> Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let Location { segment, offset } = piece.name;
        let kept = self.kept.get(&(segment, offset)).ok_or_else(|| damaged(0, Damage::Missing))?;
        let skip = piece.lba.0.checked_sub(kept.lba.0).map(|sectors| (sectors * SECTOR_BYTES) as usize);
        let skip = skip.filter(|skip| kept.seq == piece.seq && skip + buf.len() <= kept.len);
        let skip = skip.ok_or_else(|| damaged(kept.at, Damage::Misplaced))?;
        let content = self.content(kept).ok_or_else(|| damaged(kept.at, Damage::Checksum))?;
        buf.copy_from_slice(&content[skip..skip + buf.len()]);
        Ok(())
    }

    fn payload(&self, name: Location, seq: Seq) -> Result<Vec<u8>> {
        let kept = self.kept.get(&(name.segment, name.offset)).ok_or_else(|| damaged(0, Damage::Missing))?;
        let kept = Some(kept).filter(|kept| kept.seq == seq);
        let kept = kept.ok_or_else(|| damaged(0, Damage::Misplaced))?;
        self.content(kept).ok_or_else(|| damaged(kept.at, Damage::Checksum))
    }

    fn prefetch(&self, _: Piece, _: u64) {}

    fn index(&self, segment: u32) -> Result<SegmentIndex> {
        if let Some(act) = self.meanwhile.lock().unwrap().take() {
            act();
        }
        self.indexes.get(&segment).cloned().ok_or_else(|| damaged(0, Damage::Missing))
    }

    fn check(&self, segment: u32) -> Result<Checked> {
        let index = self.index(segment)?;
        let of_it = self.kept.iter().filter(|((number, _), _)| *number == segment);
        let (mut bytes, mut wrong) = (0, Vec::new());
        for (_, kept) in of_it {
            bytes += kept.len as u64;
            if self.content(kept).is_none() {
                wrong.push((Place { file: "pack".to_owned(), offset: kept.at as u64 }, Damage::Checksum));
            }
        }
        let last = Seq(index.first_seq.0 + index.times.len() as u64 - 1);
        Ok(Checked { bytes, span: Some((index.first_seq, last)), damaged: wrong })
    }
}

/// The packs, by number.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<BTreeMap<u32, Arc<Pack>>>>);

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shelf")
    }
}

impl Containers for Shelf {
    fn open(&self, number: u32) -> Result<Arc<dyn Records>> {
        let pack = self.0.lock().unwrap().get(&number).cloned();
        pack.map(|pack| pack as Arc<dyn Records>).ok_or_else(|| damaged(0, Damage::Missing))
    }
}

impl Shelf {
    fn options(&self) -> LogOptions {
        LogOptions { containers: Arc::new(self.clone()), ..options(24 << 10) }
    }

    fn open(&self, world: &World) -> Arc<Log> {
        let clock = Ticks::from(3_600_000_000);
        Log::open(world.dir(), Arc::new(clock), self.options()).unwrap()
    }
}

const SECTORS: u64 = 240;

/// Everything that can be read from a log: each volume at many moments, times, events, the present of a tapped disk.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Seen {
    marks: Vec<u64>,
    times: Vec<Micros>,
    events: Vec<Seq>,
    at_time: Vec<Seq>,
    present: Vec<u64>,
    /// The records that a follower gets, each with the crc of its payload.
    followed: Vec<(Followed, u32)>,
}

fn look(log: &Arc<Log>, volumes: &[VolumeId], head: Seq) -> Seen {
    let mut seen = Seen {
        marks: vec![],
        times: vec![],
        events: vec![],
        at_time: vec![],
        present: vec![],
        followed: vec![],
    };
    for seq in (8..=head.0).step_by(7).chain([head.0]) {
        for &volume in volumes {
            let view = log.view(volume, Seq(seq));
            seen.marks.extend(view.map_or(vec![u64::MAX], |view| marks(&view)));
        }
        seen.times.push(log.time_of(Seq(seq)).unwrap());
        seen.at_time.extend(log.at_time(*seen.times.last().unwrap()).unwrap().iter().map(|hit| hit.seq));
    }
    log.events(Seq(0), head, &mut |event| {
        seen.events.push(event.seq);
        true
    })
    .unwrap();
    log.open_volume(volumes[0], Below::Device, Seq(3)).unwrap();
    for fragment in log.resolve_head(volumes[0], Lba(0), bygone_model::Sectors(SECTORS), Wait::Yes).unwrap() {
        let mut bytes = sector(0);
        log.read_fragment(&fragment, &mut bytes, Wait::Yes).unwrap();
        seen.present.extend([fragment.lba.0, u64::from_le_bytes(*bytes.first_chunk().unwrap())]);
    }
    log.close_volume(volumes[0]);
    let mut follower = log.follow(Cursor { log: log.id(), seq: Seq::ZERO }).unwrap();
    while let Some(batch) = follower.next_batch().unwrap() {
        assert!(batch.lost.is_empty(), "{:?}", batch.lost);
        for record in batch.records.into_iter().filter(|record| record.seq <= head) {
            let payload = if record.op.is_block() {
                let mut bytes = vec![0; record.sectors.bytes() as usize];
                follower.read(&record, record.lba, &mut bytes).unwrap();
                bytes
            } else {
                follower.payload(&record).unwrap()
            };
            seen.followed.push((record, crc32c(&payload)));
        }
    }
    assert_eq!(seen.followed.len() as u64, head.0);
    seen
}

/// The mark of each sector, all read at once, as a restore does.
fn marks(view: &View) -> Vec<u64> {
    let mut bytes = sector(0).repeat(SECTORS as usize);
    view.read(Lba(0), &mut bytes, Wait::Yes).unwrap();
    bytes.chunks(SECTOR_BYTES as usize).map(|one| u64::from_le_bytes(*one.first_chunk().unwrap())).collect()
}

/// A log with a branch; all its segments but the newest are sealed.
fn some_history(shelf: &Shelf) -> (World, Arc<Log>, Vec<VolumeId>, Seq) {
    let world = World::empty();
    let log =
        Log::make(world.dir(), Arc::new(Ticks::default()), shelf.options(), *b"sixteen bytes id").unwrap();
    let volume = log.add_disk(&disk(1024)).unwrap();
    for i in 0..40 {
        write(&log, volume, i % 12 * 20, 20, i + 1);
    }
    log.event(BranchId(0), &Event::new(Kind::Point, "middle")).unwrap();
    let branch = log.add_branch("try", BranchId(0), log.head_seq()).unwrap();
    let own = log.catalog().volumes_of(branch, Seq::MAX).next().unwrap().id;
    for i in 0..30 {
        write(&log, if i % 2 == 0 { own } else { volume }, i % 11 * 21, 3 + i % 9, 100 + i);
        while log.maintain().unwrap() {}
    }
    let head = log.checkpoint().unwrap();
    while log.maintain().unwrap() {}
    (world, log, vec![volume, own], head)
}

/// Moves all sealed segments into a pack and removes their files.
fn repack(world: &World, log: &Arc<Log>, shelf: &Shelf) -> Arc<Pack> {
    let pack = move_all(world, log, shelf);
    remove_segments(world);
    pack
}

const PACK: u32 = 7;

/// The number of sealed segments: all except the newest and the spare.
fn sealed(world: &World) -> u32 {
    world.files("log").len() as u32 - 2
}

fn move_all(world: &World, log: &Arc<Log>, shelf: &Shelf) -> Arc<Pack> {
    let sealed = sealed(world);
    let pack = Arc::new(Pack::of(world, 1..=sealed));
    shelf.0.lock().unwrap().insert(PACK, pack.clone());
    log.move_records(1..=sealed, PACK).unwrap();
    pack
}

fn remove_segments(world: &World) {
    let sealed = sealed(world);
    for number in 1..=sealed {
        let path = world.segment(number);
        // Also empty it for those who have it open.
        std::fs::write(&path, []).unwrap();
        std::fs::remove_file(path).unwrap();
    }
    assert!(sealed > 10, "{sealed}");
}

#[test]
fn all_of_history_is_read_through_another_container() {
    let shelf = Shelf::default();
    let (world, log, volumes, head) = some_history(&shelf);
    let before = look(&log, &volumes, head);
    assert!(before.marks.iter().any(|mark| *mark > 100) && before.events.len() == 1);
    let early = log.view(volumes[0], Seq(head.0 / 2)).unwrap();
    let early_marks = marks(&early);
    let index = world.files("index");

    let pack = repack(&world, &log, &shelf);
    assert_eq!(look(&log, &volumes, head), before);
    assert_eq!(marks(&early), early_marks, "a view that was open before");
    assert_eq!(world.files("index"), index, "no index was rewritten");
    assert!(pack.reads.load(Ordering::Relaxed) > 200);
    let report = log.verify(false, &mut |_, _| true).unwrap();
    assert!(report.complete && report.damaged.is_empty(), "{:?}", report.damaged);

    // The log goes on, and branches can be made from moments in the pack.
    write(&log, volumes[0], 3, 1, 777);
    let branch = log.add_branch("late", BranchId(0), Seq(head.0 / 2)).unwrap();
    let late = log.catalog().volumes_of(branch, Seq::MAX).next().unwrap().id;
    let now = log.head_seq();
    assert_eq!(marks(&log.view(late, now).unwrap()), early_marks);
    assert_eq!(mark(&log, volumes[0], 3, now).unwrap(), 777);
}

#[test]
fn damage_in_another_container_is_told_and_never_served() {
    let shelf = Shelf::default();
    let (world, log, volumes, head) = some_history(&shelf);
    let before = look(&log, &volumes, head);
    let pack = repack(&world, &log, &shelf);
    let middle = pack.bytes.lock().unwrap().len() / 2;
    pack.bytes.lock().unwrap()[middle] ^= 1;
    let report = log.verify(false, &mut |_, _| true).unwrap();
    assert_eq!(report.damaged.len(), 1);
    assert_eq!((report.damaged[0].place.file.as_str(), report.damaged[0].damage), ("pack", Damage::Checksum));
    let mut told = 0;
    let moments = (8..=head.0).step_by(7).chain([head.0]);
    let all =
        moments.flat_map(|seq| volumes.iter().flat_map(move |v| (0..SECTORS).map(move |lba| (*v, seq, lba))));
    let mut expected = before.marks.iter();
    let mut skip_until = None;
    for (volume, seq, lba) in all {
        // At a moment before the volume existed, `look` noted only one mark.
        if skip_until == Some((volume, seq)) {
            continue;
        }
        let right = *expected.next().unwrap();
        if right == u64::MAX {
            skip_until = Some((volume, seq));
            continue;
        }
        match mark(&log, volume, lba, Seq(seq)) {
            Ok(mark) => assert_eq!(mark, right),
            Err(Error::Damaged { place, .. }) => told += u64::from(place.file == "pack"),
            Err(e) => unreachable!("{e}"),
        }
    }
    assert!(told > 0);
}

fn verified(log: &Log) -> Vec<(Place, Damage)> {
    let report = log.verify(false, &mut |_, _| true).unwrap();
    report.damaged.into_iter().map(|damaged| (damaged.place, damaged.damage)).collect()
}

#[test]
fn all_of_history_is_read_through_another_container_in_each_later_life() {
    let shelf = Shelf::default();
    let (world, log, volumes, head) = some_history(&shelf);
    let before = look(&log, &volumes, head);
    let pack = move_all(&world, &log, &shelf);
    drop(log);
    // As if killed before the segments were removed: they are not read any more.
    let reads = || pack.reads.load(Ordering::Relaxed);
    let log = shelf.open(&world);
    let begun = reads();
    assert_eq!((look(&log, &volumes, head), log.damage()), (before.clone(), Vec::new()));
    assert!(reads() > begun + 100, "{begun} {}", reads());
    drop(log);
    remove_segments(&world);
    for life in 0..4 {
        if life == 2 {
            // Only the container still knows the records.
            std::fs::remove_dir_all(world.path("index")).unwrap();
        }
        let log = shelf.open(&world);
        assert_eq!((look(&log, &volumes, head), log.damage()), (before.clone(), Vec::new()), "life {life}");
        write(&log, volumes[0], 300, 1, life);
        while log.maintain().unwrap() {}
        assert_eq!((verified(&log), log.damage()), (Vec::new(), Vec::new()), "life {life}");
    }
    // Also if no segment is left: the manifest has the log's id and secret.
    world.files("log").into_iter().for_each(|path| std::fs::remove_file(path).unwrap());
    std::fs::remove_dir_all(world.path("index")).unwrap();
    let log = shelf.open(&world);
    assert!(!log.damage().is_empty());
    let view = log.view(volumes[0], Seq(head.0 / 2)).unwrap();
    assert_eq!(marks(&view).len() as u64, SECTORS);
}

#[test]
fn an_index_that_is_damaged_is_made_anew_from_another_container() {
    let shelf = Shelf::default();
    let (world, log, volumes, head) = some_history(&shelf);
    let before = look(&log, &volumes, head);
    repack(&world, &log, &shelf);
    drop(log);
    let log = shelf.open(&world);
    for path in world.files("index") {
        let mut bytes = std::fs::read(&path).unwrap();
        // In the first page of each.
        bytes[64 + 30] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    let told = (0..20).find_map(|_| {
        let seen = log.view(volumes[0], head).and_then(|view| {
            let mut bytes = sector(0).repeat(SECTORS as usize);
            view.read(Lba(0), &mut bytes, Wait::Yes)
        });
        while log.maintain().unwrap() {}
        seen.err()
    });
    assert!(matches!(told, Some(Error::Damaged { .. })), "{told:?}");
    assert_eq!(look(&log, &volumes, head), before);
}

#[test]
fn a_container_that_is_out_of_reach_costs_its_records_until_it_is_back() {
    let shelf = Shelf::default();
    let (world, log, volumes, head) = some_history(&shelf);
    let before = look(&log, &volumes, head);
    let pack = repack(&world, &log, &shelf);
    write(&log, volumes[0], 300, 1, 9);
    log.flush().unwrap();
    drop(log);
    shelf.0.lock().unwrap().clear();
    for _ in 0..2 {
        let log = shelf.open(&world);
        while log.maintain().unwrap() {}
        let damage = log.damage();
        assert!(
            damage.iter().any(|(place, what)| place.file == "pack" && *what == Damage::Missing),
            "{damage:?}"
        );
        assert!(damage.len() as u64 > 10, "{damage:?}");
        assert_eq!(mark(&log, volumes[0], 300, log.head_seq()).unwrap(), 9);
        let lost = log.view(volumes[0], head).unwrap().read(Lba(0), &mut sector(0), Wait::Yes);
        assert!(matches!(lost, Err(Error::Damaged { .. })), "{lost:?}");
        write(&log, volumes[0], 301, 1, 9);
    }
    shelf.0.lock().unwrap().insert(PACK, pack);
    for _ in 0..2 {
        let log = shelf.open(&world);
        assert_eq!(look(&log, &volumes, head), before);
        while log.maintain().unwrap() {}
        assert_eq!((verified(&log), log.damage()), (Vec::new(), Vec::new()));
    }
}

#[test]
fn records_move_only_where_they_are_and_only_durably() {
    let shelf = Shelf::default();
    let (world, log, volumes, head) = some_history(&shelf);
    let before = look(&log, &volumes, head);
    let last = sealed(&world);
    assert!(matches!(log.move_records(1..=3, PACK), Err(Error::Damaged { damage: Damage::Missing, .. })));
    // The pack lacks one of them.
    shelf.0.lock().unwrap().insert(PACK, Arc::new(Pack::of(&world, 1..=3)));
    assert!(log.move_records(2..=4, PACK).is_err());
    // For one segment the pack has the index of another.
    let mut mixed = Pack::of(&world, 1..=3);
    let other = mixed.indexes[&3].clone();
    mixed.indexes.insert(2, other);
    shelf.0.lock().unwrap().insert(PACK, Arc::new(mixed));
    assert!(matches!(log.move_records(1..=3, PACK), Err(Error::Damaged { damage: Damage::Misplaced, .. })));
    // The next segment is not sealed.
    shelf.0.lock().unwrap().insert(PACK, Arc::new(Pack::of(&world, 1..=last)));
    assert!(log.move_records(last..=last + 1, PACK).is_err());
    world.syncs_fail.store(true, Ordering::Relaxed);
    assert!(log.move_records(1..=last, PACK).is_err());
    world.syncs_fail.store(false, Ordering::Relaxed);
    assert_eq!(look(&log, &volumes, head), before);
    while log.maintain().unwrap() {}
    drop(log);
    shelf.0.lock().unwrap().clear();
    let log = shelf.open(&world);
    assert_eq!((look(&log, &volumes, head), log.damage()), (before, Vec::new()));
}

/// What the manifests know of all segments.
fn known(world: &World) -> BTreeMap<u32, manifest::Entry> {
    let mut known = BTreeMap::new();
    for path in world.files("manifest") {
        let number = manifest::number_of(path.file_name().unwrap().to_str().unwrap()).unwrap();
        let read = manifest::Manifest::decode(&std::fs::read(path).unwrap(), number).unwrap();
        known.extend(read.entries.iter().map(|entry| (entry.number, *entry)));
    }
    known
}

#[test]
fn a_move_is_in_a_manifest_when_it_returns_also_behind_one_that_could_not_be_written() {
    let shelf = Shelf::default();
    let (world, log, ..) = some_history(&shelf);
    let last = sealed(&world);
    shelf.0.lock().unwrap().insert(PACK, Arc::new(Pack::of(&world, 1..=last)));
    world.syncs_fail.store(true, Ordering::Relaxed);
    assert!(log.move_records(1..=2, PACK).is_err());
    world.syncs_fail.store(false, Ordering::Relaxed);
    log.move_records(3..=last, PACK).unwrap();
    let containers: Vec<u32> = known(&world).values().map(|entry| entry.container).collect();
    let expected: Vec<u32> = (1..=last).map(|number| if number < 3 { 0 } else { PACK }).collect();
    assert_eq!(containers[..last as usize], expected);
}

/// Begins to verify a log, and goes on and ends when that is called.
fn verified_meanwhile(log: &Arc<Log>) -> Meanwhile {
    let (begun, has_begun) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    let log = log.clone();
    let verifying = std::thread::spawn(move || {
        let mut waits = Some((begun, goes_on));
        let report = log.verify(false, &mut |_, _| {
            if let Some((begun, goes_on)) = waits.take() {
                begun.send(()).unwrap();
                goes_on.recv().unwrap();
            }
            true
        });
        assert!(report.unwrap().complete);
    });
    has_begun.recv().unwrap();
    Box::new(move || {
        go_on.send(()).unwrap();
        verifying.join().unwrap();
    })
}

#[test]
fn a_hash_that_is_found_while_records_move_is_kept() {
    let shelf = Shelf::default();
    let world = World::empty();
    // Upkeep reads nothing back.
    let store = Arc::new(Store::new(64 << 10, MEMORY_BYTES).with_background(0));
    let slow = LogOptions { store, ..shelf.options() };
    let log = Log::make(world.dir(), Arc::new(Ticks::default()), slow, *b"sixteen bytes id").unwrap();
    let volume = log.add_disk(&disk(1024)).unwrap();
    for i in 0..40 {
        write(&log, volume, i % 12 * 20, 20, i + 1);
        while log.maintain().unwrap() {}
    }
    let last = sealed(&world);
    assert!(known(&world).values().all(|entry| entry.hash.is_none()));
    for fails in [true, false] {
        let pack = Arc::new(Pack::of(&world, 1..=last));
        *pack.meanwhile.lock().unwrap() = Some(verified_meanwhile(&log));
        shelf.0.lock().unwrap().insert(PACK, pack.clone());
        world.syncs_fail.store(fails, Ordering::Relaxed);
        assert_eq!(log.move_records(1..=last, PACK).is_err(), fails);
        world.syncs_fail.store(false, Ordering::Relaxed);
        while log.maintain().unwrap() {}
        let known = known(&world);
        assert!((1..=last).all(|number| known[&number].hash.is_some()), "{fails}: {known:?}");
    }
}

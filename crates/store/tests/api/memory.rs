//! One memory budget for all logs of a store (I8).

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bygone_model::{Lba, Seq, VolumeId};
use bygone_store::{Below, BlockWrite, Content, Error, Log, LogOptions, Store};

use crate::world::{Ticks, World, disk, mark, sector};

const SECTORS: u64 = 1 << 20;

struct Member {
    world: World,
    log: Arc<Log>,
    volume: VolumeId,
}

fn options(store: &Arc<Store>) -> LogOptions {
    LogOptions { segment_bytes: 8 << 20, store: store.clone(), ..LogOptions::default() }
}

fn member(store: &Arc<Store>) -> Member {
    let world = World::empty();
    let log =
        Log::make(world.dir(), Arc::new(Ticks::default()), options(store), *b"sixteen bytes id").unwrap();
    let volume = log.add_disk(&disk(SECTORS)).unwrap();
    log.open_volume(volume, Below::Index, Seq::ZERO).unwrap();
    Member { world, log, volume }
}

impl Member {
    /// Writes a sector far from the previous ones. As in a device, a writer that is refused does upkeep.
    fn write(&self, n: u64) -> Result<(), Error> {
        let data = sector(n);
        let lba = Lba(n * 7919 % SECTORS);
        let write = BlockWrite { volume: self.volume, lba, content: Content::Data(&data), base: false };
        let mut more = true;
        loop {
            match self.log.append(&[write]) {
                Err(Error::Behind { .. }) if more => more = self.log.maintain()?,
                done => return done.map(drop),
            }
        }
    }

    fn check(&self, n: u64) {
        assert_eq!(mark(&self.log, self.volume, n * 7919 % SECTORS, self.log.head_seq()).unwrap(), n);
    }
}

#[test]
fn i8_many_logs_under_load_stay_within_one_memory() {
    const LOGS: usize = 24;
    const WRITES: u64 = 4000;
    const MEMORY_BYTES: u64 = 4 << 20;
    let store = Arc::new(Store::new(64 << 10, MEMORY_BYTES));
    let mut members: Vec<Member> = (0..LOGS).map(|_| member(&store)).collect();
    let (most, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                store.work();
            }
        });
        let writers: Vec<_> = members
            .chunks(LOGS / 2)
            .map(|mine| {
                let (store, most) = (&store, &most);
                scope.spawn(move || {
                    for n in 0..WRITES {
                        for member in mine {
                            member.write(n).unwrap();
                            most.fetch_max(store.drawn_bytes(), Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        let ends: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        ends.into_iter().for_each(|end| end.unwrap());
    });
    // Without a bound it would be 9 MB.
    let most = most.into_inner();
    assert!(most <= MEMORY_BYTES, "{most} bytes were drawn");
    for member in &members {
        (0..WRITES).step_by(97).for_each(|n| member.check(n));
    }
    // Closing a log gives back what it has drawn; opening it draws that again.
    for member in &mut members {
        let drawn = store.drawn_bytes();
        let clock = Arc::new(Ticks::default());
        let other = World::empty();
        let empty = Log::make(other.dir(), clock.clone(), options(&store), [1; 16]).unwrap();
        member.log = empty;
        assert!(store.drawn_bytes() <= drawn);
        member.log = Log::open(member.world.dir(), clock, options(&store)).unwrap();
        assert!(store.drawn_bytes() <= MEMORY_BYTES);
        (0..WRITES).step_by(331).for_each(|n| member.check(n));
    }
    drop(members);
    assert_eq!(store.drawn_bytes(), 0);
}

#[test]
fn i8_a_log_that_cannot_give_memory_starves_no_other() {
    let store = Arc::new(Store::new(64 << 10, 2 << 20));
    let (stuck, other) = (member(&store), member(&store));
    let index = stuck.world.path("index");
    std::fs::write(&index, b"no folder").unwrap();
    let refused = (0..100_000).find(|n| stuck.write(*n).is_err()).unwrap();
    assert!(store.drawn_bytes() >= 1 << 20, "it was refused while there was enough");
    // The other log has its floor, and may draw again what it has freed.
    for n in 0..20_000 {
        store.work();
        other.write(n).unwrap();
    }
    assert!(stuck.write(refused).is_err());
    assert!(stuck.log.upkeep_trouble().is_some() && other.log.upkeep_trouble().is_none());
    (0..20_000).step_by(997).for_each(|n| other.check(n));

    std::fs::remove_file(&index).unwrap();
    stuck.write(refused).unwrap();
    stuck.check(refused);
}

#[test]
fn upkeep_goes_on_while_most_of_the_memory_waits_for_a_disk_outside() {
    let store = Arc::new(Store::new(64 << 10, 2 << 20));
    let tap = member(&store);
    // Nothing is destaged to the tapped disk, so runs of the head map stay.
    tap.log.open_volume(tap.volume, Below::Device, Seq::ZERO).unwrap();
    let mut n = 0;
    while store.drawn_bytes() < 1_400_000 {
        tap.write(n).unwrap();
        n += 1;
        assert!(n < 40_000);
        if n % 50 == 0 {
            store.work();
        }
    }
    while store.work() {}
    let checkpoints = || {
        if !tap.world.path("index").exists() {
            return 0;
        }
        let newest = tap.world.files("index").pop().unwrap();
        newest.file_name().unwrap().to_str().unwrap()[..10].parse::<u32>().unwrap()
    };
    let before = checkpoints();
    for n in 0..300 {
        tap.write(n).unwrap();
        store.work();
    }
    assert!(checkpoints() <= before + 30, "{} checkpoints for 300 writes", checkpoints() - before);
}

#[test]
fn i8_what_waits_for_its_index_is_counted_also_when_a_checkpoint_has_it() {
    let store = Arc::new(Store::new(64 << 10, 64 << 20));
    let member = member(&store);
    (0..100_000).for_each(|n| member.write(n).unwrap());
    let before = store.drawn_bytes();
    member.log.checkpoint().unwrap();
    // The checkpoint freed the runs of the head map, some 40 % of it, but not the versions in full segments, which wait
    // for their index.
    assert!(store.drawn_bytes() > before / 2, "{} of {before}", store.drawn_bytes());
    while member.log.maintain().unwrap() {}
    assert!(store.drawn_bytes() < before / 4, "{} of {before}", store.drawn_bytes());
}

#[test]
fn i8_what_views_keep_while_no_checkpoint_can_be_written_is_counted_and_shared() {
    let store = Arc::new(Store::new(64 << 10, 64 << 20));
    let member = member(&store);
    // No file can be made in the folder.
    std::fs::write(member.world.path("index"), []).unwrap();
    for n in 0..20_000 {
        member.write(n).unwrap();
    }
    let (before, head) = (store.drawn_bytes(), member.log.head_seq());
    let first = member.log.view(member.volume, head).unwrap();
    let one = store.drawn_bytes() - before;
    assert!(one >= 20_000 * 24, "{one}");
    let same: Vec<_> = (0..100).map(|_| member.log.view(member.volume, head).unwrap()).collect();
    assert_eq!(store.drawn_bytes() - before, one);
    let earlier = member.log.view(member.volume, Seq(head.0 - 10_000)).unwrap();
    let both = store.drawn_bytes() - before;
    assert!(both >= one + one / 3, "{both}");
    drop((first, same));
    assert_eq!(store.drawn_bytes() - before, both - one);
    drop(earlier);
    assert_eq!(store.drawn_bytes(), before);
    for n in (0..20_000).step_by(997) {
        member.check(n);
    }
}

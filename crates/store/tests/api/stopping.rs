//! A cancelled call ends after at most one more piece of work, and pieces are small.

use std::{
    cell::Cell,
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
    time::Duration,
};

use bygone_model::{BranchId, Event, Kind, Lba, Sectors, Seq, VolumeId};
use bygone_store::{BlockWrite, Caller, Content, Error, EventOrder, EventQuery, Log};

use crate::watched::{Watch, Watched};
use crate::world::{Ticks, World, disk, mark, options, write};

#[test]
fn verification_ends_within_a_piece_of_a_segment_or_a_tree() {
    const STEP_BYTES: u64 = 1 << 20;
    const RECORD_SECTORS: u64 = 1024;
    /// The longest piece: a record with its header and checksums.
    const PIECE_BYTES: u64 = RECORD_SECTORS * 512 + 8192;
    let (world, log, volume) = World::make_of(1 << 21, 64 << 20);
    // One large segment …
    for i in 0..24 {
        write(&log, volume, i * RECORD_SECTORS, RECORD_SECTORS, i);
    }
    // … and one large tree.
    for batch in 0..60 {
        let lba = |i: u64| Lba((batch * 1000 + i) * 2);
        let zero = |i| BlockWrite { volume, lba: lba(i), content: Content::Zero(Sectors(1)), base: false };
        let writes: Vec<BlockWrite<'_>> = (0..1000).map(zero).collect();
        log.append(&writes).unwrap();
    }
    log.checkpoint().unwrap();
    let in_index: u64 = world.files("index").iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(in_index > STEP_BYTES, "{in_index}");

    let mut asked = vec![0];
    let report = log.verify(false, &mut |done, _| {
        asked.push(done);
        true
    });
    assert!(report.unwrap().complete);
    assert!(asked.len() > 12, "{asked:?}");
    for pair in asked.windows(2) {
        assert!(pair[1] - pair[0] <= STEP_BYTES + PIECE_BYTES, "{asked:?}");
    }
    for (last, reached) in asked.iter().enumerate().skip(1) {
        let mut calls = 0;
        let report = log.verify(false, &mut |_, _| {
            calls += 1;
            calls < last
        });
        let report = report.unwrap();
        assert!(!report.complete);
        assert_eq!((calls, report.checked_bytes), (last, *reached));
    }
}

/// Calls `ask` again and again, each time cancelling it one check later, until it succeeds; returns how often the last
/// call checked for cancellation, and its answer.
fn go_ever_later<T>(mut ask: impl FnMut(Caller<'_>) -> bygone_store::Result<T>) -> (usize, T) {
    for last in 0.. {
        let asked = Cell::new(0);
        let wants = || {
            asked.set(asked.get() + 1);
            asked.get() <= last
        };
        match ask(Caller::who(&wants)) {
            Ok(answer) => return (asked.get(), answer),
            Err(error) => assert!(matches!(error, Error::Abandoned), "{error}"),
        }
        assert_eq!(asked.get(), last + 1, "it goes on after it was told to end");
    }
    unreachable!()
}

#[test]
fn a_view_that_needs_a_checkpoint_ends_within_a_page() {
    let (world, log, volume) = World::make_of(1 << 20, 4 << 20);
    log.checkpoint().unwrap();
    for i in 0..3000 {
        write(&log, volume, i * 7919 % 100_000 * 8, 1, i + 1);
    }
    let end = log.head_seq();
    let index = || world.files("index").len();
    let before = index();
    let (asked, view) = go_ever_later(|caller| {
        assert_eq!(index(), before, "nothing is left of what was given up");
        log.view_for(volume, end, caller)
    });
    // A check for each page; 3,000 versions take at least so many, in a delta and an image.
    assert!(asked > 2 * 3000 / 170, "{asked}");
    assert_eq!((index(), view.seq()), (before + 1, end));
    for i in (0..3000).step_by(97) {
        assert_eq!(mark(&log, volume, i * 7919 % 100_000 * 8, end).unwrap(), i + 1);
    }
    // With an existing checkpoint there is nothing to cancel.
    assert_eq!(go_ever_later(|caller| log.view_for(volume, end, caller)).0, 0);
    let branch = log.add_branch("try", BranchId(0), Seq(end.0 / 2)).unwrap();
    let own = log.catalog().volumes_of(branch, Seq::MAX).next().unwrap().id;
    write(&log, own, 0, 1, 5);
    assert!(go_ever_later(|caller| log.view_for(own, log.head_seq(), caller)).0 > 0);
    assert_eq!(mark(&log, own, 0, log.head_seq()).unwrap(), 5);
}

#[test]
fn a_question_to_events_that_none_answers_ends_within_a_list() {
    let (_world, log, _) = World::make(1 << 20);
    for list in 0..40 {
        for i in 0..3 {
            log.event(BranchId(0), &Event::new(Kind::Package, format!("{list} {i}"))).unwrap();
        }
        log.checkpoint().unwrap();
    }
    for order in [EventOrder::Newest, EventOrder::Oldest] {
        let (asked, found) = go_ever_later(|caller| {
            let query = EventQuery { kinds: &[Kind::Package], caller, ..EventQuery::default() };
            log.find_events(&query, order, 10, &mut |_| false)
        });
        assert_eq!((asked, found), (40, Vec::new()));
    }
}

/// Blocks the creation of a checkpoint while the flag is set.
struct Slow(Arc<(Mutex<bool>, Condvar)>);

impl Watch for Slow {
    fn before_create(&self, name: &str) {
        if name.starts_with("index/") {
            let (held, changed) = &*self.0;
            let held = held.lock().unwrap();
            changed.notify_all();
            drop(changed.wait_while(held, |held| *held).unwrap());
        }
    }
}

/// A log whose upkeep is at work until [`Busy::end`].
struct Busy {
    _world: World,
    log: Arc<Log>,
    volume: VolumeId,
    end: Seq,
    held: Arc<(Mutex<bool>, Condvar)>,
    upkeep: thread::JoinHandle<Seq>,
}

impl Busy {
    fn begin() -> Busy {
        let world = World::empty();
        let held = Arc::new((Mutex::new(true), Condvar::new()));
        let dir = Watched::new(world.folder.path(), Slow(held.clone()));
        let log =
            Log::make(dir, Arc::new(Ticks::default()), options(24 << 10), *b"sixteen bytes id").unwrap();
        let volume: VolumeId = log.add_disk(&disk(1 << 20)).unwrap();
        let end = write(&log, volume, 0, 8, 7);
        let (is_held, changed) = &*held;
        let mut guard = is_held.lock().unwrap();
        let upkeep = {
            let log = log.clone();
            thread::spawn(move || log.checkpoint().unwrap())
        };
        // Until the other thread creates the checkpoint and has the turn.
        guard = changed.wait(guard).unwrap();
        drop(guard);
        Busy { _world: world, log, volume, end, held, upkeep }
    }

    fn end(self) {
        *self.held.0.lock().unwrap() = false;
        self.held.1.notify_all();
        self.upkeep.join().unwrap();
        assert_eq!(mark(&self.log, self.volume, 0, self.end).unwrap(), 7);
    }
}

#[test]
fn a_view_that_waits_for_upkeep_ends_when_it_is_not_wanted_any_more() {
    let busy = Busy::begin();
    let asked = Cell::new(0);
    let wants = || {
        asked.set(asked.get() + 1);
        asked.get() < 4
    };
    let told = busy.log.view_for(busy.volume, busy.end, Caller::who(&wants));
    assert!(matches!(told, Err(Error::Abandoned)), "{told:?}");
    busy.end();
}

#[test]
fn a_verification_that_waits_for_upkeep_ends_when_it_is_told_to() {
    let busy = Busy::begin();
    let (sender, ended) = mpsc::channel();
    let log = busy.log.clone();
    let verifying = thread::spawn(move || {
        let mut left = 4;
        let report = log.verify(false, &mut |_, _| {
            left -= 1;
            left > 0
        });
        sender.send(()).unwrap();
        report.unwrap()
    });
    let ended = ended.recv_timeout(Duration::from_secs(60));
    busy.end();
    let report = verifying.join().unwrap();
    assert_eq!((ended, report.complete, report.checked_bytes), (Ok(()), false, 0));
}

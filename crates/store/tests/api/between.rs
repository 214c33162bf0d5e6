//! Another holder acts between any two steps of what a holder does. Nothing that was acknowledged by whoever held the
//! log at the time is lost, and at the end one of them holds it.

use std::{
    cell::Cell,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bygone_model::{Lba, Seq, VolumeId};
use bygone_store::{
    BlockWrite, Content, Error, Hold, Log, LogOptions,
    format::manifest::{self, Manifest},
};

use crate::watched::{Watch, Watched};
use crate::world::{Ticks, World, mark, options, sector, write};

/// No act has more steps.
const STEPS_MAX: usize = 2000;

type Meanwhile = Box<dyn FnOnce() + Send>;

/// Runs a closure between two steps, once it is armed.
#[derive(Clone, Default)]
struct Between(Arc<Armed>);

#[derive(Default)]
struct Armed {
    /// So many points are passed first.
    left: AtomicUsize,
    act: Mutex<Option<Meanwhile>>,
}

impl Between {
    fn arm(&self, left: usize, act: impl FnOnce() + Send + 'static) {
        self.0.left.store(left, Ordering::SeqCst);
        *self.0.act.lock().unwrap() = Some(Box::new(act));
    }

    /// Takes back what has not run; returns whether it has run.
    fn disarm(&self) -> bool {
        self.0.act.lock().unwrap().take().is_none()
    }
}

impl Watch for Between {
    fn between(&self) {
        let mut armed = self.0.act.lock().unwrap_or_else(PoisonError::into_inner);
        if armed.is_none()
            || self.0.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
        {
            return;
        }
        let act = armed.take();
        drop(armed);
        act.into_iter().for_each(|act| act());
    }
}

fn open_watched(folder: &Path, watch: &Between, hold: Hold) -> bygone_store::Result<Arc<Log>> {
    let dir = Watched::new(folder, watch.clone());
    Log::open(dir, Arc::new(Ticks::from(7_200_000_000)), LogOptions { hold, ..options(24 << 10) })
}

fn try_write(log: &Log, volume: VolumeId, lba: u64, mark: u64) -> bygone_store::Result<Seq> {
    let data = sector(mark).repeat(20);
    let write = BlockWrite { volume, lba: Lba(lba), content: Content::Data(&data), base: false };
    log.append(&[write]).map(|done| done.last)
}

/// A closed log whose newest segment is not sealed, with an empty file behind it. Sector `i * 20` holds `100 + i`.
fn some_history() -> (World, VolumeId) {
    let (world, log, volume) = World::make(1 << 20);
    for i in 0..30 {
        write(&log, volume, i * 20, 20, i + 1);
        if i == 10 {
            log.checkpoint().unwrap();
        }
        while i < 20 && log.maintain().unwrap() {}
    }
    for i in 0..5 {
        write(&log, volume, i * 20, 20, 100 + i);
    }
    while log.maintain().unwrap() {}
    log.flush().unwrap();
    (world, volume)
}

fn newest_term(world: &World) -> u32 {
    let terms = world.files("manifest").into_iter().filter_map(|path| {
        let number = manifest::number_of(path.file_name()?.to_str()?)?;
        Some(Manifest::decode(&std::fs::read(&path).unwrap(), number).unwrap().term)
    });
    terms.max().unwrap()
}

/// What a holder was told to be durable.
type Acked = Arc<Mutex<Vec<(u64, u64)>>>;

/// Writes some records and makes them durable.
fn use_it(log: &Log, volume: VolumeId, at: u64, acked: &Acked) -> bygone_store::Result<()> {
    for i in at..at + 4 {
        try_write(log, volume, i * 20, 1000 + i)?;
        log.flush()?;
        acked.lock().unwrap().push((i * 20, 1000 + i));
    }
    Ok(())
}

/// Opens the log and compares it with all that was acknowledged.
fn check(world: &World, volume: VolumeId, acked: &Acked, what: &str) {
    let log = world.try_open().map_err(|error| format!("{what}: {error}")).unwrap();
    assert_eq!(log.damage_at_open(), [], "{what}");
    for &(lba, wanted) in acked.lock().unwrap().iter().chain(&[(80, 104), (500, 26)]) {
        assert_eq!(mark(&log, volume, lba, log.head_seq()).unwrap(), wanted, "{what}: sector {lba}");
    }
    assert_eq!(log.verify(false, &mut |_, _| true).unwrap().damaged, [], "{what}");
}

#[test]
fn a_takeover_between_any_two_steps_of_an_opening_leaves_one_holder_and_loses_nothing() {
    let (world, volume) = some_history();
    // One that names no term is kept from meeting another holder by the store's lock.
    for hold in [Hold::TakeOver, Hold::Term(1)] {
        let has_run = Cell::new(true);
        for n in (0..STEPS_MAX).take_while(|_| has_run.get()) {
            let what = format!("{hold:?} after {n}");
            let world = Arc::new(World::copy_of(world.folder.path()));
            let (won, acked) = (Arc::new(Mutex::new(None)), Acked::default());
            let between = Between::default();
            let (other, taken, told) = (world.clone(), won.clone(), acked.clone());
            between.arm(n, move || {
                let log = other.try_hold(Hold::TakeOver).unwrap();
                use_it(&log, volume, 40, &told).unwrap();
                *taken.lock().unwrap() = Some(log);
            });
            let opened = open_watched(world.folder.path(), &between, hold);
            has_run.set(between.disarm());
            let Some(won) = won.lock().unwrap().take() else { break };
            let holds = |log: &Log, at| use_it(log, volume, at, &acked).and_then(|()| log.maintain());
            match opened {
                // Also the one that is the holder before for this one, if it opened the log before.
                Ok(opened) if opened.term() > won.term() => {
                    holds(&opened, 50).unwrap_or_else(|error| panic!("{what}: {error}"));
                    assert!(matches!(won.checkpoint(), Err(Error::Superseded { .. })), "{what}");
                }
                Ok(opened) => {
                    assert!(opened.term() < won.term(), "{what}: two holders of term {}", won.term());
                    assert!(matches!(opened.checkpoint(), Err(Error::Superseded { .. })), "{what}");
                    holds(&won, 50).unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                Err(error) => {
                    assert!(matches!(error, Error::Superseded { .. }), "{what}: {error}");
                    holds(&won, 50).unwrap_or_else(|error| panic!("{what}: {error}"));
                }
            }
            drop(won);
            check(&world, volume, &acked, &what);
        }
        assert!(!has_run.get(), "an opening has fewer steps");
    }
}

#[test]
fn a_takeover_between_any_two_steps_of_the_holder_before_loses_nothing_of_either() {
    type Act = fn((&World, &Log), VolumeId, &mut dyn FnMut()) -> bygone_store::Result<()>;
    let acts: [(&str, Act); 4] = [
        ("writes", |(_, log), volume, told| {
            for i in 0..8 {
                try_write(log, volume, 1200, 2000 + i)?;
                log.flush()?;
                told();
            }
            Ok(())
        }),
        ("a checkpoint", |(_, log), volume, _| {
            try_write(log, volume, 1200, 2000)?;
            log.checkpoint().map(drop)
        }),
        ("a segment that is written again", |(world, log), volume, told| {
            try_write(log, volume, 1200, 2000)?;
            log.flush()?;
            told();
            put_an_equal_file_in_its_place(world);
            while log.maintain()? {}
            Ok(())
        }),
        ("upkeep", |(_, log), volume, _| {
            for i in 0..12 {
                try_write(log, volume, 1200, 2000 + i)?;
                while log.maintain()? {}
            }
            Ok(())
        }),
    ];
    let (world, volume) = some_history();
    for (what, act) in acts {
        let has_run = Cell::new(true);
        for n in (0..STEPS_MAX).step_by(if what == "upkeep" { 7 } else { 2 }).take_while(|_| has_run.get()) {
            let what = format!("{what} after {n}");
            let world = Arc::new(World::copy_of(world.folder.path()));
            let (won, acked) = (Arc::new(Mutex::new(None)), Acked::default());
            let between = Between::default();
            let old = open_watched(world.folder.path(), &between, Hold::Newest).unwrap();
            try_write(&old, volume, 900, 3000).unwrap();
            old.flush().unwrap();
            acked.lock().unwrap().push((900, 3000));
            let (other, taken, told) = (world.clone(), won.clone(), acked.clone());
            between.arm(n, move || {
                let log = other.try_hold(Hold::TakeOver).unwrap();
                use_it(&log, volume, 40, &told).unwrap();
                *taken.lock().unwrap() = Some(log);
            });
            let mut flushed = None;
            let done = act((&world, &old), volume, &mut || {
                if won.lock().unwrap().is_none() {
                    flushed = Some(flushed.map_or(2000, |mark| mark + 1));
                }
            });
            has_run.set(between.disarm());
            let Some(won) = won.lock().unwrap().take() else { break };
            if let Err(error) = done {
                assert!(matches!(error, Error::Superseded { .. }), "{what}: {error}");
            }
            assert!(matches!(old.checkpoint(), Err(Error::Superseded { .. })), "{what}");
            drop(old);
            use_it(&won, volume, 50, &acked).unwrap_or_else(|error| panic!("{what}: {error}"));
            while won.maintain().unwrap() {}
            assert!(mark(&won, volume, 1200, won.head_seq()).unwrap() >= flushed.unwrap_or(0), "{what}");
            drop(won);
            check(&world, volume, &acked, &what);
        }
        assert!(!has_run.get(), "{what} has fewer steps");
    }
}

#[test]
fn a_holder_that_goes_on_between_any_two_steps_of_a_takeover_loses_nothing_that_it_acknowledged_before() {
    let (world, volume) = some_history();
    let has_run = Cell::new(true);
    for n in (0..STEPS_MAX).take_while(|_| has_run.get()) {
        let what = format!("after {n}");
        let world = Arc::new(World::copy_of(world.folder.path()));
        let old = world.open();
        let (told, acked) = (Acked::default(), Acked::default());
        use_it(&old, volume, 30, &acked).unwrap();
        let between = Between::default();
        let (other, held, goes_on) = (world.clone(), told.clone(), old.clone());
        between.arm(n, move || {
            let before = Acked::default();
            for at in (60..72).step_by(4) {
                let _ = use_it(&goes_on, volume, at, &before);
                let _ = goes_on.maintain();
                if newest_term(&other) == 1 {
                    held.lock().unwrap().append(&mut before.lock().unwrap());
                }
            }
            let _ = goes_on.checkpoint();
        });
        let new = open_watched(world.folder.path(), &between, Hold::TakeOver);
        has_run.set(between.disarm());
        let new = new.unwrap_or_else(|error| panic!("{what}: {error}"));
        acked.lock().unwrap().append(&mut told.lock().unwrap());
        // It goes on writing until it looks.
        let _ = use_it(&old, volume, 80, &Acked::default());
        use_it(&new, volume, 50, &acked).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(matches!(old.checkpoint(), Err(Error::Superseded { .. })), "{what}");
        drop((old, new));
        check(&world, volume, &acked, &what);
    }
    assert!(!has_run.get(), "a takeover has fewer steps");
}

/// As `rsync` does into a live store: an equal file is put in the place of the segment in use.
fn put_an_equal_file_in_its_place(world: &World) {
    let is_used = |path: &std::path::PathBuf| std::fs::metadata(path).unwrap().len() > 0;
    let open = world.files("log").into_iter().rfind(is_used).unwrap();
    let other = world.path("other");
    std::fs::copy(&open, &other).unwrap();
    std::fs::rename(&other, &open).unwrap();
}

#[test]
fn a_kill_between_any_two_steps_of_writing_a_segment_again_loses_nothing_that_was_flushed() {
    let (world, volume) = some_history();
    let has_run = Cell::new(true);
    for n in (0..STEPS_MAX).take_while(|_| has_run.get()) {
        let world = World::copy_of(world.folder.path());
        let between = Between::default();
        let log = open_watched(world.folder.path(), &between, Hold::Newest).unwrap();
        write(&log, volume, 1200, 1, 3000);
        let head = log.flush().unwrap();
        put_an_equal_file_in_its_place(&world);
        let killed = Arc::new(Mutex::new(None));
        let (folder, copied) = (world.folder.path().to_owned(), killed.clone());
        between.arm(n, move || *copied.lock().unwrap() = Some(World::copy_of(&folder)));
        while log.maintain().unwrap() {}
        has_run.set(between.disarm());
        let Some(killed) = killed.lock().unwrap().take() else { break };
        let log = killed.open();
        assert_eq!((log.head_seq(), log.damage_at_open()), (head, &[][..]), "after {n}");
        assert_eq!(mark(&log, volume, 1200, head).unwrap(), 3000, "after {n}");
        let is_part = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "part");
        assert!(!killed.files("log").iter().any(is_part), "after {n}");
    }
    assert!(!has_run.get(), "upkeep has fewer steps");
}

#[test]
fn a_takeover_that_is_killed_between_any_two_steps_has_lost_nothing() {
    // Several segments wait for their index, so that several are copied.
    let (world, log, volume) = World::make(1 << 20);
    for i in 0..8 {
        write(&log, volume, i * 20, 20, 100 + i);
    }
    log.flush().unwrap();
    let end = log.head_seq();
    drop(log);
    let unsealed = world.files("log").len();
    assert!(unsealed > 3, "{unsealed}");
    for step in 0..STEPS_MAX {
        let world = World::copy_of(world.folder.path());
        let (between, killed) = (Between::default(), Arc::new(Mutex::new(None)));
        let (folder, saved) = (world.folder.path().to_owned(), killed.clone());
        between.arm(step, move || *saved.lock().unwrap() = Some(World::copy_of(&folder)));
        drop(open_watched(world.folder.path(), &between, Hold::TakeOver).unwrap());
        if !between.disarm() {
            assert!(step > 20, "{step}");
            return;
        }
        let killed = killed.lock().unwrap().take().unwrap();
        let log = killed.try_hold([Hold::Newest, Hold::TakeOver][step % 2]).unwrap();
        assert_eq!(log.damage_at_open(), [], "step {step}");
        assert!(log.head_seq() >= end, "step {step}: {} of {end}", log.head_seq());
        for i in 0..8 {
            assert_eq!(mark(&log, volume, i * 20, end).unwrap(), 100 + i, "step {step}");
        }
    }
    unreachable!("a takeover has an end");
}

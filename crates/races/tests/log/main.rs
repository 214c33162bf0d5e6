//! Appends, flushes, sealing, checkpoints, views, verification and closing in many interleavings. A failure prints its
//! schedule, which `shuttle::replay` repeats.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod medium;

use std::sync::Arc;

use bygone_model::{Lba, Sectors, Seq, VolumeId};
use bygone_store::{
    Below, BlockWrite, Content, Cursor, Error, Log, LogOptions, MEMORY_BYTES, Store, View, Wait,
    catalog::{Disk, Keeping},
};
use medium::{Memory, Ticks};
use shuttle::{
    Config, Runner,
    scheduler::{PctScheduler, RandomScheduler, Scheduler},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

const SECTORS: u64 = 64;

/// Small segments and checkpoints, so that a few writes make several.
fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 32 << 10,
        segment_records_max: 4,
        checkpoint_entries: 3,
        store: Arc::new(Store::new(64 << 10, MEMORY_BYTES)),
        ..LogOptions::default()
    }
}

fn make(memory: &Memory) -> (Arc<Log>, VolumeId) {
    make_with(memory, options())
}

fn make_with(memory: &Memory, options: LogOptions) -> (Arc<Log>, VolumeId) {
    let log = Log::make(Arc::new(memory.clone()), Arc::new(Ticks::default()), options, [7; 16]).unwrap();
    let (name, sectors) = ("vda".to_owned(), Sectors(SECTORS));
    let volume = log.add_disk(&Disk { name, sectors, block_bytes: 512, keeping: Keeping::Store }).unwrap();
    log.open_volume(volume, Below::Index, Seq::ZERO).unwrap();
    (log, volume)
}

fn open(memory: Memory) -> Arc<Log> {
    Log::open(Arc::new(memory), Arc::new(Ticks::default()), options()).unwrap()
}

/// Writes a sector full of `mark`.
fn write(log: &Log, volume: VolumeId, lba: u64, mark: u8) -> bygone_store::Result<Seq> {
    let content = Content::Data(&[mark; 512]);
    log.append(&[BlockWrite { volume, lba: Lba(lba), content, base: false }]).map(|done| done.last)
}

/// The mark of a sector as of `seq`.
fn mark(log: &Arc<Log>, volume: VolumeId, lba: u64, seq: Seq) -> u8 {
    let mut bytes = [0; 512];
    log.view(volume, seq).unwrap().read(Lba(lba), &mut bytes, Wait::Yes).unwrap();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a sector of several writes");
    bytes[0]
}

/// Iterates while other threads are at work, and yields to them each time.
fn while_set(flag: &AtomicBool) -> impl Iterator<Item = ()> {
    const ROUNDS_MAX: usize = 1000;
    (0..ROUNDS_MAX).take_while(|_| flag.load(Ordering::SeqCst)).map(|_| thread::yield_now())
}

/// The mark of the first sector.
fn shown(view: &View) -> u8 {
    let mut bytes = [0; 512];
    view.read(Lba(0), &mut bytes, Wait::Yes).unwrap();
    bytes[0]
}

fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    let scenario = Arc::new(scenario);
    let run = |scheduler: Box<dyn Scheduler + Send>| {
        let mut config = Config::new();
        config.stack_size = 1 << 20;
        let scenario = scenario.clone();
        Runner::new(scheduler, config).run(move || scenario());
    };
    run(Box::new(RandomScheduler::new(300)));
    run(Box::new(PctScheduler::new(4, 300)));
}

#[test]
fn i4_a_failed_sync_is_never_followed_by_an_acknowledgement_whoever_was_told() {
    for good in 0..8 {
        explore(move || {
            let memory = Memory::default();
            let (log, volume) = make(&memory);
            for i in 0..5 {
                write(&log, volume, i, 1).unwrap();
            }
            memory.fail_a_sync_after(good);
            let acknowledged = Arc::new(Mutex::new(Vec::new()));
            let threads: Vec<_> = (0..3)
                .map(|i| {
                    let (log, acknowledged) = (log.clone(), acknowledged.clone());
                    thread::spawn(move || match i {
                        0 => while log.maintain().is_ok_and(|more| more) {},
                        _ => {
                            for n in 0..2 {
                                let Ok(seq) = write(&log, volume, 10 * i + n, 2) else { return };
                                if log.flush().is_ok_and(|durable| durable >= seq) {
                                    acknowledged.lock().unwrap().push(seq);
                                }
                            }
                        }
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            // Everything acknowledged is on the medium.
            let reached = acknowledged.lock().unwrap().iter().copied().max();
            drop(log);
            let log = open(memory.after_a_power_cut());
            assert!(log.damage_at_open().is_empty(), "{:?}", log.damage_at_open());
            assert!(
                reached <= Some(log.head_seq()),
                "{reached:?} was acknowledged, {} is there",
                log.head_seq()
            );
        });
    }
}

#[test]
fn whoever_has_a_moment_keeps_what_it_is_read_from_while_small_checkpoints_become_one() {
    explore(|| {
        let memory = Memory::default();
        // No part of the index is cached, and a checkpoint is due only on request.
        let store = Arc::new(Store::new(0, MEMORY_BYTES));
        let options = LogOptions { checkpoint_entries: 30, joined_min: 2, store, ..options() };
        let (log, volume) = make_with(&memory, options);
        let upkeep = {
            let log = log.clone();
            thread::spawn(move || {
                for _ in 0..5 {
                    log.checkpoint().unwrap();
                    while log.maintain().unwrap() {}
                }
            })
        };
        let reader = {
            let log = log.clone();
            thread::spawn(move || {
                let view = || {
                    let view = log.view(volume, log.head_seq()).unwrap();
                    let then = shown(&view);
                    (view, then)
                };
                [(); 3].map(|()| view())
            })
        };
        for i in 1..=6 {
            write(&log, volume, 0, i).unwrap();
        }
        let views = reader.join().unwrap();
        upkeep.join().unwrap();
        // Also the views that were created before checkpoints were merged.
        for (view, then) in views {
            assert_eq!(shown(&view), then);
        }
        assert_eq!(mark(&log, volume, 0, log.head_seq()), 6);
    });
}

#[test]
fn a_moment_shows_what_was_written_before_it_whatever_upkeep_does_meanwhile() {
    explore(|| {
        let memory = Memory::default();
        let (log, volume) = make(&memory);
        let upkeep = {
            let log = log.clone();
            thread::spawn(move || while log.maintain().unwrap() {})
        };
        let reader = {
            let log = log.clone();
            thread::spawn(move || {
                for _ in 0..3 {
                    // Each write holds its number, so the present only ever grows, and a moment never changes.
                    let seq = log.head_seq();
                    let then = mark(&log, volume, 0, seq);
                    let fragments = log.resolve_head(volume, Lba(0), Sectors(1), Wait::Yes).unwrap();
                    let mut now = [0; 512];
                    log.read_fragment(&fragments[0], &mut now, Wait::Yes).unwrap();
                    assert!(now[0] >= then, "{} after {then}", now[0]);
                    assert_eq!(mark(&log, volume, 0, seq), then);
                }
            })
        };
        let writing = Arc::new(AtomicBool::new(true));
        let watcher = {
            let (log, writing) = (log.clone(), writing.clone());
            thread::spawn(move || {
                // Each write goes to a sector of its own as well; once that sector is found, it stays.
                let mut known = 0;
                for _ in while_set(&writing) {
                    let fragments = log.resolve_head(volume, Lba(10), Sectors(8), Wait::Yes).unwrap();
                    let found = fragments.iter().filter(|fragment| fragment.found.is_some());
                    let sectors: u64 = found.map(|fragment| fragment.sectors.0).sum();
                    assert!(sectors >= known, "{sectors} sectors after {known}");
                    known = sectors;
                }
            })
        };
        let written: Vec<_> = (1..=8)
            .map(|i| {
                write(&log, volume, 9 + u64::from(i), i).unwrap();
                (i, write(&log, volume, 0, i).unwrap())
            })
            .collect();
        log.checkpoint().unwrap();
        upkeep.join().unwrap();
        writing.store(false, Ordering::SeqCst);
        reader.join().unwrap();
        watcher.join().unwrap();
        for (i, seq) in written {
            assert_eq!(mark(&log, volume, 0, seq), i);
        }
    });
}

#[test]
fn a_volume_that_is_closed_and_opened_between_writes_and_checkpoints_shows_the_newest() {
    explore(|| {
        let memory = Memory::default();
        let (log, volume) = make(&memory);
        let writing = Arc::new(AtomicBool::new(true));
        let opener = {
            let (log, writing) = (log.clone(), writing.clone());
            thread::spawn(move || {
                for _ in while_set(&writing) {
                    log.close_volume(volume);
                    log.open_volume(volume, Below::Index, Seq::ZERO).unwrap();
                }
            })
        };
        let upkeep = {
            let log = log.clone();
            thread::spawn(move || while log.maintain().unwrap() {})
        };
        let check = |i: u8| {
            match log.resolve_head(volume, Lba(u64::from(i)), Sectors(1), Wait::Yes) {
                Ok(fragments) => {
                    let mut now = [0; 512];
                    log.read_fragment(&fragments[0], &mut now, Wait::Yes).unwrap();
                    assert_eq!(now[0], i, "sector {i}");
                }
                // The volume is closed at the moment.
                Err(error) => assert!(matches!(error, Error::NoVolume(_)), "{error}"),
            }
        };
        for i in 1..=6 {
            write(&log, volume, u64::from(i), i).unwrap();
            check(i);
        }
        upkeep.join().unwrap();
        writing.store(false, Ordering::SeqCst);
        opener.join().unwrap();
        (1..=6).for_each(check);
    });
}

#[test]
fn a_follower_is_told_everything_once_and_nothing_that_a_power_cut_takes() {
    explore(|| {
        let memory = Memory::default();
        let (log, volume) = make(&memory);
        let upkeep = {
            let log = log.clone();
            thread::spawn(move || {
                let _ = log.checkpoint();
                while log.maintain().unwrap() {}
            })
        };
        let follower = {
            let (log, memory) = (log.clone(), memory.clone());
            thread::spawn(move || {
                let mut follower = log.follow(Cursor { log: log.id(), seq: Seq::ZERO }).unwrap();
                let (mut told, mut marks) = (0, 0);
                for _ in 0..40 {
                    while let Some(batch) = follower.next_batch().unwrap() {
                        assert!(batch.lost.is_empty(), "{:?}", batch.lost);
                        for record in batch.records {
                            told += 1;
                            assert_eq!(record.seq.0, told);
                            if record.op.is_block() {
                                let mut bytes = [0; 512];
                                follower.read(&record, record.lba, &mut bytes).unwrap();
                                marks += 1;
                                assert_eq!(bytes, [marks; 512]);
                            }
                        }
                        assert_eq!(batch.upto.0, told);
                        // A power cut now would lose nothing that the follower was given, whatever flush is in
                        // progress.
                        let left = open(memory.after_a_power_cut());
                        assert!(batch.upto <= left.head_seq(), "{} of {}", batch.upto, left.head_seq());
                    }
                    log.keep_cursor("races", Seq(told)).unwrap();
                    if marks == 6 {
                        break;
                    }
                    thread::yield_now();
                }
                told
            })
        };
        for i in 1..=6 {
            write(&log, volume, u64::from(i), i).unwrap();
            if i % 2 == 0 {
                log.flush().unwrap();
            }
        }
        upkeep.join().unwrap();
        let told = follower.join().unwrap();
        drop(log);
        let log = open(memory.after_a_power_cut());
        assert!(log.head_seq().0 >= told && log.damage_at_open().is_empty());
        assert_eq!(log.kept_cursor("races").unwrap().seq.0, told);
        let mut rest = log.follow(log.kept_cursor("races").unwrap()).unwrap();
        let mut seen = told;
        while let Some(batch) = rest.next_batch().unwrap() {
            assert!(batch.lost.is_empty());
            seen += batch.records.len() as u64;
        }
        assert_eq!(seen, log.durable_seq().0);
    });
}

#[test]
fn branches_events_and_flushes_that_come_at_once_are_all_there_after_a_power_cut() {
    explore(|| {
        let memory = Memory::default();
        let (log, volume) = make(&memory);
        let brancher = {
            let (log, memory) = (log.clone(), memory.clone());
            thread::spawn(move || {
                let at = log.head_seq();
                log.add_branch("b", bygone_model::BranchId(0), at).map(|_| ()).unwrap();
                // A power cut now would not lose the branch, whichever thread flushes next.
                assert!(open(memory.after_a_power_cut()).catalog().branch_named("b").is_ok());
            })
        };
        let upkeep = {
            let log = log.clone();
            thread::spawn(move || {
                let _ = log.checkpoint();
                while log.maintain().unwrap() {}
            })
        };
        for i in 1..=5 {
            write(&log, volume, 3, i).unwrap();
        }
        let durable = log.flush().unwrap();
        brancher.join().unwrap();
        upkeep.join().unwrap();
        assert!(log.durable_seq() >= durable);
        drop(log);
        let log = open(memory.after_a_power_cut());
        assert!(log.head_seq() >= durable && log.damage_at_open().is_empty());
        assert!(log.catalog().branch_named("b").is_ok());
        assert_eq!(mark(&log, volume, 3, log.head_seq()), 5);
        assert!(!matches!(log.flush(), Err(Error::Poisoned)));
    });
}

#[test]
fn verification_finds_nothing_wrong_with_a_log_that_is_written_and_kept_up_meanwhile() {
    explore(|| {
        let memory = Memory::default();
        let (log, volume) = make(&memory);
        let upkeep = {
            let log = log.clone();
            thread::spawn(move || while log.maintain().unwrap() {})
        };
        let verifier = {
            let log = log.clone();
            thread::spawn(move || {
                for newest_first in [true, false] {
                    let report = log.verify(newest_first, &mut |_, _| true).unwrap();
                    assert!(report.complete && report.damaged.is_empty(), "{report:?}");
                }
            })
        };
        for i in 1..=8 {
            write(&log, volume, 0, i).unwrap();
        }
        log.checkpoint().unwrap();
        upkeep.join().unwrap();
        verifier.join().unwrap();
    });
}

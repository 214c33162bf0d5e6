//! After a panic in the write path nothing more is acknowledged until the log is opened anew, and nobody waits for ever.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use bygone_model::{Lba, Sectors, VolumeId};
use bygone_store::{BlockWrite, Content, Error, Log};

use crate::watched::{Watch, Watched};
use crate::world::{Ticks, World, disk, mark, options, write};

/// Panics at the next write or sync of a file, once.
#[derive(Default)]
struct Panics {
    at_write: Arc<AtomicBool>,
    at_sync: Arc<AtomicBool>,
}

impl Watch for Panics {
    fn before_write(&self) {
        assert!(!self.at_write.swap(false, Ordering::Relaxed), "injected");
    }
    fn before_sync(&self) -> io::Result<()> {
        assert!(!self.at_sync.swap(false, Ordering::Relaxed), "injected");
        Ok(())
    }
}

/// A log with a durable write, and the flags that make its next write or sync panic.
fn some_history() -> (World, Arc<Log>, VolumeId, Panics) {
    let world = World::empty();
    let panics = Panics::default();
    let watch = Panics { at_write: panics.at_write.clone(), at_sync: panics.at_sync.clone() };
    let dir = Watched::new(world.folder.path(), watch);
    let log = Log::make(dir, Arc::new(Ticks::default()), options(24 << 10), *b"sixteen bytes id").unwrap();
    let volume = log.add_disk(&disk(1024)).unwrap();
    write(&log, volume, 0, 8, 7);
    log.flush().unwrap();
    (world, log, volume, panics)
}

/// Checks that the log acknowledges nothing more, can still be read, and is whole once it is opened anew.
fn is_poisoned(world: &World, log: Arc<Log>, volume: VolumeId) {
    let zeroes = BlockWrite { volume, lba: Lba(8), content: Content::Zero(Sectors(1)), base: false };
    assert!(matches!(log.append(&[zeroes]), Err(Error::Poisoned)));
    assert!(log.is_poisoned());
    assert!(matches!(log.flush(), Err(Error::Poisoned)));
    assert!(matches!(log.checkpoint(), Err(Error::Poisoned)));
    assert!(matches!(log.mark_moment(), Err(Error::Poisoned)));
    assert_eq!(mark(&log, volume, 0, log.head_seq()).unwrap(), 7);
    drop(log);
    let log = world.open();
    assert_eq!(log.damage_at_open(), []);
    assert_eq!(mark(&log, volume, 0, log.head_seq()).unwrap(), 7);
    write(&log, volume, 0, 8, 9);
    log.flush().unwrap();
}

#[test]
fn i4_a_panic_while_a_record_is_written_poisons_the_log() {
    let (world, log, volume, panics) = some_history();
    panics.at_write.store(true, Ordering::Relaxed);
    let panicked = catch_unwind(AssertUnwindSafe(|| write(&log, volume, 16, 8, 8)));
    assert!(panicked.is_err());
    is_poisoned(&world, log, volume);
}

#[test]
fn i4_a_panic_in_a_flush_poisons_the_log_and_lets_no_other_flush_wait() {
    let (world, log, volume, panics) = some_history();
    write(&log, volume, 16, 8, 8);
    panics.at_sync.store(true, Ordering::Relaxed);
    assert!(catch_unwind(AssertUnwindSafe(|| log.flush())).is_err());
    let (sender, flushed) = mpsc::channel();
    let other = log.clone();
    thread::spawn(move || sender.send(other.flush()));
    let flushed = flushed.recv_timeout(Duration::from_secs(60)).expect("the flush waits for ever");
    assert!(matches!(flushed, Err(Error::Poisoned)), "{flushed:?}");
    is_poisoned(&world, log, volume);
}

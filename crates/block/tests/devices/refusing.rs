//! A tapped disk that takes nothing for a while.

use std::{
    fs,
    io::{self, IoSlice},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bygone_block::{
    BlockDevice, Change, DiskTrouble, IoError, OsDisk, RawDisk, Reading, TapDevice, WhenFull, Writing,
};
use bygone_model::{Details, VolumeId};
use bygone_store::{
    Log, LogOptions,
    catalog::Keeping,
    env::{File, RealDir, SystemClock},
};

use super::add_disk;

const SIZE: u64 = 160 << 20;
/// What a tap lets come together before writes wait.
const RUNS_MAX: usize = 1 << 17;
const BATCH: usize = 256;

/// A file system under the disk that is full from an offset on.
#[derive(Default)]
struct Switch {
    full_from: AtomicU64,
    tried: AtomicU64,
}

struct Refusing(OsDisk, Arc<Switch>);

impl RawDisk for Refusing {
    fn file(&self) -> &dyn File {
        self
    }
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.0.punch(offset, len_bytes)
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.0.next_data(offset)
    }
    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        self.0.next_hole(offset)
    }
    fn identity(&self) -> io::Result<Details> {
        self.0.identity()
    }
}

impl File for Refusing {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.file().read_at(buf, offset)
    }
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.1.tried.fetch_add(1, Ordering::SeqCst);
        if offset >= self.1.full_from.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.file().write_at(parts, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.file().sync()
    }
    fn len_bytes(&self) -> io::Result<u64> {
        self.0.file().len_bytes()
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.file().set_len(len_bytes)
    }
    fn reserve(&self, len_bytes: u64) -> io::Result<()> {
        self.0.file().reserve(len_bytes)
    }
    fn prefetch(&self, offset: u64, len_bytes: u64) {
        self.0.file().prefetch(offset, len_bytes);
    }
}

fn world(dir: &Path, full_from: u64) -> (Arc<Log>, VolumeId, Arc<TapDevice>, Arc<Switch>) {
    let disk = dir.join("disk.raw");
    fs::File::create_new(&disk).and_then(|f| f.set_len(SIZE)).unwrap();
    let options = LogOptions { checkpoint_entries: 20_000, ..LogOptions::default() };
    let log =
        Log::make(Arc::new(RealDir::new(dir.join("log"))), Arc::new(SystemClock::new()), options, [7; 16]);
    let log = log.unwrap();
    let volume = add_disk(&log, SIZE, Keeping::Tap);
    let switch = Arc::new(Switch::default());
    switch.full_from.store(full_from, Ordering::SeqCst);
    let raw = Refusing(OsDisk::open(&disk).unwrap(), switch.clone());
    let (tap, _) = TapDevice::open(log.clone(), volume, Box::new(raw), WhenFull::Pause).unwrap();
    (log, volume, tap, switch)
}

fn mark(number: usize) -> u8 {
    (number % 250) as u8 + 1
}

/// Writes one sector of each KiB, so that no two are neighbours.
fn write_batch(tap: &TapDevice, number: usize) -> Result<(), IoError> {
    let data = [mark(number); 512];
    let writings: Vec<Writing<'_>> = (0..BATCH)
        .map(|i| Writing { offset: ((number * BATCH + i) * 1024) as u64, change: Change::Data(&data) })
        .collect();
    tap.write(&writings)
}

#[test]
fn i8_memory_is_bounded_while_the_disk_refuses_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (log, volume, tap, switch) = world(dir.path(), 0);
    let mut done = 0;
    let refused = loop {
        match write_batch(&tap, done) {
            Ok(()) => done += 1,
            Err(e) => break e,
        }
        // Half of it is frozen from the beginning.
        if done == 200 {
            assert!(tap.destage().is_err());
        }
        while log.maintain().unwrap() {}
    };
    assert!(matches!(refused, IoError::Paused), "{refused}");
    assert!(log.head_runs(volume) <= RUNS_MAX + BATCH, "{} runs", log.head_runs(volume));
    assert!(tap.is_paused());
    assert_eq!(tap.trouble(), Some(DiskTrouble::Full));
    let head = log.head_seq();
    for _ in 0..3 {
        assert!(matches!(write_batch(&tap, done), Err(IoError::Paused)));
    }
    assert_eq!(log.head_seq(), head, "a write that waits is not made");
    let mut sector = [0; 512];
    tap.read(((done - 1) * BATCH * 1024) as u64, &mut sector, Reading::MayWait).unwrap();
    assert_eq!(sector, [mark(done - 1); 512]);

    switch.full_from.store(u64::MAX, Ordering::SeqCst);
    tap.destage().unwrap();
    assert_eq!(tap.trouble(), None);
    write_batch(&tap, done).unwrap();
    assert!(!tap.is_paused());
    tap.close().unwrap();
    let disk = fs::read(dir.path().join("disk.raw")).unwrap();
    for number in 0..=done {
        let at = number * BATCH * 1024;
        assert!(disk[at..at + 512].iter().all(|b| *b == mark(number)), "batch {number}");
    }
}

#[test]
fn a_disk_that_refuses_a_place_is_asked_for_that_place_first() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, _volume, tap, switch) = world(dir.path(), 2 << 20);
    for number in 0..16 {
        write_batch(&tap, number).unwrap();
    }
    assert!(tap.destage().is_err());
    let first = switch.tried.swap(0, Ordering::SeqCst);
    assert!(first > 1000, "{first}");
    for _ in 0..5 {
        assert!(tap.destage().is_err());
    }
    assert_eq!(switch.tried.load(Ordering::SeqCst), 5, "one try each");
    switch.full_from.store(u64::MAX, Ordering::SeqCst);
    tap.close().unwrap();
    let disk = fs::read(dir.path().join("disk.raw")).unwrap();
    for number in 0..16 {
        let at = number * BATCH * 1024;
        assert!(disk[at..at + 512].iter().all(|b| *b == mark(number)), "batch {number}");
    }
}

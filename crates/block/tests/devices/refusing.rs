//! A tapped disk that refuses writes for a while.

use std::{
    fs,
    io::{self, IoSlice},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bygone_block::{
    BlockDevice, Change, DiskTrouble, IoError, OsDisk, RawDisk, Reading, TapDevice, WhenFull, Writing,
};
use bygone_model::{Details, VolumeId};
use bygone_store::{
    Log, LogOptions,
    catalog::Keeping,
    env::{Dir, File, RealDir, SystemClock},
};

use super::add_disk;

const SIZE: u64 = 160 << 20;
/// How many runs a tap collects before writers wait.
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
    fn zero(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.0.zero(offset, len_bytes)
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

/// The log's folder, on a medium whose syncs fail once the flag is set.
struct Failing(RealDir, Arc<AtomicBool>);

struct FailingFile(Arc<dyn File>, Arc<AtomicBool>);

impl Failing {
    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(FailingFile(file, self.1.clone()))
    }
}

impl Dir for Failing {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.0.create(name).map(|file| self.wrap(file))
    }
    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if self.1.load(Ordering::SeqCst) {
            return Err(io::Error::other("asked to fail"));
        }
        self.0.publish(name, bytes)
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Dir::open(&self.0, name).map(|file| self.wrap(file))
    }
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.0.list(folder)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.replace(from, to)
    }
    fn sync(&self, folder: &str) -> io::Result<()> {
        self.0.sync(folder)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.0.free_bytes()
    }
}

impl File for FailingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.0.write_at(parts, offset)
    }
    fn sync(&self) -> io::Result<()> {
        if self.1.load(Ordering::SeqCst) {
            return Err(io::Error::other("asked to fail"));
        }
        self.0.sync()
    }
    fn len_bytes(&self) -> io::Result<u64> {
        self.0.len_bytes()
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.set_len(len_bytes)
    }
    fn reserve(&self, len_bytes: u64) -> io::Result<()> {
        self.0.reserve(len_bytes)
    }
    fn prefetch(&self, offset: u64, len_bytes: u64) {
        self.0.prefetch(offset, len_bytes);
    }
}

fn world(dir: &Path, full_from: u64) -> (Arc<Log>, VolumeId, Arc<TapDevice>, Arc<Switch>) {
    world_on(dir, Arc::new(RealDir::new(dir.join("log"))), full_from)
}

fn world_on(
    dir: &Path,
    log_dir: Arc<dyn Dir>,
    full_from: u64,
) -> (Arc<Log>, VolumeId, Arc<TapDevice>, Arc<Switch>) {
    let disk = dir.join("disk.raw");
    fs::File::create_new(&disk).and_then(|f| f.set_len(SIZE)).unwrap();
    let options = LogOptions { checkpoint_entries: 20_000, ..LogOptions::default() };
    let log = Log::make(log_dir, Arc::new(SystemClock::new()), options, [7; 16]).unwrap();
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

/// Writes one sector of each KiB, so that no two are adjacent.
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

#[test]
fn i4_a_log_that_fails_is_not_taken_for_the_disk_and_no_write_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let log_dir = Failing(RealDir::new(dir.path().join("log")), fails.clone());
    let (log, _, tap, _) = world_on(dir.path(), Arc::new(log_dir), u64::MAX);
    // As many as a tap collects; the next writer has to help destaging.
    for number in 0..RUNS_MAX / BATCH {
        write_batch(&tap, number).unwrap();
        while log.maintain().unwrap() {}
    }
    fails.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let refused = write_batch(&tap, 0).unwrap_err();
        assert!(matches!(refused, IoError::Store(_)), "{refused}");
        assert!(log.is_poisoned());
        assert_eq!(tap.trouble(), None);
        assert!(!tap.is_paused());
    }
}

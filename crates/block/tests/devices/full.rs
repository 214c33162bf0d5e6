//! A store without room: writes wait, and in which order they go on.

use std::{
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bygone_block::{BlockDevice, Change, LogDevice, Reading, WhenFull, Writing};
use bygone_store::{
    Log,
    catalog::Keeping,
    env::{Dir, File, RealDir, SystemClock},
};

use super::{add_disk, options};

/// A folder without room while it is told so.
struct Full {
    inner: RealDir,
    full: Arc<AtomicBool>,
}

impl Dir for Full {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let inner = self.inner.create(name)?;
        Ok(Arc::new(FullFile { inner, full: self.full.clone() }))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.inner.open(name)
    }
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.inner.list(folder)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }
    fn sync(&self, folder: &str) -> io::Result<()> {
        self.inner.sync(folder)
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
    }
}

struct FullFile {
    inner: Arc<dyn File>,
    full: Arc<AtomicBool>,
}

impl File for FullFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        if self.full.load(Ordering::Acquire) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.write_at(parts, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn len_bytes(&self) -> io::Result<u64> {
        self.inner.len_bytes()
    }
    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.inner.set_len(len_bytes)
    }
    fn reserve(&self, len_bytes: u64) -> io::Result<()> {
        self.inner.reserve(len_bytes)
    }
    fn prefetch(&self, offset: u64, len_bytes: u64) {
        self.inner.prefetch(offset, len_bytes);
    }
}

/// A client whose connection broke repeats its write over another one, and then replaces what it wrote.
#[test]
fn a_write_that_waits_for_room_is_never_done_after_one_that_came_later() {
    let dir = tempfile::tempdir().unwrap();
    let full = Arc::new(AtomicBool::new(false));
    let folder = Full { inner: RealDir::new(dir.path()), full: full.clone() };
    let log = Log::make(Arc::new(folder), Arc::new(SystemClock::new()), options(), [7; 16]).unwrap();
    let volume = add_disk(&log, 1 << 20, Keeping::Store);
    let device = Arc::new(LogDevice::open(log, volume, WhenFull::Pause).unwrap());
    full.store(true, Ordering::Release);
    let write = |byte: u8| {
        let device = device.clone();
        thread::spawn(move || {
            device.write(&[Writing { offset: 0, change: Change::Data(&[byte; 4096]) }]).unwrap();
        })
    };
    let first = write(1);
    while !device.is_paused() {
        thread::yield_now();
    }
    // Half way between two tries of the first.
    thread::sleep(Duration::from_millis(250));
    let second = write(2);
    thread::sleep(Duration::from_millis(350));
    full.store(false, Ordering::Release);
    first.join().unwrap();
    second.join().unwrap();
    assert!(!device.is_paused());
    let mut bytes = [0; 4096];
    device.read(0, &mut bytes, Reading::MayWait).unwrap();
    assert!(bytes == [2; 4096], "the first write came after the second: {}", bytes[0]);
}

//! A log in a folder of its own.

use std::{
    io::{self, IoSlice},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use bygone_model::{Lba, Micros, SECTOR_BYTES, Sectors, Seq, VolumeId};
use bygone_store::{
    BlockWrite, Content, Hold, Log, LogOptions, MEMORY_BYTES, Store, Wait,
    catalog::{Disk, Keeping},
    env::{Clock, Dir, File, RealDir},
};
use tempfile::TempDir;

/// A clock that moves by a millisecond whenever it is looked at.
#[derive(Default)]
pub(crate) struct Ticks(AtomicI64);

impl Ticks {
    /// It shows that so many microseconds have passed.
    pub(crate) fn from(micros: i64) -> Ticks {
        Ticks(micros.into())
    }
}

impl Clock for Ticks {
    fn wall(&self) -> Micros {
        Micros(1_700_000_000_000_000 + self.0.fetch_add(1000, Ordering::Relaxed))
    }
    fn monotonic(&self) -> Micros {
        Micros(self.0.load(Ordering::Relaxed))
    }
}

const SEGMENT_BYTES: u64 = 24 << 10;

/// Small segments and checkpoints, so that little data makes many.
pub(crate) fn options(segment_bytes: u64) -> LogOptions {
    LogOptions {
        segment_bytes,
        segment_records_max: 1 << 16,
        checkpoint_entries: 20,
        checkpoint_bytes: 1 << 30,
        aligned_payload_bytes: 16 << 10,
        begin_bytes: 8192,
        uncached_bytes: 16384,
        joined_min: 4,
        inventory_micros: 0,
        store: Arc::new(Store::new(64 << 10, MEMORY_BYTES).with_background(u64::MAX)),
        ..LogOptions::default()
    }
}

pub(crate) fn disk(sectors: u64) -> Disk {
    Disk { name: "vda".to_owned(), sectors: Sectors(sectors), block_bytes: 512, keeping: Keeping::Store }
}

/// A folder with a log of one disk.
pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) syncs_fail: Arc<AtomicBool>,
}

impl World {
    pub(crate) fn empty() -> World {
        World { folder: tempfile::tempdir().unwrap(), syncs_fail: Arc::default() }
    }

    pub(crate) fn copy_of(folder: &Path) -> World {
        let world = World::empty();
        for part in ["log", "index", "manifest"] {
            std::fs::create_dir_all(world.path(part)).unwrap();
            let Ok(entries) = std::fs::read_dir(folder.join(part)) else { continue };
            for entry in entries {
                let from = entry.unwrap().path();
                std::fs::copy(&from, world.path(part).join(from.file_name().unwrap())).unwrap();
            }
        }
        world
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn dir(&self) -> Arc<dyn Dir> {
        Arc::new(Failing { inner: RealDir::new(self.folder.path()), syncs_fail: self.syncs_fail.clone() })
    }

    /// A log with one disk.
    pub(crate) fn make(sectors: u64) -> (World, Arc<Log>, VolumeId) {
        World::make_of(sectors, SEGMENT_BYTES)
    }

    pub(crate) fn make_of(sectors: u64, segment_bytes: u64) -> (World, Arc<Log>, VolumeId) {
        let options = options(segment_bytes);
        let world = World::empty();
        let log = Log::make(world.dir(), Arc::new(Ticks::default()), options, *b"sixteen bytes id").unwrap();
        let volume = log.add_disk(&disk(sectors)).unwrap();
        (world, log, volume)
    }

    pub(crate) fn try_open(&self) -> bygone_store::Result<Arc<Log>> {
        self.try_hold(Hold::Newest)
    }

    pub(crate) fn try_hold(&self, hold: Hold) -> bygone_store::Result<Arc<Log>> {
        Log::open(
            self.dir(),
            Arc::new(Ticks::from(3_600_000_000)),
            LogOptions { hold, ..options(SEGMENT_BYTES) },
        )
    }

    pub(crate) fn open(&self) -> Arc<Log> {
        self.try_open().unwrap()
    }

    /// The files of a folder, in order.
    pub(crate) fn files(&self, folder: &str) -> Vec<PathBuf> {
        let mut files: Vec<_> =
            std::fs::read_dir(self.path(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

/// A sector that says who wrote it.
pub(crate) fn sector(mark: u64) -> Vec<u8> {
    mark.to_le_bytes().repeat(SECTOR_BYTES as usize / 8)
}

/// Writes `sectors` sectors that all bear `mark`.
pub(crate) fn write(log: &Log, volume: VolumeId, lba: u64, sectors: u64, mark: u64) -> Seq {
    let data = sector(mark).repeat(sectors as usize);
    let write = BlockWrite { volume, lba: Lba(lba), content: Content::Data(&data), base: false };
    log.append(&[write]).unwrap().last
}

/// The mark of a sector as of `seq`.
pub(crate) fn mark(log: &Arc<Log>, volume: VolumeId, lba: u64, seq: Seq) -> bygone_store::Result<u64> {
    let mut bytes = sector(u64::MAX);
    log.view(volume, seq)?.read(Lba(lba), &mut bytes, Wait::Yes)?;
    let mark = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert_eq!(bytes, sector(mark), "a sector of several writes");
    Ok(mark)
}

/// A folder whose syncs fail when told to.
struct Failing {
    inner: RealDir,
    syncs_fail: Arc<AtomicBool>,
}

impl Failing {
    fn wrap(&self, inner: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(FailingFile { inner, syncs_fail: self.syncs_fail.clone() })
    }
}

impl Dir for Failing {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.inner.create(name).map(|file| self.wrap(file))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.inner.open(name).map(|file| self.wrap(file))
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

struct FailingFile {
    inner: Arc<dyn File>,
    syncs_fail: Arc<AtomicBool>,
}

impl File for FailingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }
    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_cached_at(buf, offset)
    }
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.inner.write_at(parts, offset)
    }
    fn begin_writing(&self, offset: u64, len_bytes: u64) {
        self.inner.begin_writing(offset, len_bytes);
    }
    fn sync(&self) -> io::Result<()> {
        if self.syncs_fail.load(Ordering::Relaxed) {
            return Err(io::Error::other("the medium is gone"));
        }
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

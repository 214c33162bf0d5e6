//! A log in a folder of its own.

use std::{
    io,
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
    env::{Clock, Dir},
    format::segment,
};
use tempfile::TempDir;

use crate::watched::{Watch, Watched};

/// A clock that advances by a millisecond whenever the wall clock is read.
#[derive(Default)]
pub(crate) struct Ticks(AtomicI64);

impl Ticks {
    /// A clock on which `micros` microseconds have passed.
    pub(crate) fn from(micros: i64) -> Ticks {
        Ticks(micros.into())
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, micros: i64) {
        self.0.fetch_add(micros, Ordering::Relaxed);
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

/// A temporary folder with a log.
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
        Watched::new(self.folder.path(), Failing(self.syncs_fail.clone()))
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

    /// The file of a segment that the first holder made.
    pub(crate) fn segment(&self, number: u32) -> PathBuf {
        self.path(&segment::Name { number, term: 1 }.file_name())
    }

    /// The files of a folder, in order.
    pub(crate) fn files(&self, folder: &str) -> Vec<PathBuf> {
        let mut files: Vec<_> =
            std::fs::read_dir(self.path(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }
}

/// What the segment in a file is called in reports.
pub(crate) fn label_of(path: &Path) -> String {
    segment::label(segment_in(path).number)
}

/// The number and the term in the name of a segment's file.
pub(crate) fn segment_in(path: &Path) -> segment::Name {
    segment::Name::parse(path.file_name().unwrap().to_str().unwrap()).unwrap()
}

/// The content of a sector with this mark.
pub(crate) fn sector(mark: u64) -> Vec<u8> {
    mark.to_le_bytes().repeat(SECTOR_BYTES as usize / 8)
}

/// Writes `sectors` sectors with this mark.
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

/// Makes syncs fail while the flag is set.
struct Failing(Arc<AtomicBool>);

impl Watch for Failing {
    fn before_sync(&self) -> io::Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(io::Error::other("the medium is gone"));
        }
        Ok(())
    }
}

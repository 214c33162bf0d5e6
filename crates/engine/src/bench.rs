//! Measures a store on its medium: writing to the log, reading the present, reading the past.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bygone_block::{AsOfDevice, BlockDevice, Change, LogDevice, Reading, WhenFull, Writing};
use bygone_model::Sectors;
use bygone_store::{
    Log, LogOptions,
    catalog::{Disk, Keeping},
    env::{RealDir, SystemClock},
};
use serde::Serialize;

use crate::{
    error::{Error, Result},
    store_dir::{StorePaths, random_id},
};

const DISK_BYTES: u64 = 1 << 30;
const BLOCK_BYTES: u64 = 4096;
const EACH: Duration = Duration::from_millis(1500);
/// The most operations of one measurement.
const WRITES_MAX: u64 = 100_000;

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BenchRow {
    /// What is measured.
    pub name: String,
    /// The result.
    pub value: f64,
    /// The unit of `value`.
    pub unit: String,
    /// The conditions of the measurement.
    pub note: String,
}

/// Measures the store's medium, in a folder inside the store, which is removed afterwards.
///
/// # Errors
/// When there is no store, or its medium fails.
pub fn bench(store: &Path, report: &mut dyn FnMut(&BenchRow)) -> Result<()> {
    let paths = StorePaths::new(store);
    paths.check()?;
    let folder = paths.root().join(format!("bench-{}", std::process::id()));
    let result = measure(&folder, report);
    let removed = std::fs::remove_dir_all(&folder).map_err(|e| Error::file("removing", &folder, e));
    result.and(removed)
}

/// A pseudo-random sequence of block offsets (splitmix64).
struct Places(u64);

impl Places {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % (DISK_BYTES / BLOCK_BYTES) * BLOCK_BYTES
    }
}

fn rate(mut once: impl FnMut() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < EACH && count < WRITES_MAX {
        once()?;
        count += 1;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

fn measure(folder: &Path, report: &mut dyn FnMut(&BenchRow)) -> Result<()> {
    let mut row = |name: &str, value: f64, unit: &str, note: &str| {
        report(&BenchRow { name: name.into(), value, unit: unit.into(), note: note.into() });
    };
    let dir = Arc::new(RealDir::new(folder));
    let log = Log::make(dir, Arc::new(SystemClock::new()), LogOptions::default(), random_id()?)?;
    let sectors = Sectors::of_bytes(DISK_BYTES);
    let disk = Disk { name: "bench".into(), sectors, block_bytes: 512, keeping: Keeping::Store };
    let volume = log.add_disk(&disk)?;
    let device = LogDevice::open(log.clone(), volume, WhenFull::Fail)?;
    let mut places = Places(1);
    let block = [0x5a; BLOCK_BYTES as usize];
    let write = |offset: u64, data: &[u8]| device.write(&[Writing { offset, change: Change::Data(data) }]);

    let writes = rate(|| Ok(write(places.next(), &block)?))?;
    row("log-write", writes, "writes/s", "4 KiB, random, no flush");
    let then = log.head_seq();
    let flushed = rate(|| {
        write(places.next(), &block)?;
        Ok(device.flush()?)
    })?;
    row("log-write-flush", flushed, "writes/s", "4 KiB, random, a flush after each");
    let large = vec![0xa5; 1 << 20];
    let mut at = 0;
    let start = Instant::now();
    let mut written = 0;
    while start.elapsed() < EACH && written < DISK_BYTES {
        write(at % DISK_BYTES, &large)?;
        at += large.len() as u64;
        written += large.len() as u64;
    }
    device.flush()?;
    let mb = written as f64 / 1e6 / start.elapsed().as_secs_f64();
    row("log-write-sequential", mb, "MB/s", "1 MiB, a flush at the end");

    let mut buf = [0; BLOCK_BYTES as usize];
    let now = rate(|| Ok(device.read(places.next(), &mut buf, Reading::MayWait)?))?;
    row("read-now", now, "reads/s", "4 KiB, random, the present");
    let view = log.view(volume, then)?;
    let past = AsOfDevice::new(log.clone(), view, 512);
    let read_then = rate(|| Ok(past.read(places.next(), &mut buf, Reading::MayWait)?))?;
    row("read-then", read_then, "reads/s", "4 KiB, random, as of a past moment");

    let start = Instant::now();
    log.add_branch("bench", bygone_model::BranchId(0), then)?;
    row("branch", start.elapsed().as_secs_f64() * 1e3, "ms", "making a branch, durable");
    Ok(())
}

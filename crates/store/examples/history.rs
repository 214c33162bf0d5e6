//! Fills logs with history and measures the cost of reading it, adding points and branches to it, and storing it.
//! `scripts/bench-history` runs it.
//!
//! - `history fill FOLDER DISK_GIB RANGE_GIB EPOCHS`: makes the log if there is none; writes each 4 KiB block of the
//!   first RANGE_GIB of its disk once, then EPOCHS random ones of them, each followed by a flush.
//! - `history compare A B RANGE_GIB`: reads random blocks of two such logs, in turn: of A as of its end, of B as of
//!   nine moments. Then it adds points and branches to B.
//! - `history scatter FOLDER DISK_GIB WRITES`: writes single sectors at random places and reports the memory and space
//!   that this takes.
//! - `history resolve FOLDER FRAGMENTS`: writes so many single sectors with gaps between them and reports the CPU time
//!   to look all of them up at once.
//!
//! While filling, nothing is made durable: syncing would take hours and does not change what is measured afterwards.
//! The output is lines of JSON.

use std::{
    error::Error,
    io::{self, IoSlice, IoSliceMut},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bygone_model::{BranchId, Event, Kind, Lba, SECTOR_BYTES, Sectors, Seq, VolumeId};
use bygone_store::{
    Below, BlockWrite, Content, Log, LogOptions, MEMORY_BYTES, Store, View, Wait,
    catalog::{Disk, Keeping},
    env::{Clock, Dir, File, RealDir, SystemClock},
};

type Done<T = ()> = Result<T, Box<dyn Error>>;

const BLOCK_BYTES: u64 = 4096;
const BLOCK_SECTORS: u64 = BLOCK_BYTES / SECTOR_BYTES;
const DISK: VolumeId = VolumeId(0);

fn main() -> Done {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["fill", folder, disk_gib, range_gib, epochs] => {
            fill(Path::new(folder), disk_gib.parse()?, range_gib.parse()?, epochs.parse()?)
        }
        ["compare", a, b, range_gib] => compare(Path::new(a), Path::new(b), range_gib.parse()?),
        ["scatter", folder, disk_gib, writes] => {
            scatter(Path::new(folder), disk_gib.parse()?, writes.parse()?)
        }
        ["resolve", folder, fragments] => resolve(Path::new(folder), fragments.parse()?),
        _ => Err("usage: history fill FOLDER DISK_GIB RANGE_GIB EPOCHS | compare A B RANGE_GIB | scatter FOLDER DISK_GIB WRITES | resolve FOLDER FRAGMENTS".into()),
    }
}

fn report(name: &str, value: f64, unit: &str) {
    println!("{}", serde_json::json!({ "name": name, "value": value, "unit": unit }));
}

/// Pseudo-random numbers (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

fn open(folder: &Path, disk_gib: u64, durable: bool) -> Done<(Arc<Log>, Arc<AtomicBool>)> {
    open_with(folder, disk_gib, durable, LogOptions::default())
}

fn open_with(
    folder: &Path,
    disk_gib: u64,
    durable: bool,
    options: LogOptions,
) -> Done<(Arc<Log>, Arc<AtomicBool>)> {
    let durable = Arc::new(AtomicBool::new(durable));
    let dir = Arc::new(Lazy { inner: RealDir::new(folder), durable: durable.clone() });
    let clock = Arc::new(SystemClock::new());
    if folder.join("log").exists() {
        return Ok((Log::open(dir, clock, options)?, durable));
    }
    let log = Log::make(dir, clock, options, *b"a log to measure")?;
    let sectors = Sectors::of_bytes(disk_gib << 30);
    log.add_disk(&Disk { name: "vda".into(), sectors, block_bytes: 512, keeping: Keeping::Store })?;
    Ok((log, durable))
}

/// Does the upkeep that is due, as a manager's keeper would.
fn keep(log: &Log) -> Done {
    while log.maintain()? {}
    Ok(())
}

fn fill(folder: &Path, disk_gib: u64, range_gib: u64, epochs: u64) -> Done {
    let (log, durable) = open(folder, disk_gib, false)?;
    log.open_volume(DISK, Below::Index, Seq::ZERO)?;
    let blocks = (range_gib << 30) / BLOCK_BYTES;
    let block = [0xb5_u8; BLOCK_BYTES as usize];
    let write = |block_number: u64| BlockWrite {
        volume: DISK,
        lba: Lba(block_number * BLOCK_SECTORS),
        content: Content::Data(&block),
        base: false,
    };
    // Multiplying by an odd number permutes the blocks, whose number is a power of two, into an order unlike the
    // disk's.
    for i in 0..blocks {
        log.append(&[write(i.wrapping_mul(0x9e37_79b9) % blocks)])?;
        if i % 64 == 0 {
            keep(&log)?;
        }
    }
    let mut random = Random(1);
    for i in 0..epochs {
        log.append(&[write(random.below(blocks))])?;
        log.flush()?;
        if i % 64 == 0 {
            keep(&log)?;
        }
    }
    log.checkpoint()?;
    durable.store(true, Ordering::Relaxed);
    log.flush()?;
    Ok(())
}

/// The mean time of a read in nanoseconds, over `count` of them.
fn read_nanos(view: &View, blocks: u64, count: u64, random: &mut Random) -> Done<f64> {
    let mut buf = [0; BLOCK_BYTES as usize];
    let watch = Watch::start();
    for _ in 0..count {
        view.read(Lba(random.below(blocks) * BLOCK_SECTORS), &mut buf, Wait::Yes)?;
        if buf[0] != 0xb5 {
            return Err("a block that was written reads as something else".into());
        }
    }
    Ok(watch.micros() * 1e3 / count as f64)
}

/// Measures how long something takes.
struct Watch {
    clock: SystemClock,
    begun: i64,
}

impl Watch {
    fn start() -> Watch {
        let clock = SystemClock::new();
        Watch { begun: clock.monotonic().0, clock }
    }

    fn micros(&self) -> f64 {
        (self.clock.monotonic().0 - self.begun) as f64
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn compare(a: &Path, b: &Path, range_gib: u64) -> Done {
    const ROUNDS: usize = 31;
    const COLD: u64 = 500;
    const COLD_ROUNDS: usize = 15;
    let blocks = (range_gib << 30) / BLOCK_BYTES;
    let views = || -> Done<_> {
        // Large enough for all pages of all moments, so that "cached" means the same for each.
        let store = Arc::new(Store::new(1 << 30, MEMORY_BYTES));
        let options = || LogOptions { store: store.clone(), ..LogOptions::default() };
        let (log_a, _) = open_with(a, range_gib, true, options())?;
        let (log_b, _) = open_with(b, range_gib, true, options())?;
        let (end_a, end_b) = (log_a.head_seq(), log_b.head_seq());
        // Up to its end A has each block once, as B has up to the same seq.
        let mut views = vec![("1 epoch".to_owned(), log_a.view(DISK, end_a)?)];
        for eighth in 0..=8 {
            let seq = Seq(end_a.0 + (end_b.0 - end_a.0) * eighth / 8);
            views.push((format!("{eighth}/8 of many epochs"), log_b.view(DISK, seq)?));
        }
        Ok((log_b, views))
    };
    let mut random = Random(7);
    let cold = drop_caches().is_ok();
    let mut cold_nanos = vec![Vec::new(); 10];
    for _ in 0..if cold { COLD_ROUNDS } else { 0 } {
        // The logs are opened again, so that nothing is in our own cache either; opening reads footers only.
        let (_log, views) = views()?;
        for (nanos, (_, view)) in cold_nanos.iter_mut().zip(&views) {
            drop_caches()?;
            nanos.push(read_nanos(view, blocks, COLD, &mut random)?);
        }
    }
    let (log_b, views) = views()?;
    for (_, view) in &views {
        // The whole range, so that the caches are in the same state for each view.
        let mut buf = [0; BLOCK_BYTES as usize];
        for block in 0..blocks {
            view.read(Lba(block * BLOCK_SECTORS), &mut buf, Wait::Yes)?;
        }
    }
    let mut hot_nanos = vec![Vec::new(); views.len()];
    for _ in 0..ROUNDS {
        for (nanos, (_, view)) in hot_nanos.iter_mut().zip(&views) {
            nanos.push(read_nanos(view, blocks, 5000, &mut random)?);
        }
    }
    for (state, nanos) in [("cached", hot_nanos), ("not cached", cold_nanos)] {
        if nanos[0].is_empty() {
            continue;
        }
        let medians: Vec<f64> = nanos.into_iter().map(median).collect();
        report(&format!("read at 1 epoch, {state}"), medians[0] / 1000.0, "us");
        for (nanos, (name, _)) in medians.iter().zip(&views).skip(1) {
            report(&format!("read at {name}, {state}"), nanos / medians[0], "x");
        }
    }
    drop(views);
    mark(&log_b)
}

/// Measures how long it takes to add a point, and a branch, durably to a long history.
fn mark(log: &Log) -> Done {
    const EACH: u64 = 101;
    let head = log.head_seq().0;
    let (mut points, mut branches) = (Vec::new(), Vec::new());
    for i in 0..EACH {
        let watch = Watch::start();
        log.event(BranchId(0), &Event::new(Kind::Point, format!("point {i}")))?;
        log.flush()?;
        points.push(watch.micros() / 1e3);
        let watch = Watch::start();
        log.add_branch(&format!("b{head}-{i}"), BranchId(0), Seq(head - i * head / (2 * EACH)))?;
        branches.push(watch.micros() / 1e3);
    }
    for (name, mut values) in [("a point", points), ("a branch", branches)] {
        values.sort_unstable_by(f64::total_cmp);
        report(&format!("{name}, median"), values[values.len() / 2], "ms");
        report(&format!("{name}, the slowest of {EACH}"), values[values.len() - 1], "ms");
    }
    Ok(())
}

/// The CPU time of this thread so far.
fn cpu_seconds() -> Done<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanos: u64 = text.split_whitespace().next().unwrap_or_default().parse()?;
    Ok(nanos as f64 / 1e9)
}

/// Writes every other sector, `fragments` of them, in an order unlike the disk's; then looks all of them up at once, as
/// of the end, as of half the history, and in the present.
fn resolve(folder: &Path, fragments: u64) -> Done {
    const BATCH: u64 = 256;
    let (log, _) = open(folder, fragments.div_ceil(1 << 20), false)?;
    log.open_volume(DISK, Below::Index, Seq::ZERO)?;
    for batch in 0..fragments / BATCH {
        let place = |i: u64| Lba(i.wrapping_mul(0x9e37_79b9) % fragments * 2);
        let write =
            |i| BlockWrite { volume: DISK, lba: place(i), content: Content::Zero(Sectors(1)), base: false };
        log.append(&(batch * BATCH..(batch + 1) * BATCH).map(write).collect::<Vec<_>>())?;
        keep(&log)?;
    }
    let head = log.head_seq();
    for (name, seq) in [("at the end", head), ("at half time", Seq(head.0 / 2))] {
        let view = log.view(DISK, seq)?;
        let before = cpu_seconds()?;
        let found = view.resolve(Lba(0), Sectors(fragments * 2), Wait::Yes)?;
        let seconds = cpu_seconds()? - before;
        let count = found.iter().filter(|fragment| fragment.found.is_some()).count();
        report(&format!("resolving {count} fragments {name}"), seconds, "s of CPU");
    }
    let before = cpu_seconds()?;
    let found = log.resolve_head(DISK, Lba(0), Sectors(fragments * 2), Wait::Yes)?;
    report(
        &format!("resolving {} fragments of the present", found.len()),
        cpu_seconds()? - before,
        "s of CPU",
    );
    Ok(())
}

fn scatter(folder: &Path, disk_gib: u64, writes: u64) -> Done {
    const GROUP: u64 = 64;
    let (log, _) = open(folder, disk_gib, false)?;
    log.open_volume(DISK, Below::Index, Seq::ZERO)?;
    let sectors = (disk_gib << 30) / SECTOR_BYTES;
    let sector = [0xb5_u8; SECTOR_BYTES as usize];
    let mut random = Random(3);
    let mut group = Vec::new();
    let watch = Watch::start();
    let steps = 10;
    for step in 1..=steps {
        for _ in 0..writes / GROUP / steps {
            group.clear();
            group.extend((0..GROUP).map(|_| BlockWrite {
                volume: DISK,
                lba: Lba(random.below(sectors)),
                content: Content::Data(&sector),
                base: false,
            }));
            log.append(&group)?;
            keep(&log)?;
        }
        log.flush()?;
        report(&format!("memory after {} writes", writes / steps * step), peak_mib(), "MiB");
    }
    log.checkpoint()?;
    report("filling", watch.micros() / 1e6, "s");
    let head = log.head_seq();
    let size = |part: &str| -> Done<u64> {
        let files = std::fs::read_dir(folder.join(part))?;
        Ok(files.map(|file| Ok(file?.metadata()?.len())).sum::<io::Result<u64>>()?)
    };
    let (log_bytes, index_bytes) = (size("log")? as f64, size("index")? as f64);
    report("log for each sector written", log_bytes / writes as f64, "bytes");
    report("checkpoints for each sector written", index_bytes / writes as f64, "bytes");
    drop(log);

    let watch = Watch::start();
    let (log, _) = open(folder, disk_gib, true)?;
    log.open_volume(DISK, Below::Index, Seq::ZERO)?;
    report("opening it again", watch.micros() / 1e6, "s");
    let mut buf = [0; BLOCK_BYTES as usize];
    for part in 1..=4 {
        let watch = Watch::start();
        let view = log.view(DISK, Seq(head.0 * part / 4))?;
        view.read(Lba(0), &mut buf, Wait::Yes)?;
        report(&format!("first read at {part}/4 of the history"), watch.micros() / 1e3, "ms");
        for _ in 0..20_000 {
            let lba = random.below(sectors - BLOCK_SECTORS);
            view.read(Lba(lba), &mut buf, Wait::Yes)?;
        }
    }
    report("memory at most", peak_mib(), "MiB");
    Ok(())
}

/// The largest resident set of this process so far.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok())
        .map_or(0.0, |kib| kib / 1024.0)
}

fn drop_caches() -> io::Result<()> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3")
}

/// A folder whose syncs do nothing unless `durable` is set.
struct Lazy {
    inner: RealDir,
    durable: Arc<AtomicBool>,
}

impl Lazy {
    fn wrap(&self, inner: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(LazyFile { inner, durable: self.durable.clone() })
    }
}

impl Dir for Lazy {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.inner.create(name).map(|file| self.wrap(file))
    }
    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.inner.publish(name, bytes)
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
    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.replace(from, to)
    }
    fn sync(&self, folder: &str) -> io::Result<()> {
        if self.durable.load(Ordering::Relaxed) { self.inner.sync(folder) } else { Ok(()) }
    }
    fn free_bytes(&self) -> io::Result<u64> {
        self.inner.free_bytes()
    }
}

struct LazyFile {
    inner: Arc<dyn File>,
    durable: Arc<AtomicBool>,
}

impl File for LazyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buf, offset)
    }
    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_cached_at(buf, offset)
    }
    fn read_parts_at(&self, parts: &mut [IoSliceMut<'_>], offset: u64, cached: bool) -> io::Result<usize> {
        self.inner.read_parts_at(parts, offset, cached)
    }
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.inner.write_at(parts, offset)
    }
    fn sync(&self) -> io::Result<()> {
        if self.durable.load(Ordering::Relaxed) { self.inner.sync() } else { Ok(()) }
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

//! Measures the memory of many busy logs of one store.
//!
//!     cargo run --release -p bygone-store --example many -- FOLDER [LOGS [WRITES [MIB]]]
//!
//! Two threads write to LOGS logs (default 300) in turn, WRITES times each: 4 KiB at scattered places, with a flush
//! after every 64 writes. One thread does upkeep. The store has a memory budget of MIB (default 512). Prints the peak
//! of what the logs drew of that budget, the largest resident set of the process, and the writes per second.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use bygone_model::{Lba, Sectors, Seq, VolumeId};
use bygone_store::{
    Below, BlockWrite, CACHE_BYTES, Content, Error, Log, LogOptions, Store,
    catalog::{Disk, Keeping},
    env::{Clock, RealDir, SystemClock},
};

const THREADS: usize = 2;
const BLOCKS: u64 = 1 << 20;
const FLUSH_EVERY: u64 = 64;

fn open(folder: &Path, store: &Arc<Store>, number: usize) -> (Arc<Log>, VolumeId) {
    let dir = folder.join(number.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    let options = LogOptions { store: store.clone(), ..LogOptions::default() };
    let clock = Arc::new(SystemClock::new());
    let log = Log::make(Arc::new(RealDir::new(&dir)), clock, options, [number as u8; 16]).unwrap();
    let (name, keeping) = ("vda".to_owned(), Keeping::Store);
    let disk = Disk { name, sectors: Sectors(BLOCKS * 8), block_bytes: 512, keeping };
    let volume = log.add_disk(&disk).unwrap();
    log.open_volume(volume, Below::Index, Seq::ZERO).unwrap();
    (log, volume)
}

/// Writes as a device does: a writer that is refused, or finds upkeep overdue, does upkeep itself.
fn write(log: &Log, volume: VolumeId, n: u64) {
    let lba = Lba(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % BLOCKS * 8);
    let write = BlockWrite { volume, lba, content: Content::Data(&[7; 4096]), base: false };
    let mut more = true;
    loop {
        match log.append(&[write]) {
            Err(Error::Behind { .. }) if more => more = log.maintain().unwrap(),
            done => {
                done.unwrap();
                break;
            }
        }
    }
    if log.is_overdue() {
        log.maintain().unwrap();
    }
}

fn resident_most_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

fn main() {
    let mut args = std::env::args().skip(1);
    let folder = args.next().unwrap();
    let mut number = |else_: u64| args.next().map_or(else_, |arg| arg.parse().unwrap());
    let (logs, writes, memory_mib) = (number(300) as usize, number(40_000), number(512));
    let store = Arc::new(Store::new(CACHE_BYTES, memory_mib << 20));
    let all: Vec<_> = (0..logs).map(|i| open(Path::new(&folder), &store, i)).collect();
    let (most, done, clock) = (AtomicU64::new(0), AtomicBool::new(false), SystemClock::new());
    let begun = clock.monotonic();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                if !store.work() {
                    thread::sleep(Duration::from_millis(50));
                }
            }
        });
        let writers: Vec<_> = all
            .chunks(logs.div_ceil(THREADS))
            .map(|mine| {
                let (store, most) = (&store, &most);
                scope.spawn(move || {
                    for n in 0..writes {
                        for (log, volume) in mine {
                            write(log, *volume, n);
                            if n % FLUSH_EVERY == 0 {
                                log.flush().unwrap();
                            }
                        }
                        most.fetch_max(store.drawn_bytes(), Relaxed);
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Relaxed);
    });
    let took_millis = (clock.monotonic().0 - begun.0) as u64 / 1000;
    let each_second = logs as u64 * writes * 1000 / took_millis.max(1);
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "{logs} logs, {writes} writes each: {} MiB drawn at most, {} MiB resident at most, {each_second} writes a second",
        mib(most.into_inner()),
        mib(resident_most_bytes())
    );
}

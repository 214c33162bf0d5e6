//! Measures the time to open a log whose last segment has no index, depending on what a guest wrote into it.
//!
//!     cargo run --release -p bygone-store --example tail
//!
//! Each log has 60 MiB in records of 256 KiB, none of which is known to be durable. The first of them is torn, so
//! everything after it is searched for records. The innocent guest wrote noise; the hostile ones wrote the best
//! imitations of this log's headers that are possible without its secret. Prints one line for each guest: the median
//! time to open the log, of seven, and its ratio to that with the innocent guest.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement")]

use std::{path::Path, sync::Arc};

use bygone_model::{Lba, Micros, Sectors, Seq, VolumeId};
use bygone_store::{
    BlockWrite, Content, Log, LogOptions,
    catalog::{Disk, Keeping},
    env::{Clock, RealDir, SystemClock},
    format::{
        key::Identity,
        record::{HEADER_BYTES, Header, Op, Subject},
        segment::SegmentHeader,
    },
};

const RECORD_BYTES: usize = 256 << 10;
const RECORDS: u64 = 240;
const ROUNDS: usize = 7;

type Guest = fn(&Identity, Seq, u32) -> Vec<u8>;

fn noise(_: &Identity, seq: Seq, _: u32) -> Vec<u8> {
    let mut state = seq.0;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 24) as u8
    };
    (0..RECORD_BYTES).map(|_| next()).collect()
}

/// Whole headers, each of which could be that of the next record but for its hash.
fn headers(log: &Identity, seq: Seq, incarnation: u32) -> Vec<u8> {
    let key = Identity { id: log.id, secret: [0; 32] }.header_key();
    let mut out = Vec::with_capacity(RECORD_BYTES);
    for i in 0..(RECORD_BYTES / HEADER_BYTES) as u64 {
        let header = Header {
            seq: Seq(seq.0 + 1 + i % 3),
            time: Micros(1_700_000_000_000_000),
            lba: Lba(0),
            sectors: Sectors(8),
            payload_bytes: if i % 2 == 0 { 0 } else { 4096 },
            subject: Subject::volume(VolumeId(0)),
            op: if i % 2 == 0 { Op::Zero } else { Op::Write },
            flags: 0,
            attempt: 0,
            previous: i as u32,
            incarnation,
            durable: seq,
        };
        let payload = vec![0; header.payload_bytes as usize];
        let mut bytes = [0; HEADER_BYTES];
        header.encode(&key, &payload, &mut bytes, &mut Vec::new());
        out.extend_from_slice(&bytes);
    }
    out
}

/// Headers that claim the largest payload that a record can have.
fn large(log: &Identity, seq: Seq, incarnation: u32) -> Vec<u8> {
    let mut out = headers(log, seq, incarnation);
    for header in out.chunks_exact_mut(HEADER_BYTES) {
        header[12] = Op::Write.code();
        header[40..44].copy_from_slice(&(32_u32 << 11).to_le_bytes());
    }
    out
}

/// The magic number of a header, as often as it fits.
fn magic(_: &Identity, seq: Seq, _: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(RECORD_BYTES);
    while out.len() < RECORD_BYTES {
        out.extend_from_slice(b"ByRe");
        out.extend_from_slice(&[Op::Zero.code(), 0, 0, 0]);
        if out.len() % 16 == 8 {
            out.extend_from_slice(&(seq.0 + 1).to_le_bytes());
        }
    }
    out.truncate(RECORD_BYTES);
    out
}

fn make(folder: &Path, guest: Guest) {
    let options = LogOptions::default();
    let log =
        Log::make(Arc::new(RealDir::new(folder)), Arc::new(SystemClock::new()), options, [7; 16]).unwrap();
    let disk =
        Disk { name: "vda".to_owned(), sectors: Sectors(1 << 21), block_bytes: 512, keeping: Keeping::Store };
    let volume = log.add_disk(&disk).unwrap();
    let first = folder.join("log/0000000001-00000001.seg");
    let identity = SegmentHeader::decode(&std::fs::read(&first).unwrap()).unwrap().0.log;
    let (begin, end) = (log.head_seq().next(), std::fs::metadata(&first).unwrap().len());
    for i in 0..RECORDS {
        let data = guest(&identity, begin, 1);
        let lba = Lba(i * (RECORD_BYTES as u64 >> 9));
        log.append(&[BlockWrite { volume, lba, content: Content::Data(&data), base: false }]).unwrap();
    }
    drop(log);
    // Tear the first of them.
    let mut bytes = std::fs::read(&first).unwrap();
    let payload = (end as usize..bytes.len()).find(|at| bytes[*at] != 0).unwrap_or(end as usize);
    bytes[payload..payload + 64].fill(0x55);
    std::fs::write(&first, bytes).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join("log")).unwrap();
    for entry in std::fs::read_dir(from.join("log")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join("log").join(path.file_name().unwrap())).unwrap();
    }
}

fn main() {
    let guests: [(&str, Guest); 4] =
        [("noise", noise), ("headers", headers), ("large", large), ("magic", magic)];
    let (clock, mut innocent) = (SystemClock::new(), 0.0);
    for (name, guest) in guests {
        let made = tempfile::tempdir_in("target").unwrap();
        make(made.path(), guest);
        let mut times: Vec<f64> = (0..ROUNDS)
            .map(|_| {
                let copied = tempfile::tempdir_in("target").unwrap();
                copy(made.path(), copied.path());
                let begun = clock.monotonic();
                let dir = Arc::new(RealDir::new(copied.path()));
                let log = Log::open(dir, Arc::new(SystemClock::new()), LogOptions::default());
                let took = (clock.monotonic().0 - begun.0) as f64 / 1e6;
                drop(log.unwrap());
                took
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let median = times[ROUNDS / 2];
        if innocent == 0.0 {
            innocent = median;
        }
        println!("{name:8} {:7.1} ms {:6.2}x", median * 1000.0, median / innocent);
    }
}

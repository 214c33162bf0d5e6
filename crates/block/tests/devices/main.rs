//! Devices over a real store and real files, against a plain copy in memory.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod parts;
mod refusing;
mod samples;
mod tap;

use std::{path::Path, sync::Arc};

use bygone_block::{BlockDevice, Change, Extent, LogDevice, Reading, WhenFull, Writing};
use bygone_model::{BranchId, Sectors, VolumeId};
use bygone_store::{
    Log, LogOptions,
    catalog::{Disk, Keeping},
    env::{RealDir, SystemClock},
};

/// A small deterministic pseudo-random generator (splitmix64).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

pub(crate) fn options() -> LogOptions {
    LogOptions { segment_bytes: 1 << 20, checkpoint_entries: 300, ..LogOptions::default() }
}

pub(crate) fn make_log(dir: &Path) -> Arc<Log> {
    Log::make(Arc::new(RealDir::new(dir)), Arc::new(SystemClock::new()), options(), [7; 16]).unwrap()
}

pub(crate) fn open_log(dir: &Path) -> Arc<Log> {
    Log::open(Arc::new(RealDir::new(dir)), Arc::new(SystemClock::new()), options()).unwrap()
}

pub(crate) fn add_disk(log: &Log, size_bytes: u64, keeping: Keeping) -> VolumeId {
    let disk = Disk { name: "vda".into(), sectors: Sectors::of_bytes(size_bytes), block_bytes: 512, keeping };
    log.add_disk(&disk).unwrap()
}

/// One random change, applied to the device and to the copy.
pub(crate) fn change(device: &dyn BlockDevice, copy: &mut [u8], rng: &mut Rng) {
    let blocks = copy.len() as u64 / 512;
    let offset = rng.below(blocks - 64) * 512;
    let len = (1 + rng.below(64)) * 512;
    let range = offset as usize..(offset + len) as usize;
    let data: Vec<u8> = (0..len).map(|_| rng.below(255) as u8 + 1).collect();
    let what = match rng.below(8) {
        0 => Change::Trim { len_bytes: len },
        1 => Change::Zero { len_bytes: len },
        _ => Change::Data(&data),
    };
    device.write(&[Writing { offset, change: what }]).unwrap();
    match what {
        Change::Data(data) => copy[range].copy_from_slice(data),
        _ => copy[range].fill(0),
    }
}

pub(crate) fn assert_reads(device: &dyn BlockDevice, copy: &[u8], rng: &mut Rng) {
    for _ in 0..20 {
        let offset = rng.below(copy.len() as u64 / 512 - 64) * 512;
        let mut buf = vec![0; ((1 + rng.below(64)) * 512) as usize];
        device.read(offset, &mut buf, Reading::MayWait).unwrap();
        assert!(buf == copy[offset as usize..offset as usize + buf.len()], "at {offset}");
    }
    let mut at = 0;
    let mut seen = |e: Extent| {
        let range = at as usize..(at + e.len_bytes) as usize;
        assert!(!e.zero || copy[range].iter().all(|b| *b == 0), "extent at {at} is said to be zero");
        at += e.len_bytes;
        true
    };
    device.extents(0, copy.len() as u64, &mut seen).unwrap();
    assert_eq!(at, copy.len() as u64);
}

#[test]
fn a_store_only_disk_reads_what_was_written_across_restarts_and_branches() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = Rng(1);
    let mut copy = vec![0_u8; 8 << 20];
    let log = make_log(dir.path());
    let volume = add_disk(&log, copy.len() as u64, Keeping::Store);
    let mut moments = Vec::new();
    drop(log);
    for _ in 0..4 {
        let log = open_log(dir.path());
        let device = LogDevice::open(log.clone(), volume, WhenFull::Fail).unwrap();
        for i in 0..300 {
            change(&device, &mut copy, &mut rng);
            if i % 50 == 0 {
                assert_reads(&device, &copy, &mut rng);
                moments.push((log.head_seq(), copy.clone()));
            }
            while log.maintain().unwrap() {}
        }
        device.flush().unwrap();
    }
    let log = open_log(dir.path());
    for (n, (seq, then)) in moments.into_iter().enumerate().step_by(5) {
        let name = format!("then-{n}");
        let branch = log.add_branch(&name, BranchId(0), seq).unwrap();
        let volume = log.catalog().volume_of(branch, "vda").unwrap().id;
        let device = LogDevice::open(log.clone(), volume, WhenFull::Fail).unwrap();
        let mut then = then;
        assert_reads(&device, &then, &mut rng);
        for _ in 0..50 {
            change(&device, &mut then, &mut rng);
        }
        assert_reads(&device, &then, &mut rng);
    }
    let device = LogDevice::open(log, volume, WhenFull::Fail).unwrap();
    assert_reads(&device, &copy, &mut rng);
}

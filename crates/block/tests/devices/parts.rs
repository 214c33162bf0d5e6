//! Requests that begin or end within a block.

use std::{fs, sync::Arc, thread};

use bygone_block::{BlockDevice, Change, LogDevice, OsDisk, Reading, TapDevice, WhenFull, Writing};
use bygone_store::catalog::Keeping;

use super::{Rng, add_disk, make_log};

const SIZE: u64 = 1 << 20;

/// A store-only disk and a tapped one, each with a copy of its content.
fn both(dir: &std::path::Path) -> Vec<(Arc<dyn BlockDevice>, Vec<u8>)> {
    let (stored, tapped) = (make_log(&dir.join("stored")), make_log(&dir.join("tapped")));
    let disk = dir.join("disk.raw");
    fs::write(&disk, vec![0xab; SIZE as usize]).unwrap();
    let volume = add_disk(&stored, SIZE, Keeping::Store);
    let store = LogDevice::open(stored, volume, WhenFull::Fail).unwrap();
    let volume = add_disk(&tapped, SIZE, Keeping::Tap);
    let raw = Box::new(OsDisk::open(&disk).unwrap());
    let (tap, _) = TapDevice::open(tapped, volume, raw, WhenFull::Fail).unwrap();
    vec![(Arc::new(store), vec![0; SIZE as usize]), (tap, vec![0xab; SIZE as usize])]
}

fn put(device: &dyn BlockDevice, offset: u64, data: &[u8]) {
    device.write(&[Writing { offset, change: Change::Data(data) }]).unwrap();
}

#[test]
fn parts_of_blocks_are_changed_and_the_rest_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    for (device, mut copy) in both(dir.path()) {
        let mut rng = Rng(3);
        for _ in 0..400 {
            let batch: Vec<(u64, Vec<u8>)> = (0..1 + rng.below(3))
                .map(|_| {
                    let offset = rng.below(16 << 10);
                    let len = if rng.below(2) == 0 { rng.below(700) } else { 1 + rng.below(9000) };
                    (offset, (0..len).map(|_| rng.below(256) as u8).collect())
                })
                .filter(|(_, data): &(u64, Vec<u8>)| !data.is_empty())
                .collect();
            let clears = rng.below(4);
            let writings: Vec<Writing<'_>> = batch
                .iter()
                .map(|(offset, data)| {
                    let len_bytes = data.len() as u64;
                    let change = match clears {
                        0 => Change::Zero { len_bytes },
                        1 => Change::Trim { len_bytes },
                        _ => Change::Data(data),
                    };
                    Writing { offset: *offset, change }
                })
                .collect();
            device.write(&writings).unwrap();
            for (offset, data) in &batch {
                let range = *offset as usize..*offset as usize + data.len();
                if clears < 2 { copy[range].fill(0) } else { copy[range].copy_from_slice(data) }
            }
            let from = rng.below(20 << 10);
            let mut buf = vec![1; rng.below(10_000) as usize];
            device.read(from, &mut buf, Reading::MayWait).unwrap();
            assert!(buf == copy[from as usize..from as usize + buf.len()]);
        }
    }
}

#[test]
fn two_that_write_parts_of_one_block_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for (device, _) in both(dir.path()) {
        thread::scope(|scope| {
            for part in 0..4_u64 {
                let device = &device;
                scope.spawn(move || {
                    for round in 0..300_u64 {
                        put(&**device, part * 100, &[round as u8; 100]);
                    }
                });
            }
            // Whole blocks beside them; the last byte belongs to this writer.
            let device = &device;
            scope.spawn(move || {
                for round in 0..300_u64 {
                    put(&**device, 512, &[round as u8; 512]);
                    put(&**device, 511, &[round as u8; 2]);
                }
            });
        });
        let mut block = [0; 1024];
        device.read(0, &mut block, Reading::MayWait).unwrap();
        let last = 299_u64 as u8;
        assert!(block[..400].iter().chain(&block[511..]).all(|byte| *byte == last));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for (device, copy) in both(dir.path()) {
        let far = Writing { offset: SIZE - 1, change: Change::Data(&[9; 2]) };
        let near = Writing { offset: 1, change: Change::Data(&[9; 2]) };
        assert!(device.write(&[near, far]).is_err());
        assert!(device.read(SIZE - 1, &mut [0; 2], Reading::MayWait).is_err());
        let mut block = [0; 512];
        device.read(0, &mut block, Reading::MayWait).unwrap();
        assert_eq!(block, copy[..512]);
    }
}

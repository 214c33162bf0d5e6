use std::sync::Arc;

use proptest::prelude::*;

use super::bytes::{Bytes, Clearing};
use crate::{BlockDevice, Change, Extent, Geometry, IoError, Reading, Writing};

#[path = "../../tests/fuse/memory.rs"]
mod memory;
use memory::Memory;

#[derive(Clone, Debug)]
enum Step {
    Read(u64, usize),
    Write(u64, Vec<u8>),
    Clear(u64, u64, Clearing),
}

const SIZE_BYTES: u64 = 16 * 4096;

fn step() -> impl Strategy<Value = Step> {
    let at = prop_oneof![4 => 0..SIZE_BYTES + 5000, 1 => (0..20_u64).prop_map(|block| block * 4096), 1 => any::<u64>()];
    let len =
        prop_oneof![3 => 0..9000_u64, 1 => (0..4_u64).prop_map(|blocks| blocks * 4096), 1 => any::<u64>()];
    let clearing = prop_oneof![Just(Clearing::Zero), Just(Clearing::Trim)];
    prop_oneof![
        (at.clone(), len.clone()).prop_map(|(at, len)| Step::Read(at, len as usize)),
        (at.clone(), prop::collection::vec(1..=255_u8, 0..9000)).prop_map(|(at, data)| Step::Write(at, data)),
        (at, len, clearing).prop_map(|(at, len, clearing)| Step::Clear(at, len, clearing)),
    ]
}

fn within(offset: u64, len_bytes: u64) -> std::ops::Range<usize> {
    let start = offset.min(SIZE_BYTES);
    start as usize..start.saturating_add(len_bytes).min(SIZE_BYTES) as usize
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes_of_a_device_can_be_read_written_and_cleared(
        steps in prop::collection::vec(step(), 1..20), block_bytes in prop_oneof![Just(512_u32), Just(4096)],
    ) {
        let device = Arc::new(Memory::new(SIZE_BYTES, block_bytes));
        let bytes = Bytes::new(Arc::clone(&device) as _);
        let mut copy = vec![0; SIZE_BYTES as usize];
        let mut room = Vec::new();
        for step in steps {
            match step {
                Step::Read(at, len) => {
                    prop_assert_eq!(bytes.read(at, len, &mut room).unwrap(), &copy[within(at, len as u64)]);
                }
                Step::Write(at, data) => {
                    let range = within(at, data.len() as u64);
                    match bytes.write(at, &data) {
                        Ok(written) => prop_assert_eq!(written, range.len()),
                        Err(error) => prop_assert!(at >= SIZE_BYTES && matches!(error, IoError::Full)),
                    }
                    let len = range.len();
                    copy[range].copy_from_slice(&data[..len]);
                }
                Step::Clear(at, len, clearing) => {
                    bytes.clear(at, len, clearing).unwrap();
                    copy[within(at, len)].fill(0);
                }
            }
            prop_assert!(device.bytes() == copy);
        }
    }
}

#[test]
fn a_part_of_a_block_that_another_client_writes_meanwhile_keeps_its_content() {
    use std::{sync::atomic::Ordering::SeqCst, thread};

    let device = Arc::new(Memory::new(SIZE_BYTES, 4096));
    device.read_pause_ms.store(200, SeqCst);
    for step in 0..2 {
        let bytes = Bytes::new(Arc::clone(&device) as _);
        let at = step * 8192;
        let writer = thread::spawn(move || {
            if step == 0 {
                bytes.write(at, &[1; 512]).map(drop)
            } else {
                bytes.clear(at, 512, Clearing::Zero)
            }
        });
        // A front end that did the read-modify-write itself would be in the middle of it now.
        while device.reads_now.load(SeqCst) == 0 && !writer.is_finished() {
            thread::yield_now();
        }
        thread::sleep(std::time::Duration::from_millis(50));
        device.write(&[Writing { offset: at + 512, change: Change::Data(&[2; 512]) }]).unwrap();
        writer.join().unwrap().unwrap();
        let at = at as usize;
        assert!(device.bytes()[at + 512..at + 1024].iter().all(|byte| *byte == 2), "step {step}");
    }
}

#[test]
fn holes_and_data_are_found_from_the_middle_of_a_block() {
    let bytes = Bytes::new(Arc::new(Memory::new(SIZE_BYTES, 4096)));
    bytes.write(4096, &[1; 8192]).unwrap();
    let next = |offset, zero| bytes.next(offset, zero).unwrap();
    assert_eq!(next(0, false), Some(4096));
    assert_eq!(next(100, false), Some(4096));
    assert_eq!(next(100, true), Some(100));
    assert_eq!(next(5000, false), Some(5000));
    assert_eq!(next(5000, true), Some(3 * 4096));
    assert_eq!(next(3 * 4096, false), None);
    assert_eq!(next(SIZE_BYTES - 1, true), Some(SIZE_BYTES - 1));
    assert_eq!(next(SIZE_BYTES, true), None);
    assert_eq!(next(u64::MAX, false), None);
    assert_eq!(bytes.used_bytes().unwrap(), 8192);
}

#[test]
fn trimming_a_device_that_cannot_trim_writes_zeroes() {
    let mut device = Memory::holding(vec![7; SIZE_BYTES as usize], 512);
    device.geometry.can_trim = false;
    let device = Arc::new(device);
    Bytes::new(Arc::clone(&device) as _).clear(100, 5000, Clearing::Trim).unwrap();
    assert!(device.bytes()[100..5100].iter().all(|byte| *byte == 0));
    assert_eq!((device.bytes()[99], device.bytes()[5100]), (7, 7));
}

#[test]
fn an_empty_device_has_nothing_and_takes_nothing() {
    let bytes = Bytes::new(Arc::new(Memory::new(0, 512)));
    assert!(bytes.read(0, 512, &mut Vec::new()).unwrap().is_empty());
    assert!(matches!(bytes.write(0, &[1]), Err(IoError::Full)));
    assert_eq!(bytes.next(0, true).unwrap(), None);
    assert_eq!(bytes.used_bytes().unwrap(), 0);
    bytes.clear(0, u64::MAX, Clearing::Zero).unwrap();
}

#[test]
fn a_read_only_device_is_not_asked_to_change_or_flush() {
    let device = Arc::new(Memory::holding(vec![7; SIZE_BYTES as usize], 512).read_only());
    let bytes = Bytes::new(Arc::clone(&device) as _);
    assert!(matches!(bytes.write(1, &[1]), Err(IoError::ReadOnly)));
    assert!(matches!(bytes.clear(0, 512, Clearing::Trim), Err(IoError::ReadOnly)));
    bytes.flush().unwrap();
    assert_eq!(device.flushes.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn a_write_waits_for_room_until_the_export_ends() {
    use std::{sync::atomic::Ordering::SeqCst, thread};

    let device = Arc::new(Memory::new(SIZE_BYTES, 512));
    device.paused.store(true, SeqCst);
    let bytes = Arc::new(Bytes::new(Arc::clone(&device) as _));
    let writer = {
        let bytes = Arc::clone(&bytes);
        thread::spawn(move || bytes.write(0, &[1; 512]))
    };
    while device.refused.load(SeqCst) < 2 {
        thread::yield_now();
    }
    bytes.waiting().end();
    assert!(matches!(writer.join().unwrap(), Err(IoError::Paused)));
    assert!(matches!(bytes.write(1, &[1]), Err(IoError::Paused)), "none begins to wait any more");

    bytes.waiting().go_on();
    let writer = {
        let bytes = Arc::clone(&bytes);
        thread::spawn(move || bytes.write(0, &[1; 512]))
    };
    let before = device.refused.load(SeqCst);
    while device.refused.load(SeqCst) < before + 2 {
        thread::yield_now();
    }
    device.paused.store(false, SeqCst);
    assert!(matches!(writer.join().unwrap(), Ok(512)));
}

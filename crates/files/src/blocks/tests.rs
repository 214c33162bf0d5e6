use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::*;

/// A disk with one unreadable place that notes each read.
struct Disk {
    bytes: Vec<u8>,
    damaged: Option<u64>,
    reads: Mutex<Vec<(u64, usize)>>,
}

impl Disk {
    fn new(size: usize) -> Disk {
        let bytes = (0..size).map(|i| (i * 7 + i / 251) as u8).collect();
        Disk { bytes, damaged: None, reads: Mutex::default() }
    }

    fn reads(&self) -> usize {
        self.reads.lock().unwrap().len()
    }
}

impl Blocks for Disk {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn sector_bytes(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.reads.lock().unwrap().push((offset, buf.len()));
        if self.damaged.is_some_and(|at| at >= offset && at < offset + buf.len() as u64) {
            return Err(ReadError::failed(offset, buf.len(), io::Error::other("damaged")));
        }
        self.bytes.read_at(offset, buf)
    }
}

fn read(blocks: &dyn Blocks, offset: u64, len: usize) -> Result<Vec<u8>, ReadError> {
    let mut buf = vec![0; len];
    blocks.read_at(offset, &mut buf)?;
    Ok(buf)
}

#[test]
fn the_cache_returns_what_is_there_and_reads_it_once() {
    let disk = Disk::new(1 << 20);
    let cached = Cached::new(&disk, 1 << 20);
    let mut state = 1_u64;
    for _ in 0..2000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (state >> 20) % (1 << 20);
        let len = ((state >> 50) as usize).min((1 << 20) - at as usize);
        assert_eq!(read(&cached, at, len).unwrap(), disk.bytes[at as usize..at as usize + len]);
    }
    assert!(disk.reads() <= 64, "{} reads", disk.reads());
}

#[test]
fn a_run_is_read_ahead_in_few_reads_and_memory_stays_bounded() {
    let disk = Disk::new(4 << 20);
    let cached = Cached::new(&disk, 256 << 10);
    for at in (0..4 << 20).step_by(512) {
        assert_eq!(read(&cached, at, 512).unwrap(), disk.bytes[at as usize..at as usize + 512]);
    }
    assert!(disk.reads() <= 24, "{} reads", disk.reads());
    let longest = disk.reads.lock().unwrap().iter().map(|(_, len)| *len).max();
    assert!(longest <= Some(256 << 10), "{longest:?}");
    assert!(cached.recent_bytes() <= 256 << 10);
}

#[test]
fn a_damaged_place_costs_only_the_reads_that_touch_it() {
    let mut disk = Disk::new(256 << 10);
    disk.damaged = Some(70_000);
    let cached = Cached::new(&disk, 1 << 20);
    for at in (0..256 << 10).step_by(512) {
        let touched = at <= 70_000 && 70_000 < at + 512;
        match read(&cached, at, 512) {
            Ok(bytes) => assert!(!touched && bytes == disk.bytes[at as usize..at as usize + 512]),
            Err(error) => assert!(touched && error.offset == at, "{error}"),
        }
    }
}

#[test]
fn a_window_ends_where_it_ends_and_its_errors_name_places_of_the_whole() {
    let disk = Disk::new(8192);
    let window = Window::new(&disk, 1024, 2048);
    assert_eq!(window.size_bytes(), 2048);
    assert_eq!(read(&window, 2047, 1).unwrap(), [disk.bytes[3071]]);
    let error = read(&window, 2047, 2).unwrap_err();
    assert_eq!((error.offset, error.len_bytes), (3071, 2));
    assert!(matches!(error.cause, Cause::Outside));
    assert!(read(&window, u64::MAX, 2).is_err());
    assert_eq!(Window::new(&disk, 8000, 1000).size_bytes(), 192, "the disk ends first");
    assert_eq!(Window::new(&disk, u64::MAX, u64::MAX).size_bytes(), 0);
}

#[test]
fn a_guarded_disk_stops_when_cancelled_and_when_enough_was_read() {
    let cancelled = Arc::new(AtomicBool::new(false));
    let guarded = Guarded::new(Disk::new(8192), Arc::clone(&cancelled), 1024);
    assert!(read(&guarded, 0, 1000).is_ok());
    let error = read(&guarded, 0, 25).unwrap_err();
    assert!(matches!(error.cause, Cause::TooMuch) && error.is_final());
    assert!(read(&guarded, 0, 24).is_ok());
    cancelled.store(true, Ordering::Relaxed);
    assert!(matches!(read(&guarded, 5, 0).unwrap_err().cause, Cause::Cancelled));
}

#[test]
fn cancelling_is_noticed_through_the_cache_at_the_first_miss() {
    let cancelled = Arc::new(AtomicBool::new(false));
    let disk = Disk::new(1 << 20);
    let cached = Cached::new(Guarded::new(&disk, Arc::clone(&cancelled), u64::MAX), 1 << 20);
    assert!(read(&cached, 0, 1).is_ok());
    cancelled.store(true, Ordering::Relaxed);
    let reads = disk.reads();
    assert!(matches!(read(&cached, 500_000, 1).unwrap_err().cause, Cause::Cancelled));
    assert_eq!(disk.reads(), reads);
}

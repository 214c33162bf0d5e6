//! Reads, writes and holes: what a tool may do with the file.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    sync::{Arc, atomic::Ordering},
    thread,
};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

use super::*;

const MIB: usize = 1 << 20;

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn errno_of(error: rustix::io::Errno) -> Option<i32> {
    Some(error.raw_os_error())
}

#[test]
fn dd_writes_and_cmp_reads_it_back() {
    with_folder(|folder| {
        let device = Arc::new(Memory::new(16 << 20, 4096));
        let (disk, plain, back) = (folder.join("disk"), folder.join("plain"), folder.join("back"));
        let export = serve(&device, &disk);
        assert_eq!(export.path(), disk);
        fs::write(&plain, noise(16 * MIB, 1)).unwrap();
        let (of, input) = (format!("of={}", text(&disk)), format!("if={}", text(&plain)));
        // Unaligned blocks, then aligned ones.
        run(&["dd", &input, &of, "bs=13337", "conv=notrunc,fsync", "status=none"]);
        assert!(device.flushes.load(Ordering::SeqCst) > 0);
        run(&["cmp", text(&plain), text(&disk)]);
        fs::write(&plain, noise(16 * MIB, 2)).unwrap();
        run(&["dd", &input, &of, "bs=1M", "oflag=direct", "conv=notrunc", "status=none"]);
        run(&["cmp", text(&plain), text(&disk)]);
        run(&["cp", text(&disk), text(&back)]);
        run(&["cmp", text(&plain), text(&back)]);
        assert!(device.bytes() == noise(16 * MIB, 2));
        export.stop().unwrap();
        assert!(!disk.exists(), "a file that was made for the export goes with it");
        export.stop().unwrap();
    });
}

#[test]
fn a_write_is_in_the_device_when_it_returns_and_flushed_when_it_is_synced_or_closed() {
    with_folder(|folder| {
        let device = Arc::new(Memory::new(1 << 20, 4096));
        let disk = folder.join("disk");
        let export = serve(&device, &disk);
        let file = open(&disk);
        file.write_all_at(b"straight through", 5000).unwrap();
        assert_eq!(&device.bytes()[5000..5016], b"straight through");
        assert_eq!(device.flushes.load(Ordering::SeqCst), 0);
        file.sync_data().unwrap();
        assert_eq!(device.flushes.load(Ordering::SeqCst), 1);
        drop(file);
        assert_eq!(device.flushes.load(Ordering::SeqCst), 2);
        drop(File::open(&disk).unwrap());
        assert_eq!(device.flushes.load(Ordering::SeqCst), 2, "nothing was written");
        // What changes below is seen at once: nothing is cached.
        let file = File::open(&disk).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 4096).unwrap();
        device.write(&[Writing { offset: 4096, change: Change::Data(&[9; 4096]) }]).unwrap();
        file.read_exact_at(&mut byte, 4096).unwrap();
        assert_eq!(byte, [9]);
        drop(file);
        let synced = run(&[
            "dd",
            "if=/dev/zero",
            &format!("of={}", text(&disk)),
            "bs=4k",
            "count=3",
            "oflag=dsync",
            "conv=notrunc",
            "status=none",
        ]);
        assert_eq!(synced, "");
        assert!(device.flushes.load(Ordering::SeqCst) >= 2 + 3);
        export.stop().unwrap();
    });
}

#[test]
fn the_size_is_that_of_the_device_and_cannot_be_changed() {
    with_folder(|folder| {
        let device = Arc::new(Memory::new(1 << 20, 512));
        device.write(&[Writing { offset: 512, change: Change::Data(&[1; 512]) }]).unwrap();
        let disk = folder.join("disk");
        let export = serve(&device, &disk);
        let file = open(&disk);
        let meta = file.metadata().unwrap();
        assert!(meta.is_file());
        assert_eq!((meta.len(), meta.mode() & 0o7777, meta.blocks()), (1 << 20, 0o600, 1));
        file.set_len(1 << 20).unwrap();
        assert_eq!(errno(file.set_len(0)), errno_of(rustix::io::Errno::PERM));
        assert_eq!(errno(file.set_len(2 << 20)), errno_of(rustix::io::Errno::PERM));
        assert!(fs::write(&disk, b"truncates").is_err());
        assert_eq!(errno(fs::remove_file(&disk)), errno_of(rustix::io::Errno::BUSY));
        // At its end the file is full, as a block device is.
        assert_eq!(file.write_at(&[3; 1000], (1 << 20) - 10).unwrap(), 10);
        assert_eq!(errno(file.write_at(&[3; 10], 1 << 20)), errno_of(rustix::io::Errno::NOSPC));
        assert_eq!(errno(file.write_at(&[3; 10], i64::MAX as u64 - 20)), errno_of(rustix::io::Errno::NOSPC));
        assert_eq!(file.read_at(&mut [0; 1000], (1 << 20) - 10).unwrap(), 10);
        assert_eq!(file.read_at(&mut [0; 1000], 1 << 20).unwrap(), 0);
        assert_eq!(file.read_at(&mut [0; 1000], i64::MAX as u64 - 2000).unwrap(), 0);
        assert_eq!(device.bytes()[(1 << 20) - 10..], [3; 10]);
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        drop(file);
        export.stop().unwrap();
    });
}

#[test]
fn holes_are_punched_and_found() {
    with_folder(|folder| {
        let device = Arc::new(Memory::holding(noise(MIB, 3), 4096));
        let disk = folder.join("disk");
        let export = serve(&device, &disk);
        let file = open(&disk);
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, punch, 100_000, 200_000).unwrap();
        let mut copy = noise(MIB, 3);
        copy[100_000..300_000].fill(0);
        assert!(device.bytes() == copy);
        let (first, end) = (100_000_u64.next_multiple_of(4096), 300_000 / 4096 * 4096);
        assert_eq!(seek(&file, SeekFrom::Hole(0)).unwrap(), first);
        assert_eq!(seek(&file, SeekFrom::Data(first)).unwrap(), end);
        assert_eq!(seek(&file, SeekFrom::Hole(end)).unwrap(), MIB as u64);
        assert_eq!(seek(&file, SeekFrom::Data(MIB as u64)), Err(rustix::io::Errno::NXIO));
        fallocate(&file, FallocateFlags::ZERO_RANGE, 400_000, 1_000).unwrap();
        copy[400_000..401_000].fill(0);
        assert!(device.bytes() == copy);
        // Past the end there is nothing to punch, and no room.
        fallocate(&file, punch, (1 << 20) - 4096, 1 << 40).unwrap();
        copy[MIB - 4096..].fill(0);
        assert!(device.bytes() == copy);
        let zero = FallocateFlags::ZERO_RANGE;
        assert_eq!(fallocate(&file, zero, 0, 2 << 20), Err(rustix::io::Errno::NOSPC));
        let reserve = FallocateFlags::empty();
        assert_eq!(fallocate(&file, reserve, 0, 4096), Err(rustix::io::Errno::OPNOTSUPP));
        drop(file);
        export.stop().unwrap();
    });
}

#[test]
fn a_mostly_empty_device_is_copied_as_a_sparse_file() {
    with_folder(|folder| {
        let device = Arc::new(Memory::new(64 << 20, 4096));
        device.write(&[Writing { offset: 32 << 20, change: Change::Data(&noise(8192, 4)) }]).unwrap();
        let (disk, copy) = (folder.join("disk"), folder.join("copy"));
        let export = serve(&device, &disk);
        run(&["cp", text(&disk), text(&copy)]);
        run(&["cmp", text(&disk), text(&copy)]);
        assert!(fs::metadata(&copy).unwrap().blocks() * 512 < 1 << 20);
        export.stop().unwrap();
    });
}

#[test]
fn a_read_only_device_is_a_read_only_file() {
    with_folder(|folder| {
        let device = Arc::new(Memory::holding(noise(MIB, 5), 512).read_only());
        let disk = folder.join("disk");
        let export = serve(&device, &disk);
        assert_eq!(fs::metadata(&disk).unwrap().mode() & 0o7777, 0o400);
        assert!(fs::read(&disk).unwrap() == noise(MIB, 5));
        let refused = OpenOptions::new().write(true).open(&disk);
        assert_eq!(errno(refused), errno_of(rustix::io::Errno::ROFS));
        drop(File::open(&disk).unwrap());
        export.stop().unwrap();
        assert_eq!(device.flushes.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn reads_wait_side_by_side_and_parts_of_a_block_are_written_one_after_the_other() {
    with_folder(|folder| {
        let device = Arc::new(Memory::new(1 << 20, 4096));
        let disk = folder.join("disk");
        let export = serve(&device, &disk);
        // 16 writers, each with its own bytes of every block.
        let file = open(&disk);
        thread::scope(|scope| {
            for writer in 0..16_u64 {
                let file = &file;
                scope.spawn(move || {
                    for block in 0..32 {
                        let at = block * 4096 + writer * 256;
                        file.write_all_at(&[writer as u8 + 1; 256], at).unwrap();
                    }
                });
            }
        });
        let want: Vec<u8> = (0..32 * 4096).map(|at| (at % 4096 / 256) as u8 + 1).collect();
        assert!(device.bytes()[..32 * 4096] == want);
        device.read_pause_ms.store(50, Ordering::Relaxed);
        thread::scope(|scope| {
            for reader in 0..8_u64 {
                let file = &file;
                scope.spawn(move || file.read_exact_at(&mut [0; 4096], reader * 4096).unwrap());
            }
        });
        assert!(device.reads_most.load(Ordering::SeqCst) >= 4, "{:?}", device.reads_most);
        drop(file);
        export.stop().unwrap();
    });
}

#[test]
fn a_device_that_fails_or_panics_is_an_input_output_error_and_the_file_goes_on() {
    with_folder(|folder| {
        let device = Arc::new(Memory::new(1 << 20, 4096));
        let disk = folder.join("disk");
        let export = serve(&device, &disk);
        let file = open(&disk);
        let eio = errno_of(rustix::io::Errno::IO);
        for trouble in [&device.fails, &device.panics] {
            // More often than there are threads.
            for _ in 0..20 {
                trouble.store(true, Ordering::Relaxed);
                assert_eq!(errno(file.read_at(&mut [0; 512], 0)), eio);
                assert_eq!(errno(file.write_at(&[0; 4096], 0)), eio);
                assert_eq!(errno(file.sync_all()), eio);
                assert_eq!(seek(&file, SeekFrom::Data(0)).map_err(|e| Some(e.raw_os_error())), Err(eio));
                trouble.store(false, Ordering::Relaxed);
            }
            file.write_all_at(&[1; 100], 0).unwrap();
            file.sync_all().unwrap();
        }
        drop(file);
        device.fails.store(true, Ordering::Relaxed);
        assert!(matches!(export.stop(), Err(FuseError::Flush(_))));
        assert!(!disk.exists());
    });
}

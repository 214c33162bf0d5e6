use std::{io::IoSlice, path::Path};

use super::{BLOCK_BYTES, RealDir, WRITE_BYTES_MAX, has_name, rename_new};
use crate::env::Dir;

/// Bytes that differ from their neighbours and from those one block further on.
fn bytes(len_bytes: usize, seed: usize) -> Vec<u8> {
    (0..len_bytes).map(|i| ((i + seed) % 251) as u8).collect()
}

/// Writes the same parts with and without the page cache and compares every byte of the files, also those that were
/// there before.
fn both_ways_write_the_same(folder: &Path, len_bytes: &[usize], offset: u64) {
    let folder = tempfile::tempdir_in(folder).unwrap();
    let dir = RealDir::new(folder.path());
    let parts: Vec<Vec<u8>> = len_bytes.iter().enumerate().map(|(i, &len)| bytes(len, 7 * i)).collect();
    let before = bytes(offset as usize + 3 * BLOCK_BYTES as usize, 100);
    let mut found = Vec::new();
    for uncached in [false, true] {
        let name = if uncached { "uncached" } else { "plain" };
        let file = dir.create(name).unwrap();
        file.write_at(&mut [IoSlice::new(&before)], 0).unwrap();
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        if uncached {
            file.write_uncached_at(&mut slices, offset).unwrap();
        } else {
            file.write_at(&mut slices, offset).unwrap();
        }
        file.sync().unwrap();
        for from in [0, offset] {
            let (mut plain, mut once) = (vec![0; 5 << 20], vec![1; 5 << 20]);
            let read = file.read_at(&mut plain, from).unwrap();
            assert_eq!(file.read_uncached_at(&mut once, from).unwrap(), read);
            assert!(plain[..read] == once[..read], "read past the system's memory");
        }
        found.push(std::fs::read(folder.path().join(name)).unwrap());
    }
    let mut expected = before;
    let whole = parts.concat();
    expected.resize(expected.len().max(offset as usize + whole.len()), 0);
    expected[offset as usize..][..whole.len()].copy_from_slice(&whole);
    assert!(found[0] == expected, "written plainly");
    assert!(found[1] == expected, "written past the system's memory");
}

fn every_shape(folder: &Path) {
    let max = WRITE_BYTES_MAX;
    let many = vec![3; 3000];
    let shapes: [&[usize]; 8] = [
        &[10],
        &[0, 4096, 0],
        &[64, 1024, 3008, 1 << 20],
        &[max],
        &[max + 1],
        &[3 * max + 5, 7],
        &[max - 1, 0, 2, max, 4095],
        &many,
    ];
    for shape in shapes {
        for offset in [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, 3 * BLOCK_BYTES + 72] {
            both_ways_write_the_same(folder, shape, offset);
        }
    }
}

#[test]
fn what_is_written_past_the_systems_memory_is_what_was_given() {
    every_shape(&std::env::temp_dir());
}

/// tmpfs has nowhere else to keep the data, and refuses the flag.
#[test]
fn a_file_system_that_keeps_everything_in_memory_is_written_plainly() {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        every_shape(memory);
    }
}

/// As on a file system over a network, which repeats a step whose answer was lost.
#[test]
fn a_file_that_has_its_name_although_the_step_failed_is_published_and_another_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let dir = RealDir::new(folder.path());
    let (part, name) = (folder.path().join("part"), folder.path().join("name"));
    let own = dir.create("part").unwrap();
    std::fs::hard_link(&part, &name).unwrap();
    for is_left in [true, false] {
        assert_eq!(part.exists(), is_left);
        let failed = rename_new(&part, &name).unwrap_err();
        has_name(&*own, &part, &name, failed).unwrap();
        assert!(name.exists() && !part.exists());
    }
    // The same content under the same name, of somebody else.
    let other = dir.create("part").unwrap();
    let failed = rename_new(&part, &name).unwrap_err();
    let failed = has_name(&*other, &part, &name, failed).unwrap_err();
    assert_eq!(failed.kind(), std::io::ErrorKind::AlreadyExists);
    assert!(name.exists() && part.exists());
}

//! File systems on a disk with arbitrary content. Every reported one exists, at a place that a partition table names,
//! and is reported clean only if its superblock says so. No named one is missed, and little is read.

use std::collections::BTreeMap;

use bygone_engine::fuzzing::file_systems;

use crate::input::Input;

/// See the module's comment. Input: the size of the disk in sectors, then pieces: a sector, an offset in it, and bytes.
pub fn ext(bytes: &[u8]) {
    let mut input = Input(bytes);
    let size_bytes = u64::from(input.u32()) * 512;
    let disk = Disk::of(&mut input);
    for block_bytes in [512, 4096] {
        let (mut reads, mut read_bytes) = (0, 0);
        let found = file_systems(size_bytes, block_bytes, &mut |at, len| {
            reads += 1;
            read_bytes += len;
            at.checked_add(len as u64).filter(|end| *end <= size_bytes).map(|_| disk.read(at, len))
        });
        assert!(reads <= 2 + 1 + 4 + 128 && read_bytes <= 1 << 20, "{reads} reads of {read_bytes} bytes");
        let starts = disk.starts(size_bytes, u64::from(block_bytes));
        let expected: Vec<_> = starts.into_iter().filter_map(|start| disk.state(start)).collect();
        assert_eq!(found, expected, "in blocks of {block_bytes}");
    }
}

/// An entry of this kind names a further table.
fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

/// The sectors that do not hold zeroes.
struct Disk(BTreeMap<u64, [u8; 512]>);

impl Disk {
    fn of(input: &mut Input<'_>) -> Disk {
        let mut sectors = BTreeMap::new();
        while !input.is_empty() {
            let (sector, at, len) = (u64::from(input.u16()), input.below(512), usize::from(input.u8()));
            let bytes = input.bytes(len);
            let bytes = &bytes[..bytes.len().min(512 - at)];
            sectors.entry(sector).or_insert([0; 512])[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Disk(sectors)
    }

    fn byte(&self, at: u64) -> u8 {
        self.0.get(&(at / 512)).map_or(0, |sector| sector[(at % 512) as usize])
    }

    fn read(&self, at: u64, len: usize) -> Vec<u8> {
        (at..at + len as u64).map(|at| self.byte(at)).collect()
    }

    fn number(&self, at: u64, bytes: u64) -> u64 {
        (0..bytes).rev().fold(0, |n, i| n << 8 | u64::from(self.byte(at + i)))
    }

    /// Where file systems may begin: at the start of the disk and of each partition, whose tables count in blocks.
    fn starts(&self, size_bytes: u64, block: u64) -> Vec<u64> {
        let mut starts = vec![0];
        if size_bytes >= 512 && self.number(510, 2) == 0xaa55 {
            let entries: Vec<u64> = (0..4).map(|i| 446 + i * 16).collect();
            if entries.iter().any(|at| self.byte(at + 4) == 0xee) {
                starts.extend(self.gpt(size_bytes, block));
            } else {
                let used = entries.iter().filter(|at| self.byte(*at + 4) != 0);
                starts.extend(used.map(|at| self.number(at + 8, 4) * block));
                let extended = entries.iter().find(|at| is_extended(self.byte(*at + 4)));
                starts.extend(
                    extended
                        .map(|at| self.number(at + 8, 4) * block)
                        .into_iter()
                        .flat_map(|first| self.logical(first, size_bytes, block)),
                );
            }
        }
        starts.retain(|start| *start <= size_bytes.saturating_sub(4096) && size_bytes >= 4096);
        starts.sort_unstable();
        starts.dedup();
        starts
    }

    /// The logical partitions behind the table at `first`, of which at most 60 are shown.
    fn logical(&self, first: u64, size_bytes: u64, block: u64) -> Vec<u64> {
        let mut next = Some(first);
        let mut starts = Vec::new();
        for _ in 0..60 {
            let Some(table) = next.filter(|at| at + 512 <= size_bytes && self.number(at + 510, 2) == 0xaa55)
            else {
                break;
            };
            let entries = (0..4).map(|i| table + 446 + i * 16).filter(|at| self.byte(at + 4) != 0);
            let (further, used): (Vec<u64>, Vec<u64>) =
                entries.partition(|at| is_extended(self.byte(at + 4)));
            starts.extend(used.first().map(|at| table + self.number(at + 8, 4) * block));
            next = further.first().map(|at| first + self.number(at + 8, 4) * block);
        }
        starts
    }

    fn gpt(&self, size_bytes: u64, block: u64) -> Vec<u64> {
        let (table, count, each) =
            (self.number(block + 72, 8), self.number(block + 80, 4), self.number(block + 84, 4));
        let believed = size_bytes >= block + 512 && self.read(block, 8) == *b"EFI PART" && count <= 128;
        let end = u128::from(table) * u128::from(block) + u128::from((count * each).next_multiple_of(512));
        if !believed || !(128..=1024).contains(&each) || end > u128::from(size_bytes) {
            return Vec::new();
        }
        let entries = (0..count).map(|i| table * block + i * each);
        let used = entries.filter(|at| (0..16).any(|i| self.byte(at + i) != 0));
        used.filter_map(|at| self.number(at + 32, 8).checked_mul(block)).collect()
    }

    /// What the superblock of an ext file system says ("Linux kernel documentation, ext4, super block").
    fn state(&self, start: u64) -> Option<(&'static str, u64, bool)> {
        let at = start + 1024;
        if self.number(at + 0x38, 2) != 0xef53 {
            return None;
        }
        let (valid, errors) = (self.byte(at + 0x3a) & 1 != 0, self.byte(at + 0x3a) & 2 != 0);
        let journal = self.number(at + 0x5c, 4) & 4 != 0;
        let (recover, extents) = (self.number(at + 0x60, 4) & 4 != 0, self.number(at + 0x60, 4) & 0x40 != 0);
        let kind = match (extents, journal) {
            (true, _) => "ext4",
            (false, true) => "ext3",
            (false, false) => "ext2",
        };
        Some((kind, start, valid && !errors && !recover))
    }
}

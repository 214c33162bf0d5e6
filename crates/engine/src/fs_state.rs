//! Finds out whether the file systems on a disk are marked clean: one of the signals that a target was shut down in
//! order.
//!
//! Safe on hostile input: it only reads a few fields of partition tables and superblocks.

use bygone_block::{BlockDevice, Geometry, Reading};

/// The state of one file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FsState {
    /// `ext2`, `ext3` or `ext4`.
    pub kind: &'static str,
    /// Its offset on the disk, in bytes.
    pub offset: u64,
    /// It was unmounted, and needs no recovery.
    pub clean: bool,
}

const PARTITIONS_MAX: u32 = 128;
/// As many logical partitions as Linux shows of one disk.
const LOGICAL_MAX: usize = 60;
/// The kinds of an entry that names a further table instead of a partition.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
const PROTECTIVE: u8 = 0xee;

/// Returns the bytes at an offset.
type Read<'a> = dyn FnMut(u64, usize) -> Option<Vec<u8>> + 'a;

/// The file systems on a disk; `None` if a part of it that had to be looked at cannot be read.
pub(crate) fn on(disk: &dyn BlockDevice) -> Option<Vec<FsState>> {
    let Geometry { size_bytes, block_bytes, .. } = disk.geometry();
    let mut unreadable = false;
    let found = find(size_bytes, block_bytes, &mut |at, len| {
        at.checked_add(len as u64).filter(|end| *end <= size_bytes)?;
        let mut bytes = vec![0; len];
        let read = disk.read(at, &mut bytes, Reading::MayWait);
        unreadable |= read.is_err();
        read.ok().map(|()| bytes)
    });
    (!unreadable).then_some(found)
}

/// Finds the ext2/3/4 file systems that start at the beginning of a disk or of an MBR or GPT partition. The addresses in partition tables are in blocks of `block_bytes`, as the guest sees them.
pub(crate) fn find(size_bytes: u64, block_bytes: u32, read: &mut Read<'_>) -> Vec<FsState> {
    let mut starts = vec![0];
    starts.extend(partitions(u64::from(block_bytes), read));
    starts.retain(|start| start.saturating_add(4096) <= size_bytes);
    starts.sort_unstable();
    starts.dedup();
    starts.into_iter().filter_map(|start| ext(start, read)).collect()
}

fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes)
}

fn le32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn le64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

fn partitions(block: u64, read: &mut Read<'_>) -> Vec<u64> {
    let Some(entries) = table(0, block, read) else { return Vec::new() };
    if entries.iter().any(|(kind, _)| *kind == PROTECTIVE) {
        return gpt(block, read).unwrap_or_default();
    }
    let mut starts: Vec<u64> = entries.iter().map(|(_, start)| *start).collect();
    // A disk has one at most.
    let extended = entries.iter().find(|(kind, _)| EXTENDED.contains(kind));
    starts.extend(extended.map(|(_, start)| logical(*start, block, read)).unwrap_or_default());
    starts
}

/// The entries that are used of the MBR table at this offset: kind, and start in bytes from where the table counts.
fn table(at: u64, block: u64, read: &mut Read<'_>) -> Option<Vec<(u8, u64)>> {
    let bytes = read(at, 512).filter(|bytes| le16(bytes, 510) == Some(0xaa55))?;
    let entry = |i: usize| {
        let at = 446 + i * 16;
        Some((*bytes.get(at + 4)?, u64::from(le32(&bytes, at + 8)?) * block))
    };
    Some((0..4).filter_map(entry).filter(|(kind, _)| *kind != 0).collect())
}

/// The logical partitions of an extended one: a chain of tables, each with a partition, which counts from its table, and
/// the next table, which counts from the first one.
fn logical(first: u64, block: u64, read: &mut Read<'_>) -> Vec<u64> {
    let (mut starts, mut at) = (Vec::new(), first);
    for _ in 0..LOGICAL_MAX {
        let Some(entries) = table(at, block, read) else { break };
        starts.extend(entries.iter().find(|(kind, _)| !EXTENDED.contains(kind)).map(|(_, start)| at + start));
        let Some((_, next)) = entries.iter().find(|(kind, _)| EXTENDED.contains(kind)) else { break };
        at = first + next;
    }
    starts
}

fn gpt(block: u64, read: &mut Read<'_>) -> Option<Vec<u64>> {
    let header = read(block, 512)?;
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    let (entries_at, count, size) = (le64(&header, 72)?, le32(&header, 80)?, le32(&header, 84)? as usize);
    if !(128..=1024).contains(&size) || count > PARTITIONS_MAX {
        return None;
    }
    let bytes = (count as usize * size).next_multiple_of(512);
    let table = read(entries_at.checked_mul(block)?, bytes)?;
    let used = |entry: &&[u8]| entry.iter().take(16).any(|b| *b != 0);
    let start = |entry: &[u8]| le64(entry, 32)?.checked_mul(block);
    Some(table.chunks_exact(size).take(count as usize).filter(used).filter_map(start).collect())
}

fn ext(start: u64, read: &mut Read<'_>) -> Option<FsState> {
    let superblock = read(start + 1024, 1024)?;
    if le16(&superblock, 0x38)? != 0xef53 {
        return None;
    }
    let (state, compatible, incompatible) =
        (le16(&superblock, 0x3a)?, le32(&superblock, 0x5c)?, le32(&superblock, 0x60)?);
    let has_journal = compatible & 4 != 0;
    let needs_recovery = incompatible & 4 != 0;
    let kind = if incompatible & 0x40 != 0 {
        "ext4"
    } else if has_journal {
        "ext3"
    } else {
        "ext2"
    };
    Some(FsState { kind, offset: start, clean: state & 1 != 0 && state & 2 == 0 && !needs_recovery })
}

#[cfg(test)]
mod tests {
    use bygone_block::{Extent, IoError, Writing};

    use super::*;

    fn superblock(recover: bool) -> Vec<u8> {
        let mut disk = vec![0; 8192];
        disk[1024 + 0x38..][..2].copy_from_slice(&0xef53_u16.to_le_bytes());
        disk[1024 + 0x3a] = 1;
        disk[1024 + 0x5c] = 4;
        disk[1024 + 0x60] = if recover { 0x44 } else { 0x40 };
        disk
    }

    fn find_on(disk: &[u8]) -> Vec<FsState> {
        find_in(512, disk)
    }

    fn find_in(block_bytes: u32, disk: &[u8]) -> Vec<FsState> {
        let mut read = |at, len| Some(disk.get(at as usize..at as usize + len)?.to_vec());
        find(disk.len() as u64, block_bytes, &mut read)
    }

    #[test]
    fn a_mounted_ext4_is_not_clean_and_an_unmounted_one_is() {
        assert_eq!(find_on(&superblock(false)), [FsState { kind: "ext4", offset: 0, clean: true }]);
        assert_eq!(find_on(&superblock(true)), [FsState { kind: "ext4", offset: 0, clean: false }]);
    }

    #[test]
    fn a_file_system_in_a_partition_is_found() {
        let mut disk = vec![0; 4096];
        disk[510..512].copy_from_slice(&0xaa55_u16.to_le_bytes());
        disk[446 + 4] = 0x83;
        disk[446 + 8..][..4].copy_from_slice(&8_u32.to_le_bytes());
        disk.extend(superblock(false));
        assert_eq!(find_on(&disk), [FsState { kind: "ext4", offset: 4096, clean: true }]);
    }

    /// A disk with one partition, which begins at block 16 and has a file system.
    fn partitioned(block: usize, gpt: bool, recover: bool) -> Vec<u8> {
        let mut disk = vec![0; 16 * block];
        disk[510..512].copy_from_slice(&0xaa55_u16.to_le_bytes());
        if gpt {
            disk[446 + 4] = 0xee;
            disk[block..block + 8].copy_from_slice(b"EFI PART");
            disk[block + 72] = 2;
            disk[block + 80] = 128;
            disk[block + 84] = 128;
            disk[2 * block] = 1;
            disk[2 * block + 32] = 16;
            // The table of 128 entries is longer than what is before the partition.
            disk.resize((16 * block).max(2 * block + 128 * 128), 0);
        } else {
            disk[446 + 4] = 0x83;
            disk[446 + 8] = 16;
        }
        let from = 16 * block;
        disk.resize(disk.len().max(from + 8192), 0);
        disk[from + 1024..from + 2048].copy_from_slice(&superblock(recover)[1024..2048]);
        disk
    }

    #[test]
    fn partition_tables_count_in_the_blocks_of_their_disk() {
        for (block, gpt) in [(512, false), (4096, false), (512, true), (4096, true)] {
            for recover in [false, true] {
                let disk = partitioned(block, gpt, recover);
                let offset = 16 * block as u64;
                let there = [FsState { kind: "ext4", offset, clean: !recover }];
                assert_eq!(find_in(block as u32, &disk), there, "{block} {gpt} {recover}");
                let other = if block == 512 { 4096 } else { 512 };
                assert_eq!(find_in(other, &disk), [], "{block} {gpt} {recover}");
            }
        }
    }

    #[test]
    fn logical_partitions_are_found_and_a_chain_without_an_end_is_left() {
        for (block, chained) in [(512, true), (4096, true), (512, false)] {
            let mut disk = vec![0; 128 * block];
            let mut entry = |table: usize, at: usize, kind: u8, start: u32| {
                let entry = table * block + 446 + at * 16;
                disk[entry + 4] = kind;
                disk[entry + 8..entry + 12].copy_from_slice(&start.to_le_bytes());
                disk[table * block + 510..table * block + 512].copy_from_slice(&0xaa55_u16.to_le_bytes());
            };
            // An extended partition from block 16 on, with tables in blocks 16 and 64.
            entry(0, 1, 0x05, 16);
            entry(16, 0, 0x83, 8);
            entry(16, 1, 0x05, 48);
            entry(64, 0, 0x83, 32);
            if !chained {
                // The second table names itself as the next one.
                entry(64, 1, 0x0f, 48);
            }
            for at in [24, 96] {
                disk[at * block..][1024..2048].copy_from_slice(&superblock(true)[1024..2048]);
            }
            let offsets: Vec<u64> = find_in(block as u32, &disk).iter().map(|state| state.offset).collect();
            assert_eq!(offsets, [24 * block as u64, 96 * block as u64], "{block} {chained}");
        }
    }

    /// A disk of which only the first bytes can be read.
    struct Torn(Vec<u8>, u64);

    impl BlockDevice for Torn {
        fn geometry(&self) -> Geometry {
            let size_bytes = self.0.len() as u64;
            Geometry { size_bytes, block_bytes: 4096, read_only: true, can_trim: false }
        }
        fn read(&self, offset: u64, buf: &mut [u8], _: Reading) -> Result<(), IoError> {
            let end = offset + buf.len() as u64;
            if end > self.1 {
                return Err(IoError::Medium(std::io::ErrorKind::Other.into()));
            }
            buf.copy_from_slice(&self.0[offset as usize..end as usize]);
            Ok(())
        }
        fn write(&self, _: &[Writing<'_>]) -> Result<(), IoError> {
            Err(IoError::ReadOnly)
        }
        fn flush(&self) -> Result<(), IoError> {
            Ok(())
        }
        fn extents(&self, _: u64, _: u64, _: &mut dyn FnMut(Extent) -> bool) -> Result<(), IoError> {
            Ok(())
        }
        fn prefetch(&self, _: u64, _: u64) {}
    }

    #[test]
    fn what_cannot_be_read_may_be_a_file_system() {
        let disk = partitioned(4096, true, false);
        let len = disk.len() as u64;
        assert_eq!(on(&Torn(disk.clone(), len)).unwrap().len(), 1);
        for readable in [0, 4096, 8192, 16 * 4096] {
            assert_eq!(on(&Torn(disk.clone(), readable)), None, "{readable}");
        }
    }

    #[test]
    fn entries_behind_the_last_one_are_no_partitions() {
        let mut disk = vec![0; 4096];
        disk[510..512].copy_from_slice(&0xaa55_u16.to_le_bytes());
        disk[446 + 4] = 0xee;
        disk[512..520].copy_from_slice(b"EFI PART");
        disk[512 + 72] = 2;
        disk[512 + 80] = 1;
        disk[512 + 84] = 128;
        // The table has one entry; its sector has room for three more.
        disk[1024 + 128] = 1;
        disk[1024 + 128 + 32] = 8;
        disk.extend(superblock(false));
        assert_eq!(find_on(&disk), []);
        disk[512 + 80] = 2;
        assert_eq!(find_on(&disk).len(), 1);
    }

    #[test]
    fn garbage_is_no_file_system() {
        for fill in [0_u8, 0xff, 0xee, 0x55] {
            assert_eq!(find_on(&vec![fill; 16384]), []);
        }
    }
}

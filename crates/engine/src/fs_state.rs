//! Finds out whether the file systems on a disk are marked clean: one of the signals that a target was shut down in
//! order.
//!
//! Pure, and safe on hostile input: it only reads a few fields of partition tables and superblocks.

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

const SECTOR: u64 = 512;
const PARTITIONS_MAX: u32 = 128;

/// Finds the ext2/3/4 file systems that start at the beginning of a disk or of a primary MBR or GPT partition, in
/// sectors of 512 bytes. `read` returns the bytes at an offset.
pub(crate) fn find(size_bytes: u64, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Vec<FsState> {
    let mut starts = vec![0];
    starts.extend(partitions(read));
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

fn partitions(read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Vec<u64> {
    let parse = |read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>| {
        let mbr = read(0, 512)?;
        if le16(&mbr, 510)? != 0xaa55 {
            return None;
        }
        let mut starts = Vec::new();
        for i in 0..4 {
            let entry = 446 + i * 16;
            let kind = *mbr.get(entry + 4)?;
            if kind == 0xee {
                return gpt(read);
            }
            if kind != 0 {
                starts.push(u64::from(le32(&mbr, entry + 8)?) * SECTOR);
            }
        }
        Some(starts)
    };
    parse(read).unwrap_or_default()
}

fn gpt(read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<Vec<u64>> {
    let header = read(SECTOR, 512)?;
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    let (entries_at, count, size) = (le64(&header, 72)?, le32(&header, 80)?, le32(&header, 84)? as usize);
    if !(128..=1024).contains(&size) || count > PARTITIONS_MAX {
        return None;
    }
    let bytes = (count as usize * size).next_multiple_of(512);
    let table = read(entries_at.checked_mul(SECTOR)?, bytes)?;
    let used = |entry: &&[u8]| entry.iter().take(16).any(|b| *b != 0);
    let start = |entry: &[u8]| le64(entry, 32)?.checked_mul(SECTOR);
    Some(table.chunks_exact(size).take(count as usize).filter(used).filter_map(start).collect())
}

fn ext(start: u64, read: &mut dyn FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<FsState> {
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
        find(disk.len() as u64, &mut |at, len| Some(disk.get(at as usize..at as usize + len)?.to_vec()))
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

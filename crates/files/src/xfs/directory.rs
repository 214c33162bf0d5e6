//! Directories: names in the inode, or in blocks. Larger ones have an index as well, which lies so far behind the names
//! that it is never read here.

use super::{
    Xfs, damaged,
    inode::{Fork, Inode},
    sum_holds,
};
use crate::{
    blocks::Blocks,
    bytes::{be16, be32, be64, byte},
    tree::{Entry, FileKind, TreeError},
};

/// Where the index begins in a directory.
const INDEX_AT: u64 = 32 << 30;
/// Ten million names of 50 bytes fit in.
const BYTES_MAX: u64 = 1 << 30;
/// The magics of blocks of names, and of a single block that has the index in it.
const NAMES: [u32; 2] = [u32::from_be_bytes(*b"XD2D"), u32::from_be_bytes(*b"XDD3")];
const SINGLE: [u32; 2] = [u32::from_be_bytes(*b"XD2B"), u32::from_be_bytes(*b"XDB3")];
const FREE: u16 = 0xffff;

fn kind_of(byte: u8) -> FileKind {
    match byte {
        1 => FileKind::Regular,
        2 => FileKind::Directory,
        3 => FileKind::CharDevice,
        4 => FileKind::BlockDevice,
        5 => FileKind::Fifo,
        6 => FileKind::Socket,
        7 => FileKind::Symlink,
        _ => FileKind::Unknown,
    }
}

impl<B: Blocks> Xfs<B> {
    pub(super) fn directory(
        &self,
        inode: &Inode,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<(), TreeError> {
        if let Some(local) = inode.local(Fork::Data)? {
            return self.local_names(inode, local, each);
        }
        let unit = self.superblock.block_bytes;
        let mut blocks: Vec<u64> = Vec::new();
        let bytes_max = BYTES_MAX.min(self.superblock.blocks * unit);
        let in_block = self.superblock.directory_bytes as u64;
        self.map(inode, Fork::Data, 0..INDEX_AT / unit, &mut |run| {
            let (start, end) = (run.first * unit, ((run.first + run.blocks) * unit).min(INDEX_AT));
            for block in start / in_block..end.div_ceil(in_block) {
                if blocks.last() != Some(&block) && blocks.len() as u64 * in_block <= bytes_max {
                    blocks.push(block);
                }
            }
            blocks.len() as u64 * in_block <= bytes_max
        })?;
        if blocks.len() as u64 * in_block > bytes_max {
            return Err(TreeError::TooLarge {
                inode: inode.number,
                what: "the directory has too many blocks",
            });
        }
        for block in blocks {
            self.budget.take(in_block)?;
            let mut bytes = vec![0; in_block as usize];
            self.read_fork(inode, Fork::Data, block * in_block, &mut bytes)?;
            if !self.block_of_names(inode, &bytes, each)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// An entry, unless it is `.` or `..`; returns false if `each` wants no more.
    fn pass(
        &self,
        inode: &Inode,
        name: &[u8],
        target: u64,
        kind: u8,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<bool, TreeError> {
        if name.is_empty() || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(damaged(inode.number, "a name in the directory makes no sense"));
        }
        if matches!(name, b"." | b"..") {
            return Ok(true);
        }
        let kind = if self.superblock.has_types { kind_of(kind) } else { FileKind::Unknown };
        Ok(each(Entry { name: name.to_vec(), inode: target, kind }))
    }

    fn local_names(
        &self,
        inode: &Inode,
        local: &[u8],
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<(), TreeError> {
        let wrong = || damaged(inode.number, "the names of the directory make no sense");
        let local =
            usize::try_from(inode.size_bytes()).ok().and_then(|len| local.get(..len)).ok_or(wrong())?;
        let is_wide = byte(local, 1) > 0;
        let number_bytes = if is_wide { 8 } else { 4 };
        let types = usize::from(self.superblock.has_types);
        let mut at = 2 + number_bytes;
        for _ in 0..byte(local, 0) {
            let len = usize::from(byte(local, at));
            let end = at + 3 + len;
            if end + types + number_bytes > local.len() {
                return Err(wrong());
            }
            let kind = byte(local, end);
            let number = end + types;
            let target = if is_wide { be64(local, number) } else { u64::from(be32(local, number)) };
            if !self.pass(inode, &local[at + 3..end], target, kind, each)? {
                return Ok(());
            }
            at = number + number_bytes;
        }
        Ok(())
    }

    fn block_of_names(
        &self,
        inode: &Inode,
        block: &[u8],
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<bool, TreeError> {
        let wrong = |what| Err(damaged(inode.number, what));
        let version = usize::from(self.superblock.is_v5);
        let magic = be32(block, 0);
        if magic != NAMES[version] && magic != SINGLE[version] {
            return wrong("a block of the directory makes no sense");
        }
        if self.superblock.is_v5 {
            if !sum_holds(block, 4) {
                return wrong("the checksum of a block of the directory does not hold");
            }
            if be64(block, 40) != inode.number {
                return wrong("a block of the directory belongs to another");
            }
        }
        let mut end = block.len();
        if magic == SINGLE[version] {
            let index = (be32(block, end - 8) as usize).saturating_mul(8).saturating_add(8);
            end = end.saturating_sub(index);
        }
        let types = usize::from(self.superblock.has_types);
        let mut at = if self.superblock.is_v5 { 64 } else { 16 };
        while at < end {
            if be16(block, at) == FREE {
                let len = usize::from(be16(block, at + 2));
                if len == 0 || len % 8 != 0 {
                    return wrong("a free part of the directory has a senseless length");
                }
                at += len;
                continue;
            }
            let len = usize::from(byte(block, at + 8));
            let name_end = at + 9 + len;
            let whole = (9 + len + types + 2).next_multiple_of(8);
            if at + whole > end {
                return wrong("an entry of the directory has a senseless length");
            }
            let (name, kind) = (&block[at + 9..name_end], byte(block, name_end));
            if !self.pass(inode, name, be64(block, at), kind, each)? {
                return Ok(false);
            }
            at += whole;
        }
        Ok(true)
    }
}

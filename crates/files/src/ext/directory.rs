//! Directories. The nodes of an index look like blocks without names, so all blocks are read in a row; but behind what is
//! used of a node there may be the checksum of the names that were there before.

use super::{Ext, damaged, inode::Inode, inode::encrypted};
use crate::{
    blocks::Blocks,
    bytes::{byte, le16, le32},
    crc::crc32c,
    tree::{Entry, FileKind, TreeError},
};

/// Ten million names of 50 bytes fit in.
const DIRECTORY_BLOCKS_BYTES_MAX: u64 = 1 << 30;

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

impl<B: Blocks> Ext<B> {
    pub(super) fn directory(
        &self,
        inode: &Inode,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<(), TreeError> {
        encrypted(inode)?;
        if inode.has_inline_data() {
            // The number of the parent takes the place of "." and "..".
            let area = inode.map_area();
            if !self.names(inode, &area[4..], each)? {
                return Ok(());
            }
            if let Some(rest) = self.inline_rest(inode)? {
                self.names(inode, &rest, each)?;
            }
            return Ok(());
        }
        let unit = self.superblock.block_bytes;
        let blocks = inode.size_bytes / unit;
        let blocks_bytes_max = DIRECTORY_BLOCKS_BYTES_MAX.min(self.superblock.blocks * unit);
        let mut result = Ok(true);
        let mut read_bytes = 0;
        self.map(inode, 0..blocks, &mut |run| {
            let mut number = 0;
            while number < run.blocks && run.first + number < blocks && matches!(result, Ok(true)) {
                read_bytes += unit;
                result = if read_bytes > blocks_bytes_max {
                    Err(TreeError::TooLarge {
                        inode: inode.number,
                        what: "the directory has too many blocks",
                    })
                } else if run.unwritten {
                    Ok(true)
                } else {
                    self.block_of_names(inode, run.first + number == 0, run.place + number, each)
                };
                number += 1;
            }
            matches!(result, Ok(true))
        })?;
        result.map(|_| ())
    }

    fn block_of_names(
        &self,
        inode: &Inode,
        is_first: bool,
        place: u64,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<bool, TreeError> {
        let block = self.block(place)?;
        let is_node = le32(&block, 0) == 0 && usize::from(le16(&block, 4)) == block.len();
        if is_node {
            return Ok(true);
        }
        let is_root = is_first && inode.has_index();
        let tail = block.len() - 12;
        let has_sum =
            le32(&block, tail) == 0 && le16(&block, tail + 4) == 12 && le16(&block, tail + 6) == 0xde00;
        if let Some(seed) = inode.seed.filter(|_| has_sum && !is_root)
            && crc32c(seed, &block[..tail]) != le32(&block, tail + 8)
        {
            return Err(damaged(inode.number, "the checksum of a block of the directory does not hold"));
        }
        self.names(inode, &block, each)
    }

    /// Passes on the names in a row of entries; returns false if `each` does not want any more.
    fn names(
        &self,
        inode: &Inode,
        bytes: &[u8],
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<bool, TreeError> {
        let wrong = |what| Err(damaged(inode.number, what));
        let mut at = 0;
        while at + 8 <= bytes.len() {
            let target = le32(bytes, at);
            // In blocks of 64 KiB the length of the last entry does not fit otherwise.
            let len = match usize::from(le16(bytes, at + 4)) {
                0 | 0xffff if bytes.len() == 1 << 16 => 1 << 16,
                len => (len & !3) | (len & 3) << 16,
            };
            let has_kinds = self.superblock.has_file_types();
            let name_len =
                if has_kinds { usize::from(byte(bytes, at + 6)) } else { usize::from(le16(bytes, at + 6)) };
            if len < 8 || at + len > bytes.len() {
                return wrong("an entry of the directory has a senseless length");
            }
            if target != 0 {
                if name_len == 0 || name_len > 255 || 8 + name_len > len {
                    return wrong("a name in the directory has a senseless length");
                }
                let name = &bytes[at + 8..at + 8 + name_len];
                if name.iter().any(|byte| matches!(byte, 0 | b'/')) {
                    return wrong("a name in the directory has a slash or a zero byte");
                }
                let kind = if has_kinds { kind_of(byte(bytes, at + 7)) } else { FileKind::Unknown };
                let is_dots = matches!(name, b"." | b"..");
                if !is_dots && !each(Entry { name: name.to_vec(), inode: u64::from(target), kind }) {
                    return Ok(false);
                }
            }
            at += len;
        }
        Ok(true)
    }
}

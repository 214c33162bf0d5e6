//! The superblock: where blocks and inodes are. The volume is divided into allocation groups of the same length, and the
//! numbers of blocks and inodes have the number of the group in their upper bits.

use super::{damaged, sum_holds, unsupported};
use crate::{
    bytes::{be16, be32, be64, byte, has, id},
    tree::TreeError,
};

const DIRECTORIES_V2: u16 = 0x2000;
const MORE_BITS: u16 = 0x8000;
const TYPES_V4: u32 = 0x200;
const TYPES: u32 = 1;
const OTHER_ID: u32 = 4;
const NEEDS_REPAIR: u32 = 0x10;
/// Types in directories, sparse chunks of inodes, an id of the metadata, large times, large numbers of extents, exchange
/// of ranges, parent pointers.
const KNOWN: u32 = TYPES | 2 | OTHER_ID | 8 | NEEDS_REPAIR | 0x20 | 0x40 | 0x80;
const SUM_AT: usize = 224;

pub(super) struct Superblock {
    pub block_bytes: u64,
    /// Of the whole volume.
    pub blocks: u64,
    group_blocks: u64,
    groups: u64,
    group_shift: u32,
    pub inode_bytes: usize,
    inodes_shift: u32,
    /// Blocks of inodes that are read and freed together.
    pub cluster_blocks: u64,
    /// Of blocks of directories.
    pub directory_bytes: usize,
    pub is_v5: bool,
    /// Names have the kind of what they stand for.
    pub has_types: bool,
    pub root: u64,
    /// The id in all metadata.
    pub id: [u8; 16],
}

impl Superblock {
    /// How long the superblock is.
    pub(super) fn sector_bytes(bytes: &[u8]) -> Result<usize, TreeError> {
        let len = usize::from(be16(bytes, 102));
        if !has(bytes, 0, b"XFSB") {
            return Err(damaged(0, "there is no superblock"));
        }
        if !len.is_power_of_two() || !(512..=32768).contains(&len) {
            return Err(damaged(0, "its sectors have a senseless length"));
        }
        Ok(len)
    }

    pub(super) fn parse(bytes: &[u8], size_bytes: u64) -> Result<Superblock, TreeError> {
        let wrong = |what| Err(damaged(0, what));
        let version = be16(bytes, 100);
        let is_v5 = version & 15 == 5;
        if !is_v5 && version & 15 != 4 {
            return Err(unsupported(format!("an XFS of version {}", version & 15)));
        }
        if !is_v5 && version & DIRECTORIES_V2 == 0 {
            return Err(unsupported("an XFS with directories of the first version"));
        }
        let incompatible = if is_v5 { be32(bytes, 216) } else { 0 };
        if incompatible & !KNOWN != 0 {
            return Err(unsupported(format!("an XFS with the features {:#x}", incompatible & !KNOWN)));
        }
        if incompatible & NEEDS_REPAIR != 0 {
            return Err(unsupported("an XFS that is marked as in need of repair"));
        }
        if is_v5 && !sum_holds(bytes, SUM_AT) {
            return wrong("the checksum of the superblock does not hold");
        }
        let block_bytes = u64::from(be32(bytes, 4));
        let (block_shift, inode_shift) = (u32::from(byte(bytes, 120)), u32::from(byte(bytes, 122)));
        let inode_bytes = usize::from(be16(bytes, 104));
        if !(512..=65536).contains(&block_bytes) || 1_u64.checked_shl(block_shift) != Some(block_bytes) {
            return wrong("its blocks have a senseless length");
        }
        let is_inode = (256..=2048).contains(&inode_bytes)
            && 1_usize.checked_shl(inode_shift) == Some(inode_bytes)
            && inode_bytes as u64 <= block_bytes;
        if !is_inode {
            return wrong("its inodes have a senseless length");
        }
        let (group_blocks, groups) = (u64::from(be32(bytes, 84)), u64::from(be32(bytes, 88)));
        let group_shift = u32::from(byte(bytes, 124));
        if group_shift > 31 || group_blocks > 1 << group_shift || group_blocks == 0 || groups == 0 {
            return wrong("its groups have a senseless length");
        }
        let directory_bytes =
            block_bytes.checked_shl(u32::from(byte(bytes, 192))).filter(|len| *len <= 65536);
        let Some(directory_bytes) = directory_bytes else {
            return wrong("its directories have blocks of a senseless length");
        };
        let blocks = be64(bytes, 8).min(size_bytes / block_bytes).min(group_blocks * groups);
        let has_types = if is_v5 {
            incompatible & TYPES != 0
        } else {
            version & MORE_BITS != 0 && be32(bytes, 200) & TYPES_V4 != 0
        };
        // The larger inodes are, the larger are their clusters, unless their alignment does not allow it.
        let wanted = if is_v5 { 8192 * inode_bytes as u64 / 256 } else { 8192 };
        let is_aligned = u64::from(be32(bytes, 180)) >= wanted / block_bytes;
        let cluster_blocks = (if is_aligned { wanted } else { 8192 } / block_bytes).max(1);
        Ok(Superblock {
            cluster_blocks,
            block_bytes,
            blocks,
            group_blocks,
            groups,
            group_shift,
            inode_bytes,
            inodes_shift: block_shift - inode_shift,
            directory_bytes: directory_bytes as usize,
            is_v5,
            has_types,
            root: be64(bytes, 56),
            id: id(bytes, if incompatible & OTHER_ID != 0 { 248 } else { 32 }),
        })
    }

    /// Where some blocks are, in bytes, if they are on the volume.
    pub(super) fn place(&self, block: u64, blocks: u64) -> Option<u64> {
        let (group, within) = (block >> self.group_shift, block & ((1 << self.group_shift) - 1));
        let fits = group < self.groups && within.checked_add(blocks)? <= self.group_blocks;
        let first = fits.then(|| group * self.group_blocks + within)?;
        (first + blocks <= self.blocks).then_some(first * self.block_bytes)
    }

    /// The number of a block of a group.
    pub(super) fn block_in(&self, group: u64, block: u64) -> u64 {
        group << self.group_shift | block
    }

    /// The number of the first inode in a block.
    pub(super) fn first_inode(&self, block: u64) -> u64 {
        block << self.inodes_shift
    }

    /// Where an inode is, in bytes.
    pub(super) fn inode_place(&self, inode: u64) -> Option<u64> {
        let within = inode & ((1 << self.inodes_shift) - 1);
        let place = self.place(inode >> self.inodes_shift, 1)?;
        Some(place + within * self.inode_bytes as u64)
    }
}

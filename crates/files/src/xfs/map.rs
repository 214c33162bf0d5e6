//! Which blocks of the volume hold which blocks of a fork: extents in the inode, or a B+tree of them.

use std::ops::Range;

use super::{
    Xfs, damaged,
    inode::{BTREE, Fork, Inode},
    sum_holds,
};
use crate::{
    blocks::Blocks,
    bytes::{be16, be32, be64},
    tree::TreeError,
};

const NODE_V4: u32 = u32::from_be_bytes(*b"BMAP");
const NODE_V5: u32 = u32::from_be_bytes(*b"BMA3");
const LEVELS_MAX: u16 = 9;
/// Extents of one visit, and blocks of one tree.
const RUNS_MAX: u64 = 64 << 20;
const EXTENT_BYTES: usize = 16;

/// Blocks of a fork that lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The number of the first one in the fork.
    pub first: u64,
    pub blocks: u64,
    /// Where it is, in bytes.
    pub place: u64,
    pub unwritten: bool,
}

/// What a visit passes on, and when it ends.
struct Visit<'a> {
    inode: &'a Inode,
    wanted: Range<u64>,
    each: &'a mut dyn FnMut(Run) -> bool,
    /// The block of the fork up to which everything was seen.
    done: u64,
    left: u64,
    ended: bool,
}

impl Visit<'_> {
    fn count(&mut self) -> Result<(), TreeError> {
        let left = self.left.checked_sub(1);
        self.left = left.ok_or(damaged(self.inode.number, "its map has more blocks than the volume"))?;
        Ok(())
    }
}

impl<B: Blocks> Xfs<B> {
    /// Calls `each` with the runs of a fork that overlap `wanted`, in their order, until it returns false.
    pub(super) fn map(
        &self,
        inode: &Inode,
        fork: Fork,
        wanted: Range<u64>,
        each: &mut dyn FnMut(Run) -> bool,
    ) -> Result<(), TreeError> {
        let root = inode.root_of_map(fork)?;
        let left = RUNS_MAX.min(self.superblock.blocks);
        let mut visit = Visit { inode, wanted, each, done: 0, left, ended: false };
        if inode.format(fork) == BTREE {
            let (level, count) = (be16(root, 0), usize::from(be16(root, 2)));
            let room = (root.len().saturating_sub(4)) / 16;
            if level == 0 || level > LEVELS_MAX || count > room {
                return Err(damaged(inode.number, "the root of its map makes no sense"));
            }
            return self.children(&mut visit, &root[4..], (count, room), level);
        }
        let count = usize::try_from(inode.extents(fork)).unwrap_or(usize::MAX);
        match root.get(..count.saturating_mul(EXTENT_BYTES)) {
            Some(extents) => self.leaf(&mut visit, extents),
            None => Err(damaged(inode.number, "it has more extents than fit")),
        }
    }

    fn leaf(&self, visit: &mut Visit<'_>, extents: &[u8]) -> Result<(), TreeError> {
        let number = visit.inode.number;
        for extent in extents.chunks_exact(EXTENT_BYTES) {
            let (high, low) = (be64(extent, 0), be64(extent, 8));
            let first = (high & !(1 << 63)) >> 9;
            let (block, blocks) = ((high & 0x1ff) << 43 | low >> 21, low & 0x1f_ffff);
            if first < visit.done || blocks == 0 {
                return Err(damaged(number, "its map goes backwards"));
            }
            // No file is longer, so that its places can be counted in bytes.
            if first + blocks > i64::MAX as u64 / self.superblock.block_bytes {
                return Err(damaged(number, "its map leads behind the end of any file"));
            }
            visit.count()?;
            visit.done = first + blocks;
            if visit.done <= visit.wanted.start {
                continue;
            }
            if first >= visit.wanted.end {
                visit.ended = true;
                return Ok(());
            }
            let place =
                self.superblock.place(block, blocks).ok_or(damaged(number, "its map leads outside"))?;
            let run = Run { first, blocks, place, unwritten: high >> 63 == 1 };
            if !(visit.each)(run) {
                visit.ended = true;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Visits the children of a node: keys, each the first block of a child, and behind the room for keys the places.
    fn children(
        &self,
        visit: &mut Visit<'_>,
        node: &[u8],
        (count, room): (usize, usize),
        level: u16,
    ) -> Result<(), TreeError> {
        let number = visit.inode.number;
        for i in 0..count {
            let (key, next) = (be64(node, i * 8), be64(node, (i + 1) * 8));
            if key >= visit.wanted.end || visit.ended {
                return Ok(());
            }
            if i + 1 < count && next <= visit.wanted.start {
                continue;
            }
            let block = be64(node, (room + i) * 8);
            let place = self.superblock.place(block, 1).ok_or(damaged(number, "its map leads outside"))?;
            visit.count()?;
            let child = self.metadata_at(place, self.superblock.block_bytes as usize)?;
            self.node(visit, &child, place, level - 1)?;
        }
        Ok(())
    }

    fn node(&self, visit: &mut Visit<'_>, node: &[u8], place: u64, level: u16) -> Result<(), TreeError> {
        let number = visit.inode.number;
        let is_v5 = self.superblock.is_v5;
        let (magic, header) = if is_v5 { (NODE_V5, 72) } else { (NODE_V4, 24) };
        let count = usize::from(be16(node, 6));
        let room = (node.len() - header) / 16;
        if be32(node, 0) != magic || be16(node, 4) != level || count > room {
            return Err(damaged(number, "a block of its map makes no sense"));
        }
        if is_v5 {
            if !sum_holds(node, 64) {
                return Err(damaged(number, "the checksum of a block of its map does not hold"));
            }
            if be64(node, 56) != number || be64(node, 24) != place / 512 {
                return Err(damaged(number, "a block of its map belongs elsewhere"));
            }
        }
        if level == 0 {
            return self.leaf(visit, &node[header..header + count * EXTENT_BYTES]);
        }
        self.children(visit, &node[header..], (count, room), level)
    }
}

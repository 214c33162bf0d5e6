//! Which blocks of the volume hold which blocks of a file: trees of extents, and the direct and indirect blocks of ext2
//! and ext3.
//!
//! A map that contradicts itself could be followed for ever, so what is visited only ever goes forward in the file, and
//! there is a bound on the number of runs.

use std::ops::Range;

use super::{Ext, damaged, inode::Inode};
use crate::{
    blocks::Blocks,
    bytes::{le16, le32},
    crc::crc32c,
    tree::TreeError,
};

const EXTENT_MAGIC: u16 = 0xf30a;
const DEPTH_MAX: u16 = 5;
/// Longer extents are reserved, and not written yet.
const WRITTEN_MAX: u16 = 32768;
/// Runs of one visit: a file of 4 GiB with no two blocks side by side has 1,048,576.
const RUNS_MAX: usize = 16 << 20;
/// Blocks of one map, in bytes: a file of 2 TiB in blocks of 4 KiB has 2 GiB of pointers.
const MAP_BYTES_MAX: u64 = 4 << 30;
const DIRECT: u64 = 12;

/// Blocks of a file that lie side by side, in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub first: u64,
    pub blocks: u64,
    pub place: u64,
    pub unwritten: bool,
}

/// What a visit passes on, and when it ends.
struct Visit<'a> {
    inode: &'a Inode,
    wanted: Range<u64>,
    each: &'a mut dyn FnMut(Run) -> bool,
    /// The block of the file up to which everything was passed on.
    done: u64,
    runs: usize,
    map_bytes: u64,
    /// Adjoining blocks are gathered before they are passed on.
    gathered: Option<Run>,
    ended: bool,
}

impl Visit<'_> {
    fn add(&mut self, run: Run, blocks: u64) -> Result<(), TreeError> {
        let number = self.inode.number;
        if run.first < self.done {
            return Err(damaged(number, "its map goes backwards"));
        }
        if run.place.checked_add(run.blocks).is_none_or(|end| end > blocks) || run.place == 0 {
            return Err(damaged(number, "its map leads outside"));
        }
        self.done = run.first + run.blocks;
        if let Some(before) = &mut self.gathered
            && before.first + before.blocks == run.first
            && before.place + before.blocks == run.place
            && before.unwritten == run.unwritten
        {
            before.blocks += run.blocks;
            return Ok(());
        }
        self.runs += 1;
        if self.runs > RUNS_MAX.min(blocks as usize) {
            return Err(TreeError::TooLarge { inode: number, what: "it has too many runs of blocks" });
        }
        self.pass_on();
        self.gathered = Some(run);
        Ok(())
    }

    fn pass_on(&mut self) {
        if let Some(run) = self.gathered.take()
            && !self.ended
        {
            self.ended = !(self.each)(run);
        }
    }

    fn is_over(&self, first: u64) -> bool {
        self.ended || first >= self.wanted.end
    }
}

impl<B: Blocks> Ext<B> {
    /// Calls `each` with the runs that overlap `wanted`, in the order of the file, until it returns false.
    pub(super) fn map(
        &self,
        inode: &Inode,
        wanted: Range<u64>,
        each: &mut dyn FnMut(Run) -> bool,
    ) -> Result<(), TreeError> {
        let mut visit =
            Visit { inode, wanted, each, done: 0, runs: 0, map_bytes: 0, gathered: None, ended: false };
        if inode.has_extents() {
            let depth = le16(inode.map_area(), 6);
            if depth > DEPTH_MAX {
                return Err(damaged(inode.number, "its tree of extents is too deep"));
            }
            self.extents_in(&mut visit, inode.map_area(), depth, 0..1 << 32)?;
        } else {
            self.indirect_in(&mut visit)?;
        }
        visit.pass_on();
        Ok(())
    }

    /// Visits a node of a tree of extents, which covers `range` of the file.
    fn extents_in(
        &self,
        visit: &mut Visit<'_>,
        node: &[u8],
        depth: u16,
        range: Range<u64>,
    ) -> Result<(), TreeError> {
        let number = visit.inode.number;
        let count = usize::from(le16(node, 2));
        if le16(node, 0) != EXTENT_MAGIC || le16(node, 6) != depth || 12 + count * 12 > node.len() {
            return Err(damaged(number, "a node of its tree of extents makes no sense"));
        }
        let entries: Vec<&[u8]> = node[12..12 + count * 12].chunks_exact(12).collect();
        for (i, entry) in entries.iter().enumerate() {
            let first = u64::from(le32(entry, 0));
            if first < range.start || first >= range.end {
                return Err(damaged(number, "an extent lies outside of its node"));
            }
            if visit.is_over(first) {
                return Ok(());
            }
            if depth == 0 {
                let (len, unwritten) = match le16(entry, 4) {
                    0 => return Err(damaged(number, "an extent is empty")),
                    len @ ..=WRITTEN_MAX => (len, false),
                    len => (len - WRITTEN_MAX, true),
                };
                let place = u64::from(le32(entry, 8)) | u64::from(le16(entry, 6)) << 32;
                let run = Run { first, blocks: u64::from(len), place, unwritten };
                if first + run.blocks > visit.wanted.start {
                    visit.add(run, self.superblock.blocks)?;
                }
                continue;
            }
            let end = entries.get(i + 1).map_or(range.end, |next| u64::from(le32(next, 0)));
            if end <= first || end > range.end {
                return Err(damaged(number, "the nodes of its tree of extents are out of order"));
            }
            if end <= visit.wanted.start {
                continue;
            }
            let place = u64::from(le32(entry, 4)) | u64::from(le16(entry, 8)) << 32;
            let child = self.map_block(visit, place)?;
            self.verify_node(visit.inode, &child)?;
            self.extents_in(visit, &child, depth - 1, first..end)?;
        }
        Ok(())
    }

    fn verify_node(&self, inode: &Inode, node: &[u8]) -> Result<(), TreeError> {
        let Some(seed) = inode.seed else { return Ok(()) };
        let tail = 12 + usize::from(le16(node, 4)) * 12;
        if tail + 4 > node.len() || crc32c(seed, &node[..tail]) != le32(node, tail) {
            return Err(damaged(inode.number, "the checksum of a node of its tree of extents does not hold"));
        }
        Ok(())
    }

    /// A block of a map.
    fn map_block(&self, visit: &mut Visit<'_>, place: u64) -> Result<Vec<u8>, TreeError> {
        if place == 0 || place >= self.superblock.blocks {
            return Err(damaged(visit.inode.number, "its map leads outside"));
        }
        visit.map_bytes += self.superblock.block_bytes;
        // No map has more blocks than the volume, unless it leads to some of them again and again.
        if visit.map_bytes > MAP_BYTES_MAX.min(self.superblock.blocks * self.superblock.block_bytes) {
            return Err(TreeError::TooLarge {
                inode: visit.inode.number,
                what: "its map has too many blocks",
            });
        }
        self.block(place)
    }

    fn indirect_in(&self, visit: &mut Visit<'_>) -> Result<(), TreeError> {
        let pointers = visit.inode.map_area().to_vec();
        let in_block = self.superblock.block_bytes / 4;
        let used = visit.inode.size_bytes.div_ceil(self.superblock.block_bytes);
        visit.wanted.end = visit.wanted.end.min(used);
        for first in 0..DIRECT {
            self.pointer(visit, le32(&pointers, first as usize * 4), first, 0)?;
        }
        let mut first = DIRECT;
        for level in 1..=3_u32 {
            self.pointer(visit, le32(&pointers, (DIRECT as usize + level as usize - 1) * 4), first, level)?;
            first += in_block.pow(level);
        }
        Ok(())
    }

    /// Visits what a pointer leads to: a block of the file at level 0, a block of pointers of the level below otherwise.
    fn pointer(&self, visit: &mut Visit<'_>, place: u32, first: u64, level: u32) -> Result<(), TreeError> {
        let in_block = self.superblock.block_bytes / 4;
        let covers = in_block.pow(level);
        if place == 0 || visit.is_over(first) || first + covers <= visit.wanted.start {
            return Ok(());
        }
        if level == 0 {
            let run = Run { first, blocks: 1, place: u64::from(place), unwritten: false };
            return visit.add(run, self.superblock.blocks);
        }
        let block = self.map_block(visit, u64::from(place))?;
        let below = covers / in_block;
        for (pointer, i) in block.chunks_exact(4).zip(0..) {
            self.pointer(visit, le32(pointer, 0), first + i * below, level - 1)?;
        }
        Ok(())
    }
}

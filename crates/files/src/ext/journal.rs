//! The journal (jbd2), read for what a replay would write.
//!
//! A transaction counts if its commit block is there and its checksum holds, as for the kernel. All of the journal is
//! big-endian.

use std::collections::HashMap;

use super::{
    Ext, Replayed,
    crc::{crc32c, crc32c_without},
    damaged, unsupported,
};
use crate::{
    blocks::Blocks,
    bytes::{be16, be32, be64, id, le16, le32},
    tree::TreeError,
};

pub(super) const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCKS: [u32; 2] = [3, 4];
const REVOKE: u32 = 5;
const HEADER_BYTES: usize = 12;

const COMPATIBLE_CHECKSUM: u32 = 1;
const BIT64: u32 = 2;
const ASYNC_COMMIT: u32 = 4;
const CSUM_V2: u32 = 8;
const CSUM_V3: u32 = 0x10;
const FAST_COMMIT: u32 = 0x20;
const KNOWN: u32 = 1 | BIT64 | ASYNC_COMMIT | CSUM_V2 | CSUM_V3 | FAST_COMMIT;

const ESCAPED: u32 = 1;
const SAME_UUID: u32 = 2;
const LAST: u32 = 8;

const FAST_COMMIT_BLOCKS: u32 = 256;
const FAST_COMMIT_HEAD: u16 = 9;
/// 16 GiB of blocks of 4 KiB; those that mkfs makes have 1 GiB at most.
const JOURNAL_BLOCKS_MAX: u32 = 4 << 20;
/// Blocks that the journal takes back, in all.
const REVOKED_MAX: usize = 16 << 20;

/// A journal that is being read.
struct Journal<'a, B> {
    ext: &'a Ext<B>,
    /// The runs of the journal's file: first block, number of blocks, place.
    runs: Vec<(u64, u64, u64)>,
    first: u32,
    /// The block after the last one of the ring.
    end: u32,
    incompatible: u32,
    /// The beginning of each checksum, if there are any.
    seed: Option<u32>,
}

/// What a transaction says of a block of the volume.
struct Tag {
    target: u64,
    replayed: Replayed,
    sum: u32,
    sequence: u32,
}

/// Whether transaction `a` came after `b`; the numbers go round.
fn is_later(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// The blocks of the volume that a replay would change.
pub(super) fn replay<B: Blocks>(ext: &Ext<B>) -> Result<HashMap<u64, Replayed>, TreeError> {
    if ext.superblock.journal_device != 0 || ext.superblock.journal_inode == 0 {
        return Err(unsupported("a file system whose journal is on another device"));
    }
    let inode = ext.inode(u64::from(ext.superblock.journal_inode))?;
    let mut runs = Vec::new();
    ext.map(&inode, 0..u64::from(JOURNAL_BLOCKS_MAX), &mut |run| {
        runs.push((run.first, run.blocks, run.place));
        true
    })?;
    let mut journal = Journal { ext, runs, first: 0, end: 0, incompatible: 0, seed: None };
    let superblock = journal.block(0)?;
    if be32(&superblock, 0) != MAGIC || !SUPERBLOCKS.contains(&be32(&superblock, 4)) {
        return Err(damaged(inode.number, "the journal has no superblock"));
    }
    if u64::from(be32(&superblock, 0xc)) != ext.superblock.block_bytes {
        return Err(damaged(inode.number, "the journal has blocks of another length"));
    }
    let is_old = be32(&superblock, 4) == SUPERBLOCKS[0];
    let feature = |at| if is_old { 0 } else { be32(&superblock, at) };
    let (compatible, incompatible) = (feature(0x24), feature(0x28));
    if incompatible & !KNOWN != 0 {
        return Err(unsupported(format!("a journal with the features {:#x}", incompatible & !KNOWN)));
    }
    if incompatible & (CSUM_V2 | CSUM_V3) != 0 {
        if crc32c_without(!0, &superblock[..1024], 0xfc..0x100) != be32(&superblock, 0xfc) {
            return Err(damaged(inode.number, "the checksum of the journal's superblock does not hold"));
        }
        journal.seed = Some(crc32c(!0, &id(&superblock, 0x30)));
    } else if compatible & COMPATIBLE_CHECKSUM != 0 && incompatible & ASYNC_COMMIT != 0 {
        return Err(unsupported("a journal with asynchronous commits and old checksums"));
    }
    let (length, start) = (be32(&superblock, 0x10), be32(&superblock, 0x1c));
    let fast = match (incompatible & FAST_COMMIT != 0, be32(&superblock, 0x54)) {
        (false, _) => 0,
        (true, 0) => FAST_COMMIT_BLOCKS,
        (true, blocks) => blocks,
    };
    journal.first = be32(&superblock, 0x14);
    journal.end = length.saturating_sub(fast);
    journal.incompatible = incompatible;
    if start == 0 {
        return Ok(HashMap::new());
    }
    if length > JOURNAL_BLOCKS_MAX {
        return Err(unsupported(format!("a journal of {length} blocks")));
    }
    let is_ring = journal.first > 0 && journal.first < journal.end;
    if !is_ring || !(journal.first..journal.end).contains(&start) {
        return Err(damaged(inode.number, "the journal's superblock makes no sense"));
    }
    let (found, sequence) = journal.scan(start, be32(&superblock, 0x18))?;
    if fast > 0 && journal.has_fast_commits(sequence)? {
        return Err(unsupported("a file system with fast commits that wait to be replayed"));
    }
    Ok(found)
}

impl<B: Blocks> Journal<'_, B> {
    fn block(&self, number: u32) -> Result<Vec<u8>, TreeError> {
        self.ext.volume.block(self.place(number)?)
    }

    fn next(&self, number: u32) -> u32 {
        if number + 1 >= self.end { self.first } else { number + 1 }
    }

    /// Whether the checksum at the end of a descriptor or of a list of revoked blocks holds.
    fn tail_holds(&self, block: &[u8]) -> bool {
        let tail = block.len() - 4;
        self.seed.is_none_or(|seed| crc32c_without(seed, block, tail..tail + 4) == be32(block, tail))
    }

    fn commit_holds(&self, block: &[u8]) -> bool {
        self.seed.is_none_or(|seed| crc32c_without(seed, block, 16..20) == be32(block, 16))
    }

    /// Goes through the transactions from `start` on. Returns what they change, and the number of the first one that is
    /// not there any more.
    fn scan(&self, start: u32, mut sequence: u32) -> Result<(HashMap<u64, Replayed>, u32), TreeError> {
        let mut tags: Vec<Tag> = Vec::new();
        let mut revoked: HashMap<u64, u32> = HashMap::new();
        let mut pending: (Vec<Tag>, Vec<u64>) = (Vec::new(), Vec::new());
        let mut at = start;
        let mut left = self.end - self.first;
        while left > 0 {
            let block = self.block(at)?;
            if be32(&block, 0) != MAGIC || be32(&block, 8) != sequence {
                break;
            }
            left -= 1;
            at = self.next(at);
            match be32(&block, 4) {
                DESCRIPTOR if self.tail_holds(&block) => {
                    let Some(found) = self.tags(&block, sequence, &mut at, &mut left)? else { break };
                    pending.0.extend(found);
                }
                REVOKE if self.tail_holds(&block) => {
                    pending.1.extend(self.revoked(&block));
                    if pending.1.len() + revoked.len() > REVOKED_MAX {
                        return Err(unsupported("a journal that takes back so many blocks"));
                    }
                }
                COMMIT if self.commit_holds(&block) => {
                    tags.append(&mut pending.0);
                    for target in pending.1.drain(..) {
                        revoked.insert(target, sequence);
                    }
                    sequence = sequence.wrapping_add(1);
                }
                _ => break,
            }
        }
        let mut found = HashMap::new();
        for tag in tags {
            let is_revoked = revoked.get(&tag.target).is_some_and(|by| !is_later(tag.sequence, *by));
            if is_revoked {
                continue;
            }
            if tag.target >= self.ext.superblock.blocks {
                return Err(damaged(0, "the journal changes blocks that lie outside"));
            }
            self.verify(&tag)?;
            found.insert(tag.target, tag.replayed);
        }
        Ok((found, sequence))
    }

    /// The tags of a descriptor; their blocks follow it. Nothing if the journal ends before.
    fn tags(
        &self,
        block: &[u8],
        sequence: u32,
        at: &mut u32,
        left: &mut u32,
    ) -> Result<Option<Vec<Tag>>, TreeError> {
        let is_wide = self.incompatible & BIT64 != 0;
        let is_third = self.incompatible & CSUM_V3 != 0;
        let short = if self.incompatible & CSUM_V2 != 0 { 10 } else { 8 };
        let tag_bytes = if is_third { 16 } else { short + if is_wide { 4 } else { 0 } };
        let end = block.len() - if self.seed.is_some() { 4 } else { 0 };
        let mut tags = Vec::new();
        let mut offset = HEADER_BYTES;
        while offset + tag_bytes <= end {
            let tag = &block[offset..offset + tag_bytes];
            let (flags, sum) = if is_third {
                (be32(tag, 4), be32(tag, 12))
            } else {
                (u32::from(be16(tag, 6)), u32::from(be16(tag, 4)))
            };
            let high = if is_wide { u64::from(be32(tag, 8)) << 32 } else { 0 };
            if *left == 0 {
                return Ok(None);
            }
            let place = self.place(*at)?;
            let replayed = Replayed { block: place, escaped: flags & ESCAPED != 0 };
            tags.push(Tag { target: u64::from(be32(tag, 0)) | high, replayed, sum, sequence });
            *at = self.next(*at);
            *left -= 1;
            offset += tag_bytes + if flags & SAME_UUID == 0 { 16 } else { 0 };
            if flags & LAST != 0 {
                break;
            }
        }
        Ok(Some(tags))
    }

    /// Where a block of the journal lies on the volume.
    fn place(&self, number: u32) -> Result<u64, TreeError> {
        let number = u64::from(number);
        let run = self.runs.partition_point(|(first, _, _)| *first <= number).checked_sub(1);
        let run = run.map(|i| self.runs[i]).filter(|(first, blocks, _)| number < first + blocks);
        let wrong = damaged(u64::from(self.ext.superblock.journal_inode), "the journal has holes");
        run.map(|(first, _, place)| place + (number - first)).ok_or(wrong)
    }

    fn revoked(&self, block: &[u8]) -> Vec<u64> {
        let used = (be32(block, 12) as usize).clamp(16, block.len());
        if self.incompatible & BIT64 != 0 {
            block[16..used].chunks_exact(8).map(|entry| be64(entry, 0)).collect()
        } else {
            block[16..used].chunks_exact(4).map(|entry| u64::from(be32(entry, 0))).collect()
        }
    }

    /// Verifies the block that a tag stands for.
    fn verify(&self, tag: &Tag) -> Result<(), TreeError> {
        let Some(seed) = self.seed else { return Ok(()) };
        let block = self.ext.volume.block(tag.replayed.block)?;
        let sum = crc32c(crc32c(seed, &tag.sequence.to_be_bytes()), &block);
        let holds =
            if self.incompatible & CSUM_V3 != 0 { sum == tag.sum } else { sum as u16 == tag.sum as u16 };
        if holds { Ok(()) } else { Err(damaged(0, "the checksum of a block in the journal does not hold")) }
    }

    /// Whether fast commits follow the last transaction: they begin with its successor's number, one block behind the
    /// ring.
    fn has_fast_commits(&self, sequence: u32) -> Result<bool, TreeError> {
        let block = self.block(self.end + 1)?;
        Ok(le16(&block, 0) == FAST_COMMIT_HEAD && le32(&block, 8) == sequence)
    }
}

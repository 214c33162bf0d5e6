//! The journal (jbd2), read for what a replay would write.
//!
//! A transaction counts if its commit block is there. Whether a checksum that does not hold ends the journal or makes it
//! one that must not be used is decided as the kernel decides it (`fs/jbd2/recovery.c`). All of the journal is
//! big-endian.

use std::collections::HashMap;

use crc_fast::{CrcAlgorithm, Digest};

use super::{Ext, Replay, Replayed, damaged, inode::Inode, unsupported};
use crate::{
    blocks::Blocks,
    bytes::{be16, be32, be64, byte, id, le16, le32},
    crc::{crc32c, crc32c_without},
    tree::TreeError,
};

pub(super) const MAGIC: u32 = 0xc03b_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCKS: [u32; 2] = [3, 4];
const REVOKE: u32 = 5;
const HEADER_BYTES: usize = 12;
const COMMIT_HEADER_BYTES: usize = 64;
/// The kernel's `crc32_be`, but for an inversion at the end.
const SUM: CrcAlgorithm = CrcAlgorithm::Crc32Bzip2;
/// The type of checksum that versions 2 and 3 have.
const CRC32C: u8 = 4;

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
    /// The first block of the ring.
    first: u32,
    /// The block after the last one of the ring.
    end: u32,
    incompatible: u32,
    /// Each transaction has one checksum of all its blocks (version 1).
    has_sums_of_transactions: bool,
    /// The beginning of each checksum of a block (versions 2 and 3), if there are any.
    seed: Option<u32>,
}

/// What a transaction says of a block of the volume.
struct Tag {
    target: u64,
    replayed: Replayed,
    sum: u32,
    sequence: u32,
}

/// What a replay would write.
#[derive(Default)]
pub(super) struct Found {
    pub overlay: HashMap<u64, Replayed>,
    pub replay: Replay,
}

/// Whether transaction `a` came after `b`; the numbers go round.
fn is_later(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

/// What a replay of the journal would change.
pub(super) fn replay<B: Blocks>(ext: &Ext<B>) -> Result<Found, TreeError> {
    if ext.superblock.journal_device != 0 || ext.superblock.journal_inode == 0 {
        return Err(unsupported("a file system whose journal is on another device"));
    }
    let inode = ext.inode(u64::from(ext.superblock.journal_inode))?;
    let wrong = |what| Err(damaged(inode.number, what));
    let mut journal = Journal {
        ext,
        runs: Vec::new(),
        first: 0,
        end: 0,
        incompatible: 0,
        has_sums_of_transactions: false,
        seed: None,
    };
    journal.map(&inode, 1)?;
    let superblock = journal.block(0)?;
    if be32(&superblock, 0) != MAGIC || !SUPERBLOCKS.contains(&be32(&superblock, 4)) {
        return wrong("the journal has no superblock");
    }
    if u64::from(be32(&superblock, 0xc)) != ext.superblock.block_bytes {
        return wrong("the journal has blocks of another length");
    }
    let is_old = be32(&superblock, 4) == SUPERBLOCKS[0];
    let feature = |at| if is_old { 0 } else { be32(&superblock, at) };
    let (compatible, incompatible) = (feature(0x24), feature(0x28));
    if incompatible & !KNOWN != 0 {
        return Err(unsupported(format!("a journal with the features {:#x}", incompatible & !KNOWN)));
    }
    journal.has_sums_of_transactions = compatible & COMPATIBLE_CHECKSUM != 0;
    journal.incompatible = incompatible;
    let versions = [CSUM_V2, CSUM_V3].iter().filter(|version| incompatible & **version != 0).count();
    if versions + usize::from(journal.has_sums_of_transactions) > 1 {
        return wrong("the journal has checksums of several versions");
    }
    if versions > 0 {
        if byte(&superblock, 0x50) != CRC32C {
            return Err(unsupported("a journal with other checksums than CRC-32C"));
        }
        if crc32c_without(!0, &superblock[..1024], 0xfc..0x100) != be32(&superblock, 0xfc) {
            return wrong("the checksum of the journal's superblock does not hold");
        }
        journal.seed = Some(crc32c(!0, &id(&superblock, 0x30)));
    }
    let (length, start) = (be32(&superblock, 0x10), be32(&superblock, 0x1c));
    let fast = match (incompatible & FAST_COMMIT != 0, be32(&superblock, 0x54)) {
        (false, _) => 0,
        (true, 0) => FAST_COMMIT_BLOCKS,
        (true, blocks) => blocks,
    };
    journal.first = be32(&superblock, 0x14);
    journal.end = length.saturating_sub(fast);
    if start == 0 {
        return Ok(Found::default());
    }
    if length > JOURNAL_BLOCKS_MAX {
        return Err(unsupported(format!("a journal of {length} blocks")));
    }
    let has_room = u64::from(length) <= inode.size_bytes.div_ceil(ext.superblock.block_bytes)
        && u64::from(length) <= ext.superblock.blocks;
    if !has_room {
        return wrong("the journal is shorter than its superblock says");
    }
    let is_ring = journal.first > 0 && journal.first < journal.end;
    if !is_ring || !(journal.first..journal.end).contains(&start) {
        return wrong("the journal's superblock makes no sense");
    }
    journal.map(&inode, length)?;
    let (found, sequence) = journal.scan(start, be32(&superblock, 0x18))?;
    if fast > 0 && journal.has_fast_commits(sequence)? {
        return Err(unsupported("a file system with fast commits that wait to be replayed"));
    }
    Ok(found)
}

/// How far a scan has come.
struct Scan {
    /// The transaction that is being read.
    sequence: u32,
    /// Of transactions that are complete.
    tags: Vec<Tag>,
    /// Blocks that later transactions took back, and the newest one that did.
    revoked: HashMap<u64, u32>,
    /// Of the transaction that is being read.
    pending: (Vec<Tag>, Vec<u64>),
    /// A checksum of it does not hold.
    is_suspect: bool,
    /// What it takes back makes no sense, which matters only once it is complete.
    is_senseless: bool,
    /// The checksum of all its blocks.
    sum: Digest,
    /// When the one before was committed.
    committed_seconds: u64,
    /// One is damaged: neither it nor any later one counts.
    failed: bool,
    replay: Replay,
}

/// Whether the scan goes on.
enum Next {
    Block,
    End,
}

impl<B: Blocks> Journal<'_, B> {
    fn block(&self, number: u32) -> Result<Vec<u8>, TreeError> {
        self.ext.volume.block(self.place(number)?)
    }

    fn next(&self, number: u32) -> u32 {
        if number + 1 >= self.end { self.first } else { number + 1 }
    }

    /// Finds the first `blocks` blocks of the journal.
    fn map(&mut self, inode: &Inode, blocks: u32) -> Result<(), TreeError> {
        let (mut runs, ext) = (Vec::new(), self.ext);
        ext.map(inode, 0..u64::from(blocks), &mut |run| {
            runs.push((run.first, run.blocks, run.place));
            true
        })?;
        self.runs = runs;
        Ok(())
    }

    /// Whether the checksum at the end of a descriptor or of a list of revoked blocks holds.
    fn tail_holds(&self, block: &[u8]) -> bool {
        let tail = block.len() - 4;
        self.seed.is_none_or(|seed| crc32c_without(seed, block, tail..tail + 4) == be32(block, tail))
    }

    /// Whether the checksum of a commit block holds, be it that of the whole block or, as with some kernels, of its
    /// header alone.
    fn commit_holds(&self, block: &[u8], sum: &Digest) -> bool {
        if self.has_sums_of_transactions {
            let found = (byte(block, 12), byte(block, 13), be32(block, 16));
            return found == (0, 0, 0) || found == (1, 4, !(sum.finalize() as u32));
        }
        let Some(seed) = self.seed else { return true };
        let mut header = vec![0; block.len()];
        header[..COMMIT_HEADER_BYTES].copy_from_slice(&block[..COMMIT_HEADER_BYTES]);
        [block, &header].iter().any(|block| crc32c_without(seed, block, 16..20) == be32(block, 16))
    }

    /// Goes through the transactions from `start` on. Returns what they change, and the number of the first one that is
    /// not there any more.
    fn scan(&self, start: u32, sequence: u32) -> Result<(Found, u32), TreeError> {
        let mut scan = Scan {
            sequence,
            tags: Vec::new(),
            revoked: HashMap::new(),
            pending: (Vec::new(), Vec::new()),
            is_suspect: false,
            is_senseless: false,
            sum: Digest::new(SUM),
            committed_seconds: 0,
            failed: false,
            replay: Replay::default(),
        };
        let mut at = start;
        let mut left = self.end - self.first;
        while left > 0 {
            let block = self.block(at)?;
            if be32(&block, 0) != MAGIC || be32(&block, 8) != scan.sequence {
                break;
            }
            left -= 1;
            at = self.next(at);
            scan.replay.went_round |= at == self.first;
            match be32(&block, 4) {
                DESCRIPTOR => {
                    scan.is_suspect |= !self.tail_holds(&block);
                    let Some(found) = self.tags(&block, &mut scan, &mut at, &mut left)? else { break };
                    scan.pending.0.extend(found);
                }
                REVOKE => {
                    scan.is_suspect |= !self.tail_holds(&block);
                    match self.revoked(&block) {
                        Some(revoked) => scan.pending.1.extend(revoked),
                        None => scan.is_senseless = true,
                    }
                    if scan.pending.1.len() + scan.revoked.len() > REVOKED_MAX {
                        return Err(unsupported("a journal that takes back so many blocks"));
                    }
                }
                COMMIT => match self.commit(&block, &mut scan)? {
                    Next::Block => {}
                    Next::End => break,
                },
                _ => break,
            }
        }
        let sequence = scan.sequence;
        Ok((self.found(scan)?, sequence))
    }

    /// The transaction that is being read is complete, or damaged. A damaged one that is older than the one before it
    /// is left from an earlier use of these blocks and ends the journal; any other means that the journal is damaged,
    /// and Linux does not mount it.
    fn commit(&self, block: &[u8], scan: &mut Scan) -> Result<Next, TreeError> {
        const SUM_FAILS: &str = "the checksum of a transaction in the journal does not hold";
        let corrupt = |what| Err(damaged(u64::from(self.ext.superblock.journal_inode), what));
        let seconds = be64(block, 48);
        let is_left_over = seconds < scan.committed_seconds;
        if scan.is_suspect {
            return if is_left_over { Ok(Next::End) } else { corrupt(SUM_FAILS) };
        }
        if scan.failed && self.has_sums_of_transactions {
            return corrupt(SUM_FAILS);
        }
        if !self.commit_holds(block, &scan.sum) {
            if is_left_over {
                return Ok(Next::End);
            }
            // With asynchronous commits, a commit block may be written before what it commits.
            if scan.failed || self.incompatible & ASYNC_COMMIT == 0 {
                return corrupt(SUM_FAILS);
            }
            scan.failed = true;
        }
        if scan.is_senseless && !scan.failed {
            return corrupt("a list of blocks that the journal takes back makes no sense");
        }
        if scan.failed {
            scan.pending = (Vec::new(), Vec::new());
        } else {
            scan.tags.append(&mut scan.pending.0);
            for target in scan.pending.1.drain(..) {
                scan.revoked.insert(target, scan.sequence);
            }
            scan.replay.transactions += 1;
        }
        scan.sum = Digest::new(SUM);
        scan.is_senseless = false;
        scan.committed_seconds = seconds;
        scan.sequence = scan.sequence.wrapping_add(1);
        Ok(Next::Block)
    }

    /// What the transactions change together.
    fn found(&self, scan: Scan) -> Result<Found, TreeError> {
        let Scan { tags, revoked, mut replay, .. } = scan;
        let mut overlay = HashMap::new();
        for tag in tags {
            let is_revoked = revoked.get(&tag.target).is_some_and(|by| !is_later(tag.sequence, *by));
            if is_revoked {
                replay.revoked += 1;
                continue;
            }
            if tag.target >= self.ext.superblock.blocks {
                return Err(damaged(0, "the journal changes blocks that lie outside"));
            }
            self.verify(&tag)?;
            overlay.insert(tag.target, tag.replayed);
        }
        replay.blocks = overlay.len();
        replay.escaped = overlay.values().filter(|replayed| replayed.escaped).count();
        Ok(Found { overlay, replay })
    }

    /// The tags of a descriptor; their blocks follow it. Nothing if the journal ends before.
    fn tags(
        &self,
        block: &[u8],
        scan: &mut Scan,
        at: &mut u32,
        left: &mut u32,
    ) -> Result<Option<Vec<Tag>>, TreeError> {
        let sequence = scan.sequence;
        if self.has_sums_of_transactions {
            scan.sum.update(block);
        }
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
            if self.has_sums_of_transactions {
                scan.sum.update(&self.block(*at)?);
            }
            *at = self.next(*at);
            scan.replay.went_round |= *at == self.first;
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

    /// The blocks that a transaction takes back; `None` if there would have to be more than fit.
    fn revoked(&self, block: &[u8]) -> Option<Vec<u64>> {
        let room = block.len() - if self.seed.is_some() { 4 } else { 0 };
        let used = be32(block, 12) as usize;
        let entries = block.get(16..used.max(16)).filter(|_| used <= room)?;
        Some(if self.incompatible & BIT64 != 0 {
            entries.chunks_exact(8).map(|entry| be64(entry, 0)).collect()
        } else {
            entries.chunks_exact(4).map(|entry| u64::from(be32(entry, 0))).collect()
        })
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

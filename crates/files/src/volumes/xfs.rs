//! XFS (its documentation "XFS Algorithms & Data Structures", superblock and "Journaling Log").
//!
//! A mount leaves no mark in the superblock. The log tells: an unmount ends it with a record of its own, and whatever is
//! logged afterwards comes behind that. So the end of the log is looked for, and the record before it.
//!
//! The log is a ring of blocks of 512 bytes. Each block begins with the number of the round in which it was written
//! (in the first block of a record it comes second), so the end is where the number falls.

#[cfg(test)]
mod tests;

use super::{Found, Kind, Probe, State};
use crate::{
    blocks::ReadError,
    bytes::{be16, be32, be64, byte, has, id},
};

pub(crate) const BLOCK: u64 = 512;
pub(crate) const RECORD_MAGIC: u32 = 0xfeed_babe;
const UNMOUNT: u8 = 0x20;
const NEEDS_REPAIR: u32 = 1 << 4;
/// Up to 8 buffers of up to 256 KiB are written at once, in any order: so far back may an unfinished write reach, and
/// so far before the end does the last record begin.
pub(crate) const WINDOW_BLOCKS: u64 = 8 * (256 << 10) / BLOCK + 16;
/// What the first block of a header has room for; longer records have more headers.
pub(crate) const HEADER_COVERS: u32 = 32 << 10;

/// The log of an XFS: a ring of blocks.
pub(crate) struct Log<'a> {
    probe: Probe<'a>,
    start: u64,
    /// How many blocks there are.
    pub blocks: u64,
    /// The id that its records have.
    pub filesystem: [u8; 16],
}

/// What a look at the log tells.
pub(crate) enum Tail {
    Unmounted,
    Dirty(&'static str),
    Unknown(&'static str),
}

impl Log<'_> {
    /// A block; numbers go round.
    pub(crate) fn block(&self, number: u64) -> Result<Vec<u8>, ReadError> {
        let at = self.start + (number % self.blocks) * BLOCK;
        Ok(self.probe.bytes(at, BLOCK as usize)?.unwrap_or_default())
    }

    /// The round in which a block was written.
    fn round(&self, number: u64) -> Result<u32, ReadError> {
        let block = self.block(number)?;
        Ok(if be32(&block, 0) == RECORD_MAGIC { be32(&block, 4) } else { be32(&block, 0) })
    }

    /// The first block that does not belong to the newest round any more, up to `blocks`; `None` for a log that was
    /// never written.
    pub(crate) fn end(&self) -> Result<Result<u64, Tail>, ReadError> {
        let (first, last) = (self.round(0)?, self.round(self.blocks - 1)?);
        if first == 0 {
            return Ok(Err(Tail::Unknown("its log is empty")));
        }
        // A log in its first round ends in blocks of round 0, which were never written.
        if last != first && last.wrapping_add(1) != first {
            return Ok(Err(Tail::Dirty("its log has no end")));
        }
        let (mut newest, mut older) = (0, self.blocks);
        if last != first {
            older = self.blocks - 1;
            while older - newest > 1 {
                let middle = newest + (older - newest) / 2;
                if self.round(middle)? == first { newest = middle } else { older = middle }
            }
        }
        // Writes that were on their way may have left gaps before; the log ends at the first of them.
        let mut end = older;
        for back in 1..=WINDOW_BLOCKS.min(self.blocks - 1) {
            let number = (older + self.blocks - back) % self.blocks;
            let wanted = if number < older { first } else { first.saturating_sub(1) };
            match self.round(number)? {
                round if round == wanted => {}
                round if round.wrapping_add(1) == wanted => end = number,
                _ => return Ok(Err(Tail::Unknown("a block of its log belongs to no round"))),
            }
        }
        Ok(Ok(end))
    }

    fn tail(&self) -> Result<Tail, ReadError> {
        let end = match self.end()? {
            Ok(end) => end,
            Err(tail) => return Ok(tail),
        };
        for back in 1..=WINDOW_BLOCKS.min(self.blocks - 1) {
            let number = (end + self.blocks - back) % self.blocks;
            let header = self.block(number)?;
            let is_header = be32(&header, 0) == RECORD_MAGIC
                && be64(&header, 16) & 0xffff_ffff == number
                && be64(&header, 16) >> 32 == u64::from(be32(&header, 4));
            if !is_header {
                continue;
            }
            if id(&header, 304) != self.filesystem {
                return Ok(Tail::Unknown("its log belongs to another file system"));
            }
            return self.is_unmount(number, &header, back);
        }
        Ok(Tail::Dirty("its log ends in no record"))
    }

    /// Whether the record at `number`, which begins `left` blocks before the end, is that of an unmount.
    fn is_unmount(&self, number: u64, header: &[u8], left: u64) -> Result<Tail, ReadError> {
        let (len, operations, headers) = (be32(header, 12), be32(header, 40), headers(header));
        let blocks = headers.saturating_add(u64::from(len).div_ceil(BLOCK));
        if operations != 1 || blocks != left {
            return Ok(Tail::Dirty("its log does not end with an unmount"));
        }
        // An operation's header: transaction (4), length (4), client (1), flags (1). The first four bytes of the block
        // are the number of the round here.
        let operation = self.block(number.saturating_add(headers))?;
        Ok(if byte(&operation, 9) & UNMOUNT != 0 {
            Tail::Unmounted
        } else {
            Tail::Dirty("its log does not end with an unmount")
        })
    }
}

/// How many blocks of headers a record has.
pub(crate) fn headers(header: &[u8]) -> u64 {
    let (version, buffer) = (be32(header, 8), be32(header, 320));
    if version & 2 != 0 && buffer > HEADER_COVERS { u64::from(buffer.div_ceil(HEADER_COVERS)) } else { 1 }
}

/// The log of a volume with this superblock, or why there is none to be read.
pub(crate) fn log_of<'a>(probe: Probe<'a>, superblock: &[u8]) -> Result<Log<'a>, &'static str> {
    let block = u64::from(be32(superblock, 4));
    let group_shift = u32::from(byte(superblock, 124)).min(63);
    let log = be64(superblock, 48);
    if log == 0 {
        return Err("its log is on another volume");
    }
    let in_group = log & ((1 << group_shift) - 1);
    let start = (log >> group_shift)
        .checked_mul(u64::from(be32(superblock, 84)))
        .and_then(|blocks| blocks.checked_add(in_group))
        .and_then(|blocks| blocks.checked_mul(block));
    let blocks = u64::from(be32(superblock, 96)) * block / BLOCK;
    let end = start.and_then(|start| start.checked_add(blocks * BLOCK));
    match start {
        Some(start) if blocks >= 2 && end.is_some_and(|end| end <= probe.size()) => {
            Ok(Log { probe, start, blocks, filesystem: id(superblock, 32) })
        }
        _ => Err("its log lies outside"),
    }
}

pub(super) fn xfs(probe: Probe<'_>) -> Result<Option<Found>, ReadError> {
    let Some(superblock) = probe.bytes(0, 512)?.filter(|sb| has(sb, 0, b"XFSB")) else { return Ok(None) };
    let found = |state, evidence: &str| Ok(Some(Found::new(Kind::Xfs, state, evidence)));
    let block = u64::from(be32(&superblock, 4));
    let group_shift = u32::from(byte(&superblock, 124));
    if !(512..=65536).contains(&block) || !block.is_power_of_two() || group_shift > 31 {
        return found(State::Unknown, "its superblock makes no sense");
    }
    if be16(&superblock, 100) & 15 == 5 && be32(&superblock, 216) & NEEDS_REPAIR != 0 {
        return found(State::Dirty, "it is marked as in need of repair");
    }
    let log = match log_of(probe, &superblock) {
        Ok(log) => log,
        Err(why) => return found(State::Unknown, why),
    };
    match log.tail()? {
        Tail::Unmounted => found(State::Clean, "its log ends with an unmount"),
        Tail::Dirty(why) => found(State::Dirty, why),
        Tail::Unknown(why) => found(State::Unknown, why),
    }
}

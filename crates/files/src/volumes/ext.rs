//! ext2, ext3 and ext4 (Linux kernel documentation, ext4, "Super Block").

use crc_fast::{CrcAlgorithm, checksum};

use super::{Found, Kind, Probe, State};
use crate::{
    blocks::ReadError,
    bytes::{le16, le32},
};

const MAGIC: u16 = 0xef53;
const VALID: u16 = 1;
const ERRORS: u16 = 2;
const FAST_COMMIT_REPLAY: u16 = 0x20;
const HAS_JOURNAL: u32 = 4;
const NEEDS_RECOVERY: u32 = 4;
const JOURNAL_DEVICE: u32 = 8;
const METADATA_CSUM: u32 = 0x400;
/// What ext3 may have: file types, recovery, meta groups; sparse superblocks, large files, B-tree directories.
const EXT3_INCOMPATIBLE: u32 = 0x2 | NEEDS_RECOVERY | 0x10;
const EXT3_READ_ONLY: u32 = 0x1 | 0x2 | 0x4;

pub(super) fn ext(probe: Probe<'_>) -> Result<Option<Found>, ReadError> {
    let Some(superblock) = probe.bytes(1024, 1024)?.filter(|sb| le16(sb, 0x38) == MAGIC) else {
        return Ok(None);
    };
    // Blocks of 64 KiB are the largest there are; two bytes of magic are not much.
    if le32(&superblock, 0x18) > 6 {
        return Ok(None);
    }
    let state = le16(&superblock, 0x3a);
    let (compatible, incompatible, read_only) =
        (le32(&superblock, 0x5c), le32(&superblock, 0x60), le32(&superblock, 0x64));
    if incompatible & JOURNAL_DEVICE != 0 {
        return Ok(Some(Found::new(Kind::ExtJournal, State::Unknown, "holds the journal of another volume")));
    }
    let kind = if incompatible & !EXT3_INCOMPATIBLE != 0 || read_only & !EXT3_READ_ONLY != 0 {
        Kind::Ext4
    } else if compatible & HAS_JOURNAL != 0 {
        Kind::Ext3
    } else {
        Kind::Ext2
    };
    let mut reasons = Vec::new();
    if incompatible & NEEDS_RECOVERY != 0 {
        reasons.push("its journal has to be replayed (needs_recovery)".to_owned());
    }
    if state & VALID == 0 {
        reasons.push("it is not marked as unmounted".to_owned());
    }
    if state & ERRORS != 0 {
        let count = le32(&superblock, 0x194);
        reasons.push(format!("it is marked as having errors ({count} counted)"));
    }
    if state & FAST_COMMIT_REPLAY != 0 {
        reasons.push("a replay of fast commits was interrupted".to_owned());
    }
    let has_sum = read_only & METADATA_CSUM != 0;
    let sum = checksum(CrcAlgorithm::Crc32Iscsi, &superblock[..0x3fc]) as u32;
    // The kernel's sum is not inverted at the end.
    let otherwise = if has_sum && !sum != le32(&superblock, 0x3fc) {
        (State::Unknown, "the checksum of its superblock does not hold")
    } else if le32(&superblock, 0x194) > 0 {
        (State::Clean, "it is marked as unmounted; it counts errors of the past")
    } else {
        (State::Clean, "it is marked as unmounted, and its journal is empty")
    };
    Ok(Some(Found::unless(kind, &reasons, otherwise)))
}

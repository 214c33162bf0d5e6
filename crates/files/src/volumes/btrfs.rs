//! btrfs (its documentation, "On-disk format", superblock).
//!
//! An unmounted btrfs and a mounted one have the same superblock, except that a tree of fsyncs that a crash left has to
//! be replayed. So a btrfs can be dirty for certain, and never clean for certain.

use crc_fast::{CrcAlgorithm, checksum};

use super::{Found, Kind, Probe, State};
use crate::{
    blocks::ReadError,
    bytes::{has, le16, le32, le64},
};

const SUPERBLOCK: u64 = 64 << 10;
const MAGIC: &[u8; 8] = b"_BHRfS_M";

pub(super) fn btrfs(probe: Probe<'_>) -> Result<Option<Found>, ReadError> {
    let Some(superblock) = probe.bytes(SUPERBLOCK, 4096)?.filter(|sb| has(sb, 0x40, MAGIC)) else {
        return Ok(None);
    };
    if le64(&superblock, 0x30) != SUPERBLOCK {
        return Ok(None);
    }
    let sum_holds = le16(&superblock, 0xc4) != 0
        || checksum(CrcAlgorithm::Crc32Iscsi, &superblock[0x20..]) as u32 == le32(&superblock, 0);
    let found = if le64(&superblock, 0x60) != 0 {
        Found::new(Kind::Btrfs, State::Dirty, "it has a log tree that has to be replayed")
    } else if sum_holds {
        Found::new(
            Kind::Btrfs,
            State::Unknown,
            "it has no log tree to replay, as after an unmount; but it may have been mounted",
        )
    } else {
        Found::new(Kind::Btrfs, State::Unknown, "the checksum of its superblock does not hold")
    };
    Ok(Some(found))
}

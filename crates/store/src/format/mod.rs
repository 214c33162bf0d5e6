//! Every byte that the store writes, as pure functions between structures and bytes. `docs/format.md` is the
//! specification; a change here changes it, its list of versions and a fixture in the same commit.
//!
//! Decoders take bytes that may hold anything. They check before they believe, never panic, and never
//! allocate more than a constant times what they were given.

mod bytes;
pub mod checkpoint;
pub mod cursor;
pub mod events;
pub mod key;
pub mod manifest;
pub mod page;
pub mod record;
pub mod segment;

use bygone_model::Seq;

pub(crate) use bytes::{Bytes, PutBytes};

/// The version of all formats that this program writes, and the newest that it reads.
pub const VERSION: u16 = 1;

/// No log gets this far. A larger seq is not believed, so that whoever counts on from one that was read does not overflow.
pub const SEQ_MAX: Seq = Seq(1 << 62);

/// CRC-32C (Castagnoli), the checksum of everything in the store that nobody has a reason to forge.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or(u32::MAX)
}

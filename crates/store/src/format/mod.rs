//! Encoding and decoding of every byte that the store writes, as pure functions. `docs/format.md` is the specification;
//! a commit that changes a format also changes that page, its list of versions and a fixture.
//!
//! Decoders take arbitrary bytes. They validate before they use anything, never panic, and never allocate more than a
//! constant times the size of their input.

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

/// The highest valid seq. No log gets this far, and counting on from a valid seq cannot overflow.
pub const SEQ_MAX: Seq = Seq(1 << 62);

/// CRC-32C (Castagnoli), the checksum against accidental damage. Where a guest could forge it,
/// [`HeaderKey::hash`](key::HeaderKey::hash) is used instead.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes)).unwrap_or(u32::MAX)
}

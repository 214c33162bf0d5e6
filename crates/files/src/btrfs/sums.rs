//! The four kinds of checksums. A sum shorter than its field is followed by zeroes.

use blake2::{
    Blake2bVar,
    digest::{Update, VariableOutput},
};
use crc_fast::{CrcAlgorithm, checksum};
use sha2::{Digest, Sha256};
use twox_hash::XxHash64;

/// The length of a sum's field in headers.
pub(super) const FIELD_BYTES: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sums {
    Crc32c,
    XxHash64,
    Sha256,
    Blake2b,
}

impl Sums {
    pub(super) fn of_number(number: u16) -> Option<Sums> {
        [Sums::Crc32c, Sums::XxHash64, Sums::Sha256, Sums::Blake2b].get(usize::from(number)).copied()
    }

    /// The length of a sum in the tree of sums.
    pub(super) fn len(self) -> usize {
        match self {
            Sums::Crc32c => 4,
            Sums::XxHash64 => 8,
            Sums::Sha256 | Sums::Blake2b => 32,
        }
    }

    /// Whether `bytes` have the sum with which `wanted` begins.
    pub(super) fn holds(self, bytes: &[u8], wanted: &[u8]) -> bool {
        match self {
            Sums::Crc32c => {
                wanted.starts_with(&(checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_le_bytes())
            }
            Sums::XxHash64 => wanted.starts_with(&XxHash64::oneshot(0, bytes).to_le_bytes()),
            Sums::Sha256 => wanted.starts_with(&Sha256::digest(bytes)),
            Sums::Blake2b => {
                let mut sum = [0; 32];
                let Ok(mut hash) = Blake2bVar::new(sum.len()) else { return false };
                hash.update(bytes);
                hash.finalize_variable(&mut sum).is_ok() && wanted.starts_with(&sum)
            }
        }
    }
}

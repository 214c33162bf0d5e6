//! The keyed hash that tells a log's own headers from anything that a guest wrote.
//!
//! A guest chooses its payloads, so they may contain forged record headers. It cannot forge a valid hash: the hash is
//! keyed, the key is derived from a random secret of the log, and no guest ever sees either. The secret is in every
//! segment header and every manifest, so that any one of them is enough to check all files of the log, and a program
//! that copies, checks or repairs files needs nothing else. Everyone who can read the store's files can read the
//! secret: it keeps guests out, not thieves.

use std::{fmt, hash::Hasher};

use siphasher::sip::SipHasher13;

/// The length of a log's secret.
pub const SECRET_BYTES: usize = 32;
/// The length of a segment's salt.
pub const SALT_BYTES: usize = 32;

/// A log's id and secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Random, the same in every file of one log. It is the target's identity and no secret.
    pub id: [u8; 16],
    /// Random, and stored only in the files of the log.
    pub secret: [u8; SECRET_BYTES],
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Identity {
    /// The key of the log's header hashes.
    #[must_use]
    pub fn header_key(&self) -> HeaderKey {
        let mut derive =
            blake3::Hasher::new_derive_key("bygone log version 1, hashes of record headers and trailers");
        derive.update(&self.id);
        derive.update(&self.secret);
        let mut key = [0; 16];
        derive.finalize_xof().fill(&mut key);
        HeaderKey(key)
    }
}

/// The key of a log's header hashes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HeaderKey([u8; 16]);

impl fmt::Debug for HeaderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeaderKey")
    }
}

impl HeaderKey {
    /// `SipHash`-1-3 of `bytes`.
    #[must_use]
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(bytes);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_log_has_a_key_of_its_own() {
        let of = |id: u8, secret: u8| Identity { id: [id; 16], secret: [secret; SECRET_BYTES] }.header_key();
        assert_eq!(of(1, 2), of(1, 2));
        assert!(of(1, 2) != of(1, 3) && of(1, 2) != of(2, 2));
        assert_ne!(of(1, 2).hash(b"a header"), of(1, 3).hash(b"a header"));
        assert!(
            !format!("{:?} {:?}", of(1, 2), Identity { id: [1; 16], secret: [0x77; 32] }).contains("119")
        );
    }

    #[test]
    fn the_hash_is_siphash_1_3() {
        // With the key 0 … 15, against the paper's definition with one and three rounds.
        let key = HeaderKey(std::array::from_fn(|i| i as u8));
        let reference = reference(&key.0, &[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(key.hash(&[0, 1, 2, 3, 4, 5, 6, 7]), reference);
        let long: Vec<u8> = (0..56).collect();
        assert_eq!(key.hash(&long), self::reference(&key.0, &long));
    }

    /// An independent implementation of `SipHash`-c-d (Aumasson and Bernstein, 2012) with c = 1 and d = 3, for whole
    /// words only.
    fn reference(key: &[u8; 16], bytes: &[u8]) -> u64 {
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let (k0, k1) = (word(&key[..8]), word(&key[8..]));
        let mut v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        let round = |v: &mut [u64; 4]| {
            v[0] = v[0].wrapping_add(v[1]);
            v[1] = v[1].rotate_left(13) ^ v[0];
            v[0] = v[0].rotate_left(32);
            v[2] = v[2].wrapping_add(v[3]);
            v[3] = v[3].rotate_left(16) ^ v[2];
            v[0] = v[0].wrapping_add(v[3]);
            v[3] = v[3].rotate_left(21) ^ v[0];
            v[2] = v[2].wrapping_add(v[1]);
            v[1] = v[1].rotate_left(17) ^ v[2];
            v[2] = v[2].rotate_left(32);
        };
        let last = (bytes.len() as u64) << 56;
        for m in bytes.chunks_exact(8).map(word).chain([last]) {
            v[3] ^= m;
            round(&mut v);
            v[0] ^= m;
        }
        v[2] ^= 0xff;
        (0..3).for_each(|_| round(&mut v));
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

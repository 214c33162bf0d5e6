//! What makes a log's headers its own.
//!
//! A guest writes whatever it likes into payloads, headers included. What it cannot write is a header whose hash holds:
//! the hash is keyed, the key comes from a secret that is drawn when the log is made, and no guest ever sees either.
//! The secret stands in every segment's header, so that one segment is enough to check all others, and whoever copies,
//! checks or repairs files needs nothing else. Whoever can read the store's files knows it: it keeps guests out, not thieves.

use std::{fmt, hash::Hasher};

use siphasher::sip::SipHasher13;

/// Bytes of a log's secret.
pub const SECRET_BYTES: usize = 32;
/// Bytes of a segment's salt.
pub const SALT_BYTES: usize = 32;

/// Who a log is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Random; the same in every file of one log. No secret: it is the target's name outside.
    pub id: [u8; 16],
    /// Random, and known to nobody but the files of the log.
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
    /// `SipHash`-1-3 of some bytes.
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
        // Of the bytes 0 … 7 under the key 0 … 15, computed by hand from the paper's definition with one and three rounds.
        let key = HeaderKey(std::array::from_fn(|i| i as u8));
        let reference = reference(&key.0, &[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(key.hash(&[0, 1, 2, 3, 4, 5, 6, 7]), reference);
        let long: Vec<u8> = (0..56).collect();
        assert_eq!(key.hash(&long), self::reference(&key.0, &long));
    }

    /// `SipHash`-c-d of Aumasson and Bernstein (2012), written down once more with c = 1 and d = 3, for whole words only.
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

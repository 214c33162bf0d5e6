//! Log records: a 64-byte header, the payload, and behind it the checksums of its granules.
//!
//! ```text
//!  0 magic u32 | 4 header crc u32 | 8 seq u64 | 16 time i64 µs | 24 lba u64 sectors
//! 32 sectors u32 | 36 payload bytes u32 | 40 subject u32 | 44 op u8 | 45 flags u8 | 46 encryption u8 | 47 compression u8
//! 48 previous header's crc u32 | 52 incarnation u32 | 56 durable seq u64
//! 64 payload, padded to 8 | a crc u32 for each 4 KiB granule of the payload, padded to 8
//! ```
//! The header's crc covers the log's id, bytes 8..64 and the granule checksums, so a header that is right vouches for its
//! payload. The id is random and the target does not know it, so nothing that a target writes is taken for a record.
//! A header names the one before it (`previous`), so what an earlier life of the file left behind is never
//! taken for the log's continuation.

use bygone_model::{Lba, Micros, Sectors, Seq};

use super::{Bytes, PutBytes, SEQ_MAX, crc32c};

/// Bytes of a record's header.
pub const HEADER_BYTES: usize = 64;
/// The payload is checked in pieces of this many bytes, so that a small read need not fetch a large record.
pub const GRANULE_BYTES: usize = 4096;
/// The largest payload of one record: one request of 32 MiB.
pub const PAYLOAD_BYTES_MAX: usize = 32 << 20;
/// Records start at multiples of this.
pub const ALIGN_BYTES: u64 = 8;
/// The payload of a record that was placed by [`aligned_start`] begins at a multiple of this.
pub const BLOCK_BYTES: u64 = 4096;

const MAGIC: u32 = u32::from_le_bytes(*b"ByRe");

/// What a record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// The payload is the new content of the range. Subject: a volume.
    Write = 1,
    /// The range reads as zeroes. Subject: a volume.
    Zero = 2,
    /// The range reads as zeroes and was given up by the target. Subject: a volume.
    Trim = 3,
    /// The target flushed everything before this. Subject: none.
    Flush = 16,
    /// A state of the target; the payload is JSON. Subject: a branch.
    Event = 32,
    /// A change of the catalog (disks, branches, clock, …); the payload is JSON. Subject: none.
    Catalog = 33,
}

impl Op {
    fn of(code: u8) -> Option<Op> {
        Some(match code {
            1 => Op::Write,
            2 => Op::Zero,
            3 => Op::Trim,
            16 => Op::Flush,
            32 => Op::Event,
            33 => Op::Catalog,
            _ => return None,
        })
    }

    /// It changes blocks of a volume.
    #[must_use]
    pub fn is_block(self) -> bool {
        matches!(self, Op::Write | Op::Zero | Op::Trim)
    }
}

/// The range was taken over by reading the disk; the target did not write it then.
pub const FLAG_BASE: u8 = 1;

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its place in the log.
    pub seq: Seq,
    /// When it was received.
    pub time: Micros,
    /// First sector, for block records.
    pub lba: Lba,
    /// How many sectors, for block records.
    pub sectors: Sectors,
    /// Length of the payload.
    pub payload_bytes: u32,
    /// The volume or the branch it is about.
    pub subject: u32,
    /// What it does.
    pub op: Op,
    /// [`FLAG_BASE`].
    pub flags: u8,
    /// The crc of the header before this one (for a segment's first record: the segment header's).
    pub previous: u32,
    /// Counts the times that the log was opened for writing.
    pub incarnation: u32,
    /// Everything up to here was known to be durable when this was written.
    pub durable: Seq,
}

/// Bytes of the checksums behind a payload, padding included.
#[must_use]
pub const fn tail_bytes(payload_bytes: usize) -> usize {
    pad8(payload_bytes) - payload_bytes + pad8(payload_bytes.div_ceil(GRANULE_BYTES) * 4)
}

/// Where a record whose payload begins at a block of the file starts, when the one before it ends at `end`. A record starts
/// either right there or here, with zeroes before it.
#[must_use]
pub const fn aligned_start(end: u64) -> u64 {
    (end + HEADER_BYTES as u64).next_multiple_of(BLOCK_BYTES) - HEADER_BYTES as u64
}

/// Bytes of a whole record.
#[must_use]
pub const fn record_bytes(payload_bytes: usize) -> usize {
    HEADER_BYTES + payload_bytes + tail_bytes(payload_bytes)
}

/// Where the checksum of the payload's granule `index` stands, counted from the record's start.
#[must_use]
pub const fn granule_crc_offset(payload_bytes: usize, index: usize) -> usize {
    HEADER_BYTES + pad8(payload_bytes) + index * 4
}

const fn pad8(n: usize) -> usize {
    n.next_multiple_of(ALIGN_BYTES as usize)
}

impl Header {
    /// Encodes the header and the tail for `payload`; returns the header's crc, which the next record names.
    pub fn encode(
        &self,
        log_id: &[u8; 16],
        payload: &[u8],
        header: &mut [u8; HEADER_BYTES],
        tail: &mut Vec<u8>,
    ) -> u32 {
        let tail_start = tail.len();
        tail.resize(tail_start + pad8(payload.len()) - payload.len(), 0);
        let crcs_start = tail.len();
        for granule in payload.chunks(GRANULE_BYTES) {
            tail.put_u32(crc32c(granule));
        }
        tail.resize(tail_start + tail_bytes(payload.len()), 0);

        let mut at = 8;
        let mut field = |bytes: &[u8]| {
            header[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        field(&self.seq.0.to_le_bytes());
        field(&self.time.0.to_le_bytes());
        field(&self.lba.0.to_le_bytes());
        field(&(self.sectors.0 as u32).to_le_bytes());
        field(&self.payload_bytes.to_le_bytes());
        field(&self.subject.to_le_bytes());
        field(&[self.op as u8, self.flags, 0, 0]);
        field(&self.previous.to_le_bytes());
        field(&self.incarnation.to_le_bytes());
        field(&self.durable.0.to_le_bytes());
        let crc = header_crc(log_id, &header[8..], &tail[crcs_start..]);
        header[..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        crc
    }

    /// Decodes a header from its 64 bytes; its crc stays to be checked with [`header_crc`], as that needs
    /// the tail. `None`: there is no header here.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<(Header, u32)> {
        let mut b = Bytes(bytes.get(..HEADER_BYTES)?);
        if b.u32()? != MAGIC {
            return None;
        }
        let crc = b.u32()?;
        let (seq, time, lba) = (Seq(b.u64()?), Micros(b.i64()?), Lba(b.u64()?));
        let (sectors, payload_bytes, subject) = (Sectors(u64::from(b.u32()?)), b.u32()?, b.u32()?);
        let (op, flags, encryption, compression) = (Op::of(b.u8()?)?, b.u8()?, b.u8()?, b.u8()?);
        let (previous, incarnation, durable) = (b.u32()?, b.u32()?, Seq(b.u64()?));
        let fits = match op {
            Op::Write => sectors.bytes() == u64::from(payload_bytes) && payload_bytes > 0,
            Op::Zero | Op::Trim => payload_bytes == 0 && sectors.0 > 0,
            Op::Flush => payload_bytes == 0,
            Op::Event | Op::Catalog => true,
        };
        let range_ok = lba.0.checked_add(sectors.0).is_some_and(|end| end <= u64::MAX / 512);
        if !fits
            || !range_ok
            || seq > SEQ_MAX
            || payload_bytes as usize > PAYLOAD_BYTES_MAX
            || encryption != 0
            || compression != 0
        {
            return None;
        }
        let header = Header {
            seq,
            time,
            lba,
            sectors,
            payload_bytes,
            subject,
            op,
            flags,
            previous,
            incarnation,
            durable,
        };
        Some((header, crc))
    }

    /// Whether a header may begin here; saves decoding when searching.
    #[must_use]
    pub fn looks_like_one(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC.to_le_bytes())
    }

    /// Bytes of the record that this header begins.
    #[must_use]
    pub fn record_bytes(&self) -> u64 {
        record_bytes(self.payload_bytes as usize) as u64
    }
}

/// The crc of a header: over the log's id, its bytes 8..64 and the granule checksums behind the payload.
#[must_use]
pub fn header_crc(log_id: &[u8; 16], header_from_8: &[u8], granule_crcs: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(log_id);
    digest.update(header_from_8);
    digest.update(granule_crcs);
    u32::try_from(digest.finalize()).unwrap_or(u32::MAX)
}

/// What is wrong with a whole record's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// No header, or one whose checksum is wrong.
    Header,
    /// The header holds, the payload's granule of this index does not.
    Payload(usize),
}

/// Checks a whole record (header, payload and tail) and returns its header, the header's crc and its payload.
///
/// # Errors
/// What is wrong with it.
pub fn check<'a>(log_id: &[u8; 16], bytes: &'a [u8]) -> Result<(Header, u32, &'a [u8]), Flaw> {
    let (header, crc) = Header::decode(bytes).ok_or(Flaw::Header)?;
    let payload_bytes = header.payload_bytes as usize;
    let crcs =
        bytes.get(granule_crc_offset(payload_bytes, 0)..record_bytes(payload_bytes)).ok_or(Flaw::Header)?;
    if header_crc(log_id, &bytes[8..HEADER_BYTES], crcs) != crc {
        return Err(Flaw::Header);
    }
    let payload = &bytes[HEADER_BYTES..HEADER_BYTES + payload_bytes];
    for (index, (granule, expected)) in payload.chunks(GRANULE_BYTES).zip(crcs.chunks(4)).enumerate() {
        if crc32c(granule).to_le_bytes() != expected {
            return Err(Flaw::Payload(index));
        }
    }
    Ok((header, crc, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: [u8; 16] = *b"the id of a log!";

    fn encoded(payload: &[u8]) -> (Header, Vec<u8>) {
        let header = Header {
            seq: Seq(7),
            time: Micros(-3),
            lba: Lba(9),
            sectors: Sectors::of_bytes(payload.len() as u64),
            payload_bytes: payload.len() as u32,
            subject: 4,
            op: if payload.is_empty() { Op::Flush } else { Op::Write },
            flags: FLAG_BASE,
            previous: 11,
            incarnation: 12,
            durable: Seq(6),
        };
        let (mut head, mut tail) = ([0; HEADER_BYTES], Vec::new());
        header.encode(&ID, payload, &mut head, &mut tail);
        (header, [&head[..], payload, &tail].concat())
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        for len in [0, 512, 4096, 4608, 65536] {
            let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let (header, bytes) = encoded(&payload);
            assert_eq!(bytes.len() as u64, header.record_bytes());
            let (back, _, content) = check(&ID, &bytes).unwrap();
            assert_eq!((back, content), (header, &payload[..]));
        }
    }

    #[test]
    fn a_record_of_another_log_is_none() {
        let (_, bytes) = encoded(&[5; 512]);
        assert_eq!(check(&[0; 16], &bytes), Err(Flaw::Header));
    }

    #[test]
    fn every_single_bit_flip_is_noticed() {
        let (_, bytes) = encoded(&[5; 4608]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&ID, &flipped).is_err(), "bit {bit}");
        }
    }
}

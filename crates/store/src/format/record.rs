//! Log records: a 64-byte header, the checksums of the payload's granules if there are several, and the payload.
//!
//! ```text
//!  0 hash u64 | 8 magic u32 | 12 op u8 | 13 flags u8 | 14 transform u8 | 15 attempt u8 | 16 seq u64 | 24 time i64 µs
//! 32 lba u64 sectors | 40 length u32 (block records: sectors, else: bytes) | 44 subject u32 | 48 incarnation u32
//! 52 previous header's hash, low half u32 | 56 lag u32 | 60 payload check u32
//! 64 a crc u32 for each 4 KiB granule of the payload, padded to 8; nothing if there is one granule
//!    payload, padded to 8
//! ```
//! With [`FLAG_ALIGNED`] there is zero padding before the payload, up to a multiple of 4096 of the segment.
//!
//! The hash is keyed ([`super::key`]) and covers bytes 8..64, so 64 bytes are enough to know whether a record of this
//! log begins somewhere, and nothing that a guest writes is ever taken for one. The payload check is the granule's crc
//! or, if there are several, the crc of their crcs, so a valid header authenticates its payload. A header links to the
//! one before it (`previous`) and counts the failed writes before it (`attempt`), so nothing that an earlier life of
//! the file or a failed write left behind is ever taken for the log's continuation.

use bygone_model::{BranchId, Lba, Micros, Sectors, Seq, VolumeId};

use super::{Bytes, SEQ_MAX, crc32c, key::HeaderKey};

/// The length of a record's header.
pub const HEADER_BYTES: usize = 64;
/// The unit of a payload's checksums, so that a small read need not fetch a large record.
pub const GRANULE_BYTES: usize = 4096;
/// The largest payload of one record: one NBD request of 32 MiB.
pub const PAYLOAD_BYTES_MAX: usize = 32 << 20;
/// Records begin at multiples of this.
pub const ALIGN_BYTES: u64 = 8;
/// With [`FLAG_ALIGNED`] the payload begins at a multiple of this.
pub const PAYLOAD_ALIGN_BYTES: u64 = 4096;

const MAGIC: u32 = u32::from_le_bytes(*b"ByRe");
const HASH_BYTES: usize = 8;
const MAGIC_AT: usize = 8;

/// What a record does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The payload is the new content of the range. Subject: a volume.
    Write,
    /// The range reads as zeroes. Subject: a volume.
    Zero,
    /// The range reads as zeroes and is no longer needed by the target. Subject: a volume.
    Trim,
    /// A flush of everything before this. Subject: the log.
    Flush,
    /// A state of the target; the payload is JSON. Subject: a branch.
    Event,
    /// A change of the catalog (disks, branches, clock, …); the payload is JSON. Subject: the log.
    Catalog,
    /// An op of a newer program, which older ones may skip.
    Other(u8),
}

/// Codes below this are block records, whose length is in sectors.
const BLOCK_OPS_END: u8 = 16;

impl Op {
    /// The byte that stands for it.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Op::Write => 1,
            Op::Zero => 2,
            Op::Trim => 3,
            Op::Flush => 16,
            Op::Event => 32,
            Op::Catalog => 33,
            Op::Other(code) => code,
        }
    }

    /// The op with this code. An unknown one is `None` unless it may be skipped.
    pub(super) fn of(code: u8, may_skip: bool) -> Option<Op> {
        let known = [Op::Write, Op::Zero, Op::Trim, Op::Flush, Op::Event, Op::Catalog];
        let op = known.into_iter().find(|op| op.code() == code);
        op.or_else(|| (may_skip && code >= BLOCK_OPS_END).then_some(Op::Other(code)))
    }

    /// Whether it changes blocks of a volume.
    #[must_use]
    pub fn is_block(self) -> bool {
        matches!(self, Op::Write | Op::Zero | Op::Trim)
    }
}

/// The range was read from a tapped disk, when it was added or after something else changed it; the target did not
/// write it at this time.
pub const FLAG_BASE: u8 = 1;
/// The payload begins at a multiple of [`PAYLOAD_ALIGN_BYTES`] of its segment, after zero padding.
pub const FLAG_ALIGNED: u8 = 2;
/// A program that does not know the op may skip the record.
pub const FLAG_SKIP: u8 = 0x80;
const FLAGS_KNOWN: u8 = FLAG_BASE | FLAG_ALIGNED | FLAG_SKIP;

/// What a record is about. Volumes, branches and future kinds of things share one id space, whose upper four bits are
/// the kind, so that a follower can filter by subject without knowing any kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(pub u32);

impl Subject {
    /// The log itself.
    pub const LOG: Subject = Subject(0);
    /// The end of the numbers of each kind.
    pub const NUMBERS_END: u32 = 1 << 28;
    const VOLUME: u32 = 1;
    const BRANCH: u32 = 2;

    const fn of(kind: u32, number: u32) -> Subject {
        assert!(number < Subject::NUMBERS_END, "the catalog gives out no such number");
        Subject(kind << 28 | number)
    }

    /// The subject of a volume's records.
    #[must_use]
    pub const fn volume(id: VolumeId) -> Subject {
        Subject::of(Subject::VOLUME, id.0)
    }

    /// The subject of a branch's events.
    #[must_use]
    pub const fn branch(id: BranchId) -> Subject {
        Subject::of(Subject::BRANCH, id.0)
    }

    const fn number_of(self, kind: u32) -> Option<u32> {
        if self.0 >> 28 == kind { Some(self.0 & (Subject::NUMBERS_END - 1)) } else { None }
    }

    /// The volume, if it is one.
    #[must_use]
    pub fn as_volume(self) -> Option<VolumeId> {
        self.number_of(Subject::VOLUME).map(VolumeId)
    }

    /// The branch, if it is one.
    #[must_use]
    pub fn as_branch(self) -> Option<BranchId> {
        self.number_of(Subject::BRANCH).map(BranchId)
    }
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Header {
    /// Its position in the log.
    pub seq: Seq,
    pub time: Micros,
    /// First sector of a block record; otherwise 0.
    pub lba: Lba,
    /// Length of the range of a block record; otherwise 0.
    pub sectors: Sectors,
    /// Length of the payload.
    pub payload_bytes: u32,
    /// The log, a volume or a branch.
    pub subject: Subject,
    pub op: Op,
    /// [`FLAG_BASE`], [`FLAG_ALIGNED`], [`FLAG_SKIP`].
    pub flags: u8,
    /// How many writes to this segment had failed before, so that what they left is not taken for a successor of what
    /// replaced it.
    pub attempt: u8,
    /// The low half of the hash of the header before this one (for a segment's first record: the segment header's crc).
    pub previous: u32,
    /// The incarnation of the log that wrote it.
    pub incarnation: u32,
    /// Everything up to here was known to be durable when this record was written.
    pub durable: Seq,
}

/// A header of this log: its hash is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Proven {
    pub header: Header,
    pub hash: u64,
    /// The checksum of the payload.
    check: u32,
}

/// The length of the checksums before a payload, including padding.
#[must_use]
pub const fn crcs_bytes(payload_bytes: usize) -> usize {
    if payload_bytes <= GRANULE_BYTES { 0 } else { pad8(payload_bytes.div_ceil(GRANULE_BYTES) * 4) }
}

/// The length of a whole record whose payload is not aligned.
#[must_use]
pub const fn record_bytes(payload_bytes: usize) -> usize {
    HEADER_BYTES + crcs_bytes(payload_bytes) + pad8(payload_bytes)
}

/// The byte offset of the payload of a record that begins at `at`.
#[must_use]
pub const fn payload_at(at: u64, payload_bytes: usize, flags: u8) -> u64 {
    let behind = at + (HEADER_BYTES + crcs_bytes(payload_bytes)) as u64;
    if flags & FLAG_ALIGNED == 0 { behind } else { behind.next_multiple_of(PAYLOAD_ALIGN_BYTES) }
}

/// The byte offset of the end of a record that begins at `at`.
#[must_use]
pub const fn end(at: u64, payload_bytes: usize, flags: u8) -> u64 {
    payload_at(at, payload_bytes, flags) + pad8(payload_bytes) as u64
}

/// The length of the zero padding after a payload.
#[must_use]
pub const fn padding_bytes(payload_bytes: usize) -> usize {
    pad8(payload_bytes) - payload_bytes
}

/// The byte offset of the first padding byte, before or after the payload, that is not zero. The record's checksums do
/// not cover its padding. `bytes` are those of the record that begins at `at`.
#[must_use]
pub fn nonzero_padding(header: &Header, at: u64, bytes: &[u8]) -> Option<u64> {
    let payload_bytes = header.payload_bytes as usize;
    let count = payload_bytes.div_ceil(GRANULE_BYTES);
    let crcs_end = HEADER_BYTES + if count <= 1 { 0 } else { count * 4 };
    let payload = (header.payload_at(at) - at) as usize;
    let end = (header.end(at) - at) as usize;
    let mut padding = (crcs_end..payload).chain(payload + payload_bytes..end);
    padding.find(|i| bytes.get(*i).is_some_and(|byte| *byte != 0)).map(|i| at + i as u64)
}

const fn pad8(n: usize) -> usize {
    n.next_multiple_of(ALIGN_BYTES as usize)
}

/// The half of a header's hash that the next header has as its `previous`.
#[must_use]
pub const fn link(hash: u64) -> u32 {
    hash as u32
}

/// What is wrong with a record's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// They do not begin with a header of this log.
    Header,
    /// The header is of this log, but only a newer program understands it. The code of its op.
    Newer(u8),
    /// The header is valid, but the payload's granule with this index is not.
    Payload(usize),
}

impl Header {
    /// Encodes into `header` the header for `payload`, and appends to `crcs` the checksums that come between the two;
    /// returns the header's hash.
    ///
    /// # Panics
    /// If the payload is too long or does not have the length that the header says.
    pub fn encode(
        &self,
        key: &HeaderKey,
        payload: &[u8],
        header: &mut [u8; HEADER_BYTES],
        crcs: &mut Vec<u8>,
    ) -> u64 {
        assert!(payload.len() == self.payload_bytes as usize && payload.len() <= PAYLOAD_BYTES_MAX);
        let check = if payload.len() <= GRANULE_BYTES {
            crc32c(payload)
        } else {
            let start = crcs.len();
            payload.chunks(GRANULE_BYTES).for_each(|granule| crcs.extend(crc32c(granule).to_le_bytes()));
            let check = crc32c(&crcs[start..]);
            crcs.resize(start + crcs_bytes(payload.len()), 0);
            check
        };
        let length = if self.op.is_block() { self.sectors.0 as u32 } else { self.payload_bytes };
        let lag = u32::try_from(self.seq.0.saturating_sub(self.durable.0)).unwrap_or(u32::MAX);
        let mut at = MAGIC_AT;
        let mut field = |bytes: &[u8]| {
            header[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        field(&MAGIC.to_le_bytes());
        field(&[self.op.code(), self.flags, 0, self.attempt]);
        field(&self.seq.0.to_le_bytes());
        field(&self.time.0.to_le_bytes());
        field(&self.lba.0.to_le_bytes());
        field(&length.to_le_bytes());
        field(&self.subject.0.to_le_bytes());
        field(&self.incarnation.to_le_bytes());
        field(&self.previous.to_le_bytes());
        field(&lag.to_le_bytes());
        field(&check.to_le_bytes());
        let hash = key.hash(&header[HASH_BYTES..]);
        header[..HASH_BYTES].copy_from_slice(&hash.to_le_bytes());
        hash
    }

    /// Decodes the header in the first 64 bytes, if it belongs to the log with this key.
    ///
    /// # Errors
    /// [`Flaw::Header`] or [`Flaw::Newer`].
    pub fn decode(key: &HeaderKey, bytes: &[u8]) -> Result<Proven, Flaw> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or(Flaw::Header)?;
        if !Header::looks_like_one(bytes) {
            return Err(Flaw::Header);
        }
        let hash = key.hash(&bytes[HASH_BYTES..]);
        if bytes[..HASH_BYTES] != hash.to_le_bytes() {
            return Err(Flaw::Header);
        }
        let newer = Flaw::Newer(bytes[12]);
        let (header, check) = Header::fields(&bytes[MAGIC_AT + 4..]).ok_or(newer)?;
        Ok(Proven { header, hash, check })
    }

    /// Decodes a header in which exactly one bit is flipped. The hash is keyed and has 64 bits, so of the 512
    /// candidates only the true header is valid, up to a chance of 1 in 2^55.
    #[must_use]
    pub fn decode_flipped(key: &HeaderKey, bytes: &[u8]) -> Option<Proven> {
        let mut bytes: [u8; HEADER_BYTES] = *bytes.first_chunk()?;
        (0..HEADER_BYTES * 8).find_map(|bit| {
            let mask = 1 << (bit % 8);
            bytes[bit / 8] ^= mask;
            let proven = Header::decode(key, &bytes).ok();
            bytes[bit / 8] ^= mask;
            proven
        })
    }

    /// Decodes the fields after the magic number. `None`: this version does not write such a header.
    fn fields(bytes: &[u8]) -> Option<(Header, u32)> {
        let mut b = Bytes(bytes);
        let (code, flags, transform, attempt) = (b.u8()?, b.u8()?, b.u8()?, b.u8()?);
        let op = Op::of(code, flags & FLAG_SKIP != 0)?;
        let (seq, time, lba, length) = (Seq(b.u64()?), Micros(b.i64()?), Lba(b.u64()?), b.u32()?);
        let (subject, incarnation, previous) = (Subject(b.u32()?), b.u32()?, b.u32()?);
        let (lag, check) = (b.u32()?, b.u32()?);
        let sectors = Sectors(if op.is_block() { u64::from(length) } else { 0 });
        let payload_bytes = match op {
            Op::Write => sectors.bytes(),
            Op::Zero | Op::Trim => 0,
            _ => u64::from(length),
        };
        let fits = match op {
            Op::Write | Op::Zero | Op::Trim => length > 0 && subject.as_volume().is_some(),
            Op::Flush => length == 0,
            Op::Event => subject.as_branch().is_some(),
            Op::Catalog | Op::Other(_) => true,
        };
        let range_ok = lba.0.checked_add(sectors.0).is_some_and(|end| end <= u64::MAX / 512);
        // A record that may be skipped may have flags and a transform that this version does not know.
        let flags_known = flags & !FLAGS_KNOWN == 0 && transform == 0 || matches!(op, Op::Other(_));
        if !fits || !range_ok || !flags_known || seq > SEQ_MAX || payload_bytes > PAYLOAD_BYTES_MAX as u64 {
            return None;
        }
        let durable = if lag == u32::MAX { Seq::ZERO } else { Seq(seq.0.saturating_sub(u64::from(lag))) };
        let payload_bytes = payload_bytes as u32;
        let header = Header {
            seq,
            time,
            lba,
            sectors,
            payload_bytes,
            subject,
            op,
            flags,
            attempt,
            previous,
            incarnation,
            durable,
        };
        Some((header, check))
    }

    /// Whether a header may begin here: a cheap check before hashing.
    #[must_use]
    pub fn looks_like_one(bytes: &[u8]) -> bool {
        bytes.get(MAGIC_AT..MAGIC_AT + 4) == Some(&MAGIC.to_le_bytes())
    }

    /// The seq and the incarnation in a header that may begin here, unverified, so that a search can rule out most
    /// candidates without hashing them.
    #[must_use]
    pub fn claim(bytes: &[u8]) -> Option<(Seq, u32)> {
        const SEQ_AT: usize = 16;
        const INCARNATION_AT: usize = 48;
        let seq = bytes.get(SEQ_AT..SEQ_AT + 8)?.try_into().ok()?;
        let incarnation = bytes.get(INCARNATION_AT..INCARNATION_AT + 4)?.try_into().ok()?;
        Header::looks_like_one(bytes).then(|| (Seq(u64::from_le_bytes(seq)), u32::from_le_bytes(incarnation)))
    }

    /// The byte offset of the payload if the record begins at `at`.
    #[must_use]
    pub fn payload_at(&self, at: u64) -> u64 {
        payload_at(at, self.payload_bytes as usize, self.flags)
    }

    /// The byte offset of the record's end if it begins at `at`.
    #[must_use]
    pub fn end(&self, at: u64) -> u64 {
        end(at, self.payload_bytes as usize, self.flags)
    }
}

impl Proven {
    /// Whether `crcs`, the bytes between header and payload, begin with the checksums of the payload's granules. Always
    /// true for a payload of one granule, which has none there.
    #[must_use]
    pub fn vouches_for_crcs(&self, crcs: &[u8]) -> bool {
        let count = (self.header.payload_bytes as usize).div_ceil(GRANULE_BYTES);
        count <= 1 || crcs.get(..count * 4).is_some_and(|crcs| crc32c(crcs) == self.check)
    }

    /// Whether `granule` is the payload's granule `index`. `crcs` must have passed [`Proven::vouches_for_crcs`].
    #[must_use]
    pub fn vouches_for(&self, crcs: &[u8], index: usize, granule: &[u8]) -> bool {
        if self.header.payload_bytes as usize <= GRANULE_BYTES {
            return index == 0 && crc32c(granule) == self.check;
        }
        crcs.get(index * 4..index * 4 + 4) == Some(&crc32c(granule).to_le_bytes()[..])
    }

    /// Checks the payload of a record that begins at offset `at` of its segment and whose bytes are `bytes`; returns
    /// it.
    ///
    /// # Errors
    /// [`Flaw::Payload`], also if bytes are missing.
    pub fn payload<'a>(&self, at: u64, bytes: &'a [u8]) -> Result<&'a [u8], Flaw> {
        let header = &self.header;
        let from = (header.payload_at(at) - at) as usize;
        let crcs = bytes.get(HEADER_BYTES..HEADER_BYTES + crcs_bytes(header.payload_bytes as usize));
        let payload = bytes.get(from..from + header.payload_bytes as usize);
        let (Some(crcs), Some(payload)) = (crcs, payload) else { return Err(Flaw::Payload(0)) };
        if !self.vouches_for_crcs(crcs) {
            return Err(Flaw::Payload(0));
        }
        let wrong = payload
            .chunks(GRANULE_BYTES)
            .enumerate()
            .find(|(i, granule)| !self.vouches_for(crcs, *i, granule));
        wrong.map_or(Ok(payload), |(index, _)| Err(Flaw::Payload(index)))
    }
}

/// Checks a whole record that begins at offset `at` of its segment; returns its header and its payload.
///
/// # Errors
/// [`Flaw`]: what is wrong with it.
pub fn check<'a>(key: &HeaderKey, at: u64, bytes: &'a [u8]) -> Result<(Proven, &'a [u8]), Flaw> {
    let proven = Header::decode(key, bytes)?;
    let payload = proven.payload(at, bytes)?;
    Ok((proven, payload))
}

#[cfg(test)]
mod tests;

//! Segments: a 4096-byte header, records, and, once sealed, an index and a trailer that ends the file.
//!
//! ```text
//! header  0 magic 8 | 8 version u16 | 10 encryption u8 | 11 compression u8 | 12 number u32 | 16 log id 16
//!        32 first seq u64 | 40 created i64 µs | 48 incarnation u32 | 52 term u32 | 56 kind u8 | zero 7
//!        64 log secret 32 | 96 salt 32 | 128 key id 16 | … zero … | 4092 crc u32
//! index   entries (28 bytes each, sorted by volume, lba, seq) | marks (16 bytes each) | times (varints)
//! trailer 0 magic 8 | 8 records end u64 | 16 entries u32 | 20 marks u32 | 24 times bytes u32 | 28 index crc u32
//!        32 first seq u64 | 40 records u32 | 44 first time i64 | 52 number u32 | 56 hash u64
//! ```
//! The trailer's hash is keyed, like those of records, because the last bytes of an unsealed segment may be a guest's.

mod name;

use bygone_model::{Lba, Micros, Sectors, Seq, VolumeId};

use super::{
    Bytes, PutBytes, SEQ_MAX, VERSION, crc32c,
    key::{HeaderKey, Identity, SALT_BYTES, SECRET_BYTES},
    record::{FLAG_SKIP, Op, Subject},
};

pub use name::{Name, counted, label};

/// The length of a segment's header, and the offset of the first record.
pub const SEGMENT_HEADER_BYTES: usize = 4096;
/// The length of the trailer at the end of a sealed segment.
pub const TRAILER_BYTES: usize = 64;

/// The highest valid number.
const NUMBER_MAX: u32 = 1 << 31;

const FOLDER: &str = "log";
const MAGIC: &[u8; 8] = b"BYGONEsg";
const TRAILER_MAGIC: &[u8; 8] = b"BYGONEst";
const ENTRY_BYTES: usize = 28;
const MARK_BYTES: usize = 16;
/// How many bytes of a trailer its hash covers.
const HASHED_BYTES: usize = TRAILER_BYTES - 8;

/// The folder of the segments.
#[must_use]
pub fn folder() -> &'static str {
    FOLDER
}

/// Whether a segment may have this number. Counting on from a valid one cannot overflow.
pub(crate) fn is_number(number: u32) -> bool {
    (1..=NUMBER_MAX).contains(&number)
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct SegmentHeader {
    /// The segment's number, from 1 on.
    pub number: u32,
    pub log: Identity,
    pub first_seq: Seq,
    /// When the segment was begun.
    pub created: Micros,
    /// The incarnation of the log that began it.
    pub incarnation: u32,
    /// The term of the holder that began it.
    pub term: u32,
    /// Random and unique to this segment, whereas number, seqs and times may repeat after a power cut.
    pub salt: [u8; SALT_BYTES],
}

/// Why a header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFlaw {
    /// It is damaged, or not a segment header.
    Damaged,
    /// It is of this newer version or, if it has codes that this version does not have, of a later one.
    Newer(u16),
}

impl SegmentHeader {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        out.put(MAGIC);
        out.put_u16(VERSION);
        out.put_u16(0);
        out.put_u32(self.number);
        out.put(&self.log.id);
        out.put_u64(self.first_seq.0);
        out.put_i64(self.created.0);
        out.put_u32(self.incarnation);
        out.put_u32(self.term);
        out.put_u64(0);
        out.put(&self.log.secret);
        out.put(&self.salt);
        out.resize(SEGMENT_HEADER_BYTES - 4, 0);
        let crc = crc32c(&out);
        out.put_u32(crc);
        out
    }

    /// Decodes a header; also returns its crc, which is the `previous` of the first record.
    ///
    /// # Errors
    /// If it is damaged or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<(SegmentHeader, u32), HeaderFlaw> {
        let bytes = bytes.get(..SEGMENT_HEADER_BYTES).ok_or(HeaderFlaw::Damaged)?;
        let crc = crc32c(&bytes[..SEGMENT_HEADER_BYTES - 4]);
        if bytes[SEGMENT_HEADER_BYTES - 4..] != crc.to_le_bytes() {
            return Err(HeaderFlaw::Damaged);
        }
        let parse = || {
            let mut b = Bytes(bytes);
            let (magic, version, modes) = (b.take(8)?, b.u16()?, b.u16()?);
            let number = b.u32()?;
            let id = b.take(16)?.try_into().ok()?;
            let (first_seq, created, incarnation) = (Seq(b.u64()?), Micros(b.i64()?), b.u32()?);
            let (term, kind) = (b.u32()?, b.u8()?);
            b.take(7)?;
            let log = Identity { id, secret: b.take(SECRET_BYTES)?.try_into().ok()? };
            let salt = b.take(SALT_BYTES)?.try_into().ok()?;
            let header = SegmentHeader { number, log, first_seq, created, incarnation, term, salt };
            (magic == MAGIC).then_some((version, (modes, kind), header))
        };
        match parse() {
            Some((version, ..)) if version > VERSION => Err(HeaderFlaw::Newer(version)),
            Some((1.., codes, _)) if codes != (0, 0) => Err(HeaderFlaw::Newer(VERSION + 1)),
            Some((1.., _, header)) if header.first_seq <= SEQ_MAX => Ok((header, crc)),
            _ => Err(HeaderFlaw::Damaged),
        }
    }

    /// Decodes a header in which at most one bit is flipped. In this many bytes CRC-32C detects up to three flipped
    /// bits, so at most one correction is valid, and none if two bits are flipped.
    ///
    /// # Errors
    /// As [`SegmentHeader::decode`].
    pub fn decode_flipped(bytes: &[u8]) -> Result<(SegmentHeader, u32), HeaderFlaw> {
        let mut bytes: [u8; SEGMENT_HEADER_BYTES] = *bytes.first_chunk().ok_or(HeaderFlaw::Damaged)?;
        let sound = SegmentHeader::decode(&bytes);
        if sound != Err(HeaderFlaw::Damaged) {
            return sound;
        }
        for bit in 0..SEGMENT_HEADER_BYTES * 8 {
            let mask = 1 << (bit % 8);
            bytes[bit / 8] ^= mask;
            match SegmentHeader::decode(&bytes) {
                Err(HeaderFlaw::Damaged) => bytes[bit / 8] ^= mask,
                found => return found,
            }
        }
        Err(HeaderFlaw::Damaged)
    }
}

/// The permanent name of a block record: the segment to which it was written, and the byte offset of its header there.
/// [`crate::place`] finds where its bytes are now. No record is at the offsets 0 and 1, which are in the segment's own
/// header: they stand for a trimmed range (0) and for a zeroed one, whose space stays reserved (1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Location {
    /// The segment's number.
    pub segment: u32,
    /// In bytes.
    pub offset: u32,
}

impl Location {
    const TRIMMED: u32 = 0;
    const ZEROED: u32 = 1;

    /// The location of a record with this op whose header is at byte offset `start` of the segment.
    #[must_use]
    pub fn of(segment: u32, op: Op, start: u64) -> Location {
        let offset = match op {
            Op::Trim => Self::TRIMMED,
            Op::Zero => Self::ZEROED,
            _ => start as u32,
        };
        Location { segment, offset }
    }

    /// Whether the range reads as zeroes, trimmed or not.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.offset <= Self::ZEROED
    }

    /// Whether the range was trimmed.
    #[must_use]
    pub fn is_trimmed(self) -> bool {
        self.offset == Self::TRIMMED
    }
}

/// One version of a run of sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Entry {
    pub volume: VolumeId,
    pub lba: Lba,
    pub sectors: Sectors,
    /// The record that wrote it.
    pub seq: Seq,
    pub at: Location,
}

impl Entry {
    /// The sector after the last one.
    #[must_use]
    pub fn end(&self) -> Lba {
        Lba(self.lba.0 + self.sectors.0)
    }
}

/// The index entry of a record that is not a block record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Mark {
    pub seq: Seq,
    /// Its byte offset in the segment.
    pub offset: u32,
    pub op: Op,
    pub subject: Subject,
}

/// The index of a sealed segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct SegmentIndex {
    /// The byte offset of the end of the records.
    pub records_end: u64,
    pub first_seq: Seq,
    /// All block records, sorted by volume, lba, seq.
    pub entries: Vec<Entry>,
    /// All other records, sorted by seq.
    pub marks: Vec<Mark>,
    /// The time of each record, sorted by seq.
    pub times: Vec<Micros>,
}

/// The trailer of a sealed segment, which says where the index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    records_end: u64,
    entries: u32,
    marks: u32,
    times_bytes: u32,
    index_crc: u32,
    first_seq: Seq,
    records: u32,
    first_time: Micros,
}

impl Trailer {
    /// Decodes the last [`TRAILER_BYTES`] bytes of segment `number`, a file of `file_bytes`. `None`: the segment is not
    /// sealed, or the trailer is damaged.
    #[must_use]
    pub fn decode(key: &HeaderKey, number: u32, bytes: &[u8], file_bytes: u64) -> Option<Trailer> {
        let bytes: &[u8; TRAILER_BYTES] = bytes.try_into().ok()?;
        let mut b = Bytes(bytes);
        if b.take(8)? != TRAILER_MAGIC
            || key.hash(&bytes[..HASHED_BYTES]).to_le_bytes() != bytes[HASHED_BYTES..]
        {
            return None;
        }
        let trailer = Trailer {
            records_end: b.u64()?,
            entries: b.u32()?,
            marks: b.u32()?,
            times_bytes: b.u32()?,
            index_crc: b.u32()?,
            first_seq: Seq(b.u64()?),
            records: b.u32()?,
            first_time: Micros(b.i64()?),
        };
        let its_own = b.u32()? == number;
        let end =
            trailer.records_end.checked_add(trailer.index_bytes())?.checked_add(TRAILER_BYTES as u64)?;
        (its_own && end == file_bytes && trailer.last_seq() <= SEQ_MAX).then_some(trailer)
    }

    /// The byte offset of the index, which is the end of the records.
    #[must_use]
    pub fn index_offset(&self) -> u64 {
        self.records_end
    }

    /// The length of the index in bytes.
    #[must_use]
    pub fn index_bytes(&self) -> u64 {
        u64::from(self.entries) * ENTRY_BYTES as u64
            + u64::from(self.marks) * MARK_BYTES as u64
            + u64::from(self.times_bytes)
    }

    /// The first record's seq.
    #[must_use]
    pub fn first_seq(&self) -> Seq {
        self.first_seq
    }

    /// The first record's time.
    #[must_use]
    pub fn first_time(&self) -> Micros {
        self.first_time
    }

    /// The last record's seq; if there is no record, one less than the first seq.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        Seq(self.first_seq.0.saturating_add(u64::from(self.records)).saturating_sub(1))
    }
}

impl SegmentIndex {
    /// The last record's seq; if there is no record, one less than the first seq.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        Seq((self.first_seq.0 + self.times.len() as u64).saturating_sub(1))
    }

    /// The time of record `seq`, if it is in this segment.
    #[must_use]
    pub fn time_of(&self, seq: Seq) -> Option<Micros> {
        self.times.get(usize::try_from(seq.0.checked_sub(self.first_seq.0)?).ok()?).copied()
    }

    /// The bytes of index and trailer of segment `number`.
    #[must_use]
    pub fn encode(&self, key: &HeaderKey, number: u32) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(self.entries.len() * ENTRY_BYTES + self.marks.len() * MARK_BYTES + 1024);
        let relative = |seq: Seq| (seq.0 - self.first_seq.0) as u32;
        for e in &self.entries {
            out.put_u32(Subject::volume(e.volume).0);
            out.put_u64(e.lba.0);
            out.put_u32(e.sectors.0 as u32);
            out.put_u32(relative(e.seq));
            out.put_u32(e.at.offset);
            out.put_u32(0);
        }
        for m in &self.marks {
            out.put_u32(relative(m.seq));
            out.put_u32(m.offset);
            let may_skip = matches!(m.op, Op::Other(_));
            out.put(&[m.op.code(), if may_skip { FLAG_SKIP } else { 0 }, 0, 0]);
            out.put_u32(m.subject.0);
        }
        let times_start = out.len();
        let mut before = 0_i64;
        for time in &self.times {
            out.put_varint(zigzag(time.0.wrapping_sub(before)));
            before = time.0;
        }
        let times_bytes = out.len() - times_start;
        let index_crc = crc32c(&out);
        let trailer = out.len();
        out.put(TRAILER_MAGIC);
        out.put_u64(self.records_end);
        out.put_u32(self.entries.len() as u32);
        out.put_u32(self.marks.len() as u32);
        out.put_u32(times_bytes as u32);
        out.put_u32(index_crc);
        out.put_u64(self.first_seq.0);
        out.put_u32(self.times.len() as u32);
        out.put_i64(self.times.first().map_or(0, |t| t.0));
        out.put_u32(number);
        let hash = key.hash(&out[trailer..]);
        out.put_u64(hash);
        out
    }

    /// Decodes the index of segment `number`. `None`: it is damaged.
    #[must_use]
    pub fn decode(trailer: &Trailer, number: u32, bytes: &[u8]) -> Option<SegmentIndex> {
        if bytes.len() as u64 != trailer.index_bytes() || crc32c(bytes) != trailer.index_crc {
            return None;
        }
        let absolute = |seq: u32| (seq < trailer.records).then(|| Seq(trailer.first_seq.0 + u64::from(seq)));
        let mut b = Bytes(bytes);
        let mut entries = Vec::with_capacity(trailer.entries as usize);
        for _ in 0..trailer.entries {
            let volume = Subject(b.u32()?).as_volume()?;
            let (lba, sectors) = (Lba(b.u64()?), Sectors(u64::from(b.u32()?)));
            let (seq, offset, _) = (absolute(b.u32()?)?, b.u32()?, b.u32()?);
            lba.0.checked_add(sectors.0)?;
            if u64::from(offset) >= trailer.records_end {
                return None;
            }
            entries.push(Entry { volume, lba, sectors, seq, at: Location { segment: number, offset } });
        }
        let mut marks = Vec::with_capacity(trailer.marks as usize);
        for _ in 0..trailer.marks {
            let (seq, offset) = (absolute(b.u32()?)?, b.u32()?);
            let (code, flags, _, subject) = (b.u8()?, b.u8()?, b.u16()?, Subject(b.u32()?));
            let op = Op::of(code, flags & FLAG_SKIP != 0).filter(|op| !op.is_block())?;
            marks.push(Mark { seq, offset, op, subject });
        }
        // A time takes at least one byte, so a wrong count cannot cause a large allocation.
        if trailer.records > trailer.times_bytes {
            return None;
        }
        let mut times = Vec::with_capacity(trailer.records as usize);
        let mut before = 0_i64;
        for _ in 0..trailer.records {
            before = before.wrapping_add(unzigzag(b.varint()?));
            times.push(Micros(before));
        }
        let whole = b.0.is_empty();
        whole.then_some(SegmentIndex {
            records_end: trailer.records_end,
            first_seq: trailer.first_seq,
            entries,
            marks,
            times,
        })
    }
}

fn zigzag(n: i64) -> u64 {
    ((n << 1) ^ (n >> 63)) as u64
}

fn unzigzag(n: u64) -> i64 {
    ((n >> 1) as i64) ^ -((n & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: Identity = Identity { id: [9; 16], secret: [8; SECRET_BYTES] };

    #[test]
    fn header_comes_back_and_a_newer_version_is_told_from_damage() {
        let header = SegmentHeader {
            number: 3,
            log: LOG,
            first_seq: Seq(77),
            created: Micros(5),
            incarnation: 2,
            term: 1,
            salt: [4; SALT_BYTES],
        };
        let mut bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes).unwrap().0, header);
        bytes[8] = 9;
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderFlaw::Damaged));
        let crc = crc32c(&bytes[..4092]);
        bytes[4092..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderFlaw::Newer(9)));
    }

    #[test]
    fn one_flipped_bit_of_a_header_is_found_and_two_are_not_guessed() {
        let (log, salt) = (LOG, [4; SALT_BYTES]);
        let header = SegmentHeader {
            number: 3,
            log,
            first_seq: Seq(77),
            created: Micros(5),
            incarnation: 2,
            term: 1,
            salt,
        };
        let sound = header.encode();
        for byte in [0, 8, 12, 20, 70, 100, 2000, 4091, 4092, 4095] {
            let mut bytes = sound.clone();
            bytes[byte] ^= 0x10;
            assert_eq!(SegmentHeader::decode(&bytes), Err(HeaderFlaw::Damaged), "{byte}");
            assert_eq!(SegmentHeader::decode_flipped(&bytes), SegmentHeader::decode(&sound), "{byte}");
            bytes[1000] ^= 0x02;
            assert_eq!(SegmentHeader::decode_flipped(&bytes), Err(HeaderFlaw::Damaged), "{byte}");
        }
        assert_eq!(SegmentHeader::decode_flipped(&sound[..100]), Err(HeaderFlaw::Damaged));
    }

    #[test]
    fn seqs_that_no_log_reaches_are_not_believed() {
        for (first, good) in [(SEQ_MAX.0 - 1, true), (SEQ_MAX.0, false), (u64::MAX - 1, false)] {
            let first_seq = Seq(first);
            let times = vec![Micros(1), Micros(2)];
            let index = SegmentIndex { records_end: 5000, first_seq, times, ..SegmentIndex::default() };
            let bytes = index.encode(&LOG.header_key(), 4);
            let file_bytes = 5000 + bytes.len() as u64;
            let trailer = &bytes[bytes.len() - TRAILER_BYTES..];
            let trailer = Trailer::decode(&LOG.header_key(), 4, trailer, file_bytes);
            assert_eq!(trailer.is_some(), good, "{first}");
        }
    }

    #[test]
    fn an_index_comes_back_and_no_flipped_bit_passes() {
        let entry = |lba, seq, offset| Entry {
            volume: VolumeId(1),
            lba: Lba(lba),
            sectors: Sectors(8),
            seq: Seq(seq),
            at: Location { segment: 4, offset },
        };
        let index = SegmentIndex {
            records_end: 20_000,
            first_seq: Seq(100),
            entries: vec![entry(0, 100, 4096), entry(8, 102, 0)],
            marks: vec![
                Mark { seq: Seq(101), offset: 8264, op: Op::Flush, subject: Subject::LOG },
                Mark { seq: Seq(102), offset: 8328, op: Op::Other(99), subject: Subject(77) },
            ],
            times: vec![Micros(1_000_000), Micros(999_000), Micros(999_001)],
        };
        let bytes = index.encode(&LOG.header_key(), 4);
        let file_bytes = index.records_end + bytes.len() as u64;
        let decode = |bytes: &[u8]| {
            let (body, trailer) = bytes.split_at(bytes.len() - TRAILER_BYTES);
            SegmentIndex::decode(&Trailer::decode(&LOG.header_key(), 4, trailer, file_bytes)?, 4, body)
        };
        assert_eq!(decode(&bytes), Some(index));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), None, "bit {bit}");
        }
    }
}

//! Manifests: which segments a log should have.
//!
//! ```text
//! header   0 magic 8 | 8 version u16 | 10 kind u8 | 11 zero u8 | 12 number u32 | 16 log id 16 | 32 term u32
//!         36 entries u32 | 40 time i64 | 48 number of the one before u32 | 52 zero 12 | 64 its hash 32 | 96 log secret 32
//! entries  0 kind u8 | 1 state u8 | 2 density u8 | 3 zero u8 | 4 number u32 | 8 bytes u64 | 16 first seq u64
//!         24 last seq u64 | 32 first time i64 | 40 last time i64 | 48 since i64 | 56 crc of its header u32 | 60 container u32
//!         64 hash 32
//! end      hash of everything before 32
//! ```

use bygone_model::{Micros, Seq};

use super::{
    Bytes, PutBytes, SEQ_MAX, VERSION,
    key::{Identity, SECRET_BYTES},
    segment,
};

/// The largest valid manifest; it has room for 2.8 million segments.
pub const MANIFEST_BYTES_MAX: u64 = 256 << 20;

/// The highest valid number. Counting on from a valid one cannot overflow.
const NUMBER_MAX: u32 = 1 << 31;

const MAGIC: &[u8; 8] = b"BYGONEmf";
const HEADER_BYTES: usize = 128;
const ENTRY_BYTES: usize = 96;
const HASH_BYTES: usize = 32;
const FOLDER: &str = "manifest";
const FULL: u8 = 1;
const CHANGES: u8 = 2;
const SEGMENT: u8 = 1;
const EVERY_WRITE: u8 = 1;

/// The folder of the manifests.
#[must_use]
pub fn folder() -> &'static str {
    FOLDER
}

/// The name of a manifest, with its folder.
#[must_use]
pub fn file_name(number: u32) -> String {
    format!("{FOLDER}/{number:010}")
}

/// The number in a file name (without its folder), if it is that of a manifest.
#[must_use]
pub fn number_of(name: &str) -> Option<u32> {
    let number = name.parse().ok()?;
    let plain = name.len() == 10 && name.bytes().all(|byte| byte.is_ascii_digit());
    (plain && (1..=NUMBER_MAX).contains(&number)).then_some(number)
}

/// The number of the manifest of which a file (named without its folder) is a leftover: its publisher died.
#[must_use]
pub fn part_of(name: &str) -> Option<u32> {
    let (number, rest) = name.split_once('.')?;
    let random = rest.strip_suffix(".part").filter(|random| random.len() == 16)?;
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    number_of(number).filter(|_| random.bytes().all(is_digit))
}

/// A BLAKE3 hash.
pub type Hash = [u8; HASH_BYTES];

/// The state of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its file exists, or a container has its records.
    Lives,
    /// It does not count any more, as if it had never been named.
    Retired,
    /// It should exist and was found missing, which is damage.
    Missing,
    /// It was dropped on purpose, which is no damage.
    Dropped,
}

impl State {
    fn code(self) -> u8 {
        match self {
            State::Lives => 1,
            State::Retired => 2,
            State::Missing => 3,
            State::Dropped => 4,
        }
    }

    fn of(code: u8) -> Option<State> {
        [State::Lives, State::Retired, State::Missing, State::Dropped].into_iter().find(|s| s.code() == code)
    }
}

/// A segment's entry in a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Entry {
    pub state: State,
    pub number: u32,
    /// The length of its file; 0: unknown.
    pub len_bytes: u64,
    /// Its first record. If none is known, one more than `last_seq`.
    pub first_seq: Seq,
    pub last_seq: Seq,
    pub first_time: Micros,
    pub last_time: Micros,
    /// When it was found missing or was dropped; otherwise 0.
    pub since: Micros,
    /// The container that has its records; 0: its own file has them. All other fields describe its own file, even if
    /// that is gone.
    pub container: u32,
    /// The crc of its header, which contains the salt that is unique to the segment; 0: unknown.
    pub header_crc: u32,
    /// The hash of the whole file; `None` until the file has been read back.
    pub hash: Option<Hash>,
}

impl Entry {
    /// A segment of which only number and state are known.
    #[must_use]
    pub fn unknown(number: u32, state: State) -> Entry {
        Entry {
            state,
            number,
            len_bytes: 0,
            first_seq: Seq(1),
            last_seq: Seq(0),
            first_time: Micros(0),
            last_time: Micros(0),
            since: Micros(0),
            container: 0,
            header_crc: 0,
            hash: None,
        }
    }
}

/// One manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Manifest {
    /// The manifest's number, from 1 on.
    pub number: u32,
    /// The log's id, and its secret, with which all its files can be checked.
    pub log: Identity,
    /// The term of the holder that wrote it.
    pub term: u32,
    pub time: Micros,
    /// It names all segments; otherwise only those that changed since the previous manifest.
    pub is_full: bool,
    /// The number of the previous manifest, and the hash of its whole file.
    pub previous: Option<(u32, Hash)>,
    /// In order of number, at most one for each.
    pub entries: Vec<Entry>,
}

/// Why bytes cannot be used as a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// They are damaged, truncated, or a manifest with another number.
    Damaged,
    /// A newer program wrote it, in this version or, if it has codes that this version does not have, in a later one.
    Newer(u16),
}

impl Manifest {
    /// The file's bytes.
    ///
    /// # Panics
    /// If the entries are not in order of number.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.entries.is_sorted_by(|a, b| a.number < b.number), "entries in order of number");
        let mut out = Vec::with_capacity(HEADER_BYTES + self.entries.len() * ENTRY_BYTES + HASH_BYTES);
        out.put(MAGIC);
        out.put_u16(VERSION);
        out.put_u8(if self.is_full { FULL } else { CHANGES });
        out.put_u8(0);
        out.put_u32(self.number);
        out.put(&self.log.id);
        out.put_u32(self.term);
        out.put_u32(u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        out.put_i64(self.time.0);
        out.put_u32(self.previous.map_or(0, |(number, _)| number));
        out.put(&[0; 12]);
        out.put(&self.previous.map_or([0; HASH_BYTES], |(_, hash)| hash));
        out.put(&self.log.secret);
        self.entries.iter().for_each(|entry| entry.put(&mut out));
        let hash = hash(&out);
        out.put(&hash);
        out
    }

    /// Decodes a whole file, of any log.
    ///
    /// # Errors
    /// If it is damaged, has another number, or is of a newer version.
    pub fn decode(bytes: &[u8], number: u32) -> Result<Manifest, Flaw> {
        let end = bytes.len().checked_sub(HASH_BYTES).ok_or(Flaw::Damaged)?;
        let (content, own) = bytes.split_at(end);
        // The cheap check first: another kind of file is not hashed.
        if !content.starts_with(MAGIC) || hash(content) != own {
            return Err(Flaw::Damaged);
        }
        let mut b = Bytes(&content[MAGIC.len()..]);
        match b.u16() {
            Some(version) if version > VERSION => return Err(Flaw::Newer(version)),
            Some(VERSION) => {}
            _ => return Err(Flaw::Damaged),
        }
        if has_unknown_code(b.0) {
            return Err(Flaw::Newer(VERSION + 1));
        }
        Manifest::parse(&mut b).filter(|m| m.number == number).ok_or(Flaw::Damaged)
    }

    fn parse(b: &mut Bytes<'_>) -> Option<Manifest> {
        let (kind, zero, number) = (b.u8()?, b.u8()?, b.u32()?);
        let id = b.take(16)?.try_into().ok()?;
        let (term, count, time, before) = (b.u32()?, b.u32()? as usize, Micros(b.i64()?), b.u32()?);
        let zeroes = b.take(12)?;
        let hash: Hash = b.take(HASH_BYTES)?.try_into().ok()?;
        let log = Identity { id, secret: b.take(SECRET_BYTES)?.try_into().ok()? };
        if Some(b.0.len()) != count.checked_mul(ENTRY_BYTES) {
            return None;
        }
        let entries = (0..count).map(|_| Entry::take(b)).collect::<Option<Vec<_>>>()?;
        let is_full = kind == FULL;
        let holds = (is_full || kind == CHANGES && before > 0)
            && zero == 0
            && zeroes.iter().all(|byte| *byte == 0)
            && before < number
            && (before > 0 || hash == [0; HASH_BYTES])
            && entries.is_sorted_by(|a, b| a.number < b.number);
        let previous = (before > 0).then_some((before, hash));
        holds.then_some(Manifest { number, log, term, time, is_full, previous, entries })
    }
}

/// Whether a kind, state or density is one that this version does not have. `content` begins with the header's kind.
fn has_unknown_code(content: &[u8]) -> bool {
    const KIND_AT: usize = 10;
    let entries = content.get(HEADER_BYTES - KIND_AT..).unwrap_or_default().chunks_exact(ENTRY_BYTES);
    let is_known =
        |entry: &[u8]| matches!(entry, [SEGMENT, state, EVERY_WRITE, ..] if State::of(*state).is_some());
    !matches!(content.first(), Some(&(FULL | CHANGES))) || !entries.into_iter().all(is_known)
}

impl Entry {
    fn put(&self, out: &mut Vec<u8>) {
        out.put(&[SEGMENT, self.state.code(), EVERY_WRITE, 0]);
        out.put_u32(self.number);
        out.put_u64(self.len_bytes);
        out.put_u64(self.first_seq.0);
        out.put_u64(self.last_seq.0);
        out.put_i64(self.first_time.0);
        out.put_i64(self.last_time.0);
        out.put_i64(self.since.0);
        out.put_u32(self.header_crc);
        out.put_u32(self.container);
        out.put(&self.hash.unwrap_or_default());
    }

    fn take(b: &mut Bytes<'_>) -> Option<Entry> {
        let (kind, state, density, zero) = (b.u8()?, State::of(b.u8()?)?, b.u8()?, b.u8()?);
        let (number, len_bytes) = (b.u32()?, b.u64()?);
        let (first_seq, last_seq) = (Seq(b.u64()?), Seq(b.u64()?));
        let (first_time, last_time, since) = (Micros(b.i64()?), Micros(b.i64()?), Micros(b.i64()?));
        let (header_crc, container) = (b.u32()?, b.u32()?);
        let hash: Hash = b.take(HASH_BYTES)?.try_into().ok()?;
        let hash = (hash != Hash::default()).then_some(hash);
        let holds = (kind, density, zero) == (SEGMENT, EVERY_WRITE, 0)
            && segment::is_number(number)
            && last_seq <= SEQ_MAX
            && first_seq.0 <= last_seq.0 + 1;
        holds.then_some(Entry {
            state,
            number,
            len_bytes,
            first_seq,
            last_seq,
            first_time,
            last_time,
            since,
            container,
            header_crc,
            hash,
        })
    }
}

/// The hash with which manifests refer to files and to one another.
#[must_use]
pub fn hash(bytes: &[u8]) -> Hash {
    *blake3::hash(bytes).as_bytes()
}

#[cfg(test)]
mod tests;

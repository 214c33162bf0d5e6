//! Checkpoint files: trees of pages, tables that point to them, blocks of events, and a footer.
//!
//! ```text
//! header   0 magic 8 | 8 version u16 | 10 encryption u8 | 11 compression u8 | 12 number u32 | 16 log id 16 | 32 term u32
//!         36 zero … | 60 crc u32
//! blocks   pages (see `page`), tables, blocks of events; each padded to a multiple of 8 bytes
//! footer   JSON
//! trailer  0 magic 8 | 8 footer offset u64 | 16 footer bytes u32 | 20 footer crc u32 | 24 zero … | 60 crc u32
//! table    0 crc u32 | 4 magic u16 | 6 rows u16 | 8 file u32 | 12 zero u32 | rows
//! row      stripe u32 | deltas u8 | images u8 (1: before, 2: after) | zero u16 | trees: deltas newest first, images
//! tree     file u32 | bytes u32 | offset u64 | crc u32 | entries u32 | low u64 | high u64
//! ```

use bygone_model::{BranchId, Micros, Place, Seq};
use serde::{Deserialize, Serialize};

use super::{Bytes, PutBytes, SEQ_MAX, VERSION, crc32c};
use crate::{catalog::Catalog, index::tree::PageRef};

/// The length of the header, and of the trailer.
pub const FRAME_BYTES: usize = 64;
/// Stripes per table.
pub const TABLE_STRIPES: u32 = 64;
/// The highest valid number. Counting on from a valid one cannot overflow.
const NUMBER_MAX: u32 = 1 << 31;
/// The most deltas in a valid row.
const DELTAS_MAX: usize = 64;

const MAGIC: &[u8; 8] = b"BYGONEix";
const TRAILER_MAGIC: &[u8; 8] = b"BYGONEit";
const TABLE_MAGIC: u16 = u16::from_le_bytes(*b"Tb");
const FOLDER: &str = "index";

/// The folder of the checkpoint files.
#[must_use]
pub fn folder() -> &'static str {
    FOLDER
}

/// What a checkpoint file's name contains, so that the checkpoint for a moment is found without opening any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// The checkpoint's number, from 1 on.
    pub number: u32,
    /// It covers everything up to this record.
    pub end: Seq,
    /// The time of that record.
    pub end_time: Micros,
    /// The term of the holder that wrote it.
    pub term: u32,
}

impl Name {
    /// The file's name, with its folder.
    #[must_use]
    pub fn file_name(&self) -> String {
        let (end, time) = (self.end.0, self.end_time.0);
        format!("{FOLDER}/{:010}-{end:016x}-{time:016x}-{:08x}.idx", self.number, self.term)
    }

    /// The name of the file while the holder in `term` writes it again, with its folder.
    #[must_use]
    pub fn part_name(&self, term: u32) -> String {
        format!("{}.{term:08x}.part", self.file_name())
    }

    /// The term of the holder that writes a checkpoint again, if this is the name of such a file (without its folder).
    #[must_use]
    pub fn parse_part(name: &str) -> Option<u32> {
        let (of, term) = name.strip_suffix(".part")?.rsplit_once('.')?;
        let (of, term) = (Name::parse(of)?, u32::from_str_radix(term, 16).ok()?);
        (of.part_name(term).strip_prefix(FOLDER)?.strip_prefix('/')? == name).then_some(term)
    }

    /// Parses a file name (without its folder).
    #[must_use]
    pub fn parse(name: &str) -> Option<Name> {
        let mut parts = name.strip_suffix(".idx")?.split('-');
        let (number, end, time, term) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let parsed = Name {
            number: number.parse().ok()?,
            end: Seq(u64::from_str_radix(end, 16).ok()?),
            end_time: Micros(u64::from_str_radix(time, 16).ok()?.cast_signed()),
            term: u32::from_str_radix(term, 16).ok()?,
        };
        // Files are opened by the name that `file_name` makes, so any other spelling is refused.
        let counts = (1..=NUMBER_MAX).contains(&parsed.number) && parsed.end <= SEQ_MAX && parsed.term > 0;
        (counts && parsed.file_name().strip_prefix(FOLDER)?.strip_prefix('/')? == name).then_some(parsed)
    }
}

/// The header's bytes.
#[must_use]
pub fn encode_header(number: u32, log_id: &[u8; 16], term: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(FRAME_BYTES);
    out.put(MAGIC);
    out.put_u16(VERSION);
    out.put_u16(0);
    out.put_u32(number);
    out.put(log_id);
    out.put_u32(term);
    seal_frame(out)
}

/// Checks a header; returns its term.
///
/// # Errors
/// The newer version in which it was written (at least the next one, if it is transformed in a way that this version
/// does not know), or 0 if it is damaged or has another log id or number.
pub fn check_header(bytes: &[u8], number: u32, log_id: &[u8; 16]) -> Result<u32, u16> {
    let parse = || {
        let mut b = Bytes(open_frame(bytes)?);
        let (magic, version, transform) = (b.take(8)?, b.u16()?, b.u16()?);
        let is_it = b.u32()? == number && b.take(16)? == log_id;
        (magic == MAGIC).then_some((version, transform, is_it, b.u32()?))
    };
    match parse() {
        Some((version, ..)) if version > VERSION => Err(version),
        Some((1.., 1.., true, _)) => Err(VERSION + 1),
        Some((1.., 0, true, term)) => Ok(term),
        _ => Err(0),
    }
}

fn seal_frame(mut out: Vec<u8>) -> Vec<u8> {
    out.resize(FRAME_BYTES - 4, 0);
    let crc = crc32c(&out);
    out.put_u32(crc);
    out
}

fn open_frame(bytes: &[u8]) -> Option<&[u8]> {
    let bytes: &[u8; FRAME_BYTES] = bytes.try_into().ok()?;
    (crc32c(&bytes[..FRAME_BYTES - 4]).to_le_bytes() == bytes[FRAME_BYTES - 4..]).then_some(bytes)
}

/// The trailer of a checkpoint file, which says where the footer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The footer's byte offset.
    pub offset: u64,
    /// The footer's length.
    pub len_bytes: u32,
    /// The footer's crc.
    pub crc: u32,
}

impl Trailer {
    /// The trailer's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FRAME_BYTES);
        out.put(TRAILER_MAGIC);
        out.put_u64(self.offset);
        out.put_u32(self.len_bytes);
        out.put_u32(self.crc);
        seal_frame(out)
    }

    /// Decodes the last [`FRAME_BYTES`] of a file of `file_bytes`. `None`: damaged or unfinished.
    #[must_use]
    pub fn decode(bytes: &[u8], file_bytes: u64) -> Option<Trailer> {
        let mut b = Bytes(open_frame(bytes)?);
        if b.take(8)? != TRAILER_MAGIC {
            return None;
        }
        let trailer = Trailer { offset: b.u64()?, len_bytes: b.u32()?, crc: b.u32()? };
        let end =
            trailer.offset.checked_add(u64::from(trailer.len_bytes))?.checked_add(FRAME_BYTES as u64)?;
        (end == file_bytes).then_some(trailer)
    }
}

/// A table's index and where it is. Table `index` of a volume covers the stripes from `index * TABLE_STRIPES` on.
pub type TableRef = (u32, PageRef);

/// The tables of a volume, in order. Tables without rows are left out.
pub type Tables = Vec<TableRef>;

/// A segment with records of the checkpoint's span: its number, its first seq, and the time of its first record.
pub type SegmentStart = (u32, Seq, Micros);

/// A range of bytes in the checkpoint's own file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Block {
    pub offset: u64,
    pub len_bytes: u32,
    /// The crc of the range.
    pub crc: u32,
}

impl Block {
    /// Of what is in no file.
    pub(crate) const NOWHERE: Block = Block { offset: 0, len_bytes: 0, crc: 0 };
}

/// Everything in a checkpoint besides its trees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Footer {
    /// The checkpoints that this one is built on, as ranges of numbers, in order. Its trees are in their files and its
    /// own, and they answer for moments before `start`.
    pub upon: Vec<(u32, u32)>,
    /// Parts of the index were found damaged and are rebuilt in this checkpoint, so it also replaces those parts of the
    /// checkpoints that it is built on.
    pub mended: bool,
    /// The end of the checkpoint before this one.
    pub start: Seq,
    /// The checkpoint covers everything up to this record.
    pub end: Seq,
    /// The time of that record.
    pub end_time: Micros,
    /// The tables of each volume, by volume number.
    pub volumes: Vec<(u32, Tables)>,
    /// The segments of its span, in order.
    pub segments: Vec<SegmentStart>,
    /// The blocks of events of its span, by seq.
    pub events: Vec<super::events::EventBlock>,
    /// The catalog after record `end`.
    pub catalog: Catalog,
}

impl Footer {
    /// Whether it is built on checkpoint `number`.
    #[must_use]
    pub fn is_upon(&self, number: u32) -> bool {
        let at = self.upon.partition_point(|range| range.1 < number);
        self.upon.get(at).is_some_and(|range| range.0 <= number)
    }

    /// The `upon` of a checkpoint that is built on this one, whose number is `number`.
    #[must_use]
    pub fn upon_with(&self, number: u32) -> Vec<(u32, u32)> {
        let mut upon = self.upon.clone();
        match upon.last_mut() {
            Some(last) if last.1.checked_add(1) == Some(number) => last.1 = number,
            _ => upon.push((number, number)),
        }
        upon
    }

    /// Whether `upon` is valid for a checkpoint with this number: ranges in order that end before it.
    #[must_use]
    pub fn upon_holds(&self, number: u32) -> bool {
        let ranges = &self.upon;
        ranges.iter().all(|range| 0 < range.0 && range.0 <= range.1 && range.1 < number)
            && ranges.windows(2).all(|pair| pair[0].1 < pair[1].0)
    }
}

/// An event with its record's header.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct StoredEvent {
    /// The record's position in the log.
    pub seq: Seq,
    /// The record's time.
    pub time: Micros,
    /// The branch on which the event happened.
    pub branch: BranchId,
    pub event: bygone_model::Event,
}

impl StoredEvent {
    /// The moment that it names, which is never after its record, whatever the event says.
    #[must_use]
    pub fn place(&self) -> Place {
        Place::new(self.branch, self.event.at.map_or(self.seq, |at| at.seq.min(self.seq)))
    }

    /// The time of the moment that it names.
    #[must_use]
    pub fn time_told(&self) -> Micros {
        self.event.at.map_or(self.time, |at| at.time)
    }
}

/// A tree of one stripe, and the span of the log that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct TreeRef {
    pub root: PageRef,
    /// How many versions it holds.
    pub entries: u32,
    /// The span begins after this record. A delta may also hold what was visible at this record.
    pub low: Seq,
    /// The span ends with this record. An image has `low == high`: it is the state after that record.
    pub high: Seq,
}

/// The trees of one stripe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The stripe's index in the volume.
    pub stripe: u32,
    /// The changes since `before`, newest first.
    pub deltas: Vec<TreeRef>,
    /// An image of the state before the deltas, unless they hold that state themselves.
    pub before: Option<TreeRef>,
    /// An image of the state after the deltas.
    pub after: Option<TreeRef>,
}

impl Row {
    /// All its trees.
    pub fn trees(&self) -> impl Iterator<Item = &TreeRef> {
        self.deltas.iter().chain(&self.before).chain(&self.after)
    }

    /// Whether the deltas are sorted newest first and do not overlap. A reader searches them in this order and takes
    /// the first hit.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        self.deltas.windows(2).all(|pair| pair[0].low >= pair[1].high)
    }
}

/// Rows of up to [`TABLE_STRIPES`] stripes, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// In order of stripe.
    pub rows: Vec<Row>,
}

impl Table {
    /// The row of a stripe.
    #[must_use]
    pub fn row(&self, stripe: u32) -> Option<&Row> {
        self.rows.binary_search_by_key(&stripe, |row| row.stripe).ok().and_then(|i| self.rows.get(i))
    }

    /// Encodes a table that goes into checkpoint file `file`.
    #[must_use]
    pub fn encode(&self, file: u32) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u32(0);
        out.put_u16(TABLE_MAGIC);
        out.put_u16(self.rows.len() as u16);
        out.put_u32(file);
        out.put_u32(0);
        for row in &self.rows {
            assert!(row.is_in_order(), "deltas stand newest first");
            out.put_u32(row.stripe);
            out.put_u8(row.deltas.len() as u8);
            out.put_u8(u8::from(row.before.is_some()) | u8::from(row.after.is_some()) << 1);
            out.put_u16(0);
            for tree in row.trees() {
                out.put_u32(tree.root.file);
                out.put_u32(tree.root.len_bytes);
                out.put_u64(tree.root.offset);
                out.put_u32(tree.root.crc);
                out.put_u32(tree.entries);
                out.put_u64(tree.low.0);
                out.put_u64(tree.high.0);
            }
        }
        let crc = crc32c(&out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Decodes a table of checkpoint file `file`. `None`: damaged, or not this table.
    #[must_use]
    pub fn decode(bytes: &[u8], file: u32) -> Option<Table> {
        let mut b = Bytes(bytes);
        let crc = b.u32()?;
        if crc32c(b.0) != crc || b.u16()? != TABLE_MAGIC {
            return None;
        }
        let (count, in_file, _) = (b.u16()?, b.u32()?, b.u32()?);
        if in_file != file || u32::from(count) > TABLE_STRIPES {
            return None;
        }
        let mut rows = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let (stripe, deltas, images, _) = (b.u32()?, usize::from(b.u8()?), b.u8()?, b.u16()?);
            if deltas > DELTAS_MAX || images > 3 {
                return None;
            }
            let mut row = Row { stripe, ..Row::default() };
            for _ in 0..deltas {
                row.deltas.push(decode_tree(&mut b)?);
            }
            if !row.is_in_order() {
                return None;
            }
            if images & 1 != 0 {
                row.before = Some(decode_tree(&mut b)?);
            }
            if images & 2 != 0 {
                row.after = Some(decode_tree(&mut b)?);
            }
            rows.push(row);
        }
        b.0.is_empty().then_some(Table { rows })
    }
}

fn decode_tree(b: &mut Bytes<'_>) -> Option<TreeRef> {
    let (file, len_bytes) = (b.u32()?, b.u32()?);
    let root = PageRef { file, len_bytes, offset: b.u64()?, crc: b.u32()? };
    let tree = TreeRef { root, entries: b.u32()?, low: Seq(b.u64()?), high: Seq(b.u64()?) };
    (root.is_aligned() && tree.low <= tree.high).then_some(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_they_hold() {
        let name = Name { number: 12, end: Seq(345), end_time: Micros(-6), term: 31 };
        let file = name.file_name();
        assert_eq!(Name::parse(file.strip_prefix("index/").unwrap()), Some(name));
        for other in [
            "0000000012-1-2-3.idx",
            "0000000012-0000000000000159-fffffffffffffffa.idx",
            "+000000012-0000000000000159-fffffffffffffffa-0000001f.idx",
            "0000000012-0000000000000159-fffffffffffffffa-0000001F.idx",
            "0000000012-0000000000000159-fffffffffffffffa-00000000.idx",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
        let part = name.part_name(7);
        let part = part.strip_prefix("index/").unwrap();
        assert_eq!((Name::parse(part), Name::parse_part(part)), (None, Some(7)));
        for other in ["x.00000007.part", "0000000012.idx.part", &part.replace("00000007", "7")] {
            assert_eq!(Name::parse_part(other), None, "{other}");
        }
    }

    #[test]
    fn a_table_comes_back_and_no_flipped_bit_passes() {
        let tree = |n: u32| TreeRef {
            root: PageRef { file: n, offset: (64 * u64::from(n)) << 30, len_bytes: 40, crc: n ^ 99 },
            entries: n,
            low: Seq(100 - u64::from(n)),
            high: Seq(101 - u64::from(n)),
        };
        let rows = vec![
            Row { stripe: 0, deltas: vec![tree(1), tree(2)], before: Some(tree(3)), after: None },
            Row { stripe: 9, deltas: vec![], before: None, after: Some(tree(4)) },
        ];
        let table = Table { rows };
        let bytes = table.encode(7);
        assert_eq!(Table::decode(&bytes, 7), Some(table));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Table::decode(&flipped, 7), None, "bit {bit}");
        }
    }
}

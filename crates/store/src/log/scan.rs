//! Reads a segment from its file: by its index if it is sealed, record by record otherwise.
//!
//! A record that fails its checks ends the log, because a power cut may have torn it. But if a later record says that
//! it was already durable, it is damage: it is reported, and the rest is still read (I5).

use std::{ops::Range, sync::Arc};

use bygone_model::{Micros, Seq};

use super::LogKey;
use crate::{
    env::{File, read_exact_at},
    error::{Damage, Error, Place, Result},
    format::{
        VERSION,
        record::{self, Flaw, HEADER_BYTES, Header, PAYLOAD_BYTES_MAX, Proven},
        segment::{
            self, Entry, HeaderFlaw, Location, Mark, SEGMENT_HEADER_BYTES, SegmentHeader, SegmentIndex,
            TRAILER_BYTES, Trailer,
        },
    },
};

/// An index longer than this is invalid.
const INDEX_BYTES_MAX: u64 = 1 << 28;
const WINDOW_BYTES: usize = 1 << 20;

/// What a segment holds, as read from its file.
pub(super) struct Scanned {
    /// Block versions, marks and times. The versions are in order of seq, or sorted as in the index they come from.
    pub index: SegmentIndex,
    /// It has a valid index.
    pub sealed: bool,
    /// It has a valid header.
    pub has_header: bool,
    /// What is damaged, by offset.
    pub damage: Vec<(u64, Damage)>,
    /// Records whose headers are lost: what they wrote, where and when is unknown.
    pub lost: Vec<Range<Seq>>,
    /// The offset of each record; empty if there is an index.
    pub starts: Vec<u64>,
    /// Its records say that everything up to here was durable.
    pub durable: Seq,
}

/// What the rest of the log says about a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    /// The log that the segment belongs to.
    pub log: LogKey,
    /// The seq that its first record should have; used if neither its header nor that record has one.
    pub expected: Option<Seq>,
    /// The first record of the next segment. Records of this segment from there on were never acknowledged.
    pub until: Seq,
    /// Everything up to here was durable.
    pub durable: Seq,
}

impl Context {
    /// Nothing is known.
    pub(super) fn of(log: LogKey) -> Context {
        Context { log, expected: None, until: Seq::MAX, durable: Seq::ZERO }
    }
}

impl Scanned {
    pub(super) fn last_seq(&self) -> Seq {
        self.index.last_seq()
    }
}

/// Reads the index of a sealed segment. `None`: it has none, or a damaged one.
pub(super) fn sealed_index(file: &dyn File, number: u32, log: &LogKey) -> Result<Option<SegmentIndex>> {
    let name = segment::label(number);
    let Some(trailer) = trailer(file, number, log)? else { return Ok(None) };
    if trailer.index_bytes() > INDEX_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = vec![0; trailer.index_bytes() as usize];
    read_exact_at(file, &mut bytes, trailer.index_offset())
        .map_err(|e| Error::unread(&name, trailer.index_offset(), e))?;
    Ok(SegmentIndex::decode(&trailer, number, &bytes))
}

/// The trailer of a sealed segment. `None`: it has none, or a damaged one.
pub(super) fn trailer(file: &dyn File, number: u32, log: &LogKey) -> Result<Option<Trailer>> {
    let name = segment::label(number);
    let len_bytes = file.len_bytes().map_err(|e| Error::io("reading", &name, e))?;
    let Some(at) = len_bytes.checked_sub(TRAILER_BYTES as u64) else { return Ok(None) };
    let mut bytes = [0; TRAILER_BYTES];
    read_exact_at(file, &mut bytes, at).map_err(|e| Error::unread(&name, at, e))?;
    Ok(Trailer::decode(&log.header, number, &bytes, len_bytes))
}

/// Reads a segment's header. `None`: it is damaged, of another log, or was never written.
///
/// # Errors
/// When it is of a newer version or cannot be read.
pub(super) fn read_header(
    file: &dyn File,
    number: u32,
    log: &LogKey,
) -> Result<Option<(SegmentHeader, u32)>> {
    let is_ours = |header: &SegmentHeader| LogKey::of(&header.log) == *log;
    Ok(read_any_header(file, number)?.filter(|(header, _)| is_ours(header)))
}

/// Reads the header of a segment of any log.
///
/// # Errors
/// As [`read_header`].
pub(crate) fn read_any_header(file: &dyn File, number: u32) -> Result<Option<(SegmentHeader, u32)>> {
    header_of(number, SegmentHeader::decode(&header_bytes(file, number)?))
}

/// Reads the header of a segment of any log, even if one bit of it flipped. Expensive, so a last resort.
///
/// # Errors
/// As [`read_header`].
pub(super) fn read_flipped_header(file: &dyn File, number: u32) -> Result<Option<(SegmentHeader, u32)>> {
    header_of(number, SegmentHeader::decode_flipped(&header_bytes(file, number)?))
}

/// As many bytes of a header as the file has.
fn header_bytes(file: &dyn File, number: u32) -> Result<Vec<u8>> {
    let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
    let got = file.read_at(&mut bytes, 0).map_err(|e| Error::unread(&segment::label(number), 0, e))?;
    bytes.truncate(got);
    Ok(bytes)
}

fn header_of(
    number: u32,
    decoded: std::result::Result<(SegmentHeader, u32), HeaderFlaw>,
) -> Result<Option<(SegmentHeader, u32)>> {
    match decoded {
        Ok((header, crc)) if header.number == number => Ok(Some((header, crc))),
        Ok(_) | Err(HeaderFlaw::Damaged) => Ok(None),
        Err(HeaderFlaw::Newer(found)) => {
            Err(Error::NewerVersion { name: segment::label(number), found, known: VERSION })
        }
    }
}

/// The seq of the last record of a segment, if it is sealed.
pub(super) fn sealed_end(file: &dyn File, number: u32, log: &LogKey) -> Result<Option<Seq>> {
    Ok(trailer(file, number, log)?.map(|trailer| trailer.last_seq()))
}

/// The range of bytes that the index and trailer of a sealed segment take.
pub(super) fn index_place(file: &dyn File, number: u32, log: &LogKey) -> Result<Option<(u64, u64)>> {
    let trailer = trailer(file, number, log)?;
    Ok(trailer.map(|t| (t.index_offset(), t.index_offset() + t.index_bytes() + TRAILER_BYTES as u64)))
}

/// Reads a whole segment, whether it is sealed or not.
///
/// # Errors
/// When it cannot be read, or is of a newer version.
pub(super) fn scan(file: &Arc<dyn File>, number: u32, context: Context) -> Result<Scanned> {
    if let Some(sealed) = scan_sealed(&**file, number, &context.log)? {
        return Ok(sealed);
    }
    scan_records(&**file, number, read_header(&**file, number, &context.log)?, context)
}

/// The same if it is sealed.
///
/// # Errors
/// As [`scan`].
pub(super) fn scan_sealed(file: &dyn File, number: u32, log: &LogKey) -> Result<Option<Scanned>> {
    let header = read_header(file, number, log)?;
    let Some(index) = sealed_index(file, number, log)? else { return Ok(None) };
    let damage = if header.is_none() { vec![(0, Damage::Checksum)] } else { Vec::new() };
    let (has_header, lost, starts, durable) = (header.is_some(), Vec::new(), Vec::new(), Seq::ZERO);
    Ok(Some(Scanned { index, sealed: true, has_header, damage, lost, starts, durable }))
}

/// Reads a segment record by record.
///
/// # Errors
/// As [`scan`].
pub(super) fn scan_records(
    file: &dyn File,
    number: u32,
    header: Option<(SegmentHeader, u32)>,
    context: Context,
) -> Result<Scanned> {
    let scanned = scan_while(file, number, header, context, &mut |_| true)?;
    // Always `Some`: nothing stops it.
    scanned.ok_or(Error::WouldBlock)
}

/// The same for as long as `keep_going` returns true. It is called after each record with the offset of the record's
/// end. `None`: it returned false.
///
/// # Errors
/// As [`scan`].
pub(super) fn scan_while(
    file: &dyn File,
    number: u32,
    header: Option<(SegmentHeader, u32)>,
    context: Context,
    keep_going: &mut dyn FnMut(u64) -> bool,
) -> Result<Option<Scanned>> {
    let mut window = Window::new(file, segment::label(number), context.log);
    let at = SEGMENT_HEADER_BYTES as u64;
    let first_seq = match header {
        Some((header, _)) => header.first_seq,
        // Without a header the first record is trusted about its own seq and about what comes before it.
        None => match window.record_or_flipped(at)? {
            Some((proven, _)) => proven.header.seq,
            None => context.expected.unwrap_or(Seq(1)),
        },
    };
    let mut out = Scanned {
        index: SegmentIndex {
            records_end: SEGMENT_HEADER_BYTES as u64,
            first_seq,
            ..SegmentIndex::default()
        },
        sealed: false,
        has_header: header.is_some(),
        damage: if header.is_none() { vec![(0, Damage::Checksum)] } else { Vec::new() },
        lost: Vec::new(),
        starts: Vec::new(),
        durable: Seq::ZERO,
    };
    let mut chain = header.map(|h| h.1);
    let mut incarnation = header.map(|h| h.0.incarnation);
    let mut seq = first_seq;
    let mut at = at;
    while seq < context.until {
        let continues = |h: &Header| {
            h.seq == seq
                && chain.is_none_or(|c| c == h.previous)
                && incarnation.is_none_or(|i| i == h.incarnation)
        };
        let Proven { header, hash, .. } = match window.record_or_flipped(at)? {
            Some((proven, None)) if continues(&proven.header) => proven,
            Some((proven, Some(bad))) if continues(&proven.header) => {
                if context.durable < seq {
                    let later = resync(&mut window, at + 8, Some(proven.header.incarnation), seq, Seq::ZERO)?;
                    let Some((.., durable)) = later else { break };
                    out.durable = out.durable.max(durable);
                }
                let granule_at = |i| proven.header.payload_at(at) + (i * record::GRANULE_BYTES) as u64;
                let place = match bad {
                    BadPart::Header => at,
                    BadPart::Granule(index) => granule_at(index),
                };
                out.damage.push((place, Damage::Checksum));
                proven
            }
            _ => match resync(&mut window, at + record::ALIGN_BYTES, incarnation, seq, context.durable)? {
                Some((next_at, next, durable)) if next.seq < context.until => {
                    out.durable = out.durable.max(durable);
                    out.damage.push((at, Damage::Checksum));
                    out.lost.push(seq..next.seq);
                    // Lost records keep their seqs. Their times are unknown, so the time before stands in for them.
                    let before = out.index.times.last().copied().unwrap_or(next.time);
                    out.index.times.extend((seq.0..next.seq.0).map(|_| before));
                    out.starts.extend((seq.0..next.seq.0).map(|_| at));
                    (at, seq, chain, incarnation) =
                        (next_at, next.seq, Some(next.previous), Some(next.incarnation));
                    continue;
                }
                _ => break,
            },
        };
        out.starts.push(at);
        out.durable = out.durable.max(header.durable);
        note(&mut out.index, number, &header, at);
        (chain, incarnation) = (Some(record::link(hash)), Some(header.incarnation));
        seq = seq.next();
        at = header.end(at);
        out.index.records_end = at;
        if !keep_going(at) {
            return Ok(None);
        }
    }
    Ok(Some(out))
}

/// The first seq of a segment and the time when it began: from its header or, if that is damaged, from its first
/// record.
///
/// # Errors
/// As [`scan_records`].
pub(super) fn beginning(file: &dyn File, number: u32, log: LogKey) -> Result<Option<(Seq, Micros)>> {
    if let Some((header, _)) = read_header(file, number, &log)? {
        return Ok(Some((header.first_seq, header.created)));
    }
    let mut window = Window::new(file, segment::label(number), log);
    let first = window.record_or_flipped(SEGMENT_HEADER_BYTES as u64)?;
    Ok(first.map(|(proven, _)| (proven.header.seq, proven.header.time)))
}

/// Up to where the log was durable according to the intact records of an unsealed segment, including those after
/// damage.
///
/// # Errors
/// As [`scan_records`].
pub(super) fn claimed_durable(file: &dyn File, number: u32, log: LogKey) -> Result<Seq> {
    let mut window = Window::new(file, segment::label(number), log);
    let (mut at, mut durable) = (SEGMENT_HEADER_BYTES as u64, Seq::ZERO);
    while let Some(found) = window.find(at, u64::MAX, &|_, _| true)? {
        at = match window.record(found)? {
            Some((Proven { header, .. }, _)) => {
                durable = durable.max(header.durable);
                header.end(found)
            }
            None => found + record::ALIGN_BYTES,
        };
    }
    Ok(durable)
}

fn note(index: &mut SegmentIndex, number: u32, header: &Header, at: u64) {
    if let Some(volume) = header.subject.as_volume().filter(|_| header.op.is_block()) {
        index.entries.push(Entry {
            volume,
            lba: header.lba,
            sectors: header.sectors,
            seq: header.seq,
            at: Location::of(number, header.op, at),
        });
    } else {
        index.marks.push(Mark { seq: header.seq, offset: at as u32, op: header.op, subject: header.subject });
    }
    index.times.push(header.time);
}

/// The next intact record after `from` if `seq` was lost to damage and not to a power cut. It belongs to the same
/// incarnation, is later than `seq`, and was durable or says that `seq` was. Durable is everything up to `durable`,
/// or up to what a later record says. Returned with its offset, and with the seq up to which everything is then known
/// to have been durable.
fn resync(
    window: &mut Window<'_>,
    from: u64,
    incarnation: Option<u32>,
    seq: Seq,
    durable: Seq,
) -> Result<Option<(u64, Header, Seq)>> {
    let Some((at, found)) = next_durable(window, from, incarnation, seq, durable)? else { return Ok(None) };
    if found.durable <= durable {
        return Ok(Some((at, found, durable)));
    }
    // It may prove that earlier ones were durable too.
    let durable = found.durable;
    let first = next_durable(window, from, incarnation, seq, durable)?;
    Ok(first.map(|(at, found)| (at, found, durable)))
}

/// The next intact record after `from` that belongs to the same incarnation, is later than `seq`, and says that `seq`
/// was durable or is not later than `durable` itself.
fn next_durable(
    window: &mut Window<'_>,
    from: u64,
    incarnation: Option<u32>,
    seq: Seq,
    durable: Seq,
) -> Result<Option<(u64, Header)>> {
    // Twice the longest record: seldom more than one is lost.
    const DISTANCE_MAX: u64 = 2 * PAYLOAD_BYTES_MAX as u64;
    // Each record takes at least its header, so a seq further ahead than that is false.
    let seq_max = |at: u64| seq.0 + (at - from) / HEADER_BYTES as u64 + 1;
    let mut at = from.next_multiple_of(record::ALIGN_BYTES);
    while at < from + DISTANCE_MAX {
        let claimed = |at: u64, (claimed, life): (Seq, u32)| {
            claimed > seq && claimed.0 <= seq_max(at) && incarnation.is_none_or(|i| i == life)
        };
        let Some(found) = window.find(at, from + DISTANCE_MAX, &claimed)? else { return Ok(None) };
        if let Some((Proven { header, .. }, _)) = window.record(found)?
            && header.seq > seq
            && header.seq.0 <= seq_max(found)
            && (header.durable >= seq || header.seq <= durable)
            && header.durable < header.seq
            && incarnation.is_none_or(|i| i == header.incarnation)
        {
            return Ok(Some((found, header)));
        }
        at = found + record::ALIGN_BYTES;
    }
    Ok(None)
}

/// What is damaged of a record whose fields are known nevertheless.
#[derive(Clone, Copy)]
enum BadPart {
    /// One bit of its header.
    Header,
    /// This granule of its payload; others after it may be damaged too.
    Granule(usize),
}

/// A part of a segment's file in memory.
struct Window<'a> {
    file: &'a dyn File,
    name: String,
    log: LogKey,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn new(file: &'a dyn File, name: String, log: LogKey) -> Window<'a> {
        Window { file, name, log, start: 0, bytes: Vec::new() }
    }

    /// The bytes from `at` on: `len` of them, or as many as the file has.
    fn get(&mut self, at: u64, len: usize) -> Result<&[u8]> {
        let inside = at >= self.start && at + len as u64 <= self.start + self.bytes.len() as u64;
        if !inside {
            self.bytes.resize(len.max(WINDOW_BYTES), 0);
            self.start = at;
            let got = self.file.read_at(&mut self.bytes, at).map_err(|e| Error::unread(&self.name, at, e))?;
            self.bytes.truncate(got);
        }
        let from = (at - self.start) as usize;
        let end = (from + len).min(self.bytes.len());
        Ok(self.bytes.get(from..end).unwrap_or(&[]))
    }

    /// The bytes in memory from `at` on: at least a header, unless the file ends before.
    fn rest(&mut self, at: u64) -> Result<&[u8]> {
        self.get(at, HEADER_BYTES)?;
        Ok(self.bytes.get((at - self.start) as usize..).unwrap_or(&[]))
    }

    /// The record at `at` and, if its payload is damaged, the first damaged granule.
    ///
    /// # Errors
    /// When it cannot be read, or only a newer program knows it.
    fn record(&mut self, at: u64) -> Result<Option<(Proven, Option<usize>)>> {
        let key = self.log.header;
        let proven = match Header::decode(&key, self.get(at, HEADER_BYTES)?) {
            Ok(proven) => proven,
            Err(Flaw::Newer(op)) => {
                return Err(Error::UnknownRecord {
                    place: Place { file: self.name.clone(), offset: at },
                    op,
                });
            }
            Err(_) => return Ok(None),
        };
        let bytes = self.get(at, (proven.header.end(at) - at) as usize)?;
        Ok(match proven.payload(at, bytes) {
            Ok(_) => Some((proven, None)),
            Err(Flaw::Payload(granule)) => Some((proven, Some(granule))),
            Err(_) => None,
        })
    }

    /// The record at `at`, even if a bit of its header flipped: then it is known what it wrote and where, although it
    /// cannot be read. Not for searching, because a miss costs many hashes.
    ///
    /// # Errors
    /// As [`Window::record`].
    fn record_or_flipped(&mut self, at: u64) -> Result<Option<(Proven, Option<BadPart>)>> {
        if let Some((proven, granule)) = self.record(at)? {
            return Ok(Some((proven, granule.map(BadPart::Granule))));
        }
        let key = self.log.header;
        let flipped = Header::decode_flipped(&key, self.get(at, HEADER_BYTES)?);
        Ok(flipped.map(|proven| (proven, Some(BadPart::Header))))
    }

    /// The first offset from `at` on, before `end`, at which the bytes claim to be a record and `claimed` accepts the
    /// claim.
    fn find(
        &mut self,
        mut at: u64,
        end: u64,
        claimed: &dyn Fn(u64, (Seq, u32)) -> bool,
    ) -> Result<Option<u64>> {
        let step = record::ALIGN_BYTES as usize;
        while at < end {
            // Searches everything that is in memory before it reads on, however often the search is resumed after
            // something that only looked like a record: a target may have written nothing else.
            let bytes = self.rest(at)?;
            let places = bytes.len().saturating_sub(HEADER_BYTES - 1);
            let found = (0..places)
                .step_by(step)
                .position(|i| Header::claim(&bytes[i..]).is_some_and(|claim| claimed(at + i as u64, claim)));
            if let Some(i) = found {
                return Ok(Some(at + (i * step) as u64));
            }
            if places == 0 {
                return Ok(None);
            }
            at += (places.next_multiple_of(step)) as u64;
        }
        Ok(None)
    }
}

pub(super) fn first_time(index: &SegmentIndex) -> Option<Micros> {
    index.times.first().copied()
}

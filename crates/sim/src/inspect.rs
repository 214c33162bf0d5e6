//! Reads the records of a log directly from its segment files, independently of the store's own recovery, and as if no
//! bit had rotted where the medium knows the original.

use std::collections::BTreeMap;

use bygone_model::Seq;
use bygone_store::format::{
    checkpoint,
    key::HeaderKey,
    record::{self, Header},
    segment::{self, SEGMENT_HEADER_BYTES, SegmentHeader, TRAILER_BYTES, Trailer},
};

use crate::medium::Medium;

/// A record's header and payload, by seq.
pub(crate) type Records = BTreeMap<u64, (Header, Vec<u8>)>;

/// A record and its position.
pub(crate) struct Placed {
    pub header: Header,
    pub payload: Vec<u8>,
    /// The number of its segment.
    pub segment: u32,
    /// The offset of its first byte.
    pub at: u64,
}

/// The names of the segments' files that count, in order: without what was left of one that was to be written again,
/// and without what a superseded holder left.
pub(crate) fn segment_names(medium: &Medium) -> Vec<String> {
    let names = medium.names().iter().filter_map(|name| segment_name(name)).collect();
    segment::counted(names, u32::MAX).0.into_iter().map(segment::Name::file_name).collect()
}

/// The number and the term in the name of a segment's file.
pub(crate) fn segment_name(name: &str) -> Option<segment::Name> {
    segment::Name::parse(name.strip_prefix("log/")?)
}

/// What a file is called in reports.
pub(crate) fn label(name: &str) -> String {
    segment_name(name).map_or_else(|| name.to_owned(), |name| segment::label(name.number))
}

/// All complete records. Where segments overlap, the later one counts.
#[must_use]
pub(crate) fn records(medium: &Medium) -> Records {
    placed(medium).into_iter().map(|(seq, placed)| (seq, (placed.header, placed.payload))).collect()
}

/// The same, with their positions.
#[must_use]
pub(crate) fn placed(medium: &Medium) -> BTreeMap<u64, Placed> {
    let mut out = BTreeMap::new();
    for name in &segment_names(medium) {
        let Some(bytes) = medium.sound_bytes(name) else { continue };
        let Ok((header, mut chain)) = SegmentHeader::decode(&bytes) else { continue };
        let _ = out.split_off(&header.first_seq.0);
        let (mut at, mut seq) = (SEGMENT_HEADER_BYTES, header.first_seq);
        let end = records_end(name, &bytes);
        let key = header.log.header_key();
        while let Some((found, hash, payload)) =
            bytes.get(at..end).and_then(|bytes| check(&key, at as u64, bytes))
            && found.seq == seq
            && found.previous == chain
            && found.incarnation == header.incarnation
        {
            out.insert(seq.0, Placed { header: found, payload, segment: header.number, at: at as u64 });
            (chain, seq) = (record::link(hash), seq.next());
            at = found.end(at as u64) as usize;
        }
    }
    out
}

fn check(key: &HeaderKey, at: u64, bytes: &[u8]) -> Option<(Header, u64, Vec<u8>)> {
    let header = Header::decode(key, bytes).ok()?.header;
    let whole = bytes.get(..(header.end(at) - at) as usize)?;
    record::check(key, at, whole).ok().map(|(proven, payload)| (proven.header, proven.hash, payload.to_vec()))
}

/// Where the records of a segment end: where its index begins, or at the file's end.
fn records_end(name: &str, bytes: &[u8]) -> usize {
    trailer(name, bytes).map_or(bytes.len(), |trailer| trailer.index_offset() as usize)
}

/// Whether a segment is sealed.
pub(crate) fn is_sealed(name: &str, bytes: &[u8]) -> bool {
    trailer(name, bytes).is_some()
}

fn trailer(name: &str, bytes: &[u8]) -> Option<Trailer> {
    let number = segment_name(name)?.number;
    let key = SegmentHeader::decode(bytes).ok()?.0.log.header_key();
    Trailer::decode(&key, number, bytes.get(bytes.len().checked_sub(TRAILER_BYTES)?..)?, bytes.len() as u64)
}

/// The footer of an index file, and where it begins.
fn footer(bytes: &[u8]) -> Option<(usize, checkpoint::Footer)> {
    let trailer =
        checkpoint::Trailer::decode(bytes.last_chunk::<{ checkpoint::FRAME_BYTES }>()?, bytes.len() as u64)?;
    let from = trailer.offset as usize;
    let footer = bytes.get(from..from + trailer.len_bytes as usize)?;
    Some((from, serde_json::from_slice(footer).ok()?))
}

/// Whether a part of an index file may be needed by nobody: it was written again, and what was damaged has stayed in it,
/// or a later one has trees in place of its own.
pub(crate) fn may_be_unneeded(medium: &Medium, file: &str) -> bool {
    let number = |name: &str| checkpoint::Name::parse(name.strip_prefix("index/")?).map(|name| name.number);
    let Some(of) = number(file) else { return false };
    let is_mended = |name: &String| {
        let bytes = medium.bytes(name).filter(|_| number(name).is_some_and(|number| number > of));
        bytes.and_then(|bytes| footer(&bytes)).is_some_and(|(_, footer)| footer.mended)
    };
    medium.is_replaced(file) || medium.names().iter().any(is_mended)
}

/// Where the pages and tables of an index file end.
pub(crate) fn pages_end(bytes: &[u8]) -> Option<usize> {
    let (from, footer) = footer(bytes)?;
    let events = footer.events.first().map_or(from, |first| first.block.offset as usize);
    Some(events.min(from))
}

/// The segments in words, for the trace of a failure.
pub(crate) fn segments(medium: &Medium) -> String {
    let mut out = String::new();
    for name in &segment_names(medium) {
        let bytes = medium.bytes(name).unwrap_or_default();
        let first = SegmentHeader::decode(&bytes).ok().map(|(h, _)| (h.first_seq.0, h.incarnation));
        out +=
            &format!("{name} {} bytes, first {first:?}, sealed {}; ", bytes.len(), is_sealed(name, &bytes));
    }
    out
}

/// The first seq of a segment.
pub(crate) fn first_seq(medium: &Medium, name: &str) -> Option<Seq> {
    Some(SegmentHeader::decode(&medium.sound_bytes(name)?).ok()?.0.first_seq)
}

/// The last seqs of the sealed segments, in order.
pub(crate) fn sealed_ends(medium: &Medium) -> Vec<Seq> {
    let sealed = |name: &String| Some(trailer(name, &medium.sound_bytes(name)?)?.last_seq());
    segment_names(medium).iter().filter_map(sealed).collect()
}

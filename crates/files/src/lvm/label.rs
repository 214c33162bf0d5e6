//! What a physical volume says of itself: its label, its header, and the metadata areas that these name.
//!
//! The layout is that of LVM2's `layout.h`. The text of a group lies in a ring behind the header of its area. Only the
//! copy that the header names as committed counts: LVM activates neither an older one, which the ring may still have,
//! nor one that was prepared and not committed. If that copy is damaged, another metadata area has to have it.

use crate::{
    blocks::{Blocks, ReadError},
    bytes::{has, le32, le64},
    crc::crc32_raw,
};

const SECTOR: usize = 512;
/// The label is in one of so many sectors.
const LABEL_SECTORS: usize = 4;
const CRC_SEED: u32 = 0xf597_a6cf;
const MDA_MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
const MDA_HEADER_BYTES: u64 = 512;
/// LVM writes at most two.
const AREAS_MAX: usize = 8;
/// A text of this length describes tens of thousands of logical volumes.
const TEXT_BYTES_MAX: u64 = 4 << 20;

/// A physical volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Label {
    /// The letters of its identity, without dashes.
    pub(super) id: [u8; 32],
    /// Where its metadata areas begin, in bytes, and how long they are.
    areas: Vec<(u64, u64)>,
    /// It says that it belongs to a group, wherever that is described.
    pub(super) is_used: bool,
}

/// What a metadata area holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Area {
    /// Nothing: its volume belongs to no group, or the group is described elsewhere.
    Empty,
    /// It is not in use, and what it holds may be old.
    Ignored,
    Damaged(&'static str),
    Text(String),
}

impl Label {
    /// The label of a volume, or why there is none that holds.
    pub(super) fn read(volume: &dyn Blocks) -> Result<Result<Label, &'static str>, ReadError> {
        let mut head = vec![0; (LABEL_SECTORS * SECTOR).min(volume.size_bytes() as usize)];
        volume.read_at(0, &mut head)?;
        let found = head.chunks_exact(SECTOR).enumerate().find(|(_, sector)| has(sector, 0, b"LABELONE"));
        let Some((number, sector)) = found else { return Ok(Err("it has no label")) };
        if le64(sector, 8) != number as u64 || le32(sector, 16) != crc32_raw(CRC_SEED, &sector[20..]) {
            return Ok(Err("its label is damaged"));
        }
        Ok(Label::parse(sector).ok_or("its header makes no sense"))
    }

    fn parse(sector: &[u8]) -> Option<Label> {
        let header = sector.get(le32(sector, 20) as usize..)?;
        let id = header.get(..32)?.try_into().ok()?;
        let mut at = 40;
        let (_, areas) = (list(header, &mut at)?, list(header, &mut at)?);
        let has_extension = header.len() >= at + 8 && le32(header, at) >= 1;
        Some(Label { id, areas, is_used: has_extension && le32(header, at + 4) & 1 != 0 })
    }

    /// What its metadata areas hold.
    pub(super) fn areas(&self, volume: &dyn Blocks) -> Result<Vec<Area>, ReadError> {
        self.areas.iter().map(|(start, size)| area(volume, *start, *size)).collect()
    }
}

/// A list of places, up to one that begins at 0.
fn list(header: &[u8], at: &mut usize) -> Option<Vec<(u64, u64)>> {
    let mut places = Vec::new();
    while *at + 16 <= header.len() && places.len() <= AREAS_MAX {
        let place = (le64(header, *at), le64(header, *at + 8));
        *at += 16;
        if place.0 == 0 {
            return Some(places);
        }
        places.push(place);
    }
    None
}

fn area(volume: &dyn Blocks, start: u64, size: u64) -> Result<Area, ReadError> {
    let ends = start.checked_add(size).filter(|end| *end <= volume.size_bytes());
    if ends.is_none() || size < 2 * MDA_HEADER_BYTES {
        return Ok(Area::Damaged("a metadata area lies outside"));
    }
    let mut header = [0; MDA_HEADER_BYTES as usize];
    volume.read_at(start, &mut header)?;
    let holds = le32(&header, 0) == crc32_raw(CRC_SEED, &header[4..])
        && has(&header, 4, MDA_MAGIC)
        && le32(&header, 20) == 1
        && (le64(&header, 24), le64(&header, 32)) == (start, size);
    if !holds {
        return Ok(Area::Damaged("the header of its metadata is damaged"));
    }
    let (offset, len, sum, flags) =
        (le64(&header, 40), le64(&header, 48), le32(&header, 56), le32(&header, 60));
    if flags & 1 != 0 {
        return Ok(Area::Ignored);
    }
    if offset == 0 {
        return Ok(Area::Empty);
    }
    if offset < MDA_HEADER_BYTES || offset >= size || len > size - MDA_HEADER_BYTES || len > TEXT_BYTES_MAX {
        return Ok(Area::Damaged("its metadata lies outside of its ring"));
    }
    let mut text = vec![0; len as usize];
    // At the end of the ring it goes on behind the header.
    let (first, second) = text.split_at_mut((size - offset).min(len) as usize);
    volume.read_at(start + offset, first)?;
    volume.read_at(start + MDA_HEADER_BYTES, second)?;
    if crc32_raw(CRC_SEED, &text) != sum {
        return Ok(Area::Damaged("the checksum of its metadata does not hold"));
    }
    Ok(String::from_utf8(text).map_or(Area::Damaged("its metadata is no text"), Area::Text))
}

/// An identity as the text has it, with dashes, as the header has it.
pub(super) fn id_of(text: &str) -> Option<[u8; 32]> {
    let letters: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
    letters.try_into().ok()
}

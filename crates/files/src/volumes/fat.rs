//! FAT12, FAT16, FAT32 (Microsoft's "FAT32 File System Specification" 1.03) and exFAT (Microsoft's specification).
//!
//! Whether a FAT was closed in order stands in the second entry of the allocation table and in a byte of the boot
//! sector. Linux writes only the latter, so either makes it dirty. Entries of FAT12 have no room for a mark, and
//! Windows makes none for it.

use super::{Found, Kind, Probe, State};
use crate::{
    blocks::ReadError,
    bytes::{byte, has, le16, le32},
};

fn has_signature(sector: &[u8]) -> bool {
    has(sector, 510, &[0x55, 0xaa])
}

/// The shape of a FAT, if its boot sector makes sense.
struct Shape {
    kind: Kind,
    /// The place of the first allocation table, in bytes.
    table: u64,
}

fn shape(sector: &[u8], volume_bytes: u64) -> Option<Shape> {
    let jump = byte(sector, 0) == 0xe9 || (byte(sector, 0) == 0xeb && byte(sector, 2) == 0x90);
    let unit = u64::from(le16(sector, 11));
    let cluster = u64::from(byte(sector, 13));
    let (reserved, tables) = (u64::from(le16(sector, 14)), u64::from(byte(sector, 16)));
    let media = byte(sector, 21);
    let sensible = jump
        && has_signature(sector)
        && (512..=4096).contains(&unit)
        && unit.is_power_of_two()
        && cluster.is_power_of_two()
        && reserved > 0
        && (1..=4).contains(&tables)
        && (media == 0xf0 || media >= 0xf8);
    let or = |small: u16, large: u32| if small != 0 { u64::from(small) } else { u64::from(large) };
    let sectors = or(le16(sector, 19), le32(sector, 32));
    let table_sectors = or(le16(sector, 22), le32(sector, 36));
    let root = (u64::from(le16(sector, 17)) * 32).div_ceil(unit.max(1));
    let before = reserved + tables * table_sectors + root;
    if !sensible || table_sectors == 0 || sectors <= before || reserved * unit >= volume_bytes {
        return None;
    }
    let clusters = (sectors - before) / cluster;
    let kind = match (le16(sector, 22), clusters) {
        (0, _) => Kind::Fat32,
        (_, ..4085) => Kind::Fat12,
        _ => Kind::Fat16,
    };
    Some(Shape { kind, table: reserved * unit })
}

pub(super) fn fat(probe: Probe<'_>) -> Result<Option<Found>, ReadError> {
    let Some(sector) = probe.bytes(0, 512)? else { return Ok(None) };
    let Some(Shape { kind, table }) = shape(&sector, probe.size()) else { return Ok(None) };
    let mut reasons = Vec::new();
    let state = byte(&sector, if kind == Kind::Fat32 { 0x41 } else { 0x25 });
    if state & 1 != 0 {
        reasons.push("its boot sector is marked as mounted".to_owned());
    }
    // The entry of cluster 1; entries of FAT12 are too short for marks.
    let entry = match (kind, probe.bytes(table, 8)?) {
        (_, None) | (Kind::Fat12, _) => None,
        (Kind::Fat16, Some(entries)) => {
            Some((le16(&entries, 2) & 0x8000 != 0, le16(&entries, 2) & 0x4000 != 0))
        }
        (_, Some(entries)) => {
            Some((le32(&entries, 4) & 0x0800_0000 != 0, le32(&entries, 4) & 0x0400_0000 != 0))
        }
    };
    if let Some((closed, no_errors)) = entry {
        if !closed {
            reasons.push("its allocation table is marked as in use".to_owned());
        }
        if !no_errors {
            reasons.push("its allocation table is marked as having met errors".to_owned());
        }
    }
    let otherwise = match kind {
        Kind::Fat12 => (State::Unknown, "a FAT12 is marked only by some of those who mount it"),
        _ => (State::Clean, "it is marked as closed in order"),
    };
    Ok(Some(Found::unless(kind, &reasons, otherwise)))
}

pub(super) fn exfat(probe: Probe<'_>) -> Result<Option<Found>, ReadError> {
    let Some(sector) = probe.bytes(0, 512)? else { return Ok(None) };
    if !has(&sector, 3, b"EXFAT   ") || !has_signature(&sector) {
        return Ok(None);
    }
    let flags = le16(&sector, 106);
    let mut reasons = Vec::new();
    if flags & 2 != 0 {
        reasons.push("it is marked as dirty (VolumeDirty)".to_owned());
    }
    if flags & 4 != 0 {
        reasons.push("it is marked as having met errors of its medium (MediaFailure)".to_owned());
    }
    Ok(Some(Found::unless(Kind::Exfat, &reasons, (State::Clean, "it is not marked as dirty"))))
}

//! NTFS: the flags in `$Volume` and the restart area of `$LogFile`.
//!
//! Drivers of the Linux kernel mark a volume as dirty while it is written to. Windows does so only when something is
//! wrong, and says in the log whether the volume was dismounted in order; so both are read. `ntfs-3g` does neither: it
//! empties the log when it mounts, so an emptied log says nothing.

use std::cmp::Ordering;

use super::{Found, Kind, Probe, State};
use crate::{
    blocks::ReadError,
    bytes::{byte, has, le16, le32, le64},
};

const VOLUME_INFORMATION: u32 = 0x70;
const DATA: u32 = 0x80;
const END: u32 = u32::MAX;
const VOLUME_DIRTY: u16 = 1;
const RESTART_CLEAN: u16 = 2;
const NO_CLIENT: u16 = 0xffff;
const LOG_FILE: u64 = 2;
const VOLUME: u64 = 3;
/// The unit of fixups, whatever the sectors are.
const STRIDE: usize = 512;
const RECORD_BYTES_MAX: u64 = 64 << 10;
/// The length of restart pages, where they do not say.
const RESTART_BYTES: u64 = 4096;
const CLUSTER_BYTES_MAX: u64 = 2 << 20;

struct Shape {
    cluster: u64,
    record: u64,
    mft: u64,
}

/// A count that is negative if it is the power of two of a number of bytes.
fn bytes_of(count: u8, unit: u64) -> Option<u64> {
    match count {
        1..=0x80 => Some(u64::from(count) * unit),
        0 => None,
        _ => 1_u64.checked_shl(0x100 - u32::from(count)),
    }
}

fn shape(sector: &[u8]) -> Option<Shape> {
    let unit = u64::from(le16(sector, 11));
    if !unit.is_power_of_two() || !(256..=4096).contains(&unit) {
        return None;
    }
    // More than 128 sectors are a power of two as well.
    let cluster = match byte(sector, 13) {
        large @ 0x81.. => unit.checked_shl(0x100 - u32::from(large))?,
        small => u64::from(small) * unit,
    };
    if !cluster.is_power_of_two() || cluster > CLUSTER_BYTES_MAX {
        return None;
    }
    let record = bytes_of(byte(sector, 64), cluster)?;
    let sensible = record.is_power_of_two() && (STRIDE as u64..=RECORD_BYTES_MAX).contains(&record);
    let mft = le64(sector, 48).checked_mul(cluster)?;
    sensible.then_some(Shape { cluster, record, mft })
}

/// Puts back what the ends of the sectors were before they were replaced by the update's number; `None` if an end has
/// another number, because the record was written in part.
fn fixed(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let (at, count) = (usize::from(le16(&bytes, 4)), usize::from(le16(&bytes, 6)));
    if count != bytes.len() / STRIDE + 1 || at + count * 2 > STRIDE - 2 {
        return None;
    }
    for i in 1..count {
        let end = i * STRIDE - 2;
        if le16(&bytes, end) != le16(&bytes, at) {
            return None;
        }
        bytes.copy_within(at + i * 2..at + i * 2 + 2, end);
    }
    Some(bytes)
}

/// A record of the master file table. The first 16 of them always follow one another.
fn record(probe: Probe<'_>, shape: &Shape, number: u64) -> Result<Option<Vec<u8>>, ReadError> {
    let Some(at) = shape.mft.checked_add(number * shape.record) else { return Ok(None) };
    let bytes = probe.bytes(at, shape.record as usize)?.filter(|bytes| has(bytes, 0, b"FILE"));
    Ok(bytes.and_then(fixed))
}

/// The unnamed attribute of a type.
fn attribute(record: &[u8], wanted: u32) -> Option<&[u8]> {
    let mut at = usize::from(le16(record, 20));
    // Each attribute is 16 bytes long at least.
    for _ in 0..record.len() / 16 {
        let kind = le32(record, at);
        let len = le32(record, at + 4) as usize;
        if kind == END || len < 16 || at.checked_add(len).is_none_or(|end| end > record.len()) {
            return None;
        }
        if kind == wanted && byte(record, at + 9) == 0 {
            return record.get(at..at + len);
        }
        at += len;
    }
    None
}

/// The flags of the volume, in its only resident attribute of that type.
fn volume_flags(record: &[u8]) -> Option<u16> {
    let attribute = attribute(record, VOLUME_INFORMATION).filter(|attribute| byte(attribute, 8) == 0)?;
    let value = attribute.get(usize::from(le16(attribute, 20))..)?;
    (value.len() >= 12 && le32(attribute, 16) >= 12).then(|| le16(value, 10))
}

/// Where the byte at `offset` of a file lies whose data are not in its record.
fn place(record: &[u8], shape: &Shape, offset: u64) -> Option<u64> {
    let attribute = attribute(record, DATA).filter(|attribute| byte(attribute, 8) == 1)?;
    let mut runs = attribute.get(usize::from(le16(attribute, 32))..)?;
    let (mut first, mut cluster) = (0_u64, 0_i64);
    // Each run is two bytes long at least, and the attribute lies within a record.
    while byte(runs, 0) != 0 {
        let (length, change) = (usize::from(byte(runs, 0) & 15), usize::from(byte(runs, 0) >> 4));
        if !(1..=8).contains(&length) || change > 8 {
            return None;
        }
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |n, byte| n << 8 | u64::from(*byte));
        let clusters = number(runs.get(1..1 + length)?);
        let bytes = runs.get(1 + length..1 + length + change)?;
        let unused = 64 - 8 * change as u32;
        let moved = number(bytes).checked_shl(unused).map_or(0, |n| n.cast_signed() >> unused);
        cluster = cluster.checked_add(moved)?;
        let within = offset.checked_sub(first)?;
        let end = first.checked_add(clusters.checked_mul(shape.cluster)?)?;
        if offset < end {
            let start = u64::try_from(cluster).ok()?.checked_mul(shape.cluster)?;
            return (change > 0).then_some(start.checked_add(within)?);
        }
        (first, runs) = (end, &runs[1 + length + change..]);
    }
    None
}

/// What one of the two restart pages at the beginning of the log says.
enum Restart {
    /// Nothing: it was emptied, or never written.
    Empty,
    /// It was written in part, or makes no sense.
    Damaged,
    /// Up to where the log was written, and whether that was at a dismount.
    Written { lsn: u64, closed: bool },
}

/// Reads a restart page; returns also how long the pages are.
fn restart(probe: Probe<'_>, at: Option<u64>) -> Result<(Restart, u64), ReadError> {
    let Some(at) = at else { return Ok((Restart::Damaged, RESTART_BYTES)) };
    let Some(head) = probe.bytes(at, STRIDE)? else { return Ok((Restart::Damaged, RESTART_BYTES)) };
    // An emptied log, as made by mkntfs, and by ntfs-3g when it mounts.
    if [0, 0xff].iter().any(|fill| head.iter().all(|byte| byte == fill)) {
        return Ok((Restart::Empty, RESTART_BYTES));
    }
    let len = u64::from(le32(&head, 16));
    if !has(&head, 0, b"RSTR") || !len.is_power_of_two() || !(512..=65536).contains(&len) {
        return Ok((Restart::Damaged, RESTART_BYTES));
    }
    let Some(page) = probe.bytes(at, len as usize)?.and_then(fixed) else {
        return Ok((Restart::Damaged, len));
    };
    let area = usize::from(le16(&page, 24));
    if area + 16 > page.len() {
        return Ok((Restart::Damaged, len));
    }
    let (client, flags) = (le16(&page, area + 12), le16(&page, area + 14));
    // Windows leaves its client connected when it dismounts, and sets the flag; it clears the flag before it logs
    // anything else.
    let closed = client == NO_CLIENT || flags & RESTART_CLEAN != 0;
    Ok((Restart::Written { lsn: le64(&page, area), closed }, len))
}

/// Whether the log says that the volume was dismounted in order; `None` if it does not say anything.
///
/// The restart pages are written in turn, and the newer one counts. Both are written at a dismount and at a mount, up to
/// the same place of the log: if they disagree, the stop came in between. A page that was written in part may have been
/// the newer one.
fn log_is_clean(probe: Probe<'_>, shape: &Shape) -> Result<Option<bool>, ReadError> {
    let Some(record) = record(probe, shape, LOG_FILE)? else { return Ok(None) };
    let (first, len) = restart(probe, place(&record, shape, 0))?;
    let (second, _) = restart(probe, place(&record, shape, len))?;
    let verdict = match (first, second) {
        (Restart::Written { lsn, closed }, Restart::Written { lsn: other, closed: also }) => {
            match lsn.cmp(&other) {
                Ordering::Greater => Some(closed),
                Ordering::Less => Some(also),
                Ordering::Equal => Some(closed && also),
            }
        }
        (Restart::Written { closed, .. }, Restart::Empty)
        | (Restart::Empty, Restart::Written { closed, .. }) => Some(closed),
        (Restart::Written { closed, .. }, Restart::Damaged)
        | (Restart::Damaged, Restart::Written { closed, .. }) => (!closed).then_some(false),
        _ => None,
    };
    Ok(verdict)
}

pub(super) fn ntfs(probe: Probe<'_>) -> Result<Option<Found>, ReadError> {
    let Some(sector) = probe.bytes(0, 512)?.filter(|sector| has(sector, 3, b"NTFS    ")) else {
        return Ok(None);
    };
    let found = |state, evidence: &str| Ok(Some(Found::new(Kind::Ntfs, state, evidence)));
    let Some(shape) = shape(&sector) else { return found(State::Unknown, "its boot sector makes no sense") };
    let flags = record(probe, &shape, VOLUME)?.and_then(|record| volume_flags(&record));
    let Some(flags) = flags else {
        return found(State::Unknown, "its file $Volume cannot be read");
    };
    if flags & VOLUME_DIRTY != 0 {
        return found(State::Dirty, "it is marked as dirty in $Volume");
    }
    match log_is_clean(probe, &shape)? {
        Some(true) => {
            found(State::Clean, "it is not marked as dirty, and its log says that it was dismounted")
        }
        Some(false) => found(State::Dirty, "its log does not say that it was dismounted"),
        None => found(State::Unknown, "it is not marked as dirty, but its log does not say how it was left"),
    }
}

//! GUID partition tables (UEFI specification 2.10, section 5.3).

use crc_fast::{CrcAlgorithm, checksum};

use super::{GptCopy, Note, PARTITIONS_MAX, Partition, Scheme, Table, Type};
use crate::{
    blocks::{Blocks, ReadError},
    bytes::{has, id, le32, le64},
};

const SIGNATURE: &[u8; 8] = b"EFI PART";
const HEADER_BYTES_MIN: usize = 92;
const ENTRY_BYTES_MIN: usize = 128;
const ENTRY_BYTES_MAX: usize = 4096;
/// Tables are 16 KiB long as a rule.
const ENTRIES_BYTES_MAX: usize = 1 << 20;

/// What a header says.
struct Header {
    alternate: u64,
    entries_at: u64,
    count: usize,
    entry_bytes: usize,
    entries_crc: u32,
}

/// What became of one copy.
enum Read<T> {
    Good(T),
    Absent,
    Bad(&'static str),
}

fn crc32(bytes: &[u8]) -> u32 {
    checksum(CrcAlgorithm::Crc32IsoHdlc, bytes) as u32
}

/// Reads bytes, or nothing where they lie outside or the medium fails.
fn bytes_at(disk: &dyn Blocks, at: u64, len: usize) -> Result<Option<Vec<u8>>, ReadError> {
    let mut bytes = vec![0; len];
    match disk.read_at(at, &mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.is_final() => Err(error),
        Err(_) => Ok(None),
    }
}

/// Whether there is something that looks like a primary header.
pub(super) fn is_announced(disk: &dyn Blocks, sector_bytes: u32) -> Result<bool, ReadError> {
    for unit in units(sector_bytes) {
        if let Some(bytes) = bytes_at(disk, unit, 512)?
            && has(&bytes, 0, SIGNATURE)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The sizes of sectors to try, the likelier one first.
fn units(sector_bytes: u32) -> [u64; 2] {
    if sector_bytes == 4096 { [4096, 512] } else { [512, 4096] }
}

/// The table, with `Scheme::None` if neither copy can be used.
pub(super) fn read(disk: &dyn Blocks, sector_bytes: u32) -> Result<Table, ReadError> {
    let mut notes = Vec::new();
    for unit in units(sector_bytes) {
        let mut table = Table::new(Scheme::Gpt, unit as u32);
        let primary = copy(disk, unit, 1)?;
        let last = (disk.size_bytes() / unit).saturating_sub(1);
        if let Read::Good((header, entries)) = &primary {
            add_all(&mut table, disk.size_bytes(), header, entries);
            check_backup(disk, unit, last, header, &mut table)?;
            return Ok(table);
        }
        if let Read::Bad(what) = primary {
            notes.push(Note::damaged(GptCopy::Primary, what));
        }
        // The last sector is where the backup is unless the disk has grown; then only the primary knows.
        match copy(disk, unit, last)? {
            Read::Good((header, entries)) => {
                if notes.is_empty() {
                    notes.push(Note::damaged(GptCopy::Primary, "it has no header"));
                }
                table.notes = notes;
                add_all(&mut table, disk.size_bytes(), &header, &entries);
                return Ok(table);
            }
            Read::Bad(what) => notes.push(Note::damaged(GptCopy::Backup, what)),
            Read::Absent => {}
        }
    }
    Ok(Table { notes, ..Table::new(Scheme::None, sector_bytes) })
}

/// Compares the backup with the primary, by the checksums in its header.
fn check_backup(
    disk: &dyn Blocks,
    unit: u64,
    last: u64,
    primary: &Header,
    table: &mut Table,
) -> Result<(), ReadError> {
    let mut what = "it has no header";
    for lba in [primary.alternate, last] {
        match header(disk, unit, lba)? {
            Read::Good(backup) => {
                if backup.entries_crc != primary.entries_crc {
                    table.note(Note::CopiesDiffer);
                }
                return Ok(());
            }
            Read::Bad(why) => what = why,
            Read::Absent => {}
        }
    }
    table.note(Note::damaged(GptCopy::Backup, what));
    Ok(())
}

fn header(disk: &dyn Blocks, unit: u64, lba: u64) -> Result<Read<Header>, ReadError> {
    let sector = match lba.checked_mul(unit) {
        Some(at) if lba > 0 => bytes_at(disk, at, unit as usize)?,
        _ => None,
    };
    let Some(mut sector) = sector.filter(|sector| has(sector, 0, SIGNATURE)) else { return Ok(Read::Absent) };
    let header_bytes = le32(&sector, 12) as usize;
    if !(HEADER_BYTES_MIN..=sector.len()).contains(&header_bytes) {
        return Ok(Read::Bad("its header has a senseless length"));
    }
    let crc = le32(&sector, 16);
    sector[16..20].fill(0);
    if crc32(&sector[..header_bytes]) != crc {
        return Ok(Read::Bad("the checksum of its header does not hold"));
    }
    if le64(&sector, 24) != lba {
        return Ok(Read::Bad("its header belongs elsewhere"));
    }
    let (count, entry_bytes) = (le32(&sector, 80) as usize, le32(&sector, 84) as usize);
    let sensible =
        (ENTRY_BYTES_MIN..=ENTRY_BYTES_MAX).contains(&entry_bytes) && entry_bytes.is_power_of_two();
    if !sensible || count > ENTRIES_BYTES_MAX / entry_bytes {
        return Ok(Read::Bad("its entries have a senseless number or length"));
    }
    Ok(Read::Good(Header {
        alternate: le64(&sector, 32),
        entries_at: le64(&sector, 72),
        count,
        entry_bytes,
        entries_crc: le32(&sector, 88),
    }))
}

/// One copy whole: its header and its entries.
fn copy(disk: &dyn Blocks, unit: u64, lba: u64) -> Result<Read<(Header, Vec<u8>)>, ReadError> {
    let header = match header(disk, unit, lba)? {
        Read::Good(header) => header,
        Read::Absent => return Ok(Read::Absent),
        Read::Bad(what) => return Ok(Read::Bad(what)),
    };
    let entries = match header.entries_at.checked_mul(unit) {
        Some(at) => bytes_at(disk, at, header.count * header.entry_bytes)?,
        None => None,
    };
    Ok(match entries {
        None => Read::Bad("its entries cannot be read"),
        Some(entries) if crc32(&entries) != header.entries_crc => {
            Read::Bad("the checksum of its entries does not hold")
        }
        Some(entries) => Read::Good((header, entries)),
    })
}

fn add_all(table: &mut Table, disk_bytes: u64, header: &Header, entries: &[u8]) {
    for (entry, number) in entries.chunks_exact(header.entry_bytes).take(header.count).zip(1_u32..) {
        let kind = id(entry, 0);
        if kind == [0; 16] {
            continue;
        }
        if table.partitions.len() >= PARTITIONS_MAX {
            return table.note(Note::TooMany);
        }
        let (first, last) = (le64(entry, 32), le64(entry, 40));
        // Sector 0 is the MBR's.
        let sectors = last.checked_sub(first).filter(|_| first > 0).and_then(|n| n.checked_add(1));
        let units = entry[56..128].chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]]));
        let name: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
        let partition = Partition {
            number,
            start: 0,
            len_bytes: 0,
            kind: Type::Gpt(kind),
            id: id(entry, 16),
            name: String::from_utf16_lossy(&name),
        };
        table.add(disk_bytes, (first, sectors.unwrap_or(0)), partition);
    }
}

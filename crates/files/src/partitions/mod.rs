//! Partition tables: GPT (UEFI specification, chapter 5) and MBR with logical partitions.
//!
//! - A GPT counts if a protective entry in the MBR says so, as for Linux and Windows, or if there is no MBR at all. Its
//!   checksums must hold; the backup stands in for a damaged primary.
//! - Both tables count in sectors. The disk says how long they are, but an image may have been written on a disk with
//!   others: GPTs are looked for with 512 and 4096 bytes.
//! - What is wrong with a table is noted. Partitions that lie outside the disk are left out, those that reach beyond
//!   its end are cut, those that overlap are reported as they stand.

mod gpt;
mod mbr;
#[cfg(test)]
pub(crate) mod tests;

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

use crate::{
    blocks::{Blocks, ReadError},
    bytes::has,
};

/// No table has more partitions than this, logical ones included.
pub(crate) const PARTITIONS_MAX: usize = 1024;
const NOTES_MAX: usize = 64;

/// How a disk is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheme {
    /// Not at all.
    None,
    /// By a master boot record.
    Mbr,
    /// By a GUID partition table.
    Gpt,
}

/// What a partition is said to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Type {
    /// A byte of an MBR.
    Mbr(u8),
    /// A GUID, as its bytes lie on the disk.
    Gpt([u8; 16]),
}

impl Type {
    /// Whether its partitions hold code or nothing, and no file system: those of boot loaders, and Microsoft's reserve.
    #[must_use]
    pub fn holds_no_files(&self) -> bool {
        const BIOS_BOOT: [u8; 16] = *b"Hah!IdontNeedEFI";
        const PREP: [u8; 16] = *b"\x38\x2d\x1a\x9e\x12\xc6\x16\x43\xaa\x26\x8b\x49\x52\x1e\x5a\x8b";
        const MICROSOFT_RESERVED: [u8; 16] =
            *b"\x16\xe3\xc9\xe3\x5c\x0b\xb8\x4d\x81\x7d\xf9\x2d\xf0\x02\x15\xae";
        const FREEBSD_BOOT: [u8; 16] = *b"\x9d\x6b\xbd\x83\x41\x7f\xdc\x11\xbe\x0b\x00\x15\x60\xb8\x4f\x0f";
        match self {
            Type::Mbr(kind) => *kind == 0x41,
            Type::Gpt(id) => [BIOS_BOOT, PREP, MICROSOFT_RESERVED, FREEBSD_BOOT].contains(id),
        }
    }
}

/// One partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Its number, as Linux counts: logical ones begin at 5.
    pub number: u32,
    /// Its first byte.
    pub start: u64,
    /// Its length in bytes; not 0.
    pub len_bytes: u64,
    /// What it is said to hold.
    pub kind: Type,
    /// Its id, as the bytes lie on the disk; all zeroes in an MBR.
    pub id: [u8; 16],
    /// Its name; empty in an MBR.
    pub name: String,
}

impl Partition {
    /// The byte after its last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len_bytes)
    }
}

/// One of the two copies of a GPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GptCopy {
    /// At the beginning of the disk.
    Primary,
    /// At its end.
    Backup,
}

impl fmt::Display for GptCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GptCopy::Primary => "primary",
            GptCopy::Backup => "backup",
        })
    }
}

/// Something that is wrong with, or unusual about, a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the texts of Display say what they mean")]
pub enum Note {
    DamagedGpt { copy: GptCopy, what: Cow<'static, str> },
    NoUsableGpt,
    CopiesDiffer,
    NoProtectiveMbr,
    HybridMbr,
    UnusedGpt,
    OtherSectors { bytes: u32 },
    OutsideDisk { number: u32 },
    BeyondEnd { number: u32 },
    Overlap { number: u32, other: u32 },
    Loop { number: u32 },
    DamagedLogical { number: u32 },
    TooMany,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::DamagedGpt { copy, what } => write!(f, "the {copy} GPT is not used: {what}"),
            Note::NoUsableGpt => f.write_str("the MBR announces a GPT, and none can be used"),
            Note::CopiesDiffer => f.write_str("the primary and the backup GPT differ; the primary counts"),
            Note::NoProtectiveMbr => f.write_str("the GPT has no protective MBR"),
            Note::HybridMbr => {
                f.write_str("the MBR names partitions beside the GPT (a hybrid MBR); the GPT counts")
            }
            Note::UnusedGpt => {
                f.write_str("there is a GPT too, which the MBR does not announce; the MBR counts")
            }
            Note::OtherSectors { bytes } => write!(f, "the table counts in sectors of {bytes} bytes"),
            Note::OutsideDisk { number } => write!(f, "partition {number} lies outside the disk"),
            Note::BeyondEnd { number } => write!(f, "partition {number} reaches beyond the end of the disk"),
            Note::Overlap { number, other } => write!(f, "partitions {number} and {other} overlap"),
            Note::Loop { number } => {
                write!(f, "the chain of logical partitions returns to itself after {number}")
            }
            Note::DamagedLogical { number } => {
                write!(f, "the chain of logical partitions breaks off before {number}")
            }
            Note::TooMany => f.write_str("there are more partitions or faults than are read"),
        }
    }
}

impl Note {
    fn damaged(copy: GptCopy, what: &'static str) -> Note {
        Note::DamagedGpt { copy, what: Cow::Borrowed(what) }
    }

    /// Whether partitions may be missing from the table because of it.
    #[must_use]
    pub fn may_hide_partitions(&self) -> bool {
        match self {
            Note::NoUsableGpt
            | Note::OutsideDisk { .. }
            | Note::Loop { .. }
            | Note::DamagedLogical { .. }
            | Note::TooMany => true,
            Note::DamagedGpt { .. }
            | Note::CopiesDiffer
            | Note::NoProtectiveMbr
            | Note::HybridMbr
            | Note::UnusedGpt
            | Note::OtherSectors { .. }
            | Note::BeyondEnd { .. }
            | Note::Overlap { .. } => false,
        }
    }
}

/// A disk's partitions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// What kind of table it is.
    pub scheme: Scheme,
    /// The unit in which it counts, in bytes.
    pub sector_bytes: u32,
    /// The partitions, in the order of their numbers. Those that only contain others are not listed.
    pub partitions: Vec<Partition>,
    /// What is wrong or unusual.
    pub notes: Vec<Note>,
}

impl Table {
    fn new(scheme: Scheme, sector_bytes: u32) -> Table {
        Table { scheme, sector_bytes, partitions: Vec::new(), notes: Vec::new() }
    }

    fn note(&mut self, note: Note) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(note);
        } else if self.notes.last() != Some(&Note::TooMany) {
            self.notes.push(Note::TooMany);
        }
    }

    /// Adds a partition of `sectors` from `first` on, as far as it lies on the disk.
    fn add(&mut self, disk_bytes: u64, (first, sectors): (u64, u64), partition: Partition) {
        let number = partition.number;
        if self.partitions.len() >= PARTITIONS_MAX {
            return self.note(Note::TooMany);
        }
        let unit = u64::from(self.sector_bytes);
        let start = first.checked_mul(unit).filter(|start| *start < disk_bytes);
        let Some(start) = start.filter(|_| sectors > 0) else {
            return self.note(Note::OutsideDisk { number });
        };
        let end = sectors.checked_mul(unit).and_then(|len| start.checked_add(len)).unwrap_or(u64::MAX);
        if end > disk_bytes {
            self.note(Note::BeyondEnd { number });
        }
        self.partitions.push(Partition { start, len_bytes: end.min(disk_bytes) - start, ..partition });
    }

    fn note_overlaps(&mut self) {
        let mut sorted: Vec<(u64, u64, u32)> =
            self.partitions.iter().map(|p| (p.start, p.end(), p.number)).collect();
        sorted.sort_unstable();
        let mut furthest: Option<(u64, u32)> = None;
        for (start, end, number) in sorted {
            if let Some((reached, other)) = furthest.filter(|(reached, _)| start < *reached) {
                self.note(Note::Overlap { number: number.min(other), other: number.max(other) });
                furthest = Some((reached.max(end), if end > reached { number } else { other }));
            } else {
                furthest = Some((end, number));
            }
        }
    }
}

/// The partitions of a disk.
///
/// # Errors
/// [`ReadError`] if the beginning of the disk cannot be read. What cannot be read elsewhere is noted, except when the
/// caller itself ended the reading.
pub fn partitions(disk: &dyn Blocks) -> Result<Table, ReadError> {
    let sector_bytes = if disk.sector_bytes() == 4096 { 4096 } else { 512 };
    partitions_in(disk, sector_bytes)
}

/// The partitions of a disk, if an MBR counts in sectors of `sector_bytes`.
pub(crate) fn partitions_in(disk: &dyn Blocks, sector_bytes: u32) -> Result<Table, ReadError> {
    let mut sector = [0; 512];
    if disk.size_bytes() < 512 {
        return Ok(Table::new(Scheme::None, sector_bytes));
    }
    disk.read_at(0, &mut sector)?;
    let mut table = match mbr::entries(&sector) {
        Some(entries) if entries.iter().any(|entry| entry.kind == mbr::PROTECTIVE) => {
            let mut table = gpt::read(disk, sector_bytes)?;
            if table.scheme == Scheme::None {
                table.note(Note::NoUsableGpt);
                mbr::add_all(disk, &mut table, &entries)?;
            } else if entries.iter().any(|entry| entry.is_used() && entry.kind != mbr::PROTECTIVE) {
                table.note(Note::HybridMbr);
            }
            table
        }
        Some(entries) if entries.iter().any(mbr::Entry::is_used) => {
            let mut table = Table::new(Scheme::Mbr, sector_bytes);
            mbr::add_all(disk, &mut table, &entries)?;
            if gpt::is_announced(disk, sector_bytes)? {
                table.note(Note::UnusedGpt);
            }
            table
        }
        _ if has(&sector, 510, &mbr::SIGNATURE) || !gpt::is_announced(disk, sector_bytes)? => {
            Table::new(Scheme::None, sector_bytes)
        }
        _ => {
            let mut table = gpt::read(disk, sector_bytes)?;
            if table.scheme == Scheme::Gpt {
                table.note(Note::NoProtectiveMbr);
            }
            table
        }
    };
    if table.sector_bytes != sector_bytes {
        let bytes = table.sector_bytes;
        table.note(Note::OtherSectors { bytes });
    }
    table.note_overlaps();
    Ok(table)
}

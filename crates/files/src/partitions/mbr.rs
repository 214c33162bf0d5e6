//! Master boot records, with the chain of extended boot records that holds the logical partitions.

use std::collections::HashSet;

use super::{Note, Partition, Table, Type};
use crate::{
    blocks::{Blocks, ReadError},
    bytes::{byte, has, le32},
};

pub(super) const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// The type of an entry that protects a GPT.
pub(super) const PROTECTIVE: u8 = 0xee;
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// Linux stops at 256 partitions.
const LOGICAL_MAX: u32 = 256;
/// The OEM names of boot sectors of file systems, which end with the signature of an MBR as well.
const BOOT_SECTORS: [&[u8; 8]; 3] = [b"NTFS    ", b"EXFAT   ", b"-FVE-FS-"];

/// One of the four entries.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    pub kind: u8,
    flags: u8,
    first: u32,
    sectors: u32,
}

impl Entry {
    fn parse(sector: &[u8], index: usize) -> Entry {
        let at = 446 + index * 16;
        Entry {
            flags: byte(sector, at),
            kind: byte(sector, at + 4),
            first: le32(sector, at + 8),
            sectors: le32(sector, at + 12),
        }
    }

    /// Linux goes by the size alone: an entry of type 0 that has one is a partition (those of hybrid ISO images are).
    pub(super) fn is_used(&self) -> bool {
        self.sectors != 0
    }

    fn is_extended(&self) -> bool {
        self.is_used() && EXTENDED.contains(&self.kind)
    }
}

/// The entries of a sector, if it can be a boot record: no other flag than "active", and no boot sector of a file system.
/// For one that protects a GPT Linux asks for no more than the entry that does.
pub(super) fn entries(sector: &[u8]) -> Option<[Entry; 4]> {
    let entries = [0, 1, 2, 3].map(|index| Entry::parse(sector, index));
    let protects = |entry: &Entry| entry.kind == PROTECTIVE && entry.first == 1;
    let is_plain = || {
        entries.iter().all(|entry| entry.flags & 0x7f == 0)
            && !BOOT_SECTORS.iter().any(|name| has(sector, 3, *name))
    };
    let is_table = has(sector, 510, &SIGNATURE) && (entries.iter().any(protects) || is_plain());
    is_table.then_some(entries)
}

fn partition(number: u32, kind: u8) -> Partition {
    Partition { number, start: 0, len_bytes: 0, kind: Type::Mbr(kind), id: [0; 16], name: String::new() }
}

/// Adds the primary partitions, and then the logical ones.
pub(super) fn add_all(disk: &dyn Blocks, table: &mut Table, entries: &[Entry; 4]) -> Result<(), ReadError> {
    let plain = |entry: &Entry| entry.is_used() && !entry.is_extended() && entry.kind != PROTECTIVE;
    for (entry, number) in entries.iter().zip(1_u32..).filter(|(entry, _)| plain(entry)) {
        let place = (u64::from(entry.first), u64::from(entry.sectors));
        table.add(disk.size_bytes(), place, partition(number, entry.kind));
        table.scheme = super::Scheme::Mbr;
    }
    let mut number = 5;
    for extended in entries.iter().filter(|entry| entry.is_extended()) {
        table.scheme = super::Scheme::Mbr;
        logical(disk, table, extended, &mut number)?;
    }
    Ok(())
}

/// Follows one chain. Each record has the place of a partition, relative to the record, and that of the next record,
/// relative to the first one. Its third and fourth entry often hold garbage: as for Linux, they count only if what they
/// name lies within the extended partition.
fn logical(
    disk: &dyn Blocks,
    table: &mut Table,
    extended: &Entry,
    number: &mut u32,
) -> Result<(), ReadError> {
    let (chain, chain_end) =
        (u64::from(extended.first), u64::from(extended.first) + u64::from(extended.sectors));
    let unit = u64::from(table.sector_bytes);
    let mut seen = HashSet::new();
    let (mut at, mut room) = (chain, u64::from(extended.sectors));
    loop {
        if !seen.insert(at) {
            table.note(Note::Loop { number: *number - 1 });
            return Ok(());
        }
        if seen.len() as u32 > LOGICAL_MAX || *number >= 5 + LOGICAL_MAX {
            table.note(Note::TooMany);
            return Ok(());
        }
        let mut sector = [0; 512];
        let read = match at.checked_mul(unit) {
            Some(offset) if at > 0 => disk.read_at(offset, &mut sector),
            _ => {
                table.note(Note::DamagedLogical { number: *number });
                return Ok(());
            }
        };
        match read {
            Err(error) if error.is_final() => return Err(error),
            Ok(()) if has(&sector, 510, &SIGNATURE) => {}
            _ => {
                table.note(Note::DamagedLogical { number: *number });
                return Ok(());
            }
        }
        let entries = [0, 1, 2, 3].map(|index| Entry::parse(&sector, index));
        let is_used = |(_, entry): &(usize, &Entry)| entry.is_used() && !entry.is_extended();
        for (slot, entry) in entries.iter().enumerate().filter(is_used) {
            let (first, sectors) = (u64::from(entry.first), u64::from(entry.sectors));
            let start = at.saturating_add(first);
            if slot >= 2 && (first + sectors > room || start.saturating_add(sectors) > chain_end) {
                continue;
            }
            table.add(disk.size_bytes(), (start, sectors), partition(*number, entry.kind));
            *number += 1;
        }
        match entries.iter().find(|entry| entry.is_extended()) {
            Some(next) => {
                at = chain.saturating_add(u64::from(next.first));
                room = u64::from(next.sectors);
            }
            None => return Ok(()),
        }
    }
}

//! Directory entries of FAT12, FAT16 and FAT32, with the long names before them.

use super::{ENTRY_BYTES, Fat, Node, Stream, damaged, names, time::moment};
use crate::{
    blocks::Blocks,
    bytes::{byte, le16, le32},
    tree::{Entry, FileKind, TreeError},
};

const DELETED: u8 = 0xe5;
/// Stands for a first byte of 0xe5.
const KANJI: u8 = 0x05;
const READ_ONLY: u8 = 1;
const LABEL: u8 = 8;
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;
const ATTRIBUTES: u8 = 0x3f;
const LAST: u8 = 0x40;
/// Entries of the longest name.
const SLOTS_MAX: u8 = 20;
const LOWER_BASE: u8 = 8;
const LOWER_EXTENSION: u8 = 0x10;
/// Where the 13 units of a part of a long name are.
const UNITS_AT: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// The parts of a long name, which come last part first, and before the entry that they belong to.
#[derive(Default)]
struct LongName {
    units: Vec<u16>,
    /// How many parts are still to come.
    left: u8,
    sum: u8,
}

impl LongName {
    fn add(&mut self, entry: &[u8]) {
        let order = byte(entry, 0);
        let slot = order & !LAST;
        if order & LAST != 0 && (1..=SLOTS_MAX).contains(&slot) {
            *self = LongName { units: Vec::new(), left: slot, sum: byte(entry, 13) };
        } else if self.left == 0 || slot != self.left || byte(entry, 13) != self.sum {
            *self = LongName::default();
            return;
        }
        let part = UNITS_AT.map(|at| le16(entry, at));
        self.units.splice(0..0, part);
        self.left -= 1;
    }

    /// The name, if it is whole and belongs to this entry.
    fn take(&mut self, entry: &[u8]) -> Option<Vec<u8>> {
        let LongName { units, left, sum } = std::mem::take(self);
        let short = entry[..11].iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        let used: Vec<u16> = units.into_iter().take_while(|unit| *unit != 0).collect();
        (left == 0 && sum == short && !used.is_empty()).then(|| names::from_utf16(&used))
    }
}

fn short_name(entry: &[u8]) -> Vec<u8> {
    let mut bytes = entry[..11].to_vec();
    if bytes[0] == KANJI {
        bytes[0] = DELETED;
    }
    let case = byte(entry, 12);
    let mut name = names::from_code_page(&bytes[..8], case & LOWER_BASE != 0);
    let extension = names::from_code_page(&bytes[8..], case & LOWER_EXTENSION != 0);
    if !extension.is_empty() {
        name.push('.');
        name.push_str(&extension);
    }
    name.into_bytes()
}

impl<B: Blocks> Fat<B> {
    /// The names in a directory.
    pub(super) fn short_entries(
        &self,
        directory: &Node,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<(), TreeError> {
        let mut long = LongName::default();
        self.each_entry(directory, &mut |place, entry| {
            let attributes = byte(entry, 11);
            match byte(entry, 0) {
                // None comes behind it.
                0 => return Ok(false),
                DELETED => {
                    long = LongName::default();
                    return Ok(true);
                }
                _ if attributes & ATTRIBUTES == LONG_NAME => {
                    long.add(entry);
                    return Ok(true);
                }
                _ => {}
            }
            let name = long.take(entry);
            let is_dots = matches!(&entry[..11], b".          " | b"..         ");
            if attributes & LABEL != 0 || (is_dots && attributes & DIRECTORY != 0) {
                return Ok(true);
            }
            let name = name.unwrap_or_else(|| short_name(entry));
            if !names::is_sound(&name) {
                return Err(damaged(directory.inode, "a name in the directory makes no sense"));
            }
            let kind = if attributes & DIRECTORY != 0 { FileKind::Directory } else { FileKind::Regular };
            Ok(each(Entry { name, inode: place / ENTRY_BYTES as u64, kind }))
        })
    }

    /// What the entry at a place says.
    pub(super) fn short_node(&self, place: u64) -> Result<Node, TreeError> {
        let inode = place / ENTRY_BYTES as u64;
        let mut entry = [0; ENTRY_BYTES];
        self.chains.blocks.read_at(place, &mut entry)?;
        let attributes = byte(&entry, 11);
        if matches!(byte(&entry, 0), 0 | DELETED) || attributes & LABEL != 0 {
            return Err(damaged(inode, "there is no such file"));
        }
        let is_directory = attributes & DIRECTORY != 0;
        let high = if self.boot.bits == 32 { u32::from(le16(&entry, 20)) << 16 } else { 0 };
        let first = u32::from(le16(&entry, 26)) | high;
        let len_bytes = (!is_directory).then(|| u64::from(le32(&entry, 28)));
        let created = (le16(&entry, 16), le16(&entry, 14), byte(&entry, 13));
        Ok(Node {
            inode,
            is_directory,
            is_read_only: attributes & READ_ONLY != 0,
            stream: Stream { inode, first, len_bytes, is_contiguous: false },
            written_bytes: u64::MAX,
            accessed: moment(le16(&entry, 18), 0, 0),
            modified: moment(le16(&entry, 24), le16(&entry, 22), 0),
            created: (created.0 != 0).then(|| moment(created.0, created.1, created.2)),
        })
    }
}

//! Directory entries of exFAT: sets of one entry for the file, one for its content, and some for its name.

use super::{ENTRY_BYTES, Fat, Node, Stream, damaged, names, time::with_offset};
use crate::{
    blocks::Blocks,
    bytes::{byte, le16, le32, le64},
    tree::{Entry, FileKind, TreeError},
};

const FILE: u8 = 0x85;
const STREAM: u8 = 0xc0;
const NAME: u8 = 0xc1;
const SECONDARY_MAX: u8 = 18;
const READ_ONLY: u16 = 1;
const DIRECTORY: u16 = 0x10;
const CONTIGUOUS: u8 = 2;
const UNITS_OF_NAME: usize = 15;

/// A set whose name is being gathered.
struct Set {
    place: u64,
    /// Entries that are still to come.
    left: u8,
    is_directory: bool,
    name_units: usize,
    units: Vec<u16>,
}

impl<B: Blocks> Fat<B> {
    /// The names in a directory. What a set says of its file is verified where it is asked for.
    pub(super) fn exfat_entries(
        &self,
        directory: &Node,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<(), TreeError> {
        let mut open: Option<Set> = None;
        self.each_entry(directory, &mut |place, entry| {
            let kind = byte(entry, 0);
            if kind == 0 {
                return Ok(false);
            }
            if kind == FILE {
                let is_directory = le16(entry, 4) & DIRECTORY != 0;
                let left = byte(entry, 1);
                open = Some(Set { place, left, is_directory, name_units: 0, units: Vec::new() });
                return Ok(true);
            }
            let Some(set) = &mut open else { return Ok(true) };
            match kind {
                STREAM if set.name_units == 0 => set.name_units = usize::from(byte(entry, 3)),
                NAME => set.units.extend((0..UNITS_OF_NAME).map(|i| le16(entry, 2 + i * 2))),
                _ => {}
            }
            set.left = set.left.saturating_sub(1);
            let is_broken = kind & 0xc0 != 0xc0 && set.left > 0;
            if set.left > 0 && !is_broken {
                return Ok(true);
            }
            let Some(Set { place, is_directory, name_units, mut units, .. }) = open.take() else {
                return Ok(true);
            };
            units.truncate(name_units);
            let name = names::from_utf16(&units);
            if is_broken || units.len() != name_units || !names::is_sound(&name) {
                return Err(damaged(directory.inode, "a name in the directory makes no sense"));
            }
            let kind = if is_directory { FileKind::Directory } else { FileKind::Regular };
            Ok(each(Entry { name, inode: place / ENTRY_BYTES as u64, kind }))
        })?;
        match open {
            None => Ok(()),
            Some(_) => Err(damaged(directory.inode, "the directory ends within a name")),
        }
    }

    /// What the set that begins at a place says.
    pub(super) fn exfat_node(&self, place: u64) -> Result<Node, TreeError> {
        let inode = place / ENTRY_BYTES as u64;
        let mut file = [0; ENTRY_BYTES];
        self.chains.blocks.read_at(place, &mut file)?;
        let count = byte(&file, 1);
        if byte(&file, 0) != FILE || !(2..=SECONDARY_MAX).contains(&count) {
            return Err(damaged(inode, "there is no such file"));
        }
        let set = self.set(inode, place, usize::from(count) + 1)?;
        let stream = &set[ENTRY_BYTES..2 * ENTRY_BYTES];
        if byte(stream, 0) != STREAM {
            return Err(damaged(inode, "its directory entries make no sense"));
        }
        let attributes = le16(&file, 4);
        let (written_bytes, len_bytes) = (le64(stream, 8), le64(stream, 24));
        if written_bytes > len_bytes || len_bytes > i64::MAX as u64 {
            return Err(damaged(inode, "its length makes no sense"));
        }
        Ok(Node {
            inode,
            is_directory: attributes & DIRECTORY != 0,
            is_read_only: attributes & READ_ONLY != 0,
            stream: Stream {
                inode,
                first: le32(stream, 20),
                len_bytes: Some(len_bytes),
                is_contiguous: byte(stream, 1) & CONTIGUOUS != 0,
            },
            written_bytes,
            accessed: with_offset(le32(&file, 16), 0, byte(&file, 24)),
            modified: with_offset(le32(&file, 12), byte(&file, 21), byte(&file, 23)),
            created: Some(with_offset(le32(&file, 8), byte(&file, 20), byte(&file, 22))),
        })
    }

    /// The entries of a set. Where its cluster ends, the next one of the directory follows, which is either the one that
    /// the table links or, if the directory's clusters follow one another, the one behind: the set's checksum tells.
    fn set(&self, inode: u64, place: u64, entries: usize) -> Result<Vec<u8>, TreeError> {
        let len = entries * ENTRY_BYTES;
        let unit = self.boot.cluster_bytes;
        // A set has 608 bytes at most, and a cluster 512 at least: it ends in the third one at the latest.
        let mut open = vec![(Vec::new(), place)];
        while let Some((mut bytes, at)) = open.pop() {
            let Some(cluster) = self.boot.cluster_at(at) else { continue };
            let end = self.boot.place(cluster).unwrap_or_default() + unit;
            let part = (len - bytes.len()).min((end - at) as usize);
            let before = bytes.len();
            bytes.resize(before + part, 0);
            self.chains.blocks.read_at(at, &mut bytes[before..])?;
            if bytes.len() == len {
                if checksum(&bytes) == le16(&bytes, 2) {
                    return Ok(bytes);
                }
                continue;
            }
            let linked = self.chains.linked(inode, cluster).filter(|next| *next != cluster + 1);
            for next in [Some(cluster + 1), linked].into_iter().flatten() {
                if let Some(at) = self.boot.place(next) {
                    open.push((bytes.clone(), at));
                }
            }
        }
        Err(damaged(inode, "the checksum of its directory entries does not hold"))
    }
}

/// Of a set, without the checksum itself.
fn checksum(set: &[u8]) -> u16 {
    let summed = set.iter().enumerate().filter(|(i, _)| !matches!(i, 2 | 3));
    summed.fold(0, |sum: u16, (_, byte)| sum.rotate_right(1).wrapping_add(u16::from(*byte)))
}

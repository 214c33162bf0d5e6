//! FAT12, FAT16 and FAT32 (Microsoft's "FAT32 File System Specification" 1.03, with long names) and exFAT (Microsoft's
//! "exFAT file system specification").
//!
//! - A file is known by the place of its first directory entry, in units of 32 bytes: nothing else is its own for good.
//! - Times of a FAT are local, and no place says where: they are read as UTC, as Linux does with `tz=UTC`.
//! - There are no owners and no modes. All belongs to root, and what is marked as read-only has no bits for writing.
//! - A chain of clusters is followed no further than its file is long, and no further than the volume has clusters.

mod boot;
mod chains;
mod exfat;
mod names;
mod short;
#[cfg(test)]
mod tests;
mod time;

use self::{
    boot::Boot,
    chains::{Chains, Run, Stream},
};
use crate::{
    blocks::Blocks,
    tree::{Attribute, Budget, Entry, FileExtent, FileKind, FileTime, Metadata, Tree, TreeError},
};

/// The root has no entry. Where this one would be lies the boot sector.
const ROOT: u64 = 1;
const ENTRY_BYTES: usize = 32;
/// Directories are read in pieces.
const PIECE_BYTES: usize = 16 << 10;

fn damaged(inode: u64, what: &'static str) -> TreeError {
    TreeError::Damaged { inode, what }
}

/// Is given the place of a directory entry and its bytes, and returns whether it wants more.
type EachEntry<'a> = dyn FnMut(u64, &[u8]) -> Result<bool, TreeError> + 'a;

/// A file or a directory.
#[derive(Clone, Debug)]
struct Node {
    inode: u64,
    is_directory: bool,
    is_read_only: bool,
    /// Where its content is. The length of a directory of a FAT is not known beforehand.
    stream: Stream,
    /// So much has been written; what comes behind reads as zeroes.
    written_bytes: u64,
    accessed: FileTime,
    modified: FileTime,
    created: Option<FileTime>,
}

/// The files of a FAT12, FAT16, FAT32 or exFAT file system.
pub struct Fat<B> {
    chains: Chains<B>,
    boot: Boot,
}

impl<B: Blocks> Fat<B> {
    /// Opens a volume.
    ///
    /// # Errors
    /// [`TreeError`]: what is neither a FAT nor an exFAT is damaged.
    pub fn open(blocks: B) -> Result<Fat<B>, TreeError> {
        let boot = Boot::read(&blocks)?;
        let chains = Chains::new(blocks, &boot);
        Ok(Fat { chains, boot })
    }

    fn root_node(&self) -> Node {
        let (first, len_bytes) = match self.boot.fixed_root {
            Some((_, len_bytes)) => (0, Some(len_bytes)),
            None => (self.boot.root, None),
        };
        Node {
            inode: ROOT,
            is_directory: true,
            is_read_only: false,
            stream: Stream { inode: ROOT, first, len_bytes, is_contiguous: false },
            written_bytes: u64::MAX,
            accessed: FileTime::default(),
            modified: FileTime::default(),
            created: None,
        }
    }

    fn node(&self, inode: u64) -> Result<Node, TreeError> {
        if inode == ROOT {
            return Ok(self.root_node());
        }
        let place = inode.checked_mul(ENTRY_BYTES as u64).filter(|place| self.boot.may_hold_entries(*place));
        let place = place.ok_or(damaged(inode, "there is no such file"))?;
        if self.boot.is_exfat { self.exfat_node(place) } else { self.short_node(place) }
    }

    /// Calls `each` with the entries of a directory and their places, until it returns false.
    fn each_entry(&self, directory: &Node, each: &mut EachEntry<'_>) -> Result<(), TreeError> {
        let mut done = Ok(true);
        let mut left = self.boot.directory_bytes_max;
        let mut pass = |place: u64, len_bytes: u64| -> Result<bool, TreeError> {
            let mut piece = Vec::new();
            for at in (0..len_bytes).step_by(PIECE_BYTES) {
                piece.resize((len_bytes - at).min(PIECE_BYTES as u64) as usize, 0);
                self.chains.budget.take(piece.len() as u64)?;
                self.chains.blocks.read_at(place + at, &mut piece)?;
                for (entry, i) in piece.chunks_exact(ENTRY_BYTES).zip(0..) {
                    if left == 0 {
                        let what = "the directory is too long";
                        return Err(TreeError::TooLarge { inode: directory.inode, what });
                    }
                    left = left.saturating_sub(ENTRY_BYTES as u64);
                    if !each(place + at + i * ENTRY_BYTES as u64, entry)? {
                        return Ok(false);
                    }
                }
            }
            Ok(true)
        };
        if let Some((place, len_bytes)) = self.boot.fixed_root.filter(|_| directory.inode == ROOT) {
            return pass(place, len_bytes).map(|_| ());
        }
        self.chains.runs(&directory.stream, 0..u64::MAX, &mut |run| {
            let whole = run.clusters * self.boot.cluster_bytes;
            let len_bytes = directory
                .stream
                .len_bytes
                .map_or(whole, |len| whole.min(len.saturating_sub(run.first * self.boot.cluster_bytes)));
            done = pass(run.place, len_bytes);
            matches!(done, Ok(true))
        })?;
        done.map(|_| ())
    }

    /// How long a directory is.
    fn directory_bytes(&self, node: &Node) -> Result<u64, TreeError> {
        if let Some(len_bytes) = node.stream.len_bytes {
            return Ok(len_bytes);
        }
        let mut clusters = 0;
        self.chains.runs(&node.stream, 0..u64::MAX, &mut |run| {
            clusters = run.first + run.clusters;
            clusters * self.boot.cluster_bytes <= self.boot.directory_bytes_max
        })?;
        Ok(clusters * self.boot.cluster_bytes)
    }

    fn regular(&self, inode: u64) -> Result<Node, TreeError> {
        let node = self.node(inode)?;
        if node.is_directory {
            return Err(TreeError::OtherKind { inode, wanted: "regular file" });
        }
        Ok(node)
    }
}

impl<B: Blocks> Tree for Fat<B> {
    fn root(&self) -> u64 {
        ROOT
    }

    fn budget(&self) -> &Budget {
        &self.chains.budget
    }

    fn entries(&self, directory: u64, each: &mut dyn FnMut(Entry) -> bool) -> Result<(), TreeError> {
        let node = self.node(directory)?;
        if !node.is_directory {
            return Err(TreeError::OtherKind { inode: directory, wanted: "directory" });
        }
        if self.boot.is_exfat { self.exfat_entries(&node, each) } else { self.short_entries(&node, each) }
    }

    fn metadata(&self, inode: u64) -> Result<Metadata, TreeError> {
        let node = self.node(inode)?;
        let size_bytes =
            if node.is_directory { self.directory_bytes(&node)? } else { node.stream.len_bytes.unwrap_or(0) };
        Ok(Metadata {
            inode,
            kind: if node.is_directory { FileKind::Directory } else { FileKind::Regular },
            mode: if node.is_read_only && !node.is_directory { 0o555 } else { 0o755 },
            uid: 0,
            gid: 0,
            links: 1,
            size_bytes,
            accessed: node.accessed,
            modified: node.modified,
            changed: node.modified,
            created: node.created,
            device: None,
        })
    }

    fn attributes(&self, inode: u64) -> Result<Vec<Attribute>, TreeError> {
        self.node(inode).map(|_| Vec::new())
    }

    fn link_target(&self, inode: u64) -> Result<Vec<u8>, TreeError> {
        self.node(inode)?;
        Err(TreeError::OtherKind { inode, wanted: "symbolic link" })
    }

    fn extents(&self, inode: u64, each: &mut dyn FnMut(FileExtent) -> bool) -> Result<(), TreeError> {
        let node = self.node(inode)?;
        let unit = self.boot.cluster_bytes;
        if let Some((place, len_bytes)) = self.boot.fixed_root.filter(|_| inode == ROOT) {
            each(FileExtent { offset: 0, len_bytes, place, unwritten: false, encoded_bytes: None });
            return Ok(());
        }
        self.chains.runs(&node.stream, 0..u64::MAX, &mut |Run { first, clusters, place }| {
            let (offset, len_bytes) = (first * unit, clusters * unit);
            let is_written = node.stream.len_bytes.is_none_or(|len| node.written_bytes >= len);
            let used =
                if is_written { len_bytes } else { node.written_bytes.saturating_sub(offset).min(len_bytes) };
            let extent = FileExtent { offset, len_bytes: used, place, unwritten: false, encoded_bytes: None };
            let reserved = FileExtent {
                offset: offset + used,
                len_bytes: len_bytes - used,
                place: place + used,
                unwritten: true,
                encoded_bytes: None,
            };
            [extent, reserved].into_iter().filter(|extent| extent.len_bytes > 0).all(&mut *each)
        })
    }

    fn read(&self, inode: u64, offset: u64, buf: &mut [u8]) -> Result<usize, TreeError> {
        let node = self.regular(inode)?;
        let unit = self.boot.cluster_bytes;
        let size_bytes = node.stream.len_bytes.unwrap_or(0);
        let len = size_bytes.saturating_sub(offset).min(buf.len() as u64) as usize;
        let buf = &mut buf[..len];
        buf.fill(0);
        let end = node.written_bytes.min(offset + len as u64);
        if offset >= end {
            return Ok(len);
        }
        let mut failed = None;
        self.chains.runs(&node.stream, offset / unit..end.div_ceil(unit), &mut |run| {
            let (start, stop) = (run.first * unit, (run.first + run.clusters) * unit);
            let (from, to) = (start.max(offset), stop.min(end));
            if from < to {
                let part = &mut buf[(from - offset) as usize..(to - offset) as usize];
                failed = self.chains.blocks.read_at(run.place + (from - start), part).err();
            }
            failed.is_none() && stop < end
        })?;
        failed.map_or(Ok(len), |error| Err(error.into()))
    }

    /// Case makes no difference.
    fn is_same_name(&self, a: &[u8], b: &[u8]) -> bool {
        names::are_alike(a, b)
    }
}

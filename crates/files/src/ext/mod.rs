//! ext2, ext3 and ext4 (Linux kernel documentation, "ext4 Data Structures and Algorithms").
//!
//! - Nothing is ever written: a journal that has to be replayed is laid over the volume. The overlay maps blocks of the
//!   volume to blocks of the journal, so it costs memory in proportion to the journal, not to its contents.
//! - Checksums of metadata are verified where the file system has them.
//! - What cannot be read is refused: a journal on another device, fast commits that wait to be replayed, encrypted
//!   contents, features that are not known here.

mod directory;
mod inode;
mod journal;
mod map;
mod superblock;
#[cfg(test)]
mod tests;
mod xattr;

use std::collections::HashMap;

use self::{
    inode::{Inode, encrypted},
    superblock::Superblock,
};
use crate::{
    blocks::Blocks,
    tree::{Attribute, Budget, Entry, FileExtent, FileKind, Metadata, Tree, TreeError},
};

const ROOT: u64 = 2;
const LINK_BYTES_MAX: u64 = 64 << 10;

fn damaged(inode: u64, what: &'static str) -> TreeError {
    TreeError::Damaged { inode, what }
}

fn unsupported(what: impl Into<String>) -> TreeError {
    TreeError::Unsupported { what: what.into() }
}

/// Where the newest version of a block is: a block of the journal, of which the first bytes may have been replaced.
#[derive(Clone, Copy, Debug)]
struct Replayed {
    block: u64,
    escaped: bool,
}

/// The volume, as it is once the journal has been replayed.
struct Volume<B> {
    blocks: B,
    block_bytes: u64,
    overlay: HashMap<u64, Replayed>,
}

impl<B: Blocks> Volume<B> {
    /// Fills `buf` from `offset`.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        if self.overlay.is_empty() {
            return Ok(self.blocks.read_at(offset, buf)?);
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let (block, within) = (at / self.block_bytes, at % self.block_bytes);
            let mut len = (self.block_bytes - within).min((buf.len() - done) as u64) as usize;
            if let Some(replayed) = self.overlay.get(&block) {
                let part = &mut buf[done..done + len];
                self.blocks.read_at(replayed.block * self.block_bytes + within, part)?;
                if replayed.escaped {
                    for (i, byte) in journal::MAGIC.to_be_bytes().into_iter().enumerate() {
                        if let Some(i) = (i as u64).checked_sub(within).filter(|i| *i < len as u64) {
                            part[i as usize] = byte;
                        }
                    }
                }
            } else {
                let mut next = block + 1;
                while done + len < buf.len() && !self.overlay.contains_key(&next) {
                    len = (len + self.block_bytes as usize).min(buf.len() - done);
                    next += 1;
                }
                self.blocks.read_at(at, &mut buf[done..done + len])?;
            }
            done += len;
        }
        Ok(())
    }

    fn block(&self, number: u64) -> Result<Vec<u8>, TreeError> {
        let mut bytes = vec![0; self.block_bytes as usize];
        let offset = number.checked_mul(self.block_bytes).ok_or(damaged(0, "a block lies outside"))?;
        self.read(offset, &mut bytes)?;
        Ok(bytes)
    }
}

/// What a replay of the journal changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// Complete transactions.
    pub transactions: u32,
    /// Blocks of the volume that change.
    pub blocks: usize,
    /// Of these, blocks that began like blocks of the journal, and so could not be written there as they are.
    pub escaped: usize,
    /// Versions of blocks that are not replayed, because a later transaction took them back.
    pub revoked: usize,
    /// The transactions reach beyond the end of the journal, and go on at its beginning.
    pub went_round: bool,
}

/// The files of an ext2, ext3 or ext4 file system.
pub struct Ext<B> {
    volume: Volume<B>,
    superblock: Superblock,
    replay: Replay,
    budget: Budget,
}

impl<B: Blocks> Ext<B> {
    /// Opens a volume. A journal that has to be replayed is read here.
    ///
    /// # Errors
    /// [`TreeError`]: what is not an ext file system is damaged, what is not read here unsupported.
    pub fn open(blocks: B) -> Result<Ext<B>, TreeError> {
        let mut bytes = vec![0; 1024];
        blocks.read_at(1024, &mut bytes)?;
        let parse = |bytes: &[u8], size_bytes: u64| -> Result<Superblock, TreeError> {
            let mut superblock = Superblock::parse(bytes)?;
            // What lies behind the end cannot be read anyway.
            superblock.blocks = superblock.blocks.min(size_bytes / superblock.block_bytes);
            Ok(superblock)
        };
        let superblock = parse(&bytes, blocks.size_bytes())?;
        let volume = Volume { blocks, block_bytes: superblock.block_bytes, overlay: HashMap::new() };
        let mut ext = Ext { volume, superblock, replay: Replay::default(), budget: Budget::default() };
        if ext.superblock.needs_recovery() {
            let found = journal::replay(&ext)?;
            (ext.volume.overlay, ext.replay) = (found.overlay, found.replay);
            ext.volume.read(1024, &mut bytes)?;
            let superblock = parse(&bytes, ext.volume.blocks.size_bytes())?;
            if superblock.block_bytes != ext.superblock.block_bytes {
                return Err(damaged(0, "its journal changes the length of its blocks"));
            }
            ext.superblock = superblock;
        }
        Ok(ext)
    }

    /// What a replay of the journal changes; nothing if there is none to be made.
    #[must_use]
    pub fn replay(&self) -> Replay {
        self.replay
    }

    /// A block of a directory or of a map.
    fn block(&self, number: u64) -> Result<Vec<u8>, TreeError> {
        self.budget.take(self.volume.block_bytes)?;
        self.volume.block(number)
    }

    fn content(&self, inode: &Inode) -> Result<Option<Vec<u8>>, TreeError> {
        if !inode.has_inline_data() {
            return Ok(None);
        }
        let mut content = inode.map_area().to_vec();
        if let Some(rest) = self.inline_rest(inode)? {
            content.extend_from_slice(&rest);
        }
        Ok(Some(content))
    }

    fn read_content(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize, TreeError> {
        let len = inode.size_bytes.saturating_sub(offset).min(buf.len() as u64) as usize;
        let buf = &mut buf[..len];
        buf.fill(0);
        if len == 0 {
            return Ok(0);
        }
        if let Some(content) = self.content(inode)? {
            let from = (offset as usize).min(content.len());
            let part = &content[from..content.len().min(from + len)];
            buf[..part.len()].copy_from_slice(part);
            return Ok(len);
        }
        let unit = self.volume.block_bytes;
        let end = offset + len as u64;
        let mut failed = None;
        self.map(inode, offset / unit..end.div_ceil(unit), &mut |run| {
            if run.unwritten {
                return true;
            }
            let (start, stop) = (run.first * unit, (run.first + run.blocks) * unit);
            let (from, to) = (start.max(offset), stop.min(end));
            if from < to {
                let part = &mut buf[(from - offset) as usize..(to - offset) as usize];
                failed = self.volume.read(run.place * unit + (from - start), part).err();
            }
            failed.is_none()
        })?;
        failed.map_or(Ok(len), Err)
    }
}

impl<B: Blocks> Tree for Ext<B> {
    fn root(&self) -> u64 {
        ROOT
    }

    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn entries(&self, directory: u64, each: &mut dyn FnMut(Entry) -> bool) -> Result<(), TreeError> {
        let inode = self.inode(directory)?;
        if inode.kind() != FileKind::Directory {
            return Err(TreeError::OtherKind { inode: directory, wanted: "directory" });
        }
        self.directory(&inode, each)
    }

    fn metadata(&self, inode: u64) -> Result<Metadata, TreeError> {
        Ok(self.inode(inode)?.metadata())
    }

    fn attributes(&self, inode: u64) -> Result<Vec<Attribute>, TreeError> {
        let mut all = self.xattrs(&self.inode(inode)?)?;
        all.sort();
        Ok(all)
    }

    fn link_target(&self, inode: u64) -> Result<Vec<u8>, TreeError> {
        let inode = self.inode(inode)?;
        if inode.kind() != FileKind::Symlink {
            return Err(TreeError::OtherKind { inode: inode.number, wanted: "symbolic link" });
        }
        encrypted(&inode)?;
        if inode.size_bytes > LINK_BYTES_MAX {
            return Err(damaged(inode.number, "the target of the link is too long"));
        }
        let len = inode.size_bytes as usize;
        if let Some(target) = inode.map_area().get(..len).filter(|_| inode.is_fast_link()) {
            return Ok(target.to_vec());
        }
        let mut target = vec![0; len];
        self.read_content(&inode, 0, &mut target)?;
        Ok(target)
    }

    fn extents(&self, inode: u64, each: &mut dyn FnMut(FileExtent) -> bool) -> Result<(), TreeError> {
        let inode = self.inode(inode)?;
        let has_map = matches!(inode.kind(), FileKind::Regular | FileKind::Directory | FileKind::Symlink);
        if !has_map || inode.has_inline_data() || inode.is_fast_link() {
            return Ok(());
        }
        let unit = self.volume.block_bytes;
        self.map(&inode, 0..u64::MAX, &mut |run| {
            each(FileExtent {
                offset: run.first * unit,
                len_bytes: run.blocks * unit,
                place: run.place * unit,
                unwritten: run.unwritten,
                encoded_bytes: None,
            })
        })
    }

    fn read(&self, inode: u64, offset: u64, buf: &mut [u8]) -> Result<usize, TreeError> {
        let inode = self.inode(inode)?;
        if inode.kind() != FileKind::Regular {
            return Err(TreeError::OtherKind { inode: inode.number, wanted: "regular file" });
        }
        encrypted(&inode)?;
        self.read_content(&inode, offset, buf)
    }
}

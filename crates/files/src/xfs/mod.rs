//! XFS, versions 4 and 5 ("XFS Algorithms & Data Structures").
//!
//! - Checksums of metadata are verified where the file system has them, and whose it is and where it belongs.
//! - Nothing is ever written: a log that has to be replayed is laid over the volume. Where it cannot be replayed exactly,
//!   the volume is refused: what it shows would be older than what it was told last.
//! - Refused as well: content on a realtime device, directories of the first version, unknown incompatible features, and
//!   what is marked as in need of repair.

mod directory;
mod inode;
mod log;
mod map;
mod superblock;
#[cfg(test)]
mod tests;
mod xattr;

pub use self::log::LogReplay;
use self::{
    inode::{Fork, Inode},
    log::Volume,
    superblock::Superblock,
};
use crate::{
    blocks::Blocks,
    bytes::{be32, be64, le32},
    crc::crc32c_without,
    tree::{Attribute, Budget, Entry, FileExtent, FileKind, Metadata, Tree, TreeError},
    volumes::{State, recognise},
};

const LINK_BYTES_MAX: u64 = 1024;
const REMOTE_LINK: u32 = u32::from_be_bytes(*b"XSLM");
const REMOTE_HEADER_BYTES: usize = 56;

fn damaged(inode: u64, what: &'static str) -> TreeError {
    TreeError::Damaged { inode, what }
}

fn unsupported(what: impl Into<String>) -> TreeError {
    TreeError::Unsupported { what: what.into() }
}

/// Whether the checksum at `at` holds for all bytes but itself.
fn sum_holds(bytes: &[u8], at: usize) -> bool {
    !crc32c_without(!0, bytes, at..at + 4) == le32(bytes, at)
}

/// The files of an XFS.
pub struct Xfs<B> {
    volume: Volume<B>,
    superblock: Superblock,
    replay: LogReplay,
    budget: Budget,
}

impl<B: Blocks> Xfs<B> {
    /// Opens a volume.
    ///
    /// # Errors
    /// [`TreeError`]: what is no XFS is damaged, what is not read here unsupported.
    pub fn open(blocks: B) -> Result<Xfs<B>, TreeError> {
        let mut bytes = vec![0; 512];
        blocks.read_at(0, &mut bytes)?;
        let sector_bytes = Superblock::sector_bytes(&bytes)?;
        bytes.resize(sector_bytes, 0);
        blocks.read_at(0, &mut bytes)?;
        let size_bytes = blocks.size_bytes();
        let mut superblock = Superblock::parse(&bytes, size_bytes)?;
        let (_, state, evidence) = recognise(&blocks)?;
        let mut volume = Volume::new(blocks);
        let mut replay = LogReplay::default();
        match state {
            State::Clean => {}
            State::Dirty => {
                replay = log::replay(&mut volume, &superblock, &bytes)?;
                volume.read(0, &mut bytes)?;
                superblock = Superblock::parse(&bytes, size_bytes)?;
            }
            State::Unknown => {
                return Err(unsupported(format!(
                    "an XFS of which it is not known how it was left ({evidence})"
                )));
            }
        }
        Ok(Xfs { volume, superblock, replay, budget: Budget::default() })
    }

    /// What a replay of the log changes; nothing if there is none to be made.
    #[must_use]
    pub fn replay(&self) -> LogReplay {
        self.replay
    }

    fn bytes_at(&self, place: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        self.volume.read(place, buf)
    }

    /// Blocks of metadata.
    fn metadata_at(&self, place: u64, len_bytes: usize) -> Result<Vec<u8>, TreeError> {
        self.budget.take(len_bytes as u64)?;
        let mut bytes = vec![0; len_bytes];
        self.bytes_at(place, &mut bytes)?;
        Ok(bytes)
    }

    /// Fills `buf` with what a fork holds from `offset` on; holes are zeroes.
    fn read_fork(&self, inode: &Inode, fork: Fork, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        buf.fill(0);
        let unit = self.superblock.block_bytes;
        let end = offset + buf.len() as u64;
        let mut failed = None;
        self.map(inode, fork, offset / unit..end.div_ceil(unit), &mut |run| {
            if run.unwritten {
                return true;
            }
            let (start, stop) = (run.first * unit, (run.first + run.blocks) * unit);
            let (from, to) = (start.max(offset), stop.min(end));
            if from < to {
                let part = &mut buf[(from - offset) as usize..(to - offset) as usize];
                failed = self.bytes_at(run.place + (from - start), part).err();
            }
            failed.is_none()
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// The target of a link that does not fit into its inode: in version 5, each run of blocks begins with a header.
    fn remote_link(&self, inode: &Inode, len: usize) -> Result<Vec<u8>, TreeError> {
        let mut target = Vec::new();
        let mut result = Ok(());
        self.map(inode, Fork::Data, 0..u64::MAX, &mut |run| {
            let blocks = run.blocks.min(LINK_BYTES_MAX.div_ceil(self.superblock.block_bytes) + 1);
            result = self.metadata_at(run.place, (blocks * self.superblock.block_bytes) as usize).and_then(
                |bytes| {
                    if !self.superblock.is_v5 {
                        target.extend_from_slice(&bytes);
                        return Ok(());
                    }
                    let part = be32(&bytes, 8) as usize;
                    let is_sound = be32(&bytes, 0) == REMOTE_LINK
                        && be32(&bytes, 4) as usize == target.len()
                        && be64(&bytes, 32) == inode.number
                        && sum_holds(&bytes, 12);
                    let part =
                        bytes.get(REMOTE_HEADER_BYTES..REMOTE_HEADER_BYTES + part).filter(|_| is_sound);
                    target.extend_from_slice(
                        part.ok_or(damaged(inode.number, "the target of the link makes no sense"))?,
                    );
                    Ok(())
                },
            );
            result.is_ok() && target.len() < len
        })?;
        result?;
        if target.len() < len {
            return Err(damaged(inode.number, "the target of the link is too short"));
        }
        target.truncate(len);
        Ok(target)
    }
}

impl<B: Blocks> Tree for Xfs<B> {
    fn root(&self) -> u64 {
        self.superblock.root
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
        if inode.size_bytes() > LINK_BYTES_MAX {
            return Err(damaged(inode.number, "the target of the link is too long"));
        }
        let len = inode.size_bytes() as usize;
        match inode.local(Fork::Data)? {
            Some(local) => local
                .get(..len)
                .map(<[u8]>::to_vec)
                .ok_or(damaged(inode.number, "the target of the link is too short")),
            None => self.remote_link(&inode, len),
        }
    }

    fn extents(&self, inode: u64, each: &mut dyn FnMut(FileExtent) -> bool) -> Result<(), TreeError> {
        let inode = self.inode(inode)?;
        let has_map = matches!(inode.kind(), FileKind::Regular | FileKind::Directory | FileKind::Symlink);
        if !has_map || inode.local(Fork::Data)?.is_some() {
            return Ok(());
        }
        let unit = self.superblock.block_bytes;
        self.map(&inode, Fork::Data, 0..u64::MAX, &mut |run| {
            each(FileExtent {
                offset: run.first * unit,
                len_bytes: run.blocks * unit,
                place: run.place,
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
        let len = inode.size_bytes().saturating_sub(offset).min(buf.len() as u64) as usize;
        if len > 0 {
            self.read_fork(&inode, Fork::Data, offset, &mut buf[..len])?;
        }
        Ok(len)
    }
}

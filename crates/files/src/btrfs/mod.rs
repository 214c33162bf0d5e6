//! btrfs (its documentation, "On-disk format").
//!
//! - All metadata and all content that has checksums is verified, and where a copy is bad, the next one is read.
//! - What is shown is the last commit, and over it what its log tree holds: what was synced since then. Nothing is ever
//!   written. A log that cannot be replayed exactly is refused: the volume would look older than what it was told last.
//! - The root is the default subvolume, as when Linux mounts it. Others appear as directories below it, and can be reached
//!   by [`Btrfs::subvolume`] as well.
//! - Refused as well: unknown incompatible features, and those that change where things lie (zoned, extent-tree-v2,
//!   raid-stripe-tree); a file system of which too many devices are missing.

mod chunks;
mod compression;
mod content;
mod directory;
mod inode;
mod log;
mod sums;
mod superblock;
#[cfg(test)]
mod tests;
mod tree;
mod volume;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use self::{
    compression::Compression,
    inode::Place,
    log::Log,
    superblock::Superblock,
    tree::{Root, TOP_LEVEL},
    volume::Volume,
};
use crate::{
    blocks::Blocks,
    tree::{Attribute, Budget, Entry, FileExtent, FileKind, Metadata, Tree, TreeError},
};

fn damaged(inode: u64, what: &'static str) -> TreeError {
    TreeError::Damaged { inode, what }
}

fn unsupported(what: impl Into<String>) -> TreeError {
    TreeError::Unsupported { what: what.into() }
}

/// A compressed extent: where it lies, what it is, and whether its sums were verified.
type Encoded = ((u64, u64), u64, Compression, bool);

/// The files of a btrfs.
pub struct Btrfs<B> {
    volume: Volume<B>,
    root: u64,
    log: Log,
    /// The trees that were looked up.
    roots: Mutex<HashMap<u64, Root>>,
    /// The compressed extent that was read last.
    decoded: Mutex<Option<(Encoded, Arc<Vec<u8>>)>>,
}

impl<B: Blocks> Btrfs<B> {
    /// Opens a volume that is the only device of its file system, or has a copy of all of it.
    ///
    /// # Errors
    /// [`TreeError`]: what is no btrfs is damaged, what is not read here unsupported.
    pub fn open(blocks: B) -> Result<Btrfs<B>, TreeError> {
        Btrfs::with_devices(vec![blocks])
    }

    /// Opens a file system on several devices, in any order. Some may be missing if the others have all of it. Places of
    /// files are counted as if the devices lay one behind the other.
    ///
    /// # Errors
    /// As of [`Btrfs::open`].
    pub fn with_devices(devices: Vec<B>) -> Result<Btrfs<B>, TreeError> {
        let mut superblocks = Vec::new();
        for device in &devices {
            let mut bytes = vec![0; superblock::BYTES];
            device.read_at(superblock::PLACE, &mut bytes)?;
            superblocks.push(Superblock::parse(&bytes)?);
        }
        let ids = superblocks.iter().map(|superblock| (superblock.device, superblock.device_id)).collect();
        if superblocks.iter().any(|one| one.fs_id != superblocks[0].fs_id) {
            return Err(damaged(0, "the devices belong to different file systems"));
        }
        let newest = superblocks.into_iter().max_by_key(|superblock| superblock.generation);
        let superblock = newest.ok_or(damaged(0, "there is no device"))?;
        let (here, all) = (devices.len(), superblock.devices);
        let missing = || unsupported(format!("a btrfs on {all} devices, of which {here} are not enough,"));
        let volume = Volume::new(devices, ids, superblock).map_err(|error| match error {
            TreeError::Damaged { .. } if all > here as u64 => missing(),
            other => other,
        })?;
        if !volume.chunks().are_complete() {
            return Err(missing());
        }
        let mut btrfs = Btrfs {
            volume,
            root: 0,
            log: Log::default(),
            roots: Mutex::default(),
            decoded: Mutex::default(),
        };
        btrfs.log = btrfs.replay()?;
        btrfs.root = btrfs.subvolume(btrfs.default_subvolume()?)?;
        Ok(btrfs)
    }

    /// The root directory of a subvolume or snapshot, by its number.
    ///
    /// # Errors
    /// [`TreeError::NotFound`] if there is none of that number; others of [`TreeError`].
    pub fn subvolume(&self, id: u64) -> Result<u64, TreeError> {
        self.subvolume_root(id)?.ok_or(TreeError::NotFound)?;
        Place::root_of(id).number()
    }

    /// How many files a log tree changes, which is replayed.
    #[must_use]
    pub fn replayed_files(&self) -> usize {
        self.log.files.len()
    }

    /// Makes the top level the root instead of the default subvolume, so that all subvolumes are below it.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn from_top_level(mut self) -> Result<Btrfs<B>, TreeError> {
        self.root = self.subvolume(TOP_LEVEL)?;
        Ok(self)
    }
}

impl<B: Blocks> Tree for Btrfs<B> {
    fn root(&self) -> u64 {
        self.root
    }

    fn budget(&self) -> &Budget {
        &self.volume.budget
    }

    fn entries(&self, directory: u64, each: &mut dyn FnMut(Entry) -> bool) -> Result<(), TreeError> {
        if Place::of(directory).is_placeholder() {
            return Ok(());
        }
        let inode = self.inode(directory)?;
        if inode.kind() != FileKind::Directory {
            return Err(TreeError::OtherKind { inode: directory, wanted: "directory" });
        }
        self.directory(&inode, each)
    }

    fn metadata(&self, inode: u64) -> Result<Metadata, TreeError> {
        if Place::of(inode).is_placeholder() {
            return self.placeholder(inode);
        }
        Ok(self.inode(inode)?.metadata())
    }

    fn attributes(&self, inode: u64) -> Result<Vec<Attribute>, TreeError> {
        if Place::of(inode).is_placeholder() {
            return Ok(Vec::new());
        }
        let mut all = self.xattrs(&self.inode(inode)?)?;
        all.sort();
        Ok(all)
    }

    fn link_target(&self, inode: u64) -> Result<Vec<u8>, TreeError> {
        let inode = self.inode(inode)?;
        if inode.kind() != FileKind::Symlink {
            return Err(TreeError::OtherKind { inode: inode.number, wanted: "symbolic link" });
        }
        self.target(&inode)
    }

    fn extents(&self, inode: u64, each: &mut dyn FnMut(FileExtent) -> bool) -> Result<(), TreeError> {
        if Place::of(inode).is_placeholder() {
            return Ok(());
        }
        let inode = self.inode(inode)?;
        if inode.kind() != FileKind::Regular {
            return Ok(());
        }
        self.places(&inode, each)
    }

    fn read(&self, inode: u64, offset: u64, buf: &mut [u8]) -> Result<usize, TreeError> {
        let inode = self.inode(inode)?;
        if inode.kind() != FileKind::Regular {
            return Err(TreeError::OtherKind { inode: inode.number, wanted: "regular file" });
        }
        let len = inode.size_bytes().saturating_sub(offset).min(buf.len() as u64) as usize;
        if len > 0 {
            self.read_extents(&inode, offset, &mut buf[..len])?;
        }
        Ok(len)
    }
}

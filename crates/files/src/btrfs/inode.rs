//! Inodes, and how their numbers stay unique.
//!
//! In btrfs the inodes of each subvolume are numbered from 256. A number of this crate has that of the inode in its lower
//! 40 bits and that of the subvolume above it, 0 for the top level, so that it is the same whenever and wherever the
//! volume is opened. Subvolumes from 2^24 and inodes from 2^39 on are refused.

use super::{
    Btrfs, damaged,
    tree::{FIRST, Key, Root, TOP_LEVEL},
};
use crate::{
    blocks::Blocks,
    bytes::{le32, le64},
    tree::{FileKind, FileTime, Metadata, TreeError},
};

const OBJECT_BITS: u32 = 40;
/// What is left in a snapshot of a subvolume within it: an empty directory. The number of that subvolume is below this.
const PLACEHOLDER: u64 = 1 << (OBJECT_BITS - 1);
const SUBVOLUMES_MAX: u64 = 1 << (64 - OBJECT_BITS);
const INODE_ITEM: u8 = 1;
const INODE_BYTES: usize = 160;
const NO_SUMS: u64 = 1;

/// What a number stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub subvolume: u64,
    pub object: u64,
}

impl Place {
    pub(super) fn of(number: u64) -> Place {
        let subvolume = number >> OBJECT_BITS;
        let subvolume = if subvolume == 0 { TOP_LEVEL } else { subvolume };
        Place { subvolume, object: number & ((1 << OBJECT_BITS) - 1) }
    }

    /// The root directory of a subvolume.
    pub(super) fn root_of(subvolume: u64) -> Place {
        Place { subvolume, object: FIRST }
    }

    /// The empty directory in `subvolume` that stands for `other`.
    pub(super) fn placeholder(subvolume: u64, other: u64) -> Place {
        Place { subvolume, object: PLACEHOLDER | (other % PLACEHOLDER) }
    }

    pub(super) fn is_placeholder(self) -> bool {
        self.object >= PLACEHOLDER
    }

    pub(super) fn number(self) -> Result<u64, TreeError> {
        let top = if self.subvolume == TOP_LEVEL { 0 } else { self.subvolume };
        if top >= SUBVOLUMES_MAX || self.object >> OBJECT_BITS != 0 {
            return Err(TreeError::TooLarge {
                inode: self.object,
                what: "the number of the subvolume or the inode",
            });
        }
        Ok(top << OBJECT_BITS | self.object)
    }
}

pub(super) struct Inode {
    pub number: u64,
    pub object: u64,
    /// Of its subvolume.
    pub root: Root,
    item: Vec<u8>,
}

impl Inode {
    pub(super) fn kind(&self) -> FileKind {
        match le32(&self.item, 52) & 0o170_000 {
            0o100_000 => FileKind::Regular,
            0o040_000 => FileKind::Directory,
            0o120_000 => FileKind::Symlink,
            0o020_000 => FileKind::CharDevice,
            0o060_000 => FileKind::BlockDevice,
            0o010_000 => FileKind::Fifo,
            0o140_000 => FileKind::Socket,
            _ => FileKind::Unknown,
        }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        le64(&self.item, 16)
    }

    /// Whether its content has checksums.
    pub(super) fn has_sums(&self) -> bool {
        le64(&self.item, 64) & NO_SUMS == 0
    }

    pub(super) fn metadata(&self) -> Metadata {
        let item = &self.item;
        let time =
            |at| FileTime { seconds: le64(item, at) as i64, nanos: le32(item, at + 8).min(999_999_999) };
        let kind = self.kind();
        let device = le64(item, 56);
        Metadata {
            inode: self.number,
            kind,
            mode: (le32(item, 52) & 0o7777) as u16,
            uid: le32(item, 44),
            gid: le32(item, 48),
            links: le32(item, 40),
            size_bytes: self.size_bytes(),
            accessed: time(112),
            changed: time(124),
            modified: time(136),
            created: Some(time(148)),
            device: matches!(kind, FileKind::CharDevice | FileKind::BlockDevice)
                .then_some(((device >> 20) as u32, (device & 0xf_ffff) as u32)),
        }
    }
}

impl<B: Blocks> Btrfs<B> {
    pub(super) fn inode(&self, number: u64) -> Result<Inode, TreeError> {
        let place = Place::of(number);
        let root = self.subvolume_root(place.subvolume)?.ok_or(TreeError::NotFound)?;
        let key = (place.subvolume, place.object);
        let mut item = match self.log.files.get(&key) {
            Some(file) => file.item.clone(),
            None => {
                let key = Key::new(place.object, INODE_ITEM, 0);
                self.volume.item(&root, key)?.ok_or(TreeError::NotFound)?
            }
        };
        if item.len() < INODE_BYTES {
            return Err(damaged(number, "its item is too short"));
        }
        if let Some(added) = self.log.added.get(&key) {
            let size_bytes = le64(&item, 16).saturating_add(added.size_bytes);
            item[16..24].copy_from_slice(&size_bytes.to_le_bytes());
        }
        Ok(Inode { number, object: place.object, root, item })
    }

    /// The empty directory that stands for a subvolume within a snapshot. Nothing of it is recorded: Linux makes it up,
    /// from the directory that contains it and from the present, and here it is made up from the root of the snapshot.
    pub(super) fn placeholder(&self, number: u64) -> Result<Metadata, TreeError> {
        let root = Place::root_of(Place::of(number).subvolume);
        let above = self.inode(root.number()?)?.metadata();
        Ok(Metadata {
            inode: number,
            kind: FileKind::Directory,
            mode: 0o755,
            links: 1,
            size_bytes: 0,
            ..above
        })
    }
}

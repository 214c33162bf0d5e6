//! Inodes.

use super::{Ext, damaged, unsupported};
use crate::{
    blocks::Blocks,
    bytes::{byte, le16, le32},
    crc::crc32c,
    tree::{FileKind, FileTime, Metadata, TreeError},
};

const ENCRYPTED: u32 = 0x800;
const INDEX: u32 = 0x1000;
const EXTENTS: u32 = 0x8_0000;
const EA_INODE: u32 = 0x20_0000;
const INLINE_DATA: u32 = 0x1000_0000;

/// One inode, as it lies on the disk.
pub(super) struct Inode {
    pub number: u64,
    pub raw: Vec<u8>,
    pub size_bytes: u64,
    /// The beginning of each checksum of what belongs to it.
    pub seed: Option<u32>,
}

/// Refuses what is encrypted.
pub(super) fn encrypted(inode: &Inode) -> Result<(), TreeError> {
    if inode.flags() & ENCRYPTED == 0 { Ok(()) } else { Err(unsupported("an encrypted file")) }
}

impl<B: Blocks> Ext<B> {
    pub(super) fn inode(&self, number: u64) -> Result<Inode, TreeError> {
        let mut raw = vec![0; self.superblock.inode_bytes];
        self.volume.read(self.inode_at(number)?, &mut raw)?;
        let seed = self.superblock.seed.map(|seed| {
            crc32c(crc32c(seed, &(number as u32).to_le_bytes()), &le32(&raw, 0x64).to_le_bytes())
        });
        let mut inode = Inode { number, raw, size_bytes: 0, seed };
        if inode.raw.len() > 128 && 128 + inode.extra_bytes() > inode.raw.len() {
            return Err(damaged(number, "its additional fields have a senseless length"));
        }
        inode.verify()?;
        let is_long = inode.kind() == FileKind::Regular
            || (inode.kind() == FileKind::Directory && self.superblock.has_large_directories());
        let high = if is_long { u64::from(le32(&inode.raw, 0x6c)) << 32 } else { 0 };
        inode.size_bytes = u64::from(le32(&inode.raw, 4)) | high;
        if inode.size_bytes > i64::MAX as u64 {
            return Err(damaged(number, "its size is negative"));
        }
        Ok(inode)
    }
}

impl Inode {
    pub(super) fn flags(&self) -> u32 {
        le32(&self.raw, 0x20)
    }

    pub(super) fn has_extents(&self) -> bool {
        self.flags() & EXTENTS != 0
    }

    /// A directory whose first block is the root of an index.
    pub(super) fn has_index(&self) -> bool {
        self.flags() & INDEX != 0
    }

    pub(super) fn has_inline_data(&self) -> bool {
        self.flags() & INLINE_DATA != 0
    }

    pub(super) fn is_attribute_value(&self) -> bool {
        self.flags() & EA_INODE != 0
    }

    /// The target of a short link takes the place of the map.
    pub(super) fn is_fast_link(&self) -> bool {
        self.kind() == FileKind::Symlink
            && self.size_bytes < 60
            && !self.has_extents()
            && !self.has_inline_data()
    }

    /// Where the map of blocks is, or what takes its place.
    pub(super) fn map_area(&self) -> &[u8] {
        &self.raw[0x28..0x64]
    }

    pub(super) fn attribute_block(&self) -> u64 {
        u64::from(le32(&self.raw, 0x68)) | u64::from(le16(&self.raw, 0x76)) << 32
    }

    /// How many bytes of additional fields follow the first 128.
    pub(super) fn extra_bytes(&self) -> usize {
        if self.raw.len() > 128 { usize::from(le16(&self.raw, 0x80)) } else { 0 }
    }

    /// An additional field of four bytes.
    fn extra(&self, at: usize) -> Option<u32> {
        (at + 4 <= 128 + self.extra_bytes()).then(|| le32(&self.raw, at))
    }

    fn verify(&self) -> Result<(), TreeError> {
        let Some(seed) = self.seed else { return Ok(()) };
        let has_high = self.extra_bytes() >= 4;
        let mut bytes = self.raw.clone();
        bytes[0x7c..0x7e].fill(0);
        if has_high {
            bytes[0x82..0x84].fill(0);
        }
        let crc = crc32c(seed, &bytes);
        let high = if has_high { u32::from(le16(&self.raw, 0x82)) << 16 } else { crc & 0xffff_0000 };
        if crc == u32::from(le16(&self.raw, 0x7c)) | high {
            Ok(())
        } else {
            Err(damaged(self.number, "its checksum does not hold"))
        }
    }

    pub(super) fn kind(&self) -> FileKind {
        match byte(&self.raw, 1) >> 4 {
            0x1 => FileKind::Fifo,
            0x2 => FileKind::CharDevice,
            0x4 => FileKind::Directory,
            0x6 => FileKind::BlockDevice,
            0x8 => FileKind::Regular,
            0xa => FileKind::Symlink,
            0xc => FileKind::Socket,
            _ => FileKind::Unknown,
        }
    }

    /// Seconds since 1970 as a signed number; the additional field has two more bits and the nanoseconds.
    fn time(&self, at: usize, extra_at: usize) -> FileTime {
        let seconds = i64::from(le32(&self.raw, at).cast_signed());
        let extra = self.extra(extra_at).unwrap_or(0);
        // Its bits have room for more than a second.
        let nanos = (extra >> 2).min(999_999_999);
        FileTime { seconds: seconds + (i64::from(extra & 3) << 32), nanos }
    }

    fn device(&self) -> (u32, u32) {
        let (old, new) = (le32(&self.raw, 0x28), le32(&self.raw, 0x2c));
        if old != 0 {
            (old >> 8 & 0xff, old & 0xff)
        } else {
            ((new & 0xf_ff00) >> 8, (new & 0xff) | (new >> 12 & 0xf_ff00))
        }
    }

    pub(super) fn metadata(&self) -> Metadata {
        let raw = &self.raw;
        let kind = self.kind();
        let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        Metadata {
            inode: self.number,
            kind,
            mode: le16(raw, 0) & 0xfff,
            uid: u32::from(le16(raw, 2)) | u32::from(le16(raw, 0x78)) << 16,
            gid: u32::from(le16(raw, 0x18)) | u32::from(le16(raw, 0x7a)) << 16,
            links: u32::from(le16(raw, 0x1a)),
            size_bytes: self.size_bytes,
            accessed: self.time(8, 0x8c),
            modified: self.time(0x10, 0x88),
            changed: self.time(0xc, 0x84),
            created: self.extra(0x90).map(|_| self.time(0x90, 0x94)),
            device: is_device.then(|| self.device()),
        }
    }
}

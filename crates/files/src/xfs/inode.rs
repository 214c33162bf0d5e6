//! Inodes, and what of their forks is kept in them.

use super::{Xfs, damaged, sum_holds, unsupported};
use crate::{
    blocks::Blocks,
    bytes::{be16, be32, be64, byte, has, id},
    tree::{FileKind, FileTime, Metadata, TreeError},
};

const DEVICE: u8 = 0;
const LOCAL: u8 = 1;
pub(super) const EXTENTS: u8 = 2;
pub(super) const BTREE: u8 = 3;
const REALTIME: u16 = 1;
const LARGE_TIMES: u64 = 8;
const LARGE_COUNTS: u64 = 0x10;
/// Large times count from here, in seconds.
const LARGE_TIMES_FROM: i64 = -(1 << 31);

/// The two things that an inode has a map of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fork {
    Data,
    Attributes,
}

/// One inode, as it lies on the disk.
pub(super) struct Inode {
    pub number: u64,
    raw: Vec<u8>,
    is_v3: bool,
}

impl<B: Blocks> Xfs<B> {
    pub(super) fn inode(&self, number: u64) -> Result<Inode, TreeError> {
        let place = self.superblock.inode_place(number).ok_or(damaged(number, "there is no such inode"))?;
        let mut raw = vec![0; self.superblock.inode_bytes];
        self.bytes_at(place, &mut raw)?;
        let is_v3 = byte(&raw, 4) >= 3;
        if !has(&raw, 0, b"IN") || !(1..=3).contains(&byte(&raw, 4)) || is_v3 != self.superblock.is_v5 {
            return Err(damaged(number, "there is no such inode"));
        }
        if is_v3 && !sum_holds(&raw, 100) {
            return Err(damaged(number, "its checksum does not hold"));
        }
        if is_v3 && (be64(&raw, 152) != number || id(&raw, 160) != self.superblock.id) {
            return Err(damaged(number, "it is another inode"));
        }
        let inode = Inode { number, raw, is_v3 };
        if inode.kind() == FileKind::Unknown {
            return Err(damaged(number, "there is no such inode"));
        }
        if inode.size_bytes() > i64::MAX as u64 {
            return Err(damaged(number, "its size is negative"));
        }
        if inode.area(Fork::Data).is_none() {
            return Err(damaged(number, "its forks have a senseless length"));
        }
        Ok(inode)
    }
}

impl Inode {
    pub(super) fn kind(&self) -> FileKind {
        match byte(&self.raw, 2) >> 4 {
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

    pub(super) fn size_bytes(&self) -> u64 {
        be64(&self.raw, 56)
    }

    /// Bits that only inodes of version 3 have.
    fn flags(&self) -> u64 {
        if self.is_v3 { be64(&self.raw, 120) } else { 0 }
    }

    fn core_bytes(&self) -> usize {
        if self.is_v3 { 176 } else { 100 }
    }

    pub(super) fn has(&self, fork: Fork) -> bool {
        fork == Fork::Data || byte(&self.raw, 82) != 0
    }

    /// What of a fork is in the inode.
    fn area(&self, fork: Fork) -> Option<&[u8]> {
        let split = usize::from(byte(&self.raw, 82)) * 8;
        let forks = self.raw.get(self.core_bytes()..)?;
        match (fork, split) {
            (Fork::Data, 0) => Some(forks),
            (Fork::Data, _) => forks.get(..split),
            (Fork::Attributes, 0) => None,
            (Fork::Attributes, _) => forks.get(split..),
        }
    }

    pub(super) fn format(&self, fork: Fork) -> u8 {
        byte(&self.raw, if fork == Fork::Data { 5 } else { 83 })
    }

    /// How many extents a fork has.
    pub(super) fn extents(&self, fork: Fork) -> u64 {
        match (fork, self.flags() & LARGE_COUNTS != 0) {
            (Fork::Data, true) => be64(&self.raw, 24),
            (Fork::Data, false) | (Fork::Attributes, true) => u64::from(be32(&self.raw, 76)),
            (Fork::Attributes, false) => u64::from(be16(&self.raw, 80)),
        }
    }

    /// The content of a fork that is kept in the inode itself.
    pub(super) fn local(&self, fork: Fork) -> Result<Option<&[u8]>, TreeError> {
        if self.format(fork) != LOCAL {
            return Ok(None);
        }
        self.area(fork).map(Some).ok_or(damaged(self.number, "its forks have a senseless length"))
    }

    /// What a fork has in the inode of a map.
    pub(super) fn root_of_map(&self, fork: Fork) -> Result<&[u8], TreeError> {
        if fork == Fork::Data && be16(&self.raw, 90) & REALTIME != 0 {
            return Err(unsupported("a file on a realtime device"));
        }
        if !matches!(self.format(fork), EXTENTS | BTREE) {
            return Err(damaged(self.number, "it has a map of no known kind"));
        }
        self.area(fork).ok_or(damaged(self.number, "its forks have a senseless length"))
    }

    fn time(&self, at: usize) -> FileTime {
        if self.flags() & LARGE_TIMES != 0 {
            let nanos = be64(&self.raw, at);
            let seconds = (nanos / 1_000_000_000).cast_signed() + LARGE_TIMES_FROM;
            return FileTime { seconds, nanos: (nanos % 1_000_000_000) as u32 };
        }
        let seconds = i64::from(be32(&self.raw, at).cast_signed());
        FileTime { seconds, nanos: be32(&self.raw, at + 4).min(999_999_999) }
    }

    pub(super) fn metadata(&self) -> Metadata {
        let raw = &self.raw;
        let kind = self.kind();
        let is_device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        let device = self.area(Fork::Data).filter(|_| is_device && self.format(Fork::Data) == DEVICE);
        Metadata {
            inode: self.number,
            kind,
            mode: be16(raw, 2) & 0xfff,
            uid: be32(raw, 8),
            gid: be32(raw, 12),
            links: if byte(raw, 4) == 1 { u32::from(be16(raw, 6)) } else { be32(raw, 16) },
            size_bytes: self.size_bytes(),
            accessed: self.time(32),
            modified: self.time(40),
            changed: self.time(48),
            created: self.is_v3.then(|| self.time(144)),
            device: device.map(|area| (be32(area, 0) >> 18, be32(area, 0) & 0x3_ffff)),
        }
    }
}

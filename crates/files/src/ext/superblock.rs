//! The superblock, and where the descriptors of block groups are.

use super::{Ext, damaged, unsupported};
use crate::{
    blocks::Blocks,
    bytes::{byte, id, le16, le32},
    crc::{crc32c, crc32c_without},
    tree::TreeError,
};

const HAS_JOURNAL: u32 = 4;
const SPARSE_SUPER2: u32 = 0x200;
const RECOVER: u32 = 4;
const META_BG: u32 = 0x10;
const BIT64: u32 = 0x80;
const CSUM_SEED: u32 = 0x2000;
/// File types, recovery, meta groups, extents, 64 bits, multiple mount protection, flexible groups, values of attributes
/// in inodes, seeds of checksums, large directories, data in inodes, encryption, case folding.
const KNOWN: u32 = 0x2
    | RECOVER
    | META_BG
    | 0x40
    | BIT64
    | 0x100
    | 0x200
    | 0x400
    | CSUM_SEED
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000;
const SPARSE_SUPER: u32 = 1;
const METADATA_CSUM: u32 = 0x400;

/// What the superblock says.
pub(super) struct Superblock {
    pub block_bytes: u64,
    pub blocks: u64,
    pub inodes: u32,
    inodes_in_group: u32,
    blocks_in_group: u32,
    first_block: u32,
    pub inode_bytes: usize,
    descriptor_bytes: u64,
    compatible: u32,
    incompatible: u32,
    read_only: u32,
    first_meta_group: u32,
    backups: [u32; 2],
    pub journal_inode: u32,
    pub journal_device: u32,
    /// The beginning of each checksum of metadata, if there are any.
    pub seed: Option<u32>,
}

impl Superblock {
    pub(super) fn parse(bytes: &[u8]) -> Result<Superblock, TreeError> {
        let wrong = |what| Err(damaged(0, what));
        if le16(bytes, 0x38) != 0xef53 {
            return wrong("there is no superblock");
        }
        let incompatible = le32(bytes, 0x60);
        if incompatible & !KNOWN != 0 {
            return Err(unsupported(format!(
                "an ext file system with the features {:#x}",
                incompatible & !KNOWN
            )));
        }
        let shift = le32(bytes, 0x18);
        if shift > 6 {
            return wrong("its blocks have a senseless length");
        }
        let block_bytes = 1024_u64 << shift;
        let is_wide = incompatible & BIT64 != 0;
        let high = if is_wide { u64::from(le32(bytes, 0x150)) << 32 } else { 0 };
        let read_only = le32(bytes, 0x64);
        let inode_bytes = if le32(bytes, 0x4c) == 0 { 128 } else { usize::from(le16(bytes, 0x58)) };
        let superblock = Superblock {
            block_bytes,
            blocks: u64::from(le32(bytes, 4)) | high,
            inodes: le32(bytes, 0),
            inodes_in_group: le32(bytes, 0x28),
            blocks_in_group: le32(bytes, 0x20),
            first_block: le32(bytes, 0x14),
            inode_bytes,
            descriptor_bytes: if is_wide { u64::from(le16(bytes, 0xfe)) } else { 32 },
            compatible: le32(bytes, 0x5c),
            incompatible,
            read_only,
            first_meta_group: le32(bytes, 0x104),
            backups: [le32(bytes, 0x24c), le32(bytes, 0x250)],
            journal_inode: le32(bytes, 0xe0),
            journal_device: le32(bytes, 0xe4),
            seed: (read_only & METADATA_CSUM != 0).then(|| {
                if incompatible & CSUM_SEED != 0 { le32(bytes, 0x270) } else { crc32c(!0, &id(bytes, 0x68)) }
            }),
        };
        let fits = |bytes: u64| bytes.is_power_of_two() && bytes <= block_bytes;
        if !(128..=65536).contains(&inode_bytes) || !fits(inode_bytes as u64) {
            return wrong("its inodes have a senseless length");
        }
        if !(32..=1024).contains(&superblock.descriptor_bytes) || !fits(superblock.descriptor_bytes) {
            return wrong("its group descriptors have a senseless length");
        }
        if superblock.inodes_in_group == 0 || superblock.blocks_in_group == 0 || superblock.blocks == 0 {
            return wrong("its groups are empty");
        }
        if superblock.blocks.checked_mul(block_bytes).is_none() {
            return wrong("it has more blocks than can be");
        }
        if superblock.seed.is_some() {
            if byte(bytes, 0x175) != 1 {
                return Err(unsupported("an ext file system with other checksums than CRC-32C"));
            }
            if crc32c(!0, &bytes[..0x3fc]) != le32(bytes, 0x3fc) {
                return wrong("the checksum of the superblock does not hold");
            }
        }
        Ok(superblock)
    }

    pub(super) fn needs_recovery(&self) -> bool {
        self.compatible & HAS_JOURNAL != 0 && self.incompatible & RECOVER != 0
    }

    /// Names have the kind of what they stand for.
    pub(super) fn has_file_types(&self) -> bool {
        self.incompatible & 0x2 != 0
    }

    /// Directories may be longer than 4 GiB.
    pub(super) fn has_large_directories(&self) -> bool {
        self.incompatible & 0x4000 != 0
    }

    fn has_backup(&self, group: u64) -> bool {
        let is_power = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        if self.compatible & SPARSE_SUPER2 != 0 {
            return group == 0 || self.backups.iter().any(|backup| u64::from(*backup) == group);
        }
        group <= 1
            || self.read_only & SPARSE_SUPER == 0
            || (group % 2 == 1 && [3, 5, 7].into_iter().any(is_power))
    }

    /// Where the descriptor of a group is, in bytes.
    fn descriptor_at(&self, group: u64) -> u64 {
        let in_block = self.block_bytes / self.descriptor_bytes;
        let (index, within) = (group / in_block, group % in_block * self.descriptor_bytes);
        let is_small = self.block_bytes == 1024;
        let block = if self.incompatible & META_BG == 0 || index < u64::from(self.first_meta_group) {
            u64::from(is_small) + 1 + index
        } else {
            let first = index * in_block;
            let start = u64::from(self.first_block) + first * u64::from(self.blocks_in_group);
            let extra = u64::from(is_small && index == 0 && self.first_block == 0);
            start + u64::from(self.has_backup(first)) + extra
        };
        block.saturating_mul(self.block_bytes).saturating_add(within)
    }
}

impl<B: Blocks> Ext<B> {
    /// Where an inode is, in bytes.
    pub(super) fn inode_at(&self, number: u64) -> Result<u64, TreeError> {
        let superblock = &self.superblock;
        if number == 0 || number > u64::from(superblock.inodes) {
            return Err(damaged(number, "there is no such inode"));
        }
        let in_group = u64::from(superblock.inodes_in_group);
        let (group, index) = ((number - 1) / in_group, (number - 1) % in_group);
        let mut descriptor = vec![0; superblock.descriptor_bytes as usize];
        self.volume.read(superblock.descriptor_at(group), &mut descriptor)?;
        if let Some(seed) = superblock.seed {
            let crc = crc32c(seed, &(group as u32).to_le_bytes());
            let crc = crc32c_without(crc, &descriptor, 0x1e..0x20);
            if crc as u16 != le16(&descriptor, 0x1e) {
                return Err(damaged(number, "the checksum of its group's descriptor does not hold"));
            }
        }
        let high = if descriptor.len() >= 64 { u64::from(le32(&descriptor, 0x28)) << 32 } else { 0 };
        let table = u64::from(le32(&descriptor, 8)) | high;
        let bytes = superblock.inode_bytes as u64;
        if table >= superblock.blocks {
            return Err(damaged(number, "its table lies outside"));
        }
        Ok((table * superblock.block_bytes).saturating_add(index * bytes))
    }
}

//! The names of what a volume can hold.

use serde::{Deserialize, Serialize};

/// What a volume holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "their names say what they are")]
pub enum Kind {
    Ext2,
    Ext3,
    Ext4,
    /// The journal of an ext3 or ext4 file system on another disk.
    ExtJournal,
    Xfs,
    Btrfs,
    Fat12,
    Fat16,
    Fat32,
    Exfat,
    Ntfs,
    Refs,
    F2fs,
    Bcachefs,
    Bcache,
    Apfs,
    HfsPlus,
    Ufs,
    Jfs,
    Reiserfs,
    Nilfs2,
    Erofs,
    Squashfs,
    Iso9660,
    Udf,
    Zfs,
    Swap,
    Luks,
    BitLocker,
    /// A physical volume of LVM.
    LvmPv,
    /// A logical volume of LVM of a type that is not looked into.
    LvmLv,
    /// A member of a Linux software RAID.
    MdMember,
    /// The superblocks of several file systems.
    Ambiguous,
    /// It could not be read.
    Unreadable,
    /// Zeroes, as far as was read.
    Empty,
    /// Something else.
    Unknown,
}

impl Kind {
    /// The name, as people know it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ext2 => "ext2",
            Kind::Ext3 => "ext3",
            Kind::Ext4 => "ext4",
            Kind::ExtJournal => "an ext journal",
            Kind::Xfs => "XFS",
            Kind::Btrfs => "btrfs",
            Kind::Fat12 => "FAT12",
            Kind::Fat16 => "FAT16",
            Kind::Fat32 => "FAT32",
            Kind::Exfat => "exFAT",
            Kind::Ntfs => "NTFS",
            Kind::Refs => "ReFS",
            Kind::F2fs => "F2FS",
            Kind::Bcachefs => "bcachefs",
            Kind::Bcache => "bcache",
            Kind::Apfs => "APFS",
            Kind::HfsPlus => "HFS+",
            Kind::Ufs => "UFS",
            Kind::Jfs => "JFS",
            Kind::Reiserfs => "ReiserFS",
            Kind::Nilfs2 => "NILFS2",
            Kind::Erofs => "EROFS",
            Kind::Squashfs => "squashfs",
            Kind::Iso9660 => "ISO 9660",
            Kind::Udf => "UDF",
            Kind::Zfs => "ZFS",
            Kind::Swap => "swap",
            Kind::Luks => "LUKS",
            Kind::BitLocker => "BitLocker",
            Kind::LvmPv => "LVM",
            Kind::LvmLv => "a logical volume",
            Kind::MdMember => "a RAID member",
            Kind::Ambiguous => "ambiguous",
            Kind::Unreadable => "unreadable",
            Kind::Empty => "empty",
            Kind::Unknown => "unknown",
        }
    }

    /// Whether it was recognised.
    #[must_use]
    pub fn is_known(self) -> bool {
        !matches!(self, Kind::Unreadable | Kind::Empty | Kind::Unknown)
    }

    /// Whether it is a file system that is written to, or hides one: what a stop in order leaves clean.
    #[must_use]
    pub fn can_be_dirty(self) -> bool {
        let never_written =
            matches!(self, Kind::Erofs | Kind::Squashfs | Kind::Iso9660 | Kind::Swap | Kind::ExtJournal);
        self.is_known() && !never_written
    }
    /// Whether it holds volumes that a survey names beside it, so that its own state says nothing of files.
    #[must_use]
    pub fn is_container(self) -> bool {
        self == Kind::LvmPv
    }
}

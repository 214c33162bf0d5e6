//! The files of a file system with arbitrary content. All names are met within bounds, whatever the trees look like, and
//! what is read of a file is what lies at the places that its extents name. Each reader is tried on each volume.

use bygone_files::{Btrfs, Cached, Ext, Fat, FileKind, Limits, Step, Tree, Xfs, walk};

use super::disk::{Content, Disk};
use crate::input::Input;

/// Of each file, so much is compared from its beginning.
const COMPARED: usize = 20_000;

/// See the module's comment. Input: the size of the volume in sectors, then pieces: a sector, an offset in it, and bytes.
pub fn files(bytes: &[u8]) {
    let mut input = Input(bytes);
    let size_bytes = u64::from(input.u32()) * 512;
    let mut disk = Disk::new(Content::of(&mut input), size_bytes, 512);
    if let Ok(tree) = Ext::open(Cached::new(&disk, 1 << 20)) {
        look_at_all(&tree, &disk, (tree.replay().blocks == 0).then_some(Gaps::Zeroes));
    }
    if let Ok(tree) = Xfs::open(Cached::new(&disk, 1 << 20)) {
        look_at_all(&tree, &disk, (tree.replay().transactions == 0).then_some(Gaps::Zeroes));
    }
    disk.content.repair_btrfs();
    if let Ok(tree) = Btrfs::open(Cached::new(&disk, 1 << 20)) {
        look_at_all(&tree, &disk, Some(Gaps::Anything));
    }
    disk.content.repair_exfat();
    if let Ok(tree) = Fat::open(Cached::new(&disk, 1 << 20)) {
        look_at_all(&tree, &disk, Some(Gaps::Zeroes));
    }
}

/// What there is between the extents of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gaps {
    Zeroes,
    /// Its beginning may be in the inode, and have extents behind it.
    Anything,
}

/// Walks over a tree, of which files lie where their extents say if `gaps` says what is between those.
fn look_at_all(tree: &dyn Tree, disk: &Disk, gaps: Option<Gaps>) {
    let limits = Limits { entries_max: 2000, depth_max: 50, path_bytes_max: 4096, read_bytes_max: 64 << 20 };
    let mut names = 0;
    let whole = walk(tree, limits, &mut |step| {
        let (path, inode) = match step {
            Step::Name(path, entry) => (path, entry.inode),
            Step::NotEntered(path, _) | Step::Unreadable(path, _) => {
                assert!(path.len() <= 4096 + 766);
                return true;
            }
        };
        names += 1;
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap();
        // 255 units of UTF-16 are up to 765 bytes.
        assert!((1..=765).contains(&name.len()) && name != b"." && name != b"..");
        if let Ok(attributes) = tree.attributes(inode) {
            assert!(attributes.is_sorted());
        }
        let _ = tree.link_target(inode);
        look(tree, disk, inode, gaps);
        true
    });
    assert!(names <= 2000 && whole.is_ok());
}

/// Compares what is read of a file with what lies at its places.
fn look(tree: &dyn Tree, disk: &Disk, inode: u64, gaps: Option<Gaps>) {
    let Ok(metadata) = tree.metadata(inode) else { return };
    let mut extents = Vec::new();
    let mut reached = 0;
    let done = tree.extents(inode, &mut |extent| {
        assert!(extent.offset >= reached && extent.len_bytes > 0);
        assert!(extent.place.checked_add(extent.len_bytes).is_some());
        reached = extent.offset + extent.len_bytes;
        extents.push(extent);
        extents.len() < 1000 && extent.offset < COMPARED as u64
    });
    let mut read = vec![1; COMPARED];
    let gaps = gaps.filter(|_| metadata.kind == FileKind::Regular && done.is_ok());
    let Ok(len) = tree.read(inode, 0, &mut read) else { return };
    assert_eq!(len as u64, metadata.size_bytes.min(COMPARED as u64));
    // Small content may be in the inode itself, and then there are no extents.
    let Some(gaps) = gaps.filter(|_| !extents.is_empty()) else { return };
    if extents.iter().any(|extent| extent.encoded_bytes.is_some()) {
        return;
    }
    let mut wanted = if gaps == Gaps::Zeroes { vec![0; len] } else { read[..len].to_vec() };
    for extent in extents.iter().filter(|extent| !extent.unwritten && extent.offset < len as u64) {
        let part = (len as u64 - extent.offset).min(extent.len_bytes) as usize;
        disk.content.read(extent.place, &mut wanted[extent.offset as usize..][..part]);
    }
    assert!(wanted == read[..len], "inode {inode} reads as something else");
}

impl Content {
    /// Puts right the checksums of a btrfs: of its superblock, and of what looks like a node.
    fn repair_btrfs(&mut self) {
        const SUPERBLOCK: u64 = 64 << 10;
        let superblock = self.bytes(SUPERBLOCK, 4096);
        if !superblock[0x40..].starts_with(b"_BHRfS_M") || superblock[0xc4] != 0 {
            return;
        }
        let sum = |bytes: &[u8]| {
            let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &bytes[32..]);
            (sum as u32).to_le_bytes()
        };
        let node_bytes = usize::from(superblock[0x95]) << 8 | usize::from(superblock[0x96] & 1) << 16;
        for at in self.used().filter(|at| at % 4096 == 0).collect::<Vec<_>>() {
            let node = self.bytes(at, node_bytes.clamp(4096, 65536));
            if node[32..48] == superblock[0x20..0x30] && at != SUPERBLOCK {
                self.put(at, &sum(&node));
            }
        }
        self.put(SUPERBLOCK, &sum(&superblock));
    }

    /// Puts right the checksum of the boot region of an exFAT.
    fn repair_exfat(&mut self) {
        let unit = match self.byte(108) {
            shift @ 9..=12 if self.bytes(3, 8) == b"EXFAT   " => 1_u64 << shift,
            _ => return,
        };
        let summed = self.bytes(0, 11 * unit as usize).into_iter().enumerate();
        let summed = summed.filter(|(at, _)| !matches!(at, 106 | 107 | 112));
        let sum = summed.fold(0_u32, |sum, (_, byte)| sum.rotate_right(1).wrapping_add(u32::from(byte)));
        for at in (11 * unit..12 * unit).step_by(4) {
            self.put(at, &sum.to_le_bytes());
        }
    }
}

//! The files of a file system with arbitrary content. All names are met within bounds, whatever the trees look like, and
//! what is read of a file is what lies at the places that its extents name.

use bygone_files::{Cached, Ext, FileKind, Limits, Step, Tree, walk};

use super::disk::{Content, Disk};
use crate::input::Input;

/// Of each file, so much is compared from its beginning.
const COMPARED: usize = 20_000;

/// See the module's comment. Input: the size of the volume in sectors, then pieces: a sector, an offset in it, and bytes.
pub fn files(bytes: &[u8]) {
    let mut input = Input(bytes);
    let size_bytes = u64::from(input.u32()) * 512;
    let disk = Disk::new(Content::of(&mut input), size_bytes, 512);
    let Ok(tree) = Ext::open(Cached::new(&disk, 1 << 20)) else { return };
    let limits = Limits { entries_max: 2000, depth_max: 50, path_bytes_max: 4096, read_bytes_max: 64 << 20 };
    let mut names = 0;
    let whole = walk(&tree, limits, &mut |step| {
        let (path, inode) = match step {
            Step::Name(path, entry) => (path, entry.inode),
            Step::NotEntered(path, _) | Step::Unreadable(path, _) => {
                assert!(path.len() <= 4096 + 256);
                return true;
            }
        };
        names += 1;
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap();
        assert!((1..=255).contains(&name.len()) && name != b"." && name != b"..");
        if let Ok(attributes) = tree.attributes(inode) {
            assert!(attributes.is_sorted());
        }
        let _ = tree.link_target(inode);
        look(&tree, &disk, inode);
        true
    });
    assert!(names <= 2000 && whole.is_ok());
}

/// Compares what is read of a file with what lies at its places.
fn look(tree: &Ext<Cached<&Disk>>, disk: &Disk, inode: u64) {
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
    let is_plain = metadata.kind == FileKind::Regular && tree.replay().blocks == 0 && done.is_ok();
    let Ok(len) = tree.read(inode, 0, &mut read) else { return };
    assert_eq!(len as u64, metadata.size_bytes.min(COMPARED as u64));
    // Small content may be in the inode itself, and then there are no extents.
    if !is_plain || extents.is_empty() {
        return;
    }
    let mut wanted = vec![0; len];
    for extent in extents.iter().filter(|extent| !extent.unwritten && extent.offset < len as u64) {
        let part = (len as u64 - extent.offset).min(extent.len_bytes) as usize;
        disk.content.read(extent.place, &mut wanted[extent.offset as usize..][..part]);
    }
    assert!(wanted == read[..len], "inode {inode} reads as something else");
}

//! btrfs compared with the kernel's own driver.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use bygone_files::{Blocks, Btrfs, Cached, Tree, TreeError};

use crate::{
    ext::{self, shape},
    image::{Image, Mounted, blank, can_mount, run, scratch, text},
    snapshot::{self, Extent, Snapshot, expect_equal},
};

/// The lower bits of our numbers are those of the kernel.
const OBJECT: u64 = (1 << 40) - 1;
/// From here on they stand for subvolumes that a snapshot does not have.
const PLACEHOLDER: u64 = 1 << 39;

/// Name, options of mkfs.btrfs, options of the mount, names in the large directory.
type Shape = (&'static str, &'static [&'static str], &'static str, usize);

const SHAPES: [Shape; 11] = [
    ("default", &[], "", 3000),
    ("nodes-of-4096", &["-n", "4096", "-m", "single"], "", 9000),
    ("nodes-of-65536", &["-n", "65536", "--csum", "xxhash"], "", 3000),
    ("sha256", &["--csum", "sha256", "-m", "dup"], "compress=zlib", 300),
    ("blake2", &["--csum", "blake2", "-d", "dup"], "compress=lzo", 300),
    ("zlib", &["-n", "8192"], "compress-force=zlib:9", 300),
    ("lzo", &[], "compress-force=lzo,max_inline=0", 300),
    ("zstd", &["-n", "32768"], "compress-force=zstd:3", 300),
    ("mixed", &["-M", "-n", "4096"], "nodatasum", 300),
    ("old", &["-O", "^no-holes,^extref,^skinny-metadata", "-R", "^free-space-tree"], "max_inline=2048", 300),
    ("raid0-of-one", &["-d", "raid0", "-m", "raid0"], "nodatacow", 300),
];

fn make(folder: &Path, (name, options, ..): &Shape) -> PathBuf {
    let path = blank(folder, name, 300);
    run("mkfs.btrfs", &[&["-q", "-f"], *options, &[text(&path)]].concat());
    path
}

fn open(path: &Path) -> Result<Btrfs<Cached<Image>>, TreeError> {
    Btrfs::open(Cached::new(Image::open(path), 16 << 20))
}

/// Text that can be compressed, and is different in each place.
fn prose(seed: usize, len: usize) -> Vec<u8> {
    let mut text = Vec::new();
    for i in seed.. {
        if text.len() >= len {
            break;
        }
        text.extend_from_slice(format!("line {i} of {seed}, and {} more; ", i * i % 977).as_bytes());
        if i % 50 == 0 {
            text.extend(ext::bytes(i, i % 700));
        }
        if i % 97 == 0 {
            text.resize(text.len() + i % 3000, b'=');
        }
    }
    text.truncate(len);
    text
}

fn subvolume(what: &[&str], paths: &[&Path]) {
    let paths: Vec<&str> = paths.iter().map(|path| text(path)).collect();
    run("btrfs", &[&["-q", "subvolume"], what, &paths[..]].concat());
}

fn clone(from: &Path, to: &Path) {
    run("cp", &["--reflink=always", text(from), text(to)]);
}

/// What only btrfs has, or has in other forms than ext.
fn fill_more(root: &Path) {
    for (i, len) in [10, 500, 2000, 3000, 4096, 5000, 131_072, 131_073, 1_000_000].into_iter().enumerate() {
        fs::write(root.join(format!("prose-{len}")), prose(i, len)).unwrap();
    }
    // Parts of compressed extents, and extents that begin in the middle of what is stored.
    run("sync", &["-f", text(root)]);
    let changed = File::options().write(true).open(root.join("prose-1000000")).unwrap();
    for at in [5000, 140_000, 300_001, 999_990] {
        changed.write_all_at(&prose(77, 9000), at).unwrap();
        changed.sync_all().unwrap();
    }
    clone(&root.join("prose-1000000"), &root.join("clone"));
    let clone = File::options().write(true).open(root.join("clone")).unwrap();
    clone.write_all_at(b"changed", 200_000).unwrap();
    run("fallocate", &["-p", "-o", "400000", "-l", "100000", text(&root.join("clone"))]);
    run("fallocate", &["-l", "3000000", text(&root.join("prealloc"))]);
    let part = File::options().write(true).open(root.join("prealloc")).unwrap();
    part.write_all_at(&prose(3, 70_000), 500_000).unwrap();
    let plain = root.join("without-copies");
    File::create(&plain).unwrap();
    run("chattr", &["+C", text(&plain)]);
    fs::write(&plain, prose(5, 300_000)).unwrap();
    let long = File::create(root.join("inline-and-more")).unwrap();
    long.write_all_at(b"short", 0).unwrap();
    long.sync_all().unwrap();
    long.set_len(1 << 20).unwrap();
    let many = root.join("many-attributes");
    fs::write(&many, "x").unwrap();
    for i in 0..200 {
        ext::set(&many, &format!("user.name-of-some-length-{i}"), &ext::bytes(i, i % 120));
    }
    // It is refused where content has no checksums.
    let _ = Command::new("btrfs").args(["property", "set", text(&many), "compression", "zstd"]).output();
}

fn fill_subvolumes(root: &Path) {
    let sub = root.join("sub");
    subvolume(&["create"], &[&sub]);
    fs::write(sub.join("file"), prose(1, 50_000)).unwrap();
    fs::create_dir(sub.join("folder")).unwrap();
    for inner in ["inner", "folder/inner", "gone"] {
        subvolume(&["create"], &[&sub.join(inner)]);
        fs::write(sub.join(inner).join("file"), prose(2, 5000)).unwrap();
    }
    subvolume(&["snapshot", "-r"], &[&sub, &root.join("snapshot")]);
    subvolume(&["snapshot"], &[&sub, &sub.join("folder/snapshot-in-itself")]);
    fs::write(sub.join("file"), prose(9, 60_000)).unwrap();
    fs::remove_dir_all(sub.join("gone")).unwrap();
    fs::write(root.join("sub/folder/snapshot-in-itself/new"), "new").unwrap();
    fs::rename(sub.join("inner"), root.join("moved")).unwrap();
    subvolume(&["snapshot"], &[root, &root.join("all")]);
}

/// Extents without their places: the kernel tells addresses of the file system, and not places on its devices.
fn without_places(extents: &mut Vec<Extent>) {
    let mut all: Vec<Extent> = Vec::new();
    for (offset, len, _, unwritten) in extents.drain(..) {
        match all.last_mut() {
            Some(last) if (last.0 + last.1, last.3) == (offset, unwritten) => last.1 += len,
            _ => all.push((offset, len, 0, unwritten)),
        }
    }
    *extents = all;
}

fn ours(tree: &dyn Tree) -> Snapshot {
    let mut snapshot = snapshot::ours(tree);
    for shown in snapshot.values_mut() {
        shown.inode &= OBJECT;
        if shown.inode >= PLACEHOLDER {
            // Linux makes them up, with the present as their time.
            shown.inode = 2;
            shown.times = Default::default();
            shown.created = None;
        }
        shown.extents.iter_mut().for_each(without_places);
    }
    snapshot
}

fn kernel(root: &Path) -> Snapshot {
    let mut snapshot = snapshot::kernel_with_places(root);
    for shown in snapshot.values_mut() {
        if shown.inode == 2 {
            shown.times = Default::default();
            shown.created = None;
        }
        shown.extents.iter_mut().for_each(without_places);
    }
    snapshot
}

/// Compares what lies at the places of files with what is read of them. Returns how many extents were compressed.
fn compare_places(image: &Image, tree: &dyn Tree, paths: &Snapshot) -> usize {
    let mut encoded = 0;
    for path in paths.iter().filter(|(_, shown)| shown.content.is_some()).map(|(path, _)| path) {
        let inode = tree.find(path).unwrap();
        let size = tree.metadata(inode).unwrap().size_bytes;
        tree.extents(inode, &mut |extent| {
            encoded += usize::from(extent.encoded_bytes.is_some());
            if extent.encoded_bytes.is_some() || extent.unwritten || extent.offset >= size {
                return true;
            }
            let len = extent.len_bytes.min(size - extent.offset).min(1 << 20) as usize;
            let (mut placed, mut read) = (vec![0; len], vec![1; len]);
            image.read_at(extent.place, &mut placed).unwrap();
            assert_eq!(tree.read(inode, extent.offset, &mut read).unwrap(), len);
            assert!(placed == read, "{}: {extent:?}", path.escape_ascii());
            true
        })
        .unwrap();
    }
    encoded
}

#[test]
fn every_shape_of_btrfs_shows_what_the_kernel_shows() {
    if !can_mount("every_shape_of_btrfs_shows_what_the_kernel_shows") {
        return eprintln!("nothing can be filled without the kernel's driver; nothing was tested");
    }
    let folder = scratch();
    for each in &SHAPES {
        let (name, _, options, names) = *each;
        let path = make(folder.path(), each);
        let mounted = Mounted::new(&path, options);
        ext::fill(mounted.path(), &ext::Shape { names, ..shape(name, &[]) });
        fill_more(mounted.path());
        fill_subvolumes(mounted.path());
        drop(mounted);
        let tree = open(&path).unwrap();
        let seen = ours(&tree);
        let mounted = Mounted::new(&path, "noatime");
        expect_equal(name, &seen, &kernel(mounted.path()));
        assert!(seen.len() > names * 6 / 7 + 200, "{} names", seen.len());
        assert!(seen.values().any(|shown| shown.inode == 2), "no snapshot lacks a subvolume");
        let encoded = compare_places(&Image::open(&path), &tree, &seen);
        assert_eq!(encoded > 0, options.contains("compress"), "{name}: {encoded} compressed");
        // Another default shows another root.
        run("btrfs", &["subvolume", "set-default", text(&mounted.path().join("snapshot"))]);
        drop(mounted);
        let tree = open(&path).unwrap();
        let mounted = Mounted::new(&path, "noatime");
        expect_equal(name, &ours(&tree), &kernel(mounted.path()));
        drop(mounted);
        let mounted = Mounted::new(&path, "noatime,subvolid=5");
        expect_equal(name, &ours(&tree.from_top_level().unwrap()), &kernel(mounted.path()));
        drop(mounted);
        fs::remove_file(&path).unwrap();
    }
}

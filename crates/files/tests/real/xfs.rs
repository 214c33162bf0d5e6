//! XFS compared with the drivers of Linux.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use bygone_files::{Cached, TreeError, Xfs};

use crate::{
    ext::{self, shape},
    guest::{self, Task, can_boot},
    image::{Image, Mounted, blank, can_mount, run, scratch, text},
    snapshot::{self, Random, expect_equal, read_all, read_damaged},
};

/// Name, options of mkfs.xfs, names in the large directory, longest value of an attribute.
type Shape = (&'static str, &'static [&'static str], usize, usize);

const SHAPES: [Shape; 7] = [
    ("default", &[], 3000, 700),
    ("all", &["-m", "reflink=1,rmapbt=1,bigtime=1", "-i", "nrext64=1,sparse=1"], 300, 40_000),
    ("old", &["-m", "reflink=0,rmapbt=0,bigtime=0,finobt=0", "-i", "nrext64=0,sparse=0"], 300, 60_000),
    ("blocks-of-1024", &["-b", "size=1024", "-i", "size=512"], 20_000, 3000),
    ("large-directory-blocks", &["-b", "size=1024", "-n", "size=16384"], 9000, 2000),
    ("large-inodes", &["-i", "size=2048"], 60, 1500),
    ("sectors-of-4096", &["-s", "size=4096"], 300, 700),
];

fn make(folder: &Path, (name, options, ..): &Shape) -> PathBuf {
    let path = blank(folder, name, 320);
    run("mkfs.xfs", &[&["-q", "-f"], *options, &[text(&path)]].concat());
    path
}

fn open(path: &Path) -> Result<Xfs<Cached<Image>>, TreeError> {
    Xfs::open(Cached::new(Image::open(path), 16 << 20))
}

/// What only XFS has, or has in other forms than ext.
fn fill_more(root: &Path) {
    // Attributes in leaves below an index.
    let many = root.join("many-attributes");
    fs::write(&many, "x").unwrap();
    for i in 0..500 {
        ext::set(&many, &format!("user.name-of-some-length-{i}"), &ext::bytes(i, i % 120));
    }
    // A tree of extents, in which each second one is reserved.
    let tree = File::create(root.join("tree")).unwrap();
    for i in 0..900 {
        tree.write_all_at(&ext::bytes(i as usize, 3000), i * 16_384).unwrap();
    }
    run("xfs_io", &["-c", "falloc 0 14m", text(&root.join("tree"))]);
    let source = root.join("file-3000000");
    let mut copy = std::process::Command::new("cp");
    let copied = copy.arg("--reflink=always").arg(source).arg(root.join("copy")).output().unwrap();
    if copied.status.success() {
        let copy = File::options().write(true).open(root.join("copy")).unwrap();
        copy.write_all_at(b"changed", 1_000_000).unwrap();
    }
}

#[test]
fn the_fourth_version_shows_what_linux_shows_and_damaged_ones_cost_errors_and_nothing_else() {
    if !can_boot("the_fourth_version_shows_what_linux_shows_and_damaged_ones_cost_errors_and_nothing_else") {
        return;
    }
    let folder = scratch();
    let images: Vec<(PathBuf, &str)> = [
        ("v4", &["-m", "crc=0"][..], 0, 0),
        ("v4-without-types", &["-m", "crc=0", "-n", "ftype=0", "-b", "size=1024"], 0, 0),
        ("v4-old", &["-m", "crc=0", "-i", "attr=1,projid32bit=0,size=256", "-l", "version=1"], 0, 0),
        ("v5", &["-b", "size=2048"], 0, 0),
    ]
    .iter()
    .map(|shape| (make(folder.path(), shape), "xfs"))
    .collect();
    let fills = (0..images.len()).map(|i| (Task::Fill, i));
    let tasks: Vec<_> = fills.chain((0..images.len()).map(|i| (Task::Show, i))).collect();
    let shown = guest::run(folder.path(), &images, &tasks);
    let (mut opened, mut walked) = (0, 0);
    let mut random = Random(4711);
    for ((path, _), kernel) in images.iter().zip(shown) {
        let tree = open(path).unwrap();
        let ours = snapshot::ours(&tree);
        expect_equal(text(path), &ours, &kernel.expect("the kernel refuses it"));
        assert!(ours.len() > 2000, "{} names", ours.len());
        assert!(read_all(&tree).unwrap() > 2000);
        let (with_names, names) = read_damaged(&fs::read(path).unwrap(), 300, &mut random);
        opened += with_names;
        walked += names;
    }
    assert!(opened > 500 && walked > 100_000, "{opened} could be opened, with {walked} names");
}

#[test]
fn every_shape_of_xfs_shows_what_the_kernel_shows() {
    if !can_mount("every_shape_of_xfs_shows_what_the_kernel_shows") {
        return eprintln!("nothing can be filled without the kernel's driver; nothing was tested");
    }
    let folder = scratch();
    for each in &SHAPES {
        let path = make(folder.path(), each);
        let (name, _, names, value_bytes) = *each;
        let mounted = Mounted::new(&path, "");
        ext::fill(mounted.path(), &ext::Shape { names, value_bytes, ..shape(name, &[]) });
        fill_more(mounted.path());
        drop(mounted);
        let ours = snapshot::ours(&open(&path).unwrap());
        let mounted = Mounted::new(&path, "noatime");
        let kernel = snapshot::kernel_with_places(mounted.path());
        expect_equal(name, &ours, &kernel);
        assert!(ours.len() > names * 6 / 7 + 200, "{} names", ours.len());
        drop(mounted);
        fs::remove_file(&path).unwrap();
    }
}

//! XFS compared with the drivers of Linux.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use bygone_files::{Blocks, Cached, LogReplay, TreeError, Xfs};

use crate::{
    ext::{self, shape},
    guest::{self, Task, can_boot},
    image::{Image, Mounted, blank, can_mount, patch, run, scratch, text},
    snapshot::{self, Random, expect_equal, read_all, read_damaged},
};

/// Name, options of mkfs.xfs, names in the large directory, longest value of an attribute.
type Shape = (&'static str, &'static [&'static str], usize, usize);

const SHAPES: [Shape; 8] = [
    ("default", &[], 3000, 700),
    ("all", &["-m", "reflink=1,rmapbt=1,bigtime=1", "-i", "nrext64=1,sparse=1"], 300, 40_000),
    ("old", &["-m", "reflink=0,rmapbt=0,bigtime=0,finobt=0", "-i", "nrext64=0,sparse=0"], 300, 60_000),
    ("blocks-of-1024", &["-b", "size=1024", "-i", "size=512"], 20_000, 3000),
    ("large-directory-blocks", &["-b", "size=1024", "-n", "size=16384"], 9000, 2000),
    ("large-inodes", &["-i", "size=2048"], 60, 1500),
    ("sectors-of-4096", &["-s", "size=4096"], 300, 700),
    ("wide-log", &["-l", "version=2,sunit=512"], 60, 700),
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
    // One is cut off from its disk, so that its log has to be replayed: by a guest that sees only a copy.
    let cut = make(folder.path(), &("v4-cut", &["-m", "crc=0"], 0, 0));
    let copy = cut.with_extension("copy");
    guest::run(folder.path(), &[(cut.clone(), "xfs")], &[(Task::Cut, 0)]);
    run("cp", &["--sparse=always", text(&cut), text(&copy)]);
    let images = [images, vec![(copy, "xfs")]].concat();
    let fills = (0..images.len() - 1).map(|i| (Task::Fill, i));
    let tasks: Vec<_> = fills.chain((0..images.len()).map(|i| (Task::Show, i))).collect();
    let mut shown = guest::run(folder.path(), &images, &tasks);
    let tree = open(&cut).unwrap();
    let replay = tree.replay();
    assert!(replay.transactions > 10 && replay.inodes > 100 && replay.buffers > 100, "{replay:?}");
    let kernel = shown.pop().flatten().expect("the kernel refuses it");
    expect_equal("v4-cut", &snapshot::ours(&tree), &kernel);
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

/// Makes chunks of inodes, frees them, and uses their places for content and directories, until the disk is taken away.
fn churn(root: &Path) -> std::io::Result<()> {
    for i in 0.. {
        let folder = root.join(format!("chunk-{}", i % 3));
        match fs::remove_dir_all(&folder) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::create_dir(&folder)?;
        for name in 0..150 + i * 37 % 200 {
            let path = folder.join(format!("a name of some length {name}"));
            fs::write(&path, ext::bytes(i, name * 13 % 300))?;
            if name % 10 == 0 {
                let value = ext::bytes(i, 1 + name * 40);
                rustix::fs::lsetxattr(&path, "user.value", &value, rustix::fs::XattrFlags::empty())?;
            }
            if name % 17 == 0 {
                std::os::unix::fs::symlink("t".repeat(1 + name * 2), folder.join(format!("link-{name}")))?;
            }
        }
        let content = File::create(root.join(format!("content-{}", i % 5)))?;
        for at in 0..40 {
            content.write_all_at(&ext::bytes(i, 5000), at * 12_288)?;
        }
        if i % 2 == 0 {
            content.sync_all()?;
        }
        // The same blocks in another file, some of which it changes, where that is possible.
        let clone = File::create(root.join(format!("clone-{}", i % 4)))?;
        if rustix::fs::ioctl_ficlone(&clone, &content).is_ok() {
            clone.write_all_at(&ext::bytes(i, 9000), 30_000)?;
        }
    }
    Ok(())
}

fn bytes(image: &Image, at: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    image.read_at(at, &mut bytes).unwrap();
    bytes
}

/// Where the log is.
fn log_of(image: &Image) -> std::ops::Range<u64> {
    let superblock = bytes(image, 0, 512);
    let number =
        |at: usize, len: usize| superblock[at..at + len].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let (log, shift) = (number(48, 8), number(124, 1));
    let block = (log >> shift) * number(84, 4) + (log & ((1 << shift) - 1));
    block * number(4, 4)..(block + number(96, 4)) * number(4, 4)
}

/// Whether the log has been written to its end and goes on at its beginning.
fn has_gone_round(path: &Path) -> bool {
    let image = Image::open(path);
    // Each block of the log begins with the number of the round; in the first one of a record it comes second.
    let first = bytes(&image, log_of(&image).start, 8);
    let round = if first[..4] == [0xfe, 0xed, 0xba, 0xbe] { first[7] } else { first[3] };
    round > 1
}

/// An image of an XFS that was cut off from its disk under load, after some time or once its log has gone round.
fn cut_off(folder: &Path, each: &Shape, options: &str, millis: Option<u64>) -> PathBuf {
    let path = make(folder, each);
    let mounted = Mounted::new(&path, options);
    let root = mounted.path().to_owned();
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let root = &root;
            scope.spawn(move || ext::load(root, worker));
        }
        scope.spawn(|| {
            let error = churn(&root).unwrap_err();
            assert!(matches!(error.raw_os_error(), Some(5 | 28 | 117)), "{error}");
        });
        let until = Instant::now() + Duration::from_millis(millis.unwrap_or(120_000));
        while Instant::now() < until && (millis.is_some() || !has_gone_round(&path)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        mounted.cut_off();
    });
    path
}

#[test]
fn an_xfs_that_was_cut_off_under_load_shows_what_the_kernel_shows_after_its_replay() {
    if !can_mount("an_xfs_that_was_cut_off_under_load_shows_what_the_kernel_shows_after_its_replay") {
        return eprintln!("nothing can be cut off without the kernel's driver; nothing was tested");
    }
    let folder = scratch();
    let mut all = LogReplay::default();
    for (each, options, millis) in [
        (&SHAPES[0], "", Some(900)),
        (&SHAPES[1], "logbsize=256k", Some(900)),
        (&SHAPES[2], "logbsize=32k", Some(900)),
        (&SHAPES[3], "", None),
        (&SHAPES[4], "", Some(900)),
        (&SHAPES[5], "ikeep", Some(900)),
        (&SHAPES[6], "", Some(900)),
        (&SHAPES[7], "logbsize=256k", Some(900)),
    ] {
        let mut path = cut_off(folder.path(), each, options, millis);
        // Seldom, what a transaction began is left for the next one, which did not come.
        let is_unfinished = |path: &Path| match open(path) {
            Err(TreeError::Unsupported { what }) => what.contains("have to be finished"),
            _ => false,
        };
        for _ in 0..3 {
            if is_unfinished(&path) {
                path = cut_off(folder.path(), each, options, millis);
            }
        }
        let replay = open(&path).unwrap().replay();
        assert!(replay.transactions > 0, "{}: there was nothing to replay", each.0);
        compare(each.0, &path);
        all.buffers += replay.buffers;
        all.inodes += replay.inodes;
        all.cancelled += replay.cancelled;
        all.went_round |= replay.went_round;
        fs::remove_file(&path).unwrap();
    }
    // What is hard to replay has to have occurred.
    assert!(all.buffers > 100 && all.inodes > 100, "{all:?}");
    assert!(all.cancelled > 0 && all.went_round, "{all:?}");
}

/// Compares what is seen of a volume that was cut off with what the kernel shows of a copy.
fn compare(what: &str, path: &Path) {
    let copy = path.with_extension("copy");
    run("cp", &["--sparse=always", text(path), text(&copy)]);
    let ours = snapshot::ours(&open(path).unwrap());
    let begun = SystemTime::now();
    let mounted = Mounted::new(&copy, "noatime");
    let mut kernel = snapshot::kernel_with_places(mounted.path());
    snapshot::undo_truncations(&mut kernel, &ours, begun - Duration::from_millis(20));
    expect_equal(what, &ours, &kernel);
    drop(mounted);
    fs::remove_file(&copy).unwrap();
}

/// The log of the time before, laid into what the kernel made of it: all that it changes is there already, and newer.
#[test]
fn a_log_that_was_replayed_already_changes_nothing() {
    if !can_mount("a_log_that_was_replayed_already_changes_nothing") {
        return eprintln!("nothing can be cut off without the kernel's driver; nothing was tested");
    }
    let folder = scratch();
    let path = cut_off(folder.path(), &SHAPES[1], "", Some(700));
    let before = fs::read(&path).unwrap();
    let mounted = Mounted::new(&path, "noatime");
    let kernel = snapshot::kernel_with_places(mounted.path());
    drop(mounted);
    let log = log_of(&Image::open(&path));
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&before[log.start as usize..log.end as usize], log.start).unwrap();
    let tree = open(&path).unwrap();
    let replay = tree.replay();
    assert!(replay.older > 100, "{replay:?}");
    // When it is unmounted, the kernel gives back what it had reserved behind the ends of files, of which the log knows
    // nothing.
    let (ours, kernel) = (snapshot::up_to_the_ends(snapshot::ours(&tree)), snapshot::up_to_the_ends(kernel));
    expect_equal("replayed again", &ours, &kernel);
}

/// The places of the records of a log, in the order in which they were written.
fn records(image: &[u8]) -> Vec<u64> {
    let is_one = |sector: &[u8]| sector[..4] == [0xfe, 0xed, 0xba, 0xbe];
    let mut found: Vec<(u64, u64)> = (0_u64..)
        .step_by(512)
        .zip(image.chunks_exact(512))
        .filter(|(_, sector)| is_one(sector))
        .map(|(at, sector)| (u64::from_be_bytes(sector[16..24].try_into().unwrap()), at))
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, at)| at).collect()
}

/// A damaged byte in one of the last records ends the log there; anywhere else the log is damaged.
#[test]
fn a_damaged_log_is_refused_when_linux_refuses_it_and_else_shows_what_linux_shows() {
    if !can_mount("a_damaged_log_is_refused_when_linux_refuses_it_and_else_shows_what_linux_shows") {
        return eprintln!("nothing can be cut off without the kernel's driver; nothing was tested");
    }
    let folder = scratch();
    let path = cut_off(folder.path(), &SHAPES[2], "logbsize=32k", Some(500));
    let good = fs::read(&path).unwrap();
    let records = records(&good);
    let (mut refused, mut shown, mut unsound) = (0, 0, 0);
    for (i, back) in [1_usize, 2, 3, 7, 8, 9, 30, 300].into_iter().enumerate() {
        for within in [20, 60, 330, 600, 1100] {
            if (within + i) % 3 == 0 || back > records.len() {
                continue;
            }
            let at = records[records.len() - back] + within as u64;
            fs::write(&path, &good).unwrap();
            patch(&path, at, |bytes| bytes[0] ^= 0x10);
            let copy = path.with_extension("tried");
            run("cp", &["--sparse=always", text(&path), text(&copy)]);
            let what = format!("byte {within} of the record {back} before the end");
            match (Mounted::attempt(&copy, "noatime"), open(&path)) {
                (Some(mounted), Ok(tree)) => {
                    drop(mounted);
                    // A log that ends too early can leave an attribute whose value is not there.
                    if snapshot::is_sound(&tree) {
                        shown += 1;
                        compare(&what, &path);
                    } else {
                        unsound += 1;
                    }
                }
                (None, Err(TreeError::Damaged { .. } | TreeError::Unsupported { .. })) => refused += 1,
                (mounted, opened) => {
                    panic!("{what}: mounted: {}; opened: {:?}", mounted.is_some(), opened.err());
                }
            }
        }
    }
    assert!(refused > 5 && shown > 5 && unsound < 4, "{refused} refused, {shown} shown, {unsound} not sound");
}

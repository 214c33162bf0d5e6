//! ext2, ext3 and ext4 compared with the kernel's own driver.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, PermissionsExt, chown, lchown, symlink},
        net::UnixListener,
    },
    path::Path,
    time::{Duration, Instant},
};

use bygone_files::{Cached, Ext, FileKind, Tree, TreeError};
use rustix::fs as rfs;

use crate::{
    image::{Image, Mounted, blank, can_mount, run, scratch, text},
    snapshot::{self, Random, expect_equal, read_all, read_damaged},
};

const NAMES: [&[u8]; 8] = [
    "plain".as_bytes(),
    "mit Leerzeichen und Ümläuten".as_bytes(),
    "日本語のファイル名".as_bytes(),
    "русский\tс\nпереводом".as_bytes(),
    "عربي‎.txt".as_bytes(),
    "e\u{301} 👩‍👩‍👧".as_bytes(),
    b"not \xff\xfe utf-8 \x80",
    b"\\backslash*?\"'$(x)\x01\x7f",
];

/// What a file system is filled with.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub name: &'static str,
    pub options: &'static [&'static str],
    /// Names in the large directory.
    pub names: usize,
    /// The longest value of an attribute.
    pub value_bytes: usize,
}

pub(crate) const fn shape(name: &'static str, options: &'static [&'static str]) -> Shape {
    Shape { name, options, names: 300, value_bytes: 700 }
}

const SHAPES: [Shape; 11] = [
    shape("4k", &["-t", "ext4", "-b", "4096"]),
    Shape { names: 20_000, ..shape("1k", &["-t", "ext4", "-b", "1024", "-N", "30000"]) },
    shape("bigalloc", &["-t", "ext4", "-O", "bigalloc", "-C", "16384"]),
    shape("inline", &["-t", "ext4", "-O", "inline_data", "-I", "512"]),
    shape("ext2", &["-t", "ext2", "-b", "1024"]),
    shape("ext3", &["-t", "ext3", "-b", "4096"]),
    shape("small-inodes", &["-t", "ext3", "-b", "1024", "-I", "128"]),
    shape("meta-groups", &["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode", "-g", "1024"]),
    Shape { value_bytes: 40_000, ..shape("long-values", &["-t", "ext4", "-O", "ea_inode,large_dir"]) },
    shape("no-sums", &["-t", "ext4", "-O", "^metadata_csum,^64bit,^flex_bg"]),
    shape("own-seed", &["-t", "ext4", "-O", "metadata_csum_seed,^dir_index"]),
];

fn make(folder: &Path, shape: &Shape) -> std::path::PathBuf {
    let path = blank(folder, shape.name, 64);
    run("mke2fs", &[&["-q", "-F"], shape.options, &[text(&path)]].concat());
    path
}

pub(crate) fn set(path: &Path, name: &str, value: &[u8]) {
    rfs::lsetxattr(path, name, value, rfs::XattrFlags::empty())
        .unwrap_or_else(|e| panic!("{name} of {} bytes on {}: {e}", value.len(), path.display()));
}

/// An access list for a user and a group beside the owner's.
fn access_list() -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 6] =
        [(1, 6, NOBODY), (2, 7, 1000), (4, 4, NOBODY), (8, 5, 70_000), (16, 7, NOBODY), (32, 0, NOBODY)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

fn set_times(path: &Path, seconds: i64, nanos: i64) {
    let time = rfs::Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = rfs::Timestamps { last_access: time, last_modification: time };
    rfs::utimensat(rfs::CWD, path, &times, rfs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Some bytes that are different in each file.
pub(crate) fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 256 * 7 + seed * 13) as u8 | 1).collect()
}

fn fill_files(root: &Path) {
    for (i, len) in
        [0, 1, 59, 60, 61, 140, 200, 1023, 1024, 4095, 4096, 4097, 70_000, 3_000_000].into_iter().enumerate()
    {
        fs::write(root.join(format!("file-{len}")), bytes(i, len)).unwrap();
    }
    // Every other block: a tree of extents with several levels, or indirect blocks of all levels.
    let scattered = File::create(root.join("scattered")).unwrap();
    for i in 0..1500_u64 {
        scattered.write_all_at(&bytes(i as usize, 900), i * 8192).unwrap();
    }
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"beginning", 5).unwrap();
    sparse.write_all_at(b"middle", 7 << 20).unwrap();
    sparse.set_len(20 << 20).unwrap();
    let huge = File::create(root.join("huge")).unwrap();
    for at in [4096_u64, 3 << 30, 15 << 30] {
        huge.write_all_at(b"far away", at).unwrap();
    }
    let reserved = File::create(root.join("reserved")).unwrap();
    if rfs::fallocate(&reserved, rfs::FallocateFlags::empty(), 0, 1 << 20).is_ok() {
        reserved.write_all_at(&bytes(3, 5000), 300_000).unwrap();
    }
}

fn fill_names(root: &Path, names: usize) {
    for (i, name) in NAMES.into_iter().enumerate() {
        let folder = root.join(OsStr::from_bytes(name));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(OsStr::from_bytes(name)), bytes(i, 100)).unwrap();
    }
    fs::write(root.join("x".repeat(255)), "long").unwrap();
    let large = root.join("large");
    fs::create_dir(&large).unwrap();
    for i in 0..names {
        fs::write(large.join(format!("a name of some length {i}")), "").unwrap();
    }
    for i in (0..names).step_by(7) {
        fs::remove_file(large.join(format!("a name of some length {i}"))).unwrap();
    }
    let mut deep = root.join("deep");
    for _ in 0..60 {
        fs::create_dir(&deep).unwrap();
        fs::write(deep.join("f"), "deep").unwrap();
        deep.push("d");
    }
    for i in 0..50 {
        fs::hard_link(root.join("file-4097"), root.join(format!("link-{i}"))).unwrap();
    }
    for len in [1, 58, 59, 60, 61, 500, 1000] {
        symlink("t".repeat(len), root.join(format!("symlink-{len}"))).unwrap();
    }
}

fn fill_inodes(root: &Path) {
    use rfs::{FileType, Mode, makedev, mknodat};
    for (name, kind, device) in [
        ("null", FileType::CharacterDevice, (1, 3)),
        ("wide", FileType::BlockDevice, (259, 0x1_2345)),
        ("fifo", FileType::Fifo, (0, 0)),
    ] {
        let (major, minor) = device;
        mknodat(rfs::CWD, root.join(name), kind, Mode::from_raw_mode(0o640), makedev(major, minor)).unwrap();
    }
    drop(UnixListener::bind(root.join("socket")).unwrap());
    let times = [
        (-1, 0),
        (-2_000_000_000, 5),
        (0, 0),
        (2_147_483_648, 999_999_999),
        (4_294_967_301, 1),
        (12_884_901_887, 7),
    ];
    for (seconds, nanos) in times {
        let path = root.join(format!("time{seconds}"));
        fs::write(&path, "x").unwrap();
        set_times(&path, seconds, nanos);
    }
    let owned = root.join("owned");
    fs::write(&owned, "x").unwrap();
    chown(&owned, Some(100_000), Some(4_000_000_000)).unwrap();
    fs::set_permissions(&owned, fs::Permissions::from_mode(0o6751)).unwrap();
    lchown(root.join("symlink-58"), Some(7), Some(8)).unwrap();
    fs::set_permissions(root.join("large"), fs::Permissions::from_mode(0o1777)).unwrap();
}

fn fill_attributes(root: &Path, value_bytes: usize) {
    let file = root.join("attributes");
    fs::write(&file, "x").unwrap();
    for (i, name) in
        ["user.a", "user.\u{fc}", "trusted.overlay.opaque", "security.something"].into_iter().enumerate()
    {
        set(&file, name, &bytes(i, 3 + i * 5));
    }
    set(&file, "user.empty", b"");
    let long = root.join("long-attribute");
    fs::write(&long, "x").unwrap();
    set(&long, "user.long", &bytes(1, value_bytes));
    set(&long, "user.short", b"y");
    let listed = root.join("listed");
    fs::create_dir(&listed).unwrap();
    set(&listed, "system.posix_acl_access", &access_list());
    set(&listed, "system.posix_acl_default", &access_list());
    fs::write(listed.join("inherits"), "x").unwrap();
    set(&root.join("symlink-500"), "trusted.link", b"on a link");
}

pub(crate) fn fill(root: &Path, shape: &Shape) {
    fill_files(root);
    fill_names(root, shape.names);
    fill_inodes(root);
    fill_attributes(root, shape.value_bytes);
}

fn open(path: &Path) -> Ext<Cached<Image>> {
    Ext::open(Cached::new(Image::open(path), 16 << 20)).unwrap()
}

fn compare(name: &str, image: &Path, kernel_image: &Path) -> usize {
    let ours = snapshot::ours(&open(image));
    let begun = std::time::SystemTime::now();
    let mounted = Mounted::new(kernel_image, "noatime");
    let mut kernel = snapshot::kernel_with_places(mounted.path());
    snapshot::undo_truncations(&mut kernel, &ours, begun - Duration::from_millis(20));
    expect_equal(name, &ours, &kernel);
    ours.len()
}

#[test]
fn every_shape_of_ext_shows_what_the_kernel_shows() {
    if !can_mount("every_shape_of_ext_shows_what_the_kernel_shows") {
        return populated_by_mke2fs();
    }
    let folder = scratch();
    for shape in &SHAPES {
        let path = make(folder.path(), shape);
        let mounted = Mounted::new(&path, "");
        fill(mounted.path(), shape);
        drop(mounted);
        let seen = compare(shape.name, &path, &path);
        assert!(seen > shape.names * 6 / 7 + 200, "{seen} names");
        fs::remove_file(&path).unwrap();
    }
}

/// Without the kernel: a folder that mke2fs itself copies into the image, compared by names, sizes, kinds, targets and
/// contents.
fn populated_by_mke2fs() {
    let folder = scratch();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    fill_files(&source);
    fs::remove_file(source.join("huge")).unwrap();
    fill_names(&source, 300);
    let wanted = snapshot::kernel(&source);
    for shape in &SHAPES {
        let path = blank(folder.path(), shape.name, 64);
        run("mke2fs", &[&["-q", "-F", "-d", text(&source)], shape.options, &[text(&path)]].concat());
        let mut ours = snapshot::ours(&open(&path));
        ours.remove(&b"/lost+found"[..]);
        snapshot::expect_alike(shape.name, &ours, &wanted);
    }
}

/// Changes files until the file system is cut off from its disk.
pub(crate) fn load(root: &Path, worker: usize) {
    let magic = 0xc03b_3998_u32.to_be_bytes();
    for i in 0.. {
        let path = root.join(format!("{worker}-{}", i % 40));
        // Some blocks begin like those of the journal, which has to escape them.
        let mut content = bytes(i, 200 + i * 977 % 30_000);
        content.iter_mut().zip(magic).filter(|_| i % 3 == 0).for_each(|(byte, magic)| *byte = magic);
        let done = || -> std::io::Result<()> {
            let mut file = File::create(&path)?;
            file.write_all(&content)?;
            if i % 5 == 0 {
                file.sync_all()?;
            }
            match i % 7 {
                0 => fs::rename(&path, root.join(format!("{worker}-renamed-{}", i % 60)))?,
                1 => fs::remove_file(&path)?,
                2 => rfs::lsetxattr(&path, "user.n", &i.to_le_bytes(), rfs::XattrFlags::empty())?,
                3 => {
                    let folder = root.join(format!("{worker}-folder-{}", i % 30));
                    fs::create_dir(&folder).or_else(|_| fs::remove_dir(&folder))?;
                }
                // A folder that is in the journal and then goes: the journal takes its block back.
                4 if worker == 0 => {
                    let folder = root.join("gone");
                    fs::create_dir(&folder)?;
                    File::create(folder.join("a"))?.sync_all()?;
                    fs::remove_dir_all(&folder)?;
                    File::open(root)?.sync_all()?;
                }
                _ => {}
            }
            Ok(())
        };
        // Folders that are full, or names that are there already, are no reason to end.
        match done() {
            Err(e) if e.raw_os_error().is_some_and(|code| matches!(code, 5 | 30 | 117 | 108)) => return,
            _ => {}
        }
    }
}

/// An image of a file system that was cut off from its disk under load.
fn cut_off(folder: &Path, shape: &Shape, options: &str, millis: u64) -> std::path::PathBuf {
    let path = make(folder, shape);
    let mounted = Mounted::new(&path, options);
    let root = mounted.path().to_owned();
    std::thread::scope(|scope| {
        for worker in 0..3 {
            let root = &root;
            scope.spawn(move || load(root, worker));
        }
        let until = Instant::now() + Duration::from_millis(millis);
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        mounted.cut_off();
    });
    path
}

#[test]
fn a_file_system_that_was_cut_off_under_load_shows_what_the_kernel_shows_after_its_replay() {
    if !can_mount("a_file_system_that_was_cut_off_under_load_shows_what_the_kernel_shows_after_its_replay") {
        return eprintln!("nothing can be cut off without the kernel's driver; nothing was tested");
    }
    let folder = scratch();
    // A journal that has gone round many times.
    let round = (shape("round", &["-t", "ext4", "-b", "1024", "-J", "size=2"]), "commit=1", 2500);
    let cases: [(Shape, &str, u64); 7] = [
        (shape("ordered", &["-t", "ext4", "-b", "4096"]), "", 900),
        round,
        (shape("journaled", &["-t", "ext4", "-b", "4096", "-J", "size=16"]), "data=journal", 1500),
        (shape("ext3", &["-t", "ext3", "-b", "1024", "-J", "size=4"]), "data=journal", 1500),
        (shape("no-sums", &["-t", "ext4", "-O", "^metadata_csum,^64bit"]), "", 900),
        SUMMED,
        (shape("async", &["-t", "ext4", "-O", "^metadata_csum"]), "journal_async_commit,data=writeback", 900),
    ];
    let (mut replayed, mut rounds, mut revoked, mut escaped) = (0, 0, 0, 0);
    let mut attempts = (0..).map(|i| (round.0, round.1, 300 + i * 37));
    let mut cases = cases.into_iter();
    // Where a journal ends is chance: some more are made until one goes on at its beginning.
    while let Some((shape, options, millis)) =
        cases.next().or_else(|| attempts.next().filter(|case| rounds == 0 && case.2 < 1500))
    {
        let path = cut_off(folder.path(), &shape, options, millis);
        let copy = path.with_extension("copy");
        fs::copy(&path, &copy).unwrap();
        let replay = open(&path).replay();
        assert!(replay.blocks > 0, "{}: there was nothing to replay", shape.name);
        replayed += replay.blocks;
        rounds += usize::from(replay.went_round);
        revoked += replay.revoked;
        escaped += replay.escaped;
        compare(shape.name, &path, &copy);
    }
    assert!(replayed > 100, "{replayed}");
    // What is hard to replay has to have occurred.
    assert!(
        rounds > 0 && revoked > 0 && escaped > 0,
        "{rounds} rounds, {revoked} revoked, {escaped} escaped"
    );
}

const SUMMED: (Shape, &str, u64) =
    (shape("sums-of-data", &["-t", "ext4", "-O", "^metadata_csum"]), "journal_checksum,data=journal", 900);

/// One damaged byte in each kind of block of a journal: Linux refuses some, and for others it is as if the journal
/// ended there.
#[test]
fn a_damaged_journal_is_refused_when_linux_refuses_it_and_else_shows_what_linux_shows() {
    let test = "a_damaged_journal_is_refused_when_linux_refuses_it_and_else_shows_what_linux_shows";
    if !can_mount(test) {
        return eprintln!("nothing can be cut off without the kernel's driver; nothing was tested");
    }
    let folder = scratch();
    let cases = [
        (shape("v3", &["-t", "ext4", "-b", "4096", "-J", "size=8"]), "", 700),
        SUMMED,
        (shape("async", &["-t", "ext4", "-O", "^metadata_csum"]), "journal_async_commit,data=writeback", 700),
        (shape("async-v3", &["-t", "ext4"]), "journal_async_commit,data=writeback", 700),
    ];
    let (mut refused, mut mounted) = (0_u32, 0_u32);
    for (shape, options, millis) in cases {
        let path = cut_off(folder.path(), &shape, options, millis);
        let good = fs::read(&path).unwrap();
        let blocks = journal_blocks(&path, &good);
        for kind in [1, 2, 5, 0] {
            let mut of_kind: Vec<_> =
                blocks.iter().filter(|block| block.1 == kind).map(|block| block.0).collect();
            // Those of transactions that wait are the newest; of data any may be.
            let step = (of_kind.len() / 3).max(1);
            of_kind = of_kind.into_iter().step_by(step).collect();
            for (i, place) in of_kind.into_iter().enumerate() {
                let mut bad = good.clone();
                bad[place as usize + [13, 20, 52, 200][i % 4]] ^= 0x11;
                let (ours, copy) = (path.with_extension("bad"), path.with_extension("copy"));
                fs::write(&ours, &bad).unwrap();
                fs::write(&copy, &bad).unwrap();
                let what = format!("{}: block of kind {kind} at {place}", shape.name);
                let opened = Ext::open(Image::open(&ours));
                match Mounted::attempt(&copy, "noatime") {
                    Some(linux) => {
                        drop(linux);
                        let opened = opened.unwrap_or_else(|e| panic!("{what}: Linux mounts it: {e}"));
                        // What was not replayed may leave inodes that neither can read.
                        if snapshot::is_sound(&opened) {
                            mounted += 1;
                            fs::write(&copy, &bad).unwrap();
                            compare(&what, &ours, &copy);
                        }
                    }
                    None => {
                        refused += 1;
                        let error = opened.err().unwrap_or_else(|| panic!("{what}: Linux refuses it"));
                        assert!(matches!(error, TreeError::Damaged { .. }), "{what}: {error}");
                    }
                }
            }
        }
    }
    assert!(refused > 10 && mounted > 10, "{refused} refused, {mounted} mounted");
}

/// The blocks of a journal: their places, and 1 for descriptors, 2 for commits, 5 for revoked blocks, 0 for others.
fn journal_blocks(path: &Path, image: &[u8]) -> Vec<(u64, u32)> {
    let unit = 1024_u64 << image[1024 + 0x18];
    let be32 = |at: u64| u32::from_be_bytes(image[at as usize..at as usize + 4].try_into().unwrap());
    let mut blocks = Vec::new();
    open(path)
        .extents(8, &mut |run| {
            for at in (run.place..run.place + run.len_bytes).step_by(unit as usize) {
                let is_used = image[at as usize..(at + unit) as usize].iter().any(|byte| *byte != 0);
                if be32(at) == 0xc03b_3998 && [1, 2, 5].contains(&be32(at + 4)) {
                    blocks.push((at, be32(at + 4)));
                } else if is_used && run.offset + (at - run.place) > 0 {
                    blocks.push((at, 0));
                }
            }
            true
        })
        .unwrap();
    blocks
}

#[test]
fn fast_commits_that_wait_are_refused_and_others_are_no_obstacle() {
    let test = "fast_commits_that_wait_are_refused_and_others_are_no_obstacle";
    let folder = scratch();
    let fast = shape("fast", &["-t", "ext4", "-O", "fast_commit"]);
    let path = make(folder.path(), &fast);
    assert_eq!(open(&path).replay().blocks, 0);
    if !can_mount(test) {
        return eprintln!("{test}: no fast commits can be made without the kernel's driver");
    }
    let mounted = Mounted::new(&path, "");
    fs::write(mounted.path().join("first"), "x").unwrap();
    run("sync", &["-f", text(mounted.path())]);
    for i in 0..20 {
        let mut file = File::options().append(true).open(mounted.path().join("first")).unwrap();
        file.write_all(&bytes(i, 5000)).unwrap();
        file.sync_all().unwrap();
    }
    mounted.cut_off();
    drop(mounted);
    match Ext::open(Image::open(&path)) {
        Err(TreeError::Unsupported { what }) => assert!(what.contains("fast commits"), "{what}"),
        Err(error) => panic!("{error}"),
        Ok(_) => {
            eprintln!("{test}: the kernel made no fast commits");
            let copy = path.with_extension("copy");
            fs::copy(&path, &copy).unwrap();
            compare("fast", &path, &copy);
        }
    }
}

#[test]
fn paths_lead_to_inodes_and_their_places_on_the_volume() {
    let folder = scratch();
    let source = folder.path().join("source");
    fs::create_dir_all(source.join("etc/deep")).unwrap();
    let content = bytes(5, 300_000);
    fs::write(source.join("etc/deep/file"), &content).unwrap();
    let path = blank(folder.path(), "image", 16);
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "1024", "-d", text(&source), text(&path)]);
    let tree = open(&path);
    let inode = tree.find(b"//etc/deep/file").unwrap();
    let metadata = tree.metadata(inode).unwrap();
    assert_eq!((metadata.kind, metadata.size_bytes), (FileKind::Regular, 300_000));
    let image = fs::read(&path).unwrap();
    let mut found = vec![0; 300_000];
    tree.extents(inode, &mut |extent| {
        let len = extent.len_bytes.min(300_000 - extent.offset) as usize;
        found[extent.offset as usize..][..len].copy_from_slice(&image[extent.place as usize..][..len]);
        true
    })
    .unwrap();
    assert!(found == content, "the extents hold something else");
    assert!(matches!(tree.find(b"/etc/none"), Err(TreeError::NotFound)));
    assert!(matches!(tree.find(b"/etc/deep/file/x"), Err(TreeError::OtherKind { .. })));
    assert!(matches!(tree.read(tree.root(), 0, &mut [0]), Err(TreeError::OtherKind { .. })));
}

#[test]
fn damaged_images_cost_errors_and_nothing_else() {
    let folder = scratch();
    let source = folder.path().join("source");
    fs::create_dir_all(source.join("a/b")).unwrap();
    for i in 0..60 {
        fs::write(source.join(format!("a/{i}")), bytes(i, i * 700)).unwrap();
    }
    symlink("t".repeat(100), source.join("a/b/link")).unwrap();
    let mut random = Random(12345);
    let (mut opened, mut walked) = (0, 0);
    for (name, options) in [
        ("ext4", &["-t", "ext4", "-O", "^metadata_csum", "-b", "1024"][..]),
        ("ext2", &["-t", "ext2", "-b", "1024"][..]),
        ("inline", &["-t", "ext4", "-O", "inline_data,^metadata_csum", "-b", "1024"][..]),
        ("sums", &["-t", "ext4", "-b", "1024"][..]),
    ] {
        let path = blank(folder.path(), name, 4);
        let common = ["-q", "-F", "-N", "128", "-J", "size=1", "-d", text(&source)];
        let common = if name == "ext2" { [&common[..4], &common[6..]].concat() } else { common.to_vec() };
        run("mke2fs", &[&common, options, &[text(&path)]].concat());
        let good = fs::read(&path).unwrap();
        let whole = read_all(&open(&path)).unwrap();
        assert!(whole > 60);
        let (with_names, names) = read_damaged(&good, 250, &mut random);
        opened += with_names;
        walked += names;
    }
    assert!(opened > 200 && walked > 2000, "{opened} could be opened, with {walked} names");
}

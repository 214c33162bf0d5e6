//! btrfs compared with the kernel's own driver.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use bygone_files::{Blocks, Btrfs, Cached, ReadError, Tree, TreeError};

use crate::{
    ext::{self, shape},
    image::{Image, Loops, Mounted, blank, can_mount, run, scratch, text},
    snapshot::{self, Extent, Random, Snapshot, expect_equal, read_all, read_damaged},
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

fn open_devices(paths: &[PathBuf]) -> Result<Btrfs<Cached<Image>>, TreeError> {
    Btrfs::with_devices(paths.iter().map(|path| Cached::new(Image::open(path), 16 << 20)).collect())
}

fn is_refused(result: Result<Btrfs<Cached<Image>>, TreeError>, reason: &str) -> bool {
    matches!(result, Err(TreeError::Unsupported { what }) if what.contains(reason))
}

#[test]
fn several_devices_show_what_the_kernel_shows_as_long_as_they_have_a_copy_of_everything() {
    if !can_mount("several_devices_show_what_the_kernel_shows_as_long_as_they_have_a_copy_of_everything") {
        return eprintln!("nothing can be filled without the kernel's driver; nothing was tested");
    }
    let folder = scratch();
    // The profile, the number of devices, and how many may be missing.
    for (profile, count, missing) in [
        ("raid1", 2, 1),
        ("raid1", 3, 0),
        ("raid0", 3, 0),
        ("raid10", 4, 0),
        ("raid1c3", 3, 2),
        ("raid1c4", 4, 3),
        ("raid5", 3, 0),
        ("raid6", 4, 0),
    ] {
        let paths: Vec<PathBuf> =
            (0..count).map(|i| blank(folder.path(), &format!("{profile}-{i}"), 300)).collect();
        let texts: Vec<&str> = paths.iter().map(|path| text(path)).collect();
        run("mkfs.btrfs", &[&["-q", "-f", "-d", profile, "-m", profile], &texts[..]].concat());
        let loops = Loops::new(&paths);
        let at = folder.path().join("mnt");
        let mounted = Mounted::devices(at.clone(), &loops, "");
        ext::fill(mounted.path(), &shape(profile, &[]));
        fill_more(mounted.path());
        drop(mounted);
        let mounted = Mounted::devices(at, &loops, "noatime");
        let mut kernel = kernel(mounted.path());
        drop(mounted);
        drop(loops);
        kernel.values_mut().for_each(|shown| shown.extents = None);
        let seen = |tree: Result<_, TreeError>| {
            let mut seen = ours(&tree.unwrap());
            seen.values_mut().for_each(|shown| shown.extents = None);
            seen
        };
        let reversed: Vec<PathBuf> = paths.iter().rev().cloned().collect();
        expect_equal(profile, &seen(open_devices(&reversed)), &kernel);
        let mut refused = 0;
        for path in &paths {
            let one = open(path);
            if one.is_ok() {
                expect_equal(profile, &seen(one), &kernel);
            } else {
                assert!(is_refused(one, "are not enough"), "{profile}");
                refused += 1;
            }
        }
        assert_eq!(refused == 0, missing == count - 1, "{profile}: {refused} refused");
        if missing > 0 {
            // What one device lost is read from the others.
            let len = 299 << 20;
            File::options()
                .write(true)
                .open(&paths[0])
                .unwrap()
                .write_all_at(&vec![0x5a; len], 1 << 20)
                .unwrap();
            expect_equal(profile, &seen(open_devices(&paths)), &kernel);
        }
        paths.iter().for_each(|path| fs::remove_file(path).unwrap());
    }
}

/// An image in memory of which some nodes have been replaced.
struct Replaced<'a> {
    good: &'a [u8],
    nodes: Vec<(u64, Vec<u8>)>,
}

impl Blocks for Replaced<'_> {
    fn size_bytes(&self) -> u64 {
        self.good.len() as u64
    }

    fn sector_bytes(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.size_bytes());
        let outside = ReadError { offset, len_bytes: buf.len(), cause: bygone_files::Cause::Outside };
        let end = end.ok_or(outside)?;
        buf.copy_from_slice(&self.good[offset as usize..end as usize]);
        for (at, node) in &self.nodes {
            let (from, to) = (offset.max(*at), end.min(at + node.len() as u64));
            if from < to {
                buf[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&node[(from - at) as usize..(to - at) as usize]);
            }
        }
        Ok(())
    }
}

fn sum(node: &[u8]) -> [u8; 4] {
    (crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &node[32..]) as u32).to_le_bytes()
}

#[test]
fn damaged_btrfs_cost_errors_and_nothing_else() {
    if !can_mount("damaged_btrfs_cost_errors_and_nothing_else") {
        return eprintln!("nothing can be filled without the kernel's driver; nothing was tested");
    }
    let folder = scratch();
    let path = make(folder.path(), &("damaged", &["-n", "4096", "-m", "single"], "", 0));
    let mounted = Mounted::new(&path, "compress=lzo");
    ext::fill(mounted.path(), &shape("damaged", &[]));
    fill_more(mounted.path());
    fill_subvolumes(mounted.path());
    drop(mounted);
    let good = fs::read(&path).unwrap();
    let mut random = Random(4711);
    let (opened, walked) = read_damaged(&good, 60, &mut random);
    assert!(opened > 10, "{opened} could be opened, with {walked} names");
    // Checksums hide damage, so that what lies behind them is tried with sums that hold.
    let id = &good[(64 << 10) + 0x20..][..16];
    let is_node =
        |at: &usize| good[at + 32..at + 48] == *id && good[*at..at + 4] == sum(&good[*at..at + 4096]);
    let nodes: Vec<usize> = (1 << 20..good.len()).step_by(4096).filter(is_node).collect();
    assert!(nodes.len() > 100, "{} nodes", nodes.len());
    let (mut opened, mut walked) = (0, 0);
    for _ in 0..400 {
        let mut replaced = Vec::new();
        for _ in 0..1 + random.below(20) {
            let at = nodes[random.below(nodes.len())];
            let mut node = good[at..at + 4096].to_vec();
            for _ in 0..=random.below(3) {
                // The headers of nodes and items, or anything.
                let end = [70, 400, 4064][random.below(3)];
                let within = 32 + random.below(end);
                let byte = [0, 0xff, random.below(256) as u8, 1];
                node[within] = byte[random.below(4)];
            }
            let sum = sum(&node);
            node[..4].copy_from_slice(&sum);
            replaced.push((at as u64, node));
        }
        let damaged = Cached::new(Replaced { good: &good, nodes: replaced }, 1 << 20);
        if let Some(names) = Btrfs::open(damaged).ok().and_then(|tree| read_all(&tree)) {
            opened += 1;
            walked += names;
        }
    }
    assert!(opened > 150 && walked > 20_000, "{opened} could be opened, with {walked} names");
}

/// Changes files that were there, and makes new ones, each of which is synced: all in a log tree.
fn sync_files(root: &Path, round: usize) {
    let open =
        |name: &str| File::options().write(true).create(true).truncate(false).open(root.join(name)).unwrap();
    let write = |name: &str, at: u64, bytes: &[u8]| {
        let file = open(name);
        file.write_all_at(bytes, at).unwrap();
        file.sync_all().unwrap();
    };
    for i in 0..6 + round {
        write("prose-1000000", (i * 77_777) as u64, &prose(i + round, 9000));
        write("scattered", (i * 16_000) as u64, &ext::bytes(i + round, 20_000));
        write(&format!("large/new {round} {i}"), 0, &prose(i, 10 + i * 700));
        write("sub/file", 5000, &prose(i + round, i * 5000));
        write("without-copies", 50_000, &prose(i + round, 30_000));
        write("prealloc", 2_000_000 + i as u64 * 300_000, &prose(i, 5000));
        write("inline-and-more", 0, &prose(i, 7));
        write("file-59", 0, &prose(round, 100 + i * 1000));
    }
    for (name, len) in
        [("file-70000", 4097), ("file-3000000", 1_234_567), ("prose-131072", 0), ("huge", 4 << 30)]
    {
        let file = open(name);
        file.set_len(len).unwrap();
        file.sync_all().unwrap();
    }
    run("fallocate", &["-p", "-o", "8192", "-l", "300000", text(&root.join("prose-131073"))]);
    open("prose-131073").sync_all().unwrap();
    let many = root.join("many-attributes");
    for i in 0..50 {
        if i % 2 == 0 {
            rustix::fs::lremovexattr(&many, format!("user.name-of-some-length-{i}").as_str()).unwrap();
        } else {
            ext::set(&many, &format!("user.name-of-some-length-{i}"), &ext::bytes(i + round, i % 90));
        }
    }
    ext::set(&many, "user.new", b"new");
    File::open(&many).unwrap().sync_all().unwrap();
}

/// What was synced since the last commit is only in a log tree. What was not synced is lost.
/// A file system that is cut off after a commit, after files were synced since, and after a name changed since. `None` if
/// the kernel has committed something by itself meanwhile, as it does when any program syncs all file systems.
fn cut_off(folder: &Path, round: usize, each: &Shape) -> Option<[PathBuf; 3]> {
    let path = make(folder, each);
    let options = [each.2, "commit=300"].join(if each.2.is_empty() { "" } else { "," });
    let mounted = Mounted::new(&path, &options);
    ext::fill(mounted.path(), &shape("cut", &[]));
    fill_more(mounted.path());
    fill_subvolumes(mounted.path());
    run("sync", &["-f", text(mounted.path())]);
    let (root, commit) = (mounted.path(), generation(&path));
    fs::write(root.join("lost"), prose(1, 100_000)).unwrap();
    fs::remove_dir_all(root.join("deep")).unwrap();
    let copy = |name: &str| copied(&path, &folder.join(name));
    let committed = copy("committed");
    sync_files(root, round);
    let logged = copy("logged");
    // A name that changed is more than what is replayed.
    fs::rename(root.join("file-200"), root.join("renamed")).unwrap();
    File::open(root.join("renamed")).unwrap().sync_all().unwrap();
    File::open(root).unwrap().sync_all().unwrap();
    let renamed = copy("renamed");
    drop(mounted);
    fs::remove_file(&path).unwrap();
    let images = [committed, logged, renamed];
    images.iter().all(|image| generation(image) == commit).then_some(images)
}

/// The number of the last commit.
fn generation(image: &Path) -> u64 {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0; 8];
    File::open(image).unwrap().read_exact_at(&mut bytes, (64 << 10) + 0x48).unwrap();
    u64::from_le_bytes(bytes)
}

/// A copy of an image whose file system is in use, made between two commits.
fn copied(image: &Path, to: &Path) -> PathBuf {
    for _ in 0..10 {
        let commit = generation(image);
        run("cp", &["--sparse=always", text(image), text(to)]);
        if generation(image) == commit && generation(to) == commit {
            break;
        }
    }
    to.to_owned()
}

#[test]
fn a_btrfs_that_was_cut_off_shows_what_the_kernel_shows_after_its_replay_or_is_refused() {
    let test = "a_btrfs_that_was_cut_off_shows_what_the_kernel_shows_after_its_replay_or_is_refused";
    if !can_mount(test) {
        return eprintln!("nothing can be cut off without the kernel's driver; nothing was tested");
    }
    let folder = scratch();
    for (round, each) in [0, 1, 3, 7, 8, 9].into_iter().map(|i| (i, &SHAPES[i])) {
        let cut = (0..5).find_map(|_| cut_off(folder.path(), round, each));
        let [committed, logged, renamed] = cut.expect("the kernel commits again and again by itself");
        let tree = open(&renamed);
        assert!(tree.is_err() && is_refused(tree, "log tree"), "{}", each.0);
        for (name, image) in [("committed", committed), ("logged", logged)] {
            let tree = open(&image).unwrap();
            assert_eq!(tree.replayed_files() > 10, name == "logged", "{} files", tree.replayed_files());
            let seen = ours(&tree);
            assert!(!seen.contains_key(&b"/lost"[..]));
            compare_places(&Image::open(&image), &tree, &seen);
            let mounted = Mounted::new(&image, "noatime");
            expect_equal(&format!("{} {name}", each.0), &seen, &kernel(mounted.path()));
            drop(mounted);
            fs::remove_file(&image).unwrap();
        }
    }
}

/// One change of a file system, of which some are synced.
fn change(root: &Path, random: &mut Random, step: usize) -> std::io::Result<()> {
    let names = ["a", "b", "c", "folder/a", "folder/b", "sub/a", "prose-1000000", "clone", "scattered"];
    let pick = names[random.below(names.len())];
    let path = root.join(pick);
    let opened = || File::options().read(true).write(true).create(true).truncate(false).open(root.join(pick));
    match random.below(24) {
        0 => fs::rename(&path, root.join(names[random.below(6)]))?,
        1 => fs::remove_file(&path)?,
        2 => fs::hard_link(&path, root.join(format!("folder/link-{step}")))?,
        3 => fs::create_dir(root.join(format!("folder/new-{step}")))?,
        4 => fs::write(root.join(format!("folder/file-{step}")), prose(step, random.below(6000)))?,
        5 | 6 => opened()?.set_len(random.below(400_000) as u64)?,
        7 | 8 => {
            let mode = ["-p", "-z", "-n"][random.below(3)];
            let (from, len) = (random.below(300_000).to_string(), (1 + random.below(90_000)).to_string());
            drop(opened()?);
            let args: &[&str] = if mode == "-n" { &["-n"] } else { &[mode, "-n"] };
            let _ = Command::new("fallocate").args(args).args(["-o", &from, "-l", &len]).arg(&path).output();
        }
        9 => {
            drop(opened()?);
            ext::set(&path, &format!("user.{}", random.below(4)), &ext::bytes(step, random.below(50)));
        }
        10 => {
            let _ = rustix::fs::lremovexattr(&path, "user.1");
        }
        11 => {
            let from = root.join(names[random.below(names.len())]);
            let _ = Command::new("cp").args(["--reflink=always", text(&from), text(&path)]).output();
        }
        _ => opened()?.write_all_at(&prose(step, random.below(20_000)), random.below(300_000) as u64)?,
    }
    if random.below(3) > 0 && path.exists() {
        File::open(&path)?.sync_all()?;
    }
    Ok(())
}

#[test]
fn whatever_was_synced_before_a_cut_is_shown_as_the_kernel_shows_it_or_refused() {
    if !can_mount("whatever_was_synced_before_a_cut_is_shown_as_the_kernel_shows_it_or_refused") {
        return eprintln!("nothing can be cut off without the kernel's driver; nothing was tested");
    }
    let folder = scratch();
    let (mut refused, mut shown, mut replayed) = (0, 0, 0);
    for round in 0..60 {
        let each = &SHAPES[[0, 1, 5, 7, 8, 9][round % 6]];
        let path = make(folder.path(), each);
        let mounted =
            Mounted::new(&path, &format!("commit=300{}{}", if each.2.is_empty() { "" } else { "," }, each.2));
        let root = mounted.path();
        fs::create_dir(root.join("folder")).unwrap();
        subvolume(&["create"], &[&root.join("sub")]);
        for name in ["a", "b", "folder/a", "sub/a", "prose-1000000", "clone"] {
            fs::write(root.join(name), prose(round, 200_000)).unwrap();
        }
        let mut random = Random(round as u64 * 977 + 5);
        for step in 0..20 {
            let _ = change(root, &mut random, step);
        }
        run("sync", &["-f", text(root)]);
        for step in 20..21 + round % 12 {
            let _ = change(root, &mut random, step);
        }
        let image = copied(&path, &folder.path().join("cut"));
        drop(mounted);
        fs::remove_file(&path).unwrap();
        match open(&image) {
            Err(TreeError::Unsupported { what }) => {
                assert!(what.contains("log tree"), "{what}");
                refused += 1;
            }
            tree => {
                let tree = tree.unwrap();
                replayed += tree.replayed_files();
                shown += 1;
                let seen = ours(&tree);
                let mounted = Mounted::new(&image, "noatime");
                expect_equal(&format!("{} in round {round}", each.0), &seen, &kernel(mounted.path()));
            }
        }
        fs::remove_file(&image).unwrap();
    }
    assert!(
        refused > 5 && shown > 15 && replayed > 20,
        "{refused} refused, {shown} shown, {replayed} replayed"
    );
}

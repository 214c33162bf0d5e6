//! All that a tree shows, as the kernel shows it and as this crate does.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs::{self, File},
    io::Read,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::Command,
};

use bygone_files::{
    Attribute, Blocks, Cached, Cause, FileKind, FileTime, Limits, ReadError, Step, Tree, open, walk,
};
use rustix::{fs as rfs, io::Errno};

/// Larger files are compared by their extents.
const WHOLE_MAX: u64 = 64 << 20;
const BLOCK: usize = 4096;

/// What is shown of one name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    pub inode: u64,
    pub mode: u32,
    pub owner: (u32, u32),
    pub links: u64,
    pub size: u64,
    pub times: [(i64, i64); 3],
    pub created: Option<(i64, i64)>,
    pub device: Option<(u32, u32)>,
    pub target: Option<Vec<u8>>,
    pub content: Option<u64>,
    /// Offset in the file, length, place on the volume, reserved: of what lies in blocks of its own.
    pub extents: Option<Vec<Extent>>,
    pub attributes: Vec<Attribute>,
}

pub(crate) type Extent = (u64, u64, u64, bool);

pub(crate) type Snapshot = BTreeMap<Vec<u8>, Shown>;

/// A hash (FNV-1a) of the blocks that hold anything else than zeroes, and of their places.
struct Content(u64);

impl Default for Content {
    fn default() -> Content {
        Content(0xcbf2_9ce4_8422_2325)
    }
}

impl Content {
    fn add(&mut self, offset: u64, bytes: &[u8]) {
        for (block, at) in bytes.chunks(BLOCK).zip((offset..).step_by(BLOCK)) {
            let used = block.len() - block.iter().rev().take_while(|byte| **byte == 0).count();
            if used > 0 {
                let hashed = at.to_le_bytes();
                let hashed = hashed.iter().chain(&block[..used]);
                self.0 =
                    hashed.fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
            }
        }
    }
}

fn kernel_content(path: &Path, size: u64) -> u64 {
    let mut file = File::open(path).unwrap();
    let mut content = Content::default();
    if size <= WHOLE_MAX {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, size);
        content.add(0, &bytes);
        return content.0;
    }
    let mut at = 0;
    while let Ok(data) = rfs::seek(&file, rfs::SeekFrom::Data(at)) {
        let hole = rfs::seek(&file, rfs::SeekFrom::Hole(data)).unwrap();
        let start = data / BLOCK as u64 * BLOCK as u64;
        let mut bytes = vec![0; (hole - start) as usize];
        file.read_exact_at(&mut bytes, start).unwrap();
        content.add(start, &bytes);
        at = hole;
    }
    content.0
}

fn kernel_attributes(path: &Path) -> Vec<Attribute> {
    let mut names = vec![0; 64 << 10];
    let len = match rfs::llistxattr(path, &mut names[..]) {
        Err(Errno::OPNOTSUPP) => return Vec::new(),
        len => len.unwrap(),
    };
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut all: Vec<Attribute> = names
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let len = rfs::lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        .collect();
    all.sort();
    all
}

fn kernel_created(path: &Path) -> Option<(i64, i64)> {
    let found = rfs::statx(rfs::CWD, path, rfs::AtFlags::SYMLINK_NOFOLLOW, rfs::StatxFlags::BTIME).unwrap();
    let has_it = found.stx_mask & rfs::StatxFlags::BTIME.bits() != 0;
    has_it.then(|| (found.stx_btime.tv_sec, i64::from(found.stx_btime.tv_nsec)))
}

/// Adds an extent, as one with the last if it adjoins that.
pub(crate) fn add_extent(all: &mut Vec<Extent>, (offset, len, place, unwritten): Extent) {
    if let Some(last) = all.last_mut()
        && (last.0 + last.1, last.2 + last.1, last.3) == (offset, place, unwritten)
    {
        last.1 += len;
        return;
    }
    all.push((offset, len, place, unwritten));
}

/// The extents of regular files, as the kernel maps them (FIEMAP).
fn kernel_extents(paths: &[&Path]) -> Vec<Vec<Extent>> {
    let mut all = Vec::new();
    for paths in paths.chunks(500) {
        let tool = Command::new("filefrag").args(["-v", "-s", "-b512", "--"]).args(paths).output().unwrap();
        assert!(tool.status.success(), "{}", String::from_utf8_lossy(&tool.stderr));
        let text = String::from_utf8_lossy(&tool.stdout).into_owned();
        let before = all.len();
        for line in text.lines() {
            if line.starts_with("File size of ") {
                all.push(Vec::new());
            }
            // " 0:        0..       7:      34816..     34823:      8:    expected:  flags"
            let fields: Vec<&str> = line.split(':').map(str::trim).collect();
            if fields.len() < 5 || fields[0].parse::<u32>().is_err() {
                continue;
            }
            let first = |field: &str| -> u64 { field.split("..").next().unwrap().trim().parse().unwrap() };
            let flags: Vec<&str> = fields[fields.len() - 1].split(',').collect();
            if flags.contains(&"inline") {
                continue;
            }
            assert!(!flags.iter().any(|flag| ["delalloc", "unknown_loc"].contains(flag)), "{line}");
            let extent = (
                first(fields[1]) * 512,
                first(fields[3]) * 512,
                first(fields[2]) * 512,
                flags.contains(&"unwritten"),
            );
            add_extent(all.last_mut().unwrap(), extent);
        }
        assert_eq!(all.len() - before, paths.len(), "{text}");
    }
    all
}

fn kernel_shown(path: &Path) -> Shown {
    let metadata = fs::symlink_metadata(path).unwrap();
    let kind = metadata.file_type();
    let rdev = metadata.rdev();
    let is_device = metadata.mode() & 0o170_000 == 0o020_000 || metadata.mode() & 0o170_000 == 0o060_000;
    let times = [
        (metadata.atime(), metadata.atime_nsec()),
        (metadata.mtime(), metadata.mtime_nsec()),
        (metadata.ctime(), metadata.ctime_nsec()),
    ];
    Shown {
        inode: metadata.ino(),
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        links: metadata.nlink(),
        size: metadata.size(),
        times,
        created: kernel_created(path),
        device: is_device.then(|| (rfs::major(rdev), rfs::minor(rdev))),
        target: kind.is_symlink().then(|| fs::read_link(path).unwrap().into_os_string().into_vec()),
        content: kind.is_file().then(|| kernel_content(path, metadata.size())),
        extents: None,
        attributes: kernel_attributes(path),
    }
}

/// What the kernel shows of `root` and below it, without the places of contents.
pub(crate) fn kernel(root: &Path) -> Snapshot {
    let mut snapshot = Snapshot::from([(Vec::new(), kernel_shown(root))]);
    let mut waiting = vec![(root.to_owned(), Vec::new())];
    while let Some((folder, path)) = waiting.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let mut below: Vec<u8> = path.clone();
            below.push(b'/');
            below.extend_from_slice(entry.file_name().as_bytes());
            if entry.file_type().unwrap().is_dir() {
                waiting.push((entry.path(), below.clone()));
            }
            snapshot.insert(below, kernel_shown(&entry.path()));
        }
    }
    snapshot
}

/// What the kernel shows of a mounted volume, with the places of contents.
pub(crate) fn kernel_with_places(root: &Path) -> Snapshot {
    let mut snapshot = kernel(root);
    let regular = snapshot.iter_mut().filter(|(_, shown)| shown.content.is_some());
    let (paths, shown): (Vec<_>, Vec<_>) = regular
        .map(|(path, shown)| (root.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap())), shown))
        .unzip();
    let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    for (shown, extents) in shown.into_iter().zip(kernel_extents(&paths)) {
        shown.extents = Some(extents);
    }
    snapshot
}

fn our_extents(tree: &dyn Tree, inode: u64) -> Vec<Extent> {
    let mut all = Vec::new();
    tree.extents(inode, &mut |extent| {
        add_extent(&mut all, (extent.offset, extent.len_bytes, extent.place, extent.unwritten));
        true
    })
    .unwrap();
    all
}

fn our_content(tree: &dyn Tree, inode: u64, size: u64) -> u64 {
    let mut content = Content::default();
    if size <= WHOLE_MAX {
        let mut bytes = vec![0; size as usize];
        // Pieces that begin and end anywhere.
        for (i, piece) in bytes.chunks_mut(100_003).enumerate() {
            assert_eq!(tree.read(inode, i as u64 * 100_003, piece).unwrap(), piece.len());
        }
        assert_eq!(tree.read(inode, size, &mut [0; 10]).unwrap(), 0);
        content.add(0, &bytes);
        return content.0;
    }
    let mut runs = Vec::new();
    tree.extents(inode, &mut |extent| {
        runs.push(extent);
        true
    })
    .unwrap();
    for run in runs.iter().filter(|run| !run.unwritten && run.offset < size) {
        let start = run.offset / BLOCK as u64 * BLOCK as u64;
        let end = (run.offset + run.len_bytes).next_multiple_of(BLOCK as u64).min(size);
        let mut bytes = vec![0; (end - start) as usize];
        assert_eq!(tree.read(inode, start, &mut bytes).unwrap(), bytes.len());
        content.add(start, &bytes);
    }
    content.0
}

fn mode_of(kind: FileKind) -> u32 {
    match kind {
        FileKind::Fifo => 0o010_000,
        FileKind::CharDevice => 0o020_000,
        FileKind::Directory => 0o040_000,
        FileKind::BlockDevice => 0o060_000,
        FileKind::Regular => 0o100_000,
        FileKind::Symlink => 0o120_000,
        FileKind::Socket => 0o140_000,
        FileKind::Unknown => 0,
    }
}

fn our_shown(tree: &dyn Tree, inode: u64) -> Shown {
    let metadata = tree.metadata(inode).unwrap();
    let time = |time: FileTime| (time.seconds, i64::from(time.nanos));
    Shown {
        inode: metadata.inode,
        mode: mode_of(metadata.kind) | u32::from(metadata.mode),
        owner: (metadata.uid, metadata.gid),
        links: u64::from(metadata.links),
        size: metadata.size_bytes,
        times: [time(metadata.accessed), time(metadata.modified), time(metadata.changed)],
        created: metadata.created.map(time),
        device: metadata.device,
        target: (metadata.kind == FileKind::Symlink).then(|| tree.link_target(inode).unwrap()),
        content: (metadata.kind == FileKind::Regular).then(|| our_content(tree, inode, metadata.size_bytes)),
        extents: (metadata.kind == FileKind::Regular).then(|| our_extents(tree, inode)),
        attributes: tree.attributes(inode).unwrap(),
    }
}

/// Whether all of a tree can be read.
pub(crate) fn is_sound(tree: &dyn Tree) -> bool {
    let mut sound = true;
    let whole = walk(tree, Limits::default(), &mut |step| {
        sound &= match step {
            Step::Name(_, entry) => {
                let target = entry.kind != FileKind::Symlink || tree.link_target(entry.inode).is_ok();
                let mapped = tree.extents(entry.inode, &mut |_| true).is_ok();
                target && mapped && tree.attributes(entry.inode).is_ok() && tree.metadata(entry.inode).is_ok()
            }
            _ => false,
        };
        sound
    });
    sound && whole.unwrap()
}

/// What this crate shows of a tree.
pub(crate) fn ours(tree: &dyn Tree) -> Snapshot {
    let mut snapshot = Snapshot::from([(Vec::new(), our_shown(tree, tree.root()))]);
    let whole = walk(tree, Limits::default(), &mut |step| {
        let Step::Name(path, entry) = step else { panic!("{step:?}") };
        let shown = our_shown(tree, entry.inode);
        assert_eq!(shown.mode & 0o170_000, mode_of(entry.kind), "{}", path.escape_ascii());
        assert!(snapshot.insert(path.to_vec(), shown).is_none(), "{} twice", path.escape_ascii());
        true
    });
    assert!(whole.unwrap());
    snapshot
}

/// Compares only what a copy keeps: names, kinds, sizes of files, targets and contents.
#[track_caller]
pub(crate) fn expect_alike(what: &str, ours: &Snapshot, source: &Snapshot) {
    let kept = |shown: &Shown| {
        let size = shown.content.map(|_| shown.size);
        (shown.mode & 0o170_000, size, shown.target.clone(), shown.content)
    };
    let names = |snapshot: &Snapshot| snapshot.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(ours), names(source), "{what}");
    for (path, shown) in ours {
        assert_eq!(kept(shown), kept(&source[path]), "{what}: {}", path.escape_ascii());
    }
}

/// Compares both; each difference is named.
#[track_caller]
pub(crate) fn expect_equal(what: &str, ours: &Snapshot, kernel: &Snapshot) {
    let mut differences = Vec::new();
    for path in ours.keys().chain(kernel.keys().filter(|path| !ours.contains_key(*path))) {
        let (a, b) = (ours.get(path), kernel.get(path));
        if a != b {
            differences.push(format!("{}:\n  ours   {a:?}\n  kernel {b:?}", path.escape_ascii()));
        }
    }
    let shown = differences[..differences.len().min(5)].join("\n");
    assert!(differences.is_empty(), "{what}: {} differences\n{shown}", differences.len());
}

/// The part of some extents that lies before the end of a file.
fn before_the_end(extents: &[Extent], size: u64) -> Vec<Extent> {
    let part = |extent: &Extent| (extent.0, extent.1.min(size.saturating_sub(extent.0)), extent.2, extent.3);
    extents.iter().map(part).filter(|extent| extent.1 > 0).collect()
}

/// Leaves out what is reserved behind the ends of files.
pub(crate) fn up_to_the_ends(mut snapshot: Snapshot) -> Snapshot {
    for shown in snapshot.values_mut() {
        shown.extents = shown.extents.as_ref().map(|extents| before_the_end(extents, shown.size));
    }
    snapshot
}

/// Takes back what the kernel changed since this moment, namely the times of files and what of them lay behind their
/// ends: when it mounts, it finishes truncations that were interrupted.
pub(crate) fn undo_truncations(kernel: &mut Snapshot, ours: &Snapshot, since: std::time::SystemTime) {
    let since = since.duration_since(std::time::UNIX_EPOCH).unwrap();
    let since = (since.as_secs() as i64, i64::from(since.subsec_nanos()));
    for (path, shown) in kernel {
        let Some(before) = ours.get(path).filter(|_| shown.times[2] >= since) else { continue };
        shown.times = before.times;
        if let (Some(found), Some(mapped)) = (&mut shown.extents, &before.extents)
            && before_the_end(found, shown.size) == before_the_end(mapped, before.size)
        {
            found.clone_from(mapped);
        }
    }
}

/// Reads all that there is of a tree that may be damaged, and lets nothing but errors happen. Returns the number of names.
pub(crate) fn read_all(tree: &dyn Tree) -> Option<usize> {
    let mut names = 0;
    let limits =
        Limits { entries_max: 20_000, depth_max: 100, path_bytes_max: 8192, read_bytes_max: 64 << 20 };
    let mut buf = vec![0; 64 << 10];
    walk(tree, limits, &mut |step| {
        if let Step::Name(_, entry) = step {
            names += 1;
            let _ = tree.attributes(entry.inode);
            let _ = tree.link_target(entry.inode);
            let mut extents = 0;
            let _ = tree.extents(entry.inode, &mut |_| {
                extents += 1;
                extents < 1000
            });
            for at in [0, 5000, 1 << 40, i64::MAX as u64] {
                let _ = tree.read(entry.inode, at, &mut buf);
            }
        }
        true
    })
    .ok()?;
    Some(names)
}

/// Numbers that look random.
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// An image in memory of which some bytes have been replaced.
pub(crate) struct Patched<'a> {
    good: &'a [u8],
    patches: BTreeMap<u64, u8>,
}

impl Blocks for Patched<'_> {
    fn size_bytes(&self) -> u64 {
        self.good.len() as u64
    }

    fn sector_bytes(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.size_bytes());
        let outside = ReadError { offset, len_bytes: buf.len(), cause: Cause::Outside };
        let end = end.ok_or(outside)?;
        buf.copy_from_slice(&self.good[offset as usize..end as usize]);
        for (at, byte) in self.patches.range(offset..end) {
            buf[(at - offset) as usize] = *byte;
        }
        Ok(())
    }
}

/// Reads damaged copies of an image. Returns how many of them could be opened, and the number of names in all of them.
pub(crate) fn read_damaged(good: &[u8], rounds: usize, random: &mut Random) -> (usize, usize) {
    // Where anything is written at all, so that it matters.
    let used: Vec<u32> = (0..good.len()).filter(|at| good[*at] != 0).map(|at| at as u32).collect();
    let metadata: Vec<u32> = used.iter().copied().filter(|at| *at < 160 << 10).collect();
    let (mut opened, mut walked) = (0, 0);
    for round in 0..rounds {
        let mut patches = BTreeMap::new();
        for _ in 0..=random.below(30) {
            let from = if round % 2 == 0 { &metadata } else { &used };
            let byte = [0, 0xff, random.below(256) as u8][random.below(3)];
            patches.insert(u64::from(from[random.below(from.len())]), byte);
        }
        let damaged = Cached::new(Patched { good, patches }, 1 << 20);
        if let Some(names) = open(damaged).ok().and_then(|tree| read_all(&*tree)) {
            opened += 1;
            walked += names;
        }
    }
    (opened, walked)
}

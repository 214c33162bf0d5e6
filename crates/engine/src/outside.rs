//! Decides whether a file or device outside the store may be tapped or overwritten.
//!
//! Invariant: what others use is not touched: an image in a format of its own, what the kernel has mounted or built a
//! device on, what a target taps (whether the target is open, and whether the disk is there), what belongs to the
//! store.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use bygone_block::{OsDisk, RawDisk};
use bygone_qemu::image::{self, Format};
use bygone_sys::{ImageLock, ImageLockError};

use crate::{
    config::{DiskConfig, TargetConfig},
    error::{Error, Result},
    store_dir::StorePaths,
    target::Target,
};

/// The properties of a disk that is going to be tapped or imported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) size_bytes: u64,
    /// Its block size according to its device or its partition table.
    pub(crate) block_bytes: Option<u32>,
    /// The format of its content, if it does not look like a raw disk.
    pub(crate) format: Option<Format>,
}

/// Opens and locks a disk outside the store; returns its size in bytes first.
///
/// # Errors
/// When it cannot be opened, is in use, is read-only, or its size is not a positive multiple of 512.
pub(crate) fn open(path: &Path) -> Result<(u64, OsDisk, ImageLock)> {
    if let Some(by) = used_by(path) {
        return Err(Error::DiskUsed { path: path.to_owned(), by });
    }
    let failed = |source| Error::Disk { path: path.to_owned(), source };
    if is_read_only(path) {
        return Err(failed(io::ErrorKind::ReadOnlyFilesystem.into()));
    }
    let raw = OsDisk::open(path).map_err(failed)?;
    let image_lock = ImageLock::take_exclusive(raw.os_file())
        .map_err(|source| Error::DiskLocked { path: path.to_owned(), source })?;
    let size = raw.size_bytes();
    if size == 0 || size % 512 != 0 {
        let wanted = "a disk has a multiple of 512, and more than none".to_owned();
        return Err(Error::DiskSize { path: path.to_owned(), found: size, wanted });
    }
    Ok((size, raw, image_lock))
}

/// The size in bytes of a file or block device, determined without opening it.
///
/// # Errors
/// When it does not exist, or is neither.
pub(crate) fn size_of(path: &Path) -> io::Result<u64> {
    const SECTOR_BYTES: u64 = 512;
    let meta = fs::metadata(path)?;
    if meta.is_file() {
        return Ok(meta.len());
    }
    if meta.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let sectors = match sysfs(meta.rdev()).filter(|_| meta.file_type().is_block_device()) {
        Some(folder) => fs::read_to_string(folder.join("size"))?,
        None => return Err(io::Error::other("it is neither a file nor a block device")),
    };
    let sectors: u64 = sectors.trim().parse().map_err(io::Error::other)?;
    Ok(sectors * SECTOR_BYTES)
}

/// Opens a disk or image for reading, and keeps others from writing to it meanwhile. Without a lock if its file system
/// has none: QEMU's tools read it then too.
///
/// # Errors
/// When it cannot be opened, or a program may write to it.
pub(crate) fn open_to_read(path: &Path) -> Result<(OsDisk, Option<ImageLock>)> {
    let raw = OsDisk::open_to_read(path).map_err(|source| Error::Disk { path: path.to_owned(), source })?;
    match ImageLock::take_shared(raw.os_file()) {
        Ok(lock) => Ok((raw, Some(lock))),
        Err(ImageLockError::Unlockable(_)) => Ok((raw, None)),
        Err(source) => Err(Error::DiskLocked { path: path.to_owned(), source }),
    }
}

/// Adds the target that has it open to the error that a disk is in use.
pub(crate) fn with_owner(targets: &[Arc<Target>], error: Error) -> Error {
    let Error::DiskLocked { path, source: ImageLockError::InUse(_) } = &error else { return error };
    let place = Place::of(path);
    let has_it = |target: &&Arc<Target>| {
        target.config().disks.iter().any(|disk| {
            let tap = disk.path.as_deref().map(Place::of);
            tap.is_some_and(|tap| place.overlaps(&tap)) && target.has_open(&disk.id)
        })
    };
    match targets.iter().find(has_it) {
        Some(target) => Error::DiskOpen { path: path.clone(), target: target.name.clone() },
        None => error,
    }
}

/// Examines an open disk or image.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn facts(path: &Path, raw: &OsDisk) -> Result<Facts> {
    let failed = |source| Error::Disk { path: path.to_owned(), source };
    let size_bytes = raw.size_bytes();
    let (head, tail) = image::ends(raw.os_file(), size_bytes).map_err(failed)?;
    let block_bytes = raw.block_bytes().map_err(failed)?.or_else(|| image::block_bytes(&head));
    Ok(Facts { size_bytes, block_bytes, format: image::recognise(&head, &tail) })
}

/// Checks that a disk that no target has can be tapped; with `is_raw` its content may look like another format.
///
/// # Errors
/// When it cannot, or is in use.
pub(crate) fn check_tap(path: &Path, is_raw: bool) -> Result<Facts> {
    let raw = OsDisk::open_to_read(path).map_err(|source| Error::Disk { path: path.to_owned(), source })?;
    let facts = facts(path, &raw)?;
    if let Some(format) = facts.format.filter(|_| !is_raw) {
        return Err(Error::NotRaw { path: path.to_owned(), format });
    }
    open(path)?;
    Ok(facts)
}

/// A disk outside the store that belongs to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tap {
    pub target: String,
    pub disk: String,
    pub path: PathBuf,
}

impl Tap {
    /// The disks outside the store of a target.
    pub(crate) fn all_of(config: &TargetConfig) -> Vec<Tap> {
        let tap = |disk: &DiskConfig| {
            let path = disk.path.clone()?;
            Some(Tap { target: config.name.clone(), disk: disk.id.clone(), path })
        };
        config.disks.iter().filter_map(tap).collect()
    }
}

/// What belongs to the store and to the targets: all places where nothing else may be written.
pub(crate) struct Taken {
    root: PathBuf,
    taps: Vec<(Tap, Place)>,
}

impl Taken {
    pub(crate) fn new(paths: &StorePaths, taps: Vec<Tap>) -> Taken {
        let mut taken = Taken { root: resolved(paths.root()), taps: Vec::new() };
        taps.into_iter().for_each(|tap| taken.add(tap));
        taken
    }

    pub(crate) fn add(&mut self, tap: Tap) {
        let place = Place::of(&tap.path);
        self.taps.push((tap, place));
    }

    /// Checks that `path` can be written. If the disk `of` is missing, its own content may be restored to its place.
    ///
    /// # Errors
    /// When it is in the store's folder, or is a tapped disk.
    pub(crate) fn check_free(&self, path: &Path, of: Option<(&str, &str)>) -> Result<()> {
        if resolved(path).starts_with(&self.root) {
            return Err(Error::InsideStore(path.to_owned()));
        }
        let place = Place::of(path);
        let is_taken = |(tap, tapped): &&(Tap, Place)| match (&place, tapped) {
            // A missing disk still belongs to its target, which would find at its path what is written there.
            (Place::Missing(_), Place::Missing(_)) => {
                place == *tapped && of != Some((tap.target.as_str(), tap.disk.as_str()))
            }
            _ => place.overlaps(tapped),
        };
        match self.taps.iter().find(is_taken) {
            Some((tap, _)) => {
                Err(Error::Tapped { path: crate::config::absolute(path), target: tap.target.clone() })
            }
            None => Ok(()),
        }
    }

    /// Checks that a disk can become one of a new target.
    ///
    /// # Errors
    /// When it is in the store's folder, or a target has it.
    pub(crate) fn check_not_taken(&self, path: &Path) -> Result<()> {
        self.check_free(path, None).map_err(|error| match error {
            Error::Tapped { path, target } => Error::DiskTaken { path, target },
            error => error,
        })
    }
}

/// The absolute path without `..` and symbolic links, whether or not there is something.
fn resolved(path: &Path) -> PathBuf {
    /// As many as the kernel follows.
    const LINKS_MAX: usize = 40;
    let parts = |path: &Path| path.iter().rev().map(OsString::from).collect::<Vec<_>>();
    // The parts to come, the next one last.
    let mut rest = parts(&crate::config::absolute(path));
    let (mut done, mut links) = (PathBuf::new(), 0);
    while let Some(part) = rest.pop() {
        match part.to_str() {
            Some("/") => done = PathBuf::from("/"),
            Some(".") => {}
            Some("..") => drop(done.pop()),
            _ => {
                done.push(part);
                if links < LINKS_MAX
                    && let Ok(to) = fs::read_link(&done)
                {
                    links += 1;
                    done.pop();
                    rest.extend(parts(&to));
                }
            }
        }
    }
    done
}

/// The identity of a file or device, independent of its path.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    File {
        device: u64,
        inode: u64,
    },
    /// Its folder in sysfs; a partition's is inside its disk's.
    Device(PathBuf),
    /// Nothing is there that could be identified: the path where it would be.
    Missing(PathBuf),
}

impl Place {
    fn of(path: &Path) -> Place {
        let place = match fs::metadata(path) {
            Ok(meta) if meta.file_type().is_block_device() => sysfs(meta.rdev()).map(Place::Device),
            Ok(meta) => Some(Place::File { device: meta.dev(), inode: meta.ino() }),
            Err(_) => None,
        };
        place.unwrap_or_else(|| Place::Missing(resolved(path)))
    }

    fn overlaps(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Device(one), Place::Device(other)) => one.starts_with(other) || other.starts_with(one),
            _ => self == other,
        }
    }
}

fn sysfs(device: u64) -> Option<PathBuf> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()
}

/// Whether a device is read-only: opening it for writing would succeed, but each write would fail.
fn is_read_only(path: &Path) -> bool {
    let Place::Device(folder) = Place::of(path) else { return false };
    fs::read_to_string(folder.join("ro")).is_ok_and(|text| text.trim() == "1")
}

/// The kernel's use of a file or device, in words.
fn used_by(path: &Path) -> Option<String> {
    let place = Place::of(path);
    if let Place::Device(folder) = &place {
        if let Some(at) = mounts_below(folder) {
            return Some(format!("it is mounted at {at}"));
        }
        if let Some(holder) = holder_of(folder) {
            return Some(format!("{holder} is built on it"));
        }
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let is_swap = |line: &str| {
        let swap = line.split_ascii_whitespace().next().map(unescape);
        swap.is_some_and(|swap| place.overlaps(&Place::of(Path::new(&swap))))
    };
    if swaps.lines().skip(1).any(is_swap) {
        return Some("it is used as swap space".to_owned());
    }
    loop_on(&place).map(|device| format!("{device} is set up on it"))
}

/// The mount point of the device or one of its partitions.
fn mounts_below(folder: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(2);
        let (major, minor) = words.next()?.split_once(':')?;
        let at = words.nth(1)?;
        let device = rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?);
        sysfs(device)?.starts_with(folder).then(|| unescape(at))
    })
}

/// A device that is built on this one or one of its partitions: LVM, RAID, encryption.
fn holder_of(folder: &Path) -> Option<String> {
    let name = |folder: &Path| {
        let holders = fs::read_dir(folder.join("holders")).ok()?;
        let first = holders.filter_map(io::Result::ok).next()?.path();
        let readable = fs::read_to_string(first.join("dm/name")).ok().map(|name| name.trim().to_owned());
        readable.or_else(|| Some(first.file_name()?.to_string_lossy().into_owned()))
    };
    let parts = fs::read_dir(folder).ok()?.filter_map(io::Result::ok).map(|entry| entry.path());
    let mut parts = parts.filter(|part| part.join("partition").exists());
    name(folder).or_else(|| parts.find_map(|part| name(&part)))
}

/// The loop device that is set up on this file.
fn loop_on(place: &Place) -> Option<String> {
    let devices = fs::read_dir("/sys/block").ok()?.filter_map(io::Result::ok);
    let mut loops = devices.filter(|entry| entry.file_name().to_string_lossy().starts_with("loop"));
    loops.find_map(|entry| {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
        let shown = Place::of(Path::new(file.trim_end_matches('\n')));
        (shown == *place).then(|| format!("/dev/{}", entry.file_name().to_string_lossy()))
    })
}

/// Decodes the octal escapes of white space and backslashes in the kernel's tables.
fn unescape(word: &str) -> String {
    ["\\040", "\\011", "\\012", "\\134"]
        .into_iter()
        .zip([" ", "\t", "\n", "\\"])
        .fold(word.to_owned(), |word, (code, c)| word.replace(code, c))
}

//! Copies the disks of a moment out of the store.
//!
//! Invariant: a file has its name only once it is complete and durable; when several disks are restored to a folder,
//! all are there or none is.

use std::{
    fs,
    io::IoSlice,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bygone_block::{
    BlockDevice, Extent, RawDisk,
    walk::{End, Piece, Took, Unread, Walk, differing},
};
use bygone_model::{Seq, VolumeId};

use super::PIECE_BYTES;
use crate::{
    api::{Answers, Progress, RestoredDisk, Unreadable},
    error::{Error, Result, Usage},
    store_dir::{rename_to_free, sync_dir},
    target::Target,
};

/// The suffix of a file that is not restored completely yet.
const PART: &str = ".bygone-part";
/// A new file gets a hole for each zero block of this size.
const HOLE_BYTES: usize = 4096;

/// The file or device to which a restore to `path` writes a disk, and the name of the file until it is complete.
pub(crate) fn paths_of(path: &Path, disk: &str) -> [PathBuf; 2] {
    let to = if is_folder(path) { in_folder(path, disk) } else { path.to_owned() };
    let part = part_of(&to);
    [to, part]
}

fn in_folder(folder: &Path, disk: &str) -> PathBuf {
    folder.join(format!("{disk}.raw"))
}

fn part_of(to: &Path) -> PathBuf {
    let mut part = to.as_os_str().to_owned();
    part.push(PART);
    part.into()
}

fn is_folder(path: &Path) -> bool {
    path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/")
}

/// The disks that are copied, and the folder that they are copied to, unless it is one disk with a path of its own.
#[derive(Clone, Debug)]
pub(super) struct Copies {
    folder: Option<PathBuf>,
    pub(super) disks: Vec<Copied>,
}

/// A disk that is copied.
#[derive(Clone, Debug)]
pub(super) struct Copied {
    volume: VolumeId,
    name: String,
    /// The file or device that it is copied to.
    pub(super) to: PathBuf,
}

/// Chooses the disks to copy, and checks that there is a place for each. Writes nothing.
///
/// # Errors
/// When there is no such disk, one file would get several, or a file that would be made exists.
pub(super) fn choose(
    target: &Target,
    volumes: &[VolumeId],
    only: Option<&str>,
    path: &Path,
) -> Result<Copies> {
    let catalog = target.log.catalog();
    let mut chosen = Vec::new();
    for &volume in volumes {
        let disk = catalog.disk_of(volume)?;
        if only.is_none_or(|name| name == disk.name) {
            chosen.push((volume, disk.name.clone()));
        }
    }
    if let (Some(name), true) = (only, chosen.is_empty()) {
        return Err(bygone_store::Error::NoDisk(name.to_owned()).into());
    }
    let folder = is_folder(path).then(|| path.to_owned());
    if chosen.len() > 1 && folder.is_none() {
        let disks = chosen.into_iter().map(|(_, name)| name).collect();
        return Err(Usage::NoFolder { path: path.to_owned(), target: target.name.clone(), disks }.into());
    }
    let copied = |(volume, name): (VolumeId, String)| {
        let to = folder.as_ref().map_or_else(|| path.to_owned(), |folder| in_folder(folder, &name));
        Copied { volume, name, to }
    };
    let disks: Vec<Copied> = chosen.into_iter().map(copied).collect();
    disks.iter().try_for_each(|disk| check_place(&disk.to).map(drop))?;
    Ok(Copies { folder, disks })
}

/// Copies the disks of a moment to files or devices: all of them or none. Makes their folder, if they have one.
///
/// # Errors
/// When one cannot be written or its extents cannot be read, or the caller no longer waits. Damaged ranges are no
/// error: they are reported as unreadable.
pub(super) fn copy_out(
    target: &Arc<Target>,
    seq: Seq,
    Copies { folder, disks }: &Copies,
    answers: &mut dyn Answers,
) -> Result<Vec<RestoredDisk>> {
    let mut done: Vec<RestoredDisk> = Vec::new();
    let Some(folder) = folder else {
        return copy_disks(target, seq, disks, &mut done, answers).map(|()| done);
    };
    let new_folders: Vec<&Path> = folder.ancestors().take_while(|folder| !is_there(folder)).collect();
    let made = fs::create_dir_all(folder).map_err(|e| Error::file("making", folder, e));
    if let Err(e) = made.and_then(|()| copy_disks(target, seq, disks, &mut done, answers)) {
        // A part of a machine's disks would look like all of them.
        done.iter().for_each(|disk| remove_made(&disk.to));
        for folder in new_folders {
            let _ = fs::remove_dir(folder);
        }
        return Err(e);
    }
    Ok(done)
}

/// Removes a file to which a disk was restored. A device, or a link to one, was there before.
fn remove_made(to: &Path) {
    if fs::symlink_metadata(to).is_ok_and(|to| to.is_file()) {
        let _ = fs::remove_file(to);
    }
}

fn is_there(path: &Path) -> bool {
    // The empty path, which a relative one begins with, is the current folder.
    path.as_os_str().is_empty() || fs::symlink_metadata(path).is_ok()
}

fn copy_disks(
    target: &Arc<Target>,
    seq: Seq,
    chosen: &[Copied],
    done: &mut Vec<RestoredDisk>,
    answers: &mut dyn Answers,
) -> Result<()> {
    for Copied { volume, name, to } in chosen {
        let device = target.as_of(*volume, seq)?;
        // Before the file has its name: a failure leaves none.
        let uncertain = device.uncertain_bytes(&mut || answers.wanted())?;
        let doing = format!("restoring {name}");
        let mut unread = Unread::default();
        let written = copy_to_file(&device, to, &mut unread, &mut |done, total| {
            answers.progress(Progress { doing: doing.clone(), done_bytes: done, total_bytes: total })
        })?;
        let size_bytes = device.geometry().size_bytes;
        done.push(RestoredDisk {
            id: name.clone(),
            to: to.clone(),
            size_bytes,
            written_bytes: written,
            unreadable: unread.ranges().iter().map(unreadable).collect(),
            uncertain_bytes: uncertain,
        });
    }
    Ok(())
}

fn unreadable(range: &Range<u64>) -> Unreadable {
    Unreadable { first_byte: range.start, len_bytes: range.end - range.start }
}

/// Whether there is a block device at this path; otherwise it must be free, so that nothing is overwritten.
fn check_place(to: &Path) -> Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    match fs::metadata(to) {
        Ok(meta) if meta.file_type().is_block_device() => Ok(true),
        Ok(meta) if meta.is_dir() => Err(Error::file("writing", to, std::io::ErrorKind::IsADirectory.into())),
        _ if fs::symlink_metadata(to).is_ok() => {
            Err(Error::file("making", to, std::io::ErrorKind::AlreadyExists.into()))
        }
        _ => Ok(false),
    }
}

/// Writes a device to a new, sparse raw file or to a block device; returns the number of bytes written. A file gets its
/// name only once it is complete, so that even a killed process leaves no partial file under that name.
fn copy_to_file(
    device: &dyn BlockDevice,
    to: &Path,
    unread: &mut Unread,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<u64> {
    let size = device.geometry().size_bytes;
    if check_place(to)? {
        return copy_to(device, to, true, unread, progress);
    }
    let part = part_of(to);
    let failed = |doing| move |e| Error::file(doing, to, e);
    make_part(&part, size).map_err(failed("making"))?;
    let copied = copy_to(device, &part, false, unread, progress);
    let named = copied.and_then(|written| {
        rename_to_free(&part, to).map_err(failed("making"))?;
        Ok(written)
    });
    let written = named.inspect_err(|_| {
        // A partial file is worse than none.
        let _ = fs::remove_file(&part);
    })?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_dir(folder).inspect_err(|_| {
        // The name was free, so what has it is this file.
        let _ = fs::remove_file(to);
    })?;
    Ok(written)
}

/// Creates the file for a restored disk; replaces the leftover of a killed restore.
fn make_part(part: &Path, size: u64) -> std::io::Result<()> {
    let file = match fs::File::create_new(part) {
        // A link is none.
        Err(e)
            if e.kind() == std::io::ErrorKind::AlreadyExists
                && fs::symlink_metadata(part).is_ok_and(|left| left.is_file()) =>
        {
            let left = fs::File::options().read(true).write(true).open(part)?;
            // Locked if another restore is writing it.
            bygone_sys::ImageLock::take_exclusive(&left).map_err(|_| e)?;
            fs::remove_file(part)?;
            fs::File::create_new(part)?
        }
        made => made?,
    };
    file.set_len(size).inspect_err(|_| {
        let _ = fs::remove_file(part);
    })
}

/// Copies a device to a raw file of zeroes, or over a block device; returns the number of bytes written.
fn copy_to(
    device: &dyn BlockDevice,
    to: &Path,
    is_device: bool,
    unread: &mut Unread,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<u64> {
    let size = device.geometry().size_bytes;
    let (found, raw, _lock) = crate::outside::open(to)?;
    if found < size {
        let wanted = format!("{size} are needed");
        return Err(Error::DiskSize { path: to.to_owned(), found, wanted });
    }
    let io = |e| Error::file("writing", to, e);
    let mut written = 0;
    let mut piece = vec![0; PIECE_BYTES as usize];
    let mut take = |Piece { at, len_bytes, zero }: Piece| -> Result<Took> {
        if zero {
            if is_device {
                raw.punch(at, len_bytes).map_err(io)?;
            }
            return Ok(Took::All);
        }
        let piece = &mut piece[..len_bytes as usize];
        unread.read(device, at, piece)?;
        let mut write = |range: Range<usize>| {
            written += range.len() as u64;
            let place = at + range.start as u64;
            raw.file().write_uncached_at(&mut [IoSlice::new(&piece[range])], place).map_err(io)
        };
        if is_device {
            write(0..piece.len())?;
        } else {
            // A new file holds zeroes already.
            differing(piece, None, HOLE_BYTES).try_for_each(write)?;
        }
        Ok(Took::All)
    };
    let walk = Walk { size_bytes: size, piece_bytes: PIECE_BYTES };
    let mut extents = |at, len, each: &mut dyn FnMut(Extent) -> bool| Ok(device.extents(at, len, each)?);
    if walk.go(&mut extents, &mut take, progress)? == End::GivenUp {
        return Err(Error::Abandoned);
    }
    raw.file().sync().map_err(|e| Error::file("syncing", to, e))?;
    progress(size, size);
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_a_device_that_was_restored_to_is_the_user_s() {
        let dir = tempfile::tempdir().unwrap();
        let (made, link) = (dir.path().join("vda.raw"), dir.path().join("vdb.raw"));
        fs::write(&made, "restored").unwrap();
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for to in [&made, &link] {
            remove_made(to);
        }
        assert!(!made.exists());
        assert!(fs::symlink_metadata(link).is_ok_and(|link| link.is_symlink()));
    }
}

//! Bringing a moment back: to a file or device, to the target itself, or to the disk outside the store that is to show
//! another branch from now on.

mod branches;
mod damage;
mod outside;

use std::{
    fs,
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
};

use bygone_block::{BlockDevice, Extent, OsDisk, RawDisk};
use bygone_model::{BranchId, Event, Kind, Place, Seq, VolumeId};
use bygone_store::catalog::Catalog;

use crate::{
    api::{Answers, Progress, Restored, RestoredDisk, call::RestoreTo},
    error::{Error, Result, Usage},
    lifecycle::{Change, Request},
    target::Target,
    timeline,
};

use self::damage::Unread;
pub(crate) use self::{
    branches::{check_unused, drop_branch, promote, undo},
    outside::{Prepared, fill, fill_unasked},
};

/// Devices are copied in pieces of this size.
const PIECE_BYTES: u64 = 4 << 20;
/// Extents are asked for over this much at a time, so that the list of them stays short and giving up is noticed soon.
const EXTENTS_BYTES: u64 = 64 << 20;
/// What the name of a file ends in that is being restored and not whole yet.
const PART: &str = ".bygone-part";

/// Restores a moment of a target.
///
/// # Errors
/// When the moment does not exist, the destination cannot be written, or the target runs and is to be restored itself.
pub(crate) fn restore(
    target: &Arc<Target>,
    at: &str,
    only: Option<&str>,
    to: &RestoreTo,
    discard_later: bool,
    now: &jiff::Zoned,
    answers: &mut dyn Answers,
) -> Result<Restored> {
    let found = target.moment(at, now)?;
    let moment = found.info(&target.log.catalog());
    match to {
        RestoreTo::Path(path) => {
            if discard_later {
                return Err(Usage::DiscardInPlaceOnly.into());
            }
            let disks =
                copy_out(target, &target.volumes_at(found.place)?, found.place.seq, only, path, answers)?;
            Ok(Restored { moment, disks, branch: None })
        }
        RestoreTo::InPlace => {
            if only.is_some() {
                return Err(Usage::DisksTogether.into());
            }
            check_moment(target, found.place)?;
            let op = target.begin_change(Change::Restore, Request::Move)?;
            let name = branches::restore_in_place(&op, found.place, discard_later, answers)?;
            Ok(Restored { moment, disks: Vec::new(), branch: Some(name) })
        }
    }
}

fn copy_out(
    target: &Arc<Target>,
    volumes: &[VolumeId],
    seq: Seq,
    only: Option<&str>,
    path: &Path,
    answers: &mut dyn Answers,
) -> Result<Vec<RestoredDisk>> {
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
    let folder = path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if chosen.len() > 1 && !folder {
        let disks = chosen.into_iter().map(|(_, name)| name).collect();
        return Err(Usage::NoFolder { path: path.to_owned(), target: target.name.clone(), disks }.into());
    }
    let folder_is_new = folder && !path.exists();
    if folder {
        fs::create_dir_all(path).map_err(|e| Error::file("making", path, e))?;
    }
    let mut done: Vec<RestoredDisk> = Vec::new();
    let result = copy_disks(target, seq, &chosen, (path, folder), &mut done, answers);
    if let Err(e) = result {
        // Some disks of a machine look like all of them.
        for disk in done.iter().filter(|_| folder) {
            let _ = fs::remove_file(&disk.to);
        }
        if folder_is_new {
            let _ = fs::remove_dir(path);
        }
        return Err(e);
    }
    Ok(done)
}

fn copy_disks(
    target: &Arc<Target>,
    seq: Seq,
    chosen: &[(VolumeId, String)],
    (path, is_folder): (&Path, bool),
    done: &mut Vec<RestoredDisk>,
    answers: &mut dyn Answers,
) -> Result<()> {
    for &(volume, ref name) in chosen {
        let device = target.as_of(volume, seq)?;
        let to = if is_folder { path.join(format!("{name}.raw")) } else { path.to_owned() };
        let doing = format!("restoring {name}");
        let mut unread = Unread::default();
        let written = copy_to_file(&device, &to, &mut unread, &mut |done, total| {
            answers.progress(Progress { doing: doing.clone(), done_bytes: done, total_bytes: total })
        })?;
        let size_bytes = device.geometry().size_bytes;
        done.push(RestoredDisk {
            id: name.clone(),
            to,
            size_bytes,
            written_bytes: written,
            unreadable: unread.ranges(),
        });
    }
    Ok(())
}

/// Writes a device to a raw file (made anew, sparse) or a block device; returns how many bytes were data. A file has its
/// name only once it is whole, so that not even a kill leaves half of one that looks like all of it.
fn copy_to_file(
    device: &dyn BlockDevice,
    to: &Path,
    unread: &mut Unread,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<u64> {
    let size = device.geometry().size_bytes;
    let exists = fs::metadata(to).ok();
    let is_device = exists.as_ref().is_some_and(|meta| {
        use std::os::unix::fs::FileTypeExt;
        meta.file_type().is_block_device()
    });
    if exists.is_some_and(|meta| meta.is_dir()) {
        return Err(Error::file("writing", to, std::io::ErrorKind::IsADirectory.into()));
    }
    if is_device {
        return copy_to(device, to, true, unread, progress);
    }
    // Never over somebody's data: `--to` names a new file.
    if fs::symlink_metadata(to).is_ok() {
        return Err(Error::file("making", to, std::io::ErrorKind::AlreadyExists.into()));
    }
    let mut part = to.as_os_str().to_owned();
    part.push(PART);
    let part = PathBuf::from(part);
    let failed = |doing| move |e| Error::file(doing, to, e);
    make_part(&part, size).map_err(failed("making"))?;
    let result = copy_to(device, &part, false, unread, progress).and_then(|written| {
        let (here, no_replace) = (rustix::fs::CWD, rustix::fs::RenameFlags::NOREPLACE);
        match rustix::fs::renameat_with(here, &part, here, to, no_replace) {
            // Not every file system can do this.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::rename(&part, to),
            renamed => renamed.map_err(std::io::Error::from),
        }
        .map_err(failed("making"))?;
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("making"))?;
        Ok(written)
    });
    if result.is_err() {
        // Half a restored disk is worse than none.
        let _ = fs::remove_file(&part);
    }
    result
}

/// Makes the file that is going to be a restored disk; what a killed restore left there is of no use to anybody.
fn make_part(part: &Path, size: u64) -> std::io::Result<()> {
    let file = match fs::File::create_new(part) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let left = fs::File::options().read(true).write(true).open(part)?;
            // Unless another restore is at it.
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
    let mut written = 0;
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        let part = EXTENTS_BYTES.min(size - at);
        extents.clear();
        device.extents(at, part, &mut |extent| {
            extents.push(extent);
            true
        })?;
        for extent in &extents {
            written +=
                copy_extent(device, &raw, at, extent, is_device, unread, &mut |done| progress(done, size))?;
            at += extent.len_bytes;
        }
    }
    raw.file().sync().map_err(|e| Error::file("syncing", to, e))?;
    progress(size, size);
    Ok(written)
}

fn copy_extent(
    device: &dyn BlockDevice,
    raw: &OsDisk,
    start: u64,
    extent: &Extent,
    over_old_data: bool,
    unread: &mut Unread,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<u64> {
    let io = |e| Error::file("writing", raw.path(), e);
    if extent.zero {
        if over_old_data {
            raw.punch(start, extent.len_bytes).map_err(io)?;
        }
        return Ok(0);
    }
    let mut done = 0;
    let mut buf = vec![0; PIECE_BYTES.min(extent.len_bytes) as usize];
    while done < extent.len_bytes {
        let len = PIECE_BYTES.min(extent.len_bytes - done) as usize;
        let at = start + done;
        unread.read(device, at, &mut buf[..len])?;
        raw.file().write_uncached_at(&mut [IoSlice::new(&buf[..len])], at).map_err(io)?;
        done += len as u64;
        if !progress(start + done) {
            return Err(Error::Abandoned);
        }
    }
    Ok(extent.len_bytes)
}

/// The target had disks at a moment, and all of their content then is known.
///
/// # Errors
/// When it had none, or something is missing.
pub(crate) fn check_moment(target: &Target, place: Place) -> Result<()> {
    if target.volumes_at(place)?.len() < target.log.catalog().disks.len() {
        return Err(Error::BeforeDisks { name: target.name.clone() });
    }
    Ok(())
}

/// A name for a branch that nobody ever had.
fn free_name(catalog: &Catalog, prefix: &str) -> String {
    (1..)
        .map(|n: u32| format!("{prefix}-{n}"))
        .find(|name| catalog.branches.iter().all(|b| b.name != *name))
        .unwrap_or_default()
}

/// Makes a branch that starts at a moment; gives it a name if it gets none. [`note_branch`] says so in the log.
///
/// # Errors
/// When the name is taken or the moment does not exist.
pub(crate) fn new_branch(
    target: &Target,
    place: Place,
    name: Option<&str>,
    prefix: &str,
) -> Result<BranchId> {
    let catalog = target.log.catalog();
    let name = match name {
        Some(name) => {
            crate::config::check_name(name)?;
            name.to_owned()
        }
        None => free_name(&catalog, prefix),
    };
    Ok(target.log.add_branch(&name, place.branch, place.seq)?)
}

/// Says in the log that a branch was made.
///
/// # Errors
/// When the log cannot be written.
pub(crate) fn note_branch(target: &Target, branch: BranchId) -> Result<()> {
    let catalog = target.log.catalog();
    let Some((branch, (_, at))) = catalog.branch(branch).and_then(|b| Some((b, b.parent?))) else {
        return Ok(());
    };
    let label = format!("branch {} starts at {}", branch.name, timeline::local(target.log.time_of(at)?));
    let event = Event::new(Kind::Branch, label).with("from_seq", at.0).with("made", branch.name.clone());
    target.log.event(branch.id, &event)?;
    target.log.flush()?;
    Ok(())
}

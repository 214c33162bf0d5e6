//! Bringing a moment back: to a file or device, to the target itself, or to the disk outside the store that is to show
//! another branch from now on.

use std::{
    fs,
    io::IoSlice,
    path::{Path, PathBuf},
    sync::Arc,
};

use bygone_block::{BlockDevice, Extent, OsDisk, RawDisk, Reading};
use bygone_model::{BranchId, Event, Kind, Lba, Seq, VolumeId};
use bygone_store::{
    Wait,
    catalog::{Catalog, Keeping, Shows, TapMark, Volume},
};

use crate::{
    api::{Answers, MomentInfo, Progress, RestoreTo, Restored, RestoredDisk},
    error::{Error, Result, Usage},
    history::LogHistory,
    machine::Machine,
    target::Target,
    timeline,
};

/// Devices are copied in pieces of this size.
const PIECE_BYTES: u64 = 4 << 20;
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
    answers: &mut dyn Answers,
) -> Result<Restored> {
    let catalog = target.log.catalog();
    let history = LogHistory::new(&target.log, catalog.head);
    let found = history.find(at, bygone_model::when::WholeDay::Refuse)?;
    let branch = match &found.branch {
        Some(name) => catalog.branch_named(name)?.id,
        None => catalog.head,
    };
    let moment = MomentInfo {
        seq: found.seq.0,
        time: timeline::rfc3339(found.time),
        kind: Kind::Point,
        label: found.how.clone(),
        grade: bygone_model::Grade::Crash,
        truth: bygone_model::Truth::Observed,
        branch: catalog.branch(branch).map_or("main", |b| &b.name).to_owned(),
        details: bygone_model::Details::new(),
    };
    match to {
        RestoreTo::Path(path) => {
            if discard_later {
                return Err(Usage::Impossible("--discard-later goes with --in-place").into());
            }
            let disks = copy_out(target, branch, found.seq, only, path, answers)?;
            Ok(Restored { moment, disks, branch: None })
        }
        RestoreTo::InPlace => {
            if only.is_some() {
                return Err(Usage::Impossible("--in-place restores all disks of a target together").into());
            }
            let name = in_place(target, branch, found.seq, discard_later, answers)?;
            Ok(Restored { moment, disks: Vec::new(), branch: Some(name) })
        }
    }
}

fn copy_out(
    target: &Arc<Target>,
    branch: BranchId,
    seq: Seq,
    only: Option<&str>,
    path: &Path,
    answers: &mut dyn Answers,
) -> Result<Vec<RestoredDisk>> {
    let catalog = target.log.catalog();
    let mut chosen = Vec::new();
    for volume in catalog.volumes_of(branch, Seq::MAX) {
        let disk = catalog.disk_of(volume.id)?;
        if only.is_none_or(|name| name == disk.name) {
            chosen.push((volume.id, disk.name.clone()));
        }
    }
    if let (Some(name), true) = (only, chosen.is_empty()) {
        return Err(bygone_store::Error::NoDisk(name.to_owned()).into());
    }
    let many = chosen.len() > 1;
    let folder_is_new = many && !path.exists();
    if many {
        fs::create_dir_all(path).map_err(|e| Error::file("making", path, e))?;
    }
    let mut done: Vec<RestoredDisk> = Vec::new();
    let result = copy_disks(target, seq, &chosen, path, &mut done, answers);
    if let Err(e) = result {
        // Some disks of a machine look like all of them.
        for disk in done.iter().filter(|_| many) {
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
    path: &Path,
    done: &mut Vec<RestoredDisk>,
    answers: &mut dyn Answers,
) -> Result<()> {
    let many = chosen.len() > 1;
    for &(volume, ref name) in chosen {
        let device = target.as_of(volume, seq)?;
        let to = if many { path.join(format!("{name}.raw")) } else { path.to_owned() };
        let doing = format!("restoring {name}");
        let written = copy_to_file(&device, &to, &mut |done, total| {
            answers.progress(Progress { doing: doing.clone(), done_bytes: done, total_bytes: total })
        })?;
        let size_bytes = device.geometry().size_bytes;
        done.push(RestoredDisk { id: name.clone(), to, size_bytes, written_bytes: written });
    }
    Ok(())
}

/// Writes a device to a raw file (made anew, sparse) or a block device; returns how many bytes were data. A file has its
/// name only once it is whole, so that not even a kill leaves half of one that looks like all of it.
fn copy_to_file(
    device: &dyn BlockDevice,
    to: &Path,
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
        return copy_to(device, to, true, progress);
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
    let result = copy_to(device, &part, false, progress).and_then(|written| {
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
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<u64> {
    let size = device.geometry().size_bytes;
    let (found, raw, _lock) = crate::target::open_disk(to)?;
    if found < size {
        let wanted = format!("{size} are needed");
        return Err(Error::DiskSize { path: to.to_owned(), found, wanted });
    }
    let mut written = 0;
    let mut extents = Vec::new();
    let mut at = 0;
    while at < size {
        // In parts, so that the list of extents stays short.
        let part = (1_u64 << 30).min(size - at);
        extents.clear();
        device.extents(at, part, &mut |extent| {
            extents.push(extent);
            true
        })?;
        for extent in &extents {
            written += copy_extent(device, &raw, at, extent, is_device, &mut |done| progress(done, size))?;
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
        device.read(at, &mut buf[..len], Reading::MayWait)?;
        raw.file().write_at(&mut [IoSlice::new(&buf[..len])], at).map_err(io)?;
        done += len as u64;
        if !progress(start + done) {
            return Err(Error::Abandoned);
        }
    }
    Ok(extent.len_bytes)
}

/// Makes the moment the present: a branch that starts there is promoted.
fn in_place(
    target: &Arc<Target>,
    branch: BranchId,
    seq: Seq,
    discard_later: bool,
    answers: &mut dyn Answers,
) -> Result<String> {
    if target.is_running() || Machine::is_left_running(target) {
        return Err(Error::TargetRunning(target.name.clone()));
    }
    let catalog = target.log.catalog();
    for volume in catalog.volumes_of(branch, Seq::MAX) {
        target.check_exact(volume.id, seq)?;
    }
    let name = new_branch(target, branch, seq, None, "restored")?;
    promote(target, &name, discard_later, answers)?;
    Ok(name)
}

/// Makes a branch that starts at a moment of the line of `branch`; gives it a name if it gets none.
///
/// # Errors
/// When the name is taken or the moment does not exist.
pub(crate) fn new_branch(
    target: &Target,
    branch: BranchId,
    seq: Seq,
    name: Option<&str>,
    prefix: &str,
) -> Result<String> {
    let catalog = target.log.catalog();
    let lineage = crate::history::Lineage::of(&catalog, branch);
    let (parent, at) = lineage.branch_at(&catalog, seq);
    let name = match name {
        Some(name) => {
            crate::config::check_name(name)?;
            name.to_owned()
        }
        None => (1..)
            .map(|n: u32| format!("{prefix}-{n}"))
            .find(|name| catalog.branches.iter().all(|b| b.name != *name))
            .unwrap_or_default(),
    };
    let id = target.log.add_branch(&name, parent, at)?;
    let label = format!("branch {name} starts at {}", timeline::local(target.log.time_of(at)?));
    target
        .log
        .event(id, &Event::new(Kind::Branch, label).with("from_seq", at.0).with("made", name.clone()))?;
    target.log.flush()?;
    Ok(name)
}

/// Makes a branch the present; disks outside the store are filled with it, at once if nothing runs, else in the background.
///
/// # Errors
/// When another branch runs, or something cannot be written.
pub(crate) fn promote(
    target: &Arc<Target>,
    name: &str,
    discard_later: bool,
    answers: &mut dyn Answers,
) -> Result<MomentInfo> {
    let catalog = target.log.catalog();
    let branch = catalog.branch_named(name)?.id;
    let running_on = crate::target::lock(&target.machine).as_ref().map(|m| m.branch);
    let unseen = running_on.is_none() && Machine::is_left_running(target);
    if unseen || running_on.is_some_and(|on| on != branch) {
        return Err(Error::TargetRunning(target.name.clone()));
    }
    for volume in catalog.volumes_of(branch, Seq::MAX) {
        let given_up = discard_later && shown_on(&catalog, volume.disk) == Some(catalog.head);
        if is_stale(&catalog, volume)? && is_unread(&catalog, volume.disk) && !given_up {
            return Err(Error::BaseIncomplete { disk: catalog.disk_of(volume.id)?.name.clone() });
        }
    }
    let before = catalog.branch(catalog.head).map_or("main", |b| &b.name).to_owned();
    if catalog.head != branch {
        target.log.promote_branch(name)?;
    }
    let mut event =
        Event::new(Kind::Branch, format!("branch {name} is the present now")).with("promoted", name);
    if discard_later && before != name {
        target.log.drop_branch(&before)?;
        event = event.with("discarded", before);
    }
    let done = target.log.event(branch, &event)?;
    target.log.flush()?;
    let catalog = target.log.catalog();
    for volume in catalog.volumes_of(branch, Seq::MAX) {
        let disk = catalog.disk_of(volume.id)?;
        if !is_stale(&catalog, volume)? {
            continue;
        }
        if running_on.is_some() {
            target.fill_in_background(volume.id);
            continue;
        }
        let doing = format!("filling {}", disk.name);
        fill_disk(target, volume.id, &mut |done_bytes, total_bytes| {
            answers.progress(Progress { doing: doing.clone(), done_bytes, total_bytes });
            true
        })?;
        // Opened once and closed, it is whole without Bygone.
        drop(target.lease(volume.id)?);
    }
    let moment = bygone_model::Moment { seq: done.last, time: done.time, branch: name.to_owned(), event };
    Ok(timeline::info(moment))
}

/// The disk outside the store has to be filled to show this volume.
fn is_stale(catalog: &Catalog, volume: &Volume) -> Result<bool> {
    let tapped = catalog.disk_of(volume.id)?.keeping == Keeping::Tap;
    Ok(tapped && catalog.shows.get(&volume.disk) != Some(&Shows::Volume(volume.id)))
}

/// The branch that the disk outside the store shows.
fn shown_on(catalog: &Catalog, disk: u32) -> Option<BranchId> {
    match catalog.shows.get(&disk) {
        Some(Shows::Volume(shown)) => catalog.volume(*shown).ok().map(|volume| volume.branch),
        _ => None,
    }
}

/// The disk outside the store has what nobody else has: it was never read completely. To fill it would lose that.
fn is_unread(catalog: &Catalog, disk: u32) -> bool {
    match catalog.shows.get(&disk) {
        None => true,
        Some(Shows::Filling(_)) => false,
        Some(Shows::Volume(shown)) => {
            let given_up =
                shown_on(catalog, disk).and_then(|branch| catalog.branch(branch)?.dropped).is_some();
            !given_up && !catalog.taps.get(&shown.0).is_some_and(|mark| mark.complete)
        }
    }
}

/// Makes the disk outside the store show `volume`, while the present is served from the store; the next opening of the
/// disk is a tap again. Only what differs is written.
///
/// # Errors
/// When the disk is in use or cannot be written, or the store not be read.
pub(crate) fn fill_disk(
    target: &Target,
    volume: VolumeId,
    keep_going: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<()> {
    let log = &target.log;
    let disk = log.catalog().disk_of(volume)?.clone();
    let (raw, _lock) = target.take_disk(&disk)?;
    let catalog = log.catalog();
    if is_unread(&catalog, catalog.volume(volume)?.disk) {
        return Err(Error::BaseIncomplete { disk: disk.name });
    }
    log.begin_fill(volume)?;
    let seq = log.flush()?;
    let view = log.view(volume, seq)?;
    let size = disk.sectors.bytes();
    let io = |e| Error::Disk { path: PathBuf::from(raw.path()), source: e };
    raw.forget_cached().map_err(io)?;
    let (mut now, mut wanted) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < size {
        if !keep_going(at, size) {
            return Ok(());
        }
        let len = PIECE_BYTES.min(size - at);
        let fragments = view.resolve(Lba::of_bytes(at), bygone_model::Sectors::of_bytes(len), Wait::Yes)?;
        if fragments.iter().all(|f| f.found.is_none_or(|(_, place)| place.is_zero())) {
            if raw.next_data(at).map_err(io)?.is_some_and(|data| data < at + len) {
                raw.punch(at, len).map_err(io)?;
            }
        } else {
            now.resize(len as usize, 0);
            wanted.resize(len as usize, 0);
            view.read(Lba::of_bytes(at), &mut wanted, Wait::Yes)?;
            bygone_store::env::read_exact_at(raw.file(), &mut now, at).map_err(io)?;
            const BLOCK: usize = 64 << 10;
            for (i, (old, new)) in now.chunks(BLOCK).zip(wanted.chunks(BLOCK)).enumerate() {
                if old != new {
                    let place = at + (i * BLOCK) as u64;
                    raw.file().write_at(&mut [IoSlice::new(new)], place).map_err(io)?;
                }
            }
        }
        at += len;
    }
    raw.sync().map_err(io)?;
    let complete = log.catalog().is_exact(volume, seq);
    let identity = raw.identity().map_err(io)?;
    // Nobody writes to it until it is opened as a tap, so any change until then is one behind our back.
    log.mark_tap(volume, &TapMark { applied: seq, clean: true, complete, identity })?;
    keep_going(size, size);
    Ok(())
}

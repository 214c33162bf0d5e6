//! Making a branch the present, and the disks outside the store show it.

use std::{io::IoSlice, path::PathBuf, sync::Arc};

use bygone_block::RawDisk;
use bygone_model::{BranchId, Event, Kind, Lba, Seq, VolumeId};
use bygone_store::{
    Wait,
    catalog::{Catalog, Keeping, Shows, TapMark, Volume},
};

use super::PIECE_BYTES;
use crate::{
    api::{Answers, MomentInfo, Progress},
    error::{Error, Result},
    machine::Machine,
    target::Target,
    timeline,
};

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
    if catalog.head != branch && !discard_later {
        look_at_disks(target, &catalog);
    }
    let catalog = target.log.catalog();
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

/// Opens the disks outside the store that are going to be filled: if one was changed behind our back since it was last open,
/// it begins to be read again, and until that is done counts as unread.
fn look_at_disks(target: &Arc<Target>, catalog: &Catalog) {
    for volume in catalog.volumes_of(catalog.head, Seq::MAX) {
        if catalog.shows.get(&volume.disk) == Some(&Shows::Volume(volume.id))
            && let Err(error) = target.lease(volume.id)
        {
            // Then it cannot be filled either, and that will be said.
            tracing::debug!(target = target.name, %error, "a disk cannot be looked at");
        }
    }
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
            !catalog.is_given_up(*shown) && !catalog.taps.get(&shown.0).is_some_and(|mark| mark.complete)
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
    let number = log.catalog().volume(volume)?.disk;
    target.wait_until_let_go(number);
    let (raw, _lock) = target.take_disk(&disk)?;
    if is_unread(&log.catalog(), number) {
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

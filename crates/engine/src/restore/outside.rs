//! Fills disks outside the store with another branch.
//!
//! Invariant: from [`prepare`] until it is filled, such a disk is locked and no lease on it exists, and all of its
//! content that is not given up is in the store. Changes made to it without Bygone are recorded as a gap before they
//! are overwritten.

use std::{
    io::IoSlice,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bygone_block::{
    AsOfDevice, BlockDevice, Extent, OsDisk, RawDisk, Reading,
    walk::{End, Piece, Took, Walk, differing},
};
use bygone_model::{BranchId, Event, Kind, VolumeId};
use bygone_store::catalog::{Catalog, Shows, TapMark};
use bygone_sys::ImageLock;

use super::PIECE_BYTES;
use crate::{
    api::{Answers, Progress},
    error::{Error, Result},
    target::{Claim, Target},
};

/// How long our own threads and clients may take to release a disk.
const LET_GO_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Differences are written in blocks of this size.
const COMPARED_BYTES: usize = 64 << 10;

/// A disk outside the store that is locked for filling. See the module's comment.
pub(crate) struct Prepared {
    disk: u32,
    raw: OsDisk,
    // Dropped before the claim: a thread that waits for the claim opens the disk at once, and must not find it locked.
    _lock: ImageLock,
    claim: Claim,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Prepared({})", self.raw.path().display())
    }
}

impl Prepared {
    /// The number of the disk in the catalog.
    pub(crate) fn disk(&self) -> u32 {
        self.disk
    }
}

/// The caller that waits while a disk is prepared.
pub(crate) trait Patience {
    /// Reports that the disk is being read; returns false to stop.
    fn reading(&mut self, disk: &str, done_bytes: u64, total_bytes: u64) -> bool;
}

impl Patience for &mut dyn Answers {
    fn reading(&mut self, disk: &str, done_bytes: u64, total_bytes: u64) -> bool {
        let doing = format!("reading what was changed on {disk} without Bygone");
        self.progress(Progress { doing, done_bytes, total_bytes }) && self.wanted()
    }
}

/// Claims and locks the disk with the number `disk`, after all of its content was read into the store, except for
/// content of `given_up`, a branch that is about to be dropped, or of a branch given up before.
///
/// # Errors
/// When the disk is missing, in use, of another size, or cannot be read. Then nothing has changed, except for what was
/// read into the store.
pub(crate) fn prepare(
    target: &Arc<Target>,
    disk: u32,
    given_up: Option<BranchId>,
    patience: &mut dyn Patience,
) -> Result<Prepared> {
    let claim = target.claim(disk, LET_GO_MAX)?;
    prepare_claimed(target, disk, claim, given_up, patience)
}

fn prepare_claimed(
    target: &Arc<Target>,
    disk: u32,
    claim: Claim,
    given_up: Option<BranchId>,
    patience: &mut dyn Patience,
) -> Result<Prepared> {
    let catalog = target.log.catalog();
    let shown = shown_volume(&catalog, disk);
    let is_lost = |volume: VolumeId| {
        let branch = catalog.volume(volume).ok().map(|volume| volume.branch);
        catalog.is_given_up(volume) || (branch.is_some() && branch == given_up)
    };
    let entry =
        catalog.disks.get(disk as usize).ok_or_else(|| bygone_store::Error::NoDisk(disk.to_string()))?;
    let (raw, lock) = match shown {
        Some(volume) if !is_lost(volume) => read_and_close(target, volume, patience)?,
        shown => {
            if let Some(volume) = shown {
                target.wait_until_closed(volume, LET_GO_MAX)?;
            }
            let (raw, lock) = target.take_disk(entry)?;
            if let Some(volume) = shown {
                note_lost(target, volume, &entry.name, &raw)?;
            }
            (raw, lock)
        }
    };
    Ok(Prepared { disk, raw, _lock: lock, claim })
}

/// The volume that the disk outside the store shows, or would show if it had ever been opened; `None` while it is being
/// filled.
fn shown_volume(catalog: &Catalog, disk: u32) -> Option<VolumeId> {
    match catalog.shows.get(&disk) {
        Some(Shows::Volume(volume)) => Some(*volume),
        Some(Shows::Filling(_)) => None,
        None => catalog.volumes.iter().find(|v| v.disk == disk && v.parent.is_none()).map(|v| v.id),
    }
}

/// Opens the volume that the disk shows, waits until the store has all of it, and closes it while keeping the lock.
fn read_and_close(
    target: &Arc<Target>,
    volume: VolumeId,
    patience: &mut dyn Patience,
) -> Result<(OsDisk, ImageLock)> {
    // A lease that only reads the disk is released soon.
    let end = Instant::now() + LET_GO_MAX;
    let (name, lock) = loop {
        let lease = target.lease_shown(volume)?;
        let name = lease.disk_name();
        if target.is_tapped(volume) {
            wait_until_read(target, volume, &name, patience)?;
            while !target.is_only_use(volume) && Instant::now() < end {
                std::thread::sleep(LOOK_EVERY);
            }
            if let Some(lock) = lease.close() {
                break (name, lock);
            }
        } else {
            // It is open from the time when the store served it: that lease does not concern the disk.
            drop(lease);
        }
        if Instant::now() > end {
            return Err(Error::Served(target.name.clone()));
        }
        std::thread::sleep(LOOK_EVERY);
    };
    let mark = target.log.catalog().taps.get(&volume.0).cloned();
    if !mark.is_some_and(|mark| mark.clean && mark.complete) {
        return Err(Error::DiskBehind { disk: name });
    }
    let path = target.disk_path(&name);
    let raw = lock.file().and_then(|file| OsDisk::of_file(&path, file));
    Ok((raw.map_err(|source| Error::Disk { path, source })?, lock))
}

/// Waits until the store has all of an open disk.
fn wait_until_read(target: &Target, volume: VolumeId, name: &str, patience: &mut dyn Patience) -> Result<()> {
    loop {
        let (done, total, complete) = target.reading(volume);
        if complete {
            return Ok(());
        }
        if !patience.reading(name, done, total) {
            return Err(Error::Abandoned);
        }
        if !target.is_being_read(volume) && !target.reading(volume).2 {
            // The thread that read it stopped, and has logged why.
            return Err(Error::BaseIncomplete { disk: name.to_owned() });
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Records a gap if the disk, whose content is given up, holds changes that the store does not have.
fn note_lost(target: &Target, volume: VolumeId, disk: &str, raw: &OsDisk) -> Result<()> {
    let catalog = target.log.catalog();
    let io = |source| Error::Disk { path: PathBuf::from(raw.path()), source };
    let mark = catalog.taps.get(&volume.0);
    let known = match mark {
        Some(mark) => mark.complete && (!mark.clean || mark.identity == raw.identity().map_err(io)?),
        None => false,
    };
    if known {
        return Ok(());
    }
    let label = format!("disk {disk} holds what was never read; it is given up, and overwritten");
    let event = Event::new(Kind::Gap, label).with("disk", disk).with("phase", "given up");
    target.log.event(target.present(), &event)?;
    target.log.flush()?;
    Ok(())
}

/// Fills a prepared disk with `volume`, while the present is served from the store; the next opening of the disk is a
/// tap again. Only differences are written. Ends early when `keep_going` returns false or the claim is wanted: then it
/// returns false, and the disk is filled on its next use.
///
/// # Errors
/// When the disk cannot be written, or the store cannot be read.
pub(crate) fn fill(
    target: &Arc<Target>,
    volume: VolumeId,
    prepared: &Prepared,
    keep_going: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<bool> {
    let Prepared { raw, claim, .. } = prepared;
    let log = &target.log;
    let block_bytes = log.catalog().disk_of(volume)?.block_bytes;
    log.begin_fill(volume)?;
    let seq = log.flush()?;
    let view = AsOfDevice::new(log.clone(), log.view(volume, seq)?, block_bytes);
    let io = |e| Error::Disk { path: PathBuf::from(raw.path()), source: e };
    raw.forget_cached().map_err(io)?;
    let (mut now, mut wanted) = (vec![0; PIECE_BYTES as usize], vec![0; PIECE_BYTES as usize]);
    let mut take = |Piece { at, len_bytes, zero }: Piece| -> Result<Took> {
        if zero {
            if raw.next_data(at).map_err(io)?.is_some_and(|data| data < at + len_bytes) {
                raw.punch(at, len_bytes).map_err(io)?;
            }
            return Ok(Took::All);
        }
        let (now, wanted) = (&mut now[..len_bytes as usize], &mut wanted[..len_bytes as usize]);
        view.read(at, wanted, Reading::MayWait)?;
        bygone_store::env::read_exact_at(raw.file(), now, at).map_err(io)?;
        for range in differing(wanted, Some(now), COMPARED_BYTES) {
            let place = at + range.start as u64;
            raw.file().write_at(&mut [IoSlice::new(&wanted[range])], place).map_err(io)?;
        }
        Ok(Took::All)
    };
    let size = view.geometry().size_bytes;
    let walk = Walk { size_bytes: size, piece_bytes: PIECE_BYTES };
    let mut extents = |at, len, each: &mut dyn FnMut(Extent) -> bool| Ok(view.extents(at, len, each)?);
    let end = walk
        .go(&mut extents, &mut take, &mut |done, size| !claim.is_wanted_back() && keep_going(done, size))?;
    if end == End::GivenUp {
        return Ok(false);
    }
    raw.sync().map_err(io)?;
    let complete = log.catalog().is_exact(volume, seq);
    let identity = raw.identity().map_err(io)?;
    let written_since = log.head_seq() > seq;
    // Bygone does not write to it until it is opened as a tap, so any change before is made by others.
    log.mark_tap(volume, &TapMark { applied: seq, clean: true, complete, identity })?;
    if written_since {
        // The writer may have released the disk by now, so its release does not bring the disk up to date.
        target.bring_up_to_date(volume);
    }
    keep_going(size, size);
    Ok(true)
}

/// Prepares a disk and fills it, for a present that is served from the store meanwhile. Does nothing if another thread
/// has claimed the disk, or it shows the volume already.
///
/// # Errors
/// As [`prepare`] and [`fill`].
pub(crate) fn fill_unasked(target: &Arc<Target>, volume: VolumeId) -> Result<()> {
    struct UntilClosing<'a>(&'a Target);
    impl Patience for UntilClosing<'_> {
        fn reading(&mut self, _: &str, _: u64, _: u64) -> bool {
            !self.0.is_closing()
        }
    }
    let disk = target.log.catalog().volume(volume)?.disk;
    if target.is_claimed(disk) {
        // Another thread fills it already.
        return Ok(());
    }
    let claim = target.claim(disk, LET_GO_MAX)?;
    // The previous holder of the claim may have filled it; then the leases from before may last as long as their
    // clients want, and are not waited for.
    let is_behind = || {
        let catalog = target.log.catalog();
        let shows = catalog.shows.get(&disk) == Some(&Shows::Volume(volume));
        catalog.volume(volume).is_ok_and(|volume| volume.branch == catalog.head) && !shows
    };
    if !is_behind() {
        return Ok(());
    }
    let prepared = prepare_claimed(target, disk, claim, None, &mut UntilClosing(target))?;
    if !is_behind() {
        return Ok(());
    }
    fill(target, volume, &prepared, &mut |_, _| !target.is_closing()).map(drop)
}

//! The use of disks: the first lease on a disk opens it, the last one closes it.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bygone_block::{
    BlockDevice, Change, Extent, Geometry, IoError, LogDevice, OsDisk, RawDisk, Reading, TapDevice, TapState,
    WhenFull, Writing,
};
use bygone_model::{BranchId, Place, Seq, VolumeId};
use bygone_store::catalog::{Catalog, Disk, Keeping, Shows, Volume};
use bygone_sys::ImageLock;

use super::{Target, lock};
use crate::{
    api::Answers,
    error::{Error, Result, or_panicked},
    lifecycle::Request,
    outside,
};

/// How long a lease waits for a claim that is about to take the disk away from its volume.
const UNCLAIMED_MAX: Duration = Duration::from_secs(30);

/// The purpose of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// A running machine, for its whole life.
    Machine,
    /// A connection of the machine.
    Guest,
    /// Another client that may write.
    Client,
    /// Reading the disk, filling it or bringing it up to date.
    Upkeep,
}

/// A disk that is open, opening or closing. Opening and closing take long, so they are done without the map's lock, and
/// other leases wait meanwhile.
pub(super) enum Live {
    Opening,
    Open {
        uses: Uses,
        kind: LiveKind,
    },
    /// Its tap, for `status`.
    Closing(Option<Arc<TapDevice>>),
}

/// The number of leases on a disk, by [`Use`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uses([usize; 4]);

impl Uses {
    fn of(self, used: Use) -> usize {
        self.0[used as usize]
    }

    fn all(self) -> usize {
        self.0.iter().sum()
    }
}

impl Live {
    pub(super) fn tap(&self) -> Option<&Arc<TapDevice>> {
        match self {
            Live::Open { kind: LiveKind::Tap { tap, .. }, .. } | Live::Closing(Some(tap)) => Some(tap),
            _ => None,
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        match self {
            Live::Open { kind, .. } => kind.is_paused(),
            Live::Opening | Live::Closing(_) => false,
        }
    }
}

pub(super) enum LiveKind {
    Tap { tap: Arc<TapDevice>, destager: Option<JoinHandle<()>>, lock: ImageLock },
    Log(Arc<LogDevice>),
}

impl LiveKind {
    pub(super) fn is_paused(&self) -> bool {
        match self {
            LiveKind::Tap { tap, .. } => tap.is_paused(),
            LiveKind::Log(device) => device.is_paused(),
        }
    }

    fn device(&self) -> Arc<dyn BlockDevice> {
        match self {
            LiveKind::Tap { tap, .. } => tap.clone(),
            LiveKind::Log(device) => device.clone(),
        }
    }
}

/// The right to use a disk, with its device.
pub(crate) struct Lease {
    // Dropped before the right: once that is released the disk may be opened anew, and a device dropped later would
    // take the new device's head map with it.
    pub(super) device: Arc<dyn BlockDevice>,
    pub(super) right: Right,
}

/// Releases one use of a disk when it is dropped.
pub(super) struct Right {
    pub(super) target: Arc<Target>,
    pub(super) volume: VolumeId,
    pub(super) used: Use,
    given_back: bool,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({}, volume {})", self.right.target.name, self.right.volume)
    }
}

impl Lease {
    /// Releases it. If it was the last lease on a tapped disk, returns the lock of the disk outside the store.
    pub(crate) fn close(self) -> Option<ImageLock> {
        let Lease { device, right } = self;
        drop(device);
        let mut right = right;
        right.given_back = true;
        right.target.give_back(right.volume, right.used, true)
    }

    #[must_use]
    pub(crate) fn disk_name(&self) -> String {
        self.right
            .target
            .log
            .catalog()
            .disk_of(self.right.volume)
            .map_or_else(|_| "?".to_owned(), |disk| disk.name.clone())
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        if !self.given_back {
            self.target.give_back(self.volume, self.used, false);
        }
    }
}

impl BlockDevice for Lease {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }
    fn read(&self, offset: u64, buf: &mut [u8], reading: Reading) -> std::result::Result<(), IoError> {
        self.device.read(offset, buf, reading)
    }
    fn write(&self, writings: &[Writing<'_>]) -> std::result::Result<(), IoError> {
        self.device.write(writings)?;
        let data = writings.iter().map(|writing| match writing.change {
            Change::Data(data) => data.len() as u64,
            _ => 0,
        });
        self.right.target.note_written(data.sum(), self.right.used);
        Ok(())
    }
    fn flush(&self) -> std::result::Result<(), IoError> {
        self.device.flush()
    }
    fn extents(
        &self,
        offset: u64,
        len_bytes: u64,
        each: &mut dyn FnMut(Extent) -> bool,
    ) -> std::result::Result<(), IoError> {
        self.device.extents(offset, len_bytes, each)
    }
    fn prefetch(&self, offset: u64, len_bytes: u64) {
        self.device.prefetch(offset, len_bytes);
    }
}

/// What to start after a disk was opened.
pub(super) enum Then {
    Nothing,
    Read(TapState),
    Fill,
}

impl Target {
    /// Opens the disk of `volume`, or shares the open one.
    ///
    /// # Errors
    /// When the disk outside the store is missing, in use or of another size, or the store cannot be read.
    pub(crate) fn lease(self: &Arc<Self>, volume: VolumeId, used: Use) -> Result<Lease> {
        // A machine that was left running knows its branch. For others a disk outside the store that was changed since
        // would be read onto the wrong one.
        if matches!(used, Use::Client | Use::Upkeep) {
            self.check_present()?;
        }
        self.lease_by(volume, used, true, |target| target.open_volume(volume))
    }

    /// Opens a disk for a client other than the target's machine, which may write; with `present`, only if `volume` is
    /// one of the present.
    ///
    /// # Errors
    /// As [`Target::lease`]; when the target's state forbids serving its disks, [`Error::Moved`] when the present has
    /// moved, or the branch was dropped.
    pub(crate) fn serve(self: &Arc<Self>, volume: VolumeId, present: bool) -> Result<Lease> {
        // Opened before the check: then either this sees a change that has begun, or that change sees the open disk.
        let lease = self.lease(volume, Use::Client)?;
        self.check(Request::Serve)?;
        let catalog = self.log.catalog();
        let branch = catalog.volume(volume)?.branch;
        if present && branch != catalog.head {
            return Err(Error::Moved(self.name.clone()));
        }
        // The branch may have been dropped since it was looked up, and a dropped branch takes no writes.
        catalog.live_branch(branch)?;
        Ok(lease)
    }

    /// Opens the tap of the volume that a disk outside the store shows, even if its branch is not the present.
    ///
    /// # Errors
    /// As [`Target::lease`].
    pub(crate) fn lease_shown(self: &Arc<Self>, volume: VolumeId) -> Result<Lease> {
        self.lease_by(volume, Use::Upkeep, false, |target| {
            let disk = target.log.catalog().disk_of(volume)?.clone();
            target.open_tap(volume, &disk)
        })
    }

    pub(super) fn lease_by(
        self: &Arc<Self>,
        volume: VolumeId,
        used: Use,
        waits: bool,
        open: impl FnOnce(&Target) -> Result<(LiveKind, Then)>,
    ) -> Result<Lease> {
        let end = Instant::now() + UNCLAIMED_MAX;
        let mut live = lock(&self.live);
        loop {
            match live.get_mut(&volume) {
                Some(Live::Open { uses, kind }) => {
                    uses.0[used as usize] += 1;
                    let device = kind.device();
                    drop(live);
                    return Ok(self.lease_of(device, volume, used));
                }
                Some(Live::Opening | Live::Closing(_)) => {
                    live = self.live_changed.wait(live).unwrap_or_else(std::sync::PoisonError::into_inner);
                }
                // A claimed disk is opened after it was filled. Waited for before the disk counts as opening, because
                // the holder of the claim may have to open it first.
                None if waits && self.is_kept(volume) && Instant::now() < end => {
                    drop(live);
                    std::thread::sleep(Duration::from_millis(1));
                    live = lock(&self.live);
                }
                None => break,
            }
        }
        // Whoever still holds a removed target locks no disk, which may be another target's by now.
        if self.is_gone() {
            return Err(Error::NoTarget(self.name.clone()));
        }
        live.insert(volume, Live::Opening);
        drop(live);
        // A panic must not leave those waiting who want it opened too: they try it themselves.
        let opened = or_panicked("opening the disk", || open(self));
        let mut live = lock(&self.live);
        let opened = opened.map(|(kind, then)| {
            let mut uses = Uses::default();
            uses.0[used as usize] = 1;
            let device = kind.device();
            live.insert(volume, Live::Open { uses, kind });
            (device, then)
        });
        if opened.is_err() {
            live.remove(&volume);
        }
        drop(live);
        self.live_changed.notify_all();
        let (device, then) = opened?;
        let lease = self.lease_of(device, volume, used);
        match then {
            Then::Nothing => {}
            Then::Read(state) => self.read_in_background(volume, state)?,
            Then::Fill => self.fill_in_background(volume),
        }
        Ok(lease)
    }

    fn lease_of(self: &Arc<Self>, device: Arc<dyn BlockDevice>, volume: VolumeId, used: Use) -> Lease {
        Lease { device, right: Right { target: self.clone(), volume, used, given_back: false } }
    }

    /// A further lease on a tapped disk that is open, with its tap.
    pub(super) fn lease_tap(self: &Arc<Self>, volume: VolumeId) -> Option<(Lease, Arc<TapDevice>)> {
        let mut live = lock(&self.live);
        match live.get_mut(&volume) {
            Some(Live::Open { uses, kind: LiveKind::Tap { tap, .. } }) => {
                uses.0[Use::Upkeep as usize] += 1;
                let tap = tap.clone();
                Some((self.lease_of(tap.clone(), volume, Use::Upkeep), tap))
            }
            _ => None,
        }
    }

    /// Whether exactly one lease on a disk exists.
    pub(crate) fn is_only_use(&self, volume: VolumeId) -> bool {
        matches!(lock(&self.live).get(&volume), Some(Live::Open { uses, .. }) if uses.all() == 1)
    }

    /// Whether a client other than its machine has one of its disks open, of whichever branch.
    pub(crate) fn is_served(&self) -> bool {
        let open = |open: &Live| matches!(open, Live::Open { uses, .. } if uses.of(Use::Client) > 0);
        lock(&self.live).values().any(open)
    }

    /// Whether a disk of this branch is open for this use.
    pub(crate) fn is_used(&self, branch: BranchId, used: Use) -> bool {
        let catalog = self.log.catalog();
        let live = lock(&self.live);
        live.iter().any(|(volume, open)| match open {
            Live::Open { uses, .. } => {
                uses.of(used) > 0 && catalog.volume(*volume).is_ok_and(|volume| volume.branch == branch)
            }
            _ => false,
        })
    }

    /// Whether the disk outside the store is open as a tap, or is being filled.
    pub(crate) fn has_open(&self, disk: &str) -> bool {
        let catalog = self.log.catalog();
        let Some(number) = catalog.disks.iter().position(|known| known.name == disk) else { return false };
        let is_tap = |(volume, open): (&VolumeId, &Live)| {
            open.tap().is_some() && catalog.volume(*volume).is_ok_and(|v| v.disk as usize == number)
        };
        let open = lock(&self.live).iter().any(is_tap);
        open || u32::try_from(number).is_ok_and(|number| self.is_claimed(number))
    }

    fn open_volume(&self, volume: VolumeId) -> Result<(LiveKind, Then)> {
        let catalog = self.log.catalog();
        let entry = catalog.volume(volume)?.clone();
        let disk = catalog.disk_of(volume)?.clone();
        let shows = catalog.shows.get(&entry.disk);
        let outside = disk.keeping == Keeping::Tap && entry.branch == catalog.head;
        if outside && (shows == Some(&Shows::Volume(volume)) || (shows.is_none() && entry.parent.is_none())) {
            return self.open_tap(volume, &disk);
        }
        // Not checked for a store-only disk: while that is inexact, its first content is written through this lease.
        if disk.keeping == Keeping::Tap {
            self.check_exact(volume, self.log.head_seq())?;
        }
        let device = LogDevice::open(self.log.clone(), volume, WhenFull::Pause)?;
        Ok((LiveKind::Log(Arc::new(device)), if outside { Then::Fill } else { Then::Nothing }))
    }

    fn open_tap(&self, volume: VolumeId, disk: &Disk) -> Result<(LiveKind, Then)> {
        let (raw, image_lock) = self.take_disk(disk)?;
        self.open_tap_on(volume, Box::new(raw), image_lock)
    }

    pub(super) fn open_tap_on(
        &self,
        volume: VolumeId,
        raw: Box<dyn RawDisk>,
        image_lock: ImageLock,
    ) -> Result<(LiveKind, Then)> {
        let (tap, state) = TapDevice::open(self.log.clone(), volume, raw, WhenFull::Pause)?;
        let runner = tap.clone();
        let destager = std::thread::Builder::new()
            .name("destager".into())
            .spawn(move || runner.run_destager())
            .map_err(|e| Error::file("starting a thread for", &self.name, e))?;
        let then = if state == TapState::Known { Then::Nothing } else { Then::Read(state) };
        Ok((LiveKind::Tap { tap, destager: Some(destager), lock: image_lock }, then))
    }

    /// Opens and locks the disk outside the store.
    pub(crate) fn take_disk(&self, disk: &Disk) -> Result<(OsDisk, ImageLock)> {
        let path = self.disk_path(&disk.name);
        match outside::open(&path) {
            Ok((size, raw, image_lock)) => {
                self.check_size(disk, path, size)?;
                Ok((raw, image_lock))
            }
            Err(Error::DiskSize { found, path, wanted }) => {
                self.check_size(disk, path.clone(), found)?;
                Err(Error::DiskSize { found, path, wanted })
            }
            Err(Error::Disk { path, source }) => Err(self.disk_away(disk, path, source)),
            Err(error) => Err(error),
        }
    }

    fn check_size(&self, disk: &Disk, path: PathBuf, found: u64) -> Result<()> {
        let was = disk.sectors.bytes();
        if found == was {
            return Ok(());
        }
        if found == 0 && !path.is_file() {
            // A device's node can outlive the device.
            let nothing = io::Error::new(io::ErrorKind::NotFound, "no device is attached there");
            return Err(self.disk_away(disk, path, nothing));
        }
        Err(Error::DiskResized { path, found, was })
    }

    fn disk_away(&self, disk: &Disk, path: PathBuf, source: io::Error) -> Error {
        Error::DiskAway { target: self.name.clone(), disk: disk.name.clone(), path, source }
    }

    /// Whether the disk outside the store was changed by others since it was last closed, as far as its metadata shows:
    /// a block device has no modification time.
    pub(super) fn is_changed_outside(&self, catalog: &Catalog, volume: &Volume, disk: &Disk) -> bool {
        let path = self.disk_path(&disk.name);
        let mark = catalog.taps.get(&volume.id.0).filter(|mark| mark.clean && mark.complete);
        let shown = catalog.shows.get(&volume.disk).is_none_or(|shows| *shows == Shows::Volume(volume.id));
        let meta = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
        mark.zip(meta)
            .is_some_and(|(mark, meta)| shown && mark.identity != bygone_block::file_identity(&meta))
    }

    /// Notes for the newest moment of the present which tapped disks may have been changed while they were closed.
    pub(crate) fn say_unseen(&self, place: Place, answers: &mut dyn Answers) {
        let catalog = self.log.catalog();
        if place.seq < self.log.head_seq() || place.branch != catalog.head {
            return;
        }
        let closed = self.closed_taps(&catalog, &lock(&self.live));
        for (_, disk) in
            closed.iter().filter(|(volume, disk)| self.is_changed_outside(&catalog, volume, disk))
        {
            answers.note(format!(
                "disk {} may hold changes that Bygone has not seen; the newest moment is from before them",
                disk.name
            ));
        }
    }

    /// The tapped disks of the present that are not open.
    pub(super) fn closed_taps<'a>(
        &self,
        catalog: &'a Catalog,
        live: &HashMap<VolumeId, Live>,
    ) -> Vec<(&'a Volume, &'a Disk)> {
        let volumes = catalog.volumes_of(catalog.head, Seq::MAX);
        let closed = volumes.filter(|volume| !live.contains_key(&volume.id));
        let disks = closed.filter_map(|volume| Some((volume, catalog.disk_of(volume.id).ok()?)));
        disks.filter(|(_, disk)| disk.keeping == Keeping::Tap).collect()
    }

    /// Checks that the disk outside the store exists and has its size, without opening it.
    ///
    /// # Errors
    /// When it is missing, or its size has changed.
    pub(super) fn look_outside(&self, disk: &Disk) -> Result<()> {
        let path = self.disk_path(&disk.name);
        match outside::size_of(&path) {
            Ok(found) => self.check_size(disk, path, found),
            Err(source) => Err(self.disk_away(disk, path, source)),
        }
    }

    /// Releases one use of a disk, and closes the disk after the last one. With `keep_lock`, returns the lock of the
    /// disk outside the store, so that the caller can go on with it before anyone else.
    fn give_back(self: &Arc<Self>, volume: VolumeId, used: Use, keep_lock: bool) -> Option<ImageLock> {
        let mut live = lock(&self.live);
        match live.get_mut(&volume) {
            Some(Live::Open { uses, .. }) => {
                let count = &mut uses.0[used as usize];
                *count = count.saturating_sub(1);
                if uses.all() > 0 {
                    return None;
                }
            }
            _ => return None,
        }
        let Some(Live::Open { kind, .. }) = live.remove(&volume) else { return None };
        let tap = match &kind {
            LiveKind::Tap { tap, .. } => Some(tap.clone()),
            LiveKind::Log(_) => None,
        };
        let from_store = tap.is_none();
        live.insert(volume, Live::Closing(tap));
        drop(live);
        // A lock that is not kept is released before the disk can be opened again: that would find it locked.
        let kept = self.close(kind).filter(|_| keep_lock);
        if from_store && self.is_shown(volume) {
            // It became the present while it was open, and the disk outside was filled with its content as of then.
            // Started before the disk counts as closed, so that the target stays busy throughout.
            self.bring_up_to_date(volume);
        }
        // The entry's tap is dropped with the map locked: the next opening must find nothing of it.
        lock(&self.live).remove(&volume);
        self.live_changed.notify_all();
        kept
    }

    fn close(&self, kind: LiveKind) -> Option<ImageLock> {
        match kind {
            LiveKind::Tap { tap, destager, lock } => {
                // The disk is not closed for as long as this takes, and after a panic it would never be.
                if let Err(e) = or_panicked("closing the disk", || Ok(tap.close()?)) {
                    tracing::error!(target = self.name, error = %e, "the tapped disk could not be brought up to date; the log has everything and the next start goes on");
                }
                if let Some(thread) = destager {
                    let _ = thread.join();
                }
                Some(lock)
            }
            LiveKind::Log(device) => {
                let closed = or_panicked("closing the disk", || {
                    device.close();
                    Ok(device.flush()?)
                });
                if let Err(e) = closed {
                    tracing::error!(target = self.name, error = %e, "the log could not be flushed");
                }
                None
            }
        }
    }
}

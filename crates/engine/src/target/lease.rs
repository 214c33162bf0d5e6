//! Who has a disk open: the first opens it, the last closes it.

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
    error::{Error, Result},
    lifecycle::Request,
    outside,
};

/// How long whoever wants a disk waits for another who takes it away from what it shows.
const UNCLAIMED_MAX: Duration = Duration::from_secs(30);

/// What somebody has a disk open for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// A machine that runs, for as long as it does.
    Machine,
    /// The machine's own connections.
    Guest,
    /// Somebody else who may write to it.
    Client,
    /// Reading it, filling it, bringing it up to date.
    Upkeep,
}

/// A disk that is open, or on its way there or back. Opening and closing take long: they are done without the map's lock, and whoever
/// wants the disk meanwhile waits.
pub(super) enum Live {
    Opening,
    Open {
        uses: Uses,
        kind: LiveKind,
    },
    /// What is left of it, for those who ask how it is.
    Closing(Option<Arc<TapDevice>>),
}

/// How many use a disk, and for what.
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

/// The right to use a disk, and the disk.
pub(crate) struct Lease {
    // It goes before the right does: as soon as that is given back the disk may be opened anew, and a device of before that
    // went only then would take the new one's head map with it.
    pub(super) device: Arc<dyn BlockDevice>,
    pub(super) right: Right,
}

/// What is given back when it goes.
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
    /// Gives it back; if it was the last use of a tapped disk, the lock of the disk outside the store is the caller's.
    pub(crate) fn close(self) -> Option<ImageLock> {
        let Lease { device, right } = self;
        drop(device);
        let mut right = right;
        right.given_back = true;
        right.target.give_back(right.volume, right.used, true)
    }

    /// The disk's name.
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
        self.right.target.note_written(data.sum());
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

/// What follows the opening of a disk.
pub(super) enum Then {
    Nothing,
    Read(TapState),
    Fill,
}

impl Target {
    /// Opens the disk `volume`, or shares it with those who have it open.
    ///
    /// # Errors
    /// When the disk outside the store is missing, busy or of another size, or the store cannot be read.
    pub(crate) fn lease(self: &Arc<Self>, volume: VolumeId, used: Use) -> Result<Lease> {
        self.lease_by(volume, used, true, |target| target.open_volume(volume))
    }

    /// Opens a disk for somebody other than the target's machine who may write to it; `present` if it is to be that of the present.
    ///
    /// # Errors
    /// As [`Target::lease`]; when the target is in a state in which its disks are not served, or the branch was dropped.
    pub(crate) fn serve(self: &Arc<Self>, volume: VolumeId, present: bool) -> Result<Lease> {
        // Opened first and asked afterwards: whoever begins to change the target then sees that it is open, or is seen.
        let lease = self.lease(volume, Use::Client)?;
        self.check(Request::Serve)?;
        let catalog = self.log.catalog();
        let branch = catalog.volume(volume)?.branch;
        if present && branch != catalog.head {
            return Err(Error::Moved(self.name.clone()));
        }
        // It may have been dropped since it was looked up, and nobody writes to a branch that was.
        catalog.live_branch(branch)?;
        Ok(lease)
    }

    /// Opens the tap of the volume that a disk outside the store shows, whichever branch is the present.
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
                // What is being filled is opened once it has been. Nobody waits for that while the disk counts as being opened: whoever
                // is going to fill it may have to open it first.
                None if waits && self.is_kept(volume) && Instant::now() < end => {
                    drop(live);
                    std::thread::sleep(Duration::from_millis(1));
                    live = lock(&self.live);
                }
                None => break,
            }
        }
        live.insert(volume, Live::Opening);
        drop(live);
        let opened = open(self);
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

    /// One more use of a tapped disk that is open, with its tap.
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

    /// A disk has exactly one use.
    pub(crate) fn is_only_use(&self, volume: VolumeId) -> bool {
        matches!(lock(&self.live).get(&volume), Some(Live::Open { uses, .. }) if uses.all() == 1)
    }

    /// Somebody other than its machine has a disk of it open, of whichever branch.
    pub(crate) fn is_served(&self) -> bool {
        let open = |open: &Live| matches!(open, Live::Open { uses, .. } if uses.of(Use::Client) > 0);
        lock(&self.live).values().any(open)
    }

    /// A disk of this branch is open for this.
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

    fn open_volume(&self, volume: VolumeId) -> Result<(LiveKind, Then)> {
        let catalog = self.log.catalog();
        let entry = catalog.volume(volume)?.clone();
        let disk = catalog.disk_of(volume)?.clone();
        let shows = catalog.shows.get(&entry.disk);
        let outside = disk.keeping == Keeping::Tap && entry.branch == catalog.head;
        if outside && (shows == Some(&Shows::Volume(volume)) || (shows.is_none() && entry.parent.is_none())) {
            return self.open_tap(volume, &disk);
        }
        // A disk in the store that is not complete is just being filled through this lease.
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
        let path = self.config().disk(&disk.name).and_then(|d| d.path.clone()).unwrap_or_default();
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
            // The node of a device stays when the device goes.
            let nothing = io::Error::new(io::ErrorKind::NotFound, "no device is attached there");
            return Err(self.disk_away(disk, path, nothing));
        }
        Err(Error::DiskResized { path, found, was })
    }

    fn disk_away(&self, disk: &Disk, path: PathBuf, source: io::Error) -> Error {
        Error::DiskAway { target: self.name.clone(), disk: disk.name.clone(), path, source }
    }

    /// Whether the disk outside the store was written to by others since it was last closed, as far as that shows without opening it: a
    /// block device has no time of change.
    pub(super) fn is_changed_outside(&self, catalog: &Catalog, volume: &Volume, disk: &Disk) -> bool {
        let path = self.config().disk(&disk.name).and_then(|d| d.path.clone()).unwrap_or_default();
        let mark = catalog.taps.get(&volume.id.0).filter(|mark| mark.clean && mark.complete);
        let shown = catalog.shows.get(&volume.disk).is_none_or(|shows| *shows == Shows::Volume(volume.id));
        let meta = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file);
        mark.zip(meta)
            .is_some_and(|(mark, meta)| shown && mark.identity != bygone_block::file_identity(&meta))
    }

    /// Says of the newest moment of the present what it lacks: changes that were made to a tapped disk while nobody used it.
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

    /// The tapped disks of the present that nobody uses.
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

    /// Looks at the disk outside the store without opening it.
    ///
    /// # Errors
    /// When it is not there, or has not the size that it had.
    pub(super) fn look_outside(&self, disk: &Disk) -> Result<()> {
        let path = self.config().disk(&disk.name).and_then(|d| d.path.clone()).unwrap_or_default();
        match outside::size_of(&path) {
            Ok(found) => self.check_size(disk, path, found),
            Err(source) => Err(self.disk_away(disk, path, source)),
        }
    }

    /// Gives back one use of a disk. After the last one it is closed; with `keep_lock`, the lock of a disk outside the store is left to
    /// the caller, who may go on with it without anybody coming in between.
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
        // An unwanted lock goes before anybody may open the disk again: they would find it locked.
        let kept = self.close(kind).filter(|_| keep_lock);
        if from_store && self.is_shown(volume) {
            // It became the present while it was open, and the disk outside was filled with it as it was then. Begun before it counts
            // as closed, so that the target is busy all the time.
            self.bring_up_to_date(volume);
        }
        // What is left of the device goes with the lock held: whoever opens the disk next must find nothing of it.
        lock(&self.live).remove(&volume);
        self.live_changed.notify_all();
        kept
    }

    fn close(&self, kind: LiveKind) -> Option<ImageLock> {
        match kind {
            LiveKind::Tap { tap, destager, lock } => {
                if let Err(e) = tap.close() {
                    tracing::error!(target = self.name, error = %e, "the tapped disk could not be brought up to date; the log has everything and the next start goes on");
                }
                if let Some(thread) = destager {
                    let _ = thread.join();
                }
                Some(lock)
            }
            LiveKind::Log(device) => {
                device.close();
                if let Err(e) = device.flush() {
                    tracing::error!(target = self.name, error = %e, "the log could not be flushed");
                }
                None
            }
        }
    }
}

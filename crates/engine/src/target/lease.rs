//! Who has a disk open: the first opens it, the last closes it.

use std::{path::Path, sync::Arc, thread::JoinHandle};

use bygone_block::{
    BlockDevice, Extent, Geometry, IoError, LogDevice, OsDisk, Reading, TapDevice, TapState, WhenFull,
    Writing,
};
use bygone_model::VolumeId;
use bygone_store::catalog::{Disk, Keeping, Shows};
use bygone_sys::ImageLock;

use super::{Target, lock};
use crate::error::{Error, Result};

/// An open disk.
pub(super) struct Live {
    pub(super) leases: usize,
    pub(super) kind: LiveKind,
}

pub(super) enum LiveKind {
    Tap { tap: Arc<TapDevice>, destager: Option<JoinHandle<()>>, _lock: ImageLock },
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
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({}, volume {})", self.right.target.name, self.right.volume)
    }
}

impl Lease {
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
        self.target.give_back(self.volume);
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
        self.device.write(writings)
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
enum Then {
    Nothing,
    Read(TapState),
    Fill,
}

impl Target {
    /// Opens the disk `volume`, or shares it with those who have it open.
    ///
    /// # Errors
    /// When the disk outside the store is missing, busy or of another size, or the store cannot be read.
    pub(crate) fn lease(self: &Arc<Self>, volume: VolumeId) -> Result<Lease> {
        let mut live = lock(&self.live);
        let (device, then) = match live.get_mut(&volume) {
            Some(open) => {
                open.leases += 1;
                (open.kind.device(), Then::Nothing)
            }
            None => {
                let (kind, then) = self.open_volume(volume)?;
                let device = kind.device();
                live.insert(volume, Live { leases: 1, kind });
                (device, then)
            }
        };
        drop(live);
        let lease = Lease { device, right: Right { target: self.clone(), volume } };
        match then {
            Then::Nothing => {}
            Then::Read(state) => self.read_in_background(volume, state)?,
            Then::Fill => self.fill_in_background(volume),
        }
        Ok(lease)
    }

    fn open_volume(&self, volume: VolumeId) -> Result<(LiveKind, Then)> {
        let catalog = self.log.catalog();
        let entry = catalog.volume(volume)?.clone();
        let disk = catalog.disk_of(volume)?.clone();
        let shows = catalog.shows.get(&entry.disk);
        let outside = disk.keeping == Keeping::Tap && entry.branch == catalog.head;
        if outside && (shows == Some(&Shows::Volume(volume)) || (shows.is_none() && entry.parent.is_none())) {
            let (raw, image_lock) = self.take_disk(&disk)?;
            let (tap, state) = TapDevice::open(self.log.clone(), volume, Box::new(raw), WhenFull::Pause)?;
            let runner = tap.clone();
            let destager = std::thread::Builder::new()
                .name("destager".into())
                .spawn(move || runner.run_destager())
                .map_err(|e| Error::file("starting a thread for", &self.name, e))?;
            let then = if state == TapState::Known { Then::Nothing } else { Then::Read(state) };
            return Ok((LiveKind::Tap { tap, destager: Some(destager), _lock: image_lock }, then));
        }
        self.check_exact(volume, self.log.head_seq())?;
        let device = LogDevice::open(self.log.clone(), volume, WhenFull::Pause)?;
        Ok((LiveKind::Log(Arc::new(device)), if outside { Then::Fill } else { Then::Nothing }))
    }

    /// Opens and locks the disk outside the store.
    pub(crate) fn take_disk(&self, disk: &Disk) -> Result<(OsDisk, ImageLock)> {
        let path = self.config().disk(&disk.name).and_then(|d| d.path.clone()).unwrap_or_default();
        let (size, raw, image_lock) = open_disk(&path)?;
        if size != disk.sectors.bytes() {
            let wanted = format!("it had {} when it was added", disk.sectors.bytes());
            return Err(Error::DiskSize { path, found: size, wanted });
        }
        Ok((raw, image_lock))
    }

    fn give_back(&self, volume: VolumeId) {
        let mut live = lock(&self.live);
        let Some(open) = live.get_mut(&volume) else { return };
        open.leases -= 1;
        if open.leases > 0 {
            return;
        }
        // Closed under the lock, so that whoever opens it next finds it closed.
        match live.remove(&volume).map(|open| open.kind) {
            Some(LiveKind::Tap { tap, destager, _lock }) => {
                if let Err(e) = tap.close() {
                    tracing::error!(target = self.name, error = %e, "the tapped disk could not be brought up to date; the log has everything and the next start goes on");
                }
                if let Some(thread) = destager {
                    let _ = thread.join();
                }
            }
            Some(LiveKind::Log(device)) => {
                device.close();
                if let Err(e) = device.flush() {
                    tracing::error!(target = self.name, error = %e, "the log could not be flushed");
                }
            }
            None => {}
        }
    }
}

/// Opens and locks a disk outside the store; says its size.
///
/// # Errors
/// When it cannot be opened, is used by something else, or has no size that a disk can have.
pub(crate) fn open_disk(path: &Path) -> Result<(u64, OsDisk, ImageLock)> {
    let raw = OsDisk::open(path).map_err(|source| Error::Disk { path: path.to_owned(), source })?;
    let image_lock = ImageLock::take_exclusive(raw.os_file())
        .map_err(|source| Error::DiskLocked { path: path.to_owned(), source })?;
    let size = bygone_block::RawDisk::size_bytes(&raw);
    if size == 0 || size % 512 != 0 {
        let wanted = "a disk has a multiple of 512, and more than none".to_owned();
        return Err(Error::DiskSize { path: path.to_owned(), found: size, wanted });
    }
    Ok((size, raw, image_lock))
}

//! Threads that read disks into the store, fill them from it, or bring them up to date.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bygone_block::{BlockDevice, TapDevice, TapState};
use bygone_model::{Event, Kind, Seq, VolumeId};
use bygone_store::catalog::{Catalog, Keeping, Shows, TapMark, Volume};

use super::{Target, lease::Use, lock, status::people_bytes};
use crate::error::{Error, Result};

/// Counts a thread that reads or fills disks, for its lifetime.
struct Worker(Arc<Target>);

impl Worker {
    fn of(target: &Arc<Target>) -> Worker {
        target.workers.fetch_add(1, Ordering::AcqRel);
        Worker(target.clone())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.workers.fetch_sub(1, Ordering::AcqRel);
    }
}

fn warn_not_filled(target: &Target, error: &Error) {
    tracing::warn!(target = target.name, %error, "the disk outside the store could not be filled; its present stays in the store");
}

fn warn_behind(target: &Target, error: &Error) {
    tracing::warn!(target = target.name, %error, "its disk cannot be brought up to date now");
}

/// Whether the disk outside the store has to be filled to show this volume of the present.
pub(super) fn is_stale(catalog: &Catalog, volume: &Volume) -> bool {
    let tapped = catalog.disk_of(volume.id).is_ok_and(|disk| disk.keeping == Keeping::Tap);
    match catalog.shows.get(&volume.disk) {
        Some(shows) => tapped && *shows != Shows::Volume(volume.id),
        None => tapped && volume.parent.is_some(),
    }
}

/// Notes that a thread reads a tapped disk, for its lifetime.
struct ReadNow {
    target: Arc<Target>,
    volume: VolumeId,
}

impl ReadNow {
    fn of(target: &Arc<Target>, volume: VolumeId) -> ReadNow {
        lock(&target.read_now).insert(volume);
        ReadNow { target: target.clone(), volume }
    }
}

impl Drop for ReadNow {
    fn drop(&mut self) {
        lock(&self.target.read_now).remove(&self.volume);
    }
}

/// The exclusive right to fill a disk outside the store.
pub(crate) struct Claim {
    target: Arc<Target>,
    disk: u32,
    wanted_back: Arc<AtomicBool>,
}

impl Claim {
    /// Whether another thread wants the disk.
    pub(crate) fn is_wanted_back(&self) -> bool {
        self.wanted_back.load(Ordering::Acquire)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.target.claims).remove(&self.disk);
    }
}

impl Target {
    /// Reads a tapped disk into the store, in a thread of its own.
    pub(super) fn read_in_background(self: &Arc<Self>, volume: VolumeId, state: TapState) -> Result<()> {
        let Some((lease, tap)) = self.lease_tap(volume) else { return Ok(()) };
        let disk = self.log.catalog().disk_of(volume)?.name.clone();
        let (kind, begun) = match state {
            TapState::Changed { waiting_bytes_max } => {
                let over = match waiting_bytes_max {
                    0 => String::new(),
                    bytes => format!(
                        "; up to {} of the target's writes may not have reached it, and are written over what is there now",
                        people_bytes(bytes)
                    ),
                };
                (Kind::Gap, format!("disk {disk} was changed without Bygone; reading it again{over}"))
            }
            TapState::Lost => (Kind::Gap, format!("records of disk {disk} are lost; reading it again")),
            TapState::Unfinished => (Kind::Base, format!("going on with reading disk {disk}")),
            _ => (Kind::Base, format!("reading disk {disk}; history is complete once that is done")),
        };
        let event = Event::new(kind.clone(), begun).with("disk", disk.clone()).with("phase", "begin");
        self.log.event(self.present(), &event)?;
        self.log.flush()?;
        let reading = ReadNow::of(self, volume);
        self.in_background("base", move |target| {
            // The tap is dropped before the lease.
            let (_lease, tap) = (lease, tap);
            target.read_disk(&tap, reading, &disk, kind);
        })
    }

    /// Does `work` in a thread that [`Target::is_busy`] counts.
    pub(super) fn in_background(
        self: &Arc<Self>,
        name: &str,
        work: impl FnOnce(&Arc<Target>) + Send + 'static,
    ) -> Result<()> {
        let worker = Worker::of(self);
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || work(&worker.0))
            .map(drop)
            .map_err(|e| Error::file("starting a thread for", &self.name, e))
    }

    fn read_disk(&self, tap: &Arc<TapDevice>, reading: ReadNow, disk: &str, kind: Kind) {
        let wanted = || !self.is_closing() && !lock(&self.read_no_more).contains(&reading.volume);
        let read = tap.reread(&mut |_, _| wanted());
        drop(reading);
        match read {
            Ok(found) if tap.is_complete() => {
                let label = match kind {
                    Kind::Gap => format!(
                        "disk {disk} was read again: {} changed while Bygone was not watching",
                        people_bytes(found.changed_bytes)
                    ),
                    _ if self
                        .volumes_at(bygone_model::Place::new(self.present(), self.log.head_seq()))
                        .is_err() =>
                    {
                        format!("disk {disk} is complete, others are not yet")
                    }
                    _ => format!("disk {disk} is complete: every moment from here on can be brought back"),
                };
                let mut event = Event::new(kind, label)
                    .with("disk", disk)
                    .with("phase", "complete")
                    .with("changed_bytes", found.changed_bytes)
                    .with("read_bytes", found.compared_bytes);
                if let Some((first, end)) = found.changed_range {
                    event = event.with("changed_from_byte", first).with("changed_to_byte", end);
                }
                let noted = self.log.event(self.present(), &event).and_then(|_| self.log.flush());
                if let Err(e) = noted {
                    tracing::error!(target = self.name, error = %e, "the log cannot be written");
                }
            }
            Ok(_) => {}
            Err(e) => {
                tracing::error!(target = self.name, disk, error = %e, "the disk cannot be read into the store");
            }
        }
    }

    /// Of a tapped disk that is open: the bytes read so far, its size in bytes, and whether the store has all of it.
    pub(crate) fn reading(&self, volume: VolumeId) -> (u64, u64, bool) {
        let live = lock(&self.live);
        live.get(&volume)
            .and_then(super::lease::Live::tap)
            .map_or((0, 0, false), |tap| (tap.reread_bytes(), tap.geometry().size_bytes, tap.is_complete()))
    }

    /// Whether a disk is open as a tap.
    pub(crate) fn is_tapped(&self, volume: VolumeId) -> bool {
        lock(&self.live).get(&volume).is_some_and(|live| live.tap().is_some())
    }

    /// Whether a thread reads this disk.
    pub(crate) fn is_being_read(&self, volume: VolumeId) -> bool {
        lock(&self.read_now).contains(&volume)
    }

    /// Waits until a disk of a branch that is given up is closed; stops the thread that reads it.
    ///
    /// # Errors
    /// [`Error::Served`] when it is still open after `within`.
    pub(crate) fn wait_until_closed(&self, volume: VolumeId, within: Duration) -> Result<()> {
        lock(&self.read_no_more).insert(volume);
        let end = Instant::now() + within;
        let closed = loop {
            if !lock(&self.live).contains_key(&volume) {
                break true;
            }
            if Instant::now() > end {
                break false;
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        lock(&self.read_no_more).remove(&volume);
        if closed { Ok(()) } else { Err(Error::Served(self.name.clone())) }
    }

    /// Claims a disk outside the store for filling. The holder of an earlier claim is asked to release it.
    ///
    /// # Errors
    /// [`Error::Served`] when it is not free after `within`.
    pub(crate) fn claim(self: &Arc<Self>, disk: u32, within: Duration) -> Result<Claim> {
        let end = Instant::now() + within;
        let wanted_back = Arc::new(AtomicBool::new(false));
        loop {
            {
                let mut claims = lock(&self.claims);
                match claims.get(&disk) {
                    Some(holder) => holder.store(true, Ordering::Release),
                    None => {
                        claims.insert(disk, wanted_back.clone());
                        return Ok(Claim { target: self.clone(), disk, wanted_back });
                    }
                }
            }
            if Instant::now() > end {
                return Err(Error::Served(self.name.clone()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the disk outside the store is claimed while it still shows this or another volume. Once it is being
    /// filled it shows none, and is served from the store.
    pub(super) fn is_kept(&self, volume: VolumeId) -> bool {
        let catalog = self.log.catalog();
        let Ok(volume) = catalog.volume(volume) else { return false };
        self.is_claimed(volume.disk) && matches!(catalog.shows.get(&volume.disk), Some(Shows::Volume(_)))
    }

    /// Whether threads read or fill its disks.
    pub(crate) fn has_work(&self) -> bool {
        self.workers.load(Ordering::Acquire) > 0
    }

    /// Whether this disk is being filled, or is about to be.
    pub(crate) fn is_claimed(&self, disk: u32) -> bool {
        lock(&self.claims).contains_key(&disk)
    }

    /// Fills the disk outside the store with the present, in a thread of its own.
    pub(crate) fn fill_in_background(self: &Arc<Self>, volume: VolumeId) {
        let begun = self.in_background("fill", move |target| {
            if let Err(e) = crate::restore::fill_unasked(target, volume) {
                warn_not_filled(target, &e);
            }
        });
        if let Err(e) = begun {
            warn_not_filled(self, &e);
        }
    }

    /// As [`Target::fill_in_background`], with a disk that was prepared.
    pub(crate) fn fill_prepared(self: &Arc<Self>, volume: VolumeId, prepared: crate::restore::Prepared) {
        let begun = self.in_background("fill", move |target| {
            let filled = crate::restore::fill(target, volume, &prepared, &mut |_, _| !target.is_closing());
            if let Err(e) = filled {
                warn_not_filled(target, &e);
            }
        });
        if let Err(e) = begun {
            warn_not_filled(self, &e);
        }
    }

    /// Starts bringing those tapped disks of the present up to date that an earlier incarnation left behind, in a
    /// thread of its own.
    pub(crate) fn catch_up(self: &Arc<Self>) {
        let catalog = self.log.catalog();
        for volume in catalog.volumes_of(catalog.head, Seq::MAX).filter(|v| is_stale(&catalog, v)) {
            self.fill_in_background(volume.id);
        }
        let shown = |volume: &&Volume| {
            catalog.shows.get(&volume.disk).is_none_or(|shows| *shows == Shows::Volume(volume.id))
        };
        let read: Vec<(VolumeId, TapMark)> = catalog
            .volumes_of(catalog.head, Seq::MAX)
            .filter(shown)
            .filter_map(|volume| Some((volume.id, catalog.taps.get(&volume.id.0)?.clone())))
            .filter(|(_, mark)| mark.complete)
            .collect();
        if read.is_empty() {
            return;
        }
        let begun = self.in_background("catch up", move |target| {
            for (volume, mark) in read {
                // A branch that was promoted while its machine ran is written in the store, and its disk stays as of
                // its mark.
                match target.log.is_written_since(volume, mark.applied) {
                    Ok(written) if written || !mark.clean => target.carry(volume),
                    Ok(_) => {}
                    Err(e) => warn_behind(target, &e.into()),
                }
            }
        });
        if let Err(e) = begun {
            warn_behind(self, &e);
        }
    }

    /// Whether the disk outside the store shows this volume, and it is one of the present.
    pub(super) fn is_shown(&self, volume: VolumeId) -> bool {
        let catalog = self.log.catalog();
        catalog.volume(volume).is_ok_and(|found| {
            found.branch == catalog.head && catalog.shows.get(&found.disk) == Some(&Shows::Volume(volume))
        })
    }

    /// Brings the disk outside that shows this volume up to date with the store, in a thread of its own.
    pub(crate) fn bring_up_to_date(self: &Arc<Self>, volume: VolumeId) {
        if let Err(e) = self.in_background("catch up", move |target| target.carry(volume)) {
            warn_behind(self, &e);
        }
    }

    fn carry(self: &Arc<Self>, volume: VolumeId) {
        // Opening a tapped disk and closing it brings it up to date.
        if let Err(e) = self.lease(volume, Use::Upkeep) {
            warn_behind(self, &e);
        }
    }

    /// Starts reading the tapped disks of the present that were not read completely.
    ///
    /// # Errors
    /// When a disk cannot be opened.
    pub(crate) fn read_disks(self: &Arc<Self>) -> Result<()> {
        let catalog = self.log.catalog();
        for volume in catalog.volumes_of(catalog.head, Seq::MAX) {
            let tapped = catalog.disk_of(volume.id)?.keeping == Keeping::Tap;
            let complete = catalog.taps.get(&volume.id.0).is_some_and(|mark| mark.complete);
            if tapped && !complete && !is_stale(&catalog, volume) {
                drop(self.lease(volume.id, Use::Upkeep)?);
            }
        }
        Ok(())
    }
}

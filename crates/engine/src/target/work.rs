//! Threads that read disks into the store, fill them from it, or bring them up to date.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bygone_block::{TapDevice, TapState};
use bygone_model::{Event, Kind, Seq, VolumeId};
use bygone_store::catalog::Keeping;

use super::{
    Target,
    lease::{Lease, Live, LiveKind, Right},
    lock,
    status::people_bytes,
};
use crate::error::{Error, Result};

/// Counts a thread that reads or fills disks, for as long as it is there.
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

impl Target {
    /// Reads a tapped disk into the store, in a thread of its own.
    pub(super) fn read_in_background(self: &Arc<Self>, volume: VolumeId, state: TapState) -> Result<()> {
        let tap = match lock(&self.live).get_mut(&volume) {
            Some(Live { kind: LiveKind::Tap { tap, .. }, leases }) => {
                *leases += 1;
                tap.clone()
            }
            _ => return Ok(()),
        };
        let lease = Lease { device: tap.clone(), right: Right { target: self.clone(), volume } };
        let disk = self.log.catalog().disk_of(volume)?.name.clone();
        let (kind, begun) = match state {
            TapState::Changed => {
                (Kind::Gap, format!("disk {disk} was changed without Bygone; reading it again"))
            }
            TapState::Unfinished => (Kind::Base, format!("going on with reading disk {disk}")),
            _ => (Kind::Base, format!("reading disk {disk}; history is complete once that is done")),
        };
        let event = Event::new(kind.clone(), begun).with("disk", disk.clone()).with("phase", "begin");
        self.log.event(self.present(), &event)?;
        self.log.flush()?;
        self.in_background("base", move |target| {
            // The tap goes before the right to it does.
            let (_lease, tap) = (lease, tap);
            target.read_disk(&tap, volume, &disk, kind);
        })
    }

    /// Does something in a thread that [`Target::is_busy`] knows of.
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

    fn read_disk(&self, tap: &Arc<TapDevice>, volume: VolumeId, disk: &str, kind: Kind) {
        match tap.reread(&mut |_, _| !self.is_closing() && !self.log.catalog().is_given_up(volume)) {
            Ok(found) if tap.is_complete() => {
                let label = match kind {
                    Kind::Gap => format!(
                        "disk {disk} was read again: {} changed while Bygone was not watching",
                        people_bytes(found.changed_bytes)
                    ),
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

    /// Waits until nobody has the disk `disk` open for a branch that was given up. A thread of ours that reads it stops at its
    /// next piece; if somebody else does not let go in time, who opens the disk next is told that it is in use.
    pub(crate) fn wait_until_let_go(&self, disk: u32) {
        const LONGEST: Duration = Duration::from_secs(30);
        let catalog = self.log.catalog();
        let is_read = |volume: VolumeId| {
            catalog.is_given_up(volume) && catalog.volume(volume).is_ok_and(|volume| volume.disk == disk)
        };
        let end = Instant::now() + LONGEST;
        while lock(&self.live).keys().any(|&volume| is_read(volume)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Makes the disk outside the store show the present, in a thread of its own.
    pub(crate) fn fill_in_background(self: &Arc<Self>, volume: VolumeId) {
        fn warn(target: &Target, error: &Error) {
            tracing::warn!(target = target.name, %error, "the disk outside the store could not be filled; its present stays in the store");
        }
        let begun = self.in_background("fill", move |target| {
            if let Err(e) = crate::restore::fill_disk(target, volume, &mut |_, _| !target.is_closing()) {
                warn(target, &e);
            }
        });
        if let Err(e) = begun {
            warn(self, &e);
        }
    }

    /// Begins to bring tapped disks of the present up to date that an earlier life left behind, in a thread of its own.
    pub(crate) fn catch_up(self: &Arc<Self>) {
        fn warn(target: &Target, error: &Error) {
            tracing::warn!(target = target.name, %error, "its disk cannot be brought up to date now");
        }
        let catalog = self.log.catalog();
        let behind: Vec<VolumeId> =
            catalog.volumes.iter().filter(|v| self.is_behind(&catalog, v)).map(|v| v.id).collect();
        if behind.is_empty() {
            return;
        }
        let begun = self.in_background("catch up", move |target| {
            for volume in behind {
                // Whoever uses a disk last brings it up to date.
                if let Err(e) = target.lease(volume) {
                    warn(target, &e);
                }
            }
        });
        if let Err(e) = begun {
            warn(self, &e);
        }
    }

    /// Begins to read what was not read yet of the tapped disks of the present.
    ///
    /// # Errors
    /// When a disk cannot be opened.
    pub(crate) fn read_disks(self: &Arc<Self>) -> Result<()> {
        let catalog = self.log.catalog();
        for volume in catalog.volumes_of(catalog.head, Seq::MAX) {
            let tapped = catalog.disk_of(volume.id)?.keeping == Keeping::Tap;
            let complete = catalog.taps.get(&volume.id.0).is_some_and(|mark| mark.complete);
            if tapped && !complete {
                drop(self.lease(volume.id)?);
            }
        }
        Ok(())
    }
}

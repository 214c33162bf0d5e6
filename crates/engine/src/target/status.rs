//! The status of a target, and the problems of its disks.

use std::collections::HashMap;

use bygone_block::DiskTrouble;
use bygone_model::{Seq, VolumeId};
use bygone_store::catalog::{Catalog, Disk, Keeping, Shows, Volume};

use super::{Target, lease::Live, lock};
use crate::{
    api::{DiskMode, DiskStatus, Problem, Running, TargetStatus, Trouble},
    error::Result,
    lifecycle,
    timeline::rfc3339,
};

impl Target {
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn status(&self) -> Result<TargetStatus> {
        let catalog = self.log.catalog();
        // In this order, so that `durable` is never beyond `head`.
        let durable = self.log.durable_seq();
        let head = self.log.head_seq();
        let config = self.config();
        let live = lock(&self.live);
        let mut disks = Vec::new();
        for volume in catalog.volumes_of(catalog.head, Seq::MAX) {
            let disk = catalog.disk_of(volume.id)?;
            let tapped = disk.keeping == Keeping::Tap;
            let read_bytes = match live.get(&volume.id).and_then(Live::tap) {
                Some(tap) if !tap.is_complete() => tap.reread_bytes(),
                _ => 0,
            };
            let complete = !tapped || catalog.is_exact(volume.id, head);
            let on_branch = volume.parent.is_some()
                && !(tapped && catalog.shows.get(&volume.disk) == Some(&Shows::Volume(volume.id)));
            let mode = if on_branch {
                DiskMode::Branch
            } else if tapped {
                DiskMode::Tap
            } else {
                DiskMode::Store
            };
            disks.push(DiskStatus {
                id: disk.name.clone(),
                size_bytes: disk.sectors.bytes(),
                mode,
                path: config.disk(&disk.name).and_then(|d| d.path.clone()),
                complete,
                read_bytes: if complete { disk.sectors.bytes() } else { read_bytes },
            });
        }
        let mut problems = self.troubles(&catalog, &live);
        let closed = self.closed_taps(&catalog, &live);
        // Opening a disk must not wait for a file system that does not respond.
        drop(live);
        for (volume, disk) in closed {
            let trouble = match self.look_outside(disk) {
                Err(why) => Trouble::DiskUnusable { why: why.failure() },
                Ok(()) if self.is_changed_outside(&catalog, volume, disk) => Trouble::DiskChanged,
                Ok(()) => continue,
            };
            problems.push(Problem::of_disk(&self.name, &disk.name, trouble));
        }
        let (doing, state) = (self.doing(), self.machine_state());
        Ok(TargetStatus {
            name: self.name.clone(),
            state: match state {
                lifecycle::Machine::Stopped => Running::Stopped,
                lifecycle::Machine::LeftRunning | lifecycle::Machine::Unknown => Running::Unknown,
                _ => Running::Running,
            },
            life: doing.map_or(state.state(), |doing| doing.change.into()),
            life_since: doing.map(|doing| rfc3339(doing.since)),
            machine: self.machine_status(),
            used_bytes: self.used_bytes(),
            written_bytes: self.written_bytes(),
            head_seq: head.0,
            durable_seq: durable.0,
            head_time: rfc3339(self.log.last_time()),
            branch: catalog.branch(catalog.head).map_or("main", |b| &b.name).to_owned(),
            disks,
            problems,
            verified: self.verified(),
        })
    }

    /// The problems of its disks that show without looking at disks outside the store.
    fn troubles(&self, catalog: &Catalog, live: &HashMap<VolumeId, Live>) -> Vec<Problem> {
        let mut troubles = Vec::new();
        for volume in catalog.volumes.iter() {
            let Ok(Disk { name, .. }) = catalog.disk_of(volume.id) else { continue };
            let mut say = |trouble| troubles.push(Problem::of_disk(&self.name, name, trouble));
            let Some(open) = live.get(&volume.id) else {
                let stale = volume.branch == catalog.head && super::work::is_stale(catalog, volume);
                if stale || self.is_behind(catalog, volume) {
                    say(Trouble::DiskBehind);
                }
                continue;
            };
            let trouble = open.tap().and_then(|tap| tap.trouble());
            if open.is_paused() {
                let by_store = trouble.is_none() || self.log.is_full();
                say(if by_store { Trouble::WritesWait } else { Trouble::WritesWaitForDisk });
            }
            match trouble {
                Some(DiskTrouble::Full) => say(Trouble::DiskFull),
                Some(DiskTrouble::Failed(why)) => say(Trouble::DiskFails { why }),
                None => {}
            }
        }
        troubles
    }

    /// Whether a tapped disk that is not open lacks writes that the store has.
    pub(super) fn is_behind(&self, catalog: &Catalog, volume: &Volume) -> bool {
        volume.branch == catalog.head
            && catalog.shows.get(&volume.disk).is_none_or(|shows| *shows == Shows::Volume(volume.id))
            && catalog.taps.get(&volume.id.0).is_some_and(|mark| mark.complete && !mark.clean)
    }
}

/// A number of bytes for people, such as `1.5 GiB`.
pub(super) fn people_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{value:.1} {}", UNITS[unit]) }
}

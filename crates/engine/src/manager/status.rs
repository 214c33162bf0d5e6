//! What the state of the store and its targets is.

use super::Manager;
use crate::{
    api::{Status, StoreStatus, TargetInfo},
    error::{Error, Result},
    machine::Machine,
    target::{self, Target},
};

/// With less room than this, a store says so.
const LOW_BYTES: u64 = 1 << 30;

impl Manager {
    pub(super) fn status(&self) -> Result<Status> {
        let mut targets = Vec::new();
        let mut problems = Vec::new();
        let (mut used_bytes, mut logical_bytes) = (0, 0);
        let (mut state, mut full) = ("ok", false);
        for target in self.targets() {
            let mut status = target.status()?;
            if status.state == "stopped" && Machine::is_left_running(&target) {
                status.state = "unknown".to_owned();
                problems.push(format!(
                    "{}: the machine stands still because no manager serves its disks; `bygone serve` takes it up again",
                    target.name
                ));
            }
            used_bytes += target.log.used_bytes()?;
            logical_bytes += status.disks.iter().map(|d| d.size_bytes).sum::<u64>();
            problems.extend(status.problems.iter().cloned());
            full |= target.log.is_full();
            for (place, damage) in target.log.damage_at_open() {
                problems.push(format!("{}: damage in {place}: {damage}; run `bygone verify`", target.name));
            }
            if target.log.is_poisoned() {
                state = "failed";
                problems
                    .push(format!("{}: the medium failed; check it and restart the manager", target.name));
            }
            for disk in status.disks.iter().filter(|d| !d.complete) {
                let read = target::people_bytes(disk.read_bytes);
                problems.push(format!(
                    "{}/{}: not completely read yet ({read} of {}); history begins when it is",
                    target.name,
                    disk.id,
                    target::people_bytes(disk.size_bytes)
                ));
            }
            targets.push(status);
        }
        if let Some(why) = self.registry.folder_trouble() {
            problems.push(format!("no target can be used: {why}; {}", why.hint()));
        }
        for (name, why) in self.registry.unavailable() {
            problems.push(format!("{name}: cannot be used: {why}; {}", why.hint()));
        }
        let free_bytes =
            bygone_store::env::Dir::free_bytes(&bygone_store::env::RealDir::new(self.paths.root()))
                .map_err(|e| Error::file("looking at", self.paths.root(), e))?;
        let options = bygone_store::LogOptions::default();
        if state == "ok" && (full || free_bytes < options.room_bytes_min()) {
            state = "full";
            problems.push(
                "the store is full: what targets write waits as soon as the room that is set aside for it is used up; free space on the store's file system"
                    .into(),
            );
        } else if state == "ok" && free_bytes < LOW_BYTES {
            let free = target::people_bytes(free_bytes);
            problems.push(format!(
                "the store's file system has only {free} left; when it is full, targets stand still"
            ));
        }
        let store = StoreStatus {
            path: self.paths.root().to_owned(),
            used_bytes,
            logical_bytes,
            free_bytes,
            state: state.to_owned(),
        };
        Ok(Status { targets, store, problems })
    }
}

pub(super) fn info(target: &Target) -> Result<TargetInfo> {
    Ok(TargetInfo { config: target.config(), status: target.status()? })
}

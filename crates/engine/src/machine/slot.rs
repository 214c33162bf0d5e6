//! Which machine a target has: none, a supervised one, one that was left running, or perhaps one.

use std::{
    sync::{Arc, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bygone_block::nbd::Serving;
use bygone_model::{At, BranchId, Kind, Seq};
use bygone_store::{EventOrder, EventQuery};

use super::{Ended, Machine, ending::Unseen, exports, follow::boot_event, kept::Kept};
use crate::{
    api::{Accelerator, MachineStatus, MomentInfo, Trouble},
    error::{Error, Result},
    exports::NBD_STOP_MAX,
    file_systems::FileSystems,
    lifecycle,
    runner::Phase,
    target::{Target, Use, lock},
    timeline,
};

/// How long the connections to a machine's disks may stay open after it has ended.
const CLIENTS_GONE_MAX: Duration = Duration::from_secs(5);

/// See the module's comment.
#[derive(Default)]
pub(crate) enum Slot {
    #[default]
    None,
    /// It could not be determined whether one runs, for this reason. Asked again before each request, and by a serving
    /// manager every second.
    Unknown(Arc<Error>),
    /// It runs, left by an earlier manager, and is not adopted yet.
    Left(Left),
    /// It runs, and is supervised.
    Watched(Arc<Machine>),
}

/// A machine that was left running.
pub(crate) struct Left {
    pid: u32,
    /// `None` if it is unknown.
    branch: Option<BranchId>,
    /// Another target started it, under this target's name. It gets no disk of this one.
    foreign: bool,
    /// This manager supervised it before.
    supervised: bool,
    /// Set once its disks are served to it again.
    serving: Option<Serving>,
    /// Why the last attempt to adopt it failed.
    why: Option<String>,
    /// Why it could not be determined at the last look whether it still runs.
    unclear: Option<String>,
}

impl Left {
    /// Notes why it cannot be determined whether it still runs, and logs each new reason once. It did the last time
    /// that this could be determined.
    fn note_unclear(&mut self, name: &str, error: &Error) {
        let why = error.to_string();
        if self.unclear.as_ref() != Some(&why) {
            tracing::warn!(target = name, %error, "it cannot be determined whether its machine still runs");
            self.unclear = Some(why);
        }
    }

    fn foreign_error(&self, name: &str) -> Error {
        Error::ForeignMachine { name: name.to_owned(), pid: self.pid }
    }
}

/// How a machine ended that nobody supervised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// By itself, as far as is known.
    Unseen,
    /// By its process, as asked.
    Forced,
}

impl Target {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        lock(&self.machine)
    }

    pub(crate) fn machine_state(&self) -> lifecycle::Machine {
        use bygone_qemu::Held;
        match &*self.slot() {
            Slot::None => lifecycle::Machine::Stopped,
            Slot::Unknown(_) => lifecycle::Machine::Unknown,
            Slot::Left(_) => lifecycle::Machine::LeftRunning,
            Slot::Watched(machine) => match machine.phase() {
                _ if lock(&machine.stop_asked).how.is_some() => lifecycle::Machine::Stopping,
                Some(Phase::Starting) => lifecycle::Machine::Starting,
                Some(Phase::Ended(_) | Phase::Held(Held::Shutdown | Held::Panicked)) | None => {
                    lifecycle::Machine::Stopping
                }
                Some(_) => lifecycle::Machine::Running,
            },
        }
    }

    /// Its machine, if one is supervised.
    pub(crate) fn machine(&self) -> Option<Arc<Machine>> {
        match &*self.slot() {
            Slot::Watched(machine) => Some(machine.clone()),
            _ => None,
        }
    }

    /// The branch on which its machine runs; `None` if none runs, or the branch of one that was left running is
    /// unknown.
    pub(crate) fn running_branch(&self) -> Option<BranchId> {
        match &*self.slot() {
            Slot::None | Slot::Unknown(_) => None,
            Slot::Left(left) => left.branch,
            Slot::Watched(machine) => Some(machine.branch),
        }
    }

    /// Checks that no machine of its own runs on a branch that is not known.
    ///
    /// # Errors
    /// When one does: it may be any.
    pub(crate) fn check_branch_known(&self) -> Result<()> {
        match &*self.slot() {
            Slot::Left(left) if left.branch.is_none() && !left.foreign => {
                Err(Error::UnknownBranch { name: self.name.clone(), pid: left.pid })
            }
            _ => Ok(()),
        }
    }

    /// Whether it has a supervised machine.
    #[must_use]
    pub(crate) fn is_running(&self) -> bool {
        matches!(&*self.slot(), Slot::Watched(_))
    }

    /// Whether a machine of it runs, or may run, that no manager supervises.
    #[must_use]
    pub(crate) fn is_unsupervised(&self) -> bool {
        matches!(&*self.slot(), Slot::Left(_) | Slot::Unknown(_))
    }

    /// Whether a machine runs in the place of its own that another target started.
    pub(crate) fn has_foreign_machine(&self) -> bool {
        matches!(&*self.slot(), Slot::Left(left) if left.foreign)
    }

    /// What is wrong with its machine: it runs, or may run, and no manager supervises it.
    pub(crate) fn machine_trouble(&self) -> Option<Trouble> {
        match &*self.slot() {
            Slot::None | Slot::Watched(_) => None,
            Slot::Unknown(why) => Some(Trouble::MachineUnknown { why: why.failure() }),
            Slot::Left(left) if left.foreign => Some(Trouble::ForeignMachine { pid: left.pid }),
            Slot::Left(left) => Some(Trouble::LeftRunning { pid: left.pid, why: left.why.clone() }),
        }
    }

    /// Whether its machine was left running and is not adopted yet.
    #[must_use]
    pub(crate) fn is_left_running(&self) -> bool {
        matches!(&*self.slot(), Slot::Left(_))
    }

    /// The process id of a machine that was left running; 0 if there is none.
    pub(crate) fn left_pid(&self) -> u32 {
        match &*self.slot() {
            Slot::Left(left) => left.pid,
            _ => 0,
        }
    }

    /// The error that its machine was left running and no manager supervises it, or that this cannot be determined.
    pub(crate) fn left_running(&self) -> Error {
        let name = self.name.clone();
        match &*self.slot() {
            Slot::Left(left) if left.foreign => left.foreign_error(&name),
            Slot::Left(left) => Error::LeftRunning { name, pid: left.pid, why: left.why.clone() },
            Slot::Unknown(why) => Error::MachineUnknown { name, why: why.clone() },
            _ => Error::LeftRunning { name, pid: 0, why: None },
        }
    }

    /// The status of its machine, if one runs.
    pub(crate) fn machine_status(&self) -> Option<MachineStatus> {
        let (pid, branch, kept) = match &*self.slot() {
            Slot::None | Slot::Unknown(_) => return None,
            Slot::Left(left) => {
                (left.pid, left.branch, Kept::load(self).filter(|kept| kept.started.pid == left.pid))
            }
            Slot::Watched(machine) => {
                let kept = lock(&machine.kept).clone();
                (kept.started.pid, Some(machine.branch), Some(kept))
            }
        };
        let branch = branch.and_then(|id| self.log.catalog().branch(id).map(|branch| branch.name.clone()));
        Some(MachineStatus {
            branch,
            pid,
            accelerator: kept.as_ref().map_or(Accelerator::Unknown, |kept| kept.started.accelerator),
            console: self.shared.launcher.console(&self.run_dir()),
            display: kept.as_ref().map(|kept| kept.display.clone()).unwrap_or_default(),
            forwards: kept.map(|kept| kept.forwards).unwrap_or_default(),
        })
    }

    /// Whether it was tried to adopt the machine that was left running, and failed.
    #[cfg(test)]
    pub(crate) fn is_not_adopted(&self) -> bool {
        matches!(&*self.slot(), Slot::Left(left) if left.why.is_some())
    }

    /// Asks the operating system whether an unsupervised machine runs, and updates the slot.
    pub(crate) fn look_for_machine(self: &Arc<Self>) {
        if self.is_running() || self.doing().is_some() {
            return;
        }
        let found = self.shared.launcher.find(&self.run_dir());
        if matches!(found, Ok(None))
            && let Ok(Some(branch)) = self.left_branch()
        {
            // Before the turn is locked, because it may take a while.
            self.wait_for_clients(branch);
            self.stop_serving_gone();
        }
        // A machine that is being started is found too; its starter has the turn until it is in the slot. No start can
        // begin meanwhile, so its files are not removed together with those of an earlier machine.
        self.between_changes(|| self.note_machine(&found));
    }

    /// Stops serving a machine that was left running and has ended, before the turn is locked: that may take a while,
    /// and whoever asks for the status would wait.
    fn stop_serving_gone(&self) {
        let serving = match &mut *self.slot() {
            Slot::Left(left) if matches!(self.shared.launcher.find(&self.run_dir()), Ok(None)) => {
                left.serving.take()
            }
            _ => None,
        };
        if let Some(serving) = serving {
            serving.stop(NBD_STOP_MAX);
        }
    }

    /// Updates the slot with the process that was found. That may be out of date: a supervised machine may have ended
    /// since, or one may have been started and left. So what is new is decided by another look, with the slot locked. A
    /// stop that cannot be written is tried again at the next look.
    pub(crate) fn note_machine(self: &Arc<Self>, found: &Result<Option<u32>>) {
        let mut slot = self.slot();
        match (&mut *slot, found) {
            (Slot::Watched(_), _) => return,
            (Slot::Left(left), Ok(Some(pid))) => {
                (left.pid, left.unclear) = (*pid, None);
                return;
            }
            (Slot::None, Ok(None)) if !Kept::is_left(self) => return,
            _ => {}
        }
        match (&mut *slot, self.shared.launcher.find(&self.run_dir())) {
            (Slot::Left(left), Ok(Some(pid))) => (left.pid, left.unclear) = (pid, None),
            (Slot::Left(left), Err(error)) => left.note_unclear(&self.name, &error),
            (Slot::Left(_), Ok(None)) => {
                drop(slot);
                let _ = self.left_is_gone(Lost::Unseen);
            }
            (_, Ok(Some(pid))) => {
                let foreign = Kept::is_foreign(self);
                let known = || Kept::load(self).map(|kept| kept.branch);
                let branch = if foreign { None } else { known().or_else(|| exports::branch_of_socket(self)) };
                let (supervised, serving, why, unclear) = (false, None, None, None);
                *slot = Slot::Left(Left { pid, branch, foreign, supervised, serving, why, unclear });
            }
            (_, Err(why)) => self.note_unknown(&mut slot, why),
            (_, Ok(None)) => {
                *slot = Slot::None;
                drop(slot);
                if Kept::is_left(self) && !Kept::is_foreign(self) {
                    let branch = Kept::load(self).map(|kept| kept.branch);
                    let _ = self.note_lost(branch.or_else(|| exports::branch_of_socket(self)), Lost::Unseen);
                }
            }
        }
    }

    /// Waits until its guest's connections to the disks of this branch have ended; returns false if they have not in
    /// time. What they still write belongs to the machine whose process has ended.
    pub(super) fn wait_for_clients(&self, branch: BranchId) -> bool {
        let deadline = Instant::now() + CLIENTS_GONE_MAX;
        // Each round looks once: a second look might find a client that connected after the last one was gone, which
        // has nothing to do with this machine.
        while self.is_used(branch, Use::Guest) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// Notes why it cannot be determined whether its machine runs, and logs each new reason once.
    fn note_unknown(&self, slot: &mut Slot, why: Error) {
        let is_known = matches!(slot, Slot::Unknown(before) if before.to_string() == why.to_string());
        if !is_known {
            tracing::error!(target = self.name, error = %why, "it cannot be determined whether its machine runs");
            *slot = Slot::Unknown(Arc::new(why));
        }
    }

    /// Notes that this machine is not supervised any more, and counts as left running until a look finds that it has
    /// ended: until then its disks are served, and what it still writes comes before its stop. Returns whether it was
    /// the target's machine.
    pub(super) fn leave_machine(&self, machine: &Machine, why: &Error, serving: Option<Serving>) -> bool {
        let mut slot = self.slot();
        if !matches!(&*slot, Slot::Watched(watched) if std::ptr::eq(Arc::as_ptr(watched), machine)) {
            return false;
        }
        let (pid, branch) = (lock(&machine.kept).started.pid, Some(machine.branch));
        let (why, unclear) = (Some(why.to_string()), None);
        *slot = Slot::Left(Left { pid, branch, foreign: false, supervised: true, serving, why, unclear });
        true
    }

    /// Whether its machine that was left running was supervised by this manager before.
    pub(super) fn was_supervised(&self) -> bool {
        matches!(&*self.slot(), Slot::Left(left) if left.supervised)
    }

    /// The branch of a machine that was left running, if that is known.
    ///
    /// # Errors
    /// When there is none, or it is another target's.
    pub(super) fn left_branch(&self) -> Result<Option<BranchId>> {
        match &*self.slot() {
            Slot::Left(left) if left.foreign => Err(left.foreign_error(&self.name)),
            Slot::Left(left) => Ok(left.branch),
            _ => Err(Error::TargetStopped(self.name.clone())),
        }
    }

    /// Handles the end of a machine that was left running; returns the moment of its stop, if it has one.
    ///
    /// # Errors
    /// When its stop cannot be written.
    pub(super) fn left_is_gone(self: &Arc<Self>, how: Lost) -> Result<Option<MomentInfo>> {
        let left = std::mem::take(&mut *self.slot());
        match left {
            Slot::Left(left) if left.foreign => {
                Kept::remove(self);
                Ok(None)
            }
            Slot::Left(left) => {
                if let Some(serving) = left.serving {
                    serving.stop(NBD_STOP_MAX);
                }
                self.note_lost(left.branch, how)
            }
            _ => Ok(None),
        }
    }

    /// Writes the stop of a machine that ended unsupervised, and its boot if that is missing, unless it was never
    /// booted, and removes its files.
    pub(super) fn note_lost(
        self: &Arc<Self>,
        branch: Option<BranchId>,
        how: Lost,
    ) -> Result<Option<MomentInfo>> {
        let kept = Kept::load(self);
        let branch = branch.unwrap_or_else(|| self.present());
        let mut noted = None;
        if kept.as_ref().is_none_or(|kept| self.has_run(kept)) {
            let unnoted = kept.filter(|kept| !self.is_boot_noted(kept));
            let booted = unnoted
                .map_or(Ok(()), |kept| timeline::write(&self.log, branch, boot_event(self, &kept)).map(drop));
            let stop = || self.unseen_stop(branch, how).event();
            let stop = booted.and_then(|()| timeline::write(&self.log, branch, stop())).inspect_err(
                |error| tracing::error!(target = self.name, %error, "the event could not be written"),
            )?;
            *lock(&self.last_stop) = Some(stop.clone());
            noted = Some(stop);
        }
        Kept::remove(self);
        exports::remove_socket(self, branch);
        Ok(noted)
    }

    /// What its disks say about the end of a machine that nobody supervised. They are looked at as the store has them:
    /// no disk is opened for that.
    fn unseen_stop(self: &Arc<Self>, branch: BranchId, how: Lost) -> Unseen {
        let (catalog, head) = (self.log.catalog(), self.log.head_seq());
        let (mut file_systems, mut surveyor) = (FileSystems::default(), self.shared.children.surveyor());
        for volume in catalog.volumes_of(branch, head) {
            let name = catalog.disk_of(volume.id).map_or("?", |disk| &disk.name);
            match self.disk_at(volume.id, head) {
                Ok(disk) => file_systems.add(&mut surveyor, name, &disk),
                Err(error) => file_systems.add_unseen(name, &error),
            }
        }
        let clients_gone = !self.is_used(branch, Use::Guest);
        Unseen { forced: how == Lost::Forced, clients_gone, file_systems }
    }

    /// Whether the boot of the machine with this description is in the log.
    pub(super) fn is_boot_noted(&self, kept: &Kept) -> bool {
        // An earlier manager may have written the event and not the file.
        let Some(at) = kept.boots_at.filter(|_| !kept.noted) else { return kept.noted };
        let query = EventQuery { kinds: &[Kind::Boot], after: (at.seq, at.seq), ..EventQuery::default() };
        let is_it = |event: &bygone_store::Event| event.branch == kept.branch && event.event.at == Some(at);
        let found = self.log.find_events(&query, EventOrder::Oldest, 1, &mut |event| is_it(event));
        found.is_ok_and(|found| !found.is_empty())
    }

    /// Whether a machine that an earlier manager started has run, as far as that shows: that manager may have ended
    /// before the machine's first answer, and its guest may have run and written since.
    pub(super) fn has_run(&self, kept: &Kept) -> bool {
        let is_written = |at: At| {
            let catalog = self.log.catalog();
            let mut disks = catalog.volumes_of(kept.branch, Seq::MAX);
            // What is written to a disk that was not known completely may be its first content.
            disks.any(|disk| {
                catalog.is_exact(disk.id, at.seq)
                    && self.log.is_written_since(disk.id, at.seq).unwrap_or(true)
            })
        };
        self.is_boot_noted(kept) || kept.boots_at.is_some_and(is_written)
    }

    /// Serves the disks of a machine that was left running again; returns its description.
    pub(super) fn serve_left(self: &Arc<Self>) -> Result<(Kept, Serving)> {
        let (branch, pid) = (self.left_branch()?, self.left_pid());
        let Some(branch) = branch else {
            return Err(Error::UnknownBranch { name: self.name.clone(), pid });
        };
        let kept = Kept::load(self).filter(|kept| kept.branch == branch);
        let kept = kept.unwrap_or_else(|| Kept::found(self, branch, pid));
        let served = match &mut *self.slot() {
            Slot::Left(left) => left.serving.take(),
            _ => None,
        };
        let serving = match served {
            Some(serving) => serving,
            None => exports::serve(self, branch)?.1,
        };
        Ok((kept, serving))
    }

    /// Serves the disks of a machine that was left running as soon as it is found, before it is adopted; a change in
    /// progress does so itself.
    pub(crate) fn serve_left_early(self: &Arc<Self>) {
        self.between_changes(|| {
            if let Ok((_, serving)) = self.serve_left() {
                self.keep_serving(serving);
            }
        });
    }

    pub(super) fn keep_serving(&self, serving: Serving) {
        if let Slot::Left(left) = &mut *self.slot() {
            left.serving = Some(serving);
        }
    }

    /// Notes why it could not be adopted, and logs each new reason once.
    pub(super) fn note_not_adopted(&self, error: &Error) {
        if let Slot::Left(left) = &mut *self.slot() {
            let why = error.to_string();
            if left.why.as_ref() != Some(&why) {
                tracing::error!(target = self.name, %error, "the machine that was left running cannot be adopted yet");
                left.why = Some(why);
            }
        }
    }

    /// Waits until the machine that runs now has stopped, or `wanted` returns false. If none is supervised, returns the
    /// last stop that this manager has written. A machine that starts later is not waited for.
    ///
    /// # Errors
    /// When no machine is supervised and this manager has seen none stop, or the caller no longer waits.
    pub(crate) fn wait_stopped(&self, wanted: &mut dyn FnMut() -> bool) -> Result<MomentInfo> {
        match self.machine() {
            Some(machine) => self.wait_ended(&machine, wanted),
            None => lock(&self.last_stop).clone().ok_or_else(|| Error::TargetStopped(self.name.clone())),
        }
    }

    /// Waits until this machine has stopped, or `wanted` returns false.
    ///
    /// # Errors
    /// [`Error::Partly`] when its stop could not be written; [`Error::Abandoned`] when the caller no longer waits;
    /// [`Error::Told`] when a defect keeps it from being supervised.
    pub(crate) fn wait_ended(
        &self,
        machine: &Arc<Machine>,
        wanted: &mut dyn FnMut() -> bool,
    ) -> Result<MomentInfo> {
        const LOOK_EVERY: Duration = Duration::from_millis(200);
        let mut slot = self.slot();
        while matches!(&*slot, Slot::Watched(watched) if Arc::ptr_eq(watched, machine)) {
            if !wanted() {
                return Err(Error::Abandoned);
            }
            slot = self.stopped.wait_timeout(slot, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(slot);
        match lock(&machine.ended).clone() {
            Some(Ended::Stop(stop)) => Ok(stop),
            Some(Ended::Unwritten(why)) => Err(Error::Partly {
                done: format!("target {} has stopped", self.name),
                why: Box::new(Error::Told(why)),
            }),
            Some(Ended::Lost(why)) => Err(Error::Told(why)),
            None => Err(Error::TargetStopped(self.name.clone())),
        }
    }

    /// Leaves the machine as a killed manager does.
    #[cfg(test)]
    pub(crate) fn abandon_machine(&self) {
        let slot = std::mem::take(&mut *self.slot());
        if let Slot::Watched(machine) = slot {
            if let Some(serving) = lock(&machine.serving).take() {
                serving.stop(Duration::ZERO);
                exports::leave_socket(self, machine.branch);
            }
            lock(&machine.leases).clear();
        }
    }

    /// Stops serving a machine that outlives this manager. Requests in progress are answered first.
    pub(crate) fn stop_serving_machine(&self) {
        let serving = match &mut *self.slot() {
            Slot::None | Slot::Unknown(_) => None,
            Slot::Left(left) => left.serving.take(),
            Slot::Watched(machine) => lock(&machine.serving).take(),
        };
        if let Some(serving) = serving {
            serving.stop(NBD_STOP_MAX);
        }
    }
}

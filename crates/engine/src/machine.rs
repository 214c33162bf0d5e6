//! A target's machine: its disks served to it, what happens to it written into the target's log.
//!
//! Invariants:
//! - whether a machine runs is asked of its process; the file that tells on which branch it runs ([`kept::Kept`]) stays as long as the
//!   process does;
//! - a machine has a socket of its own, which offers the disks of its branch and nothing else, whatever is the present;
//! - a machine that runs without being watched is taken over as soon as that is possible, and until then nothing moves under it.

mod exports;
mod follow;
mod kept;
mod resets;
mod slot;

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc::Receiver},
    time::{Duration, Instant},
};

use bygone_block::nbd::Serving;
use bygone_model::{At, BranchId, Event, Kind, Seq};
use bygone_store::Error as StoreError;

use self::kept::Kept;
pub(crate) use self::slot::Slot;
use crate::{
    api::{MomentInfo, Started},
    config,
    error::{Error, Result},
    runner::{Launch, LaunchDisk, Launched, Phase, Report, Runner},
    target::{Lease, Op, Target, Use, lock},
};

/// How long a machine may take to answer for the first time before `run` stops waiting for it.
const ANSWER_MAX: Duration = Duration::from_secs(30);
const NBD_STOP_MAX: Duration = Duration::from_secs(5);

/// What has come of a start.
#[derive(Debug)]
enum Start {
    Pending,
    Up,
    Failed(Option<Error>),
}

/// A machine that is watched.
pub(crate) struct Machine {
    runner: Mutex<Option<Arc<dyn Runner>>>,
    /// On which branch.
    pub branch: BranchId,
    /// It was left running by an earlier manager.
    pub adopted: bool,
    kept: Mutex<Kept>,
    start: Mutex<Start>,
    start_changed: Condvar,
    stop_asked: Mutex<Option<&'static str>>,
    /// Its stop, once it has ended.
    ended: Mutex<Option<MomentInfo>>,
    leases: Mutex<Vec<Lease>>,
    serving: Mutex<Option<Serving>>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("branch", &self.branch).finish_non_exhaustive()
    }
}

/// What to boot.
#[derive(Clone, Debug)]
pub(crate) struct Boot {
    /// On which branch.
    pub branch: BranchId,
    /// From which moment, if the branch was made for it.
    pub from: Option<MomentInfo>,
    /// What its user sees.
    pub display: config::Display,
    /// How processors are run.
    pub accelerator: String,
}

fn lease_all(target: &Arc<Target>, branch: BranchId) -> Result<Vec<Lease>> {
    let catalog = target.log.catalog();
    catalog.volumes_of(branch, Seq::MAX).map(|volume| target.lease(volume.id, Use::Machine)).collect()
}

/// Makes the folder of a machine, readable by its owner only: who can open the sockets in it owns the machine.
pub(crate) fn make_dir(dir: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| Error::file("making", dir, e))
}

/// The moment that is now, apart from all that comes later.
fn here(target: &Target) -> Result<At> {
    let log = &target.log;
    match log.mark_moment() {
        Ok(mark) => Ok(At::exactly(mark.last, mark.time)),
        // The same state, if not at the same time: a machine may run that waits for room.
        Err(StoreError::Full { .. }) => {
            let head = log.head_seq();
            Ok(At::exactly(head, log.time_of(head)?))
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes what stands for a machine that did not come to be.
fn forget_attempt(target: &Target) {
    let dir = target.run_dir();
    // Not if it runs all the same.
    if matches!(target.shared.launcher.find(&dir), Ok(None)) {
        Kept::remove(target);
        // Only if there is nothing in it.
        let _ = fs::remove_dir(dir);
    }
}

impl Machine {
    /// Boots a target; returns as soon as the process is there. [`Machine::wait_started`] waits until it answers.
    ///
    /// # Errors
    /// When its disks cannot be opened, or the program does not start. Then nothing has changed.
    pub(crate) fn boot(op: &Op, boot: &Boot) -> Result<Arc<Machine>> {
        let target = op.target();
        let config = target.config();
        let dir = target.run_dir();
        make_dir(&dir)?;
        let leases = lease_all(target, boot.branch)?;
        let forget = |_: &Error| forget_attempt(target);
        let (socket, serving) = exports::serve(target, boot.branch).inspect_err(forget)?;
        // Before the process starts: a manager that comes after this one must know on which branch it runs.
        let boots_at = here(target).inspect_err(forget)?;
        let mut kept = Kept { boots_at: Some(boots_at), ..Kept::of(target, boot) };
        kept.save(target).inspect_err(forget)?;
        *lock(&target.last_stop) = None;
        let disks = config.disks.iter().map(|disk| LaunchDisk {
            id: disk.id.clone(),
            socket: socket.clone(),
            export: exports::name(target, &disk.id),
            block_bytes: disk.block_bytes,
        });
        let launch = Launch { config: &config, display: &boot.display, dir: &dir, disks: disks.collect() };
        let launched = target.shared.launcher.start(&launch).inspect_err(forget)?;
        kept.started.pid = launched.runner.pid();
        if let Err(error) = kept.save(target) {
            // Its process is found without this.
            tracing::warn!(target = target.name, %error, "the machine's process number cannot be written down");
        }
        Machine::watch(target, launched, kept, leases, serving, false)
    }

    /// Waits until the machine answers, or has not for [`ANSWER_MAX`], or nobody waits any more: it runs all the same.
    ///
    /// # Errors
    /// When it ended before that.
    pub(crate) fn wait_started(&self, wanted: &mut dyn FnMut() -> bool) -> Result<Started> {
        const LOOK_EVERY: Duration = Duration::from_millis(200);
        let end = Instant::now() + ANSWER_MAX;
        let mut start = lock(&self.start);
        loop {
            match &mut *start {
                Start::Up => return Ok(self.started()),
                Start::Failed(why) => return Err(why.take().unwrap_or(Error::Abandoned)),
                Start::Pending if Instant::now() >= end || !wanted() => return Ok(self.started()),
                Start::Pending => {
                    let waited = self.start_changed.wait_timeout(start, LOOK_EVERY);
                    start = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Takes over the machine of `op`'s target that an earlier manager left running.
    ///
    /// # Errors
    /// When it has ended meanwhile, or its disks cannot be opened. In the second case it goes on being found, and this can be tried
    /// again.
    pub(crate) fn adopt(op: &Op) -> Result<Arc<Machine>> {
        let target = op.target();
        let adopted = Machine::try_adopt(target);
        if let Err(error) = &adopted {
            target.note_not_adopted(error);
        }
        adopted
    }

    fn try_adopt(target: &Arc<Target>) -> Result<Arc<Machine>> {
        let (kept, serving) = target.serve_left()?;
        let leases = lease_all(target, kept.branch);
        let adopted =
            leases.and_then(|leases| Ok((leases, target.shared.launcher.adopt(&target.run_dir())?)));
        let (leases, launched) = match adopted {
            Ok((leases, Some(launched))) => (leases, launched),
            Ok((_, None)) => {
                target.left_is_gone();
                return Err(Error::TargetStopped(target.name.clone()));
            }
            Err(error) => {
                // What can be served of its disks is served all the same.
                target.keep_serving(serving);
                return Err(error);
            }
        };
        let event = Event::new(Kind::Manager, "the manager was started again while the target ran on")
            .with("pid", launched.runner.pid());
        if let Err(error) = target.log.event(kept.branch, &event) {
            tracing::error!(target = target.name, %error, "the event could not be written");
        }
        Machine::watch(target, launched, kept, leases, serving, true)
    }

    fn watch(
        target: &Arc<Target>,
        launched: Launched,
        kept: Kept,
        leases: Vec<Lease>,
        serving: Serving,
        adopted: bool,
    ) -> Result<Arc<Machine>> {
        let Launched { runner, reports } = launched;
        let machine = Arc::new(Machine {
            runner: Mutex::new(Some(Arc::from(runner))),
            branch: kept.branch,
            adopted,
            kept: Mutex::new(kept),
            start: Mutex::new(Start::Pending),
            start_changed: Condvar::new(),
            stop_asked: Mutex::default(),
            ended: Mutex::default(),
            leases: Mutex::new(leases),
            serving: Mutex::new(Some(serving)),
        });
        *lock(&target.machine) = Slot::Watched(machine.clone());
        let (watched, owner) = (machine.clone(), target.clone());
        let follow = move |reports: Receiver<Report>| watched.follow(&owner, &reports);
        std::thread::Builder::new()
            .name(format!("watch {}", target.name))
            .spawn(move || follow(reports))
            .map_err(|e| {
                // It runs, and nobody watches it: as if an earlier manager had left it.
                *lock(&target.machine) = Slot::None;
                Error::file("starting a thread for", &target.name, e)
            })?;
        Ok(machine)
    }

    /// What `run` says of it.
    pub(crate) fn started(&self) -> Started {
        lock(&self.kept).started.clone()
    }

    /// Its program. None when it is no longer watched.
    ///
    /// # Errors
    /// When that is so.
    pub(crate) fn runner(&self) -> Result<Arc<dyn Runner>> {
        lock(&self.runner).clone().ok_or(Error::ManagerGone)
    }

    /// Somebody asked for the stop that is about to come.
    pub(crate) fn ask_stop(&self, how: &'static str) {
        *lock(&self.stop_asked) = Some(how);
    }

    fn phase(&self) -> Option<Phase> {
        lock(&self.runner).as_ref().map(|runner| runner.phase())
    }
}

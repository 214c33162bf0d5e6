//! A target's machine: serves its disks to it and writes its events to the target's log.
//!
//! Invariants:
//! - whether a machine runs is determined from its process; the file that says on which branch it runs ([`kept::Kept`])
//!   exists as long as the process does;
//! - a machine has a socket of its own, which offers only the disks of its branch, whichever branch is the present;
//! - a machine that was left running is adopted as soon as possible; until then the present is not moved.

mod ending;
mod exports;
mod failing;
mod follow;
mod kept;
mod resets;
mod slot;

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

use bygone_block::nbd::Serving;
use bygone_model::{At, BranchId, Event, Kind, Moment, Place, Seq};
use bygone_store::Error as StoreError;

pub(crate) use self::{follow::POWER_BUTTON, kept::check_own, slot::Slot};
use self::{kept::Kept, slot::Lost};
use crate::{
    api::{Accelerator, Failure, MomentInfo, Started},
    config,
    error::{Error, Result, or_panicked},
    exports::NBD_STOP_MAX,
    runner::{Launch, LaunchDisk, Launched, Phase, Report, Runner},
    software,
    target::{Lease, Op, Target, Use, lock},
    timeline, variables,
};

/// How long `run` waits for the machine's first answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// The outcome of a start.
#[derive(Debug)]
enum Start {
    Pending,
    Up,
    /// It ended before its first answer. Every caller that waits for it is told why.
    Failed(Failure),
}

/// How supervising a machine ended.
#[derive(Clone, Debug)]
enum Ended {
    /// It has stopped; with the moment of its stop.
    Stop(MomentInfo),
    /// It has stopped, and its stop could not be written.
    Unwritten(Failure),
    /// A defect kept it from being supervised; it may run.
    Lost(Failure),
}

/// The stops that were requested of a machine.
#[derive(Default)]
struct StopAsked {
    /// How: `shutdown`, `force` or `deadline`.
    how: Option<&'static str>,
    /// The number of callers that want it to shut down.
    callers: usize,
}

/// A supervised machine.
pub(crate) struct Machine {
    runner: Mutex<Option<Arc<dyn Runner>>>,
    pub branch: BranchId,
    /// An earlier manager left it running.
    pub adopted: bool,
    /// This manager supervised it before it adopted it.
    again: bool,
    kept: Mutex<Kept>,
    start: Mutex<Start>,
    start_changed: Condvar,
    stop_asked: Mutex<StopAsked>,
    /// Nothing if it never answered and was not asked to stop.
    ended: Mutex<Option<Ended>>,
    /// The number of writes by guests of the target before it was started or adopted.
    guest_writes_before: u64,
    leases: Mutex<Vec<Lease>>,
    serving: Mutex<Option<Serving>>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("branch", &self.branch).finish_non_exhaustive()
    }
}

/// Since when a machine is supervised.
struct Since {
    /// The number of writes by guests before its process was started or adopted.
    writes_before: u64,
    adopted: bool,
}

/// What to boot.
#[derive(Clone, Debug)]
pub(crate) struct Boot {
    pub branch: BranchId,
    /// The moment from which `branch` was made, if it was made for this boot.
    pub from: Option<MomentInfo>,
    pub display: config::Display,
    pub accelerator: Accelerator,
}

fn lease_all(target: &Arc<Target>, branch: BranchId) -> Result<Vec<Lease>> {
    let catalog = target.log.catalog();
    catalog.volumes_of(branch, Seq::MAX).map(|volume| target.lease(volume.id, Use::Machine)).collect()
}

/// Makes the folder of a machine with mode 0700: access to the sockets in it is full control of the machine.
pub(crate) fn make_dir(dir: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| Error::file("making", dir, e))
}

/// The newest moment, separated by a mark from all later records.
fn here(target: &Target) -> Result<At> {
    let log = &target.log;
    match log.mark_moment() {
        Ok(mark) => Ok(At::exactly(mark.last, mark.time)),
        // The same state, although without a time of its own: there is no room for the mark, but a machine can start
        // and wait for room.
        Err(StoreError::Full { .. }) => {
            let head = log.head_seq();
            Ok(At::exactly(head, log.time_of(head)?))
        }
        Err(error) => Err(error.into()),
    }
}

/// Removes the files of a machine that did not start.
fn forget_attempt(target: &Target) {
    let dir = target.run_dir();
    // The process may exist although the start failed.
    if matches!(target.shared.launcher.find(&dir), Ok(None)) {
        Kept::remove(target);
        // Fails if the folder is not empty.
        let _ = fs::remove_dir(dir);
    }
}

/// The answer to a stop of a machine that never answered, and therefore has no event: the moment at which it left its
/// disks.
fn unbooted(target: &Target, branch: BranchId, how: &str) -> Result<MomentInfo> {
    let seq = target.log.head_seq();
    let time = target.log.time_of(seq)?;
    let label = match how {
        "deadline" => "its machine had not answered by the deadline, and was ended",
        _ => "its machine was ended before it answered, as asked",
    };
    let event = Event { at: Some(At::exactly(seq, time)), ..Event::new(Kind::Manager, label) };
    timeline::info(&target.log, Moment { place: Place::new(branch, seq), time, event })
}

fn spawn_watch(
    target: &Target,
    follow: impl FnOnce() + Send + 'static,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    #[cfg(test)]
    {
        use std::sync::atomic::Ordering::Acquire;
        while target.shared.holds_threads.load(Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if target.shared.has_no_threads.load(Acquire) {
            return Err(std::io::ErrorKind::WouldBlock.into());
        }
    }
    std::thread::Builder::new().name(format!("watch {}", target.name)).spawn(follow)
}

impl Machine {
    /// Boots a target; returns as soon as the process exists. [`Machine::wait_started`] waits for its first answer.
    ///
    /// # Errors
    /// When its disks cannot be opened, or the program does not start or cannot be supervised. Then no machine runs.
    pub(crate) fn boot(op: &Op, boot: &Boot) -> Result<Arc<Machine>> {
        let target = op.target();
        let config = target.config();
        let dir = target.run_dir();
        make_dir(&dir)?;
        // A manager that was killed may not have come to it.
        variables::bring_back(&target.shared.paths, &target.name, target.dir())?;
        let leases = lease_all(target, boot.branch)?;
        let forget = |_: &Error| forget_attempt(target);
        let (socket, serving) = exports::serve(target, boot.branch).inspect_err(forget)?;
        // Saved before the process starts: a later manager must know on which branch it runs.
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
        let launch = Launch {
            config: &config,
            identity: &target.log_id(),
            display: &boot.display,
            dir: &dir,
            disks: disks.collect(),
        };
        let writes_before = target.guest_writes();
        let launched = target.shared.launcher.start(&launch).inspect_err(forget)?;
        kept.started.pid = launched.runner.pid();
        if let Err(error) = kept.save(target) {
            // The process is found without the file's process number.
            tracing::warn!(target = target.name, %error, "the machine's process number cannot be written down");
        }
        Machine::watch(target, launched, kept, leases, serving, Since { writes_before, adopted: false })
    }

    /// Waits until the machine answers, [`ANSWER_MAX`] has passed, or `wanted` returns false. In the last two cases the
    /// machine goes on.
    ///
    /// # Errors
    /// When it ended before its first answer.
    pub(crate) fn wait_started(&self, wanted: &mut dyn FnMut() -> bool) -> Result<Started> {
        const LOOK_EVERY: Duration = Duration::from_millis(200);
        let end = Instant::now() + ANSWER_MAX;
        let mut start = lock(&self.start);
        loop {
            match &*start {
                Start::Up => return Ok(self.started()),
                Start::Failed(why) => return Err(Error::Told(why.clone())),
                Start::Pending if Instant::now() >= end || !wanted() => return Ok(self.started()),
                Start::Pending => {
                    let waited = self.start_changed.wait_timeout(start, LOOK_EVERY);
                    start = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Adopts the machine of `op`'s target, which an earlier manager left running.
    ///
    /// # Errors
    /// When it has ended meanwhile, or its disks cannot be opened. In the second case it stays left running, and
    /// adopting can be retried.
    pub(crate) fn adopt(op: &Op) -> Result<Arc<Machine>> {
        let target = op.target();
        let adopted = Machine::try_adopt(target);
        if let Err(error) = &adopted {
            target.note_not_adopted(error);
        }
        adopted
    }

    fn try_adopt(target: &Arc<Target>) -> Result<Arc<Machine>> {
        let writes_before = target.guest_writes();
        let (kept, serving) = target.serve_left()?;
        let leases = lease_all(target, kept.branch);
        let adopted =
            leases.and_then(|leases| Ok((leases, target.shared.launcher.adopt(&target.run_dir())?)));
        let (leases, launched) = match adopted {
            Ok((leases, Some(launched))) => (leases, launched),
            Ok((_, None)) => {
                target.wait_for_clients(kept.branch);
                target.keep_serving(serving);
                // A failure was logged, and the end is written when a request looks again.
                let _ = target.left_is_gone(Lost::Unseen);
                return Err(Error::TargetStopped(target.name.clone()));
            }
            Err(error) => {
                // Its disks stay served while adopting is retried.
                target.keep_serving(serving);
                return Err(error);
            }
        };
        Machine::watch(target, launched, kept, leases, serving, Since { writes_before, adopted: true })
    }

    /// Ends the machine of `op`'s target, which an earlier manager left running and this one cannot adopt, by its
    /// process: as if its power were cut.
    ///
    /// # Errors
    /// When it is another target's or cannot be ended; [`Error::Partly`] when its stop cannot be written.
    pub(crate) fn end_left(op: &Op) -> Result<MomentInfo> {
        let target = op.target();
        let branch = target.left_branch()?;
        target.shared.launcher.end(&target.run_dir())?;
        if let Some(branch) = branch {
            target.wait_for_clients(branch);
        }
        let partly =
            |why| Error::Partly { done: format!("target {} has stopped", target.name), why: Box::new(why) };
        match target.left_is_gone(Lost::Forced).map_err(partly)? {
            Some(stop) => Ok(stop),
            None => unbooted(target, branch.unwrap_or_else(|| target.present()), "force"),
        }
    }

    /// Supervises a machine from now on.
    ///
    /// # Errors
    /// When that cannot be begun. Then a machine that was adopted is still left running, and its disks are served; a
    /// new one has ended, because its start has failed.
    fn watch(
        target: &Arc<Target>,
        launched: Launched,
        kept: Kept,
        leases: Vec<Lease>,
        serving: Serving,
        Since { writes_before, adopted }: Since,
    ) -> Result<Arc<Machine>> {
        let Launched { runner, reports } = launched;
        let machine = Arc::new(Machine {
            runner: Mutex::new(Some(Arc::from(runner))),
            branch: kept.branch,
            adopted,
            again: adopted && target.was_supervised(),
            kept: Mutex::new(kept),
            start: Mutex::new(Start::Pending),
            start_changed: Condvar::new(),
            stop_asked: Mutex::default(),
            ended: Mutex::default(),
            guest_writes_before: writes_before,
            leases: Mutex::new(leases),
            serving: Mutex::new(Some(serving)),
        });
        let (watched, owner) = (machine.clone(), target.clone());
        let follow = move |reports: Receiver<Report>| {
            // Callers wait for what this thread does.
            let followed = or_panicked("supervising its machine", || watched.follow(&owner, &reports));
            if let Err(why) = followed {
                watched.lose(&owner, &why);
            }
        };
        // It is found by others once it is supervised, and what it reports is handled once it can be found.
        let (begin, begun) = channel::<()>();
        let spawned = spawn_watch(target, move || {
            if begun.recv().is_ok() {
                follow(reports);
            }
        });
        match spawned {
            Ok(_) => {
                *lock(&target.machine) = Slot::Watched(machine.clone());
                // Fails only if the thread has ended, which waits for this.
                let _ = begin.send(());
                software::watch(target, &machine);
                Ok(machine)
            }
            Err(e) => {
                machine.give_up(target);
                Err(Error::file("starting a thread for", &target.name, e))
            }
        }
    }

    /// Whether it has stopped, or is not supervised any more.
    pub(crate) fn has_ended(&self) -> bool {
        lock(&self.ended).is_some()
    }

    /// Handles a machine that cannot be supervised. One that was left running goes on, with its disks served, and is
    /// adopted later; a new one is ended, because its start has failed.
    fn give_up(&self, target: &Arc<Target>) {
        let serving = lock(&self.serving).take();
        if self.adopted {
            // Its monitor takes one connection.
            drop(lock(&self.runner).take());
            if let Some(serving) = serving {
                target.keep_serving(serving);
            }
            lock(&self.leases).clear();
            return;
        }
        if let Err(error) = self.runner().and_then(|runner| runner.end()) {
            tracing::error!(target = target.name, %error, "QEMU does not end");
        }
        if let Some(serving) = serving {
            serving.stop(NBD_STOP_MAX);
        }
        lock(&self.leases).clear();
        // If it has written it was booted all the same.
        if self.has_run(target) && matches!(target.shared.launcher.find(&target.run_dir()), Ok(None)) {
            // A failure was logged.
            let _ = target.note_lost(Some(self.branch), Lost::Unseen);
        }
        forget_attempt(target);
    }

    /// Handles a defect in supervising it: from then on it counts as left running, with its disks served, and is
    /// adopted again if it runs.
    fn lose(&self, target: &Arc<Target>, why: &Error) {
        tracing::error!(target = target.name, error = %why, "the machine is not supervised any more");
        // Its monitor takes one connection.
        let runner = lock(&self.runner).take();
        drop(runner);
        let serving = lock(&self.serving).take();
        *lock(&self.ended) = Some(Ended::Lost(why.failure()));
        let has_left = target.leave_machine(self, why, serving);
        lock(&self.leases).clear();
        if has_left {
            // It may have ended with what supervised it.
            target.look_for_machine();
        }
        self.fail_start(why);
        target.stopped.notify_all();
    }

    /// Tells whoever waits for its first answer that there will be none.
    fn fail_start(&self, why: &Error) {
        let mut start = lock(&self.start);
        if matches!(*start, Start::Pending) {
            *start = Start::Failed(why.failure());
        }
        drop(start);
        self.start_changed.notify_all();
    }

    /// The answer to `run`.
    pub(crate) fn started(&self) -> Started {
        lock(&self.kept).started.clone()
    }

    /// The program that runs it.
    ///
    /// # Errors
    /// When it is no longer supervised.
    pub(crate) fn runner(&self) -> Result<Arc<dyn Runner>> {
        lock(&self.runner).clone().ok_or(Error::ManagerGone)
    }

    /// Notes that the coming stop was requested, and that its process is ended: by `force` or after a `deadline`.
    pub(crate) fn force_stop(&self, how: &'static str) {
        lock(&self.stop_asked).how = Some(how);
    }

    /// Notes that the coming stop was requested.
    pub(crate) fn ask_stop(&self) {
        let mut asked = lock(&self.stop_asked);
        asked.callers += 1;
        asked.how.get_or_insert("shutdown");
    }

    /// The number of callers that want it to shut down.
    #[cfg(test)]
    pub(crate) fn stop_callers(&self) -> usize {
        lock(&self.stop_asked).callers
    }

    /// Notes that a caller of [`Machine::ask_stop`] no longer wants it to stop.
    pub(crate) fn take_back_stop(&self) {
        let mut asked = lock(&self.stop_asked);
        asked.callers = asked.callers.saturating_sub(1);
        if asked.callers == 0 {
            asked.how.take_if(|how| *how == "shutdown");
        }
    }

    fn phase(&self) -> Option<Phase> {
        lock(&self.runner).as_ref().map(|runner| runner.phase())
    }
}

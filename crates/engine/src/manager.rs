//! The manager: all targets of a store. The modules below handle the requests, by subject.

mod branches;
mod export;
mod history;
mod machines;
mod plan;
mod registry;
pub(crate) mod removed;
mod settings;
mod store;
mod targets;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bygone_store::env::Clock;

use crate::{
    child::Children,
    error::{Error, Result},
    jobs::Jobs,
    outside::{Taken, Tap},
    runner,
    software::Watching,
    store_dir::{StoreLock, StorePaths},
    target::{Shared, Target, lock},
};

pub(crate) use self::machines::{ADOPT_EVERY, stop_machine};
use self::registry::{Held, Registry};

/// How often a waiting caller is asked whether it still wants the answer.
const WANTED_EVERY: Duration = Duration::from_millis(200);

/// See the module's comment.
pub(crate) struct Manager {
    shared: Arc<Shared>,
    registry: Registry,
    /// Targets are opened in the background; otherwise a request opens the targets that it needs.
    serves: bool,
    /// Held from the check that disks outside the store are free until the registry has them as those of a new target.
    taking_disks: Mutex<()>,
    /// Held from when a removed target is looked up until its folder is moved back.
    restoring: Mutex<()>,
    stopping: AtomicBool,
    pub(crate) keep_targets: AtomicBool,
    lock: StoreLock,
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manager").field("paths", &self.shared.paths).finish_non_exhaustive()
    }
}

impl Manager {
    /// Opens a store for one request: a target is opened on first use.
    ///
    /// # Errors
    /// When there is no store that this program can use, or another process has it open.
    pub(crate) fn open(paths: &StorePaths) -> Result<Arc<Manager>> {
        Manager::open_shared(Shared::new(paths, Arc::new(runner::Qemu::default())), false)
    }

    /// Opens a store to serve it. The caller opens its targets, with [`Manager::open_all`].
    ///
    /// # Errors
    /// As [`Manager::open`].
    pub(crate) fn open_to_serve(paths: &StorePaths) -> Result<Arc<Manager>> {
        Manager::open_shared(Shared::new(paths, Arc::new(runner::Qemu::default())), true)
    }

    /// Opens a store with a given [`Shared`].
    ///
    /// # Errors
    /// As [`Manager::open`].
    pub(crate) fn open_shared(shared: Arc<Shared>, serves: bool) -> Result<Arc<Manager>> {
        shared.paths.check()?;
        let store_lock = shared.paths.lock()?;
        Ok(Arc::new(Manager {
            registry: {
                let registry = Registry::new(&shared, serves);
                shared.jobs.load(&shared.paths);
                registry
            },
            serves,
            shared,
            taking_disks: Mutex::default(),
            restoring: Mutex::default(),
            stopping: AtomicBool::new(false),
            keep_targets: AtomicBool::new(false),
            lock: store_lock,
        }))
    }

    /// Opens all targets, several at once. If one cannot be opened, the others are.
    pub(crate) fn open_all(&self) {
        self.registry.open_all(&|| self.is_stopping());
    }

    /// All usable targets; waits until all are open.
    ///
    /// # Errors
    /// [`Error::ManagerEnding`] when some are not open, and are not opened any more.
    pub(crate) fn targets(&self) -> Result<Vec<Arc<Target>>> {
        self.open_all();
        // In this order: what is opened in between is among those that are served.
        if self.is_stopping() && !self.registry.opening().is_empty() {
            return Err(Error::ManagerEnding);
        }
        Ok(self.registry.served())
    }

    /// The targets that are open and usable now.
    #[must_use]
    pub(crate) fn served(&self) -> Vec<Arc<Target>> {
        self.registry.served()
    }

    /// What belongs to the store and to the targets.
    ///
    /// # Errors
    /// When it cannot be told which disks a target has.
    fn taken(&self) -> Result<Taken> {
        let (taps, all) = self.registry.taps();
        all?;
        Ok(Taken::new(self.paths(), taps))
    }

    /// As [`Manager::taken`], as far as that can be told: for what overwrites nothing.
    fn known_taken(&self) -> Taken {
        Taken::new(self.paths(), self.registry.taps().0)
    }

    /// Takes disks outside the store for a target that is being added.
    ///
    /// # Errors
    /// When a target has one of them, or one is in the store's folder.
    fn take_disks(&self, held: &Held<'_>, disks: &[Tap]) -> Result<()> {
        if disks.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = lock(&self.taking_disks);
        let mut taken = self.taken()?;
        for disk in disks {
            taken.check_not_taken(&disk.path)?;
            taken.add(disk.clone());
        }
        held.takes(disks.to_vec());
        Ok(())
    }

    pub(crate) fn jobs(&self) -> &Jobs {
        &self.shared.jobs
    }

    /// The part of the store that the logs of all targets share.
    pub(crate) fn logs(&self) -> &bygone_store::Store {
        &self.shared.options.store
    }

    /// Whether some targets are still being opened. Always false if this manager does not serve.
    #[must_use]
    pub(crate) fn is_opening(&self) -> bool {
        self.serves && !self.registry.opening().is_empty()
    }

    /// The target of this name.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub(crate) fn target(&self, name: &str) -> Result<Arc<Target>> {
        self.registry.find(name)
    }

    #[must_use]
    pub(crate) fn paths(&self) -> &StorePaths {
        &self.shared.paths
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.shared.clock
    }

    /// The processes that look at disks.
    pub(crate) fn children(&self) -> &Arc<Children> {
        &self.shared.children
    }

    /// The threads that notice what is installed on its machines.
    pub(crate) fn watching(&self) -> &Watching {
        &self.shared.watching
    }

    pub(crate) fn nbd(&self) -> &bygone_block::nbd::Server {
        &self.shared.nbd
    }

    /// Whether the manager was asked to end, or is ending.
    #[must_use]
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Asks the manager to end; with `keep_targets`, machines go on running.
    pub(crate) fn stop(&self, keep_targets: bool) {
        self.keep_targets.store(keep_targets, Ordering::Release);
        self.begin_stopping();
    }

    /// As [`Manager::stop`], whatever becomes of the machines.
    pub(crate) fn begin_stopping(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.shared.close_gate();
    }

    /// As [`Manager::begin_stopping`], unless it is busy. Asked with the gate for machines closed: nobody can start one
    /// between the question and the end.
    pub(crate) fn stop_if_idle(&self, is_busy: &dyn Fn() -> bool) {
        self.shared.close_gate();
        if !is_busy() {
            self.begin_stopping();
            return;
        }
        self.shared.open_gate();
        // A client may have asked it to end meanwhile, and closed the gate for good.
        if self.is_stopping() {
            self.shared.close_gate();
        }
    }

    /// Whether no machine is started or adopted any more.
    #[must_use]
    pub(crate) fn is_gate_closed(&self) -> bool {
        self.shared.is_gate_closed()
    }

    /// Whether the calls in progress are to end.
    #[must_use]
    pub(crate) fn is_closing(&self) -> bool {
        self.shared.is_closing()
    }

    /// Ends the calls in progress, and the threads that read and fill disks.
    pub(crate) fn begin_closing(&self) {
        self.shared.begin_closing();
        for target in self.served() {
            target.begin_closing();
        }
    }

    /// Marks the store's lock as held for an export, which lasts until its user ends it. Any other process that wants
    /// the store is told so at once.
    pub(crate) fn says_it_exports(&self) {
        self.lock.exports();
    }

    /// Marks the store's lock as held only until this process has ended. Whoever wants the store waits for that.
    pub(crate) fn says_it_ends(&self) {
        self.lock.ends();
    }

    /// Whether a machine runs, a disk or a past moment of one is open, or a thread works on one.
    #[must_use]
    pub(crate) fn is_busy(&self) -> bool {
        self.served().iter().any(|target| target.is_busy())
    }
}

#[cfg(test)]
mod tests;

//! The manager: all targets of a store. What is asked of it is handled in the modules below this one, by subject.

mod branches;
mod export;
mod history;
mod machines;
mod plan;
mod registry;
pub(crate) mod removed;
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
    error::Result,
    jobs::Jobs,
    runner,
    store_dir::{StoreLock, StorePaths},
    target::{Shared, Target},
};

pub(crate) use self::machines::stop_machine;
use self::registry::Registry;

/// How often somebody who waits is asked whether they still do.
const WANTED_EVERY: Duration = Duration::from_millis(200);

/// See the module's comment.
pub(crate) struct Manager {
    shared: Arc<Shared>,
    registry: Registry,
    /// Targets are opened in the background; else whoever needs all of them opens them.
    serves: bool,
    /// Held from looking whose a disk outside the store is until it is a target's.
    taking_disks: Mutex<()>,
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
    /// Opens a store for one request: a target is opened when it is asked for.
    ///
    /// # Errors
    /// When there is no store that this program can use, or another process has it.
    pub(crate) fn open(paths: &StorePaths) -> Result<Arc<Manager>> {
        Manager::open_shared(Shared::new(paths, Arc::new(runner::Qemu::default())), false)
    }

    /// Opens a store to serve it: whoever calls opens its targets, with [`Manager::open_all`].
    ///
    /// # Errors
    /// As [`Manager::open`].
    pub(crate) fn open_to_serve(paths: &StorePaths) -> Result<Arc<Manager>> {
        Manager::open_shared(Shared::new(paths, Arc::new(runner::Qemu::default())), true)
    }

    /// The same, with what its targets share.
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
            stopping: AtomicBool::new(false),
            keep_targets: AtomicBool::new(false),
            lock: store_lock,
        }))
    }

    /// Opens all targets, several at once. One that cannot be opened does not keep the others from it.
    pub(crate) fn open_all(&self) {
        self.registry.open_all(&|| self.is_stopping());
    }

    /// All targets that can be used; waits until all are open.
    #[must_use]
    pub(crate) fn targets(&self) -> Vec<Arc<Target>> {
        self.open_all();
        self.registry.served()
    }

    /// All targets that can be used by now.
    #[must_use]
    pub(crate) fn served(&self) -> Vec<Arc<Target>> {
        self.registry.served()
    }

    /// What is being done, and was.
    pub(crate) fn jobs(&self) -> &Jobs {
        &self.shared.jobs
    }

    /// What the logs of all targets have in common.
    pub(crate) fn logs(&self) -> &bygone_store::Store {
        &self.shared.options.store
    }

    /// Some targets are still being opened.
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

    /// Where the store is.
    #[must_use]
    pub(crate) fn paths(&self) -> &StorePaths {
        &self.shared.paths
    }

    /// Tells the time.
    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.shared.clock
    }

    /// Serves disks.
    pub(crate) fn nbd(&self) -> &bygone_block::nbd::Server {
        &self.shared.nbd
    }

    /// The manager is about to end.
    #[must_use]
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Asks the manager to end.
    pub(crate) fn stop(&self, keep_targets: bool) {
        self.keep_targets.store(keep_targets, Ordering::Release);
        self.stopping.store(true, Ordering::Release);
    }

    /// It is there for an export, as long as somebody likes; whoever else wants the store is told so.
    pub(crate) fn says_it_exports(&self) {
        self.lock.exports();
    }

    /// Something runs or is being read.
    #[must_use]
    pub(crate) fn is_busy(&self) -> bool {
        self.served().iter().any(|target| target.is_busy())
    }
}

#[cfg(test)]
mod tests;

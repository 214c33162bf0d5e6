//! Which targets a store has, by name.
//!
//! Invariants: a name stands for at most one target, from the moment at which it begins to be added until it has gone; one thread
//! at a time opens a target, and whoever asks for it meanwhile waits for that one only; a target that cannot be used keeps its name
//! and everything that is stored of it, and keeps no other from being used.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use bygone_model::Micros;

use crate::{
    error::{Error, Result},
    lifecycle::{Change, Doing},
    target::{Shared, Target, lock},
};

/// So many targets are opened at once: opening one waits for the medium more than it computes.
const OPENERS: std::ops::RangeInclusive<usize> = 2..=16;

enum Slot {
    /// It is being added, or repaired.
    Adding(Doing),
    /// It is there, and nobody has opened it yet.
    Closed,
    /// Somebody opens it; the time before, if there was one, it could not be.
    Opening(Option<Arc<Error>>),
    Served(Arc<Target>),
    /// It is there, and cannot be opened.
    Unavailable(Arc<Error>),
}

type Slots = BTreeMap<String, Slot>;

/// See the module's comment.
pub(super) struct Registry {
    shared: Arc<Shared>,
    slots: Mutex<Slots>,
    changed: Condvar,
    /// The folder of all targets cannot be read.
    folder: Mutex<Option<Arc<Error>>>,
    /// The disks of machines that were left running are served as soon as their target is open.
    serves: bool,
}

impl Registry {
    /// Looks for the targets of a store. Each is opened when it is asked for, or by [`Registry::open_all`].
    pub(super) fn new(shared: &Arc<Shared>, serves: bool) -> Registry {
        shared.paths.forget_unfinished();
        let registry = Registry {
            shared: shared.clone(),
            slots: Mutex::default(),
            changed: Condvar::new(),
            folder: Mutex::default(),
            serves,
        };
        registry.look_again();
        registry
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        lock(&self.slots)
    }

    fn wait<'a>(&self, slots: MutexGuard<'a, Slots>) -> MutexGuard<'a, Slots> {
        self.changed.wait(slots).unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, name: &str, slot: Slot) {
        self.slots().insert(name.to_owned(), slot);
        self.changed.notify_all();
    }

    /// Finds the targets whose folders are there and that nobody knows yet.
    fn look_again(&self) {
        match self.shared.paths.targets() {
            Ok(names) => {
                let mut slots = self.slots();
                *lock(&self.folder) = None;
                for name in names {
                    slots.entry(name).or_insert(Slot::Closed);
                }
            }
            Err(error) => {
                if self.serves {
                    tracing::error!(%error, "the targets cannot be looked for");
                }
                *lock(&self.folder) = Some(Arc::new(error));
            }
        }
    }

    /// Opens every target that nobody has opened yet, several at once, and waits for those that others open. `stop` ends it early.
    pub(super) fn open_all(&self, stop: &(dyn Fn() -> bool + Sync)) {
        let mut waiting: Vec<String> = self
            .slots()
            .iter()
            .filter(|(_, slot)| matches!(slot, Slot::Closed))
            .map(|(name, _)| name.clone())
            .collect();
        // From the end; a machine that was left running stands still until its disks are served.
        waiting.sort_by_cached_key(|name| self.shared.paths.run_dir(name).exists());
        let openers = std::thread::available_parallelism().map_or(1, |n| n.get() * 2);
        let openers = openers.clamp(*OPENERS.start(), *OPENERS.end()).min(waiting.len());
        let waiting = Mutex::new(waiting);
        let open_each = || {
            while !stop() {
                let Some(name) = lock(&waiting).pop() else { break };
                let mut slots = self.slots();
                if let Some(slot @ Slot::Closed) = slots.get_mut(&name) {
                    *slot = Slot::Opening(None);
                    drop(slots);
                    self.open(&name);
                }
            }
        };
        std::thread::scope(|threads| {
            for _ in 1..openers {
                // Without more threads it takes longer, and no more.
                let _ = std::thread::Builder::new().name("open".into()).spawn_scoped(threads, open_each);
            }
            open_each();
        });
        let mut slots = self.slots();
        while !stop() && slots.values().any(|slot| matches!(slot, Slot::Opening(_))) {
            slots = self.wait(slots);
        }
    }

    /// Opens a target whose slot is [`Slot::Opening`].
    fn open(&self, name: &str) {
        // Whoever waits for it, and whoever opens the others, must not go down with it.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let target = Target::open(&self.shared, name)?;
            self.shared.jobs.settle(&target);
            target.look_for_machine();
            if self.serves {
                target.serve_left_early();
                for (place, damage) in target.log.damage_at_open() {
                    tracing::error!(target = name, %place, %damage, "damaged");
                }
            }
            Ok(target)
        }));
        let slot = match opened.unwrap_or(Err(Error::Panicked { what: "opening it" })) {
            Ok(target) => Slot::Served(target),
            Err(error) => {
                // Without a manager, whoever asked is told.
                if self.serves {
                    tracing::error!(target = name, %error, "the target cannot be opened");
                }
                Slot::Unavailable(Arc::new(error))
            }
        };
        self.put(name, slot);
    }

    /// The names of the targets that were not opened yet.
    pub(super) fn opening(&self) -> Vec<String> {
        let opening = |slot: &Slot| matches!(slot, Slot::Closed | Slot::Opening(None));
        self.slots().iter().filter(|(_, slot)| opening(slot)).map(|(name, _)| name.clone()).collect()
    }

    /// All targets that can be used by now.
    pub(super) fn served(&self) -> Vec<Arc<Target>> {
        let served = |slot: &Slot| match slot {
            Slot::Served(target) => Some(target.clone()),
            _ => None,
        };
        self.slots().values().filter_map(served).collect()
    }

    /// The target of this name; waits until it is open. One that could not be opened is tried again: what was missing may be back.
    ///
    /// # Errors
    /// When there is none, it is just being added, or it cannot be opened.
    pub(super) fn find(&self, name: &str) -> Result<Arc<Target>> {
        if lock(&self.folder).is_some() {
            self.look_again();
        }
        let mut slots = self.slots();
        loop {
            match slots.get_mut(name) {
                Some(Slot::Opening(_)) => slots = self.wait(slots),
                Some(slot @ (Slot::Closed | Slot::Unavailable(_))) => {
                    *slot = Slot::Opening(slot.why());
                    drop(slots);
                    self.open(name);
                    slots = self.slots();
                    break;
                }
                _ => break,
            }
        }
        match slots.get(name) {
            Some(Slot::Served(target)) => Ok(target.clone()),
            Some(Slot::Adding(doing)) => Err(Error::busy(name, *doing)),
            Some(slot) => match slot.why() {
                Some(why) => Err(Error::Unavailable { name: name.to_owned(), why }),
                // It was forgotten and found again meanwhile.
                None => Err(Error::NoTarget(name.to_owned())),
            },
            None => match &*lock(&self.folder) {
                Some(why) => Err(Error::Unavailable { name: name.to_owned(), why: why.clone() }),
                None => Err(Error::NoTarget(name.to_owned())),
            },
        }
    }

    /// What cannot be used, and why.
    pub(super) fn unavailable(&self) -> Vec<(String, Arc<Error>)> {
        self.slots().iter().filter_map(|(name, slot)| Some((name.clone(), slot.why()?))).collect()
    }

    /// Why the targets cannot even be looked for.
    pub(super) fn folder_trouble(&self) -> Option<Arc<Error>> {
        lock(&self.folder).clone()
    }

    /// Takes a name for a target that `make` makes, and serves it. Nobody else gets the name meanwhile.
    ///
    /// # Errors
    /// When the name is taken, or `make` fails. Then the name is free again.
    pub(super) fn add(
        &self,
        name: &str,
        since: Micros,
        make: impl FnOnce() -> Result<Arc<Target>>,
    ) -> Result<Arc<Target>> {
        {
            let mut slots = self.slots();
            match slots.get(name) {
                Some(Slot::Adding(doing)) => return Err(Error::busy(name, *doing)),
                Some(_) => return Err(Error::TargetExists(name.to_owned())),
                None => {}
            }
            slots.insert(name.to_owned(), Slot::Adding(Doing { change: Change::Add, since }));
        }
        let made = make();
        match &made {
            Ok(target) => self.put(name, Slot::Served(target.clone())),
            Err(_) => self.forget(name),
        }
        made
    }

    /// Opens a target again that was left alone half-way.
    pub(super) fn reopen(&self, name: &str) {
        self.put(name, Slot::Opening(None));
        self.open(name);
    }

    /// Repairs what cannot be used. Nobody tries to open it meanwhile.
    ///
    /// # Errors
    /// When it is being repaired already, or `repair` fails.
    pub(super) fn repair<T>(
        &self,
        name: &str,
        since: Micros,
        repair: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let mut slots = self.slots();
        while matches!(slots.get(name), Some(Slot::Opening(_))) {
            slots = self.wait(slots);
        }
        let why = match slots.get_mut(name) {
            Some(slot @ Slot::Unavailable(_)) => {
                let why = slot.why();
                *slot = Slot::Adding(Doing { change: Change::Repair, since });
                why
            }
            Some(Slot::Adding(doing)) => return Err(Error::busy(name, *doing)),
            _ => return Err(Error::NoTarget(name.to_owned())),
        };
        drop(slots);
        let repaired = repair();
        self.put(name, why.map_or(Slot::Closed, Slot::Unavailable));
        repaired
    }

    /// Forgets a name; the target has gone, or its folder has.
    pub(super) fn forget(&self, name: &str) {
        self.slots().remove(name);
        self.changed.notify_all();
    }
}

impl Slot {
    /// Why it cannot be used.
    fn why(&self) -> Option<Arc<Error>> {
        match self {
            Slot::Unavailable(why) => Some(why.clone()),
            Slot::Opening(why) => why.clone(),
            _ => None,
        }
    }
}

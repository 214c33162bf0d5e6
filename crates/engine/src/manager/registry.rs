//! The targets of a store, by name.
//!
//! Invariants: a name belongs to at most one target, from when adding it begins until it is removed; one thread at a
//! time opens a target, and a request for it waits for that thread only; a target that cannot be opened keeps its name
//! and all of its data, and does not affect the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use bygone_model::Micros;

use crate::{
    config::TargetConfig,
    error::{Error, Result, or_panicked},
    lifecycle::{Change, Doing},
    outside::Tap,
    store_dir::Configs,
    target::{Shared, Target, lock},
};

/// How many targets are opened at once: opening one is bound by the medium more than by the processor.
const OPENERS: std::ops::RangeInclusive<usize> = 2..=16;

enum Slot {
    /// Being added, repaired or, unopened, removed: see [`Held`]. With the disks outside the store that it has taken,
    /// while it is added.
    Held(Doing, Vec<Tap>),
    /// Not opened yet.
    Closed,
    /// Being opened; with the error of the last attempt, if that failed.
    Opening(Option<Arc<Error>>),
    Served(Arc<Target>),
    /// Opening it failed; the next request retries.
    Unavailable(Arc<Error>),
}

type Slots = BTreeMap<String, Slot>;

/// See the module's comment.
pub(super) struct Registry {
    shared: Arc<Shared>,
    slots: Mutex<Slots>,
    changed: Condvar,
    /// Why the folder of all targets cannot be read.
    folder: Mutex<Option<Arc<Error>>>,
    /// The names of the targets that were added or restored under this manager, whether or not they could be opened at
    /// once: it does not start them by itself.
    added: Mutex<BTreeSet<String>>,
    /// For a serving manager, which serves the disks of a machine that was left running as soon as its target is open,
    /// and logs errors.
    serves: bool,
}

impl Registry {
    /// Finds the targets of a store. Each is opened on first use, or by [`Registry::open_all`].
    pub(super) fn new(shared: &Arc<Shared>, serves: bool) -> Registry {
        shared.paths.forget_unfinished();
        let registry = Registry {
            shared: shared.clone(),
            slots: Mutex::default(),
            changed: Condvar::new(),
            folder: Mutex::default(),
            added: Mutex::default(),
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

    /// Adds the targets whose folders are new to the registry.
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

    /// Opens all targets that are not opened yet, several at once, and waits for those that other threads open. Ends
    /// early once `stop` returns true.
    pub(super) fn open_all(&self, stop: &(dyn Fn() -> bool + Sync)) {
        let mut waiting: Vec<String> = self
            .slots()
            .iter()
            .filter(|(_, slot)| matches!(slot, Slot::Closed))
            .map(|(name, _)| name.clone())
            .collect();
        // They are taken from the end: first those whose machine may have been left running, which stands still until
        // its disks are served.
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
                // With fewer threads it only takes longer.
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
        // A panic must not reach the threads that wait for it or open the others.
        let opened = or_panicked("opening it", || {
            let target = Target::open(&self.shared, name)?;
            if lock(&self.added).contains(name) {
                target.note_added();
            }
            // In this order: the boot and the stop of a machine that ended unsupervised are what a job had changed.
            target.look_for_machine();
            target.note_opened();
            self.shared.jobs.settle(&target);
            if self.serves {
                target.serve_left_early();
                for (place, damage) in target.log.damage_at_open() {
                    tracing::error!(target = name, %place, %damage, "damaged");
                }
            }
            Ok(target)
        });
        let slot = match opened {
            Ok(target) => Slot::Served(target),
            Err(error) => {
                // Without a serving manager, the request reports it.
                if self.serves {
                    tracing::error!(target = name, %error, "the target cannot be opened");
                }
                Slot::Unavailable(Arc::new(error))
            }
        };
        self.put(name, slot);
    }

    /// The names of the targets that are not open yet, except for retries.
    pub(super) fn opening(&self) -> Vec<String> {
        let opening = |slot: &Slot| matches!(slot, Slot::Closed | Slot::Opening(None));
        self.slots().iter().filter(|(_, slot)| opening(slot)).map(|(name, _)| name.clone()).collect()
    }

    /// The targets that are open.
    pub(super) fn served(&self) -> Vec<Arc<Target>> {
        let served = |slot: &Slot| match slot {
            Slot::Served(target) => Some(target.clone()),
            _ => None,
        };
        self.slots().values().filter_map(served).collect()
    }

    /// The target of this name; waits until it is open. If opening it failed before, tries again: what was missing may
    /// be back.
    ///
    /// # Errors
    /// When there is none, it is held for a change, or it cannot be opened.
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
            Some(Slot::Held(doing, _)) => Err(Error::busy(name, *doing)),
            Some(slot) => match slot.why() {
                Some(why) => Err(Error::Unavailable { name: name.to_owned(), why }),
                // It was removed and found again meanwhile.
                None => Err(Error::NoTarget(name.to_owned())),
            },
            None => Err(self.unknown(name)),
        }
    }

    /// The targets that cannot be opened, and why.
    pub(super) fn unavailable(&self) -> Vec<(String, Arc<Error>)> {
        self.slots().iter().filter_map(|(name, slot)| Some((name.clone(), slot.why()?))).collect()
    }

    /// Why the folder of all targets cannot be read.
    pub(super) fn folder_trouble(&self) -> Option<Arc<Error>> {
        lock(&self.folder).clone()
    }

    /// Reserves a name for a target that `make` creates, and serves it.
    ///
    /// # Errors
    /// When the name is taken, or `make` fails. Then the name is free again, unless `make` has given the target its
    /// folder: then the target is unavailable, and the error is [`Error::Partly`].
    pub(super) fn add(
        &self,
        name: &str,
        since: Micros,
        make: impl FnOnce(&Held<'_>) -> Result<Arc<Target>>,
    ) -> Result<Arc<Target>> {
        let mut held = {
            let mut slots = self.slots();
            match slots.get(name) {
                Some(Slot::Held(doing, _)) => return Err(Error::busy(name, *doing)),
                Some(_) => return Err(Error::TargetExists(name.to_owned())),
                None => {}
            }
            slots.insert(name.to_owned(), Slot::Held(Doing { change: Change::Adding, since }, Vec::new()));
            Held { registry: self, name: name.to_owned(), then: None }
        };
        lock(&self.added).insert(name.to_owned());
        let dir = self.shared.paths.target_dir(name);
        let was_there = dir.exists();
        let target = match make(&held) {
            Ok(target) => target,
            // The next request tries to open it.
            Err(why) if !was_there && dir.exists() => {
                held.then = Some(Slot::Unavailable(Arc::new(Error::Told(why.failure()))));
                let done = format!("target {name} is in the store");
                return Err(Error::Partly { done, why: Box::new(why) });
            }
            Err(why) => return Err(why),
        };
        target.note_added();
        held.then = Some(Slot::Served(target.clone()));
        Ok(target)
    }

    /// Opens a target again after its removal failed.
    pub(super) fn reopen(&self, target: &Target) {
        self.put(&target.name, Slot::Opening(None));
        self.open(&target.name);
    }

    /// Holds a target that cannot be opened for a change; waits until no other thread is opening it. `None` if it is
    /// open by now.
    ///
    /// # Errors
    /// When there is none, or it is held already.
    pub(super) fn hold_unopened(
        &self,
        name: &str,
        change: Change,
        since: Micros,
    ) -> Result<Option<Held<'_>>> {
        let mut slots = self.slots();
        while matches!(slots.get(name), Some(Slot::Opening(_))) {
            slots = self.wait(slots);
        }
        match slots.get_mut(name) {
            Some(slot @ (Slot::Unavailable(_) | Slot::Closed)) => {
                let was = std::mem::replace(slot, Slot::Held(Doing { change, since }, Vec::new()));
                Ok(Some(Held { registry: self, name: name.to_owned(), then: Some(was) }))
            }
            Some(Slot::Held(doing, _)) => Err(Error::busy(name, *doing)),
            Some(Slot::Served(_) | Slot::Opening(_)) => Ok(None),
            None => Err(self.unknown(name)),
        }
    }

    /// The disks outside the store of all targets, whether or not they are open, and of those that are being added; and
    /// [`Error::DisksUnknown`] if those of a target are missing, which is not open and whose configuration cannot be
    /// read.
    pub(super) fn taps(&self) -> (Vec<Tap>, Result<()>) {
        if lock(&self.folder).is_some() {
            self.look_again();
        }
        let mut all = match self.folder_trouble() {
            Some(why) => Err(Error::DisksUnknown { name: None, why }),
            None => Ok(()),
        };
        let (mut taps, mut open, mut unopened) = (Vec::new(), Vec::new(), Vec::new());
        for (name, slot) in &*self.slots() {
            match slot {
                Slot::Served(target) => open.push(target.clone()),
                Slot::Held(doing, taken) if doing.change == Change::Adding => taps.extend_from_slice(taken),
                _ => unopened.push(name.clone()),
            }
        }
        for name in unopened {
            let dir = self.shared.paths.target_dir(&name);
            let why = match Configs::of(&dir, &name).load_of_any() {
                Ok(config) => {
                    taps.extend(Tap::all_of(&TargetConfig { name, ..config }));
                    continue;
                }
                Err(why) => why,
            };
            match self.slots().get(&name) {
                Some(Slot::Served(target)) => open.push(target.clone()),
                // Its folder was moved, and it has no disks any more.
                Some(Slot::Held(doing, _)) if doing.change == Change::Removing && !dir.exists() => {}
                Some(_) if all.is_ok() => {
                    all = Err(Error::DisksUnknown { name: Some(name), why: Arc::new(why) });
                }
                // One that is unknown is enough to refuse, and one without a slot was removed meanwhile.
                _ => {}
            }
        }
        // Without the lock of the slots, which every request needs: a configuration is locked while it is written.
        taps.extend(open.iter().flat_map(|target| Tap::all_of(&target.config())));
        (taps, all)
    }

    /// The error for a name that no target has.
    fn unknown(&self, name: &str) -> Error {
        match &*lock(&self.folder) {
            Some(why) => Error::Unavailable { name: name.to_owned(), why: why.clone() },
            None => Error::NoTarget(name.to_owned()),
        }
    }

    /// Makes a name free, after its target was removed or could not be added.
    pub(super) fn forget(&self, name: &str) {
        self.slots().remove(name);
        self.changed.notify_all();
    }
}

/// A name that is held for a change of its target, which no request opens or finds meanwhile. When this is dropped, the
/// target is again what it was before: nothing, if it was to be added.
pub(super) struct Held<'a> {
    registry: &'a Registry,
    name: String,
    /// The slot from then on; `None`: the name is free.
    then: Option<Slot>,
}

impl Held<'_> {
    /// Notes the disks outside the store that the target takes which is being added.
    pub(super) fn takes(&self, taps: Vec<Tap>) {
        if let Some(Slot::Held(_, taken)) = self.registry.slots().get_mut(&self.name) {
            taken.extend(taps);
        }
    }

    /// Makes the name free: its target was removed.
    pub(super) fn forget(mut self) {
        self.then = None;
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        match self.then.take() {
            Some(slot) => self.registry.put(&self.name, slot),
            None => self.registry.forget(&self.name),
        }
    }
}

impl Slot {
    /// The error of the last attempt to open it.
    fn why(&self) -> Option<Arc<Error>> {
        match self {
            Slot::Unavailable(why) => Some(why.clone()),
            Slot::Opening(why) => why.clone(),
            _ => None,
        }
    }
}

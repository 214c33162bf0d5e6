//! Which targets a store has, by name.
//!
//! Invariants: a name stands for at most one target, from the moment at which it begins to be added until it has gone; a target that
//! cannot be used keeps its name and everything that is stored of it, and keeps no other from being used.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use bygone_model::Micros;

use crate::{
    error::{Error, Result},
    lifecycle::{Change, Doing},
    target::{Shared, Target, lock},
};

enum Slot {
    /// It is being added.
    Adding(Doing),
    Served(Arc<Target>),
    /// It is there, and cannot be opened.
    Unavailable(Arc<Error>),
}

/// See the module's comment.
pub(super) struct Registry {
    shared: Arc<Shared>,
    slots: RwLock<BTreeMap<String, Slot>>,
    /// The folder of all targets cannot be read.
    folder: Mutex<Option<Arc<Error>>>,
    /// One thread at a time tries to open what could not be opened.
    opening: Mutex<()>,
}

impl Registry {
    /// Opens all targets of a store. What cannot be opened is tried again when it is asked for.
    pub(super) fn open(shared: &Arc<Shared>) -> Registry {
        shared.paths.forget_unfinished();
        let registry = Registry {
            shared: shared.clone(),
            slots: RwLock::default(),
            folder: Mutex::default(),
            opening: Mutex::default(),
        };
        registry.look_again();
        registry
    }

    fn slots(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Slot>> {
        self.slots.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<String, Slot>> {
        self.slots.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the targets whose folders are there and that nobody knows yet.
    fn look_again(&self) {
        let _turn = lock(&self.opening);
        match self.shared.paths.targets() {
            Ok(names) => {
                *lock(&self.folder) = None;
                for name in names {
                    if !self.slots().contains_key(&name) {
                        self.try_open(&name);
                    }
                }
            }
            Err(error) => {
                tracing::error!(%error, "the targets cannot be looked for");
                *lock(&self.folder) = Some(Arc::new(error));
            }
        }
    }

    fn try_open(&self, name: &str) {
        let slot = match Target::open(&self.shared, name) {
            Ok(target) => {
                target.look_for_machine();
                Slot::Served(target)
            }
            Err(error) => {
                tracing::error!(target = name, %error, "the target cannot be opened");
                Slot::Unavailable(Arc::new(error))
            }
        };
        self.slots_mut().insert(name.to_owned(), slot);
    }

    /// All targets that can be used.
    pub(super) fn served(&self) -> Vec<Arc<Target>> {
        let served = |slot: &Slot| match slot {
            Slot::Served(target) => Some(target.clone()),
            _ => None,
        };
        self.slots().values().filter_map(served).collect()
    }

    /// The target of this name. One that could not be opened is tried again: what was missing may be back.
    ///
    /// # Errors
    /// When there is none, it is just being added, or it cannot be opened.
    pub(super) fn find(&self, name: &str) -> Result<Arc<Target>> {
        if lock(&self.folder).is_some() {
            self.look_again();
        }
        if matches!(self.slots().get(name), Some(Slot::Unavailable(_))) {
            let _turn = lock(&self.opening);
            if matches!(self.slots().get(name), Some(Slot::Unavailable(_))) {
                self.try_open(name);
            }
        }
        match self.slots().get(name) {
            Some(Slot::Served(target)) => Ok(target.clone()),
            Some(Slot::Adding(doing)) => Err(Error::busy(name, *doing)),
            Some(Slot::Unavailable(why)) => {
                Err(Error::Unavailable { name: name.to_owned(), why: why.clone() })
            }
            None => match &*lock(&self.folder) {
                Some(why) => Err(Error::Unavailable { name: name.to_owned(), why: why.clone() }),
                None => Err(Error::NoTarget(name.to_owned())),
            },
        }
    }

    /// What cannot be used, and why.
    pub(super) fn unavailable(&self) -> Vec<(String, Arc<Error>)> {
        let why = |(name, slot): (&String, &Slot)| match slot {
            Slot::Unavailable(why) => Some((name.clone(), why.clone())),
            _ => None,
        };
        self.slots().iter().filter_map(why).collect()
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
            let mut slots = self.slots_mut();
            match slots.get(name) {
                Some(Slot::Adding(doing)) => return Err(Error::busy(name, *doing)),
                Some(_) => return Err(Error::TargetExists(name.to_owned())),
                None => {}
            }
            slots.insert(name.to_owned(), Slot::Adding(Doing { change: Change::Add, since }));
        }
        let made = make();
        let mut slots = self.slots_mut();
        match &made {
            Ok(target) => slots.insert(name.to_owned(), Slot::Served(target.clone())),
            Err(_) => slots.remove(name),
        };
        made
    }

    /// Opens a target again that was left alone half-way.
    pub(super) fn reopen(&self, name: &str) {
        let _turn = lock(&self.opening);
        self.try_open(name);
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
        let _turn = lock(&self.opening);
        let doing = Doing { change: Change::Repair, since };
        let before = match self.slots_mut().insert(name.to_owned(), Slot::Adding(doing)) {
            Some(Slot::Unavailable(why)) => Slot::Unavailable(why),
            other => {
                let error = match &other {
                    Some(Slot::Adding(doing)) => Error::busy(name, *doing),
                    _ => Error::NoTarget(name.to_owned()),
                };
                match other {
                    Some(slot) => self.slots_mut().insert(name.to_owned(), slot),
                    None => self.slots_mut().remove(name),
                };
                return Err(error);
            }
        };
        let repaired = repair();
        self.slots_mut().insert(name.to_owned(), before);
        repaired
    }

    /// Forgets a name; the target has gone, or its folder has.
    pub(super) fn forget(&self, name: &str) {
        self.slots_mut().remove(name);
    }
}

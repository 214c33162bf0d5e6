//! Removing targets, restoring removed ones, and repairing damaged configurations.
//!
//! Invariants: a target's folder moves as a whole, by a rename, and nothing is deleted unless a person asked for it. A
//! name is not free before no machine of the removed target runs and its UEFI variables are gone from the machine's
//! folder, which stays, with its console's log, if history is kept. Variables that could be moved nowhere stay in it,
//! and whoever gets the name next sets them aside.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bygone_model::{Kind, Micros};
use bygone_store::{EventOrder, EventQuery, Log, catalog::Keeping};

use super::{Manager, plan::lost_with, store::info, targets::now};
use crate::{
    api::{Items, Nothing, Removed, RemovedInfo, Repaired, TargetInfo, call},
    calls::Handle,
    config::{DiskConfig, TargetConfig, check_name},
    error::{Error, Result},
    lifecycle::{Change, Request},
    outside::Tap,
    store_dir::{Configs, delete_dir, rename_new, sync_dir},
    target::{self, Target, lock, log_id_in},
    timeline, variables,
};

/// How long the removal waits until nothing uses the target.
const LET_GO_MAX: Duration = Duration::from_secs(10);
/// The detail of an event with the target's configuration from then on.
pub(crate) const CONFIG: &str = "config";

impl Handle<call::TargetRemove> for Manager {
    fn handle(&self, call: &call::TargetRemove, answers: &mut dyn Items<Nothing>) -> Result<Removed> {
        match self.target(&call.name) {
            // A target that cannot be opened can be put aside, but not deleted: its content is unknown.
            // Nor can it be compared with a plan.
            Err(Error::Unavailable { why, .. })
                if !call.delete_history && answers.caller().expect.is_none() =>
            {
                self.remove_unopened(&call.name, &why, answers)
            }
            found => self.remove(&found?, call.delete_history, answers),
        }
    }
}

impl Manager {
    /// Removes this target. If another one has its name by now, that one stays.
    ///
    /// # Errors
    /// When it is in use or cannot be moved; [`Error::Partly`] when it is removed and a later step failed.
    pub(super) fn remove(
        &self,
        target: &Arc<Target>,
        delete_history: bool,
        answers: &mut dyn Items<Nothing>,
    ) -> Result<Removed> {
        self.remove_with(target, delete_history, delete_history, answers)
    }

    /// As [`Manager::remove`], of a target whose addition failed: nothing is left of it. The folder of its machine stays,
    /// because no machine of it has run, and what is in there is of an earlier target of this name.
    ///
    /// # Errors
    /// As [`Manager::remove`].
    pub(super) fn take_back(
        &self,
        target: &Arc<Target>,
        answers: &mut dyn Items<Nothing>,
    ) -> Result<Removed> {
        self.remove_with(target, true, false, answers)
    }

    fn remove_with(
        &self,
        target: &Arc<Target>,
        delete_history: bool,
        delete_machine: bool,
        answers: &mut dyn Items<Nothing>,
    ) -> Result<Removed> {
        let name = target.name.as_str();
        let _op = target.begin_change(Change::Removing, Request::Remove)?;
        let lost = lost_with(&target.log.catalog(), delete_history);
        target.check_expected(answers.caller().expect.as_ref(), &lost)?;
        // With the turn held: the look before may be out of date.
        self.check_no_machine(name, None)?;
        wait_until_unused(target)?;
        target.log.flush().inspect_err(|_| target.go_on())?;
        // From here on a remaining holder of the target cannot bring its folder back.
        target.leave_folder();
        let to = match delete_history {
            true => Ok(self.paths().deleting_dir(name, target.log.id())),
            false => {
                self.take_variables_along(name, answers);
                self.place_to_keep(name)
            }
        };
        let moved = to.and_then(|to| rename_new(target.dir(), &to).map(|()| to));
        let to = moved.inspect_err(|_| self.registry.reopen(target))?;
        self.end_removal(name, &to, (delete_history, delete_machine), || self.registry.forget(name))
    }

    /// Puts a target aside that cannot be opened, for this reason.
    ///
    /// # Errors
    /// As [`Manager::remove`].
    pub(super) fn remove_unopened(
        &self,
        name: &str,
        why: &Error,
        answers: &mut dyn Items<Nothing>,
    ) -> Result<Removed> {
        let Some(held) = self.registry.hold_unopened(name, Change::Removing, now())? else {
            // What was missing is back, and another request opened it.
            return self.remove(&self.target(name)?, false, answers);
        };
        self.check_no_machine(name, Some(why.to_string()))?;
        let to = self.place_to_keep(name)?;
        self.take_variables_along(name, answers);
        rename_new(&self.paths().target_dir(name), &to)?;
        self.end_removal(name, &to, (false, false), || held.forget())
    }

    /// Checks that no machine runs in the folder of a target's machine, whether or not it is known to the target.
    pub(super) fn check_no_machine(&self, name: &str, why: Option<String>) -> Result<()> {
        match self.shared.launcher.find(&self.paths().run_dir(name))? {
            Some(pid) => Err(Error::LeftRunning { name: name.to_owned(), pid, why }),
            None => Ok(()),
        }
    }

    /// Checks that no machine runs in the folder of the machine of a target that is being added.
    pub(super) fn check_no_foreign_machine(&self, name: &str) -> Result<()> {
        match self.check_no_machine(name, None) {
            Err(Error::LeftRunning { name, pid, .. }) => Err(Error::ForeignMachine { name, pid }),
            checked => checked,
        }
    }

    /// The place for a removed target whose history is kept.
    fn place_to_keep(&self, name: &str) -> Result<PathBuf> {
        let folder = self.paths().removed_dir();
        fs::create_dir_all(&folder).map_err(|e| Error::file("making", &folder, e))?;
        // Higher than all existing numbers, so that the highest is always the last one removed.
        let newest = self.removed_numbers(name).map(|(number, _)| number).max().unwrap_or(0);
        Ok(folder.join(format!("{name}-{}", newest.saturating_add(1))))
    }

    /// Moves the UEFI variables of a target that is about to be removed into its folder.
    fn take_variables_along(&self, name: &str, answers: &mut dyn Items<Nothing>) {
        let taken = variables::take_along(self.paths(), name, &self.paths().target_dir(name));
        if let Some((at, error)) = taken {
            answers.note(format!("its UEFI variables stay in {}: {}", at.display(), error.failure()));
        }
    }

    /// Does the rest of a removal once the target's folder was moved to `to`: from then on the target is gone. The name
    /// becomes free, with `free_name`, when another target of this name would find nothing of this one any more.
    fn end_removal(
        &self,
        name: &str,
        to: &Path,
        (delete_history, delete_machine): (bool, bool),
        free_name: impl FnOnce(),
    ) -> Result<Removed> {
        let left = if delete_machine { delete_dir(&self.paths().run_dir(name)) } else { Ok(()) };
        let targets = self.paths().target_dir(name);
        let synced = [targets.parent(), to.parent()].into_iter().flatten().try_for_each(sync_dir);
        free_name();
        // Deleted now, it could be back after a power cut, without its content.
        let deleted = if delete_history && synced.is_ok() { delete_dir(to) } else { Ok(()) };
        let kept_at = (!delete_history).then(|| to.to_owned());
        let done = || match &kept_at {
            Some(kept_at) => format!("target {name} was removed; its history is in {}", kept_at.display()),
            None => format!("target {name} was removed"),
        };
        left.and(synced).and(deleted).map_err(|why| Error::Partly { done: done(), why: Box::new(why) })?;
        Ok(Removed { name: name.to_owned(), kept_at })
    }
}

/// Checks that no client uses a target.
///
/// # Errors
/// When one does.
pub(super) fn check_unserved(target: &Target) -> Result<()> {
    if target.is_served() || target.readers() > 0 {
        return Err(Error::Served(target.name.clone()));
    }
    Ok(())
}

/// Stops our own threads on a target and waits until nothing uses it.
fn wait_until_unused(target: &Arc<Target>) -> Result<()> {
    check_unserved(target)?;
    target.begin_closing();
    let end = Instant::now() + LET_GO_MAX;
    while target.is_busy() {
        if Instant::now() > end {
            target.go_on();
            return Err(Error::Served(target.name.clone()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The name that a removed target had whose folder is called so (`web-2`), and the number of the folder; `None` if no
/// folder of a removed target can be called so.
fn of_folder(file_name: &str) -> Option<(&str, u32)> {
    let (name, number) = file_name.rsplit_once('-')?;
    check_name(name).ok()?;
    Some((name, number.parse().ok()?))
}

fn file_name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

impl Manager {
    /// The removed targets: their names, the numbers of their folders, and their folders.
    fn all_removed(&self) -> impl Iterator<Item = (String, u32, PathBuf)> {
        let entries = fs::read_dir(self.paths().removed_dir()).into_iter().flatten().flatten();
        entries.filter_map(|entry| {
            let file_name = entry.file_name();
            let (name, number) = of_folder(file_name.to_str()?)?;
            Some((name.to_owned(), number, entry.path()))
        })
    }

    /// The removed targets of this name: the numbers of their folders, and their folders.
    fn removed_numbers(&self, name: &str) -> impl Iterator<Item = (u32, PathBuf)> {
        self.all_removed().filter_map(move |(had, number, path)| (had == name).then_some((number, path)))
    }

    /// The folder of the removed target that a call means, and the name that it had. The name of a folder (`web-2`)
    /// takes precedence: it is unique, while several removed targets may have had the same name, or a name that looks
    /// like a folder's.
    ///
    /// # Errors
    /// When there is none; [`Error::RemovedTwice`] when another folder has the same log.
    pub(crate) fn removed(&self, call: &call::TargetRestore) -> Result<(PathBuf, String)> {
        let log = match &call.log {
            Some(log) => Some(log.clone()),
            None => log_id_in(&self.removed_called(&call.name)?.0),
        };
        // One without a log is refused when it is opened.
        let Some(log) = log else { return self.removed_called(&call.name) };
        let same = self.all_removed().filter(|(_, _, path)| log_id_in(path).as_ref() == Some(&log));
        let mut same: Vec<_> = same.map(|(had, _, path)| (file_name_of(&path), path, had)).collect();
        match (same.pop(), same.is_empty()) {
            (Some((_, path, had)), true) => Ok((path, had)),
            (None, _) => Err(Error::NotRemoved(call.name.clone())),
            (Some(last), false) => {
                let mut folders: Vec<String> =
                    same.into_iter().chain([last]).map(|(folder, ..)| folder).collect();
                folders.sort();
                Err(Error::RemovedTwice { folders })
            }
        }
    }

    /// Checks that no target in the store has the history that is kept in this folder: the folder would be a copy, and
    /// two targets with one history would be taken for one another.
    ///
    /// # Errors
    /// [`Error::RemovedTwice`] when one has.
    fn check_not_here(&self, from: &Path) -> Result<()> {
        let Some(log) = log_id_in(from) else { return Ok(()) };
        let has_it = |name: &String| log_id_in(&self.paths().target_dir(name)).as_ref() == Some(&log);
        match self.paths().targets()?.into_iter().find(has_it) {
            Some(name) => {
                let folders = vec![file_name_of(from), format!("targets/{name}")];
                Err(Error::RemovedTwice { folders })
            }
            None => Ok(()),
        }
    }

    /// The folder of the removed target of this name, and the name that it had.
    fn removed_called(&self, asked: &str) -> Result<(PathBuf, String)> {
        if let Some((had, _)) = of_folder(asked) {
            let exact = self.paths().removed_dir().join(asked);
            if exact.is_dir() {
                return Ok((exact, had.to_owned()));
            }
        } else {
            check_name(asked)?;
        }
        match self.removed_numbers(asked).max_by_key(|(number, _)| *number) {
            Some((_, path)) => Ok((path, asked.to_owned())),
            None => Err(Error::NotRemoved(asked.to_owned())),
        }
    }
}

impl Handle<call::TargetRemoved> for Manager {
    fn handle(&self, _: &call::TargetRemoved, answers: &mut dyn Items<RemovedInfo>) -> Result<()> {
        let entries = fs::read_dir(self.paths().removed_dir()).into_iter().flatten().flatten();
        let mut kept: Vec<(Micros, RemovedInfo)> =
            entries.filter_map(|entry| kept_as(&entry.path(), &entry.file_name())).collect();
        kept.sort_by(|(one, a), (other, b)| (one, &a.kept_as).cmp(&(other, &b.kept_as)));
        let _ = kept.into_iter().all(|(_, info)| answers.item(info));
        Ok(())
    }
}

impl Manager {
    /// The size of what is kept of removed targets.
    pub(super) fn removed_bytes(&self) -> u64 {
        let entries = fs::read_dir(self.paths().removed_dir()).into_iter().flatten().flatten();
        entries.map(|entry| target::size_in(&entry.path())).sum()
    }
}

/// Describes the removed target in this folder.
fn kept_as(path: &Path, file_name: &OsStr) -> Option<(Micros, RemovedInfo)> {
    let kept_as = file_name.to_str()?.to_owned();
    let (name, _) = of_folder(&kept_as)?;
    // The rename into `removed/` was the last change of the folder itself.
    let meta = fs::metadata(path).ok().filter(fs::Metadata::is_dir)?;
    let removed = Micros(meta.ctime().saturating_mul(1_000_000).saturating_add(meta.ctime_nsec() / 1000));
    let disks = Configs::of(path, name).load_of_any().map(|config| config.disks).unwrap_or_default();
    let info = RemovedInfo {
        name: name.to_owned(),
        removed: timeline::rfc3339(removed),
        used_bytes: target::size_in(path),
        disks,
        kept_as: kept_as.clone(),
    };
    // If it was restored meanwhile, it was read in part, and is no longer removed.
    path.is_dir().then_some((removed, info))
}

impl Handle<call::TargetRestore> for Manager {
    fn handle(&self, call: &call::TargetRestore, answers: &mut dyn Items<Nothing>) -> Result<TargetInfo> {
        let (_, had) = self.removed(call)?;
        let name = call.new_name.clone().unwrap_or_else(|| had.clone());
        check_name(&name)?;
        let to = self.paths().target_dir(&name);
        let mut lasting = Ok(());
        let target = self.registry.add(&name, now(), |held| {
            self.check_no_foreign_machine(&name)?;
            // Two that restore the same target under two names would write its configuration together.
            let one_at_a_time = lock(&self.restoring);
            // Looked up again with the name reserved. Without the id of a log, another target of the name may have been
            // removed since, and the last one counts.
            let (from, still) = self.removed(call)?;
            if still != had {
                return Err(Error::NotRemoved(call.name.clone()));
            }
            self.check_not_here(&from)?;
            let configs = Configs::of(&from, &name);
            let config = configs.load_of_any();
            // Another target may have taken its disks meanwhile.
            let taps = config.as_ref().map(Tap::all_of).unwrap_or_default();
            let of_name = |tap| Tap { target: name.clone(), ..tap };
            self.take_disks(held, &taps.into_iter().map(of_name).collect::<Vec<_>>())?;
            // Before the rename: wherever a crash leaves the folder, it can be restored under any name.
            match config {
                Ok(config) if config.name != name => {
                    configs.save(&TargetConfig { name: name.clone(), ..config })?;
                }
                Ok(_) => {}
                // Fails with the error for a target of this name.
                Err(_) => drop(configs.load()?),
            }
            // Before it has the name, and with it the machine's folder.
            variables::set_strange_aside(&self.paths().run_dir(&name))?;
            rename_new(&from, &to)?;
            drop(one_at_a_time);
            let target = Target::open(&self.shared, &name).inspect_err(|_| {
                // If this fails it is unavailable from now on.
                let _ = rename_new(&to, &from);
            })?;
            lasting = [to.parent(), from.parent()].into_iter().flatten().try_for_each(sync_dir);
            // The start of its machine would do it too.
            if let Err(error) = variables::bring_back(self.paths(), &name, &to) {
                answers.note(format!("its UEFI variables are not back: {}", error.failure()));
            }
            Ok(target)
        })?;
        let noted = if name == had { Ok(()) } else { target.note_name(&had) };
        lasting.and(noted).map_err(|why| {
            let done = format!("target {name} is back");
            Error::Partly { done, why: Box::new(why) }
        })?;
        if had != call.name && self.removed_numbers(&call.name).next().is_some() {
            answers.note(format!(
                "that was {had}, kept as {0}; a target that was called {0} is kept too",
                call.name
            ));
        }
        info(&target)
    }
}

impl Handle<call::TargetRepair> for Manager {
    fn handle(&self, call: &call::TargetRepair, _: &mut dyn Items<Nothing>) -> Result<Repaired> {
        let name = call.name.as_str();
        match self.target(name) {
            Ok(_) => {
                return Err(Error::NothingToRepair(name.to_owned()));
            }
            Err(Error::Unavailable { why, .. }) if matches!(*why, Error::DamagedConfig { .. }) => {}
            Err(error) => return Err(error),
        }
        let held = self.registry.hold_unopened(name, Change::Repairing, now())?;
        // Open by now: another request has repaired it.
        let held = held.ok_or_else(|| Error::NothingToRepair(name.to_owned()))?;
        let from = repair(&self.paths().target_dir(name), name)?;
        drop(held);
        self.target(name)?;
        Ok(Repaired { name: name.to_owned(), from })
    }
}

/// Writes a new configuration; returns a text that says what it was derived from.
fn repair(dir: &Path, name: &str) -> Result<String> {
    let configs = Configs::of(dir, name);
    let log = target::open_log(dir)?;
    let (mut config, from) = match (newest_in_log(&log)?, configs.newest_readable()?) {
        (Some(config), _) => (config, "what its log says of its last settings".to_owned()),
        (None, Some((config, number, newer))) => {
            let lost = format!("{newer} newer of which nothing could be read");
            (config, format!("the older configuration {number:06}.json ({lost})"))
        }
        (None, None) => {
            (TargetConfig::new(name), "its log, with the usual settings; look at them".to_owned())
        }
    };
    name.clone_into(&mut config.name);
    // The log is the authority on which disks exist.
    let mut disks = Vec::new();
    for disk in &log.catalog().disks {
        let said = config.disks.iter().find(|said| said.id == disk.name);
        let path = said.and_then(|said| said.path.clone());
        if disk.keeping == Keeping::Tap && path.is_none() {
            return Err(Error::UnknownDiskPath { disk: disk.name.clone() });
        }
        disks.push(DiskConfig {
            id: disk.name.clone(),
            path: path.filter(|_| disk.keeping == Keeping::Tap),
            block_bytes: disk.block_bytes,
            size_bytes: disk.sectors.bytes(),
        });
    }
    config.disks = disks;
    drop(log);
    configs.save(&config)?;
    Ok(from)
}

/// The newest configuration in the log.
fn newest_in_log(log: &Log) -> Result<Option<TargetConfig>> {
    let mut config = None;
    let query = EventQuery { kinds: &[Kind::Manager], ..EventQuery::default() };
    // Ends at the newest one that can be decoded.
    log.find_events(&query, EventOrder::Newest, 1, &mut |event| {
        let told = event.event.details.get(CONFIG);
        let told = told.and_then(|told| serde_json::from_value(told.clone()).ok());
        let newer = config.as_ref().is_none_or(|(seq, _)| *seq < event.seq);
        if let (true, Some(told)) = (newer, &told) {
            config = Some((event.seq, TargetConfig::clone(told)));
        }
        told.is_some()
    })?;
    Ok(config.map(|(_, config)| config))
}

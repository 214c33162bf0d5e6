//! The manager: all targets of a store, and the answers to what is asked of it.

mod export;
mod machines;
mod registry;
mod status;
mod targets;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bygone_model::{Event, Kind};
use bygone_qemu as qemu;
use bygone_store::{CACHE_BYTES, index::cache::PageCache};
use serde::Serialize;

use crate::{
    api::{Answers, BranchInfo, Compacted, DamagedPlace, Progress, Request, Verified},
    error::{Error, Result, Usage},
    restore,
    store_dir::{StoreLock, StorePaths},
    target::{Target, lock},
    timeline,
};

pub(crate) use self::machines::stop_machine;
use self::{registry::Registry, status::info};

/// How often somebody who waits is asked whether they still do.
const WANTED_EVERY: Duration = Duration::from_millis(200);

/// See the module's comment.
pub(crate) struct Manager {
    paths: StorePaths,
    cache: Arc<PageCache>,
    registry: Registry,
    accel: OnceLock<qemu::Accel>,
    stopping: AtomicBool,
    pub(crate) keep_targets: AtomicBool,
    _lock: StoreLock,
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manager").field("paths", &self.paths).finish_non_exhaustive()
    }
}

fn value<T: Serialize>(answer: &T) -> Result<serde_json::Value> {
    serde_json::to_value(answer).map_err(|e| Usage::BadRequest(e.to_string()).into())
}

impl Manager {
    /// Opens a store and all its targets. A target that cannot be opened does not keep the others from it.
    ///
    /// # Errors
    /// When there is no store that this program can use, or another process has it.
    pub(crate) fn open(paths: &StorePaths) -> Result<Arc<Manager>> {
        paths.check()?;
        let store_lock = paths.lock()?;
        let cache = PageCache::new(CACHE_BYTES);
        Ok(Arc::new(Manager {
            paths: paths.clone(),
            registry: Registry::open(paths, cache.clone()),
            cache,
            accel: OnceLock::new(),
            stopping: AtomicBool::new(false),
            keep_targets: AtomicBool::new(false),
            _lock: store_lock,
        }))
    }

    /// All targets that can be used.
    #[must_use]
    pub(crate) fn targets(&self) -> Vec<Arc<Target>> {
        self.registry.served()
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
        &self.paths
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

    /// Something runs or is being read.
    #[must_use]
    pub(crate) fn is_busy(&self) -> bool {
        self.targets().iter().any(|target| target.is_busy())
    }

    /// Answers a request.
    ///
    /// # Errors
    /// When it cannot be done.
    pub(crate) fn handle(&self, request: &Request, answers: &mut dyn Answers) -> Result<serde_json::Value> {
        match request {
            Request::Status => value(&self.status()?),
            Request::TargetAdd { config, disks, wait } => self.add(config, disks, *wait, answers),
            Request::TargetList => {
                for target in self.targets() {
                    if !answers.item(value(&info(&target)?)?) {
                        break;
                    }
                }
                Ok(serde_json::Value::Null)
            }
            Request::TargetShow { name } => value(&info(&*self.target(name)?)?),
            Request::TargetSet { name, settings } => {
                let target = self.target(name)?;
                target.change_config(|config| {
                    settings.iter().try_for_each(|(key, text)| config.set(key, text))
                })?;
                value(&info(&target)?)
            }
            Request::TargetRemove { name, delete_history } => self.remove(name, *delete_history),
            Request::Run { name, at, branch, display } => {
                let display = display.clone().unwrap_or_default();
                self.run(name, at.as_deref(), branch.as_deref(), display)
            }
            Request::Wait { name } => value(&self.target(name)?.wait_stopped(&mut || answers.wanted())?),
            Request::Stop { name, force, deadline_s } => self.stop_target(name, *force, *deadline_s, answers),
            Request::Export { what, to } => self.export(what, to, answers),
            Request::Timeline { name, since, until, kinds } => {
                let target = self.target(name)?;
                let moments = timeline::timeline(&target.log, since.as_deref(), until.as_deref(), kinds)?;
                items(answers, moments)
            }
            Request::Point { name, at, label, hold } => {
                value(&timeline::add_point(&self.target(name)?.log, at.as_deref(), label, hold.as_deref())?)
            }
            Request::Points { name } => items(answers, timeline::points(&self.target(name)?.log)?),
            Request::BranchList { name } => items(answers, branches(&*self.target(name)?)?),
            Request::BranchPromote { name, branch } => {
                let target = self.target(name)?;
                let branch = which_branch(&target, branch.as_deref())?;
                value(&restore::promote(&target, &branch, false, answers)?)
            }
            Request::BranchDrop { name, branch } => drop_branch(&*self.target(name)?, branch),
            Request::Restore { name, at, disk, to, discard_later } => {
                let target = self.target(name)?;
                value(&restore::restore(&target, at, disk.as_deref(), to, *discard_later, answers)?)
            }
            Request::Verify { name, newest_first, for_s } => {
                self.verify(name.as_deref(), *newest_first, for_s.map(Duration::from_secs), answers)
            }
            Request::Compact { dry_run } => self.compact(*dry_run),
            Request::Shutdown { keep_targets } => {
                self.stop(*keep_targets);
                Ok(serde_json::Value::Null)
            }
        }
    }

    fn verify(
        &self,
        name: Option<&str>,
        newest_first: bool,
        within: Option<Duration>,
        answers: &mut dyn Answers,
    ) -> Result<serde_json::Value> {
        let targets = match name {
            Some(name) => vec![self.target(name)?],
            None => self.targets(),
        };
        let end = within.map(|within| Instant::now() + within);
        let mut verified = Verified { complete: true, ..Verified::default() };
        for target in targets {
            let doing = format!("checking {}", target.name);
            let report = target.log.verify(newest_first, &mut |done_bytes, total_bytes| {
                let wanted = answers.progress(Progress { doing: doing.clone(), done_bytes, total_bytes });
                wanted && end.is_none_or(|end| Instant::now() < end)
            })?;
            verified.checked_bytes += report.checked_bytes;
            verified.complete &= report.complete;
            verified.damaged.extend(report.damaged.into_iter().map(|damaged| DamagedPlace {
                place: format!("{}: {}", target.name, damaged.place),
                detail: damaged.damage.to_string(),
            }));
        }
        let unavailable = self.registry.unavailable();
        let chosen = unavailable.iter().filter(|(target, _)| name.is_none_or(|name| name == target));
        verified
            .damaged
            .extend(chosen.map(|(name, why)| DamagedPlace { place: name.clone(), detail: why.to_string() }));
        value(&verified)
    }

    fn compact(&self, dry_run: bool) -> Result<serde_json::Value> {
        let used = || self.targets().iter().map(|t| t.log.used_bytes()).sum::<bygone_store::Result<u64>>();
        let before_bytes = used()?;
        if !dry_run {
            for target in self.targets() {
                while target.log.maintain()? {}
                target.log.checkpoint()?;
            }
        }
        value(&Compacted { before_bytes, after_bytes: used()? })
    }
}

fn items<T: Serialize>(answers: &mut dyn Answers, all: Vec<T>) -> Result<serde_json::Value> {
    for one in all {
        if !answers.item(value(&one)?) {
            break;
        }
    }
    Ok(serde_json::Value::Null)
}

fn branches(target: &Target) -> Result<Vec<BranchInfo>> {
    let catalog = target.log.catalog();
    let running = lock(&target.machine).as_ref().map(|m| m.branch);
    let mut out = Vec::new();
    for branch in catalog.branches.iter().filter(|b| b.dropped.is_none()) {
        let from_time = branch.parent.map(|(_, seq)| target.log.time_of(seq)).transpose()?;
        out.push(BranchInfo {
            name: branch.name.clone(),
            present: branch.id == catalog.head,
            parent: branch.parent.and_then(|(id, _)| catalog.branch(id)).map(|b| b.name.clone()),
            from_seq: branch.parent.map(|(_, seq)| seq.0),
            from_time: from_time.map(timeline::rfc3339),
            made: timeline::rfc3339(branch.made_at),
            running: running == Some(branch.id),
        });
    }
    Ok(out)
}

fn which_branch(target: &Target, named: Option<&str>) -> Result<String> {
    if let Some(name) = named {
        return Ok(name.to_owned());
    }
    let catalog = target.log.catalog();
    let others: Vec<&str> = catalog
        .branches
        .iter()
        .filter(|b| b.dropped.is_none() && b.id != catalog.head)
        .map(|b| b.name.as_str())
        .collect();
    match others.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => Err(Usage::Impossible("there is no branch but the present").into()),
        many => Err(Usage::WhichBranch(many.join(", ")).into()),
    }
}

fn drop_branch(target: &Target, name: &str) -> Result<serde_json::Value> {
    let catalog = target.log.catalog();
    let branch = catalog.branch_named(name)?.id;
    if lock(&target.machine).as_ref().is_some_and(|m| m.branch == branch) {
        return Err(Error::TargetRunning(target.name.clone()));
    }
    target.log.drop_branch(name)?;
    let event = Event::new(Kind::Branch, format!("branch {name} was given up")).with("dropped", name);
    let done = target.log.event(catalog.head, &event)?;
    target.log.flush()?;
    let present = catalog.branch(catalog.head).map_or("main", |b| &b.name).to_owned();
    value(&timeline::info(bygone_model::Moment { seq: done.last, time: done.time, branch: present, event }))
}

#[cfg(test)]
mod tests;

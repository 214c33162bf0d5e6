//! The file of a job, `jobs/ID.json` in the store's folder.

use std::{fs, path::Path};

use bygone_model::{Event, Kind, Micros, Seq};
use bygone_store::catalog::{ActKind, Branch, Shows};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    api::{Failure, JobInfo, JobState, Progress, Remedy, Request, call},
    error::{Error, Result},
    machine::POWER_BUTTON,
    manager::{Manager, removed::CONFIG},
    store_dir::{Configs, StorePaths, write_over},
    target::{Target, log_id_in},
    timeline::rfc3339,
};

/// The most changes of a job that are reported.
const CHANGES_MAX: usize = 16;

/// See the module's comment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) id: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    pub(super) request: Request,
    /// What it meant when it began, if names in it can mean something else once it is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meant: Option<Request>,
    pub(super) state: JobState,
    since: Micros,
    /// The newest record of its target when it began, if the target was open then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<Seq>,
    #[serde(default, alias = "stays")]
    detached: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<Micros>,
    #[serde(default)]
    pub(super) answer: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
    /// Its target existed when it began.
    #[serde(default)]
    existed: bool,
    /// The id of the log of the target that it was about when it began: of the removed one, if it restores one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    /// The number of the target's newest configuration when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<u32>,
    /// It was loaded from a file that an earlier manager wrote.
    #[serde(skip)]
    pub(super) earlier: bool,
    /// What it had changed, if it was not successful, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) changed: Option<Vec<String>>,
}

fn now() -> Micros {
    Micros(jiff::Timestamp::now().as_microsecond())
}

/// Whether a request was refused before anything was done: these failures are raised only then, and a failure after a
/// change is reported as [`Failure::Partly`] or is none of these.
fn is_refusal(failure: &Failure) -> bool {
    let by_remedy = matches!(failure.remedy(), Remedy::Rephrase | Remedy::Choose | Remedy::Wait);
    by_remedy
        || matches!(
            failure,
            Failure::Unavailable { .. } | Failure::DisksUnknown { .. } | Failure::Moved { .. }
        )
}

/// Whether the target was not found, could not be used or was busy: these failures are raised only before the first
/// step of a call.
fn is_of_lookup(failure: &Failure) -> bool {
    matches!(failure, Failure::NoTarget { .. } | Failure::Unavailable { .. } | Failure::Busy { .. })
}

fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()
}

/// Reads all job files; damaged ones are skipped with a warning.
pub(super) fn load(folder: &Path) -> Vec<Kept> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let read = |path: &Path| {
        let kept: Kept = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        (number(path) == Some(kept.id)).then_some(kept)
    };
    entries
        .map(|entry| entry.path())
        .filter(|path| number(path).is_some())
        .filter_map(|path| {
            let kept = read(&path);
            if kept.is_none() {
                tracing::warn!(file = %path.display(), "what is known of this job cannot be read");
            }
            kept
        })
        .collect()
}

/// Removes the file of a job.
pub(super) fn remove(folder: &Path, id: u64) {
    let _ = fs::remove_file(folder.join(format!("{id}.json")));
}

impl Kept {
    pub(super) fn new(id: u64, key: Option<&str>, request: &Request, detached: bool) -> Kept {
        Kept {
            id,
            key: key.map(str::to_owned),
            request: request.clone(),
            meant: None,
            state: JobState::Running,
            since: now(),
            from: None,
            earlier: false,
            existed: false,
            log: None,
            config: None,
            detached,
            ended: None,
            answer: Value::Null,
            failure: None,
            changed: None,
        }
    }

    /// What is to be done: the names in it mean what they meant when it began.
    pub(super) fn meant(&self) -> &Request {
        self.meant.as_ref().unwrap_or(&self.request)
    }

    /// The target that it is about.
    pub(super) fn target(&self) -> Option<&str> {
        self.meant().target()
    }

    /// Adds what is there before it begins.
    pub(super) fn seen(mut self, manager: &Manager) -> Kept {
        self.meant = manager.meant(&self.request);
        let Some(name) = self.target().map(str::to_owned) else { return self };
        let dir = manager.paths().target_dir(&name);
        self.existed = dir.exists();
        self.config = Configs::of(&dir, &name).newest_number().ok();
        let open = manager.served().into_iter().find(|target| target.name == name);
        self.from = open.as_ref().map(|target| target.log.head_seq());
        self.log = match self.meant() {
            Request::TargetRestore(call) => call.log.clone(),
            _ => open.map(|target| target.log_id()).or_else(|| log_id_in(&dir)),
        };
        self
    }

    /// Writes the file durably.
    pub(super) fn save(&self, folder: &Path) -> Result<()> {
        match fs::create_dir(folder) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::file("making", folder, e));
            }
            _ => {}
        }
        write_over(&folder.join(format!("{}.json", self.id)), self)
    }

    /// Whether a further call with this key gets this job's answer instead of being executed. As long as it is unknown
    /// what the job changed, it may have changed anything.
    pub(super) fn remembers(&self, key: &str) -> bool {
        self.key.as_deref() == Some(key) && self.changed.as_ref().is_none_or(|changed| !changed.is_empty())
    }

    /// Whether it was not successful, and it is unknown yet what it had changed.
    pub(super) fn is_unknown(&self) -> bool {
        let ended_well = match self.state {
            JobState::Running | JobState::Done => true,
            JobState::Failed => matches!(self.failure, Some(Failure::Partly { .. })),
            JobState::Cancelled | JobState::Interrupted => false,
        };
        !ended_well && self.changed.is_none()
    }

    /// When it ended; for an interrupted job, when it began. `None`: it runs.
    pub(super) fn ended_at(&self) -> Option<Micros> {
        (self.state != JobState::Running).then(|| self.ended.unwrap_or(self.since))
    }

    pub(super) fn end(&mut self, result: std::result::Result<&Value, Failure>) {
        self.ended = Some(now());
        match result {
            Ok(answer) => {
                self.state = JobState::Done;
                self.answer = answer.clone();
            }
            Err(Failure::Abandoned | Failure::GoesOn) => self.state = JobState::Cancelled,
            Err(failure) => {
                self.state = JobState::Failed;
                let refused = match &self.request {
                    // They consist of several steps, and may raise other failures of this kind after the first one.
                    Request::Run(_) => is_of_lookup(&failure),
                    Request::TargetAdd(_) => false,
                    _ => is_refusal(&failure),
                };
                self.changed = refused.then(Vec::new);
                self.failure = Some(failure);
            }
        }
    }

    /// The answer for a further caller.
    pub(super) fn answer(&self) -> Result<Value> {
        match (self.state, &self.failure) {
            (JobState::Done, _) => Ok(self.answer.clone()),
            // A failure that says what was changed is repeated for every caller with this key.
            (JobState::Failed, Some(failure @ Failure::Partly { .. })) => Err(Error::Told(failure.clone())),
            _ if self.changed.as_ref().is_some_and(Vec::is_empty) => {
                Err(self.failure.clone().map_or(Error::Abandoned, Error::Told))
            }
            _ => Err(Error::NotRepeated {
                job: self.id,
                state: self.state,
                why: self.failure.clone().map(Box::new),
                changed: self.changed.clone(),
            }),
        }
    }

    /// Finds out what it has changed, right after it ended; not if a failed medium may hide that.
    pub(super) fn look_at_once(&mut self, paths: &StorePaths, target: Option<&Target>) {
        self.changed = self.changed_outside(paths);
        let failed = matches!(self.failure, Some(Failure::MediumFailed { .. } | Failure::LogPoisoned { .. }));
        if let Some(target) = target
            && self.changed.is_none()
            && !failed
            && !target.log.is_poisoned()
        {
            // A target that was not open when it began was opened since.
            let from = self.from.unwrap_or(target.opened_at());
            match self.changed_in(target, from, target.log.head_seq()) {
                Ok(changed) => self.changed = Some(changed),
                Err(error) => tracing::warn!(job = self.id, %error, "what it has changed cannot be read"),
            }
        }
    }

    pub(super) fn info(&self, progress: Option<Progress>) -> JobInfo {
        JobInfo {
            id: self.id,
            request: self.request.name().to_owned(),
            target: self.target().map(str::to_owned),
            key: self.key.clone(),
            state: self.state,
            since: rfc3339(self.since),
            ended: self.ended.map(rfc3339),
            progress,
            detached: self.detached,
            failure: self.failure.clone(),
            changed: self.changed.clone(),
        }
    }

    /// What it had changed, if that shows without its target's log.
    pub(super) fn changed_outside(&self, paths: &StorePaths) -> Option<Vec<String>> {
        // Idempotent calls.
        let harmless = matches!(
            &self.request,
            Request::Verify(_)
                | Request::Compact(_)
                | Request::TargetRepair(_)
                | Request::JobCancel(_)
                | Request::Shutdown(_)
                | Request::Restore(call::Restore { to: call::RestoreTo::Path(_), .. })
        );
        if harmless {
            return Some(Vec::new());
        }
        let name = self.target()?;
        let dir = paths.target_dir(name);
        let (exists, log) = (dir.exists(), log_id_in(&dir));
        // Another target than when it began, as far as that can be read. Adding one is refused if the name is taken.
        let is_other = exists && log.is_some() && self.log.is_some() && log != self.log;
        let said = match self.meant() {
            Request::TargetAdd(_) => {
                (exists && (is_other || !self.existed)).then(|| format!("target {name} was added"))
            }
            Request::TargetRestore(_) => {
                (exists && !is_other && !self.existed).then(|| format!("target {name} is back"))
            }
            Request::TargetRemove(_) => {
                (self.existed && (is_other || !exists)).then(|| format!("target {name} was removed"))
            }
            // A folder that is missing now may come back unchanged; a target that did not exist has no changes.
            _ if exists || self.existed => return None,
            _ => None,
        };
        Some(said.into_iter().collect())
    }

    /// What it had changed before its target was opened.
    pub(super) fn changed_since(&self, target: &Target) -> Result<Vec<String>> {
        if let Some(known) = self.changed_outside(&target.shared.paths) {
            return Ok(known);
        }
        if self.log.as_ref().is_some_and(|log| *log != target.log_id()) {
            // The log is another one, and knows nothing of this job.
            return Ok(vec![format!("it is not known what: target {} is another one now", target.name)]);
        }
        // Without a start position, from the job's start time.
        let from = match self.from {
            Some(from) => from,
            None => target.log.at_time(self.since)?.last().map_or(Seq::ZERO, |hit| hit.seq),
        };
        self.changed_in(target, from, target.opened_at())
    }

    /// The changes of its target between `from` and `to` that it may have made.
    fn changed_in(&self, target: &Target, from: Seq, to: Seq) -> Result<Vec<String>> {
        let sets = matches!(self.request, Request::TargetSet(_));
        let counts = |event: &Event| match (&event.kind, &self.request) {
            // Its guest may shut down at any time from then on.
            (Kind::Manager, Request::Stop(_)) => event.details.contains_key(POWER_BUTTON),
            (Kind::Manager, _) => sets && event.details.contains_key(CONFIG),
            (Kind::Point, Request::Point(_)) => true,
            (Kind::Boot, Request::Run(_)) => true,
            (Kind::Shutdown, Request::Stop(_)) => true,
            (Kind::Branch, Request::Point(_) | Request::TargetSet(_) | Request::Stop(_)) => false,
            (kind, _) => *kind == Kind::Branch,
        };
        let log = &target.log;
        let mut changed = Vec::new();
        let mut made = Vec::new();
        let mut of_branches = false;
        log.events(from, to, &mut |event| {
            if counts(&event.event) {
                of_branches |= event.event.kind == Kind::Branch;
                made.extend(event.event.details.get("made").and_then(Value::as_str).map(str::to_owned));
                changed.push(event.event.label.clone());
            }
            changed.len() < CHANGES_MAX
        })?;
        let catalog = log.catalog();
        // The record of the act may exist without its event.
        if let Some((_, last)) = catalog.undo()
            && last.seq > from
            && last.seq <= to
            && !of_branches
            && self.changes_branches()
        {
            let what = match last.kind {
                ActKind::Restore => "it was restored in place",
                ActKind::Promote => "a branch was promoted",
                ActKind::Drop => "a branch was dropped",
                ActKind::Undo => "the last change of branches was taken back",
            };
            changed.push(what.to_owned());
        }
        if matches!(self.request, Request::Run(_)) {
            let left = |branch: &&Branch| branch.made > from && branch.made <= to && branch.dropped.is_none();
            let untold = catalog.branches.iter().filter(left).filter(|branch| !made.contains(&branch.name));
            changed.extend(untold.map(|branch| format!("branch {} was made", branch.name)));
        }
        let settings = Configs::of(&target.shared.paths.target_dir(&target.name), &target.name);
        if sets
            && changed.is_empty()
            && self.config.is_some_and(|had| settings.newest_number().is_ok_and(|n| n > had))
        {
            changed.push("its settings were changed".to_owned());
        }
        if !changed.is_empty() && self.changes_branches() {
            for disk in catalog.shows.iter().filter(|(_, shows)| matches!(shows, Shows::Filling(_))) {
                let name = catalog.disks.get(*disk.0 as usize).map_or("?", |disk| &disk.name);
                changed.push(format!("disk {name} is being filled, which goes on by itself"));
            }
        }
        Ok(changed)
    }

    fn changes_branches(&self) -> bool {
        matches!(
            self.request,
            Request::Restore(_) | Request::BranchPromote(_) | Request::BranchDrop(_) | Request::Undo(_)
        )
    }
}

//! What is written down of a job: a file each, `jobs/ID.json` in the store's folder.

use std::{fs, path::Path};

use bygone_model::{Kind, Micros, Seq};
use bygone_store::catalog::{ActKind, Shows};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::has_changed;
use crate::{
    api::{Failure, JobInfo, JobState, Progress, Request, call},
    error::{Error, Result},
    store_dir::{StorePaths, write_over},
    target::Target,
    timeline::rfc3339,
};

/// So many of its changes are told.
const CHANGES_MAX: usize = 16;

/// See the module's comment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) id: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    pub(super) request: Request,
    pub(super) state: JobState,
    since: Micros,
    /// The newest record of its target when it began, if the target was open then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<Seq>,
    #[serde(default)]
    stays: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ended: Option<Micros>,
    #[serde(default)]
    pub(super) answer: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
    /// What it had changed when it was interrupted, once that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) changed: Option<Vec<String>>,
}

fn now() -> Micros {
    Micros(jiff::Timestamp::now().as_microsecond())
}

fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_suffix(".json")?.parse().ok()
}

/// All that are there and can be read.
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

/// Forgets a job.
pub(super) fn remove(folder: &Path, id: u64) {
    let _ = fs::remove_file(folder.join(format!("{id}.json")));
}

impl Kept {
    pub(super) fn new(id: u64, key: Option<&str>, request: &Request, from: Option<Seq>, stays: bool) -> Kept {
        Kept {
            id,
            key: key.map(str::to_owned),
            request: request.clone(),
            state: JobState::Running,
            since: now(),
            from,
            stays,
            ended: None,
            answer: Value::Null,
            failure: None,
            changed: None,
        }
    }

    /// Writes it down, durably.
    pub(super) fn save(&self, folder: &Path) -> Result<()> {
        match fs::create_dir(folder) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::file("making", folder, e));
            }
            _ => {}
        }
        write_over(&folder.join(format!("{}.json", self.id)), self)
    }

    /// A call with this key is answered as this one was.
    pub(super) fn remembers(&self, key: &str) -> bool {
        let counts = match self.state {
            JobState::Running | JobState::Done | JobState::Interrupted => true,
            JobState::Failed => self.failure.as_ref().is_some_and(has_changed),
            JobState::Cancelled => false,
        };
        counts && self.key.as_deref() == Some(key)
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
                self.failure = Some(failure);
            }
        }
    }

    /// As whoever asked first was answered.
    pub(super) fn answer(&self) -> Result<Value> {
        match (self.state, &self.failure) {
            (JobState::Done, _) => Ok(self.answer.clone()),
            (_, Some(failure)) => Err(Error::Told(failure.clone())),
            _ => Err(Error::Abandoned),
        }
    }

    pub(super) fn info(&self, progress: Option<Progress>) -> JobInfo {
        JobInfo {
            id: self.id,
            request: self.request.name().to_owned(),
            target: self.request.target().map(str::to_owned),
            key: self.key.clone(),
            state: self.state,
            since: rfc3339(self.since),
            ended: self.ended.map(rfc3339),
            progress,
            stays: self.stays,
            failure: self.failure.clone(),
            changed: self.changed.clone().unwrap_or_default(),
        }
    }

    /// What it had changed, if its target need not be asked for that.
    pub(super) fn changed_outside(&self, paths: &StorePaths) -> Option<Vec<String>> {
        let name = self.request.target()?;
        let is_there = paths.target_dir(name).exists();
        let said = match &self.request {
            Request::TargetAdd(_) => is_there.then(|| format!("target {name} was added")),
            Request::TargetRestore(_) => is_there.then(|| format!("target {name} is back")),
            Request::TargetRemove(_) => (!is_there).then(|| format!("target {name} was removed")),
            // What was not added, or is no longer there, has nothing to be changed.
            _ if is_there => return None,
            _ => None,
        };
        Some(said.into_iter().collect())
    }

    /// What it had changed of its target, as that was found.
    pub(super) fn changed_in(&self, target: &Target) -> Result<Vec<String>> {
        let read_only = matches!(
            &self.request,
            Request::Verify(_) | Request::Restore(call::Restore { to: call::RestoreTo::Path(_), .. })
        );
        if read_only {
            return Ok(Vec::new());
        }
        let log = &target.log;
        // Without a place to begin at, by the time.
        let from = match self.from {
            Some(from) => from,
            None => log.at_time(self.since)?.last().map_or(Seq::ZERO, |hit| hit.seq),
        };
        let mut changed = Vec::new();
        let mut of_branches = false;
        log.events(from, target.opened_at(), &mut |event| {
            let kind = &event.event.kind;
            if matches!(kind, Kind::Branch | Kind::Point | Kind::Boot | Kind::Shutdown) {
                of_branches |= *kind == Kind::Branch;
                changed.push(event.event.label.clone());
            }
            changed.len() < CHANGES_MAX
        })?;
        let catalog = log.catalog();
        if let Some((_, last)) = catalog.undo()
            && last.seq > from
            && last.seq <= target.opened_at()
            && !of_branches
        {
            // The record is there, and the words for it are not.
            let what = match last.kind {
                ActKind::Restore => "it was restored in place",
                ActKind::Promote => "a branch was promoted",
                ActKind::Drop => "a branch was dropped",
                ActKind::Undo => "the last change of branches was taken back",
            };
            changed.push(what.to_owned());
        }
        if !changed.is_empty() {
            for disk in catalog.shows.iter().filter(|(_, shows)| matches!(shows, Shows::Filling(_))) {
                let name = catalog.disks.get(*disk.0 as usize).map_or("?", |disk| &disk.name);
                changed.push(format!("disk {name} is being filled, which goes on by itself"));
            }
        }
        Ok(changed)
    }
}

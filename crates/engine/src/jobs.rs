//! The jobs of a store: long calls and calls with a key, in progress and ended.
//!
//! Invariants:
//! - a long call or one with a key is a job from before it changes anything until [`JOBS_MAX`] others have ended after
//!   it;
//! - a job's file is written before it begins and when it has ended, so a job whose manager died is reported as
//!   interrupted;
//! - of all calls with the same key at most one has changed anything, and all get its answer. The key of a call that
//!   failed or was cancelled is free again only if it is known that nothing had changed: the call was refused, or the
//!   log was searched.

mod kept;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bygone_model::Micros;
use serde_json::Value;

use self::kept::Kept;
use crate::{
    api::{
        Answers, Caller, Failure, Items, JOBS_MAX, JobEnded, JobInfo, JobState, KEY_BYTES_MAX, Nothing,
        Progress, Request, call,
    },
    calls::Handle,
    error::{Error, Result, Usage, or_panicked},
    manager::Manager,
    store_dir::StorePaths,
    target::{Target, lock, log_id_in},
};

/// A larger request is not written to a job's file.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// How often a caller that waits for a job gets its progress.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// The jobs of a store. See the module's comment.
pub(crate) struct Jobs {
    folder: PathBuf,
    jobs: Mutex<BTreeMap<u64, Arc<Job>>>,
}

/// A long call or one with a key.
pub(crate) struct Job {
    kept: Mutex<Kept>,
    changed: Condvar,
    progress: Mutex<Option<Progress>>,
    cancelled: AtomicBool,
    /// The number of callers that wait for it, besides the first one.
    followers: AtomicUsize,
}

impl Job {
    fn new(kept: Kept) -> Arc<Job> {
        Arc::new(Job {
            kept: Mutex::new(kept),
            changed: Condvar::new(),
            progress: Mutex::default(),
            cancelled: AtomicBool::new(false),
            followers: AtomicUsize::new(0),
        })
    }

    fn info(&self) -> JobInfo {
        let running = lock(&self.kept).state == JobState::Running;
        let progress = lock(&self.progress).clone().filter(|_| running);
        lock(&self.kept).info(progress)
    }

    /// Waits until it has ended, and reports its progress meanwhile.
    ///
    /// # Errors
    /// [`Error::Abandoned`] when the caller no longer waits.
    fn wait(&self, answers: &mut dyn Answers) -> Result<MutexGuard<'_, Kept>> {
        let _follower = Follower::of(self);
        loop {
            let kept = lock(&self.kept);
            if kept.state != JobState::Running {
                return Ok(kept);
            }
            drop(self.changed.wait_timeout(kept, TELL_EVERY).unwrap_or_else(PoisonError::into_inner));
            let progress = lock(&self.progress).clone();
            if !progress.is_none_or(|progress| answers.progress(progress)) || !answers.wanted() {
                return Err(Error::Abandoned);
            }
        }
    }
}

struct Follower<'a>(&'a Job);

impl Follower<'_> {
    fn of(job: &Job) -> Follower<'_> {
        job.followers.fetch_add(1, Ordering::AcqRel);
        Follower(job)
    }
}

impl Drop for Follower<'_> {
    fn drop(&mut self) {
        self.0.followers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How a call is handled.
enum Begun {
    /// It is executed, without a job.
    Plain,
    /// It is executed as this job.
    Now(Arc<Job>),
    /// An earlier call with its key is this job, and gives the answer.
    Before(Arc<Job>),
}

impl Jobs {
    /// The jobs of a store; none is loaded yet.
    pub(crate) fn new(paths: &StorePaths) -> Jobs {
        Jobs { folder: paths.jobs_dir(), jobs: Mutex::default() }
    }

    /// Reads the jobs of earlier managers; those that were running are interrupted now.
    pub(crate) fn load(&self, paths: &StorePaths) {
        let mut jobs = lock(&self.jobs);
        for mut kept in kept::load(&self.folder) {
            kept.earlier = true;
            if kept.state == JobState::Running {
                kept.state = JobState::Interrupted;
                kept.changed = kept.changed_outside(paths);
                self.save_if_settled(&kept);
            }
            jobs.insert(kept.id, Job::new(kept));
        }
    }

    /// Called when a target was opened, before anything changes it: finds out what the unsuccessful jobs of earlier
    /// managers had changed in it.
    pub(crate) fn settle(&self, target: &Target) {
        let interrupted: Vec<Arc<Job>> = lock(&self.jobs).values().cloned().collect();
        for job in interrupted {
            let mut kept = lock(&job.kept);
            // Not for jobs of this manager: if the medium failed, its log may not show what is on the medium.
            if kept.earlier && kept.is_unknown() && kept.target() == Some(&target.name) {
                match kept.changed_since(target) {
                    Ok(changed) => kept.changed = Some(changed),
                    Err(error) => {
                        tracing::warn!(target = target.name, job = kept.id, %error, "what a job that was interrupted had changed cannot be read");
                    }
                }
                self.save_if_settled(&kept);
            }
        }
    }

    fn save_if_settled(&self, kept: &Kept) {
        if kept.changed.is_some() {
            self.save_if_room(kept);
        }
    }

    /// Writes a job's file; without room the job goes on without it.
    fn save_if_room(&self, kept: &Kept) {
        if let Err(error) = kept.save(&self.folder) {
            tracing::debug!(job = kept.id, %error, "the job cannot be written down");
        }
    }

    fn find(&self, id: u64) -> Result<Arc<Job>> {
        lock(&self.jobs).get(&id).cloned().ok_or(Error::NoJob(id))
    }

    fn all(&self) -> Vec<Arc<Job>> {
        lock(&self.jobs).values().cloned().collect()
    }

    fn begin(&self, manager: &Manager, request: &Request, answers: &dyn Answers) -> Result<Begun> {
        let caller = answers.caller();
        let key = caller.key.as_deref().filter(|_| request.takes_key());
        if key.is_none() && !request.lasts() {
            return Ok(Begun::Plain);
        }
        // No call that could succeed is so large.
        if serde_json::to_vec(request).map_or(0, |bytes| bytes.len()) > REQUEST_BYTES_MAX {
            let too_large = Error::CallTooLarge { bytes_max: REQUEST_BYTES_MAX };
            return if key.is_some() { Err(too_large) } else { Ok(Begun::Plain) };
        }
        if let Some(key) = key {
            check_key(key)?;
            self.settle_key(manager, key)?;
        }
        // What is there before anything begins.
        let mut kept = Kept::new(0, key, request, caller.detached).seen(manager);
        let mut jobs = lock(&self.jobs);
        if let Some(key) = key
            && let Some(job) = jobs.values().rev().find(|job| lock(&job.kept).remembers(key)).cloned()
        {
            let kept = lock(&job.kept);
            if kept.request != *request {
                return Err(Error::KeyUsed { key: key.to_owned(), job: kept.id });
            }
            drop(kept);
            return Ok(Begun::Before(job));
        }
        let id = jobs.last_key_value().map_or(1, |(id, _)| id + 1);
        kept.id = id;
        match kept.save(&self.folder) {
            // A key must be remembered durably.
            Err(error) if key.is_some() => return Err(error),
            Err(error) => tracing::debug!(job = id, %error, "the job cannot be written down"),
            Ok(()) => {}
        }
        let job = Job::new(kept);
        jobs.insert(id, job.clone());
        self.forget_old(&mut jobs);
        Ok(Begun::Now(job))
    }

    /// Finds out what an unsuccessful call with this key had changed, by opening its target if necessary.
    fn settle_key(&self, manager: &Manager, key: &str) -> Result<()> {
        for job in self.all() {
            let name = {
                let kept = lock(&job.kept);
                let unknown = kept.remembers(key) && kept.is_unknown();
                kept.target().filter(|_| unknown).map(str::to_owned)
            };
            if let Some(name) = name {
                // Opening the target settles the job, if that was not done yet.
                self.settle(&*manager.target(&name)?);
            }
        }
        Ok(())
    }

    fn forget_old(&self, jobs: &mut BTreeMap<u64, Arc<Job>>) {
        let ended = jobs.iter().filter_map(|(id, job)| lock(&job.kept).ended_at().map(|at| (at, *id)));
        let mut ended: Vec<(Micros, u64)> = ended.collect();
        ended.sort_unstable();
        let over = ended.len().saturating_sub(JOBS_MAX);
        for &(_, id) in &ended[..over] {
            jobs.remove(&id);
            kept::remove(&self.folder, id);
        }
    }

    fn end(&self, manager: &Manager, job: &Job, result: &Result<Value>) {
        if matches!(result, Err(e) if e.failure() == Failure::ManagerEnding) {
            return self.take_back(job);
        }
        if manager.is_closing() && matches!(result, Err(e) if e.failure() == Failure::Abandoned) {
            // It was not cancelled: the next manager finds it interrupted, and what it had changed.
            return;
        }
        let name = lock(&job.kept).target().map(str::to_owned);
        let target = manager.served().into_iter().find(|target| Some(&target.name) == name.as_ref());
        let mut kept = lock(&job.kept);
        kept.end(result.as_ref().map_err(Error::failure));
        if kept.key.is_some() && kept.is_unknown() {
            kept.look_at_once(manager.paths(), target.as_deref());
        }
        self.save_if_room(&kept);
        drop(kept);
        job.changed.notify_all();
    }

    /// Forgets a job with which nothing was begun: its client asks again until there is another manager, and would push
    /// all others out. Whoever waits for it gets the same answer.
    fn take_back(&self, job: &Job) {
        let id = {
            let mut kept = lock(&job.kept);
            kept.end(Err(Failure::ManagerEnding));
            kept.changed = Some(Vec::new());
            kept.id
        };
        let mut jobs = lock(&self.jobs);
        jobs.remove(&id);
        // Before another job can get the number.
        kept::remove(&self.folder, id);
        drop(jobs);
        job.changed.notify_all();
    }
}

#[cfg(test)]
impl Manager {
    /// Writes the job of a call and does nothing more, as if this manager died then.
    pub(crate) fn begin_only(&self, request: &Request, answers: &dyn Answers) {
        assert!(matches!(self.jobs().begin(self, request, answers), Ok(Begun::Now(_))));
    }
}

fn check_key(key: &str) -> Result<()> {
    let is_good = (1..=KEY_BYTES_MAX).contains(&key.len()) && key.chars().all(|c| c.is_ascii_graphic());
    if is_good { Ok(()) } else { Err(Error::BadKey) }
}

impl Manager {
    /// Executes a request, once for each key; as a job if it is long or has a key.
    ///
    /// # Errors
    /// When it cannot be done.
    pub(crate) fn answer(&self, request: &Request, answers: &mut dyn Items<Value>) -> Result<Value> {
        if self.is_gate_closed() && matches!(request, Request::Run(_)) {
            // Before it is a job: its client asks again until there is another manager.
            return Err(Error::ManagerEnding);
        }
        if answers.caller().expect.is_some() && !request.is_plannable() {
            let why = format!("a plan is expected to hold, and {} has none", request.name());
            return Err(Usage::BadRequest(why).into());
        }
        let jobs = self.jobs();
        match jobs.begin(self, request, answers)? {
            Begun::Plain => self.do_now(request, answers),
            Begun::Now(job) => {
                if answers.caller().detached {
                    let id = lock(&job.kept).id;
                    answers.note(format!("this is job {id}, which goes on if nobody waits for it"));
                }
                // The callers that wait for it must be notified even if it panics.
                let mut working = Working { answers, job: &job, manager: self };
                let meant = lock(&job.kept).meant().clone();
                let result = or_panicked("this", || self.do_now(&meant, &mut working));
                jobs.end(self, &job, &result);
                result
            }
            Begun::Before(job) => job.wait(answers)?.answer(),
        }
    }

    /// What a request means now, if names in it can mean something else once it is done: which of the removed targets
    /// of a name is restored, and under which name.
    pub(crate) fn meant(&self, request: &Request) -> Option<Request> {
        let Request::TargetRestore(asked) = request else { return None };
        // What it does not find, the handler refuses.
        let (folder, had) = self.removed(asked).ok()?;
        let new_name = Some(asked.new_name.clone().unwrap_or(had));
        Some(call::TargetRestore { new_name, log: log_id_in(&folder), ..asked.clone() }.into())
    }
}

/// The answers of a running job, to the client that started it.
struct Working<'a> {
    answers: &'a mut dyn Items<Value>,
    job: &'a Job,
    manager: &'a Manager,
}

impl Answers for Working<'_> {
    fn caller(&self) -> &Caller {
        self.answers.caller()
    }

    fn progress(&mut self, progress: Progress) -> bool {
        *lock(&self.job.progress) = Some(progress.clone());
        let _ = self.answers.progress(progress);
        self.wanted()
    }

    fn note(&mut self, text: String) {
        self.answers.note(text);
    }

    fn wanted(&mut self) -> bool {
        !self.job.cancelled.load(Ordering::Acquire)
            && !self.manager.is_closing()
            && (self.answers.caller().detached
                || self.job.followers.load(Ordering::Acquire) > 0
                || self.answers.wanted())
    }
}

impl Items<Value> for Working<'_> {
    fn item(&mut self, item: Value) -> bool {
        let _ = self.answers.item(item);
        self.wanted()
    }
}

impl Handle<call::Jobs> for Manager {
    fn handle(&self, _: &call::Jobs, answers: &mut dyn Items<JobInfo>) -> Result<()> {
        let _ = self.jobs().all().iter().all(|job| answers.item(job.info()));
        Ok(())
    }
}

impl Handle<call::Job> for Manager {
    fn handle(&self, call: &call::Job, answers: &mut dyn Items<Nothing>) -> Result<JobEnded> {
        let job = self.jobs().find(call.id)?;
        let answer = job.wait(answers)?.answer.clone();
        Ok(JobEnded { job: job.info(), answer })
    }
}

impl Handle<call::JobCancel> for Manager {
    fn handle(&self, call: &call::JobCancel, _: &mut dyn Items<Nothing>) -> Result<JobInfo> {
        let job = self.jobs().find(call.id)?;
        job.cancelled.store(true, Ordering::Release);
        Ok(job.info())
    }
}

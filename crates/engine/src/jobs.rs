//! What is being done for those who asked, and what came of it.
//!
//! Invariants:
//! - a call that lasts, or that has a key, is a job from before it changes anything until [`JOBS_MAX`] others have ended after it;
//! - what is known of a job is written down before it begins and when it has ended, so one whose manager died is told as interrupted;
//! - of all calls with one key at most one has changed anything, and all are answered as that one was. The key of a call that did not
//!   end well is free again only if it is known that nothing had changed: it was refused, or that was looked up.

mod kept;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
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
        Answers, Items, JOBS_MAX, JobEnded, JobInfo, JobState, KEY_BYTES_MAX, Nothing, Progress, Request,
        call,
    },
    calls::Handle,
    error::{Error, Result},
    manager::Manager,
    store_dir::StorePaths,
    target::{Target, lock},
};

/// A longer call is not written down.
const REQUEST_BYTES_MAX: usize = 64 << 10;
/// How often whoever waits for a job hears of it.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// The jobs of a store. See the module's comment.
pub(crate) struct Jobs {
    folder: PathBuf,
    jobs: Mutex<BTreeMap<u64, Arc<Job>>>,
}

/// A call that lasts, or that has a key.
pub(crate) struct Job {
    kept: Mutex<Kept>,
    changed: Condvar,
    progress: Mutex<Option<Progress>>,
    cancelled: AtomicBool,
    /// Others than who asked first wait for it.
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

    /// Waits until it has ended; tells how it goes on meanwhile.
    ///
    /// # Errors
    /// When it is no longer waited for.
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

/// What becomes of a call.
enum Begun {
    /// It is done, and nobody needs to know.
    Plain,
    /// It is done, as this job.
    Now(Arc<Job>),
    /// It was asked for before, and is answered as this job is.
    Before(Arc<Job>),
}

impl Jobs {
    /// Those of a store, none of which is known yet.
    pub(crate) fn new(paths: &StorePaths) -> Jobs {
        Jobs { folder: paths.jobs_dir(), jobs: Mutex::default() }
    }

    /// Reads what earlier managers left; what was under way then is interrupted.
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

    /// A target was opened: what jobs that did not end well had changed of it is looked up before anybody changes it again.
    pub(crate) fn settle(&self, target: &Target) {
        let interrupted: Vec<Arc<Job>> = lock(&self.jobs).values().cloned().collect();
        for job in interrupted {
            let mut kept = lock(&job.kept);
            // The log of one that this manager did may hide what is on a medium that failed.
            if kept.earlier && kept.is_unknown() && kept.request.target() == Some(&target.name) {
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

    /// On a full medium it goes without.
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
        let key = answers.key().filter(|_| request.takes_key());
        if key.is_none() && !request.lasts() {
            return Ok(Begun::Plain);
        }
        // No call that can be done is so long.
        if serde_json::to_vec(request).map_or(0, |bytes| bytes.len()) > REQUEST_BYTES_MAX {
            return if key.is_some() { Err(Error::BadKey) } else { Ok(Begun::Plain) };
        }
        if let Some(key) = key {
            check_key(key)?;
            self.settle_key(manager, key)?;
        }
        // From the log as it is before anything is begun.
        let from = request.target().and_then(|name| manager.head_of(name));
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
        let kept = Kept::new(id, key, request, from, answers.stays()).seen(manager.paths());
        match kept.save(&self.folder) {
            // What is to be remembered for sure must be.
            Err(error) if key.is_some() => return Err(error),
            Err(error) => tracing::debug!(job = id, %error, "the job cannot be written down"),
            Ok(()) => {}
        }
        let job = Job::new(kept);
        jobs.insert(id, job.clone());
        self.forget_old(&mut jobs);
        Ok(Begun::Now(job))
    }

    /// What a call of this key had changed that was interrupted is known afterwards.
    fn settle_key(&self, manager: &Manager, key: &str) -> Result<()> {
        for job in self.all() {
            let name = {
                let kept = lock(&job.kept);
                let unknown = kept.remembers(key) && kept.is_unknown();
                kept.request.target().filter(|_| unknown).map(str::to_owned)
            };
            if let Some(name) = name {
                // Opening it settles it, if that was not done yet.
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
        let name = lock(&job.kept).request.target().map(str::to_owned);
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
}

#[cfg(test)]
impl Manager {
    /// Writes down that a call was begun, and no more: as if this manager died with it.
    pub(crate) fn begin_only(&self, request: &Request, answers: &dyn Answers) {
        assert!(matches!(self.jobs().begin(self, request, answers), Ok(Begun::Now(_))));
    }
}

fn check_key(key: &str) -> Result<()> {
    let is_good = (1..=KEY_BYTES_MAX).contains(&key.len()) && key.chars().all(|c| c.is_ascii_graphic());
    if is_good { Ok(()) } else { Err(Error::BadKey) }
}

impl Manager {
    /// Does what is asked for, once for each key, and keeps a job of what lasts.
    ///
    /// # Errors
    /// When it cannot be done.
    pub(crate) fn answer(&self, request: &Request, answers: &mut dyn Items<Value>) -> Result<Value> {
        let jobs = self.jobs();
        match jobs.begin(self, request, answers)? {
            Begun::Plain => self.do_now(request, answers),
            Begun::Now(job) => {
                if answers.stays() {
                    let id = lock(&job.kept).id;
                    answers.note(format!("this is job {id}, which goes on if nobody waits for it"));
                }
                // What waits for it must hear of its end, whatever that is.
                let mut working = Working { answers, job: &job };
                let done = catch_unwind(AssertUnwindSafe(|| self.do_now(request, &mut working)));
                let result = done.unwrap_or(Err(Error::Panicked { what: "this" }));
                jobs.end(self, &job, &result);
                result
            }
            Begun::Before(job) => job.wait(answers)?.answer(),
        }
    }

    fn head_of(&self, name: &str) -> Option<bygone_model::Seq> {
        self.served().iter().find(|target| target.name == name).map(|target| target.log.head_seq())
    }
}

/// The answers to whoever asked for a job.
struct Working<'a> {
    answers: &'a mut dyn Items<Value>,
    job: &'a Job,
}

impl Answers for Working<'_> {
    fn zone(&self) -> Option<&str> {
        self.answers.zone()
    }

    fn began(&self) -> bool {
        self.answers.began()
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
            && (self.answers.stays()
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

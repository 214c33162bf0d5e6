//! What a guest wrote is parsed in a process of its own.
//!
//! A guest decides what lies on its disks, so whatever parses them may be taken over by it. A child of this program does
//! it: this program once more, with an argument that makes it [answer](inside) over one socket and nothing else. Before it
//! reads anything it [confines](confine) itself, and it gets the bytes of the disk over that socket, one request each. Its
//! answers are trusted no more than the disk: they are data, and bounded.
//!
//! Any failure (a crash, too much memory, a timeout, nonsense) costs one answer: the child is killed, and the next
//! question starts another. The machine whose disk it is never notices.

mod confine;
mod inside;
mod talk;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    io,
    os::{
        fd::OwnedFd,
        unix::{
            net::UnixStream,
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    process::{self, Command, ExitStatus, Stdio},
    sync::{Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bygone_files::{Blocks, Glanced, Software, Survey};

pub use inside::serve_if_asked;
use talk::{Budget, Talk};
use wire::{Answer, Frame, Question};

/// So many children are at work at once; further questions wait.
const CHILDREN_MAX: usize = 4;
/// How long one answer may take, all waiting and reading together.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// The same for what can wait.
const PATIENT_ANSWER_MAX: Duration = Duration::from_secs(20);
/// A child answers so many questions before another takes its place: the limit of its processor time is one for all.
const ANSWERS_PER_CHILD: u32 = 16;
/// How long a child that has closed its socket may take to end.
const ENDING_MAX: Duration = Duration::from_secs(5);

/// Why a child gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    /// It did not start.
    #[error("the process that looks at disks cannot be started: {0}")]
    NotStarted(io::Error),
    /// It could not give up its rights.
    #[error("the process that looks at disks cannot be confined: {0}")]
    NotConfined(String),
    /// It ended, by a fault of its own or because it reached a limit.
    #[error("the process that looks at disks {0}")]
    Ended(String),
    /// It was killed, perhaps by somebody else: the kernel for want of memory, or a service manager that ends all of our
    /// processes.
    #[error("the process that looks at disks was ended by signal {0}")]
    Killed(i32),
    /// It took too long.
    #[error("the process that looks at disks gave no answer in time")]
    TimedOut,
    /// It said or wanted what no intact one does.
    #[error("the process that looks at disks misbehaved: {0}")]
    Misbehaved(&'static str),
    /// It looked, and failed.
    #[error("{0}")]
    Failed(String),
}

/// The children of a manager: how many there may be, and whether any can work at all.
#[derive(Debug)]
pub(crate) struct Children {
    free: Mutex<usize>,
    freed: Condvar,
    /// Why the last one could not begin.
    trouble: Mutex<Option<String>>,
}

impl Default for Children {
    fn default() -> Children {
        Children { free: Mutex::new(CHILDREN_MAX), freed: Condvar::new(), trouble: Mutex::default() }
    }
}

impl Children {
    /// Somebody who asks, once a child may be at work for it.
    pub(crate) fn surveyor(&self) -> Surveyor<'_> {
        self.surveyor_leaving(0, ANSWER_MAX)
    }

    /// Somebody who asks about what can wait: it leaves half of the children to others, and gives up sooner.
    pub(crate) fn patient_surveyor(&self) -> Surveyor<'_> {
        self.surveyor_leaving(CHILDREN_MAX / 2, PATIENT_ANSWER_MAX)
    }

    fn surveyor_leaving(&self, left: usize, answer_max: Duration) -> Surveyor<'_> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free <= left {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Surveyor { children: self, child: None, answer_max }
    }

    /// Finds out whether a child can work here at all, before one is needed.
    pub(crate) fn try_one(&self) {
        let mut surveyor = self.surveyor();
        surveyor.child = surveyor.start(&mut Budget::new(ANSWER_MAX)).ok();
    }

    /// Why no child can work here, as far as the last attempt tells.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Asks children, one at a time, and starts one where there is none.
#[derive(Debug)]
pub(crate) struct Surveyor<'a> {
    children: &'a Children,
    child: Option<Child>,
    answer_max: Duration,
}

impl Surveyor<'_> {
    /// What is on a disk.
    ///
    /// # Errors
    /// [`ChildError`]. After anything but [`ChildError::Failed`] the next question goes to another child.
    pub(crate) fn survey(&mut self, disk: &dyn Blocks) -> Result<Survey, ChildError> {
        match self.ask(&Question::Survey, disk)? {
            Answer::Survey(survey) => Ok(survey),
            other => Err(no_answer(other)),
        }
    }

    /// What the volumes of a disk say at a glance of the software on them.
    ///
    /// # Errors
    /// As [`Surveyor::survey`].
    pub(crate) fn glances(&mut self, disk: &dyn Blocks) -> Result<Vec<Glanced>, ChildError> {
        match self.ask(&Question::Glances, disk)? {
            Answer::Glances(found) => Ok(found),
            other => Err(no_answer(other)),
        }
    }

    /// Which software is on the volumes of a disk.
    ///
    /// # Errors
    /// As [`Surveyor::survey`].
    pub(crate) fn software(&mut self, disk: &dyn Blocks) -> Result<Vec<Software>, ChildError> {
        match self.ask(&Question::Software, disk)? {
            Answer::Software(found) => Ok(found),
            other => Err(no_answer(other)),
        }
    }

    fn ask(&mut self, question: &Question, disk: &dyn Blocks) -> Result<Answer, ChildError> {
        let mut budget = Budget::new(self.answer_max);
        match self.ask_once(question, disk, &mut budget) {
            Err(ChildError::Killed(_)) => self.ask_once(question, disk, &mut budget),
            result => result,
        }
    }

    fn ask_once(
        &mut self,
        question: &Question,
        disk: &dyn Blocks,
        budget: &mut Budget,
    ) -> Result<Answer, ChildError> {
        let mut child = match self.child.take() {
            Some(child) => child,
            None => self.start(budget)?,
        };
        let answer = child.talk.ask(question, disk, budget).map_err(|error| child.explain(error))?;
        child.answers += 1;
        self.child = Some(child).filter(|child| child.answers < ANSWERS_PER_CHILD);
        Ok(answer)
    }

    fn start(&self, budget: &mut Budget) -> Result<Child, ChildError> {
        let started = Child::start(budget);
        let trouble = started.as_ref().err().map(ToString::to_string);
        *self.children.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        started
    }
}

impl Drop for Surveyor<'_> {
    fn drop(&mut self) {
        // The next one starts when this one has ended.
        self.child = None;
        *self.children.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        // Not each of those that wait may take it.
        self.children.freed.notify_all();
    }
}

/// A process that answers, killed when this is dropped. It also ends with the thread that started it.
#[derive(Debug)]
struct Child {
    process: process::Child,
    talk: Talk,
    answers: u32,
}

impl Child {
    fn start(budget: &mut Budget) -> Result<Child, ChildError> {
        let (ours, its) = UnixStream::pair().map_err(ChildError::NotStarted)?;
        // By this name, since the file may have been replaced by an upgrade.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("bygone")
            .args(inside::ARGUMENTS)
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(its))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // It gets no other descriptor of ours, and no signal from our terminal.
        let process = bygone_sys::detach(&mut command).spawn().map_err(ChildError::NotStarted)?;
        // Its end of the socket pair was ours as well: without it, its end shows here.
        drop(command);
        let mut child = Child { process, talk: Talk::new(ours).map_err(ChildError::NotStarted)?, answers: 0 };
        match child.talk.receive(budget) {
            Ok(Frame::Ready) => Ok(child),
            Ok(Frame::NotConfined(why)) => Err(ChildError::NotConfined(wire::clipped(&why))),
            Ok(_) => Err(ChildError::Misbehaved("it began with something else")),
            Err(error) => Err(child.explain(error)),
        }
    }

    /// With the reason for which it ended, if it did.
    fn explain(&mut self, error: ChildError) -> ChildError {
        let ChildError::Ended(_) = error else { return error };
        // It closes its socket before it has ended.
        let end = Instant::now() + ENDING_MAX;
        loop {
            match self.process.try_wait() {
                Ok(Some(status)) => return why(status),
                Ok(None) if Instant::now() < end => std::thread::sleep(ENDING_MAX / 1000),
                _ => return error,
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Fails only if it has ended and was waited for.
        let _ = self.process.kill();
        if let Err(error) = self.process.wait() {
            tracing::warn!(%error, "a process that looks at disks cannot be waited for");
        }
    }
}

/// Why this is no answer to a question of another kind.
fn no_answer(answer: Answer) -> ChildError {
    match answer {
        Answer::Failed(text) => ChildError::Failed(text),
        _ => ChildError::Misbehaved("it answers what it was not asked"),
    }
}

/// Why a process ended.
fn why(status: ExitStatus) -> ChildError {
    let ended = |how: &str| ChildError::Ended(how.to_owned());
    match status.signal() {
        Some(libc::SIGSYS) => ended("was ended: it tried what it may not"),
        Some(libc::SIGXCPU) => ended("was ended: it needed too much time"),
        Some(libc::SIGABRT) => ended("gave up: it needed too much memory, or has a fault"),
        Some(libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGFPE) => ended("crashed"),
        Some(signal) => ChildError::Killed(signal),
        None => ChildError::Ended(format!("ended ({status})")),
    }
}

//! One change of a target at a time: whoever changes it holds its [`Op`], and what was checked when that was taken holds until it is
//! given back.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Target, lock};
use crate::{
    error::{Error, Result},
    lifecycle::{self, Change, Doing, Refusal, Request, Verdict},
};

/// Changes that are waited for take a moment; so long is waited at the most.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Who changes a target now.
#[derive(Default)]
pub(super) struct Turn {
    doing: Mutex<Option<Doing>>,
    changed: Condvar,
}

/// The right to change a target.
pub(crate) struct Op {
    target: Arc<Target>,
}

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Op({})", self.target.name)
    }
}

impl Op {
    /// What may be changed.
    pub(crate) fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Whether this may be done with the machine as it is; it cannot start meanwhile.
    ///
    /// # Errors
    /// When it may not.
    pub(crate) fn allows(&self, request: Request) -> Result<()> {
        self.target.decided(lifecycle::decide(None, self.target.machine_state(), request))
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        *lock(&self.target.turn.doing) = None;
        self.target.turn.changed.notify_all();
    }
}

/// What came of asking for the right to change a target.
#[derive(Debug)]
pub(crate) enum Begun {
    /// It may be changed.
    Go(Op),
    /// A machine that was left running has to be taken over first.
    Adopt(Op),
}

impl Target {
    /// What is being done with it.
    pub(crate) fn doing(&self) -> Option<Doing> {
        *lock(&self.turn.doing)
    }

    /// Does something while nobody can begin a change; nothing if one is under way.
    pub(crate) fn between_changes(&self, work: impl FnOnce()) {
        let doing = lock(&self.turn.doing);
        if doing.is_none() {
            work();
        }
    }

    /// Takes the right to change it, if `request` is legal in its state.
    ///
    /// # Errors
    /// When it is not; the error says what is in the way.
    pub(crate) fn begin(self: &Arc<Self>, change: Change, request: Request) -> Result<Begun> {
        // Not with the turn held: this asks the operating system.
        self.look_for_machine();
        let end = Instant::now() + WAIT_MAX;
        let mut doing = lock(&self.turn.doing);
        loop {
            if self.is_gone() {
                return Err(Error::NoTarget(self.name.clone()));
            }
            match lifecycle::decide(*doing, self.machine_state(), request) {
                // A turn that somebody has is never taken, also by what may be done meanwhile.
                verdict @ (Verdict::Go | Verdict::Adopt) if doing.is_none() => {
                    *doing = Some(Doing { change, since: self.log.now() });
                    let op = Op { target: self.clone() };
                    return Ok(if verdict == Verdict::Go { Begun::Go(op) } else { Begun::Adopt(op) });
                }
                Verdict::Refused(refusal) => return Err(self.refused(refusal)),
                _ if Instant::now() < end => {
                    let left = end.saturating_duration_since(Instant::now());
                    doing =
                        self.turn.changed.wait_timeout(doing, left).unwrap_or_else(PoisonError::into_inner).0;
                }
                _ => {
                    let refusal = doing.map_or(Refusal::Stopped, Refusal::Busy);
                    return Err(self.refused(refusal));
                }
            }
        }
    }

    /// As [`Target::begin`], for what no machine that was left running helps with.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn begin_change(self: &Arc<Self>, change: Change, request: Request) -> Result<Op> {
        match self.begin(change, request)? {
            Begun::Go(op) => Ok(op),
            Begun::Adopt(_) => Err(self.left_running()),
        }
    }

    /// Whether a request that needs no turn of its own is legal now; waits where that is what it does.
    ///
    /// # Errors
    /// When it is not.
    pub(crate) fn check(self: &Arc<Self>, request: Request) -> Result<Verdict> {
        self.look_for_machine();
        let end = Instant::now() + WAIT_MAX;
        let mut doing = lock(&self.turn.doing);
        loop {
            if self.is_gone() {
                return Err(Error::NoTarget(self.name.clone()));
            }
            match lifecycle::decide(*doing, self.machine_state(), request) {
                Verdict::Wait if Instant::now() < end => {
                    let left = end.saturating_duration_since(Instant::now());
                    doing =
                        self.turn.changed.wait_timeout(doing, left).unwrap_or_else(PoisonError::into_inner).0;
                }
                Verdict::Wait => return Err(self.refused(doing.map_or(Refusal::Stopped, Refusal::Busy))),
                Verdict::Refused(refusal) => return Err(self.refused(refusal)),
                verdict => return Ok(verdict),
            }
        }
    }

    /// That it may be, or why not.
    ///
    /// # Errors
    /// When it may not.
    pub(crate) fn decided(&self, verdict: Verdict) -> Result<()> {
        match verdict {
            Verdict::Go => Ok(()),
            Verdict::Refused(refusal) => Err(self.refused(refusal)),
            Verdict::Adopt | Verdict::Wait => Err(self.left_running()),
        }
    }

    /// Its machine was left running, and no manager looks after it.
    pub(crate) fn left_running(&self) -> Error {
        self.refused(Refusal::LeftRunning)
    }

    fn refused(&self, refusal: Refusal) -> Error {
        let name = self.name.clone();
        match refusal {
            Refusal::Busy(doing) => Error::busy(&name, doing),
            Refusal::Running => Error::TargetRunning(name),
            Refusal::Stopping => Error::TargetStopping(name),
            Refusal::LeftRunning => Error::LeftRunning { name, pid: self.left_pid(), why: self.left_why() },
            Refusal::Stopped => Error::TargetStopped(name),
        }
    }
}

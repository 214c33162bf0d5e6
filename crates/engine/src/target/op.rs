//! One change of a target at a time: a change holds the target's [`Op`], and what was checked with it held stays true
//! until it is dropped.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Target, lock};
use crate::{
    error::{Error, Result},
    history,
    lifecycle::{self, Change, Doing, Refusal, Request, Verdict},
};

/// The longest wait for a change in progress; the changes that are waited for are short.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The change of a target in progress, if there is one.
#[derive(Default)]
pub(super) struct Turn {
    doing: Mutex<Option<Doing>>,
    changed: Condvar,
}

/// The turn: the exclusive right to change a target.
pub(crate) struct Op {
    target: Arc<Target>,
}

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Op({})", self.target.name)
    }
}

impl Op {
    pub(crate) fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Checks that `request` is legal in the machine's state; no machine can start while the turn is held.
    ///
    /// # Errors
    /// When it is not.
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

/// The result of taking a target's turn.
#[derive(Debug)]
pub(crate) enum Begun {
    /// The change is legal.
    Go(Op),
    /// The machine that was left running has to be adopted first.
    Adopt(Op),
}

impl Target {
    /// The change in progress.
    pub(crate) fn doing(&self) -> Option<Doing> {
        *lock(&self.turn.doing)
    }

    /// Does `work` while no change can begin; does nothing if one is in progress.
    pub(crate) fn between_changes(&self, work: impl FnOnce()) {
        let doing = lock(&self.turn.doing);
        if doing.is_none() {
            work();
        }
    }

    /// Takes the turn, if `request` is legal in the target's state.
    ///
    /// # Errors
    /// When it is not; the error says why.
    pub(crate) fn begin(self: &Arc<Self>, change: Change, request: Request) -> Result<Begun> {
        // Before the turn is locked, because this asks the operating system.
        self.look_for_machine();
        let end = Instant::now() + WAIT_MAX;
        let mut doing = lock(&self.turn.doing);
        loop {
            if self.is_gone() {
                return Err(Error::NoTarget(self.name.clone()));
            }
            let verdict = lifecycle::decide(*doing, self.machine_state(), request);
            if verdict == Verdict::Go && request.needs_a_present() {
                self.check_present()?;
            }
            match verdict {
                // Asked with the turn locked: whoever closes this gate sees the starts that went through it before.
                Verdict::Go | Verdict::Adopt
                    if change == Change::Starting && self.shared.is_gate_closed() =>
                {
                    return Err(self.refused(Refusal::Ending));
                }
                // Only a free turn is taken, even for a request that is legal during the change in progress.
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

    /// Waits until its machine is not being started or adopted, for at most `within`. Returns whether it is not.
    pub(crate) fn wait_until_started(&self, within: Duration) -> bool {
        let end = Instant::now() + within;
        let mut doing = lock(&self.turn.doing);
        while doing.is_some_and(|doing| doing.change == Change::Starting) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            doing = self.turn.changed.wait_timeout(doing, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// As [`Target::begin`], for requests that do not adopt a machine that was left running.
    ///
    /// # Errors
    /// As [`Target::begin`], or when a machine was left running.
    pub(crate) fn begin_change(self: &Arc<Self>, change: Change, request: Request) -> Result<Op> {
        match self.begin(change, request)? {
            Begun::Go(op) => Ok(op),
            Begun::Adopt(_) => Err(self.left_running()),
        }
    }

    /// Checks that a request that needs no turn is legal now; waits for the change in progress if the contract says so.
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
            let verdict = lifecycle::decide(*doing, self.machine_state(), request);
            if verdict == Verdict::Go && request.needs_a_present() {
                self.check_present()?;
            }
            match verdict {
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

    /// Checks that it is known which branch is the present.
    ///
    /// # Errors
    /// [`Error::PresentInDoubt`] when records are lost that may have changed it, and nobody has chosen one since.
    pub(crate) fn check_present(&self) -> Result<()> {
        let catalog = self.log.catalog();
        match (catalog.doubts.first(), catalog.doubts.last()) {
            (Some(first), Some(last)) => Err(Error::PresentInDoubt {
                name: self.name.clone(),
                branch: history::name_for_people(&catalog, catalog.head),
                first: first.first,
                last: last.last,
            }),
            _ => Ok(()),
        }
    }

    /// Turns a verdict into a result.
    ///
    /// # Errors
    /// When the request is not legal.
    pub(crate) fn decided(&self, verdict: Verdict) -> Result<()> {
        match verdict {
            Verdict::Go => Ok(()),
            Verdict::Refused(refusal) => Err(self.refused(refusal)),
            Verdict::Adopt | Verdict::Wait => Err(self.left_running()),
        }
    }

    fn refused(&self, refusal: Refusal) -> Error {
        let name = self.name.clone();
        match refusal {
            Refusal::Busy(doing) => Error::busy(&name, doing),
            Refusal::Running => Error::TargetRunning(name),
            Refusal::Stopping => Error::TargetStopping(name),
            Refusal::LeftRunning | Refusal::Unknown => self.left_running(),
            Refusal::Stopped => Error::TargetStopped(name),
            Refusal::Ending => Error::ManagerEnding,
        }
    }
}

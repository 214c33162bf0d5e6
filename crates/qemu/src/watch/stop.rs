//! Stops a machine, gracefully first.

use std::time::Duration;

use super::{ANSWER_MAX, Held, Phase, Vm};
use crate::{
    deadline::Deadline,
    error::{Error, Result},
    process::{Exit, KILL_MAX},
    qmp::{Cont, Quit, SystemPowerdown},
};

/// The time between two presses of the power button: a guest that is still booting does not react to the first.
const PRESS_EVERY: Duration = Duration::from_secs(10);
/// How often a caller is asked whether it still wants the stop.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How long QEMU may take to end when asked.
const QUIT_MAX: Duration = Duration::from_secs(5);

/// The progress of [`Vm::stop`] and [`Vm::end`], for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The machine was paused and is resumed so that it can shut down.
    Resumed,
    /// The power button was pressed, for the first time or again.
    PowerButtonPressed,
    /// The machine has shut down (or panicked) and is paused.
    HoldsStill,
    /// It did not within the given time.
    OutOfPatience,
    /// QEMU was told to end.
    ToldToEnd,
    /// QEMU did not, and was killed. Nothing is lost: QEMU caches none of the guest's writes.
    Killed,
}

/// The result of [`Vm::stop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It is paused, and its disks do not change: it has shut down, or it panicked, and then no button helps;
    /// [`Vm::phase`] says which. [`Vm::end`] is next.
    Holding,
    /// QEMU has ended.
    Ended(Exit),
    /// It still runs; only force would help.
    StillRunning,
    /// The caller gave the stop up. The guest may still shut down: the button was pressed.
    GivenUp,
}

impl Vm {
    /// Presses the power button repeatedly until the machine has shut down or `patience` is over; then, with `force`,
    /// ends it. A machine that has shut down is left paused. One that was reset is about to start over, and can react
    /// to the button then.
    ///
    /// `wanted` gets each step, and `None` several times a second meanwhile. When it returns false the stop is given up;
    /// if QEMU does not answer, that takes up to [`ANSWER_MAX`].
    ///
    /// # Errors
    /// Those of [`Vm::end`]. A QEMU that does not answer is not an error: it is given its time.
    pub fn stop(
        &self,
        patience: Duration,
        force: bool,
        mut wanted: impl FnMut(Option<Step>) -> bool,
    ) -> Result<Stopped> {
        let deadline = Deadline::after(patience);
        let at_rest = |phase| matches!(phase, Phase::Held(Held::Shutdown | Held::Panicked));
        loop {
            match self.phase() {
                Phase::Ended(exit) => return Ok(Stopped::Ended(exit)),
                phase if at_rest(phase) => {
                    wanted(Some(Step::HoldsStill));
                    return Ok(Stopped::Holding);
                }
                // A paused machine cannot react to the button. If its disk still fails, it is paused again.
                Phase::Held(Held::Paused | Held::IoError) => {
                    if self.execute(&Cont, ANSWER_MAX.min(deadline.remaining())).is_ok() {
                        wanted(Some(Step::Resumed));
                    }
                }
                Phase::Starting | Phase::Running | Phase::Held(_) => {}
            }
            if deadline.passed() {
                break;
            }
            let within = PRESS_EVERY.min(deadline.remaining());
            let next_press = Deadline::after(within);
            if self.execute(&SystemPowerdown, within).is_ok() {
                wanted(Some(Step::PowerButtonPressed));
            }
            loop {
                if !wanted(None) {
                    return Ok(Stopped::GivenUp);
                }
                let found = self.wait_for(ASK_EVERY.min(next_press.remaining()), at_rest);
                if found.is_some() || next_press.passed() {
                    break;
                }
            }
        }
        wanted(Some(Step::OutOfPatience));
        if !force {
            return Ok(Stopped::StillRunning);
        }
        let step = |step| {
            wanted(Some(step));
        };
        self.end(step).map(Stopped::Ended)
    }

    /// Ends QEMU: on request first, then by force. For a running machine this is a power cut. Force loses no more than
    /// that, because QEMU caches nothing.
    ///
    /// # Errors
    /// [`Error::System`] when the process cannot be killed.
    pub fn end(&self, mut step: impl FnMut(Step)) -> Result<Exit> {
        let deadline = Deadline::after(QUIT_MAX);
        // QEMU cannot be asked while it waits for a disk that is not served.
        if self.execute(&Quit, QUIT_MAX).is_ok() {
            step(Step::ToldToEnd);
        }
        if let Some(exit) = self.ended_within(deadline.remaining()) {
            return Ok(exit);
        }
        self.process.kill()?;
        step(Step::Killed);
        self.ended_within(KILL_MAX)
            .ok_or(Error::System { what: "killing QEMU", source: std::io::ErrorKind::TimedOut.into() })
    }

    fn ended_within(&self, within: Duration) -> Option<Exit> {
        match self.wait_for(within, |_| false) {
            Some(Phase::Ended(exit)) => Some(exit),
            _ => None,
        }
    }
}

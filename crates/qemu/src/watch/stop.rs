//! Stopping a machine, gently first.

use std::time::Duration;

use super::{ANSWER_MAX, Held, Phase, Vm};
use crate::{
    deadline::Deadline,
    error::{Error, Result},
    process::Exit,
    qmp::{Cont, Quit, SystemPowerdown},
};

/// How long a press of the power button is given before the next: a guest that still boots does not hear the first.
const PRESS_EVERY: Duration = Duration::from_secs(10);
/// How long QEMU may take to end by itself, and then by force.
const QUIT_MAX: Duration = Duration::from_secs(5);
const KILL_MAX: Duration = Duration::from_secs(10);

/// What [`Vm::stop`] and [`Vm::end`] are doing, for people to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The machine was paused and goes on, to be able to shut down.
    Resumed,
    /// The power button was pressed, for the first time or again.
    PowerButtonPressed,
    /// The machine has shut down (or panicked) and holds still.
    HoldsStill,
    /// It did not, in all the time it was given.
    OutOfPatience,
    /// QEMU was told to end.
    ToldToEnd,
    /// QEMU did not, and was killed. Nothing is lost: what the guest wrote, we have.
    Killed,
}

/// How [`Vm::stop`] came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It holds still, and its disks can be read in peace: it has shut down, or it panicked, and then no button helps;
    /// [`Vm::phase`] says which. Then [`Vm::end`] it.
    Holding,
    /// QEMU has ended.
    Ended(Exit),
    /// It goes on; only force would help.
    StillRunning,
}

impl Vm {
    /// Presses the power button, again and again, until the machine has shut down or `patience` is over; then, with
    /// `force`, ends it all the same. A machine that has shut down holds still and is left so; one that was reset is
    /// about to start over, and hears the button then.
    ///
    /// # Errors
    /// Those of [`Vm::end`]. That QEMU does not answer is no error here: it is given its time.
    pub fn stop(&self, patience: Duration, force: bool, mut step: impl FnMut(Step)) -> Result<Stopped> {
        let deadline = Deadline::after(patience);
        let at_rest = |phase| matches!(phase, Phase::Held(Held::Shutdown | Held::Panicked));
        loop {
            match self.phase() {
                Phase::Ended(exit) => return Ok(Stopped::Ended(exit)),
                phase if at_rest(phase) => {
                    step(Step::HoldsStill);
                    return Ok(Stopped::Holding);
                }
                // It could not hear the button. A machine whose disk fails is not helped by this; it holds again.
                Phase::Held(Held::Paused | Held::IoError) => {
                    if self.execute(&Cont, ANSWER_MAX.min(deadline.remaining())).is_ok() {
                        step(Step::Resumed);
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
                step(Step::PowerButtonPressed);
            }
            self.wait_for(next_press.remaining(), at_rest);
        }
        step(Step::OutOfPatience);
        if force { self.end(step).map(Stopped::Ended) } else { Ok(Stopped::StillRunning) }
    }

    /// Ends QEMU: asked first, then by force. For a machine that runs this is a power cut. An end by force is no
    /// loss either: QEMU keeps nothing that we do not have.
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

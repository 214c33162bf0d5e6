//! What a supervisor tells of its machine, and the pure part of finding it out.
//!
//! Invariants:
//! - one thing that happens is told once, whether QEMU's event or its state told us first;
//! - what happened while nobody listened is told when it is seen, without a time;
//! - [`Phase`] follows from what was told: a machine is [`Phase::Held`] from the report of its stop to the report
//!   that it goes on.

use bygone_model::Micros;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    process::Exit,
    qmp::{Event, RunState, Status},
    spec::Disk,
};

/// Something that happened to a machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// When, by QEMU's clock (this computer's wall clock); `None` when it was only seen after the fact.
    pub time: Option<Micros>,
    /// What.
    pub what: Happening,
}

/// What can happen to a machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// QEMU answers. Comes first, and once.
    Started {
        /// It was running before this supervisor came.
        adopted: bool,
    },
    /// The machine was reset by somebody else than [`super::Vm::reset`].
    Reset {
        /// Who wanted it.
        by: By,
        /// Why, as QEMU says.
        reason: Reason,
        /// It holds still now, until [`super::Vm::reset`]; otherwise it starts over already.
        held: bool,
    },
    /// It has been reset by [`super::Vm::reset`] and stands at the first instruction of its firmware, until
    /// [`super::Vm::resume`].
    StartsOver,
    /// The power button was pressed; what the guest does about that is told next, if anything.
    PowerButton,
    /// The machine was switched off.
    ShutdownRequested {
        /// Who wanted it.
        by: By,
        /// Why, as QEMU says.
        reason: Reason,
        /// It holds still now, until [`super::Vm::end`] or [`super::Vm::reset`]; otherwise QEMU ends already.
        held: bool,
    },
    /// The guest's operating system gave up.
    Panicked {
        /// What it said of it; empty for Linux.
        info: Map<String, Value>,
        /// It holds still now; otherwise the guest is writing down what happened (kdump).
        held: bool,
    },
    /// A disk did not do what the guest asked for. The guest has not been told.
    IoError {
        /// The disk; `None` when it was only seen after the fact.
        disk: Option<String>,
        /// A write or flush, not a read.
        write: bool,
        /// There was no room.
        no_space: bool,
        /// It holds still now, until [`super::Vm::resume`], and then tries again.
        held: bool,
    },
    /// The machine holds still for another reason.
    Paused {
        /// Which.
        state: RunState,
    },
    /// The machine goes on.
    Resumed,
    /// The connection to QEMU broke while QEMU goes on; events may be lost from here on.
    ConnectionLost,
    /// The connection is there again.
    ConnectionBack,
    /// QEMU has ended. Comes last.
    Exited {
        /// How.
        exit: Exit,
        /// The last that QEMU itself said, for people.
        last_words: String,
    },
}

/// Who wanted something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The machine itself.
    Guest,
    /// Its firmware, before the guest had any say: it starts over twice at a reset. A part of the reset before.
    Firmware,
    /// Somebody outside: we, a signal, the window's close button.
    Host,
    /// Nobody listened when it happened.
    Unknown,
}

/// Why a machine stopped or started over (`ShutdownCause` in `qapi/run-state.json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The guest switched itself off.
    GuestShutdown,
    /// The guest reset itself.
    GuestReset,
    /// The guest panicked.
    GuestPanic,
    /// We ended QEMU.
    HostQmpQuit,
    /// We reset the machine.
    HostQmpSystemReset,
    /// QEMU got a signal.
    HostSignal,
    /// Somebody closed the window.
    HostUi,
    /// QEMU cannot go on.
    HostError,
    /// Nobody listened when it happened.
    SeenAfterTheFact,
    /// Any other.
    #[serde(untagged)]
    Other(String),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match serde_json::to_value(self) {
            Ok(Value::String(word)) => f.pad(&word),
            _ => f.pad("unknown"),
        }
    }
}

/// Where a machine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// QEMU has not answered yet.
    Starting,
    /// It runs.
    Running,
    /// It holds still.
    Held(Held),
    /// QEMU has ended.
    Ended(Exit),
}

/// Why a machine holds still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It was switched off.
    Shutdown,
    /// It was reset.
    Reset,
    /// It was reset, and has not begun to run since.
    StartsOver,
    /// It panicked.
    Panicked,
    /// A disk failed.
    IoError,
    /// Anything else.
    Paused,
}

/// What has been told so far.
#[derive(Debug)]
pub(super) struct Story {
    adopted: bool,
    started: bool,
    phase: Phase,
    last_resume: Micros,
}

impl Story {
    pub(super) fn new(adopted: bool) -> Story {
        Story { adopted, started: false, phase: Phase::Starting, last_resume: Micros(i64::MIN) }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// What one of QEMU's events tells. Of a stop for reasons of which no event told, only QEMU's state knows more:
    /// see [`Story::is_unexplained_stop`].
    pub(super) fn event(&mut self, event: &Event) -> Vec<Happening> {
        let Some(what) = self.read_event(event) else { return Vec::new() };
        // It may come before the answer to the first question after QEMU's state.
        self.start().into_iter().chain([what]).collect()
    }

    /// What has to be told before everything else.
    fn start(&mut self) -> Option<Happening> {
        if std::mem::replace(&mut self.started, true) {
            return None;
        }
        if self.phase == Phase::Starting {
            self.phase = Phase::Running;
        }
        Some(Happening::Started { adopted: self.adopted })
    }

    fn read_event(&mut self, event: &Event) -> Option<Happening> {
        let flag = |key: &str| event.data.get(key).and_then(Value::as_bool).unwrap_or(false);
        let word = |key: &str| event.data.get(key).and_then(Value::as_str).unwrap_or_default();
        let by = if flag("guest") { By::Guest } else { By::Host };
        let reason = || {
            let word = event.data.get("reason").cloned().unwrap_or_default();
            serde_json::from_value(word).unwrap_or(Reason::Other(String::new()))
        };
        match event.name.as_str() {
            "SHUTDOWN" => {
                let reason = reason();
                let held = !matches!(reason, Reason::HostQmpQuit | Reason::HostSignal);
                if matches!(reason, Reason::GuestReset | Reason::HostQmpSystemReset) {
                    self.phase = Phase::Held(Held::Reset);
                    return Some(Happening::Reset { by, reason, held });
                }
                if held {
                    self.phase = Phase::Held(Held::Shutdown);
                }
                Some(Happening::ShutdownRequested { by, reason, held })
            }
            // Only ours holds still already; any other does so first, or somebody has told QEMU otherwise.
            "RESET" if self.is_held() => {
                self.phase = Phase::Held(Held::StartsOver);
                Some(Happening::StartsOver)
            }
            "RESET" => Some(Happening::Reset { by, reason: reason(), held: false }),
            "POWERDOWN" => Some(Happening::PowerButton),
            "GUEST_PANICKED" | "GUEST_CRASHLOADED" => {
                let held = word("action") == "pause";
                if held {
                    self.phase = Phase::Held(Held::Panicked);
                }
                let info = event.data.get("info").and_then(Value::as_object).cloned().unwrap_or_default();
                Some(Happening::Panicked { info, held })
            }
            "BLOCK_IO_ERROR" => {
                // QEMU sends at most one of these a second, so one can come late: it must not undo a resume.
                let held = word("action") == "stop" && event.time > self.last_resume;
                if held {
                    self.phase = Phase::Held(Held::IoError);
                }
                let disk = Disk::id_of(word("node-name")).or_else(|| Disk::id_of(word("qom-path")));
                Some(Happening::IoError {
                    disk: disk.map(str::to_owned),
                    write: word("operation") == "write",
                    no_space: flag("nospace"),
                    held,
                })
            }
            "SUSPEND" => {
                self.phase = Phase::Held(Held::Paused);
                Some(Happening::Paused { state: RunState::Suspended })
            }
            "RESUME" | "WAKEUP" => {
                self.last_resume = event.time;
                self.phase = Phase::Running;
                Some(Happening::Resumed)
            }
            _ => None,
        }
    }

    /// Did this event stop the machine for a reason that was not told?
    pub(super) fn is_unexplained_stop(&self, event: &Event) -> bool {
        event.name == "STOP" && !self.is_held()
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Held(_))
    }

    /// What QEMU's state tells beyond what its events have told.
    pub(super) fn status(&mut self, status: &Status) -> Vec<Happening> {
        let mut told = Vec::from_iter(self.start());
        let (held, what) = match &status.state {
            RunState::Running => {
                if matches!(self.phase, Phase::Held(_)) {
                    told.push(Happening::Resumed);
                }
                self.phase = Phase::Running;
                return told;
            }
            RunState::Shutdown => (
                Held::Shutdown,
                Happening::ShutdownRequested {
                    by: By::Unknown,
                    reason: Reason::SeenAfterTheFact,
                    held: true,
                },
            ),
            // Of a machine that we have just started it says that it was to wait.
            RunState::Prelaunch if self.adopted || self.phase != Phase::Running => {
                (Held::StartsOver, Happening::StartsOver)
            }
            RunState::GuestPanicked => (Held::Panicked, Happening::Panicked { info: Map::new(), held: true }),
            RunState::IoError => {
                (Held::IoError, Happening::IoError { disk: None, write: false, no_space: false, held: true })
            }
            state => (Held::Paused, Happening::Paused { state: state.clone() }),
        };
        // A machine that was reset and holds still is in QEMU's state `shutdown`.
        let known = match self.phase {
            Phase::Held(Held::Reset) => held == Held::Shutdown,
            phase => phase == Phase::Held(held),
        };
        if !known {
            self.phase = Phase::Held(held);
            told.push(what);
        }
        told
    }

    pub(super) fn exited(&mut self, exit: Exit) {
        self.phase = Phase::Ended(exit);
    }
}

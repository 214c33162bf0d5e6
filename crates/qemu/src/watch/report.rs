//! What a supervisor reports about its machine, and the pure part of deriving it.
//!
//! Invariants:
//! - each occurrence is reported once, whether QEMU's event or its state showed it first;
//! - an occurrence while no supervisor was connected is reported when it is seen, without a time;
//! - [`Phase`] follows from the reports: a machine is [`Phase::Held`] from the report of its stop to the report that it
//!   resumed.

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
    /// When, by QEMU's clock (the host's wall clock); `None` when it was only seen after the fact.
    pub time: Option<Micros>,
    /// What happened.
    pub what: Happening,
}

/// An occurrence in a machine's life.
#[derive(Clone, Debug, PartialEq)]
pub enum Happening {
    /// QEMU answers. Reported first, and once.
    Started {
        /// It was running before this supervisor was started.
        adopted: bool,
    },
    /// The machine was reset, but not by [`super::Vm::reset`].
    Reset {
        /// The initiator.
        by: By,
        /// QEMU's reason.
        reason: Reason,
        /// It is paused until [`super::Vm::reset`]; otherwise it is starting over already.
        held: bool,
    },
    /// It was reset by [`super::Vm::reset`] and is paused at the first instruction of its firmware, until
    /// [`super::Vm::resume`].
    StartsOver,
    /// The power button was pressed; the guest's reaction, if any, is reported next.
    PowerButton,
    /// The machine was shut down.
    ShutdownRequested {
        /// The initiator.
        by: By,
        /// QEMU's reason.
        reason: Reason,
        /// It is paused until [`super::Vm::end`] or [`super::Vm::reset`]; otherwise QEMU is ending already.
        held: bool,
    },
    /// The guest's operating system panicked.
    Panicked {
        /// The guest's details; empty for Linux.
        info: Map<String, Value>,
        /// It is paused; otherwise the guest is writing a crash dump (kdump).
        held: bool,
    },
    /// A disk failed a request. The guest was not told.
    IoError {
        /// The disk; `None` when it was only seen after the fact.
        disk: Option<String>,
        /// A write or flush, not a read.
        write: bool,
        /// The disk had no space left.
        no_space: bool,
        /// It is paused until [`super::Vm::resume`], which retries the request.
        held: bool,
    },
    /// The machine is paused for another reason.
    Paused {
        /// QEMU's state.
        state: RunState,
    },
    /// The machine resumed.
    Resumed,
    /// The connection to QEMU was lost while QEMU runs; events may be missed from here on.
    ConnectionLost,
    /// The connection was restored.
    ConnectionBack,
    /// QEMU has ended. Reported last.
    Exited {
        /// How it ended.
        exit: Exit,
        /// The end of QEMU's own output, for people.
        last_words: String,
    },
}

/// The initiator of a reset or shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The machine itself.
    Guest,
    /// Its firmware, before any guest code ran: it starts over twice at a reset. This belongs to the reset before.
    Firmware,
    /// The host: this program, a signal, or the window's close button.
    Host,
    /// No supervisor was connected when it happened.
    Unknown,
}

/// Why a machine shut down or reset (`ShutdownCause` in `qapi/run-state.json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The guest shut itself down.
    GuestShutdown,
    /// The guest reset itself.
    GuestReset,
    /// The guest panicked.
    GuestPanic,
    /// QEMU was ended over QMP.
    HostQmpQuit,
    /// The machine was reset over QMP.
    HostQmpSystemReset,
    /// QEMU got a signal.
    HostSignal,
    /// The window was closed.
    HostUi,
    /// QEMU cannot go on.
    HostError,
    /// No supervisor was connected when it happened.
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

/// The phase of a machine's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// QEMU has not answered yet.
    Starting,
    /// It runs.
    Running,
    /// It is paused.
    Held(Held),
    /// QEMU has ended.
    Ended(Exit),
}

/// Why a machine is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// It was shut down.
    Shutdown,
    /// It was reset.
    Reset,
    /// It was reset by [`super::Vm::reset`] and has not run since.
    StartsOver,
    /// It panicked.
    Panicked,
    /// A disk failed.
    IoError,
    /// Anything else.
    Paused,
}

/// What has been reported so far.
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

    /// Derives reports from one of QEMU's events. For a stop that no event explained, only QEMU's state has the reason:
    /// see [`Story::is_unexplained_stop`].
    pub(super) fn event(&mut self, event: &Event) -> Vec<Happening> {
        let Some(what) = self.read_event(event) else { return Vec::new() };
        // It may arrive before the answer to the first `query-status`.
        self.start().into_iter().chain([what]).collect()
    }

    /// The report that has to come first, if it is still due.
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
            // Only for a reset by us is the machine paused already. Any other reset pauses it first, unless QEMU's
            // settings were changed.
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
                // QEMU sends at most one of these a second, so it can arrive late and must not undo a resume.
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

    /// Whether this event paused the machine for a reason that was not reported.
    pub(super) fn is_unexplained_stop(&self, event: &Event) -> bool {
        event.name == "STOP" && !self.is_held()
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(self.phase, Phase::Held(_))
    }

    /// Derives reports from QEMU's state, beyond what its events have shown.
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
            // A machine that was just started reports this state because it was started paused.
            RunState::Prelaunch if self.adopted || self.phase != Phase::Running => {
                (Held::StartsOver, Happening::StartsOver)
            }
            RunState::GuestPanicked => (Held::Panicked, Happening::Panicked { info: Map::new(), held: true }),
            RunState::IoError => {
                (Held::IoError, Happening::IoError { disk: None, write: false, no_space: false, held: true })
            }
            state => (Held::Paused, Happening::Paused { state: state.clone() }),
        };
        // A machine that was reset and is paused is in QEMU's state `shutdown`.
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

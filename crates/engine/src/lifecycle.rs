//! Which requests are legal in which state of a target: the only place that decides (see `docs/lifecycle.md`).
//!
//! A target has a machine, in one of six states, and at most one *change* in progress. Requests that change it begin
//! with [`decide`]; requests that only look do not use it.

use bygone_model::Micros;

use crate::api;
pub(crate) use crate::api::Change;

/// A change in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doing {
    pub change: Change,
    /// When it began.
    pub since: Micros,
}

/// The state of a target's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Machine {
    /// No process runs.
    Stopped,
    /// The process exists and does not answer yet.
    Starting,
    /// It runs.
    Running,
    /// It was asked to stop, has shut down or panicked, and its process still exists.
    Stopping,
    /// It runs, and no manager supervises it.
    LeftRunning,
    /// It cannot be determined whether it runs.
    Unknown,
}

impl Machine {
    /// Its name in `status`.
    pub(crate) fn state(self) -> api::Life {
        match self {
            Machine::Stopped => api::Life::Stopped,
            Machine::Starting => api::Life::Starting,
            Machine::Running => api::Life::Running,
            Machine::Stopping => api::Life::Stopping,
            Machine::LeftRunning => api::Life::LeftRunning,
            Machine::Unknown => api::Life::Unknown,
        }
    }
}

/// The kinds of requests that the contract distinguishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Request {
    /// `run`.
    Run,
    /// `stop`, with or without force.
    Stop,
    /// The present moves to another branch than the machine's.
    Move,
    /// The present moves to the branch on which the machine runs.
    MoveToRunning,
    /// A change of branches. Whether it moves the present is known once the turn is taken; then [`Request::Move`] or
    /// [`Request::MoveToRunning`] is decided.
    Branches,
    /// `branch promote`: as [`Request::Branches`]. It is also a person's choice of the present when nobody knows which
    /// branch it is.
    Promote,
    /// A writable disk is served to a client other than the machine.
    Serve,
    /// A request that changes nothing but the log or the settings, or reads a past moment: `point`, `target set`,
    /// `restore --to`, an `export` of a moment.
    Note,
    /// `target remove`.
    Remove,
}

impl Request {
    /// Whether it is refused while nobody knows which branch is the present: whatever is written then may continue the
    /// wrong one.
    pub(crate) fn needs_a_present(self) -> bool {
        match self {
            Request::Run | Request::Move | Request::MoveToRunning | Request::Branches | Request::Serve => {
                true
            }
            Request::Promote | Request::Stop | Request::Note | Request::Remove => false,
        }
    }
}

/// The decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is legal.
    Go,
    /// It is legal, and the machine is adopted first.
    Adopt,
    /// It waits for the change in progress.
    Wait,
    /// It is refused.
    Refused(Refusal),
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// "target web is being restored, since 15:04:05".
    Busy(Doing),
    /// "target web is running".
    Running,
    /// "target web is being stopped".
    Stopping,
    /// "the machine of target web runs, left by an earlier manager".
    LeftRunning,
    /// "it cannot be determined whether the machine of target web runs".
    Unknown,
    /// "target web is not running".
    Stopped,
    /// "the manager is ending": it starts and adopts no machine any more.
    Ending,
}

/// Whether a change is so short that other requests wait for it.
fn is_short(change: Change) -> bool {
    matches!(change, Change::Dropping)
}

/// Decides whether a request is legal, given the change in progress and the state of the machine.
pub(crate) fn decide(doing: Option<Doing>, machine: Machine, request: Request) -> Verdict {
    use Verdict::{Adopt, Go, Refused, Wait};
    if let Some(doing) = doing {
        let waits = match (doing.change, request) {
            // The target is not complete, or about to disappear.
            (Change::Removing | Change::Adding | Change::Repairing, _) => {
                return Refused(Refusal::Busy(doing));
            }
            // These do not touch what the change changes.
            (_, Request::Note) => return Go,
            // A stop of a machine that is being started follows the start.
            (Change::Starting, Request::Stop) => true,
            // Adopting it needs the turn.
            (_, Request::Stop) if machine == Machine::LeftRunning => true,
            (_, Request::Stop) => return decide(None, machine, request),
            (change, _) => is_short(change),
        };
        return if waits { Wait } else { Refused(Refusal::Busy(doing)) };
    }
    match (machine, request) {
        (_, Request::Note) => Go,
        // It may run: what a stopped machine allows could destroy the disks of one that runs.
        (Machine::Unknown, _) => Refused(Refusal::Unknown),
        (Machine::Stopped, Request::Stop) => Refused(Refusal::Stopped),
        (Machine::Stopped, _) => Go,
        (Machine::LeftRunning, Request::Run | Request::Stop) => Adopt,
        (Machine::LeftRunning, Request::Branches | Request::Promote) => Go,
        (Machine::LeftRunning, _) => Refused(Refusal::LeftRunning),
        (_, Request::Stop | Request::Branches | Request::Promote | Request::Serve) => Go,
        (Machine::Starting | Machine::Running, Request::MoveToRunning) => Go,
        (Machine::Starting | Machine::Running, _) => Refused(Refusal::Running),
        (Machine::Stopping, _) => Refused(Refusal::Stopping),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINES: [Machine; 6] = [
        Machine::Stopped,
        Machine::Starting,
        Machine::Running,
        Machine::Stopping,
        Machine::LeftRunning,
        Machine::Unknown,
    ];

    fn word(verdict: Verdict) -> &'static str {
        match verdict {
            Verdict::Go => "",
            Verdict::Adopt => "adopt",
            Verdict::Wait => "wait",
            Verdict::Refused(Refusal::Busy(_)) => "busy",
            Verdict::Refused(Refusal::Running) => "running",
            Verdict::Refused(Refusal::Stopping) => "stopping",
            Verdict::Refused(Refusal::LeftRunning) => "left",
            Verdict::Refused(Refusal::Unknown) => "unknown",
            Verdict::Refused(Refusal::Stopped) => "stopped",
            Verdict::Refused(Refusal::Ending) => "ending",
        }
    }

    /// The tables of `docs/lifecycle.md`.
    #[test]
    fn every_state_answers_every_request_as_the_contract_says() {
        for (request, wanted) in [
            (Request::Run, ["", "running", "running", "stopping", "adopt", "unknown"]),
            (Request::Stop, ["stopped", "", "", "", "adopt", "unknown"]),
            (Request::Move, ["", "running", "running", "stopping", "left", "unknown"]),
            (Request::MoveToRunning, ["", "", "", "stopping", "left", "unknown"]),
            (Request::Branches, ["", "", "", "", "", "unknown"]),
            (Request::Promote, ["", "", "", "", "", "unknown"]),
            (Request::Serve, ["", "", "", "", "left", "unknown"]),
            (Request::Note, ["", "", "", "", "", ""]),
            (Request::Remove, ["", "running", "running", "stopping", "left", "unknown"]),
        ] {
            let said = MACHINES.map(|machine| word(decide(None, machine, request)));
            assert_eq!(said, wanted, "{request:?}");
        }
        let moving = [Change::Restoring, Change::Promoting, Change::Undoing];
        let gone = [Change::Adding, Change::Repairing, Change::Removing];
        let while_in = |change, request| {
            let doing = Doing { change, since: Micros(0) };
            MACHINES.map(|machine| word(decide(Some(doing), machine, request)))
        };
        for request in [
            Request::Run,
            Request::Move,
            Request::MoveToRunning,
            Request::Branches,
            Request::Promote,
            Request::Serve,
            Request::Remove,
        ] {
            assert_eq!(while_in(Change::Starting, request), ["busy"; 6], "{request:?}");
            assert_eq!(while_in(Change::Dropping, request), ["wait"; 6], "{request:?}");
            for change in moving {
                assert_eq!(while_in(change, request), ["busy"; 6], "{change:?} {request:?}");
            }
        }
        for request in [Request::Run, Request::Stop, Request::Branches, Request::Note, Request::Serve] {
            for change in gone {
                assert_eq!(while_in(change, request), ["busy"; 6], "{change:?} {request:?}");
            }
        }
        assert_eq!(while_in(Change::Starting, Request::Stop), ["wait"; 6]);
        for change in moving.into_iter().chain([Change::Dropping]) {
            assert_eq!(while_in(change, Request::Stop), ["stopped", "", "", "", "wait", "unknown"]);
            assert_eq!(while_in(change, Request::Note), [""; 6]);
        }
    }
}

//! What may be asked of a target in which state: the one place that decides (see `docs/lifecycle.md`).
//!
//! A target has a machine, which is in one of five states, and at most one *change* under way. Requests that change it begin with
//! [`decide`]; those that only look never come here.

use bygone_model::Micros;

/// A change of a target. There is one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    /// It comes to be.
    Add,
    /// Its machine is started, or taken over from an earlier manager.
    Start,
    /// A moment becomes its present.
    Restore,
    /// A branch becomes its present.
    Promote,
    /// A branch is dropped.
    Drop,
    /// The last change of its branches is taken back.
    Undo,
    /// Its configuration is written anew.
    Repair,
    /// It goes.
    Remove,
}

impl Change {
    /// In words: "target web is being …".
    pub(crate) fn participle(self) -> &'static str {
        match self {
            Change::Add => "added",
            Change::Start => "started",
            Change::Restore => "restored",
            Change::Promote => "given another present",
            Change::Drop => "relieved of a branch",
            Change::Undo => "taken back to before its last change",
            Change::Repair => "repaired",
            Change::Remove => "removed",
        }
    }

    /// The name of the state in which a target is meanwhile.
    pub(crate) fn state(self) -> &'static str {
        match self {
            Change::Add => "adding",
            Change::Start => "starting",
            Change::Restore => "restoring",
            Change::Promote => "promoting",
            Change::Drop => "dropping",
            Change::Undo => "undoing",
            Change::Repair => "repairing",
            Change::Remove => "removing",
        }
    }

    /// It takes a moment at most, so whoever comes meanwhile waits for it.
    fn is_short(self) -> bool {
        matches!(self, Change::Drop)
    }
}

/// A change that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doing {
    /// Which.
    pub change: Change,
    /// Since when.
    pub since: Micros,
}

/// The state of a target's machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Machine {
    /// None runs.
    Stopped,
    /// Its process is there and does not answer yet.
    Starting,
    /// It runs.
    Running,
    /// It was asked to stop.
    Stopping,
    /// It runs, and no manager serves its disks yet.
    LeftRunning,
}

impl Machine {
    /// Its name in `status`.
    pub(crate) fn state(self) -> &'static str {
        match self {
            Machine::Stopped => "stopped",
            Machine::Starting => "starting",
            Machine::Running => "running",
            Machine::Stopping => "stopping",
            Machine::LeftRunning => "left-running",
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Request {
    /// `run`.
    Run,
    /// `stop`, with or without force.
    Stop,
    /// Another branch becomes the present.
    Move,
    /// The branch on which the machine runs becomes the present.
    MoveToRunning,
    /// A change of branches. Whether the present moves with it is asked once the turn is taken: see [`Request::Move`].
    Branches,
    /// A disk that can be written is served to somebody else than the machine.
    Serve,
    /// What notes something and leaves everything else as it is: `point`, `target set`, a moment that is read for long.
    Note,
    /// `target remove`.
    Remove,
}

/// What is done about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may begin.
    Go,
    /// It may begin: the machine is taken over first.
    Adopt,
    /// It waits for the change that is under way.
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
    /// "target web is not running".
    Stopped,
}

/// Decides about a request of a target whose machine is in this state and which is being changed like this.
pub(crate) fn decide(doing: Option<Doing>, machine: Machine, request: Request) -> Verdict {
    use Verdict::{Adopt, Go, Refused, Wait};
    if let Some(doing) = doing {
        let waits = match (doing.change, request) {
            // Nothing is begun with what goes, or is not there yet.
            (Change::Remove | Change::Add | Change::Repair, _) => return Refused(Refusal::Busy(doing)),
            // These do not touch what is being changed.
            (_, Request::Note) => return Go,
            // Who asks for the stop of a machine that starts wants it stopped when it has.
            (Change::Start, Request::Stop) => true,
            // It is taken over first, which is a change as well.
            (_, Request::Stop) if machine == Machine::LeftRunning => true,
            (_, Request::Stop) => return decide(None, machine, request),
            (change, _) => change.is_short(),
        };
        return if waits { Wait } else { Refused(Refusal::Busy(doing)) };
    }
    match (machine, request) {
        (_, Request::Note) => Go,
        (Machine::Stopped, Request::Stop) => Refused(Refusal::Stopped),
        (Machine::Stopped, _) => Go,
        (Machine::LeftRunning, Request::Run | Request::Stop) => Adopt,
        (Machine::LeftRunning, Request::Branches) => Go,
        (Machine::LeftRunning, _) => Refused(Refusal::LeftRunning),
        (_, Request::Stop | Request::Branches | Request::Serve) => Go,
        (Machine::Starting | Machine::Running, Request::MoveToRunning) => Go,
        (Machine::Starting | Machine::Running, _) => Refused(Refusal::Running),
        (Machine::Stopping, _) => Refused(Refusal::Stopping),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINES: [Machine; 5] =
        [Machine::Stopped, Machine::Starting, Machine::Running, Machine::Stopping, Machine::LeftRunning];

    fn word(verdict: Verdict) -> &'static str {
        match verdict {
            Verdict::Go => "",
            Verdict::Adopt => "adopt",
            Verdict::Wait => "wait",
            Verdict::Refused(Refusal::Busy(_)) => "busy",
            Verdict::Refused(Refusal::Running) => "running",
            Verdict::Refused(Refusal::Stopping) => "stopping",
            Verdict::Refused(Refusal::LeftRunning) => "left",
            Verdict::Refused(Refusal::Stopped) => "stopped",
        }
    }

    /// The tables of `docs/lifecycle.md`.
    #[test]
    fn every_state_answers_every_request_as_the_contract_says() {
        for (request, wanted) in [
            (Request::Run, ["", "running", "running", "stopping", "adopt"]),
            (Request::Stop, ["stopped", "", "", "", "adopt"]),
            (Request::Move, ["", "running", "running", "stopping", "left"]),
            (Request::MoveToRunning, ["", "", "", "stopping", "left"]),
            (Request::Branches, ["", "", "", "", ""]),
            (Request::Serve, ["", "", "", "", "left"]),
            (Request::Note, ["", "", "", "", ""]),
            (Request::Remove, ["", "running", "running", "stopping", "left"]),
        ] {
            let said = MACHINES.map(|machine| word(decide(None, machine, request)));
            assert_eq!(said, wanted, "{request:?}");
        }
        let moving = [Change::Restore, Change::Promote, Change::Undo];
        let gone = [Change::Add, Change::Repair, Change::Remove];
        let while_in = |change, request| {
            let doing = Doing { change, since: Micros(0) };
            MACHINES.map(|machine| word(decide(Some(doing), machine, request)))
        };
        for request in [
            Request::Run,
            Request::Move,
            Request::MoveToRunning,
            Request::Branches,
            Request::Serve,
            Request::Remove,
        ] {
            assert_eq!(while_in(Change::Start, request), ["busy"; 5], "{request:?}");
            assert_eq!(while_in(Change::Drop, request), ["wait"; 5], "{request:?}");
            for change in moving {
                assert_eq!(while_in(change, request), ["busy"; 5], "{change:?} {request:?}");
            }
        }
        for request in [Request::Run, Request::Stop, Request::Branches, Request::Note, Request::Serve] {
            for change in gone {
                assert_eq!(while_in(change, request), ["busy"; 5], "{change:?} {request:?}");
            }
        }
        assert_eq!(while_in(Change::Start, Request::Stop), ["wait"; 5]);
        for change in moving.into_iter().chain([Change::Drop]) {
            assert_eq!(while_in(change, Request::Stop), ["stopped", "", "", "", "wait"]);
            assert_eq!(while_in(change, Request::Note), [""; 5]);
        }
    }
}

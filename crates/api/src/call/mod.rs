//! All calls: a type for each request, with the types of its answers.

mod history;
mod jobs;
mod machines;
mod plan;
mod store;
mod targets;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use history::{
    BranchDrop, BranchList, BranchPromote, Point, Points, Restore, RestoreTo, Timeline, Undo, When,
};
pub use jobs::{Job, JobCancel, Jobs};
pub use machines::{Export, ExportTo, Run, Stop, Wait};
pub use plan::{Plan, Plannable};
pub use store::{Compact, Shutdown, Status, Verify};
pub use targets::{
    NewDisk, NewSource, TargetAdd, TargetList, TargetRemove, TargetRemoved, TargetRepair, TargetRestore,
    TargetSet, TargetShow,
};

use crate::{
    BranchInfo, Compacted, Exported, JobEnded, JobInfo, MomentInfo, MomentMeant, Planned, Removed,
    RemovedInfo, Repaired, Restored, Started, Status as StatusInfo, TargetInfo, Verified,
};

/// A request, and the types of its answers.
pub trait Call: Clone + Into<Request> + Serialize + DeserializeOwned {
    /// Its name on the socket.
    const NAME: &'static str;
    /// What it does to a target.
    const ROLE: Role;
    /// It is a job: it may take longer than a second, and ends by itself.
    const LASTS: bool;
    /// The items that are sent before the answer; [`Nothing`] for most.
    type Item: Serialize + DeserializeOwned;
    /// The final answer.
    type Answer: Serialize + DeserializeOwned;
}

/// What a call does, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It changes nothing, and never waits for a change in progress.
    Looks,
    /// It changes something, and no history is lost.
    Changes,
    /// It may lose history permanently.
    Destroys,
}

/// The items of a call that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nothing {}

/// How long a call takes.
enum Time {
    /// At most about a second.
    Short,
    /// As long as it takes.
    Long,
    /// As long as the caller wants.
    Asker,
}

macro_rules! calls {
    ($($name:ident, $said:literal, $role:ident, $time:ident, $item:ty => $answer:ty;)*) => {
        /// Any call, as it is sent.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "request")]
        pub enum Request {
            $(#[serde(rename = $said)] $name($name),)*
        }

        impl Request {
            /// Its name on the socket.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Request::$name(_) => $said,)* }
            }

            /// What it does, at most.
            #[must_use]
            pub fn role(&self) -> Role {
                match self { $(Request::$name(_) => Role::$role,)* }
            }

            /// It changes something that outlives its caller, so a key can say that it is to be done once.
            #[must_use]
            pub fn takes_key(&self) -> bool {
                self.role() != Role::Looks
                    && match self { $(Request::$name(_) => !matches!(Time::$time, Time::Asker),)* }
            }

            /// It is a job.
            #[must_use]
            pub fn lasts(&self) -> bool {
                match self { $(Request::$name(_) => $name::LASTS,)* }
            }
        }

        $(impl Call for $name {
            const NAME: &'static str = $said;
            const ROLE: Role = Role::$role;
            const LASTS: bool = matches!(Time::$time, Time::Long);
            type Item = $item;
            type Answer = $answer;
        }

        impl From<$name> for Request {
            fn from(call: $name) -> Request {
                Request::$name(call)
            }
        })*
    };
}

calls! {
    Status,        "status",         Looks,    Short, Nothing => StatusInfo;
    TargetAdd,     "target-add",     Changes,  Long,  Nothing => TargetInfo;
    TargetList,    "target-list",    Looks,    Short, TargetInfo => ();
    TargetShow,    "target-show",    Looks,    Short, Nothing => TargetInfo;
    TargetSet,     "target-set",     Changes,  Short, Nothing => TargetInfo;
    TargetRemove,  "target-remove",  Destroys, Long,  Nothing => Removed;
    TargetRemoved, "target-removed", Looks,    Short, RemovedInfo => ();
    TargetRestore, "target-restore", Changes,  Long,  Nothing => TargetInfo;
    TargetRepair,  "target-repair",  Changes,  Long,  Nothing => Repaired;
    Run,           "run",            Changes,  Long,  Nothing => Started;
    Wait,          "wait",           Looks,    Asker, Nothing => MomentInfo;
    Stop,          "stop",           Changes,  Long,  Nothing => MomentInfo;
    Export,        "export",         Changes,  Asker, Exported => Exported;
    Timeline,      "timeline",       Looks,    Short, MomentInfo => ();
    Point,         "point",          Changes,  Short, Nothing => MomentInfo;
    When,          "when",           Looks,    Short, Nothing => MomentMeant;
    Points,        "points",         Looks,    Short, MomentInfo => ();
    BranchList,    "branch-list",    Looks,    Short, BranchInfo => ();
    BranchPromote, "branch-promote", Changes,  Long,  Nothing => MomentInfo;
    BranchDrop,    "branch-drop",    Destroys, Short, Nothing => MomentInfo;
    Undo,          "undo",           Changes,  Long,  Nothing => MomentInfo;
    Restore,       "restore",        Destroys, Long,  Nothing => Restored;
    Plan,          "plan",           Looks,    Short, Nothing => Planned;
    Jobs,          "jobs",           Looks,    Short, JobInfo => ();
    Job,           "job",            Looks,    Asker, Nothing => JobEnded;
    JobCancel,     "job-cancel",     Changes,  Short, Nothing => JobInfo;
    Verify,        "verify",         Looks,    Long,  Nothing => Verified;
    Compact,       "compact",        Changes,  Long,  Nothing => Compacted;
    Shutdown,      "shutdown",       Changes,  Short, Nothing => ();
}

impl Request {
    /// It can be planned, so a caller can make it depend on its plan ([`Expect`](crate::Expect)).
    #[must_use]
    pub fn is_plannable(&self) -> bool {
        matches!(
            self,
            Request::TargetRemove(_)
                | Request::BranchDrop(_)
                | Request::Restore(_)
                | Request::BranchPromote(_)
                | Request::Undo(_)
        )
    }

    /// The target that it is about, if there is one.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        let name = match self {
            Request::TargetAdd(call) => &call.config.name,
            Request::TargetShow(TargetShow { name })
            | Request::TargetSet(TargetSet { name, .. })
            | Request::TargetRemove(TargetRemove { name, .. })
            | Request::TargetRepair(TargetRepair { name })
            | Request::Run(Run { name, .. })
            | Request::Wait(Wait { name })
            | Request::Stop(Stop { name, .. })
            | Request::Timeline(Timeline { name, .. })
            | Request::Point(Point { name, .. })
            | Request::When(When { name, .. })
            | Request::Points(Points { name })
            | Request::BranchList(BranchList { name, .. })
            | Request::BranchPromote(BranchPromote { name, .. })
            | Request::BranchDrop(BranchDrop { name, .. })
            | Request::Undo(Undo { name })
            | Request::Restore(Restore { name, .. }) => name,
            Request::TargetRestore(call) => call.new_name.as_ref().unwrap_or(&call.name),
            Request::Plan(call) => match &call.of {
                Plannable::TargetRemove(TargetRemove { name, .. })
                | Plannable::BranchDrop(BranchDrop { name, .. })
                | Plannable::Restore(Restore { name, .. })
                | Plannable::BranchPromote(BranchPromote { name, .. })
                | Plannable::Undo(Undo { name }) => name,
            },
            Request::Export(call) => call.what.split(['/', '@', '#']).next()?,
            Request::Verify(call) => call.name.as_ref()?,
            Request::Status(_)
            | Request::TargetList(_)
            | Request::TargetRemoved(_)
            | Request::Jobs(_)
            | Request::Job(_)
            | Request::JobCancel(_)
            | Request::Compact(_)
            | Request::Shutdown(_) => return None,
        };
        Some(name)
    }
}

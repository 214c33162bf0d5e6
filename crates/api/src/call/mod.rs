//! Everything that can be asked for: a type for each request, which says what it is answered with.

mod history;
mod machines;
mod plan;
mod store;
mod targets;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use history::{
    BranchDrop, BranchList, BranchPromote, Point, Points, Restore, RestoreTo, Timeline, Undo, When,
};
pub use machines::{Export, ExportTo, Run, Stop, Wait};
pub use plan::{Destroying, Plan};
pub use store::{Compact, Shutdown, Status, Verify};
pub use targets::{
    NewDisk, NewSource, TargetAdd, TargetList, TargetRemove, TargetRemoved, TargetRepair, TargetRestore,
    TargetSet, TargetShow,
};

use crate::{
    BranchInfo, Compacted, Exported, MomentInfo, MomentMeant, Planned, Removed, RemovedInfo, Repaired,
    Restored, Started, Status as StatusInfo, TargetInfo, Verified,
};

/// A request, and the types of what comes back.
pub trait Call: Clone + Into<Request> + Serialize + DeserializeOwned {
    /// What it is called on the socket.
    const NAME: &'static str;
    /// What it does to a target.
    const ROLE: Role;
    /// What comes while it is answered, one by one; [`Nothing`] for most.
    type Item: Serialize + DeserializeOwned;
    /// What it ends in.
    type Answer: Serialize + DeserializeOwned;
}

/// What a call does, at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Nothing changes; it never waits for a change that is under way.
    Looks,
    /// Something changes, and no history is lost.
    Changes,
    /// History may be lost for good.
    Destroys,
}

/// The items of a call that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nothing {}

macro_rules! calls {
    ($($name:ident, $said:literal, $role:ident, $item:ty => $answer:ty;)*) => {
        /// Any call, as it is sent.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(tag = "request")]
        pub enum Request {
            $(#[serde(rename = $said)] $name($name),)*
        }

        impl Request {
            /// What it is called on the socket.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Request::$name(_) => $said,)* }
            }

            /// What it does, at most.
            #[must_use]
            pub fn role(&self) -> Role {
                match self { $(Request::$name(_) => Role::$role,)* }
            }
        }

        $(impl Call for $name {
            const NAME: &'static str = $said;
            const ROLE: Role = Role::$role;
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
    Status,        "status",         Looks,    Nothing => StatusInfo;
    TargetAdd,     "target-add",     Changes,  Nothing => TargetInfo;
    TargetList,    "target-list",    Looks,    TargetInfo => ();
    TargetShow,    "target-show",    Looks,    Nothing => TargetInfo;
    TargetSet,     "target-set",     Changes,  Nothing => TargetInfo;
    TargetRemove,  "target-remove",  Destroys, Nothing => Removed;
    TargetRemoved, "target-removed", Looks,    RemovedInfo => ();
    TargetRestore, "target-restore", Changes,  Nothing => TargetInfo;
    TargetRepair,  "target-repair",  Changes,  Nothing => Repaired;
    Run,           "run",            Changes,  Nothing => Started;
    Wait,          "wait",           Looks,    Nothing => MomentInfo;
    Stop,          "stop",           Changes,  Nothing => MomentInfo;
    Export,        "export",         Changes,  Exported => Exported;
    Timeline,      "timeline",       Looks,    MomentInfo => ();
    Point,         "point",          Changes,  Nothing => MomentInfo;
    When,          "when",           Looks,    Nothing => MomentMeant;
    Points,        "points",         Looks,    MomentInfo => ();
    BranchList,    "branch-list",    Looks,    BranchInfo => ();
    BranchPromote, "branch-promote", Changes,  Nothing => MomentInfo;
    BranchDrop,    "branch-drop",    Destroys, Nothing => MomentInfo;
    Undo,          "undo",           Changes,  Nothing => MomentInfo;
    Restore,       "restore",        Destroys, Nothing => Restored;
    Plan,          "plan",           Looks,    Nothing => Planned;
    Verify,        "verify",         Looks,    Nothing => Verified;
    Compact,       "compact",        Changes,  Nothing => Compacted;
    Shutdown,      "shutdown",       Changes,  Nothing => ();
}

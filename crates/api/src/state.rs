//! The states of targets, machines, disks and the store, and the changes of a target. Each has one word, on the socket
//! and for people.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$says:meta])* $variant:ident $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$says])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// Its word.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }
    };
}

words! {
    /// A change of a target; at most one is in progress (`docs/lifecycle.md`).
    Change {
        Adding "adding",
        /// Its machine is started or adopted.
        Starting "starting",
        Restoring "restoring",
        Promoting "promoting",
        Dropping "dropping",
        Undoing "undoing",
        Repairing "repairing",
        Removing "removing",
    }
}

impl Change {
    /// What of a target is being done, and how: "a branch of target "web" is being dropped".
    pub(crate) fn sentence(self, target: &str) -> String {
        let (what, done) = match self {
            Change::Adding => ("", "added"),
            Change::Starting => ("", "started"),
            Change::Restoring => ("", "restored"),
            Change::Promoting => ("a branch of ", "promoted"),
            Change::Dropping => ("a branch of ", "dropped"),
            Change::Undoing => ("the last change of ", "undone"),
            Change::Repairing => ("", "repaired"),
            Change::Removing => ("", "removed"),
        };
        format!("{what}target {target:?} is being {done}")
    }
}

words! {
    /// What a target is doing: the change in progress, otherwise the state of its machine (`docs/lifecycle.md`).
    Life {
        Stopped "stopped",
        Starting "starting",
        Running "running",
        Stopping "stopping",
        /// Its machine runs, and no manager supervises it.
        LeftRunning "left-running",
        /// It cannot be determined whether its machine runs.
        Unknown "unknown",
        Adding "adding",
        Restoring "restoring",
        Promoting "promoting",
        Dropping "dropping",
        Undoing "undoing",
        Repairing "repairing",
        Removing "removing",
    }
}

impl From<Change> for Life {
    fn from(change: Change) -> Life {
        match change {
            Change::Adding => Life::Adding,
            Change::Starting => Life::Starting,
            Change::Restoring => Life::Restoring,
            Change::Promoting => Life::Promoting,
            Change::Dropping => Life::Dropping,
            Change::Undoing => Life::Undoing,
            Change::Repairing => Life::Repairing,
            Change::Removing => Life::Removing,
        }
    }
}

words! {
    /// Whether a target's machine runs.
    Running {
        Running "running",
        Stopped "stopped",
        /// Its machine runs and no manager supervises it, or it cannot be determined whether it runs.
        Unknown "unknown",
    }
}

words! {
    /// How a disk is kept.
    DiskMode {
        /// It stays where it is, outside the store.
        Tap "tap",
        Store "store",
        /// It is a branch's, and only in the store.
        Branch "branch",
    }
}

words! {
    /// How the store is.
    StoreState {
        Ok "ok",
        /// There is no room for writes beyond the space already preallocated.
        Full "full",
        /// A log's medium failed.
        Failed "failed",
    }
}

words! {
    /// What executes a machine's instructions.
    Accelerator {
        Kvm "kvm",
        Tcg "tcg",
        /// It was started by an earlier manager, and nothing says how.
        Unknown "unknown",
    }
}

//! What the manager can be asked for, and what it answers: one set of types for the command line, whether it asks a
//! running manager over its socket or is the manager itself.
//!
//! On the socket, a client sends one [`Request`] as a line of JSON and receives lines of [`Reply`] until
//! [`Reply::Done`] or [`Reply::Failed`]. Closing the connection ends what was asked for.

use std::path::PathBuf;

use bygone_model::{Details, Grade, Kind, Truth};
use serde::{Deserialize, Serialize};

use crate::config::{Display, TargetConfig};

/// A line from a client longer than this is refused.
pub const REQUEST_BYTES_MAX: u64 = 1 << 20;

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// What is protected, how far, how full, what is wrong → [`Status`].
    Status,
    /// Protects a new target → [`TargetInfo`].
    TargetAdd {
        /// How it is made up; `disks` is left empty.
        config: TargetConfig,
        /// Its disks.
        disks: Vec<NewDisk>,
        /// Wait until its tapped disks were read.
        #[serde(default)]
        wait: bool,
    },
    /// → items of [`TargetInfo`].
    TargetList,
    /// → [`TargetInfo`].
    TargetShow {
        /// Which.
        name: String,
    },
    /// Changes settings → [`TargetInfo`].
    TargetSet {
        /// Which.
        name: String,
        /// Keys as in [`TargetConfig`], with their new values.
        settings: Vec<(String, String)>,
    },
    /// Stops protecting a target.
    TargetRemove {
        /// Which.
        name: String,
        /// Delete its history too. Without this, it is kept under another name → [`Removed`].
        delete_history: bool,
    },
    /// Boots a target in QEMU → [`Started`], once it runs.
    Run {
        /// Which.
        name: String,
        /// From which moment; the present unless given.
        at: Option<String>,
        /// On which branch; with `at`, the name of the branch to make.
        branch: Option<String>,
        /// What its user sees.
        display: Option<Display>,
    },
    /// Waits until a target has stopped → the [`MomentInfo`] of the stop.
    Wait {
        /// Which.
        name: String,
    },
    /// Shuts a target down → the [`MomentInfo`] of the stop.
    Stop {
        /// Which.
        name: String,
        /// At once, as if the power were cut.
        force: bool,
        /// How long the target may take before it is forced, in seconds.
        deadline_s: Option<u32>,
    },
    /// Serves one device until the connection is closed: one item [`Exported`], then nothing.
    Export {
        /// `NAME[/DISK][@WHEN]` or `NAME/DISK#BRANCH`.
        what: String,
        /// Where.
        to: ExportTo,
    },
    /// → items of [`MomentInfo`], newest last.
    Timeline {
        /// Of which target.
        name: String,
        /// Not before this moment.
        since: Option<String>,
        /// Not after this moment.
        until: Option<String>,
        /// Only these kinds.
        kinds: Vec<Kind>,
    },
    /// Names a moment → [`MomentInfo`].
    Point {
        /// Of which target.
        name: String,
        /// Which moment; now unless given.
        at: Option<String>,
        /// Its name.
        label: String,
        /// How long it is kept for sure, such as `30d`.
        hold: Option<String>,
    },
    /// The moments worth choosing from → items of [`MomentInfo`], newest last.
    Points {
        /// Of which target.
        name: String,
    },
    /// → items of [`BranchInfo`].
    BranchList {
        /// Of which target.
        name: String,
    },
    /// Makes a branch the present → [`MomentInfo`].
    BranchPromote {
        /// Of which target.
        name: String,
        /// Which; the only one there is unless given.
        branch: Option<String>,
    },
    /// Gives a branch up → [`MomentInfo`].
    BranchDrop {
        /// Of which target.
        name: String,
        /// Which.
        branch: String,
    },
    /// Brings a moment back → [`Restored`].
    Restore {
        /// Of which target.
        name: String,
        /// Which moment.
        at: String,
        /// Only this disk; all of them unless given.
        disk: Option<String>,
        /// To where.
        to: RestoreTo,
        /// Later history is given up.
        discard_later: bool,
    },
    /// Reads back and checks → [`Verified`].
    Verify {
        /// Only this target.
        name: Option<String>,
        /// The newest history first.
        newest_first: bool,
        /// Ends after this time.
        for_s: Option<u64>,
    },
    /// Writes checkpoints and frees what is no longer needed → [`Compacted`].
    Compact {
        /// Only say what would be done.
        dry_run: bool,
    },
    /// Ends the manager.
    Shutdown {
        /// Leave the targets running; they stand still until a manager takes them up again.
        keep_targets: bool,
    },
}

/// A disk as it is given to `target add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewDisk {
    /// Its id; given out (`vda`, `vdb`, …) unless named.
    pub id: Option<String>,
    /// Where it comes from.
    pub source: NewSource,
    /// 512 or 4096.
    pub block_bytes: u32,
}

/// Where a disk comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewSource {
    /// A raw file or block device that is protected where it is.
    Tap(PathBuf),
    /// A new, empty disk in the store, of this many bytes.
    Store(u64),
    /// A raw or qcow2 file that is read into the store once.
    Import(PathBuf),
}

/// Where `export` serves a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExportTo {
    /// NBD on a unix socket.
    NbdUnix(PathBuf),
    /// NBD on `HOST:PORT`.
    NbdTcp(String),
    /// A file.
    File(PathBuf),
}

/// Where `restore` writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreTo {
    /// The target itself.
    InPlace,
    /// A raw file or block device; a folder if there are several disks.
    Path(PathBuf),
}

/// A line of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Long work goes on.
    Progress(Progress),
    /// Something for people to read meanwhile.
    Note(String),
    /// One of many.
    Item(serde_json::Value),
    /// The end, and the answer.
    Done(serde_json::Value),
    /// The end: it could not be done.
    Failed(Failure),
}

/// How far long work has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done, in words.
    pub doing: String,
    /// So many bytes are done …
    pub done_bytes: u64,
    /// … of so many; 0 when nobody knows.
    pub total_bytes: u64,
}

/// Why something could not be done, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// The exit code: 1 failed, 2 wrong usage, 3 a check did not hold.
    pub code: u8,
    /// Moments that may have been meant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<String>,
}

/// A moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MomentInfo {
    /// Its place in the log.
    pub seq: u64,
    /// When: RFC 3339 with microseconds, UTC.
    pub time: String,
    /// What happened.
    pub kind: Kind,
    /// In words.
    pub label: String,
    /// How good it is to come back to.
    pub grade: Grade,
    /// Who says so.
    pub truth: Truth,
    /// On which branch.
    pub branch: String,
    /// Everything else.
    pub details: Details,
}

/// `status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Every target.
    pub targets: Vec<TargetStatus>,
    /// The store.
    pub store: StoreStatus,
    /// What is wrong, in words; empty when all is well.
    pub problems: Vec<String>,
}

/// A target's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Its name.
    pub name: String,
    /// `running`, `stopped` or `unknown`.
    pub state: String,
    /// The last record.
    pub head_seq: u64,
    /// The last record that is known to be durable.
    pub durable_seq: u64,
    /// When the last record was written; RFC 3339.
    pub head_time: String,
    /// The branch that is the present.
    pub branch: String,
    /// Its disks.
    pub disks: Vec<DiskStatus>,
    /// What is wrong with its disks and what to do about it, in words; empty when all is well.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// A disk's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Its id.
    pub id: String,
    /// Its size.
    pub size_bytes: u64,
    /// `tap`, `store` or `branch`.
    pub mode: String,
    /// The disk outside the store, if there is one.
    pub path: Option<PathBuf>,
    /// The store has all of it; until then history is not complete.
    pub complete: bool,
    /// How much of it was read so far while it is being taken over.
    pub read_bytes: u64,
}

/// The store's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes on the medium.
    pub used_bytes: u64,
    /// Bytes of all disks that are protected.
    pub logical_bytes: u64,
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// `ok`, `full` (there is no room for more writes than those that found some already) or `failed`.
    pub state: String,
}

/// A target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetInfo {
    /// How it is made up.
    pub config: TargetConfig,
    /// How it is.
    pub status: TargetStatus,
}

/// `target remove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Which.
    pub name: String,
    /// Where its history is now, if it was kept.
    pub kept_at: Option<PathBuf>,
}

/// `run`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Which.
    pub name: String,
    /// On which branch.
    pub branch: String,
    /// From which moment, if not the present.
    pub from_seq: Option<u64>,
    /// QEMU's process id.
    pub pid: u32,
    /// `kvm` or `tcg`.
    pub accelerator: String,
    /// Its serial console.
    pub console: PathBuf,
}

/// `export`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// What is served.
    pub what: String,
    /// Where: an NBD URI or a path.
    pub at: String,
    /// Its size.
    pub size_bytes: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// The moment that is served, if it is a past one.
    pub seq: Option<u64>,
}

/// A branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchInfo {
    /// Its name.
    pub name: String,
    /// It is the present.
    pub present: bool,
    /// The branch that it starts on.
    pub parent: Option<String>,
    /// The moment it starts at.
    pub from_seq: Option<u64>,
    /// When that was; RFC 3339.
    pub from_time: Option<String>,
    /// When it was made; RFC 3339.
    pub made: String,
    /// A machine runs on it.
    pub running: bool,
}

/// `restore`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    /// The moment.
    pub moment: MomentInfo,
    /// What was written: disk, where, bytes of data.
    pub disks: Vec<RestoredDisk>,
    /// The branch that is the present now, when it was restored in place.
    pub branch: Option<String>,
}

/// A restored disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredDisk {
    /// Its id.
    pub id: String,
    /// Where it was written to.
    pub to: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// How much of it was data.
    pub written_bytes: u64,
}

/// `verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Bytes read back and checked.
    pub checked_bytes: u64,
    /// What was damaged.
    pub damaged: Vec<DamagedPlace>,
    /// Everything was checked.
    pub complete: bool,
}

/// A damaged place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPlace {
    /// The file and the byte.
    #[serde(rename = "where")]
    pub place: String,
    /// What is wrong with it.
    pub detail: String,
}

/// `compact`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compacted {
    /// The bytes that the store took before.
    pub before_bytes: u64,
    /// The bytes that it takes now (or would take).
    pub after_bytes: u64,
}

/// What answers are made into while they come.
pub trait Answers {
    /// Long work goes on. Returns false when nobody waits for it any more.
    fn progress(&mut self, progress: Progress) -> bool;
    /// Something for people to read meanwhile.
    fn note(&mut self, text: String);
    /// One of many. Returns false when nobody wants more.
    fn item(&mut self, item: serde_json::Value) -> bool;
    /// Somebody still waits.
    fn wanted(&mut self) -> bool;
}

//! The answers of calls.

use std::path::PathBuf;

use bygone_model::{Details, Grade, Kind, Truth};
use serde::{Deserialize, Serialize};

use crate::{Accelerator, DiskMode, Life, Problem, Running, StoreState, config::TargetConfig};

/// A stretch of the log that is lost and of which no index knows what it wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRecords {
    pub first_seq: u64,
    pub last_seq: u64,
    /// A time at or before that of the first one; RFC 3339.
    pub from: String,
    /// A time at or after that of the last one, as far as one is known.
    pub to: String,
    /// They may have changed branches or the present, and nobody has chosen the present since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_doubt: bool,
}

/// A moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MomentInfo {
    /// Its place in the log.
    pub seq: u64,
    /// When: RFC 3339 with microseconds, UTC.
    pub time: String,
    pub kind: Kind,
    pub label: String,
    /// How good it is to restore.
    pub grade: Grade,
    pub truth: Truth,
    /// The name of the branch; another branch may have it now.
    pub branch: String,
    /// The permanent id of the branch.
    #[serde(default)]
    pub branch_id: u32,
    /// A text that names this moment, whatever happens to the target later.
    #[serde(default)]
    pub when: String,
    /// The earliest moment that it can be, if it is not known exactly; `seq` is the latest then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earliest_seq: Option<u64>,
    /// How the request was interpreted; only if a moment was requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub how: Option<String>,
    /// Records before it that are lost and whose places no index knows: some of its content may be older than it should
    /// be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostRecords>,
    /// Further details.
    pub details: Details,
}

/// `when`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MomentMeant {
    #[serde(flatten)]
    pub moment: MomentInfo,
    /// The content of all disks at that moment is known, so it can be restored.
    pub exact: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// `status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub targets: Vec<TargetStatus>,
    pub store: StoreStatus,
    /// Empty when all is well.
    pub problems: Vec<Problem>,
}

/// A target's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetStatus {
    pub name: String,
    pub state: Running,
    /// In more detail.
    pub life: Life,
    /// When that change began; RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life_since: Option<String>,
    /// Its machine, if one runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineStatus>,
    /// Bytes that its history takes in the store.
    #[serde(default)]
    pub used_bytes: u64,
    /// Bytes written to its disks since the manager started.
    #[serde(default)]
    pub written_bytes: u64,
    /// The last record.
    pub head_seq: u64,
    /// The last record that is known to be durable.
    pub durable_seq: u64,
    /// When the last record was written; RFC 3339.
    pub head_time: String,
    pub branch: String,
    pub disks: Vec<DiskStatus>,
    /// What is wrong with its disks; empty when all is well.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// The findings of its last `verify`, and those still known from earlier ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verification>,
}

/// The known findings of verifying a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// When it was verified last; RFC 3339.
    pub time: String,
    /// The last verification left nothing out.
    pub complete: bool,
    /// The known damaged places: found damaged and not found intact since. At most [`KNOWN_MAX`].
    pub damaged: Vec<KnownDamage>,
}

/// The most damaged places that are remembered per target.
pub const KNOWN_MAX: usize = 100;

/// A damaged place, and since when it is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownDamage {
    #[serde(rename = "where")]
    pub place: String,
    pub detail: String,
    /// RFC 3339.
    pub since: String,
}

/// A machine that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// The branch that it runs on; unknown for some machines that were left running.
    pub branch: Option<String>,
    /// Its process.
    pub pid: u32,
    pub accelerator: Accelerator,
    /// The socket of its serial console.
    pub console: PathBuf,
    pub display: crate::config::Display,
    /// Ports of this computer that are forwarded to it, in the form of the setting `net`.
    pub forwards: Vec<String>,
}

/// A disk's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    pub id: String,
    pub size_bytes: u64,
    pub mode: DiskMode,
    /// The disk outside the store, if there is one.
    pub path: Option<PathBuf>,
    /// The store has all of it; until then its history is incomplete.
    pub complete: bool,
    /// How much of it was read so far, while it is read into the store.
    pub read_bytes: u64,
}

/// The store's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    pub path: PathBuf,
    /// Bytes on the medium.
    pub used_bytes: u64,
    /// Those of them that the history of removed targets takes.
    #[serde(default)]
    pub removed_bytes: u64,
    /// Bytes of all disks that are protected.
    pub logical_bytes: u64,
    /// Bytes that can still be written.
    pub free_bytes: u64,
    pub state: StoreState,
}

/// A target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetInfo {
    pub config: TargetConfig,
    pub status: TargetStatus,
}

/// `target repair`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    pub name: String,
    /// The source of its new configuration, in words.
    pub from: String,
}

/// A target that was removed, and whose history is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedInfo {
    /// The name that it had.
    pub name: String,
    /// Its name for `target restore`, unique even if several targets had the same name.
    pub kept_as: String,
    /// When it was removed; RFC 3339.
    pub removed: String,
    /// Bytes that its history takes in the store.
    pub used_bytes: u64,
    /// Its disks, if its configuration can be read.
    pub disks: Vec<crate::config::DiskConfig>,
}

/// `target remove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    pub name: String,
    /// Where its history is now, if it was kept.
    pub kept_at: Option<PathBuf>,
}

/// `run`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Started {
    pub name: String,
    pub branch: String,
    /// The moment from which it runs, if not the present.
    pub from_seq: Option<u64>,
    /// The same, with the details of the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<MomentInfo>,
    pub pid: u32,
    pub accelerator: Accelerator,
    pub console: PathBuf,
    /// Records before what it runs from that are lost and whose places no index knows: some of its content may be older than
    /// it should be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostRecords>,
}

/// `export`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exported {
    pub what: String,
    /// Where: an NBD URI or a path.
    pub at: String,
    pub size_bytes: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// The moment that is served, if it is a past one.
    pub seq: Option<u64>,
    /// The same, with the details of the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moment: Option<MomentInfo>,
    /// Records before what is served that are lost and whose places no index knows: some of its content may be older than
    /// it should be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostRecords>,
}

/// A branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BranchInfo {
    /// Its permanent id: `id:N` names it in moments and exports.
    pub id: u32,
    /// Another branch may have the name of one that was dropped.
    pub name: String,
    pub present: bool,
    /// The branch that it starts on.
    pub parent: Option<String>,
    /// The permanent id of that branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<u32>,
    /// The moment it starts at.
    pub from_seq: Option<u64>,
    /// When that was; RFC 3339.
    pub from_time: Option<String>,
    /// When it was made; RFC 3339.
    pub made: String,
    /// When it was dropped; RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<String>,
    pub running: bool,
}

/// `restore`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Restored {
    pub moment: MomentInfo,
    /// The restored disks.
    pub disks: Vec<RestoredDisk>,
    /// The branch that is the present now, when it was restored in place.
    pub branch: Option<String>,
}

/// A restored disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredDisk {
    pub id: String,
    /// Where it was written to.
    pub to: PathBuf,
    pub size_bytes: u64,
    /// How much of it was data.
    pub written_bytes: u64,
    /// Ranges that are damaged in the store; they were written as zeroes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<Unreadable>,
    /// How much of it may be older than it should be, because of records that are lost ([`MomentInfo::lost`]).
    #[serde(default)]
    pub uncertain_bytes: u64,
}

/// A range of a disk that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    pub first_byte: u64,
    pub len_bytes: u64,
}

/// `verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    pub checked_bytes: u64,
    pub damaged: Vec<DamagedPlace>,
    pub complete: bool,
}

/// A damaged place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPlace {
    #[serde(rename = "where")]
    pub place: String,
    pub detail: String,
}

/// `compact`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compacted {
    pub before_bytes: u64,
    /// The bytes that it takes now (or would take).
    pub after_bytes: u64,
}

/// What a plan was made of. A call that is sent with it is refused with [`Failure::Moved`](crate::Failure::Moved) if
/// any of this has changed since, so what was confirmed is what is done: names may mean something else by then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expect {
    /// The id of the target's log, 32 hexadecimal digits: another target of the same name has another one.
    pub log: String,
    /// The id of the branch that is the present.
    pub present: u32,
    /// The ids of the branches that would lose history, in ascending order.
    #[serde(default)]
    pub loses: Vec<u32>,
}

/// `plan`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    pub target: String,
    /// For the call itself, if it is to be refused unless this plan still holds; none for a target that cannot be
    /// opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
    /// The moment that would be restored.
    pub moment: Option<MomentInfo>,
    /// What the call would do, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub does: Option<String>,
    /// The branch that would be the present; none if that stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<String>,
    /// Disks outside the store that would be filled with what the present is then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fills: Vec<String>,
    /// Files and devices outside the store that disks would be written to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub writes: Vec<PathBuf>,
    /// The history that would be lost.
    pub loses: Vec<Loss>,
    /// Disks that exist only in the history that would be lost.
    pub lost_disks: Vec<DiskStatus>,
    /// Bytes of the store that would be freed.
    pub freed_bytes: u64,
}

/// A stretch of history that would be lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    pub branch: String,
    /// The last moment before it; 0 if nothing is left of the branch.
    pub after_seq: u64,
    pub after_time: Option<String>,
    /// The last known record in it.
    pub to_seq: u64,
    pub to_time: String,
    /// The labels of its points, the newest [`LABELS_MAX`].
    pub labels: Vec<String>,
    /// How many points it has; [`POINTS_MAX`] if it has that many or more.
    pub points: u64,
}

/// Points are counted up to this.
pub const POINTS_MAX: usize = 100;

/// The most labels in a [`Loss`].
pub const LABELS_MAX: usize = 8;

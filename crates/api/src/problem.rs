//! Problems that `status` reports, without a call that failed. Like a [`Failure`], a problem is a code with fields.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Failure;

/// A problem, and its subject.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<String>,
    #[serde(flatten)]
    pub trouble: Trouble,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum Trouble {
    #[error("the store is full: writes wait as soon as the room that is set aside for them is used up")]
    StoreFull,
    /// At `full_bytes` the store is full.
    #[error(
        "the store's file system is nearly full: {} MiB are free, and once there are less than {} MiB, targets stand still",
        free_bytes >> 20,
        full_bytes >> 20
    )]
    StoreLow {
        free_bytes: u64,
        #[serde(default)]
        full_bytes: u64,
    },
    /// The process that does it cannot work on this computer.
    #[error(
        "disks of machines that stop cannot be looked at, and no stop is graded better than crash: {why}"
    )]
    NotLookedAt { why: String },
    #[error("no target can be used: {why}")]
    NoTargets { why: Failure },
    #[error("cannot be used: {why}")]
    Unavailable { why: Failure },
    /// The manager has just started.
    #[error("is still being opened; whoever asks for it waits for that")]
    Opening,
    /// A machine that an earlier manager left running and that no manager supervises; `why` it could not be adopted so
    /// far.
    #[error("its machine (process {pid}) runs, and no manager looks after it yet{}", why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    LeftRunning { pid: u32, why: Option<String> },
    /// It gets no disk of the target, and is never adopted.
    #[error("a machine of another target runs in the place of its own (process {pid})")]
    ForeignMachine { pid: u32 },
    #[error("it cannot be determined whether its machine runs: {why}")]
    MachineUnknown { why: Failure },
    #[error("damage in {place}: {damage}")]
    Damaged { place: String, damage: String },
    /// Nothing is lost: an index is made anew from the log.
    #[error("damage in {place}: {damage}")]
    IndexDamaged { place: String, damage: String },
    /// Nothing knows which blocks they wrote. `from` and `to` are RFC 3339.
    #[error(
        "records {first_seq} to {last_seq} (from {from} to {to}) are lost, and no index knows what they wrote: whatever \
         lies behind them may be older than it should be"
    )]
    RecordsLost { first_seq: u64, last_seq: u64, from: String, to: String },
    /// Nothing builds on the present until a person has chosen it.
    #[error(
        "the present may be another branch than {branch:?}: records {first_seq} to {last_seq} are lost and may have \
         changed it"
    )]
    PresentInDoubt { branch: String, first_seq: u64, last_seq: u64 },
    #[error("the medium failed, and nothing more is acknowledged")]
    LogPoisoned,
    /// Upkeep is retried; writes wait before too much of the index exists in memory only.
    #[error("upkeep fails, and writes wait once too much of it is left undone: {why}")]
    UpkeepFails { why: String },
    /// A tapped disk that has not been read completely.
    #[error("not completely read yet; history begins when it is")]
    NotRead { read_bytes: u64, size_bytes: u64 },
    /// Seen by path, while the disk is not open.
    #[error("{why}")]
    DiskUnusable { why: Failure },
    /// From earlier verifications; none since has found it intact.
    #[error("{places} damaged {} known from verifying, such as {place}: {damage}", if *places == 1 { "place" } else { "places" })]
    DamageKnown { places: u64, place: String, damage: String },
    #[error("writes wait because the store is full, and the target stands still")]
    WritesWait,
    #[error("writes wait for the disk outside the store, which takes none, and the target stands still")]
    WritesWaitForDisk,
    #[error("the file system of the disk outside the store is full; the store has everything")]
    DiskFull,
    #[error("the disk outside the store takes no writes: {why}; the store has everything")]
    DiskFails { why: String },
    #[error("the disk outside the store is not up to date; the store has everything")]
    DiskBehind,
    /// Seen by path, while the disk is not open.
    #[error("the disk outside the store may hold changes that Bygone has not seen")]
    DiskChanged,
}

impl Problem {
    /// One of the whole store.
    #[must_use]
    pub fn of_store(trouble: Trouble) -> Problem {
        Problem { target: None, disk: None, trouble }
    }

    #[must_use]
    pub fn of_target(target: &str, trouble: Trouble) -> Problem {
        Problem { target: Some(target.to_owned()), disk: None, trouble }
    }

    #[must_use]
    pub fn of_disk(target: &str, disk: &str, trouble: Trouble) -> Problem {
        Problem { disk: Some(disk.to_owned()), ..Problem::of_target(target, trouble) }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.target, &self.disk) {
            (None, _) => {}
            (Some(target), None) => write!(f, "{target}: ")?,
            (Some(target), Some(disk)) => write!(f, "{target}/{disk}: ")?,
        }
        self.trouble.fmt(f)
    }
}

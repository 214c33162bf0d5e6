//! Why a call failed.
//!
//! A failure is a code with fields. Both are stable, because programs depend on them. The *remedy* is put into words by
//! the command line, from the code and the fields: no command and no option is named here. `Display` says what
//! happened.
//!
//! The texts `why` and `said` come from the system, a program or a guest, and are shown as such.

use std::io;

use serde::{Deserialize, Serialize};

use crate::{Change, JobState};

/// See the module's comment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "code", rename_all = "kebab-case")]
pub enum Failure {
    // ---- to be said otherwise: Remedy::Rephrase
    #[error("{name:?} cannot be a name")]
    BadName { name: String },
    #[error("there is no setting {key:?}")]
    NoSetting { key: String },
    #[error("{value:?} is no value for {key:?}")]
    BadSetting { key: String, value: String },
    #[error("{address:?} is no address")]
    BadAddress { address: String },
    #[error("{what:?} names no disk")]
    BadDevice { what: String },
    #[error("target {target:?} has several disks: {}", disks.join(", "))]
    WhichDisk { target: String, disks: Vec<String> },
    /// One file cannot hold them.
    #[error("target {target:?} has several disks: {}; {path} is no folder", disks.join(", "))]
    NoFolder { path: String, target: String, disks: Vec<String> },
    #[error("there are several branches: {}", branches.join(", "))]
    WhichBranch { branches: Vec<String> },
    /// The text is not in the grammar of moments.
    #[error("{text:?}: {why}")]
    BadMoment { text: String, why: String },
    /// A label that no text could name.
    #[error("{label:?} cannot be the label of a point: {why}")]
    BadLabel { label: String, why: String },
    #[error("the request cannot be understood: {why}")]
    BadRequest { why: String },
    /// Later history can only be discarded where the target itself is restored.
    #[error("later history is given up only when a target is restored in place")]
    DiscardInPlaceOnly,
    #[error("in place, all disks of a target are restored together")]
    DisksTogether,
    /// A disk or a machine that QEMU cannot run.
    #[error("{why}")]
    BadMachine { why: String },
    #[error("the path {path:?} is not valid UTF-8")]
    PathNotText { path: String },
    #[error("{path} is longer than the {bytes_max} bytes that the path of a socket can have")]
    SocketPathTooLong { path: String, bytes_max: usize },

    // ---- to be chosen otherwise: Remedy::Choose
    #[error("there is no store in {path}")]
    NoStore { path: String },
    #[error("there is a store in {path} already")]
    StoreExists { path: String },
    #[error("{path} is not empty")]
    NotEmpty { path: String },
    #[error("there is no target {target:?}")]
    NoTarget { target: String },
    #[error("there is a target {target:?} already")]
    TargetExists { target: String },
    #[error("there is no disk {disk:?}")]
    NoDisk { disk: String },
    #[error("there is a disk {disk:?} already")]
    DiskExists { disk: String },
    #[error("disk {path} has {found_bytes} bytes; {wanted}")]
    DiskSize { path: String, found_bytes: u64, wanted: String },
    /// As a raw disk it would be destroyed.
    #[error("{path} is no raw disk: it looks like {format}")]
    NotRaw { path: String, format: String, can_import: bool },
    #[error("the image {path}: {why}")]
    BadImage { path: String, problem: ImageProblem, why: String },
    #[error("{path} is a disk of target {target:?}")]
    Tapped { path: String, target: String },
    /// As [`Failure::Tapped`], for a new disk of another target.
    #[error("{path} is a disk of target {target:?}")]
    DiskTaken { path: String, target: String },
    #[error("{path} is in the store's own folder")]
    InsideStore { path: String },
    #[error("there is no branch {branch:?}")]
    NoBranch { branch: String },
    #[error("there is no branch but the present")]
    NoOtherBranch,
    #[error("there is a branch {branch:?} already")]
    BranchExists { branch: String },
    #[error("branch {branch:?} is the present of its target")]
    BranchInUse { branch: String },
    #[error("{text:?}: {why}")]
    NoMoment {
        text: String,
        problem: MomentProblem,
        why: String,
        /// Moments that may have been meant, one line each.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        candidates: Vec<String>,
    },
    #[error("a point is labelled {label:?} already: {when}, on branch {branch}")]
    LabelTaken { label: String, when: String, time: String, branch: String },
    #[error("{why}")]
    OutsideHistory { why: String },
    /// Not all of a tapped disk had been read at that moment.
    #[error("disk {disk:?} had not been read completely at that moment")]
    BaseIncomplete { disk: String },

    #[error("target {target:?} did not have its disks yet at that moment")]
    BeforeDisks { target: String },
    #[error("no history of a removed target {target:?} is kept")]
    NotRemoved { target: String },
    /// One is a copy of the other (`targets/NAME` if it is in the store), and two targets with one history would be taken for one another.
    #[error("the folders {} of targets have the same history", .kept_as.join(" and "))]
    RemovedTwice { kept_as: Vec<String> },
    #[error("nothing is wrong with the configuration of target {target:?}")]
    NothingToRepair { target: String },
    #[error("nothing of target {target:?} was restored, promoted or dropped that could be taken back")]
    NothingToUndo { target: String },

    // ---- to be waited for, or ended: Remedy::Wait
    #[error("target {target:?} is being stopped")]
    TargetStopping { target: String },
    /// Its machine runs, and no manager supervises it; `why` it could not be adopted so far.
    #[error("the machine of target {target:?} (process {pid}) was left running, and no manager looks after it yet{}",
        why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    LeftRunning { target: String, pid: u32, why: Option<String> },
    /// The branch on which a machine runs is not known any more.
    #[error(
        "the machine of target {target:?} (process {pid}) runs, and nothing is left that says on which branch"
    )]
    UnknownBranch { target: String, pid: u32 },
    /// A machine that is not the target's runs in the folder of its machine.
    #[error("a machine of another target runs in the place of target {target:?} (process {pid})")]
    ForeignMachine { target: String, pid: u32 },
    #[error("a disk or a past moment of target {target:?} is being served")]
    Served { target: String },
    #[error("branch {branch:?} is in use")]
    BranchUsed { branch: String },
    #[error("{}", match .what {
        MovedPart::Present => format!("another branch of target {target:?} became the present meanwhile"),
        MovedPart::Target => format!("another target is called {target:?} by now"),
        MovedPart::Branches => format!("other branches of target {target:?} would lose history by now"),
    })]
    Moved {
        target: String,
        #[serde(default)]
        what: MovedPart,
    },
    #[error("{}, since {since}", change.sentence(target))]
    Busy {
        target: String,
        change: Change,
        /// When it began; RFC 3339.
        since: String,
    },
    #[error("target {target:?} is running")]
    TargetRunning { target: String },
    #[error("target {target:?} is not running")]
    TargetStopped { target: String },
    #[error("the store in {path} is in use by process {holder}{}", if *exports { ", which exports from it" } else { "" })]
    StoreLocked { path: String, holder: String, exports: bool },
    #[error("disk {path}: {why}")]
    DiskInUse {
        path: String,
        why: String,
        /// The target that has it open, if it is one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        target: Option<String>,
    },
    #[error("somebody else is attached to this console")]
    ConsoleBusy,
    #[error("the manager has {max} clients already")]
    TooManyClients { max: u64 },

    // ---- to be put right on the computer or in the store: Remedy::Repair
    #[error("{what} has format version {found}; this program knows versions up to {known}")]
    NewerFormat { what: String, found: u64, known: u64 },
    #[error(
        "the store in {path} has format version {found}, from before the first release; this program knows version {known}"
    )]
    OlderFormat { path: String, found: u64, known: u64 },
    #[error("the store's description {path} cannot be read")]
    DamagedStore { path: String },
    #[error("the configuration {path} of target {target:?} cannot be read")]
    DamagedConfig { target: String, path: String },
    /// A part of the store is missing.
    #[error("{path} is missing")]
    Missing { path: String },
    /// It exists and cannot be used; its stored data is untouched.
    #[error("target {target:?} cannot be used: {why}")]
    Unavailable { target: String, why: Box<Failure> },
    /// Whatever is written outside the store might be one of its disks.
    #[error("it cannot be read which disks {} has: {why}", target.as_ref().map_or("a target".to_owned(), |target| format!("target {target:?}")))]
    DisksUnknown { target: Option<String>, why: Box<Failure> },
    #[error("disk {path}: {why}")]
    Disk { path: String, problem: IoProblem, why: String },
    /// A person has to choose it; until then nothing builds on it.
    #[error(
        "records {first_seq} to {last_seq} of target {target:?} are lost, and may have made another branch its present than {branch:?}"
    )]
    PresentInDoubt {
        target: String,
        /// The present as far as it is known.
        branch: String,
        first_seq: u64,
        last_seq: u64,
    },
    /// The disk outside the store of a target is not where it was, or cannot be used.
    #[error("disk {path}: {why}")]
    DiskAway { target: String, disk: String, path: String, problem: IoProblem, why: String },
    /// It has another size than when it was added.
    #[error("disk {path} has {found_bytes} bytes; it had {was_bytes} when it was added")]
    DiskResized { path: String, found_bytes: u64, was_bytes: u64 },
    /// The disk's file system cannot lock it.
    #[error("disk {path}: {why}")]
    DiskUnlockable { path: String, why: String },
    #[error("{doing} {path} failed: {why}")]
    File { doing: String, path: String, problem: IoProblem, why: String },
    #[error("{why}")]
    NoRoom { why: String },
    #[error("{why}")]
    MediumFailed { why: String },
    /// A flush of the log failed, so nothing after it is acknowledged.
    #[error("{why}")]
    LogPoisoned { why: String },
    #[error("{why}")]
    Damaged { why: String },
    /// Nothing is lost: an index is made anew from the log.
    #[error("{why}")]
    IndexDamaged { why: String },
    #[error("cannot serve {at}: {why}")]
    CannotServe { at: String, problem: ServeProblem, why: String },
    #[error("{program} failed: {said}")]
    ProgramFailed { program: String, said: String },
    #[error("{why}")]
    QemuMissing { why: String },
    #[error("{why}")]
    FirmwareMissing { why: String },
    /// Whatever needs the machine to run, or not to run, is refused.
    #[error("it cannot be determined whether the machine of target {target:?} runs: {why}")]
    MachineUnknown { target: String, why: Box<Failure> },
    /// The record of a running machine is invalid.
    #[error("{path} does not describe a running machine")]
    BadMachineState { path: String },
    #[error("{why}")]
    SystemRefuses { why: String },

    #[error("disk {disk:?} outside the store could not be brought up to date, so it was left as it is")]
    DiskBehind { disk: String },
    /// A part of it may be filled. Its present is served from the store, and its next use goes on with filling it.
    #[error("filling disk {disk:?} outside the store was given up")]
    NotFilled { disk: String },
    /// History begins once all of it is read.
    #[error("reading disk {disk:?} was not waited for, and goes on while a manager runs")]
    NotRead { disk: String },
    #[error("nothing is left that says where disk {disk:?} is outside the store")]
    UnknownDiskPath { disk: String },
    #[error("there is no job {id}")]
    NoJob { id: u64 },
    #[error("a key is 1 to 128 printable characters")]
    BadKey,
    /// The key was used for a different call.
    #[error("the key {key:?} was given to another call: job {job}")]
    KeyUsed { key: String, job: u64 },
    /// A call with more than this is not written down, so it cannot be remembered by a key.
    #[error("a call with a key has at most {bytes_max} bytes")]
    CallTooLarge { bytes_max: u64 },
    /// The call with this key was not successful. It is not done again, because it changed something, or may have.
    #[error("job {job} {}; {}", ended(*state, why.as_deref()), match changed {
        Some(changed) => format!("it had changed this: {}", changed.join("; ")),
        None => "what it had changed is found out when a new manager opens its target".to_owned(),
    })]
    NotRepeated {
        job: u64,
        /// How it ended.
        state: JobState,
        /// Its failure, if it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<Box<Failure>>,
        /// What it had changed, in words. Absent: not known yet.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        changed: Option<Vec<String>>,
    },
    /// A part was done, and is not undone.
    #[error("{done}; but then: {why}")]
    Partly { done: String, why: Box<Failure> },

    // ---- to be tried again: Remedy::Retry
    #[error("{why}")]
    QemuSilent { why: String },
    #[error("{why}")]
    QemuRefuses { why: String },
    #[error("{why}")]
    NotQemu { why: String },
    #[error("{why}")]
    MachineEnded { why: String },
    #[error("the manager ended the connection")]
    ManagerGone,
    /// Nothing was done: the manager is about to end, and starts no machine any more.
    #[error("the manager is ending")]
    ManagerEnding,
    #[error("the manager did not start: {said}")]
    ManagerNotUp { said: String },
    /// The caller did not wait for the answer.
    #[error("given up")]
    Abandoned,
    /// The caller did not wait for the answer, and the manager cannot stop half-way.
    #[error("given up; the manager goes on with it")]
    GoesOn,
    /// A bug: an internal caller made an invalid request.
    #[error("{why}")]
    Internal { why: String },
}

/// How a job ended, as in "job 7 …".
fn ended(state: JobState, why: Option<&Failure>) -> String {
    match (state, why) {
        (JobState::Interrupted, _) => "was interrupted".to_owned(),
        (JobState::Cancelled, _) => "was cancelled".to_owned(),
        (_, Some(why)) => format!("failed: {why}"),
        (_, None) => "failed".to_owned(),
    }
}

/// What the caller can do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Change the request: in this form it can never succeed.
    Rephrase,
    /// Choose something that exists, or that is free.
    Choose,
    /// Wait for something else, or end it first.
    Wait,
    /// Repair something on this computer, or in the store.
    Repair,
    /// Try again.
    Retry,
}

/// What has changed while somebody relied on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MovedPart {
    /// Another branch is the present.
    #[default]
    Present,
    /// Another target has the name.
    Target,
    /// The branches that would lose history are not those that were looked at.
    Branches,
}

/// Why there is no such moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MomentProblem {
    /// Nothing was recorded yet.
    NoHistory,
    TooEarly,
    InTheFuture,
    NoSuchSeq,
    NoSuchEvent,
    NoSuchPoint,
    /// The point is on a branch other than the requested one.
    PointElsewhere,
    NoSuchBranch,
    NoSuchZone,
    /// The wall clock showed this time twice.
    WallClockTwice,
    /// A day has many moments.
    WholeDay,
    /// Several moments match.
    Ambiguous,
    /// The history could not be read.
    Unreadable,
    Other,
}

/// Why a disk image cannot be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageProblem {
    /// Part of its content is in other files.
    NeedsOthers,
    Encrypted,
    /// Compressed, or an archive.
    Packed,
    /// Its format is not supported.
    Unread,
    Damaged,
}

/// Why a file or disk cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoProblem {
    NotFound,
    NotAllowed,
    ReadOnly,
    Exists,
    IsFolder,
    NotAFolder,
    Other,
}

impl IoProblem {
    /// Classifies an error of the operating system.
    #[must_use]
    pub fn of(error: &io::Error) -> IoProblem {
        match error.kind() {
            io::ErrorKind::NotFound => IoProblem::NotFound,
            io::ErrorKind::PermissionDenied => IoProblem::NotAllowed,
            io::ErrorKind::ReadOnlyFilesystem => IoProblem::ReadOnly,
            io::ErrorKind::AlreadyExists => IoProblem::Exists,
            io::ErrorKind::IsADirectory => IoProblem::IsFolder,
            io::ErrorKind::NotADirectory => IoProblem::NotAFolder,
            _ => IoProblem::Other,
        }
    }
}

/// Why a device cannot be served somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServeProblem {
    /// The mount would hide existing content.
    NotEmpty,
    NotAFile,
    InUse,
    /// Something else exists there, which is left alone.
    NotASocket,
    PathTooLong,
    NoFuse,
    NoFuseHelper,
    Other,
}

impl Failure {
    /// What the caller can do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        use Failure::*;
        match self {
            BadName { .. }
            | NoSetting { .. }
            | BadSetting { .. }
            | BadAddress { .. }
            | BadDevice { .. }
            | WhichDisk { .. }
            | NoFolder { .. }
            | WhichBranch { .. }
            | BadMoment { .. }
            | BadLabel { .. }
            | BadRequest { .. }
            | DiscardInPlaceOnly
            | DisksTogether
            | BadKey
            | CallTooLarge { .. }
            | KeyUsed { .. }
            | BadMachine { .. }
            | PathNotText { .. }
            | SocketPathTooLong { .. } => Remedy::Rephrase,
            NoStore { .. }
            | StoreExists { .. }
            | NotEmpty { .. }
            | NoTarget { .. }
            | TargetExists { .. }
            | NoDisk { .. }
            | DiskExists { .. }
            | DiskSize { .. }
            | NotRaw { .. }
            | BadImage { .. }
            | Tapped { .. }
            | DiskTaken { .. }
            | InsideStore { .. }
            | NoBranch { .. }
            | PresentInDoubt { .. }
            | NoOtherBranch
            | BranchExists { .. }
            | BranchInUse { .. }
            | NoMoment { .. }
            | LabelTaken { .. }
            | OutsideHistory { .. }
            | BeforeDisks { .. }
            | NotRemoved { .. }
            | RemovedTwice { .. }
            | NothingToRepair { .. }
            | NothingToUndo { .. }
            | NoJob { .. }
            | BaseIncomplete { .. } => Remedy::Choose,
            Busy { .. }
            | TargetStopping { .. }
            | LeftRunning { .. }
            | UnknownBranch { .. }
            | ForeignMachine { .. }
            | Served { .. }
            | BranchUsed { .. }
            | TargetRunning { .. }
            | TargetStopped { .. }
            | StoreLocked { .. }
            | DiskInUse { .. }
            | ConsoleBusy
            | TooManyClients { .. } => Remedy::Wait,
            NewerFormat { .. }
            | OlderFormat { .. }
            | DamagedStore { .. }
            | DamagedConfig { .. }
            | Missing { .. }
            | Unavailable { .. }
            | DisksUnknown { .. }
            | Disk { .. }
            | DiskAway { .. }
            | DiskResized { .. }
            | DiskUnlockable { .. }
            | File { .. }
            | NoRoom { .. }
            | MediumFailed { .. }
            | LogPoisoned { .. }
            | Damaged { .. }
            | IndexDamaged { .. }
            | CannotServe { .. }
            | ProgramFailed { .. }
            | QemuMissing { .. }
            | FirmwareMissing { .. }
            | BadMachineState { .. }
            | MachineUnknown { .. }
            | DiskBehind { .. }
            | NotFilled { .. }
            | NotRead { .. }
            | UnknownDiskPath { .. }
            | Partly { .. }
            | NotRepeated { .. }
            | SystemRefuses { .. } => Remedy::Repair,
            QemuSilent { .. }
            | Moved { .. }
            | QemuRefuses { .. }
            | NotQemu { .. }
            | MachineEnded { .. }
            | ManagerGone
            | ManagerEnding
            | ManagerNotUp { .. }
            | Abandoned
            | GoesOn
            | Internal { .. } => Remedy::Retry,
        }
    }

    /// Its code, as it is sent.
    #[must_use]
    pub fn code(&self) -> String {
        let said = serde_json::to_value(self).unwrap_or_default();
        said["code"].as_str().unwrap_or("unknown").to_owned()
    }
}

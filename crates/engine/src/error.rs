//! The errors of the engine. [`Error::failure`] converts them for the API.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
};

use bygone_block::IoError;
use bygone_model::when::{ParseError, ResolveError};
use bygone_qemu as qemu;

use crate::{
    api::{Change, Failure, JobState, MovedPart},
    config::{BadName, BadSetting},
};

/// A request that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Usage {
    /// An invalid name.
    #[error(transparent)]
    BadName(#[from] BadName),
    /// An invalid setting.
    #[error(transparent)]
    BadSetting(#[from] BadSetting),
    /// An address that cannot be resolved.
    #[error("{0:?} is no address")]
    BadAddress(String),
    /// A device's name, `NAME[/DISK]` with `@WHEN` or `#BRANCH`, that cannot be parsed.
    #[error("{0:?} names no device")]
    BadDevice(String),
    /// More than one is possible.
    #[error("target {target:?} has several disks: {}", disks.join(", "))]
    WhichDisk {
        /// The target.
        target: String,
        /// Its disks.
        disks: Vec<String>,
    },
    /// Several disks for one file.
    #[error("target {target:?} has several disks: {}; {} is no folder", disks.join(", "), .path.display())]
    NoFolder {
        /// The path that is no folder.
        path: PathBuf,
        /// The target.
        target: String,
        /// Its disks.
        disks: Vec<String>,
    },
    /// More than one is possible.
    #[error("there are several branches: {}", .0.join(", "))]
    WhichBranch(Vec<String>),
    /// No branch was named, and there is none but the present.
    #[error("there is no branch but the present")]
    NoOtherBranch,
    /// Discarding later history is possible only when restoring in place.
    #[error("later history is given up only when a target is restored in place")]
    DiscardInPlaceOnly,
    /// Restoring in place restores all disks together.
    #[error("in place, all disks of a target are restored together")]
    DisksTogether,
    /// A request or answer that this version cannot decode or encode.
    #[error("the request cannot be understood: {0}")]
    BadRequest(String),
}

/// Why the engine could not do what was requested.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense.
    #[error(transparent)]
    Usage(#[from] Usage),
    /// The text of a moment or duration that cannot be parsed.
    #[error("{text:?}: {source}")]
    When {
        /// The text.
        text: String,
        /// The reason.
        source: ParseError,
    },
    /// A text that resolves to no moment, or to more than one.
    #[error("{text:?}: {source}")]
    Moment {
        /// The text.
        text: String,
        /// The reason.
        source: Box<ResolveError>,
        /// The moments that may be meant, described in the client's time zone.
        candidates: Vec<String>,
    },
    /// There is no store.
    #[error("there is no store in {}", .0.display())]
    NoStore(PathBuf),
    /// There is a store already.
    #[error("there is a store in {} already", .0.display())]
    StoreExists(PathBuf),
    /// The folder for a store is not empty.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// The store has a newer format.
    #[error("the store in {} has format version {found}; this program knows versions up to {known}", .path.display())]
    NewerStore {
        /// Its path.
        path: PathBuf,
        /// Its format version.
        found: u64,
        /// The newest known format version.
        known: u64,
    },
    /// The store has a format from before the first release.
    #[error("the store in {} has format version {found}, from before the first release; this program knows version {known}", .path.display())]
    OlderStore {
        /// Its path.
        path: PathBuf,
        /// Its format version.
        found: u64,
        /// The known format version.
        known: u64,
    },
    /// The description of the store is damaged.
    #[error("the store's description {} cannot be read", .0.display())]
    DamagedStore(PathBuf),
    /// Another process has the store locked.
    #[error("the store in {} is in use by process {holder}{}", .path.display(), if *.exports { ", which exports from it" } else { "" })]
    StoreLocked {
        /// Its path.
        path: PathBuf,
        /// The process id.
        holder: String,
        /// The process exports, and may do so as long as its user likes.
        exports: bool,
    },
    /// No such target.
    #[error("there is no target {0:?}")]
    NoTarget(String),
    /// A change of the target is in progress.
    #[error("target {name:?} is busy: {change}, since {since}")]
    Busy {
        /// Its name.
        name: String,
        /// The change.
        change: Change,
        /// When it began; RFC 3339.
        since: String,
    },
    /// The target exists but cannot be opened; what is stored of it is untouched.
    #[error("target {name:?} cannot be used: {why}")]
    Unavailable {
        /// Its name.
        name: String,
        /// The reason.
        why: Arc<Error>,
    },
    /// A file or folder of the store is missing.
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    /// The newest configuration of a target is damaged.
    #[error("the configuration {} of target {target:?} cannot be read", .path.display())]
    DamagedConfig {
        /// The target.
        target: String,
        /// The damaged file.
        path: PathBuf,
    },
    /// The name is in use.
    #[error("there is a target {0:?} already")]
    TargetExists(String),
    /// The target runs.
    #[error("target {0:?} is running")]
    TargetRunning(String),
    /// The target is stopping.
    #[error("target {0:?} is being stopped")]
    TargetStopping(String),
    /// The target's machine was left running, and is not supervised yet.
    #[error("the machine of target {name:?} (process {pid}) was left running by an earlier manager, and is not looked after yet{}",
        .why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    LeftRunning {
        /// Its name.
        name: String,
        /// The machine's process id.
        pid: u32,
        /// Why it is not adopted yet, if that was tried.
        why: Option<String>,
    },
    /// It cannot be determined whether the target's machine runs.
    #[error("it cannot be determined whether the machine of target {name:?} runs: {why}")]
    MachineUnknown {
        /// Its name.
        name: String,
        /// The reason.
        why: Arc<Error>,
    },
    /// The target's machine was left running, and its branch is unknown.
    #[error(
        "the machine of target {name:?} (process {pid}) runs, and nothing is left that says on which branch"
    )]
    UnknownBranch {
        /// Its name.
        name: String,
        /// The machine's process id.
        pid: u32,
    },
    /// A machine runs in the folder of the target's machine, and is not the target's.
    #[error("a machine of another target runs in the place of target {name:?} (process {pid})")]
    ForeignMachine {
        /// The target.
        name: String,
        /// The machine's process id.
        pid: u32,
    },
    /// A bug in Bygone: the code panicked.
    #[error("a defect of Bygone kept {what} from being done; its log has more")]
    Panicked {
        /// What was not done, as in "kept … from being done".
        what: &'static str,
    },
    /// A disk or a past moment of the target is open.
    #[error("a disk or a past moment of target {0:?} is being served")]
    Served(String),
    /// Another branch became the present meanwhile.
    #[error("another branch of target {0:?} became the present meanwhile")]
    Moved(String),
    /// What a caller confirmed is not what would be done by now.
    #[error("target {name:?} has changed since the call was planned: {what:?}")]
    Outdated {
        /// Its name.
        name: String,
        /// What has changed.
        what: MovedPart,
    },
    /// A machine or a client uses the branch.
    #[error("branch {0:?} is in use")]
    BranchUsed(String),
    /// The target's configuration is not damaged.
    #[error("nothing is wrong with the configuration of target {0:?}")]
    NothingToRepair(String),
    /// The target has no act to undo.
    #[error("nothing of target {0:?} was restored, promoted or dropped that could be taken back")]
    NothingToUndo(String),
    /// There is no removed target of this name.
    #[error("no history of a removed target {0:?} is kept")]
    NotRemoved(String),
    /// The path of a tapped disk is lost.
    #[error("nothing is left that says where disk {disk:?} is outside the store")]
    UnknownDiskPath {
        /// Its name.
        disk: String,
    },
    /// The target did not have all of its disks at that moment.
    #[error("target {name:?} did not have its disks yet at that moment")]
    BeforeDisks {
        /// Its name.
        name: String,
    },
    /// A part was done and stays done; then a step failed.
    #[error("{done}; but then: {why}")]
    Partly {
        /// What was done.
        done: String,
        /// The failure.
        why: Box<Error>,
    },
    /// The disk outside the store could not be brought up to date, and was left as it is.
    #[error("disk {disk:?} outside the store could not be brought up to date")]
    DiskBehind {
        /// Its name.
        disk: String,
    },
    /// The disk outside the store is not filled, or not completely, because nobody waited for that.
    #[error("filling disk {disk:?} outside the store was given up")]
    NotFilled {
        /// Its name.
        disk: String,
    },
    /// The target does not run.
    #[error("target {0:?} is not running")]
    TargetStopped(String),
    /// A disk outside the store cannot be used.
    #[error("disk {}: {source}", .path.display())]
    Disk {
        /// Its path.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A disk that another program uses, or that cannot be locked.
    #[error("disk {}: {source}", .path.display())]
    DiskLocked {
        /// Its path.
        path: PathBuf,
        /// The reason.
        source: bygone_sys::ImageLockError,
    },
    /// A disk that a target has open.
    #[error("disk {}: target {target:?} has it open", .path.display())]
    DiskOpen {
        /// Its path.
        path: PathBuf,
        /// The target.
        target: String,
    },
    /// A disk that the kernel uses: it is mounted, swap, or part of another device.
    #[error("disk {}: {by}", .path.display())]
    DiskUsed {
        /// Its path.
        path: PathBuf,
        /// The use, in words.
        by: String,
    },
    /// The destination is a tapped disk of a target.
    #[error("{} is a disk of target {target:?}", .path.display())]
    Tapped {
        /// Its path.
        path: PathBuf,
        /// The target.
        target: String,
    },
    /// The disk to tap is a disk of another target.
    #[error("{} is a disk of target {target:?}", .path.display())]
    DiskTaken {
        /// Its path.
        path: PathBuf,
        /// The target.
        target: String,
    },
    /// The disk outside the store of a target is missing or cannot be used.
    #[error("disk {}: {source}", .path.display())]
    DiskAway {
        /// The target.
        target: String,
        /// Its name.
        disk: String,
        /// Its path.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The disk outside the store of a target has another size than when it was added.
    #[error("disk {} has {found} bytes; it had {was} when it was added", .path.display())]
    DiskResized {
        /// Its path.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// Its size in bytes when it was added.
        was: u64,
    },
    /// The disks of a target are unknown, so it cannot be checked that another disk is none of them.
    #[error("it cannot be read which disks {} has: {why}", .name.as_ref().map_or("a target".to_owned(), |name| format!("target {name:?}")))]
    DisksUnknown {
        /// Its name; `None` if the folder of all targets cannot be read.
        name: Option<String>,
        /// The reason.
        why: Arc<Error>,
    },
    /// The path is in the store's own folder.
    #[error("{} is in the store's own folder", .0.display())]
    InsideStore(PathBuf),
    /// The file is a disk image that is not raw; it would be destroyed if it were used as one.
    #[error("{} is no raw disk: it looks like {}", .path.display(), .format.name())]
    NotRaw {
        /// Its path.
        path: PathBuf,
        /// The format that it appears to have.
        format: bygone_qemu::image::Format,
    },
    /// A disk with an invalid size.
    #[error("disk {} has {found} bytes; {wanted}", .path.display())]
    DiskSize {
        /// Its path.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// The requirement.
        wanted: String,
    },
    /// An invalid label of a point.
    #[error("{label:?} cannot be the label of a point: {source}")]
    Label {
        /// The text.
        label: String,
        /// The reason.
        source: ParseError,
    },
    /// Another point has this label.
    #[error("a point is labelled {label:?} already: {name}, {time}, on branch {branch}")]
    LabelTaken {
        /// The label.
        label: String,
        /// A text that names that point's moment.
        name: String,
        /// The time of that moment, RFC 3339.
        time: String,
        /// The branch of that moment.
        branch: String,
    },
    /// The content of a disk at that moment is not known completely.
    #[error("disk {disk:?} had not been read completely at that moment")]
    BaseIncomplete {
        /// Its name.
        disk: String,
    },
    /// The store failed or refused.
    #[error(transparent)]
    Store(#[from] bygone_store::Error),
    /// A device failed or refused.
    #[error(transparent)]
    Device(#[from] IoError),
    /// QEMU failed or refused.
    #[error(transparent)]
    Qemu(#[from] qemu::Error),
    /// A file cannot be used.
    #[error("{doing} {}: {source}", .path.display())]
    File {
        /// The operation, such as "writing".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: Arc<io::Error>,
    },
    /// A server cannot listen at that address.
    #[error(transparent)]
    Listen(#[from] bygone_block::nbd::ListenError),
    /// A device cannot be served as a file.
    #[error("serving {}: {source}", .path.display())]
    Fuse {
        /// The path.
        path: PathBuf,
        /// The reason.
        source: bygone_block::FuseError,
    },
    /// Another program failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Its name.
        program: &'static str,
        /// Its output.
        output: String,
    },
    /// A failure that a manager reported over its socket, or that an earlier call with the same key had.
    #[error(transparent)]
    Told(Failure),
    /// There is no such job.
    #[error("there is no job {0}")]
    NoJob(u64),
    /// An invalid idempotency key.
    #[error("a key is 1 to 128 printable characters")]
    BadKey,
    /// The key belongs to a different call.
    #[error("the key {key:?} was given to another call: job {job}")]
    KeyUsed {
        /// The key.
        key: String,
        /// The job of that call.
        job: u64,
    },
    /// A call with a key that is too large to be written down.
    #[error("a call with a key has at most {bytes_max} bytes")]
    CallTooLarge {
        /// The largest size.
        bytes_max: usize,
    },
    /// The call with this key was not successful, and what it changed stays.
    #[error("job {job} is not done again")]
    NotRepeated {
        /// The job of that call.
        job: u64,
        /// How it ended.
        state: JobState,
        /// Its failure, if it failed.
        why: Option<Box<Failure>>,
        /// What it had changed, in words, if that is known.
        changed: Option<Vec<String>>,
    },
    /// The manager has as many clients as it takes.
    #[error("the manager has {max} clients already")]
    TooManyClients {
        /// That many.
        max: usize,
    },
    /// The manager, or the supervision of a machine, ended during the call.
    #[error("the manager ended the connection")]
    ManagerGone,
    /// The manager is about to end, and did not begin with the request.
    #[error("the manager is ending")]
    ManagerEnding,
    /// The manager did not start.
    #[error("the manager did not start: {0}")]
    ManagerNotUp(String),
    /// The caller no longer waits.
    #[error("given up")]
    Abandoned,
    /// The caller no longer waits, but the manager goes on with the call.
    #[error("given up; the manager goes on with it")]
    GoesOn,
}

/// A result with the engine's error.
pub type Result<T> = std::result::Result<T, Error>;

impl From<BadName> for Error {
    fn from(bad: BadName) -> Error {
        Usage::from(bad).into()
    }
}

impl From<BadSetting> for Error {
    fn from(bad: BadSetting) -> Error {
        Usage::from(bad).into()
    }
}

/// Does `work`, on which other threads wait: a panic in it, which has been printed, is an error like any other.
///
/// # Errors
/// That of `work`; [`Error::Panicked`] if it panicked.
pub(crate) fn or_panicked<T>(what: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Error::Panicked { what }))
}

impl Error {
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Error {
        Error::File { doing, path: path.into(), source: Arc::new(source) }
    }

    pub(crate) fn busy(name: &str, doing: crate::lifecycle::Doing) -> Error {
        let since = crate::timeline::rfc3339(doing.since);
        Error::Busy { name: name.to_owned(), change: doing.change.named(), since }
    }
}

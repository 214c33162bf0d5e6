//! The errors of the engine. Each is a failure of the API ([`Error::failure`]), which also has its text.

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
};

use bygone_block::IoError;
use bygone_model::{
    Seq,
    when::{ParseError, ResolveError},
};
use bygone_qemu as qemu;

use crate::{
    api::{Change, Failure, JobState, MovedPart},
    config::{BadName, BadSetting},
};

/// A request that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Usage {
    /// An invalid name.
    BadName(#[from] BadName),
    /// An invalid setting.
    BadSetting(#[from] BadSetting),
    /// An address that cannot be resolved.
    BadAddress(String),
    /// A device's name, `NAME[/DISK]` with `@WHEN` or `#BRANCH`, that cannot be parsed.
    BadDevice(String),
    /// More than one is possible.
    WhichDisk {
        /// The target.
        target: String,
        /// Its disks.
        disks: Vec<String>,
    },
    /// Several disks for one file.
    NoFolder {
        /// The path that is no folder.
        path: PathBuf,
        /// The target.
        target: String,
        /// Its disks.
        disks: Vec<String>,
    },
    /// More than one is possible.
    WhichBranch(Vec<String>),
    /// No branch was named, and there is none but the present.
    NoOtherBranch,
    /// Discarding later history is possible only when restoring in place.
    DiscardInPlaceOnly,
    /// Restoring in place restores all disks together.
    DisksTogether,
    /// A request or answer that this version cannot decode or encode.
    BadRequest(String),
}

/// Why the engine could not do what was requested.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request makes no sense.
    Usage(#[from] Usage),
    /// The text of a moment or duration that cannot be parsed.
    When {
        /// The text.
        text: String,
        /// The reason.
        source: ParseError,
    },
    /// A text that resolves to no moment, or to more than one.
    Moment {
        /// The text.
        text: String,
        /// The reason.
        source: Box<ResolveError>,
        /// The moments that may be meant, described in the client's time zone.
        candidates: Vec<String>,
    },
    /// There is no store.
    NoStore(PathBuf),
    /// There is a store already.
    StoreExists(PathBuf),
    /// The folder for a store is not empty.
    NotEmpty(PathBuf),
    /// The store has a newer format.
    NewerStore {
        /// Its path.
        path: PathBuf,
        /// Its format version.
        found: u64,
        /// The newest known format version.
        known: u64,
    },
    /// The store has a format from before the first release.
    OlderStore {
        /// Its path.
        path: PathBuf,
        /// Its format version.
        found: u64,
        /// The known format version.
        known: u64,
    },
    /// The description of the store is damaged.
    DamagedStore(PathBuf),
    /// Another process has the store locked.
    StoreLocked {
        /// Its path.
        path: PathBuf,
        /// The process id.
        holder: String,
        /// The process exports, and may do so as long as its user likes.
        exports: bool,
    },
    /// No such target.
    NoTarget(String),
    /// A change of the target is in progress.
    Busy {
        /// Its name.
        name: String,
        /// The change.
        change: Change,
        /// When it began; RFC 3339.
        since: String,
    },
    /// The target exists but cannot be opened; what is stored of it is untouched.
    Unavailable {
        /// Its name.
        name: String,
        /// The reason.
        why: Arc<Error>,
    },
    /// A file or folder of the store is missing.
    Missing(PathBuf),
    /// The newest configuration of a target is damaged.
    DamagedConfig {
        /// The target.
        target: String,
        /// The damaged file.
        path: PathBuf,
    },
    /// The name is in use.
    TargetExists(String),
    /// The target runs.
    TargetRunning(String),
    /// The target is stopping.
    TargetStopping(String),
    /// The target's machine was left running, and is not supervised yet.
    LeftRunning {
        /// Its name.
        name: String,
        /// The machine's process id.
        pid: u32,
        /// Why it is not adopted yet, if that was tried.
        why: Option<String>,
    },
    /// It cannot be determined whether the target's machine runs.
    MachineUnknown {
        /// Its name.
        name: String,
        /// The reason.
        why: Arc<Error>,
    },
    /// The target's machine was left running, and its branch is unknown.
    UnknownBranch {
        /// Its name.
        name: String,
        /// The machine's process id.
        pid: u32,
    },
    /// A machine runs in the folder of the target's machine, and is not the target's.
    ForeignMachine {
        /// The target.
        name: String,
        /// The machine's process id.
        pid: u32,
    },
    /// A bug in Bygone: the code panicked.
    Panicked {
        /// What was not done, as in "kept … from being done".
        what: &'static str,
    },
    /// A disk or a past moment of the target is open.
    Served(String),
    /// Another branch became the present meanwhile.
    Moved(String),
    /// What a caller confirmed is not what would be done by now.
    Outdated {
        /// Its name.
        name: String,
        /// What has changed.
        what: MovedPart,
    },
    /// Records are lost that may have changed branches, and nobody has chosen the present since.
    PresentInDoubt {
        /// The target.
        name: String,
        /// The branch that is the present as far as it is known.
        branch: String,
        /// The first record that is lost.
        first: Seq,
        /// The last one.
        last: Seq,
    },
    /// A machine or a client uses the branch.
    BranchUsed(String),
    /// The target's configuration is not damaged.
    NothingToRepair(String),
    /// The target has no act to undo.
    NothingToUndo(String),
    /// There is no removed target of this name.
    NotRemoved(String),
    /// Several folders of removed targets have the same log: one is a copy of the other.
    RemovedTwice {
        /// The folders.
        folders: Vec<String>,
    },
    /// The path of a tapped disk is lost.
    UnknownDiskPath {
        /// Its name.
        disk: String,
    },
    /// The target did not have all of its disks at that moment.
    BeforeDisks {
        /// Its name.
        name: String,
    },
    /// A part was done and stays done; then a step failed.
    Partly {
        /// What was done.
        done: String,
        /// The failure.
        why: Box<Error>,
    },
    /// The disk outside the store could not be brought up to date, and was left as it is.
    DiskBehind {
        /// Its name.
        disk: String,
    },
    /// The disk outside the store is not filled, or not completely, because nobody waited for that.
    NotFilled {
        /// Its name.
        disk: String,
    },
    /// The disk outside the store is not read completely, because nobody waited for that.
    NotRead {
        /// Its name.
        disk: String,
    },
    /// The target does not run.
    TargetStopped(String),
    /// A disk outside the store cannot be used.
    Disk {
        /// Its path.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A disk that another program uses, or that cannot be locked.
    DiskLocked {
        /// Its path.
        path: PathBuf,
        /// The reason.
        source: bygone_sys::ImageLockError,
    },
    /// A disk that a target has open.
    DiskOpen {
        /// Its path.
        path: PathBuf,
        /// The target.
        target: String,
    },
    /// A disk that the kernel uses: it is mounted, swap, or part of another device.
    DiskUsed {
        /// Its path.
        path: PathBuf,
        /// The use, in words.
        by: String,
    },
    /// The destination is a tapped disk of a target.
    Tapped {
        /// Its path.
        path: PathBuf,
        /// The target.
        target: String,
    },
    /// The disk to tap is a disk of another target.
    DiskTaken {
        /// Its path.
        path: PathBuf,
        /// The target.
        target: String,
    },
    /// The disk outside the store of a target is missing or cannot be used.
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
    DiskResized {
        /// Its path.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// Its size in bytes when it was added.
        was: u64,
    },
    /// The disks of a target are unknown, so it cannot be checked that another disk is none of them.
    DisksUnknown {
        /// Its name; `None` if the folder of all targets cannot be read.
        name: Option<String>,
        /// The reason.
        why: Arc<Error>,
    },
    /// The path is in the store's own folder.
    InsideStore(PathBuf),
    /// The file is a disk image that is not raw; it would be destroyed if it were used as one.
    NotRaw {
        /// Its path.
        path: PathBuf,
        /// The format that it appears to have.
        format: bygone_qemu::image::Format,
    },
    /// A disk with an invalid size.
    DiskSize {
        /// Its path.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// The requirement.
        wanted: String,
    },
    /// An invalid label of a point.
    Label {
        /// The text.
        label: String,
        /// The reason.
        source: ParseError,
    },
    /// Another point has this label.
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
    BaseIncomplete {
        /// Its name.
        disk: String,
    },
    /// The store failed or refused.
    Store(#[from] bygone_store::Error),
    /// A device failed or refused.
    Device(#[from] IoError),
    /// QEMU failed or refused.
    Qemu(#[from] qemu::Error),
    /// A file cannot be used.
    File {
        /// The operation, such as "writing".
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: Arc<io::Error>,
    },
    /// A server cannot listen at that address.
    Listen(#[from] bygone_block::nbd::ListenError),
    /// A device cannot be served as a file.
    Fuse {
        /// The path.
        path: PathBuf,
        /// The reason.
        source: bygone_block::FuseError,
    },
    /// Another program failed.
    Program {
        /// Its name.
        program: &'static str,
        /// Its output.
        output: String,
    },
    /// A failure that a manager reported over its socket, or that an earlier call with the same key had.
    Told(Failure),
    /// There is no such job.
    NoJob(u64),
    /// An invalid idempotency key.
    BadKey,
    /// The key belongs to a different call.
    KeyUsed {
        /// The key.
        key: String,
        /// The job of that call.
        job: u64,
    },
    /// A call with a key that is too large to be written down.
    CallTooLarge {
        /// The largest size.
        bytes_max: usize,
    },
    /// The call with this key was not successful, and what it changed stays.
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
    TooManyClients {
        /// That many.
        max: usize,
    },
    /// The manager, or the supervision of a machine, ended during the call.
    ManagerGone,
    /// The manager is about to end, and did not begin with the request.
    ManagerEnding,
    /// The manager did not start.
    ManagerNotUp(String),
    /// The caller no longer waits.
    Abandoned,
    /// The caller no longer waits, but the manager goes on with the call.
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

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure().fmt(f)
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure().fmt(f)
    }
}

impl Error {
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Error {
        Error::File { doing, path: path.into(), source: Arc::new(source) }
    }

    pub(crate) fn busy(name: &str, doing: crate::lifecycle::Doing) -> Error {
        let since = crate::timeline::rfc3339(doing.since);
        Error::Busy { name: name.to_owned(), change: doing.change, since }
    }
}

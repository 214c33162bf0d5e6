//! What can go wrong in the manager. [`Error::failure`] says it to others.

use std::{io, path::PathBuf, sync::Arc};

use bygone_block::IoError;
use bygone_model::when::{ParseError, ResolveError};
use bygone_qemu as qemu;

use crate::{
    api::Failure,
    config::{BadName, BadSetting},
};

/// What was asked for makes no sense as it was said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Usage {
    /// A name that does not fit.
    #[error(transparent)]
    BadName(#[from] BadName),
    /// A setting that cannot be made.
    #[error(transparent)]
    BadSetting(#[from] BadSetting),
    /// An address that cannot be found.
    #[error("{0:?} is no address")]
    BadAddress(String),
    /// `NAME[/DISK][@WHEN]` that cannot be read.
    #[error("{0:?} names no device")]
    BadDevice(String),
    /// More than one is possible.
    #[error("target {target:?} has several disks: {}", disks.join(", "))]
    WhichDisk {
        /// Of which target.
        target: String,
        /// Those that are possible.
        disks: Vec<String>,
    },
    /// Several disks, and one file.
    #[error("target {target:?} has several disks: {}; {} is no folder", disks.join(", "), .path.display())]
    NoFolder {
        /// Where they were to go.
        path: PathBuf,
        /// Of which target.
        target: String,
        /// Its disks.
        disks: Vec<String>,
    },
    /// More than one is possible.
    #[error("there are several branches: {}", .0.join(", "))]
    WhichBranch(Vec<String>),
    /// None is possible.
    #[error("there is no branch but the present")]
    NoOtherBranch,
    /// Later history can only be given up where the target itself is restored.
    #[error("later history is given up only when a target is restored in place")]
    DiscardInPlaceOnly,
    /// In place, a target is restored whole.
    #[error("in place, all disks of a target are restored together")]
    DisksTogether,
    /// A request that this version does not know.
    #[error("the request cannot be understood: {0}")]
    BadRequest(String),
}

/// Why the manager could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Wrong usage.
    #[error(transparent)]
    Usage(#[from] Usage),
    /// A moment that cannot be read.
    #[error("{text:?}: {source}")]
    When {
        /// What was given.
        text: String,
        /// Why not.
        source: ParseError,
    },
    /// A moment that there is not, or more than one.
    #[error("{text:?}: {source}")]
    Moment {
        /// What was given.
        text: String,
        /// Why not.
        source: Box<ResolveError>,
        /// The moments that may have been meant, in the words and the time zone of whoever asked.
        candidates: Vec<String>,
    },
    /// There is no store.
    #[error("there is no store in {}", .0.display())]
    NoStore(PathBuf),
    /// There is one already.
    #[error("there is a store in {} already", .0.display())]
    StoreExists(PathBuf),
    /// The folder holds other things.
    #[error("{} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// Of a newer version.
    #[error("the store in {} has format version {found}; this program knows versions up to {known}", .path.display())]
    NewerStore {
        /// Where.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest known one.
        known: u64,
    },
    /// Of a version from before the first release.
    #[error("the store in {} has format version {found}, from before the first release; this program knows version {known}", .path.display())]
    OlderStore {
        /// Where.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The known one.
        known: u64,
    },
    /// Its description is damaged.
    #[error("the store's description {} cannot be read", .0.display())]
    DamagedStore(PathBuf),
    /// Somebody else has it.
    #[error("the store in {} is in use by process {holder}{}", .path.display(), if *.exports { ", which exports from it" } else { "" })]
    StoreLocked {
        /// Where.
        path: PathBuf,
        /// By whom.
        holder: String,
        /// For as long as its user likes.
        exports: bool,
    },
    /// No such target.
    #[error("there is no target {0:?}")]
    NoTarget(String),
    /// Something else is being done with it.
    #[error("target {name:?} is being {doing}, since {since}")]
    Busy {
        /// Which.
        name: String,
        /// What, as in "is being …".
        doing: &'static str,
        /// Since when, in this computer's zone.
        since: String,
    },
    /// It is there and cannot be used; what is stored of it is untouched.
    #[error("target {name:?} cannot be used: {why}")]
    Unavailable {
        /// Which.
        name: String,
        /// Why not.
        why: Arc<Error>,
    },
    /// A part of the store is not where it was made.
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    /// The newest configuration of a target is damaged.
    #[error("the configuration {} of target {target:?} cannot be read", .path.display())]
    DamagedConfig {
        /// Of which target.
        target: String,
        /// Which file.
        path: PathBuf,
    },
    /// The name is taken.
    #[error("there is a target {0:?} already")]
    TargetExists(String),
    /// It runs.
    #[error("target {0:?} is running")]
    TargetRunning(String),
    /// It was asked to stop, and has not yet.
    #[error("target {0:?} is being stopped")]
    TargetStopping(String),
    /// Its machine runs, and no manager looks after it.
    #[error("the machine of target {name:?} (process {pid}) was left running by an earlier manager, and is not looked after yet{}",
        .why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    LeftRunning {
        /// Which.
        name: String,
        /// Its process.
        pid: u32,
        /// Why it could not be taken over so far.
        why: Option<String>,
    },
    /// Nothing says any more on which branch its machine runs.
    #[error(
        "the machine of target {name:?} (process {pid}) runs, and nothing is left that says on which branch"
    )]
    UnknownBranch {
        /// Which.
        name: String,
        /// Its process.
        pid: u32,
    },
    /// A defect of Bygone: something panicked.
    #[error("a defect of Bygone kept {what} from being done; its log has more")]
    Panicked {
        /// What was not done.
        what: &'static str,
    },
    /// Somebody has a disk or a moment of it open.
    #[error("a disk or a past moment of target {0:?} is being served")]
    Served(String),
    /// Another branch became the present meanwhile.
    #[error("another branch of target {0:?} became the present meanwhile")]
    Moved(String),
    /// A machine or a client uses it.
    #[error("branch {0:?} is in use")]
    BranchUsed(String),
    /// Its configuration is not damaged.
    #[error("nothing is wrong with the configuration of target {0:?}")]
    NothingToRepair(String),
    /// None of its branches was changed.
    #[error("nothing of target {0:?} was restored, promoted or dropped that could be taken back")]
    NothingToUndo(String),
    /// No removed target of this name is kept.
    #[error("no history of a removed target {0:?} is kept")]
    NotRemoved(String),
    /// Nothing is left that says where a tapped disk is.
    #[error("nothing is left that says where disk {disk:?} is outside the store")]
    UnknownDiskPath {
        /// Which.
        disk: String,
    },
    /// The target had not all of its disks yet.
    #[error("target {name:?} did not have its disks yet at that moment")]
    BeforeDisks {
        /// Which.
        name: String,
    },
    /// A part was done, and stays done.
    #[error("{done}; but then: {why}")]
    Partly {
        /// What was done.
        done: String,
        /// What failed.
        why: Box<Error>,
    },
    /// The disk outside the store could not be brought up to date, so it was left as it is.
    #[error("disk {disk:?} outside the store could not be brought up to date")]
    DiskBehind {
        /// Which.
        disk: String,
    },
    /// It does not run.
    #[error("target {0:?} is not running")]
    TargetStopped(String),
    /// A disk outside the store cannot be used.
    #[error("disk {}: {source}", .path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A disk that something else uses.
    #[error("disk {}: {source}", .path.display())]
    DiskLocked {
        /// Where.
        path: PathBuf,
        /// Who uses it.
        source: bygone_sys::ImageLockError,
    },
    /// The kernel uses it, or has made something of it.
    #[error("disk {}: {by}", .path.display())]
    DiskUsed {
        /// Where.
        path: PathBuf,
        /// For what, in words.
        by: String,
    },
    /// A target taps it.
    #[error("{} is a disk of target {target:?}", .path.display())]
    Tapped {
        /// Where.
        path: PathBuf,
        /// Which.
        target: String,
    },
    /// Another target has it already.
    #[error("{} is a disk of target {target:?}", .path.display())]
    DiskTaken {
        /// Where.
        path: PathBuf,
        /// Which.
        target: String,
    },
    /// The disk outside the store of a target is not where it was, or cannot be used.
    #[error("disk {}: {source}", .path.display())]
    DiskAway {
        /// Of which target.
        target: String,
        /// Which.
        disk: String,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk outside the store of a target has another size than when it was added.
    #[error("disk {} has {found} bytes; it had {was} when it was added", .path.display())]
    DiskResized {
        /// Where.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// Its size when it was added.
        was: u64,
    },
    /// It is in the store's own folder.
    #[error("{} is in the store's own folder", .0.display())]
    InsideStore(PathBuf),
    /// As a raw disk it would be destroyed.
    #[error("{} is no raw disk: it looks like {}", .path.display(), .format.name())]
    NotRaw {
        /// Where.
        path: PathBuf,
        /// What it looks like.
        format: bygone_qemu::image::Format,
    },
    /// A disk of a size that does not fit.
    #[error("disk {} has {found} bytes; {wanted}", .path.display())]
    DiskSize {
        /// Where.
        path: PathBuf,
        /// Its size.
        found: u64,
        /// What it should be.
        wanted: String,
    },
    /// A label that no text can name.
    #[error("{label:?} cannot be the label of a point: {source}")]
    Label {
        /// What was given.
        label: String,
        /// Why not.
        source: ParseError,
    },
    /// Another point has this label.
    #[error("a point is labelled {label:?} already: {name}, {time}, on branch {branch}")]
    LabelTaken {
        /// Which label.
        label: String,
        /// The moment of that point, as it can be named.
        name: String,
        /// When that is.
        time: String,
        /// On which branch.
        branch: String,
    },
    /// The history of a disk is not complete at that moment.
    #[error("disk {disk:?} was not taken over completely at that moment")]
    BaseIncomplete {
        /// Which.
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
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// Nothing can listen there.
    #[error(transparent)]
    Listen(#[from] bygone_block::nbd::ListenError),
    /// A device cannot be served as a file.
    #[error("serving {}: {source}", .path.display())]
    Fuse {
        /// At which path.
        path: PathBuf,
        /// Why not.
        source: bygone_block::FuseError,
    },
    /// Some other program failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it said.
        output: String,
    },
    /// The manager was asked over its socket, and said this.
    #[error(transparent)]
    Told(Failure),
    /// There is no such job.
    #[error("there is no job {0}")]
    NoJob(u64),
    /// A key that is none.
    #[error("a key is 1 to 128 printable characters")]
    BadKey,
    /// The call of this key was another one.
    #[error("the key {key:?} was given to another call: job {job}")]
    KeyUsed {
        /// The key.
        key: String,
        /// The other call.
        job: u64,
    },
    /// The call of this key was begun, and its manager ended before it did.
    #[error("job {job} was interrupted; it had changed this: {}", .changed.join("; "))]
    Interrupted {
        /// The call.
        job: u64,
        /// What it had changed, in words.
        changed: Vec<String>,
    },
    /// The manager went away while it was asked.
    #[error("the manager ended the connection")]
    ManagerGone,
    /// The manager did not come up.
    #[error("the manager did not start: {0}")]
    ManagerNotUp(String),
    /// Nobody waits for the answer any more.
    #[error("given up")]
    Abandoned,
    /// Nor did the manager let go of it at once.
    #[error("given up; the manager goes on with it")]
    GoesOn,
}

/// The manager's result.
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

impl Error {
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Error {
        Error::File { doing, path: path.into(), source: Arc::new(source) }
    }

    pub(crate) fn busy(name: &str, doing: crate::lifecycle::Doing) -> Error {
        let since = crate::timeline::time_of_day(doing.since);
        Error::Busy { name: name.to_owned(), doing: doing.change.participle(), since }
    }
}

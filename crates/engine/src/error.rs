//! What can go wrong in the manager, grouped by what a person can do about it.

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
    #[error("target {0:?} has several disks; say which: {1}")]
    WhichDisk(String, String),
    /// More than one is possible.
    #[error("say which branch: {0}")]
    WhichBranch(String),
    /// A request that this version does not know.
    #[error("the request cannot be understood: {0}")]
    BadRequest(String),
    /// Nothing to do.
    #[error("{0}")]
    Impossible(&'static str),
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
    /// Its description is damaged.
    #[error("the store's description {} cannot be read", .0.display())]
    DamagedStore(PathBuf),
    /// Somebody else has it.
    #[error("the store in {} is in use by process {holder}", .path.display())]
    StoreLocked {
        /// Where.
        path: PathBuf,
        /// By whom.
        holder: String,
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
    /// Some other program failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Which.
        program: &'static str,
        /// What it said.
        output: String,
    },
    /// The manager was asked over its socket, and said this.
    #[error("{}", .0.message)]
    Told(Failure),
    /// The manager went away while it was asked.
    #[error("the manager ended the connection")]
    ManagerGone,
    /// The manager did not come up.
    #[error("the manager did not start: {0}")]
    ManagerNotUp(String),
    /// Nobody waits for the answer any more.
    #[error("given up")]
    Abandoned,
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

    /// The exit code, as the command line promises it.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::When { .. } => 2,
            Error::Told(failure) => failure.code,
            _ => 1,
        }
    }

    /// What to do if a file system has no room; `None` for other failures.
    fn no_room_hint(&self) -> Option<&'static str> {
        let full = bygone_store::is_full;
        match self {
            Error::Disk { source, .. } => full(source),
            Error::File { source, .. } => full(source),
            Error::Qemu(qemu::Error::File { source, .. }) => full(source),
            Error::Device(IoError::Medium(source)) => full(source),
            Error::Device(IoError::Full | IoError::Paused) => true,
            _ => false,
        }
        .then_some("free space on that file system, then try again; nothing that is stored is lost")
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        if let Some(hint) = self.no_room_hint() {
            return hint.to_owned();
        }
        let fixed = match self {
            Error::Usage(usage) => match usage {
                Usage::BadName(_) => {
                    "names have letters, digits, '-', '_' and '.', and begin with a letter or digit"
                }
                Usage::BadSetting(BadSetting::Unknown(_)) => {
                    "there are memory, cpus, kernel, initrd, append, firmware, net, autostart, qemu-arg"
                }
                Usage::BadSetting(BadSetting::Value { .. }) => {
                    "see `bygone target add --help` for what it can be"
                }
                Usage::BadAddress(_) => "write HOST:PORT, such as 127.0.0.1:10809",
                Usage::BadDevice(_) => "write NAME, NAME/DISK, NAME/DISK@WHEN or NAME/DISK#BRANCH",
                Usage::WhichDisk(..) => "write NAME/DISK",
                Usage::WhichBranch(_) => "`bygone branch list NAME` shows them",
                Usage::BadRequest(_) => "is the manager of another version? restart it",
                Usage::Impossible(_) => "see --help",
            },
            Error::When { source, .. } => return source.hint().to_owned(),
            Error::Moment { source, .. } => return source.hint().to_owned(),
            Error::NoStore(_) => "`bygone init` makes one; --store or $BYGONE_STORE says where it is",
            Error::StoreExists(_) => "use it as it is, or choose another folder",
            Error::NotEmpty(_) => "choose an empty folder, or one that does not exist yet",
            Error::NewerStore { .. } => "use a newer version of bygone",
            Error::DamagedStore(_) => {
                "restore the file bygone.json from a copy; the history itself is elsewhere and untouched"
            }
            Error::StoreLocked { .. } => "wait until it is done, or end that process",
            Error::NoTarget(_) => "`bygone target list` shows what there is",
            Error::Busy { .. } => "wait until that is done, then try again; `bygone status` shows it",
            Error::Unavailable { why, .. } => return why.hint(),
            Error::Missing(_) => {
                "is its file system mounted? nothing is made anew in its place; it is used again as soon as it is back"
            }
            Error::DamagedConfig { .. } => {
                "`bygone target repair NAME` brings the target back from its log or an older configuration"
            }
            Error::TargetExists(_) => "choose another name, or remove the old one first",
            Error::TargetRunning(_) => "stop it first: bygone stop NAME",
            Error::TargetStopped(_) => "start it with: bygone run NAME",
            Error::Disk { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => {
                    "check the path; a new disk inside the store is made with store:SIZE"
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    "Bygone must be able to write to the disk; check its permissions and where it is mounted"
                }
                _ => "check the disk and the system's log",
            },
            Error::DiskLocked { source, .. } => return source.hint().to_owned(),
            Error::DiskSize { .. } => {
                "check that it is the right disk; grow it with `truncate -s` or `qemu-img resize`"
            }
            Error::BaseIncomplete { .. } => {
                "wait until the disk was read, or choose a moment at which it had been: see `bygone timeline NAME`"
            }
            Error::Store(e) => e.hint(),
            Error::Device(_) => "see the manager's log",
            Error::Qemu(e) => e.hint(),
            Error::File { .. } => "check the path and its permissions",
            Error::Program { .. } => "see what it said; `bygone` needs it for this",
            Error::Told(failure) => return failure.hint.clone(),
            Error::ManagerGone => "see the manager's log, then try again",
            Error::ManagerNotUp(_) => "start it with `bygone serve` to see what it says",
            Error::Abandoned => "ask again",
        };
        fixed.to_owned()
    }

    /// The same for the other side of a socket.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let candidates = match self {
            Error::Moment { source, .. } => {
                let now = jiff::Zoned::now();
                source.candidates().iter().map(|c| c.describe(&now)).collect()
            }
            Error::Told(failure) => failure.candidates.clone(),
            _ => Vec::new(),
        };
        Failure { message: self.to_string(), hint: self.hint(), code: self.code(), candidates }
    }
}

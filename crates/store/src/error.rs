//! What can go wrong, grouped by what the caller can do about it.

use std::{fmt, io, sync::Arc};

use bygone_model::{Lba, Sectors, Seq, VolumeId};
use rustix::io::Errno;

/// A byte offset in one of the store's files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Relative to the log's folder.
    pub file: String,
    /// In bytes.
    pub offset: u64,
}

impl Place {
    /// Whether it is in a checkpoint file, which can be rebuilt from the segments.
    #[must_use]
    pub fn is_in_index(&self) -> bool {
        let in_folder = self.file.strip_prefix(crate::format::checkpoint::folder());
        in_folder.is_some_and(|name| name.starts_with('/'))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.file, self.offset)
    }
}

/// What is wrong at a damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The magic number is missing.
    #[error("this is not what should be there")]
    Magic,
    /// A checksum does not match.
    #[error("the checksum does not match")]
    Checksum,
    /// Valid data of another place, version or log.
    #[error("something else is there (misplaced or stale)")]
    Misplaced,
    /// The file is too short.
    #[error("the file ends too early")]
    Truncated,
    /// Fields contradict each other.
    #[error("its fields contradict each other")]
    Inconsistent,
    /// The file differs from what was sealed, though every checksum in it matches: its hash is not the one in the
    /// manifest, or its padding is not zero.
    #[error("the file was changed where no checksum of its own covers it")]
    Changed,
    /// A file that should exist is missing.
    #[error("the file is missing")]
    Missing,
    /// The medium cannot read it back, or a checksum of the file system does not match. Unlike other damage it may
    /// pass, so nothing is given up because of it.
    #[error("the medium cannot read it")]
    Unreadable,
}

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub enum Error {
    /// An operation on a file failed; a retry may succeed.
    #[error("{doing} {name}: {source}")]
    Io {
        /// The operation, such as "reading".
        doing: &'static str,
        /// The file.
        name: String,
        /// The operating system's error.
        source: Arc<io::Error>,
    },
    /// The call would have to wait for the medium, which the caller excluded.
    #[error("would have to wait for the medium")]
    WouldBlock,
    /// No space is left. Nothing is lost that was stored before.
    #[error("the store is full: no room for {name}")]
    Full {
        /// The file that needed space.
        name: String,
    },
    /// The memory for versions that are not in an index yet is used up, either this log's or that of all logs together
    /// (back-pressure). A retry succeeds after upkeep, unless the index cannot be written.
    #[error("{versions} changes wait in memory for an index that cannot be written now")]
    Behind {
        /// How many versions of this log wait.
        versions: usize,
    },
    /// An earlier flush failed, or a thread panicked while it wrote to the log, so nothing is acknowledged any more
    /// (invariant I4) until the log is opened again.
    #[error(
        "an earlier write or flush of this log failed; what came after it cannot be trusted to be on the medium"
    )]
    Poisoned,
    /// The file of a segment in use was removed or replaced, and could not be written anew. What the log says is
    /// durable is not, until the file has its name again: upkeep goes on trying.
    #[error("{name} was removed or replaced while it was in use, and could not be written again: {why}")]
    Unnamed {
        /// The file.
        name: String,
        /// Why not.
        why: Arc<Error>,
    },
    /// The caller cancelled the call ([`Caller`](crate::Caller)).
    #[error("the answer is not wanted any more")]
    Abandoned,
    /// Another holder took the log over; this one may not write it any more.
    #[error("another holder took the log over (term {newest}; here it was held in term {term})")]
    Superseded {
        /// The term of this holder.
        term: u32,
        /// The log's newest term.
        newest: u32,
    },
    /// Stored bytes are not those that were written.
    #[error("damage in {place}: {damage}")]
    Damaged { place: Place, damage: Damage },
    /// A file was written by a newer version of Bygone.
    #[error("{name} has format version {found}; this program knows versions up to {known}")]
    NewerVersion {
        /// The file.
        name: String,
        /// Its version. If the file has codes that its version does not have, the earliest version that may have them.
        found: u16,
        /// The newest version that this program knows.
        known: u16,
    },
    /// A record that this program does not know and must not skip.
    #[error("{place} holds a record of kind {op}, which this program does not know")]
    UnknownRecord { place: Place, op: u8 },
    /// The log has used up all numbers for these things.
    #[error("the log can have no more {0}")]
    NoNumberLeft(&'static str),
    /// The folder holds no log.
    #[error("there is no log here")]
    NoLog,
    /// A log cannot be made where there is one.
    #[error("there is a log here already")]
    LogExists,
    /// A range that is not within the disk.
    #[error("sectors {lba}+{sectors} are outside volume {volume}")]
    OutOfRange { volume: VolumeId, lba: Lba, sectors: Sectors },
    /// No such volume.
    #[error("there is no volume {0}")]
    NoVolume(VolumeId),
    /// No such branch, or it was dropped.
    #[error("there is no branch {0:?}")]
    NoBranch(String),
    /// The name is taken.
    #[error("there is a branch {0:?} already")]
    BranchExists(String),
    /// The branch cannot be dropped.
    #[error("branch {0:?} is the present of its target")]
    BranchInUse(String),
    /// No such disk.
    #[error("there is no disk {0:?}")]
    NoDisk(String),
    /// The name is taken.
    #[error("there is a disk {0:?} already")]
    DiskExists(String),
    /// A follower's cursor belongs to another log.
    #[error("this is a place in another log")]
    OtherLog,
    /// A moment that the log has not reached.
    #[error("moment {asked} is later than the last one, {head}")]
    InTheFuture {
        asked: Seq,
        /// The log's last moment.
        head: Seq,
    },
    /// A moment before the disk or branch existed.
    #[error("moment {asked} is before the first one, {first}")]
    BeforeHistory {
        asked: Seq,
        /// The first moment of the disk or branch.
        first: Seq,
    },
}

/// Whether an error means that there is no space left, on the medium or within the quota.
#[must_use]
pub fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether an error of a read says that the medium cannot read back what it holds. `EIO` is a bad sector; btrfs, ZFS
/// and device mapper targets also return it if a checksum of theirs does not match. File systems return `EUCLEAN` and
/// `EBADMSG` for damage of their own, and `ENODATA` is what the kernel calls a medium error.
#[must_use]
pub(crate) fn is_unreadable(e: &io::Error) -> bool {
    let of_medium = [Errno::IO, Errno::UCLEAN, Errno::BADMSG, Errno::NODATA];
    Errno::from_io_error(e).is_some_and(|errno| of_medium.contains(&errno))
}

/// The result of the store's calls.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(doing: &'static str, name: &str, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::WouldBlock => Error::WouldBlock,
            _ if is_full(&source) => Error::Full { name: name.to_owned() },
            _ => Error::Io { doing, name: name.to_owned(), source: Arc::new(source) },
        }
    }

    /// The error that `name` could not be read from `offset` on, or not opened for reading: damage of that place if the
    /// medium cannot read it back. Other failures say nothing about what is stored.
    pub(crate) fn unread(name: &str, offset: u64, source: io::Error) -> Error {
        match is_unreadable(&source) {
            true => Error::damaged(name, offset, Damage::Unreadable),
            false => Error::io("reading", name, source),
        }
    }

    /// Whether stored bytes are not those that were written, and never will be again. What is only unreadable may be
    /// readable later.
    pub(crate) fn is_lasting_damage(&self) -> bool {
        matches!(self, Error::Damaged { damage, .. } if *damage != Damage::Unreadable)
    }

    /// Whether the damage is in a checkpoint file, which can be rebuilt from the segments.
    #[must_use]
    pub fn is_index_damage(&self) -> bool {
        matches!(self, Error::Damaged { place, .. } if place.is_in_index())
    }

    pub(crate) fn damaged(file: &str, offset: u64, damage: Damage) -> Error {
        Error::Damaged { place: Place { file: file.to_owned(), offset }, damage }
    }
}

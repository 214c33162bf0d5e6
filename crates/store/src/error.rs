//! What can go wrong, grouped by what the caller can do about it.

use std::{fmt, io, sync::Arc};

use bygone_model::{Lba, Sectors, Seq, VolumeId};

/// A place in the store's files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, relative to the log's folder.
    pub file: String,
    /// The byte offset in it.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.file, self.offset)
    }
}

/// What does not hold at a damaged place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Magic number missing.
    #[error("this is not what should be there")]
    Magic,
    /// Checksum wrong.
    #[error("the checksum does not match")]
    Checksum,
    /// The data belong to another place or version.
    #[error("something else is there (misplaced or stale)")]
    Misplaced,
    /// Too short.
    #[error("the file ends too early")]
    Truncated,
    /// Fields contradict each other.
    #[error("its fields contradict each other")]
    Inconsistent,
    /// The file as a whole is another one than was read once, though all that has a checksum holds.
    #[error("the file was changed where no checksum of its own covers it")]
    Changed,
    /// A file that must be there is missing.
    #[error("the file is missing")]
    Missing,
}

/// Why the store could not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The medium refused; trying again may help.
    #[error("{doing} {name}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        name: String,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// The medium would have to be waited for, and the caller did not want to.
    #[error("would have to wait for the medium")]
    WouldBlock,
    /// No room is left. Nothing that the store has is lost.
    #[error("the store is full: no room for {name}")]
    Full {
        /// For which file.
        name: String,
    },
    /// The index cannot be brought up to date, and as many versions wait for it in memory as may.
    #[error("{versions} changes wait in memory for an index that cannot be written now")]
    Behind {
        /// How many.
        versions: usize,
    },
    /// An earlier flush failed, so nothing after it may be acknowledged (invariant I4).
    #[error("an earlier flush of this log failed; what came after it cannot be trusted to be on the medium")]
    Poisoned,
    /// Whoever asked does not want to know any more.
    #[error("the answer is not wanted any more")]
    Abandoned,
    /// Another holder took the log over; whoever held it before may not write it any more.
    #[error("another holder took the log over (term {newest}; here it was held in term {term})")]
    Superseded {
        /// In which term it was held here.
        term: u32,
        /// The newest one.
        newest: u32,
    },
    /// Stored bytes are not what was written.
    #[error("damage in {place}: {damage}")]
    Damaged {
        /// Where.
        place: Place,
        /// What.
        damage: Damage,
    },
    /// Written by a newer version of Bygone.
    #[error("{name} has format version {found}; this program knows versions up to {known}")]
    NewerVersion {
        /// Which file.
        name: String,
        /// The version in it.
        found: u16,
        /// The newest known one.
        known: u16,
    },
    /// A record that this program does not know and must not pass over.
    #[error("{place} holds a record of kind {op}, which this program does not know")]
    UnknownRecord {
        /// Where.
        place: Place,
        /// Its kind.
        op: u8,
    },
    /// There are as many as a log can have.
    #[error("the log can have no more {0}")]
    NoNumberLeft(&'static str),
    /// There is no log here.
    #[error("there is no log here")]
    NoLog,
    /// There is a log here already.
    #[error("there is a log here already")]
    LogExists,
    /// A request outside a disk.
    #[error("sectors {lba}+{sectors} are outside volume {volume}")]
    OutOfRange {
        /// Of which volume.
        volume: VolumeId,
        /// First sector.
        lba: Lba,
        /// How many.
        sectors: Sectors,
    },
    /// No such volume.
    #[error("there is no volume {0}")]
    NoVolume(VolumeId),
    /// No such branch.
    #[error("there is no branch {0:?}")]
    NoBranch(String),
    /// The name is taken.
    #[error("there is a branch {0:?} already")]
    BranchExists(String),
    /// The branch cannot go: it is in use.
    #[error("branch {0:?} is the present of its target")]
    BranchInUse(String),
    /// No such disk.
    #[error("there is no disk {0:?}")]
    NoDisk(String),
    /// The name is taken.
    #[error("there is a disk {0:?} already")]
    DiskExists(String),
    /// A cursor of another log.
    #[error("this is a place in another log")]
    OtherLog,
    /// A moment that the log has not reached.
    #[error("moment {asked} is later than the last one, {head}")]
    InTheFuture {
        /// What was asked for.
        asked: Seq,
        /// The last one.
        head: Seq,
    },
    /// A moment before the disk or branch existed.
    #[error("moment {asked} is before the first one, {first}")]
    BeforeHistory {
        /// What was asked for.
        asked: Seq,
        /// The first one.
        first: Seq,
    },
}

/// A medium says that it has no room: none at all, or none for us.
#[must_use]
pub fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The store's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(doing: &'static str, name: &str, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::WouldBlock => Error::WouldBlock,
            _ if is_full(&source) => Error::Full { name: name.to_owned() },
            _ => Error::Io { doing, name: name.to_owned(), source: Arc::new(source) },
        }
    }

    /// An index is damaged, which can be made anew from the segments.
    pub(crate) fn is_index_damage(&self) -> bool {
        matches!(self, Error::Damaged { place, .. } if place.file.starts_with(crate::format::checkpoint::folder()))
    }

    pub(crate) fn damaged(file: &str, offset: u64, damage: Damage) -> Error {
        Error::Damaged { place: Place { file: file.to_owned(), offset }, damage }
    }
}

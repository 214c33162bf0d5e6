//! Finding the bytes of records by their names.
//!
//! A block record keeps the name that it got when it was written ([`Location`]): indexes, views and head maps hold names and
//! are never rewritten. Where the bytes are today, only this module knows: in the segment of that name, or in another
//! container that took over all records of some segments (a pack, a remote archive). Whoever holds the bytes knows how they
//! are laid out, so it is the container that proves that what it gives out is the record that was asked for (I5).

mod segments;

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use bygone_model::{Lba, Seq};

use crate::{
    error::{Damage, Error, Place, Result},
    format::segment::{Location, SegmentIndex},
    sync::{AtomicBool, RwLock},
};

pub(crate) use segments::{Segments, read_whole};

/// May a read wait for the medium?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// As long as it takes.
    Yes,
    /// No: [`crate::Error::WouldBlock`] instead.
    No,
}

/// A part of what a block record wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The record's name; not that of zeroes.
    pub name: Location,
    /// The record that is meant. Anything else under that name is damage.
    pub seq: Seq,
    /// The first sector that is wanted.
    pub lba: Lba,
}

/// What reading a whole segment back came to.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Bytes that were read and checked.
    pub bytes: u64,
    /// The first and the last record, if there are any.
    pub span: Option<(Seq, Seq)>,
    /// What does not hold.
    pub damaged: Vec<(Place, Damage)>,
}

/// A container of records: of all that some segments held, the blocks' content and the segments' indexes.
pub trait Records: Send + Sync {
    /// Fills `buf` (whole sectors) with what `piece` and the sectors after it hold, which are all of one record.
    ///
    /// # Errors
    /// When it cannot be read, would have to be waited for, or is not what was asked for.
    fn read(&self, piece: Piece, buf: &mut [u8], wait: Wait) -> Result<()>;

    /// Asks for `len_bytes` from `piece` on to be brought into memory soon.
    fn prefetch(&self, piece: Piece, len_bytes: u64);

    /// The payload of the record `seq` of this name, which is not about blocks.
    ///
    /// # Errors
    /// As [`Records::read`].
    fn payload(&self, name: Location, seq: Seq) -> Result<Vec<u8>>;

    /// What a segment holds: each record's place in the log, its kind, time and name.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    fn index(&self, segment: u32) -> Result<SegmentIndex>;

    /// Reads everything back that it holds of a segment.
    ///
    /// # Errors
    /// When the medium cannot be read at all; damage is in the answer.
    fn check(&self, segment: u32) -> Result<Checked>;
}

/// Finds the containers that took over what segments held.
pub trait Containers: Send + Sync + std::fmt::Debug {
    /// The container of this number.
    ///
    /// # Errors
    /// When there is none, or it cannot be read or is damaged.
    fn open(&self, number: u32) -> Result<Arc<dyn Records>>;
}

/// There are none.
#[derive(Clone, Copy, Debug)]
pub struct NoContainers;

impl Containers for NoContainers {
    fn open(&self, number: u32) -> Result<Arc<dyn Records>> {
        Err(Error::damaged(&format!("container {number}"), 0, Damage::Missing))
    }
}

/// Segments whose records are in another container, and in which.
pub(crate) type Moved = BTreeMap<u32, Arc<dyn Records>>;

/// Where the records of a log are.
pub(crate) struct Places {
    pub(crate) segments: Segments,
    elsewhere: RwLock<Moved>,
    /// There is something elsewhere; saves the lock on every read of a log that has only segments.
    is_any_elsewhere: AtomicBool,
}

impl Places {
    pub(crate) fn new(segments: Segments, moved: Moved) -> Places {
        Places { segments, is_any_elsewhere: (!moved.is_empty()).into(), elsewhere: RwLock::new(moved) }
    }

    /// From now on the records of these segments are read from `container`.
    pub(crate) fn move_to(&self, segments: RangeInclusive<u32>, container: &Arc<dyn Records>) {
        let mut elsewhere = self.elsewhere.write().unwrap_or_else(PoisonError::into_inner);
        elsewhere.extend(segments.map(|segment| (segment, container.clone())));
        self.is_any_elsewhere.store(true, Ordering::Release);
    }

    /// The container that took a segment's records over, if one did.
    pub(crate) fn elsewhere(&self, segment: u32) -> Option<Arc<dyn Records>> {
        if !self.is_any_elsewhere.load(Ordering::Acquire) {
            return None;
        }
        self.elsewhere.read().unwrap_or_else(PoisonError::into_inner).get(&segment).cloned()
    }

    /// The segments whose records are in another container, in order.
    pub(crate) fn moved(&self) -> Vec<u32> {
        self.elsewhere.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// As [`Records::read`].
    pub(crate) fn read(&self, piece: Piece, buf: &mut [u8], wait: Wait) -> Result<()> {
        match self.elsewhere(piece.name.segment) {
            Some(container) => container.read(piece, buf, wait),
            None => self.segments.read(piece, buf, wait),
        }
    }

    /// As [`Records::payload`].
    pub(crate) fn payload(&self, name: Location, seq: Seq) -> Result<Vec<u8>> {
        match self.elsewhere(name.segment) {
            Some(container) => container.payload(name, seq),
            None => self.segments.payload(name, seq),
        }
    }

    /// As [`Records::prefetch`].
    pub(crate) fn prefetch(&self, piece: Piece, len_bytes: u64) {
        match self.elsewhere(piece.name.segment) {
            Some(container) => container.prefetch(piece, len_bytes),
            None => self.segments.prefetch(piece, len_bytes),
        }
    }
}

//! Finds the bytes of records by the records' names.
//!
//! A block record keeps the name ([`Location`]) that it got when it was written. Indexes, views and head maps hold
//! names, and are never rewritten. Only this module knows where the bytes are now: in the segment of that name, or in
//! another container (a pack, a remote archive) that took over all records of some segments. Only the container knows
//! how the bytes are laid out, so it verifies that it returns the record that was asked for (I5).

mod files;
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

pub(crate) use files::{SegmentFiles, names};
pub(crate) use segments::{Segments, read_whole};

/// Whether a read may wait for the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// As long as it takes.
    Yes,
    /// No: it fails with [`crate::Error::WouldBlock`] instead.
    No,
}

/// A part of what a block record wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The record's name; never that of zeroes.
    pub name: Location,
    /// The seq that the record must have. Any other record under that name is damage.
    pub seq: Seq,
    /// The first sector.
    pub lba: Lba,
}

/// The result of checking a whole segment.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Bytes read and checked.
    pub bytes: u64,
    /// The first and the last record, if there are any.
    pub span: Option<(Seq, Seq)>,
    /// The damage that was found.
    pub damaged: Vec<(Place, Damage)>,
}

/// A container of records: the content of all blocks that some segments held, and the segments' indexes.
pub trait Records: Send + Sync {
    /// Fills `buf` (whole sectors) from the first sector of `piece` on. All of it is in that record.
    ///
    /// # Errors
    /// When it cannot be read, would have to wait, or is not the record that was asked for.
    fn read(&self, piece: Piece, buf: &mut [u8], wait: Wait) -> Result<()>;

    /// Hints that `len_bytes` from `piece` on will be read soon.
    fn prefetch(&self, piece: Piece, len_bytes: u64);

    /// The payload of the record `seq` of this name, which is not a block record.
    ///
    /// # Errors
    /// As [`Records::read`].
    fn payload(&self, name: Location, seq: Seq) -> Result<Vec<u8>>;

    /// The index of a segment: the seq, kind, time and name of each record.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    fn index(&self, segment: u32) -> Result<SegmentIndex>;

    /// Reads back everything that it holds of a segment, and checks it.
    ///
    /// # Errors
    /// When the medium cannot be read at all. Damage is in the result.
    fn check(&self, segment: u32) -> Result<Checked>;
}

/// Finds the containers that took over the records of segments.
pub trait Containers: Send + Sync + std::fmt::Debug {
    /// Opens the container of this number.
    ///
    /// # Errors
    /// When there is none, it cannot be read, or it is damaged.
    fn open(&self, number: u32) -> Result<Arc<dyn Records>>;
}

/// For logs whose records are all in their own segments.
#[derive(Clone, Copy, Debug)]
pub struct NoContainers;

impl Containers for NoContainers {
    fn open(&self, number: u32) -> Result<Arc<dyn Records>> {
        Err(Error::damaged(&format!("container {number}"), 0, Damage::Missing))
    }
}

/// Segments whose records are in another container, with the container.
pub(crate) type Moved = BTreeMap<u32, Arc<dyn Records>>;

/// Finds the records of a log.
pub(crate) struct Places {
    pub(crate) segments: Segments,
    elsewhere: RwLock<Moved>,
    /// False if nothing is elsewhere. Saves the lock on every read of a log that has only segments.
    is_any_elsewhere: AtomicBool,
}

impl Places {
    pub(crate) fn new(segments: Segments, moved: Moved) -> Places {
        Places { segments, is_any_elsewhere: (!moved.is_empty()).into(), elsewhere: RwLock::new(moved) }
    }

    /// Reads the records of these segments from `container` from now on.
    pub(crate) fn move_to(&self, segments: RangeInclusive<u32>, container: &Arc<dyn Records>) {
        let mut elsewhere = self.elsewhere.write().unwrap_or_else(PoisonError::into_inner);
        elsewhere.extend(segments.map(|segment| (segment, container.clone())));
        self.is_any_elsewhere.store(true, Ordering::Release);
    }

    /// The container that took over the records of a segment, if one did.
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

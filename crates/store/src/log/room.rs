//! Room on the medium (I6).
//!
//! - Writes of blocks are done only where space was reserved for them beforehand, a whole segment at a time. So a full
//!   medium shows between two writes, and the write that meets it was not begun: it can wait. Before the first of them only
//!   as much is reserved as the log's own records need.
//! - A segment's last part is kept for the log's own records (events, the catalog, flush marks) and for its index, so
//!   that a flush, a point, the end of a machine still find room when no write does.
//! - When that is used up, or the log is opened while there is no room, the *reserve* is given up for a small segment
//!   that takes only the log's own records. It is filled up again when there is room.
//! - The last of the medium is left to others: to checkpoints, and to small files that the manager writes beside the log.

use std::sync::{Arc, PoisonError};

use super::{
    LogOptions,
    append::{Active, NewRecord},
};
use crate::{
    env::{Dir, File},
    error::{Error, Result},
    format::segment::{self, SEGMENT_HEADER_BYTES},
    sync::{Mutex, MutexGuard},
};

/// The file that holds the reserve.
const RESERVE: &str = "reserve";
/// The smallest segment worth beginning: its header and some records.
const SMALL_BYTES_MIN: u64 = 2 * SEGMENT_HEADER_BYTES as u64;
/// Media give out room in pieces of this size.
const BLOCK_BYTES: u64 = 4096;
/// What a version in memory takes in a checkpoint, at most and about: its page entry, those it is merged with, an image.
pub(super) const CHECKPOINT_ENTRY_BYTES: u64 = 64;

/// Who wants room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Changes of blocks; they wait when there is none.
    Blocks,
    /// What the log says about itself and the target; it is little, and must not wait.
    Own,
}

/// All records that are appended together have the same claim.
pub(super) fn claim_of(records: &[NewRecord<'_>]) -> Claim {
    if records.iter().any(|record| record.op.is_block()) { Claim::Blocks } else { Claim::Own }
}

/// The part of each segment that is kept for the log's own records and for its index.
fn tail_bytes(options: &LogOptions) -> u64 {
    options.segment_bytes / 32
}

fn whole_reserve_bytes(options: &LogOptions) -> u64 {
    tail_bytes(options).max(SMALL_BYTES_MIN).min(options.segment_bytes)
}

/// The reserve that fits. Less than the whole still helps: each life of a log without room takes some 8 KiB of it.
fn reserve_bytes(dir: &dyn Dir, options: &LogOptions) -> u64 {
    let wanted = whole_reserve_bytes(options);
    dir.free_bytes().map_or(wanted, |free| wanted.min(free - free % BLOCK_BYTES))
}

/// Where a segment's records end, up to where they may reach, and how many still fit.
pub(super) fn left(active: &Active, options: &LogOptions, claim: Claim) -> (u64, u64, usize) {
    let (kept_bytes, kept_records) = match claim {
        Claim::Blocks => (tail_bytes(options), options.segment_records_max / 32),
        Claim::Own => (0, 0),
    };
    (
        active.offset,
        active.room_bytes.saturating_sub(kept_bytes),
        options.segment_records_max.saturating_sub(kept_records).saturating_sub(active.times.len()),
    )
}

impl LogOptions {
    /// With less room than this on the medium, no more writes are taken than those that have room already: 80 MiB, or up to
    /// 112 MiB while many writes are in no checkpoint yet, which this does not count.
    #[must_use]
    pub fn room_bytes_min(&self) -> u64 {
        self.segment_bytes.saturating_add(self.segment_bytes / 4)
    }
}

/// Refuses unless a whole segment, and then a checkpoint of everything that is in memory only, find room. Just trying
/// would take all that is left from whoever else needs a little of it meanwhile.
fn check_room(dir: &dyn Dir, options: &LogOptions, name: &str, entries: usize) -> Result<()> {
    let checkpoint = entries as u64 * CHECKPOINT_ENTRY_BYTES;
    match dir.free_bytes() {
        Ok(free) if free < options.room_bytes_min().saturating_add(checkpoint) => {
            Err(Error::Full { name: name.to_owned() })
        }
        // A medium that cannot tell says so when it is written to.
        _ => Ok(()),
    }
}

/// The file of the segment after the newest. It is made and taken with the lock held: upkeep and a writer who both made it
/// would take it away from one another, and what was written into it would have no name any more.
///
/// Locked after the sequencer, never before it.
pub(super) struct Spare(Mutex<Next>);

struct Next {
    number: u32,
    /// Its empty file, if it was made ahead.
    file: Option<Arc<dyn File>>,
}

impl Spare {
    /// None was made yet; `newest` is the newest segment that there is.
    pub(super) fn after(newest: u32) -> Arc<Spare> {
        Arc::new(Spare(Mutex::new(Next { number: newest + 1, file: None })))
    }

    fn next(&self) -> MutexGuard<'_, Next> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it ahead; says whether it was not there yet.
    pub(super) fn prepare(&self, dir: &dyn Dir, options: &LogOptions, entries: usize) -> Result<bool> {
        let mut next = self.next();
        if next.file.is_some() {
            return Ok(false);
        }
        next.file = Some(make_whole(dir, options, next.number, entries)?);
        Ok(true)
    }

    /// Gives its number and its file with the room in it, which is made now if it was not made ahead, to `begin`. Its number is used up only when
    /// that goes well; the file is dropped either way, and made anew.
    pub(super) fn take<T>(
        &self,
        dir: &dyn Dir,
        options: &LogOptions,
        entries: usize,
        claim: Claim,
        begin: impl FnOnce(u32, Result<(Arc<dyn File>, u64)>) -> Result<T>,
    ) -> Result<T> {
        let mut next = self.next();
        let made = match next.file.take() {
            Some(file) => Ok((file, options.segment_bytes)),
            None if claim == Claim::Own => make_idle(dir, options, next.number, entries),
            None => make_whole(dir, options, next.number, entries).map(|file| (file, options.segment_bytes)),
        };
        let begun = begin(next.number, made)?;
        next.number += 1;
        Ok(begun)
    }
}

/// Makes the empty file of a segment: its name is durable and its space reserved before it is used.
fn make_whole(dir: &dyn Dir, options: &LogOptions, number: u32, entries: usize) -> Result<Arc<dyn File>> {
    check_room(dir, options, &segment::file_name(number), entries)?;
    make_file(dir, number, options.segment_bytes)
}

/// Makes the file of a segment that begins with records of the log's own, where there is room for a whole one. Many logs are idle and
/// write nothing else, so only what such records need is reserved; the rest is when the first change of blocks comes.
fn make_idle(
    dir: &dyn Dir,
    options: &LogOptions,
    number: u32,
    entries: usize,
) -> Result<(Arc<dyn File>, u64)> {
    check_room(dir, options, &segment::file_name(number), entries)?;
    let bytes = whole_reserve_bytes(options);
    make_file(dir, number, bytes).map(|file| (file, bytes))
}

/// Reserves the space of a whole segment for one that was begun small.
pub(super) fn reserve_whole(
    dir: &dyn Dir,
    options: &LogOptions,
    file: &dyn File,
    number: u32,
    entries: usize,
) -> Result<()> {
    let name = segment::file_name(number);
    check_room(dir, options, &name, entries)?;
    file.reserve(options.segment_bytes).map_err(|e| Error::io("reserving space for", &name, e))
}

/// Makes the file of a segment that takes the log's own records only, of what the reserve had; says how large it is.
pub(super) fn make_small(dir: &dyn Dir, options: &LogOptions, number: u32) -> Result<(Arc<dyn File>, u64)> {
    give_up_reserve(dir);
    let mut bytes = reserve_bytes(dir, options).max(SMALL_BYTES_MIN);
    loop {
        match make_file(dir, number, bytes) {
            Err(Error::Full { .. }) if bytes / 2 >= SMALL_BYTES_MIN => bytes /= 2,
            made => return made.map(|file| (file, bytes)),
        }
    }
}

/// Makes the file of a segment, reserves its space and makes its name durable. One left over from before holds nothing and goes
/// first.
fn make_file(dir: &dyn Dir, number: u32, bytes: u64) -> Result<Arc<dyn File>> {
    let name = segment::file_name(number);
    match dir.remove(&name) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("removing", &name, e)),
        _ => {}
    }
    let file = dir.create(&name).map_err(|e| Error::io("making", &name, e))?;
    let ready = file
        .reserve(bytes)
        .map_err(|e| Error::io("reserving space for", &name, e))
        .and_then(|()| dir.sync("log").map_err(|e| Error::io("syncing", "log", e)));
    if let Err(e) = ready {
        let _ = dir.remove(&name);
        return Err(e);
    }
    Ok(file)
}

/// Fills the reserve up as far as there is room; says whether it is whole. It need not outlive a power cut.
pub(super) fn keep_reserve(dir: &dyn Dir, options: &LogOptions) -> bool {
    let bytes = reserve_bytes(dir, options);
    if bytes < SMALL_BYTES_MIN {
        return false;
    }
    let file = match dir.open(RESERVE) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => dir.create(RESERVE),
        opened => opened,
    };
    let kept = file.and_then(|file| file.reserve(bytes)).is_ok();
    if !kept {
        give_up_reserve(dir);
    }
    kept && bytes == whole_reserve_bytes(options)
}

/// Gives the reserve's space back to the medium; says whether there was one.
pub(super) fn give_up_reserve(dir: &dyn Dir) -> bool {
    dir.remove(RESERVE).is_ok()
}

//! Room on the medium (I6).
//!
//! - Block records are written only where space was reserved for them beforehand, a whole segment at a time. So a
//!   full medium is noticed between two writes, and the write that meets it has not begun: it can wait. Before the
//!   first block record only as much is reserved as the log's own records need.
//! - The last part of a segment is kept for the log's own records (events, catalog changes, flush records) and for
//!   its index. So a flush, a point or the end of a machine still finds room when no write does.
//! - When that is used up, or the log is opened while there is no room, the *reserve* is given up for a small segment
//!   that takes only the log's own records. It is filled again when there is room.
//! - The last part of the medium is left for checkpoints, and for small files that the manager writes beside the log.

use std::sync::{Arc, PoisonError};

use super::{
    LogOptions,
    append::{Active, NewRecord},
    holder::Holder,
};
use crate::{
    env::{Dir, File},
    error::{Error, Result},
    format::segment::{self, Name, SEGMENT_HEADER_BYTES, folder},
    sync::{Mutex, MutexGuard},
};

/// The file that holds the reserve.
const RESERVE: &str = "reserve";
/// The smallest segment worth beginning: its header and some records.
const SMALL_BYTES_MIN: u64 = 2 * SEGMENT_HEADER_BYTES as u64;
/// Media allocate space in blocks of this size.
const BLOCK_BYTES: u64 = 4096;
/// About the most that a version in memory takes in a checkpoint: its page entry, those it is merged with, an image.
pub(super) const CHECKPOINT_ENTRY_BYTES: u64 = 64;

/// What room is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Block records; they wait when there is none.
    Blocks,
    /// The log's own records about itself and the target; they are small and must not wait.
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

/// The size of the reserve that fits. Less than the whole still helps: each incarnation without room takes about 8
/// KiB of it.
fn reserve_bytes(dir: &dyn Dir, options: &LogOptions) -> u64 {
    let wanted = whole_reserve_bytes(options);
    dir.free_bytes().map_or(wanted, |free| wanted.min(free - free % BLOCK_BYTES))
}

/// Where a segment's records end, up to where they may go, and how many more may be written.
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
    /// With less free space than this, only writes are taken for which space is already reserved. By default 80 MiB.
    /// Beside that, 64 bytes are left for each version that is in no checkpoint yet: up to about 32 MiB, or 64 MiB if
    /// checkpoints cannot be written.
    #[must_use]
    pub fn room_bytes_min(&self) -> u64 {
        self.segment_bytes.saturating_add(self.segment_bytes / 4)
    }
}

/// Fails unless there is room for a whole segment and then for a checkpoint of everything that is in memory only.
/// Just trying would take all that is left from others that need a little of it meanwhile.
fn check_room(dir: &dyn Dir, options: &LogOptions, name: &str, entries: usize) -> Result<()> {
    let checkpoint = entries as u64 * CHECKPOINT_ENTRY_BYTES;
    match dir.free_bytes() {
        Ok(free) if free < options.room_bytes_min().saturating_add(checkpoint) => {
            Err(Error::Full { name: name.to_owned() })
        }
        // If the medium cannot tell, writing to it will.
        _ => Ok(()),
    }
}

/// The file of the segment after the newest. It is created and taken with the lock held: if upkeep and a writer both
/// created it, one would find its name taken.
///
/// Locked after the sequencer, never before it.
pub(super) struct Spare(Mutex<Next>);

/// The next segment's file. One that was created stays in use until a segment begins in it.
pub(super) struct Next {
    name: Name,
    /// The empty file, if it was created.
    file: Option<Arc<dyn File>>,
    /// Its space is reserved and its name durable.
    is_ready: bool,
}

impl Spare {
    /// None is created yet; `name` is the first one's.
    pub(super) fn from(name: Name) -> Arc<Spare> {
        Arc::new(Spare(Mutex::new(Next { name, file: None, is_ready: false })))
    }

    fn next(&self) -> MutexGuard<'_, Next> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates it ahead; returns whether it was not ready yet.
    pub(super) fn prepare(
        &self,
        (holder, dir): (&Holder, &dyn Dir),
        options: &LogOptions,
        entries: usize,
    ) -> Result<bool> {
        let mut next = self.next();
        if next.is_ready {
            return Ok(false);
        }
        holder.look(dir)?;
        next.make_whole(dir, options, entries)?;
        next.is_ready = true;
        Ok(true)
    }

    /// Passes its number, and its file with the space reserved in it, to `begin`. The file is created now if it was
    /// not created ahead. The number is used up only if `begin` succeeds; if not, the next attempt takes the same file.
    pub(super) fn take<T>(
        &self,
        dir: &dyn Dir,
        options: &LogOptions,
        entries: usize,
        claim: Claim,
        begin: impl FnOnce(&mut Next, Result<(Arc<dyn File>, u64)>) -> Result<T>,
    ) -> Result<T> {
        let mut next = self.next();
        let ready = next.file.clone().filter(|_| std::mem::take(&mut next.is_ready));
        let made = match ready {
            Some(file) => Ok((file, options.segment_bytes)),
            None if claim == Claim::Own => next.make_idle(dir, options, entries),
            None => next.make_whole(dir, options, entries).map(|file| (file, options.segment_bytes)),
        };
        let begun = begin(&mut next, made)?;
        let name = Name { number: next.name.number + 1, ..next.name };
        *next = Next { name, file: None, is_ready: false };
        Ok(begun)
    }
}

impl Next {
    pub(super) fn number(&self) -> u32 {
        self.name.number
    }

    /// The empty file of a segment. Its name is durable and its space is reserved before it is used.
    fn make_whole(&mut self, dir: &dyn Dir, options: &LogOptions, entries: usize) -> Result<Arc<dyn File>> {
        check_room(dir, options, &self.name.file_name(), entries)?;
        self.make(dir, options.segment_bytes)
    }

    /// The file of a segment that begins with the log's own records, if there is room for a whole segment. Many logs
    /// are idle and write nothing else, so only what such records need is reserved; the rest is when the first block
    /// record comes.
    fn make_idle(
        &mut self,
        dir: &dyn Dir,
        options: &LogOptions,
        entries: usize,
    ) -> Result<(Arc<dyn File>, u64)> {
        check_room(dir, options, &self.name.file_name(), entries)?;
        let bytes = whole_reserve_bytes(options);
        self.make(dir, bytes).map(|file| (file, bytes))
    }

    /// The file of a segment for the log's own records only, in the space of the reserve; also returns its size.
    pub(super) fn make_small(&mut self, dir: &dyn Dir, options: &LogOptions) -> Result<(Arc<dyn File>, u64)> {
        give_up_reserve(dir);
        let mut bytes = reserve_bytes(dir, options).max(SMALL_BYTES_MIN);
        loop {
            match self.make(dir, bytes) {
                Err(Error::Full { .. }) if bytes / 2 >= SMALL_BYTES_MIN => bytes /= 2,
                made => return made.map(|file| (file, bytes)),
            }
        }
    }

    /// Creates the file unless it was, reserves its space and makes its name durable.
    fn make(&mut self, dir: &dyn Dir, bytes: u64) -> Result<Arc<dyn File>> {
        let name = self.name.file_name();
        let file = match &self.file {
            Some(file) => file.clone(),
            None => dir.create(&name).map_err(|e| Error::io("making", &name, e))?,
        };
        self.file = Some(file.clone());
        let ready = file
            .reserve(bytes)
            .map_err(|e| Error::io("reserving space for", &name, e))
            .and_then(|()| dir.sync(folder()).map_err(|e| Error::io("syncing", folder(), e)));
        if ready.is_err() {
            // The medium may have reserved a part of it.
            let _ = file.set_len(0);
        }
        ready.map(|()| file)
    }
}

/// Reserves the space of a whole segment for one that was begun small.
pub(super) fn reserve_whole(
    dir: &dyn Dir,
    options: &LogOptions,
    file: &dyn File,
    number: u32,
    entries: usize,
) -> Result<()> {
    let name = segment::label(number);
    check_room(dir, options, &name, entries)?;
    file.reserve(options.segment_bytes).map_err(|e| Error::io("reserving space for", &name, e))
}

/// Fills the reserve as far as there is room; returns whether it is complete. It need not survive a power cut.
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

/// Gives the reserve's space back to the medium; returns whether there was a reserve.
pub(super) fn give_up_reserve(dir: &dyn Dir) -> bool {
    dir.remove(RESERVE).is_ok()
}

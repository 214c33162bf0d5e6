//! The work that keeps memory bounded and the next write quick. Nothing here is needed for safety; a log without upkeep
//! only grows slower and larger in memory.

use std::{
    io::IoSlice,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bygone_model::Seq;

use super::{Below, EVENTS_MAX, Log, LogOptions, append::Full};
use crate::{
    env::{Dir, File},
    error::{Error, Result},
    format::segment::{self, SegmentIndex},
    index::compaction::{self, Contents},
};

/// One thread at a time does upkeep.
pub(super) struct Upkeep;

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
    fn make(&self, dir: &dyn Dir, options: &LogOptions) -> Result<bool> {
        let mut next = self.next();
        if next.file.is_some() {
            return Ok(false);
        }
        next.file = Some(prepare(dir, options, next.number)?);
        Ok(true)
    }

    /// Gives it, made now if need be, to `begin`. Only when that goes well it is used up.
    pub(super) fn take<T>(
        &self,
        dir: &dyn Dir,
        options: &LogOptions,
        begin: impl FnOnce(Arc<dyn File>) -> Result<T>,
    ) -> Result<T> {
        let mut next = self.next();
        let file = match next.file.take() {
            Some(file) => file,
            None => prepare(dir, options, next.number)?,
        };
        let begun = begin(file)?;
        next.number += 1;
        Ok(begun)
    }
}

/// Makes the empty file of a segment: its name is durable and its space reserved before it is used.
fn prepare(dir: &dyn Dir, options: &LogOptions, number: u32) -> Result<Arc<dyn File>> {
    let name = segment::file_name(number);
    match dir.remove(&name) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("removing", &name, e)),
        _ => {}
    }
    let file = dir.create(&name).map_err(|e| Error::io("making", &name, e))?;
    let ready = file
        .reserve(options.segment_bytes)
        .map_err(|e| Error::io("reserving space for", &name, e))
        .and_then(|()| dir.sync("log").map_err(|e| Error::io("syncing", "log", e)));
    if let Err(e) = ready {
        let _ = dir.remove(&name);
        return Err(e);
    }
    Ok(file)
}

/// Gives a segment its index and makes that durable. Whoever calls has made the records durable: where there is an index,
/// recovery believes it without looking at them.
pub(super) fn seal(full: &Full) -> Result<()> {
    let name = segment::file_name(full.number);
    let mut entries = full.entries.as_ref().clone();
    entries.sort_unstable_by_key(|e| (e.volume, e.lba, e.seq));
    let index = SegmentIndex {
        records_end: full.records_end,
        first_seq: full.first_seq,
        entries,
        marks: full.marks.clone(),
        times: full.times.clone(),
    };
    let bytes = index.encode();
    full.file
        .write_at(&mut [IoSlice::new(&bytes)], full.records_end)
        .and_then(|()| full.file.set_len(full.records_end + bytes.len() as u64))
        .and_then(|()| full.file.sync())
        .map_err(|e| Error::io("sealing", &name, e))
}

impl Log {
    /// Does one piece of upkeep if there is one to do; says whether there was.
    ///
    /// # Errors
    /// When the medium refuses. Nothing is lost, and calling again later is right, unless the log is poisoned (I4).
    pub fn maintain(&self) -> Result<bool> {
        self.check_poison()?;
        Ok(self.prepare_next()? || self.seal_next()? || self.checkpoint_if_due()?)
    }

    /// Upkeep lags so far behind that whoever writes should help with [`Log::maintain`].
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        const FULL_SEGMENTS_MAX: usize = 4;
        let sequencer = self.sequencer();
        sequencer.recent_entries >= self.options.checkpoint_entries.saturating_mul(2)
            || sequencer.full.len() >= FULL_SEGMENTS_MAX
    }

    fn prepare_next(&self) -> Result<bool> {
        let _turn = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        let spare = {
            let sequencer = self.sequencer();
            // Not before it is likely to be needed: many logs are idle.
            let used = sequencer.active.as_ref().is_some_and(|a| a.offset * 4 >= self.options.segment_bytes);
            if !used {
                return Ok(false);
            }
            sequencer.spare.clone()
        };
        spare.make(&*self.dir, &self.options)
    }

    fn seal_next(&self) -> Result<bool> {
        let _turn = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(full) = self.sequencer().full.first().map(Full::share) else { return Ok(false) };
        // The medium says only once that it lost what was written, and a flush to come counts on having been told.
        if let Err(e) = full.file.sync() {
            self.poison();
            return Err(Error::io("syncing", &segment::file_name(full.number), e));
        }
        seal(&full)?;
        let mut sequencer = self.sequencer();
        sequencer.full.retain(|f| f.number != full.number);
        Ok(true)
    }

    fn checkpoint_if_due(&self) -> Result<bool> {
        let due = {
            let sequencer = self.sequencer();
            sequencer.recent_entries >= self.options.checkpoint_entries
                || sequencer.recent_bytes >= self.options.checkpoint_bytes
                || sequencer.events.len() >= EVENTS_MAX
        };
        if due {
            self.checkpoint()?;
        }
        Ok(due)
    }

    /// Writes a checkpoint of everything up to now, so that every moment up to now can be read; returns its end.
    ///
    /// # Errors
    /// When it cannot be written. Nothing is lost.
    pub fn checkpoint(&self) -> Result<Seq> {
        let _turn = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        let (previous, contents, newest) = {
            let sequencer = self.sequencer();
            let mut heads = self.heads_mut();
            let start = heads.base.as_ref().map_or(Seq::ZERO, |base| base.footer.end);
            if start == sequencer.head {
                return Ok(start);
            }
            for live in heads.live.values_mut().filter(|live| live.below == Below::Index) {
                live.head.freeze();
            }
            let contents = Contents {
                start,
                end: sequencer.head,
                end_time: sequencer.last_time,
                versions: sequencer.recent().filter(|e| e.seq > start).collect(),
                at_once: self.options.at_once(),
                events: sequencer.events.clone(),
                segments: sequencer.segments.clone(),
                catalog: sequencer.catalog.clone(),
            };
            (heads.base.clone(), contents, sequencer.newest)
        };
        // An index must never know more than the log.
        self.flush_to(contents.end)?;
        let end = contents.end;
        let made = compaction::write(&*self.dir, &self.id, &self.index, previous.as_deref(), contents)?;

        let mut sequencer = self.sequencer();
        let mut heads = self.heads_mut();
        for live in heads.live.values_mut().filter(|live| live.below == Below::Index) {
            live.head.drop_frozen();
        }
        heads.base = Some(Arc::new(made));
        sequencer.recent.retain(|chunk| chunk.last().is_some_and(|e| e.seq > end));
        sequencer.recent_entries = sequencer.recent().filter(|e| e.seq > end).count();
        sequencer.recent_bytes = 0;
        sequencer.events.retain(|event| event.seq > end);
        sequencer.segments.retain(|start| start.0 >= newest);
        Ok(end)
    }
}

impl Full {
    fn share(&self) -> Full {
        Full {
            number: self.number,
            file: self.file.clone(),
            first_seq: self.first_seq,
            records_end: self.records_end,
            entries: self.entries.clone(),
            marks: self.marks.clone(),
            times: self.times.clone(),
        }
    }
}

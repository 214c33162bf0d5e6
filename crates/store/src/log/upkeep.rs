//! The work that keeps memory bounded and the next write fast. It is not needed for safety: without it a log becomes
//! slower, takes more memory, and in the end refuses writes ([`Error::Behind`]).

use std::{
    io::IoSlice,
    sync::{Arc, PoisonError, TryLockError, atomic::Ordering},
    time::Duration,
};

use bygone_model::{Micros, Seq, VolumeId};

use super::{
    Below, EVENTS_MAX, Log, LogKey,
    append::{Full, NewRecord},
    hashing::Hashing,
    room::{self, CHECKPOINT_ENTRY_BYTES, Spare},
};
use crate::{
    caller::Caller,
    env::File,
    error::{Error, Result},
    format::{
        manifest::{Entry as Known, State},
        record::{Op, Subject},
        segment::{self, Entry, SegmentIndex},
    },
    index::compaction::{self, Contents, History},
    sync::{Mutex, MutexGuard, pause},
};

/// The state of upkeep, which one thread at a time does.
#[derive(Default)]
pub(super) struct Upkeep {
    /// When the folder was last compared with the manifest.
    pub(super) compared: Option<Micros>,
    /// Joining was considered for the checkpoints up to here.
    pub(super) joined_upto: Seq,
    /// The segment that is being read back.
    pub(super) hashing: Option<Hashing>,
}

/// Upkeep that failed is not retried before this time has passed.
const TRY_AGAIN_MICROS: i64 = 1_000_000;

/// The last error of upkeep and its time, unless upkeep has succeeded since.
#[derive(Default)]
pub(super) struct Trouble(Mutex<Option<(Micros, Error)>>);

impl Trouble {
    fn last(&self) -> MutexGuard<'_, Option<(Micros, Error)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives a segment its index and makes it durable. The caller has made the records durable: recovery trusts an index
/// without reading them.
pub(super) fn seal(full: &Full, log: LogKey, sync: impl FnOnce(&dyn File) -> Result<()>) -> Result<()> {
    let name = segment::label(full.number);
    let mut entries = full.entries.as_ref().clone();
    entries.sort_unstable_by_key(|e| (e.volume, e.lba, e.seq));
    let index = SegmentIndex {
        records_end: full.records_end,
        first_seq: full.first_seq,
        entries,
        marks: full.marks.clone(),
        times: full.times.clone(),
    };
    let bytes = index.encode(&log.header, full.number);
    full.file
        .write_at(&mut [IoSlice::new(&bytes)], full.records_end)
        .and_then(|()| full.file.set_len(full.records_end + bytes.len() as u64))
        .map_err(|e| Error::io("sealing", &name, e))?;
    sync(&*full.file)
}

impl Log {
    /// Does one piece of upkeep if any is due; returns whether it did.
    ///
    /// # Errors
    /// When the medium fails or has no room. Nothing is lost, and a later call may succeed, unless the log is
    /// poisoned (I4) or was taken over.
    pub fn maintain(&self) -> Result<bool> {
        self.check_poison()?;
        let done = self.maintain_now().map_err(|error| self.unless_superseded(error));
        let now = self.clock.monotonic();
        *self.trouble.last() = done.as_ref().err().map(|error| (now, error.clone()));
        done
    }

    /// Why the last [`Log::maintain`] failed, if it did.
    #[must_use]
    pub fn upkeep_trouble(&self) -> Option<Error> {
        self.trouble.last().as_ref().map(|(_, error)| error.clone())
    }

    fn maintain_now(&self) -> Result<bool> {
        self.keep_reserve();
        // A piece that fails does not keep the others from being done: if there is no room, sealing gives some back.
        let mut refused = None;
        let pieces = [
            Log::prepare_next,
            Log::end_segment_early,
            Log::seal_next,
            Log::mend_index,
            Log::checkpoint_if_due,
            Log::join_checkpoints,
            Log::remove_retired,
            Log::take_inventory,
        ];
        // Each has its turn, even if there is always work for the one before it.
        let first = self.next_piece.load(Ordering::Relaxed) as usize;
        for i in (0..pieces.len()).map(|i| (first + i) % pieces.len()) {
            match pieces[i](self) {
                Ok(true) => {
                    self.next_piece.store(i as u64 + 1, Ordering::Relaxed);
                    return Ok(true);
                }
                Ok(false) => {}
                // Whatever is left to do is no longer up to this holder.
                Err(superseded @ Error::Superseded { .. }) => return Err(superseded),
                Err(e) => refused = refused.or(Some(e)),
            }
        }
        // Nobody waits for this, so it comes last.
        refused.map_or_else(|| self.hash_next(), Err)
    }

    /// There was no room the last time that more was wanted for writes.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.sequencer().starved
    }

    fn keep_reserve(&self) {
        let mut sequencer = self.sequencer();
        // A log that is only read creates no files.
        if !sequencer.reserve_kept && sequencer.active.is_some() {
            sequencer.reserve_kept = room::keep_reserve(&*self.dir, &self.options);
        }
    }

    /// Upkeep lags so far behind that writers should help with [`Log::maintain`]. False if it has just failed.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        const FULL_SEGMENTS_MAX: usize = 4;
        if self.has_just_failed() {
            return false;
        }
        if self.share.should_give_at_once() {
            return true;
        }
        let sequencer = self.sequencer();
        sequencer.recent_entries >= self.options.checkpoint_entries.saturating_mul(2)
            || sequencer.full.len() >= FULL_SEGMENTS_MAX
    }

    /// Upkeep failed so recently that a retry would be in vain.
    pub(crate) fn has_just_failed(&self) -> bool {
        let now = self.clock.monotonic().0;
        self.trouble.last().as_ref().is_some_and(|(at, _)| now - at.0 < TRY_AGAIN_MICROS)
    }

    fn prepare_next(&self) -> Result<bool> {
        let _turn = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        let (spare, entries) = {
            let mut sequencer = self.sequencer();
            if sequencer.starved {
                sequencer.grow(&*self.dir, &self.options)?;
            }
            // Only when it is likely to be needed: many logs are idle.
            let used = sequencer.active.as_ref().is_some_and(|a| a.offset * 4 >= self.options.segment_bytes);
            if !used {
                return Ok(false);
            }
            (sequencer.spare.clone(), sequencer.recent_entries)
        };
        self.prepare_ahead(&spare, entries)
    }

    /// Makes the file of the next segment without the sequencer's lock, so that no writer waits for it; returns whether
    /// it was not there yet.
    pub(super) fn prepare_ahead(&self, spare: &Spare, entries: usize) -> Result<bool> {
        let made = spare.prepare((&self.syncs.holder, &*self.dir), &self.options, entries);
        self.sequencer().note_room(&made);
        made
    }

    fn seal_next(&self) -> Result<bool> {
        let _turn = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        let first = || self.sequencer().full.first().map(Full::share);
        let Some(mut full) = first() else { return Ok(false) };
        self.check_holder()?;
        if self.is_displaced(full.number, &*full.file)? {
            // Once it is sealed its records are in no memory, and the file could not be written again.
            self.note_gone(full.number, true)?;
            full = first().unwrap_or(full);
        }
        // Nobody asks for its name again once it is sealed.
        self.has_name(full.number)?;
        self.syncs.sync(&*full.file, full.number)?;
        seal(&full, self.key, |file| self.syncs.sync(file, full.number))?;
        let mut sequencer = self.sequencer();
        sequencer.full.retain(|f| f.number != full.number);
        let heads = self.heads();
        sequencer.forget_covered(heads.covered());
        self.note_held(&sequencer, &heads);
        Ok(true)
    }

    fn checkpoint_if_due(&self) -> Result<bool> {
        let due = {
            let sequencer = self.sequencer();
            sequencer.recent_entries >= self.options.checkpoint_entries
                || sequencer.recent_bytes >= self.options.checkpoint_bytes
                || sequencer.events.len() >= EVENTS_MAX
                || sequencer.recent_entries > 0 && self.share.should_give()
        } || self.is_in_memory_only();
        if due {
            let wanted = self.sequencer().recent_entries as u64 * CHECKPOINT_ENTRY_BYTES;
            if self.dir.free_bytes().is_ok_and(|free| free < wanted) {
                // While the medium is full this is retried every second, and half a checkpoint each time would help
                // nobody.
                return Err(Error::Full { name: "a checkpoint".to_owned() });
            }
            self.checkpoint()?;
        }
        Ok(due)
    }

    /// Whether a segment is missing whose records no checkpoint has: what they wrote and which branches they made would
    /// be forgotten with this life of the log.
    fn is_in_memory_only(&self) -> bool {
        let (covered, head) = (self.heads().covered(), self.head_seq());
        let is_known = |entry: &Known| entry.state == State::Missing && entry.first_seq <= entry.last_seq;
        covered < head && self.manifest().segments().any(|e| is_known(e) && e.last_seq > covered)
    }

    /// Rebuilds the parts of the index that readers found damaged.
    fn mend_index(&self) -> Result<bool> {
        self.index.mended.try_again_at(self.clock.monotonic());
        if let Some(number) = self.index.mended.damaged_file() {
            return self.mend_checkpoint(number).map(|()| true);
        }
        let damaged = !self.index.mended.damaged().is_empty();
        if damaged {
            self.checkpoint()?;
        }
        Ok(damaged)
    }

    /// Writes a checkpoint of everything so far, so that every moment so far can be read; returns its end.
    ///
    /// # Errors
    /// When it cannot be written. Nothing is lost.
    pub fn checkpoint(&self) -> Result<Seq> {
        self.checkpoint_for(Caller::default())
    }

    /// Locks upkeep, and fails if the caller goes while waiting.
    fn upkeep_turn(&self, caller: Caller<'_>) -> Result<MutexGuard<'_, Upkeep>> {
        if caller.may_go() {
            self.upkeep_turn_while(&mut || caller.check())
        } else {
            Ok(self.upkeep.lock().unwrap_or_else(PoisonError::into_inner))
        }
    }

    /// Locks upkeep, and fails as soon as `check` does, which is called now and then while waiting.
    pub(super) fn upkeep_turn_while(
        &self,
        check: &mut dyn FnMut() -> Result<()>,
    ) -> Result<MutexGuard<'_, Upkeep>> {
        const LOOK_EVERY: Duration = Duration::from_millis(10);
        loop {
            match self.upkeep.try_lock() {
                Ok(turn) => return Ok(turn),
                Err(TryLockError::Poisoned(turn)) => return Ok(turn.into_inner()),
                Err(TryLockError::WouldBlock) => check()?,
            }
            // The end of upkeep is not signalled, so this polls. A flush wakes it earlier.
            pause(&self.durability_changed, self.durability(), LOOK_EVERY);
        }
    }

    /// The same for a caller that may go meanwhile; then there is no new checkpoint.
    pub(super) fn checkpoint_for(&self, caller: Caller<'_>) -> Result<Seq> {
        let _turn = self.upkeep_turn(caller)?;
        self.check_holder()?;
        self.write_checkpoint(caller).map_err(|error| self.unless_superseded(error))
    }

    fn write_checkpoint(&self, caller: Caller<'_>) -> Result<Seq> {
        let (previous, contents, newest) = {
            let mut sequencer = self.sequencer();
            self.check_poison()?;
            let start = self.heads().base.as_ref().map_or(Seq::ZERO, |base| base.footer.end);
            if start == sequencer.head {
                if self.index.mended.damaged().is_empty() {
                    return Ok(start);
                }
                // What is rebuilt goes into a checkpoint of its own, which has to end later than the one before.
                let mark = NewRecord::plain(Op::Flush, Subject::LOG, &[]);
                let marked = sequencer.append(&*self.dir, &*self.clock, &self.options, &[mark], &mut |_| {});
                self.head.store(sequencer.head.0, Ordering::Release);
                marked?;
                sequencer.wants_flush_mark = false;
            }
            let mut heads = self.heads_mut();
            for live in heads.live.values_mut().filter(|live| live.below == Below::Index) {
                live.head.freeze();
            }
            let contents = Contents {
                term: self.term(),
                start,
                end: sequencer.head,
                end_time: sequencer.last_time,
                versions: sequencer.recent().filter(|e| e.seq > start).collect(),
                at_once: self.options.at_once(),
                page_entries_max: self.options.page_entries_max,
                events: sequencer.events.clone(),
                segments: sequencer.segments.clone(),
                catalog: sequencer.catalog.clone(),
            };
            (heads.base.clone(), contents, sequencer.newest)
        };
        // An index must never know records that a power cut could take.
        self.flush_to(contents.end)?;
        let _lent = self.share.lend(contents.versions.bytes());
        let end = contents.end;
        let made =
            compaction::write(&self.index, previous.as_deref(), contents, Some(self), caller, &|| {
                self.check_holder()
            })?;

        let mut sequencer = self.sequencer();
        let mut heads = self.heads_mut();
        for live in heads.live.values_mut().filter(|live| live.below == Below::Index) {
            live.head.drop_frozen();
        }
        heads.base = Some(Arc::new(made));
        sequencer.forget_covered(end);
        sequencer.recent_entries = sequencer.recent().filter(|e| e.seq > end).count();
        sequencer.recent_bytes = 0;
        sequencer.events.retain(|event| event.seq > end);
        sequencer.segments.retain(|start| start.0 >= newest);
        self.note_held(&sequencer, &heads);
        Ok(end)
    }
}

impl History for Log {
    fn versions(&self, volume: VolumeId, upto: Seq, each: &mut dyn FnMut(&Entry)) -> Result<()> {
        self.all_versions(volume, upto, each)
    }
}

impl Full {
    pub(super) fn last_seq(&self) -> Seq {
        Seq((self.first_seq.0 + self.times.len() as u64).saturating_sub(1))
    }

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

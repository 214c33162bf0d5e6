//! Makes the log durable. Concurrent callers share one sync (group commit).

use std::sync::atomic::Ordering;

use bygone_model::Seq;

use super::{Appended, Log, append::NewRecord};
use crate::{
    error::{Error, Result},
    format::record::{Op, Subject},
};

impl Log {
    /// Makes everything appended before this call durable. Returns the seq up to which the log is durable now.
    ///
    /// # Errors
    /// When the log cannot be written or synced, or the file of a segment in use has no name. A failed sync poisons the
    /// log (I4), and every later call fails too.
    pub fn flush(&self) -> Result<Seq> {
        self.flush_to(self.head_seq())
    }

    /// Gives the present a seq and a time of its own: appends a record that changes nothing. Durable on return.
    ///
    /// # Errors
    /// When there is no room, or the log cannot be written.
    pub fn mark_moment(&self) -> Result<Appended> {
        let marked = {
            let mut sequencer = self.sequencer();
            self.check_poison()?;
            let mark = NewRecord::plain(Op::Flush, Subject::LOG, &[]);
            let marked = sequencer.append(&*self.dir, &*self.clock, &self.options, &[mark], &mut |_| {});
            // Even if this failed, the log's own records may have been appended before it.
            self.head.store(sequencer.head.0, Ordering::Release);
            let marked = marked?;
            sequencer.wants_flush_mark = false;
            marked
        };
        self.flush()?;
        Ok(marked)
    }

    /// Makes everything up to `wanted` durable. Returns the seq up to which the log is durable now.
    pub(super) fn flush_to(&self, wanted: Seq) -> Result<Seq> {
        let mut state = self.durability();
        loop {
            self.check_poison()?;
            self.syncs.check_names()?;
            if state.durable >= wanted {
                return Ok(state.durable);
            }
            if !state.flushing {
                break;
            }
            let woken = self.durability_changed.wait(state);
            state = woken.unwrap_or_else(|poisoned| self.after_panic(poisoned));
        }
        // This caller flushes for all that wait.
        state.flushing = true;
        drop(state);
        let mut turn = FlushTurn { log: self, ended: false, durable: None };
        let result = self.flush_now();
        turn.ended = true;
        turn.durable = result.as_ref().ok().copied();
        drop(turn);
        result
    }

    fn flush_now(&self) -> Result<Seq> {
        let (files, head) = {
            let mut sequencer = self.sequencer();
            self.check_poison()?;
            if sequencer.wants_flush_mark {
                let mark = NewRecord::plain(Op::Flush, Subject::LOG, &[]);
                // Without room for a flush record the flush itself is still possible.
                let marked = sequencer.append(&*self.dir, &*self.clock, &self.options, &[mark], &mut |_| {});
                self.head.store(sequencer.head.0, Ordering::Release);
                match marked {
                    Ok(_) => sequencer.wants_flush_mark = false,
                    Err(Error::Full { .. }) => {}
                    Err(e) => return Err(e),
                }
            }
            sequencer.flush_bytes = std::mem::take(&mut sequencer.unflushed_bytes);
            let mut files = std::mem::take(&mut sequencer.unsynced);
            files.extend(sequencer.active.as_ref().map(|active| (active.number, active.file.clone())));
            (files, sequencer.head)
        };
        for (number, file) in files {
            self.syncs.sync(&*file, number)?;
        }
        // All of this may have taken long.
        self.check_poison()?;
        self.syncs.check_names()?;
        let mut sequencer = self.sequencer();
        // Later records contain this seq as durable, and recovery relies on it.
        assert!(
            sequencer.durable <= head && head <= sequencer.head,
            "flushed to {head} of {}",
            sequencer.head
        );
        sequencer.durable = head;
        Ok(head)
    }
}

/// Held by the caller that flushes for all that wait; dropping it wakes them, however the flush ended.
struct FlushTurn<'a> {
    log: &'a Log,
    /// False: the flush panicked.
    ended: bool,
    /// The log is durable up to here.
    durable: Option<Seq>,
}

impl Drop for FlushTurn<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // Files that it took to sync are in no list any more.
            self.log.syncs.poison();
        }
        let mut state = self.log.durability();
        state.flushing = false;
        state.durable = state.durable.max(self.durable.unwrap_or_default());
        drop(state);
        self.log.durability_changed.notify_all();
    }
}

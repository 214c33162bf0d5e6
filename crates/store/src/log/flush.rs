//! Making the log durable. However many ask at once, the medium is asked once (group commit).

use std::sync::{PoisonError, atomic::Ordering};

use bygone_model::Seq;

use super::{Appended, Log, append::NewRecord};
use crate::{
    error::{Error, Result},
    format::record::{Op, Subject},
};

impl Log {
    /// Makes everything appended before this call durable; returns up to where the log is durable now.
    ///
    /// # Errors
    /// When the medium fails: then the log is poisoned (I4), and every later call fails too.
    pub fn flush(&self) -> Result<Seq> {
        self.flush_to(self.head_seq())
    }

    /// Gives what is now a place of its own, behind everything before and with its own time: a record that changes nothing. Durable
    /// when this returns.
    ///
    /// # Errors
    /// When there is no room, or the log cannot be written.
    pub fn mark_moment(&self) -> Result<Appended> {
        let marked = {
            let mut sequencer = self.sequencer();
            self.check_poison()?;
            let mark = NewRecord::plain(Op::Flush, Subject::LOG, &[]);
            let marked = sequencer.append(&*self.dir, &*self.clock, &self.options, &[mark], &mut |_| {});
            // Even if it failed, the log's own records before it may be there.
            self.head.store(sequencer.head.0, Ordering::Release);
            let marked = marked?;
            sequencer.wants_flush_mark = false;
            marked
        };
        self.flush()?;
        Ok(marked)
    }

    /// Makes everything up to `wanted` durable.
    pub(super) fn flush_to(&self, wanted: Seq) -> Result<Seq> {
        let mut state = self.durability.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            self.check_poison()?;
            if state.durable >= wanted {
                return Ok(state.durable);
            }
            if !state.flushing {
                break;
            }
            state = self.durability_changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        // This caller does it for all who wait.
        state.flushing = true;
        drop(state);
        let result = self.flush_now();
        let mut state = self.durability.lock().unwrap_or_else(PoisonError::into_inner);
        state.flushing = false;
        if let Ok(durable) = &result {
            state.durable = state.durable.max(*durable);
        }
        drop(state);
        self.durability_changed.notify_all();
        result
    }

    fn flush_now(&self) -> Result<Seq> {
        let (files, head) = {
            let mut sequencer = self.sequencer();
            if sequencer.wants_flush_mark {
                let mark = NewRecord::plain(Op::Flush, Subject::LOG, &[]);
                // Without room for the mark the flush itself can still be done.
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
        let mut sequencer = self.sequencer();
        // Later records say so, and recovery believes them.
        assert!(
            sequencer.durable <= head && head <= sequencer.head,
            "flushed to {head} of {}",
            sequencer.head
        );
        sequencer.durable = head;
        Ok(head)
    }
}

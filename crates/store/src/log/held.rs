//! Accounts for what the log holds in memory because no checkpoint and no segment index has it yet, and gives it up
//! early when the logs of a store hold too much together ([`crate::memory`]).

use std::sync::PoisonError;

use bygone_model::Seq;

use super::{Below, Heads, Log, append::Sequencer, room::Claim};
use crate::{
    error::{Error, Result},
    format::segment::{Entry, Mark},
    index::head::RUN_BYTES,
    memory::FLOOR_BYTES_MIN,
};

/// A segment that holds less than this is not ended early: it would free little.
const SEGMENT_HELD_BYTES_MIN: u64 = 32 << 10;
// Otherwise a log that should give memory up might have nothing to give.
const _: () = assert!(2 * SEGMENT_HELD_BYTES_MIN <= FLOOR_BYTES_MIN);

/// What the records of a segment take in memory until it is sealed, apart from their versions.
fn records_bytes(times: usize, marks: usize) -> u64 {
    (times * size_of::<bygone_model::Micros>() + marks * size_of::<Mark>()) as u64
}

fn versions_bytes(versions: usize) -> u64 {
    (versions * size_of::<Entry>()) as u64
}

impl Sequencer {
    fn active_bytes(&self) -> u64 {
        self.active.as_ref().map_or(0, |active| {
            versions_bytes(active.entries.capacity())
                + records_bytes(active.times.capacity(), active.marks.capacity())
        })
    }

    /// `covered` is the end of the newest checkpoint. Up to there `recent` has dropped the versions of full segments,
    /// so those are counted here.
    fn held_bytes(&self, covered: Seq) -> u64 {
        let full = self.full.iter().map(|full| {
            let versions = if full.last_seq() <= covered { full.entries.len() } else { 0 };
            records_bytes(full.times.len(), full.marks.len()) + versions_bytes(versions)
        });
        versions_bytes(self.recent.iter().map(|chunk| chunk.len()).sum())
            + full.sum::<u64>()
            + self.active_bytes()
    }
}

impl Log {
    /// Reports to the store how much memory the log holds.
    pub(super) fn note_held(&self, sequencer: &Sequencer, heads: &Heads) {
        let (mut givable, mut waiting) = (sequencer.held_bytes(heads.covered()), 0);
        for live in heads.live.values() {
            let runs = (live.head.runs() * RUN_BYTES) as u64;
            *(if live.below == Below::Index { &mut givable } else { &mut waiting }) += runs;
        }
        self.share.set(givable + waiting, givable);
    }

    /// Ends the active segment, so that it can be sealed and a checkpoint frees all that it holds. Without room for
    /// the next segment it goes on, and if the log is refused more memory its writers wait until there is room.
    pub(super) fn end_segment_early(&self) -> Result<bool> {
        if !self.share.should_give() {
            return Ok(false);
        }
        let _turn = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        let (spare, entries) = {
            let sequencer = self.sequencer();
            if sequencer.active_bytes() < SEGMENT_HELD_BYTES_MIN {
                return Ok(false);
            }
            (sequencer.spare.clone(), sequencer.recent_entries)
        };
        match self.prepare_ahead(&spare, entries) {
            // A checkpoint still frees some of it.
            Err(Error::Full { .. }) => return Ok(false),
            made => made?,
        };
        let mut sequencer = self.sequencer();
        // A writer may have gone on to the next segment meanwhile.
        if sequencer.active_bytes() >= SEGMENT_HELD_BYTES_MIN {
            let time = sequencer.last_time;
            sequencer.roll(&*self.dir, &self.options, time, Claim::Blocks)?;
        }
        Ok(true)
    }
}

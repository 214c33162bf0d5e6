//! What stays in memory of the footers of all checkpoints. A footer also has the whole catalog, so a query does not
//! read one again for the little that it needs of it.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use bygone_model::{Micros, Seq};

use super::Log;
use crate::{
    error::Result,
    format::{
        checkpoint::{Footer, Name, SegmentStart},
        events::EventBlock,
    },
    sync::{Mutex, MutexGuard},
};

/// A stretch of the log: the span of a checkpoint, or what came after the last one.
pub(super) struct Span {
    pub(super) end: Seq,
    pub(super) end_time: Micros,
    /// The segments with records of the span, in order.
    pub(super) segments: Vec<SegmentStart>,
}

/// What stays in memory of one checkpoint.
#[derive(Clone)]
pub(super) struct Summary {
    pub(super) span: Arc<Span>,
    pub(super) events: Arc<Vec<EventBlock>>,
}

/// The summaries that were read so far, by number of the checkpoint.
#[derive(Default)]
pub(super) struct Summaries(Mutex<BTreeMap<u32, Summary>>);

impl Summary {
    pub(super) fn new(
        end: Seq,
        end_time: Micros,
        segments: Vec<SegmentStart>,
        events: Vec<EventBlock>,
    ) -> Summary {
        Summary { span: Arc::new(Span { end, end_time, segments }), events: Arc::new(events) }
    }
}

impl Summaries {
    fn known(&self) -> MutexGuard<'_, BTreeMap<u32, Summary>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets that of a checkpoint that was written again.
    pub(super) fn forget(&self, number: u32) {
        self.known().remove(&number);
    }
}

impl Log {
    /// The summaries of the checkpoints `wanted`, which are among `all` that exist now. If the file of one is damaged, its
    /// summary comes from the segments.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(super) fn summaries_of(&self, wanted: &[Name], all: &[Name]) -> Result<Vec<Summary>> {
        let mut out = Vec::with_capacity(wanted.len());
        for &name in wanted {
            let known = self.summaries.known().get(&name.number).cloned();
            // Read while nothing is locked.
            out.push(match known {
                Some(summary) => summary,
                None => {
                    let summary = match self.open_checkpoint(name) {
                        Err(error) if error.is_index_damage() => {
                            let at = all.partition_point(|other| other.number < name.number);
                            let before = at.checked_sub(1).map_or(Seq::ZERO, |before| all[before].end);
                            self.summary_from_log(name, before)?
                        }
                        opened => {
                            let Footer { end, end_time, segments, events, .. } = opened?.footer;
                            Summary::new(end, end_time, segments, events)
                        }
                    };
                    self.summaries.known().insert(name.number, summary.clone());
                    summary
                }
            });
        }
        let mut known = self.summaries.known();
        if known.len() > all.len() {
            // Some were retired since.
            known.retain(|number, _| all.binary_search_by_key(number, |name| name.number).is_ok());
        }
        Ok(out)
    }
}

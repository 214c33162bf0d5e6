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
        checkpoint::{Name, SegmentStart},
        events::EventBlock,
    },
    sync::Mutex,
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

impl Log {
    /// The summaries of the checkpoints `wanted`, which are among `all` that exist now.
    ///
    /// # Errors
    /// If one of them cannot be read or is damaged.
    pub(super) fn summaries_of(&self, wanted: &[Name], all: &[Name]) -> Result<Vec<Summary>> {
        let mut known = self.summaries.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = Vec::with_capacity(wanted.len());
        for &name in wanted {
            let summary = match known.get(&name.number) {
                Some(summary) => summary.clone(),
                None => {
                    let footer = self.index.open(name)?.footer;
                    let span = Span { end: footer.end, end_time: footer.end_time, segments: footer.segments };
                    let summary = Summary { span: Arc::new(span), events: Arc::new(footer.events) };
                    known.insert(name.number, summary.clone());
                    summary
                }
            };
            out.push(summary);
        }
        if known.len() > all.len() {
            // Some were retired since.
            known.retain(|number, _| all.binary_search_by_key(number, |name| name.number).is_ok());
        }
        Ok(out)
    }
}

//! Queries over events: the newest or the oldest that match, without reading all of history.
//!
//! Events are in memory until a checkpoint has them, then in blocks whose summaries stay in memory (about a kilobyte
//! for 512 events). A query reads only blocks that may hold a better match than it has, the most promising first.

use std::collections::HashSet;

use bygone_model::{Grade, Kind, Place, Seq};

use super::{Event, Log};
use crate::{
    caller::Caller,
    error::Result,
    format::{checkpoint::Name, events::EventBlock},
    line::Line,
};

/// A position in the order of events: the seq of the moment that an event names, then the seq of its record.
pub type EventCursor = (Seq, Seq);

/// Which events to find.
#[derive(Clone, Copy, Debug)]
pub struct EventQuery<'a> {
    /// Only those on this line; `None`: on any branch.
    pub line: Option<&'a Line>,
    /// Only these kinds; empty: any kind.
    pub kinds: &'a [Kind],
    /// Only those of this grade or a better one.
    pub grade: Grade,
    /// Only the points with this label.
    pub label: Option<&'a str>,
    /// Only those after this position, …
    pub after: EventCursor,
    /// … and before this one.
    pub before: EventCursor,
    /// The caller; checked before each block of events that has to be read.
    pub caller: Caller<'a>,
}

impl Default for EventQuery<'_> {
    fn default() -> Self {
        EventQuery {
            line: None,
            kinds: &[],
            grade: Grade::Crash,
            label: None,
            after: (Seq::ZERO, Seq::ZERO),
            before: (Seq::MAX, Seq::MAX),
            caller: Caller::default(),
        }
    }
}

/// Which of the matching events come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOrder {
    /// The newest.
    Newest,
    /// The oldest.
    Oldest,
}

/// The position of an event in the order of events.
#[must_use]
pub fn cursor_of(event: &Event) -> EventCursor {
    (event.place().seq, event.seq)
}

impl EventQuery<'_> {
    fn fits(&self, event: &Event) -> bool {
        let cursor = cursor_of(event);
        self.after < cursor
            && cursor < self.before
            && (self.kinds.is_empty() || self.kinds.contains(&event.event.kind))
            && event.event.grade >= self.grade
            && self.label.is_none_or(|label| event.event.kind == Kind::Point && event.event.label == label)
            && self.line.is_none_or(|line| line.has(event.place()))
    }

    /// The range of moments in which events of the block may match; `None`: none does.
    fn span_in(&self, block: &EventBlock) -> Option<(Seq, Seq)> {
        if self.label.is_some_and(|label| !block.may_have_label(label)) {
            return None;
        }
        let mut span: Option<(Seq, Seq)> = None;
        let mut widen = |low: Seq, high: Seq| {
            if low <= high {
                span = Some(span.map_or((low, high), |span| (span.0.min(low), span.1.max(high))));
            }
        };
        let (low, high) = (self.after.0, self.before.0);
        if block.about.is_empty() {
            widen(block.moments.0.max(low), block.moments.1.min(high));
        }
        for about in &block.about {
            let wanted =
                (self.kinds.is_empty() || self.kinds.contains(&about.kind)) && about.grade >= self.grade;
            if !wanted {
                continue;
            }
            let (low, high) = (about.moments.0.max(low), about.moments.1.min(high));
            match self.line {
                None => widen(low, high),
                Some(line) => {
                    for stretch in line.stretches().iter().filter(|s| s.branch == about.branch) {
                        widen(low.max(stretch.from), high.min(stretch.to));
                    }
                }
            }
        }
        span
    }
}

/// A block that may hold a match, and the best moment that such a match can have.
struct Candidate<'a> {
    best: Seq,
    name: Name,
    block: &'a EventBlock,
}

impl Log {
    /// The first `limit` events, in this order, that match `query` and that `wanted` accepts.
    ///
    /// # Errors
    /// When events cannot be read or are damaged, or the caller has gone.
    pub fn find_events(
        &self,
        query: &EventQuery<'_>,
        order: EventOrder,
        limit: usize,
        wanted: &mut dyn FnMut(&Event) -> bool,
    ) -> Result<Vec<Event>> {
        // Memory comes first. So an event that a checkpoint takes over meanwhile is found twice, but never missed.
        let mut found = Matches { order, limit, seqs: HashSet::new(), events: Vec::new() };
        // Copied, so that no writer waits for `wanted`.
        let recent: Vec<Event> =
            self.sequencer().events.iter().filter(|event| query.fits(event)).cloned().collect();
        for event in recent {
            if wanted(&event) {
                found.add(event);
            }
        }
        let snapshot = self.index.snapshot();
        let summaries = self.summaries_of(&snapshot.names, &snapshot.names)?;
        let mut candidates = Vec::new();
        for (name, summary) in snapshot.names.iter().zip(&summaries) {
            for block in summary.events.iter() {
                if let Some((low, high)) = query.span_in(block) {
                    let best = if order == EventOrder::Newest { high } else { low };
                    candidates.push(Candidate { best, name: *name, block });
                }
            }
        }
        candidates.sort_by_key(|candidate| candidate.best);
        if order == EventOrder::Newest {
            candidates.reverse();
        }
        for candidate in candidates {
            if found.is_beyond(candidate.best) {
                break;
            }
            query.caller.check()?;
            for event in self.events_of(candidate.name, candidate.block)? {
                if query.fits(&event) && wanted(&event) {
                    found.add(event);
                }
            }
        }
        found.cut();
        Ok(found.events)
    }

    /// The event of the best grade that names exactly this place; of several, the one that was recorded last, since
    /// it was recorded by someone who could know of the others. For other questions about events see
    /// [`Log::find_events`].
    ///
    /// # Errors
    /// As [`Log::find_events`].
    pub fn event_at(&self, place: Place) -> Result<Option<Event>> {
        let query = EventQuery {
            after: (Seq(place.seq.0.saturating_sub(1)), Seq::MAX),
            before: (place.seq, Seq::MAX),
            ..EventQuery::default()
        };
        let mut best: Option<Event> = None;
        self.find_events(&query, EventOrder::Oldest, 1, &mut |event| {
            let rank = |event: &Event| (event.event.grade, event.seq);
            let better = best.as_ref().is_none_or(|best| rank(best) < rank(event));
            if event.branch == place.branch && better {
                best = Some(event.clone());
            }
            false
        })?;
        Ok(best)
    }
}

/// The best matches so far.
struct Matches {
    order: EventOrder,
    limit: usize,
    /// Drops duplicates: a checkpoint written meanwhile has events that were in memory too.
    seqs: HashSet<Seq>,
    events: Vec<Event>,
}

impl Matches {
    fn add(&mut self, event: Event) {
        if self.limit == 0 || !self.seqs.insert(event.seq) {
            return;
        }
        self.events.push(event);
        if self.events.len() >= self.limit.saturating_mul(2).max(64) {
            self.cut();
        }
    }

    /// Keeps only the best ones, in order.
    fn cut(&mut self) {
        self.events.sort_by_key(cursor_of);
        if self.order == EventOrder::Newest {
            self.events.reverse();
        }
        self.events.truncate(self.limit);
        if self.seqs.len() > self.events.len() {
            self.seqs = self.events.iter().map(|event| event.seq).collect();
        }
    }

    /// No event at `best` or further on can be among the best any more.
    fn is_beyond(&mut self, best: Seq) -> bool {
        if self.limit == 0 {
            return true;
        }
        if self.events.len() < self.limit {
            return false;
        }
        self.cut();
        self.events.last().is_some_and(|worst| match self.order {
            EventOrder::Newest => best < worst.place().seq,
            EventOrder::Oldest => best > worst.place().seq,
        })
    }
}

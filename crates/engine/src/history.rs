//! The history of a target as the grammar of moments sees it: one line, from the head of a branch back through the
//! branches it comes from.

use std::ops::ControlFlow;

use bygone_model::{
    BranchId, Micros, Moment, Seq,
    when::{History, HistoryError, Mark, Resolved, TimeHit, What, When, WholeDay},
};
use bygone_store::{Log, catalog::Catalog};
use jiff::Zoned;

use crate::error::{Error, Result};

/// A line of history: the branches from a head back to `main`, each with the last record that counts.
#[derive(Clone, Debug)]
pub(crate) struct Lineage {
    /// Newest first: branch, and up to which record it belongs to this line.
    parts: Vec<(BranchId, Seq)>,
}

impl Lineage {
    /// The line that ends at the head of `branch`.
    #[must_use]
    pub(crate) fn of(catalog: &Catalog, branch: BranchId) -> Lineage {
        let mut parts = vec![(branch, Seq::MAX)];
        let mut at = catalog.branch(branch);
        while let Some((parent, from)) = at.and_then(|b| b.parent) {
            let until = parts.last().map_or(Seq::MAX, |part| part.1).min(from);
            parts.push((parent, until));
            // Numbers fall on the way down; a damaged catalog must not send us round in circles.
            at = catalog.branch(parent).filter(|b| b.parent.is_none_or(|(p, _)| p < b.id));
        }
        Lineage { parts }
    }

    /// A record of `branch` belongs to this line.
    #[must_use]
    pub(crate) fn has(&self, branch: BranchId, seq: Seq) -> bool {
        self.parts.iter().any(|&(b, until)| b == branch && seq <= until)
    }

    /// The branch on which the moment `seq` of this line lies, and the last record of it that counts.
    #[must_use]
    pub(crate) fn branch_at(&self, catalog: &Catalog, seq: Seq) -> (BranchId, Seq) {
        let mut at = seq;
        for &(branch, until) in &self.parts {
            at = at.min(until);
            if catalog.branch(branch).is_none_or(|b| b.parent.is_none() || at >= b.made) {
                return (branch, at);
            }
        }
        (BranchId(0), at)
    }
}

/// The history of one line of one log.
pub(crate) struct LogHistory<'a> {
    log: &'a Log,
    catalog: Catalog,
    lineage: Lineage,
}

impl<'a> LogHistory<'a> {
    /// The line that ends at the head of `branch`.
    #[must_use]
    pub(crate) fn new(log: &'a Log, branch: BranchId) -> LogHistory<'a> {
        let catalog = log.catalog();
        let lineage = Lineage::of(&catalog, branch);
        LogHistory { log, catalog, lineage }
    }

    /// Finds the moment that a person means.
    ///
    /// # Errors
    /// When it cannot be read, does not exist or is ambiguous.
    pub(crate) fn find(&self, text: &str, day: WholeDay) -> Result<Resolved> {
        let when = When::parse(text).map_err(|source| Error::When { text: text.to_owned(), source })?;
        let found = when.resolve_day(self, &Zoned::now(), day);
        found.map_err(|source| Error::Moment { text: text.to_owned(), source: Box::new(source) })
    }

    /// Calls `each` with the events of this line, in the order in which they were written; points are placed at the moment
    /// that they name, and belong to the line if that does.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(crate) fn each_event(
        &self,
        each: &mut dyn FnMut(Moment) -> ControlFlow<()>,
    ) -> bygone_store::Result<()> {
        self.log.events(Seq::ZERO, self.log.head_seq(), &mut |event| {
            let branch = BranchId(event.branch);
            let name = self.catalog.branch(branch).map_or("?", |b| &b.name).to_owned();
            let moment =
                Moment { seq: event.seq, time: event.time, branch: name, event: event.event.clone() };
            let moment = crate::timeline::as_pointed(moment);
            !self.lineage.has(branch, moment.seq) || each(moment).is_continue()
        })
    }

    fn mark(&self, seq: Seq) -> bygone_store::Result<Mark> {
        Ok(Mark { seq, time: self.log.time_of(seq)? })
    }

    fn last_matching(
        &self,
        before: Seq,
        matches: &dyn Fn(&Moment) -> bool,
    ) -> bygone_store::Result<Option<Moment>> {
        let mut last: Option<Moment> = None;
        self.each_event(&mut |moment| {
            let later = last.as_ref().is_none_or(|last| last.seq <= moment.seq);
            if moment.seq < before && later && matches(&moment) {
                last = Some(moment);
            }
            ControlFlow::Continue(())
        })?;
        Ok(last)
    }
}

fn boxed<T>(result: bygone_store::Result<T>) -> std::result::Result<T, HistoryError> {
    result.map_err(|e| Box::new(e) as HistoryError)
}

impl History for LogHistory<'_> {
    fn head(&self) -> std::result::Result<Option<Mark>, HistoryError> {
        let head = self.log.head_seq();
        if head == Seq::ZERO { Ok(None) } else { boxed(self.mark(head)).map(Some) }
    }

    fn first(&self) -> std::result::Result<Option<Mark>, HistoryError> {
        if self.log.head_seq() == Seq::ZERO { Ok(None) } else { boxed(self.mark(Seq(1))).map(Some) }
    }

    fn at_seq(&self, seq: Seq) -> std::result::Result<Option<Mark>, HistoryError> {
        if seq == Seq::ZERO || seq > self.log.head_seq() { Ok(None) } else { boxed(self.mark(seq)).map(Some) }
    }

    fn at_time(&self, time: Micros) -> std::result::Result<Vec<TimeHit>, HistoryError> {
        let hits = boxed(self.log.at_time(time))?;
        let head = self.log.head_seq();
        let hit = |h: &bygone_store::TimeHit| TimeHit {
            mark: Mark { seq: h.seq, time: h.time },
            era: h.era as u32,
        };
        let within: Vec<TimeHit> = hits.iter().filter(|h| h.within || h.seq == head).map(hit).collect();
        if within.is_empty() {
            // Between two eras: the nearest moment before it is the last one that there is.
            return Ok(hits.iter().max_by_key(|h| (h.time, h.seq)).map(hit).into_iter().collect());
        }
        Ok(within)
    }

    fn last_event(&self, what: &What, before: Seq) -> std::result::Result<Option<Moment>, HistoryError> {
        boxed(self.last_matching(before, &|moment| what.matches(&moment.event)))
    }

    fn first_event(&self, what: &What) -> std::result::Result<Option<Moment>, HistoryError> {
        let mut first = None;
        let found = self.each_event(&mut |moment| {
            if what.matches(&moment.event) {
                first = Some(moment);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        boxed(found.map(|()| first))
    }

    fn points(&self, label: &str, limit: usize) -> std::result::Result<Vec<Moment>, HistoryError> {
        let mut points = Vec::new();
        let found = self.each_event(&mut |moment| {
            if moment.event.kind == bygone_model::Kind::Point && moment.event.label == label {
                points.push(moment);
            }
            ControlFlow::Continue(())
        });
        points.reverse();
        points.truncate(limit);
        boxed(found.map(|()| points))
    }

    fn nearest(&self, seq: Seq, limit: usize) -> std::result::Result<Vec<Moment>, HistoryError> {
        let mut near: Vec<Moment> = Vec::new();
        let found = self.each_event(&mut |moment| {
            near.push(moment);
            near.sort_by_key(|m| m.seq.0.abs_diff(seq.0));
            near.truncate(limit);
            ControlFlow::Continue(())
        });
        boxed(found.map(|()| near))
    }

    fn branch_head(&self, name: &str) -> std::result::Result<Option<Mark>, HistoryError> {
        if self.catalog.branch_named(name).is_err() {
            return Ok(None);
        }
        self.head()
    }

    fn branch_names(&self, limit: usize) -> std::result::Result<Vec<String>, HistoryError> {
        let live = self.catalog.branches.iter().filter(|b| b.dropped.is_none());
        Ok(live.map(|b| b.name.clone()).take(limit).collect())
    }
}

//! Resolves a person's text to a moment of a target. [`find`] is the only way, whatever the moment is used for.
//!
//! Names are resolved here and nowhere below: the result is a [`Place`], whose meaning never changes, with its
//! description.

use std::{cell::OnceCell, sync::Arc};

use bygone_model::{
    BranchId, Details, Event, Grade, Kind, Micros, Moment, Place, Seq, Truth,
    when::{self, HistoryError, Mark, TimeHit, What, When, WholeDay},
};
use bygone_store::{EventOrder, EventQuery, Line, Log, catalog::Catalog};
use jiff::{Zoned, tz::TimeZone};

use crate::{
    api::MomentInfo,
    error::{Error, Result},
    grade, timeline,
};

/// The prefix that names a branch by its id, for example one that was dropped.
const BY_ID: &str = "id:";

/// A resolved moment.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub place: Place,
    /// Its time, by the clock of the log.
    pub time: Micros,
    /// How the text was interpreted, in words.
    pub how: String,
    /// How good it is to restore.
    pub grade: Grade,
    /// The event that was named, or the best one at this moment.
    pub event: Option<Event>,
    /// A text that always names this moment.
    name: String,
}

impl Found {
    /// Its description for clients.
    #[must_use]
    pub(crate) fn info(&self, catalog: &Catalog) -> MomentInfo {
        let event = self.event.clone();
        MomentInfo {
            seq: self.place.seq.0,
            time: timeline::rfc3339(self.time),
            kind: event.as_ref().map_or(Kind::Moment, |event| event.kind.clone()),
            grade: self.grade,
            truth: event.as_ref().map_or(Truth::Observed, |event| event.truth),
            branch: name_for_people(catalog, self.place.branch),
            branch_id: self.place.branch.0,
            when: self.name.clone(),
            earliest_seq: event.as_ref().and_then(|event| timeline::earliest(event.at?)),
            how: Some(self.how.clone()),
            lost: timeline::lost_before(catalog, self.place, |_| false),
            details: event.as_ref().map_or_else(Details::new, |event| event.details.clone()),
            label: event.map_or_else(|| self.how.clone(), |event| event.label),
        }
    }
}

/// Resolves `text` to a moment, relative to `now` and its time zone.
///
/// # Errors
/// When the text cannot be parsed, or the moment does not exist or is ambiguous.
pub(crate) fn find(log: &Log, text: &str, day: WholeDay, now: &Zoned) -> Result<Found> {
    let when = When::parse(text).map_err(|source| Error::When { text: text.to_owned(), source })?;
    let history = LogHistory::new(log);
    let found = when.resolve_day(&history, now, day);
    let found = found.map_err(|source| {
        let candidates = source.candidates().iter().map(|candidate| candidate.describe(now)).collect();
        Error::Moment { text: text.to_owned(), source: Box::new(source), candidates }
    })?;
    let name = history.name_of(found.place)?;
    let best = log.event_at(found.place)?.map(|stored| stored.event);
    let grade = grade::at(log, found.place)?;
    let event = found.event.or(best);
    Ok(Found { place: found.place, time: found.time, how: found.how, grade, event, name })
}

/// The name of a branch for display; another branch may have it now.
#[must_use]
pub(crate) fn name_for_people(catalog: &Catalog, branch: BranchId) -> String {
    catalog.branch(branch).map_or_else(|| format!("{BY_ID}{branch}"), |branch| branch.name.clone())
}

/// A name that resolves to the branch: its own, or its id if it was dropped.
#[must_use]
pub(crate) fn name_of_branch(catalog: &Catalog, branch: BranchId) -> String {
    match catalog.branch(branch) {
        Some(found) if found.dropped.is_none() => found.name.clone(),
        _ => format!("{BY_ID}{branch}"),
    }
}

/// Resolves the name of a branch that was not dropped, or `id:NUMBER` for any branch.
///
/// # Errors
/// When there is no such branch.
pub(crate) fn branch_named(catalog: &Catalog, name: &str) -> bygone_store::Result<BranchId> {
    let unknown = || bygone_store::Error::NoBranch(name.to_owned());
    match name.strip_prefix(BY_ID) {
        Some(number) => {
            let digits = number.bytes().all(|byte| byte.is_ascii_digit());
            let id = Some(number).filter(|_| digits).and_then(|number| number.parse().ok()).map(BranchId);
            id.filter(|id| catalog.branch(*id).is_some()).ok_or_else(unknown)
        }
        None => catalog.branch_named(name).map(|branch| branch.id),
    }
}

/// A text that always names this moment, for [`find`]; made without reading the log. It has the branch's id, because
/// another branch may have its name later.
#[must_use]
pub(crate) fn name_of(catalog: &Catalog, place: Place) -> String {
    if catalog.branches.len() == 1 {
        return format!("seq:{}", place.seq);
    }
    format!("{BY_ID}{}@seq:{}", place.branch, place.seq)
}

/// The history of a log, for the grammar of moments.
struct LogHistory<'a> {
    log: &'a Log,
    catalog: Arc<Catalog>,
    lived: OnceCell<Line>,
}

impl<'a> LogHistory<'a> {
    fn new(log: &'a Log) -> LogHistory<'a> {
        LogHistory { log, catalog: log.catalog(), lived: OnceCell::new() }
    }

    fn line(&self, line: when::Line) -> Line {
        match line {
            when::Line::Lived => self.lived.get_or_init(|| self.catalog.lived_line()).clone(),
            when::Line::Of(branch) => self.catalog.line_of(branch),
        }
    }

    /// The first event in this order and within the query's bounds that matches `what`.
    fn event_that(
        &self,
        what: &What,
        query: EventQuery<'_>,
        order: EventOrder,
    ) -> bygone_store::Result<Option<Moment>> {
        let kinds = match what {
            What::Kind(kind) => vec![kind.clone()],
            What::Change { .. } => vec![Kind::Package],
            What::Graded(_) => Vec::new(),
        };
        let grade = if let What::Graded(grade) = what { *grade } else { Grade::Crash };
        let query = EventQuery { kinds: &kinds, grade, ..query };
        let found = self.log.find_events(&query, order, 1, &mut |event| what.matches(&event.event))?;
        Ok(found.first().map(timeline::moment))
    }

    /// The shortest text that always names this moment: its seq alone, if that record is on this branch.
    fn name_of(&self, place: Place) -> bygone_store::Result<String> {
        if self.log.place_of(place.seq)? == place {
            return Ok(format!("seq:{}", place.seq));
        }
        Ok(name_of(&self.catalog, place))
    }

    fn mark(&self, place: Place) -> bygone_store::Result<Mark> {
        Ok(Mark { place, time: self.log.time_of(place.seq)? })
    }
}

fn boxed<T>(result: bygone_store::Result<T>) -> std::result::Result<T, HistoryError> {
    result.map_err(|e| Box::new(e) as HistoryError)
}

impl when::History for LogHistory<'_> {
    fn head(&self, line: when::Line) -> std::result::Result<Option<Mark>, HistoryError> {
        let head = self.log.head_seq();
        if head == Seq::ZERO {
            return Ok(None);
        }
        let line = self.line(line);
        boxed(self.mark(line.at(head.min(line.end())))).map(Some)
    }

    fn first(&self, line: when::Line) -> std::result::Result<Option<Mark>, HistoryError> {
        if self.log.head_seq() == Seq::ZERO {
            return Ok(None);
        }
        boxed(self.mark(self.line(line).at(Seq(1)))).map(Some)
    }

    fn at_seq(&self, line: when::Line, seq: Seq) -> std::result::Result<Option<Mark>, HistoryError> {
        if seq == Seq::ZERO || seq > self.log.head_seq() {
            return Ok(None);
        }
        let place = match line {
            when::Line::Lived => boxed(self.log.place_of(seq))?,
            when::Line::Of(branch) => self.catalog.line_of(branch).at(seq),
        };
        boxed(self.mark(place)).map(Some)
    }

    fn at_time(&self, line: when::Line, time: Micros) -> std::result::Result<Vec<TimeHit>, HistoryError> {
        let line = self.line(line);
        let hits = boxed(self.log.at_time(time))?;
        let head = self.log.head_seq();
        let hit = |h: &bygone_store::TimeHit| {
            // On a branch's line, the nearest moment at or before the time may be from before the branch was made.
            let place = line.at(h.seq);
            let time = if place.seq == h.seq { h.time } else { boxed(self.log.time_of(place.seq))? };
            Ok(TimeHit { mark: Mark { place, time }, era: h.era as u32 })
        };
        let within: Vec<&bygone_store::TimeHit> = hits.iter().filter(|h| h.within || h.seq == head).collect();
        if within.is_empty() {
            // Between two eras: the nearest earlier moment is the last one before the gap.
            return hits.iter().max_by_key(|h| (h.time, h.seq)).map(hit).into_iter().collect();
        }
        within.into_iter().map(hit).collect()
    }

    fn last_event(
        &self,
        line: when::Line,
        what: &What,
        before: Seq,
    ) -> std::result::Result<Option<Moment>, HistoryError> {
        let line = self.line(line);
        let query = EventQuery { line: Some(&line), before: (before, Seq::ZERO), ..EventQuery::default() };
        boxed(self.event_that(what, query, EventOrder::Newest))
    }

    fn first_event(
        &self,
        line: when::Line,
        what: &What,
    ) -> std::result::Result<Option<Moment>, HistoryError> {
        let line = self.line(line);
        let query = EventQuery { line: Some(&line), ..EventQuery::default() };
        boxed(self.event_that(what, query, EventOrder::Oldest))
    }

    fn points(&self, label: &str, limit: usize) -> std::result::Result<Vec<Moment>, HistoryError> {
        let query = EventQuery { label: Some(label), kinds: &[Kind::Point], ..EventQuery::default() };
        let found = self.log.find_events(&query, EventOrder::Newest, limit, &mut |_| true);
        boxed(found.map(|found| found.iter().map(timeline::moment).collect()))
    }

    fn nearest(
        &self,
        line: when::Line,
        seq: Seq,
        limit: usize,
    ) -> std::result::Result<Vec<Moment>, HistoryError> {
        let line = self.line(line);
        let (to, any) = ((seq, Seq::MAX), EventQuery { line: Some(&line), ..EventQuery::default() });
        let before = EventQuery { before: to, ..any };
        let mut near = boxed(self.log.find_events(&before, EventOrder::Newest, limit, &mut |_| true))?;
        let after = EventQuery { after: to, ..any };
        near.extend(boxed(self.log.find_events(&after, EventOrder::Oldest, limit, &mut |_| true))?);
        near.sort_by_key(|event| event.place().seq.0.abs_diff(seq.0));
        near.truncate(limit);
        Ok(near.iter().map(timeline::moment).collect())
    }

    fn is_on(&self, line: when::Line, place: Place) -> bool {
        self.line(line).has(place)
    }

    fn branch(&self, name: &str) -> Option<BranchId> {
        branch_named(&self.catalog, name).ok()
    }

    fn branches(&self, limit: usize) -> Vec<BranchId> {
        let live = self.catalog.branches.iter().filter(|branch| branch.dropped.is_none());
        live.map(|branch| branch.id).take(limit).collect()
    }

    fn branch_name(&self, branch: BranchId) -> String {
        name_of_branch(&self.catalog, branch)
    }

    fn name_of(&self, place: Place) -> std::result::Result<String, HistoryError> {
        boxed(LogHistory::name_of(self, place))
    }

    fn zone(&self, name: &str) -> Option<TimeZone> {
        TimeZone::get(name).ok()
    }
}

#[cfg(test)]
mod tests;

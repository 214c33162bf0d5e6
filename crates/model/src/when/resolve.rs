//! Resolves a [`When`] to a position in a history.
//!
//! Each reading of a text is looked up, and the text is ambiguous only when the readings lead to
//! different moments. Lookups are bounded: by [`MAX_CANDIDATES`] each, and by the depth of `before`.

use jiff::{Timestamp, Zoned};

use super::{
    Ambiguity, Asked, Candidate, History, Line, MAX_CANDIDATES, Mark, ResolveError, What, When, Zone, clock,
    wall::{Instants, just_before},
};
use crate::{Event, Kind, Micros, Moment, Place, Seq};

/// A moment of a history.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The branch and position.
    pub place: Place,
    /// The time, by the clock of the log.
    pub time: Micros,
    /// The event that the text names, if it names one.
    pub event: Option<Event>,
    /// How the text was interpreted, in words.
    pub how: String,
}

/// What a day without a time (`yesterday`, `2026-11-22`) means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WholeDay {
    /// It is ambiguous, unless nothing was recorded on that day.
    #[default]
    Refuse,
    /// Its first instant, as in `--since yesterday` and `last shutdown before tuesday`.
    Start,
    /// Its last instant or, if it is not over yet, now, as in `--until yesterday`.
    End,
}

impl When {
    /// Finds the nearest moment at or before this one; `now` carries the time zone.
    ///
    /// # Errors
    /// There is no such moment, or several; see [`ResolveError`]. A day without a time is refused, unless nothing was
    /// recorded on it.
    pub fn resolve(&self, history: &dyn History, now: &Zoned) -> Result<Resolved, ResolveError> {
        self.resolve_day(history, now, WholeDay::Refuse)
    }

    /// The same, where a day without a time has a meaning.
    ///
    /// # Errors
    /// As [`When::resolve`].
    pub fn resolve_day(
        &self,
        history: &dyn History,
        now: &Zoned,
        whole_day: WholeDay,
    ) -> Result<Resolved, ResolveError> {
        Resolver { history, now, line: Line::Lived }.resolve(self, whole_day)
    }
}

struct Resolver<'a> {
    history: &'a dyn History,
    now: &'a Zoned,
    line: Line,
}

/// A moment found for one reading of a time.
struct Found {
    mark: Mark,
    at: Timestamp,
    era: u32,
}

impl Resolver<'_> {
    fn resolve(&self, when: &When, whole_day: WholeDay) -> Result<Resolved, ResolveError> {
        match when {
            When::Now => {
                let how = match self.line {
                    Line::Lived => "the newest moment".to_owned(),
                    Line::Of(branch) => format!("the newest moment of branch {}", self.branch_name(branch)),
                };
                Ok(here(self.head()?, how))
            }
            When::Seq(seq) => self.at_seq(*seq),
            When::Last { what, before } => self.event(when, what, before.as_deref(), false),
            When::First { what, before } => self.event(when, what, before.as_deref(), true),
            When::Point(label) => self.point(label),
            When::On { branch, when } => self.on(branch)?.resolve(when, whole_day),
            When::In { zone, when } => {
                let now = self.now_in(zone)?;
                Resolver { now: &now, ..*self }.resolve(when, whole_day)
            }
            When::Instant(_) | When::Clock(_) | When::Ago { .. } | When::Day { .. } => {
                match (when.instants(self.now), when.whole_day(self.now)) {
                    (Some(instants), _) => self.at_instants(&instants),
                    (None, Some((start, end))) => self.on_day(start, end, whole_day),
                    (None, None) => Err(ResolveError::Empty),
                }
            }
        }
    }

    fn head(&self) -> Result<Mark, ResolveError> {
        self.history.head(self.line).map_err(ResolveError::History)?.ok_or(ResolveError::Empty)
    }

    fn first(&self) -> Result<Mark, ResolveError> {
        self.history.first(self.line).map_err(ResolveError::History)?.ok_or(ResolveError::Empty)
    }

    fn branch_name(&self, branch: crate::BranchId) -> String {
        printable(&self.history.branch_name(branch))
    }

    /// A resolver for the line of a branch.
    fn on(&self, name: &str) -> Result<Resolver<'_>, ResolveError> {
        match self.history.branch(name) {
            Some(branch) => Ok(Resolver { line: Line::Of(branch), ..*self }),
            None => self.unknown_branch(name),
        }
    }

    fn now_in(&self, zone: &Zone) -> Result<Zoned, ResolveError> {
        let zone = match zone {
            Zone::Fixed(offset) => offset.to_time_zone(),
            Zone::Named(name) => {
                let found = self.history.zone(name);
                found.ok_or_else(|| ResolveError::UnknownZone { name: name.as_str().into() })?
            }
        };
        Ok(self.now.with_time_zone(zone))
    }

    fn at_seq(&self, seq: Seq) -> Result<Resolved, ResolveError> {
        let head = self.head()?;
        if seq > head.place.seq {
            return Err(ResolveError::NoSuchSeq { asked: seq, candidates: vec![self.newest(head)?] });
        }
        match self.history.at_seq(self.line, seq).map_err(ResolveError::History)? {
            Some(mark) if mark.place.seq == seq => Ok(here(mark, format!("seq:{seq}"))),
            Some(mark) => Ok(here(mark, format!("the last moment kept at or before seq:{seq}"))),
            None => {
                let candidates = vec![self.oldest(self.first()?)?];
                Err(ResolveError::NoSuchSeq { asked: seq, candidates })
            }
        }
    }

    fn at_instants(&self, instants: &Instants) -> Result<Resolved, ResolveError> {
        let found = self.find(&instants.all, false)?;
        match found.as_slice() {
            [only] => {
                let skipped = if instants.skipped { ", when clocks skipped this time" } else { "" };
                let asked = Asked::new(only.at, self.now);
                Ok(here(only.mark, format!("the last moment at or before {asked}{skipped}")))
            }
            _ => Err(self.ambiguous(&found, readings(instants))?),
        }
    }

    fn ambiguous(&self, found: &[Found], why: Ambiguity) -> Result<ResolveError, ResolveError> {
        let label = |found: &Found| match why {
            Ambiguity::LogClock => format!("in era {} of the log's clock", found.era),
            _ => format!("at {}", Asked::new(found.at, self.now)),
        };
        let mut candidates = Vec::new();
        for found in found {
            candidates.push(self.candidate(found.mark, label(found))?);
        }
        Ok(ResolveError::Ambiguous { why, candidates: newest_first(candidates) })
    }

    /// The moments at or before (strictly before, if `exclusive`) each of some instants, in every era. At least one,
    /// and without duplicates.
    fn find(&self, instants: &[Timestamp], exclusive: bool) -> Result<Vec<Found>, ResolveError> {
        let head = self.head()?;
        let now = clock::micros(self.now.timestamp());
        let mut found: Vec<Found> = Vec::new();
        for &at in instants {
            let time = clock::micros(if exclusive { just_before(at) } else { at });
            for hit in self.history.at_time(self.line, time).map_err(ResolveError::History)? {
                // A time after now is refused, unless a clock that was wrong has recorded it.
                let unseen = time > now && hit.mark.place.seq == head.place.seq && hit.mark.time != time;
                if !unseen && found.iter().all(|known| known.mark.place != hit.mark.place) {
                    found.push(Found { mark: hit.mark, at, era: hit.era });
                }
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let asked = Asked::new(instants.first().copied().unwrap_or(Timestamp::MIN), self.now);
        Err(if asked.at > self.now.timestamp() {
            ResolveError::Future { asked, candidates: vec![self.newest(head)?] }
        } else {
            ResolveError::BeforeHistory { asked, candidates: vec![self.oldest(self.first()?)?] }
        })
    }

    fn on_day(
        &self,
        start: Timestamp,
        end: Timestamp,
        whole_day: WholeDay,
    ) -> Result<Resolved, ResolveError> {
        let one = |at| Instants { all: vec![at], skipped: false };
        let end = end.min(self.now.timestamp());
        if whole_day == WholeDay::Start || start > end {
            return self.at_instants(&one(start));
        }
        if whole_day == WholeDay::End {
            return self.at_instants(&one(end));
        }
        let late = self.find(&[end], false)?;
        let early = match self.find(&[start], false) {
            Ok(found) => found.into_iter().map(|found| found.mark).collect(),
            Err(ResolveError::BeforeHistory { .. }) => vec![self.first()?],
            Err(error) => return Err(error),
        };
        let mut candidates: Vec<Candidate> = Vec::new();
        for found in &late {
            candidates.push(self.candidate(found.mark, "at its end".to_owned())?);
        }
        for mark in early {
            if candidates.iter().all(|known| known.place != mark.place) {
                candidates.push(self.candidate(mark, "at its start".to_owned())?);
            }
        }
        match (candidates.len(), late.first()) {
            (1, Some(only)) => {
                let asked = Asked::new(start, self.now);
                Ok(here(only.mark, format!("the only moment of the day that starts at {asked}")))
            }
            _ => Err(ResolveError::Ambiguous {
                why: Ambiguity::WholeDay,
                candidates: newest_first(candidates),
            }),
        }
    }

    fn event(
        &self,
        when: &When,
        what: &What,
        before: Option<&When>,
        first: bool,
    ) -> Result<Resolved, ResolveError> {
        let (bounds, why) = match before {
            Some(before) => self.bounds(before)?,
            None => (vec![Seq::MAX], Ambiguity::LogClock),
        };
        let mut found: Vec<Moment> = Vec::new();
        for &bound in &bounds {
            let event = if first {
                self.history
                    .first_event(self.line, what)
                    .map(|event| event.filter(|event| event.place.seq < bound))
            } else {
                self.history.last_event(self.line, what, bound)
            };
            let event = event.map_err(ResolveError::History)?;
            found.extend(event.filter(|event| found.iter().all(|known| known.place != event.place)));
        }
        match found.as_slice() {
            [] => {
                let near = bounds.iter().copied().max().unwrap_or(Seq::MAX).min(self.head()?.place.seq);
                let nearest = self.history.nearest(self.line, near, MAX_CANDIDATES);
                let candidates = self.all_told(&nearest.map_err(ResolveError::History)?)?;
                Err(ResolveError::NoSuchEvent { what: what.clone(), candidates })
            }
            [only] => Ok(at_event(only, format!("{when}: {}", printable(&only.event.label)))),
            several => {
                let candidates = newest_first(self.all_told(several)?);
                Err(ResolveError::Ambiguous { why, candidates })
            }
        }
    }

    /// The positions below which `before WHEN` searches, and the kind of ambiguity if there are several.
    fn bounds(&self, when: &When) -> Result<(Vec<Seq>, Ambiguity), ResolveError> {
        let instants = match (when, when.whole_day(self.now)) {
            // The moment at the head is not over yet, so an event at it is before now.
            (When::Now, _) => return Ok((vec![self.head()?.place.seq.next()], Ambiguity::LogClock)),
            (When::On { branch, when }, _) => return self.on(branch)?.bounds(when),
            (When::In { zone, when }, _) => {
                let now = self.now_in(zone)?;
                return Resolver { now: &now, ..*self }.bounds(when);
            }
            // The position itself, not the moment kept at or before it, which is itself before this position.
            (When::Seq(seq), _) => return self.at_seq(*seq).map(|_| (vec![*seq], Ambiguity::LogClock)),
            (_, Some((start, _))) => Some(Instants { all: vec![start], skipped: false }),
            _ => when.instants(self.now),
        };
        Ok(match instants {
            Some(instants) => {
                let found = self.find(&instants.all, true)?;
                (found.iter().map(|found| found.mark.place.seq.next()).collect(), readings(&instants))
            }
            None => (vec![self.resolve(when, WholeDay::Refuse)?.place.seq], Ambiguity::LogClock),
        })
    }

    fn point(&self, label: &str) -> Result<Resolved, ResolveError> {
        let mut points = self.history.points(label, MAX_CANDIDATES).map_err(ResolveError::History)?;
        // A point can be named on any line; only if a branch is named as well must the point be on it.
        let elsewhere = points.first().cloned();
        points.retain(|point| self.line == Line::Lived || self.history.is_on(self.line, point.place));
        points.dedup_by_key(|point| point.place);
        match points.as_slice() {
            [] => {
                if let (Line::Of(asked), Some(point)) = (self.line, elsewhere) {
                    return Err(ResolveError::PointElsewhere {
                        label: label.into(),
                        on: self.branch_name(point.place.branch).into(),
                        asked: self.branch_name(asked).into(),
                        candidates: vec![self.told(&point)?],
                    });
                }
                let candidates = self.newest_points()?;
                Err(ResolveError::UnknownPoint { label: label.into(), candidates })
            }
            [only] => Ok(at_event(only, format!("point {}", printable(label)))),
            several => {
                let candidates = newest_first(self.all_told(several)?);
                Err(ResolveError::Ambiguous { why: Ambiguity::Label, candidates })
            }
        }
    }

    fn newest_points(&self) -> Result<Vec<Candidate>, ResolveError> {
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut bound = Seq::MAX;
        while candidates.len() < MAX_CANDIDATES {
            let point = self.history.last_event(self.line, &What::Kind(Kind::Point), bound);
            let point = point.map_err(ResolveError::History)?.filter(|point| point.place.seq < bound);
            let Some(point) = point else { break };
            bound = point.place.seq;
            candidates.push(self.told(&point)?);
        }
        Ok(candidates)
    }

    fn unknown_branch<T>(&self, name: &str) -> Result<T, ResolveError> {
        let mut candidates = Vec::new();
        for other in self.history.branches(MAX_CANDIDATES).into_iter().take(MAX_CANDIDATES) {
            if let Some(mark) = self.history.head(Line::Of(other)).map_err(ResolveError::History)? {
                let label = format!("branch {}", self.branch_name(other));
                candidates.push(self.candidate(mark, label)?);
            }
        }
        Err(ResolveError::UnknownBranch { name: name.into(), candidates })
    }

    fn candidate(&self, mark: Mark, label: String) -> Result<Candidate, ResolveError> {
        let name = self.history.name_of(mark.place).map_err(ResolveError::History)?;
        Ok(Candidate { place: mark.place, time: mark.time, name: printable(&name), label })
    }

    fn newest(&self, head: Mark) -> Result<Candidate, ResolveError> {
        self.candidate(head, "now".to_owned())
    }

    fn oldest(&self, first: Mark) -> Result<Candidate, ResolveError> {
        self.candidate(first, "the first moment".to_owned())
    }

    /// An event as a candidate.
    fn told(&self, moment: &Moment) -> Result<Candidate, ResolveError> {
        let label = format!("{}: {}", moment.event.kind, moment.event.label);
        let label = printable(label.trim_end_matches([':', ' ']));
        self.candidate(Mark { place: moment.place, time: moment.time }, label)
    }

    fn all_told(&self, moments: &[Moment]) -> Result<Vec<Candidate>, ResolveError> {
        moments.iter().take(MAX_CANDIDATES).map(|moment| self.told(moment)).collect()
    }
}

/// The kind of ambiguity that instants may have.
fn readings(instants: &Instants) -> Ambiguity {
    if instants.all.len() > 1 { Ambiguity::WallClock } else { Ambiguity::LogClock }
}

fn here(mark: Mark, how: String) -> Resolved {
    Resolved { place: mark.place, time: mark.time, event: None, how }
}

fn at_event(moment: &Moment, how: String) -> Resolved {
    Resolved { place: moment.place, time: moment.time, event: Some(moment.event.clone()), how }
}

fn newest_first(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.place.seq));
    candidates.truncate(MAX_CANDIDATES);
    candidates
}

/// A label may come from a guest, so terminal control characters are removed.
fn printable(label: &str) -> String {
    let shown = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    label.chars().map(shown).collect()
}

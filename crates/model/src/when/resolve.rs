//! From [`When`] to a position in a history.
//!
//! Each reading of a text is looked up, and the text is ambiguous only when the readings lead to
//! different moments. Lookups are bounded: by [`MAX_CANDIDATES`] each, and by the depth of `before`.

use jiff::{Timestamp, Zoned};

use super::{
    Ambiguity, Asked, Candidate, History, MAX_CANDIDATES, Mark, ResolveError, What, When, clock,
    wall::{Instants, just_before},
};
use crate::{Kind, Micros, Moment, Seq};

/// A moment of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Where in the log.
    pub seq: Seq,
    /// When, by the clock of the log.
    pub time: Micros,
    /// On which branch, where the text or the event tells; else on the one that was asked about.
    pub branch: Option<String>,
    /// How the text was understood, in words.
    pub how: String,
}

/// What a day alone (`yesterday`, `2026-11-22`) means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WholeDay {
    /// It is ambiguous, unless nothing was recorded on that day.
    #[default]
    Refuse,
    /// Its first instant, as in `--since yesterday` and `last shutdown before tuesday`.
    Start,
    /// Its last instant or, while it is not over, now, as in `--until yesterday`.
    End,
}

impl When {
    /// Finds the nearest moment at or before this one; `now` brings the time zone.
    ///
    /// # Errors
    /// There is no such moment, or several; see [`ResolveError`]. A day alone is refused, unless nothing
    /// was recorded on it.
    pub fn resolve(&self, history: &dyn History, now: &Zoned) -> Result<Resolved, ResolveError> {
        self.resolve_day(history, now, WholeDay::Refuse)
    }

    /// The same where a day alone has a meaning.
    ///
    /// # Errors
    /// As [`When::resolve`].
    pub fn resolve_day(
        &self,
        history: &dyn History,
        now: &Zoned,
        whole_day: WholeDay,
    ) -> Result<Resolved, ResolveError> {
        Resolver { history, now }.resolve(self, whole_day)
    }
}

struct Resolver<'a> {
    history: &'a dyn History,
    now: &'a Zoned,
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
            When::Now => Ok(here(self.head()?, "the newest moment".to_owned())),
            When::Seq(seq) => self.at_seq(*seq),
            When::Last { what, before } => self.event(when, what, before.as_deref(), false),
            When::First { what, before } => self.event(when, what, before.as_deref(), true),
            When::Point(label) => self.point(label),
            When::Branch(name) => self.branch(name),
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
        self.history.head().map_err(ResolveError::History)?.ok_or(ResolveError::Empty)
    }

    fn first(&self) -> Result<Mark, ResolveError> {
        self.history.first().map_err(ResolveError::History)?.ok_or(ResolveError::Empty)
    }

    fn at_seq(&self, seq: Seq) -> Result<Resolved, ResolveError> {
        let head = self.head()?;
        if seq > head.seq {
            return Err(ResolveError::NoSuchSeq { asked: seq, candidates: vec![newest(head)] });
        }
        match self.history.at_seq(seq).map_err(ResolveError::History)? {
            Some(mark) if mark.seq == seq => Ok(here(mark, format!("seq:{seq}"))),
            Some(mark) => Ok(here(mark, format!("the last moment kept at or before seq:{seq}"))),
            None => Err(ResolveError::NoSuchSeq { asked: seq, candidates: vec![oldest(self.first()?)] }),
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
            _ => Err(self.ambiguous(&found, readings(instants))),
        }
    }

    fn ambiguous(&self, found: &[Found], why: Ambiguity) -> ResolveError {
        let label = |found: &Found| match why {
            Ambiguity::LogClock => format!("in era {} of the log's clock", found.era),
            _ => format!("at {}", Asked::new(found.at, self.now)),
        };
        let candidates = found.iter().map(|found| candidate(found.mark, label(found)));
        ResolveError::Ambiguous { why, candidates: newest_first(candidates.collect()) }
    }

    /// The moments at or before (strictly before, if `exclusive`) each of some instants, in every era.
    /// At least one; none twice.
    fn find(&self, instants: &[Timestamp], exclusive: bool) -> Result<Vec<Found>, ResolveError> {
        let head = self.head()?;
        let now = clock::micros(self.now.timestamp());
        let mut found: Vec<Found> = Vec::new();
        for &at in instants {
            let time = clock::micros(if exclusive { just_before(at) } else { at });
            for hit in self.history.at_time(time).map_err(ResolveError::History)? {
                // A time after now is no moment, unless a clock that was wrong has recorded it.
                let unseen = time > now && hit.mark.seq == head.seq && hit.mark.time != time;
                if !unseen && found.iter().all(|known| known.mark.seq != hit.mark.seq) {
                    found.push(Found { mark: hit.mark, at, era: hit.era });
                }
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let asked = Asked::new(instants.first().copied().unwrap_or(Timestamp::MIN), self.now);
        Err(if asked.at > self.now.timestamp() {
            ResolveError::Future { asked, candidates: vec![newest(head)] }
        } else {
            ResolveError::BeforeHistory { asked, candidates: vec![oldest(self.first()?)] }
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
        let mut candidates: Vec<Candidate> =
            late.iter().map(|found| candidate(found.mark, "at its end".to_owned())).collect();
        for mark in early {
            if candidates.iter().all(|known| known.seq != mark.seq) {
                candidates.push(candidate(mark, "at its start".to_owned()));
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
                self.history.first_event(what).map(|event| event.filter(|event| event.seq < bound))
            } else {
                self.history.last_event(what, bound)
            };
            let event = event.map_err(ResolveError::History)?;
            found.extend(event.filter(|event| found.iter().all(|known| known.seq != event.seq)));
        }
        match found.as_slice() {
            [] => {
                let near = bounds.iter().copied().max().unwrap_or(Seq::MAX).min(self.head()?.seq);
                let nearest = self.history.nearest(near, MAX_CANDIDATES).map_err(ResolveError::History)?;
                let candidates = nearest.iter().take(MAX_CANDIDATES).map(told).collect();
                Err(ResolveError::NoSuchEvent { what: what.clone(), candidates })
            }
            [only] => Ok(at_event(only, format!("{when}: {}", printable(&only.event.label)))),
            several => {
                let candidates = newest_first(several.iter().map(told).collect());
                Err(ResolveError::Ambiguous { why, candidates })
            }
        }
    }

    /// The positions below which `before WHEN` looks, and why there may be several.
    fn bounds(&self, when: &When) -> Result<(Vec<Seq>, Ambiguity), ResolveError> {
        let instants = match (when, when.whole_day(self.now)) {
            // The head is not yet over: an event at it is before now.
            (When::Now, _) => return Ok((vec![self.head()?.seq.next()], Ambiguity::LogClock)),
            (When::Branch(name), _) => return Ok((vec![self.branch(name)?.seq.next()], Ambiguity::LogClock)),
            // Not the moment kept at or before it, which is before it itself.
            (When::Seq(seq), _) => return self.at_seq(*seq).map(|_| (vec![*seq], Ambiguity::LogClock)),
            (_, Some((start, _))) => Some(Instants { all: vec![start], skipped: false }),
            _ => when.instants(self.now),
        };
        Ok(match instants {
            Some(instants) => {
                let found = self.find(&instants.all, true)?;
                (found.iter().map(|found| found.mark.seq.next()).collect(), readings(&instants))
            }
            None => (vec![self.resolve(when, WholeDay::Refuse)?.seq], Ambiguity::LogClock),
        })
    }

    fn point(&self, label: &str) -> Result<Resolved, ResolveError> {
        let mut points = self.history.points(label, MAX_CANDIDATES).map_err(ResolveError::History)?;
        points.dedup_by_key(|point| point.seq);
        match points.as_slice() {
            [] => {
                let candidates = self.newest_points()?;
                Err(ResolveError::UnknownPoint { label: label.into(), candidates })
            }
            [only] => Ok(at_event(only, format!("point {}", printable(label)))),
            several => {
                let candidates = newest_first(several.iter().map(told).collect());
                Err(ResolveError::Ambiguous { why: Ambiguity::Label, candidates })
            }
        }
    }

    fn newest_points(&self) -> Result<Vec<Candidate>, ResolveError> {
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut bound = Seq::MAX;
        while candidates.len() < MAX_CANDIDATES {
            let point = self.history.last_event(&What::Kind(Kind::Point), bound);
            let Some(point) = point.map_err(ResolveError::History)?.filter(|point| point.seq < bound) else {
                break;
            };
            bound = point.seq;
            candidates.push(told(&point));
        }
        Ok(candidates)
    }

    fn branch(&self, name: &str) -> Result<Resolved, ResolveError> {
        if let Some(mark) = self.history.branch_head(name).map_err(ResolveError::History)? {
            let how = format!("the head of branch {}", printable(name));
            return Ok(Resolved { branch: Some(name.to_owned()), ..here(mark, how) });
        }
        let mut candidates = Vec::new();
        let known = self.history.branch_names(MAX_CANDIDATES).map_err(ResolveError::History)?;
        for other in known.iter().take(MAX_CANDIDATES) {
            if let Some(mark) = self.history.branch_head(other).map_err(ResolveError::History)? {
                candidates.push(candidate(mark, format!("branch {}", printable(other))));
            }
        }
        Err(ResolveError::UnknownBranch { name: name.into(), candidates })
    }
}

/// Why instants may lead to several moments.
fn readings(instants: &Instants) -> Ambiguity {
    if instants.all.len() > 1 { Ambiguity::WallClock } else { Ambiguity::LogClock }
}

fn here(mark: Mark, how: String) -> Resolved {
    Resolved { seq: mark.seq, time: mark.time, branch: None, how }
}

fn at_event(moment: &Moment, how: String) -> Resolved {
    Resolved { seq: moment.seq, time: moment.time, branch: Some(moment.branch.clone()), how }
}

fn candidate(mark: Mark, label: String) -> Candidate {
    Candidate { seq: mark.seq, time: mark.time, label }
}

fn newest(head: Mark) -> Candidate {
    candidate(head, "now".to_owned())
}

fn oldest(first: Mark) -> Candidate {
    candidate(first, "the first moment".to_owned())
}

/// An event as a candidate.
fn told(moment: &Moment) -> Candidate {
    let label = format!("{}: {}", moment.event.kind, moment.event.label);
    let label = printable(label.trim_end_matches([':', ' ']));
    Candidate { seq: moment.seq, time: moment.time, label }
}

fn newest_first(mut candidates: Vec<Candidate>) -> Vec<Candidate> {
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.seq));
    candidates.truncate(MAX_CANDIDATES);
    candidates
}

/// A label may come from a guest: what steers a terminal is taken out.
fn printable(label: &str) -> String {
    label.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

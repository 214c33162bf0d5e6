//! Tests of the grammar. Zones are POSIX strings, so that no test depends on the host's tzdata.

use jiff::{Timestamp, Zoned, tz::TimeZone};

use super::{History, HistoryError, Line, Mark, TimeHit, What, When};
use crate::{BranchId, Event, Grade, Kind, Micros, Moment, Place, Seq};

mod grammar;
mod properties;
mod resolution;
mod wall_clock;
mod words;

fn tokyo() -> TimeZone {
    TimeZone::posix("JST-9").unwrap()
}

fn new_york() -> TimeZone {
    TimeZone::posix("EST5EDT,M3.2.0,M11.1.0").unwrap()
}

fn at(text: &str) -> Micros {
    Micros(text.parse::<Timestamp>().unwrap().as_microsecond())
}

fn now_in(text: &str, zone: TimeZone) -> Zoned {
    text.parse::<Timestamp>().unwrap().to_zoned(zone)
}

/// Wednesday noon in Tokyo.
fn noon() -> Zoned {
    now_in("2026-11-25T12:00:00+09:00", tokyo())
}

/// A history that answers from a list and follows the contract literally: the model of an implementation.
#[derive(Default)]
struct Listed {
    /// By position; `None` for a moment without an event.
    log: Vec<(Mark, Option<Event>)>,
    /// By id. Each has the moments up to its head.
    branches: Vec<(String, Mark)>,
    broken: bool,
}

fn mark(seq: u64, time: &str) -> Mark {
    Mark { place: Place::new(BranchId(0), Seq(seq)), time: at(time) }
}

impl Listed {
    /// A log without events; moments are numbered 10, 20, 30, …
    fn of_times<'a>(times: impl IntoIterator<Item = &'a str>) -> Listed {
        Listed::of(times.into_iter().map(|time| (time, None)))
    }

    fn of<'a>(moments: impl IntoIterator<Item = (&'a str, Option<Event>)>) -> Listed {
        let log =
            moments.into_iter().zip(1..).map(|((time, event), n)| (mark(10 * n, time), event)).collect();
        Listed { log, ..Listed::default() }
    }

    fn events(&self) -> impl DoubleEndedIterator<Item = Moment> + '_ {
        self.log.iter().filter_map(|(mark, event)| {
            let event = event.clone()?;
            Some(Moment { place: mark.place, time: mark.time, event })
        })
    }

    fn whole(&self) -> Result<(), HistoryError> {
        if self.broken { Err("the disk is gone".into()) } else { Ok(()) }
    }

    /// The last position of a line.
    fn end(&self, line: Line) -> Seq {
        match line {
            Line::Lived => Seq::MAX,
            Line::Of(branch) => self.branches[branch.0 as usize].1.place.seq,
        }
    }

    fn marks(&self, line: Line) -> impl Iterator<Item = Mark> + '_ {
        let end = self.end(line);
        self.log.iter().map(|(mark, _)| *mark).take_while(move |mark| mark.place.seq <= end)
    }
}

impl History for Listed {
    fn head(&self, line: Line) -> Result<Option<Mark>, HistoryError> {
        self.whole()?;
        match line {
            Line::Lived => Ok(self.log.last().map(|(mark, _)| *mark)),
            Line::Of(branch) => Ok(Some(self.branches[branch.0 as usize].1)),
        }
    }

    fn first(&self, _: Line) -> Result<Option<Mark>, HistoryError> {
        Ok(self.log.first().map(|(mark, _)| *mark))
    }

    fn at_seq(&self, line: Line, seq: Seq) -> Result<Option<Mark>, HistoryError> {
        Ok(self.marks(line).take_while(|mark| mark.place.seq <= seq).last())
    }

    fn at_time(&self, line: Line, time: Micros) -> Result<Vec<TimeHit>, HistoryError> {
        let mut hits = Vec::new();
        let mut era = 0;
        let marks: Vec<Mark> = self.marks(line).collect();
        for (i, mark) in marks.iter().enumerate() {
            let next = marks.get(i + 1).map(|next| next.time);
            let set_back = next.is_some_and(|next| next < mark.time);
            let passes = next.is_none_or(|next| next > time) || (mark.time == time && set_back);
            if mark.time <= time && passes {
                hits.push(TimeHit { mark: *mark, era });
            }
            era += u32::from(set_back);
        }
        Ok(hits)
    }

    fn last_event(&self, line: Line, what: &What, before: Seq) -> Result<Option<Moment>, HistoryError> {
        let before = before.min(self.end(line).next());
        Ok(self.events().rfind(|event| event.place.seq < before && what.matches(&event.event)))
    }

    fn first_event(&self, line: Line, what: &What) -> Result<Option<Moment>, HistoryError> {
        let end = self.end(line);
        Ok(self.events().find(|event| event.place.seq <= end && what.matches(&event.event)))
    }

    fn points(&self, label: &str, limit: usize) -> Result<Vec<Moment>, HistoryError> {
        let labelled = |event: &Moment| event.event.kind == Kind::Point && event.event.label == label;
        Ok(self.events().rev().filter(labelled).take(limit).collect())
    }

    fn nearest(&self, _: Line, seq: Seq, limit: usize) -> Result<Vec<Moment>, HistoryError> {
        let mut events: Vec<Moment> = self.events().collect();
        events.sort_by_key(|event| event.place.seq.0.abs_diff(seq.0));
        events.truncate(limit);
        Ok(events)
    }

    fn is_on(&self, line: Line, place: Place) -> bool {
        place.seq <= self.end(line)
    }

    fn branch(&self, name: &str) -> Option<BranchId> {
        let at = match name.strip_prefix("id:") {
            Some(number) => number.parse().ok().filter(|at| *at < self.branches.len()),
            None => self.branches.iter().position(|(known, _)| known == name),
        };
        at.map(|at| BranchId(u32::try_from(at).unwrap()))
    }

    fn branches(&self, limit: usize) -> Vec<BranchId> {
        (0..self.branches.len()).take(limit).map(|at| BranchId(u32::try_from(at).unwrap())).collect()
    }

    fn branch_name(&self, branch: BranchId) -> String {
        self.branches[branch.0 as usize].0.clone()
    }

    fn name_of(&self, place: Place) -> Result<String, HistoryError> {
        Ok(format!("seq:{}", place.seq))
    }

    fn zone(&self, name: &str) -> Option<TimeZone> {
        // Case-insensitive, as in the tz database.
        name.eq_ignore_ascii_case("America/New_York").then(new_york)
    }
}

/// Three and a half weeks of a machine, in Tokyo's time, up to shortly before [`noon`].
fn november() -> Listed {
    let event = |kind, label: &str, grade| Some(Event::new(kind, label).graded(grade));
    let mut history = Listed::of([
        /*  10 */ ("2026-11-01T08:00:00+09:00", event(Kind::Boot, "booted", Grade::Crash)),
        /*  20 */
        ("2026-11-10T23:00:00+09:00", event(Kind::Package, "apt install nginx=1.22", Grade::Crash)),
        /*  30 */ ("2026-11-17T22:00:00+09:00", event(Kind::Shutdown, "powered off", Grade::Stopped)),
        /*  40 */ ("2026-11-18T08:00:00+09:00", event(Kind::Boot, "booted", Grade::Crash)),
        /*  50 */ ("2026-11-22T15:00:00+09:00", None),
        /*  60 */ ("2026-11-22T15:04:05+09:00", None),
        /*  70 */ ("2026-11-23T22:00:00+09:00", event(Kind::Shutdown, "powered off", Grade::Clean)),
        /*  80 */ ("2026-11-24T08:30:00+09:00", event(Kind::Boot, "booted", Grade::Crash)),
        /*  90 */ ("2026-11-24T14:58:00+09:00", None),
        /* 100 */ ("2026-11-24T15:10:00+09:00", event(Kind::Point, "before-upgrade", Grade::Flushed)),
        /* 110 */ ("2026-11-25T08:00:00+09:00", None),
        /* 120 */ ("2026-11-25T10:59:00+09:00", None),
        /* 130 */ ("2026-11-25T11:58:45+09:00", None),
        /* 140 */ ("2026-11-25T11:59:30+09:00", None),
    ]);
    history.branches = vec![
        ("main".to_owned(), mark(140, "2026-11-25T11:59:30+09:00")),
        ("try-1".to_owned(), mark(75, "2026-11-24T00:00:00+09:00")),
    ];
    history
}

fn parsed(text: &str) -> When {
    When::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

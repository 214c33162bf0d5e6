//! The grammar as claims. Zones are POSIX strings, so that no test depends on the machine's tzdata.

use jiff::{Timestamp, Zoned, tz::TimeZone};

use super::{History, HistoryError, Mark, TimeHit, What, When};
use crate::{Event, Grade, Kind, Micros, Moment, Seq};

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

/// A history that answers from a list, by the words of the contract and nothing cleverer: the model of
/// what an implementation has to do.
#[derive(Default)]
struct Listed {
    /// By position; `None` for a moment at which nothing is told of.
    log: Vec<(Mark, Option<Event>)>,
    branches: Vec<(String, Mark)>,
    broken: bool,
}

impl Listed {
    /// A log without events; moments are numbered 10, 20, 30, …
    fn of_times<'a>(times: impl IntoIterator<Item = &'a str>) -> Listed {
        Listed::of(times.into_iter().map(|time| (time, None)))
    }

    fn of<'a>(moments: impl IntoIterator<Item = (&'a str, Option<Event>)>) -> Listed {
        let log = moments
            .into_iter()
            .zip(1..)
            .map(|((time, event), n)| (Mark { seq: Seq(10 * n), time: at(time) }, event))
            .collect();
        Listed { log, ..Listed::default() }
    }

    fn events(&self) -> impl DoubleEndedIterator<Item = Moment> + '_ {
        self.log.iter().filter_map(|(mark, event)| {
            let event = event.clone()?;
            Some(Moment { seq: mark.seq, time: mark.time, branch: "main".to_owned(), event })
        })
    }

    fn whole(&self) -> Result<(), HistoryError> {
        if self.broken { Err("the disk is gone".into()) } else { Ok(()) }
    }
}

impl History for Listed {
    fn head(&self) -> Result<Option<Mark>, HistoryError> {
        self.whole()?;
        Ok(self.log.last().map(|(mark, _)| *mark))
    }

    fn first(&self) -> Result<Option<Mark>, HistoryError> {
        Ok(self.log.first().map(|(mark, _)| *mark))
    }

    fn at_seq(&self, seq: Seq) -> Result<Option<Mark>, HistoryError> {
        Ok(self.log.iter().map(|(mark, _)| *mark).take_while(|mark| mark.seq <= seq).last())
    }

    fn at_time(&self, time: Micros) -> Result<Vec<TimeHit>, HistoryError> {
        let mut hits = Vec::new();
        let mut era = 0;
        for (i, (mark, _)) in self.log.iter().enumerate() {
            let next = self.log.get(i + 1).map(|(next, _)| next.time);
            let set_back = next.is_some_and(|next| next < mark.time);
            let passes = next.is_none_or(|next| next > time) || (mark.time == time && set_back);
            if mark.time <= time && passes {
                hits.push(TimeHit { mark: *mark, era });
            }
            era += u32::from(set_back);
        }
        Ok(hits)
    }

    fn last_event(&self, what: &What, before: Seq) -> Result<Option<Moment>, HistoryError> {
        Ok(self.events().rfind(|event| event.seq < before && what.matches(&event.event)))
    }

    fn first_event(&self, what: &What) -> Result<Option<Moment>, HistoryError> {
        Ok(self.events().find(|event| what.matches(&event.event)))
    }

    fn points(&self, label: &str, limit: usize) -> Result<Vec<Moment>, HistoryError> {
        let labelled = |event: &Moment| event.event.kind == Kind::Point && event.event.label == label;
        Ok(self.events().rev().filter(labelled).take(limit).collect())
    }

    fn nearest(&self, seq: Seq, limit: usize) -> Result<Vec<Moment>, HistoryError> {
        let mut events: Vec<Moment> = self.events().collect();
        events.sort_by_key(|event| event.seq.0.abs_diff(seq.0));
        events.truncate(limit);
        Ok(events)
    }

    fn branch_head(&self, name: &str) -> Result<Option<Mark>, HistoryError> {
        Ok(self.branches.iter().find(|(known, _)| known == name).map(|(_, mark)| *mark))
    }

    fn branch_names(&self, limit: usize) -> Result<Vec<String>, HistoryError> {
        Ok(self.branches.iter().map(|(name, _)| name.clone()).take(limit).collect())
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
        ("main".to_owned(), Mark { seq: Seq(140), time: at("2026-11-25T11:59:30+09:00") }),
        ("try-1".to_owned(), Mark { seq: Seq(75), time: at("2026-11-24T00:00:00+09:00") }),
    ];
    history
}

fn parsed(text: &str) -> When {
    When::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

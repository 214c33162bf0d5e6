//! Moments of a target's past, and every form in which one can ask for them.
//!
//! After each round nothing is done for a moment: a [`Mark`]. What the target was there is known from the model, so
//! every text that means that place, or another that follows from it, has one answer, whatever becomes of the target
//! later.

use std::collections::BTreeMap;

use bygone_model::{Grade, Kind, Micros, Seq};
use jiff::{Span, Timestamp, Zoned, fmt::temporal::DateTimeParser, tz::TimeZone};

use super::{
    Random, clock,
    model::{Content, Happened, Model},
};
use crate::{Error, api::MomentInfo, manager::tests::wait_for, target::Target, timeline::rfc3339};

const ZONES: [&str; 3] = ["UTC", "Asia/Tokyo", "+05:45"];
/// So many answers are remembered, to be asked for again by the text that was said to mean them for good.
const TOLD_MAX: usize = 24;
/// The clock may go back by so much before its times do.
const STANDS_STILL_US: i64 = 2_000_000;
const DAY_US: i64 = 86_400_000_000;

/// A text that means a moment, or none.
#[derive(Clone, Debug)]
pub(super) struct At {
    pub(super) text: String,
    /// The time zone of whoever asks, …
    pub(super) zone: &'static str,
    /// … and when they do, if not now.
    pub(super) now: Option<Timestamp>,
    pub(super) meant: Meant,
}

/// What a text means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meant {
    /// A place: on which branch, if that is known, and within which records; and what the branches held then. If it is
    /// not `exact`, what the disk outside held may have been read only later.
    Place { branch: Option<usize>, seqs: (u64, u64), contents: Vec<Content>, exact: bool },
    /// None, for this reason.
    None(&'static str),
}

/// A place that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) branch: String,
    pub(super) seq: u64,
    pub(super) time: Micros,
    pub(super) grade: Grade,
}

impl Place {
    pub(super) fn of(moment: &MomentInfo) -> Place {
        let time: Timestamp = moment.time.parse().unwrap();
        Place {
            branch: moment.branch.clone(),
            seq: moment.seq,
            time: Micros(time.as_microsecond()),
            grade: moment.grade,
        }
    }
}

/// Why a text means no moment, in a word.
pub(super) fn why(error: &Error) -> &'static str {
    use bygone_model::when::ResolveError;
    match error {
        Error::When { .. } => "unreadable",
        Error::Moment { source, .. } => match **source {
            ResolveError::Ambiguous { .. } => "ambiguous",
            ResolveError::UnknownPoint { .. } => "no point",
            ResolveError::PointElsewhere { .. } => "elsewhere",
            ResolveError::UnknownBranch { .. } => "no branch",
            ResolveError::NoSuchSeq { .. } => "no seq",
            ResolveError::NoSuchEvent { .. } => "no event",
            ResolveError::Future { .. } => "future",
            ResolveError::BeforeHistory { .. } => "before",
            _ => "else",
        },
        _ => "no moment",
    }
}

impl At {
    pub(super) fn point(label: &str, model: &Model) -> At {
        let point = &model.points[label];
        let meant = Meant::at(model, point.branch, (point.seq, point.seq), point.content);
        At::new(format!("point:{label}"), meant)
    }

    fn new(text: String, meant: Meant) -> At {
        At { text, zone: "UTC", now: None, meant }
    }

    /// Now, for whoever asks.
    pub(super) fn now(&self, now: Micros) -> Zoned {
        let now = Timestamp::from_microsecond(now.0).unwrap();
        self.now.unwrap_or(now).to_zoned(zone(self.zone))
    }
}

fn zone(name: &str) -> TimeZone {
    DateTimeParser::new().parse_time_zone(name).unwrap()
}

impl Meant {
    /// One branch, which held this.
    fn at(model: &Model, branch: usize, seqs: (u64, u64), content: Content) -> Meant {
        let mut contents: Vec<Content> = model.branches.iter().map(|branch| branch.content).collect();
        contents[branch] = content;
        Meant::Place { branch: Some(branch), seqs, contents, exact: true }
    }

    /// What the branch held that was answered; nothing if this was not meant.
    pub(super) fn content(&self, branch: usize, seq: u64) -> Option<Content> {
        let Meant::Place { branch: wanted, seqs, contents, .. } = self else { return None };
        let fits = wanted.is_none_or(|wanted| wanted == branch) && (seqs.0..=seqs.1).contains(&seq);
        contents.get(branch).copied().filter(|_| fits)
    }

    fn seqs(&self) -> (u64, u64) {
        if let Meant::Place { seqs, .. } = self { *seqs } else { (0, 0) }
    }

    /// Whatever becomes of the disk outside, what it held is known.
    pub(super) fn is_exact(&self) -> bool {
        matches!(self, Meant::Place { exact: true, .. })
    }
}

/// A moment at which nothing was done.
#[derive(Debug)]
struct Mark {
    /// The last record.
    seq: u64,
    /// Later than that, and earlier than the next one if the clock is not set meanwhile.
    time: Micros,
    present: usize,
    contents: Vec<Content>,
    /// What the disk outside held was known to the store.
    exact: bool,
}

/// What is known of a target's past.
#[derive(Debug, Default)]
pub(super) struct Past {
    marks: Vec<Mark>,
    /// By branch: up to which record it was not there yet, and from which on it was; the same of its drop.
    made: Vec<(u64, u64)>,
    dropped: BTreeMap<usize, (u64, u64)>,
    /// When records were written, as it was said.
    times: BTreeMap<u64, Micros>,
    /// When each was, as the log says it right after.
    records: Vec<Micros>,
    /// Which log that is.
    log: Option<[u8; 16]>,
    /// So many events have their place.
    events: usize,
    /// Texts that were said to mean a moment for good.
    told: Vec<(String, usize, u64, Content)>,
}

/// Which line a text speaks of.
#[derive(Clone, Copy)]
enum Line {
    Lived,
    Of(usize),
}

impl Past {
    /// Nothing is being done now.
    pub(super) fn mark(&mut self, target: &Target, model: &mut Model, alone: bool, undone: bool) {
        let log = &target.log;
        let after = |time: Micros| loop {
            let now = log.now();
            if now > time {
                break now;
            }
            std::thread::yield_now();
        };
        let is_exact = |seq: Seq| {
            let catalog = log.catalog();
            catalog.volumes_of(catalog.head, Seq::MAX).all(|volume| catalog.is_exact(volume.id, seq))
        };
        // A disk that was changed is read again, which a kill may have interrupted.
        let may_be_unread = model.renamed || model.changed.is_some();
        let (seq, time) = loop {
            let seq = log.head_seq();
            let is_at_rest = || target.is_quiet() && (may_be_unread || is_exact(seq));
            wait_for("the target to be at rest", || log.head_seq() > seq || is_at_rest());
            let time = after(log.now());
            after(time);
            if log.head_seq() == seq {
                break (seq.0, time);
            }
        };
        let known = self.records.len() as u64 + 1;
        self.records.extend((known..=seq).map(|seq| log.time_of(Seq(seq)).unwrap()));
        self.log = Some(log.id());
        let last = self.marks.last().map_or(0, |mark| mark.seq);
        self.made.resize(model.branches.len(), (last, seq));
        self.made[0] = (0, 0);
        for (id, branch) in model.branches.iter().enumerate() {
            match self.dropped.get_mut(&id) {
                _ if !branch.dropped => drop(self.dropped.remove(&id)),
                None => drop(self.dropped.insert(id, (last, seq))),
                // It may have been back in between.
                Some(dropped) if undone && !alone => dropped.1 = seq,
                Some(_) => {}
            }
        }
        for (event, seen) in
            model.events.iter_mut().skip(self.events).zip(super::found::happened(target, last))
        {
            assert!(event.seq.is_none_or(|told| told == seen.seq), "{event:?} is {seen:?}");
            event.seq = Some(seen.seq);
            // What was done at the time of a panic may have come before it.
            event.content = seen.content.unwrap_or(event.content);
            event.lived = seen.lived;
            self.note_time(seen.seq, seen.time);
        }
        self.events = model.events.len();
        self.note_time(seq, log.time_of(Seq(seq)).unwrap());
        for (label, branch, at) in super::found::points_of(target) {
            if let Some(point) = model.points.get_mut(&label) {
                let id = target.log.catalog().branch(branch).unwrap().name.clone();
                assert_eq!(model.branches[point.branch].name, id, "{label}");
                assert!(point.seq == 0 || point.seq == at.0, "{label}");
                point.seq = at.0;
            }
        }
        let contents = model.branches.iter().map(|branch| branch.content).collect();
        self.marks.push(Mark { seq, time, present: model.head, contents, exact: is_exact(Seq(seq)) });
    }

    /// This was said to mean that place, whatever becomes of the target.
    pub(super) fn note_told(&mut self, model: &Model, text: String, place: &Place, content: Content) {
        let branch = model.branches.iter().position(|branch| branch.name == place.branch).unwrap();
        if self.told.len() < TOLD_MAX {
            self.told.push((text, branch, place.seq, content));
        }
    }

    /// A record was said to be of this time: it always is.
    pub(super) fn note_time(&mut self, seq: u64, time: Micros) {
        assert_eq!(*self.times.entry(seq).or_insert(time), time, "the time of record {seq}");
    }

    /// It is the past of another target.
    pub(super) fn is_of_another(&self, target: &Target) -> bool {
        self.log.is_some_and(|log| log != target.log.id())
    }

    pub(super) fn head(&self) -> u64 {
        self.marks.last().map_or(0, |mark| mark.seq)
    }

    /// The place of a branch's line right after a mark.
    fn on(&self, model: &Model, branch: usize, mark: &Mark) -> Option<Meant> {
        let seq = mark.seq;
        let (before, from) = self.made[branch];
        if seq >= from {
            let contents = mark.contents.clone();
            return match self.dropped.get(&branch) {
                Some((_, gone)) if seq >= *gone => Some(self.end_of(model, branch)),
                Some((last, _)) if seq > *last => None,
                _ => {
                    let exact = mark.exact || branch != mark.present;
                    Some(Meant::Place { branch: Some(branch), seqs: (seq, seq), contents, exact })
                }
            };
        }
        let (parent, from) = model.branches[branch].from?;
        match seq {
            _ if seq > before => None,
            _ if seq >= from => Some(Meant::at(model, parent, (from, from), model.branches[branch].first)),
            _ => self.on(model, parent, mark),
        }
    }

    /// What a time means, on the lived line or that of a branch, to whoever asks at `asked`; nothing if that is not
    /// known.
    fn at_time(
        &self,
        model: &Model,
        line: Option<usize>,
        time: Micros,
        asked: Micros,
        alone: bool,
    ) -> Option<Meant> {
        let last = self.records.last()?.0;
        // A record that is written meanwhile may be of that time.
        let next = if last - asked.0 > STANDS_STILL_US { asked.0 } else { last.max(asked.0) };
        if !alone && time.0 >= next {
            return None;
        }
        // Of what is later than now, only what was written since is a moment, and that is not known here.
        if time > asked {
            return None;
        }
        let mut meant: Vec<Meant> = Vec::new();
        for seq in clock::meant(&self.records, time) {
            let mark = self.marks.iter().find(|mark| mark.seq == seq)?;
            let place = match line {
                Some(branch) => self.on(model, branch, mark)?,
                None => Meant::Place {
                    branch: Some(mark.present),
                    seqs: (seq, seq),
                    contents: mark.contents.clone(),
                    exact: mark.exact,
                },
            };
            let Meant::Place { seqs, .. } = &place else { return None };
            if meant.iter().all(|other| other.seqs() != *seqs) {
                meant.push(place);
            }
        }
        match meant.len() {
            0 => None,
            1 => meant.pop(),
            _ => Some(Meant::None("ambiguous")),
        }
    }

    /// The last moment of a branch.
    fn end_of(&self, model: &Model, branch: usize) -> Meant {
        let seqs = match self.dropped.get(&branch) {
            Some((last, gone)) => (last + 1, *gone),
            None => (self.head(), u64::MAX),
        };
        Meant::at(model, branch, seqs, model.branches[branch].content)
    }

    /// Whether places within these records of a branch are on this branch's line, if that is certain.
    fn is_on(&self, model: &Model, line: usize, branch: usize, seqs: (u64, u64)) -> Option<bool> {
        if line == branch {
            return match self.dropped.get(&branch) {
                Some((last, _)) if seqs.1 <= *last => Some(true),
                Some((_, gone)) if seqs.0 > *gone => Some(false),
                Some(_) => None,
                None => Some(true),
            };
        }
        match model.branches[line].from {
            None => Some(false),
            Some((parent, from)) if seqs.1 <= from => self.is_on(model, parent, branch, seqs),
            Some((_, from)) if seqs.0 > from => Some(false),
            Some(_) => None,
        }
    }

    /// The last, or first, of these events, if that is certain.
    fn event(
        &self,
        model: &Model,
        is_meant: &dyn Fn(&Happened) -> bool,
        line: Line,
        first: bool,
        before: u64,
    ) -> Option<Meant> {
        let mut events: Vec<_> = model.events.iter().filter(|event| is_meant(event)).collect();
        if !first {
            events.reverse();
        }
        for event in events {
            let seq = event.seq?;
            let on = match line {
                Line::Lived => event.lived,
                Line::Of(branch) => self.is_on(model, branch, event.branch, (seq, seq))?,
            };
            if on && seq < before {
                let mut meant = Meant::at(model, event.branch, (seq, seq), event.content);
                if let Meant::Place { exact, .. } = &mut meant {
                    *exact = event.exact;
                }
                return Some(meant);
            }
            if on && first {
                break;
            }
        }
        Some(Meant::None("no event"))
    }

    /// A text that means the time of a mark; asked in which zone, and when, if not now.
    fn time(
        &self,
        mark: &Mark,
        random: &mut Random,
        odd: bool,
        now: Micros,
    ) -> (String, &'static str, Option<Timestamp>) {
        let asked = ZONES[random.below(ZONES.len())];
        let here = Timestamp::from_microsecond(mark.time.0).unwrap().to_zoned(zone(asked));
        let clock = here.strftime("%H:%M:%S%.6f").to_string();
        let date = here.strftime("%Y-%m-%d").to_string();
        let later = |span: Span| Some(here.checked_add(span).unwrap().timestamp());
        let n = random.below(40) as i64 + 1;
        match random.below(if odd { 12 } else { 5 }) {
            0 => (rfc3339(mark.time), asked, None),
            1 => (format!("{date} {clock}"), asked, None),
            2 => (format!("{date}T{clock} {asked}"), "UTC", None),
            3 if (0..DAY_US).contains(&(now.0 - mark.time.0)) => (format!("at {clock}"), asked, None),
            3 | 4 => (format!("{date} at {clock}"), asked, None),
            5 => (format!("{n} seconds ago"), asked, later(Span::new().seconds(n))),
            6 => (format!("{n}m ago"), asked, later(Span::new().minutes(n))),
            7 => (format!("{n} days ago {clock}"), asked, later(Span::new().days(n))),
            8 => (format!("Yesterday {clock}"), asked, later(Span::new().days(1))),
            9 => (format!("today {clock}"), asked, later(Span::new())),
            10 => (here.strftime("%A %H:%M:%S%.6f").to_string(), asked, later(Span::new())),
            _ => ("an hour ago".to_owned(), asked, later(Span::new().hours(1))),
        }
    }

    /// A text, and what it means. What others do meanwhile makes no difference, unless it is asked `alone`.
    pub(super) fn text(&self, model: &Model, random: &mut Random, alone: bool, clock: Micros) -> Option<At> {
        let mark = random.pick(&self.marks)?;
        let branch = random.below(model.branches.len());
        let gone = model.branches[branch].dropped;
        let name = match model.branches[branch].name.as_str() {
            name if alone && !gone && random.one_in(2) => name.to_owned(),
            _ => format!("id:{branch}"),
        };
        let (time, zone, now) = self.time(mark, random, alone, clock);
        let asked = now.map_or(clock, |now| Micros(now.as_microsecond()));
        let points: Vec<&String> = model.points.keys().collect();
        let point = random.pick(&points).copied();
        let timed = |text: String, meant: Meant| Some(At { text, zone, now, meant });
        let ended = self.dropped.get(&branch).is_some_and(|(_, gone)| mark.seq >= *gone);
        let over = self.dropped.get(&branch).is_some_and(|(last, _)| mark.seq > *last);
        let unsafe_line = !alone && gone;
        Some(match random.below(if alone { 16 } else { 6 }) {
            0 => {
                let meant = Meant::Place {
                    branch: None,
                    seqs: (mark.seq, mark.seq),
                    contents: mark.contents.clone(),
                    exact: mark.exact,
                };
                At::new(format!("seq:{}", mark.seq), meant)
            }
            1 => return timed(time, self.at_time(model, None, mark.time, asked, alone)?),
            2 => At::point(point?, model),
            3 if !unsafe_line => {
                // The line of a branch that was dropped has no later record.
                let meant = match ended {
                    true => Meant::None("no seq"),
                    false => self.on(model, branch, mark)?,
                };
                At::new(format!("{name}@seq:{}", mark.seq), meant)
            }
            4 if !unsafe_line => {
                return timed(
                    format!("{name}@{time}"),
                    self.at_time(model, Some(branch), mark.time, asked, alone)?,
                );
            }
            5 => {
                let (text, branch, seq, content) = random.pick(&self.told)?;
                At::new(text.clone(), Meant::at(model, *branch, (*seq, *seq), *content))
            }
            3 | 4 => return None,
            6 => {
                let (head, now) = (model.head, model.branches[model.head].content);
                At::new("NOW".into(), Meant::at(model, head, (self.head(), u64::MAX), now))
            }
            7 => At::new(format!("branch:{name}"), self.end_of(model, branch)),
            8 => At::new(format!("{name}@now"), self.end_of(model, branch)),
            9 => {
                let point = point?;
                let found = &model.points[point];
                let on = self.is_on(model, branch, found.branch, (found.seq, found.seq))?;
                let meant = if on { At::point(point, model).meant } else { Meant::None("elsewhere") };
                At::new(format!("{name}@point:{point}"), meant)
            }
            10 => self.no_moment(model, random, clock)?,
            form => {
                let first = random.one_in(4);
                let kinds = [Kind::Boot, Kind::Shutdown, Kind::Reset, Kind::Panic];
                let grades = [Grade::Flushed, Grade::Clean, Grade::Stopped];
                let (kind, grade) = (&kinds[random.below(4)], grades[random.below(3)]);
                let (word, is_meant): (String, &dyn Fn(&Happened) -> bool) = match random.one_in(2) {
                    true => (kind.to_string(), &|event| event.kind == *kind),
                    false => (grade.to_string(), &|event| event.grade >= grade),
                };
                let line = if form % 2 == 0 { Line::Lived } else { Line::Of(branch) };
                let of = if let Line::Of(_) = line { format!("{name}@") } else { String::new() };
                let (bound, before) = match random.below(4) {
                    _ if first => (String::new(), u64::MAX),
                    0 if form % 2 == 1 && over => return None,
                    0 => (format!(" before seq:{}", mark.seq), mark.seq),
                    1 if mark.time <= asked && clock::meant(&self.records, mark.time) == [mark.seq] => {
                        (format!(" before {time}"), mark.seq + 1)
                    }
                    2 if matches!(line, Line::Lived) => {
                        (format!(" before point:{}", point?), model.points[point?].seq)
                    }
                    _ => (String::new(), u64::MAX),
                };
                let which = if first { "the first" } else { "last" };
                let meant = self.event(model, is_meant, line, first, before)?;
                return timed(format!("{of}{which} {word}{bound}"), meant);
            }
        })
    }

    /// A text that means nothing.
    fn no_moment(&self, model: &Model, random: &mut Random, clock: Micros) -> Option<At> {
        let gone = model.branches.iter().find(|branch| branch.dropped).map(|branch| &branch.name);
        let first = self.marks.first()?;
        let day = |micros: i64| Timestamp::from_microsecond(micros).unwrap().strftime("%F").to_string();
        let (text, why) = match random.below(12) {
            0 => ("seq:99999999".to_owned(), "no seq"),
            1 => ("seq:0".to_owned(), "no seq"),
            2 => ("point:nobody gave this".to_owned(), "no point"),
            3 => ("branch:nobody".to_owned(), "no branch"),
            4 => (format!("{}@now", gone?), "no branch"),
            5 => (format!("id:{}@now", model.branches.len() + 7), "no branch"),
            6 => ("one year ago".to_owned(), "before"),
            7 => ("2199-01-01 00:00".to_owned(), "future"),
            8 => ("last suspect".to_owned(), "no event"),
            9 => ("before install nginx".to_owned(), "no event"),
            10 => ("five minutes".to_owned(), "unreadable"),
            // More than one moment of it is known.
            _ => ("today".to_owned(), "ambiguous"),
        };
        let midnight = day(first.time.0 - 60_000_000) != day(self.records.last()?.0 + 60_000_000);
        // Nor is it known after the clock was set.
        let stepped = self.records.windows(2).any(|two| two[0] > two[1])
            || !(first.time..Micros(first.time.0 + 60_000_000)).contains(&clock)
            || midnight;
        (text != "today" || !stepped).then(|| At::new(text, Meant::None(why)))
    }
}

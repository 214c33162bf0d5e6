//! The events and points of a target, for people.
//!
//! A point is an event of kind `point`. Its record is written when the point is made, on the branch of the moment that
//! it names, which may be long after that moment. A label is unique per target, on all lines together.

use std::collections::BTreeSet;

use bygone_model::{
    At, BranchId, Event, Grade, Kind, Micros, Moment, Place, Seq,
    when::{ParseError, Span, When, WholeDay},
};
use bygone_store::{
    EventOrder, EventQuery, Log,
    catalog::{Catalog, Volume},
    cursor_of,
};
use jiff::Zoned;

use crate::{
    api::{LostRecords, MomentInfo, call},
    error::{Error, Result},
    grade::{self, Grades},
    history::{self, Found},
    target::{Target, lock},
};

/// Formats a time as RFC 3339, with microseconds, in UTC.
#[must_use]
pub(crate) fn rfc3339(time: Micros) -> String {
    jiff::Timestamp::from_microsecond(time.0).map_or_else(|_| time.to_string(), |t| format!("{t:.6}"))
}

/// Formats a time in this computer's time zone, for labels.
#[must_use]
pub(crate) fn local(time: Micros) -> String {
    let at = jiff::Timestamp::from_microsecond(time.0).unwrap_or(jiff::Timestamp::MIN);
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The records that are lost and of which no index knows what they wrote, of those that the disks of a branch as of
/// `seq` lie behind. The present of a disk that stands outside the store does not: it is right there.
#[must_use]
pub(crate) fn lost_before(
    catalog: &Catalog,
    place: Place,
    is_outside: impl Fn(&Volume) -> bool,
) -> Vec<LostRecords> {
    let volumes = catalog.volumes_of(place.branch, place.seq).filter(|volume| !is_outside(volume));
    let lost: BTreeSet<_> = volumes
        .flat_map(|volume| catalog.lost_before(volume.id, place.seq))
        .map(|lost| (lost.first, lost.last, lost.from, lost.to))
        .collect();
    let in_doubt =
        |first: Seq, last: Seq| catalog.doubts.iter().any(|doubt| doubt.first <= last && first <= doubt.last);
    let told = |(first, last, from, to): (Seq, Seq, Micros, Micros)| LostRecords {
        first_seq: first.0,
        last_seq: last.0,
        from: rfc3339(from),
        to: rfc3339(to),
        in_doubt: in_doubt(first, last),
    };
    lost.into_iter().map(told).collect()
}

/// The moment that an event names, with the event.
#[must_use]
pub(crate) fn moment(event: &bygone_store::Event) -> Moment {
    Moment { place: event.place(), time: event.time_told(), event: event.event.clone() }
}

/// A moment's description for clients.
///
/// # Errors
/// When the events from which its grade follows cannot be read.
pub(crate) fn info(log: &Log, moment: Moment) -> Result<MomentInfo> {
    let grade = grade::at(log, moment.place)?;
    Ok(graded(&log.catalog(), moment, grade))
}

fn graded(catalog: &Catalog, moment: Moment, grade: Grade) -> MomentInfo {
    // An event without `at` names the place of its own record, and a record is on one branch.
    let when = match moment.event.at {
        None => format!("seq:{}", moment.place.seq),
        Some(_) => history::name_of(catalog, moment.place),
    };
    MomentInfo {
        seq: moment.place.seq.0,
        time: rfc3339(moment.time),
        kind: moment.event.kind,
        label: moment.event.label,
        grade,
        truth: moment.event.truth,
        branch: history::name_for_people(catalog, moment.place.branch),
        branch_id: moment.place.branch.0,
        when,
        earliest_seq: moment.event.at.and_then(earliest),
        how: None,
        lost: Vec::new(),
        details: moment.event.details,
    }
}

/// Writes an event to a branch of a log, durably; returns its moment.
///
/// # Errors
/// When the log cannot be written.
pub(crate) fn write(log: &Log, branch: BranchId, event: Event) -> Result<MomentInfo> {
    let done = log.event(branch, &event)?;
    log.flush()?;
    info(log, Moment { place: Place::new(branch, done.last), time: done.time, event })
}

/// The earliest seq of a range; `None` if the moment is known exactly.
#[must_use]
pub(crate) fn earliest(at: At) -> Option<u64> {
    (at.earliest < at.seq).then_some(at.earliest.0)
}

/// Events are read in parts of this size, so that no history is in memory as a whole.
const PART: usize = 4096;

/// Calls `each` with the events that match `query` and `wanted`, in the order of the moments they name, until it
/// returns false. With a limit, only the newest ones.
fn tell(
    log: &Log,
    query: EventQuery<'_>,
    limit: Option<usize>,
    wanted: &mut dyn FnMut(&bygone_store::Event) -> bool,
    each: &mut dyn FnMut(MomentInfo) -> bool,
) -> Result<()> {
    let catalog = log.catalog();
    let mut grades = Grades::of(log);
    let mut tell = |events: &[bygone_store::Event]| {
        if let (Some(first), Some(last)) = (events.first(), events.last()) {
            grades.read(first.place().seq, last.place().seq)?;
        }
        for event in events {
            let moment = moment(event);
            let grade = grades.at(moment.place)?;
            if !each(graded(&catalog, moment, grade)) {
                return Ok(false);
            }
        }
        Ok::<bool, Error>(true)
    };
    if let Some(limit) = limit {
        let mut newest = log.find_events(&query, EventOrder::Newest, limit, wanted)?;
        newest.reverse();
        return tell(&newest).map(drop);
    }
    let mut after = query.after;
    loop {
        let query = EventQuery { after, ..query };
        let part = log.find_events(&query, EventOrder::Oldest, PART, wanted)?;
        if !tell(&part)? || part.len() < PART {
            return Ok(());
        }
        after = part.last().map_or(after, cursor_of);
    }
}

/// Reports the events and points between two moments, in the order of the moments they name: of all branches, unless
/// the call names one.
///
/// # Errors
/// When a moment or branch does not exist, or the history cannot be read.
pub(crate) fn timeline(
    log: &Log,
    call: &call::Timeline,
    now: &Zoned,
    each: &mut dyn FnMut(MomentInfo) -> bool,
) -> Result<()> {
    let catalog = log.catalog();
    let from = match &call.since {
        None => Seq::ZERO,
        Some(text) => match history::find(log, text, WholeDay::Start, now) {
            // A time before the beginning selects everything.
            Err(Error::Moment { source, .. })
                if matches!(*source, bygone_model::when::ResolveError::BeforeHistory { .. }) =>
            {
                Seq::ZERO
            }
            found => Seq(found?.place.seq.0.saturating_sub(1)),
        },
    };
    let to = match &call.until {
        None => Seq::MAX,
        Some(text) => history::find(log, text, WholeDay::End, now)?.place.seq,
    };
    let branches = call.branch.as_ref().map(|name| all_named(&catalog, name)).transpose()?;
    let query = EventQuery {
        kinds: &call.kinds,
        after: (from, Seq::MAX),
        before: (to, Seq::MAX),
        ..EventQuery::default()
    };
    let mut wanted = |event: &bygone_store::Event| {
        branches.as_ref().is_none_or(|branches| branches.contains(&event.branch))
    };
    let limit = call.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    tell(log, query, limit, &mut wanted, each)
}

/// The branches that have or had this name, or the branch with this id.
fn all_named(catalog: &Catalog, name: &str) -> Result<Vec<BranchId>> {
    let named: Vec<BranchId> =
        catalog.branches.iter().filter(|branch| branch.name == name).map(|branch| branch.id).collect();
    if named.is_empty() { Ok(vec![history::branch_named(catalog, name)?]) } else { Ok(named) }
}

/// Reports the moments worth choosing from: boots, stops and other state changes of the lived line, and the points of
/// every line.
///
/// # Errors
/// When the history cannot be read.
pub(crate) fn points(log: &Log, each: &mut dyn FnMut(MomentInfo) -> bool) -> Result<()> {
    const KINDS: [Kind; 6] =
        [Kind::Point, Kind::Boot, Kind::Shutdown, Kind::Package, Kind::Suspect, Kind::Panic];
    let lived = log.catalog().lived_line();
    let mut wanted =
        |event: &bygone_store::Event| event.event.kind == Kind::Point || lived.has(event.place());
    tell(log, EventQuery { kinds: &KINDS, ..EventQuery::default() }, None, &mut wanted, each)
}

/// Trims a label, and checks that `point:LABEL` resolves to it.
fn check_label(label: &str) -> Result<&str> {
    let label = label.trim();
    let text = format!("point:{label}");
    let failed = |source| Err(Error::Label { label: label.to_owned(), source });
    match When::parse(&text) {
        Ok(When::Point(read)) if read == label => Ok(label),
        Ok(_) => failed(ParseError::NoName),
        Err(source) => failed(source),
    }
}

/// Writes a point; it is durable when this returns.
///
/// # Errors
/// When the moment does not exist, its content is not known, the label is taken or invalid, or the log cannot be
/// written.
pub(crate) fn add_point(
    target: &Target,
    at: Option<&str>,
    label: &str,
    hold: Option<&str>,
    now: &Zoned,
) -> Result<MomentInfo> {
    let log = &target.log;
    let label = check_label(label)?;
    let hold: Option<Span> = match hold {
        None => None,
        Some(text) => {
            let span = bygone_model::when::parse_duration(text);
            Some(span.map_err(|source| Error::When { text: text.to_owned(), source })?)
        }
    };
    // No other point gets the label between the check and the record.
    let _one_at_a_time = lock(&target.pointing);
    if let Some(taken) = labelled(log, label)? {
        let name = taken.when.clone();
        return Err(Error::LabelTaken {
            label: label.to_owned(),
            name,
            time: taken.time,
            branch: taken.branch,
        });
    }
    let found: Option<Found> = at.map(|text| history::find(log, text, WholeDay::Refuse, now)).transpose()?;
    // Without a moment, the newest one of the branch on which the machine runs, or of the present.
    let here = || Place::new(target.running_branch().unwrap_or_else(|| target.present()), log.head_seq());
    let place = found.as_ref().map_or_else(here, |found| found.place);
    target.volumes_at(place)?;
    let mut event = Event::new(Kind::Point, label);
    if let Some(found) = found {
        // Its grade follows from what is known of that moment, and is evidence of nothing.
        event = event.at(At::exactly(place.seq, found.time));
    }
    if let Some(span) = hold {
        event = event.with("hold_until_micros", span.after(now).0);
    }
    let done = log.event(place.branch, &event)?;
    log.flush()?;
    let stored = bygone_store::Event { seq: done.last, time: done.time, branch: place.branch, event };
    info(log, moment(&stored))
}

/// The point with this label.
fn labelled(log: &Log, label: &str) -> Result<Option<MomentInfo>> {
    let query = EventQuery { label: Some(label), kinds: &[Kind::Point], ..EventQuery::default() };
    let taken = log.find_events(&query, EventOrder::Newest, 1, &mut |_| true)?;
    taken.first().map(|taken| info(log, moment(taken))).transpose()
}

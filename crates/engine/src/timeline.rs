//! Moments for people: events and points of a target.
//!
//! A point is an event of kind `point`. It is written when it is made, which may be long after the moment that it
//! names; its details say which one (`at_seq`, `at_time_micros`, `hold_until_micros`).

use std::ops::ControlFlow;

use bygone_model::{
    BranchId, Event, Kind, Micros, Moment, Seq,
    when::{Span, WholeDay},
};
use bygone_store::Log;

use crate::{
    api::MomentInfo,
    error::{Error, Result},
    history::LogHistory,
};

const AT_SEQ: &str = "at_seq";
const AT_TIME: &str = "at_time_micros";

/// RFC 3339 with microseconds, UTC.
#[must_use]
pub(crate) fn rfc3339(time: Micros) -> String {
    jiff::Timestamp::from_microsecond(time.0).map_or_else(|_| time.to_string(), |t| format!("{t:.6}"))
}

/// A time in this computer's zone, for labels.
#[must_use]
pub(crate) fn local(time: Micros) -> String {
    let at = jiff::Timestamp::from_microsecond(time.0).unwrap_or(jiff::Timestamp::MIN);
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A time of this day in this computer's zone, for messages about what goes on.
#[must_use]
pub(crate) fn time_of_day(time: Micros) -> String {
    let at = jiff::Timestamp::from_microsecond(time.0).unwrap_or(jiff::Timestamp::MIN);
    at.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S").to_string()
}

/// A moment as it is shown.
#[must_use]
pub(crate) fn info(moment: Moment) -> MomentInfo {
    MomentInfo {
        seq: moment.seq.0,
        time: rfc3339(moment.time),
        kind: moment.event.kind,
        label: moment.event.label,
        grade: moment.event.grade,
        truth: moment.event.truth,
        branch: moment.branch,
        details: moment.event.details,
    }
}

/// A point, placed at the moment that it names.
#[must_use]
pub(crate) fn as_pointed(mut moment: Moment) -> Moment {
    if moment.event.kind == Kind::Point
        && let Some(seq) = moment.event.details.get(AT_SEQ).and_then(serde_json::Value::as_u64)
    {
        moment.seq = Seq(seq);
        let time = moment.event.details.get(AT_TIME).and_then(serde_json::Value::as_i64);
        moment.time = time.map_or(moment.time, Micros);
    }
    moment
}

/// Events and points between two moments, in the order of what they speak of. All branches are shown.
///
/// # Errors
/// When a moment does not exist or the history cannot be read.
pub(crate) fn timeline(
    log: &Log,
    since: Option<&str>,
    until: Option<&str>,
    kinds: &[Kind],
) -> Result<Vec<MomentInfo>> {
    let catalog = log.catalog();
    let history = LogHistory::new(log, catalog.head);
    let from = match since {
        None => Seq::ZERO,
        Some(text) => match history.find(text, WholeDay::Start) {
            // What came after a time before the beginning is everything.
            Err(Error::Moment { source, .. })
                if matches!(*source, bygone_model::when::ResolveError::BeforeHistory { .. }) =>
            {
                Seq::ZERO
            }
            found => Seq(found?.seq.0.saturating_sub(1)),
        },
    };
    let to =
        until.map_or(Ok(log.head_seq()), |text| history.find(text, WholeDay::End).map(|found| found.seq))?;
    let mut moments = Vec::new();
    log.events(Seq::ZERO, log.head_seq(), &mut |event| {
        let branch = catalog.branch(BranchId(event.branch)).map_or("?", |b| &b.name).to_owned();
        let moment = Moment { seq: event.seq, time: event.time, branch, event: event.event.clone() };
        let moment = as_pointed(moment);
        let wanted = kinds.is_empty() || kinds.contains(&moment.event.kind);
        if wanted && moment.seq > from && moment.seq <= to {
            moments.push(moment);
        }
        true
    })?;
    moments.sort_by_key(|m| m.seq);
    Ok(moments.into_iter().map(info).collect())
}

/// The moments worth choosing from: points, boots, stops, and what changed the machine.
///
/// # Errors
/// When the history cannot be read.
pub(crate) fn points(log: &Log) -> Result<Vec<MomentInfo>> {
    let history = LogHistory::new(log, log.catalog().head);
    let mut moments = Vec::new();
    history.each_event(&mut |moment| {
        let worth = matches!(
            moment.event.kind,
            Kind::Point | Kind::Boot | Kind::Shutdown | Kind::Package | Kind::Suspect | Kind::Panic
        );
        if worth {
            moments.push(moment);
        }
        ControlFlow::Continue(())
    })?;
    moments.sort_by_key(|m| m.seq);
    Ok(moments.into_iter().map(info).collect())
}

/// Names a moment; durable when this returns.
///
/// # Errors
/// When the moment does not exist or the log cannot be written.
pub(crate) fn add_point(log: &Log, at: Option<&str>, label: &str, hold: Option<&str>) -> Result<MomentInfo> {
    let catalog = log.catalog();
    let history = LogHistory::new(log, catalog.head);
    let (seq, time) = match at {
        None => (log.head_seq(), log.now()),
        Some(text) => {
            let found = history.find(text, WholeDay::Refuse)?;
            (found.seq, found.time)
        }
    };
    let mut event = Event::new(Kind::Point, label).with(AT_SEQ, seq.0).with(AT_TIME, time.0);
    if let Some(text) = hold {
        let span: Span = bygone_model::when::parse_duration(text)
            .map_err(|source| Error::When { text: text.to_owned(), source })?;
        event = event.with("hold_until_micros", span.after(&jiff::Zoned::now()).0);
    }
    let done = log.event(catalog.head, &event)?;
    log.flush()?;
    let branch = catalog.branch(catalog.head).map_or("main", |b| &b.name).to_owned();
    Ok(info(as_pointed(Moment { seq: done.last, time: done.time, branch, event })))
}

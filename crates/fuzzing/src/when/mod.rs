//! The grammar of moments: any text is refused or has one canonical form with the same meaning, and resolution finds
//! what a search through the whole history finds.

mod history;

use bygone_model::{
    Grade, Kind, Micros,
    when::{
        History as _, Line, ResolveError, Resolved, What, When, WholeDay, Zone, describe, parse_duration,
    },
};
use jiff::{Timestamp, Zoned, tz::TimeZone};

use crate::input::Input;
use history::Listed;

/// See the module's comment. Input: the current time and zone, a history, then a text.
pub fn when(bytes: &[u8]) {
    let mut input = Input(bytes);
    let now = now(&mut input);
    let history = Listed::of(&mut input);
    let Ok(text) = std::str::from_utf8(input.0) else { return };
    duration(text, &now);
    let when = match When::parse(text) {
        Ok(when) => when,
        Err(error) => {
            assert!(!error.to_string().is_empty() && !error.hint().is_empty());
            return;
        }
    };
    let canonical = when.to_string();
    assert_eq!(When::parse(&canonical).as_ref(), Ok(&when), "{text:?}");
    if !keeps_case(&when) {
        let loud = When::parse(&canonical.to_ascii_uppercase());
        assert!(loud.is_ok_and(|loud| loud.to_string().eq_ignore_ascii_case(&canonical)), "{text:?}");
    }
    for whole_day in [WholeDay::Refuse, WholeDay::Start, WholeDay::End] {
        match when.resolve_day(&history, &now, whole_day) {
            Ok(found) => check(&when, &found, &history, &now, Line::Lived),
            Err(error) => {
                assert!(error.candidates().len() <= 8 && !error.hint().is_empty());
                let known = |seq| history.log.iter().any(|mark| mark.place.seq == seq);
                assert!(error.candidates().iter().all(|candidate| known(candidate.place.seq)), "{error}");
                refused(&when, &error, &history, &now);
            }
        }
    }
}

/// Whether a text is case-sensitive: labels, names and packages are; everything else is not.
fn keeps_case(when: &When) -> bool {
    match when {
        When::Point(_) | When::On { .. } | When::In { .. } => true,
        When::Last { before: Some(before), .. } | When::First { before: Some(before), .. } => {
            keeps_case(before)
        }
        _ => false,
    }
}

/// A time at either end of the calendar or around clock changes, in one of some zones.
fn now(input: &mut Input<'_>) -> Zoned {
    const ZONES: [&str; 4] =
        ["UTC0", "JST-9", "EST5EDT,M3.2.0,M11.1.0", "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0"];
    let zone = TimeZone::posix(ZONES[usize::from(input.u8() % 4)]).unwrap();
    let (how, off) = (input.u8(), i64::from(input.u32()));
    let at = match how % 4 {
        0 => Timestamp::MIN.as_second() + off % 100_000_000,
        1 => Timestamp::MAX.as_second() - off % 100_000_000,
        _ => 1_772_000_000 + off % 40_000_000,
    };
    Timestamp::from_second(at).unwrap_or(Timestamp::MAX).to_zoned(zone)
}

fn duration(text: &str, now: &Zoned) {
    let Ok(span) = parse_duration(text) else { return };
    assert_eq!(parse_duration(&span.to_string()), Ok(span));
    assert!(span.count > 0 && span.to_duration().as_secs() >= u64::from(span.count));
    let (before, after) = (span.before(now), span.after(now));
    assert!(before <= micros(now.timestamp()) && micros(now.timestamp()) <= after);
    let told = describe(before, now);
    assert!(!told.is_empty());
}

fn micros(at: Timestamp) -> Micros {
    Micros(i64::try_from(at.as_nanosecond().div_euclid(1000)).unwrap())
}

/// Compares a result with a search.
fn check(when: &When, found: &Resolved, history: &Listed, now: &Zoned, line: Line) {
    let mark = history.log.iter().find(|mark| mark.place.seq == found.place.seq).unwrap();
    assert_eq!(mark.time, found.time, "{when}");
    assert!(!found.how.is_empty() && !found.how.contains(char::is_control));
    match when {
        When::Now => assert_eq!(found.place, history.log.last().unwrap().place),
        When::Seq(seq) => {
            let nearest = history.log.iter().rev().find(|mark| mark.place.seq <= *seq).unwrap();
            assert_eq!(found.place, nearest.place);
        }
        When::Instant(at) => {
            let time = micros(*at);
            let i = history.log.iter().position(|mark| mark.place.seq == found.place.seq).unwrap();
            assert!(found.time <= time, "{when} is after what was asked for");
            let next = history.log.get(i + 1);
            assert!(next.is_none_or(|next| next.time > time || next.time < found.time));
        }
        When::Last { what, before: None } => {
            let last = history.events_of(line).rev().find(|event| what.matches(&event.event)).unwrap();
            assert_eq!(found.place, last.place);
            graded(what, last.event.grade);
        }
        When::First { what, before: None } => {
            let first = history.events_of(line).find(|event| what.matches(&event.event)).unwrap();
            assert_eq!(found.place, first.place);
        }
        When::Last { what, before: Some(_) } | When::First { what, before: Some(_) } => {
            let event = history.events.iter().find(|event| event.place == found.place).unwrap();
            assert!(what.matches(&event.event));
        }
        When::Point(label) => {
            let mut points = history
                .events
                .iter()
                .filter(|event| event.event.kind == Kind::Point && event.event.label == *label)
                .filter(|event| history.is_on(line, event.place));
            assert_eq!(points.next().map(|event| event.place), Some(found.place));
        }
        When::On { branch, when } => {
            check(when, found, history, now, Line::Of(history.branch(branch).unwrap()));
        }
        When::In { zone: Zone::Fixed(offset), when } => {
            check(when, found, history, &now.with_time_zone(offset.to_time_zone()), line);
        }
        When::In { zone: Zone::Named(name), when } => {
            check(when, found, history, &now.with_time_zone(history.zone(name).unwrap()), line);
        }
        When::Ago { at: None, .. } | When::Clock(_) => {
            assert!(found.time <= micros(now.timestamp()), "{when} is not over");
        }
        When::Ago { .. } | When::Day { .. } => {}
    }
}

fn graded(what: &What, grade: Grade) {
    if let What::Graded(asked) = what {
        assert!(grade >= *asked);
    }
}

/// Checks that a refused text names no moment.
fn refused(when: &When, error: &ResolveError, history: &Listed, now: &Zoned) {
    match when {
        When::Now => assert!(history.log.is_empty()),
        When::Last { what, before: None } | When::First { what, before: None } => {
            let any = history.events_of(Line::Lived).any(|event| what.matches(&event.event));
            assert!(!any || history.log.is_empty());
        }
        When::Instant(at) if *at <= now.timestamp() => {
            let earlier = history.log.iter().filter(|mark| mark.time <= micros(*at)).count();
            assert!(earlier == 0 || error.candidates().len() > 1, "{when}: {error}");
        }
        When::Seq(seq) => {
            let inside = history.log.iter().any(|mark| mark.place.seq <= *seq);
            let beyond = history.log.last().is_none_or(|head| *seq > head.place.seq);
            assert!(!inside || beyond, "{when}: {error}");
        }
        _ => {}
    }
}

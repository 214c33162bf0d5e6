//! Parses text into [`When`].
//!
//! One pass over the words, with at most one word of backtracking. Recursion goes one level deeper per `before`, so the
//! bound on the text bounds it too.

use std::str::FromStr;

use jiff::{
    civil::{Date, Time, Weekday},
    tz::Offset,
};

use super::{Change, Day, MAX_TEXT_BYTES, ParseError, Span, Unit, What, When, Zone, clock};
use crate::{Grade, Kind, Seq};

impl When {
    /// Parses a moment as people write it; the grammar is on [the module](super).
    ///
    /// # Errors
    /// The text is not in the grammar; the error's [`hint`](ParseError::hint) says how to fix it.
    pub fn parse(text: &str) -> Result<When, ParseError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(ParseError::TooLong { len_bytes: text.len() });
        }
        let mut words = Words::new(text);
        if words.peek().is_none() {
            return Err(ParseError::Empty);
        }
        let when = words.moment()?;
        words.end()?;
        // The canonical form may be longer than the text, and must be parseable too.
        let len_bytes = when.to_string().len();
        if len_bytes > MAX_TEXT_BYTES { Err(ParseError::TooLong { len_bytes }) } else { Ok(when) }
    }
}

impl FromStr for When {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<When, ParseError> {
        When::parse(text)
    }
}

/// The unparsed rest.
pub(super) struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    pub(super) fn new(text: &'a str) -> Words<'a> {
        Words { rest: text.trim() }
    }

    /// The next word, without consuming it.
    pub(super) fn peek(&self) -> Option<&'a str> {
        self.rest.split_whitespace().next()
    }

    fn next(&mut self) -> Option<&'a str> {
        let word = self.peek()?;
        self.rest = self.rest.strip_prefix(word)?.trim_start();
        Some(word)
    }

    /// Consumes the next word, which must exist.
    fn need(&mut self) -> Result<&'a str, ParseError> {
        self.next().ok_or(ParseError::Unfinished)
    }

    /// Consumes the next word if it is `keyword`.
    fn eat(&mut self, keyword: &str) -> bool {
        let found = self.peek().is_some_and(|word| word.eq_ignore_ascii_case(keyword));
        if found {
            self.next();
        }
        found
    }

    /// Checks that nothing is left.
    pub(super) fn end(&self) -> Result<(), ParseError> {
        match self.peek() {
            None => Ok(()),
            Some(word) => Err(ParseError::Trailing { word: word.into() }),
        }
    }

    fn moment(&mut self) -> Result<When, ParseError> {
        if let Some(named) = self.prefixed()? {
            return Ok(named);
        }
        if let Some((branch, _)) = self.peek().and_then(|word| word.split_once('@')) {
            return self.of_branch(branch);
        }
        let word = self.need()?;
        match word.to_ascii_lowercase().as_str() {
            "now" => Ok(When::Now),
            "before" => match self.change()? {
                Some(when) => Ok(when),
                None => Err(ParseError::UnknownChange { word: self.need()?.into() }),
            },
            "the" => {
                let word = self.need()?;
                self.event(word)
            }
            "last" | "first" => self.event(word),
            "on" => {
                let word = self.need()?;
                self.day(word)?.ok_or_else(|| ParseError::UnknownWord { word: word.into() })
            }
            "at" => {
                let word = self.need()?;
                let (time, zone) = self.zoned_time(word)?;
                Ok(in_zone(When::Clock(time), zone))
            }
            _ => self.time_or_day(word),
        }
    }

    /// Parses `seq:`, `point:` and `branch:`, if one comes next.
    fn prefixed(&mut self) -> Result<Option<When>, ParseError> {
        let Some((prefix, value)) = self.rest.split_once(':') else { return Ok(None) };
        let value = value.trim();
        match prefix.to_ascii_lowercase().as_str() {
            "seq" => {
                self.rest = value;
                let word = self.next().unwrap_or_default();
                let number = digits(word).and_then(|word| word.parse().ok());
                let number = number.ok_or_else(|| ParseError::BadSeq { word: word.into() })?;
                Ok(Some(When::Seq(Seq(number))))
            }
            "point" => {
                if value.is_empty() {
                    return Err(ParseError::NoName);
                }
                self.rest = "";
                Ok(Some(When::Point(value.to_owned())))
            }
            "branch" => {
                self.rest = value;
                let word = self.peek().ok_or(ParseError::NoName)?;
                match word.split_once('@') {
                    Some((branch, _)) => self.of_branch(branch).map(Some),
                    None => {
                        self.next();
                        Ok(Some(When::On { branch: word.to_owned(), when: Box::new(When::Now) }))
                    }
                }
            }
            _ => Ok(None),
        }
    }

    /// Parses `BRANCH@MOMENT`.
    fn of_branch(&mut self, branch: &'a str) -> Result<When, ParseError> {
        if branch.is_empty() {
            return Err(ParseError::NoName);
        }
        let rest = self.rest.strip_prefix(branch).and_then(|rest| rest.strip_prefix('@'));
        self.rest = rest.unwrap_or_default().trim_start();
        // A branch of a branch is meaningless, and a text with many `@` must not nest deeply.
        let again = self.peek().is_some_and(|word| {
            let word = word.to_ascii_lowercase();
            word.starts_with("branch:") || (word.contains('@') && !word.starts_with("point:"))
        });
        if again {
            return Err(ParseError::BranchTwice);
        }
        Ok(When::On { branch: branch.to_owned(), when: Box::new(self.moment()?) })
    }

    /// Parses what follows `last` or `first`, which is `pick`.
    fn event(&mut self, pick: &str) -> Result<When, ParseError> {
        let first = pick.eq_ignore_ascii_case("first");
        if !first && !pick.eq_ignore_ascii_case("last") {
            return Err(ParseError::UnknownWord { word: pick.into() });
        }
        let word = self.need()?;
        let what = match word.to_ascii_lowercase() {
            grade if grade == "clean" => What::Graded(Grade::Clean),
            grade if grade == "stopped" => What::Graded(Grade::Stopped),
            grade if grade == "flushed" => What::Graded(Grade::Flushed),
            kind => match Kind::from(kind) {
                Kind::Moment | Kind::Other(_) => return Err(ParseError::UnknownKind { word: word.into() }),
                kind => What::Kind(kind),
            },
        };
        Ok(if first {
            When::First { what, before: None }
        } else {
            When::Last { what, before: self.bound()? }
        })
    }

    /// Parses `before …`, if it comes next: the bound of an event.
    fn bound(&mut self) -> Result<Option<Box<When>>, ParseError> {
        if !self.eat("before") {
            return Ok(None);
        }
        let when = match self.change()? {
            Some(when) => when,
            None => self.moment()?,
        };
        Ok(Some(Box::new(when)))
    }

    /// Parses what follows `before`: `[the] [first|last] install nginx [before …]`. Consumes nothing if that is not a
    /// change.
    fn change(&mut self) -> Result<Option<When>, ParseError> {
        let mut ahead = Words { rest: self.rest };
        ahead.eat("the");
        let first = ahead.eat("first");
        if !first {
            ahead.eat("last");
        }
        let Some(change) = ahead.next().and_then(Change::from_word) else { return Ok(None) };
        self.rest = ahead.rest;
        let package = match self.peek() {
            Some(word) if !word.eq_ignore_ascii_case("before") => self.next().map(str::to_owned),
            _ => None,
        };
        let what = What::Change { change, package };
        let before = self.bound()?;
        Ok(Some(if first { When::First { what, before } } else { When::Last { what, before } }))
    }

    /// Parses everything named by calendar and clock.
    fn time_or_day(&mut self, word: &'a str) -> Result<When, ParseError> {
        if let Some(when) = self.day(word)? {
            return Ok(when);
        }
        if word.starts_with(|c: char| c.is_ascii_digit()) && word.contains(':') {
            let (time, zone) = self.zoned_time(word)?;
            return Ok(in_zone(When::Clock(time), zone));
        }
        if number(word).is_none() {
            return Err(ParseError::UnknownWord { word: word.into() });
        }
        let span = self.span_from(word)?;
        if !self.eat("ago") {
            return Err(ParseError::NoAgo);
        }
        let (at, zone) = self.clock()?;
        if at.is_some() && span.unit < Unit::Day {
            return Err(ParseError::ClockWithoutDay);
        }
        Ok(in_zone(When::Ago { span, at }, zone))
    }

    /// Parses a day and its time, if `word` begins one.
    fn day(&mut self, word: &'a str) -> Result<Option<When>, ParseError> {
        if clock::looks_like_date(word) {
            let (date, joined) = clock::date(word)?;
            return self.date(date, joined).map(Some);
        }
        let day = match word.to_ascii_lowercase().as_str() {
            "today" => Day::Today,
            "yesterday" => Day::Yesterday,
            name => match weekday(name) {
                Some(weekday) => Day::Weekday(weekday),
                None => return Ok(None),
            },
        };
        let (at, zone) = self.clock()?;
        Ok(Some(in_zone(When::Day { day, at }, zone)))
    }

    /// Parses what follows a date; `joined` is what a `T` joined to it.
    fn date(&mut self, date: Date, joined: &'a str) -> Result<When, ParseError> {
        let day = Day::Date(date);
        let word = if joined.is_empty() {
            let at = self.eat("at");
            match self.peek().filter(|word| at || is_clock(word)) {
                None if at => return Err(ParseError::Unfinished),
                None => return Ok(When::Day { day, at: None }),
                Some(word) => {
                    self.next();
                    word
                }
            }
        } else {
            joined
        };
        match self.zoned_time(word)? {
            (time, None) => Ok(When::Day { day, at: Some(time) }),
            (time, Some(Zone::Fixed(offset))) => instant(date, time, offset),
            (time, zone) => Ok(in_zone(When::Day { day, at: Some(time) }, zone)),
        }
    }

    /// Parses `[at] CLOCK [ZONE]`, if it comes next.
    fn clock(&mut self) -> Result<(Option<Time>, Option<Zone>), ParseError> {
        let said = self.eat("at");
        let word = match self.peek().filter(|word| said || is_clock(word)) {
            Some(word) => word,
            None if said => return Err(ParseError::Unfinished),
            None => return Ok((None, None)),
        };
        self.next();
        let (time, zone) = self.zoned_time(word)?;
        Ok((Some(time), zone))
    }

    /// Parses `word`, which was consumed already, as a time of day, and its zone, which is glued to it or comes next.
    fn zoned_time(&mut self, word: &'a str) -> Result<(Time, Option<Zone>), ParseError> {
        let (time, glued) = clock::time(word)?;
        let zone = if glued.is_empty() { self.peek().filter(|word| is_zone(word)) } else { Some(glued) };
        let Some(zone) = zone else { return Ok((time, None)) };
        if glued.is_empty() {
            self.next();
        } else if !is_zone(glued) {
            return Err(ParseError::BadTime { word: word.into() });
        }
        Ok((time, Some(clock::zone(zone)?)))
    }

    /// `3 days`, `90s`, `an hour`.
    pub(super) fn span(&mut self) -> Result<Span, ParseError> {
        let word = self.need()?;
        self.span_from(word)
    }

    fn span_from(&mut self, word: &'a str) -> Result<Span, ParseError> {
        let Some((count, glued)) = number(word) else {
            return Err(ParseError::NoNumber { word: word.into() });
        };
        let count = count.ok_or(ParseError::NumberTooLarge)?;
        let unit = if glued.is_empty() { self.next().ok_or(ParseError::NoUnit)? } else { glued };
        let unit = Unit::from_word(unit).ok_or_else(|| ParseError::UnknownUnit { word: unit.into() })?;
        Ok(Span { count, unit })
    }
}

/// The word, if it consists of digits only (`parse` would accept a sign too).
fn digits(word: &str) -> Option<&str> {
    (!word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())).then_some(word)
}

/// The number at the start of a word and the rest of the word. The inner `None`: the number is too large. The outer
/// `None`: there is no number.
fn number(word: &str) -> Option<(Option<u32>, &str)> {
    const WORDS: [&str; 13] = [
        "a", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
        "twelve",
    ];
    let len = word.bytes().take_while(u8::is_ascii_digit).count();
    if len > 0 {
        let (digits, glued) = word.split_at_checked(len)?;
        return Some((digits.parse().ok(), glued));
    }
    if word.eq_ignore_ascii_case("an") {
        return Some((Some(1), ""));
    }
    let at = WORDS.iter().position(|known| word.eq_ignore_ascii_case(known))?;
    Some((u32::try_from(at.max(1)).ok(), ""))
}

fn weekday(name: &str) -> Option<Weekday> {
    Some(match name {
        "monday" | "mon" => Weekday::Monday,
        "tuesday" | "tue" | "tues" => Weekday::Tuesday,
        "wednesday" | "wed" => Weekday::Wednesday,
        "thursday" | "thu" | "thur" | "thurs" => Weekday::Thursday,
        "friday" | "fri" => Weekday::Friday,
        "saturday" | "sat" => Weekday::Saturday,
        "sunday" | "sun" => Weekday::Sunday,
        _ => return None,
    })
}

fn is_clock(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
}

fn is_zone(word: &str) -> bool {
    let named = ["z", "utc", "gmt"].iter().any(|known| word.eq_ignore_ascii_case(known));
    named || word.starts_with(['+', '-']) || word.contains('/')
}

/// Wraps a moment that ends in a time of day in the zone that was named with it.
fn in_zone(when: When, zone: Option<Zone>) -> When {
    match zone {
        None => when,
        Some(zone) => When::In { zone, when: Box::new(when) },
    }
}

/// A date and a time at a known offset. Years of fewer than four digits have no canonical form, so an instant that its
/// offset moves out of the calendar is refused.
fn instant(date: Date, time: Time, offset: Offset) -> Result<When, ParseError> {
    let at = offset.to_timestamp(date.to_datetime(time)).ok();
    let at = at.filter(|at| Offset::UTC.to_datetime(*at).year() >= 0);
    at.map(When::Instant).ok_or_else(|| ParseError::BadDate { word: date.to_string().into() })
}

//! States of a target, placed in its log.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Micros, Place, Seq};

/// What an event says beyond its label; a JSON object.
pub type Details = serde_json::Map<String, serde_json::Value>;

/// What kind of state an event tells of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Kind {
    /// The target started.
    Boot,
    /// The target stopped.
    Shutdown,
    /// The target was reset.
    Reset,
    /// The target's operating system gave up.
    Panic,
    /// Software was installed, changed or removed.
    Package,
    /// A write of note.
    Write,
    /// The target talked to another machine.
    Contact,
    /// A timer fired.
    Timer,
    /// From here on the target is not to be trusted.
    Suspect,
    /// A person or a rule named this moment.
    Point,
    /// History is missing here.
    Gap,
    /// The taking over of an existing disk began, went on or was completed.
    Base,
    /// A branch was made, promoted or dropped.
    Branch,
    /// The manager itself started, stopped or was found to have died.
    Manager,
    /// Nothing is told of this moment. No event is of this kind.
    Moment,
    /// A kind that a newer version wrote.
    Other(String),
}

impl Kind {
    const NAMED: [(Kind, &'static str); 15] = [
        (Kind::Boot, "boot"),
        (Kind::Shutdown, "shutdown"),
        (Kind::Reset, "reset"),
        (Kind::Panic, "panic"),
        (Kind::Package, "package"),
        (Kind::Write, "write"),
        (Kind::Contact, "contact"),
        (Kind::Timer, "timer"),
        (Kind::Suspect, "suspect"),
        (Kind::Point, "point"),
        (Kind::Gap, "gap"),
        (Kind::Base, "base"),
        (Kind::Branch, "branch"),
        (Kind::Manager, "manager"),
        (Kind::Moment, "moment"),
    ];

    /// The word used in JSON and on the command line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        if let Kind::Other(word) = self {
            return word;
        }
        Self::NAMED.iter().find(|(kind, _)| kind == self).map_or("other", |(_, word)| word)
    }
}

impl From<String> for Kind {
    fn from(word: String) -> Kind {
        Self::NAMED.iter().find(|(_, name)| *name == word).map_or(Kind::Other(word), |(kind, _)| kind.clone())
    }
}

impl From<Kind> for String {
    fn from(kind: Kind) -> String {
        kind.as_str().to_owned()
    }
}

impl FromStr for Kind {
    type Err = std::convert::Infallible;

    fn from_str(word: &str) -> Result<Kind, Self::Err> {
        Ok(Kind::from(word.to_owned()))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How good a moment is to come back to, worst first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As after a power cut: what the target had not flushed may be half there.
    #[default]
    Crash,
    /// The target had just flushed.
    Flushed,
    /// The file systems were marked clean.
    Clean,
    /// The target was verified to be stopped, by signals that agree, and no file system that we can read is dirty.
    Stopped,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Grade::Crash => "crash",
            Grade::Flushed => "flushed",
            Grade::Clean => "clean",
            Grade::Stopped => "stopped",
        })
    }
}

/// Who says so. Only observed events are trusted for automatic decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truth {
    /// Seen from outside: by the hypervisor, on the disk, on the network.
    #[default]
    Observed,
    /// Said by the target.
    Claimed,
}

/// The earlier moment that an event tells of, on the event's own branch. What a person names or a detector finds was often
/// there for a while before it is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// The moment: the last one that it can be.
    pub seq: Seq,
    /// The first one that it can be; `seq` where the place is known exactly.
    pub earliest: Seq,
    /// When `seq` was, by the clock of the log.
    pub time: Micros,
}

impl At {
    /// A place that is known exactly.
    #[must_use]
    pub const fn exactly(seq: Seq, time: Micros) -> At {
        At { seq, earliest: seq, time }
    }
}

/// A state of the target, as it is appended to the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// The same in words for people.
    pub label: String,
    /// How good this moment is to come back to.
    #[serde(default)]
    pub grade: Grade,
    /// Who says so.
    #[serde(default)]
    pub truth: Truth,
    /// The moment that it tells of, if that is an earlier one than where it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<At>,
    /// Everything else.
    #[serde(default, skip_serializing_if = "Details::is_empty")]
    pub details: Details,
}

impl Event {
    /// An observed event of grade `crash` without details.
    #[must_use]
    pub fn new(kind: Kind, label: impl Into<String>) -> Event {
        Event {
            kind,
            label: label.into(),
            grade: Grade::Crash,
            truth: Truth::Observed,
            at: None,
            details: Details::new(),
        }
    }

    /// The same event with one more detail.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<serde_json::Value>) -> Event {
        self.details.insert(key.to_owned(), value.into());
        self
    }

    /// The same event, telling of an earlier moment.
    #[must_use]
    pub fn at(mut self, at: At) -> Event {
        self.at = Some(at);
        self
    }

    /// The same event with another grade.
    #[must_use]
    pub fn graded(mut self, grade: Grade) -> Event {
        self.grade = grade;
        self
    }
}

/// An event with the moment at which it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// Where.
    pub place: Place,
    /// When.
    pub time: Micros,
    /// What happened.
    pub event: Event,
}

//! Events: states of a target, each with a position in its log.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Micros, Place, Seq};

/// Further details of an event; a JSON object.
pub type Details = serde_json::Map<String, serde_json::Value>;

/// The kind of an event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum Kind {
    /// The target started.
    Boot,
    /// The target stopped.
    Shutdown,
    /// The target was reset.
    Reset,
    /// The target's operating system panicked.
    Panic,
    /// Software was installed, changed or removed.
    Package,
    /// A notable write.
    Write,
    /// The target communicated with another machine.
    Contact,
    /// A timer fired.
    Timer,
    /// From here on the target is not to be trusted.
    Suspect,
    /// A person or a rule named this moment.
    Point,
    /// History is missing here.
    Gap,
    /// Reading an existing disk into the store began, resumed or was completed.
    Base,
    /// A branch was created, promoted or dropped.
    Branch,
    /// The manager itself started, stopped or was found to have died.
    Manager,
    /// A moment without an event. No event is of this kind.
    Moment,
    /// A kind written by a newer version.
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

/// How good a moment is to restore, worst first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As after a power cut: writes that the target had not flushed may be incomplete.
    #[default]
    Crash,
    /// The target had just flushed.
    Flushed,
    /// The file systems were marked clean.
    Clean,
    /// The target was verified to be stopped, by several agreeing signals, and no file system that Bygone can read is
    /// dirty.
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

/// The source of an event. Only observed events are trusted for automatic decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Truth {
    /// Seen from outside: by the hypervisor, on the disk, on the network.
    #[default]
    Observed,
    /// Reported by the target itself.
    Claimed,
}

/// The earlier moment that an event is about, on the event's own branch. A person or a detector often names a state
/// that began some time before the event is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// The moment: the latest one that it can be.
    pub seq: Seq,
    /// The earliest one that it can be; `seq` if the position is known exactly.
    pub earliest: Seq,
    /// The time of `seq`, by the clock of the log.
    pub time: Micros,
}

impl At {
    /// A moment that is known exactly.
    #[must_use]
    pub const fn exactly(seq: Seq, time: Micros) -> At {
        At { seq, earliest: seq, time }
    }
}

/// An event, as it is appended to the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// What happened, in words for people.
    pub label: String,
    /// How good this moment is to restore.
    #[serde(default)]
    pub grade: Grade,
    /// The source.
    #[serde(default)]
    pub truth: Truth,
    /// The moment that it is about, if that is earlier than its own position.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<At>,
    /// Further details.
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

    /// The same event, about an earlier moment.
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

/// An event with its moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Moment {
    /// The branch and position.
    pub place: Place,
    /// The time.
    pub time: Micros,
    /// What happened.
    pub event: Event,
}

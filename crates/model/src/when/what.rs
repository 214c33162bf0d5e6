//! The kind of event that a text asks for, and whether an event matches.

use crate::{Details, Event, Grade, Kind};

/// An event that a text asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// An event of this kind. Kinds of newer versions ([`Kind::Other`]) have no words in the grammar.
    Kind(Kind),
    /// An event of this grade or a better one: `clean`, `stopped`, `flushed`.
    Graded(Grade),
    /// The moment before software was changed: `install nginx`. It is an event of kind [`Kind::Package`], positioned at
    /// the last write before the first write of the change.
    Change {
        /// The kind of change.
        change: Change,
        /// The package: one word, not `before`. `None`: any package.
        package: Option<String>,
    },
}

/// What was done to a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// It was installed; the word is also the name of the list in the event's details.
    Install,
    /// It was updated.
    Update,
    /// It was removed.
    Remove,
}

impl Change {
    /// The words for each change in texts and labels; the first is the canonical one.
    const WORDS: [(Change, &'static [&'static str]); 3] = [
        (Change::Install, &["install", "installing", "installed", "installation", "reinstall"]),
        (
            Change::Update,
            &["update", "updating", "updated", "upgrade", "upgrading", "upgraded", "dist-upgrade"],
        ),
        (Change::Remove, &["remove", "removing", "removed", "uninstall", "uninstalled", "purge", "erase"]),
    ];

    /// The canonical word: `install`, `update`, `remove`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Change::Install => "install",
            Change::Update => "update",
            Change::Remove => "remove",
        }
    }

    /// The change that `word` names, in any case.
    pub(super) fn from_word(word: &str) -> Option<Change> {
        Self::WORDS
            .iter()
            .find(|(_, words)| words.iter().any(|known| word.eq_ignore_ascii_case(known)))
            .map(|(change, _)| *change)
    }
}

impl What {
    /// Whether `event` matches.
    ///
    /// A package event is matched by its details if they list what changed, in arrays of strings `install`, `update`,
    /// `remove`: `{"install": ["nginx"], "update": ["libc6:amd64"]}`. Without any of these it is matched by the words
    /// of its label: `apt install nginx=1.22`. A part after `=` or `:` in a package's name (version, architecture) is
    /// compared only if the text asks for one.
    #[must_use]
    pub fn matches(&self, event: &Event) -> bool {
        match self {
            What::Kind(kind) => event.kind == *kind,
            What::Graded(grade) => event.grade >= *grade,
            What::Change { change, package } => {
                event.kind == Kind::Package
                    && listed(&event.details, *change, package.as_deref())
                        .unwrap_or_else(|| named(&event.label, *change, package.as_deref()))
            }
        }
    }
}

/// Whether the details list the change; `None` when they list no changes at all.
fn listed(details: &Details, change: Change, package: Option<&str>) -> Option<bool> {
    let list = |change: Change| details.get(change.as_str()).and_then(serde_json::Value::as_array);
    if !Change::WORDS.iter().any(|(change, _)| list(*change).is_some()) {
        return None;
    }
    let names = list(change).map(Vec::as_slice).unwrap_or_default();
    Some(match package {
        None => !names.is_empty(),
        Some(package) => {
            names.iter().filter_map(serde_json::Value::as_str).any(|name| same_package(name, package))
        }
    })
}

/// Whether the words of a label describe the change.
fn named(label: &str, change: Change, package: Option<&str>) -> bool {
    let words = || {
        label.split(|c: char| c.is_whitespace() || ",;()[]\"'`".contains(c)).filter(|word| !word.is_empty())
    };
    let verb = |word: &str| Change::from_word(word.trim_end_matches(':')) == Some(change);
    words().any(verb) && package.is_none_or(|package| words().any(|word| same_package(word, package)))
}

/// Whether `name`, which may include a version or an architecture, is the requested package.
fn same_package(name: &str, asked: &str) -> bool {
    let bare = |name: &str| name.split(['=', ':']).next().unwrap_or_default().to_ascii_lowercase();
    name.eq_ignore_ascii_case(asked) || (!asked.contains(['=', ':']) && bare(name) == bare(asked))
}

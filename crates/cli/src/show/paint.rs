//! Colours: only on terminals, and never against `NO_COLOR`.

use std::{env, ffi::OsStr};

/// How a text stands out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Style {
    /// Not at all.
    #[default]
    Plain,
    /// Names.
    Bold,
    /// What matters less.
    Dim,
    /// All is well.
    Good,
    /// Look here.
    Warn,
    /// Something is wrong.
    Bad,
    /// The word before an error.
    Error,
    /// The word before a hint.
    Hint,
}

/// Whether there are colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paint(bool);

impl Paint {
    /// No colours.
    #[cfg(test)]
    pub(crate) const NONE: Paint = Paint(false);
    /// Colours.
    #[cfg(test)]
    pub(crate) const FULL: Paint = Paint(true);

    /// The colours of a stream, which is a terminal or not.
    pub(crate) fn for_stream(terminal: bool) -> Paint {
        Paint(wanted(terminal, env::var_os("NO_COLOR").as_deref(), env::var_os("TERM").as_deref()))
    }

    /// There are colours.
    pub(crate) fn is_on(self) -> bool {
        self.0
    }

    /// The text so that it stands out.
    pub(crate) fn apply(self, style: Style, text: &str) -> String {
        let code = match style {
            Style::Plain => "",
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Warn => "33",
            Style::Bad => "31",
            Style::Error => "1;31",
            Style::Hint => "1;36",
        };
        if !self.0 || code.is_empty() || text.is_empty() {
            return text.to_owned();
        }
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// See <https://no-color.org>.
fn wanted(terminal: bool, no_color: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    terminal
        && no_color.is_none_or(OsStr::is_empty)
        && term.is_some_and(|term| !term.is_empty() && term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_that_want_them() {
        let some = |text| Some(OsStr::new(text));
        assert!(wanted(true, None, some("xterm")));
        assert!(wanted(true, some(""), some("xterm")));
        assert!(!wanted(false, None, some("xterm")));
        assert!(!wanted(true, some("1"), some("xterm")));
        assert!(!wanted(true, None, some("dumb")));
        assert!(!wanted(true, None, None));
    }
}

//! How failures end: in words with a hint on standard error, with `--json` as an object on standard output too, and
//! in an exit code.

use std::{
    env, fmt,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use bygone_api::Failure;
use serde_json::{Value, json};

use crate::{
    session::Session,
    show::{Paint, Style, words},
};

/// The command line's result.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The manager could not do it.
    #[error(transparent)]
    Engine(#[from] bygone_engine::Error),
    /// The answer cannot be said in JSON.
    #[error("the answer cannot be said in JSON: {0}")]
    Answer(#[source] serde_json::Error),
    /// Nobody said where the store is.
    #[error("there is no home to look for the store in")]
    NoHome,
    /// Asked whether to go on, somebody said no.
    #[error("nothing was done")]
    Declined,
    /// What was checked did not hold. It has been shown already.
    #[error("{} damaged", Places(*.0))]
    Damaged(usize),
    /// A manual page cannot be written.
    #[error("writing manual pages to {}: {source}", .folder.display())]
    Manual {
        /// Where to.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Signals cannot be caught.
    #[error("signals cannot be caught: {0}")]
    Signals(#[source] io::Error),
    /// Standard output or the terminal does not take or give anything.
    #[error("the output cannot be written: {0}")]
    Output(#[source] io::Error),
}

/// `1 place is`, `2 places are`.
struct Places(usize);

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 place is"),
            n => write!(f, "{n} places are"),
        }
    }
}

impl Error {
    /// What is said of it.
    pub(crate) fn failure(&self) -> Failure {
        if let Error::Engine(error) = self {
            return error.failure();
        }
        let (code, hint) = match self {
            Error::Engine(_) | Error::Output(_) => (1, "check where the output goes"),
            Error::Answer(_) => (1, "leave --json out"),
            Error::NoHome => (2, "say where it is with --store DIR or $BYGONE_STORE"),
            Error::Declined => (1, "answer `y`, or give --yes"),
            Error::Damaged(_) => {
                (3, "what lies elsewhere is whole; restore from there, and check the medium and its log")
            }
            Error::Manual { .. } => (1, "check the folder and its permissions"),
            Error::Signals(_) => (1, "try again; nothing was begun"),
        };
        Failure { message: self.to_string(), hint: hint.to_owned(), code, candidates: Vec::new() }
    }

    /// Whoever read the output went away: no failure, nobody wants more.
    fn is_closed_output(&self) -> bool {
        matches!(self, Error::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Says why a command ended early, and gives the exit code.
pub(crate) fn report(session: &Session, error: &Error) -> ExitCode {
    if error.is_closed_output() {
        return ExitCode::SUCCESS;
    }
    let failure = error.failure();
    // `eprint!` panics when standard error cannot be written.
    let _ = io::stderr().write_all(in_words(&failure, session.stderr()).as_bytes());
    // A check that did not hold has been answered with its own document.
    if session.json() && !matches!(error, Error::Damaged(_)) {
        // Standard error has it already, should this fail.
        let _ = session.print_json(&in_json(&failure));
    }
    ExitCode::from(failure.code)
}

/// Says why a command line makes no sense (or what it asked to know of itself), and gives the exit code.
pub(crate) fn refuse(refusal: &clap::Error) -> ExitCode {
    // Nobody is there to be told that this cannot be told.
    let _ = refusal.print();
    if refusal.use_stderr() && env::args_os().any(|arg| arg == "--json") {
        let text = format!("{}\n", in_json(&usage_failure(&refusal.render().to_string())));
        let _ = io::stdout().write_all(text.as_bytes());
    }
    ExitCode::from(u8::try_from(refusal.exit_code()).unwrap_or(2))
}

/// A refusal of the argument parser, taken apart.
fn usage_failure(rendered: &str) -> Failure {
    let message = rendered.split("\n\n").next().unwrap_or(rendered).trim();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let tip = rendered.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    Failure {
        message: words::line(message),
        hint: tip.unwrap_or("see --help").to_owned(),
        code: 2,
        candidates: Vec::new(),
    }
}

/// `{"error": …}`.
fn in_json(failure: &Failure) -> Value {
    json!({"error": {
        "message": failure.message,
        "hint": failure.hint,
        "code": failure.code,
        "candidates": failure.candidates,
    }})
}

/// The error, its hint, and what may have been meant.
fn in_words(failure: &Failure, paint: Paint) -> String {
    let mut text = format!(
        "{} {}\n",
        paint.apply(Style::Error, "error:"),
        words::lines(&failure.message).replace('\n', "\n  ")
    );
    if !failure.hint.is_empty() {
        let hint = words::lines(&failure.hint);
        text.push_str(&format!("{} {hint}\n", paint.apply(Style::Hint, "hint:")));
    }
    for candidate in &failure.candidates {
        text.push_str(&format!("  {}\n", words::line(candidate)));
    }
    text
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn ambiguous() -> Failure {
        Failure {
            message: "\"1:30\": the clock showed this twice".to_owned(),
            hint: "say which".to_owned(),
            code: 1,
            candidates: vec!["2026-11-01T01:30:00-04:00".to_owned(), "2026-11-01T01:30:00-05:00".to_owned()],
        }
    }

    #[test]
    fn a_failure_is_told_with_its_hint_and_candidates() {
        assert_snapshot!(in_words(&ambiguous(), Paint::NONE), @r#"
        error: "1:30": the clock showed this twice
        hint: say which
          2026-11-01T01:30:00-04:00
          2026-11-01T01:30:00-05:00
        "#);
        assert_snapshot!(in_json(&ambiguous()), @r#"{"error":{"candidates":["2026-11-01T01:30:00-04:00","2026-11-01T01:30:00-05:00"],"code":1,"hint":"say which","message":"\"1:30\": the clock showed this twice"}}"#);
    }

    #[test]
    fn what_a_guest_says_cannot_drive_the_terminal() {
        let failure = Failure { message: "qemu: \u{1b}[2Jgone\nmore".to_owned(), ..ambiguous() };
        assert!(!in_words(&failure, Paint::NONE).contains('\u{1b}'));
    }

    #[test]
    fn every_failure_has_a_hint_and_a_code() {
        for (error, code) in [
            (Error::NoHome, 2),
            (Error::Declined, 1),
            (Error::Damaged(1), 3),
            (Error::Output(io::ErrorKind::StorageFull.into()), 1),
            (Error::Signals(io::ErrorKind::Other.into()), 1),
        ] {
            let failure = error.failure();
            assert_eq!(failure.code, code, "{error}");
            assert!(!failure.hint.is_empty(), "{error}");
        }
        assert_eq!(Error::Damaged(2).to_string(), "2 places are damaged");
    }

    #[test]
    fn wrong_usage_is_told_in_json_too() {
        let rendered = "error: unrecognized subcommand 'statsu'\n\n  tip: a similar subcommand exists: 'status'\n\n\
                        Usage: bygone [OPTIONS] <COMMAND>\n";
        assert_snapshot!(in_json(&usage_failure(rendered)), @r#"{"error":{"candidates":[],"code":2,"hint":"a similar subcommand exists: 'status'","message":"unrecognized subcommand 'statsu'"}}"#);
    }
}

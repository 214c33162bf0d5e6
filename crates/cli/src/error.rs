//! Reports failures: in words with a hint on standard error, with `--json` also as an object on standard output, and as
//! an exit code.

use std::{
    env, fmt,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use bygone_api::{Failure, LostRecords, Remedy};
use clap::{CommandFactory as _, error::ErrorKind};
use serde_json::{Map, Value, json};

use crate::{
    cli::Cli,
    hints,
    session::Session,
    show::{Look, Style, prose, words},
};

/// The command line's result.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Why a command ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The manager could not do it.
    #[error("{error}")]
    Engine {
        /// Why not.
        error: Box<bygone_engine::Error>,
        /// The target that the call was about.
        target: Option<String>,
    },
    /// The answer cannot be said in JSON.
    #[error("the answer cannot be said in JSON: {0}")]
    Answer(#[source] serde_json::Error),
    /// The store was not given, and there is no home directory.
    #[error("there is no home to look for the store in")]
    NoHome,
    /// The user did not confirm.
    #[error("nothing was done")]
    Declined,
    /// Something would be lost, and there is no terminal to ask on.
    #[error("this gives up history, and nobody is here to be asked; nothing was done")]
    NeedsYes,
    /// A check found damage. It has been shown already.
    #[error("{} damaged", Places(*.0))]
    Damaged(usize),
    /// What was asked for was done, and lies behind records that are lost. That has been shown already.
    #[error("records before this moment are lost; what they overwrote is older than it should be")]
    BehindLoss,
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
    /// Standard output or the terminal failed.
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

/// A failure as it is shown: what happened, and what to do about it.
struct Refusal {
    /// Kept stable for programs.
    code: String,
    message: String,
    hint: String,
    exit: u8,
    /// Moments that may have been meant.
    candidates: Vec<String>,
    /// Its other fields, for programs.
    fields: Map<String, Value>,
}

impl From<bygone_engine::Error> for Error {
    fn from(error: bygone_engine::Error) -> Error {
        Error::about(error, None)
    }
}

impl Error {
    /// The manager could not do a call about this target.
    pub(crate) fn about(error: bygone_engine::Error, target: Option<&str>) -> Error {
        Error::Engine { error: Box::new(error), target: target.map(str::to_owned) }
    }

    fn refusal(&self) -> Refusal {
        if let Error::Engine { error, target } = self {
            return of_failure(&error.failure(), target.as_deref());
        }
        let (exit, code, hint) = match self {
            Error::Engine { .. } | Error::Output(_) => (1, "output", "check where the output goes"),
            Error::Answer(_) => (1, "not-json", "leave --json out"),
            Error::NoHome => (2, "no-home", "say where it is with --store DIR or $BYGONE_STORE"),
            Error::Declined => (1, "declined", "type the word yes, or give --yes"),
            Error::NeedsYes => (2, "needs-yes", "give --yes if that is what you want"),
            Error::Damaged(_) => (
                3,
                "damaged",
                "what lies elsewhere is whole; restore from there, and check the medium and its log",
            ),
            Error::BehindLoss => (
                3,
                "behind-loss",
                "a moment before the lost records is whole; `bygone status` says which file they were in: with a copy of it, \
                 put it back before anything else is done",
            ),
            Error::Manual { .. } => (1, "file", "check the folder and its permissions"),
            Error::Signals(_) => (1, "system-refuses", "try again; nothing was begun"),
        };
        Refusal {
            code: code.to_owned(),
            message: without_number(&self.to_string()),
            hint: hint.to_owned(),
            exit,
            candidates: Vec::new(),
            fields: Map::new(),
        }
    }

    /// The reader of the output has gone, which is not a failure.
    fn is_closed_output(&self) -> bool {
        matches!(self, Error::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// The system's error message without its number.
fn without_number(text: &str) -> String {
    match text.split_once(" (os error ") {
        Some((before, after)) => format!("{before}{}", after.split_once(')').map_or("", |(_, rest)| rest)),
        None => text.to_owned(),
    }
}

fn of_failure(failure: &Failure, target: Option<&str>) -> Refusal {
    let candidates = match failure {
        Failure::NoMoment { candidates, .. } => candidates.clone(),
        _ => Vec::new(),
    };
    let fields = match serde_json::to_value(failure) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    Refusal {
        code: failure.code(),
        message: failure.to_string(),
        hint: hints::of(failure, target),
        exit: if failure.remedy() == Remedy::Rephrase { 2 } else { 1 },
        candidates,
        fields,
    }
}

/// A failure's message for people, with its time as they read it.
fn for_people(failure: &Failure, look: &Look) -> String {
    match failure {
        Failure::Busy { target, change, since } => {
            let (target, change, since) = (target.clone(), *change, words::clock(since, look));
            Failure::Busy { target, change, since }.to_string()
        }
        failure => failure.to_string(),
    }
}

/// Checks that no records before a moment are lost, after its answer was shown.
///
/// # Errors
/// [`Error::BehindLoss`] if some are.
pub(crate) fn check_whole(lost: &[LostRecords]) -> Result<()> {
    if lost.is_empty() { Ok(()) } else { Err(Error::BehindLoss) }
}

/// Says why a command ended early, and gives the exit code.
pub(crate) fn report(session: &Session, error: &Error) -> ExitCode {
    if error.is_closed_output() {
        return ExitCode::SUCCESS;
    }
    let refusal = error.refusal();
    let look = session.look_of_stderr();
    let message = match error {
        Error::Engine { error, .. } => for_people(&error.failure(), &look),
        _ => refusal.message.clone(),
    };
    // `eprint!` panics when standard error cannot be written.
    let _ = io::stderr().write_all(in_words(&refusal, &message, &look).as_bytes());
    // A check that found damage has printed its own document.
    if session.json() && !matches!(error, Error::Damaged(_) | Error::BehindLoss) {
        // Standard error has it already, should this fail.
        let _ = session.print_json(&in_json(&refusal));
    }
    ExitCode::from(refusal.exit)
}

/// Says why a command line makes no sense (or what it asked to know of itself), and gives the exit code.
pub(crate) fn refuse(refusal: &clap::Error) -> ExitCode {
    if !refusal.use_stderr() || refusal.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // A failure to print this cannot be reported anywhere.
        let _ = refusal.print();
        return ExitCode::from(u8::try_from(refusal.exit_code()).unwrap_or(2));
    }
    refuse_as(&refusal.render().to_string())
}

/// Says that a word of the command line cannot be told to a manager, and gives the exit code.
pub(crate) fn refuse_word(word: &std::ffi::OsStr) -> ExitCode {
    refuse_as(&format!(
        "the argument {:?} is not valid UTF-8\n\ntip: give a file another name, or a symbolic link to it",
        word.to_string_lossy()
    ))
}

fn refuse_as(rendered: &str) -> ExitCode {
    let args: Vec<String> = env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let usage = of_usage(rendered, &args);
    let _ = io::stderr().write_all(in_words(&usage, &usage.message, &Look::of_stderr()).as_bytes());
    if args.iter().any(|arg| arg == "--json") {
        let _ = io::stdout().write_all(format!("{}\n", in_json(&usage)).as_bytes());
    }
    ExitCode::from(usage.exit)
}

/// A refusal of the argument parser: its first paragraph says what is wrong, a tip what may have been meant.
fn of_usage(rendered: &str, args: &[String]) -> Refusal {
    let message = rendered.split("\n\n").next().unwrap_or(rendered).trim();
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let tip = rendered.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let help = format!("`{} --help` says what it takes", command_path(args));
    Refusal {
        code: "usage".to_owned(),
        message: message.to_owned(),
        hint: tip.map_or(help.clone(), |tip| format!("{tip}; {help}")),
        exit: 2,
        candidates: Vec::new(),
        fields: Map::new(),
    }
}

/// The command that was meant: `bygone target add`.
fn command_path(args: &[String]) -> String {
    let mut path = "bygone".to_owned();
    let top = Cli::command();
    let mut command = &top;
    for arg in args.iter().skip(1) {
        let Some(next) = command.find_subcommand(arg) else { continue };
        path.push(' ');
        path.push_str(next.get_name());
        command = next;
    }
    path
}

/// `{"error": …}`.
fn in_json(refusal: &Refusal) -> Value {
    let mut error = refusal.fields.clone();
    error.insert("code".to_owned(), json!(refusal.code));
    error.insert("message".to_owned(), json!(refusal.message));
    error.insert("hint".to_owned(), json!(refusal.hint));
    error.insert("exit".to_owned(), json!(refusal.exit));
    error.insert("candidates".to_owned(), json!(refusal.candidates));
    json!({ "error": error })
}

/// The error, its hint, and what may have been meant.
fn in_words(refusal: &Refusal, message: &str, look: &Look) -> String {
    let paint = look.paint;
    let mut text = format!("{} {}\n", paint.apply(Style::Error, "error:"), prose(message, 7, look.width));
    if !refusal.hint.is_empty() {
        let hint = prose(&refusal.hint, 6, look.width);
        text.push_str(&format!("{} {hint}\n", paint.apply(Style::Hint, "hint:")));
    }
    for candidate in &refusal.candidates {
        text.push_str(&format!("  {}\n", words::line(candidate)));
    }
    text
}

#[cfg(test)]
mod tests {
    use bygone_api::Change;
    use insta::assert_snapshot;
    use jiff::Zoned;

    use super::*;
    use crate::show::Paint;

    fn ambiguous() -> Refusal {
        Refusal {
            code: "no-moment".to_owned(),
            message: "\"1:30\": the clock showed this twice".to_owned(),
            hint: "say which".to_owned(),
            exit: 1,
            fields: Map::new(),
            candidates: vec!["2026-11-01T01:30:00-04:00".to_owned(), "2026-11-01T01:30:00-05:00".to_owned()],
        }
    }

    #[test]
    fn a_failure_is_told_with_its_hint_and_candidates() {
        let look = |width| Look { now: Zoned::now(), paint: Paint::NONE, width };
        assert_snapshot!(in_words(&ambiguous(), &ambiguous().message, &look(None)), @r#"
        error: "1:30": the clock showed this twice
        hint: say which
          2026-11-01T01:30:00-04:00
          2026-11-01T01:30:00-05:00
        "#);
        let long = Refusal { hint: "say which of them you mean, with its offset".to_owned(), ..ambiguous() };
        assert_snapshot!(in_words(&long, &long.message, &look(Some(30))), @r#"
        error: "1:30": the clock
          showed this twice
        hint: say which of them you
          mean, with its offset
          2026-11-01T01:30:00-04:00
          2026-11-01T01:30:00-05:00
        "#);
        assert_snapshot!(in_json(&ambiguous()), @r#"{"error":{"candidates":["2026-11-01T01:30:00-04:00","2026-11-01T01:30:00-05:00"],"code":"no-moment","exit":1,"hint":"say which","message":"\"1:30\": the clock showed this twice"}}"#);
    }

    #[test]
    fn what_is_being_done_is_told_with_its_time_as_its_reader_has_it() {
        let now: jiff::Timestamp = "2026-11-25T03:00:00Z".parse().unwrap();
        let now = now.to_zoned(jiff::tz::TimeZone::posix("JST-9").unwrap());
        let look = Look { now, paint: Paint::NONE, width: None };
        let (target, since) = ("web".to_owned(), "2026-11-25T02:00:00.123456Z".to_owned());
        let busy = |change| Failure::Busy { target: target.clone(), change, since: since.clone() };
        let said = |change| for_people(&busy(change), &look);
        assert_eq!(said(Change::Restoring), "target \"web\" is being restored, since 11:00:00");
        assert_eq!(said(Change::Dropping), "a branch of target \"web\" is being dropped, since 11:00:00");
        let sent = serde_json::to_string(&busy(Change::Undoing)).unwrap();
        let wanted =
            r#"{"code":"busy","target":"web","change":"undoing","since":"2026-11-25T02:00:00.123456Z"}"#;
        assert_eq!(sent, wanted);
    }

    #[test]
    fn what_a_guest_says_cannot_drive_the_terminal() {
        let failure = Refusal { message: "qemu: \u{1b}[2Jgone\nmore".to_owned(), ..ambiguous() };
        let look = Look { now: Zoned::now(), paint: Paint::NONE, width: None };
        assert!(!in_words(&failure, &failure.message, &look).contains('\u{1b}'));
    }

    #[test]
    fn every_failure_has_a_hint_and_a_code() {
        for (error, code) in [
            (Error::NoHome, 2),
            (Error::Declined, 1),
            (Error::NeedsYes, 2),
            (Error::Damaged(1), 3),
            (Error::BehindLoss, 3),
            (Error::Output(io::ErrorKind::StorageFull.into()), 1),
            (Error::Signals(io::ErrorKind::Other.into()), 1),
        ] {
            let failure = error.refusal();
            assert_eq!(failure.exit, code, "{error}");
            assert!(!failure.hint.is_empty(), "{error}");
        }
        assert_eq!(Error::Damaged(2).to_string(), "2 places are damaged");
    }

    #[test]
    fn wrong_usage_is_told_with_the_help_of_the_command_that_was_meant() {
        let rendered = "error: unrecognized subcommand 'statsu'\n\n  tip: a similar subcommand exists: 'status'\n\n\
                        Usage: bygone [OPTIONS] <COMMAND>\n";
        let args = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_snapshot!(in_json(&of_usage(rendered, &args("bygone --json statsu"))), @r#"{"error":{"candidates":[],"code":"usage","exit":2,"hint":"a similar subcommand exists: 'status'; `bygone --help` says what it takes","message":"unrecognized subcommand 'statsu'"}}"#);
        assert_eq!(command_path(&args("bygone --store /s target add web --disk")), "bygone target add");
    }
}

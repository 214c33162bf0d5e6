//! What happened to a target: `timeline`, `points`, `point`.

use std::io::IsTerminal as _;

use bygone_api::{Call, MomentInfo, call};
use bygone_model::Kind;
use clap::{
    Args,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};

use clap_complete::engine::ArgValueCandidates;

use crate::{
    complete,
    error::Result,
    manager::{self, OnInterrupt},
    session::Session,
    show, values,
};

/// So many moments are laid out as one table; a longer history comes as several.
const TABLE_ROWS_MAX: usize = 1000;
/// So many moments are shown on a terminal unless told otherwise.
const TERMINAL_ROWS: u64 = 200;

/// The kinds of moments, as `--kind` takes them.
const KINDS: [&str; 14] = [
    "boot", "shutdown", "reset", "panic", "point", "gap", "base", "branch", "manager", "package", "write",
    "contact", "timer", "suspect",
];
/// So many of them are noticed by this version; the others are not offered.
const NOTICED: usize = 9;

fn kinds() -> impl Iterator<Item = PossibleValue> {
    KINDS.into_iter().enumerate().map(|(at, kind)| PossibleValue::new(kind).hide(at >= NOTICED))
}

/// `timeline`.
#[derive(Debug, Args)]
#[command(
    long_about = "\
Show what happened to a target: events and points, the newest last.

GRADE says how good a moment is to come back to:
  stopped   it was shut down, with its file systems clean
  clean     its file systems were marked clean
  crash     as after a power cut",
    after_long_help = "\
Examples:
  bygone timeline web
  bygone timeline web --since yesterday --kind boot,shutdown
  bygone timeline web --since 'last boot' --until '15:00'
  bygone timeline web --json | jq -r 'select(.kind == \"point\") | .label'"
)]
pub(crate) struct Timeline {
    /// Of which target
    #[arg(add = ArgValueCandidates::new(complete::targets))]
    name: String,
    /// Not before this moment
    #[arg(long, value_name = "WHEN", add = ArgValueCandidates::new(complete::moments))]
    since: Option<String>,
    /// Not after this moment
    #[arg(long, value_name = "WHEN", add = ArgValueCandidates::new(complete::moments))]
    until: Option<String>,
    /// Only these kinds: K,K or given again
    #[arg(
        long = "kind",
        value_name = "KIND",
        value_delimiter = ',',
        value_parser = PossibleValuesParser::new(kinds()).map(Kind::from)
    )]
    kinds: Vec<Kind>,
    /// Only what happened on this branch
    #[arg(long, value_name = "B", add = ArgValueCandidates::new(complete::branches))]
    branch: Option<String>,
    /// Only the newest ones, so many [default: 200 on a terminal, else all]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

impl Timeline {
    pub(crate) fn call(&self) -> call::Timeline {
        call::Timeline {
            name: self.name.clone(),
            since: self.since.clone(),
            until: self.until.clone(),
            kinds: self.kinds.clone(),
            branch: self.branch.clone(),
            limit: self.limit,
        }
    }
}

/// `points`.
#[derive(Debug, Args)]
#[command(
    long_about = "Show the moments worth choosing from: boots, stops, points; the newest \
                  last.",
    after_long_help = "\
Examples:
  bygone points web
  bygone run web --at seq:812345        from one of them"
)]
pub(crate) struct Points {
    /// Of which target
    #[arg(add = ArgValueCandidates::new(complete::targets))]
    name: String,
}

/// `when`.
#[derive(Debug, Args)]
#[command(
    long_about = "\
Say what a moment would be, without acting on it: which one it is, when, on which branch, how good it is to come \
back to, and whether it can be had.",
    after_long_help = "\
Examples:
  bygone when web 'yesterday 14:59'
  bygone when web 'try-1@last shutdown'
  bygone when web '22:44 UTC' --json"
)]
pub(crate) struct When {
    /// Of which target
    name: String,
    /// Which moment
    #[arg(value_name = "WHEN")]
    at: String,
}

/// `point`.
#[derive(Debug, Args)]
#[command(
    long_about = "\
Name a moment and keep it. `point:LABEL` then means this moment wherever one is asked for.

Without --at it is the machine's newest moment: on the branch on which it runs, or of the present if it does not run. The \
answer says on which branch it is; `--at branch:B` names the newest moment of another one, `--at now` of the present.",
    after_long_help = "\
Examples:
  bygone point web --label 'before the migration'
  bygone point web --at '10 minutes ago' --label good --hold 30d"
)]
pub(crate) struct Point {
    /// Of which target
    #[arg(add = ArgValueCandidates::new(complete::targets))]
    name: String,
    /// Which moment; the newest one of what runs, or of the present, unless given
    #[arg(long, value_name = "WHEN", add = ArgValueCandidates::new(complete::moments))]
    at: Option<String>,
    /// What it is called
    #[arg(long, value_name = "TEXT")]
    label: String,
    /// Keep it at least this long, such as 30d (only noted yet: nothing is ever freed in this version)
    #[arg(long, value_name = "TIME", value_parser = values::hold)]
    hold: Option<String>,
}

impl Point {
    pub(crate) fn call(&self) -> call::Point {
        call::Point {
            name: self.name.clone(),
            at: self.at.clone(),
            label: self.label.clone(),
            hold: self.hold.clone(),
        }
    }
}

pub(crate) fn timeline(session: &Session, args: &Timeline) -> Result<()> {
    let mut call = args.call();
    // A person reads the end of it; whoever asks for a part or reads it by program gets all of that.
    if !session.json() && args.since.is_none() && std::io::stdout().is_terminal() {
        call.limit = call.limit.or(Some(TERMINAL_ROWS));
    }
    moments(session, &call)
}

pub(crate) fn points(session: &Session, args: &Points) -> Result<()> {
    moments(session, &call::Points { name: args.name.clone() })
}

pub(crate) fn when(session: &Session, args: &When) -> Result<()> {
    let call = call::When { name: args.name.clone(), at: args.at.clone() };
    session.tell(&manager::ask(session, &call)?, show::moments::meant)
}

pub(crate) fn point(session: &Session, args: &Point) -> Result<()> {
    session.tell(&manager::ask(session, &args.call())?, show::moments::named)
}

/// Shows moments as they come: one by one in JSON, in tables for people.
fn moments<C: Call<Item = MomentInfo>>(session: &Session, call: &C) -> Result<()> {
    let mut rows: Vec<MomentInfo> = Vec::new();
    let mut tables = 0;
    manager::ask_for_items(session, call, OnInterrupt::Die, &mut |item| {
        if session.json() {
            return session.print_json(&item);
        }
        rows.push(item);
        if rows.len() == TABLE_ROWS_MAX {
            session.print(&show::moments::table(&rows, &session.look()))?;
            rows.clear();
            tables += 1;
        }
        Ok(())
    })?;
    if session.json() || (rows.is_empty() && tables > 0) {
        return Ok(());
    }
    session.print(&show::moments::table(&rows, &session.look()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_can_be_asked_for_is_one() {
        for kind in KINDS {
            assert!(!matches!(Kind::from(kind.to_owned()), Kind::Other(_)), "{kind}");
        }
    }
}

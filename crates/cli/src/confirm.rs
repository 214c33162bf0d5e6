//! Asks before something is lost permanently.
//!
//! The manager makes all its checks first, and says what would be lost. Then on a terminal the user is asked, and only
//! the word yes continues; without a terminal nothing is lost without `--yes`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use bygone_api::{
    Planned,
    call::{Plan, Plannable},
};

use crate::{
    error::{Error, Result},
    manager,
    session::Session,
    show,
};

/// Shows what a call would do (`--dry-run`).
///
/// # Errors
/// The call would fail.
pub(crate) fn dry_run(session: &Session, call: impl Into<Plannable>) -> Result<()> {
    let call = call.into();
    let planned = manager::ask(session, &Plan { of: call.clone() })?;
    session.show(&planned, |planned, look| show::plan::outlook(&call, planned, look))
}

/// Continues if `yes` was given, or the user confirms. Returns the plan if the user was asked.
///
/// # Errors
/// There is no terminal to ask on, the user did not confirm, or the call would fail anyway.
pub(crate) fn before_loss(
    session: &Session,
    yes: bool,
    call: impl Into<Plannable>,
) -> Result<Option<Planned>> {
    if yes {
        return Ok(None);
    }
    let call = call.into();
    let planned = manager::ask(session, &Plan { of: call.clone() })?;
    confirmed(session, &call, planned).map(Some)
}

/// The same for a call that need not lose anything: then nobody is asked.
///
/// # Errors
/// As [`before_loss`].
pub(crate) fn before_any_loss(
    session: &Session,
    yes: bool,
    call: impl Into<Plannable>,
) -> Result<Option<Planned>> {
    if yes {
        return Ok(None);
    }
    let call = call.into();
    let planned = manager::ask(session, &Plan { of: call.clone() })?;
    if planned.loses.is_empty() {
        return Ok(Some(planned));
    }
    confirmed(session, &call, planned).map(Some)
}

fn confirmed(session: &Session, call: &Plannable, planned: Planned) -> Result<Planned> {
    if session.json() || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Error::NeedsYes);
    }
    let look = session.look_of_stderr();
    let question = show::plan::question(call, &planned, &look);
    let mut err = io::stderr().lock();
    write!(err, "{question}Type yes to go on: ").and_then(|()| err.flush()).map_err(Error::Output)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Error::Output)?;
    if answer.trim() == "yes" { Ok(planned) } else { Err(Error::Declined) }
}

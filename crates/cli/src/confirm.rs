//! Asks before something is lost permanently.
//!
//! On a terminal the user is asked, after the manager has made all its checks and reported what would be lost, and only
//! the word yes continues. Without a terminal nothing is lost without `--yes`.

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
    if session.json() || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Error::NeedsYes);
    }
    let call = call.into();
    let planned = manager::ask(session, &Plan { of: call.clone() })?;
    let look = session.look_of_stderr();
    let question = show::plan::question(&call, &planned, &look);
    let mut err = io::stderr().lock();
    write!(err, "{question}Type yes to go on: ").and_then(|()| err.flush()).map_err(Error::Output)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(Error::Output)?;
    if answer.trim() == "yes" { Ok(Some(planned)) } else { Err(Error::Declined) }
}

//! Asking before something is lost for good.
//!
//! On a terminal a person is asked, after the manager has made all its checks and said what would be lost, and only the word yes
//! goes on. Elsewhere nobody can be asked, so nothing is lost without `--yes`.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use bygone_api::{
    Planned,
    call::{Destroying, Plan},
};

use crate::{
    error::{Error, Result},
    manager,
    session::Session,
    show,
};

/// Goes on if `yes` was said, or a person says it. What was planned is returned if somebody was asked.
///
/// # Errors
/// Nobody can be asked, somebody said something else than yes, or it could not be done anyway.
pub(crate) fn before_loss(
    session: &Session,
    yes: bool,
    call: impl Into<Destroying>,
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

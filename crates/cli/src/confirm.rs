//! Asking before something is lost. Only on terminals: scripts have said what they want.

use std::io::{self, IsTerminal as _, Write as _};

use crate::{
    error::{Error, Result},
    session::Session,
    show::{Style, words},
};

/// Asks whether to go on, unless `yes` has been said or nobody is there to be asked.
///
/// # Errors
/// Somebody said no.
pub(crate) fn confirm(session: &Session, yes: bool, question: &str) -> Result<()> {
    if yes || session.json() || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(());
    }
    let question = session.stderr().apply(Style::Bold, &words::line(question));
    let mut err = io::stderr().lock();
    write!(err, "{question} [y/N] ").and_then(|()| err.flush()).map_err(Error::Output)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(Error::Output)?;
    if is_yes(&answer) { Ok(()) } else { Err(Error::Declined) }
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        assert!(["y\n", "Y", " yes \n"].into_iter().all(is_yes));
        assert!(!["", "\n", "n", "yep", "no"].into_iter().any(is_yes));
    }
}

//! One run of the command line: the store, and how output is written.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    cli::Global,
    error::{Error, Result},
    show::{self, Look, Paint},
};

/// Where root's store is.
const SYSTEM_STORE: &str = "/var/lib/bygone";
/// The store of other users, in their home directory.
const HOME_STORE: &str = ".local/share/bygone";

/// One run of the command line.
pub(crate) struct Session {
    global: Global,
    look: Look,
    stderr: Paint,
    stderr_is_terminal: bool,
}

impl Session {
    /// Looks at the terminals once.
    pub(crate) fn new(global: Global) -> Session {
        let stderr_is_terminal = io::stderr().is_terminal();
        Session {
            global,
            look: Look::of_stdout(),
            stderr: Paint::for_stream(stderr_is_terminal),
            stderr_is_terminal,
        }
    }

    /// The store, as an absolute path.
    ///
    /// # Errors
    /// No store was given, and there is no home directory.
    pub(crate) fn store(&self) -> Result<PathBuf> {
        let root = rustix::process::geteuid().is_root();
        let home = env::var_os("HOME").map(PathBuf::from);
        store_path(self.global.store.as_deref(), root, home.as_deref())
    }

    /// Answers are JSON.
    pub(crate) fn json(&self) -> bool {
        self.global.json
    }

    /// Only results and errors are wanted.
    pub(crate) fn quiet(&self) -> bool {
        self.global.quiet
    }

    /// The key of what is asked for.
    pub(crate) fn key(&self) -> Option<&str> {
        self.global.key.as_deref()
    }

    /// Jobs continue if this command ends early.
    pub(crate) fn detached(&self) -> bool {
        self.global.detach
    }

    /// The look of standard output now: after a wait the time has changed.
    pub(crate) fn look(&self) -> Look {
        self.look.refreshed()
    }

    /// How things look on standard error.
    pub(crate) fn look_of_stderr(&self) -> Look {
        Look::of_stderr()
    }

    /// The colours of standard error.
    pub(crate) fn stderr(&self) -> Paint {
        self.stderr
    }

    /// Progress has somewhere to be drawn.
    pub(crate) fn draws_progress(&self) -> bool {
        self.stderr_is_terminal && !self.global.quiet
    }

    /// Writes a result.
    ///
    /// # Errors
    /// Standard output does not take it.
    pub(crate) fn print(&self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        write!(out, "{text}{end}").and_then(|()| out.flush()).map_err(Error::Output)
    }

    /// Writes a JSON document as one line.
    ///
    /// # Errors
    /// Standard output does not take it.
    pub(crate) fn print_json(&self, answer: &impl Serialize) -> Result<()> {
        let mut answer = serde_json::to_value(answer).map_err(Error::Answer)?;
        show::status::explain(&mut answer);
        self.print(&format!("{answer}\n"))
    }

    /// Shows what was asked for: as JSON, or in words.
    ///
    /// # Errors
    /// Standard output does not take it.
    pub(crate) fn show<T: Serialize>(
        &self,
        answer: &T,
        words: impl FnOnce(&T, &Look) -> String,
    ) -> Result<()> {
        if self.json() {
            return self.print_json(answer);
        }
        let look = self.look();
        self.print(&show::fit(&words(answer, &look), look.width))
    }

    /// Says that something was done; like [`show`](Session::show), but `-q` leaves the words out.
    ///
    /// # Errors
    /// Standard output does not take it.
    pub(crate) fn tell<T: Serialize>(
        &self,
        answer: &T,
        words: impl FnOnce(&T, &Look) -> String,
    ) -> Result<()> {
        if self.quiet() && !self.json() {
            return Ok(());
        }
        self.show(answer, words)
    }
}

/// The store's path: as given, or the user's default.
fn store_path(said: Option<&Path>, root: bool, home: Option<&Path>) -> Result<PathBuf> {
    let path = match (said, root, home) {
        (Some(said), _, _) => said.to_owned(),
        (None, true, _) => PathBuf::from(SYSTEM_STORE),
        (None, false, Some(home)) if home.is_absolute() => home.join(HOME_STORE),
        (None, false, _) => return Err(Error::NoHome),
    };
    Ok(bygone_api::config::absolute(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_where_the_contract_says() {
        let home = Some(Path::new("/home/ann"));
        assert_eq!(store_path(None, true, home).unwrap(), Path::new("/var/lib/bygone"));
        assert_eq!(store_path(None, false, home).unwrap(), Path::new("/home/ann/.local/share/bygone"));
        assert_eq!(store_path(Some(Path::new("/s")), true, None).unwrap(), Path::new("/s"));
        assert!(store_path(Some(Path::new("s")), false, None).unwrap().is_absolute());
        assert!(matches!(store_path(None, false, None), Err(Error::NoHome)));
    }
}

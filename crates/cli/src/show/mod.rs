//! Formats answers for people. Pure: the time, the width and the colours are parameters ([`Look`]).

pub(crate) mod branches;
pub(crate) mod jobs;
pub(crate) mod machine;
pub(crate) mod moments;
mod paint;
pub(crate) mod plan;
pub(crate) mod restore;
pub(crate) mod status;
pub(crate) mod store;
mod table;
pub(crate) mod target;
#[cfg(test)]
mod tests;
pub(crate) mod words;

use std::io::{self, IsTerminal as _};

use jiff::Zoned;

pub(crate) use paint::{Paint, Style};
use table::{Cell, Column, Table};
pub(crate) use table::{fit, prose};

/// How things are to look.
#[derive(Clone)]
pub(crate) struct Look {
    /// Now, in the reader's time zone.
    pub(crate) now: Zoned,
    /// Colours.
    pub(crate) paint: Paint,
    /// Columns of the terminal; `None` where there is none and lines may be as long as they like.
    pub(crate) width: Option<usize>,
}

impl Look {
    /// As standard output is.
    pub(crate) fn of_stdout() -> Look {
        let stdout = io::stdout();
        Look::of(&stdout, stdout.is_terminal())
    }

    /// As standard error is.
    pub(crate) fn of_stderr() -> Look {
        let stderr = io::stderr();
        Look::of(&stderr, stderr.is_terminal())
    }

    fn of(stream: impl std::os::fd::AsFd, terminal: bool) -> Look {
        let width = || rustix::termios::tcgetwinsize(&stream).ok().map(|size| usize::from(size.ws_col));
        Look {
            now: Zoned::now(),
            paint: Paint::for_stream(terminal),
            width: if terminal { width().filter(|columns| *columns > 0) } else { None },
        }
    }

    /// The same later.
    pub(crate) fn refreshed(&self) -> Look {
        Look { now: Zoned::now(), ..self.clone() }
    }
}

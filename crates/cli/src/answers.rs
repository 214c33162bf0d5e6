//! Receives what arrives before the answer to a request: progress, notes, items.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use bygone_api::{Answers, Caller, Expect, Items, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    error::{Error, Result},
    session::Session,
    show::{Paint, Style, words},
    signals::Interrupt,
};

/// Fits 80 columns if the description takes up to 20 of them.
const BAR: &str =
    "{msg} {wide_bar} {percent}% {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta}";
const SPINNER: &str = "{spinner} {msg} {binary_bytes} {binary_bytes_per_sec}";
/// The longest time between redraws, so that the bar is seen to be alive.
const TICK: Duration = Duration::from_millis(200);

/// Listens to the answers of one request.
pub(crate) struct Listener<'a, I> {
    interrupt: &'a Interrupt,
    caller: Caller,
    each: &'a mut dyn FnMut(I) -> Result<()>,
    /// Why no more items are wanted.
    failed: Option<Error>,
    bar: Bar,
    notes: Option<Paint>,
}

impl<'a, I> Listener<'a, I> {
    /// Passes items to `each` until that fails or the user interrupts.
    pub(crate) fn new(
        session: &Session,
        interrupt: &'a Interrupt,
        each: &'a mut dyn FnMut(I) -> Result<()>,
    ) -> Listener<'a, I> {
        Listener {
            interrupt,
            caller: Caller {
                key: session.key().map(str::to_owned),
                detached: session.detached(),
                ..Caller::default()
            },
            each,
            failed: None,
            bar: Bar { wanted: session.draws_progress(), bar: None, counted: false, doing: String::new() },
            notes: (!session.quiet()).then(|| session.stderr()),
        }
    }

    /// The manager refuses unless this still holds.
    pub(crate) fn expecting(mut self, expect: Option<Expect>) -> Listener<'a, I> {
        self.caller.expect = expect;
        self
    }

    /// Ends the request.
    ///
    /// # Errors
    /// An item could not be taken.
    pub(crate) fn close(mut self) -> Result<()> {
        self.bar.clear();
        self.failed.map_or(Ok(()), Err)
    }
}

impl<I> Answers for Listener<'_, I> {
    fn caller(&self) -> &Caller {
        &self.caller
    }

    fn progress(&mut self, progress: Progress) -> bool {
        self.bar.draw(&progress);
        self.wanted()
    }

    fn note(&mut self, text: String) {
        let Some(paint) = self.notes else { return };
        let text = format!("{} {}", paint.apply(Style::Dim, "note:"), words::lines(&text));
        // `eprint!` panics when standard error cannot be written.
        let _ = self.bar.beside(|| writeln!(io::stderr(), "{text}"));
    }

    fn wanted(&mut self) -> bool {
        self.failed.is_none() && !self.interrupt.happened()
    }
}

impl<I> Items<I> for Listener<'_, I> {
    fn item(&mut self, item: I) -> bool {
        if self.failed.is_none() {
            let each = &mut self.each;
            self.failed = self.bar.beside(|| each(item).err());
        }
        self.wanted()
    }
}

/// A progress bar on standard error, drawn from the first progress on.
struct Bar {
    wanted: bool,
    bar: Option<ProgressBar>,
    /// The bar has a known total.
    counted: bool,
    doing: String,
}

impl Bar {
    fn draw(&mut self, progress: &Progress) {
        if !self.wanted {
            return;
        }
        let counted = progress.total_bytes > 0;
        if self.bar.is_none() || counted != self.counted || progress.doing != self.doing {
            self.clear();
            self.counted = counted;
            self.doing.clone_from(&progress.doing);
            self.bar = Some(new_bar(progress));
        }
        if let Some(bar) = &self.bar {
            if counted {
                bar.set_length(progress.total_bytes);
            }
            bar.set_position(progress.done_bytes);
        }
    }

    /// Runs `act`, which writes to the terminal, with the bar hidden.
    fn beside<T>(&self, act: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(act),
            None => act(),
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(progress: &Progress) -> ProgressBar {
    let counted = progress.total_bytes > 0;
    let bar =
        ProgressBar::with_draw_target(counted.then_some(progress.total_bytes), ProgressDrawTarget::stderr());
    let template = if counted { BAR } else { SPINNER };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("=> "));
    bar.set_message(words::line(&progress.doing));
    bar.enable_steady_tick(TICK);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_can_be_read() {
        for template in [BAR, SPINNER] {
            ProgressStyle::with_template(template).unwrap();
        }
    }

    #[test]
    fn nothing_more_is_wanted_once_an_item_could_not_be_taken() {
        let session = Session::new(crate::cli::Global::default());
        let interrupt = Interrupt::never();
        let mut each = |_| Err(Error::Declined);
        let mut listener = Listener::new(&session, &interrupt, &mut each);
        assert!(listener.wanted());
        assert!(!listener.item(()));
        assert!(!listener.progress(Progress { doing: String::new(), done_bytes: 0, total_bytes: 0 }));
        assert!(matches!(listener.close(), Err(Error::Declined)));
    }
}

//! Ctrl-C and the end of a service: the first signal asks to end in order, the second one ends at once.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};

use crate::error::{Error, Result};

/// Calls `stop` at the first signal that asks this process to end.
///
/// # Errors
/// The system refuses.
pub(crate) fn on_stop(stop: impl FnOnce() + Send + 'static) -> Result<()> {
    let catch = || -> io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            let mut stop = Some(stop);
            for signal in signals.forever() {
                match stop.take() {
                    Some(stop) => stop(),
                    // It cannot fail for these signals, and there is nothing left to do if it did.
                    None => drop(emulate_default_handler(signal)),
                }
            }
        })?;
        Ok(())
    };
    catch().map_err(Error::Signals)
}

/// Whether somebody asked this process to end.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches signals from now on.
    ///
    /// # Errors
    /// The system refuses.
    pub(crate) fn catch() -> Result<Interrupt> {
        let interrupt = Interrupt::never();
        let flag = Arc::clone(&interrupt.0);
        on_stop(move || flag.store(true, Ordering::SeqCst))?;
        Ok(interrupt)
    }

    /// Leaves signals to the system, which ends this process.
    pub(crate) fn never() -> Interrupt {
        Interrupt(Arc::new(AtomicBool::new(false)))
    }

    /// Somebody did.
    pub(crate) fn happened(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

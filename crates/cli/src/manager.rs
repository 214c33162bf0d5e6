//! The manager as the commands see it: the only place that calls the engine, `serve` apart.

use bygone_engine::{BenchRow, api::Request};
use serde_json::Value;

use crate::{
    answers::Listener,
    error::{Error, Result},
    session::Session,
    signals::Interrupt,
};

/// How a request ends when somebody presses Ctrl-C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// At once; what was asked for goes on or not as the manager decides.
    Die,
    /// In order; that it ended early is a failure.
    GiveUp,
    /// In order; that is how it is meant to end.
    Finish,
}

/// Asks for one answer.
///
/// # Errors
/// The manager's.
pub(crate) fn ask(session: &Session, request: &Request) -> Result<Value> {
    ask_for_items(session, request, OnInterrupt::Die, &mut |_| Ok(()))
}

/// Asks for one answer that may take long, so that it must be able to end in order.
///
/// # Errors
/// The manager's.
pub(crate) fn ask_for_long(session: &Session, request: &Request) -> Result<Value> {
    ask_for_items(session, request, OnInterrupt::GiveUp, &mut |_| Ok(()))
}

/// Asks for many answers; `each` gets them as they come.
///
/// # Errors
/// The manager's, or the first one of `each`.
pub(crate) fn ask_for_items(
    session: &Session,
    request: &Request,
    on_interrupt: OnInterrupt,
    each: &mut dyn FnMut(Value) -> Result<()>,
) -> Result<Value> {
    let store = session.store()?;
    let interrupt = match on_interrupt {
        OnInterrupt::Die => Interrupt::never(),
        OnInterrupt::GiveUp | OnInterrupt::Finish => Interrupt::catch()?,
    };
    let mut listener = Listener::new(session, &interrupt, each);
    let answer = bygone_engine::ask(&store, request, &mut listener);
    listener.close()?;
    match answer {
        Err(bygone_engine::Error::Abandoned)
            if on_interrupt == OnInterrupt::Finish && interrupt.happened() =>
        {
            Ok(Value::Null)
        }
        answer => answer.map_err(Error::Engine),
    }
}

/// Makes a store.
///
/// # Errors
/// The engine's.
pub(crate) fn init(session: &Session) -> Result<()> {
    Ok(bygone_engine::init(&session.store()?)?)
}

/// Attaches this terminal to a target's console until somebody detaches.
///
/// # Errors
/// The engine's.
pub(crate) fn console(session: &Session, name: &str) -> Result<()> {
    Ok(bygone_engine::console(&session.store()?, name)?)
}

/// Measures this machine; `each` gets the results as they come.
///
/// # Errors
/// The engine's, or the first one of `each`.
pub(crate) fn bench(session: &Session, each: &mut dyn FnMut(&BenchRow) -> Result<()>) -> Result<()> {
    let mut failed = None;
    bygone_engine::bench(&session.store()?, &mut |row| {
        if failed.is_none() {
            failed = each(row).err();
        }
    })?;
    failed.map_or(Ok(()), Err)
}

//! The manager as the commands see it: the only module that calls the engine, apart from `serve`.

use bygone_api::{Call, Nothing, call};
use bygone_engine::BenchRow;

use crate::{
    answers::Listener,
    error::{Error, Result},
    session::Session,
    signals::Interrupt,
};

/// What Ctrl-C does to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// It ends this process at once; the manager decides whether the call continues.
    Die,
    /// It cancels the call in an orderly way, which counts as a failure.
    GiveUp,
}

/// Asks for one answer.
///
/// # Errors
/// The manager's.
pub(crate) fn ask<C: Call<Item = Nothing>>(session: &Session, call: &C) -> Result<C::Answer> {
    ask_for_items(session, call, OnInterrupt::Die, &mut |nothing| match nothing {})
}

/// Asks for one answer that may take long, so that it must be possible to cancel it in an orderly way.
///
/// # Errors
/// The manager's.
pub(crate) fn ask_for_long<C: Call<Item = Nothing>>(session: &Session, call: &C) -> Result<C::Answer> {
    ask_for_items(session, call, OnInterrupt::GiveUp, &mut |nothing| match nothing {})
}

/// Asks for many answers; `each` gets them as they come.
///
/// # Errors
/// The manager's, or the first one of `each`.
pub(crate) fn ask_for_items<C: Call>(
    session: &Session,
    call: &C,
    on_interrupt: OnInterrupt,
    each: &mut dyn FnMut(C::Item) -> Result<()>,
) -> Result<C::Answer> {
    let interrupt = match on_interrupt {
        OnInterrupt::Die => Interrupt::never(),
        OnInterrupt::GiveUp => Interrupt::catch()?,
    };
    listen(session, call, &interrupt, each)
}

/// Serves a device until the user interrupts, which is its normal end; `ready` is called once it is served.
///
/// # Errors
/// The manager's, or the one of `ready`.
pub(crate) fn export(
    session: &Session,
    call: &call::Export,
    ready: &mut dyn FnMut(bygone_api::Exported) -> Result<()>,
) -> Result<()> {
    let interrupt = Interrupt::catch()?;
    match listen(session, call, &interrupt, ready) {
        Err(Error::Engine(bygone_engine::Error::Abandoned)) if interrupt.happened() => Ok(()),
        answer => answer.map(drop),
    }
}

fn listen<C: Call>(
    session: &Session,
    call: &C,
    interrupt: &Interrupt,
    each: &mut dyn FnMut(C::Item) -> Result<()>,
) -> Result<C::Answer> {
    let store = session.store()?;
    let mut listener = Listener::new(session, interrupt, each);
    let answer = bygone_engine::ask(&store, call, &mut listener);
    listener.close()?;
    answer.map_err(Error::Engine)
}

/// Makes a store.
///
/// # Errors
/// The engine's.
pub(crate) fn target_names(session: &Session) -> Result<Vec<(String, Vec<String>)>> {
    Ok(bygone_engine::target_names(&session.store()?)?)
}

/// The engine's.
pub(crate) fn init(session: &Session) -> Result<()> {
    Ok(bygone_engine::init(&session.store()?)?)
}

/// Attaches this terminal to a target's console until the user detaches.
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

//! The manager as the commands see it: the only module that calls the engine, apart from `serve`.

use bygone_api::{Call, Expect, Nothing, Planned, Request, call};
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

impl OnInterrupt {
    fn start(self) -> Result<Interrupt> {
        match self {
            OnInterrupt::Die => Ok(Interrupt::never()),
            OnInterrupt::GiveUp => Interrupt::catch(),
        }
    }
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

/// Asks for what was confirmed: the manager refuses if the plan that was shown does not hold any more.
///
/// # Errors
/// The manager's.
pub(crate) fn ask_as_planned<C: Call<Item = Nothing>>(
    session: &Session,
    call: &C,
    planned: Option<&Planned>,
    on_interrupt: OnInterrupt,
) -> Result<C::Answer> {
    let expect = planned.and_then(|planned| planned.expect.clone());
    let interrupt = on_interrupt.start()?;
    listen(session, call, expect, &interrupt, &mut |nothing| match nothing {})
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
    let interrupt = on_interrupt.start()?;
    listen(session, call, None, &interrupt, each)
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
    match listen(session, call, None, &interrupt, ready) {
        Err(Error::Engine { error, .. })
            if interrupt.happened() && matches!(*error, bygone_engine::Error::Abandoned) =>
        {
            Ok(())
        }
        answer => answer.map(drop),
    }
}

fn listen<C: Call>(
    session: &Session,
    call: &C,
    expect: Option<Expect>,
    interrupt: &Interrupt,
    each: &mut dyn FnMut(C::Item) -> Result<()>,
) -> Result<C::Answer> {
    let store = session.store()?;
    let mut listener = Listener::new(session, interrupt, each).expecting(expect);
    let answer = bygone_engine::ask(&store, call, &mut listener);
    listener.close()?;
    answer.map_err(|error| {
        let request: Request = call.clone().into();
        Error::about(error, request.target())
    })
}

/// The names of the store's targets with those of their disks, without a manager: for completions.
///
/// # Errors
/// The engine's.
pub(crate) fn target_names(session: &Session) -> Result<Vec<(String, Vec<String>)>> {
    Ok(bygone_engine::target_names(&session.store()?)?)
}

/// Makes a store.
///
/// # Errors
/// The engine's.
pub(crate) fn init(session: &Session) -> Result<()> {
    Ok(bygone_engine::init(&session.store()?)?)
}

/// Attaches this terminal to a target's console until the user detaches.
///
/// # Errors
/// The engine's.
pub(crate) fn console(session: &Session, name: &str) -> Result<()> {
    bygone_engine::console(&session.store()?, name).map_err(|error| Error::about(error, Some(name)))
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

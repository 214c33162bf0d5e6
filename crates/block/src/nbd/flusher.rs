//! Flushes without blocking the connection's own thread.
//!
//! Invariants: a flush of the device begins after the request was queued, so it covers every write that was
//! acknowledged before the request was received. All requests queued when a flush begins share it. At most
//! [`WAITING_MAX`] are queued; adding more blocks. Dropping the flusher waits for the queued ones.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use super::{connection::Connection, outbox::Unsent, socket::lock, wire::request::Cookie};

/// Far more than a client that waits for its replies has in flight.
const WAITING_MAX: usize = 4096;

#[derive(Default)]
struct State {
    cookies: Vec<Cookie>,
    closing: bool,
}

#[derive(Default)]
struct Waiting {
    state: Mutex<State>,
    changed: Condvar,
}

/// One connection's flusher. The first request starts its thread.
pub(crate) struct Flusher {
    connection: Arc<Connection>,
    waiting: Arc<Waiting>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Flusher {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection, waiting: Arc::default(), thread: Mutex::default() }
    }

    /// Queues a request, which is answered once everything acknowledged so far is durable.
    pub(crate) fn add(&self, cookie: Cookie) -> Result<(), Unsent> {
        let mut started = lock(&self.thread);
        if started.is_none() {
            let (waiting, connection) = (Arc::clone(&self.waiting), Arc::clone(&self.connection));
            let thread =
                thread::Builder::new().name("nbd-flush".to_owned()).spawn(move || waiting.work(&connection));
            match thread {
                Ok(thread) => *started = Some(thread),
                Err(error) => {
                    tracing::warn!(%error, "no thread for flushing; the connection waits for it itself");
                    return flush(&self.connection, &[cookie]);
                }
            }
        }
        drop(started);
        let mut state = lock(&self.waiting.state);
        while state.cookies.len() >= WAITING_MAX && !state.closing {
            state = self.waiting.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closing {
            return Err(Unsent::Gone);
        }
        state.cookies.push(cookie);
        drop(state);
        self.waiting.changed.notify_all();
        Ok(())
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        lock(&self.waiting.state).closing = true;
        self.waiting.changed.notify_all();
        if lock(&self.thread).take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the device panicked in a flush");
        }
    }
}

impl Waiting {
    fn work(&self, connection: &Connection) {
        let _cuts = CutOnPanic(connection, self);
        loop {
            let cookies = {
                let mut state = lock(&self.state);
                while state.cookies.is_empty() {
                    if state.closing {
                        return;
                    }
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                std::mem::take(&mut state.cookies)
            };
            self.changed.notify_all();
            let _nobody_listens = flush(connection, &cookies);
        }
    }
}

fn flush(connection: &Connection, cookies: &[Cookie]) -> Result<(), Unsent> {
    let result = connection.device.flush();
    let mut out = Vec::with_capacity(cookies.len() * 16);
    for cookie in cookies {
        match &result {
            Ok(()) => connection.push_success(&mut out, *cookie),
            Err(error) => connection.push_failure(&mut out, *cookie, error),
        }
    }
    connection.outbox.send(&out)
}

/// Cuts the connection if a flush panics, so that neither the client nor the connection's thread waits for ever.
struct CutOnPanic<'a>(&'a Connection, &'a Waiting);

impl Drop for CutOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.break_off();
            lock(&self.1.state).closing = true;
            self.1.changed.notify_all();
        }
    }
}

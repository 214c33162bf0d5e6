//! Applies large writes while the connection's own thread receives the next ones.
//!
//! Invariants: batches are applied in the order they were submitted. At most [`WAITING_MAX`] are queued; submitting
//! more blocks. Every batch holds a ticket for its memory. Once a batch could not be answered, no further one is
//! applied. Dropping the writer waits for the submitted batches.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    batch::Batch, budget::Ticket, connection::Connection, exports::Ending, flusher::Flusher,
    intake::BUFFER_BYTES, outgoing::Outgoing, replies::Replies, socket::lock,
};

/// Besides the one that is being applied.
const WAITING_MAX: usize = 1;
/// A connection without a large write for this long returns the memory for it.
const IDLE: Duration = Duration::from_secs(5);
/// Room for the answers to a batch.
const REPLIES_BYTES: usize = 16 << 10;

/// A batch, and the receive buffer that its data is in.
struct Portion {
    batch: Batch,
    buffer: Buffer,
}

/// A receive buffer beyond the connection's own memory, with its ticket.
pub(super) struct Buffer {
    pub(super) bytes: Box<[u8]>,
    pub(super) ticket: Option<Ticket>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Portion>,
    busy: bool,
    free: Vec<Buffer>,
    closing: bool,
    /// Why no further batch is applied.
    ended: Option<Ending>,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

/// One connection's writer. The first batch starts its thread.
pub(super) struct Writer {
    connection: Arc<Connection>,
    flusher: Arc<Flusher>,
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn new(connection: Arc<Connection>, flusher: Arc<Flusher>) -> Self {
        Self { connection, flusher, queue: Arc::default(), thread: None }
    }

    /// Whether a submitted batch is not answered yet.
    pub(super) fn is_busy(&self) -> bool {
        self.thread.is_some() && self.queue.state().is_busy()
    }

    /// A buffer to continue receiving with when another one is submitted. `None`: there is no memory or no thread for
    /// it now.
    pub(super) fn spare(&mut self) -> Option<Buffer> {
        if let Some(buffer) = self.queue.state().free.pop() {
            return Some(buffer);
        }
        let ticket = self.connection.share.take(BUFFER_BYTES as u64)?;
        if self.thread.is_none() {
            let (connection, flusher) = (Arc::clone(&self.connection), Arc::clone(&self.flusher));
            let queue = Arc::clone(&self.queue);
            let work = move || queue.work(connection, &flusher);
            match thread::Builder::new().name("nbd-write".to_owned()).spawn(work) {
                Ok(thread) => self.thread = Some(thread),
                Err(error) => {
                    tracing::warn!(%error, "no thread for writing; the connection does it itself");
                    return None;
                }
            }
        }
        let bytes = vec![0; BUFFER_BYTES].into_boxed_slice();
        Some(Buffer { bytes, ticket: Some(ticket) })
    }

    /// Submits a batch, whose data is in `buffer`. [`Writer::spare`] must have returned a buffer before.
    pub(super) fn hand_over(&self, batch: Batch, buffer: Buffer) -> Result<(), Ending> {
        let mut state = self.queue.wait_while(|state| state.waiting.len() >= WAITING_MAX)?;
        state.waiting.push_back(Portion { batch, buffer });
        drop(state);
        self.queue.changed.notify_all();
        Ok(())
    }

    /// Waits until every submitted batch is answered.
    pub(super) fn settle(&self) -> Result<(), Ending> {
        if self.thread.is_some() {
            drop(self.queue.wait_while(State::is_busy)?);
        }
        Ok(())
    }
}

impl State {
    fn is_busy(&self) -> bool {
        self.busy || !self.waiting.is_empty()
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn wait_while(&self, holds: impl Fn(&State) -> bool) -> Result<MutexGuard<'_, State>, Ending> {
        let mut state = self.state();
        loop {
            match state.ended {
                Some(ending) => return Err(ending),
                None if holds(&state) => {}
                None => return Ok(state),
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self, connection: Arc<Connection>, flusher: &Flusher) {
        let mut ends = EndsWithThread(self, Ending::Broken, Arc::clone(&connection));
        let mut out = Outgoing::new(connection, Replies::of(REPLIES_BYTES));
        loop {
            let Portion { mut batch, buffer } = {
                let mut state = self.state();
                loop {
                    if let Some(portion) = state.waiting.pop_front() {
                        state.busy = true;
                        break portion;
                    }
                    if state.closing {
                        return;
                    }
                    let waited = self.changed.wait_timeout(state, IDLE);
                    let (back, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                    state = back;
                    if timeout.timed_out() {
                        state.free.clear();
                    }
                }
            };
            self.changed.notify_all();
            let done = batch.commit(&buffer.bytes, flusher, &mut out).and_then(|()| out.send());
            if let Err(ending) = done {
                ends.1 = ending;
                return;
            }
            let mut state = self.state();
            state.busy = false;
            state.free.push(buffer);
            drop(state);
            self.changed.notify_all();
        }
    }
}

/// When the writer's thread ends, wakes its waiters and cuts the connection, so that neither waits for ever.
struct EndsWithThread<'a>(&'a Queue, Ending, Arc<Connection>);

impl Drop for EndsWithThread<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        // The receiving thread notices when the client has gone.
        let orderly = !state.busy || matches!(self.1, Ending::Vanished | Ending::Stalled);
        state.ended = Some(self.1);
        state.waiting.clear();
        drop(state);
        self.0.changed.notify_all();
        if !orderly {
            self.2.break_off();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue.state().closing = true;
        self.queue.changed.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the device panicked in a write; the connection is ended");
        }
    }
}

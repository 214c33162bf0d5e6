//! The sending side of a connection.
//!
//! Invariants:
//! - only whole messages are sent: only the holder of the turn (`busy`) writes to the socket, and it keeps the turn
//!   until its message is out;
//! - `busy` is released only when nothing is queued, so a message never overtakes an earlier one;
//! - a thread that serves many connections ([`Outbox::post`]) waits for a client at most [`PATIENCE`]; after that a
//!   thread of the connection's own sends what is queued, until the queue is empty;
//! - queued messages hold tickets, so a client that does not read holds a bounded amount of memory;
//! - once sending failed, nothing is ever sent again and the socket is cut.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use super::{
    budget::Ticket,
    socket::{Socket, lock},
};

/// How long a shared thread waits for a client whose socket is full before it leaves the rest to another thread.
const PATIENCE: Duration = Duration::from_millis(20);

/// Why nothing can be sent any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsent {
    /// The client closed its end.
    Gone,
    /// The client read nothing for too long.
    Stalled,
}

struct Parcel {
    bytes: Vec<u8>,
    sent: usize,
    _ticket: Option<Ticket>,
}

struct State {
    busy: bool,
    failed: Option<Unsent>,
    waiting: VecDeque<Parcel>,
}

/// See the module's comment.
pub(crate) struct Outbox {
    socket: Arc<Socket>,
    state: Mutex<State>,
    free: Condvar,
}

impl Outbox {
    /// The socket's send timeout bounds how long a client may read nothing.
    pub(crate) fn new(socket: Arc<Socket>) -> Arc<Self> {
        let state = State { busy: false, failed: None, waiting: VecDeque::new() };
        Arc::new(Self { socket, state: Mutex::new(state), free: Condvar::new() })
    }

    /// Waits for the turn to send.
    pub(crate) fn turn(&self) -> Result<Turn<'_>, Unsent> {
        let mut state = lock(&self.state);
        loop {
            if let Some(why) = state.failed {
                return Err(why);
            }
            if !state.busy {
                state.busy = true;
                return Ok(Turn(self));
            }
            state = self.free.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Sends one or several whole messages, however long that takes.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<(), Unsent> {
        self.turn()?.send(bytes)
    }

    /// Queues a message and sends it without waiting for the client. A failure is not reported: the client has gone.
    pub(crate) fn post(self: &Arc<Self>, bytes: Vec<u8>, ticket: Option<Ticket>) {
        {
            let mut state = lock(&self.state);
            if state.failed.is_some() {
                return;
            }
            state.waiting.push_back(Parcel { bytes, sent: 0, _ticket: ticket });
            if state.busy {
                return;
            }
            state.busy = true;
        }
        if self.send_waiting(Some(PATIENCE)) {
            return;
        }
        let outbox = Arc::clone(self);
        let sender = thread::Builder::new().name("nbd-send".to_owned()).spawn(move || {
            outbox.send_waiting(None);
        });
        if let Err(error) = sender {
            tracing::warn!(%error, "no thread for a slow client; it is disconnected");
            self.fail(Unsent::Stalled);
        }
    }

    /// Why sending failed, if it did.
    pub(crate) fn failure(&self) -> Option<Unsent> {
        lock(&self.state).failed
    }

    /// Waits until everything that was posted is sent or has failed.
    pub(crate) fn settle(&self) {
        drop(self.turn());
    }

    /// Sends everything queued and releases the turn, which the caller holds. False: the client read nothing for
    /// `patience`, and the caller still holds the turn. Without `patience` the socket's timeout applies, and a client
    /// that exceeds it is cut off.
    fn send_waiting(&self, patience: Option<Duration>) -> bool {
        loop {
            let mut parcel = {
                let mut state = lock(&self.state);
                let Some(parcel) = state.waiting.pop_front() else {
                    state.busy = false;
                    self.free.notify_one();
                    return true;
                };
                parcel
            };
            while parcel.sent < parcel.bytes.len() {
                let rest = parcel.bytes.get(parcel.sent..).unwrap_or_default();
                let sent =
                    if patience.is_some() { self.socket.send_now(rest) } else { self.socket.send(rest) };
                match (sent, patience) {
                    (Ok(len), _) => parcel.sent += len,
                    (Err(error), Some(patience)) if error.kind() == io::ErrorKind::WouldBlock => {
                        if !self.socket.wait_for_room(patience) {
                            lock(&self.state).waiting.push_front(parcel);
                            return false;
                        }
                    }
                    (Err(error), _) => {
                        self.fail(why(&error));
                        return true;
                    }
                }
            }
        }
    }

    fn fail(&self, why: Unsent) {
        let mut state = lock(&self.state);
        state.failed.get_or_insert(why);
        state.busy = false;
        state.waiting.clear();
        self.free.notify_all();
        drop(state);
        self.socket.cut();
    }
}

fn why(error: &io::Error) -> Unsent {
    if error.kind() == io::ErrorKind::WouldBlock { Unsent::Stalled } else { Unsent::Gone }
}

/// The right to send; messages posted meanwhile are sent when it ends.
pub(crate) struct Turn<'a>(&'a Outbox);

impl Turn<'_> {
    pub(crate) fn send(&mut self, mut bytes: &[u8]) -> Result<(), Unsent> {
        while !bytes.is_empty() {
            match self.0.socket.send(bytes) {
                Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
                Err(error) => {
                    let why = why(&error);
                    self.0.fail(why);
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    /// A message was begun and cannot be completed, so nothing may be sent after it.
    pub(crate) fn abandon(self) {
        self.0.fail(Unsent::Gone);
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(Unsent::Gone);
        }
        self.0.send_waiting(None);
    }
}

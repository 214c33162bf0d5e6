//! A connection's own thread: requests in, answers out.
//!
//! Invariants:
//! - requests are handled in order of arrival; what another thread finishes is answered in any order;
//! - consecutive writes are one call to the device, with their data still in the receive buffer; large ones are applied
//!   by the writer thread, in order, and every other request waits for them;
//! - this thread waits for its own client only, and for the medium only when no other thread may do that for it;
//! - whatever a client sends, the connection uses no more memory than its two buffers and its share of the budget.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{
    batch::{Action, Batch},
    command::{Command, Refusal, Span, understand},
    connection::Connection,
    exports::Ending,
    flusher::Flusher,
    intake::Intake,
    job::{CACHED_BYTES_MAX, Caching, Job, Task, status},
    limits::{PAYLOAD_BYTES_MAX, PIECE_BYTES},
    outbox::Unsent,
    outgoing::Outgoing,
    pool::Pool,
    replies::Replies,
    socket::Socket,
    streamed::Part,
    wire::{
        codes::Errno,
        request::{Cookie, Request},
    },
    writer::{Buffer, Writer},
};

use crate::parts::widened;

/// From this much write data on, it pays to collect more, and to receive while the writes are applied.
const LARGE_BYTES: usize = 256 << 10;

/// What has to happen before the next request can be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// At least this many more bytes have to be received.
    Receive { missing: usize },
    /// The data of a large write is applied as it arrives.
    Stream { cookie: Cookie, span: Span, fua: bool },
    /// The data of a refused write is discarded.
    Skip { bytes: usize },
}

/// See the module's comment.
pub(crate) struct Worker {
    pub(super) connection: Arc<Connection>,
    pub(super) out: Outgoing,
    pool: Arc<Pool>,
    // It submits to the flusher, so it has to be dropped first.
    writer: Writer,
    flusher: Arc<Flusher>,
    /// Writes that were received but not applied yet.
    batch: Batch,
    /// How many of the received bytes were parsed; they are consumed when the batch is applied.
    parsed: usize,
}

impl From<Unsent> for Ending {
    fn from(why: Unsent) -> Self {
        match why {
            Unsent::Gone => Self::Vanished,
            Unsent::Stalled => Self::Stalled,
        }
    }
}

impl Worker {
    pub(crate) fn new(connection: Arc<Connection>, pool: Arc<Pool>) -> Self {
        let flusher = Arc::new(Flusher::new(Arc::clone(&connection)));
        let writer = Writer::new(Arc::clone(&connection), Arc::clone(&flusher));
        let out = Outgoing::new(Arc::clone(&connection), Replies::new());
        Self { connection, out, pool, writer, flusher, batch: Batch::default(), parsed: 0 }
    }

    /// Serves the client until either side ends the connection. Other threads may still have work in flight then.
    pub(crate) fn serve(&mut self, socket: &Socket, stopping: &AtomicBool) -> Ending {
        let mut intake = Intake::new();
        loop {
            if let Err(ending) = self.round(socket, &mut intake, stopping) {
                // Also when the stream broke: the requests before that were valid.
                let _client_may_be_gone = self.make(&intake).and_then(|()| self.out.send());
                return ending;
            }
        }
    }

    /// Handles everything received, then waits for more.
    fn round(&mut self, socket: &Socket, intake: &mut Intake, stopping: &AtomicBool) -> Result<(), Ending> {
        let next = self.digest(intake)?;
        // Large writes that arrive fast are collected as long as there is room.
        let large = self.batch.data_bytes() >= LARGE_BYTES;
        let more = large && matches!(next, Next::Receive { .. }) && intake.gather(socket).unwrap_or(false);
        if more && !self.batch.is_full() && self.batch.data_bytes() < PIECE_BYTES {
            return Ok(());
        }
        if large && (more || self.writer.is_busy()) {
            self.make_aside(intake)?;
        } else {
            self.make(intake)?;
        }
        self.out.send()?;
        intake.consume(std::mem::take(&mut self.parsed));
        if self.connection.is_broken() {
            return Err(Ending::Broken);
        }
        if stopping.load(Ordering::Acquire) {
            return Err(Ending::Stopped);
        }
        let goes_on = match next {
            // The request may be complete by now.
            Next::Receive { .. } if more => return Ok(()),
            Next::Receive { missing } => intake.receive(socket, missing),
            Next::Skip { bytes } => intake.skip(socket, bytes),
            Next::Stream { cookie, span, fua } => return self.stream(socket, intake, cookie, span, fua),
        };
        match goes_on {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Ending::Vanished),
        }
    }

    /// Applies the writes of the batch in this thread.
    fn make(&mut self, intake: &Intake) -> Result<(), Ending> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.writer.settle()?;
        self.batch.commit(intake.bytes(), &self.flusher, &mut self.out)
    }

    /// Lets the writer thread apply the batch while this one receives more, if there is memory for that.
    fn make_aside(&mut self, intake: &mut Intake) -> Result<(), Ending> {
        let Some(spare) = self.writer.spare() else { return self.make(intake) };
        // The replies to earlier requests.
        self.out.send()?;
        let bytes = intake.exchange(std::mem::take(&mut self.parsed), spare.bytes);
        self.writer.hand_over(std::mem::take(&mut self.batch), Buffer { bytes, ticket: spare.ticket })
    }

    /// Handles the received requests; returns what has to happen next.
    fn digest(&mut self, intake: &Intake) -> Result<Next, Ending> {
        loop {
            let rest = intake.filled().get(self.parsed..).unwrap_or_default();
            let at = intake.begin() + self.parsed + Request::BYTES;
            let Some((header, data)) = rest.split_first_chunk::<{ Request::BYTES }>() else {
                return Ok(Next::Receive { missing: Request::BYTES - rest.len() });
            };
            let Ok(request) = Request::parse(header) else { return Err(Ending::Violation) };
            let cookie = request.cookie;
            if request.payload_bytes() > PAYLOAD_BYTES_MAX {
                self.make(intake)?;
                self.out
                    .refuse(cookie, Refusal { errno: Errno::Inval, why: "more than 32 MiB in one write" })?;
                return Err(Ending::Violation);
            }
            let command = match understand(&request, &self.connection.terms) {
                Ok(command) => command,
                Err(refusal) => {
                    self.out.refuse(cookie, refusal)?;
                    self.parsed += Request::BYTES;
                    let bytes = request.payload_bytes() as usize;
                    if bytes > data.len() {
                        return Ok(Next::Skip { bytes });
                    }
                    self.parsed += bytes;
                    continue;
                }
            };
            match command {
                Command::Write { span, fua } => {
                    let len = span.len_bytes as usize;
                    if len > PIECE_BYTES {
                        self.parsed += Request::BYTES;
                        return Ok(Next::Stream { cookie, span, fua });
                    }
                    if data.len() < len {
                        return Ok(Next::Receive { missing: len - data.len() });
                    }
                    self.parsed += len;
                    self.batch.push(cookie, fua, span.offset, Action::Data(at..at + len));
                }
                Command::Clear { span, fua, keep_space } => {
                    let len_bytes = u64::from(span.len_bytes);
                    let action = if keep_space { Action::Zero(len_bytes) } else { Action::Trim(len_bytes) };
                    self.batch.push(cookie, fua, span.offset, action);
                }
                other => {
                    self.make(intake)?;
                    self.writer.settle()?;
                    self.obey(cookie, other)?;
                }
            }
            self.parsed += Request::BYTES;
            if self.batch.is_full() {
                self.make(intake)?;
            }
        }
    }

    /// Handles every command except writes.
    fn obey(&mut self, cookie: Cookie, command: Command) -> Result<(), Ending> {
        match command {
            Command::Read { span, whole } => self.read(cookie, span, whole),
            Command::Flush => Ok(self.flusher.add(cookie)?),
            Command::Cache(span) => {
                let (from, whole) = widened(
                    &self.connection.terms.geometry,
                    span.offset,
                    u64::from(span.len_bytes.min(CACHED_BYTES_MAX)),
                );
                // Within the span and a block, so it fits.
                let span = Span { offset: from, len_bytes: u32::try_from(whole).unwrap_or(CACHED_BYTES_MAX) };
                if span.len_bytes > 0
                    && let Some(turn) = Caching::take(&self.connection)
                {
                    let task = Task::Cache { span, pool: Arc::clone(&self.pool), _turn: turn };
                    if self.hand_over(cookie, task).is_ok() {
                        return Ok(());
                    }
                }
                // It is only a hint, and ignoring it is a valid answer.
                self.out.succeed(cookie)
            }
            Command::Status { span, one } => {
                let Err(_untouched) = self.hand_over(cookie, Task::Status { span, one }) else {
                    return Ok(());
                };
                let reply = status(&self.connection, cookie, span, one);
                self.out.put(&reply)
            }
            // Writes go to the batch and never get here.
            Command::Disconnect | Command::Write { .. } | Command::Clear { .. } => Err(Ending::Asked),
        }
    }

    /// Submits a task to the reader threads, if the budget allows it and a thread is available.
    pub(super) fn hand_over(&self, cookie: Cookie, task: Task) -> Result<(), Task> {
        let Some(ticket) = self.connection.share.take(task.cost_bytes()) else { return Err(task) };
        let job = Job::new(Arc::clone(&self.connection), cookie, task, ticket);
        self.pool.submit(job).map_err(|job| job.take_back())
    }

    /// Handles a write whose data is larger than the receive buffer. After a failure the rest of the data is still
    /// received.
    fn stream(
        &mut self,
        socket: &Socket,
        intake: &mut Intake,
        cookie: Cookie,
        span: Span,
        fua: bool,
    ) -> Result<(), Ending> {
        let failure = Arc::default();
        let mut left = span.len_bytes as usize;
        let mut offset = span.offset;
        while left > 0 {
            let piece = left.min(PIECE_BYTES);
            if !intake.fill(socket, piece).unwrap_or(false) {
                return Err(Ending::Vanished);
            }
            let data = intake.begin()..intake.begin() + piece;
            self.batch.push_part(cookie, fua, offset, data, Part::new(&failure, left == piece));
            self.parsed = piece;
            self.make_aside(intake)?;
            intake.consume(std::mem::take(&mut self.parsed));
            offset += piece as u64;
            left -= piece;
        }
        Ok(())
    }
}

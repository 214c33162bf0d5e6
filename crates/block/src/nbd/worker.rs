//! A connection's own thread: requests in, answers out.
//!
//! Invariants:
//! - requests are worked on in the order they came; what another thread finishes is answered in any order;
//! - writes that follow one another are one call to the device, their data still in the receive buffer;
//! - this thread waits for its own client, and for the medium only when nobody else may do so for it;
//! - nothing a client sends makes it use more memory than its two buffers and its share of the budget.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{
    command::{Command, Refusal, Span, understand},
    connection::Connection,
    exports::Ending,
    flusher::Flusher,
    intake::Intake,
    job::{Job, Task, status},
    limits::{PAYLOAD_BYTES_MAX, PIECE_BYTES},
    outbox::Unsent,
    pool::Pool,
    replies::Replies,
    socket::Socket,
    wire::{
        codes::Errno,
        request::{Cookie, Request},
    },
};
use crate::device::{Change, IoError, PAUSE, Writing};

/// Replies are sent when there are as many bytes of them, even if more requests are there to be worked on: the client
/// has something to do meanwhile.
const SEND_BYTES: usize = 64 << 10;
/// Most writes in one call to the device.
const BATCH_MAX: usize = 256;

/// What has to happen before the next request can be worked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// At least these more bytes have to be received.
    Receive { missing: usize },
    /// The data of a large write is worked on as it comes.
    Stream { cookie: Cookie, span: Span, fua: bool },
    /// The data of a write that was refused is thrown away.
    Skip { bytes: usize },
}

/// See the module's comment.
pub(crate) struct Worker {
    pub(super) connection: Arc<Connection>,
    pub(super) replies: Replies,
    pool: Arc<Pool>,
    flusher: Flusher,
    /// Short answers on their way into `replies`.
    answer: Vec<u8>,
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
        let flusher = Flusher::new(Arc::clone(&connection));
        Self { connection, replies: Replies::new(), pool, flusher, answer: Vec::new() }
    }

    /// Serves the client until one of the two ends it. Work in other threads may still be under way then.
    pub(crate) fn serve(&mut self, socket: &Socket, stopping: &AtomicBool) -> Ending {
        let mut intake = Intake::new();
        loop {
            if let Err(ending) = self.round(socket, &mut intake, stopping) {
                let _client_may_be_gone = self.send();
                return ending;
            }
        }
    }

    /// Works on all that was received, then waits for more.
    fn round(&mut self, socket: &Socket, intake: &mut Intake, stopping: &AtomicBool) -> Result<(), Ending> {
        let (used, next) = self.digest(intake.filled())?;
        self.send()?;
        intake.consume(used);
        if self.connection.is_broken() {
            return Err(Ending::Broken);
        }
        if stopping.load(Ordering::Acquire) {
            return Err(Ending::Stopped);
        }
        let goes_on = match next {
            Next::Receive { missing } => intake.receive(socket, missing),
            Next::Skip { bytes } => intake.skip(socket, bytes),
            Next::Stream { cookie, span, fua } => return self.stream(socket, intake, cookie, span, fua),
        };
        match goes_on {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Ending::Vanished),
        }
    }

    /// Works on the requests that `bytes` begins with; says how many bytes they were and what has to follow.
    pub(crate) fn digest(&mut self, bytes: &[u8]) -> Result<(usize, Next), Ending> {
        let mut batch = Batch::default();
        let result = self.digest_into(bytes, &mut batch);
        // Also when the stream broke: what came before was asked for in good order.
        self.commit(&mut batch)?;
        result
    }

    fn digest_into<'a>(&mut self, bytes: &'a [u8], batch: &mut Batch<'a>) -> Result<(usize, Next), Ending> {
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            let Some((header, data)) = rest.split_first_chunk::<{ Request::BYTES }>() else {
                return Ok((used, Next::Receive { missing: Request::BYTES - rest.len() }));
            };
            let Ok(request) = Request::parse(header) else { return Err(Ending::Violation) };
            let cookie = request.cookie;
            if request.payload_bytes() > PAYLOAD_BYTES_MAX {
                self.commit(batch)?;
                self.refuse(cookie, Refusal { errno: Errno::Inval, why: "more than 32 MiB in one write" })?;
                return Err(Ending::Violation);
            }
            let command = match understand(&request, &self.connection.terms) {
                Ok(command) => command,
                Err(refusal) => {
                    self.refuse(cookie, refusal)?;
                    used += Request::BYTES;
                    let bytes = request.payload_bytes() as usize;
                    if bytes > data.len() {
                        return Ok((used, Next::Skip { bytes }));
                    }
                    used += bytes;
                    continue;
                }
            };
            match command {
                Command::Write { span, fua } => {
                    let len = span.len_bytes as usize;
                    if len > PIECE_BYTES {
                        return Ok((used + Request::BYTES, Next::Stream { cookie, span, fua }));
                    }
                    let Some(data) = data.get(..len) else {
                        return Ok((used, Next::Receive { missing: len - data.len() }));
                    };
                    used += len;
                    batch.push(cookie, fua, span.offset, Change::Data(data));
                }
                Command::Clear { span, fua, keep_space } => {
                    let len_bytes = u64::from(span.len_bytes);
                    let change =
                        if keep_space { Change::Zero { len_bytes } } else { Change::Trim { len_bytes } };
                    batch.push(cookie, fua, span.offset, change);
                }
                other => {
                    self.commit(batch)?;
                    self.obey(cookie, other)?;
                }
            }
            used += Request::BYTES;
            if batch.answers.len() >= BATCH_MAX {
                self.commit(batch)?;
            }
        }
    }

    /// Everything but writes.
    fn obey(&mut self, cookie: Cookie, command: Command) -> Result<(), Ending> {
        match command {
            Command::Read { span, whole } => self.read(cookie, span, whole),
            Command::Flush => Ok(self.flusher.add(cookie)?),
            Command::Cache(span) => {
                if span.len_bytes > 0 {
                    self.connection.device.prefetch(span.offset, u64::from(span.len_bytes));
                }
                self.succeed(cookie)
            }
            Command::Status { span, one } => {
                let Err(_untouched) = self.hand_over(cookie, Task::Status { span, one }) else {
                    return Ok(());
                };
                let reply = status(&self.connection, cookie, span, one);
                self.put(&reply)
            }
            // Writes are the batch's business and never come here.
            Command::Disconnect | Command::Write { .. } | Command::Clear { .. } => Err(Ending::Asked),
        }
    }

    /// Gives a task to the reader threads, if the budget and they allow it.
    pub(super) fn hand_over(&self, cookie: Cookie, task: Task) -> Result<(), Task> {
        let Some(ticket) = self.connection.share.take(task.cost_bytes()) else { return Err(task) };
        let job = Job::new(Arc::clone(&self.connection), cookie, task, ticket);
        self.pool.submit(job).map_err(|job| job.take_back())
    }

    /// Applies and answers the writes of a batch, which is empty afterwards.
    fn commit(&mut self, batch: &mut Batch<'_>) -> Result<(), Ending> {
        if batch.answers.is_empty() {
            return Ok(());
        }
        let mut result = if batch.writings.is_empty() { Ok(()) } else { self.write(&batch.writings)? };
        let one_by_one = result.is_err() && batch.answers.len() > 1;
        for answer in &batch.answers {
            // Whose fault was it? Done again in the same order, the outcome is the same for those that are well.
            if one_by_one {
                result = match answer.writing {
                    Some(index) => self.write(batch.writings.get(index..=index).unwrap_or_default())?,
                    None => Ok(()),
                };
            }
            match &result {
                Ok(()) if answer.fua => self.flusher.add(answer.cookie)?,
                Ok(()) => self.succeed(answer.cookie)?,
                Err(error) => self.fail(answer.cookie, error)?,
            }
            if one_by_one && self.connection.is_broken() {
                break;
            }
        }
        batch.clear();
        Ok(())
    }

    /// Makes writes; where there is no room for them, again and again until there is, for as long as the client is there. If it
    /// has gone they must not be made any more: it may have repeated them elsewhere, and written other things since.
    fn write(&mut self, writings: &[Writing<'_>]) -> Result<Result<(), IoError>, Ending> {
        loop {
            match self.connection.device.write(writings) {
                Err(IoError::Paused) => {}
                result => return Ok(result),
            }
            // Replies to what was done before must not wait with it.
            self.send()?;
            std::thread::sleep(PAUSE);
            // Not before the pause: the client may have come back over another connection during it.
            if self.connection.is_over() {
                return Err(Ending::Vanished);
            }
        }
    }

    /// A write whose data is larger than the receive buffer. After a failure the rest of the data is still received.
    fn stream(
        &mut self,
        socket: &Socket,
        intake: &mut Intake,
        cookie: Cookie,
        span: Span,
        fua: bool,
    ) -> Result<(), Ending> {
        let mut left = span.len_bytes as usize;
        let mut offset = span.offset;
        let mut result = Ok(());
        while left > 0 {
            let piece = left.min(PIECE_BYTES);
            if !intake.fill(socket, piece).unwrap_or(false) {
                return Err(Ending::Vanished);
            }
            let data = intake.filled().get(..piece).unwrap_or_default();
            if result.is_ok() {
                result = self.write(&[Writing { offset, change: Change::Data(data) }])?;
            }
            intake.consume(piece);
            offset += piece as u64;
            left -= piece;
        }
        match &result {
            Ok(()) if fua => self.flusher.add(cookie)?,
            Ok(()) => self.succeed(cookie)?,
            Err(error) => self.fail(cookie, error)?,
        }
        Ok(())
    }

    fn succeed(&mut self, cookie: Cookie) -> Result<(), Ending> {
        self.answer(|connection, out| connection.push_success(out, cookie))
    }

    pub(super) fn fail(&mut self, cookie: Cookie, error: &IoError) -> Result<(), Ending> {
        self.answer(|connection, out| connection.push_failure(out, cookie, error))
    }

    fn refuse(&mut self, cookie: Cookie, refusal: Refusal) -> Result<(), Ending> {
        self.answer(|connection, out| connection.push_refusal(out, cookie, refusal))
    }

    /// Puts a short answer into the replies.
    pub(super) fn answer(&mut self, push: impl FnOnce(&Connection, &mut Vec<u8>)) -> Result<(), Ending> {
        let mut answer = std::mem::take(&mut self.answer);
        answer.clear();
        push(&self.connection, &mut answer);
        let result = self.put(&answer);
        self.answer = answer;
        result
    }

    /// Puts an answer into the replies, of at most 64 KiB.
    pub(super) fn put(&mut self, reply: &[u8]) -> Result<(), Ending> {
        if self.replies.room_bytes() < reply.len() {
            self.send()?;
        }
        self.replies.put(reply);
        self.send_when_many()
    }

    pub(super) fn send_when_many(&mut self) -> Result<(), Ending> {
        if self.replies.filled().len() >= SEND_BYTES { self.send() } else { Ok(()) }
    }

    /// Sends the replies that are waiting.
    pub(super) fn send(&mut self) -> Result<(), Ending> {
        if !self.replies.filled().is_empty() {
            let sent = self.connection.outbox.send(self.replies.filled());
            self.replies.clear();
            sent?;
        }
        Ok(())
    }
}

/// Writes that came one after the other.
#[derive(Default)]
struct Batch<'a> {
    writings: Vec<Writing<'a>>,
    answers: Vec<Answerable>,
}

/// A write of a batch that waits for its answer.
struct Answerable {
    cookie: Cookie,
    fua: bool,
    /// Where it stands in the batch; a write of nothing is not in it.
    writing: Option<usize>,
}

impl<'a> Batch<'a> {
    fn push(&mut self, cookie: Cookie, fua: bool, offset: u64, change: Change<'a>) {
        let writing = (change.len_bytes() > 0).then_some(self.writings.len());
        if writing.is_some() {
            self.writings.push(Writing { offset, change });
        }
        self.answers.push(Answerable { cookie, fua, writing });
    }

    fn clear(&mut self) {
        self.writings.clear();
        self.answers.clear();
    }
}

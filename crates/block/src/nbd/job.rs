//! Work of a connection that runs in the shared reader threads.
//!
//! Invariants: a job always ends in an answer or in the end of its connection, even when the device panics. All parts
//! of a divided read are posted before its closing chunk.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::{
    budget::Ticket,
    command::Span,
    connection::{Connection, Underway},
    negotiation::CONTEXT_ID,
    pool::Pool,
    wire::{
        codes::{STATE_HOLE, STATE_ZERO},
        reply::{OFFSET_DATA_BYTES, SimpleReply, done, offset_data, push_error_offset, push_status},
        request::Cookie,
    },
};
use crate::{device::Reading, parts::widened};

/// The most that one `NBD_CMD_CACHE` reads: it is only a hint, and a disk may be larger than memory.
pub(crate) const CACHED_BYTES_MAX: u32 = 64 << 20;
/// It is done in pieces of this size, so that other jobs run in between.
const CACHED_PIECE_BYTES: u32 = 4 << 20;
/// How many bytes of a disk are resolved between two checks whether the client is still there. Devices call back at
/// least every 16 MiB, so at most that much is resolved for a client that has gone.
const LOOK_EVERY_BYTES: u64 = 16 << 20;
/// The most extents in one reply; the client asks again for the rest.
const EXTENTS_MAX: usize = 4096;
/// The minimum cost of a job, which bounds their number. It covers the reply with the most extents.
const COST_BYTES_MIN: u64 = 64 << 10;

/// A large read that is answered in several chunks; counts the outstanding ones.
pub(crate) struct Divided {
    to_come: AtomicUsize,
}

impl Divided {
    pub(crate) fn new(parts: usize) -> Arc<Self> {
        Arc::new(Self { to_come: AtomicUsize::new(parts) })
    }

    /// Notes that a part's chunk was posted. True for the last part: the closing chunk, which reports success, has to
    /// follow. False if the connection is being ended, because that may be due to a part that could not be read.
    pub(crate) fn part_is_out(&self, connection: &Connection) -> bool {
        self.to_come.fetch_sub(1, Ordering::AcqRel) == 1 && !connection.is_broken()
    }
}

pub(crate) enum Task {
    /// Reads and answers, with the whole reply or one part of it.
    Read { span: Span, part_of: Option<Arc<Divided>> },
    /// Answers `NBD_CMD_BLOCK_STATUS`.
    Status { span: Span, one: bool },
    /// Prefetches a range piece by piece, then answers. One at a time per connection.
    Cache { span: Span, pool: Arc<Pool>, _turn: Caching },
}

impl Task {
    /// An upper bound of the bytes its reply needs.
    pub(crate) fn cost_bytes(&self) -> u64 {
        match self {
            Self::Read { span, .. } => u64::from(span.len_bytes).max(COST_BYTES_MIN),
            Self::Status { .. } | Self::Cache { .. } => COST_BYTES_MIN,
        }
    }
}

/// A task, its connection, and what it holds. The drop order of the fields matters: when `underway` is dropped, the job
/// holds nothing of its connection any more.
pub(crate) struct Job {
    connection: Arc<Connection>,
    cookie: Cookie,
    task: Task,
    ticket: Option<Ticket>,
    answered: bool,
    _underway: Underway,
}

impl Job {
    pub(crate) fn new(connection: Arc<Connection>, cookie: Cookie, task: Task, ticket: Ticket) -> Self {
        let underway = connection.pending.begin();
        Self { connection, cookie, task, ticket: Some(ticket), answered: false, _underway: underway }
    }

    /// Takes the task back, to be done without the reader threads.
    pub(crate) fn take_back(mut self) -> Task {
        self.answered = true;
        let span = Span { offset: 0, len_bytes: 0 };
        std::mem::replace(&mut self.task, Task::Status { span, one: true })
    }

    pub(crate) fn run(mut self) {
        let connection = Arc::clone(&self.connection);
        if matches!(self.task, Task::Cache { .. }) {
            return self.cache();
        }
        if connection.outbox.failure().is_none() {
            let bytes = match &self.task {
                Task::Read { span, part_of } => read(&connection, self.cookie, *span, part_of.is_none()),
                Task::Status { span, one } => status(&connection, self.cookie, *span, *one),
                Task::Cache { .. } => Vec::new(),
            };
            connection.outbox.post(bytes, self.ticket.take());
            if let Task::Read { part_of: Some(divided), .. } = &self.task
                && divided.part_is_out(&connection)
            {
                connection.outbox.post(done(self.cookie).to_vec(), None);
            }
        }
        self.answered = true;
    }
}

impl Job {
    /// Does one piece and submits the rest. Stops when the client has gone.
    fn cache(mut self) {
        let Task::Cache { span, pool, .. } = &mut self.task else { return };
        if span.len_bytes > 0 && !self.connection.is_over() {
            let len = span.len_bytes.min(CACHED_PIECE_BYTES);
            self.connection.device.prefetch(span.offset, u64::from(len));
            *span = Span { offset: span.offset + u64::from(len), len_bytes: span.len_bytes - len };
            if span.len_bytes > 0 {
                let pool = Arc::clone(pool);
                // Without a thread to continue, what was done so far has to do.
                let Err(mut job) = pool.submit(self) else { return };
                job.succeed();
                return;
            }
        }
        self.succeed();
    }

    fn succeed(&mut self) {
        let mut bytes = Vec::new();
        self.connection.push_success(&mut bytes, self.cookie);
        self.connection.outbox.post(bytes, self.ticket.take());
        self.answered = true;
    }
}

/// The right to run the one `NBD_CMD_CACHE` of a connection.
pub(crate) struct Caching(Arc<Connection>);

impl Caching {
    pub(crate) fn take(connection: &Arc<Connection>) -> Option<Self> {
        (!connection.caching.swap(true, Ordering::AcqRel)).then(|| Self(Arc::clone(connection)))
    }
}

impl Drop for Caching {
    fn drop(&mut self) {
        self.0.caching.store(false, Ordering::Release);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.answered {
            if thread::panicking() {
                tracing::error!("the device panicked; the connection is ended");
            }
            self.connection.break_off();
        }
    }
}

/// The size of the header before the data of a read.
pub(crate) fn read_header_bytes(connection: &Connection) -> usize {
    if connection.terms.structured { OFFSET_DATA_BYTES } else { SimpleReply::BYTES }
}

/// Writes the header of a read's reply into its first bytes.
pub(crate) fn write_read_header(
    connection: &Connection,
    reply: &mut [u8],
    cookie: Cookie,
    span: Span,
    whole: bool,
) {
    let structured = offset_data(whole, cookie, span.offset, span.len_bytes);
    let simple = SimpleReply { error: 0, cookie }.encode();
    let header: &[u8] = if connection.terms.structured { &structured } else { &simple };
    if let Some((head, _)) = reply.split_at_mut_checked(header.len()) {
        head.copy_from_slice(header);
    }
}

/// Reads, waiting for the medium, and builds the reply or one part of it.
fn read(connection: &Connection, cookie: Cookie, span: Span, whole: bool) -> Vec<u8> {
    let head = read_header_bytes(connection);
    let mut bytes = vec![0; head + span.len_bytes as usize];
    let data = bytes.get_mut(head..).unwrap_or_default();
    match connection.device.read(span.offset, data, Reading::MayWait) {
        Ok(()) => write_read_header(connection, &mut bytes, cookie, span, whole),
        Err(error) => {
            bytes = Vec::new();
            if whole {
                connection.push_failure(&mut bytes, cookie, &error);
            } else {
                push_part_failure(connection, &mut bytes, cookie, span, &error);
            }
        }
    }
    bytes
}

/// Appends the error chunk for a failed part of a read, or ends the connection.
pub(crate) fn push_part_failure(
    connection: &Connection,
    out: &mut Vec<u8>,
    cookie: Cookie,
    span: Span,
    error: &crate::device::IoError,
) {
    match connection.failed(error) {
        Some(errno) => push_error_offset(out, cookie, errno, &error.to_string(), span.offset),
        None => connection.break_off(),
    }
}

/// Builds the reply to `NBD_CMD_BLOCK_STATUS`: adjacent extents of the same status are merged, and nothing outside the
/// requested range is reported.
pub(crate) fn status(connection: &Connection, cookie: Cookie, span: Span, one: bool) -> Vec<u8> {
    let extents_max = if one { 1 } else { EXTENTS_MAX };
    let mut extents: Vec<(u32, u32)> = Vec::new();
    let mut left = span.len_bytes;
    let (from, whole) = widened(&connection.terms.geometry, span.offset, u64::from(span.len_bytes));
    // The part of the first block that was not asked for.
    let mut lead = span.offset - from;
    let mut unlooked = 0;
    let result = connection.device.extents(from, whole, &mut |extent| {
        unlooked += extent.len_bytes;
        if unlooked >= LOOK_EVERY_BYTES {
            // A reply may cover less than the requested range.
            if connection.is_over() {
                return false;
            }
            unlooked = 0;
        }
        let skipped = lead.min(extent.len_bytes);
        lead -= skipped;
        let len = u32::try_from(extent.len_bytes - skipped).unwrap_or(u32::MAX).min(left);
        let hole = if extent.hole { STATE_HOLE } else { 0 };
        let flags = hole | if extent.zero { STATE_ZERO } else { 0 };
        let full = extents.len() == extents_max;
        match extents.last_mut() {
            _ if len == 0 => return left > 0,
            Some((last, same)) if *same == flags => *last += len,
            _ if full => return false,
            _ => extents.push((len, flags)),
        }
        left -= len;
        left > 0
    });
    let mut out = Vec::new();
    match result {
        Ok(()) => {
            if extents.is_empty() {
                extents.push((span.len_bytes, 0));
            }
            push_status(&mut out, cookie, CONTEXT_ID, &extents);
        }
        Err(error) => connection.push_failure(&mut out, cookie, &error),
    }
    out
}

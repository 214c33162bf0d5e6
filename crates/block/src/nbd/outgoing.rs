//! The replies of one thread to its client, batched so that many are sent with one call.

use std::sync::Arc;

use super::{
    command::Refusal, connection::Connection, exports::Ending, replies::Replies, wire::request::Cookie,
};
use crate::device::IoError;

/// Replies are sent once there are this many bytes of them, even if more requests are ready, so that the client has
/// something to do meanwhile.
const SEND_BYTES: usize = 64 << 10;

/// See the module's comment.
pub(super) struct Outgoing {
    pub(super) connection: Arc<Connection>,
    pub(super) replies: Replies,
    /// Scratch space for short replies.
    answer: Vec<u8>,
}

impl Outgoing {
    pub(super) fn new(connection: Arc<Connection>, replies: Replies) -> Self {
        Self { connection, replies, answer: Vec::new() }
    }

    pub(super) fn succeed(&mut self, cookie: Cookie) -> Result<(), Ending> {
        self.answer(|connection, out| connection.push_success(out, cookie))
    }

    pub(super) fn fail(&mut self, cookie: Cookie, error: &IoError) -> Result<(), Ending> {
        self.answer(|connection, out| connection.push_failure(out, cookie, error))
    }

    pub(super) fn refuse(&mut self, cookie: Cookie, refusal: Refusal) -> Result<(), Ending> {
        self.answer(|connection, out| connection.push_refusal(out, cookie, refusal))
    }
    /// Appends a short reply.
    pub(super) fn answer(&mut self, push: impl FnOnce(&Connection, &mut Vec<u8>)) -> Result<(), Ending> {
        let mut answer = std::mem::take(&mut self.answer);
        answer.clear();
        push(&self.connection, &mut answer);
        let result = self.put(&answer);
        self.answer = answer;
        result
    }

    /// Appends a reply of at most 64 KiB.
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

    /// Sends the collected replies.
    pub(super) fn send(&mut self) -> Result<(), Ending> {
        if !self.replies.filled().is_empty() {
            let sent = self.connection.outbox.send(self.replies.filled());
            self.replies.clear();
            sent?;
        }
        Ok(())
    }
}

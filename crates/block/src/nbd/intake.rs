//! The receiving side of a connection: one buffer for many requests.
//!
//! Invariants: the bytes that were received and not consumed are one contiguous slice, never longer than the buffer,
//! and a message of up to [`MESSAGE_BYTES_MAX`] fits wherever it began. Bytes are moved only when a message would not
//! fit behind them. A large message is received exactly to its end, so that the next one begins at the front.

use std::io;

use super::{eager::Eager, limits::PIECE_BYTES, socket::Socket, wire::request::Request};

/// The longest message that is received as a whole; longer ones are streamed in pieces.
pub(crate) const MESSAGE_BYTES_MAX: usize = PIECE_BYTES + Request::BYTES;
/// Room behind the longest message for the next ones.
const SLACK_BYTES: usize = 64 << 10;
/// At or above this size, the rest of a message is received exactly, with nothing after it.
const EXACT_BYTES: usize = 32 << 10;

pub(crate) const BUFFER_BYTES: usize = MESSAGE_BYTES_MAX + SLACK_BYTES;

/// See the module's comment.
pub(crate) struct Intake {
    buffer: Box<[u8]>,
    begin: usize,
    end: usize,
    eager: Eager,
}

impl Intake {
    pub(crate) fn new() -> Self {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        Self { buffer, begin: 0, end: 0, eager: Eager::default() }
    }

    /// The bytes that were received and not consumed.
    pub(crate) fn filled(&self) -> &[u8] {
        self.buffer.get(self.begin..self.end).unwrap_or_default()
    }

    /// The position of [`Intake::filled`] in the whole buffer.
    pub(crate) fn begin(&self) -> usize {
        self.begin
    }

    /// The whole buffer.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Consumes `bytes` more and gives the buffer away; the bytes after them continue in `other`, which has the same
    /// size.
    pub(crate) fn exchange(&mut self, bytes: usize, mut other: Box<[u8]>) -> Box<[u8]> {
        self.consume(bytes);
        let rest = self.filled();
        let len = rest.len();
        other[..len].copy_from_slice(rest);
        (self.begin, self.end) = (0, len);
        std::mem::replace(&mut self.buffer, other)
    }

    /// Receives what is available, without waiting and without moving bytes. Returns whether there was anything.
    pub(crate) fn gather(&mut self, socket: &Socket) -> io::Result<bool> {
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        if room.is_empty() {
            return Ok(false);
        }
        match socket.recv_now(room) {
            Ok(received) => {
                self.end += received;
                Ok(received > 0)
            }
            // The blocking receive will report the error.
            Err(_) => Ok(false),
        }
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.begin = self.end.min(self.begin + bytes);
    }

    /// Receives at least one byte; at least `missing` are needed to go on. False at the end of the stream.
    pub(crate) fn receive(&mut self, socket: &Socket, missing: usize) -> io::Result<bool> {
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < missing {
            self.buffer.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        let room = self.buffer.get_mut(self.end..).unwrap_or_default();
        let received = if missing >= EXACT_BYTES {
            let exact = room.len().min(missing);
            socket.recv_full(room.get_mut(..exact).unwrap_or_default())?
        } else {
            self.eager.receive(room, |buf| socket.recv_now(buf), |buf| socket.recv(buf))?
        };
        self.end += received;
        Ok(received > 0)
    }

    /// Receives until `bytes`, at most [`PIECE_BYTES`], are available. False when the stream ends before.
    pub(crate) fn fill(&mut self, socket: &Socket, bytes: usize) -> io::Result<bool> {
        while self.filled().len() < bytes {
            let missing = bytes - self.filled().len();
            if !self.receive(socket, missing)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Discards the next `bytes` of the stream, including those not received yet. False when it ends before.
    pub(crate) fn skip(&mut self, socket: &Socket, bytes: usize) -> io::Result<bool> {
        let mut left = bytes;
        loop {
            let now = left.min(self.filled().len());
            self.consume(now);
            left -= now;
            if left == 0 {
                return Ok(true);
            }
            if !self.receive(socket, left.min(PIECE_BYTES))? {
                return Ok(false);
            }
        }
    }
}

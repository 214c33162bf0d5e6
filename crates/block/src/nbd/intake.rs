//! The receiving side of a connection: one buffer for many requests.
//!
//! Invariants: what was received and not consumed is one contiguous slice; it is never longer than the buffer, and a
//! message of up to [`MESSAGE_BYTES_MAX`] fits into it wherever it began. Bytes are moved only when a message would
//! not fit behind what is there; a large one is received exactly to its end, so that the next begins at the front.

use std::io;

use super::{eager::Eager, limits::PIECE_BYTES, socket::Socket, wire::request::Request};

/// The longest message that is received as a whole; longer ones go through in pieces.
pub(crate) const MESSAGE_BYTES_MAX: usize = PIECE_BYTES + Request::BYTES;
/// Room behind the longest message for those that follow it.
const SLACK_BYTES: usize = 64 << 10;
/// From here on a message's rest is waited for as a whole and nothing behind it is taken along.
const EXACT_BYTES: usize = 32 << 10;

/// Bytes of the buffer.
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

    /// What was received and not consumed.
    pub(crate) fn filled(&self) -> &[u8] {
        self.buffer.get(self.begin..self.end).unwrap_or_default()
    }

    /// Where in the whole buffer that is.
    pub(crate) fn begin(&self) -> usize {
        self.begin
    }

    /// The whole buffer.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// Gives the buffer away after `bytes` more were consumed; what is behind them goes on in `other`, of the same size.
    pub(crate) fn exchange(&mut self, bytes: usize, mut other: Box<[u8]>) -> Box<[u8]> {
        self.consume(bytes);
        let rest = self.filled();
        let len = rest.len();
        other[..len].copy_from_slice(rest);
        (self.begin, self.end) = (0, len);
        std::mem::replace(&mut self.buffer, other)
    }

    /// Receives more of what there is already, without moving anything; says whether there was something.
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
            // Whatever is wrong comes again when it is waited for.
            Err(_) => Ok(false),
        }
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.begin = self.end.min(self.begin + bytes);
    }

    /// Receives something; `missing` bytes at least are needed to go on. False at the end of the stream.
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

    /// Makes sure that `bytes` are there, at most [`PIECE_BYTES`]. False when the stream ends before.
    pub(crate) fn fill(&mut self, socket: &Socket, bytes: usize) -> io::Result<bool> {
        while self.filled().len() < bytes {
            let missing = bytes - self.filled().len();
            if !self.receive(socket, missing)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Throws away the next `bytes` of the stream, those to come as well. False when it ends before.
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

//! The reply buffer of the connection's own thread, so that many replies are sent with one call.
//!
//! Invariant: it holds whole messages only, except while [`Replies::raw`] is used with the turn to send held.

use super::limits::PIECE_BYTES;

/// Room for the headers around the largest piece, and for short replies before it.
const SLACK_BYTES: usize = 64 << 10;

/// See the module's comment.
pub(crate) struct Replies {
    buffer: Box<[u8]>,
    fill: usize,
}

impl Replies {
    pub(crate) fn new() -> Self {
        Self::of(PIECE_BYTES + SLACK_BYTES)
    }

    /// A buffer of this many bytes.
    pub(crate) fn of(bytes: usize) -> Self {
        Self { buffer: vec![0; bytes].into_boxed_slice(), fill: 0 }
    }

    pub(crate) fn filled(&self) -> &[u8] {
        self.buffer.get(..self.fill).unwrap_or_default()
    }

    pub(crate) fn room_bytes(&self) -> usize {
        self.buffer.len() - self.fill
    }

    pub(crate) fn clear(&mut self) {
        self.fill = 0;
    }

    /// The next `bytes` after the filled part, to be written to; [`Replies::keep`] makes them part of it. Shorter when
    /// there is less room.
    pub(crate) fn slot(&mut self, bytes: usize) -> &mut [u8] {
        let end = self.buffer.len().min(self.fill + bytes);
        self.buffer.get_mut(self.fill..end).unwrap_or_default()
    }

    /// Makes the first `bytes` of the last slot part of the replies.
    pub(crate) fn keep(&mut self, bytes: usize) {
        self.fill = self.buffer.len().min(self.fill + bytes);
    }

    /// Appends a reply; the caller has checked that it fits.
    pub(crate) fn put(&mut self, reply: &[u8]) {
        debug_assert!(reply.len() <= self.room_bytes(), "a reply without room");
        let slot = self.slot(reply.len());
        let len = slot.len();
        slot.copy_from_slice(reply.get(..len).unwrap_or_default());
        self.keep(len);
    }

    /// The whole buffer, for data that is sent at once.
    pub(crate) fn raw(&mut self) -> &mut [u8] {
        &mut self.buffer
    }
}

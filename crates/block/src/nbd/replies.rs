//! Replies of the connection's own thread, collected so that many go out with one call.
//!
//! Invariant: whole messages only, except for what [`Replies::raw`] is used for while the turn to send is held.

use super::limits::PIECE_BYTES;

/// Room for what stands around the data of the largest piece, and for short replies before it.
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

    /// Room for so many bytes.
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

    /// The next `bytes` after what is filled, to be written to; [`Replies::keep`] makes them part of it. Shorter when
    /// there is less room.
    pub(crate) fn slot(&mut self, bytes: usize) -> &mut [u8] {
        let end = self.buffer.len().min(self.fill + bytes);
        self.buffer.get_mut(self.fill..end).unwrap_or_default()
    }

    /// The first `bytes` of the last slot are a reply.
    pub(crate) fn keep(&mut self, bytes: usize) {
        self.fill = self.buffer.len().min(self.fill + bytes);
    }

    /// Appends a reply; the caller made sure that there is room for it.
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

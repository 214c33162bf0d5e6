//! The replies ("Simple reply message", "Structured reply chunk message").

use super::{
    Cursor, Malformed, clipped,
    codes::{Errno, MAGIC_CHUNK, MAGIC_SIMPLE_REPLY, chunk},
    request::Cookie,
};

/// The longest message sent with an error.
pub const MESSAGE_BYTES_MAX: usize = 512;

/// A simple reply's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimpleReply {
    /// 0, or the error number.
    pub error: u32,
    /// The request.
    pub cookie: Cookie,
}

impl SimpleReply {
    /// Its size on the wire.
    pub const BYTES: usize = 16;

    /// Reads it.
    ///
    /// # Errors
    /// [`Malformed::Magic`].
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Result<Self, Malformed> {
        let mut cursor = Cursor(bytes);
        if cursor.take_u32()? != MAGIC_SIMPLE_REPLY {
            return Err(Malformed::Magic);
        }
        Ok(Self { error: cursor.take_u32()?, cookie: Cookie(cursor.take_u64()?) })
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&MAGIC_SIMPLE_REPLY.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.error.to_be_bytes());
        bytes[8..].copy_from_slice(&self.cookie.0.to_be_bytes());
        bytes
    }
}

/// The header of one chunk of a structured reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// This is the request's last chunk.
    pub done: bool,
    /// See [`super::codes::chunk`].
    pub kind: u16,
    /// The request.
    pub cookie: Cookie,
    /// How much follows.
    pub len_bytes: u32,
}

impl Chunk {
    /// Its size on the wire.
    pub const BYTES: usize = 20;

    /// Reads it.
    ///
    /// # Errors
    /// [`Malformed::Magic`].
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Result<Self, Malformed> {
        let mut cursor = Cursor(bytes);
        if cursor.take_u32()? != MAGIC_CHUNK {
            return Err(Malformed::Magic);
        }
        Ok(Self {
            done: cursor.take_u16()? & chunk::FLAG_DONE != 0,
            kind: cursor.take_u16()?,
            cookie: Cookie(cursor.take_u64()?),
            len_bytes: cursor.take_u32()?,
        })
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&MAGIC_CHUNK.to_be_bytes());
        bytes[4..6].copy_from_slice(&u16::from(self.done).to_be_bytes());
        bytes[6..8].copy_from_slice(&self.kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.0.to_be_bytes());
        bytes[16..].copy_from_slice(&self.len_bytes.to_be_bytes());
        bytes
    }
}

/// The size of what [`offset_data`] writes.
pub const OFFSET_DATA_BYTES: usize = Chunk::BYTES + 8;

/// The header of a chunk of type `NBD_REPLY_TYPE_OFFSET_DATA`.
#[must_use]
pub fn offset_data(done: bool, cookie: Cookie, offset: u64, data_bytes: u32) -> [u8; OFFSET_DATA_BYTES] {
    let header = Chunk { done, kind: chunk::OFFSET_DATA, cookie, len_bytes: data_bytes.saturating_add(8) };
    let mut bytes = [0; OFFSET_DATA_BYTES];
    bytes[..Chunk::BYTES].copy_from_slice(&header.encode());
    bytes[Chunk::BYTES..].copy_from_slice(&offset.to_be_bytes());
    bytes
}

/// The chunk that ends a structured reply without data (`NBD_REPLY_TYPE_NONE`).
#[must_use]
pub fn done(cookie: Cookie) -> [u8; Chunk::BYTES] {
    Chunk { done: true, kind: chunk::NONE, cookie, len_bytes: 0 }.encode()
}

/// Appends the chunk that ends a structured reply with an error (`NBD_REPLY_TYPE_ERROR`).
pub fn push_error(out: &mut Vec<u8>, cookie: Cookie, errno: Errno, message: &str) {
    let message = clipped(message, MESSAGE_BYTES_MAX).as_bytes();
    push_error_chunk(out, true, chunk::ERROR, cookie, errno, message, &[]);
}

/// Appends the chunk that reports that the bytes at `offset` could not be read (`NBD_REPLY_TYPE_ERROR_OFFSET`). More
/// chunks of the same reply follow.
pub fn push_error_offset(out: &mut Vec<u8>, cookie: Cookie, errno: Errno, message: &str, offset: u64) {
    let message = clipped(message, MESSAGE_BYTES_MAX).as_bytes();
    push_error_chunk(out, false, chunk::ERROR_OFFSET, cookie, errno, message, &offset.to_be_bytes());
}

fn push_error_chunk(
    out: &mut Vec<u8>,
    done: bool,
    kind: u16,
    cookie: Cookie,
    errno: Errno,
    message: &[u8],
    tail: &[u8],
) {
    // The message was clipped and the tail is 8 bytes at most: neither number saturates.
    let message_bytes = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let len_bytes = u32::try_from(6 + message.len() + tail.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&Chunk { done, kind, cookie, len_bytes }.encode());
    out.extend_from_slice(&errno.code().to_be_bytes());
    out.extend_from_slice(&message_bytes.to_be_bytes());
    out.extend_from_slice(message);
    out.extend_from_slice(tail);
}

/// Appends a whole reply of one chunk of type `NBD_REPLY_TYPE_BLOCK_STATUS`: lengths and flags of consecutive extents.
pub fn push_status(out: &mut Vec<u8>, cookie: Cookie, context: u32, extents: &[(u32, u32)]) {
    // The caller bounds the number of extents far below 2^28.
    let len_bytes = u32::try_from(4 + extents.len() * 8).unwrap_or(u32::MAX);
    out.extend_from_slice(&Chunk { done: true, kind: chunk::BLOCK_STATUS, cookie, len_bytes }.encode());
    out.extend_from_slice(&context.to_be_bytes());
    for (len, flags) in extents {
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
    }
}

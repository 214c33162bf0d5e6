//! The request message ("Request message").

use super::{
    Cursor, Malformed,
    codes::{MAGIC_REQUEST, cmd},
};

/// The client's handle for a request, returned unchanged in its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie(pub u64);

/// A request's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// See [`super::codes::flag`].
    pub flags: u16,
    /// See [`super::codes::cmd`].
    pub kind: u16,
    /// Returned in the reply.
    pub cookie: Cookie,
    /// Where, in bytes.
    pub offset: u64,
    /// How much.
    pub len_bytes: u32,
}

impl Request {
    /// Its size on the wire.
    pub const BYTES: usize = 28;

    /// Reads it.
    ///
    /// # Errors
    /// [`Malformed::Magic`]; the rest of the stream cannot be parsed then.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Result<Self, Malformed> {
        let mut cursor = Cursor(bytes);
        if cursor.take_u32()? != MAGIC_REQUEST {
            return Err(Malformed::Magic);
        }
        Ok(Self {
            flags: cursor.take_u16()?,
            kind: cursor.take_u16()?,
            cookie: Cookie(cursor.take_u64()?),
            offset: cursor.take_u64()?,
            len_bytes: cursor.take_u32()?,
        })
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&MAGIC_REQUEST.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.flags.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.kind.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.cookie.0.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
        bytes[24..].copy_from_slice(&self.len_bytes.to_be_bytes());
        bytes
    }

    /// How many bytes of data follow the header.
    #[must_use]
    pub fn payload_bytes(&self) -> u32 {
        if self.kind == cmd::WRITE { self.len_bytes } else { 0 }
    }
}

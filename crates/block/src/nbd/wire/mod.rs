//! The bytes of the NBD protocol, read and written without any I/O.
//!
//! Invariants, whatever the bytes are:
//! - nothing here panics or allocates more than a small multiple of its input;
//! - whatever is written here parses back to the same value;
//! - a parsed value keeps every promise of its type (names are UTF-8 and at most [`NAME_BYTES_MAX`] long).
//!
//! Source: `doc/proto.md` of the NetworkBlockDevice project; section names are given where they help.

pub mod codes;
pub mod option;
pub mod reply;
pub mod request;
#[cfg(test)]
mod tests;

/// The longest string the protocol allows ("Conventions").
pub const NAME_BYTES_MAX: usize = 4096;

/// Why bytes do not follow the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A magic number is wrong, so the rest of the stream cannot be parsed.
    #[error("wrong magic number")]
    Magic,
    /// A length inside the data reaches past its end, or data is left over.
    #[error("lengths do not add up")]
    Length,
    /// A string is not UTF-8, or longer than the protocol allows.
    #[error("a string is not UTF-8 or too long")]
    Text,
    /// More items than the protocol can need.
    #[error("too many items")]
    Count,
}

/// Takes big-endian numbers and strings off the front of a slice.
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(Malformed::Length)?;
        self.0 = rest;
        Ok(*head)
    }

    pub(crate) fn take_u16(&mut self) -> Result<u16, Malformed> {
        self.chunk().map(u16::from_be_bytes)
    }

    pub(crate) fn take_u32(&mut self) -> Result<u32, Malformed> {
        self.chunk().map(u32::from_be_bytes)
    }

    pub(crate) fn take_u64(&mut self) -> Result<u64, Malformed> {
        self.chunk().map(u64::from_be_bytes)
    }

    /// A string that is preceded by its length in 32 bits.
    pub(crate) fn take_text(&mut self) -> Result<&'a str, Malformed> {
        let len = usize::try_from(self.take_u32()?).map_err(|_| Malformed::Length)?;
        let (head, rest) = self.0.split_at_checked(len).ok_or(Malformed::Length)?;
        self.0 = rest;
        text(head)
    }

    pub(crate) fn finish(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed::Length) }
    }
}

/// A string of the protocol: UTF-8, no NUL, at most [`NAME_BYTES_MAX`] long ("Conventions").
pub(crate) fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    if bytes.len() > NAME_BYTES_MAX || bytes.contains(&0) {
        return Err(Malformed::Text);
    }
    std::str::from_utf8(bytes).map_err(|_| Malformed::Text)
}

/// The longest prefix of `message` that fits into `bytes_max` and ends between two characters.
pub(crate) fn clipped(message: &str, bytes_max: usize) -> &str {
    message.get(..message.floor_char_boundary(bytes_max)).unwrap_or_default()
}

//! The handshake's messages ("Fixed newstyle negotiation").

use super::{
    Cursor, Malformed,
    codes::{HANDSHAKE_FIXED, HANDSHAKE_NO_ZEROES, MAGIC_GREETING, MAGIC_OPTION, MAGIC_OPTION_REPLY, info},
};

/// The most queries in one option; the protocol lets a server refuse more.
pub const QUERIES_MAX: usize = 64;

/// The header of every option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option, see [`super::codes::opt`].
    pub kind: u32,
    /// How much data follows.
    pub len_bytes: u32,
}

impl OptionHeader {
    /// Its size on the wire.
    pub const BYTES: usize = 16;

    /// Reads it.
    ///
    /// # Errors
    /// [`Malformed::Magic`].
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Result<Self, Malformed> {
        let mut cursor = Cursor(bytes);
        if cursor.take_u64()? != MAGIC_OPTION {
            return Err(Malformed::Magic);
        }
        Ok(Self { kind: cursor.take_u32()?, len_bytes: cursor.take_u32()? })
    }

    /// Writes it.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&MAGIC_OPTION.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.kind.to_be_bytes());
        bytes[12..].copy_from_slice(&self.len_bytes.to_be_bytes());
        bytes
    }
}

/// The data of `NBD_OPT_INFO` and `NBD_OPT_GO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoRequest<'a> {
    /// The export.
    pub name: &'a str,
    /// The client asks for the canonical name.
    pub wants_name: bool,
    /// The client asks for a description.
    pub wants_description: bool,
    /// The client asks for the size constraints.
    pub wants_block_size: bool,
}

impl<'a> InfoRequest<'a> {
    /// Parses it. Unknown information requests are ignored, as the protocol demands.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor(data);
        let mut request = Self {
            name: cursor.take_text()?,
            wants_name: false,
            wants_description: false,
            wants_block_size: false,
        };
        for _ in 0..cursor.take_u16()? {
            match cursor.take_u16()? {
                info::NAME => request.wants_name = true,
                info::DESCRIPTION => request.wants_description = true,
                info::BLOCK_SIZE => request.wants_block_size = true,
                _ => {}
            }
        }
        cursor.finish()?;
        Ok(request)
    }
}

/// The data of `NBD_OPT_LIST_META_CONTEXT` and `NBD_OPT_SET_META_CONTEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextRequest<'a> {
    /// The export.
    pub name: &'a str,
    /// The contexts asked for, at most [`QUERIES_MAX`].
    pub queries: Vec<&'a str>,
}

impl<'a> ContextRequest<'a> {
    /// Reads it.
    ///
    /// # Errors
    /// [`Malformed`]; [`Malformed::Count`] when there are more than [`QUERIES_MAX`] queries.
    pub fn parse(data: &'a [u8]) -> Result<Self, Malformed> {
        let mut cursor = Cursor(data);
        let name = cursor.take_text()?;
        let count = usize::try_from(cursor.take_u32()?).map_err(|_| Malformed::Count)?;
        if count > QUERIES_MAX {
            return Err(Malformed::Count);
        }
        let queries = (0..count).map(|_| cursor.take_text()).collect::<Result<_, _>>()?;
        cursor.finish()?;
        Ok(Self { name, queries })
    }
}

/// The server's greeting ("Newstyle negotiation").
#[must_use]
pub fn greeting() -> [u8; 18] {
    let mut bytes = [0; 18];
    bytes[..8].copy_from_slice(&MAGIC_GREETING.to_be_bytes());
    bytes[8..16].copy_from_slice(&MAGIC_OPTION.to_be_bytes());
    bytes[16..].copy_from_slice(&(HANDSHAKE_FIXED | HANDSHAKE_NO_ZEROES).to_be_bytes());
    bytes
}

/// Appends one reply to an option.
pub fn push_reply(out: &mut Vec<u8>, option: u32, reply: u32, parts: &[&[u8]]) {
    // A part is a fixed-size field, a clipped message, or a name the caller has checked, so this never saturates.
    let len = u32::try_from(parts.iter().map(|part| part.len()).sum::<usize>()).unwrap_or(u32::MAX);
    out.extend_from_slice(&MAGIC_OPTION_REPLY.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&reply.to_be_bytes());
    out.extend_from_slice(&len.to_be_bytes());
    for part in parts {
        out.extend_from_slice(part);
    }
}

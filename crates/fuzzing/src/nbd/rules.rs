//! How a server has to treat a request: a literal transcription of the protocol's text.

use bygone_block::{
    Geometry,
    nbd::command::{Command, Span},
};

pub(super) const READ: u16 = 0;
pub(super) const WRITE: u16 = 1;
pub(super) const DISC: u16 = 2;
pub(super) const FLUSH: u16 = 3;
pub(super) const TRIM: u16 = 4;
pub(super) const CACHE: u16 = 5;
pub(super) const ZEROES: u16 = 6;
pub(super) const STATUS: u16 = 7;

pub(super) const EPERM: u32 = 1;
pub(super) const EIO: u32 = 5;
pub(super) const EINVAL: u32 = 22;
pub(super) const ENOSPC: u32 = 28;
pub(super) const EOVERFLOW: u32 = 75;

/// `NBD_CMD_FLAG_FUA`, which is allowed with every request.
pub(super) const FUA: u16 = 1;
const NO_HOLE: u16 = 2;
/// `NBD_CMD_FLAG_DF`.
pub(super) const DF: u16 = 4;
/// `NBD_CMD_FLAG_REQ_ONE`.
pub(super) const REQ_ONE: u16 = 8;
const FAST_ZERO: u16 = 16;

/// The largest payload that the server announces.
pub(super) const PAYLOAD_MAX: u32 = 32 << 20;

/// The result of negotiation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreement {
    pub(super) geometry: Geometry,
    pub(super) structured: bool,
    pub(super) status: bool,
    /// The client asked for the size constraints.
    pub(super) aligned: bool,
}

/// A request's header, as on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl Asked {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = 0x2560_9513_u32.to_be_bytes().to_vec();
        out.extend(self.flags.to_be_bytes());
        out.extend(self.kind.to_be_bytes());
        out.extend(self.cookie.to_be_bytes());
        out.extend(self.offset.to_be_bytes());
        out.extend(self.len.to_be_bytes());
        out
    }
}

/// The command for a valid request, or the error number. Not for writes of more than [`PAYLOAD_MAX`], which end the
/// connection.
pub(super) fn verdict(asked: &Asked, agreed: &Agreement) -> Result<Command, u32> {
    let Asked { kind, flags, offset, len, .. } = *asked;
    let Geometry { size_bytes, block_bytes, read_only, can_trim } = agreed.geometry;
    let allowed = match kind {
        READ if agreed.structured => FUA | DF,
        ZEROES => FUA | NO_HOLE | FAST_ZERO,
        STATUS => FUA | REQ_ONE,
        _ => FUA,
    };
    if kind > STATUS || flags | allowed != allowed {
        return Err(EINVAL);
    }
    if kind == DISC {
        return Ok(Command::Disconnect);
    }
    if kind == FLUSH {
        return if (offset, len) == (0, 0) { Ok(Command::Flush) } else { Err(EINVAL) };
    }
    let writes = [WRITE, TRIM, ZEROES].contains(&kind);
    if writes && read_only {
        return Err(EPERM);
    }
    if u128::from(offset) + u128::from(len) > u128::from(size_bytes) {
        // "The server SHOULD return NBD_ENOSPC if it receives a write request … beyond the end", trim not being one.
        return Err(if kind == WRITE || kind == ZEROES { ENOSPC } else { EINVAL });
    }
    if agreed.aligned && (offset % u64::from(block_bytes) != 0 || len % block_bytes != 0) {
        return Err(EINVAL);
    }
    let span = Span { offset, len_bytes: len };
    let fua = flags & FUA != 0;
    match kind {
        READ if len > PAYLOAD_MAX => Err(if agreed.structured { EOVERFLOW } else { EINVAL }),
        READ => Ok(Command::Read { span, whole: flags & DF != 0 }),
        WRITE => Ok(Command::Write { span, fua }),
        ZEROES => Ok(Command::Clear { span, fua, keep_space: flags & NO_HOLE != 0 || !can_trim }),
        TRIM if can_trim => Ok(Command::Clear { span, fua, keep_space: false }),
        CACHE => Ok(Command::Cache(span)),
        STATUS if agreed.status && len > 0 => Ok(Command::Status { span, one: flags & REQ_ONE != 0 }),
        _ => Err(EINVAL),
    }
}

/// The transmission flags that an export must have.
pub(super) fn export_flags(agreed: &Agreement) -> u16 {
    let mut flags = 1 | 1 << 2 | 1 << 3 | 1 << 8 | 1 << 10;
    if agreed.geometry.read_only {
        flags |= 1 << 1;
    } else {
        flags |= 1 << 6 | 1 << 11;
        flags |= u16::from(agreed.geometry.can_trim) << 5;
    }
    flags | u16::from(agreed.structured) << 7
}

//! Turns a request's header into a command or a refusal. Pure.
//!
//! Invariant: a [`Command`] lies within the device, is aligned to its blocks if the client knows their size, is allowed
//! by what was negotiated, and reads or writes at most [`PAYLOAD_BYTES_MAX`]. Code that handles commands does not check
//! these again.

use super::{
    limits::PAYLOAD_BYTES_MAX,
    wire::{
        codes::{Errno, can, cmd, flag},
        request::Request,
    },
};
use crate::device::Geometry;

/// The result of negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The device's shape.
    pub geometry: Geometry,
    /// Structured replies were negotiated.
    pub structured: bool,
    /// `base:allocation` was negotiated for this export.
    pub status: bool,
    /// The client asked for the size constraints of this export, so it must keep to them. Other clients may not know
    /// them.
    pub aligned: bool,
}

impl Terms {
    /// The flags announced to the client ("Transmission flags").
    #[must_use]
    pub fn flags(&self) -> u16 {
        let mut flags =
            can::HAS_FLAGS | can::SEND_FLUSH | can::SEND_FUA | can::CAN_MULTI_CONN | can::SEND_CACHE;
        if self.geometry.read_only {
            flags |= can::READ_ONLY;
        } else {
            flags |= can::SEND_WRITE_ZEROES | can::SEND_FAST_ZERO;
            if self.geometry.can_trim {
                flags |= can::SEND_TRIM;
            }
        }
        if self.structured {
            flags |= can::SEND_DF;
        }
        flags
    }
}

/// A part of the device. May be empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Span {
    pub offset: u64,
    pub len_bytes: u32,
}

/// A valid request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub enum Command {
    /// `NBD_CMD_READ`.
    Read {
        span: Span,
        /// Answer in one chunk (`NBD_CMD_FLAG_DF`).
        whole: bool,
    },
    /// `NBD_CMD_WRITE`; the data follows the header.
    Write {
        span: Span,
        /// Answer only once it is durable.
        fua: bool,
    },
    /// `NBD_CMD_WRITE_ZEROES` and `NBD_CMD_TRIM`: both read back as zeroes here.
    Clear {
        span: Span,
        /// Answer only once it is durable.
        fua: bool,
        /// Keep the space reserved.
        keep_space: bool,
    },
    /// `NBD_CMD_FLUSH`.
    Flush,
    /// `NBD_CMD_CACHE`.
    Cache(Span),
    /// `NBD_CMD_BLOCK_STATUS`; never empty.
    Status {
        span: Span,
        /// Answer with one extent only (`NBD_CMD_FLAG_REQ_ONE`).
        one: bool,
    },
    /// `NBD_CMD_DISC`.
    Disconnect,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Refusal {
    pub errno: Errno,
    /// The reason in words.
    pub why: &'static str,
}

const fn invalid(why: &'static str) -> Refusal {
    Refusal { errno: Errno::Inval, why }
}

/// Interprets a request under the negotiated terms ("Request types", "Error values").
///
/// # Errors
/// [`Refusal`], to be sent to the client. The payload of a refused write still has to be read off the stream.
pub fn understand(request: &Request, terms: &Terms) -> Result<Command, Refusal> {
    let fua = request.flags & flag::FUA != 0;
    let has = |flag: u16| request.flags & flag != 0;
    let known = flag::FUA
        | match request.kind {
            cmd::READ if terms.structured => flag::DF,
            cmd::WRITE_ZEROES => flag::NO_HOLE | flag::FAST_ZERO,
            cmd::BLOCK_STATUS => flag::REQ_ONE,
            _ => 0,
        };
    if request.flags & !known != 0 {
        return Err(invalid("a flag that does not belong to this request"));
    }
    match request.kind {
        cmd::DISC => return Ok(Command::Disconnect),
        cmd::FLUSH if request.offset != 0 || request.len_bytes != 0 => {
            return Err(invalid("a flush has no offset and no length"));
        }
        cmd::FLUSH => return Ok(Command::Flush),
        _ => {}
    }
    let writes = matches!(request.kind, cmd::WRITE | cmd::WRITE_ZEROES | cmd::TRIM);
    if writes && terms.geometry.read_only {
        return Err(Refusal { errno: Errno::Perm, why: "the export is read-only" });
    }
    let span = placed(request, terms)?;
    match request.kind {
        cmd::READ if span.len_bytes > PAYLOAD_BYTES_MAX => Err(Refusal {
            errno: if terms.structured { Errno::Overflow } else { Errno::Inval },
            why: "more than 32 MiB in one read",
        }),
        cmd::READ => Ok(Command::Read { span, whole: has(flag::DF) }),
        cmd::WRITE => Ok(Command::Write { span, fua }),
        cmd::WRITE_ZEROES => {
            Ok(Command::Clear { span, fua, keep_space: has(flag::NO_HOLE) || !terms.geometry.can_trim })
        }
        cmd::TRIM if !terms.geometry.can_trim => Err(invalid("the export does not trim")),
        cmd::TRIM => Ok(Command::Clear { span, fua, keep_space: false }),
        cmd::CACHE => Ok(Command::Cache(span)),
        cmd::BLOCK_STATUS if !terms.status => Err(invalid("block status was not negotiated")),
        cmd::BLOCK_STATUS if span.len_bytes == 0 => Err(invalid("block status of nothing")),
        cmd::BLOCK_STATUS => Ok(Command::Status { span, one: has(flag::REQ_ONE) }),
        _ => Err(invalid("an unknown request")),
    }
}

fn placed(request: &Request, terms: &Terms) -> Result<Span, Refusal> {
    let geometry = &terms.geometry;
    let end = request.offset.checked_add(u64::from(request.len_bytes));
    if end.is_none_or(|end| end > geometry.size_bytes) {
        let errno = match request.kind {
            cmd::WRITE | cmd::WRITE_ZEROES => Errno::Nospc,
            _ => Errno::Inval,
        };
        return Err(Refusal { errno, why: "reaches beyond the end of the export" });
    }
    let block = if terms.aligned { geometry.block_bytes.max(1) } else { 1 };
    if !request.offset.is_multiple_of(u64::from(block)) || !request.len_bytes.is_multiple_of(block) {
        return Err(invalid("not aligned to the blocks of the export"));
    }
    Ok(Span { offset: request.offset, len_bytes: request.len_bytes })
}

//! The numbers of the protocol ("Values").

/// First magic number of the greeting (`NBDMAGIC`).
pub const MAGIC_GREETING: u64 = 0x4e42_444d_4147_4943;
/// Second magic number of the greeting, and in front of every option (`IHAVEOPT`).
pub const MAGIC_OPTION: u64 = 0x4948_4156_454f_5054;
/// In front of every answer to an option.
pub const MAGIC_OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// In front of every request.
pub const MAGIC_REQUEST: u32 = 0x2560_9513;
/// In front of a simple reply.
pub const MAGIC_SIMPLE_REPLY: u32 = 0x6744_6698;
/// In front of a chunk of a structured reply.
pub const MAGIC_CHUNK: u32 = 0x668e_33ef;

/// `NBD_FLAG_FIXED_NEWSTYLE`, the same bit in the server's and the client's flags.
pub const HANDSHAKE_FIXED: u16 = 1;
/// `NBD_FLAG_NO_ZEROES`, the same bit in the server's and the client's flags.
pub const HANDSHAKE_NO_ZEROES: u16 = 1 << 1;

/// Options of the client ("Option types").
pub mod opt {
    #![expect(missing_docs, reason = "the names of the protocol document, which describes them")]
    pub const EXPORT_NAME: u32 = 1;
    pub const ABORT: u32 = 2;
    pub const LIST: u32 = 3;
    pub const STARTTLS: u32 = 5;
    pub const INFO: u32 = 6;
    pub const GO: u32 = 7;
    pub const STRUCTURED_REPLY: u32 = 8;
    pub const LIST_META_CONTEXT: u32 = 9;
    pub const SET_META_CONTEXT: u32 = 10;
    pub const EXTENDED_HEADERS: u32 = 11;
}

/// Answers to options ("Option reply types").
pub mod rep {
    #![expect(missing_docs, reason = "the names of the protocol document, which describes them")]
    pub const ACK: u32 = 1;
    pub const SERVER: u32 = 2;
    pub const INFO: u32 = 3;
    pub const META_CONTEXT: u32 = 4;
    pub const ERR_UNSUP: u32 = 0x8000_0001;
    pub const ERR_POLICY: u32 = 0x8000_0002;
    pub const ERR_INVALID: u32 = 0x8000_0003;
    pub const ERR_UNKNOWN: u32 = 0x8000_0006;
    pub const ERR_SHUTDOWN: u32 = 0x8000_0007;
    pub const ERR_TOO_BIG: u32 = 0x8000_0009;
}

/// What a client may ask about an export (`NBD_REP_INFO`).
pub mod info {
    #![expect(missing_docs, reason = "the names of the protocol document, which describes them")]
    pub const EXPORT: u16 = 0;
    pub const NAME: u16 = 1;
    pub const DESCRIPTION: u16 = 2;
    pub const BLOCK_SIZE: u16 = 3;
}

/// What an export can do ("Transmission flags").
pub mod can {
    #![expect(missing_docs, reason = "the names of the protocol document, which describes them")]
    pub const HAS_FLAGS: u16 = 1;
    pub const READ_ONLY: u16 = 1 << 1;
    pub const SEND_FLUSH: u16 = 1 << 2;
    pub const SEND_FUA: u16 = 1 << 3;
    pub const SEND_TRIM: u16 = 1 << 5;
    pub const SEND_WRITE_ZEROES: u16 = 1 << 6;
    pub const SEND_DF: u16 = 1 << 7;
    pub const CAN_MULTI_CONN: u16 = 1 << 8;
    pub const SEND_CACHE: u16 = 1 << 10;
    pub const SEND_FAST_ZERO: u16 = 1 << 11;
}

/// Requests ("Request types").
pub mod cmd {
    #![expect(missing_docs, reason = "the names of the protocol document, which describes them")]
    pub const READ: u16 = 0;
    pub const WRITE: u16 = 1;
    pub const DISC: u16 = 2;
    pub const FLUSH: u16 = 3;
    pub const TRIM: u16 = 4;
    pub const CACHE: u16 = 5;
    pub const WRITE_ZEROES: u16 = 6;
    pub const BLOCK_STATUS: u16 = 7;
}

/// Flags of requests ("Command flags").
pub mod flag {
    #![expect(missing_docs, reason = "the names of the protocol document, which describes them")]
    pub const FUA: u16 = 1;
    pub const NO_HOLE: u16 = 1 << 1;
    pub const DF: u16 = 1 << 2;
    pub const REQ_ONE: u16 = 1 << 3;
    pub const FAST_ZERO: u16 = 1 << 4;
}

/// Chunks of structured replies ("Structured reply types").
pub mod chunk {
    #![expect(missing_docs, reason = "the names of the protocol document, which describes them")]
    pub const FLAG_DONE: u16 = 1;
    pub const NONE: u16 = 0;
    pub const OFFSET_DATA: u16 = 1;
    pub const BLOCK_STATUS: u16 = 5;
    pub const ERROR: u16 = 0x8001;
    pub const ERROR_OFFSET: u16 = 0x8002;
}

/// `NBD_STATE_HOLE` of `base:allocation`.
pub const STATE_HOLE: u32 = 1;
/// `NBD_STATE_ZERO` of `base:allocation`.
pub const STATE_ZERO: u32 = 1 << 1;

/// Why a request failed ("Error values"). `NBD_ESHUTDOWN` is never sent, see `Answer` in the module above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Errno {
    /// The export is read-only.
    Perm = 1,
    /// The medium or the store failed.
    Io = 5,
    /// The request is invalid.
    Inval = 22,
    /// There is no room, or the write reaches past the end.
    Nospc = 28,
    /// The request is too large.
    Overflow = 75,
}

impl Errno {
    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u32 {
        self as u32
    }
}

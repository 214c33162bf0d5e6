//! The kept place of a follower: how far it has processed a log.
//!
//! ```text
//! 0 magic 8 | 8 version u16 | zero 6 | 16 log id 16 | 32 seq u64 | 40 crc u32 | zero 4
//! ```
//! Each place is a file of its own, `follow/NAME.NUMBER`, which is written once. The valid one with the highest number
//! counts; older ones are removed only once it is durable.

use bygone_model::Seq;

use super::{Bytes, PutBytes, SEQ_MAX, VERSION, crc32c};

/// The length of a file.
pub const CURSOR_BYTES: usize = 48;
const MAGIC: &[u8; 8] = b"BYGONEcu";
const NAME_BYTES_MAX: usize = 40;

/// The folder of the files.
#[must_use]
pub fn folder() -> &'static str {
    "follow"
}

/// Whether a follower may have this name: 1 to 40 lower-case letters, digits and hyphens, which every file system
/// takes.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(known)
}

/// The file of a follower's place with this number.
#[must_use]
pub fn file_name(name: &str, number: u64) -> String {
    format!("{}/{name}.{number:016}", folder())
}

/// The number in a file name (without the folder), if the file belongs to the follower `name`.
#[must_use]
pub fn number_of(file: &str, name: &str) -> Option<u64> {
    let digits = file.strip_prefix(name)?.strip_prefix('.')?;
    (digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The file's bytes.
#[must_use]
pub fn encode(log: &[u8; 16], seq: Seq) -> Vec<u8> {
    let mut out = Vec::with_capacity(CURSOR_BYTES);
    out.put(MAGIC);
    out.put_u16(VERSION);
    out.resize(16, 0);
    out.put(log);
    out.put_u64(seq.0);
    let crc = crc32c(&out);
    out.put_u32(crc);
    out.resize(CURSOR_BYTES, 0);
    out
}

/// The log's id and the seq. `None`: the file is damaged, of a newer version, or was not written completely.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<([u8; 16], Seq)> {
    let bytes: &[u8; CURSOR_BYTES] = bytes.try_into().ok()?;
    let mut b = Bytes(bytes);
    let (magic, version) = (b.take(8)?, b.u16()?);
    b.take(6)?;
    let (log, seq) = (b.take(16)?.try_into().ok()?, Seq(b.u64()?));
    let whole = magic == MAGIC && version <= VERSION && crc32c(&bytes[..40]) == b.u32()?;
    (whole && seq <= SEQ_MAX).then_some((log, seq))
}

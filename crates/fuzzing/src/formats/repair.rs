//! Repairs checksums, so that the fuzzer reaches the code behind them. The checksum is computed here from its
//! definition; a hash by the store's own code.

use bygone_store::format::{key::Identity, manifest::hash};

/// CRC-32C: polynomial 0x1EDC6F41 with its bits the other way round, as in iSCSI (RFC 3720, B.4).
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// The result of eight steps for each byte.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 * 8 {
        let before = if i % 8 == 0 { i as u32 / 8 } else { table[i / 8] };
        table[i / 8] = before >> 1 ^ if before & 1 == 0 { 0 } else { 0x82f6_3b78 };
        i += 1;
    }
    table
};

fn put(bytes: &mut [u8], at: usize, number: u32) -> Option<()> {
    bytes.get_mut(at..at + 4)?.copy_from_slice(&number.to_le_bytes());
    Some(())
}

fn get(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// A frame ends in the CRC of everything before: headers of segments (4096) and checkpoints (64), and trailers.
pub(super) fn frame(bytes: &mut [u8]) -> Option<()> {
    let at = bytes.len().checked_sub(4)?;
    let crc = crc32c(&bytes[..at]);
    put(bytes, at, crc)
}

/// A manifest ends in the hash of everything before.
pub(super) fn manifest(bytes: &mut [u8]) -> Option<()> {
    let (content, own) = bytes.split_at_mut_checked(bytes.len().checked_sub(32)?)?;
    own.copy_from_slice(&hash(content));
    Some(())
}

/// A page or a table begins with the CRC of everything after.
pub(super) fn leading(bytes: &mut [u8]) -> Option<()> {
    let crc = crc32c(bytes.get(4..)?);
    put(bytes, 0, crc)
}

/// The position and length of the payload of the record at `at`.
pub(super) fn payload(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let length = get(bytes, 40)? as usize;
    let payload = match bytes[12] {
        1 => length.checked_mul(512)?,
        2..16 => 0,
        _ => length,
    };
    let crcs = if payload <= 4096 { 0 } else { (payload.div_ceil(4096) * 4).next_multiple_of(8) };
    let from = if bytes[13] & 2 == 0 { 64 + crcs } else { (at + 64 + crcs).next_multiple_of(4096) - at };
    (from.checked_add(payload)? <= bytes.len()).then_some((from, payload))
}

/// Repairs the record at `at` of its segment: the CRCs of its granules, then their checksum, then the header's hash.
pub(super) fn record(log: &Identity, at: usize, bytes: &mut [u8]) -> Option<()> {
    let (from, len) = payload(bytes, at)?;
    let granules = len.div_ceil(4096);
    let crc_of = |bytes: &[u8], i: usize| crc32c(&bytes[from + i * 4096..from + len.min((i + 1) * 4096)]);
    let check = if granules <= 1 {
        crc32c(&bytes[from..from + len])
    } else {
        for i in 0..granules {
            let crc = crc_of(bytes, i);
            put(bytes, 64 + i * 4, crc)?;
        }
        crc32c(&bytes[64..64 + granules * 4])
    };
    put(bytes, 60, check)?;
    let hash = log.header_key().hash(&bytes[8..64]);
    bytes[..8].copy_from_slice(&hash.to_le_bytes());
    Some(())
}

/// Repairs a segment's index and its trailer. The index gives the length that the trailer then states.
pub(super) fn segment_index(log: &Identity, bytes: &mut [u8]) -> Option<()> {
    let trailer = bytes.len().checked_sub(64)?;
    let lengths = [(16, 28), (20, 16), (24, 1)];
    let index = lengths.iter().try_fold(0, |sum: usize, &(at, each)| {
        sum.checked_add((get(bytes, trailer + at)? as usize).checked_mul(each)?)
    })?;
    if let Some(from) = trailer.checked_sub(index) {
        let crc = crc32c(&bytes[from..trailer]);
        put(bytes, trailer + 28, crc)?;
    }
    let hash = log.header_key().hash(&bytes[trailer..trailer + 56]);
    bytes[trailer + 56..].copy_from_slice(&hash.to_le_bytes());
    Some(())
}

/// A checkpoint's footer with its trailer.
fn checkpoint_footer(bytes: &mut [u8]) -> Option<()> {
    let trailer = bytes.len().checked_sub(64)?;
    if let Some(from) = trailer.checked_sub(get(bytes, trailer + 16)? as usize) {
        let crc = crc32c(&bytes[from..trailer]);
        put(bytes, trailer + 20, crc)?;
    }
    frame(&mut bytes[trailer..])
}

/// Repairs every checksum at or before `at` in a file of a log. True if there was one.
pub(crate) fn file(name: &str, bytes: &mut [u8], at: usize) -> bool {
    repaired(name, bytes, at).is_some()
}

/// The identity of the log, according to a segment.
fn identity(bytes: &[u8]) -> Option<Identity> {
    Some(Identity { id: bytes.get(16..32)?.try_into().ok()?, secret: bytes.get(64..96)?.try_into().ok()? })
}

fn repaired(name: &str, bytes: &mut [u8], at: usize) -> Option<()> {
    let segment = name.starts_with("log/");
    let header = if segment { 4096 } else { 64 };
    if at < header {
        bytes.get_mut(..header).and_then(frame)
    } else if bytes.len().saturating_sub(at) <= 512 {
        if segment { segment_index(&identity(bytes)?, bytes) } else { checkpoint_footer(bytes) }
    } else if segment {
        let log = identity(bytes)?;
        let is_one = |i: &usize| i.is_multiple_of(8) && bytes[*i..].get(8..12) == Some(b"ByRe");
        let start = (4096..=at).rev().find(is_one);
        start.and_then(|start| record(&log, start, &mut bytes[start..]))
    } else {
        let is_one =
            |i: &usize| i.is_multiple_of(8) && [b"Pg", b"Tb"].contains(&&[bytes[i + 4], bytes[i + 5]]);
        let start = (64..=at).rev().find(is_one);
        start.and_then(|start| block(&mut bytes[start..]))
    }
}

/// Repairs a page or a table at the front of some bytes, of the length that its fields say.
fn block(bytes: &mut [u8]) -> Option<()> {
    let count = usize::from(u16::from_le_bytes([*bytes.get(8)?, *bytes.get(9)?]));
    let len = if bytes[4] == b'P' {
        16 + count * if bytes[6] == 0 { 24 } else { 32 }
    } else {
        let mut at = 16;
        for _ in 0..usize::from(bytes[6]) {
            let trees = usize::from(*bytes.get(at + 4)?) + (*bytes.get(at + 5)? & 3).count_ones() as usize;
            at += 8 + trees * 40;
        }
        at
    };
    bytes.get_mut(..len).and_then(leading)
}

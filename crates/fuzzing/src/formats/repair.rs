//! Makes checksums right, so that what a decoder believes of its fields is reached. The checksum is computed here from its
//! definition.

/// CRC-32C: polynomial 0x1EDC6F41 with its bits the other way round, as in iSCSI (RFC 3720, B.4).
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

/// What eight steps make of each byte.
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

/// A frame ends in the crc of what is before it: headers of segments (4096) and checkpoints (64), and trailers.
pub(super) fn frame(bytes: &mut [u8]) -> Option<()> {
    let at = bytes.len().checked_sub(4)?;
    let crc = crc32c(&bytes[..at]);
    put(bytes, at, crc)
}

/// A page or a table begins with the crc of what is behind it.
pub(super) fn leading(bytes: &mut [u8]) -> Option<()> {
    let crc = crc32c(bytes.get(4..)?);
    put(bytes, 0, crc)
}

/// A record: the crcs of its granules, then that of its header.
pub(super) fn record(log_id: &[u8], bytes: &mut [u8]) -> Option<()> {
    let payload = get(bytes, 36)? as usize;
    let padded = payload.checked_next_multiple_of(8)?;
    let crcs_at = 64 + padded;
    let end = crcs_at + (payload.div_ceil(4096) * 4).next_multiple_of(8);
    if end > bytes.len() {
        return None;
    }
    for i in 0..payload.div_ceil(4096) {
        let granule = &bytes[64 + i * 4096..64 + payload.min((i + 1) * 4096)];
        let crc = crc32c(granule);
        put(bytes, crcs_at + i * 4, crc)?;
    }
    let covered = [log_id, &bytes[8..64], &bytes[crcs_at..end]].concat();
    put(bytes, 4, crc32c(&covered))
}

/// A segment's index with its trailer, of which the first says how long the second believes it to be.
pub(super) fn segment_index(bytes: &mut [u8]) -> Option<()> {
    let trailer = bytes.len().checked_sub(64)?;
    let lengths = [(16, 28), (20, 16), (24, 1)];
    let index = lengths.iter().try_fold(0, |sum: usize, &(at, each)| {
        sum.checked_add((get(bytes, trailer + at)? as usize).checked_mul(each)?)
    })?;
    if let Some(from) = trailer.checked_sub(index) {
        let crc = crc32c(&bytes[from..trailer]);
        put(bytes, trailer + 28, crc)?;
    }
    frame(&mut bytes[trailer..])
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

/// Makes right whatever has a checksum at or before `at` in a file of a log. True if there was something.
pub(crate) fn file(name: &str, bytes: &mut [u8], at: usize) -> bool {
    let segment = name.starts_with("log/");
    let header = if segment { 4096 } else { 64 };
    let done = if at < header {
        bytes.get_mut(..header).and_then(frame)
    } else if bytes.len().saturating_sub(at) <= 512 {
        if segment { segment_index(bytes) } else { checkpoint_footer(bytes) }
    } else if segment {
        let id = bytes[16..32].to_vec();
        let start = (4096..=at).rev().find(|i| i % 8 == 0 && bytes[*i..].starts_with(b"ByRe"));
        start.and_then(|start| record(&id, &mut bytes[start..]))
    } else {
        let is_one =
            |i: &usize| i.is_multiple_of(8) && [b"Pg", b"Tb"].contains(&&[bytes[i + 4], bytes[i + 5]]);
        let start = (64..=at).rev().find(is_one);
        start.and_then(|start| block(&mut bytes[start..]))
    };
    done.is_some()
}

/// A page or a table at the front of some bytes, as long as its fields say.
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

//! Compressed extents: zlib, LZO and zstd. No more is made of them than is asked for.

use std::io::Read;

use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use ruzstd::decoding::StreamingDecoder;

use crate::bytes::{byte, le16, le32};

/// What btrfs compresses at once, and the longest window of its zstd.
pub(super) const EXTENT_BYTES_MAX: usize = 128 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Zlib,
    Lzo,
    Zstd,
}

impl Compression {
    /// At most `len` bytes of what was compressed; `None` if that makes no sense. Sectors are of `sector` bytes.
    pub(super) fn decode(self, bytes: &[u8], len: usize, sector: usize) -> Option<Vec<u8>> {
        if len > EXTENT_BYTES_MAX {
            return None;
        }
        match self {
            Compression::Zlib => zlib(bytes, len),
            Compression::Lzo => lzo(bytes, len, sector),
            Compression::Zstd => zstd(bytes, len),
        }
    }
}

/// Its checksum is left alone, as by Linux: the extent has its own.
fn zlib(bytes: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut out = vec![0; len];
    let flags = inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER
        | inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF
        | inflate_flags::TINFL_FLAG_IGNORE_ADLER32;
    let (status, _, made) = decompress(&mut DecompressorOxide::new(), bytes, &mut out, 0, flags);
    if (status as i32) < 0 {
        return None;
    }
    out.truncate(made);
    Some(out)
}

fn zstd(bytes: &[u8], len: usize) -> Option<Vec<u8>> {
    let decoder = StreamingDecoder::new_with_max_window_size(bytes, EXTENT_BYTES_MAX as u64).ok()?;
    let mut out = Vec::with_capacity(len);
    decoder.take(len as u64).read_to_end(&mut out).ok()?;
    Some(out)
}

/// The length of the whole, then segments of one sector each, each behind its length. No length crosses a sector.
fn lzo(bytes: &[u8], len: usize, sector: usize) -> Option<Vec<u8>> {
    let bytes = bytes.get(..le32(bytes, 0) as usize)?;
    let mut out = Vec::with_capacity(len);
    let mut at = 4;
    while at + 4 <= bytes.len() && out.len() < len {
        let end = (at + 4).checked_add(le32(bytes, at) as usize)?;
        let out_max = (out.len() + sector).min(EXTENT_BYTES_MAX + sector);
        segment(bytes.get(at + 4..end)?, &mut out, out_max)?;
        at = end;
        let left = sector - at % sector;
        if left < 4 {
            at += left;
        }
    }
    out.truncate(len);
    Some(out)
}

/// Reads the stream of a segment.
struct Stream<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Stream<'_> {
    fn next(&mut self) -> Option<usize> {
        self.at += 1;
        self.bytes.get(self.at - 1).map(|byte| usize::from(*byte))
    }

    /// A length of which the instruction has only `short`: 0 says that it goes on behind it.
    fn long(&mut self, short: usize, base: usize) -> Option<usize> {
        if short != 0 {
            return Some(short);
        }
        let mut len = base;
        while byte(self.bytes, self.at) == 0 {
            self.next()?;
            len += 255;
        }
        Some(len + self.next()?)
    }

    fn pair(&mut self) -> Option<usize> {
        let at = self.at;
        self.at += 2;
        (self.at <= self.bytes.len()).then(|| usize::from(le16(self.bytes, at)))
    }

    fn literals(&mut self, len: usize, out: &mut Vec<u8>, out_max: usize) -> Option<()> {
        let part = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        (out.len() + len <= out_max).then(|| out.extend_from_slice(part))
    }
}

/// One stream of LZO1X (the kernel's `Documentation/staging/lzo.rst`), without its later form with runs. What it makes is
/// appended; its references reach back to its own beginning only.
fn segment(bytes: &[u8], out: &mut Vec<u8>, out_max: usize) -> Option<()> {
    let start = out.len();
    let mut stream = Stream { bytes, at: 0 };
    // How many literals the last instruction had behind it; 4 stands for a run.
    let mut state = 0;
    match byte(bytes, 0) {
        17 => return None,
        first @ 18.. => {
            stream.at = 1;
            let len = usize::from(first) - 17;
            stream.literals(len, out, out_max)?;
            state = len.min(4);
        }
        _ => {}
    }
    loop {
        let op = stream.next()?;
        let (distance, len, behind) = match op {
            0..=15 if state == 0 => {
                let len = stream.long(op, 15)? + 3;
                stream.literals(len, out, out_max)?;
                state = 4;
                continue;
            }
            0..=15 => {
                let high = stream.next()? << 2;
                let (base, len) = if state == 4 { (2049, 3) } else { (1, 2) };
                (high + (op >> 2) + base, len, op & 3)
            }
            16..=31 => {
                let len = stream.long(op & 7, 7)? + 2;
                let pair = stream.pair()?;
                let distance = 16384 + ((op & 8) << 11) + (pair >> 2);
                if distance == 16384 {
                    return Some(());
                }
                (distance, len, pair & 3)
            }
            32..=63 => {
                let len = stream.long(op & 31, 31)? + 2;
                let pair = stream.pair()?;
                ((pair >> 2) + 1, len, pair & 3)
            }
            64..=127 => ((stream.next()? << 3) + (op >> 2 & 7) + 1, 3 + (op >> 5 & 1), op & 3),
            _ => ((stream.next()? << 3) + (op >> 2 & 7) + 1, 5 + (op >> 5 & 3), op & 3),
        };
        let from = out.len().checked_sub(distance).filter(|from| *from >= start)?;
        if out.len() + len > out_max {
            return None;
        }
        for i in from..from + len {
            out.push(out[i]);
        }
        stream.literals(behind, out, out_max)?;
        state = behind;
    }
}

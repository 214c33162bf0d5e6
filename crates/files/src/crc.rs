//! CRC-32C and CRC-32 as the kernel computes them: without the inversions at the beginning and the end.

const TABLE: [u32; 256] = table(0x82f6_3b78);
const ISO_TABLE: [u32; 256] = table(0xedb8_8320);

const fn table(polynomial: u32) -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (polynomial & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// Continues `crc` over `bytes`.
pub(crate) fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| (crc >> 8) ^ TABLE[usize::from((crc as u8) ^ byte)])
}

/// Continues the CRC-32 of Ethernet over `bytes`.
pub(crate) fn crc32_raw(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| (crc >> 8) ^ ISO_TABLE[usize::from((crc as u8) ^ byte)])
}

/// Continues `crc` over `bytes`, as if those of `zeroed` were zeroes.
pub(crate) fn crc32c_without(crc: u32, bytes: &[u8], zeroed: std::ops::Range<usize>) -> u32 {
    let (before, rest) = bytes.split_at(zeroed.start.min(bytes.len()));
    let (hidden, after) = rest.split_at(zeroed.len().min(rest.len()));
    let crc = hidden.iter().fold(crc32c(crc, before), |crc, _| crc32c(crc, &[0]));
    crc32c(crc, after)
}

//! Little-endian reading that never panics, and writing.

/// Reads little-endian numbers from the front of a slice; `None` if it is too short.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[b]: [u8; 1]| b)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// A LEB128 number of at most ten bytes.
    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

/// Appends little-endian numbers.
pub(crate) trait PutBytes {
    fn put(&mut self, bytes: &[u8]);

    fn put_u8(&mut self, n: u8) {
        self.put(&[n]);
    }
    fn put_u16(&mut self, n: u16) {
        self.put(&n.to_le_bytes());
    }
    fn put_u32(&mut self, n: u32) {
        self.put(&n.to_le_bytes());
    }
    fn put_u64(&mut self, n: u64) {
        self.put(&n.to_le_bytes());
    }
    fn put_i64(&mut self, n: i64) {
        self.put(&n.to_le_bytes());
    }
    fn put_varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.put_u8((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        self.put_u8(n as u8);
    }
}

impl PutBytes for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

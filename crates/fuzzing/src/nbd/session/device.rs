//! A device in memory, with a range that fails and, on request, a medium that has to be waited for.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bygone_block::{BlockDevice, Change, Extent, Geometry, IoError, Reading, Writing};

pub(super) struct Bytes {
    geometry: Geometry,
    bytes: Mutex<Vec<u8>>,
    /// These 4 KiB can neither be read nor written (no room).
    bad: Option<u64>,
    cold: bool,
}

impl Bytes {
    pub(super) fn new(geometry: Geometry, bad: Option<u64>, cold: bool) -> Bytes {
        let bytes = Mutex::new(vec![0; geometry.size_bytes as usize]);
        Bytes { geometry, bytes, bad, cold }
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a range fails. Panics if it is outside the device, which the server must never ask for.
    fn is_bad(&self, offset: u64, len: u64) -> bool {
        assert!(len > 0 && offset + len <= self.geometry.size_bytes, "{offset}+{len}");
        self.bad.is_some_and(|bad| offset < bad + 4096 && bad < offset + len)
    }
}

impl BlockDevice for Bytes {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, offset: u64, buf: &mut [u8], reading: Reading) -> Result<(), IoError> {
        let bad = self.is_bad(offset, buf.len() as u64);
        if self.cold && reading == Reading::CachedOnly {
            buf.fill(0xee);
            return Err(IoError::WouldBlock);
        }
        if bad {
            buf.fill(0xdd);
            return Err(std::io::Error::other("a bad place").into());
        }
        buf.copy_from_slice(&self.bytes()[offset as usize..][..buf.len()]);
        Ok(())
    }

    fn write(&self, writings: &[Writing<'_>]) -> Result<(), IoError> {
        assert!(!self.geometry.read_only, "a write to what is read-only");
        for writing in writings {
            let len = writing.change.len_bytes();
            if self.is_bad(writing.offset, len) {
                return Err(IoError::Full);
            }
            let bytes = &mut self.bytes()[writing.offset as usize..][..len as usize];
            match writing.change {
                Change::Data(data) => bytes.copy_from_slice(data),
                Change::Zero { .. } => bytes.fill(0),
                Change::Trim { .. } => {
                    assert!(self.geometry.can_trim, "a trim of what does not trim");
                    bytes.fill(0);
                }
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), IoError> {
        Ok(())
    }

    fn extents(
        &self,
        offset: u64,
        len_bytes: u64,
        each: &mut dyn FnMut(Extent) -> bool,
    ) -> Result<(), IoError> {
        let block = u64::from(self.geometry.block_bytes);
        assert!(offset.is_multiple_of(block) && len_bytes.is_multiple_of(block), "{offset}+{len_bytes}");
        if self.is_bad(offset, len_bytes) {
            return Err(std::io::Error::other("a bad place").into());
        }
        let block = self.geometry.block_bytes as usize;
        let bytes = self.bytes()[offset as usize..][..len_bytes as usize].to_vec();
        for one in bytes.chunks(block) {
            let zero = one.iter().all(|byte| *byte == 0);
            if !each(Extent { len_bytes: block as u64, zero, hole: zero }) {
                break;
            }
        }
        Ok(())
    }

    fn prefetch(&self, offset: u64, len_bytes: u64) {
        self.is_bad(offset, len_bytes);
    }
}

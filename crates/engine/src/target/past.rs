//! Past moments that are read: what they read from is not removed meanwhile.

use std::sync::{Arc, atomic::Ordering};

use bygone_block::{AsOfDevice, BlockDevice, Extent, Geometry, IoError, Reading, Writing};

use super::Target;

/// A disk as of a moment, and the right to read it.
pub(crate) struct PastDisk {
    pub(super) device: AsOfDevice,
    pub(super) _hold: Hold,
}

/// Keeps a target from being removed.
pub(crate) struct Hold(Arc<Target>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Target {
    /// A past moment of it is going to be read.
    pub(crate) fn hold(self: &Arc<Self>) -> Hold {
        self.readers.fetch_add(1, Ordering::AcqRel);
        Hold(self.clone())
    }

    /// So many past moments of it are being read.
    pub(crate) fn readers(&self) -> usize {
        self.readers.load(Ordering::Acquire)
    }
}

impl BlockDevice for PastDisk {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }
    fn read(&self, offset: u64, buf: &mut [u8], reading: Reading) -> Result<(), IoError> {
        self.device.read(offset, buf, reading)
    }
    fn write(&self, writings: &[Writing<'_>]) -> Result<(), IoError> {
        self.device.write(writings)
    }
    fn flush(&self) -> Result<(), IoError> {
        self.device.flush()
    }
    fn extents(
        &self,
        offset: u64,
        len_bytes: u64,
        each: &mut dyn FnMut(Extent) -> bool,
    ) -> Result<(), IoError> {
        self.device.extents(offset, len_bytes, each)
    }
    fn prefetch(&self, offset: u64, len_bytes: u64) {
        self.device.prefetch(offset, len_bytes);
    }
}

//! Past moments that are read: what they read from is not removed meanwhile.

use std::sync::{Arc, atomic::Ordering};

use bygone_block::{AsOfDevice, BlockDevice, Extent, Geometry, IoError, Reading, Writing};
use bygone_model::when::WholeDay;
use jiff::Zoned;

use super::Target;
use crate::{
    error,
    history::{self, Found},
};

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
    /// The moment that a person means by `text`, asked at `now`.
    ///
    /// # Errors
    /// As [`history::find`]; of a target that was removed meanwhile, that there is none.
    pub(crate) fn moment(&self, text: &str, now: &Zoned) -> error::Result<Found> {
        self.unless_gone(history::find(&self.log, text, WholeDay::Refuse, now))
    }

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

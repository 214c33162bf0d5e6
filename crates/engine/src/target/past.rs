//! Reading past moments, which keeps the target from being removed.

use std::sync::{Arc, atomic::Ordering};

use bygone_block::{AsOfDevice, BlockDevice, Extent, Geometry, IoError, Reading, Writing};
use bygone_model::when::WholeDay;
use jiff::Zoned;

use super::Target;
use crate::{
    error,
    history::{self, Found},
};

/// A disk as of a moment, with a [`Hold`] on its target.
pub(crate) struct PastDisk {
    pub(super) device: AsOfDevice,
    pub(super) _hold: Hold,
}

/// Keeps a target from being removed, for its lifetime.
pub(crate) struct Hold(Arc<Target>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Target {
    /// Resolves `text` to a moment, relative to `now`.
    ///
    /// # Errors
    /// As [`history::find`]; [`error::Error::NoTarget`] if it was removed meanwhile.
    pub(crate) fn moment(&self, text: &str, now: &Zoned) -> error::Result<Found> {
        self.unless_gone(history::find(&self.log, text, WholeDay::Refuse, now))
    }

    /// Begins to read a past moment.
    pub(crate) fn hold(self: &Arc<Self>) -> Hold {
        self.readers.fetch_add(1, Ordering::AcqRel);
        Hold(self.clone())
    }

    /// The number of past moments being read.
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

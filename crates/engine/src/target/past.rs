//! Reading past moments, which keeps the target from being removed.

use std::sync::{Arc, atomic::Ordering};

use bygone_block::{AsOfDevice, BlockDevice, Extent, Geometry, IoError, Reading, Writing};
use bygone_model::{BranchId, Place, when::WholeDay};
use bygone_store::catalog::{Keeping, Shows, Volume};
use jiff::Zoned;

use super::Target;
use crate::{
    api::LostRecords,
    error,
    history::{self, Found},
    timeline,
};

/// A disk as of a moment, with a [`Hold`] on its target.
pub(crate) struct PastDisk {
    pub(super) device: AsOfDevice,
    pub(super) _hold: Hold,
}

impl PastDisk {
    /// How many bytes of it may be older than they should be, because records are lost.
    ///
    /// # Errors
    /// When the index cannot be read, or no caller waits any more.
    pub(crate) fn uncertain_bytes(&self, wanted: &mut dyn FnMut() -> bool) -> error::Result<u64> {
        self.device.uncertain_bytes(wanted)?.ok_or(error::Error::Abandoned)
    }
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

    /// The records that are lost and that the present of a branch lies behind. A tapped disk that shows it is right.
    pub(crate) fn lost_now(&self, branch: BranchId) -> Vec<LostRecords> {
        let catalog = self.log.catalog();
        let is_outside = |volume: &Volume| {
            catalog.disk_of(volume.id).is_ok_and(|disk| disk.keeping == Keeping::Tap)
                && catalog.shows.get(&volume.disk).is_none_or(|shows| *shows == Shows::Volume(volume.id))
                && branch == catalog.head
        };
        timeline::lost_before(&catalog, Place::new(branch, self.log.head_seq()), is_outside)
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

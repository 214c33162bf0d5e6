//! A layer that makes the device below it fail or respond slowly, to test everything above it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::{BlockDevice, Extent, Geometry, IoError, Reading, Writing};

/// The faults to inject. All of them can be changed while the device is in use.
#[derive(Debug, Default)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Faults {
    pub fail_reads: AtomicBool,
    pub fail_writes: AtomicBool,
    pub fail_flushes: AtomicBool,
    /// Writes find no room.
    pub full: AtomicBool,
    /// Added to every request, in milliseconds.
    pub delay_ms: AtomicU32,
}

/// See the module's comment.
pub struct FaultDevice {
    below: Arc<dyn BlockDevice>,
    faults: Arc<Faults>,
}

impl std::fmt::Debug for FaultDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultDevice").field("faults", &self.faults).finish_non_exhaustive()
    }
}

impl FaultDevice {
    /// Puts the layer over `below`.
    #[must_use]
    pub fn new(below: Arc<dyn BlockDevice>, faults: Arc<Faults>) -> FaultDevice {
        FaultDevice { below, faults }
    }

    fn meet(&self, fault: &AtomicBool) -> Result<(), IoError> {
        let delay_ms = self.faults.delay_ms.load(Ordering::Relaxed);
        if delay_ms > 0 {
            std::thread::sleep(Duration::from_millis(u64::from(delay_ms)));
        }
        if fault.load(Ordering::Relaxed) {
            return Err(IoError::Medium(std::io::Error::other("injected fault")));
        }
        Ok(())
    }
}

impl BlockDevice for FaultDevice {
    fn geometry(&self) -> Geometry {
        self.below.geometry()
    }

    fn read(&self, offset: u64, buf: &mut [u8], reading: Reading) -> Result<(), IoError> {
        if reading == Reading::CachedOnly && self.faults.delay_ms.load(Ordering::Relaxed) > 0 {
            return Err(IoError::WouldBlock);
        }
        self.meet(&self.faults.fail_reads)?;
        self.below.read(offset, buf, reading)
    }

    fn write(&self, writings: &[Writing<'_>]) -> Result<(), IoError> {
        self.meet(&self.faults.fail_writes)?;
        if self.faults.full.load(Ordering::Relaxed) {
            return Err(IoError::Full);
        }
        self.below.write(writings)
    }

    fn flush(&self) -> Result<(), IoError> {
        self.meet(&self.faults.fail_flushes)?;
        self.below.flush()
    }

    fn extents(
        &self,
        offset: u64,
        len_bytes: u64,
        each: &mut dyn FnMut(Extent) -> bool,
    ) -> Result<(), IoError> {
        self.below.extents(offset, len_bytes, each)
    }

    fn prefetch(&self, offset: u64, len_bytes: u64) {
        self.below.prefetch(offset, len_bytes);
    }
}

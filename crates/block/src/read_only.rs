//! A layer that refuses writes.

use std::sync::Arc;

use crate::{BlockDevice, Extent, Geometry, IoError, Reading, Writing};

/// See the module's comment.
pub(crate) struct ReadOnly(Arc<dyn BlockDevice>);

impl ReadOnly {
    pub(crate) fn new(below: Arc<dyn BlockDevice>) -> ReadOnly {
        ReadOnly(below)
    }
}

impl BlockDevice for ReadOnly {
    fn geometry(&self) -> Geometry {
        Geometry { read_only: true, can_trim: false, ..self.0.geometry() }
    }

    fn read(&self, offset: u64, buf: &mut [u8], reading: Reading) -> Result<(), IoError> {
        self.0.read(offset, buf, reading)
    }

    fn write(&self, _: &[Writing<'_>]) -> Result<(), IoError> {
        Err(IoError::ReadOnly)
    }

    fn flush(&self) -> Result<(), IoError> {
        self.0.flush()
    }

    fn extents(
        &self,
        offset: u64,
        len_bytes: u64,
        each: &mut dyn FnMut(Extent) -> bool,
    ) -> Result<(), IoError> {
        self.0.extents(offset, len_bytes, each)
    }

    fn prefetch(&self, offset: u64, len_bytes: u64) {
        self.0.prefetch(offset, len_bytes);
    }
}

//! A block device as a row of bytes: any offset, any length.
//!
//! Invariants: no request reaches past the end of the device. Parts of blocks are left to the device, which has other
//! writers beside this one.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::{BlockDevice, Change, Extent, Geometry, IoError, Reading, Writing, device::PAUSE};

/// Runs looked at to say how much space the file takes.
const RUNS_MAX: u64 = 16_384;

/// What a range becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clearing {
    Zero,
    Trim,
}

/// Whether writes wait for room. They do, unless the export is ending.
#[derive(Default)]
pub(super) struct Waiting {
    over: Mutex<bool>,
    changed: Condvar,
}

impl Waiting {
    /// From now on whatever finds no room fails, that which waits included.
    pub(super) fn end(&self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Undoes [`Waiting::end`].
    pub(super) fn go_on(&self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Waits a little; says whether to try again.
    fn pause(&self) -> bool {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let paused = self.changed.wait_timeout_while(over, PAUSE, |over| !*over);
        !*paused.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// See the module's comment.
pub(super) struct Bytes {
    device: Arc<dyn BlockDevice>,
    geometry: Geometry,
    waiting: Arc<Waiting>,
}

impl Bytes {
    pub(super) fn new(device: Arc<dyn BlockDevice>) -> Bytes {
        let geometry = device.geometry();
        Bytes { device, geometry, waiting: Arc::default() }
    }

    pub(super) fn waiting(&self) -> &Arc<Waiting> {
        &self.waiting
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn clip(&self, offset: u64) -> u64 {
        offset.min(self.geometry.size_bytes)
    }

    /// What there is of `len_bytes` from `offset`: nothing at and past the end. `buf` is room that is used again.
    pub(super) fn read<'b>(
        &self,
        offset: u64,
        len_bytes: usize,
        buf: &'b mut Vec<u8>,
    ) -> Result<&'b [u8], IoError> {
        let start = self.clip(offset);
        let end = self.clip(start.saturating_add(len_bytes as u64));
        if start == end {
            return Ok(&[]);
        }
        let room = (end - start) as usize;
        if buf.len() < room {
            buf.resize(room, 0);
        }
        self.device.read(start, &mut buf[..room], Reading::MayWait)?;
        Ok(&buf[..room])
    }

    /// Writes as much of `data` as the device reaches, and says how much that was. At the end that is nothing, which
    /// is an error as on a block device.
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<usize, IoError> {
        if self.geometry.read_only {
            return Err(IoError::ReadOnly);
        }
        let room = usize::try_from(self.geometry.size_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let data = &data[..data.len().min(room)];
        if data.is_empty() {
            return if room == 0 { Err(IoError::Full) } else { Ok(0) };
        }
        self.put(&[Writing { offset, change: Change::Data(data) }])?;
        Ok(data.len())
    }

    /// Makes the range read as zeroes, as far as the device reaches.
    pub(super) fn clear(&self, offset: u64, len_bytes: u64, clearing: Clearing) -> Result<(), IoError> {
        if self.geometry.read_only {
            return Err(IoError::ReadOnly);
        }
        let start = self.clip(offset);
        let end = self.clip(start.saturating_add(len_bytes));
        if start == end {
            return Ok(());
        }
        let len_bytes = end - start;
        let change = match clearing {
            Clearing::Trim if self.geometry.can_trim => Change::Trim { len_bytes },
            Clearing::Trim | Clearing::Zero => Change::Zero { len_bytes },
        };
        self.put(&[Writing { offset: start, change }])
    }

    /// Whoever writes to a file waits where there is no room, as they would for a slow disk. The kernel lets nobody be killed
    /// who waits so, and does not say who has gone; so the end of the export is what ends it.
    fn put(&self, writings: &[Writing<'_>]) -> Result<(), IoError> {
        loop {
            match self.device.write(writings) {
                Err(IoError::Paused) if self.waiting.pause() => {}
                result => return result,
            }
        }
    }

    pub(super) fn flush(&self) -> Result<(), IoError> {
        if self.geometry.read_only { Ok(()) } else { self.device.flush() }
    }

    /// The first byte at or after `offset` that is (`zero`) or is not known to read as zero. `None`: none up to the
    /// end.
    pub(super) fn next(&self, offset: u64, zero: bool) -> Result<Option<u64>, IoError> {
        let size_bytes = self.geometry.size_bytes;
        if offset >= size_bytes {
            return Ok(None);
        }
        let mut at = offset - offset % u64::from(self.geometry.block_bytes.max(1));
        let mut found = None;
        self.device.extents(at, size_bytes - at, &mut |extent: Extent| {
            let end = at.saturating_add(extent.len_bytes);
            if extent.zero == zero && end > offset {
                found = Some(at.max(offset));
            }
            at = end;
            found.is_none()
        })?;
        Ok(found.filter(|at| *at < size_bytes))
    }

    /// The bytes that take space, counted over a bounded number of runs; what comes after those is taken to.
    pub(super) fn used_bytes(&self) -> Result<u64, IoError> {
        let mut used_bytes = self.geometry.size_bytes;
        let mut runs = 0;
        if used_bytes > 0 {
            self.device.extents(0, self.geometry.size_bytes, &mut |extent: Extent| {
                if extent.hole {
                    used_bytes = used_bytes.saturating_sub(extent.len_bytes);
                }
                runs += 1;
                runs < RUNS_MAX
            })?;
        }
        Ok(used_bytes)
    }
}

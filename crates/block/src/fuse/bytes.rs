//! A block device as a sequence of bytes: any offset, any length.
//!
//! Invariants: no request reaches past the end of the device. Requests for parts of blocks go to the device as they
//! are: only the device can keep such a write apart from those of its other writers.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::{BlockDevice, Change, Extent, Geometry, IoError, Reading, Writing, device::PAUSE};

/// How many extents are counted, at most, to report how much space the file takes.
const RUNS_MAX: u64 = 16_384;

/// How a range is cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clearing {
    Zero,
    Trim,
}

/// Whether writes wait for room. They do unless the export is ending.
#[derive(Default)]
pub(super) struct Waiting {
    over: Mutex<bool>,
    changed: Condvar,
}

impl Waiting {
    /// From now on every write that finds no room fails, including those already waiting.
    pub(super) fn end(&self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Undoes [`Waiting::end`].
    pub(super) fn go_on(&self) {
        *self.over.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Waits a little; returns whether to retry.
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

    /// The part of `offset .. offset + len_bytes` that exists, which is nothing at and past the end. `buf` is reused
    /// between calls.
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

    /// Writes as much of `data` as fits before the end of the device and returns how much that was. A write at the end
    /// is an error, as on a block device.
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

    /// Makes the part of the range that lies within the device read as zeroes.
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

    /// A write that finds no room waits, as on a slow disk. The kernel does not let a process be killed during that
    /// wait, nor does it report that one has gone, so only the end of the export ends the wait.
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

    /// The first byte at or after `offset` that is known to read as zero (`zero`) or that is not (`!zero`). `None`:
    /// there is none before the end.
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

    /// The bytes that take space. Only a bounded number of extents is counted; everything after them counts as taking
    /// space.
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

//! A block device as a row of bytes: any offset, any length.
//!
//! Invariants: a block of which only a part changes is read, changed and written while nobody else here writes;
//! whole blocks are written side by side. No request reaches past the end of the device.

use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};

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
    /// Shared by writes of whole blocks, exclusive for a write of a part of one.
    parts: RwLock<()>,
    waiting: Arc<Waiting>,
}

impl Bytes {
    pub(super) fn new(device: Arc<dyn BlockDevice>) -> Bytes {
        let geometry = device.geometry();
        Bytes { device, geometry, parts: RwLock::new(()), waiting: Arc::default() }
    }

    pub(super) fn waiting(&self) -> &Arc<Waiting> {
        &self.waiting
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn block(&self) -> u64 {
        u64::from(self.geometry.block_bytes.max(1))
    }

    fn down(&self, offset: u64) -> u64 {
        offset - offset % self.block()
    }

    /// Not past the end, which is a multiple of the block size.
    fn up(&self, offset: u64) -> u64 {
        offset.checked_next_multiple_of(self.block()).map_or(self.geometry.size_bytes, |up| self.clip(up))
    }

    fn clip(&self, offset: u64) -> u64 {
        offset.min(self.geometry.size_bytes)
    }

    fn is_whole(&self, start: u64, end: u64) -> bool {
        start.is_multiple_of(self.block()) && end.is_multiple_of(self.block())
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
        let (from, to) = (self.down(start), self.up(end));
        let room = (to - from) as usize;
        if buf.len() < room {
            buf.resize(room, 0);
        }
        self.device.read(from, &mut buf[..room], Reading::MayWait)?;
        Ok(&buf[(start - from) as usize..(end - from) as usize])
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
        if self.is_whole(offset, offset + data.len() as u64) {
            let _shared = self.parts.read().unwrap_or_else(PoisonError::into_inner);
            self.put(&[Writing { offset, change: Change::Data(data) }])?;
        } else {
            let _alone = self.parts.write().unwrap_or_else(PoisonError::into_inner);
            self.write_part(offset, data)?;
        }
        Ok(data.len())
    }

    /// Reads the blocks at the ends, puts `data` (not empty, within the device) in place, writes them all.
    fn write_part(&self, offset: u64, data: &[u8]) -> Result<(), IoError> {
        let end = offset + data.len() as u64;
        let (from, to) = (self.down(offset), self.up(end));
        let block = self.block() as usize;
        let mut blocks = vec![0; (to - from) as usize];
        let last = blocks.len() - block;
        if from < offset {
            self.device.read(from, &mut blocks[..block], Reading::MayWait)?;
        }
        if end < to && (last > 0 || from == offset) {
            self.device.read(to - block as u64, &mut blocks[last..], Reading::MayWait)?;
        }
        let skip = (offset - from) as usize;
        blocks[skip..skip + data.len()].copy_from_slice(data);
        self.put(&[Writing { offset: from, change: Change::Data(&blocks) }])
    }

    /// Makes the range read as zeroes, as far as the device reaches. Whole blocks are cleared, the parts of blocks at
    /// its ends are written.
    pub(super) fn clear(&self, offset: u64, len_bytes: u64, clearing: Clearing) -> Result<(), IoError> {
        if self.geometry.read_only {
            return Err(IoError::ReadOnly);
        }
        let start = self.clip(offset);
        let end = self.clip(start.saturating_add(len_bytes));
        if start == end {
            return Ok(());
        }
        if self.is_whole(start, end) {
            let _shared = self.parts.read().unwrap_or_else(PoisonError::into_inner);
            return self.clear_blocks(start, end, clearing);
        }
        let _alone = self.parts.write().unwrap_or_else(PoisonError::into_inner);
        let (from, to) = (self.up(start), self.down(end));
        if from >= to {
            // Less than two blocks, and no whole one or one that is not worth a request of its own.
            return self.write_part(start, &vec![0; (end - start) as usize]);
        }
        if start < from {
            self.write_part(start, &vec![0; (from - start) as usize])?;
        }
        self.clear_blocks(from, to, clearing)?;
        if to < end {
            self.write_part(to, &vec![0; (end - to) as usize])?;
        }
        Ok(())
    }

    fn clear_blocks(&self, start: u64, end: u64, clearing: Clearing) -> Result<(), IoError> {
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
        let mut at = self.down(offset);
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

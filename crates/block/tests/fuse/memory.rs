//! A device in memory that counts, delays and refuses. Used by the unit tests of `fuse` as well.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{BlockDevice, Change, Extent, Geometry, IoError, Reading, Writing};

pub(crate) struct Memory {
    pub(crate) geometry: Geometry,
    content: Mutex<Content>,
    pub(crate) flushes: AtomicU64,
    pub(crate) read_pause_ms: AtomicU64,
    pub(crate) reads_now: AtomicUsize,
    pub(crate) reads_most: AtomicUsize,
    pub(crate) fails: AtomicBool,
    pub(crate) panics: AtomicBool,
    /// There is no room for writes.
    pub(crate) paused: AtomicBool,
    pub(crate) refused: AtomicU64,
}

struct Content {
    bytes: Vec<u8>,
    /// One for each block.
    mapped: Vec<bool>,
}

impl Memory {
    pub(crate) fn new(size_bytes: u64, block_bytes: u32) -> Memory {
        let content = Content {
            bytes: vec![0; size_bytes as usize],
            mapped: vec![false; (size_bytes / u64::from(block_bytes)) as usize],
        };
        Memory {
            geometry: Geometry { size_bytes, block_bytes, read_only: false, can_trim: true },
            content: Mutex::new(content),
            flushes: AtomicU64::default(),
            read_pause_ms: AtomicU64::default(),
            reads_now: AtomicUsize::default(),
            reads_most: AtomicUsize::default(),
            fails: AtomicBool::default(),
            panics: AtomicBool::default(),
            paused: AtomicBool::default(),
            refused: AtomicU64::default(),
        }
    }

    pub(crate) fn holding(bytes: Vec<u8>, block_bytes: u32) -> Memory {
        let device = Memory::new(bytes.len() as u64, block_bytes);
        {
            let mut content = device.content.lock().unwrap();
            content.mapped.fill(true);
            content.bytes = bytes;
        }
        device
    }

    pub(crate) fn read_only(mut self) -> Memory {
        self.geometry.read_only = true;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.content.lock().unwrap().bytes.clone()
    }

    fn range(&self, offset: u64, len_bytes: u64) -> Result<std::ops::Range<usize>, IoError> {
        assert!(!self.panics.load(Ordering::Relaxed), "asked to panic");
        if self.fails.load(Ordering::Relaxed) {
            return Err(IoError::Medium(std::io::Error::other("asked to fail")));
        }
        let end = offset.checked_add(len_bytes).filter(|end| *end <= self.geometry.size_bytes);
        match end {
            Some(end) => Ok(offset as usize..end as usize),
            None => Err(IoError::Invalid { offset, len_bytes }),
        }
    }
}

impl BlockDevice for Memory {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, offset: u64, buf: &mut [u8], _reading: Reading) -> Result<(), IoError> {
        let range = self.range(offset, buf.len() as u64)?;
        let now = self.reads_now.fetch_add(1, Ordering::SeqCst) + 1;
        self.reads_most.fetch_max(now, Ordering::SeqCst);
        buf.copy_from_slice(&self.content.lock().unwrap().bytes[range]);
        thread::sleep(Duration::from_millis(self.read_pause_ms.load(Ordering::Relaxed)));
        self.reads_now.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }

    fn write(&self, writings: &[Writing<'_>]) -> Result<(), IoError> {
        if self.geometry.read_only {
            return Err(IoError::ReadOnly);
        }
        if self.paused.load(Ordering::Relaxed) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(IoError::Paused);
        }
        for writing in writings {
            let range = self.range(writing.offset, writing.change.len_bytes())?;
            let block = self.geometry.block_bytes as usize;
            let touched = range.start / block..range.end.div_ceil(block);
            let whole = range.start.div_ceil(block)..range.end / block;
            let mut content = self.content.lock().unwrap();
            match writing.change {
                Change::Data(data) => content.bytes[range].copy_from_slice(data),
                Change::Zero { .. } | Change::Trim { .. } => content.bytes[range].fill(0),
            }
            content.mapped[touched].fill(true);
            if matches!(writing.change, Change::Trim { .. }) && !whole.is_empty() {
                content.mapped[whole].fill(false);
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), IoError> {
        self.range(0, 0)?;
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn extents(
        &self,
        offset: u64,
        len_bytes: u64,
        each: &mut dyn FnMut(Extent) -> bool,
    ) -> Result<(), IoError> {
        let range = self.range(offset, len_bytes)?;
        let block = self.geometry.block_bytes as usize;
        if !range.start.is_multiple_of(block) || !range.end.is_multiple_of(block) {
            return Err(IoError::Invalid { offset, len_bytes });
        }
        let mapped = self.content.lock().unwrap().mapped[range.start / block..range.end / block].to_vec();
        for run in mapped.chunk_by(|a, b| a == b) {
            let len_bytes = (run.len() * block) as u64;
            if !each(Extent { len_bytes, zero: !run[0], hole: !run[0] }) {
                break;
            }
        }
        Ok(())
    }

    fn prefetch(&self, _offset: u64, _len_bytes: u64) {}
}

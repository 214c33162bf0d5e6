//! A device in memory that records its calls and can be told to fail, to wait and to be slow.

use std::sync::{
    Arc, Condvar, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use bygone_block::{BlockDevice, Change, Extent, Geometry, IoError, Reading, Writing};

/// A call to the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Read(u64, usize),
    /// The writings of one call: offset, length, and `d`ata, `z`ero or `t`rim.
    Write(Vec<(u64, u64, char)>),
    Flush,
    Prefetch(u64, u64),
}

type Hook<T> = Mutex<Option<Arc<dyn Fn(T) -> Result<(), IoError> + Send + Sync>>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Hole,
    Zero,
    Data,
}

pub(crate) struct Mem {
    geometry: Geometry,
    bytes: Mutex<Vec<u8>>,
    blocks: Mutex<Vec<Block>>,
    /// What would be left after a power cut.
    durable: Mutex<Vec<u8>>,
    pub(crate) calls: Mutex<Vec<Call>>,
    /// Makes reads with `CachedOnly` fail with `WouldBlock`.
    pub(crate) cold: AtomicBool,
    /// Called with offset and length before a read that may wait.
    pub(crate) on_read: Hook<(u64, usize)>,
    /// Called with the offset of every writing of a call, before any of them is done.
    pub(crate) on_write: Hook<u64>,
    /// Called before a flush.
    pub(crate) on_flush: Hook<()>,
    pub(crate) on_prefetch: Hook<u64>,
    pub(crate) reads_at_once: AtomicUsize,
    /// How many extents were reported.
    pub(crate) extents_told: AtomicUsize,
}

impl Mem {
    pub(crate) fn new(size_bytes: u64) -> Arc<Self> {
        Self::shaped(Geometry { size_bytes, block_bytes: 512, read_only: false, can_trim: true })
    }

    pub(crate) fn shaped(geometry: Geometry) -> Arc<Self> {
        let size = usize::try_from(geometry.size_bytes).unwrap();
        Arc::new(Self {
            geometry,
            bytes: Mutex::new(vec![0; size]),
            blocks: Mutex::new(vec![Block::Hole; size / geometry.block_bytes as usize]),
            durable: Mutex::new(vec![0; size]),
            calls: Mutex::default(),
            cold: AtomicBool::new(false),
            on_read: Mutex::default(),
            on_write: Mutex::default(),
            on_flush: Mutex::default(),
            on_prefetch: Mutex::default(),
            reads_at_once: AtomicUsize::new(0),
            extents_told: AtomicUsize::new(0),
        })
    }

    pub(crate) fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let from = usize::try_from(offset).unwrap();
        self.bytes.lock().unwrap()[from..from + len].to_vec()
    }

    pub(crate) fn durable(&self, offset: u64, len: usize) -> Vec<u8> {
        let from = usize::try_from(offset).unwrap();
        self.durable.lock().unwrap()[from..from + len].to_vec()
    }

    /// Sets the content before any client connects.
    pub(crate) fn preset(&self, data: &[u8]) {
        self.bytes.lock().unwrap()[..data.len()].copy_from_slice(data);
        self.blocks.lock().unwrap()[..data.len() / self.geometry.block_bytes as usize].fill(Block::Data);
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    pub(crate) fn flushes(&self) -> usize {
        self.calls().iter().filter(|call| **call == Call::Flush).count()
    }

    pub(crate) fn hook<T>(hook: &Hook<T>, act: impl Fn(T) -> Result<(), IoError> + Send + Sync + 'static) {
        *hook.lock().unwrap() = Some(Arc::new(act));
    }

    fn before<T>(hook: &Hook<T>, what: T) -> Result<(), IoError> {
        let act = hook.lock().unwrap().clone();
        act.map_or(Ok(()), |act| act(what))
    }
}

impl BlockDevice for Mem {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, offset: u64, buf: &mut [u8], reading: Reading) -> Result<(), IoError> {
        if reading == Reading::CachedOnly && self.cold.load(Ordering::SeqCst) {
            buf.fill(0xee);
            return Err(IoError::WouldBlock);
        }
        self.calls.lock().unwrap().push(Call::Read(offset, buf.len()));
        if reading == Reading::MayWait || !self.cold.load(Ordering::SeqCst) {
            self.reads_at_once.fetch_add(1, Ordering::SeqCst);
            let result = Self::before(&self.on_read, (offset, buf.len()));
            self.reads_at_once.fetch_sub(1, Ordering::SeqCst);
            result?;
        }
        let from = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&self.bytes.lock().unwrap()[from..from + buf.len()]);
        Ok(())
    }

    fn write(&self, writings: &[Writing<'_>]) -> Result<(), IoError> {
        let kind = |change: &Change<'_>| match change {
            Change::Data(_) => 'd',
            Change::Zero { .. } => 'z',
            Change::Trim { .. } => 't',
        };
        let said = writings.iter().map(|w| (w.offset, w.change.len_bytes(), kind(&w.change))).collect();
        self.calls.lock().unwrap().push(Call::Write(said));
        for writing in writings {
            Self::before(&self.on_write, writing.offset)?;
        }
        let block_bytes = u64::from(self.geometry.block_bytes);
        for writing in writings {
            let len = writing.change.len_bytes();
            assert!(len > 0 && writing.offset.is_multiple_of(block_bytes) && len.is_multiple_of(block_bytes));
            let from = usize::try_from(writing.offset).unwrap();
            let to = from + usize::try_from(len).unwrap();
            let mut bytes = self.bytes.lock().unwrap();
            let state = match writing.change {
                Change::Data(data) => {
                    bytes[from..to].copy_from_slice(data);
                    Block::Data
                }
                Change::Zero { .. } => {
                    bytes[from..to].fill(0);
                    Block::Zero
                }
                Change::Trim { .. } => {
                    bytes[from..to].fill(0);
                    Block::Hole
                }
            };
            let block = self.geometry.block_bytes as usize;
            self.blocks.lock().unwrap()[from / block..to / block].fill(state);
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), IoError> {
        self.calls.lock().unwrap().push(Call::Flush);
        let now = self.bytes.lock().unwrap().clone();
        Self::before(&self.on_flush, ())?;
        *self.durable.lock().unwrap() = now;
        Ok(())
    }

    fn extents(
        &self,
        offset: u64,
        len_bytes: u64,
        each: &mut dyn FnMut(Extent) -> bool,
    ) -> Result<(), IoError> {
        Self::before(&self.on_read, (offset, 0))?;
        let block = u64::from(self.geometry.block_bytes);
        for index in offset / block..(offset + len_bytes) / block {
            let state = self.blocks.lock().unwrap()[usize::try_from(index).unwrap()];
            let extent = Extent { len_bytes: block, zero: state != Block::Data, hole: state == Block::Hole };
            self.extents_told.fetch_add(1, Ordering::SeqCst);
            if !each(extent) {
                break;
            }
        }
        Ok(())
    }

    fn prefetch(&self, offset: u64, len_bytes: u64) {
        self.calls.lock().unwrap().push(Call::Prefetch(offset, len_bytes));
        let _nobody_is_told = Self::before(&self.on_prefetch, offset);
    }
}

/// A gate that blocks until it is opened.
#[derive(Default)]
pub(crate) struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    pub(crate) waiting: AtomicUsize,
}

impl Gate {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) fn pass(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

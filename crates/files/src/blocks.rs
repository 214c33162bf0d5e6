//! Where bytes come from. A [`Blocks`] is a disk or a part of one; a [`Window`] is a part of another, [`Cached`] keeps
//! what was read lately, and [`Guarded`] can be stopped.

mod cache;
#[cfg(test)]
mod tests;

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

pub use cache::Cached;

/// Why bytes could not be read.
#[derive(Clone, Debug)]
pub enum Cause {
    /// They lie outside.
    Outside,
    /// The caller does not want them any more.
    Cancelled,
    /// More had to be read than was allowed.
    TooMuch,
    /// What is below failed.
    Failed(Arc<dyn Error + Send + Sync>),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Outside => f.write_str("the disk ends before"),
            Cause::Cancelled => f.write_str("cancelled"),
            Cause::TooMuch => f.write_str("too much would have to be read"),
            Cause::Failed(error) => error.fmt(f),
        }
    }
}

/// Bytes that could not be read, and why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{len_bytes} bytes at {offset} cannot be read: {cause}")]
pub struct ReadError {
    /// Where they are, in bytes from the start of the disk, and not of a [`Window`] of it.
    pub offset: u64,
    /// How many they are.
    pub len_bytes: usize,
    /// Why they could not be read.
    pub cause: Cause,
}

impl ReadError {
    /// A read that failed below.
    pub fn failed(offset: u64, len_bytes: usize, error: impl Error + Send + Sync + 'static) -> ReadError {
        ReadError { offset, len_bytes, cause: Cause::Failed(Arc::new(error)) }
    }

    /// Whether the caller itself put an end to it, so that trying elsewhere is of no use.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self.cause, Cause::Cancelled | Cause::TooMuch)
    }
}

/// Bytes that can be read in any order: a disk, a partition. Their size does not change.
pub trait Blocks: Send + Sync {
    /// Size in bytes.
    fn size_bytes(&self) -> u64;

    /// The unit in which partition tables count, in bytes: 512 or 4096.
    fn sector_bytes(&self) -> u32;

    /// Fills `buf` from `offset`, which is in bytes and need not be aligned.
    ///
    /// # Errors
    /// [`ReadError`]; the contents of `buf` are undefined then.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError>;
}

impl<B: Blocks + ?Sized> Blocks for &B {
    fn size_bytes(&self) -> u64 {
        (**self).size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        (**self).sector_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        (**self).read_at(offset, buf)
    }
}

impl<B: Blocks + ?Sized> Blocks for Box<B> {
    fn size_bytes(&self) -> u64 {
        (**self).size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        (**self).sector_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        (**self).read_at(offset, buf)
    }
}

impl<B: Blocks + ?Sized> Blocks for Arc<B> {
    fn size_bytes(&self) -> u64 {
        (**self).size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        (**self).sector_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        (**self).read_at(offset, buf)
    }
}

/// Checks that a read lies within `size_bytes`.
///
/// # Errors
/// [`Cause::Outside`].
pub(crate) fn check(size_bytes: u64, offset: u64, len_bytes: usize) -> Result<(), ReadError> {
    match offset.checked_add(len_bytes as u64) {
        Some(end) if end <= size_bytes => Ok(()),
        _ => Err(ReadError { offset, len_bytes, cause: Cause::Outside }),
    }
}

/// A disk in memory, with sectors of 512 bytes.
impl Blocks for Vec<u8> {
    fn size_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn sector_bytes(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        check(self.len() as u64, offset, buf.len())?;
        buf.copy_from_slice(&self[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }
}

/// A part of another [`Blocks`], such as a partition. Its errors name places on the whole.
#[derive(Clone, Debug)]
pub struct Window<B> {
    blocks: B,
    start: u64,
    size_bytes: u64,
}

impl<B: Blocks> Window<B> {
    /// The bytes from `start` on, at most `len_bytes` of them; fewer if the whole ends before.
    pub fn new(blocks: B, start: u64, len_bytes: u64) -> Window<B> {
        let size_bytes = blocks.size_bytes().saturating_sub(start).min(len_bytes);
        Window { blocks, start, size_bytes }
    }
}

impl<B: Blocks> Blocks for Window<B> {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn sector_bytes(&self) -> u32 {
        self.blocks.sector_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let on_the_whole = |e: ReadError| ReadError { offset: self.start.saturating_add(e.offset), ..e };
        check(self.size_bytes, offset, buf.len()).map_err(on_the_whole)?;
        self.blocks.read_at(self.start + offset, buf)
    }
}

/// A [`Blocks`] that can be cancelled, and that gives no more than a number of bytes.
#[derive(Debug)]
pub struct Guarded<B> {
    blocks: B,
    cancelled: Arc<AtomicBool>,
    left_bytes: AtomicU64,
}

impl<B: Blocks> Guarded<B> {
    /// Reads fail once `cancelled` is true, and once `bytes_max` bytes have been read.
    pub fn new(blocks: B, cancelled: Arc<AtomicBool>, bytes_max: u64) -> Guarded<B> {
        Guarded { blocks, cancelled, left_bytes: AtomicU64::new(bytes_max) }
    }
}

impl<B: Blocks> Blocks for Guarded<B> {
    fn size_bytes(&self) -> u64 {
        self.blocks.size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        self.blocks.sector_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let refused = |cause| ReadError { offset, len_bytes: buf.len(), cause };
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(refused(Cause::Cancelled));
        }
        let take = |left: u64| left.checked_sub(buf.len() as u64);
        if self.left_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Err(refused(Cause::TooMuch));
        }
        self.blocks.read_at(offset, buf)
    }
}

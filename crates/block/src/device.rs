//! The one interface between front ends (NBD) and devices (tap, store-only, as-of, branch, fault injection).
//!
//! Every call may come from many threads at once and blocks until it is done. A front end that must not wait for the
//! medium tries [`Reading::CachedOnly`] first. A layer wraps a device and is a device itself.

use std::{sync::Arc, time::Duration};

/// A write refused with [`IoError::Paused`] is retried after this time.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// Shape of a device. It does not change while the device is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size in bytes; a multiple of `block_bytes`.
    pub size_bytes: u64,
    /// The unit in which the device itself reads and writes: 512 or 4096. Requests may begin and end anywhere, but one
    /// that begins or ends within a block costs more. Extents are only reported for whole blocks.
    pub block_bytes: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Trimmed ranges read as zeroes and cost no space.
    pub can_trim: bool,
}

/// How long a read may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Only what is in memory; otherwise [`IoError::WouldBlock`], and the contents of the buffer are undefined.
    CachedOnly,
    /// Waits for the medium if it must.
    MayWait,
}

/// What happens to a range.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub enum Change<'a> {
    /// Writes these bytes.
    Data(&'a [u8]),
    /// The range reads as zeroes from now on. Its space stays reserved where the medium supports that.
    Zero { len_bytes: u64 },
    /// The range is no longer needed: it reads as zeroes from now on and takes no space.
    Trim { len_bytes: u64 },
}

impl Change<'_> {
    /// The number of bytes of the device that it changes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        match self {
            Change::Data(data) => data.len() as u64,
            Change::Zero { len_bytes } | Change::Trim { len_bytes } => *len_bytes,
        }
    }
}

/// One change at one place.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Writing<'a> {
    pub offset: u64,
    pub change: Change<'a>,
}

/// A run of bytes with one block status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes.
    pub len_bytes: u64,
    /// Known to read as zeroes.
    pub zero: bool,
    /// Takes no space.
    pub hole: bool,
}

/// Why a request failed, grouped by what the front end tells its client.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub enum IoError {
    /// A read with [`Reading::CachedOnly`] would have to wait for the medium.
    #[error("would have to wait for the medium")]
    WouldBlock,
    /// The device is read-only.
    #[error("the device is read-only")]
    ReadOnly,
    /// Out of range, or extents were asked for that do not consist of whole blocks.
    #[error("request outside the device or not aligned: offset {offset}, length {len_bytes}")]
    Invalid { offset: u64, len_bytes: u64 },
    /// There is no room, and the device is configured to fail rather than wait.
    #[error("no space left")]
    Full,
    /// There is no room now. The caller retries the same writes for as long as its client waits for them; the device
    /// cannot do so because it does not know whether the client is still there.
    #[error("no room now")]
    Paused,
    /// The device is going away; a client that reconnects finds it again.
    #[error("the device is closing")]
    Closing,
    /// The store below refused or failed.
    #[error(transparent)]
    Store(Arc<dyn std::error::Error + Send + Sync>),
    /// The medium failed.
    #[error(transparent)]
    Medium(#[from] std::io::Error),
}

/// A block device. The module's comment has the rules for callers.
pub trait BlockDevice: Send + Sync {
    /// Size, block size and abilities.
    fn geometry(&self) -> Geometry;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`IoError`]; the contents of `buf` are undefined then.
    fn read(&self, offset: u64, buf: &mut [u8], reading: Reading) -> Result<(), IoError>;

    /// Applies `writings` in this order. A block that is changed only in part keeps the rest of its content, even if
    /// others write that part concurrently. On return the writes survive the death of this process and every later read
    /// sees them. They are durable after the next [`BlockDevice::flush`] that begins after the return.
    ///
    /// # Errors
    /// [`IoError`]; each of the writes may or may not have been applied, and none is acknowledged.
    fn write(&self, writings: &[Writing<'_>]) -> Result<(), IoError>;

    /// Makes every write durable that was acknowledged before this call. Concurrent calls share one sync of the medium.
    ///
    /// # Errors
    /// [`IoError`]; no write since the last successful flush is known to be durable, and later flushes fail as well.
    fn flush(&self) -> Result<(), IoError>;

    /// Calls `each` with the runs that make up `offset .. offset + len_bytes`, in order, until it returns false.
    ///
    /// # Errors
    /// [`IoError`].
    fn extents(
        &self,
        offset: u64,
        len_bytes: u64,
        each: &mut dyn FnMut(Extent) -> bool,
    ) -> Result<(), IoError>;

    /// Hints that a range will be read soon.
    fn prefetch(&self, offset: u64, len_bytes: u64);
}

//! The one interface between front ends (NBD) and devices (tap, store-only, as-of, branch, fault injection).
//!
//! All calls come from many threads at once and return when they are done; a front end that must not wait
//! for the medium uses [`Reading::CachedOnly`] first. Layers wrap a device and are devices themselves.

use std::{sync::Arc, time::Duration};

/// What was refused as [`IoError::Paused`] is made again after this time.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// Shape of a device. It does not change while the device is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size in bytes; a multiple of `block_bytes`.
    pub size_bytes: u64,
    /// The smallest unit that the device itself reads and writes: 512 or 4096. Requests may begin and end anywhere, but those
    /// that begin or end within a block cost more, and extents are asked for in whole blocks.
    pub block_bytes: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// Trimmed ranges read as zeroes and cost no space.
    pub can_trim: bool,
}

/// How long a read may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Only if no medium has to be waited for; else [`IoError::WouldBlock`], and nothing is promised of the buffer.
    CachedOnly,
    /// As long as it takes.
    MayWait,
}

/// What happens to a range.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// These bytes are written.
    Data(&'a [u8]),
    /// The range reads as zeroes from now on; the space stays reserved where the medium can do that.
    Zero {
        /// Length in bytes.
        len_bytes: u64,
    },
    /// The range is no longer needed: it reads as zeroes from now on and costs no space.
    Trim {
        /// Length in bytes.
        len_bytes: u64,
    },
}

impl Change<'_> {
    /// How many bytes of the device it changes.
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
pub struct Writing<'a> {
    /// Where, in bytes.
    pub offset: u64,
    /// What.
    pub change: Change<'a>,
}

/// A run of bytes that are alike, as block status reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes.
    pub len_bytes: u64,
    /// Known to read as zeroes.
    pub zero: bool,
    /// Costs no space.
    pub hole: bool,
}

/// Why a request could not be done, grouped by what the front end tells its client.
#[derive(Debug, thiserror::Error)]
pub enum IoError {
    /// A read with [`Reading::CachedOnly`] would have to wait.
    #[error("would have to wait for the medium")]
    WouldBlock,
    /// The device is read-only.
    #[error("the device is read-only")]
    ReadOnly,
    /// Out of range, or extents of parts of blocks.
    #[error("request outside the device or not aligned: offset {offset}, length {len_bytes}")]
    Invalid {
        /// Where, in bytes.
        offset: u64,
        /// Length in bytes.
        len_bytes: u64,
    },
    /// There is no room, and the device is not configured to wait for it.
    #[error("no space left")]
    Full,
    /// There is no room now: the same writes are to be made again after a while, for as long as somebody waits for them.
    /// Front ends do that, because only they know whether anybody does.
    #[error("no room now")]
    Paused,
    /// The device is going away; a client that re-connects finds it again.
    #[error("the device is closing")]
    Closing,
    /// The store below refused or failed.
    #[error(transparent)]
    Store(Arc<dyn std::error::Error + Send + Sync>),
    /// The medium failed.
    #[error(transparent)]
    Medium(#[from] std::io::Error),
}

/// A block device. See the module's comment for the rules of calling.
pub trait BlockDevice: Send + Sync {
    /// Its shape.
    fn geometry(&self) -> Geometry;

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// [`IoError`]; then the contents of `buf` mean nothing.
    fn read(&self, offset: u64, buf: &mut [u8], reading: Reading) -> Result<(), IoError>;

    /// Applies `writings` in this order. A block that one of them changes in part keeps the rest of its content, also when others
    /// write that at the same time. When it returns they survive the death of this process and every
    /// later read sees them; they are durable after the next [`BlockDevice::flush`] that begins after that.
    ///
    /// # Errors
    /// [`IoError`]; then each of them is done or not done, and none is acknowledged.
    fn write(&self, writings: &[Writing<'_>]) -> Result<(), IoError>;

    /// Makes every write that was acknowledged before this call durable. Many at once are one on the medium.
    ///
    /// # Errors
    /// [`IoError`]; then nothing is promised, and later flushes fail as well.
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

    /// Asks for a range to be brought into memory soon.
    fn prefetch(&self, offset: u64, len_bytes: u64);
}

//! Disks that live in the store: the present of a volume (a store-only disk or a branch), and a volume as of a moment.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bygone_model::{Lba, SECTOR_BYTES, Sectors, VolumeId};
use bygone_store::{Below, BlockWrite, Content, Error as StoreError, HeadFragment, Log, View, Wait};

use crate::{
    BlockDevice, Change, Extent, Geometry, IoError, Reading, Writing,
    device::PAUSE,
    parts::{self, Parts, ReadWhole},
};

/// Ranges are resolved in pieces of this size. So resolving a whole disk takes bounded memory, and a caller can cancel
/// within milliseconds, however fragmented the disk is.
pub(crate) const RESOLVE_BYTES: u64 = 16 << 20;
/// The store counts the sectors of one record in 32 bits.
const ZERO_SECTORS_MAX: u64 = 1 << 31;
/// If no write was retried for this long, no client is waiting any more.
const PAUSE_OVER: Duration = PAUSE.saturating_mul(4);

impl From<StoreError> for IoError {
    fn from(e: StoreError) -> IoError {
        match e {
            StoreError::WouldBlock => IoError::WouldBlock,
            StoreError::Full { .. } => IoError::Full,
            other => IoError::Store(Arc::new(other)),
        }
    }
}

/// What a write does when the store has no room (I6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// It fails with [`IoError::Paused`]: the front end retries it until there is room, and the target stands still.
    Pause,
    /// It fails with "no space left".
    Fail,
}

pub(crate) fn wait_of(reading: Reading) -> Wait {
    match reading {
        Reading::CachedOnly => Wait::No,
        Reading::MayWait => Wait::Yes,
    }
}

/// Checks that a request fits a device.
///
/// # Errors
/// [`IoError::Invalid`] when it does not.
pub(crate) fn check_request(geometry: &Geometry, offset: u64, len_bytes: u64) -> Result<(), IoError> {
    let block = u64::from(geometry.block_bytes);
    let fits = offset.checked_add(len_bytes).is_some_and(|end| end <= geometry.size_bytes);
    if fits && offset.is_multiple_of(block) && len_bytes.is_multiple_of(block) {
        Ok(())
    } else {
        Err(IoError::Invalid { offset, len_bytes })
    }
}

/// Appends writes of one volume to the log.
pub(crate) struct LogWriter {
    pub(crate) log: Arc<Log>,
    pub(crate) volume: VolumeId,
    when_full: WhenFull,
    closing: AtomicBool,
    parts: Parts,
    /// When a write last found no room; `None` once there was room again.
    paused: Mutex<Option<Instant>>,
}

impl LogWriter {
    pub(crate) fn new(log: Arc<Log>, volume: VolumeId, when_full: WhenFull) -> LogWriter {
        LogWriter {
            log,
            volume,
            when_full,
            closing: false.into(),
            parts: Parts::default(),
            paused: Mutex::default(),
        }
    }

    /// A write waits for room in the store.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused().is_some_and(|since| since.elapsed() < PAUSE_OVER)
    }

    fn paused(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles a write that found no room: returns the error to answer it with.
    pub(crate) fn pause(&self, why: IoError) -> IoError {
        match self.when_full {
            WhenFull::Pause => {
                *self.paused() = Some(Instant::now());
                IoError::Paused
            }
            WhenFull::Fail => why,
        }
    }

    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Appends `writings`. `read` reads whole blocks of the present.
    pub(crate) fn write(
        &self,
        geometry: &Geometry,
        writings: &[Writing<'_>],
        read: ReadWhole<'_>,
    ) -> Result<(), IoError> {
        if geometry.read_only {
            return Err(IoError::ReadOnly);
        }
        let write = |writings: &[Writing<'_>]| {
            let mut writes = Vec::with_capacity(writings.len());
            writings.iter().for_each(|writing| self.push(writing, &mut writes));
            self.append(&writes)
        };
        self.parts.write(geometry, writings, read, &write)?;
        if self.log.is_overdue() {
            // The write is in the log, so a failure of upkeep is no reason to refuse it.
            let _ = self.log.maintain();
        }
        Ok(())
    }

    fn push<'a>(&self, writing: &Writing<'a>, writes: &mut Vec<BlockWrite<'a>>) {
        let (volume, mut lba) = (self.volume, Lba::of_bytes(writing.offset));
        let (len_bytes, make): (u64, fn(Sectors) -> Content<'a>) = match writing.change {
            Change::Data(data) => {
                for part in data.chunks(bygone_store::format::record::PAYLOAD_BYTES_MAX) {
                    writes.push(BlockWrite { volume, lba, content: Content::Data(part), base: false });
                    lba = Lba(lba.0 + part.len() as u64 / SECTOR_BYTES);
                }
                return;
            }
            Change::Zero { len_bytes } => (len_bytes, Content::Zero),
            Change::Trim { len_bytes } => (len_bytes, Content::Trim),
        };
        let mut left = Sectors::of_bytes(len_bytes).0;
        while left > 0 {
            let sectors = left.min(ZERO_SECTORS_MAX);
            writes.push(BlockWrite { volume, lba, content: make(Sectors(sectors)), base: false });
            lba = Lba(lba.0 + sectors);
            left -= sectors;
        }
    }

    pub(crate) fn append(&self, writes: &[BlockWrite<'_>]) -> Result<(), IoError> {
        if self.closing.load(Ordering::Acquire) {
            return Err(IoError::Closing);
        }
        let mut appended = self.log.append(writes);
        let mut more = true;
        // Each piece of upkeep frees some memory; another thread may just have done one.
        while more && matches!(appended, Err(StoreError::Behind { .. })) {
            match self.log.maintain() {
                Ok(done) => more = done,
                Err(_) => break,
            }
            appended = self.log.append(writes);
        }
        match appended {
            Err(e @ (StoreError::Full { .. } | StoreError::Behind { .. })) => Err(self.pause(e.into())),
            Err(e) => Err(e.into()),
            Ok(_) => {
                *self.paused() = None;
                Ok(())
            }
        }
    }
}

/// The present of a volume whose disk is the store: a store-only disk, or a branch.
pub struct LogDevice {
    writer: LogWriter,
    geometry: Geometry,
}

impl std::fmt::Debug for LogDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogDevice").field("volume", &self.writer.volume).finish_non_exhaustive()
    }
}

impl LogDevice {
    /// Opens the present of `volume`.
    ///
    /// # Errors
    /// When the volume does not exist or its index cannot be read.
    pub fn open(log: Arc<Log>, volume: VolumeId, when_full: WhenFull) -> Result<LogDevice, StoreError> {
        let disk = log.catalog().disk_of(volume)?.clone();
        log.open_volume(volume, Below::Index, bygone_model::Seq::ZERO)?;
        let geometry = Geometry {
            size_bytes: disk.sectors.bytes(),
            block_bytes: disk.block_bytes,
            read_only: false,
            can_trim: true,
        };
        Ok(LogDevice { writer: LogWriter::new(log, volume, when_full), geometry })
    }

    /// A write waits for room in the store.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.writer.is_paused()
    }

    /// Refuses writes from now on.
    pub fn close(&self) {
        self.writer.close();
    }

    fn resolve(&self, offset: u64, len_bytes: u64, wait: Wait) -> Result<Vec<HeadFragment>, IoError> {
        check_request(&self.geometry, offset, len_bytes)?;
        let (lba, sectors) = (Lba::of_bytes(offset), Sectors::of_bytes(len_bytes));
        Ok(self.writer.log.resolve_head(self.writer.volume, lba, sectors, wait)?)
    }
}

impl BlockDevice for LogDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, offset: u64, buf: &mut [u8], reading: Reading) -> Result<(), IoError> {
        let wait = wait_of(reading);
        parts::read(&self.geometry, offset, buf, |offset, buf| {
            let fragments = self.resolve(offset, buf.len() as u64, wait)?;
            read_fragments(&self.writer.log, &fragments, buf, wait)
        })
    }

    fn write(&self, writings: &[Writing<'_>]) -> Result<(), IoError> {
        self.writer.write(&self.geometry, writings, &|offset, buf| self.read(offset, buf, Reading::MayWait))
    }

    fn flush(&self) -> Result<(), IoError> {
        self.writer.log.flush().map(drop).map_err(IoError::from)
    }

    fn extents(
        &self,
        offset: u64,
        len_bytes: u64,
        each: &mut dyn FnMut(Extent) -> bool,
    ) -> Result<(), IoError> {
        fragment_extents(offset, len_bytes, each, &mut |at, len| self.resolve(at, len, Wait::Yes))
    }

    fn prefetch(&self, offset: u64, len_bytes: u64) {
        if let Ok(fragments) = self.resolve(offset, len_bytes, Wait::Yes) {
            fragments.iter().for_each(|fragment| self.writer.log.prefetch_fragment(fragment));
        }
    }
}

impl Drop for LogDevice {
    fn drop(&mut self) {
        self.writer.log.close_volume(self.writer.volume);
    }
}

/// A volume as of a moment: read-only and immutable.
#[derive(Debug)]
pub struct AsOfDevice {
    log: Arc<Log>,
    view: View,
    geometry: Geometry,
}

impl AsOfDevice {
    /// Serves `view` as a disk with blocks of `block_bytes`.
    #[must_use]
    pub fn new(log: Arc<Log>, view: View, block_bytes: u32) -> AsOfDevice {
        let geometry =
            Geometry { size_bytes: view.sectors().bytes(), block_bytes, read_only: true, can_trim: false };
        AsOfDevice { log, view, geometry }
    }

    /// How many bytes of it may be older than they should be, because records are lost
    /// ([`View::uncertain`](bygone_store::View::uncertain)). Asks `wanted` now and then whether to go on; `None`: not.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn uncertain_bytes(&self, wanted: &mut dyn FnMut() -> bool) -> Result<Option<u64>, StoreError> {
        if self.view.lost().is_empty() {
            return Ok(Some(0));
        }
        let (mut at, mut uncertain) = (0, 0);
        while at < self.geometry.size_bytes {
            if !wanted() {
                return Ok(None);
            }
            let len = RESOLVE_BYTES.min(self.geometry.size_bytes - at);
            uncertain += self.view.uncertain(Lba::of_bytes(at), Sectors::of_bytes(len))?.bytes();
            at += len;
        }
        Ok(Some(uncertain))
    }

    fn resolve(&self, offset: u64, len_bytes: u64, wait: Wait) -> Result<Vec<HeadFragment>, IoError> {
        check_request(&self.geometry, offset, len_bytes)?;
        Ok(self.view.resolve(Lba::of_bytes(offset), Sectors::of_bytes(len_bytes), wait)?)
    }
}

impl BlockDevice for AsOfDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, offset: u64, buf: &mut [u8], reading: Reading) -> Result<(), IoError> {
        let wait = wait_of(reading);
        parts::read(&self.geometry, offset, buf, |offset, buf| {
            let fragments = self.resolve(offset, buf.len() as u64, wait)?;
            read_fragments(&self.log, &fragments, buf, wait)
        })
    }

    fn write(&self, _: &[Writing<'_>]) -> Result<(), IoError> {
        Err(IoError::ReadOnly)
    }

    fn flush(&self) -> Result<(), IoError> {
        Ok(())
    }

    fn extents(
        &self,
        offset: u64,
        len_bytes: u64,
        each: &mut dyn FnMut(Extent) -> bool,
    ) -> Result<(), IoError> {
        fragment_extents(offset, len_bytes, each, &mut |at, len| self.resolve(at, len, Wait::Yes))
    }

    fn prefetch(&self, offset: u64, len_bytes: u64) {
        if check_request(&self.geometry, offset, len_bytes).is_ok() {
            self.view.prefetch(Lba::of_bytes(offset), Sectors::of_bytes(len_bytes));
        }
    }
}

pub(crate) fn read_fragments(
    log: &Log,
    fragments: &[HeadFragment],
    buf: &mut [u8],
    wait: Wait,
) -> Result<(), IoError> {
    log.read_fragments(fragments, buf, wait, &mut |_, part| {
        part.fill(0);
        Ok(())
    })
}

/// Turns fragments into extents, merging adjacent ones of the same status within one piece. `each` is called for every
/// piece, so that it can cancel when the client has gone.
fn fragment_extents(
    offset: u64,
    len_bytes: u64,
    each: &mut dyn FnMut(Extent) -> bool,
    resolve: &mut dyn FnMut(u64, u64) -> Result<Vec<HeadFragment>, IoError>,
) -> Result<(), IoError> {
    let mut at = offset;
    while at < offset + len_bytes {
        let len = RESOLVE_BYTES.min(offset + len_bytes - at);
        let mut joined: Option<Extent> = None;
        for fragment in resolve(at, len)? {
            let zero = fragment.found.is_none_or(|(_, place)| place.is_zero());
            let hole = fragment.found.is_none_or(|(_, place)| place.is_trimmed());
            let next = Extent { len_bytes: fragment.sectors.bytes(), zero, hole };
            match &mut joined {
                Some(last) if (last.zero, last.hole) == (next.zero, next.hole) => {
                    last.len_bytes += next.len_bytes;
                }
                last => {
                    if let Some(done) = last.replace(next)
                        && !each(done)
                    {
                        return Ok(());
                    }
                }
            }
        }
        if joined.is_some_and(|last| !each(last)) {
            return Ok(());
        }
        at += len;
    }
    Ok(())
}

//! The tap: the disk stays where it is, and the store records every write to it.
//!
//! A write is logged and acknowledged; later it is *destaged* to the disk, and only once it is durable in the log. So
//! the disk never holds anything that the log could lose, a flush costs one sequential `fdatasync` of the log, and
//! after any crash the disk is brought up to date from the log. Reads look in the head map (what is logged and not
//! destaged yet) first, then on the disk.
//!
//! A *mark* in the log says up to which record the disk is durable. After a clean close the disk is complete and usable
//! without Bygone. If it was changed behind Bygone's back, it no longer matches the mark. Then, and when it is first
//! added, it is read and compared with the content in the store ([`TapDevice::reread`]).

mod destage;
mod reread;

use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bygone_model::{Details, Lba, Micros, Sectors, Seq, VolumeId};
use bygone_store::{Below, Log, Wait, catalog::TapMark, env::read_exact_at};

use self::destage::{Destaging, Failure, RUNS_WAKE};
pub use self::{destage::DiskTrouble, reread::Reread};
use crate::{
    BlockDevice, Extent, Geometry, IoError, Reading, Writing,
    log_device::{LogWriter, RESOLVE_BYTES, WhenFull, check_request, wait_of},
    parts,
    raw::RawDisk,
    samples,
};

/// The destager may have changed an unclean disk this long after the last write was logged.
const DESTAGE_SLACK_MICROS: i64 = 10_000_000;

/// The state of the disk when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TapState {
    /// New to the store: it has to be read.
    New,
    /// It matches the log, or will once the rest is destaged.
    Known,
    /// Changed behind Bygone's back: it has to be read again.
    Changed {
        /// Logged since the last mark, and written over what is there now. At most so much had not reached the disk
        /// when it was changed.
        waiting_bytes_max: u64,
    },
    /// Its reading was begun but not finished: it has to be read again.
    Unfinished,
    /// Records of its history are lost, which the disk may show: it has to be read again.
    Lost,
}

/// Writes that were logged and have not reached the disk.
struct Waiting {
    len_bytes: u64,
    /// When the newest was logged.
    last: Option<Micros>,
}

/// A tapped disk. See the module's comment.
pub struct TapDevice {
    writer: LogWriter,
    raw: Box<dyn RawDisk>,
    geometry: Geometry,
    /// Held while destaging or comparing the disk.
    destaging: Mutex<Destaging>,
    /// Writers hold it shared; comparing a piece of the disk holds it exclusively.
    gate: RwLock<()>,
    wake: Mutex<bool>,
    waking: Condvar,
    closing: AtomicBool,
    /// The disk's last error, while it refuses writes.
    failure: Mutex<Option<Failure>>,
    /// The last flush or read of the log failed, which was logged then.
    log_failed: AtomicBool,
    /// The store has the complete content of the disk.
    complete: AtomicBool,
    reread_bytes: AtomicU64,
}

impl std::fmt::Debug for TapDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TapDevice").field("volume", &self.writer.volume).finish_non_exhaustive()
    }
}

impl TapDevice {
    /// Opens the tap of `volume` over `raw`.
    ///
    /// # Errors
    /// When the volume does not exist, its size differs from the disk's, or either cannot be read.
    pub fn open(
        log: Arc<Log>,
        volume: VolumeId,
        raw: Box<dyn RawDisk>,
        when_full: WhenFull,
    ) -> Result<(Arc<TapDevice>, TapState), IoError> {
        let catalog = log.catalog();
        let disk = catalog.disk_of(volume)?.clone();
        if raw.size_bytes() != disk.sectors.bytes() {
            return Err(IoError::Invalid { offset: 0, len_bytes: raw.size_bytes() });
        }
        let mark = catalog.taps.get(&volume.0);
        let applied = mark.map_or(log.head_seq(), |mark| mark.applied);
        log.open_volume(volume, Below::Device, applied)?;
        let geometry = Geometry {
            size_bytes: disk.sectors.bytes(),
            block_bytes: disk.block_bytes,
            read_only: false,
            can_trim: true,
        };
        let tap = TapDevice {
            writer: LogWriter::new(log, volume, when_full),
            raw,
            geometry,
            destaging: Mutex::new(Destaging {
                bytes: 0,
                stuck_at: Lba(0),
                applied,
                marked: applied,
                lost: false,
            }),
            gate: RwLock::new(()),
            wake: Mutex::new(false),
            waking: Condvar::new(),
            closing: false.into(),
            failure: Mutex::default(),
            log_failed: false.into(),
            complete: false.into(),
            reread_bytes: 0.into(),
        };
        let state = match mark {
            None => TapState::New,
            Some(mark) => {
                let Waiting { len_bytes, last } = tap.freeze_and_sum()?;
                match tap.is_what_was_left(mark, &tap.raw.identity()?, last)? {
                    false => TapState::Changed { waiting_bytes_max: len_bytes },
                    true if !mark.complete => TapState::Unfinished,
                    true if tap.lost_upto().is_some() => TapState::Lost,
                    true => TapState::Known,
                }
            }
        };
        tap.complete.store(state == TapState::Known, Ordering::Release);
        // From here on the disk no longer matches a clean mark, and the need to read it must survive a crash.
        if mark.is_none_or(|mark| mark.clean || (mark.complete && state != TapState::Known)) {
            tap.mark(&mut tap.destaging(), false)?;
        }
        Ok((Arc::new(tap), state))
    }

    fn log(&self) -> &Arc<Log> {
        &self.writer.log
    }

    /// The last record that is lost and may have been about it.
    fn lost_upto(&self) -> Option<Seq> {
        let lost = self.log().catalog().lost_before(self.writer.volume, self.log().head_seq());
        lost.last().map(|lost| lost.last)
    }

    /// Freezes the head map, and returns what is in it.
    fn freeze_and_sum(&self) -> Result<Waiting, IoError> {
        let (waiting, _) = self.log().freeze_head(self.writer.volume)?;
        let last = waiting.iter().map(|(_, _, seq, _)| seq).max();
        let len_bytes = waiting.iter().map(|(_, sectors, _, _)| sectors.bytes()).sum();
        Ok(Waiting { len_bytes, last: last.map(|seq| self.log().time_of(seq)).transpose()? })
    }

    /// Whether the disk is as it was when the mark was written, apart from what was destaged since. `last` is when the
    /// newest such write was logged.
    fn is_what_was_left(&self, mark: &TapMark, now: &Details, last: Option<Micros>) -> Result<bool, IoError> {
        const CHANGED: &str = "changed_micros";
        let same = |key: &str| mark.identity.get(key) == now.get(key);
        if !(same("size_bytes") && same("device") && same("inode")) {
            return Ok(false);
        }
        if mark.clean {
            return Ok(same(CHANGED) && same(samples::KEY));
        }
        // After a crash, a change is expected only where, or when, the destager can have made it.
        if let Some(changed) = now.get(CHANGED).and_then(serde_json::Value::as_i64) {
            let by_us = last.is_some_and(|last| changed <= last.0.saturating_add(DESTAGE_SLACK_MICROS));
            return Ok(same(CHANGED) || by_us);
        }
        let (before, now) = (samples::of(&mark.identity), samples::of(now));
        samples::are_as_before(before, now, self.geometry.size_bytes, &mut |part| {
            let (lba, sectors) = (Lba::of_bytes(part.start), Sectors::of_bytes(part.end - part.start));
            let logged = self.log().resolve_head(self.writer.volume, lba, sectors, Wait::Yes)?;
            Ok(logged.iter().any(|fragment| fragment.found.is_some()))
        })
    }

    fn destaging(&self) -> MutexGuard<'_, Destaging> {
        self.destaging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write waits for room in the store.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.writer.is_paused()
    }

    /// Why the disk below refuses writes, if it does. The log still has everything.
    #[must_use]
    pub fn trouble(&self) -> Option<DiskTrouble> {
        let failure = self.failure().clone()?;
        Some(if failure.full { DiskTrouble::Full } else { DiskTrouble::Failed(failure.why) })
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store has the complete content of the disk.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// The progress of [`TapDevice::reread`], in bytes.
    #[must_use]
    pub fn reread_bytes(&self) -> u64 {
        self.reread_bytes.load(Ordering::Relaxed)
    }

    fn read_now(&self, offset: u64, buf: &mut [u8], wait: Wait) -> Result<(), IoError> {
        let (lba, sectors) = (Lba::of_bytes(offset), Sectors::of_bytes(buf.len() as u64));
        let fragments = self.log().resolve_head(self.writer.volume, lba, sectors, wait)?;
        // What is not in the log is on the disk.
        self.log().read_fragments(&fragments, buf, wait, &mut |fragment, part| match wait {
            Wait::Yes => Ok(read_exact_at(self.raw.file(), part, fragment.lba.bytes())?),
            Wait::No => match self.raw.file().read_cached_at(part, fragment.lba.bytes()) {
                Ok(n) if n == part.len() => Ok(()),
                Ok(_) => Err(IoError::WouldBlock),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Err(IoError::WouldBlock),
                Err(e) => Err(e.into()),
            },
        })
    }
}

impl BlockDevice for TapDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, offset: u64, buf: &mut [u8], reading: Reading) -> Result<(), IoError> {
        let wait = wait_of(reading);
        parts::read(&self.geometry, offset, buf, |offset, buf| self.read_now(offset, buf, wait))
    }

    fn write(&self, writings: &[Writing<'_>]) -> Result<(), IoError> {
        self.make_way()?;
        let result = {
            let _shared = self.gate.read().unwrap_or_else(PoisonError::into_inner);
            let read = |offset: u64, buf: &mut [u8]| self.read_now(offset, buf, Wait::Yes);
            self.writer.write(&self.geometry, writings, &read)
        };
        if self.log().head_runs(self.writer.volume) >= RUNS_WAKE {
            self.wake_destager();
        }
        result
    }

    fn flush(&self) -> Result<(), IoError> {
        self.log().flush().map(drop).map_err(IoError::from)
    }

    fn extents(
        &self,
        offset: u64,
        len_bytes: u64,
        each: &mut dyn FnMut(Extent) -> bool,
    ) -> Result<(), IoError> {
        check_request(&self.geometry, offset, len_bytes)?;
        let mut at = offset;
        while at < offset + len_bytes {
            let len = RESOLVE_BYTES.min(offset + len_bytes - at);
            let (lba, sectors) = (Lba::of_bytes(at), Sectors::of_bytes(len));
            for fragment in self.log().resolve_head(self.writer.volume, lba, sectors, Wait::Yes)? {
                let more = match fragment.found {
                    Some((_, place)) => {
                        let (zero, hole) = (place.is_zero(), place.is_trimmed());
                        each(Extent { len_bytes: fragment.sectors.bytes(), zero, hole })
                    }
                    None => self.raw.extents(fragment.lba.bytes(), fragment.sectors.bytes(), each)?,
                };
                if !more {
                    return Ok(());
                }
            }
            at += len;
        }
        Ok(())
    }

    fn prefetch(&self, offset: u64, len_bytes: u64) {
        self.raw.file().prefetch(offset, len_bytes);
    }
}

impl Drop for TapDevice {
    fn drop(&mut self) {
        self.log().close_volume(self.writer.volume);
    }
}

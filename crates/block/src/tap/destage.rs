//! Carrying what was logged to the disk, and what becomes of it when the disk refuses.

use std::{
    io::IoSlice,
    sync::{PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use bygone_model::{Lba, SECTOR_BYTES, Sectors, Seq};
use bygone_store::{Below, Wait, catalog::TapMark, env::File, index::head::HeadMap, is_full};

use super::TapDevice;
use crate::{IoError, device::PAUSE};

/// Runs in the head map that set the destager going.
pub(super) const RUNS_WAKE: usize = 4096;
/// Runs in the head map at which writers wait for the destager, so that memory stays bounded.
const RUNS_MAX: usize = 1 << 17;
/// What was written reaches the disk after this time even if it is little.
const DESTAGE_EVERY: Duration = Duration::from_millis(1000);
/// Bytes destaged after which the disk is synced and a mark written; bounds what is redone after a crash.
const MARK_BYTES: u64 = 256 << 20;
/// The same after so many records of the log, whichever disk they were of: all of them are looked through after a crash.
const MARK_RECORDS: u64 = 1 << 18;
/// Neighbouring runs are written to the disk together up to this size.
const WRITE_BYTES: usize = 1 << 20;
/// What is this large then does not stay in the system's memory.
const UNCACHED_BYTES: usize = 256 << 10;

/// The disk below refuses what is carried to it.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) full: bool,
    pub(super) why: String,
    at: Instant,
}

/// Why the disk below takes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskTrouble {
    /// There is no room on the file system that holds it.
    Full,
    /// Something else, in words.
    Failed(String),
}

#[derive(Default)]
pub(super) struct Destaging {
    /// Bytes destaged since the last mark.
    pub(super) bytes: u64,
    /// The run that the disk refused; it is tried first the next time, so that trying costs little.
    pub(super) stuck_at: Lba,
    /// Everything up to here is on the disk (not necessarily durable).
    pub(super) applied: Seq,
    /// The last mark.
    pub(super) marked: Seq,
    /// A sync of the disk failed, so nothing since the last mark may be on it, whatever it shows.
    pub(super) lost: bool,
}

impl TapDevice {
    /// Remembers how an attempt to bring the disk up to date went.
    fn note(&self, result: &Result<(), IoError>) {
        let mut failure = self.failure();
        let first = match result {
            Ok(()) => {
                let log_failed = self.log_failed.swap(false, Ordering::AcqRel);
                if failure.take().is_some() || log_failed {
                    tracing::info!(volume = %self.writer.volume, "the tapped disk is brought up to date again");
                }
                return;
            }
            Err(IoError::Medium(e)) => failure
                .replace(Failure { full: is_full(e), why: e.to_string(), at: Instant::now() })
                .is_none(),
            // It is the log that fails, and the log says so itself; the disk is not to be blamed for it.
            Err(_) => !self.log_failed.swap(true, Ordering::AcqRel),
        };
        if let Err(e) = result
            && first
        {
            tracing::error!(volume = %self.writer.volume, error = %e, "cannot bring the tapped disk up to date; the log has everything");
        }
    }

    /// Carries what is logged to the disk, again and again, until [`TapDevice::close`]. For a thread of its own.
    pub fn run_destager(&self) {
        while !self.closing.load(Ordering::Acquire) {
            {
                let mut wake = self.wake.lock().unwrap_or_else(PoisonError::into_inner);
                if !*wake {
                    wake = self
                        .waking
                        .wait_timeout(wake, DESTAGE_EVERY)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0;
                }
                *wake = false;
            }
            // Writes wake this thread while the disk refuses them, so without a pause it would spin.
            if self.destage().is_err() && !self.closing.load(Ordering::Acquire) {
                std::thread::sleep(PAUSE);
            }
        }
    }

    pub(super) fn wake_destager(&self) {
        *self.wake.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.waking.notify_all();
    }

    /// Carries everything logged so far to the disk.
    ///
    /// # Errors
    /// When the log cannot be flushed or the disk written. Nothing is lost; calling again goes on.
    pub fn destage(&self) -> Result<(), IoError> {
        let result = self.carry(&mut self.destaging());
        self.note(&result);
        result
    }

    fn carry(&self, destaging: &mut Destaging) -> Result<(), IoError> {
        self.redo_what_was_lost(destaging)?;
        // Before looking whether there is anything, so that nothing up to here can be missed.
        let mut upto = self.log().head_seq();
        if self.log().head_runs(self.writer.volume) > 0 {
            let (frozen, frozen_at) = self.log().freeze_head(self.writer.volume)?;
            // The disk must never be ahead of what the log is sure to keep.
            self.log().flush()?;
            self.carry_runs(&frozen, destaging)?;
            self.log().drop_frozen_head(self.writer.volume);
            upto = frozen_at;
        }
        destaging.applied = destaging.applied.max(upto);
        let records = destaging.applied.0 - destaging.marked.0;
        if destaging.bytes >= MARK_BYTES || records >= MARK_RECORDS {
            self.mark(destaging, false)?;
        }
        Ok(())
    }

    fn carry_runs(&self, frozen: &HeadMap, destaging: &mut Destaging) -> Result<(), IoError> {
        let mut pending = Pending::new(self.raw.file());
        let result = self.carry_to(&mut pending, frozen, destaging);
        destaging.stuck_at = if result.is_ok() { Lba(0) } else { Lba::of_bytes(pending.start) };
        result
    }

    fn carry_to(
        &self,
        pending: &mut Pending<'_>,
        frozen: &HeadMap,
        destaging: &mut Destaging,
    ) -> Result<(), IoError> {
        let from = destaging.stuck_at.0;
        let first = frozen.iter().filter(|run| run.0.0 + run.1.0 > from);
        let rest = frozen.iter().filter(|run| run.0.0 + run.1.0 <= from);
        for (lba, sectors, seq, at) in first.chain(rest) {
            if at.is_zero() {
                pending.write()?;
                pending.start = lba.bytes();
                if at.is_trimmed() {
                    self.raw.punch(lba.bytes(), sectors.bytes())?;
                } else {
                    self.raw.zero(lba.bytes(), sectors.bytes())?;
                }
                continue;
            }
            let mut done = 0;
            while done < sectors.0 {
                let part = (sectors.0 - done).min(WRITE_BYTES as u64 / SECTOR_BYTES);
                let run = bygone_store::HeadFragment {
                    lba: Lba(lba.0 + done),
                    sectors: Sectors(part),
                    found: Some((seq, at)),
                };
                let buf = pending.extend(run.lba.bytes(), run.sectors.bytes() as usize)?;
                self.log().read_fragment(&run, buf, Wait::Yes)?;
                done += part;
                destaging.bytes += run.sectors.bytes();
            }
        }
        pending.write()?;
        Ok(())
    }

    /// After a sync of the disk that failed: all since the last mark is taken from the log again, for reads at once, and for
    /// the disk with the next destaging.
    fn redo_what_was_lost(&self, destaging: &mut Destaging) -> Result<(), IoError> {
        if destaging.lost {
            self.log().open_volume(self.writer.volume, Below::Device, destaging.marked)?;
            destaging.applied = destaging.marked;
            destaging.bytes = 0;
            destaging.lost = false;
        }
        Ok(())
    }

    /// Makes the disk durable and says so in the log.
    pub(super) fn mark(&self, destaging: &mut Destaging, clean: bool) -> Result<(), IoError> {
        if let Err(e) = self.raw.sync() {
            // The system says it once; the next sync may well succeed without what this one lost.
            destaging.lost = true;
            self.redo_what_was_lost(destaging)?;
            return Err(e.into());
        }
        let mark = TapMark {
            applied: destaging.applied,
            clean,
            complete: self.complete.load(Ordering::Acquire),
            identity: self.raw.identity()?,
        };
        self.log().mark_tap(self.writer.volume, &mark)?;
        destaging.bytes = 0;
        destaging.marked = destaging.applied;
        Ok(())
    }

    /// Bounds what the disk has not taken yet. While it takes nothing, writes wait for it to be mended.
    pub(super) fn make_way(&self) -> Result<(), IoError> {
        if self.log().head_runs(self.writer.volume) < RUNS_MAX || self.closing.load(Ordering::Acquire) {
            return Ok(());
        }
        let tried = self.failure().as_ref().is_some_and(|failure| failure.at.elapsed() < DESTAGE_EVERY);
        if tried {
            return Err(self.writer.pause(IoError::Full));
        }
        // It cannot keep up: whoever writes helps, and so waits.
        self.destage().map_err(|e| match e {
            IoError::Medium(_) | IoError::Full => self.writer.pause(e),
            // Waiting does not mend a log that failed.
            e => e,
        })
    }

    /// Refuses new writes, brings the disk up to date and marks it clean: it is whole without Bygone.
    ///
    /// # Errors
    /// When the log or the disk cannot be written. The log still has everything, and the next opening goes on.
    pub fn close(&self) -> Result<(), IoError> {
        self.closing.store(true, Ordering::Release);
        self.writer.close();
        self.wake_destager();
        // Whatever write was on its way when the door closed is through.
        drop(self.gate.write().unwrap_or_else(PoisonError::into_inner));
        self.destage()?;
        // What another destaging had frozen before that.
        self.destage()?;
        let mut destaging = self.destaging();
        destaging.applied = destaging.applied.max(self.log().head_seq());
        self.mark(&mut destaging, true)
    }
}

/// Neighbouring pieces on their way to the disk.
struct Pending<'a> {
    file: &'a dyn File,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Pending<'a> {
    fn new(file: &'a dyn File) -> Pending<'a> {
        Pending { file, start: 0, bytes: Vec::new() }
    }

    /// Room for `len` bytes that belong at `offset`.
    fn extend(&mut self, offset: u64, len: usize) -> std::io::Result<&mut [u8]> {
        let follows = self.start + self.bytes.len() as u64 == offset && self.bytes.len() + len <= WRITE_BYTES;
        if !follows {
            self.write()?;
            self.start = offset;
        }
        let from = self.bytes.len();
        self.bytes.resize(from + len, 0);
        Ok(&mut self.bytes[from..])
    }

    fn write(&mut self) -> std::io::Result<()> {
        if !self.bytes.is_empty() {
            let parts = &mut [IoSlice::new(&self.bytes)];
            if self.bytes.len() >= UNCACHED_BYTES {
                self.file.write_uncached_at(parts, self.start)?;
            } else {
                self.file.write_at(parts, self.start)?;
            }
            self.bytes.clear();
        }
        Ok(())
    }
}

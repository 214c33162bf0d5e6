//! Destages what was logged to the disk, and handles a disk that refuses it.

use std::{
    io::IoSlice,
    sync::{PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use bygone_model::{Lba, SECTOR_BYTES, Sectors, Seq};
use bygone_store::{Below, Wait, catalog::TapMark, env::File, index::head::HeadMap, is_full};

use super::TapDevice;
use crate::{IoError, device::PAUSE};

/// This many runs in the head map wake the destager.
pub(super) const RUNS_WAKE: usize = 4096;
/// At this many runs in the head map writers wait for the destager, so that memory stays bounded.
const RUNS_MAX: usize = 1 << 17;
/// Writes are destaged after this time even if there are few.
const DESTAGE_EVERY: Duration = Duration::from_millis(1000);
/// After this many destaged bytes the disk is synced and marked, which bounds the work after a crash.
const MARK_BYTES: u64 = 256 << 20;
/// The same after this many records of the log, of whichever disk: all of them are scanned after a crash.
const MARK_RECORDS: u64 = 1 << 18;
/// Adjacent runs are written to the disk together up to this size.
const WRITE_BYTES: usize = 1 << 20;
/// Writes of at least this size are evicted from the page cache afterwards.
const UNCACHED_BYTES: usize = 256 << 10;

/// The disk below refuses writes.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) full: bool,
    pub(super) why: String,
    at: Instant,
}

/// Why the disk below refuses writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskTrouble {
    /// The file system that holds it is full.
    Full,
    /// Something else, in words.
    Failed(String),
}

#[derive(Default)]
pub(super) struct Destaging {
    /// Bytes destaged since the last mark.
    pub(super) bytes: u64,
    /// The run that the disk refused. It is tried first the next time, so that a retry is cheap.
    pub(super) stuck_at: Lba,
    /// Everything up to here was written to the disk (it may not be durable).
    pub(super) applied: Seq,
    /// The seq of the last mark.
    pub(super) marked: Seq,
    /// A sync of the disk failed, so any write since the last mark may be lost, whatever reads of the disk show.
    pub(super) lost: bool,
}

impl TapDevice {
    /// Records the result of an attempt to destage.
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
            // It is the log that failed, and the log reports that itself; the disk is not to blame.
            Err(_) => !self.log_failed.swap(true, Ordering::AcqRel),
        };
        if let Err(e) = result
            && first
        {
            tracing::error!(volume = %self.writer.volume, error = %e, "cannot bring the tapped disk up to date; the log has everything");
        }
    }

    /// Destages repeatedly until [`TapDevice::close`]. Meant for a thread of its own.
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
            // Writes wake this thread even while the disk refuses them, so without a pause it would spin.
            if self.destage().is_err() && !self.closing.load(Ordering::Acquire) {
                std::thread::sleep(PAUSE);
            }
        }
    }

    pub(super) fn wake_destager(&self) {
        *self.wake.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.waking.notify_all();
    }

    /// Destages everything logged so far.
    ///
    /// # Errors
    /// When the log cannot be flushed or the disk cannot be written. Nothing is lost; another call resumes.
    pub fn destage(&self) -> Result<(), IoError> {
        let result = self.carry(&mut self.destaging());
        self.note(&result);
        result
    }

    fn carry(&self, destaging: &mut Destaging) -> Result<(), IoError> {
        self.redo_what_was_lost(destaging)?;
        // Taken before checking whether there is anything to destage, so that nothing up to here can be missed.
        let mut upto = self.log().head_seq();
        if self.log().head_runs(self.writer.volume) > 0 {
            let (frozen, frozen_at) = self.log().freeze_head(self.writer.volume)?;
            // The disk must never be ahead of what is durable in the log.
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

    /// After a failed sync of the disk: takes everything since the last mark from the log again, for reads at once, and
    /// for the disk with the next destaging.
    fn redo_what_was_lost(&self, destaging: &mut Destaging) -> Result<(), IoError> {
        if destaging.lost {
            self.log().open_volume(self.writer.volume, Below::Device, destaging.marked)?;
            destaging.applied = destaging.marked;
            destaging.bytes = 0;
            destaging.lost = false;
        }
        Ok(())
    }

    /// Syncs the disk and writes a mark to the log.
    pub(super) fn mark(&self, destaging: &mut Destaging, clean: bool) -> Result<(), IoError> {
        if let Err(e) = self.raw.sync() {
            // fsync reports a write-back error only once; the next sync may succeed without what this one lost.
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

    /// Bounds what is not destaged yet. While the disk refuses writes, writers wait until it accepts them again.
    pub(super) fn make_way(&self) -> Result<(), IoError> {
        if self.log().head_runs(self.writer.volume) < RUNS_MAX || self.closing.load(Ordering::Acquire) {
            return Ok(());
        }
        let tried = self.failure().as_ref().is_some_and(|failure| failure.at.elapsed() < DESTAGE_EVERY);
        if tried {
            return Err(self.writer.pause(IoError::Full));
        }
        // The destager cannot keep up, so the writer helps, and thereby waits.
        self.destage().map_err(|e| match e {
            IoError::Medium(_) | IoError::Full => self.writer.pause(e),
            // Waiting does not help when the log failed.
            e => e,
        })
    }

    /// Refuses new writes, brings the disk up to date and marks it clean: the disk is complete without Bygone.
    ///
    /// # Errors
    /// When the log or the disk cannot be written. The log still has everything, and the next open resumes.
    pub fn close(&self) -> Result<(), IoError> {
        self.closing.store(true, Ordering::Release);
        self.writer.close();
        self.wake_destager();
        // Waits for the writes that were in flight when the device was closed.
        drop(self.gate.write().unwrap_or_else(PoisonError::into_inner));
        self.destage()?;
        // Another destaging may have frozen some of it before.
        self.destage()?;
        let mut destaging = self.destaging();
        destaging.applied = destaging.applied.max(self.log().head_seq());
        self.mark(&mut destaging, true)
    }
}

/// Adjacent pieces, collected for one write to the disk.
struct Pending<'a> {
    file: &'a dyn File,
    start: u64,
    bytes: Vec<u8>,
}

impl<'a> Pending<'a> {
    fn new(file: &'a dyn File) -> Pending<'a> {
        Pending { file, start: 0, bytes: Vec::new() }
    }

    /// Room for `len` more bytes, which belong at `offset`.
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

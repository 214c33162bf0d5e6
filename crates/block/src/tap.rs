//! The tap: the disk stays where it is, and the store has every write to it.
//!
//! A write goes to the log and is acknowledged; what was logged is *destaged* to the disk afterwards, and only once
//! it is durable in the log. So the disk never has anything that the log could lose, a flush costs one sequential
//! `fdatasync` of the log, and after any crash the disk is brought up to date again from the log. Reads ask the
//! head map (what is logged and not destaged yet) first, then the disk.
//!
//! A *mark* in the log says up to which record the disk is durable. After a clean close the disk is whole, and
//! usable without Bygone. If it was changed behind Bygone's back it no longer is what the mark says; then, and when
//! it is taken over for the first time, it is read and compared with what the store believes ([`TapDevice::reread`]).

use std::{
    io::IoSlice,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bygone_model::{Details, Lba, Micros, SECTOR_BYTES, Sectors, Seq, VolumeId};
use bygone_store::{
    Below, BlockWrite, Content, Log, View, Wait,
    catalog::TapMark,
    env::{File, read_exact_at},
    index::head::HeadMap,
    is_full,
};

use crate::{
    BlockDevice, Extent, Geometry, IoError, Reading, Writing,
    device::PAUSE,
    log_device::{LogWriter, RESOLVE_BYTES, WhenFull, check_request, wait_of},
    raw::RawDisk,
};

/// Runs in the head map that set the destager going.
const RUNS_WAKE: usize = 4096;
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
/// The disk is read again in pieces of this size.
const REREAD_BYTES: u64 = 1 << 20;
/// After so much of re-reading, what the store believes is looked up anew.
const REVIEW_BYTES: u64 = 1 << 30;
/// An unclean disk may have been changed by the destager this long after the last write was logged.
const DESTAGE_SLACK_MICROS: i64 = 10_000_000;

/// What the disk turned out to be when it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TapState {
    /// Never seen before: it has to be read.
    New,
    /// Exactly what the log says, or will be once the rest is destaged.
    Known,
    /// Changed behind Bygone's back: it has to be read again.
    Changed,
    /// Reading it was begun and not finished: it has to be read again.
    Unfinished,
}

/// A tapped disk. See the module's comment.
pub struct TapDevice {
    writer: LogWriter,
    raw: Box<dyn RawDisk>,
    geometry: Geometry,
    /// Held while something is carried to the disk or the disk is compared.
    destaging: Mutex<Destaging>,
    /// Writers hold it shared; a piece of the disk is compared with it held alone.
    gate: RwLock<()>,
    wake: Mutex<bool>,
    waking: Condvar,
    closing: AtomicBool,
    /// What the disk said when it last refused something.
    failure: Mutex<Option<Failure>>,
    /// The log could not be flushed or read the last time, which was said then.
    log_failed: AtomicBool,
    /// The store has all of the disk.
    complete: AtomicBool,
    reread_bytes: AtomicU64,
}

/// The disk below refuses what is carried to it.
#[derive(Clone, Debug)]
struct Failure {
    full: bool,
    why: String,
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
struct Destaging {
    /// Bytes destaged since the last mark.
    bytes: u64,
    /// The run that the disk refused; it is tried first the next time, so that trying costs little.
    stuck_at: Lba,
    /// Everything up to here is on the disk (not necessarily durable).
    applied: Seq,
    /// The last mark.
    marked: Seq,
    /// A sync of the disk failed, so nothing since the last mark may be on it, whatever it shows.
    lost: bool,
}

impl std::fmt::Debug for TapDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TapDevice").field("volume", &self.writer.volume).finish_non_exhaustive()
    }
}

/// What re-reading a disk found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reread {
    /// Bytes of the disk that were compared.
    pub compared_bytes: u64,
    /// Bytes that the store did not have.
    pub changed_bytes: u64,
    /// The first and the end of the changed sectors.
    pub changed_range: Option<(u64, u64)>,
}

impl TapDevice {
    /// Opens the tap of `volume` over `raw`.
    ///
    /// # Errors
    /// When there is no such volume, the disk is not as large as the volume, or either cannot be read.
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
            Some(mark) if !is_what_was_left(mark, &tap.raw.identity()?, tap.freeze_and_find_last()?) => {
                TapState::Changed
            }
            Some(mark) if !mark.complete => TapState::Unfinished,
            Some(_) => TapState::Known,
        };
        tap.complete.store(state == TapState::Known, Ordering::Release);
        // From here on the disk is no longer what a clean mark says; and that it has to be read must not be forgotten.
        if mark.is_none_or(|mark| mark.clean || (mark.complete && state != TapState::Known)) {
            tap.mark(&mut tap.destaging(), false)?;
        }
        Ok((Arc::new(tap), state))
    }

    fn log(&self) -> &Arc<Log> {
        &self.writer.log
    }

    /// When the last of what the disk may not have yet was logged. Freezes the head map.
    fn freeze_and_find_last(&self) -> Result<Option<Micros>, IoError> {
        let (waiting, _) = self.log().freeze_head(self.writer.volume)?;
        let last = waiting.iter().map(|(_, _, seq, _)| seq).max();
        Ok(last.map(|seq| self.log().time_of(seq)).transpose()?)
    }

    fn destaging(&self) -> MutexGuard<'_, Destaging> {
        self.destaging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write waits for room in the store.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.writer.is_paused()
    }

    /// Why the disk below does not take what was written, if it does not; the log still has everything.
    #[must_use]
    pub fn trouble(&self) -> Option<DiskTrouble> {
        let failure = self.failure().clone()?;
        Some(if failure.full { DiskTrouble::Full } else { DiskTrouble::Failed(failure.why) })
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

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

    /// The store has all of the disk.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }

    /// How far [`TapDevice::reread`] has come, in bytes.
    #[must_use]
    pub fn reread_bytes(&self) -> u64 {
        self.reread_bytes.load(Ordering::Relaxed)
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

    fn wake_destager(&self) {
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
                self.raw.punch(lba.bytes(), sectors.bytes())?;
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
    fn mark(&self, destaging: &mut Destaging, clean: bool) -> Result<(), IoError> {
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

    /// Reads the whole disk and appends what the store does not have yet, while the target may run. Calls `keep_going`
    /// with the bytes read so far; ends early when it says no.
    ///
    /// # Errors
    /// When the disk cannot be read or the log not be written.
    pub fn reread(self: &Arc<Self>, keep_going: &mut dyn FnMut(u64, u64) -> bool) -> Result<Reread, IoError> {
        let size = self.geometry.size_bytes;
        let mut found = Reread::default();
        let mut at = 0;
        let mut belief: Option<View> = None;
        let mut believed_until = 0;
        while at < size {
            self.reread_bytes.store(at, Ordering::Relaxed);
            if !keep_going(at, size) || self.closing.load(Ordering::Acquire) {
                return Ok(found);
            }
            if belief.is_none() || at >= believed_until {
                belief = Some(self.log().view(self.writer.volume, self.log().head_seq())?);
                believed_until = at + REVIEW_BYTES;
            }
            let Some(view) = &belief else { break };
            let end = (at + REREAD_BYTES - at % REREAD_BYTES).min(size);
            match self.compare(view, at, end - at, &mut found) {
                Err(IoError::Paused) => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                result => result?,
            }
            at = end;
            found.compared_bytes = at;
        }
        self.reread_bytes.store(size, Ordering::Relaxed);
        self.log().flush()?;
        self.complete.store(true, Ordering::Release);
        let mut destaging = self.destaging();
        self.mark(&mut destaging, false)?;
        Ok(found)
    }

    /// Compares one piece and appends what differs. Appending what the store has already (because it was written since
    /// `view`) is no harm: it is what the disk holds now.
    fn compare(&self, view: &View, at: u64, len: u64, found: &mut Reread) -> Result<(), IoError> {
        let (lba, sectors) = (Lba::of_bytes(at), Sectors::of_bytes(len));
        let destaging = self.destaging();
        let fragments = view.resolve(lba, sectors, Wait::Yes)?;
        let believed_zero = fragments.iter().all(|f| f.found.is_none_or(|(_, place)| place.is_zero()));
        if believed_zero && self.raw.next_data(at)?.is_none_or(|data| data >= at + len) {
            return Ok(());
        }
        // From here on no write may come between reading and appending.
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        let mut now = vec![0; len as usize];
        self.read_now(at, &mut now, Wait::Yes)?;
        let mut before = vec![0; len as usize];
        view.read(lba, &mut before, Wait::Yes)?;
        let (mut writes, mut changed) = (Vec::new(), *found);
        let block = self.geometry.block_bytes.max(4096) as usize;
        let mut start = 0;
        while start < now.len() {
            let differs = |i: usize| {
                let end = (i + block).min(now.len());
                now[i..end] != before[i..end]
            };
            if !differs(start) {
                start += block;
                continue;
            }
            let mut end = (start + block).min(now.len());
            while end < now.len() && differs(end) {
                end = (end + block).min(now.len());
            }
            let data = &now[start..end];
            let place = at + start as u64;
            let content = if data.iter().all(|b| *b == 0) {
                Content::Zero(Sectors::of_bytes(data.len() as u64))
            } else {
                Content::Data(data)
            };
            writes.push(BlockWrite {
                volume: self.writer.volume,
                lba: Lba::of_bytes(place),
                content,
                base: true,
            });
            changed.changed_bytes += data.len() as u64;
            let first = changed.changed_range.map_or(place, |(first, _)| first.min(place));
            changed.changed_range = Some((first, place + data.len() as u64));
            start = end;
        }
        drop(destaging);
        if !writes.is_empty() {
            self.writer.append(&writes)?;
            *found = changed;
        }
        Ok(())
    }

    /// Bounds what the disk has not taken yet. While it takes nothing, writes wait for it to be mended.
    fn make_way(&self) -> Result<(), IoError> {
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

    fn read_now(&self, offset: u64, buf: &mut [u8], wait: Wait) -> Result<(), IoError> {
        let (lba, sectors) = (Lba::of_bytes(offset), Sectors::of_bytes(buf.len() as u64));
        let fragments = self.log().resolve_head(self.writer.volume, lba, sectors, wait)?;
        let mut rest = buf;
        for fragment in &fragments {
            let (part, later) = rest.split_at_mut((fragment.sectors.bytes() as usize).min(rest.len()));
            rest = later;
            match (fragment.found, wait) {
                (Some(_), _) => self.log().read_fragment(fragment, part, wait)?,
                (None, Wait::Yes) => read_exact_at(self.raw.file(), part, fragment.lba.bytes())?,
                (None, Wait::No) => match self.raw.file().read_cached_at(part, fragment.lba.bytes()) {
                    Ok(n) if n == part.len() => {}
                    Ok(_) => return Err(IoError::WouldBlock),
                    Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Err(IoError::WouldBlock),
                    Err(e) => return Err(e.into()),
                },
            }
        }
        Ok(())
    }
}

/// Whether the disk is as it was left when the mark was written, apart from what was destaged since; `last` of that was logged
/// at this time.
fn is_what_was_left(mark: &TapMark, now: &Details, last: Option<Micros>) -> bool {
    const CHANGED: &str = "changed_micros";
    let same = |key: &str| mark.identity.get(key) == now.get(key);
    if !(same("size_bytes") && same("device") && same("inode")) {
        return false;
    }
    if mark.clean {
        return same(CHANGED) && same("fingerprint");
    }
    // After a crash, only what the destager can have done is no surprise. Of a block device nothing is known.
    let Some(changed) = now.get(CHANGED).and_then(serde_json::Value::as_i64) else { return true };
    same(CHANGED) || last.is_some_and(|last| changed <= last.0.saturating_add(DESTAGE_SLACK_MICROS))
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
            self.file.write_at(&mut [IoSlice::new(&self.bytes)], self.start)?;
            self.bytes.clear();
        }
        Ok(())
    }
}

impl BlockDevice for TapDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, offset: u64, buf: &mut [u8], reading: Reading) -> Result<(), IoError> {
        check_request(&self.geometry, offset, buf.len() as u64)?;
        self.read_now(offset, buf, wait_of(reading))
    }

    fn write(&self, writings: &[Writing<'_>]) -> Result<(), IoError> {
        self.make_way()?;
        let result = {
            let _shared = self.gate.read().unwrap_or_else(PoisonError::into_inner);
            self.writer.write(&self.geometry, writings)
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
                        let hole = place.is_zero();
                        each(Extent { len_bytes: fragment.sectors.bytes(), zero: hole, hole })
                    }
                    None => self.raw_extents(fragment.lba.bytes(), fragment.sectors.bytes(), each)?,
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

impl TapDevice {
    fn raw_extents(
        &self,
        offset: u64,
        len_bytes: u64,
        each: &mut dyn FnMut(Extent) -> bool,
    ) -> Result<bool, IoError> {
        let end = offset + len_bytes;
        let mut at = offset;
        while at < end {
            let data = self.raw.next_data(at)?.unwrap_or(end).clamp(at, end);
            if data > at {
                if !each(Extent { len_bytes: data - at, zero: true, hole: true }) {
                    return Ok(false);
                }
                at = data;
                continue;
            }
            let hole = self.raw.next_hole(at)?.clamp(at, end);
            // Media round to their own blocks; a step of nothing would never end.
            let hole = if hole == at { end } else { hole };
            if !each(Extent { len_bytes: hole - at, zero: false, hole: false }) {
                return Ok(false);
            }
            at = hole;
        }
        Ok(true)
    }
}

impl Drop for TapDevice {
    fn drop(&mut self) {
        self.log().close_volume(self.writer.volume);
    }
}

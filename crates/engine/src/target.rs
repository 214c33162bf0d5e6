//! A target: its configuration, its log, and its disks while they are in use.
//!
//! A disk is open as long as a [`Lease`] on it exists: of a running machine, an NBD client, or a thread that reads it.
//! When the last lease is released the disk is closed; a tapped disk is then complete without Bygone.

mod expect;
mod folder;
mod lease;
mod op;
mod past;
mod size;
mod status;
mod verified;
mod work;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bygone_block::AsOfDevice;
use bygone_model::{BranchId, Event, Kind, Place, Seq, VolumeId};
use bygone_store::{
    Log, LogOptions,
    catalog::{Disk, Keeping},
    env::{Clock, SystemClock},
};

pub(crate) use self::{
    expect::log_id_in,
    lease::{Lease, Use},
    op::{Begun, Op},
    past::PastDisk,
    size::size_in,
    work::Claim,
};
use self::{folder::Folder, lease::Live, op::Turn, size::Size};
use crate::{
    api::MomentInfo,
    child::Children,
    config::TargetConfig,
    error::{Error, Result},
    jobs::Jobs,
    lifecycle::Request,
    machine::Slot,
    runner::Launcher,
    software::Watching,
    store_dir::{Configs, StorePaths, random_id},
};

/// What all targets of a manager share.
pub(crate) struct Shared {
    pub paths: StorePaths,
    /// The options of all logs, which share its `store`.
    pub options: LogOptions,
    pub launcher: Arc<dyn Launcher>,
    pub jobs: Jobs,
    /// Serves the disks; each machine has a socket of its own.
    pub nbd: bygone_block::nbd::Server,
    /// They look at disks.
    pub children: Arc<Children>,
    /// The time of the logs and of the requests for moments.
    pub clock: Arc<dyn Clock>,
    /// No machine is started or adopted any more, because the manager is about to end.
    gate_closed: AtomicBool,
    /// The calls in progress are to end.
    closing: AtomicBool,
    /// The threads that notice what is installed on running machines.
    pub watching: Arc<Watching>,
    /// No thread can be started that supervises a machine.
    #[cfg(test)]
    pub has_no_threads: AtomicBool,
    /// While set, such a thread is not there yet.
    #[cfg(test)]
    pub holds_threads: AtomicBool,
}

impl Shared {
    /// Closes the gate for machines: a start that holds its target's turn by now is the last one of that target.
    pub(crate) fn close_gate(&self) {
        self.gate_closed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn open_gate(&self) {
        self.gate_closed.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_gate_closed(&self) -> bool {
        self.gate_closed.load(Ordering::SeqCst)
    }

    /// Ends the calls in progress, as if nobody waited for them.
    pub(crate) fn begin_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// For the store in `paths`, with machines from `launcher`.
    pub(crate) fn new(paths: &StorePaths, launcher: Arc<dyn Launcher>) -> Arc<Shared> {
        Shared::with_options(paths, launcher, LogOptions::default())
    }

    /// As [`Shared::new`], with other options of the logs.
    pub(crate) fn with_options(
        paths: &StorePaths,
        launcher: Arc<dyn Launcher>,
        options: LogOptions,
    ) -> Arc<Shared> {
        Shared::with_clock(paths, launcher, options, Arc::new(SystemClock::new()))
    }

    /// As [`Shared::with_options`], with another clock.
    pub(crate) fn with_clock(
        paths: &StorePaths,
        launcher: Arc<dyn Launcher>,
        options: LogOptions,
        clock: Arc<dyn Clock>,
    ) -> Arc<Shared> {
        Arc::new(Shared {
            paths: paths.clone(),
            options,
            launcher,
            jobs: Jobs::new(paths),
            nbd: bygone_block::nbd::Server::new(bygone_block::nbd::Limits::default()),
            children: Arc::default(),
            clock,
            gate_closed: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            watching: Arc::default(),
            #[cfg(test)]
            has_no_threads: AtomicBool::new(false),
            #[cfg(test)]
            holds_threads: AtomicBool::new(false),
        })
    }
}

/// A protected machine.
pub(crate) struct Target {
    pub name: String,
    pub shared: Arc<Shared>,
    pub log: Arc<Log>,
    dir: PathBuf,
    folder: Arc<Folder>,
    config: Mutex<TargetConfig>,
    turn: Turn,
    live: Mutex<HashMap<VolumeId, Live>>,
    live_changed: Condvar,
    pub(crate) machine: Mutex<Slot>,
    pub(crate) last_stop: Mutex<Option<MomentInfo>>,
    pub(crate) stopped: Condvar,
    /// The number of threads that read or fill disks.
    workers: AtomicUsize,
    /// The number of [`past::Hold`]s on its past moments.
    readers: AtomicUsize,
    /// The tapped disks that are being read.
    read_now: Mutex<HashSet<VolumeId>>,
    /// The tapped disks of which no more is to be read.
    read_no_more: Mutex<HashSet<VolumeId>>,
    /// The disks outside the store that are claimed for filling, by number; the flag is set when another thread wants
    /// the disk.
    claims: Mutex<HashMap<u32, Arc<AtomicBool>>>,
    closing: AtomicBool,
    /// Held from the check that a label is free until its point is written.
    pub(crate) pointing: Mutex<()>,
    gone: AtomicBool,
    written_bytes: AtomicU64,
    guest_writes: AtomicU64,
    size: Size,
    /// The newest record when it was opened.
    opened_at: AtomicU64,
    /// It was added, or restored after it was removed, under this manager.
    added: AtomicBool,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a target's configuration to its log, from which it can be repaired.
fn note_config(log: &Log, branch: BranchId, label: &str, config: &TargetConfig) -> Result<()> {
    let said = serde_json::to_value(config).unwrap_or_default();
    log.event(branch, &Event::new(Kind::Manager, label).with(crate::manager::removed::CONFIG, said))?;
    log.flush()?;
    Ok(())
}

/// Opens the log in the folder of a target that is not in use.
///
/// # Errors
/// When it is missing or cannot be opened.
pub(crate) fn open_log(dir: &Path) -> Result<Arc<Log>> {
    open_log_in(&Folder::new(dir), dir, LogOptions::default(), Arc::new(SystemClock::new()))
}

fn open_log_in(
    folder: &Arc<Folder>,
    dir: &Path,
    options: LogOptions,
    clock: Arc<dyn Clock>,
) -> Result<Arc<Log>> {
    Log::open(folder.clone(), clock, options).map_err(|e| match e {
        // A log is made only when its target is added: a new one would hide the history of the missing one.
        bygone_store::Error::NoLog => Error::Missing(dir.join("log")),
        e => e.into(),
    })
}

impl Target {
    /// Opens an existing target.
    ///
    /// # Errors
    /// When a part of it is missing, its newest configuration cannot be read, or its log cannot be opened. Then nothing
    /// has changed.
    pub(crate) fn open(shared: &Arc<Shared>, name: &str) -> Result<Arc<Target>> {
        Target::open_in(shared, name, shared.paths.target_dir(name))
    }

    fn open_in(shared: &Arc<Shared>, name: &str, dir: PathBuf) -> Result<Arc<Target>> {
        let config = Configs::of(&dir, name).load()?;
        let folder = Folder::new(&dir);
        let log = open_log_in(&folder, &dir, shared.options.clone(), shared.clock.clone())?;
        let opened_at = log.head_seq();
        let target = Target {
            opened_at: AtomicU64::new(opened_at.0),
            name: name.to_owned(),
            shared: shared.clone(),
            log,
            dir,
            folder,
            config: Mutex::new(config),
            turn: Turn::default(),
            live: Mutex::default(),
            live_changed: Condvar::new(),
            machine: Mutex::default(),
            last_stop: Mutex::default(),
            stopped: Condvar::new(),
            workers: AtomicUsize::new(0),
            readers: AtomicUsize::new(0),
            read_now: Mutex::default(),
            read_no_more: Mutex::default(),
            claims: Mutex::default(),
            closing: AtomicBool::new(false),
            pointing: Mutex::default(),
            gone: AtomicBool::new(false),
            written_bytes: AtomicU64::new(0),
            guest_writes: AtomicU64::new(0),
            size: Size::default(),
            added: AtomicBool::new(false),
        };
        Ok(Arc::new(target))
    }

    /// Makes a new target, whose disks were checked. `fill` writes the first content of its store-only disks. The
    /// target's folder gets its name last, so a crash leaves a complete target or none.
    ///
    /// # Errors
    /// When the name is taken, the target cannot be written, or `fill` failed; then nothing is left of it. When it
    /// cannot be opened; then it has its name.
    pub(crate) fn make(
        shared: &Arc<Shared>,
        config: &TargetConfig,
        fill: impl FnOnce(&Arc<Target>) -> Result<Vec<Event>>,
    ) -> Result<Arc<Target>> {
        let name = &config.name;
        let dir = shared.paths.begin_adding(name)?;
        let made =
            Target::make_in(shared, config, &dir, fill).and_then(|()| shared.paths.finish_adding(name));
        if made.is_err() {
            let _ = std::fs::remove_dir_all(&dir);
        }
        made?;
        #[cfg(test)]
        crate::store_dir::faults::meet(crate::store_dir::faults::Step::Open, &shared.paths.target_dir(name))
            .map_err(|e| Error::file("opening", shared.paths.target_dir(name), e))?;
        Target::open(shared, name)
    }

    fn make_in(
        shared: &Arc<Shared>,
        config: &TargetConfig,
        dir: &Path,
        fill: impl FnOnce(&Arc<Target>) -> Result<Vec<Event>>,
    ) -> Result<()> {
        Configs::of(dir, &config.name).save(config)?;
        let (clock, options) = (shared.clock.clone(), shared.options.clone());
        let folder = Folder::new(dir);
        let log = Log::make(folder.clone(), clock, options, random_id()?)?;
        let mut filling = Vec::new();
        for disk in &config.disks {
            let keeping = if disk.path.is_some() { Keeping::Tap } else { Keeping::Store };
            let sectors = bygone_model::Sectors::of_bytes(disk.size_bytes);
            let made = Disk { name: disk.id.clone(), sectors, block_bytes: disk.block_bytes, keeping };
            match keeping {
                Keeping::Tap => drop(log.add_disk(&made)?),
                // Inexact until it has its first content, so none of its moments is served before.
                Keeping::Store => filling.push(log.add_disk_to_fill(&made)?),
            }
        }
        note_config(&log, BranchId(0), "the target was added", config)?;
        // Upkeep may hold the log a little longer, and must not write into the folder after that is renamed.
        folder.leave();
        drop(log);
        let target = Target::open_in(shared, &config.name, dir.to_owned())?;
        let filled = fill(&target).and_then(|events| {
            for volume in filling {
                target.log.disk_is_filled(volume)?;
            }
            // Once all disks are known: each names a moment that can be brought back.
            for event in events {
                target.log.event(target.present(), &event)?;
            }
            target.log.flush()?;
            Ok(())
        });
        target.leave_folder();
        filled
    }

    #[must_use]
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves its folder: nothing more is written there, and no request begins.
    pub(crate) fn leave_folder(&self) {
        {
            let _no_settings_meanwhile = lock(&self.config);
            self.gone.store(true, Ordering::Release);
        }
        self.folder.leave();
    }

    /// Whether it was removed; only current holders of it still see it.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Replaces the error of a target that was removed meanwhile: files that are gone explain nothing.
    ///
    /// # Errors
    /// The error of `result`, or [`Error::NoTarget`] if it was removed.
    pub(crate) fn unless_gone<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| if self.is_gone() { Error::NoTarget(self.name.clone()) } else { error })
    }

    /// Makes the syncs of its log fail after `count` more.
    #[cfg(test)]
    pub(crate) fn fail_after_syncs(&self, count: u64) {
        self.folder.fail_after_syncs(count);
    }

    /// Makes the syncs of its log panic, or not any more.
    #[cfg(test)]
    pub(crate) fn panic_at_syncs(&self, panics: bool) {
        self.folder.panic_at_syncs(panics);
    }

    /// Whether no thread works on its disks.
    #[cfg(test)]
    pub(crate) fn is_quiet(&self) -> bool {
        !self.has_work() && lock(&self.claims).is_empty()
    }

    #[must_use]
    pub(crate) fn config(&self) -> TargetConfig {
        lock(&self.config).clone()
    }

    /// The path of one of its tapped disks; empty, which is no path of a file, if it has no such disk.
    pub(crate) fn disk_path(&self, disk: &str) -> PathBuf {
        lock(&self.config).disk(disk).and_then(|disk| disk.path.clone()).unwrap_or_default()
    }

    /// Changes its configuration, one change at a time.
    ///
    /// # Errors
    /// When `change` refuses or the configuration cannot be written; then nothing has changed. [`Error::Partly`] when
    /// it was written and may not last, or the log could not be written.
    pub(crate) fn change_config(
        &self,
        change: impl FnOnce(&mut TargetConfig) -> Result<()>,
    ) -> Result<TargetConfig> {
        let mut config = lock(&self.config);
        if self.is_gone() {
            // Another target may have the folder by now.
            return Err(Error::NoTarget(self.name.clone()));
        }
        let mut new = config.clone();
        change(&mut new)?;
        if new != *config {
            let configs = Configs::of(&self.dir, &self.name);
            let saved = match configs.save(&new) {
                Err(why) if !configs.load().is_ok_and(|newest| newest == new) => return Err(why),
                // If only its folder could not be synced, it counts from now on, as it does for the next manager.
                saved => saved,
            };
            *config = new;
            let label = "its settings were changed";
            let noted = note_config(&self.log, self.present(), label, &config);
            saved.and(noted).map_err(|why| Error::Partly { done: label.to_owned(), why: Box::new(why) })?;
        }
        Ok(config.clone())
    }

    /// Writes to the log that it was restored under another name, and its previous name.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub(crate) fn note_name(&self, had: &str) -> Result<()> {
        let label = format!("brought back; it was called {had} before");
        note_config(&self.log, self.present(), &label, &self.config())
    }

    #[must_use]
    pub(crate) fn present(&self) -> BranchId {
        self.log.catalog().head
    }

    /// Whether a supervised machine, an open disk, a reader of a past moment or a thread uses it.
    #[must_use]
    pub(crate) fn is_busy(&self) -> bool {
        self.is_running() || self.has_work() || self.readers() > 0 || !lock(&self.live).is_empty()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Tells its threads to stop, because it is about to be closed.
    pub(crate) fn begin_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Cancels closing.
    pub(crate) fn go_on(&self) {
        self.closing.store(false, Ordering::Release);
    }

    /// Whether a write to one of its disks is paused for lack of room.
    pub(crate) fn is_paused(&self) -> bool {
        lock(&self.live).values().any(Live::is_paused)
    }

    /// The volume of a branch's disk; without a name, of the only disk.
    ///
    /// # Errors
    /// When there is no such disk, or none was named and there are several.
    pub(crate) fn volume(&self, branch: BranchId, disk: Option<&str>) -> Result<VolumeId> {
        let catalog = self.log.catalog();
        let name = match (disk, catalog.disks.as_slice()) {
            (Some(name), _) => name,
            (None, [only]) => only.name.as_str(),
            (None, disks) => {
                let disks = disks.iter().map(|d| d.name.clone()).collect();
                return Err(crate::error::Usage::WhichDisk { target: self.name.clone(), disks }.into());
            }
        };
        Ok(catalog.volume_of(branch, name)?.id)
    }

    /// The volumes of the target's disks at a moment at which all are exact.
    ///
    /// # Errors
    /// When it had no disk yet, or the content of one is not known exactly.
    pub(crate) fn volumes_at(&self, place: Place) -> Result<Vec<VolumeId>> {
        let catalog = self.log.catalog();
        let volumes: Vec<VolumeId> = catalog.volumes_of(place.branch, place.seq).map(|v| v.id).collect();
        if volumes.is_empty() {
            return Err(Error::BeforeDisks { name: self.name.clone() });
        }
        for volume in &volumes {
            self.check_exact(*volume, place.seq)?;
        }
        Ok(volumes)
    }

    /// The volume of a disk at a moment; without a name, of the only disk.
    ///
    /// # Errors
    /// As [`Target::volume`], or when the disk was not there yet.
    pub(crate) fn volume_at(&self, place: Place, disk: Option<&str>) -> Result<VolumeId> {
        let volume = self.volume(place.branch, disk)?;
        if self.log.catalog().volume(volume)?.made > place.seq {
            return Err(Error::BeforeDisks { name: self.name.clone() });
        }
        Ok(volume)
    }

    /// A disk as of a moment. The target cannot be removed while it exists.
    ///
    /// # Errors
    /// When its content at that moment is not known exactly, or the store cannot be read.
    pub(crate) fn as_of(self: &Arc<Self>, volume: VolumeId, seq: Seq) -> Result<PastDisk> {
        let hold = self.hold();
        self.check(Request::Note)?;
        self.past_disk(volume, seq, hold)
    }

    /// The same, for who has the turn or opens the target.
    pub(crate) fn disk_at(self: &Arc<Self>, volume: VolumeId, seq: Seq) -> Result<PastDisk> {
        self.past_disk(volume, seq, self.hold())
    }

    fn past_disk(&self, volume: VolumeId, seq: Seq, hold: past::Hold) -> Result<PastDisk> {
        self.check_exact(volume, seq)?;
        let block_bytes = self.log.catalog().disk_of(volume)?.block_bytes;
        let view = self.unless_gone(self.log.view(volume, seq).map_err(Error::from))?;
        Ok(PastDisk { device: AsOfDevice::new(self.log.clone(), view, block_bytes), _hold: hold })
    }

    /// Checks that all of a disk's content at a moment is known: the unread part would read as zeroes.
    ///
    /// # Errors
    /// [`Error::BaseIncomplete`] when it is not.
    pub(crate) fn check_exact(&self, volume: VolumeId, seq: Seq) -> Result<()> {
        let catalog = self.log.catalog();
        if catalog.is_exact(volume, seq) {
            return Ok(());
        }
        Err(Error::BaseIncomplete { disk: catalog.disk_of(volume)?.name.clone() })
    }

    /// The folder of its machine's sockets and logs.
    #[must_use]
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.shared.paths.run_dir(&self.name)
    }

    /// The newest record when it was opened: earlier ones were written by earlier managers, or when it was added, or are
    /// about a machine that ended before.
    pub(crate) fn opened_at(&self) -> Seq {
        Seq(self.opened_at.load(Ordering::Acquire))
    }

    /// Notes that what is in the log by now is from before it was opened.
    pub(crate) fn note_opened(&self) {
        self.opened_at.store(self.log.head_seq().0, Ordering::Release);
    }

    /// Notes that it was added, or restored after it was removed, under this manager.
    pub(crate) fn note_added(&self) {
        self.added.store(true, Ordering::Release);
    }

    /// Whether it was added, or restored after it was removed, under this manager, which then does not start it by
    /// itself.
    pub(crate) fn is_added(&self) -> bool {
        self.added.load(Ordering::Acquire)
    }

    /// The bytes of data written to its disks since it was opened.
    fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    /// The number of writes by guests since it was opened.
    pub(crate) fn guest_writes(&self) -> u64 {
        self.guest_writes.load(Ordering::Acquire)
    }

    fn note_written(&self, bytes: u64, used: Use) {
        self.written_bytes.fetch_add(bytes, Ordering::Relaxed);
        if used == Use::Guest {
            self.guest_writes.fetch_add(1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests;

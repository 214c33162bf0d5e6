//! A protected machine: its configuration, its log, and its disks while somebody uses them.
//!
//! A disk is open as long as somebody holds a [`Lease`] on it: a running machine, an NBD client, a thread that reads it.
//! When the last one is given back the disk is closed; a tapped one is then whole without Bygone.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use bygone_block::{
    AsOfDevice, BlockDevice, DiskTrouble, Extent, Geometry, IoError, LogDevice, OsDisk, Reading, TapDevice,
    TapState, WhenFull, Writing,
};
use bygone_model::{BranchId, Event, Kind, Seq, VolumeId};
use bygone_store::{
    Log, LogOptions,
    catalog::{Catalog, Disk, Keeping, Shows, Volume},
    env::{RealDir, SystemClock},
    index::cache::PageCache,
};
use bygone_sys::ImageLock;

use crate::{
    api::{DiskStatus, MomentInfo, TargetStatus},
    config::TargetConfig,
    error::{Error, Result},
    machine::Machine,
    store_dir::{StorePaths, random_id},
    timeline::rfc3339,
};

/// A protected machine.
pub(crate) struct Target {
    /// Its name.
    pub name: String,
    /// Where its store is.
    pub paths: StorePaths,
    /// Its history.
    pub log: Arc<Log>,
    config: Mutex<TargetConfig>,
    live: Mutex<HashMap<VolumeId, Live>>,
    pub(crate) machine: Mutex<Option<Arc<Machine>>>,
    pub(crate) last_stop: Mutex<Option<MomentInfo>>,
    pub(crate) stopped: Condvar,
    /// Threads that read or fill disks.
    workers: AtomicUsize,
    closing: AtomicBool,
    /// NBD clients by export name.
    clients: Mutex<HashMap<String, usize>>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

/// An open disk.
struct Live {
    leases: usize,
    kind: LiveKind,
}

enum LiveKind {
    Tap { tap: Arc<TapDevice>, destager: Option<JoinHandle<()>>, _lock: ImageLock },
    Log(Arc<LogDevice>),
}

impl LiveKind {
    fn is_paused(&self) -> bool {
        match self {
            LiveKind::Tap { tap, .. } => tap.is_paused(),
            LiveKind::Log(device) => device.is_paused(),
        }
    }

    fn device(&self) -> Arc<dyn BlockDevice> {
        match self {
            LiveKind::Tap { tap, .. } => tap.clone(),
            LiveKind::Log(device) => device.clone(),
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to use a disk, and the disk.
pub(crate) struct Lease {
    // It goes before the right does: as soon as that is given back the disk may be opened anew, and a device of before that
    // went only then would take the new one's head map with it.
    device: Arc<dyn BlockDevice>,
    right: Right,
}

/// What is given back when it goes.
struct Right {
    target: Arc<Target>,
    volume: VolumeId,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lease({}, volume {})", self.right.target.name, self.right.volume)
    }
}

impl Lease {
    /// The disk's name.
    #[must_use]
    pub(crate) fn disk_name(&self) -> String {
        self.right
            .target
            .log
            .catalog()
            .disk_of(self.right.volume)
            .map_or_else(|_| "?".to_owned(), |disk| disk.name.clone())
    }
}

impl Drop for Right {
    fn drop(&mut self) {
        self.target.give_back(self.volume);
    }
}

impl BlockDevice for Lease {
    fn geometry(&self) -> Geometry {
        self.device.geometry()
    }
    fn read(&self, offset: u64, buf: &mut [u8], reading: Reading) -> std::result::Result<(), IoError> {
        self.device.read(offset, buf, reading)
    }
    fn write(&self, writings: &[Writing<'_>]) -> std::result::Result<(), IoError> {
        self.device.write(writings)
    }
    fn flush(&self) -> std::result::Result<(), IoError> {
        self.device.flush()
    }
    fn extents(
        &self,
        offset: u64,
        len_bytes: u64,
        each: &mut dyn FnMut(Extent) -> bool,
    ) -> std::result::Result<(), IoError> {
        self.device.extents(offset, len_bytes, each)
    }
    fn prefetch(&self, offset: u64, len_bytes: u64) {
        self.device.prefetch(offset, len_bytes);
    }
}

impl Target {
    fn log_options(cache: &Arc<PageCache>) -> LogOptions {
        LogOptions { cache: cache.clone(), ..LogOptions::default() }
    }

    /// Opens a target that there is.
    ///
    /// # Errors
    /// When there is none, or its log cannot be opened.
    pub(crate) fn open(paths: &StorePaths, name: &str, cache: &Arc<PageCache>) -> Result<Arc<Target>> {
        let config = paths.load_config(name)?;
        let dir = Arc::new(RealDir::new(paths.target_dir(name)));
        let log = match Log::open(dir.clone(), Arc::new(SystemClock::new()), Target::log_options(cache)) {
            // A crash between the making of the target and that of its log.
            Err(bygone_store::Error::NoLog) => {
                Log::make(dir, Arc::new(SystemClock::new()), Target::log_options(cache), random_id()?)?
            }
            opened => opened?,
        };
        for (place, damage) in log.damage_at_open() {
            tracing::error!(target = name, %place, %damage, "damaged");
        }
        let target = Target {
            name: name.to_owned(),
            paths: paths.clone(),
            log,
            config: Mutex::new(config),
            live: Mutex::default(),
            machine: Mutex::default(),
            last_stop: Mutex::default(),
            stopped: Condvar::new(),
            workers: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            clients: Mutex::default(),
        };
        target.complete_disks()?;
        Ok(Arc::new(target))
    }

    /// Makes a new target; its disks were checked.
    ///
    /// # Errors
    /// When there is one of this name, or it cannot be written.
    pub(crate) fn make(
        paths: &StorePaths,
        config: &TargetConfig,
        cache: &Arc<PageCache>,
    ) -> Result<Arc<Target>> {
        if paths.target_dir(&config.name).exists() {
            return Err(Error::TargetExists(config.name.clone()));
        }
        let made = paths.save_config(config).and_then(|()| Target::open(paths, &config.name, cache));
        if made.is_err() {
            // Nothing is in it yet, and half a target would be in the way of the next try.
            let _ = std::fs::remove_dir_all(paths.target_dir(&config.name));
        }
        made
    }

    /// Adds the disks that the log does not know yet: all of a new target's, or what a crash kept from it.
    fn complete_disks(&self) -> Result<()> {
        let known = self.log.catalog().disks;
        for disk in self.config().disks.iter().filter(|d| known.iter().all(|k| k.name != d.id)) {
            let keeping = if disk.path.is_some() { Keeping::Tap } else { Keeping::Store };
            let sectors = bygone_model::Sectors::of_bytes(disk.size_bytes);
            self.log.add_disk(&Disk {
                name: disk.id.clone(),
                sectors,
                block_bytes: disk.block_bytes,
                keeping,
            })?;
        }
        Ok(())
    }

    /// How it is made up.
    #[must_use]
    pub(crate) fn config(&self) -> TargetConfig {
        lock(&self.config).clone()
    }

    /// Changes how it is made up.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn set_config(&self, config: TargetConfig) -> Result<()> {
        self.paths.save_config(&config)?;
        *lock(&self.config) = config;
        Ok(())
    }

    /// The branch that is the present.
    #[must_use]
    pub(crate) fn present(&self) -> BranchId {
        self.log.catalog().head
    }

    /// The target runs.
    #[must_use]
    pub(crate) fn is_running(&self) -> bool {
        lock(&self.machine).is_some()
    }

    /// Something still uses it: a machine, a client, a thread that reads a disk.
    #[must_use]
    pub(crate) fn is_busy(&self) -> bool {
        self.is_running() || self.workers.load(Ordering::Acquire) > 0 || !lock(&self.live).is_empty()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Begins to let go of everything.
    pub(crate) fn begin_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Closing was given up.
    pub(crate) fn go_on(&self) {
        self.closing.store(false, Ordering::Release);
    }

    /// A write to one of its disks waits for room.
    pub(crate) fn is_paused(&self) -> bool {
        lock(&self.live).values().any(|open| open.kind.is_paused())
    }

    /// What is wrong with its disks, in words.
    fn troubles(&self, catalog: &Catalog, live: &HashMap<VolumeId, Live>) -> Vec<String> {
        const PAUSED: &str = "writes wait because the store is full, and the target stands still; free space on the store's file system, and it goes on by itself";
        const WAITS: &str =
            "writes wait for the disk outside the store, which takes none, and the target stands still";
        const DISK_FULL: &str = "the file system of the disk outside the store is full; free space there, and the disk is brought up to date (the store has everything)";
        const FAILED: &str =
            "the disk outside the store takes no writes; check it (the store has everything)";
        const BEHIND: &str = "the disk outside the store is not up to date, so do not use it without Bygone; the next use of the disk, or the next start of the manager, brings it up to date (the store has everything)";
        let mut troubles = Vec::new();
        for volume in catalog.volumes.iter() {
            let Ok(Disk { name, .. }) = catalog.disk_of(volume.id) else { continue };
            let mut say = |what: String| troubles.push(format!("{}/{name}: {what}", self.name));
            let Some(open) = live.get(&volume.id) else {
                if self.is_behind(catalog, volume) {
                    say(BEHIND.to_owned());
                }
                continue;
            };
            let trouble = match &open.kind {
                LiveKind::Tap { tap, .. } => tap.trouble(),
                LiveKind::Log(_) => None,
            };
            if open.kind.is_paused() {
                say(if trouble.is_none() || self.log.is_full() { PAUSED } else { WAITS }.to_owned());
            }
            match trouble {
                Some(DiskTrouble::Full) => say(DISK_FULL.to_owned()),
                Some(DiskTrouble::Failed(why)) => say(format!("{FAILED}: {why}")),
                None => {}
            }
        }
        troubles
    }

    /// A tapped disk that nobody uses lacks something that the store has.
    fn is_behind(&self, catalog: &Catalog, volume: &Volume) -> bool {
        volume.branch == catalog.head
            && catalog.shows.get(&volume.disk).is_none_or(|shows| *shows == Shows::Volume(volume.id))
            && catalog.taps.get(&volume.id.0).is_some_and(|mark| mark.complete && !mark.clean)
    }

    /// Opens the disk `volume`, or shares it with those who have it open.
    ///
    /// # Errors
    /// When the disk outside the store is missing, busy or of another size, or the store cannot be read.
    pub(crate) fn lease(self: &Arc<Self>, volume: VolumeId) -> Result<Lease> {
        let mut live = lock(&self.live);
        let (device, then) = match live.get_mut(&volume) {
            Some(open) => {
                open.leases += 1;
                (open.kind.device(), Then::Nothing)
            }
            None => {
                let (kind, then) = self.open_volume(volume)?;
                let device = kind.device();
                live.insert(volume, Live { leases: 1, kind });
                (device, then)
            }
        };
        drop(live);
        let lease = Lease { device, right: Right { target: self.clone(), volume } };
        match then {
            Then::Nothing => {}
            Then::Read(state) => self.read_in_background(volume, state)?,
            Then::Fill => self.fill_in_background(volume),
        }
        Ok(lease)
    }

    fn open_volume(&self, volume: VolumeId) -> Result<(LiveKind, Then)> {
        let catalog = self.log.catalog();
        let entry = catalog.volume(volume)?.clone();
        let disk = catalog.disk_of(volume)?.clone();
        let shows = catalog.shows.get(&entry.disk);
        let outside = disk.keeping == Keeping::Tap && entry.branch == catalog.head;
        if outside && (shows == Some(&Shows::Volume(volume)) || (shows.is_none() && entry.parent.is_none())) {
            let (raw, image_lock) = self.take_disk(&disk)?;
            let (tap, state) = TapDevice::open(self.log.clone(), volume, Box::new(raw), WhenFull::Pause)?;
            let runner = tap.clone();
            let destager = std::thread::Builder::new()
                .name("destager".into())
                .spawn(move || runner.run_destager())
                .map_err(|e| Error::file("starting a thread for", &self.name, e))?;
            let then = if state == TapState::Known { Then::Nothing } else { Then::Read(state) };
            return Ok((LiveKind::Tap { tap, destager: Some(destager), _lock: image_lock }, then));
        }
        self.check_exact(volume, self.log.head_seq())?;
        let device = LogDevice::open(self.log.clone(), volume, WhenFull::Pause)?;
        Ok((LiveKind::Log(Arc::new(device)), if outside { Then::Fill } else { Then::Nothing }))
    }

    /// Opens and locks the disk outside the store.
    pub(crate) fn take_disk(&self, disk: &Disk) -> Result<(OsDisk, ImageLock)> {
        let path = self.config().disk(&disk.name).and_then(|d| d.path.clone()).unwrap_or_default();
        let (size, raw, image_lock) = open_disk(&path)?;
        if size != disk.sectors.bytes() {
            let wanted = format!("it had {} when it was added", disk.sectors.bytes());
            return Err(Error::DiskSize { path, found: size, wanted });
        }
        Ok((raw, image_lock))
    }

    fn give_back(&self, volume: VolumeId) {
        let mut live = lock(&self.live);
        let Some(open) = live.get_mut(&volume) else { return };
        open.leases -= 1;
        if open.leases > 0 {
            return;
        }
        // Closed under the lock, so that whoever opens it next finds it closed.
        match live.remove(&volume).map(|open| open.kind) {
            Some(LiveKind::Tap { tap, destager, _lock }) => {
                if let Err(e) = tap.close() {
                    tracing::error!(target = self.name, error = %e, "the tapped disk could not be brought up to date; the log has everything and the next start goes on");
                }
                if let Some(thread) = destager {
                    let _ = thread.join();
                }
            }
            Some(LiveKind::Log(device)) => {
                device.close();
                if let Err(e) = device.flush() {
                    tracing::error!(target = self.name, error = %e, "the log could not be flushed");
                }
            }
            None => {}
        }
    }

    /// The volume of a branch's disk. Without a name it is the only one.
    ///
    /// # Errors
    /// When there is none, or several and none was named.
    pub(crate) fn volume(&self, branch: BranchId, disk: Option<&str>) -> Result<VolumeId> {
        let catalog = self.log.catalog();
        let name = match (disk, catalog.disks.as_slice()) {
            (Some(name), _) => name,
            (None, [only]) => only.name.as_str(),
            (None, disks) => {
                let names: Vec<&str> = disks.iter().map(|d| d.name.as_str()).collect();
                return Err(crate::error::Usage::WhichDisk(self.name.clone(), names.join(", ")).into());
            }
        };
        Ok(catalog.volume_of(branch, name)?.id)
    }

    /// A disk as of a moment.
    ///
    /// # Errors
    /// When its content is not known exactly at that moment, or the store cannot be read.
    pub(crate) fn as_of(&self, volume: VolumeId, seq: Seq) -> Result<AsOfDevice> {
        self.check_exact(volume, seq)?;
        let block_bytes = self.log.catalog().disk_of(volume)?.block_bytes;
        let view = self.log.view(volume, seq)?;
        Ok(AsOfDevice::new(self.log.clone(), view, block_bytes))
    }

    /// All of a disk's content at that moment is known; what was not read of it would read as zeroes.
    ///
    /// # Errors
    /// When it is not.
    pub(crate) fn check_exact(&self, volume: VolumeId, seq: Seq) -> Result<()> {
        let catalog = self.log.catalog();
        if catalog.is_exact(volume, seq) {
            return Ok(());
        }
        Err(Error::BaseIncomplete { disk: catalog.disk_of(volume)?.name.clone() })
    }

    /// Reads a tapped disk into the store, in a thread of its own.
    fn read_in_background(self: &Arc<Self>, volume: VolumeId, state: TapState) -> Result<()> {
        let tap = match lock(&self.live).get_mut(&volume) {
            Some(Live { kind: LiveKind::Tap { tap, .. }, leases }) => {
                *leases += 1;
                tap.clone()
            }
            _ => return Ok(()),
        };
        let lease = Lease { device: tap.clone(), right: Right { target: self.clone(), volume } };
        let disk = self.log.catalog().disk_of(volume)?.name.clone();
        let (kind, begun) = match state {
            TapState::Changed => {
                (Kind::Gap, format!("disk {disk} was changed without Bygone; reading it again"))
            }
            TapState::Unfinished => (Kind::Base, format!("going on with reading disk {disk}")),
            _ => (Kind::Base, format!("reading disk {disk}; history is complete once that is done")),
        };
        let event = Event::new(kind.clone(), begun).with("disk", disk.clone()).with("phase", "begin");
        self.log.event(self.present(), &event)?;
        self.log.flush()?;
        self.in_background("base", move |target| {
            // The tap goes before the right to it does.
            let (_lease, tap) = (lease, tap);
            target.read_disk(&tap, &disk, kind);
        })
    }

    /// Does something in a thread that [`Target::is_busy`] knows of.
    fn in_background(
        self: &Arc<Self>,
        name: &str,
        work: impl FnOnce(&Arc<Target>) + Send + 'static,
    ) -> Result<()> {
        let worker = Worker::of(self);
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || work(&worker.0))
            .map(drop)
            .map_err(|e| Error::file("starting a thread for", &self.name, e))
    }

    fn read_disk(&self, tap: &Arc<TapDevice>, disk: &str, kind: Kind) {
        match tap.reread(&mut |_, _| !self.is_closing()) {
            Ok(found) if tap.is_complete() => {
                let label = match kind {
                    Kind::Gap => format!(
                        "disk {disk} was read again: {} changed while Bygone was not watching",
                        people_bytes(found.changed_bytes)
                    ),
                    _ => format!("disk {disk} is complete: every moment from here on can be brought back"),
                };
                let mut event = Event::new(kind, label)
                    .with("disk", disk)
                    .with("phase", "complete")
                    .with("changed_bytes", found.changed_bytes)
                    .with("read_bytes", found.compared_bytes);
                if let Some((first, end)) = found.changed_range {
                    event = event.with("changed_from_byte", first).with("changed_to_byte", end);
                }
                let noted = self.log.event(self.present(), &event).and_then(|_| self.log.flush());
                if let Err(e) = noted {
                    tracing::error!(target = self.name, error = %e, "the log cannot be written");
                }
            }
            Ok(_) => {}
            Err(e) => {
                tracing::error!(target = self.name, disk, error = %e, "the disk cannot be read into the store");
            }
        }
    }

    /// Makes the disk outside the store show the present, in a thread of its own.
    pub(crate) fn fill_in_background(self: &Arc<Self>, volume: VolumeId) {
        fn warn(target: &Target, error: &Error) {
            tracing::warn!(target = target.name, %error, "the disk outside the store could not be filled; its present stays in the store");
        }
        let begun = self.in_background("fill", move |target| {
            if let Err(e) = crate::restore::fill_disk(target, volume, &mut |_, _| !target.is_closing()) {
                warn(target, &e);
            }
        });
        if let Err(e) = begun {
            warn(self, &e);
        }
    }

    /// Begins to bring tapped disks of the present up to date that an earlier life left behind, in a thread of its own.
    pub(crate) fn catch_up(self: &Arc<Self>) {
        fn warn(target: &Target, error: &Error) {
            tracing::warn!(target = target.name, %error, "its disk cannot be brought up to date now");
        }
        let catalog = self.log.catalog();
        let behind: Vec<VolumeId> =
            catalog.volumes.iter().filter(|v| self.is_behind(&catalog, v)).map(|v| v.id).collect();
        if behind.is_empty() {
            return;
        }
        let begun = self.in_background("catch up", move |target| {
            for volume in behind {
                // Whoever uses a disk last brings it up to date.
                if let Err(e) = target.lease(volume) {
                    warn(target, &e);
                }
            }
        });
        if let Err(e) = begun {
            warn(self, &e);
        }
    }

    /// Begins to read what was not read yet of the tapped disks of the present.
    ///
    /// # Errors
    /// When a disk cannot be opened.
    pub(crate) fn read_disks(self: &Arc<Self>) -> Result<()> {
        let catalog = self.log.catalog();
        for volume in catalog.volumes_of(catalog.head, Seq::MAX) {
            let tapped = catalog.disk_of(volume.id)?.keeping == Keeping::Tap;
            let complete = catalog.taps.get(&volume.id.0).is_some_and(|mark| mark.complete);
            if tapped && !complete {
                drop(self.lease(volume.id)?);
            }
        }
        Ok(())
    }

    /// A client of an export came (`true`) or went.
    pub(crate) fn note_client(&self, export: &str, came: bool) {
        let mut clients = lock(&self.clients);
        let count = clients.entry(export.to_owned()).or_default();
        *count = if came { *count + 1 } else { count.saturating_sub(1) };
        if *count == 0 {
            clients.remove(export);
        }
    }

    /// Somebody is connected to one of these exports.
    pub(crate) fn has_clients(&self, exports: &[String]) -> bool {
        let clients = lock(&self.clients);
        exports.iter().any(|export| clients.contains_key(export))
    }

    /// Its state.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn status(&self) -> Result<TargetStatus> {
        let catalog = self.log.catalog();
        let head = self.log.head_seq();
        let config = self.config();
        let live = lock(&self.live);
        let mut disks = Vec::new();
        for volume in catalog.volumes_of(catalog.head, Seq::MAX) {
            let disk = catalog.disk_of(volume.id)?;
            let tapped = disk.keeping == Keeping::Tap;
            let read_bytes = match live.get(&volume.id).map(|open| &open.kind) {
                Some(LiveKind::Tap { tap, .. }) if !tap.is_complete() => tap.reread_bytes(),
                _ => 0,
            };
            let complete = !tapped || catalog.is_exact(volume.id, head);
            let on_branch = volume.parent.is_some()
                && !(tapped && catalog.shows.get(&volume.disk) == Some(&Shows::Volume(volume.id)));
            let mode = if on_branch {
                "branch"
            } else if tapped {
                "tap"
            } else {
                "store"
            };
            disks.push(DiskStatus {
                id: disk.name.clone(),
                size_bytes: disk.sectors.bytes(),
                mode: mode.to_owned(),
                path: config.disk(&disk.name).and_then(|d| d.path.clone()),
                complete,
                read_bytes: if complete { disk.sectors.bytes() } else { read_bytes },
            });
        }
        let problems = self.troubles(&catalog, &live);
        drop(live);
        Ok(TargetStatus {
            name: self.name.clone(),
            state: if self.is_running() { "running" } else { "stopped" }.to_owned(),
            head_seq: head.0,
            durable_seq: self.log.durable_seq().0,
            head_time: rfc3339(self.log.time_of(head)?),
            branch: catalog.branch(catalog.head).map_or("main", |b| &b.name).to_owned(),
            disks,
            problems,
        })
    }
}

/// Counts a thread that reads or fills disks, for as long as it is there.
struct Worker(Arc<Target>);

impl Worker {
    fn of(target: &Arc<Target>) -> Worker {
        target.workers.fetch_add(1, Ordering::AcqRel);
        Worker(target.clone())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.workers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What follows the opening of a disk.
enum Then {
    Nothing,
    Read(TapState),
    Fill,
}

/// Opens and locks a disk outside the store; says its size.
///
/// # Errors
/// When it cannot be opened, is used by something else, or has no size that a disk can have.
pub(crate) fn open_disk(path: &Path) -> Result<(u64, OsDisk, ImageLock)> {
    let raw = OsDisk::open(path).map_err(|source| Error::Disk { path: path.to_owned(), source })?;
    let image_lock = ImageLock::take_exclusive(raw.os_file())
        .map_err(|source| Error::DiskLocked { path: path.to_owned(), source })?;
    let size = bygone_block::RawDisk::size_bytes(&raw);
    if size == 0 || size % 512 != 0 {
        let wanted = "a disk has a multiple of 512, and more than none".to_owned();
        return Err(Error::DiskSize { path: path.to_owned(), found: size, wanted });
    }
    Ok((size, raw, image_lock))
}

/// Bytes for people.
#[must_use]
pub fn people_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} bytes") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests;

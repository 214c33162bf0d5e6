//! A protected machine: its configuration, its log, and its disks while somebody uses them.
//!
//! A disk is open as long as somebody holds a [`Lease`] on it: a running machine, an NBD client, a thread that reads it.
//! When the last one is given back the disk is closed; a tapped one is then whole without Bygone.

mod lease;
mod status;
mod work;

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bygone_block::AsOfDevice;
use bygone_model::{BranchId, Seq, VolumeId};
use bygone_store::{
    Log, LogOptions,
    catalog::{Disk, Keeping},
    env::{RealDir, SystemClock},
    index::cache::PageCache,
};

use crate::{
    api::MomentInfo,
    config::TargetConfig,
    error::{Error, Result},
    machine::Machine,
    store_dir::{StorePaths, random_id},
};

use self::lease::Live;
pub(crate) use self::lease::{Lease, open_disk};
pub use self::status::people_bytes;

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

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
}

#[cfg(test)]
mod tests;

//! A protected machine: its configuration, its log, and its disks while somebody uses them.
//!
//! A disk is open as long as somebody holds a [`Lease`] on it: a running machine, an NBD client, a thread that reads it.
//! When the last one is given back the disk is closed; a tapped one is then whole without Bygone.

mod folder;
mod lease;
mod status;
mod work;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
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
    env::SystemClock,
    index::cache::PageCache,
};

use crate::{
    api::MomentInfo,
    config::TargetConfig,
    error::{Error, Result},
    machine::Machine,
    store_dir::{Configs, StorePaths, random_id},
};

pub(crate) use self::lease::{Lease, open_disk};
use self::{folder::Folder, lease::Live};

/// A protected machine.
pub(crate) struct Target {
    /// Its name.
    pub name: String,
    /// Where its store is.
    pub paths: StorePaths,
    /// Its history.
    pub log: Arc<Log>,
    dir: PathBuf,
    folder: Arc<Folder>,
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
    /// When a part of it is missing, its newest configuration cannot be read, or its log cannot be opened. Nothing is changed then.
    pub(crate) fn open(paths: &StorePaths, name: &str, cache: &Arc<PageCache>) -> Result<Arc<Target>> {
        Target::open_in(paths, name, paths.target_dir(name), cache)
    }

    fn open_in(paths: &StorePaths, name: &str, dir: PathBuf, cache: &Arc<PageCache>) -> Result<Arc<Target>> {
        let config = Configs::of(&dir, name).load()?;
        let folder = Folder::new(&dir);
        let opened = Log::open(folder.clone(), Arc::new(SystemClock::new()), Target::log_options(cache));
        let log = opened.map_err(|e| match e {
            // A log is made once, when its target is added: another one would hide the history that this one had.
            bygone_store::Error::NoLog => Error::Missing(dir.join("log")),
            e => e.into(),
        })?;
        for (place, damage) in log.damage_at_open() {
            tracing::error!(target = name, %place, %damage, "damaged");
        }
        let target = Target {
            name: name.to_owned(),
            paths: paths.clone(),
            log,
            dir,
            folder,
            config: Mutex::new(config),
            live: Mutex::default(),
            machine: Mutex::default(),
            last_stop: Mutex::default(),
            stopped: Condvar::new(),
            workers: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            clients: Mutex::default(),
        };
        Ok(Arc::new(target))
    }

    /// Makes a new target; its disks were checked. `fill` gives its disks in the store their first content. The target has its name
    /// once all of that is done, so a crash leaves the whole of it or nothing.
    ///
    /// # Errors
    /// When there is one of this name, it cannot be written, or `fill` failed. Then nothing is left of it.
    pub(crate) fn make(
        paths: &StorePaths,
        config: &TargetConfig,
        cache: &Arc<PageCache>,
        fill: impl FnOnce(&Arc<Target>) -> Result<()>,
    ) -> Result<Arc<Target>> {
        let name = &config.name;
        let dir = paths.begin_adding(name)?;
        let made = Target::make_in(paths, config, &dir, cache, fill).and_then(|()| paths.finish_adding(name));
        if made.is_err() {
            let _ = std::fs::remove_dir_all(&dir);
        }
        made.and_then(|()| Target::open(paths, name, cache))
    }

    fn make_in(
        paths: &StorePaths,
        config: &TargetConfig,
        dir: &Path,
        cache: &Arc<PageCache>,
        fill: impl FnOnce(&Arc<Target>) -> Result<()>,
    ) -> Result<()> {
        Configs::of(dir, &config.name).save(config)?;
        let (clock, options) = (Arc::new(SystemClock::new()), Target::log_options(cache));
        let log = Log::make(Folder::new(dir), clock, options, random_id()?)?;
        for disk in &config.disks {
            log.add_disk(&Disk {
                name: disk.id.clone(),
                sectors: bygone_model::Sectors::of_bytes(disk.size_bytes),
                block_bytes: disk.block_bytes,
                keeping: if disk.path.is_some() { Keeping::Tap } else { Keeping::Store },
            })?;
        }
        drop(log);
        let target = Target::open_in(paths, &config.name, dir.to_owned(), cache)?;
        fill(&target)?;
        target.log.flush()?;
        Ok(())
    }

    /// Its folder.
    #[must_use]
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Lets go of its folder: nothing is written there any more.
    pub(crate) fn leave_folder(&self) {
        self.folder.leave();
    }

    /// How it is made up.
    #[must_use]
    pub(crate) fn config(&self) -> TargetConfig {
        lock(&self.config).clone()
    }

    /// Changes how it is made up; one change after the other.
    ///
    /// # Errors
    /// When `change` refuses, or it cannot be written. Then nothing has changed.
    pub(crate) fn change_config(
        &self,
        change: impl FnOnce(&mut TargetConfig) -> Result<()>,
    ) -> Result<TargetConfig> {
        let mut config = lock(&self.config);
        let mut new = config.clone();
        change(&mut new)?;
        if new != *config {
            Configs::of(&self.dir, &self.name).save(&new)?;
            *config = new;
        }
        Ok(config.clone())
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
                let disks = disks.iter().map(|d| d.name.clone()).collect();
                return Err(crate::error::Usage::WhichDisk { target: self.name.clone(), disks }.into());
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

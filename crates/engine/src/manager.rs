//! The manager: all targets of a store, and the answers to what is asked of it.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bygone_block::nbd;
use bygone_model::{Event, Kind, Seq, when::WholeDay};
use bygone_store::{CACHE_BYTES, index::cache::PageCache};
use serde::Serialize;

use crate::{
    api::{
        Answers, BranchInfo, Compacted, DamagedPlace, ExportTo, Exported, NewDisk, NewSource, Progress,
        Removed, Request, Status, StoreStatus, TargetInfo, Verified,
    },
    config::{self, DiskConfig, TargetConfig},
    error::{Error, Result, Usage},
    exports::OneExport,
    history::LogHistory,
    machine::{Boot, Machine},
    qemu, restore,
    store_dir::{StoreLock, StorePaths},
    target::{self, Target, lock},
    timeline,
};

/// How long a target may take to shut down unless told otherwise.
const STOP_PATIENCE_S: u32 = 90;
/// How often somebody who waits is asked whether they still do.
const WANTED_EVERY: Duration = Duration::from_millis(200);
const NBD_STOP_MAX: Duration = Duration::from_secs(5);
/// With less room than this, a store says so.
const LOW_BYTES: u64 = 1 << 30;

/// See the module's comment.
pub(crate) struct Manager {
    paths: StorePaths,
    cache: Arc<PageCache>,
    targets: RwLock<BTreeMap<String, Arc<Target>>>,
    broken: Mutex<BTreeMap<String, String>>,
    accel: OnceLock<qemu::Accel>,
    stopping: AtomicBool,
    pub(crate) keep_targets: AtomicBool,
    _lock: StoreLock,
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manager").field("paths", &self.paths).finish_non_exhaustive()
    }
}

fn value<T: Serialize>(answer: &T) -> Result<serde_json::Value> {
    serde_json::to_value(answer).map_err(|e| Usage::BadRequest(e.to_string()).into())
}

/// Removes a target whose disks were not imported completely: half a disk is worse than none.
fn discard(paths: &StorePaths, target: &str) {
    let dir = paths.target_dir(target);
    if let Err(error) = fs::remove_dir_all(&dir) {
        tracing::error!(dir = %dir.display(), %error, "cannot remove what is left of it");
    }
}

impl Manager {
    /// Opens a store and all its targets. A target that cannot be opened does not keep the others from it.
    ///
    /// # Errors
    /// When there is no store that this program can use, or another process has it.
    pub(crate) fn open(paths: &StorePaths) -> Result<Arc<Manager>> {
        paths.check()?;
        let store_lock = paths.lock()?;
        let manager = Manager {
            paths: paths.clone(),
            cache: PageCache::new(CACHE_BYTES),
            targets: RwLock::default(),
            broken: Mutex::default(),
            accel: OnceLock::new(),
            stopping: AtomicBool::new(false),
            keep_targets: AtomicBool::new(false),
            _lock: store_lock,
        };
        for name in paths.targets()? {
            if paths.load_config(&name).is_ok_and(|config| config.importing) {
                tracing::warn!(target = name, "its import was cut off, so it is removed; add it again");
                discard(paths, &name);
                continue;
            }
            match Target::open(paths, &name, &manager.cache) {
                Ok(target) => {
                    manager.targets_mut().insert(name, target);
                }
                Err(e) => {
                    tracing::error!(target = name, error = %e, "the target cannot be opened");
                    lock(&manager.broken).insert(name, format!("{e}; {}", e.hint()));
                }
            }
        }
        Ok(Arc::new(manager))
    }

    fn targets_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<String, Arc<Target>>> {
        self.targets.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// All targets.
    #[must_use]
    pub(crate) fn targets(&self) -> Vec<Arc<Target>> {
        self.targets.read().unwrap_or_else(std::sync::PoisonError::into_inner).values().cloned().collect()
    }

    /// The target of this name.
    ///
    /// # Errors
    /// When there is none, or it cannot be opened.
    pub(crate) fn target(&self, name: &str) -> Result<Arc<Target>> {
        let targets = self.targets.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        targets.get(name).cloned().ok_or_else(|| Error::NoTarget(name.to_owned()))
    }

    /// Where the store is.
    #[must_use]
    pub(crate) fn paths(&self) -> &StorePaths {
        &self.paths
    }

    /// The manager is about to end.
    #[must_use]
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Asks the manager to end.
    pub(crate) fn stop(&self, keep_targets: bool) {
        self.keep_targets.store(keep_targets, Ordering::Release);
        self.stopping.store(true, Ordering::Release);
    }

    /// Something runs or is being read.
    #[must_use]
    pub(crate) fn is_busy(&self) -> bool {
        self.targets().iter().any(|target| target.is_busy())
    }

    /// KVM where it really works, else TCG.
    fn accel(&self) -> Result<qemu::Accel> {
        if let Some(accel) = self.accel.get() {
            return Ok(*accel);
        }
        let qemu_path = qemu::find_qemu()?;
        let finding = qemu::accel::probe(&qemu_path, &self.paths.root().join("run"), qemu::accel::PROBE_MAX)?;
        tracing::info!(accelerator = %finding.accel(), "{}", finding.explain());
        Ok(*self.accel.get_or_init(|| finding.accel()))
    }

    /// Answers a request.
    ///
    /// # Errors
    /// When it cannot be done.
    pub(crate) fn handle(&self, request: &Request, answers: &mut dyn Answers) -> Result<serde_json::Value> {
        match request {
            Request::Status => value(&self.status()?),
            Request::TargetAdd { config, disks, wait } => self.add(config, disks, *wait, answers),
            Request::TargetList => {
                for target in self.targets() {
                    if !answers.item(value(&info(&target)?)?) {
                        break;
                    }
                }
                Ok(serde_json::Value::Null)
            }
            Request::TargetShow { name } => value(&info(&*self.target(name)?)?),
            Request::TargetSet { name, settings } => {
                let target = self.target(name)?;
                let mut config = target.config();
                for (key, text) in settings {
                    config.set(key, text)?;
                }
                target.set_config(config)?;
                value(&info(&target)?)
            }
            Request::TargetRemove { name, delete_history } => self.remove(name, *delete_history),
            Request::Run { name, at, branch, display } => {
                let display = display.clone().unwrap_or_default();
                self.run(name, at.as_deref(), branch.as_deref(), display)
            }
            Request::Wait { name } => value(&self.target(name)?.wait_stopped(&mut || answers.wanted())?),
            Request::Stop { name, force, deadline_s } => self.stop_target(name, *force, *deadline_s, answers),
            Request::Export { what, to } => self.export(what, to, answers),
            Request::Timeline { name, since, until, kinds } => {
                let target = self.target(name)?;
                let moments = timeline::timeline(&target.log, since.as_deref(), until.as_deref(), kinds)?;
                items(answers, moments)
            }
            Request::Point { name, at, label, hold } => {
                value(&timeline::add_point(&self.target(name)?.log, at.as_deref(), label, hold.as_deref())?)
            }
            Request::Points { name } => items(answers, timeline::points(&self.target(name)?.log)?),
            Request::BranchList { name } => items(answers, branches(&*self.target(name)?)?),
            Request::BranchPromote { name, branch } => {
                let target = self.target(name)?;
                let branch = which_branch(&target, branch.as_deref())?;
                value(&restore::promote(&target, &branch, false, answers)?)
            }
            Request::BranchDrop { name, branch } => drop_branch(&*self.target(name)?, branch),
            Request::Restore { name, at, disk, to, discard_later } => {
                let target = self.target(name)?;
                value(&restore::restore(&target, at, disk.as_deref(), to, *discard_later, answers)?)
            }
            Request::Verify { name, newest_first, for_s } => {
                self.verify(name.as_deref(), *newest_first, for_s.map(Duration::from_secs), answers)
            }
            Request::Compact { dry_run } => self.compact(*dry_run),
            Request::Shutdown { keep_targets } => {
                self.stop(*keep_targets);
                Ok(serde_json::Value::Null)
            }
        }
    }

    fn status(&self) -> Result<Status> {
        let mut targets = Vec::new();
        let mut problems = Vec::new();
        let (mut used_bytes, mut logical_bytes) = (0, 0);
        let (mut state, mut full) = ("ok", false);
        for target in self.targets() {
            let mut status = target.status()?;
            if status.state == "stopped" && Machine::is_left_running(&target) {
                status.state = "unknown".to_owned();
                problems.push(format!(
                    "{}: the machine stands still because no manager serves its disks; `bygone serve` takes it up again",
                    target.name
                ));
            }
            used_bytes += target.log.used_bytes()?;
            logical_bytes += status.disks.iter().map(|d| d.size_bytes).sum::<u64>();
            problems.extend(status.problems.iter().cloned());
            full |= target.log.is_full();
            for (place, damage) in target.log.damage_at_open() {
                problems.push(format!("{}: damage in {place}: {damage}; run `bygone verify`", target.name));
            }
            if target.log.is_poisoned() {
                state = "failed";
                problems
                    .push(format!("{}: the medium failed; check it and restart the manager", target.name));
            }
            for disk in status.disks.iter().filter(|d| !d.complete) {
                let read = target::people_bytes(disk.read_bytes);
                problems.push(format!(
                    "{}/{}: not completely read yet ({read} of {}); history begins when it is",
                    target.name,
                    disk.id,
                    target::people_bytes(disk.size_bytes)
                ));
            }
            targets.push(status);
        }
        for (name, why) in lock(&self.broken).iter() {
            problems.push(format!("{name}: {why}"));
        }
        let free_bytes =
            bygone_store::env::Dir::free_bytes(&bygone_store::env::RealDir::new(self.paths.root()))
                .map_err(|e| Error::file("looking at", self.paths.root(), e))?;
        let options = bygone_store::LogOptions::default();
        if state == "ok" && (full || free_bytes < options.room_bytes_min()) {
            state = "full";
            problems.push(
                "the store is full: what targets write waits as soon as the room that is set aside for it is used up; free space on the store's file system"
                    .into(),
            );
        } else if state == "ok" && free_bytes < LOW_BYTES {
            let free = target::people_bytes(free_bytes);
            problems.push(format!(
                "the store's file system has only {free} left; when it is full, targets stand still"
            ));
        }
        let store = StoreStatus {
            path: self.paths.root().to_owned(),
            used_bytes,
            logical_bytes,
            free_bytes,
            state: state.to_owned(),
        };
        Ok(Status { targets, store, problems })
    }

    fn add(
        &self,
        config: &TargetConfig,
        disks: &[NewDisk],
        wait: bool,
        answers: &mut dyn Answers,
    ) -> Result<serde_json::Value> {
        config::check_name(&config.name)?;
        if self.paths.target_dir(&config.name).exists() {
            return Err(Error::TargetExists(config.name.clone()));
        }
        for file in config.kernel.iter().chain(&config.initrd) {
            fs::metadata(file).map_err(|e| Error::file("using", file, e))?;
        }
        let mut config = config.clone();
        let mut imports = Vec::new();
        for (i, disk) in disks.iter().enumerate() {
            let letter = char::from_u32('a' as u32 + i as u32 % 26).unwrap_or('a');
            let id = disk.id.clone().unwrap_or_else(|| format!("vd{letter}"));
            config::check_name(&id)?;
            if config.disk(&id).is_some() {
                return Err(bygone_store::Error::DiskExists(id).into());
            }
            let (path, size) = match &disk.source {
                NewSource::Tap(path) => {
                    let path = config::absolute(path);
                    (Some(path.clone()), target::open_disk(&path)?.0)
                }
                NewSource::Store(bytes) => (None, *bytes),
                NewSource::Import(path) => {
                    let size = crate::import::size_of(path)?;
                    imports.push((id.clone(), path.clone()));
                    (None, size)
                }
            };
            let block = u64::from(disk.block_bytes);
            if !matches!(block, 512 | 4096) || size == 0 || size % block != 0 {
                let path = path.unwrap_or_else(|| PathBuf::from(&id));
                let wanted =
                    format!("it must be a multiple of its block size, {block} (512 or 4096), and not 0");
                return Err(Error::DiskSize { path, found: size, wanted });
            }
            config.disks.push(DiskConfig { id, path, block_bytes: disk.block_bytes, size_bytes: size });
        }
        config.importing = !imports.is_empty();
        let name = config.name.clone();
        let target = Target::make(&self.paths, &config, &self.cache)?;
        self.targets_mut().insert(name, target.clone());
        let imported = imports
            .iter()
            .try_for_each(|(id, path)| crate::import::import(&target, id, path, answers))
            .and_then(|()| match config.importing {
                true => target.set_config(TargetConfig { importing: false, ..target.config() }),
                false => Ok(()),
            });
        if let Err(e) = imported {
            self.targets_mut().remove(&target.name);
            discard(&self.paths, &target.name);
            return Err(e);
        }
        target.read_disks()?;
        let mut told = false;
        while wait && target.is_busy() {
            if !answers.wanted() {
                break;
            }
            if !told && target.is_paused() {
                told = true;
                answers.note("the store is full; the disk is read on as soon as there is room".to_owned());
            }
            let status = target.status()?;
            let tapped = || status.disks.iter().filter(|d| d.mode == "tap");
            answers.progress(Progress {
                doing: "reading the disk".to_owned(),
                done_bytes: tapped().map(|d| d.read_bytes).sum(),
                total_bytes: tapped().map(|d| d.size_bytes).sum(),
            });
            std::thread::sleep(WANTED_EVERY / 4);
        }
        value(&info(&target)?)
    }

    fn remove(&self, name: &str, delete_history: bool) -> Result<serde_json::Value> {
        let found = self.target(name)?;
        if found.is_running() || Machine::is_left_running(&found) {
            return Err(Error::TargetRunning(name.to_owned()));
        }
        found.begin_closing();
        let patience = Instant::now() + Duration::from_secs(10);
        while found.is_busy() {
            if Instant::now() > patience {
                found.go_on();
                return Err(Error::TargetRunning(name.to_owned()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.targets_mut().remove(name);
        drop(found);
        let dir = self.paths.target_dir(name);
        let kept_at = if delete_history {
            fs::remove_dir_all(&dir).map_err(|e| Error::file("deleting", &dir, e))?;
            None
        } else {
            let folder = self.paths.removed_dir();
            fs::create_dir_all(&folder).map_err(|e| Error::file("making", &folder, e))?;
            let to = (1..).map(|n: u32| folder.join(format!("{name}-{n}"))).find(|path| !path.exists());
            let to = to.unwrap_or_else(|| folder.join(name));
            fs::rename(&dir, &to).map_err(|e| Error::file("moving", &dir, e))?;
            Some(to)
        };
        value(&Removed { name: name.to_owned(), kept_at })
    }

    fn run(
        &self,
        name: &str,
        at: Option<&str>,
        branch: Option<&str>,
        display: config::Display,
    ) -> Result<serde_json::Value> {
        let target = self.target(name)?;
        if target.is_running() {
            return Err(Error::TargetRunning(name.to_owned()));
        }
        let accel = self.accel()?;
        let catalog = target.log.catalog();
        let (branch, from) = match (at, branch) {
            (None, None) => (catalog.head, None),
            (None, Some(branch)) => (catalog.branch_named(branch)?.id, None),
            (Some(when), made) => {
                let found = LogHistory::new(&target.log, catalog.head).find(when, WholeDay::Refuse)?;
                let on = match &found.branch {
                    Some(name) => catalog.branch_named(name)?.id,
                    None => catalog.head,
                };
                for volume in catalog.volumes_of(on, Seq::MAX) {
                    target.check_exact(volume.id, found.seq)?;
                }
                let made = restore::new_branch(&target, on, found.seq, made, "run")?;
                (target.log.catalog().branch_named(&made)?.id, Some(found.seq))
            }
        };
        value(&Machine::boot(&target, &Boot { branch, from, display, accel })?)
    }

    fn stop_target(
        &self,
        name: &str,
        force: bool,
        deadline_s: Option<u32>,
        answers: &mut dyn Answers,
    ) -> Result<serde_json::Value> {
        let target = self.target(name)?;
        let machine = lock(&target.machine).clone().ok_or_else(|| Error::TargetStopped(name.to_owned()))?;
        stop_machine(&target, &machine, force, deadline_s, &mut |text| answers.note(text))?;
        drop(machine);
        value(&target.wait_stopped(&mut || true)?)
    }

    fn export(&self, what: &str, to: &ExportTo, answers: &mut dyn Answers) -> Result<serde_json::Value> {
        let opened = self.open_device(what)?;
        let of = self.target(crate::exports::target_of(what))?;
        if opened.seq.is_none() && !of.is_running() && Machine::is_left_running(&of) {
            // A machine that waits for its manager believes that nobody else writes to its disks.
            return Err(Error::TargetRunning(of.name.clone()));
        }
        let geometry = opened.device.geometry();
        let mut exported = Exported {
            what: what.to_owned(),
            at: String::new(),
            size_bytes: geometry.size_bytes,
            read_only: geometry.read_only,
            seq: opened.seq.map(|seq| seq.0),
        };
        let exports = Arc::new(OneExport { name: what.to_owned(), device: opened.device.clone() });
        let server = nbd::Server::new(exports, nbd::Limits::default());
        let refused = |at: &str| {
            let path = PathBuf::from(at);
            move |e: nbd::ListenError| Error::file("listening on", path, std::io::Error::other(e.to_string()))
        };
        match to {
            ExportTo::File(path) => {
                let path = config::absolute(path);
                let failed = |e: bygone_block::FuseError| {
                    let text = e.to_string();
                    Error::file("serving", path.clone(), std::io::Error::other(text))
                };
                let file = bygone_block::serve_file(opened.device, &path).map_err(failed)?;
                exported.at = path.display().to_string();
                answers.item(value(&exported)?);
                self.until_unwanted(answers);
                file.stop().map_err(failed)?;
            }
            ExportTo::NbdUnix(path) => {
                let path = config::absolute(path);
                let serving = server.serve_unix(&path).map_err(refused(&path.display().to_string()))?;
                exported.at = format!("nbd+unix:///?socket={}", path.display());
                answers.item(value(&exported)?);
                self.until_unwanted(answers);
                serving.stop(NBD_STOP_MAX);
            }
            ExportTo::NbdTcp(at) => {
                let address = std::net::ToSocketAddrs::to_socket_addrs(at.as_str())
                    .ok()
                    .and_then(|mut addresses| addresses.next())
                    .ok_or_else(|| Usage::BadSetting { key: "--nbd".into(), value: at.clone() })?;
                let serving = server.serve_tcp(address).map_err(refused(at))?;
                exported.at = format!("nbd://{}", serving.address());
                answers.item(value(&exported)?);
                self.until_unwanted(answers);
                serving.stop(NBD_STOP_MAX);
            }
        }
        value(&exported)
    }

    fn until_unwanted(&self, answers: &mut dyn Answers) {
        while answers.wanted() && !self.is_stopping() {
            std::thread::sleep(WANTED_EVERY / 4);
        }
    }

    fn verify(
        &self,
        name: Option<&str>,
        newest_first: bool,
        within: Option<Duration>,
        answers: &mut dyn Answers,
    ) -> Result<serde_json::Value> {
        let targets = match name {
            Some(name) => vec![self.target(name)?],
            None => self.targets(),
        };
        let end = within.map(|within| Instant::now() + within);
        let mut verified = Verified { complete: true, ..Verified::default() };
        for target in targets {
            let doing = format!("checking {}", target.name);
            let report = target.log.verify(newest_first, &mut |done_bytes, total_bytes| {
                let wanted = answers.progress(Progress { doing: doing.clone(), done_bytes, total_bytes });
                wanted && end.is_none_or(|end| Instant::now() < end)
            })?;
            verified.checked_bytes += report.checked_bytes;
            verified.complete &= report.complete;
            verified.damaged.extend(report.damaged.into_iter().map(|damaged| DamagedPlace {
                place: format!("{}: {}", target.name, damaged.place),
                detail: damaged.damage.to_string(),
            }));
        }
        for (name, why) in lock(&self.broken).iter() {
            verified.damaged.push(DamagedPlace { place: name.clone(), detail: why.clone() });
        }
        value(&verified)
    }

    fn compact(&self, dry_run: bool) -> Result<serde_json::Value> {
        let used = || self.targets().iter().map(|t| t.log.used_bytes()).sum::<bygone_store::Result<u64>>();
        let before_bytes = used()?;
        if !dry_run {
            for target in self.targets() {
                while target.log.maintain()? {}
                target.log.checkpoint()?;
            }
        }
        value(&Compacted { before_bytes, after_bytes: used()? })
    }
}

/// Stops a machine; says each step.
pub(crate) fn stop_machine(
    target: &Arc<Target>,
    machine: &Machine,
    force: bool,
    deadline_s: Option<u32>,
    say: &mut dyn FnMut(String),
) -> Result<()> {
    if force {
        machine.ask_stop("force");
        machine.vm.end(|_| {})?;
        return Ok(());
    }
    machine.ask_stop("shutdown");
    if target.is_paused() {
        say("its writes wait for room, and it cannot shut down before there is some (see `bygone status`); --force cuts its power".to_owned());
    }
    let patience = Duration::from_secs(u64::from(deadline_s.unwrap_or(STOP_PATIENCE_S)));
    let stopped = machine.vm.stop(patience, false, |step| {
        say(match step {
            qemu::Step::Resumed => "the machine goes on, to be able to shut down".to_owned(),
            qemu::Step::PowerButtonPressed => "asked it to shut down".to_owned(),
            qemu::Step::HoldsStill => "it holds still".to_owned(),
            qemu::Step::OutOfPatience => "it did not shut down in time".to_owned(),
            qemu::Step::ToldToEnd | qemu::Step::Killed => "ending QEMU".to_owned(),
        });
    })?;
    if stopped == qemu::Stopped::StillRunning {
        let label = format!("the target did not shut down within {} s; forcing it", patience.as_secs());
        target.log.event(machine.branch, &Event::new(Kind::Manager, label))?;
        machine.ask_stop("deadline");
        machine.vm.end(|_| {})?;
    }
    Ok(())
}

fn info(target: &Target) -> Result<TargetInfo> {
    Ok(TargetInfo { config: target.config(), status: target.status()? })
}

fn items<T: Serialize>(answers: &mut dyn Answers, all: Vec<T>) -> Result<serde_json::Value> {
    for one in all {
        if !answers.item(value(&one)?) {
            break;
        }
    }
    Ok(serde_json::Value::Null)
}

fn branches(target: &Target) -> Result<Vec<BranchInfo>> {
    let catalog = target.log.catalog();
    let running = lock(&target.machine).as_ref().map(|m| m.branch);
    let mut out = Vec::new();
    for branch in catalog.branches.iter().filter(|b| b.dropped.is_none()) {
        let from_time = branch.parent.map(|(_, seq)| target.log.time_of(seq)).transpose()?;
        out.push(BranchInfo {
            name: branch.name.clone(),
            present: branch.id == catalog.head,
            parent: branch.parent.and_then(|(id, _)| catalog.branch(id)).map(|b| b.name.clone()),
            from_seq: branch.parent.map(|(_, seq)| seq.0),
            from_time: from_time.map(timeline::rfc3339),
            made: timeline::rfc3339(branch.made_at),
            running: running == Some(branch.id),
        });
    }
    Ok(out)
}

fn which_branch(target: &Target, named: Option<&str>) -> Result<String> {
    if let Some(name) = named {
        return Ok(name.to_owned());
    }
    let catalog = target.log.catalog();
    let others: Vec<&str> = catalog
        .branches
        .iter()
        .filter(|b| b.dropped.is_none() && b.id != catalog.head)
        .map(|b| b.name.as_str())
        .collect();
    match others.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => Err(Usage::Impossible("there is no branch but the present").into()),
        many => Err(Usage::WhichBranch(many.join(", ")).into()),
    }
}

fn drop_branch(target: &Target, name: &str) -> Result<serde_json::Value> {
    let catalog = target.log.catalog();
    let branch = catalog.branch_named(name)?.id;
    if lock(&target.machine).as_ref().is_some_and(|m| m.branch == branch) {
        return Err(Error::TargetRunning(target.name.clone()));
    }
    target.log.drop_branch(name)?;
    let event = Event::new(Kind::Branch, format!("branch {name} was given up")).with("dropped", name);
    let done = target.log.event(catalog.head, &event)?;
    target.log.flush()?;
    let present = catalog.branch(catalog.head).map_or("main", |b| &b.name).to_owned();
    value(&timeline::info(bygone_model::Moment { seq: done.last, time: done.time, branch: present, event }))
}

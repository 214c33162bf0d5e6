//! A target that runs: its disks served to QEMU, what happens to it written into its log.
//!
//! Every event stands in the log behind the last write that came before it: QEMU holds the machine still at a stop, a
//! reset or a panic until the event is written.

mod resets;

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use bygone_block::{BlockDevice, Reading};
use bygone_model::{BranchId, Event, Grade, Kind, Micros, Moment, Seq};
use bygone_qemu::{self as qemu, By, Happening, Places, Report, Vm};
use serde::{Deserialize, Serialize};

use bygone_store::Appended;
use resets::Resets;

use crate::{
    api::Started,
    config::{self, TargetConfig},
    error::{Error, Result},
    fs_state,
    target::{Lease, Target, lock},
    timeline,
};

/// How long QEMU may take to answer for the first time.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long a machine holds still before a request that failed is made again.
const TRY_AGAIN: Duration = Duration::from_secs(2);
const FOREVER: Duration = Duration::from_secs(3600);
const LAST_WORDS_BYTES_MAX: u64 = 4096;
/// How long the clients of the disks may take to go after QEMU has ended.
const CLIENTS_GONE_MAX: Duration = Duration::from_secs(5);

/// What a later manager has to know of a machine that it takes over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    branch: BranchId,
    started: Started,
}

impl Kept {
    /// Writes it down, whole or not at all.
    fn save(&self, target: &Target) -> Result<()> {
        let path = kept_file(target);
        let part = path.with_extension("part");
        let text = serde_json::to_vec(self).map_err(std::io::Error::other);
        let written = text.and_then(|text| fs::write(&part, text)).and_then(|()| fs::rename(&part, &path));
        written.map_err(|e| {
            let _ = fs::remove_file(&part);
            Error::file("writing", path, e)
        })
    }
}

/// A running machine.
pub(crate) struct Machine {
    /// QEMU.
    pub vm: Vm,
    /// On which branch.
    pub branch: BranchId,
    /// What `run` said.
    pub started: Started,
    stop_asked: Mutex<Option<&'static str>>,
    leases: Mutex<Vec<Lease>>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("started", &self.started).finish_non_exhaustive()
    }
}

/// What a machine that holds still needs to go on.
#[derive(Clone, Copy, Debug)]
enum Step {
    Reset,
    Resume,
}

/// What to boot.
#[derive(Clone, Debug)]
pub(crate) struct Boot {
    /// On which branch.
    pub branch: BranchId,
    /// From which moment, if the branch was made for it.
    pub from: Option<Seq>,
    /// What its user sees.
    pub display: config::Display,
    /// KVM or TCG.
    pub accel: qemu::Accel,
}

fn kept_file(target: &Target) -> PathBuf {
    target.paths.run_dir(&target.name).join("engine.json")
}

fn places(target: &Target) -> Result<Places> {
    Ok(Places::new(target.paths.run_dir(&target.name))?)
}

/// The export name of a disk on a branch.
#[must_use]
pub(crate) fn export_name(target: &Target, branch: BranchId, disk: &str) -> String {
    let catalog = target.log.catalog();
    if branch == catalog.head {
        return format!("{}/{disk}", target.name);
    }
    let name = catalog.branch(branch).map_or("?", |b| &b.name).to_owned();
    format!("{}/{disk}#{name}", target.name)
}

fn exports_of(target: &Target, branch: BranchId) -> Vec<String> {
    let catalog = target.log.catalog();
    let name = catalog.branch(branch).map_or("?", |b| &b.name).to_owned();
    catalog
        .disks
        .iter()
        .flat_map(|d| [format!("{}/{}", target.name, d.name), format!("{}/{}#{name}", target.name, d.name)])
        .collect()
}

fn describe(target: &Target, config: &TargetConfig, boot: &Boot) -> Result<qemu::Machine> {
    let places = places(target)?;
    let mut machine = qemu::Machine::new(&config.name, boot.accel);
    machine.memory_mib = config.memory_mib;
    machine.cpus = config.cpus;
    machine.extra_args = config.qemu_args.clone();
    machine.display = match &boot.display {
        config::Display::None => qemu::Display::None,
        config::Display::Gtk => qemu::Display::Gtk,
        config::Display::Vnc(at) => qemu::Display::Vnc(at.clone()),
    };
    machine.kernel = config.kernel.clone().map(|image| qemu::Kernel {
        image,
        initrd: config.initrd.clone(),
        append: config.append.clone().unwrap_or_default(),
    });
    if config.firmware == config::Firmware::Uefi {
        places.make()?;
        machine.firmware = qemu::firmware::uefi(std::path::Path::new("/"), &places.uefi_vars())?;
    }
    machine.nets = match config.net.as_str() {
        "none" | "" => Vec::new(),
        net => match net.strip_prefix("tap:") {
            Some(interface) => vec![qemu::Net::Tap { interface: interface.to_owned() }],
            None => {
                let mut parts = net.split(',');
                if parts.next() != Some("user") {
                    let (key, value) = ("net".to_owned(), net.to_owned());
                    return Err(config::BadSetting::Value { key, value }.into());
                }
                vec![qemu::Net::User { options: parts.map(str::to_owned).collect() }]
            }
        },
    };
    let socket = target.paths.nbd_socket();
    for disk in &config.disks {
        let mut made = qemu::Disk::new(&disk.id, &socket, export_name(target, boot.branch, &disk.id));
        made.block_bytes = disk.block_bytes;
        machine.disks.push(made);
    }
    Ok(machine)
}

fn lease_all(target: &Arc<Target>, branch: BranchId) -> Result<Vec<Lease>> {
    let catalog = target.log.catalog();
    catalog.volumes_of(branch, Seq::MAX).map(|volume| target.lease(volume.id)).collect()
}

/// Writes down what is about to be booted: for a later manager, and into the log.
fn note_boot(target: &Target, config: &TargetConfig, boot: &Boot, places: &Places) -> Result<Kept> {
    let mut event = Event::new(Kind::Boot, boot_label(target, boot))
        .with("accelerator", boot.accel.to_string())
        .with("memory_mib", config.memory_mib)
        .with("cpus", config.cpus);
    if let Some(kernel) = &config.kernel {
        event = event.with("kernel", kernel.display().to_string());
    }
    if let Some(append) = &config.append {
        event = event.with("append", append.clone());
    }
    if let Some(from) = boot.from {
        event = event.with("from_seq", from.0);
    }
    let started = Started {
        name: target.name.clone(),
        branch: target.log.catalog().branch(boot.branch).map_or("main", |b| &b.name).to_owned(),
        from_seq: boot.from.map(|seq| seq.0),
        pid: 0,
        accelerator: boot.accel.to_string(),
        console: places.console_socket(),
    };
    let kept = Kept { branch: boot.branch, started };
    kept.save(target)?;
    let booted = target.log.event(boot.branch, &event)?;
    target.log.flush()?;
    mark_console(places, &kept.started, booted.last, booted.time);
    Ok(kept)
}

/// Marks a boot in the log of the console, so that what each of them printed can be told apart.
fn mark_console(places: &Places, started: &Started, seq: Seq, time: Micros) {
    let (name, branch) = (&started.name, &started.branch);
    let text = format!("{name} boots, {}, branch {branch}, seq:{seq}", timeline::rfc3339(time));
    if let Err(e) = qemu::console::mark(places, &text) {
        tracing::warn!(target = name, error = %e, "the boot cannot be marked in the console's log");
    }
}

/// Removes what stands for a machine that did not come to be.
fn forget_attempt(target: &Target, places: &Places) {
    let _ = fs::remove_file(kept_file(target));
    // Only if there is nothing in it.
    let _ = fs::remove_dir(places.dir());
}

impl Machine {
    /// Boots a target.
    ///
    /// # Errors
    /// When it runs already, its disks cannot be opened, or QEMU does not start.
    pub(crate) fn boot(target: &Arc<Target>, boot: &Boot) -> Result<Started> {
        let mut slot = lock(&target.machine);
        if slot.is_some() {
            return Err(Error::TargetRunning(target.name.clone()));
        }
        let config = target.config();
        let qemu_path = qemu::find_qemu()?;
        let leases = lease_all(target, boot.branch)?;
        let machine = describe(target, &config, boot)?;
        let places = places(target)?;
        // Before QEMU starts: a manager that comes after this one must know on which branch it runs.
        places.make()?;
        let forget = |_: &Error| forget_attempt(target, &places);
        let mut kept = note_boot(target, &config, boot, &places).inspect_err(forget)?;
        *lock(&target.last_stop) = None;
        let started = Vm::start(&qemu_path, &machine, &places).map_err(Error::from);
        let (vm, reports) = started.inspect_err(forget)?;
        kept.started.pid = vm.identity().pid;
        kept.save(target)?;
        let started = kept.started.clone();
        Machine::watch(target, &mut slot, vm, reports, kept, leases)?;
        // Its console and monitor are there once it answers; and what it does not like about its arguments is known.
        let phase =
            slot.as_ref().and_then(|machine| machine.vm.wait_for(ANSWER_MAX, |p| p != qemu::Phase::Starting));
        if let Some(qemu::Phase::Ended(exit)) = phase {
            let output = places.last_words(LAST_WORDS_BYTES_MAX);
            return Err(if output.is_empty() {
                qemu::Error::Ended { exit }.into()
            } else {
                Error::Program { program: "qemu-system-x86_64", output }
            });
        }
        Ok(started)
    }

    /// Takes over the machine of `target` that an earlier manager left running. False: none runs.
    ///
    /// # Errors
    /// When its disks cannot be opened.
    pub(crate) fn adopt(target: &Arc<Target>) -> Result<bool> {
        let path = kept_file(target);
        let Ok(text) = fs::read(&path) else { return Ok(false) };
        let Ok(kept) = serde_json::from_slice::<Kept>(&text) else { return Ok(false) };
        let places = places(target)?;
        let mut slot = lock(&target.machine);
        let Some((vm, reports)) = Vm::adopt(&places)? else {
            drop(slot);
            Machine::note_lost(target, &kept)?;
            return Ok(false);
        };
        let leases = lease_all(target, kept.branch)?;
        let event = Event::new(Kind::Manager, "the manager was started again while the target ran on")
            .with("pid", vm.identity().pid);
        target.log.event(kept.branch, &event)?;
        Machine::watch(target, &mut slot, vm, reports, kept, leases)?;
        Ok(true)
    }

    /// The machine ended while no manager was there.
    fn note_lost(target: &Target, kept: &Kept) -> Result<()> {
        let label = "the target ended while no manager was watching";
        let event = Event::new(Kind::Shutdown, label).with("reason", "unseen").with("verified", false);
        target.log.event(kept.branch, &event)?;
        target.log.flush()?;
        let path = kept_file(target);
        fs::remove_file(&path).map_err(|e| Error::file("removing", path, e))
    }

    /// A machine of `target` runs, as far as can be seen without touching it.
    #[must_use]
    pub(crate) fn is_left_running(target: &Target) -> bool {
        let found = || Some(qemu::Running::find(&places(target).ok()?).ok()?.is_some());
        kept_file(target).exists() && found().unwrap_or(false)
    }

    fn watch(
        target: &Arc<Target>,
        slot: &mut Option<Arc<Machine>>,
        vm: Vm,
        reports: Receiver<Report>,
        kept: Kept,
        leases: Vec<Lease>,
    ) -> Result<()> {
        let machine = Arc::new(Machine {
            vm,
            branch: kept.branch,
            started: kept.started,
            stop_asked: Mutex::default(),
            leases: Mutex::new(leases),
        });
        let (watched, owner) = (machine.clone(), target.clone());
        std::thread::Builder::new()
            .name(format!("watch {}", target.name))
            .spawn(move || watched.follow(&owner, &reports))
            .map_err(|e| Error::file("starting a thread for", &target.name, e))?;
        *slot = Some(machine);
        Ok(())
    }

    /// Somebody asked for the stop that is about to come.
    pub(crate) fn ask_stop(&self, how: &'static str) {
        *lock(&self.stop_asked) = Some(how);
    }

    fn follow(&self, target: &Arc<Target>, reports: &Receiver<Report>) {
        let mut asked_by: Option<(By, String)> = None;
        let mut resets = Resets::new();
        // A step that failed is made again, until it does not: the guest never hears of it.
        let mut again: Option<(Instant, Step)> = None;
        // The next start is to be in the log.
        let mut boots = true;
        // A manager before us may have been at work on the first reset that we hear of.
        let mut maybe_noted = false;
        loop {
            let at = again.iter().map(|(at, _)| *at).chain(resets.due()).min();
            let wait = at.map_or(FOREVER, |at| at.saturating_duration_since(Instant::now()));
            let report = match reports.recv_timeout(wait) {
                Ok(report) => report,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let now = Instant::now();
                    if resets.due().is_some_and(|due| due <= now) {
                        self.note_resets(target, resets.rest(now));
                    }
                    if let Some((_, step)) = again.take_if(|(at, _)| *at <= now) {
                        again = self.make(target, step);
                    }
                    continue;
                }
            };
            match report.what {
                Happening::Started { adopted } => maybe_noted = adopted,
                Happening::Resumed | Happening::ConnectionBack => {}
                Happening::ConnectionLost => {
                    tracing::warn!(target = target.name, "the connection to QEMU broke");
                }
                Happening::PowerButton => {
                    self.note(
                        target,
                        &Event::new(Kind::Manager, "asked the target to shut down (power button)"),
                    );
                }
                Happening::Reset { by: By::Firmware, held, .. } => {
                    boots = false;
                    again = held.then(|| self.make(target, Step::Reset)).flatten();
                }
                Happening::Reset { by, reason, held } => {
                    let time = report.time.unwrap_or_else(|| Micros(jiff::Timestamp::now().as_microsecond()));
                    boots = (std::mem::take(&mut maybe_noted) && self.is_noted(target, time))
                        || self.note_reset(target, &mut resets, by, &reason, time);
                    again = held.then(|| self.make(target, Step::Reset)).flatten();
                }
                Happening::StartsOver => {
                    if std::mem::replace(&mut boots, true) {
                        self.note_boot_again(target);
                    }
                    again = self.make(target, Step::Resume);
                }
                Happening::ShutdownRequested { by, reason, held } => {
                    asked_by.get_or_insert((by, reason.to_string()));
                    if held && let Err(e) = self.vm.end(|_| {}) {
                        tracing::error!(target = target.name, error = %e, "QEMU does not end");
                    }
                }
                Happening::Panicked { info, held } => {
                    let event = Event::new(Kind::Panic, "the target's operating system gave up (panic)");
                    self.note(target, &event.with("info", info));
                    asked_by.get_or_insert((By::Guest, "guest-panic".to_owned()));
                    if held && let Err(e) = self.vm.end(|_| {}) {
                        tracing::error!(target = target.name, error = %e, "QEMU does not end");
                    }
                }
                Happening::IoError { disk, write, no_space, held } => {
                    let what = if write { "write" } else { "read" };
                    let label = format!("a {what} failed on disk {}", disk.as_deref().unwrap_or("?"));
                    self.note(
                        target,
                        &Event::new(Kind::Manager, label).with("no_space", no_space).with("held", held),
                    );
                    if held {
                        again = Some((Instant::now() + TRY_AGAIN, Step::Resume));
                    }
                }
                Happening::Paused { state } => {
                    tracing::info!(target = target.name, ?state, "the machine holds still");
                }
                Happening::Exited { exit, last_words } => {
                    self.note_resets(target, resets.rest(Instant::now()));
                    self.finish(target, asked_by.as_ref(), exit, &last_words);
                    return;
                }
            }
        }
    }

    /// Makes a step; what is to be tried again, and when.
    fn make(&self, target: &Target, step: Step) -> Option<(Instant, Step)> {
        let made = match step {
            Step::Reset => self.vm.reset(),
            Step::Resume => self.vm.resume(),
        };
        let error = made.err()?;
        tracing::warn!(target = target.name, %error, "the machine cannot go on yet");
        Some((Instant::now() + TRY_AGAIN, step))
    }

    /// Writes an event, durably; where it is now.
    fn note(&self, target: &Target, event: &Event) -> Option<Appended> {
        let noted = target.log.event(self.branch, event).and_then(|done| target.log.flush().map(|_| done));
        noted
            .inspect_err(|error| {
                tracing::error!(target = target.name, label = event.label, %error, "the event could not be written");
            })
            .ok()
    }

    /// QEMU has ended: says in the log how, lets go of the disks, and wakes up who waits.
    fn finish(
        &self,
        target: &Arc<Target>,
        asked_by: Option<&(By, String)>,
        exit: qemu::process::Exit,
        last_words: &str,
    ) {
        let asked = lock(&self.stop_asked).take();
        let mut signals = vec![format!("QEMU ended ({exit})")];
        if let Some((_, reason)) = asked_by {
            signals.insert(0, format!("the hypervisor said so ({reason})"));
        }
        let exports = exports_of(target, self.branch);
        let deadline = Instant::now() + CLIENTS_GONE_MAX;
        while target.has_clients(&exports) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let clients_gone = !target.has_clients(&exports);
        if clients_gone {
            signals.push("the clients of its disks are gone".to_owned());
        }
        let states = self.file_systems();
        let all_clean = states.iter().all(|(_, state)| state.clean);
        if !states.is_empty() && all_clean {
            let names: Vec<String> =
                states.iter().map(|(disk, state)| format!("{} on {disk}", state.kind)).collect();
            signals.push(format!("file systems are marked clean ({})", names.join(", ")));
        }
        let orderly = matches!(asked_by, Some((By::Guest | By::Unknown, _))) && asked != Some("force");
        let panicked = asked_by.is_some_and(|(_, reason)| reason == "guest-panic");
        let verified = orderly && !panicked && clients_gone && all_clean;
        let grade = match (verified, all_clean && !states.is_empty()) {
            (true, _) => Grade::Stopped,
            (false, true) => Grade::Clean,
            (false, false) => Grade::Crash,
        };
        let label = match (asked_by, asked) {
            (_, Some("force")) => "the power was cut, as asked".to_owned(),
            (_, Some("deadline")) => "the target did not shut down in time and was forced".to_owned(),
            _ if panicked => "ended after a panic".to_owned(),
            (Some((By::Guest | By::Firmware | By::Unknown, _)), Some(_)) => {
                "the target shut down, as asked".to_owned()
            }
            (Some((By::Guest | By::Firmware, _)), None) => "the target shut itself down".to_owned(),
            (Some((By::Unknown, _)), None) => "the target had shut down".to_owned(),
            (Some((By::Host, reason)), _) => format!("the machine was ended from outside ({reason})"),
            (None, _) => format!("the machine ended unexpectedly ({exit})"),
        };
        let mut event = Event::new(Kind::Shutdown, label)
            .graded(grade)
            .with("reason", asked_by.map_or("none", |(_, reason)| reason.as_str()))
            .with("by", asked_by.map_or("nobody", |(by, _)| who(*by)))
            .with("asked", asked.is_some())
            .with("verified", verified)
            .with("signals", signals);
        if !orderly && !last_words.is_empty() {
            event = event.with("last_words", last_words);
        }
        let noted = target.log.event(self.branch, &event).and_then(|done| target.log.flush().map(|_| done));
        lock(&self.leases).clear();
        let _ = fs::remove_file(kept_file(target));
        let stop = match noted {
            Ok(done) => {
                let branch = self.started.branch.clone();
                Some(timeline::info(Moment { seq: done.last, time: done.time, branch, event }))
            }
            Err(e) => {
                tracing::error!(target = target.name, error = %e, "the stop could not be written");
                None
            }
        };
        *lock(&target.last_stop) = stop;
        *lock(&target.machine) = None;
        target.stopped.notify_all();
    }

    /// The file systems on the disks, as they are now.
    fn file_systems(&self) -> Vec<(String, fs_state::FsState)> {
        let leases = lock(&self.leases);
        let mut found = Vec::new();
        for lease in leases.iter() {
            let geometry = lease.geometry();
            let block = u64::from(geometry.block_bytes);
            let mut read = |at: u64, len: usize| {
                let start = at - at % block;
                let end = at.checked_add(len as u64)?.checked_next_multiple_of(block)?;
                if end > geometry.size_bytes {
                    return None;
                }
                let mut bytes = vec![0; (end - start) as usize];
                lease.read(start, &mut bytes, Reading::MayWait).ok()?;
                Some(bytes[(at - start) as usize..(at - start) as usize + len].to_vec())
            };
            let states = fs_state::find(geometry.size_bytes, &mut read);
            found.extend(states.into_iter().map(|state| (lease.disk_name(), state)));
        }
        found
    }
}

fn boot_label(target: &Target, boot: &Boot) -> String {
    match boot.from {
        None => "started".to_owned(),
        Some(seq) => {
            let when = target.log.time_of(seq).map(timeline::local).unwrap_or_default();
            format!("started from the past, {when}")
        }
    }
}

fn who(by: By) -> &'static str {
    match by {
        By::Guest => "the target",
        By::Firmware => "its firmware",
        By::Host => "the host",
        By::Unknown => "unknown",
    }
}

impl Target {
    /// Waits until the machine has stopped, or `wanted` says no.
    ///
    /// # Errors
    /// When it does not run, or nobody waits any more.
    pub(crate) fn wait_stopped(&self, wanted: &mut dyn FnMut() -> bool) -> Result<crate::api::MomentInfo> {
        const LOOK_EVERY: Duration = Duration::from_millis(200);
        let mut machine = lock(&self.machine);
        if machine.is_none() && lock(&self.last_stop).is_none() {
            return Err(Error::TargetStopped(self.name.clone()));
        }
        while machine.is_some() {
            if !wanted() {
                return Err(Error::Abandoned);
            }
            machine =
                self.stopped.wait_timeout(machine, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(machine);
        lock(&self.last_stop).clone().ok_or_else(|| Error::TargetStopped(self.name.clone()))
    }
}

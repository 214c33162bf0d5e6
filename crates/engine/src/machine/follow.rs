//! Writes the events of a machine to its target's log.
//!
//! Every event names the moment after the last write before it. At a stop, a reset or a panic the machine is held until
//! the event is written, so the event's own position is that moment. A boot is written when the machine first answers,
//! and its guest may have written by then: it names the moment before the process was started. A reset at which the
//! machine was not held names a range. A machine that ends before its first answer was never booted and leaves no
//! event, also if it was asked to stop.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use bygone_model::{At, Event, Grade, Kind, Micros, Place, Seq};
use bygone_store::Appended;

use super::{
    Machine, NBD_STOP_MAX, Slot, Start, failing::Failing, kept::Kept, resets::Resets, unbooted,
};
use crate::{
    error::Error,
    fs_state, history,
    runner::{By, Exit, Happening, Report},
    target::{Target, Use, lock},
    timeline,
};

/// How long a machine is held before a failed request is retried.
const TRY_AGAIN: Duration = Duration::from_secs(2);
const FOREVER: Duration = Duration::from_secs(3600);
/// How long the connections to a machine's disks may stay open after it has ended.
const CLIENTS_GONE_MAX: Duration = Duration::from_secs(5);

/// How to continue a held machine.
#[derive(Clone, Copy, Debug)]
enum GoOn {
    Reset,
    Resume,
}

impl Machine {
    pub(super) fn follow(&self, target: &Arc<Target>, reports: &Receiver<Report>) {
        let mut asked_by: Option<(By, String)> = None;
        let mut resets = Resets::new();
        let mut failing = Failing::default();
        // A failed step is retried until it succeeds; the guest does not notice.
        let mut again: Option<(Instant, GoOn)> = None;
        // Whether the next start is an event of its own.
        let mut boots = true;
        // The first reset reported after adopting may be in the log already: an earlier manager may have died while it
        // handled it.
        let mut maybe_noted = false;
        loop {
            let at = again.iter().map(|(at, _)| *at).chain(resets.due()).chain(failing.due()).min();
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
                        again = self.go_on(target, step);
                    }
                    self.note_counts(target, failing.over(now));
                    continue;
                }
            };
            match report.what {
                Happening::Started { adopted } => {
                    maybe_noted = adopted;
                    self.note_started(target);
                }
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
                    again = held.then(|| self.go_on(target, GoOn::Reset)).flatten();
                }
                Happening::Reset { by, reason, held } => {
                    let time = report.time.unwrap_or_else(|| Micros(jiff::Timestamp::now().as_microsecond()));
                    boots = (std::mem::take(&mut maybe_noted) && self.is_noted(target, time))
                        || self.note_reset(target, &mut resets, (by, &reason), time, held);
                    again = held.then(|| self.go_on(target, GoOn::Reset)).flatten();
                }
                Happening::StartsOver => {
                    if std::mem::replace(&mut boots, true) {
                        self.note_boot_again(target);
                    }
                    again = self.go_on(target, GoOn::Resume);
                }
                Happening::ShutdownRequested { by, reason, held } => {
                    asked_by.get_or_insert((by, reason.to_string()));
                    if held && let Err(e) = self.runner().and_then(|runner| runner.end()) {
                        tracing::error!(target = target.name, error = %e, "QEMU does not end");
                    }
                }
                Happening::Panicked { info, held } => {
                    let event = Event::new(Kind::Panic, "the target's operating system gave up (panic)");
                    self.note(target, &event.with("info", info));
                    asked_by.get_or_insert((By::Guest, "guest-panic".to_owned()));
                    if held && let Err(e) = self.runner().and_then(|runner| runner.end()) {
                        tracing::error!(target = target.name, error = %e, "QEMU does not end");
                    }
                }
                Happening::IoError { disk, write, no_space, held } => {
                    if let Some(label) = failing.add(disk.as_deref(), write, Instant::now()) {
                        let event = Event::new(Kind::Manager, label);
                        self.note(target, &event.with("no_space", no_space).with("held", held));
                    }
                    if held {
                        again = Some((Instant::now() + TRY_AGAIN, GoOn::Resume));
                    }
                }
                Happening::Paused { state } => {
                    tracing::info!(target = target.name, ?state, "the machine holds still");
                }
                Happening::Exited { exit, last_words } => {
                    self.note_resets(target, resets.rest(Instant::now()));
                    self.note_counts(target, failing.rest());
                    if matches!(*lock(&self.start), Start::Pending) && !lock(&self.kept).noted {
                        self.never_was(target, exit);
                    } else {
                        self.finish(target, asked_by.as_ref(), exit, &last_words);
                    }
                    return;
                }
            }
        }
    }

    /// Writes an event durably; returns its position, or `None` if that failed.
    pub(super) fn note(&self, target: &Target, event: &Event) -> Option<Appended> {
        let noted = target.log.event(self.branch, event).and_then(|done| target.log.flush().map(|_| done));
        noted
            .inspect_err(|error| {
                tracing::error!(target = target.name, label = event.label, %error, "the event could not be written");
            })
            .ok()
    }

    /// Handles the end of QEMU: writes the stop with its grade, releases the disks and wakes up the waiting callers.
    fn finish(&self, target: &Arc<Target>, asked_by: Option<&(By, String)>, exit: Exit, last_words: &str) {
        let asked = lock(&self.stop_asked).how.take();
        let mut signals = vec![format!("QEMU ended ({exit})")];
        if let Some((_, reason)) = asked_by {
            signals.insert(0, format!("the hypervisor said so ({reason})"));
        }
        let connected = || target.is_used(self.branch, Use::Guest);
        let deadline = Instant::now() + CLIENTS_GONE_MAX;
        // Each round looks once: a second look might find a client that connected after the last one was gone, which
        // has nothing to do with this machine.
        let clients_gone = loop {
            match connected() {
                false => break true,
                true if Instant::now() >= deadline => break false,
                true => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        if clients_gone {
            signals.push("the clients of its disks are gone".to_owned());
        }
        let states = self.file_systems();
        // What cannot be read may be dirty.
        let all_clean = states.as_ref().is_some_and(|states| states.iter().all(|(_, state)| state.clean));
        let states = states.unwrap_or_default();
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
        self.note_stop(target, event);
    }

    /// Writes the stop, releases the disks and wakes up the callers that wait for it.
    fn note_stop(&self, target: &Target, event: Event) {
        let stop = timeline::write(&target.log, self.branch, event).map_err(|error| {
            tracing::error!(target = target.name, %error, "the stop could not be written");
            error.failure()
        });
        self.let_go(target);
        *lock(&target.last_stop) = stop.clone().ok();
        *lock(&self.ended) = Some(stop);
        *lock(&target.machine) = Slot::None;
        target.stopped.notify_all();
    }

    /// Handles the first answer of the machine: writes the boot, unless it is in the log already.
    fn note_started(&self, target: &Target) {
        let mut kept = lock(&self.kept);
        if !kept.noted {
            kept.noted = true;
            let event = boot_event(target, &kept);
            if let Some(booted) = self.note(target, &event) {
                let at = event.at.unwrap_or_else(|| At::exactly(booted.last, booted.time));
                mark_console(target, &kept, at);
            }
            if let Err(error) = kept.save(target) {
                tracing::warn!(target = target.name, %error, "what a later manager has to know cannot be written down");
            }
        }
        drop(kept);
        *lock(&self.start) = Start::Up;
        self.start_changed.notify_all();
    }

    /// Handles the end of a machine that never answered: it was never booted. Whoever has asked it to stop is answered
    /// all the same.
    fn never_was(&self, target: &Arc<Target>, exit: Exit) {
        let asked = lock(&self.stop_asked).how.take();
        let stop = asked.map(|how| unbooted(target, self.branch, how).map_err(|error| error.failure()));
        *lock(&self.ended) = stop;
        let output = target.shared.launcher.last_words(&target.run_dir());
        let why = if output.is_empty() {
            bygone_qemu::Error::Ended { exit }.into()
        } else {
            Error::Program { program: "qemu-system-x86_64", output }
        };
        self.let_go(target);
        *lock(&target.machine) = Slot::None;
        *lock(&self.start) = Start::Failed(why.failure());
        self.start_changed.notify_all();
        target.stopped.notify_all();
    }

    /// Releases the disks and removes the file of the machine, whose process has ended.
    fn let_go(&self, target: &Target) {
        if let Some(serving) = lock(&self.serving).take() {
            serving.stop(NBD_STOP_MAX);
        }
        lock(&self.leases).clear();
        Kept::remove(target);
    }

    /// Continues a held machine; if that fails, returns the step and when to retry it.
    fn go_on(&self, target: &Target, step: GoOn) -> Option<(Instant, GoOn)> {
        let made = self.runner().and_then(|runner| match step {
            GoOn::Reset => runner.reset(),
            GoOn::Resume => runner.resume(),
        });
        let error = made.err()?;
        tracing::warn!(target = target.name, %error, "the machine cannot go on yet");
        Some((Instant::now() + TRY_AGAIN, step))
    }

    /// Writes how often requests failed that work again.
    fn note_counts(&self, target: &Target, counts: Vec<(String, u64)>) {
        for (what, times) in counts {
            let label = format!("{what}, {times} times in all");
            self.note(target, &Event::new(Kind::Manager, label).with("times", times));
        }
    }

    /// The current state of the file systems on the disks; `None` if a disk cannot be read.
    fn file_systems(&self) -> Option<Vec<(String, fs_state::FsState)>> {
        let mut found = Vec::new();
        for lease in lock(&self.leases).iter() {
            found.extend(fs_state::on(lease)?.into_iter().map(|state| (lease.disk_name(), state)));
        }
        Some(found)
    }
}

/// Marks a boot in the console's log, to separate the output of different boots.
pub(super) fn mark_console(target: &Target, kept: &Kept, at: At) {
    let (name, branch) = (&kept.started.name, &kept.started.branch);
    let moment = history::name_of(&target.log.catalog(), Place::new(kept.branch, at.seq));
    let text = format!("{name} boots, {}, branch {branch}, {moment}", timeline::rfc3339(at.time));
    if let Err(error) = target.shared.launcher.mark_console(&target.run_dir(), &text) {
        tracing::warn!(target = name, %error, "the boot cannot be marked in the console's log");
    }
}

fn boot_event(target: &Target, kept: &Kept) -> Event {
    let config = target.config();
    let started = &kept.started;
    let label = match started.from_seq {
        None => "started".to_owned(),
        Some(seq) => {
            let when = target.log.time_of(Seq(seq)).map(timeline::local).unwrap_or_default();
            format!("started from the past, {when}")
        }
    };
    let mut event = Event::new(Kind::Boot, label)
        .with("accelerator", started.accelerator.word())
        .with("memory_mib", config.memory_mib)
        .with("cpus", config.cpus);
    if let Some(kernel) = &config.kernel {
        event = event.with("kernel", kernel.display().to_string());
    }
    if let Some(append) = &config.append {
        event = event.with("append", append.clone());
    }
    if let Some(from) = &started.from {
        event = event.with("from_seq", from.seq).with("from", from.when.clone());
    }
    Event { at: kept.boots_at, ..event }
}

pub(super) fn who(by: By) -> &'static str {
    match by {
        By::Guest => "the target",
        By::Firmware => "its firmware",
        By::Host => "the host",
        By::Unknown => "unknown",
    }
}

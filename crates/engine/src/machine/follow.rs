//! Writes the events of a machine to its target's log.
//!
//! Every event names the moment after the last write before it. At a stop, a reset or a panic the machine is held until
//! the event is written, so the event's own position is that moment. A boot is written when the machine first answers,
//! and its guest may have written by then: it names the moment before the process was started. A reset at which the
//! machine was not held names a range. A machine that ends before its first answer and has written nothing was never
//! booted and leaves no event, also if it was asked to stop.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use bygone_model::{At, Event, Kind, Micros, Place, Seq};
use bygone_qemu::Reason;
use bygone_store::Appended;

use super::{
    Ended, Machine, Slot, Start, ending::Ending, failing::Failing, kept::Kept, resets::Resets, unbooted,
};
use crate::{
    error::{Error, Result},
    exports::NBD_STOP_MAX,
    file_systems::FileSystems,
    history,
    runner::{By, Exit, Happening, Report},
    target::{Target, lock},
    timeline,
};

/// How long a machine is held before a failed request is retried.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// The detail of the event that the guest was asked to shut down.
pub(crate) const POWER_BUTTON: &str = "power_button";
const FOREVER: Duration = Duration::from_secs(3600);

/// How to continue a held machine.
#[derive(Clone, Copy, Debug)]
enum GoOn {
    Reset,
    Resume,
}

/// What is known about a machine while it is followed.
struct Following<'a> {
    machine: &'a Machine,
    target: &'a Arc<Target>,
    /// Who shut it down, and QEMU's reason.
    asked_by: Option<(By, String)>,
    resets: Resets,
    failing: Failing,
    /// A step that failed, and when it is retried, until it succeeds; the guest does not notice.
    again: Option<(Instant, GoOn)>,
    /// Whether the next start is an event of its own.
    boots: bool,
    /// The first reset reported after adopting may be in the log already: an earlier manager may have died while it
    /// handled it.
    maybe_noted: bool,
}

impl Following<'_> {
    /// When something has to be done although nothing is reported.
    fn due(&self) -> Option<Instant> {
        let again = self.again.map(|(at, _)| at);
        again.into_iter().chain(self.resets.due()).chain(self.failing.due()).min()
    }

    fn do_due(&mut self, now: Instant) {
        if self.resets.due().is_some_and(|due| due <= now) {
            self.machine.note_resets(self.target, self.resets.rest(now));
        }
        if let Some((_, step)) = self.again.take_if(|(at, _)| *at <= now) {
            self.go_on(step);
        }
        let over = self.failing.over(now);
        self.note_counts(over);
    }

    /// Handles a report; breaks after the last one.
    fn take(&mut self, report: Report) -> ControlFlow<()> {
        let (machine, target) = (self.machine, self.target);
        match report.what {
            Happening::Started { adopted } => {
                self.maybe_noted = adopted;
                machine.note_started(target);
            }
            Happening::Resumed | Happening::ConnectionBack => {}
            Happening::ConnectionLost => {
                tracing::warn!(target = target.name, "the connection to QEMU broke");
            }
            Happening::PowerButton => {
                let label = "asked the target to shut down (power button)";
                machine.note(target, &Event::new(Kind::Manager, label).with(POWER_BUTTON, true));
            }
            Happening::Reset { by, reason, held } => {
                self.boots = by != By::Firmware && self.note_reset(report.time, by, &reason, held);
                self.again = None;
                if held {
                    self.go_on(GoOn::Reset);
                }
            }
            Happening::StartsOver => {
                if std::mem::replace(&mut self.boots, true) {
                    machine.note_boot_again(target);
                }
                self.go_on(GoOn::Resume);
            }
            Happening::ShutdownRequested { by, reason, held } => self.end((by, reason.to_string()), held),
            Happening::Panicked { info, held } => {
                let event = Event::new(Kind::Panic, "the target's operating system gave up (panic)");
                machine.note(target, &event.with("info", info));
                self.end((By::Guest, "guest-panic".to_owned()), held);
            }
            Happening::IoError { disk, write, no_space, held } => {
                if let Some(label) = self.failing.add(disk.as_deref(), write, Instant::now()) {
                    let event = Event::new(Kind::Manager, label);
                    machine.note(target, &event.with("no_space", no_space).with("held", held));
                }
                if held {
                    self.again = Some((Instant::now() + TRY_AGAIN, GoOn::Resume));
                }
            }
            Happening::Paused { state } => {
                tracing::info!(target = target.name, ?state, "the machine holds still");
            }
            Happening::Exited { exit, last_words } => {
                self.ended(exit, &last_words);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Writes a reset, unless an earlier manager has; returns whether the start that follows gets an event of its own.
    fn note_reset(&mut self, time: Option<Micros>, by: By, reason: &Reason, held: bool) -> bool {
        let time = time.unwrap_or_else(|| Micros(jiff::Timestamp::now().as_microsecond()));
        (std::mem::take(&mut self.maybe_noted) && self.machine.is_noted(self.target, time))
            || self.machine.note_reset(self.target, &mut self.resets, (by, reason), time, held)
    }

    /// Continues a held machine; if that fails, it is retried.
    fn go_on(&mut self, step: GoOn) {
        let made = self.machine.runner().and_then(|runner| match step {
            GoOn::Reset => runner.reset(),
            GoOn::Resume => runner.resume(),
        });
        self.again = made.err().map(|error| {
            tracing::warn!(target = self.target.name, %error, "the machine cannot go on yet");
            (Instant::now() + TRY_AGAIN, step)
        });
    }

    /// Ends a machine that has shut down or panicked; one that is not held ends by itself.
    fn end(&mut self, asked_by: (By, String), held: bool) {
        self.asked_by.get_or_insert(asked_by);
        if held && let Err(error) = self.machine.runner().and_then(|runner| runner.end()) {
            tracing::error!(target = self.target.name, %error, "QEMU does not end");
        }
    }

    /// Writes how often requests failed that work again.
    fn note_counts(&self, counts: Vec<(String, u64)>) {
        for (what, times) in counts {
            let label = format!("{what}, {times} times in all");
            self.machine.note(self.target, &Event::new(Kind::Manager, label).with("times", times));
        }
    }

    fn ended(&mut self, exit: Exit, last_words: &str) {
        let (machine, target) = (self.machine, self.target);
        machine.note_resets(target, self.resets.rest(Instant::now()));
        // What a client still writes counts too.
        target.wait_for_clients(machine.branch);
        let counts = self.failing.rest();
        self.note_counts(counts);
        if matches!(*lock(&machine.start), Start::Pending) && !machine.has_run(target) {
            machine.never_was(target, exit);
        } else {
            machine.note_boot(target);
            machine.finish(target, self.asked_by.as_ref(), exit, last_words);
        }
    }
}

impl Machine {
    /// Handles what happens to the machine, until it has ended.
    ///
    /// # Errors
    /// When what supervises its process has ended before it.
    pub(super) fn follow(&self, target: &Arc<Target>, reports: &Receiver<Report>) -> Result<()> {
        if self.adopted {
            let label = match self.again {
                true => "the machine is supervised again, which it was not for a while",
                false => "the manager was started again while the target ran on",
            };
            let event = Event::new(Kind::Manager, label).with("pid", lock(&self.kept).started.pid);
            if let Err(error) = target.log.event(self.branch, &event) {
                tracing::error!(target = target.name, %error, "the event could not be written");
            }
        }
        let mut following = Following {
            machine: self,
            target,
            asked_by: None,
            resets: Resets::new(),
            failing: Failing::default(),
            again: None,
            boots: true,
            maybe_noted: false,
        };
        loop {
            let wait = following.due().map_or(FOREVER, |at| at.saturating_duration_since(Instant::now()));
            match reports.recv_timeout(wait) {
                Ok(report) => {
                    if following.take(report).is_break() {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => following.do_due(Instant::now()),
                Err(RecvTimeoutError::Disconnected) => return Err(Error::ManagerGone),
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
        // In this order: what a client still writes is in the file systems.
        let clients_gone = target.wait_for_clients(self.branch);
        let file_systems = self.file_systems(target);
        let ending = Ending { asked_by, asked, exit, last_words, clients_gone, file_systems };
        self.note_stop(target, ending.event());
        // One that ran without ever answering.
        self.fail_start(&bygone_qemu::Error::Ended { exit }.into());
    }

    /// Writes the stop, releases the disks and wakes up the callers that wait for it.
    fn note_stop(&self, target: &Target, event: Event) {
        let stop = timeline::write(&target.log, self.branch, event).map_err(|error| {
            tracing::error!(target = target.name, %error, "the stop could not be written");
            error.failure()
        });
        self.let_go(target);
        *lock(&target.last_stop) = stop.clone().ok();
        *lock(&self.ended) = Some(stop.map_or_else(Ended::Unwritten, Ended::Stop));
        *lock(&target.machine) = Slot::None;
        target.stopped.notify_all();
    }

    /// Whether a machine that has not answered has run, as far as that shows.
    pub(super) fn has_run(&self, target: &Target) -> bool {
        let kept = lock(&self.kept);
        let has_written = target.guest_writes() > self.guest_writes_before;
        kept.noted || has_written || (self.adopted && target.has_run(&kept))
    }

    /// Handles the first answer of the machine.
    fn note_started(&self, target: &Target) {
        self.note_boot(target);
        *lock(&self.start) = Start::Up;
        self.start_changed.notify_all();
    }

    /// Writes the boot, unless it is in the log already.
    fn note_boot(&self, target: &Target) {
        let mut kept = lock(&self.kept);
        if self.adopted && target.is_boot_noted(&kept) {
            kept.noted = true;
        }
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
    }

    /// Handles the end of a machine that never answered: it was never booted. Whoever has asked it to stop is answered
    /// all the same.
    fn never_was(&self, target: &Arc<Target>, exit: Exit) {
        let asked = lock(&self.stop_asked).how.take();
        *lock(&self.ended) = asked.map(|how| match unbooted(target, self.branch, how) {
            Ok(stop) => Ended::Stop(stop),
            Err(why) => Ended::Unwritten(why.failure()),
        });
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

    /// The current state of the file systems on the disks.
    fn file_systems(&self, target: &Target) -> FileSystems {
        let (mut found, mut surveyor) = (FileSystems::default(), target.shared.children.surveyor());
        for lease in lock(&self.leases).iter() {
            found.add(&mut surveyor, &lease.disk_name(), lease);
        }
        found
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

pub(super) fn boot_event(target: &Target, kept: &Kept) -> Event {
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

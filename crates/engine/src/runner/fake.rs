//! Fake machines for tests. They do at once what they are asked to do, and outlive the manager that started them as
//! long as their [`Fake`] exists.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    time::Duration,
};

use bygone_model::Micros;
use bygone_qemu::{Held, Reason};

use super::{By, Exit, Happening, Launch, Launched, Launcher, Phase, Report, Runner, Step, Stopped};
use crate::{
    api::Accelerator,
    error::{Error, Result},
    target::lock,
};

const REPORTS_MAX: usize = 1024;

/// Where fake machines run.
#[derive(Default)]
pub(crate) struct Fake {
    machines: Mutex<HashMap<PathBuf, Arc<FakeMachine>>>,
    pids: AtomicU32,
    /// The name and the identity of each machine that was started.
    pub(crate) identities: Mutex<Vec<(String, String)>>,
    /// How the next machine behaves.
    pub(crate) next: Mutex<Next>,
    /// While set, no machine can be started here.
    pub(crate) is_missing: AtomicBool,
    /// While set, machines that are being started are not there yet.
    pub(crate) holds_starts: AtomicBool,
    /// While set, it cannot be determined whether a machine runs.
    pub(crate) is_unknown: AtomicBool,
    /// While set, writing to a console's log panics.
    pub(crate) is_unmarkable: AtomicBool,
    /// A look for the machine in this folder panics.
    pub(crate) haunted: Mutex<Option<PathBuf>>,
    /// A look for the machine in this folder does not end.
    pub(crate) hangs: Mutex<Option<PathBuf>>,
    /// How often it was asked whether machines can be started here.
    pub(crate) prepared: AtomicU32,
}

/// The behaviour of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Next {
    /// It answers, and shuts down when it is asked to.
    #[default]
    Good,
    /// It answers, and never shuts down by itself.
    Stubborn,
    /// It answers, and takes its time to shut down when it is asked to: until [`FakeMachine::shut_down`].
    Lingers,
    /// It does not answer until [`FakeMachine::answer`].
    Slow,
    /// Its program ends before it answers.
    Fails,
    /// Starting it panics.
    Panics,
}

/// A fake machine.
pub(crate) struct FakeMachine {
    pid: u32,
    kind: Next,
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    reports: Option<SyncSender<Report>>,
}

impl FakeMachine {
    fn tell(&self, what: Happening, phase: Phase) {
        self.tell_of(None, what, phase);
    }

    fn tell_of(&self, time: Option<Micros>, what: Happening, phase: Phase) {
        let mut state = lock(&self.state);
        if matches!(state.phase, Phase::Ended(_)) {
            return;
        }
        state.phase = phase;
        if let Some(reports) = &state.reports {
            let _ = reports.try_send(Report { time, what });
        }
        if matches!(phase, Phase::Ended(_)) {
            state.reports = None;
        }
    }

    /// Gives its first answer.
    pub(crate) fn answer(&self) {
        self.tell(Happening::Started { adopted: false }, Phase::Running);
    }

    /// Its process ends by itself.
    pub(crate) fn die(&self) {
        let exit = Exit::Signal(9);
        self.tell(Happening::Exited { exit, last_words: String::new() }, Phase::Ended(exit));
    }

    /// Its process ends together with what watches it.
    pub(crate) fn vanish(&self) {
        let mut state = lock(&self.state);
        (state.phase, state.reports) = (Phase::Ended(Exit::Unknown), None);
    }

    /// The guest shuts itself down.
    pub(crate) fn shut_down(&self) {
        let what = Happening::ShutdownRequested { by: By::Guest, reason: Reason::GuestShutdown, held: true };
        self.tell(what, Phase::Held(Held::Shutdown));
    }

    /// Its power button was pressed.
    pub(crate) fn press(&self) {
        self.tell(Happening::PowerButton, Phase::Running);
    }

    /// Reports a reset at this time, at which it was not held.
    pub(crate) fn reset_without_holding_at(&self, time: Micros) {
        let what = Happening::Reset { by: By::Host, reason: Reason::HostQmpSystemReset, held: false };
        self.tell_of(Some(time), what, Phase::Running);
    }

    /// The guest's operating system panics.
    pub(crate) fn panic(&self) {
        let what = Happening::Panicked { info: serde_json::Map::new(), held: true };
        self.tell(what, Phase::Held(Held::Panicked));
    }

    /// The guest resets itself.
    pub(crate) fn reset(&self) {
        let what = Happening::Reset { by: By::Guest, reason: Reason::GuestReset, held: true };
        self.tell(what, Phase::Held(Held::Paused));
    }

    /// A request to one of its disks fails.
    pub(crate) fn fail_to_read(&self, disk: &str) {
        let what = Happening::IoError { disk: Some(disk.into()), write: false, no_space: false, held: true };
        self.tell(what, Phase::Held(Held::IoError));
    }

    /// Whether it runs, and is not held.
    pub(crate) fn is_running(&self) -> bool {
        lock(&self.state).phase == Phase::Running
    }

    fn is_alive(&self) -> bool {
        !matches!(lock(&self.state).phase, Phase::Ended(_))
    }

    fn watch(self: &Arc<Self>) -> Launched {
        let (reports, receiver) = sync_channel(REPORTS_MAX);
        lock(&self.state).reports = Some(reports);
        Launched { runner: Box::new(FakeRunner(self.clone())), reports: receiver }
    }
}

impl Fake {
    /// The machine in this folder, if it is alive.
    pub(crate) fn machine(&self, dir: &Path) -> Option<Arc<FakeMachine>> {
        lock(&self.machines).get(dir).filter(|machine| machine.is_alive()).cloned()
    }

    /// As if the manager were killed: no reports are received any more.
    pub(crate) fn manager_is_killed(&self) {
        for machine in lock(&self.machines).values() {
            lock(&machine.state).reports = None;
        }
    }
}

impl Launcher for Fake {
    fn prepare(&self, _: &Path) -> Result<Accelerator> {
        self.prepared.fetch_add(1, Ordering::AcqRel);
        if self.is_missing.load(Ordering::Acquire) {
            let source = std::io::ErrorKind::NotFound.into();
            return Err(bygone_qemu::Error::NotInstalled { path: "qemu".into(), source }.into());
        }
        Ok(Accelerator::Tcg)
    }

    fn start(&self, launch: &Launch<'_>) -> Result<Launched> {
        if let Some(running) = self.machine(launch.dir) {
            return Err(bygone_qemu::Error::AlreadyRunning { pid: running.pid }.into());
        }
        while self.holds_starts.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let kind = std::mem::take(&mut *lock(&self.next));
        assert!(kind != Next::Panics, "as it was told to");
        lock(&self.identities).push((launch.config.name.clone(), launch.identity.to_owned()));
        let machine = Arc::new(FakeMachine {
            pid: 1_000_000 + self.pids.fetch_add(1, Ordering::Relaxed),
            kind,
            state: Mutex::new(State { phase: Phase::Starting, reports: None }),
        });
        lock(&self.machines).insert(launch.dir.to_owned(), machine.clone());
        let launched = machine.watch();
        match kind {
            Next::Good | Next::Stubborn | Next::Lingers => machine.answer(),
            Next::Slow | Next::Panics => {}
            Next::Fails => machine.die(),
        }
        Ok(launched)
    }

    fn find(&self, dir: &Path) -> Result<Option<u32>> {
        assert!(lock(&self.haunted).as_deref() != Some(dir), "as it was told to");
        while lock(&self.hangs).as_deref() == Some(dir) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.is_unknown.load(Ordering::Acquire) {
            return Err(Error::file("reading", "/proc", std::io::ErrorKind::OutOfMemory.into()));
        }
        Ok(self.machine(dir).map(|machine| machine.pid))
    }

    fn adopt(&self, dir: &Path) -> Result<Option<Launched>> {
        let Some(machine) = self.machine(dir) else { return Ok(None) };
        let launched = machine.watch();
        let phase = lock(&machine.state).phase;
        machine.tell(Happening::Started { adopted: true }, phase);
        if phase == Phase::Held(Held::Shutdown) {
            machine.shut_down();
        }
        Ok(Some(launched))
    }

    fn end(&self, dir: &Path) -> Result<()> {
        if let Some(machine) = self.machine(dir) {
            machine.die();
        }
        Ok(())
    }

    fn console(&self, dir: &Path) -> PathBuf {
        dir.join("console.sock")
    }

    fn mark_console(&self, _: &Path, _: &str) -> Result<()> {
        assert!(!self.is_unmarkable.load(Ordering::Acquire), "as it was told to");
        Ok(())
    }

    fn last_words(&self, _: &Path) -> String {
        "as it was told to".to_owned()
    }
}

struct FakeRunner(Arc<FakeMachine>);

impl Runner for FakeRunner {
    fn pid(&self) -> u32 {
        self.0.pid
    }
    fn phase(&self) -> Phase {
        lock(&self.0.state).phase
    }
    fn stop(&self, patience: Duration, wanted: &mut dyn FnMut(Option<Step>) -> bool) -> Result<Stopped> {
        wanted(Some(Step::PowerButtonPressed));
        if self.0.kind == Next::Stubborn {
            std::thread::sleep(patience.min(Duration::from_millis(10)));
            return Ok(Stopped::StillRunning);
        }
        let end = std::time::Instant::now() + patience;
        while self.0.kind == Next::Lingers && self.0.is_running() {
            if std::time::Instant::now() >= end {
                return Ok(Stopped::StillRunning);
            }
            if !wanted(None) {
                return Ok(Stopped::GivenUp);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.0.shut_down();
        Ok(Stopped::Holding)
    }
    fn end(&self) -> Result<()> {
        let exit = Exit::Code(0);
        self.0.tell(Happening::Exited { exit, last_words: String::new() }, Phase::Ended(exit));
        Ok(())
    }
    fn resume(&self) -> Result<()> {
        if !self.0.is_alive() {
            return Err(Error::ManagerGone);
        }
        self.0.tell(Happening::Resumed, Phase::Running);
        Ok(())
    }
    fn reset(&self) -> Result<()> {
        self.0.tell(Happening::StartsOver, Phase::Held(Held::Paused));
        Ok(())
    }
}

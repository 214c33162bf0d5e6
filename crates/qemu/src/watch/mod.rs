//! A running machine, and the thread that watches it.
//!
//! [`Vm::start`] starts a machine, [`Vm::adopt`] adopts one that an earlier manager started. Both give a handle
//! and a stream of [`Report`]s; the first is always [`Happening::Started`] unless QEMU ends before it answers, the
//! last always [`Happening::Exited`].
//!
//! Invariants:
//! - dropping the [`Vm`] leaves the machine running, ready to be adopted, in this process or another;
//! - a machine that shuts down or resets stays paused until [`Vm::end`] or [`Vm::reset`]: its disks do not change, for
//!   as long as the caller needs to read them;
//! - every wait has a deadline, and no thread waits for something that only it could do;
//! - a QEMU that does not answer can be ended by force: [`Vm::end`] needs neither its monitor nor its disks.

mod firmware;
mod missed;
mod report;
mod stop;
mod supervise;

use std::{
    fs,
    io::{self, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::Command as ProcessCommand,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use report::Story;
pub use report::{By, Happening, Held, Phase, Reason, Report};
pub use stop::{Step, Stopped};
use supervise::Supervisor;

use super::{
    deadline::Deadline,
    error::{Error, Result},
    places::Places,
    process::{Identity, Process},
    qmp::{self, Command, Cont, Qmp, RebootAction, SetAction, SystemPowerdown, SystemReset},
    running::Running,
    spec::Machine,
};

/// How many reports are queued before the watching thread blocks.
const REPORTS_MAX: usize = 256;

/// How long QEMU may take to answer an ordinary command.
pub const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A machine that is running, or was.
#[derive(Debug)]
pub struct Vm {
    shared: Arc<Shared>,
    process: Arc<Process>,
    places: Places,
    signal: UnixStream,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    now: Mutex<Now>,
    changed: Condvar,
}

#[derive(Debug)]
struct Now {
    phase: Phase,
    /// Present while commands can be sent.
    qmp: Option<Qmp>,
    stopping: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_phase(&self, phase: Phase) {
        self.lock().phase = phase;
        self.changed.notify_all();
    }

    fn set_qmp(&self, qmp: Option<Qmp>) {
        self.lock().qmp = qmp;
        self.changed.notify_all();
    }

    /// Waits until `found` returns something.
    fn wait<T>(&self, deadline: Deadline, mut found: impl FnMut(&Now) -> Option<T>) -> Option<T> {
        let mut now = self.lock();
        loop {
            if let Some(found) = found(&now) {
                return Some(found);
            }
            let left = deadline.remaining();
            if left.is_zero() {
                return None;
            }
            now = self.changed.wait_timeout(now, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Vm {
    /// Starts a machine with the QEMU at `qemu`. Its disks must be served already, or QEMU ends at once.
    ///
    /// # Errors
    /// [`Error::AlreadyRunning`]; those of [`Machine::argv`], [`Places::make`] and [`Process::spawn`]. Arguments that
    /// QEMU rejects are reported by [`Happening::Exited`]. Then no machine runs.
    pub fn start(qemu: &Path, machine: &Machine, places: &Places) -> Result<(Vm, Receiver<Report>)> {
        let argv = machine.argv(places)?;
        places.make()?;
        if let Some((running, _)) = Running::find(places)? {
            return Err(Error::AlreadyRunning { pid: running.process.pid });
        }
        Running::forget(places)?;
        places.put_by_old_log()?;
        let process = Process::spawn(ProcessCommand::new(qemu).args(argv), &places.qemu_log())?;
        let process = Arc::new(process);
        let running = Running { process: process.identity().clone() };
        let watched = running.save(places).and_then(|()| Vm::watch(process.clone(), places, false));
        or_killed(&process, watched)
    }

    /// Adopts the machine that runs in these places. `None` when none does.
    ///
    /// # Errors
    /// Those of [`Running::find`].
    pub fn adopt(places: &Places) -> Result<Option<(Vm, Receiver<Report>)>> {
        let Some((running, process)) = Running::find(places)? else { return Ok(None) };
        if let Err(error) = running.save(places) {
            // The record from its start is good enough: a full disk must not prevent the adoption.
            tracing::warn!(%error, "the machine that is adopted cannot be written down anew");
        }
        Vm::watch(Arc::new(process), places, true).map(Some)
    }

    fn watch(process: Arc<Process>, places: &Places, adopted: bool) -> Result<(Vm, Receiver<Report>)> {
        let system = |what| move |source: io::Error| Error::System { what, source };
        let (signal, signalled) = UnixStream::pair().map_err(system("making a pair of sockets"))?;
        for end in [&signal, &signalled] {
            end.set_nonblocking(true).map_err(system("making a pair of sockets"))?;
        }
        let (reports, receiver) = sync_channel(REPORTS_MAX);
        let now = Now { phase: Phase::Starting, qmp: None, stopping: false };
        let shared = Arc::new(Shared { now: Mutex::new(now), changed: Condvar::new() });
        let supervisor = Supervisor {
            shared: Arc::clone(&shared),
            process: Arc::clone(&process),
            places: places.clone(),
            signal: signalled,
            reports,
            story: Story::new(adopted),
            question: None,
        };
        let thread = std::thread::Builder::new().name("qemu".to_owned()).spawn(move || supervisor.run());
        let thread = Some(thread.map_err(system("starting a thread"))?);
        Ok((Vm { shared, process, places: places.clone(), signal, thread }, receiver))
    }

    /// Its process.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.process.identity()
    }

    /// The paths of its files.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Its phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.shared.lock().phase
    }

    /// Waits for a phase that `wanted` accepts, or the machine's end; `None` on a timeout.
    pub fn wait_for(&self, within: Duration, wanted: impl Fn(Phase) -> bool) -> Option<Phase> {
        self.shared.wait(Deadline::after(within), |now| {
            (wanted(now.phase) || matches!(now.phase, Phase::Ended(_))).then_some(now.phase)
        })
    }

    /// Sends a command to QEMU, as soon as there is a connection, and waits for the answer.
    ///
    /// # Errors
    /// Those of [`Qmp::execute`], and [`Error::Ended`].
    pub fn execute<C: Command>(&self, command: &C, within: Duration) -> Result<C::Answer> {
        let deadline = Deadline::after(within);
        let qmp = self.shared.wait(deadline, |now| match (&now.phase, &now.qmp) {
            (Phase::Ended(exit), _) => Some(Err(Error::Ended { exit: *exit })),
            (_, Some(qmp)) => Some(Ok(qmp.clone())),
            _ => None,
        });
        qmp.unwrap_or(Err(Error::NotConnected))?.execute(command, deadline.remaining())
    }

    /// Presses the power button. The guest may ignore it.
    ///
    /// # Errors
    /// Those of [`Vm::execute`].
    pub fn press_power_button(&self) -> Result<()> {
        self.execute(&SystemPowerdown, ANSWER_MAX).map(drop)
    }

    /// Pauses the machine.
    ///
    /// # Errors
    /// Those of [`Vm::execute`]. It times out while a disk of the machine does not answer.
    pub fn pause(&self) -> Result<()> {
        self.execute(&qmp::Stop, ANSWER_MAX)?;
        // The watching thread reports it after it has queried the reason.
        self.wait_for(ANSWER_MAX, |phase| matches!(phase, Phase::Held(_)));
        Ok(())
    }

    /// Resumes a machine that is paused by command, after [`Vm::reset`], at a disk error or at a panic.
    ///
    /// # Errors
    /// Those of [`Vm::execute`]; [`Error::Refused`] after a shutdown or a reset by the guest, which need [`Vm::reset`]
    /// first.
    pub fn resume(&self) -> Result<()> {
        self.execute(&Cont, ANSWER_MAX).map(drop)
    }

    /// Resets a paused machine, which is reported by [`Happening::StartsOver`]; [`Vm::resume`] lets it run then. What
    /// the guest had not written to disk is lost, as with a real reset button.
    ///
    /// # Errors
    /// Those of [`Vm::execute`]. It can be retried after each.
    pub fn reset(&self) -> Result<()> {
        // With `reboot=shutdown` QEMU turns this reset into a shutdown too. The setting counts when the reset is
        // requested, so the next reset pauses the machine again. If this is interrupted, the next connection restores
        // the setting.
        let on_reset = |reboot| self.execute(&SetAction { reboot }, ANSWER_MAX);
        on_reset(RebootAction::Reset)?;
        let reset = self.execute(&SystemReset, ANSWER_MAX);
        on_reset(RebootAction::Shutdown)?;
        reset.map(drop)
    }

    fn wake(&self) {
        // If the socket is full, the thread is about to wake anyway.
        let _ = (&self.signal).write(&[1]);
    }
}

/// Kills a machine whose start failed after its process was there: a machine that nobody supervises, or that a later
/// manager could not find, must not run.
fn or_killed<T>(process: &Process, started: Result<T>) -> Result<T> {
    if started.is_err() {
        process.kill()?;
        process.wait(Deadline::after(ANSWER_MAX))?;
    }
    started
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.wake();
        if let Some(thread) = self.thread.take() {
            // It ends at the signal; a panic has been printed already.
            let _ = thread.join();
        }
    }
}

/// The QEMU of this computer: the first `qemu-system-x86_64` on the search path.
///
/// # Errors
/// [`Error::NotInstalled`].
pub fn find_qemu() -> Result<std::path::PathBuf> {
    const NAME: &str = "qemu-system-x86_64";
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&paths).map(|dir| dir.join(NAME)).find(|path| {
        fs::metadata(path).is_ok_and(|file| file.is_file())
            && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
    });
    found.ok_or_else(|| Error::NotInstalled { path: NAME.into(), source: io::ErrorKind::NotFound.into() })
}

#[cfg(test)]
mod tests;

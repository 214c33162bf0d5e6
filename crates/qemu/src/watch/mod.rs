//! A running machine, and the thread that watches it.
//!
//! [`Vm::start`] starts a machine, [`Vm::adopt`] takes over one that an earlier manager started. Both give a handle
//! and a stream of [`Report`]s; the first is always [`Happening::Started`] unless QEMU ends before it answers, the
//! last always [`Happening::Exited`].
//!
//! Invariants:
//! - dropping the [`Vm`] leaves the machine running, ready to be adopted, in this process or another;
//! - a machine that stops or resets holds still and stays until [`Vm::end`] or [`Vm::reset`]: its disks are at rest, and whoever takes data
//!   from them decides how long;
//! - every wait has a deadline, and none is for something only the waiting thread could bring about;
//! - what cannot be asked of QEMU can be forced: [`Vm::end`] needs neither its monitor nor its disks.

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

/// How many reports wait for their receiver before the watching thread does.
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
    /// There while commands can be sent.
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

    /// Waits until `found` finds something.
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
    /// Starts a machine with the QEMU at `qemu`. Its disks have to be served already, or QEMU ends at once.
    ///
    /// # Errors
    /// [`Error::AlreadyRunning`]; those of [`Machine::argv`], [`Places::make`] and [`Process::spawn`]. What QEMU does not like about its
    /// arguments is told by [`Happening::Exited`].
    pub fn start(qemu: &Path, machine: &Machine, places: &Places) -> Result<(Vm, Receiver<Report>)> {
        let argv = machine.argv(places)?;
        places.make()?;
        if let Some((running, _)) = Running::find(places)? {
            return Err(Error::AlreadyRunning { pid: running.process.pid });
        }
        Running::forget(places)?;
        places.put_by_old_log()?;
        let process = Process::spawn(ProcessCommand::new(qemu).args(argv), &places.qemu_log())?;
        let running = Running { process: process.identity().clone() };
        if let Err(error) = running.save(places) {
            // A machine that no later manager would find must not run.
            process.kill()?;
            process.wait(Deadline::after(ANSWER_MAX))?;
            return Err(error);
        }
        Vm::watch(process, places, false)
    }

    /// Takes over the machine that runs in this place. `None` when none does.
    ///
    /// # Errors
    /// Those of [`Running::find`].
    pub fn adopt(places: &Places) -> Result<Option<(Vm, Receiver<Report>)>> {
        let Some((running, process)) = Running::find(places)? else { return Ok(None) };
        if let Err(error) = running.save(places) {
            // What was written down when it was started will do; a full disk must not keep it from being looked after.
            tracing::warn!(%error, "the machine that is taken up cannot be written down anew");
        }
        Vm::watch(process, places, true).map(Some)
    }

    fn watch(process: Process, places: &Places, adopted: bool) -> Result<(Vm, Receiver<Report>)> {
        let system = |what| move |source: io::Error| Error::System { what, source };
        let (signal, signalled) = UnixStream::pair().map_err(system("making a pair of sockets"))?;
        for end in [&signal, &signalled] {
            end.set_nonblocking(true).map_err(system("making a pair of sockets"))?;
        }
        let (reports, receiver) = sync_channel(REPORTS_MAX);
        let now = Now { phase: Phase::Starting, qmp: None, stopping: false };
        let shared = Arc::new(Shared { now: Mutex::new(now), changed: Condvar::new() });
        let process = Arc::new(process);
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

    /// Where its files are.
    #[must_use]
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Where it is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.shared.lock().phase
    }

    /// Waits for a phase that `wanted` accepts, or the end; `None` when neither came in time.
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

    /// Presses the power button. Whether the guest takes notice is its own affair.
    ///
    /// # Errors
    /// Those of [`Vm::execute`].
    pub fn press_power_button(&self) -> Result<()> {
        self.execute(&SystemPowerdown, ANSWER_MAX).map(drop)
    }

    /// Holds the machine still.
    ///
    /// # Errors
    /// Those of [`Vm::execute`]. Unanswered while a disk of the machine does not answer.
    pub fn pause(&self) -> Result<()> {
        self.execute(&qmp::Stop, ANSWER_MAX)?;
        // Told by the thread after it has asked for the reason.
        self.wait_for(ANSWER_MAX, |phase| matches!(phase, Phase::Held(_)));
        Ok(())
    }

    /// Lets a machine that was paused or reset, or held at a disk's error or a panic, go on where it is.
    ///
    /// # Errors
    /// Those of [`Vm::execute`]; [`Error::Refused`] after a shutdown or a reset, which need [`Vm::reset`] first.
    pub fn resume(&self) -> Result<()> {
        self.execute(&Cont, ANSWER_MAX).map(drop)
    }

    /// Resets a machine that holds still, which is told by [`Happening::StartsOver`]; [`Vm::resume`] lets it run then.
    /// Everything it had not written is lost to it, as with the button on a real one.
    ///
    /// # Errors
    /// Those of [`Vm::execute`]. It can be tried again after each.
    pub fn reset(&self) -> Result<()> {
        // With `reboot=shutdown` QEMU takes our own reset for a shutdown too. It decides when it is asked, so the next
        // reset holds the machine still again. If this is cut short, the next connection does that.
        let on_reset = |reboot| self.execute(&SetAction { reboot }, ANSWER_MAX);
        on_reset(RebootAction::Reset)?;
        let reset = self.execute(&SystemReset, ANSWER_MAX);
        on_reset(RebootAction::Shutdown)?;
        reset.map(drop)
    }

    fn wake(&self) {
        // A full socket means that the thread is about to wake up anyway.
        let _ = (&self.signal).write(&[1]);
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.shared.lock().stopping = true;
        self.wake();
        if let Some(thread) = self.thread.take() {
            // It ends at the signal; a panic of it has been printed already.
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

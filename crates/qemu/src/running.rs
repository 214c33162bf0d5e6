//! What a manager records about a machine it started, for a later manager.
//!
//! Invariants: the file is written atomically. A running machine is found even when the manager died before it could
//! write the file, by the pid that QEMU itself writes, and even when nothing can be read of its process, by the lock
//! that QEMU holds on that file as long as it runs.

use std::{fs, io};

use bygone_sys::write_whole;
use rustix::process::{Flock, FlockType, Pid, fcntl_getlk};
use serde::{Deserialize, Serialize};

use super::{
    deadline::Deadline,
    error::{Error, Result},
    places::{Places, utf8},
    process::{Identity, KILL_MAX, Process},
    qmp::connect_at_once,
};

/// A machine that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Its process.
    pub process: Identity,
}

impl Running {
    /// Writes it to the machine's directory.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn save(&self, places: &Places) -> Result<()> {
        let path = places.state_file();
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other);
        text.and_then(|text| write_whole(&path, &text)).map_err(Error::file(&path))
    }

    /// The machine that runs in these places, with its process; `None` when none does.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::System`]; [`Error::BadState`] when the file is invalid and it cannot be determined in
    /// another way. [`Error::File`] also when a process that is not known to be QEMU, or cannot be seen from here, holds
    /// QEMU's lock.
    pub fn find(places: &Places) -> Result<Option<(Running, Process)>> {
        Running::find_held(places, holder(places)?)
    }

    /// As [`Running::find`], with who holds QEMU's lock.
    fn find_held(places: &Places, holder: Holder) -> Result<Option<(Running, Process)>> {
        if let Holder::Process(pid) = holder
            && let Some(process) = by_lock(places, pid)?
        {
            let running = Running { process: process.identity().clone() };
            return Ok(Some((running, process)));
        }
        match Running::find_by_process(places) {
            Err(error) if settles(&error, holder, places) => {
                tracing::debug!(dir = %places.dir().display(), %error, "no machine runs: QEMU would hold its file");
                Ok(None)
            }
            // Something runs that keeps another QEMU from starting properly, and it may be one.
            Ok(None) if holder == Holder::Hidden => {
                Err(held_by(places, "a process that cannot be seen from here holds its lock".to_owned()))
            }
            found => found,
        }
    }

    /// As [`Running::find`], by what can be read of the processes.
    fn find_by_process(places: &Places) -> Result<Option<(Running, Process)>> {
        let state = read(places);
        if let Ok(Some(running)) = &state
            && let Some(process) = Process::find(&running.process)?
        {
            return Ok(Some((running.clone(), process)));
        }
        if let Some(process) = by_pid_file(places)? {
            let running = Running { process: process.identity().clone() };
            return Ok(Some((running, process)));
        }
        state.map(|_| None)
    }

    /// Ends the machine that runs in these places, if one does, by its process alone, as if its power were cut.
    ///
    /// # Errors
    /// Those of [`Running::find`]; [`Error::System`] when the process cannot be killed.
    pub fn end(places: &Places) -> Result<()> {
        let Some((_, process)) = Running::find(places)? else { return Ok(()) };
        process.kill()?;
        let timed_out = || Error::System { what: "killing QEMU", source: io::ErrorKind::TimedOut.into() };
        process.wait(Deadline::after(KILL_MAX))?.map(drop).ok_or_else(timed_out)
    }

    /// Removes the files of a machine that has ended, except its logs and its UEFI variables.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn forget(places: &Places) -> Result<()> {
        let files = [
            places.state_file(),
            places.pid_file(),
            places.qmp_socket(),
            places.qmp_log(),
            places.console_socket(),
        ];
        for path in files {
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::file(&path)(e)),
                _ => {}
            }
        }
        Ok(())
    }
}

fn read(places: &Places) -> Result<Option<Running>> {
    let path = places.state_file();
    match fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::BadState { path, source })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file(&path)(e)),
    }
}

/// Who holds the lock of QEMU's pid file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Process(u32),
    /// A process whose pid means nothing here: it is in another pid namespace, on another computer, or the lock belongs
    /// to an open file.
    Hidden,
    Nobody,
    /// There is no such file, or QEMU has not written its pid to it yet.
    Unknown,
}

impl Holder {
    /// From what the kernel says of a lock that is held.
    fn of(pid: Option<Pid>) -> Holder {
        // Below 1 it is none.
        let pid = pid.and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
        pid.map_or(Holder::Hidden, Holder::Process)
    }
}

fn held_by(places: &Places, what: String) -> Error {
    Error::file(&places.pid_file())(io::Error::other(what))
}

fn holder(places: &Places) -> Result<Holder> {
    let path = places.pid_file();
    let file = match fs::File::open(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Holder::Unknown),
        opened => opened.map_err(Error::file(&path))?,
    };
    // QEMU makes the file, locks it, and then writes to it.
    let is_written = file.metadata().is_ok_and(|file| file.len() > 0);
    Ok(match fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)) {
        Ok(Some(lock)) => Holder::of(lock.pid),
        Ok(None) if is_written => Holder::Nobody,
        // Not every file system has locks.
        Ok(None) | Err(_) => Holder::Unknown,
    })
}

/// The process that holds the lock of QEMU's pid file, whether or not something can be read of it.
///
/// # Errors
/// [`Error::System`]; [`Error::File`] when it can be read that the process is not the one that was started here, so it
/// is neither supervised nor ended.
fn by_lock(places: &Places, pid: u32) -> Result<Option<Process>> {
    let known = read(places).ok().flatten().map(|running| running.process);
    let (process, is_own) = match Process::with_pid(pid) {
        Ok(Some(process)) => {
            let is_own = known.as_ref() == Some(process.identity())
                // What cannot be read decides nothing.
                || process.has_argument(utf8(&places.pid_file())?).unwrap_or(true);
            (Some(process), is_own)
        }
        // Hidden (`hidepid`), or it has ended.
        Ok(None) | Err(_) => (Process::unread(pid, known.filter(|known| known.pid == pid))?, true),
    };
    // The lock is still that of this pid, so this process has had it all the time.
    match process.filter(|_| holder(places).is_ok_and(|holder| holder == Holder::Process(pid))) {
        Some(_) if !is_own => {
            Err(held_by(places, format!("process {pid}, which is not known to be its QEMU, holds its lock")))
        }
        process => Ok(process),
    }
}

/// Whether no machine runs, although that cannot be told from its process, for this reason.
fn settles(error: &Error, holder: Holder, places: &Places) -> bool {
    let is_lasting = match error {
        Error::BadState { .. } => true,
        Error::File { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
        _ => false,
    };
    match holder {
        Holder::Nobody => is_lasting,
        // QEMU removes its pid file when it ends by itself. As long as it runs, it listens.
        Holder::Unknown => is_lasting && !places.pid_file().exists() && is_deaf(places),
        Holder::Process(_) | Holder::Hidden => false,
    }
}

/// Whether nothing listens on the socket of QEMU's monitor. One whose queue is full listens.
fn is_deaf(places: &Places) -> bool {
    let refused = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
    connect_at_once(&places.qmp_socket()).is_err_and(|error| refused.contains(&error.kind()))
}

/// The pid may be stale; the process is the right one if it was started with this very file.
fn by_pid_file(places: &Places) -> Result<Option<Process>> {
    let path = places.pid_file();
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8(bytes).unwrap_or_default(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::file(&path)(e)),
    };
    let Ok(pid) = text.trim().parse() else { return Ok(None) };
    let Some(process) = Process::with_pid(pid)? else { return Ok(None) };
    Ok(process.has_argument(utf8(&path)?)?.then_some(process))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn a_machine_is_ended_by_its_process_whether_or_not_it_has_a_monitor() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path()).unwrap();
        Running::end(&places).expect("there is none");
        fs::write(places.pid_file(), "0").unwrap();
        // A program that lasts, and is known by the argument that QEMU would have.
        let mut command = Command::new("tail");
        let program =
            Process::spawn(command.arg("-f").arg(places.pid_file()), &dir.path().join("log")).unwrap();
        fs::write(places.pid_file(), program.identity().pid.to_string()).unwrap();
        assert_eq!(Running::find(&places).unwrap().unwrap().0.process, *program.identity());
        Running::end(&places).unwrap();
        assert!(Running::find(&places).unwrap().is_none());
        assert!(program.wait(Deadline::after(std::time::Duration::ZERO)).unwrap().is_some());
    }

    /// The machine's place, for the test below.
    const PLACE: &str = "BYGONE_TEST_HOLDS";

    #[test]
    #[ignore = "a process that another test starts"]
    fn holds_its_pid_file_as_qemu_does() {
        let Some(dir) = std::env::var_os(PLACE) else { return };
        let places = Places::new(dir).unwrap();
        let file = fs::File::create(places.pid_file()).unwrap();
        rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
        (&file).write_all(format!("{}\n", std::process::id()).as_bytes()).unwrap();
        // Until the other end is closed.
        let _ = io::stdin().read(&mut [0]);
    }

    /// Starts a process that holds the lock, and whose arguments are those of QEMU if it `is_known`.
    fn hold(places: &Places, is_known: bool) -> std::process::Child {
        let mut holds = Command::new(std::env::current_exe().unwrap());
        let name = "running::tests::holds_its_pid_file_as_qemu_does";
        let holds = holds.args(["--exact", name, "--ignored"]).env(PLACE, places.dir());
        // Another name of a test, which there is not: the argument by which QEMU is known.
        let holds = if is_known { holds.arg(places.pid_file()) } else { holds };
        let qemu = holds.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !fs::read_to_string(places.pid_file()).is_ok_and(|pid| pid.ends_with('\n')) {
            assert!(std::time::Instant::now() < end, "it does not hold its file");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        qemu
    }

    #[test]
    fn whether_a_machine_runs_is_known_by_its_lock_when_nothing_else_tells() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path()).unwrap();
        // It says nothing, and QEMU has removed its file or never made it.
        fs::write(places.state_file(), "{").unwrap();
        let listens = std::os::unix::net::UnixListener::bind(places.qmp_socket()).unwrap();
        assert!(matches!(Running::find(&places), Err(Error::BadState { .. })));
        drop(listens);
        assert!(Running::find(&places).unwrap().is_none());

        let mut qemu = hold(&places, true);
        let (running, _) = Running::find(&places).unwrap().expect("it runs");
        assert_eq!(running.process.pid, qemu.id());
        let hidden = || Error::file("/proc/1/stat")(io::ErrorKind::PermissionDenied.into());
        assert!(!settles(&hidden(), holder(&places).unwrap(), &places));
        assert!(by_lock(&places, std::process::id()).unwrap().is_none(), "another process holds it");

        qemu.kill().unwrap();
        qemu.wait().unwrap();
        assert_eq!(holder(&places).unwrap(), Holder::Nobody);
        assert!(Running::find(&places).unwrap().is_none());
        assert!(settles(&hidden(), Holder::Nobody, &places));
        // That lasts no longer than the lack.
        let lack = Error::file("/proc/1/stat")(rustix::io::Errno::MFILE.into());
        assert!(!settles(&lack, Holder::Nobody, &places));
        // QEMU has made its file and not locked it yet.
        fs::write(places.pid_file(), "").unwrap();
        assert_eq!(holder(&places).unwrap(), Holder::Unknown);
        assert!(matches!(Running::find(&places), Err(Error::BadState { .. })));
    }

    #[test]
    fn a_lock_that_is_held_by_who_knows_whom_does_not_mean_that_no_machine_runs() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path()).unwrap();
        fs::write(places.pid_file(), "1\n").unwrap();
        // In another pid namespace.
        assert_eq!(Holder::of(None), Holder::Hidden);
        assert!(matches!(Running::find_held(&places, Holder::Hidden), Err(Error::File { .. })));

        // A process of which it can be read that it is another one: it is not ended either.
        fs::remove_file(places.pid_file()).unwrap();
        let mut stranger = hold(&places, false);
        assert!(matches!(Running::find(&places), Err(Error::File { .. })));
        assert!(matches!(Running::end(&places), Err(Error::File { .. })));
        assert!(stranger.try_wait().unwrap().is_none());
        // It is known once it was written down.
        let process = Process::with_pid(stranger.id()).unwrap().unwrap();
        Running { process: process.identity().clone() }.save(&places).unwrap();
        assert!(Running::find(&places).unwrap().is_some());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn a_monitor_whose_queue_is_full_listens_and_nobody_waits_for_it() {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path()).unwrap();
        let monitor = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(&monitor, &SocketAddrUnix::new(places.qmp_socket()).unwrap()).unwrap();
        listen(&monitor, 0).unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = connect_at_once(&places.qmp_socket()) {
            queued.push(stream);
            assert!(queued.len() < 100, "the queue has no end");
        }
        let (says, said) = std::sync::mpsc::channel();
        let looking = std::thread::spawn(move || says.send(is_deaf(&places)));
        let is_deaf = said.recv_timeout(std::time::Duration::from_secs(20));
        drop((queued, monitor));
        assert_eq!(is_deaf, Ok(false));
        looking.join().unwrap().unwrap();
    }

    #[test]
    fn a_pid_file_that_cannot_be_read_does_not_mean_that_no_machine_runs() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places::new(dir.path()).unwrap();
        assert!(Running::find(&places).unwrap().is_none());
        fs::write(places.pid_file(), [0xff, 0xfe]).unwrap();
        assert!(Running::find(&places).unwrap().is_none(), "that is no process number");
        fs::remove_file(places.pid_file()).unwrap();
        fs::create_dir(places.pid_file()).unwrap();
        assert!(matches!(Running::find(&places), Err(Error::File { .. })));
    }
}

//! The process of a QEMU: started so that it outlives this one, found again, waited for, ended.
//!
//! Invariants:
//! - a process is referred to by its pidfd, never by its pid alone and never by its name: nothing here can signal a
//!   process that only reused the pid;
//! - dropping a [`Process`] leaves the process running;
//! - a started program is in a session of its own and inherits no descriptor except its log.

use std::{
    fmt, fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid},
};
use serde::{Deserialize, Serialize};

use super::{
    deadline::Deadline,
    error::{Error, Result},
};

const ESRCH: i32 = rustix::io::Errno::SRCH.raw_os_error();

/// How long a process may take to end when it was killed.
pub(super) const KILL_MAX: Duration = Duration::from_secs(10);

/// The identity of a process. It is unique, also over reboots of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The pid.
    pub pid: u32,
    /// When it started, in the kernel's ticks since the boot (field 22 of `/proc/PID/stat`).
    pub start_ticks: u64,
    /// The boot of the host in which it started (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Unknown, because it was not a child of this process.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "exit status {code}"),
            Exit::Signal(9) => f.write_str("killed"),
            Exit::Signal(signal) => write!(f, "ended by signal {signal}"),
            Exit::Unknown => f.write_str("exit status unknown"),
        }
    }
}

/// A running process, or one that has ended.
#[derive(Debug)]
pub struct Process {
    identity: Identity,
    pidfd: OwnedFd,
}

impl Process {
    /// Starts a program that outlives this process: in a new session, with empty standard input, its output appended to
    /// `log`, and no other inherited descriptor.
    ///
    /// # Errors
    /// [`Error::NotInstalled`] when it cannot be started, [`Error::File`] for the log, [`Error::System`] when it cannot be
    /// watched. Then it does not run.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Process> {
        let output = fs::OpenOptions::new().create(true).append(true).open(log).map_err(Error::file(log))?;
        let errors = output.try_clone().map_err(Error::file(log))?;
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = bygone_sys::detach(command)
            .spawn()
            .map_err(|source| Error::NotInstalled { path: PathBuf::from(command.get_program()), source })?;
        or_killed(child, Process::of_child)
    }

    /// A child that was not waited for: so its pid cannot have been reused, even if it has ended.
    fn of_child(child: &Child) -> Result<Process> {
        let pid = Pid::from_child(child);
        let pidfd =
            pidfd_open(pid, PidfdFlags::empty()).map_err(Error::system("watching the new process"))?;
        let start_ticks = read_stat(child.id())?.map_or(0, |stat| stat.start_ticks);
        Ok(Process { identity: Identity { pid: child.id(), start_ticks, boot_id: boot_id()? }, pidfd })
    }

    /// Finds a process that was started earlier, perhaps by a manager that has ended. `None` when it has ended.
    ///
    /// # Errors
    /// [`Error::System`], [`Error::File`].
    pub fn find(identity: &Identity) -> Result<Option<Process>> {
        if identity.boot_id != boot_id()? {
            return Ok(None);
        }
        Ok(Process::with_pid(identity.pid)?.filter(|process| process.identity == *identity))
    }

    /// The process that has this pid now. `None` when there is none.
    pub(super) fn with_pid(pid: u32) -> Result<Option<Process>> {
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match pidfd_open(number, PidfdFlags::empty()) {
            // The id of a thread is refused as invalid.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            other => other.map_err(Error::system("watching a process"))?,
        };
        // Read with the pidfd open: if the process ends and its pid is reused in between, this reads another process's
        // data, but the pidfd shows the end.
        let stat = read_stat(pid)?;
        let process = |stat: Stat| -> Result<Process> {
            Ok(Process {
                identity: Identity { pid, start_ticks: stat.start_ticks, boot_id: boot_id()? },
                pidfd,
            })
        };
        match stat {
            Some(stat) if !stat.ended => {
                let process = process(stat)?;
                Ok(if process.has_ended(Deadline::after(Duration::ZERO))? { None } else { Some(process) })
            }
            _ => Ok(None),
        }
    }

    /// The process that has this pid now, of which nothing need be readable; its identity is what is `known` of it.
    /// `None` when there is none.
    pub(super) fn unread(pid: u32, known: Option<Identity>) -> Result<Option<Process>> {
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match pidfd_open(number, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(None),
            other => other.map_err(Error::system("watching a process"))?,
        };
        let identity = match known {
            Some(known) => known,
            None => Identity { pid, start_ticks: 0, boot_id: boot_id()? },
        };
        let process = Process { identity, pidfd };
        Ok(if process.has_ended(Deadline::after(Duration::ZERO))? { None } else { Some(process) })
    }

    /// Its identity.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Waits for its end; `None` when it still runs at the deadline. This reaps a child of this process; a second call
    /// returns [`Exit::Unknown`].
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn wait(&self, deadline: Deadline) -> Result<Option<Exit>> {
        if !self.has_ended(deadline)? {
            return Ok(None);
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(Some(status)) => Ok(Some(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            })),
            // Not a child of this process, or reaped before.
            Ok(None) | Err(rustix::io::Errno::CHILD) => Ok(Some(Exit::Unknown)),
            Err(error) => Err(Error::system("waiting for a process")(error)),
        }
    }

    fn has_ended(&self, deadline: Deadline) -> Result<bool> {
        loop {
            let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
            match poll(&mut fds, Some(&deadline.timeout())) {
                Ok(count) => return Ok(count > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::system("waiting for a process")(error)),
            }
        }
    }

    /// Asks it to end (SIGTERM, which QEMU treats as a shutdown by the host). Does nothing if it has ended.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends it at once (SIGKILL). Does nothing if it has ended.
    ///
    /// # Errors
    /// [`Error::System`].
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(Error::system("ending a process")(error)),
        }
    }

    /// Whether it was started with this argument; false if it has ended.
    ///
    /// # Errors
    /// [`Error::File`].
    pub(super) fn has_argument(&self, argument: &str) -> Result<bool> {
        let path = format!("/proc/{}/cmdline", self.identity.pid);
        let line = unless_gone(fs::read(&path)).map_err(Error::file(&path))?.unwrap_or_default();
        Ok(line.split(|&byte| byte == 0).any(|word| word == argument.as_bytes()))
    }
}

/// Watches a new process, and kills it if that fails: a program that nobody could find again must not run.
fn or_killed<T>(mut child: Child, watch: impl FnOnce(&Child) -> Result<T>) -> Result<T> {
    watch(&child).inspect_err(|_| {
        // Fails only if it has ended.
        let _ = child.kill().and_then(|()| child.wait());
    })
}

impl AsFd for Process {
    /// The pidfd: readable when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    start_ticks: u64,
    ended: bool,
}

/// `None` if there is no such process. A file that cannot be read says nothing about the process: for lack of
/// descriptors or memory, a running one would count as ended.
fn read_stat(pid: u32) -> Result<Option<Stat>> {
    let path = format!("/proc/{pid}/stat");
    let text = unless_gone(fs::read_to_string(&path)).map_err(Error::file(&path))?;
    Ok(text.and_then(|text| parse_stat(&text)))
}

/// What was read of a process; `None` if the process has ended.
fn unless_gone<T>(read: io::Result<T>) -> io::Result<Option<T>> {
    match read {
        Ok(read) => Ok(Some(read)),
        // The kernel says the second of these if the process ends while its file is open.
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(ESRCH) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The second field is the program's name in parentheses, and may hold spaces and parentheses itself.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    // The third field, then the 22nd.
    let ended = matches!(fields.next()?, "Z" | "X" | "x");
    Some(Stat { start_ticks: fields.nth(18)?.parse().ok()?, ended })
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).map_err(Error::file(path))?.trim().to_owned())
}

#[cfg(test)]
mod tests;

//! A machine's serial console: attaching to it, and what was printed on it.
//!
//! Invariants:
//! - a terminal is raw only while attached, and is as it was afterwards, whichever way that ends;
//! - detaching leaves the machine alone;
//! - one at a time is attached: QEMU takes one connection, and a second would wait without a word;
//! - the logs are bounded, however much a guest prints.
//!
//! What a guest prints is the guest's: it goes to a terminal as it is, escape sequences and all, as it would from a
//! real serial line.

use std::{
    fs,
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr},
};

use super::{
    error::{Error, Result},
    places::{Places, older, tail},
    qmp::connect_at_once,
};

/// Ctrl-], which ends an attachment, as in telnet.
pub const DETACH: u8 = 0x1d;

/// How large a log may grow before it is put by and a new one is begun. So twice as much is kept.
pub const LOG_BYTES_MAX: u64 = 16 << 20;
/// The same for the monitor's, of which only the end is ever read.
const QMP_LOG_BYTES_MAX: u64 = 1 << 20;

/// How an attachment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detached {
    /// By [`DETACH`]. The machine goes on.
    ByUser,
    /// The machine has ended.
    ByMachine,
    /// Nobody reads what we write any more.
    OutputClosed,
}

/// Attaches `input` and `output` to a machine's console, until somebody detaches. A terminal at `input` is put into
/// raw mode, and then [`DETACH`] detaches; anything else is copied as it is, and its end leaves the output going.
///
/// # Errors
/// [`Error::ConsoleBusy`], [`Error::NotListening`], [`Error::File`].
pub fn attach(places: &Places, input: impl AsFd, output: impl AsFd) -> Result<Detached> {
    let lock_path = places.console_lock();
    let lock = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
    let lock = lock.map_err(Error::file(&lock_path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Err(Error::ConsoleBusy),
        Err(fs::TryLockError::Error(e)) => return Err(Error::file(&lock_path)(e)),
    }
    let path = places.console_socket();
    let machine =
        connect_at_once(&path).map_err(|source| Error::NotListening { path: path.clone(), source })?;
    let raw = RawMode::enter(input.as_fd())?;
    let end = copy(&machine, input.as_fd(), output.as_fd(), raw.is_some());
    drop(raw);
    end.map_err(Error::file(path))
}

/// A terminal in raw mode, until this is dropped.
struct RawMode<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl RawMode<'_> {
    /// Nothing when it is no terminal.
    fn enter(terminal: BorrowedFd<'_>) -> Result<Option<RawMode<'_>>> {
        if !isatty(terminal) {
            return Ok(None);
        }
        let before = tcgetattr(terminal).map_err(Error::system("reading the terminal's settings"))?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(terminal, OptionalActions::Drain, &raw)
            .map_err(Error::system("changing the terminal's settings"))?;
        Ok(Some(RawMode { terminal, before }))
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        // A terminal that has gone needs no restoring.
        let _ = tcsetattr(self.terminal, OptionalActions::Drain, &self.before);
    }
}

fn copy(
    machine: impl AsFd,
    input: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
    terminal: bool,
) -> io::Result<Detached> {
    let machine = machine.as_fd();
    let mut input_open = true;
    let mut buffer = [0; 16 << 10];
    loop {
        let mut fds = vec![PollFd::from_borrowed_fd(machine, PollFlags::IN)];
        if input_open {
            fds.push(PollFd::from_borrowed_fd(input, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let [from_machine, from_input] =
            [0, 1].map(|at| fds.get(at).is_some_and(|fd| !fd.revents().is_empty()));
        if from_machine {
            match read(machine, &mut buffer) {
                Ok(0) => return Ok(Detached::ByMachine),
                Ok(count) if write_all(output, &buffer[..count]).is_err() => {
                    return Ok(Detached::OutputClosed);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(Detached::ByMachine);
                }
                Err(error) => return Err(error),
            }
        }
        if from_input {
            let count = read(input, &mut buffer)?;
            let typed = &buffer[..count];
            let detach = typed.iter().position(|&byte| byte == DETACH).filter(|_| terminal);
            if write_all(machine, &typed[..detach.unwrap_or(count)]).is_err() {
                return Ok(Detached::ByMachine);
            }
            if detach.is_some() {
                return Ok(Detached::ByUser);
            }
            if count == 0 {
                // A terminal that hangs up takes its user with it; a file or pipe that ends has said all it had to say.
                if terminal {
                    return Ok(Detached::ByUser);
                }
                input_open = false;
            }
        }
    }
}

fn read(from: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::io::read(from, &mut *buffer))?)
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            // Somebody made the descriptor a non-blocking one; then it is waited for here.
            Err(rustix::io::Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The last `bytes_max` bytes printed on the console, over all boots of the machine. For a terminal, filter them.
///
/// # Errors
/// [`Error::File`].
pub fn history(places: &Places, bytes_max: u64) -> Result<Vec<u8>> {
    let log = places.console_log();
    let read = |path: &Path, bytes_max| match tail(path, bytes_max) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(Error::file(path)),
    };
    let newer = read(&log, bytes_max)?;
    let room = bytes_max - newer.len() as u64;
    let mut bytes = if room > 0 { read(&older(&log), room)? } else { Vec::new() };
    bytes.extend_from_slice(&newer);
    Ok(bytes)
}

/// Writes a line of our own into the console's log, behind what was printed so far. `text` is one line.
///
/// # Errors
/// [`Error::File`].
pub fn mark(places: &Places, text: &str) -> Result<()> {
    let log = places.console_log();
    let open = fs::OpenOptions::new().create(true).append(true).open(&log);
    // One write, as QEMU has the file open too; and the guest may have left a line unfinished.
    let written =
        open.and_then(|mut file| file.write_all(format!("\r\n=== bygone: {text} ===\r\n").as_bytes()));
    written.map_err(Error::file(log))
}

/// Puts logs that have grown too large by, for the thread that watches the machine.
pub(super) fn bound_logs(places: &Places) {
    let logs = [
        (places.console_log(), LOG_BYTES_MAX),
        (places.qemu_log(), LOG_BYTES_MAX),
        (places.qmp_log(), QMP_LOG_BYTES_MAX),
    ];
    for (log, bytes_max) in logs {
        if let Err(error) = bound_log(&log, bytes_max) {
            tracing::warn!(log = %log.display(), %error, "a log grows without bounds");
        }
    }
}

/// QEMU has the file open and writes to its end, so it is copied and cut, not renamed. What is written in between
/// is lost.
fn bound_log(log: &Path, bytes_max: u64) -> io::Result<()> {
    let len_bytes = match fs::metadata(log) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?.len(),
    };
    if len_bytes <= bytes_max {
        return Ok(());
    }
    let old = older(log);
    if fs::write(&old, tail(log, bytes_max)?).is_err() {
        // Cutting it must not need room.
        let _ = fs::remove_file(&old);
    }
    fs::OpenOptions::new().write(true).open(log)?.set_len(0)
}

#[cfg(test)]
mod tests;

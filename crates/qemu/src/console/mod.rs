//! A machine's serial console: attaching to it, and its log.
//!
//! Invariants:
//! - a terminal is raw only while attached, and is restored afterwards, however the attachment ends;
//! - detaching leaves the machine alone;
//! - one client is attached at a time: QEMU accepts one connection, and a second would wait silently;
//! - the logs are bounded, however much a guest prints.
//!
//! The guest's output goes to the terminal unfiltered, escape sequences included, as from a real serial line.

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

/// How large a log may grow before it is rotated. So up to twice as much is kept.
pub const LOG_BYTES_MAX: u64 = 16 << 20;
/// The same for the monitor's log, of which only the end is ever read.
const QMP_LOG_BYTES_MAX: u64 = 1 << 20;

/// How an attachment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detached {
    /// By [`DETACH`]. The machine keeps running.
    ByUser,
    /// The machine has ended.
    ByMachine,
    /// The output was closed.
    OutputClosed,
}

/// Attaches `input` and `output` to a machine's console until the user detaches. If `input` is a terminal, it is put
/// into raw mode and [`DETACH`] detaches; anything else is copied unchanged, and its end leaves the output running.
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
    /// `None` when it is not a terminal.
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
                // A terminal that hangs up ends the attachment; the end of a file or pipe only ends the input.
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
            // The descriptor may have been made non-blocking; then this waits for it.
            Err(rustix::io::Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The last `bytes_max` bytes printed on the console, over all boots of the machine. They have to be filtered before
/// they go to a terminal.
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

/// Writes a line of Bygone's own to the console's log, after what was printed so far. `text` is one line.
///
/// # Errors
/// [`Error::File`].
pub fn mark(places: &Places, text: &str) -> Result<()> {
    let log = places.console_log();
    let open = fs::OpenOptions::new().create(true).append(true).open(&log);
    // In one write, because QEMU has the file open too. It begins a new line, because the guest may have left one
    // unfinished.
    let written =
        open.and_then(|mut file| file.write_all(format!("\r\n=== bygone: {text} ===\r\n").as_bytes()));
    written.map_err(Error::file(log))
}

/// Rotates logs that have grown too large. Called by the thread that watches the machine.
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

/// QEMU has the file open for appending, so it is copied and truncated, not renamed. Output written in between is lost.
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
        // Truncating must not need free space.
        let _ = fs::remove_file(&old);
    }
    fs::OpenOptions::new().write(true).open(log)?.set_len(0)
}

#[cfg(test)]
mod tests;

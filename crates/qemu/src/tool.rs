//! Runs one of QEMU's programs to its end.
//!
//! Invariants: standard output is read line by line, each of bounded length, and standard error up to a bound. A
//! program that is cancelled is killed. No program outlives the call.

use std::{
    io::Read,
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    deadline::Deadline,
    error::{Error, Result},
};

/// The longest line of output.
const LINE_BYTES_MAX: usize = 64 << 10;
/// How much of standard error is kept, from its beginning.
const COMPLAINT_BYTES_MAX: u64 = 16 << 10;
/// How often `wanted` is called.
const WANTED_EVERY: Duration = Duration::from_millis(200);

/// The result of a program.
#[derive(Debug)]
pub(crate) struct Done {
    /// Its exit status; `None` after a signal.
    pub(crate) code: Option<i32>,
    /// The text on standard error.
    pub(crate) complaint: String,
}

/// Kills the program, however the call ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both do nothing once it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program and calls `each` with every line it prints (a carriage return ends a line, too). `wanted` is called
/// repeatedly and cancels when it returns false.
///
/// # Errors
/// [`Error::NotInstalled`], [`Error::System`]; [`Error::GivenUp`] when `wanted` or `each` returned false.
pub(crate) fn run(
    command: &mut Command,
    wanted: &mut dyn FnMut() -> bool,
    each: &mut dyn FnMut(&str) -> bool,
) -> Result<Done> {
    let program = command.get_program().to_owned();
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = spawned.map_err(|source| Error::NotInstalled { path: program.into(), source })?;
    let mut running = Running(child);
    let system = |source| Error::System { what: "running a program", source };
    let (Some(mut output), Some(complaints)) = (running.0.stdout.take(), running.0.stderr.take()) else {
        return Err(system(std::io::ErrorKind::BrokenPipe.into()));
    };
    let listener = std::thread::spawn(move || {
        let mut kept = Vec::new();
        let mut complaints = complaints;
        // Output beyond the bound is read as well, so that the program does not block on it.
        let _ = (&mut complaints).take(COMPLAINT_BYTES_MAX).read_to_end(&mut kept);
        let _ = std::io::copy(&mut complaints, &mut std::io::sink());
        String::from_utf8_lossy(&kept).trim().to_owned()
    });
    let mut line = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = {
            let mut fds = [PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN)];
            match poll(&mut fds, Some(&Deadline::after(WANTED_EVERY).timeout())) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(system(errno.into())),
            }
            if !wanted() {
                return Err(Error::GivenUp);
            }
            if fds[0].revents().is_empty() {
                continue;
            }
            output.read(&mut buffer).map_err(system)?
        };
        for &byte in &buffer[..count] {
            if byte != b'\n' && byte != b'\r' {
                if line.len() < LINE_BYTES_MAX {
                    line.push(byte);
                }
            } else if !each(&String::from_utf8_lossy(&line)) {
                return Err(Error::GivenUp);
            } else {
                line.clear();
            }
        }
        if count == 0 {
            break;
        }
    }
    if !line.is_empty() && !each(&String::from_utf8_lossy(&line)) {
        return Err(Error::GivenUp);
    }
    let code = running.0.wait().map_err(system)?.code();
    Ok(Done { code, complaint: listener.join().unwrap_or_default() })
}

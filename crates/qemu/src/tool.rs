//! Running a program of QEMU's to its end.
//!
//! Invariants: what it says is taken line by line, each of bounded length, and its complaints up to a bound; a program
//! that nobody waits for any more is killed; none outlives the call.

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

/// The longest line that is taken from it.
const LINE_BYTES_MAX: usize = 64 << 10;
/// How much of its complaints is kept, from the beginning.
const COMPLAINT_BYTES_MAX: u64 = 16 << 10;
/// How often whoever waits is asked whether they still do.
const WANTED_EVERY: Duration = Duration::from_millis(200);

/// How it came out.
#[derive(Debug)]
pub(crate) struct Done {
    /// Its exit status; `None` after a signal.
    pub(crate) code: Option<i32>,
    /// What it said on standard error.
    pub(crate) complaint: String,
}

/// Ends the program, however the call ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both do nothing after its end.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program and gives each line that it prints to `each` (a carriage return ends one, too). `wanted` is asked
/// again and again whether to go on.
///
/// # Errors
/// [`Error::NotInstalled`], [`Error::System`]; [`Error::GivenUp`] when `wanted` or `each` said no.
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
        // What is too much is read all the same, so that the program does not wait for it.
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

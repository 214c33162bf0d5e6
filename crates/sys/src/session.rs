//! Starts programs apart from this process: some outlive it.
//!
//! Invariants: a program started by a [`detach`]ed command is in a session of its own (no terminal, no signals to this
//! process group) and inherits no descriptor except standard input, output and error.

use std::{io, os::unix::process::CommandExt, process::Command};

/// The first descriptor after standard input, output and error.
const FIRST_OWN_FD: libc::c_uint = 3;

/// Makes `command` start its program in a new session, without any descriptor of this process above standard error.
/// Standard input, output and error stay as set on the command.
pub fn detach(command: &mut Command) -> &mut Command {
    // SAFETY: the closure runs in the child between fork and exec. It makes two system calls, touches no memory but
    // its own stack and `errno`, takes no lock and allocates nothing, so it is safe whatever the other threads of
    // the parent held at the moment of the fork. Marking descriptors close-on-exec leaves the pipe usable over
    // which `std` reports a failed exec.
    #[expect(unsafe_code, reason = "pre_exec; std's own way to a new session is not stable")]
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() == -1 {
                return Err(io::Error::last_os_error());
            }
            let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
            if libc::close_range(FIRST_OWN_FD, libc::c_uint::MAX, flags) == -1 {
                let error = io::Error::last_os_error();
                // Linux before 5.11 lacks it; there, what `std` opened is close-on-exec already.
                if error.raw_os_error() != Some(libc::ENOSYS) && error.raw_os_error() != Some(libc::EINVAL) {
                    return Err(error);
                }
            }
            Ok(())
        })
    }
}

//! What a manager records about a machine it started, for a later manager.
//!
//! Invariants: the file is written atomically. A running machine is found even when the manager died before it could
//! write the file, by the pid that QEMU itself writes.

use std::{fs, io};

use bygone_sys::write_whole;
use serde::{Deserialize, Serialize};

use super::{
    deadline::Deadline,
    error::{Error, Result},
    places::{Places, utf8},
    process::{Identity, KILL_MAX, Process},
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
    /// [`Error::File`], [`Error::System`]; [`Error::BadState`] when the file is invalid and the machine cannot be found
    /// in another way.
    pub fn find(places: &Places) -> Result<Option<(Running, Process)>> {
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
    use std::process::Command;

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

//! The door to the programs that run machines: everything the engine does with one goes through these two traits.
//!
//! Invariants: a runner that is dropped leaves its machine running; whether a machine runs is asked of its process. The first report
//! of a machine is [`Happening::Started`] unless it ends before it answers, the last is [`Happening::Exited`].

#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod qemu;

use std::{
    path::{Path, PathBuf},
    sync::mpsc::Receiver,
    time::Duration,
};

pub(crate) use bygone_qemu::{By, Happening, Phase, Report, Step, Stopped, process::Exit};

pub(crate) use self::qemu::Qemu;
use crate::{
    config::{Display, TargetConfig},
    error::Result,
};

/// A disk as a machine gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LaunchDisk {
    /// Its id.
    pub id: String,
    /// The NBD socket that serves it.
    pub socket: PathBuf,
    /// Its name there.
    pub export: String,
    /// 512 or 4096.
    pub block_bytes: u32,
}

/// A machine to start.
#[derive(Clone, Debug)]
pub(crate) struct Launch<'a> {
    /// How the target is made up.
    pub config: &'a TargetConfig,
    /// What its user sees.
    pub display: &'a Display,
    /// Where its sockets and logs are.
    pub dir: &'a Path,
    /// Its disks, which are served already.
    pub disks: Vec<LaunchDisk>,
}

/// A machine that was started or taken over.
pub(crate) struct Launched {
    /// The machine.
    pub runner: Box<dyn Runner>,
    /// What happens to it.
    pub reports: Receiver<Report>,
}

/// Starts machines and finds those that run.
pub(crate) trait Launcher: Send + Sync {
    /// Gets ready to start a machine, so that [`Launcher::start`] is quick; says how processors will be run: `kvm` or `tcg`.
    ///
    /// # Errors
    /// When no machine can be started here.
    fn prepare(&self, scratch: &Path) -> Result<String>;

    /// Starts a machine.
    ///
    /// # Errors
    /// When one runs in this place already, or it cannot be started. Then none runs.
    fn start(&self, launch: &Launch<'_>) -> Result<Launched>;

    /// The process of the machine that runs in the place `dir`; `None` when none does.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn find(&self, dir: &Path) -> Result<Option<u32>>;

    /// Takes over the machine that runs in the place `dir`; `None` when none does.
    ///
    /// # Errors
    /// When that cannot be found out, or it cannot be watched.
    fn adopt(&self, dir: &Path) -> Result<Option<Launched>>;

    /// The console of a machine in the place `dir`.
    fn console(&self, dir: &Path) -> PathBuf;

    /// Writes a line into the log of the console of a machine in the place `dir`.
    ///
    /// # Errors
    /// When it cannot be written.
    fn mark_console(&self, dir: &Path, text: &str) -> Result<()>;

    /// What the program in the place `dir` itself said last, for people.
    fn last_words(&self, dir: &Path) -> String;
}

/// A machine that runs, or did.
pub(crate) trait Runner: Send + Sync {
    /// Its process.
    fn pid(&self) -> u32;

    /// Where it is in its life.
    fn phase(&self) -> Phase;

    /// Asks it to shut down until it has, for as long as `patience`; see [`bygone_qemu::Vm::stop`].
    ///
    /// # Errors
    /// When it can neither be asked nor ended.
    fn stop(&self, patience: Duration, say: &mut dyn FnMut(Step)) -> Result<Stopped>;

    /// Ends it, asked first, then by force.
    ///
    /// # Errors
    /// When its process cannot be ended.
    fn end(&self) -> Result<()>;

    /// Lets it go on where it was held.
    ///
    /// # Errors
    /// When it does not answer.
    fn resume(&self) -> Result<()>;

    /// Resets it; it then stands before its first instruction, until [`Runner::resume`].
    ///
    /// # Errors
    /// When it does not answer.
    fn reset(&self) -> Result<()>;
}

//! The interface to the programs that run machines: the engine uses machines only through these two traits.
//!
//! Invariants: dropping a runner leaves its machine running; whether a machine runs is determined from its process. The
//! first report of a machine is [`Happening::Started`] unless it ends before its first answer, the last is
//! [`Happening::Exited`].

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
    api::Accelerator,
    config::{Display, TargetConfig},
    error::Result,
};

/// A disk of a machine that is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LaunchDisk {
    pub id: String,
    /// The NBD socket that serves it.
    pub socket: PathBuf,
    /// The name of its export on the socket.
    pub export: String,
    /// The block size, 512 or 4096 bytes.
    pub block_bytes: u32,
}

/// A machine to start.
#[derive(Clone, Debug)]
pub(crate) struct Launch<'a> {
    pub config: &'a TargetConfig,
    /// What its guest is told from others by. It never changes, although its name may.
    pub identity: &'a str,
    pub display: &'a Display,
    /// The folder of its sockets and logs.
    pub dir: &'a Path,
    /// Its disks, which are served already.
    pub disks: Vec<LaunchDisk>,
}

/// A machine that was started or adopted.
pub(crate) struct Launched {
    pub runner: Box<dyn Runner>,
    pub reports: Receiver<Report>,
}

/// Starts machines and finds running ones.
pub(crate) trait Launcher: Send + Sync {
    /// Prepares for starting machines, so that [`Launcher::start`] is quick; returns the accelerator.
    ///
    /// # Errors
    /// When no machine can be started here.
    fn prepare(&self, scratch: &Path) -> Result<Accelerator>;

    /// Starts a machine.
    ///
    /// # Errors
    /// When one runs in this folder already, or it cannot be started. Then none was started.
    fn start(&self, launch: &Launch<'_>) -> Result<Launched>;

    /// The process of the machine that runs in the folder `dir`; `None` if none runs.
    ///
    /// # Errors
    /// When that cannot be determined.
    fn find(&self, dir: &Path) -> Result<Option<u32>>;

    /// Adopts the machine that runs in the folder `dir`; `None` if none runs.
    ///
    /// # Errors
    /// When that cannot be determined, or the machine cannot be supervised.
    fn adopt(&self, dir: &Path) -> Result<Option<Launched>>;

    /// Ends the machine that runs in the folder `dir`, if one does, by its process alone.
    ///
    /// # Errors
    /// When it cannot be determined whether one runs, or its process cannot be ended.
    fn end(&self, dir: &Path) -> Result<()>;

    /// The socket of the console of the machine in `dir`.
    fn console(&self, dir: &Path) -> PathBuf;

    /// Writes a line to the console's log of the machine in `dir`.
    ///
    /// # Errors
    /// When it cannot be written.
    fn mark_console(&self, dir: &Path, text: &str) -> Result<()>;

    /// The last output of the program in `dir` itself, for people.
    fn last_words(&self, dir: &Path) -> String;
}

/// A machine that runs, or did.
pub(crate) trait Runner: Send + Sync {
    /// Its process id.
    fn pid(&self) -> u32;

    /// The phase of its life.
    fn phase(&self) -> Phase;

    /// Asks it repeatedly to shut down, for at most `patience` and as long as it is `wanted`; see
    /// [`bygone_qemu::Vm::stop`].
    ///
    /// # Errors
    /// When it can be neither asked nor ended.
    fn stop(&self, patience: Duration, wanted: &mut dyn FnMut(Option<Step>) -> bool) -> Result<Stopped>;

    /// Ends its process: asks it first, then kills it.
    ///
    /// # Errors
    /// When its process cannot be ended.
    fn end(&self) -> Result<()>;

    /// Continues it from where it was held.
    ///
    /// # Errors
    /// When it does not answer.
    fn resume(&self) -> Result<()>;

    /// Resets it; it is then held before its first instruction, until [`Runner::resume`].
    ///
    /// # Errors
    /// When it does not answer.
    fn reset(&self) -> Result<()>;
}

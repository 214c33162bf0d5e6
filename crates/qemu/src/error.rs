//! Every error of running QEMU.

use std::{io, path::PathBuf, time::Duration};

use super::process::Exit;

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation on a machine failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub enum Error {
    // ---- the description of the machine has to be changed
    /// A disk's name is not usable as a serial number and node name.
    #[error("'{id}' cannot be the name of a disk")]
    BadDiskId { id: String },
    /// Two disks have one name.
    #[error("two disks are called '{id}'")]
    DuplicateDisk { id: String },
    /// A block size that QEMU does not support.
    #[error("disk '{id}': {bytes} bytes cannot be a block size")]
    BadBlockSize { id: String, bytes: u32 },
    /// No memory, or no processor.
    #[error("a machine needs at least one processor and 1 MiB of memory")]
    TooSmall,
    /// A word of the command line is unknown.
    #[error("'{word}' is no {what}")]
    BadWord {
        word: String,
        /// What was expected.
        what: &'static str,
    },
    /// A path that cannot be passed on QEMU's command line.
    #[error("{} is not valid UTF-8", path.display())]
    NotUtf8 { path: PathBuf },
    /// The path exceeds the limit for unix sockets.
    #[error("{} is longer than the {SOCKET_PATH_BYTES_MAX} bytes a socket's path can have", path.display())]
    SocketPathTooLong { path: PathBuf },

    // ---- something has to be installed or put right on this computer
    /// QEMU, or the program that was tried, cannot be started.
    #[error("{} cannot be started: {source}", path.display())]
    NotInstalled { path: PathBuf, source: io::Error },
    /// No UEFI firmware.
    #[error("there is no UEFI firmware on this computer (looked for {} and {} other files)", first.display(), others)]
    NoFirmware {
        /// The most usual of the files that were tried.
        first: PathBuf,
        /// How many others were tried.
        others: usize,
    },
    /// A file of a running machine could not be read or written.
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// The file that describes the running QEMU is invalid.
    #[error("{} does not describe a running machine", path.display())]
    BadState { path: PathBuf, source: serde_json::Error },
    /// A system call about a process failed.
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },

    /// An image cannot be imported as it is.
    #[error("the image {}: {unfit}", path.display())]
    Image { path: PathBuf, unfit: crate::image::Unfit },
    /// One of QEMU's tools failed.
    #[error("{program} failed: {said}")]
    Tool { program: &'static str, said: String },
    /// Cancelled by the caller.
    #[error("given up")]
    GivenUp,

    // ---- wait, try again, or use force
    /// Another client has the one connection that a console accepts.
    #[error("somebody else is attached to this console")]
    ConsoleBusy,
    /// Nothing listens there.
    #[error("nothing answers at {}: {source}", path.display())]
    NotListening { path: PathBuf, source: io::Error },
    /// There is no connection to QEMU's monitor at the moment, or it was lost during the call.
    #[error("there is no connection to QEMU")]
    NotConnected,
    /// QEMU did not answer a command in time.
    #[error("QEMU did not answer '{command}' within {} s", within.as_secs())]
    Unanswered { command: &'static str, within: Duration },
    /// Too many commands are waiting for an answer.
    #[error("QEMU leaves too many commands unanswered")]
    TooManyCommands,
    /// The machine to be started is running already.
    #[error("the machine is running already (process {pid})")]
    AlreadyRunning { pid: u32 },
    /// The machine is not running any more.
    #[error("the machine has ended ({exit})")]
    Ended { exit: Exit },

    // ---- QEMU refused
    /// QEMU answered a command with an error.
    #[error("QEMU refuses '{command}': {description}")]
    Refused {
        command: &'static str,
        /// QEMU's error class.
        class: String,
        description: String,
    },

    // ---- stop: the peer is broken, old, or hostile
    /// The peer does not speak QMP.
    #[error("what answers there does not speak QEMU's protocol: {0}")]
    Protocol(#[from] ProtocolError),
}

/// The longest path of a unix socket in bytes, without the final zero.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How a peer violated QMP.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub enum ProtocolError {
    /// A line is too long.
    #[error("a line of more than {max} bytes")]
    LineTooLong { max: usize },
    /// Not JSON.
    #[error("a line that is not JSON ({0})")]
    NotJson(#[source] serde_json::Error),
    /// JSON, but not a greeting, an answer or an event.
    #[error("a message of no known kind")]
    UnknownMessage,
    /// The first message was not a greeting.
    #[error("no greeting at the start")]
    NoGreeting,
    /// The answer to a command does not have the expected form.
    #[error("an answer to '{command}' of another form ({source})")]
    BadAnswer { command: &'static str, source: serde_json::Error },
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::File { path, source }
    }

    pub(crate) fn system(what: &'static str) -> impl FnOnce(rustix::io::Errno) -> Error {
        move |errno| Error::System { what, source: errno.into() }
    }
}

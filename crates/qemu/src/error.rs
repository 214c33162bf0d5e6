//! Everything that can go wrong between us and a QEMU.

use std::{io, path::PathBuf, time::Duration};

use super::process::Exit;

/// What this crate returns as `Err`.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something with a QEMU did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    // ---- the description of the machine has to be changed
    /// A disk's name is not usable as a serial number and node name.
    #[error("'{id}' cannot be the name of a disk")]
    BadDiskId {
        /// The name.
        id: String,
    },
    /// Two disks have one name.
    #[error("two disks are called '{id}'")]
    DuplicateDisk {
        /// The name.
        id: String,
    },
    /// A block size QEMU does not offer.
    #[error("disk '{id}': {bytes} bytes cannot be a block size")]
    BadBlockSize {
        /// The disk.
        id: String,
        /// The size.
        bytes: u32,
    },
    /// No memory, or no processor.
    #[error("a machine needs at least one processor and 1 MiB of memory")]
    TooSmall,
    /// A word of the command line is none we know.
    #[error("'{word}' is no {what}")]
    BadWord {
        /// What was given.
        word: String,
        /// What it should have been.
        what: &'static str,
    },
    /// A path that cannot be put on QEMU's command line.
    #[error("{} is not valid UTF-8", path.display())]
    NotUtf8 {
        /// The path.
        path: PathBuf,
    },
    /// Unix sockets have short names.
    #[error("{} is longer than the {SOCKET_PATH_BYTES_MAX} bytes a socket's path can have", path.display())]
    SocketPathTooLong {
        /// The path.
        path: PathBuf,
    },

    // ---- something has to be installed or put right on this computer
    /// No QEMU.
    #[error("{} cannot be started: {source}", path.display())]
    NotInstalled {
        /// The program that was tried.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No UEFI firmware.
    #[error("there is no UEFI firmware on this computer (looked for {} and {} other files)", first.display(), others)]
    NoFirmware {
        /// The most usual of the files that were looked for.
        first: PathBuf,
        /// How many others.
        others: usize,
    },
    /// A file of a running machine could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that says which QEMU runs makes no sense.
    #[error("{} does not describe a running machine", path.display())]
    BadState {
        /// The file.
        path: PathBuf,
        /// Where it stops making sense.
        source: serde_json::Error,
    },
    /// A system call about a process failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },

    /// An image cannot be taken in as it is.
    #[error("the image {}: {unfit}", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// Why not.
        unfit: crate::image::Unfit,
    },
    /// One of QEMU's tools failed.
    #[error("{program} failed: {said}")]
    Tool {
        /// Which.
        program: &'static str,
        /// What it said.
        said: String,
    },
    /// Nobody waits for it any more.
    #[error("given up")]
    GivenUp,

    // ---- wait, try again, or use force
    /// Someone else has the one connection a console takes.
    #[error("somebody else is attached to this console")]
    ConsoleBusy,
    /// Nothing listens there.
    #[error("nothing answers at {}: {source}", path.display())]
    NotListening {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No connection to QEMU's monitor at the moment, or it broke while we waited.
    #[error("there is no connection to QEMU")]
    NotConnected,
    /// QEMU did not answer a command in time.
    #[error("QEMU did not answer '{command}' within {} s", within.as_secs())]
    Unanswered {
        /// The command.
        command: &'static str,
        /// How long we waited.
        within: Duration,
    },
    /// Too many commands are waiting for an answer.
    #[error("QEMU leaves too many commands unanswered")]
    TooManyCommands,
    /// It was to be started, and runs.
    #[error("the machine is running already (process {pid})")]
    AlreadyRunning {
        /// Its process.
        pid: u32,
    },
    /// The machine is not running any more.
    #[error("the machine has ended ({exit})")]
    Ended {
        /// How.
        exit: Exit,
    },

    // ---- QEMU refused
    /// QEMU answered a command with an error.
    #[error("QEMU refuses '{command}': {description}")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's error class.
        class: String,
        /// QEMU's words.
        description: String,
    },

    // ---- stop: the peer is broken, old, or hostile
    /// What was said is not QMP.
    #[error("what answers there does not speak QEMU's protocol: {0}")]
    Protocol(#[from] ProtocolError),
}

/// How many bytes the path of a unix socket can have, without the final zero.
pub const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How a peer broke the rules of QMP.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// A line without end.
    #[error("a line of more than {max} bytes")]
    LineTooLong {
        /// The limit.
        max: usize,
    },
    /// Not JSON.
    #[error("a line that is not JSON ({0})")]
    NotJson(#[source] serde_json::Error),
    /// JSON, but neither greeting, answer nor event.
    #[error("a message of no known kind")]
    UnknownMessage,
    /// The first message was no greeting.
    #[error("no greeting at the start")]
    NoGreeting,
    /// The answer to a command is not of the form it has to have.
    #[error("an answer to '{command}' of another form ({source})")]
    BadAnswer {
        /// The command.
        command: &'static str,
        /// Where it differs.
        source: serde_json::Error,
    },
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

//! Listening sockets.
//!
//! Invariants: a unix socket accepts connections only after its mode is 0600. A file is removed only if it is a socket
//! without a listener, or the very one created here.

use std::{
    ffi::OsStr,
    fmt, fs, io,
    net::SocketAddr,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    io::{Errno, FdFlags, fcntl_setfd},
    net::{
        AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, getsockname,
        listen, socket_with,
        sockopt::{set_socket_reuseaddr, socket_acceptconn, socket_type},
    },
};

/// How many clients may wait to be accepted.
const BACKLOG: i32 = 128;

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub enum ListenError {
    /// The path exceeds the kernel's limit for unix sockets.
    #[error("{} is too long for the path of a socket (107 bytes at most); use a shorter one", path.display())]
    PathTooLong { path: PathBuf },
    /// Another server listens there.
    #[error("{} is in use by another server; stop it or use another path", path.display())]
    InUse { path: PathBuf },
    /// A file exists there that is not a socket.
    #[error("{} exists and is not a socket; it is left alone, use another path", path.display())]
    NotASocket { path: PathBuf },
    /// The inherited descriptor is not a listening stream socket.
    #[error(
        "the descriptor that was handed over is no listening stream socket; whoever made it has to call listen on it"
    )]
    NotListening,
    /// The operating system refused.
    #[error("cannot listen on {address}")]
    System {
        address: String,
        #[source]
        source: io::Error,
    },
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// The path of a unix socket.
    Unix(PathBuf),
    /// A TCP address, with the port that was really bound.
    Tcp(SocketAddr),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// A listening socket's address, and the means to end it.
pub(crate) struct Listener {
    wake: Arc<OwnedFd>,
    pub(crate) address: Address,
    /// Device and inode of a unix socket's file.
    file: Option<(u64, u64)>,
}

/// The listening socket itself. Dropping it refuses clients that wait and those to come.
pub(crate) struct Entrance {
    fd: OwnedFd,
    wake: Arc<OwnedFd>,
}

/// The result of [`Entrance::accept`].
pub(crate) enum Accepted {
    Client(OwnedFd),
    Woken,
}

impl Listener {
    pub(crate) fn unix(path: &Path) -> Result<(Self, Entrance), ListenError> {
        let system = |error: io::Error| ListenError::System {
            address: format!("unix:{}", path.display()),
            source: error,
        };
        let name = SocketAddrUnix::new(path).map_err(|error| match error {
            Errno::NAMETOOLONG => ListenError::PathTooLong { path: path.to_owned() },
            other => system(other.into()),
        })?;
        clear_the_way(path, &name)?;
        let fd = stream_socket(AddressFamily::UNIX).map_err(|error| system(error.into()))?;
        bind(&fd, &name).map_err(|error| system(error.into()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(system)?;
        let file = fs::symlink_metadata(path).map_err(system)?;
        Self::listen(fd, Address::Unix(path.to_owned()), Some((file.dev(), file.ino()))).map_err(system)
    }

    pub(crate) fn tcp(address: SocketAddr) -> Result<(Self, Entrance), ListenError> {
        let open = || -> io::Result<(Self, Entrance)> {
            let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
            let fd = stream_socket(family)?;
            set_socket_reuseaddr(&fd, true)?;
            bind(&fd, &address)?;
            let bound = SocketAddr::try_from(getsockname(&fd)?)?;
            Self::listen(fd, Address::Tcp(bound), None)
        };
        open().map_err(|source| ListenError::System { address: address.to_string(), source })
    }

    /// Adopts a socket that already listens. Its file is not removed at the end, because it belongs to whoever created
    /// it.
    pub(crate) fn inherited(fd: OwnedFd) -> Result<(Self, Entrance), ListenError> {
        let take = || -> io::Result<Option<Address>> {
            if socket_type(&fd)? != SocketType::STREAM || !socket_acceptconn(&fd)? {
                return Ok(None);
            }
            let bound = getsockname(&fd)?;
            let address = match bound.address_family() {
                AddressFamily::UNIX => {
                    let name = SocketAddrUnix::try_from(bound)?;
                    let path = name.path_bytes().unwrap_or_default();
                    Address::Unix(PathBuf::from(OsStr::from_bytes(path)))
                }
                _ => Address::Tcp(SocketAddr::try_from(bound)?),
            };
            fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
            // As for the sockets created here, see `stream_socket`.
            fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
            Ok(Some(address))
        };
        let system = |source| ListenError::System { address: "an inherited socket".to_owned(), source };
        let address = match take() {
            Ok(Some(address)) => address,
            Ok(None) => return Err(ListenError::NotListening),
            Err(error) if error.raw_os_error() == Some(Errno::NOTSOCK.raw_os_error()) => {
                return Err(ListenError::NotListening);
            }
            Err(error) => return Err(system(error)),
        };
        Self::enter(fd, address, None).map_err(system)
    }

    fn listen(fd: OwnedFd, address: Address, file: Option<(u64, u64)>) -> io::Result<(Self, Entrance)> {
        listen(&fd, BACKLOG)?;
        Self::enter(fd, address, file)
    }

    fn enter(fd: OwnedFd, address: Address, file: Option<(u64, u64)>) -> io::Result<(Self, Entrance)> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        Ok((Self { wake: Arc::clone(&wake), address, file }, Entrance { fd, wake }))
    }

    /// Makes every [`Entrance::accept`] return, now and later.
    pub(crate) fn wake(&self) {
        // Fails only when the counter is full, which wakes as well.
        let _full = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Readable once [`Listener::wake`] was called.
    pub(crate) fn woken(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Removes the file of a unix socket if it is still the one created here.
    pub(crate) fn remove_file(&self) {
        let (Address::Unix(path), Some(made)) = (&self.address, self.file) else { return };
        let same = fs::symlink_metadata(path).is_ok_and(|file| (file.dev(), file.ino()) == made);
        if same && let Err(error) = fs::remove_file(path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove the socket");
        }
    }
}

impl Entrance {
    /// Waits for a client.
    pub(crate) fn accept(&self) -> io::Result<Accepted> {
        let mut fds = [PollFd::new(&*self.wake, PollFlags::IN), PollFd::new(&self.fd, PollFlags::IN)];
        loop {
            match poll(&mut fds, None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            if !fds[0].revents().is_empty() {
                return Ok(Accepted::Woken);
            }
            match accept_with(&self.fd, SocketFlags::CLOEXEC) {
                Ok(client) => return Ok(Accepted::Client(client)),
                // The client left before it was accepted.
                Err(Errno::INTR | Errno::AGAIN | Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Non-blocking, so that a client that leaves between poll and accept does not block the listener.
fn stream_socket(family: AddressFamily) -> Result<OwnedFd, Errno> {
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Removes the socket of a server that has ended.
fn clear_the_way(path: &Path, name: &SocketAddrUnix) -> Result<(), ListenError> {
    let system =
        |source: io::Error| ListenError::System { address: format!("unix:{}", path.display()), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system(error)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let probe = stream_socket(AddressFamily::UNIX).map_err(|error| system(error.into()))?;
    match connect(&probe, name) {
        Err(Errno::CONNREFUSED) => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(system(error)),
            _ => Ok(()),
        },
        Err(Errno::NOENT) => Ok(()),
        // Connected, or the queue is full: a server is listening.
        Ok(()) | Err(Errno::AGAIN) => Err(ListenError::InUse { path: path.to_owned() }),
        Err(error) => Err(system(error.into())),
    }
}

//! A connected stream socket, unix or TCP.
//!
//! Invariant: the descriptor is blocking, and stays open as long as a `Socket` is held, so that its number is never
//! reused for another connection. A connection is ended with `shutdown`; it is closed with the last reference.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, Shutdown, recv, send, shutdown,
        sockopt::{
            Timeout, set_socket_keepalive, set_socket_send_buffer_size, set_socket_timeout, set_tcp_keepcnt,
            set_tcp_keepidle, set_tcp_keepintvl, set_tcp_nodelay, socket_domain, socket_peercred,
        },
    },
};

/// The requested send buffer, so that the next request can be handled while replies are sent. The kernel may give less.
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// How much of a client's further data is discarded before its socket is closed.
const LEFTOVER_BYTES_MAX: usize = 64 << 20;

/// A TCP client that is silent for this long is probed, [`KEEPALIVE_PROBES`] times.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

/// See the module's comment.
pub(crate) struct Socket {
    fd: OwnedFd,
    unix: bool,
    made: Instant,
    /// When something was last received, in milliseconds after `made`.
    heard_ms: AtomicU64,
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let unix = socket_domain(&fd)? == AddressFamily::UNIX;
        if !unix {
            set_tcp_nodelay(&fd, true)?;
            set_socket_keepalive(&fd, true)?;
            set_tcp_keepidle(&fd, KEEPALIVE_IDLE)?;
            set_tcp_keepintvl(&fd, KEEPALIVE_INTERVAL)?;
            set_tcp_keepcnt(&fd, KEEPALIVE_PROBES)?;
        }
        set_socket_send_buffer_size(&fd, SEND_BUFFER_BYTES)?;
        Ok(Self { fd, unix, made: Instant::now(), heard_ms: AtomicU64::new(0) })
    }

    /// The peer, in words.
    pub(crate) fn peer(&self) -> String {
        if self.unix {
            return socket_peercred(&self.fd).map_or_else(
                |_| "unix".to_owned(),
                |peer| format!("unix process {} of user {}", peer.pid.as_raw_nonzero(), peer.uid.as_raw()),
            );
        }
        self.peer_address().map_or_else(|| "tcp".to_owned(), |address| format!("tcp {address}"))
    }

    /// The peer is on this machine.
    pub(crate) fn is_local(&self) -> bool {
        self.unix
    }

    /// How long nothing has been received.
    pub(crate) fn silence(&self) -> Duration {
        self.made.elapsed().saturating_sub(Duration::from_millis(self.heard_ms.load(Ordering::Relaxed)))
    }

    /// The user of the peer of a unix socket.
    pub(crate) fn peer_user(&self) -> Option<u32> {
        let peer = self.unix.then(|| socket_peercred(&self.fd))?.ok()?;
        Some(peer.uid.as_raw())
    }

    /// The address of the peer of a TCP connection.
    pub(crate) fn peer_address(&self) -> Option<SocketAddr> {
        let address = rustix::net::getpeername(&self.fd).ok().flatten()?;
        SocketAddr::try_from(address).ok()
    }

    fn receive(&self, buf: &mut [u8], flags: RecvFlags) -> Result<usize, Errno> {
        loop {
            match recv(&self.fd, &mut *buf, flags) {
                Err(Errno::INTR) => {}
                other => {
                    let (len, _) = other?;
                    let heard = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
                    self.heard_ms.store(heard, Ordering::Relaxed);
                    return Ok(len);
                }
            }
        }
    }

    /// Waits until there is something to receive (true), or only `other` is readable (false). `None` at the deadline.
    pub(crate) fn wait_for_more(&self, other: Option<BorrowedFd<'_>>, deadline: Deadline) -> Option<bool> {
        loop {
            let timeout = Timespec::try_from(deadline.left()?).ok();
            let mut fds = [Some(self.fd.as_fd()), other]
                .map(|fd| fd.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            let mut fds: Vec<PollFd<'_>> = fds.iter_mut().filter_map(Option::take).collect();
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Some(fds.first().is_some_and(|fd| !fd.revents().is_empty())),
                // The receive that follows reports the error.
                Err(_) => return Some(true),
            }
        }
    }

    /// Receives at least one byte, waiting for it. 0 is the end of the stream.
    pub(crate) fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.receive(buf, RecvFlags::empty())?)
    }

    /// Receives what is available; `WouldBlock` if there is nothing.
    pub(crate) fn recv_now(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.receive(buf, RecvFlags::DONTWAIT)?)
    }

    /// Receives until `buf` is full or the stream ends.
    pub(crate) fn recv_full(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(self.receive(buf, RecvFlags::WAITALL)?)
    }

    fn transmit(&self, bytes: &[u8], flags: SendFlags) -> Result<usize, Errno> {
        loop {
            match send(&self.fd, bytes, flags | SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// Sends as much as the kernel accepts, waiting until it accepts something. `WouldBlock` after the send timeout.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.transmit(bytes, SendFlags::empty())?)
    }

    /// Sends what the kernel accepts without waiting.
    pub(crate) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.transmit(bytes, SendFlags::DONTWAIT)?)
    }

    /// Waits until the kernel would accept something; false on a timeout.
    pub(crate) fn wait_for_room(&self, patience: Duration) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::OUT)];
        let timeout = Timespec::try_from(patience).ok();
        poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// Nothing more will be received than what the kernel has already: the client has gone, or was shut out.
    pub(crate) fn is_over(&self) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::RDHUP)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    /// `None` waits for ever.
    pub(crate) fn set_recv_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        Ok(set_socket_timeout(&self.fd, Timeout::Recv, timeout)?)
    }

    /// `None` waits for ever.
    pub(crate) fn set_send_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        Ok(set_socket_timeout(&self.fd, Timeout::Send, timeout)?)
    }

    /// Receives nothing more than what the kernel has already, and wakes a blocked receive.
    pub(crate) fn stop_receiving(&self) {
        let _gone_already = shutdown(&self.fd, Shutdown::Read);
    }

    /// Ends the connection and wakes all threads that wait for it.
    pub(crate) fn cut(&self) {
        let _gone_already = shutdown(&self.fd, Shutdown::Both);
    }

    /// Ends the stream after what was sent. What the client still sends is discarded for at most `patience`, because
    /// closing a socket with unread data can cost the client the last replies.
    pub(crate) fn finish(&self, patience: Duration) {
        let deadline = Deadline::after(patience);
        if shutdown(&self.fd, Shutdown::Write).is_err() {
            return;
        }
        let mut scrap = vec![0; 64 << 10];
        let mut left = LEFTOVER_BYTES_MAX;
        while left > 0 {
            let flags = match deadline.left() {
                Some(time) if self.set_recv_timeout(Some(time)).is_ok() => RecvFlags::empty(),
                _ => RecvFlags::DONTWAIT,
            };
            match self.receive(&mut scrap, flags) {
                Ok(0) | Err(_) => return,
                Ok(len) => left = left.saturating_sub(len),
            }
        }
    }
}

/// A deadline.
#[derive(Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    fn now() -> Instant {
        Instant::now()
    }

    pub(crate) fn after(time: Duration) -> Self {
        Self(Self::now() + time)
    }

    pub(crate) fn sooner(self, other: Self) -> Self {
        Self(self.0.min(other.0))
    }

    /// The time left, never zero; `None` when it is over.
    pub(crate) fn left(&self) -> Option<Duration> {
        // A socket timeout below a microsecond would be rounded to zero, which means for ever.
        self.0.checked_duration_since(Self::now()).filter(|left| *left > Duration::from_micros(1))
    }
}

/// Locks a mutex whose data is consistent after every statement, so that poisoning can be ignored.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

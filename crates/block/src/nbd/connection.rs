//! State shared by the threads that work for one client.
//!
//! Invariants: `pending` counts the jobs handed to other threads, so that the connection's own thread knows when the
//! last one has returned. A device that is closing never causes an error reply; the connection ends instead.

use std::sync::{
    Arc, Condvar, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use bygone_store::is_full;

use super::{
    budget::Share,
    command::{Refusal, Terms},
    outbox::Outbox,
    socket::{Socket, lock},
    wire::{
        codes::Errno,
        reply::{SimpleReply, push_error},
        request::Cookie,
    },
};
use crate::device::{BlockDevice, IoError};

/// See the module's comment.
pub(crate) struct Connection {
    pub(crate) device: Arc<dyn BlockDevice>,
    pub(crate) terms: Terms,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) share: Arc<Share>,
    pub(crate) pending: Arc<Pending>,
    socket: Arc<Socket>,
    broken: AtomicBool,
    complained: AtomicBool,
    /// An `NBD_CMD_CACHE` is under way.
    pub(crate) caching: AtomicBool,
}

/// How to answer an [`IoError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Send this error.
    Errno(Errno),
    /// Close the connection without an answer. The protocol has `NBD_ESHUTDOWN` for this, but QEMU passes every error
    /// reply to the guest as a disk error, whereas after a lost connection it reconnects and repeats the unanswered
    /// requests.
    HangUp,
}

impl Answer {
    pub(crate) fn of(error: &IoError) -> Self {
        match error {
            IoError::ReadOnly => Self::Errno(Errno::Perm),
            IoError::Invalid { .. } => Self::Errno(Errno::Inval),
            IoError::Full => Self::Errno(Errno::Nospc),
            // The wait for room was cancelled: the client has gone, or has to reconnect to another manager.
            IoError::Closing | IoError::Paused => Self::HangUp,
            IoError::WouldBlock | IoError::Store(_) => Self::Errno(Errno::Io),
            IoError::Medium(error) if is_full(error) => Self::Errno(Errno::Nospc),
            // The protocol has no error number for EFBIG.
            IoError::Medium(error) if error.kind() == std::io::ErrorKind::FileTooLarge => {
                Self::Errno(Errno::Nospc)
            }
            IoError::Medium(_) => Self::Errno(Errno::Io),
        }
    }
}

impl Connection {
    pub(crate) fn new(
        device: Arc<dyn BlockDevice>,
        terms: Terms,
        socket: Arc<Socket>,
        share: Arc<Share>,
    ) -> Arc<Self> {
        Arc::new(Self {
            device,
            terms,
            outbox: Outbox::new(Arc::clone(&socket)),
            share,
            pending: Arc::default(),
            socket,
            broken: AtomicBool::new(false),
            complained: AtomicBool::new(false),
            caching: AtomicBool::new(false),
        })
    }

    /// Ends the connection once what is under way is answered.
    pub(crate) fn break_off(&self) {
        self.broken.store(true, Ordering::Release);
        self.socket.stop_receiving();
    }

    /// Whether the client has gone or nothing more will be received from it.
    pub(crate) fn is_over(&self) -> bool {
        self.is_broken() || self.socket.is_over()
    }

    /// Whether this side is ending the connection.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Appends a success reply without data.
    pub(crate) fn push_success(&self, out: &mut Vec<u8>, cookie: Cookie) {
        out.extend_from_slice(&SimpleReply { error: 0, cookie }.encode());
    }

    /// Appends the reply to a request that failed on the device, or ends the connection.
    pub(crate) fn push_failure(&self, out: &mut Vec<u8>, cookie: Cookie, error: &IoError) {
        match self.failed(error) {
            Some(errno) => self.push_errno(out, cookie, errno, &error.to_string()),
            None => self.break_off(),
        }
    }

    /// Appends the reply to a refused request.
    pub(crate) fn push_refusal(&self, out: &mut Vec<u8>, cookie: Cookie, refusal: Refusal) {
        self.push_errno(out, cookie, refusal.errno, refusal.why);
    }

    fn push_errno(&self, out: &mut Vec<u8>, cookie: Cookie, errno: Errno, message: &str) {
        if self.terms.structured {
            push_error(out, cookie, errno, message);
        } else {
            out.extend_from_slice(&SimpleReply { error: errno.code(), cookie }.encode());
        }
    }

    /// The error number to send for a device's error; `None` means close without an answer. Only the first failure of a
    /// connection is logged, because a broken disk under a busy client would flood the log.
    pub(crate) fn failed(&self, error: &IoError) -> Option<Errno> {
        if self.complained.swap(true, Ordering::Relaxed) {
            tracing::debug!(%error, "request failed");
        } else {
            tracing::warn!(%error, "request failed; further errors of this connection are logged as debug");
        }
        match Answer::of(error) {
            Answer::Errno(errno) => Some(errno),
            Answer::HangUp => None,
        }
    }
}

/// Counts jobs in flight in other threads.
#[derive(Default)]
pub(crate) struct Pending {
    count: Mutex<usize>,
    none: Condvar,
}

impl Pending {
    pub(crate) fn begin(self: &Arc<Self>) -> Underway {
        *lock(&self.count) += 1;
        Underway(Arc::clone(self))
    }

    pub(crate) fn wait_for_none(&self) {
        let mut count = lock(&self.count);
        while *count > 0 {
            count = self.none.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A job is in flight until this is dropped.
pub(crate) struct Underway(Arc<Pending>);

impl Drop for Underway {
    fn drop(&mut self) {
        let mut count = lock(&self.0.count);
        *count -= 1;
        if *count == 0 {
            self.0.none.notify_all();
        }
    }
}

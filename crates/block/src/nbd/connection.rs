//! What the threads that work for one client share.
//!
//! Invariants: `pending` counts the jobs handed to other threads, so the connection's own thread knows when the last
//! has returned; a device that says it is closing is never answered for, the connection ends instead.

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
    /// An `NBD_CMD_CACHE` is being worked on.
    pub(crate) caching: AtomicBool,
}

/// What to do about an [`IoError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Say so.
    Errno(Errno),
    /// End the connection without an answer. The protocol has `NBD_ESHUTDOWN` for this, but QEMU hands every error
    /// it is answered with to the guest, as a broken disk, while after a lost connection it connects again and
    /// repeats what was not answered. So we do not say it.
    HangUp,
}

impl Answer {
    pub(crate) fn of(error: &IoError) -> Self {
        match error {
            IoError::ReadOnly => Self::Errno(Errno::Perm),
            IoError::Invalid { .. } => Self::Errno(Errno::Inval),
            IoError::Full => Self::Errno(Errno::Nospc),
            // Whoever waited for room does so no more: the client has gone, or is to come back to another manager.
            IoError::Closing | IoError::Paused => Self::HangUp,
            IoError::WouldBlock | IoError::Store(_) => Self::Errno(Errno::Io),
            IoError::Medium(error) if is_full(error) => Self::Errno(Errno::Nospc),
            // The protocol has no number for a file that can grow no further.
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

    /// Whether the client has gone, or nothing more is to be received from it.
    pub(crate) fn is_over(&self) -> bool {
        self.is_broken() || self.socket.is_over()
    }

    /// Whether it is being ended from this side.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Appends the answer to a request that has no data to give back.
    pub(crate) fn push_success(&self, out: &mut Vec<u8>, cookie: Cookie) {
        out.extend_from_slice(&SimpleReply { error: 0, cookie }.encode());
    }

    /// Appends the answer to a request that the device failed, or ends the connection.
    pub(crate) fn push_failure(&self, out: &mut Vec<u8>, cookie: Cookie, error: &IoError) {
        match self.failed(error) {
            Some(errno) => self.push_errno(out, cookie, errno, &error.to_string()),
            None => self.break_off(),
        }
    }

    /// Appends the answer to a request that makes no sense.
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

    /// What a device's error is for the client; the first one of a connection is worth a line in the log, and a
    /// broken disk under a busy client would else fill it. `None`: do not answer, hang up.
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

/// Counts jobs that are under way in other threads.
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

/// One job is under way until this is dropped.
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

//! Busy-polls briefly for the next request before going to sleep.
//!
//! A client that waits for each answer sends its next request within microseconds, but waking a thread takes several
//! times as long as the request itself. So a thread whose client was quick the last time polls for a while (as QEMU's
//! event loops and KVM's halt polling do).
//!
//! Invariants: a thread polls for at most [`LOOK`], and not at all for a client that took longer the last time. At most
//! half of the processors poll at any time, so that threads with work find one.

use std::{
    io,
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// The longest poll: about the cost of a wake-up.
const LOOK: Duration = Duration::from_micros(50);
/// A client that answers within this time, wake-up included, would have been caught by polling.
const QUICK: Duration = Duration::from_micros(150);

/// Threads that poll, over all servers in this process.
static LOOKING: AtomicUsize = AtomicUsize::new(0);

fn looking_max() -> usize {
    static MAX: OnceLock<usize> = OnceLock::new();
    *MAX.get_or_init(|| thread::available_parallelism().map_or(1, |n| n.get().div_ceil(2)))
}

/// One client's recent pace.
#[derive(Debug, Default)]
pub(crate) struct Eager {
    /// The last request came quickly.
    quick: bool,
}

impl Eager {
    /// Polls `now`, which does not wait; falls back to `wait` after [`LOOK`].
    pub(crate) fn receive(
        &mut self,
        buf: &mut [u8],
        now: impl Fn(&mut [u8]) -> io::Result<usize>,
        wait: impl Fn(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let start = Instant::now();
        let mut received = now(buf);
        if self.quick
            && is_nothing(&received)
            && let Some(_place) = Place::take()
        {
            while is_nothing(&received) && start.elapsed() < LOOK {
                thread::yield_now();
                received = now(buf);
            }
        }
        if is_nothing(&received) {
            received = wait(buf);
        }
        self.quick = start.elapsed() < QUICK;
        received
    }
}

fn is_nothing(received: &io::Result<usize>) -> bool {
    received.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
}

/// A permit to poll.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let taken = LOOKING.fetch_add(1, Ordering::Relaxed);
        let place = Place;
        (taken < looking_max()).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        LOOKING.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn nothing(_: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn after_a_while(_: &mut [u8]) -> io::Result<usize> {
        thread::sleep(Duration::from_millis(1));
        Ok(7)
    }

    #[test]
    fn a_slow_client_is_waited_for_and_not_looked_for() {
        let mut eager = Eager::default();
        let looks = Cell::new(0);
        let look = |buf: &mut [u8]| {
            looks.set(looks.get() + 1);
            nothing(buf)
        };
        for _ in 0..3 {
            assert_eq!(eager.receive(&mut [], look, after_a_while).unwrap(), 7);
        }
        assert_eq!(looks.get(), 3, "one look each time");
    }

    #[test]
    fn a_client_that_is_quick_no_more_is_not_looked_for_any_more() {
        let mut eager = Eager { quick: true };
        assert_eq!(eager.receive(&mut [], nothing, after_a_while).unwrap(), 7);
        assert!(!eager.quick);
        assert_eq!(eager.receive(&mut [], |_| Ok(3), after_a_while).unwrap(), 3);
        assert!(eager.quick);
    }

    #[test]
    fn errors_and_the_end_come_through() {
        let mut eager = Eager { quick: true };
        let gone = |_: &mut [u8]| Err(io::ErrorKind::ConnectionReset.into());
        let result = eager.receive(&mut [], gone, after_a_while);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(eager.receive(&mut [], |_| Ok(0), after_a_while).unwrap(), 0);
    }
}

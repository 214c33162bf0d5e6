//! The reader threads, which wait for the medium, shared by all connections of a server.
//!
//! Invariants: there are at most `threads_max` threads, started when there is work for them and ended after [`IDLE`]
//! without any. Jobs begin in order of submission. A job never waits for a client (see `outbox`), so a slow client
//! blocks a thread only for a moment. The queue is bounded by the budget, because every job holds a ticket.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::Duration,
};

use super::{job::Job, socket::lock};

/// How long an idle thread is kept.
const IDLE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

/// See the module's comment.
pub(crate) struct Pool {
    threads_max: usize,
    state: Mutex<State>,
    work: Condvar,
}

impl Pool {
    pub(crate) fn new(threads_max: usize) -> Arc<Self> {
        Arc::new(Self { threads_max, state: Mutex::default(), work: Condvar::new() })
    }

    /// Queues the job.
    ///
    /// # Errors
    /// Returns the job when there is no thread for it.
    pub(crate) fn submit(self: &Arc<Self>, job: Job) -> Result<(), Box<Job>> {
        let mut state = lock(&self.state);
        if state.idle <= state.jobs.len() && state.threads < self.threads_max {
            let pool = Arc::clone(self);
            match thread::Builder::new().name("nbd-read".to_owned()).spawn(move || pool.work()) {
                Ok(_) => state.threads += 1,
                Err(error) => tracing::warn!(%error, "no thread for reading"),
            }
        }
        if state.threads == 0 {
            return Err(Box::new(job));
        }
        state.jobs.push_back(job);
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    fn work(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // The job itself ends its connection when it is dropped here; this thread goes on for the others.
                let _panicked = catch_unwind(AssertUnwindSafe(|| job.run()));
                state = lock(&self.state);
                continue;
            }
            state.idle += 1;
            let (back, timeout) = self.work.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = back;
            state.idle -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}

//! Who is connected.
//!
//! Invariants: a connection is in here from being accepted until its thread holds nothing of it any more; there are
//! never more than the limit.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use super::socket::{Deadline, Socket, lock};

/// How many connections there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// In the handshake.
    pub greeting: usize,
    /// Using an export.
    pub serving: usize,
    /// Accepted since the server was made, including those that are gone.
    pub accepted: u64,
    /// Turned away because there were too many.
    pub turned_away: u64,
}

struct Entry {
    socket: Arc<Socket>,
    listener: u64,
    serving: bool,
}

#[derive(Default)]
struct State {
    entries: HashMap<u64, Entry>,
    accepted: u64,
    turned_away: u64,
}

/// See the module's comment.
pub(crate) struct Registry {
    connections_max: usize,
    state: Mutex<State>,
    left: Condvar,
}

impl Registry {
    pub(crate) fn new(connections_max: usize) -> Self {
        Self { connections_max, state: Mutex::default(), left: Condvar::new() }
    }

    /// Lets a connection in, unless there are too many; then says how many were turned away by now.
    pub(crate) fn enter(self: &Arc<Self>, socket: Arc<Socket>, listener: u64) -> Result<Place, u64> {
        let mut state = lock(&self.state);
        if state.entries.len() >= self.connections_max {
            state.turned_away += 1;
            return Err(state.turned_away);
        }
        state.accepted += 1;
        let id = state.accepted;
        state.entries.insert(id, Entry { socket, listener, serving: false });
        Ok(Place { registry: Arc::clone(self), id })
    }

    pub(crate) fn connections(&self) -> Connections {
        let state = lock(&self.state);
        let serving = state.entries.values().filter(|entry| entry.serving).count();
        Connections {
            greeting: state.entries.len() - serving,
            serving,
            accepted: state.accepted,
            turned_away: state.turned_away,
        }
    }

    /// How many connections of a listener there are, after doing something to the socket of each.
    pub(crate) fn each(&self, listener: u64, act: impl Fn(&Socket)) -> usize {
        let state = lock(&self.state);
        let of_listener = state.entries.values().filter(|entry| entry.listener == listener);
        of_listener.inspect(|entry| act(&entry.socket)).count()
    }

    /// Waits until a listener has no connections any more; says how many are left when the time is over.
    pub(crate) fn wait_for_none(&self, listener: u64, deadline: Deadline) -> usize {
        let mut state = lock(&self.state);
        loop {
            let here = state.entries.values().filter(|entry| entry.listener == listener).count();
            let Some(time) = deadline.left().filter(|_| here > 0) else { return here };
            state = self.left.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A connection's place in the registry, until it is dropped.
pub(crate) struct Place {
    registry: Arc<Registry>,
    pub(crate) id: u64,
}

impl Place {
    /// The handshake is done.
    pub(crate) fn serves(&self) {
        if let Some(entry) = lock(&self.registry.state).entries.get_mut(&self.id) {
            entry.serving = true;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.registry.state).entries.remove(&self.id);
        self.registry.left.notify_all();
    }
}

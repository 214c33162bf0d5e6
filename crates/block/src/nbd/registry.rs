//! The registry of connections, and which of them is evicted for another.
//!
//! A guest's disk must always be able to connect. The socket of a machine has reserved places: its connections are
//! counted separately, are never evicted and evict nobody. On other listeners, handshakes are counted apart from
//! clients in transmission. Some of the latter's places are reserved for this machine (unix sockets). If none is left
//! for a local client that may write, the read-only client that has been silent for longest is evicted.
//!
//! Invariants: a connection is registered from being accepted until its thread holds nothing of it any more. The limits
//! are never exceeded, except by at most [`LEAVING_MAX`] evicted connections that have not ended yet.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use super::{
    limits::Limits,
    socket::{Deadline, Socket, lock},
};

/// The most evicted connections that have not ended yet. At this number no further one is evicted.
const LEAVING_MAX: usize = 16;

/// The number of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// In the handshake.
    pub greeting: usize,
    /// Using an export.
    pub serving: usize,
    /// Accepted since the server was created, including those that have ended.
    pub accepted: u64,
    /// Refused because there were too many.
    pub turned_away: u64,
    /// Evicted for others.
    pub gave_way: u64,
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Greeting,
    Serving {
        writable: bool,
    },
    /// Evicted, and not ended yet.
    Leaving,
}

struct Entry {
    socket: Arc<Socket>,
    listener: u64,
    /// Its listener has reserved places.
    kept: bool,
    stage: Stage,
}

impl Entry {
    fn is_serving(&self) -> bool {
        matches!(self.stage, Stage::Serving { .. })
    }

    /// It counts against the limits shared by all listeners.
    fn shares(&self) -> bool {
        !self.kept
    }
}

#[derive(Default)]
struct State {
    entries: HashMap<u64, Entry>,
    accepted: u64,
    turned_away: u64,
    gave_way: u64,
}

impl State {
    fn count(&self, is: impl Fn(&Entry) -> bool) -> usize {
        self.entries.values().filter(|entry| is(entry)).count()
    }

    /// Evicts the connection that has been silent for longest among those that `may` go, remote clients before local
    /// ones. Returns whether there was one.
    fn make_way(&mut self, may: impl Fn(&Entry) -> bool) -> bool {
        if self.count(|entry| entry.stage == Stage::Leaving) >= LEAVING_MAX {
            return false;
        }
        let candidates = self.entries.values_mut().filter(|entry| may(entry));
        let Some(entry) = candidates.max_by_key(|entry| (!entry.socket.is_local(), entry.socket.silence()))
        else {
            return false;
        };
        entry.stage = Stage::Leaving;
        entry.socket.cut();
        self.gave_way += 1;
        true
    }
}

/// See the module's comment.
pub(crate) struct Registry {
    limits: Limits,
    state: Mutex<State>,
    left: Condvar,
}

impl Registry {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default(), left: Condvar::new() }
    }

    /// Admits a connection for its handshake; otherwise returns how many have been refused so far.
    pub(crate) fn enter(
        self: &Arc<Self>,
        socket: Arc<Socket>,
        listener: u64,
        kept: bool,
    ) -> Result<Place, u64> {
        let mut state = lock(&self.state);
        let local = socket.is_local();
        let greeting = |entry: &Entry| entry.stage == Stage::Greeting && entry.shares();
        let room = if kept {
            let of_listener = |entry: &Entry| entry.listener == listener;
            state.count(of_listener) < self.limits.kept_max
        } else {
            state.count(greeting) < self.limits.greeting_max
                || state.make_way(|entry| greeting(entry) && (local || !entry.socket.is_local()))
        };
        if !room {
            state.turned_away += 1;
            return Err(state.turned_away);
        }
        state.accepted += 1;
        let id = state.accepted;
        state.entries.insert(id, Entry { socket, listener, kept, stage: Stage::Greeting });
        Ok(Place { registry: Arc::clone(self), id })
    }

    pub(crate) fn connections(&self) -> Connections {
        let state = lock(&self.state);
        let serving = state.count(Entry::is_serving);
        Connections {
            greeting: state.count(|entry| entry.stage == Stage::Greeting),
            serving,
            accepted: state.accepted,
            turned_away: state.turned_away,
            gave_way: state.gave_way,
        }
    }

    /// Applies `act` to the socket of each connection of a listener and returns their number.
    pub(crate) fn each(&self, listener: u64, act: impl Fn(&Socket)) -> usize {
        let state = lock(&self.state);
        let of_listener = state.entries.values().filter(|entry| entry.listener == listener);
        of_listener.inspect(|entry| act(&entry.socket)).count()
    }

    /// Stops receiving from the clients of a listener; the handshake tells its own clients. Returns the number of
    /// connections.
    pub(crate) fn stop_receiving(&self, listener: u64) -> usize {
        let state = lock(&self.state);
        let of_listener = state.entries.values().filter(|entry| entry.listener == listener);
        of_listener
            .inspect(|entry| {
                if entry.stage != Stage::Greeting {
                    entry.socket.stop_receiving();
                }
            })
            .count()
    }

    /// Waits until a listener has no connections; returns how many are left at the deadline.
    pub(crate) fn wait_for_none(&self, listener: u64, deadline: Deadline) -> usize {
        let mut state = lock(&self.state);
        loop {
            let here = state.count(|entry| entry.listener == listener);
            let Some(time) = deadline.left().filter(|_| here > 0) else { return here };
            state = self.left.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A connection's entry in the registry, until it is dropped.
pub(crate) struct Place {
    registry: Arc<Registry>,
    pub(crate) id: u64,
}

impl Place {
    /// Moves the client into transmission; returns whether it is admitted.
    pub(crate) fn serves(&self, writable: bool) -> bool {
        let limits = &self.registry.limits;
        let mut state = lock(&self.registry.state);
        let Some(entry) = state.entries.get(&self.id).filter(|entry| entry.stage == Stage::Greeting) else {
            return false;
        };
        let (local, kept) = (entry.socket.is_local(), entry.kept);
        let serving = |entry: &Entry| entry.is_serving() && entry.shares();
        let remote_serving = |entry: &Entry| serving(entry) && !entry.socket.is_local();
        let read_only = |entry: &Entry| entry.shares() && entry.stage == Stage::Serving { writable: false };
        let room = if kept {
            true
        } else if local {
            state.count(serving) < limits.connections_max || (writable && state.make_way(read_only))
        } else {
            state.count(serving) < limits.connections_max && state.count(remote_serving) < limits.remote_max
        };
        if !room {
            state.turned_away += 1;
            return false;
        }
        if let Some(entry) = state.entries.get_mut(&self.id) {
            entry.stage = Stage::Serving { writable };
        }
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.registry.state).entries.remove(&self.id);
        self.registry.left.notify_all();
    }
}

//! Who is connected, and who gives way to whom.
//!
//! A guest's disk must always find a place, whoever else is there. The socket of a machine keeps places for its clients: they are
//! counted apart, give way to nobody and make nobody else give way. Elsewhere handshakes have places of their own; of those for clients
//! that use an export, some are kept for this machine (unix sockets), and where there is none left for a client of this machine
//! that may write, the read-only client that has been silent for longest gives way.
//!
//! Invariants: a connection is in here from being accepted until its thread holds nothing of it any more; there are never more
//! than the limits, and [`LEAVING_MAX`] that are on their way out.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

use super::{
    limits::Limits,
    socket::{Deadline, Socket, lock},
};

/// Connections that gave way and are not gone yet, at most. Until there are fewer, no other has to.
const LEAVING_MAX: usize = 16;

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
    /// Ended so that others find a place.
    pub gave_way: u64,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Greeting,
    Serving {
        writable: bool,
    },
    /// It gave way.
    Leaving,
}

struct Entry {
    socket: Arc<Socket>,
    listener: u64,
    /// Its listener keeps places.
    kept: bool,
    stage: Stage,
}

impl Entry {
    fn is_serving(&self) -> bool {
        matches!(self.stage, Stage::Serving { .. })
    }

    /// It counts against what all listeners share.
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

    /// Ends the connection that has been silent for longest among those that `may` go; clients from elsewhere before those of
    /// this machine. Says whether there was one.
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

    /// Lets a connection in for its handshake, or says how many were turned away by now.
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

    /// How many connections of a listener there are, after doing something to the socket of each.
    pub(crate) fn each(&self, listener: u64, act: impl Fn(&Socket)) -> usize {
        let state = lock(&self.state);
        let of_listener = state.entries.values().filter(|entry| entry.listener == listener);
        of_listener.inspect(|entry| act(&entry.socket)).count()
    }

    /// Nothing more is received from the clients of a listener; those in the handshake are told by its own means. Says how many
    /// connections it has.
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

    /// Waits until a listener has no connections any more; says how many are left when the time is over.
    pub(crate) fn wait_for_none(&self, listener: u64, deadline: Deadline) -> usize {
        let mut state = lock(&self.state);
        loop {
            let here = state.count(|entry| entry.listener == listener);
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
    /// The client is to use an export; says whether there is a place for that.
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

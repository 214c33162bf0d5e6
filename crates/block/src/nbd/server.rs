//! The server: listeners, and one thread per connection.
//!
//! Invariants: whatever happens to one connection, the other connections and the listeners go on. An observer is told
//! of every client's beginning exactly once, and later of its end exactly once, after the last call to the device.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{
    budget::Budget,
    connection::Connection,
    exports::{Client, Ending, Observer},
    greet::{Host, Ungreeted, greet},
    limits::Limits,
    listener::{Accepted, Address, Entrance, ListenError, Listener},
    outbox::Unsent,
    pool::Pool,
    registry::{Connections, Place, Registry},
    scope::Scope,
    socket::{Deadline, Socket, lock},
    worker::Worker,
};

/// How long a listener pauses after accept failed (no descriptors, no memory).
const RESPITE: Duration = Duration::from_millis(50);
/// How long a client may go on sending while its connection is being closed, before the socket is closed regardless.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long connections that were cut have to end.
const LAST_GRACE: Duration = Duration::from_millis(500);
/// The deadline of a listener that is dropped without [`Serving::stop`].
const DROPPED: Duration = Duration::from_secs(2);

struct Shared {
    limits: Limits,
    registry: Arc<Registry>,
    pool: Arc<Pool>,
    budget: Arc<Budget>,
    listeners: AtomicU64,
}

/// An NBD server. Clones share one server, whose limits hold over all its listeners.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

impl Server {
    /// A server without listeners.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(Shared {
            limits,
            registry: Arc::new(Registry::new(limits)),
            pool: Pool::new(limits.readers_max),
            budget: Budget::new(limits.budget_bytes),
            listeners: AtomicU64::new(0),
        }))
    }

    /// Listens on a unix socket of mode 0600 and offers `scope` there. The stale socket of a server that has ended is
    /// replaced.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn serve_unix(&self, path: &Path, scope: Scope) -> Result<Serving, ListenError> {
        let (listener, entrance) = Listener::unix(path)?;
        self.serve(listener, entrance, scope)
    }

    /// Listens on a TCP address; port 0 means any free port. There is no encryption and no authentication.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn serve_tcp(&self, address: SocketAddr, scope: Scope) -> Result<Serving, ListenError> {
        let (listener, entrance) = Listener::tcp(address)?;
        self.serve(listener, entrance, scope)
    }

    /// Serves a listening socket, unix or TCP, that was inherited: from a service manager, or from a parent that keeps
    /// it open so that clients find it while this process is replaced. Its file stays when this ends.
    ///
    /// # Errors
    /// [`ListenError`] when it is not a listening stream socket.
    pub fn serve_inherited(&self, socket: OwnedFd, scope: Scope) -> Result<Serving, ListenError> {
        let (listener, entrance) = Listener::inherited(socket)?;
        self.serve(listener, entrance, scope)
    }

    /// The number of connections over all listeners.
    #[must_use]
    pub fn connections(&self) -> Connections {
        self.0.registry.connections()
    }

    fn serve(&self, listener: Listener, entrance: Entrance, scope: Scope) -> Result<Serving, ListenError> {
        let id = self.0.listeners.fetch_add(1, Ordering::Relaxed);
        let door = Arc::new(Door { listener, id, scope, stopping: AtomicBool::new(false) });
        let (shared, inside) = (Arc::clone(&self.0), Arc::clone(&door));
        let accepting = thread::Builder::new()
            .name("nbd-accept".to_owned())
            .spawn(move || inside.accept_all(&shared, &entrance))
            .map_err(|source| {
                door.listener.remove_file();
                ListenError::System { address: door.listener.address.to_string(), source }
            })?;
        Ok(Serving { door, registry: Arc::clone(&self.0.registry), accepting: Mutex::new(Some(accepting)) })
    }
}

/// A listener with its connections. Dropping it stops it.
pub struct Serving {
    door: Arc<Door>,
    registry: Arc<Registry>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

/// The result of [`Serving::stop`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Connections that ended after their requests in flight were answered.
    pub finished: usize,
    /// Connections that had to be cut at the deadline.
    pub cut: usize,
    /// How many of the cut ones still wait for a call to their device.
    pub hanging: usize,
}

impl Serving {
    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.door.listener.address
    }

    /// Stops the listener: no client is admitted any more, requests in flight are answered, then the connections are
    /// closed. Clients in transmission are not told, so that those that can reconnect do so and repeat what was not
    /// answered. Clients in the handshake have a moment to send an option and are told that the server is shutting
    /// down. Returns at most half a second after the deadline; a second call has nothing to do.
    pub fn stop(&self, deadline: Duration) -> Stopped {
        let deadline = Deadline::after(deadline);
        let Some(accepting) = lock(&self.accepting).take() else { return Stopped::default() };
        self.door.stopping.store(true, Ordering::Release);
        self.door.listener.wake();
        if accepting.join().is_err() {
            tracing::error!("the accepting thread panicked");
        }
        self.door.listener.remove_file();
        let id = self.door.id;
        let all = self.registry.stop_receiving(id);
        if self.registry.wait_for_none(id, deadline) == 0 {
            return Stopped { finished: all, cut: 0, hanging: 0 };
        }
        let cut = self.registry.each(id, Socket::cut);
        let hanging = self.registry.wait_for_none(id, Deadline::after(LAST_GRACE));
        Stopped { finished: all.saturating_sub(cut), cut, hanging }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop(DROPPED);
    }
}

/// A listener and the state its connections need of it.
struct Door {
    listener: Listener,
    id: u64,
    scope: Scope,
    stopping: AtomicBool,
}

impl Door {
    fn accept_all(self: &Arc<Self>, shared: &Arc<Shared>, entrance: &Entrance) {
        let mut troubled = false;
        while !self.stopping.load(Ordering::Acquire) {
            match entrance.accept() {
                Ok(Accepted::Woken) => return,
                Ok(Accepted::Client(client)) => match Socket::new(client) {
                    Ok(socket) => {
                        troubled = false;
                        self.let_in(shared, Arc::new(socket));
                    }
                    Err(error) => tracing::debug!(%error, "the client left at once"),
                },
                Err(error) => {
                    if !std::mem::replace(&mut troubled, true) {
                        tracing::warn!(%error, address = %self.listener.address, "cannot accept clients; trying on");
                    }
                    thread::sleep(RESPITE);
                }
            }
        }
    }

    fn let_in(self: &Arc<Self>, shared: &Arc<Shared>, socket: Arc<Socket>) {
        if !self.scope.peers().admit(&socket) {
            let address = &self.listener.address;
            tracing::debug!(peer = socket.peer(), %address, "this client is not for this socket");
            return;
        }
        let place = match shared.registry.enter(Arc::clone(&socket), self.id, self.scope.is_kept()) {
            Ok(place) => place,
            Err(turned_away) => {
                // A client that floods the listener must not flood the log as well.
                if turned_away.is_power_of_two() {
                    tracing::warn!(turned_away, "too many handshakes, clients are turned away");
                }
                return;
            }
        };
        let (door, shared) = (Arc::clone(self), Arc::clone(shared));
        let name = format!("nbd-{}", place.id);
        let attending =
            thread::Builder::new().name(name).spawn(move || attend(&shared, &door, &place, &socket));
        if let Err(error) = attending {
            tracing::warn!(%error, "no thread for a connection");
        }
    }
}

/// Serves a connection from beginning to end.
fn attend(shared: &Shared, door: &Door, place: &Place, socket: &Arc<Socket>) {
    let deadline = Deadline::after(shared.limits.handshake);
    let host = Host {
        exports: &door.scope,
        admit: &|geometry| place.serves(!geometry.read_only),
        stopping: &door.stopping,
        woken: door.listener.woken(),
    };
    let agreed = match greet(socket, &host, deadline) {
        Ok(Some(agreed)) => agreed,
        Ok(None) => return socket.finish(FAREWELL),
        Err(Ungreeted::Left) => return,
        Err(error) => return tracing::debug!(peer = socket.peer(), %error, "no handshake"),
    };
    let timeouts = socket.set_recv_timeout(None).and(socket.set_send_timeout(Some(shared.limits.send_stall)));
    if let Err(error) = timeouts {
        return tracing::warn!(%error, "cannot set the timeouts of a connection");
    }
    let client = Client { id: place.id, export: agreed.name, peer: socket.peer() };
    tracing::info!(id = client.id, export = client.export, peer = client.peer, "client connected");
    let mut farewell = Farewell { observer: door.scope.observer(), client, ending: Ending::Broken };
    if let Some(observer) = farewell.observer {
        observer.connected(&farewell.client);
    }
    let share = shared.budget.share(shared.limits.connection_budget_bytes);
    let connection = Connection::new(agreed.device, agreed.terms, Arc::clone(socket), share);
    let leaving = Leaving(&connection);
    let mut worker = Worker::new(Arc::clone(&connection), Arc::clone(&shared.pool));
    let ending = worker.serve(socket, &door.stopping);
    // Waits for flushes in flight, then for everything else.
    drop(worker);
    drop(leaving);
    farewell.ending = match ending {
        _ if connection.outbox.failure() == Some(Unsent::Stalled) => Ending::Stalled,
        Ending::Vanished if door.stopping.load(Ordering::Acquire) => Ending::Stopped,
        Ending::Vanished if connection.is_broken() => Ending::Broken,
        other => other,
    };
    drop(connection);
    let patience = if farewell.ending == Ending::Violation { FAREWELL } else { Duration::ZERO };
    drop(farewell);
    socket.finish(patience);
}

/// Waits for everything in flight for a connection, also when its thread panics.
struct Leaving<'a>(&'a Connection);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.pending.wait_for_none();
        self.0.outbox.settle();
    }
}

/// Tells the observer that a client's connection ended, also when its thread panics.
struct Farewell<'a> {
    observer: Option<&'a Arc<dyn Observer>>,
    client: Client,
    ending: Ending,
}

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        let Client { id, export, .. } = &self.client;
        tracing::info!(id, export, ending = ?self.ending, "client disconnected");
        if let Some(observer) = self.observer {
            observer.disconnected(&self.client, self.ending);
        }
    }
}

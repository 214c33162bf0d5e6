//! Limits of a server.

use std::time::Duration;

/// The largest payload of a request, announced by `NBD_INFO_BLOCK_SIZE` ("Size constraints").
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;

/// Larger requests are done in pieces of this size, so that a connection needs no more memory for them.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// Limits of a [`super::Server`]. Each busy connection also has memory of its own, about 2.2 MiB and as much in the
/// kernel, beyond `budget_bytes`; with it the connection makes progress even when the budget is used up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients in transmission at the same time, over all listeners without reserved places. More are refused.
    pub connections_max: usize,
    /// How many of them may come over TCP. The rest is reserved for clients of this machine.
    pub remote_max: usize,
    /// Connections at the same time of each listener with reserved places ([`super::Scope::kept`]).
    pub kept_max: usize,
    /// Handshakes at the same time, over all other listeners. One more evicts the one that was silent for longest.
    pub greeting_max: usize,
    /// The time limit of a handshake.
    pub handshake: Duration,
    /// A client that reads none of its replies for this long is disconnected.
    pub send_stall: Duration,
    /// Threads that read from the medium, over all connections.
    pub readers_max: usize,
    /// Bytes of such reads in flight or waiting for their client, over all connections. A small read counts as 64 KiB.
    pub budget_bytes: u64,
    /// The same for one connection.
    pub connection_budget_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 256,
            remote_max: 128,
            kept_max: 128,
            greeting_max: 64,
            handshake: Duration::from_secs(15),
            send_stall: Duration::from_secs(30),
            readers_max: 16,
            budget_bytes: 64 << 20,
            connection_budget_bytes: 16 << 20,
        }
    }
}

//! What a server gives away at most.

use std::time::Duration;

/// The largest payload of a request, and what `NBD_INFO_BLOCK_SIZE` announces ("Size constraints").
pub const PAYLOAD_BYTES_MAX: u32 = 32 << 20;

/// Larger requests are worked on in pieces of this size, so that a connection needs no more memory for them.
pub(crate) const PIECE_BYTES: usize = 1 << 20;

/// Bounds of a [`super::Server`]. A connection's own memory, about 2.2 MiB when it has been busy and as much in the kernel, comes on top of
/// `budget_bytes`; it is what lets every connection go on when the budget is used up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Clients that use an export at the same time, over all listeners but those that keep places. More are refused.
    pub connections_max: usize,
    /// Those of them that came through TCP. The rest is kept for clients of this machine.
    pub remote_max: usize,
    /// Connections at the same time of each listener that keeps places for its clients ([`super::Scope::kept`]).
    pub kept_max: usize,
    /// Handshakes at the same time, over all other listeners. For one more, the one that was silent for longest is ended.
    pub greeting_max: usize,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// A client that takes none of its replies for this long is disconnected.
    pub send_stall: Duration,
    /// Threads that read what is not in memory, over all connections.
    pub readers_max: usize,
    /// Bytes of such reads that are under way or wait for their client, over all connections. A small read counts as
    /// 64 KiB.
    pub budget_bytes: u64,
    /// The same, of one connection.
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

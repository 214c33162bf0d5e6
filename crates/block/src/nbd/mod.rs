//! The NBD server: the front end for targets and tools.
//!
//! It implements the fixed newstyle handshake and the whole baseline of the protocol, with structured replies, block
//! status, flush, FUA, trim, zeroes, cache and several connections to one export. There is no TLS: it is meant for unix
//! sockets and for networks that protect it.
//!
//! Each connection has one thread for everything that can be done at once; whatever has to wait goes to other threads:
//!
//! ```text
//!              ┌─ write, trim, zeroes: one device call for a run of them, data still in the receive buffer
//!              │    └─ large ones: the same by the writer thread (one a connection, writer.rs), receiving goes on
//!  recv ─ parse┼─ read: from memory into the reply buffer ─ else ─► reader threads (shared, pool.rs)
//!              ├─ flush, FUA ─► flusher thread (one a connection, flusher.rs)
//!              └─ block status ─► reader threads
//!  send ◄─ many replies at once ◄────────── outbox.rs ◄─────────────────┘
//! ```
//!
//! Invariants, each with a test:
//! - a peer can only hurt itself: whatever it sends or withholds, other connections go on, nothing panics, and it holds
//!   a bounded amount of memory (`limits.rs`, `budget.rs`);
//! - a write is answered after [`BlockDevice::write`](crate::BlockDevice::write) returned; a flush, or a write with FUA, after a
//!   [`BlockDevice::flush`](crate::BlockDevice::flush) that began later than that;
//! - every connection can make progress with its own memory; the shared budget only buys parallel reads.
//!
//! Parsing is apart from I/O: [`wire`] (bytes), [`command`] (meaning of requests), `negotiation.rs` (the handshake).

mod batch;
mod budget;
#[doc(hidden)]
pub mod command;
mod connection;
mod eager;
mod exports;
mod flusher;
#[doc(hidden)]
pub mod fuzzing;
mod greet;
mod intake;
mod job;
mod limits;
mod listener;
mod negotiation;
mod outbox;
mod outgoing;
mod pool;
mod reads;
mod registry;
mod replies;
mod scope;
mod server;
mod socket;
mod streamed;
#[cfg(test)]
mod tests;
#[doc(hidden)]
pub mod wire;
mod worker;
mod writer;

pub use exports::{Client, Ending, ExportInfo, Exports, Observer, OpenError};
pub use limits::{Limits, PAYLOAD_BYTES_MAX};
pub use listener::{Address, ListenError};
pub use registry::Connections;
pub use scope::{Peers, Scope};
pub use server::{Server, Serving, Stopped};

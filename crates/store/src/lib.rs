//! The time-indexed store: one log per target, in which every write to every disk of the target has a position
//! (seq), and indexes that find the content of any sector at any moment.
//!
//! It knows nothing of NBD, guests, file systems or async runtimes. Everything that it needs from the outside world
//! goes through [`mod@env`], so the simulator can replace it. It upholds the invariants I1–I8 of `ARCHITECTURE.md` as
//! far as they concern the store.
#![forbid(unsafe_code)]

mod caller;
pub mod catalog;
pub mod env;
mod error;
mod files;
pub mod format;
pub mod index;
mod line;
mod log;
mod manifest;
mod memory;
pub mod place;
mod store;
mod sync;

pub use caller::Caller;
pub use error::{Damage, Error, Place, Result, is_full};
pub use line::{Line, Stretch};
pub use log::{
    Appended, Batch, Below, BlockWrite, Content, Cursor, Damaged, Event, EventCursor, EventOrder, EventQuery,
    Followed, Follower, HeadFragment, Hold, Log, LogOptions, TimeHit, Unknown, VerifyReport, View, cursor_of,
};
pub use place::Wait;
pub use store::{BACKGROUND_BYTES_PER_S, CACHE_BYTES, MEMORY_BYTES, Store};

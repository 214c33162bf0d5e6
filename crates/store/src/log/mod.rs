//! The log of one target, and everything that is kept about it.
//!
//! One sequencer gives every record its seq, in the order of receipt, and writes it with `pwrite` before anything is
//! acknowledged (I1, I2). Durability comes with [`Log::flush`], which many callers share (I1); if it fails once, the log
//! is poisoned (I4). Nothing written is ever changed (I3). The work that keeps memory bounded (sealing
//! segments, writing checkpoints) is done by [`Log::maintain`], which its owner calls from a thread of its own, or the
//! simulator whenever it likes: the store starts no threads.
//!
//! Locks, always taken in this order: `upkeep`, `sequencer`, the next segment's (`room::Spare`), `heads`, `durability`, and last that of
//! [`syncs::Syncs`], or that of the manifest.

mod append;
mod branches;
mod contents;
mod cursors;
mod events;
mod flush;
mod follow;
mod group;
mod hashing;
mod held;
mod holder;
mod inventory;
mod joining;
mod moving;
mod read;
mod recover;
mod roll;
mod room;
mod scan;
mod syncs;
mod timeline;
mod upkeep;
mod verify;
mod whole;

use std::sync::{Arc, PoisonError, atomic::Ordering};

use bygone_model::{Micros, Seq, VolumeId};
use rustc_hash::FxHashMap;

use crate::{
    catalog::Catalog,
    env::{Clock, Dir, Random, SystemRandom},
    error::{Place, Result},
    format::{
        checkpoint::StoredEvent,
        key::{HeaderKey, Identity},
    },
    index::{
        checkpoint::{Checkpoint, IndexFiles},
        head::{Head, HeadMap},
    },
    manifest::Known,
    memory::Share,
    place::{Containers, NoContainers, Places},
    store::Store,
    sync::{AtomicU64, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use append::Sequencer;
pub use append::{Appended, BlockWrite, Content};
pub use events::{EventCursor, EventOrder, EventQuery, cursor_of};
pub use follow::{Batch, Cursor, Followed, Follower};
pub use holder::Hold;
pub use read::{HeadFragment, Unknown, View};
pub use timeline::{Event, TimeHit};
pub use verify::{Damaged, VerifyReport};

/// Sizes that trade memory, speed and recovery time. The defaults are right but for tests.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// A segment is sealed when it has this many bytes.
    pub segment_bytes: u64,
    /// … or this many records.
    pub segment_records_max: usize,
    /// A checkpoint is written when this many versions are in memory only.
    pub checkpoint_entries: usize,
    /// … or this many bytes of log came since the last one.
    pub checkpoint_bytes: u64,
    /// An index page gets no more entries than this: fewer than fit only where little data is to make tall trees.
    pub page_entries_max: usize,
    /// So many versions may be in memory only; then changes of blocks are refused until a checkpoint could be written.
    pub versions_max: usize,
    /// Payloads of at least this many bytes begin at a block of their segment ([decision 9](../../../docs/decisions/0009-large-writes.md)).
    pub aligned_payload_bytes: usize,
    /// The medium is asked to begin with what was written each time that it is this much, and not only at the next flush.
    pub begin_bytes: u64,
    /// So much payload written at once does not stay in the system's memory.
    pub uncached_bytes: usize,
    /// When there are so many small checkpoints, they are made one.
    pub joined_min: usize,
    /// The folder is compared with what should be in it each time that so much time has passed.
    pub inventory_micros: i64,
    /// Where containers are found that took over what segments held.
    pub containers: Arc<dyn Containers>,
    /// In which term it is opened. A log that is made begins with its first.
    pub hold: Hold,
    /// Of which store the log is: it shares memory with all others.
    pub store: Arc<Store>,
    /// Where secrets and salts come from.
    pub random: Arc<dyn Random>,
}

impl LogOptions {
    /// A view keeps at most so many versions in memory that no checkpoint has yet; for more of them a checkpoint is written.
    fn view_versions_max(&self) -> usize {
        self.checkpoint_entries / 32
    }

    /// How many versions are merged at a time while a checkpoint is written: fewer than there are in memory anyway.
    fn at_once(&self) -> usize {
        self.checkpoint_entries / 2
    }
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            segment_bytes: 64 << 20,
            segment_records_max: 1 << 16,
            checkpoint_entries: 1 << 18,
            checkpoint_bytes: 4 << 30,
            page_entries_max: usize::MAX,
            versions_max: 1 << 20,
            aligned_payload_bytes: 128 << 10,
            begin_bytes: 4 << 20,
            uncached_bytes: 256 << 10,
            joined_min: 8,
            inventory_micros: 3_000_000,
            containers: Arc::new(NoContainers),
            hold: Hold::Newest,
            store: Arc::default(),
            random: Arc::new(SystemRandom),
        }
    }
}

/// What lies below the head map of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// The newest checkpoint: the store is the disk.
    Index,
    /// Something that the device layer knows, such as a tapped disk.
    Device,
}

struct LiveVolume {
    head: Head,
    /// The moment at which its head was frozen.
    frozen_at: Seq,
    below: Below,
    /// Where to look for what was never written to this volume: older volumes at the moment of the branching.
    parents: Arc<Vec<Layer>>,
}

/// A volume at a moment, with what knows it.
#[derive(Clone)]
struct Layer {
    volume: VolumeId,
    seq: Seq,
    /// What came after the checkpoint, if it is little, or there was no room for a newer one.
    recent: Option<Arc<HeadMap>>,
    checkpoint: Option<Arc<Checkpoint>>,
}

impl Layer {
    /// Anything was ever written to the volume up to then; else whoever looks up sectors need not ask it.
    fn knows_anything(&self) -> bool {
        self.recent.as_ref().is_some_and(|recent| !recent.is_empty())
            || self.checkpoint.as_ref().is_some_and(|checkpoint| !checkpoint.tables(self.volume).is_empty())
    }
}

/// What a lookup of the present needs; always consistent in itself.
#[derive(Default)]
struct Heads {
    live: FxHashMap<VolumeId, LiveVolume>,
    base: Option<Arc<Checkpoint>>,
}

impl Heads {
    /// The newest checkpoint has everything up to here.
    fn covered(&self) -> Seq {
        self.base.as_ref().map_or(Seq::ZERO, |base| base.footer.end)
    }
}

#[derive(Default)]
struct Durability {
    durable: Seq,
    flushing: bool,
}

/// What a file shows if it is of this log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LogKey {
    id: [u8; 16],
    header: HeaderKey,
}

impl LogKey {
    fn of(log: &Identity) -> LogKey {
        LogKey { id: log.id, header: log.header_key() }
    }
}

/// See the module's comment.
pub struct Log {
    dir: Arc<dyn Dir>,
    clock: Arc<dyn Clock>,
    options: LogOptions,
    identity: Identity,
    key: LogKey,
    sequencer: Mutex<Sequencer>,
    heads: RwLock<Heads>,
    durability: Mutex<Durability>,
    durability_changed: Condvar,
    head: AtomicU64,
    syncs: Arc<syncs::Syncs>,
    places: Places,
    index: IndexFiles,
    event_summaries: events::Known,
    opened: Mutex<Vec<Arc<Checkpoint>>>,
    upkeep: Mutex<upkeep::Upkeep>,
    /// Which piece of upkeep has the next turn.
    next_piece: AtomicU64,
    share: Share,
    manifest: Mutex<Known>,
    trouble: upkeep::Trouble,
    rot: hashing::Rot,
    found_last: Micros,
    damage_at_open: Vec<(Place, crate::Damage)>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("head", &self.head_seq()).finish_non_exhaustive()
    }
}

impl Log {
    fn sequencer(&self) -> MutexGuard<'_, Sequencer> {
        self.sequencer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heads(&self) -> RwLockReadGuard<'_, Heads> {
        self.heads.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn heads_mut(&self) -> RwLockWriteGuard<'_, Heads> {
        self.heads.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last record's seq.
    #[must_use]
    pub fn head_seq(&self) -> Seq {
        Seq(self.head.load(Ordering::Acquire))
    }

    /// Everything up to here is known to be durable.
    #[must_use]
    pub fn durable_seq(&self) -> Seq {
        self.durability.lock().unwrap_or_else(PoisonError::into_inner).durable
    }

    /// The random id that is in every file of this log.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.identity.id
    }

    /// In which term this holder of the log writes it ([`Hold`]).
    #[must_use]
    pub fn term(&self) -> u32 {
        self.syncs.holder.term()
    }

    /// Refuses if another holder took the log over; looks for one.
    fn check_holder(&self) -> Result<()> {
        self.syncs.holder.look(&*self.dir)
    }

    /// The catalog as it is now. It is shared, not copied.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.sequencer().catalog.clone()
    }

    /// The time of the last record that the log had when it was opened.
    #[must_use]
    pub fn found_last(&self) -> Micros {
        self.found_last
    }

    /// What was found damaged when the log was opened; the rest is usable.
    #[must_use]
    pub fn damage_at_open(&self) -> &[(Place, crate::Damage)] {
        &self.damage_at_open
    }

    /// A flush failed: nothing is acknowledged any more (I4).
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.syncs.is_poisoned()
    }

    fn check_poison(&self) -> Result<()> {
        self.syncs.check()
    }

    /// The wall clock of the log's environment.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.clock.wall()
    }
}

/// Events are few; this many in memory are reason enough for a checkpoint.
const EVENTS_MAX: usize = 4096;

type Events = Vec<StoredEvent>;

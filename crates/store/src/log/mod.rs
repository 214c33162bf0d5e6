//! The log of one target.
//!
//! The sequencer gives every record its seq, in order of receipt, and writes it with `pwrite` before it is
//! acknowledged (I1, I2). [`Log::flush`] makes the log durable; concurrent callers share one flush (I1). If a flush
//! fails, the log is poisoned (I4). Records are never modified (I3). [`Log::maintain`] does the work that keeps
//! memory bounded, such as sealing segments and writing checkpoints. The log's owner calls it from a thread of its
//! own, and the simulator whenever it likes: the store starts no threads.
//!
//! Lock order: `upkeep`, `sequencer`, the next segment (`room::Spare`), `heads`, `durability`, and last either
//! [`syncs::Syncs`], the manifest or [`recent::Recents`].

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
mod patched;
mod read;
mod recent;
mod recover;
mod reindex;
mod roll;
mod room;
pub(crate) mod scan;
mod summaries;
mod syncs;
mod timeline;
mod upkeep;
mod verify;
mod whole;

use std::sync::{Arc, PoisonError, atomic::Ordering};

use bygone_model::{Micros, Seq, VolumeId};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    catalog::Catalog,
    env::{Clock, Dir, Random, SystemRandom},
    error::{Error, Place, Result},
    format::{
        checkpoint::StoredEvent,
        key::{HeaderKey, Identity},
    },
    index::{
        checkpoint::{Checkpoint, IndexFiles},
        head::Head,
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

/// The settings of a log, mostly sizes that trade memory, speed and recovery time. The defaults suit everything but
/// tests.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// A segment takes records up to this many bytes, …
    pub segment_bytes: u64,
    /// … or this many records.
    pub segment_records_max: usize,
    /// A checkpoint is due when this many versions are in memory only, …
    pub checkpoint_entries: usize,
    /// … or when this many bytes were logged since the last one.
    pub checkpoint_bytes: u64,
    /// The most entries of an index page. Tests lower it to get tall trees from little data.
    pub page_entries_max: usize,
    /// With this many versions in memory only, block writes are refused until a checkpoint is written.
    pub versions_max: usize,
    /// Payloads of at least this many bytes are aligned to a block of their segment
    /// ([decision 9](../../../docs/decisions/0009-large-writes.md)).
    pub aligned_payload_bytes: usize,
    /// Write-back is started each time this many bytes are pending, instead of at the next flush.
    pub begin_bytes: u64,
    /// A group of records with at least this much payload does not stay in the page cache.
    pub uncached_bytes: usize,
    /// Small checkpoints are joined into one when there are this many of them.
    pub joined_min: usize,
    /// How often the folder is compared with the manifest.
    pub inventory_micros: i64,
    /// Finds the containers that took over the records of segments.
    pub containers: Arc<dyn Containers>,
    /// The term in which the log is opened. A new log begins with the first term.
    pub hold: Hold,
    /// The store that the log belongs to. All logs of a store share its memory.
    pub store: Arc<Store>,
    /// The source of secrets and salts.
    pub random: Arc<dyn Random>,
}

impl LogOptions {
    /// While at most this many versions are in memory only, a view takes its share of them from there; with more of
    /// them a checkpoint is written for the view.
    fn view_versions_max(&self) -> usize {
        self.checkpoint_entries / 32
    }

    /// How many versions are merged at a time while a checkpoint is written; fewer than are in memory anyway.
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
    /// A device outside the store, such as a tapped disk.
    Device,
}

struct LiveVolume {
    head: Head,
    /// The record after which its head map was frozen.
    frozen_at: Seq,
    below: Below,
    /// Where sectors are looked up that were never written on this volume: the volumes it descends from, nearest
    /// first.
    parents: Arc<Vec<Layer>>,
}

/// A volume as of `seq`, with the indexes that answer for it.
#[derive(Clone)]
struct Layer {
    volume: VolumeId,
    seq: Seq,
    /// The versions after `checkpoint`, if they are few or no newer checkpoint could be written.
    recent: Option<Arc<recent::Recent>>,
    checkpoint: Option<Arc<Checkpoint>>,
    /// What an earlier record wrote may have been overwritten by a record that is lost ([`Catalog::lost`]).
    lost_upto: Seq,
}

impl Layer {
    /// False if nothing was written to the volume up to `seq`; lookups skip such a layer.
    fn may_have_versions(&self) -> bool {
        self.lost_upto > Seq::ZERO
            || self.recent.as_ref().is_some_and(|recent| !recent.map.is_empty())
            || self.checkpoint.as_ref().is_some_and(|checkpoint| !checkpoint.tables(self.volume).is_empty())
    }
}

/// The state of the present. It changes as a whole, so a lookup finds every version in a head map or in the
/// checkpoint.
#[derive(Default)]
struct Heads {
    live: FxHashMap<VolumeId, LiveVolume>,
    base: Option<Arc<Checkpoint>>,
}

impl Heads {
    /// The newest checkpoint covers everything up to here.
    fn covered(&self) -> Seq {
        self.base.as_ref().map_or(Seq::ZERO, |base| base.footer.end)
    }
}

#[derive(Default)]
struct Durability {
    durable: Seq,
    flushing: bool,
}

/// Tells the files of this log from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogKey {
    id: [u8; 16],
    header: HeaderKey,
}

impl LogKey {
    pub(crate) fn of(log: &Identity) -> LogKey {
        LogKey { id: log.id, header: log.header_key() }
    }
}

/// The log of one target: every write to its disks and every event, in order, with indexes that find the content of
/// any sector at any moment.
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
    summaries: summaries::Summaries,
    recents: recent::Recents,
    opened: Mutex<Vec<Arc<Checkpoint>>>,
    upkeep: Mutex<upkeep::Upkeep>,
    /// The piece of upkeep that is tried first the next time.
    next_piece: AtomicU64,
    share: Share,
    manifest: Mutex<Known>,
    trouble: upkeep::Trouble,
    rot: hashing::Rot,
    found_last: Micros,
    /// The end of the newest checkpoint that was found when the log was opened.
    covered_at_open: Seq,
    damage_at_open: Vec<(Place, crate::Damage)>,
    /// The files in which that damage is.
    damaged_at_open: FxHashSet<String>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("head", &self.head_seq()).finish_non_exhaustive()
    }
}

impl Log {
    fn sequencer(&self) -> MutexGuard<'_, Sequencer> {
        self.sequencer.lock().unwrap_or_else(|poisoned| self.after_panic(poisoned))
    }

    fn heads(&self) -> RwLockReadGuard<'_, Heads> {
        self.heads.read().unwrap_or_else(|poisoned| self.after_panic(poisoned))
    }

    fn heads_mut(&self) -> RwLockWriteGuard<'_, Heads> {
        self.heads.write().unwrap_or_else(|poisoned| self.after_panic(poisoned))
    }

    fn durability(&self) -> MutexGuard<'_, Durability> {
        self.durability.lock().unwrap_or_else(|poisoned| self.after_panic(poisoned))
    }

    /// A thread panicked while it held a lock of the write path, and what the lock protects may be half changed: a
    /// record on the medium that no index has, a segment that no flush syncs. It can still be read, but nothing more
    /// is acknowledged; opening the log anew recovers it from its files.
    fn after_panic<T>(&self, poisoned: PoisonError<T>) -> T {
        self.syncs.poison();
        poisoned.into_inner()
    }

    /// The seq of the last record.
    #[must_use]
    pub fn head_seq(&self) -> Seq {
        Seq(self.head.load(Ordering::Acquire))
    }

    /// Everything up to here is known to be durable.
    #[must_use]
    pub fn durable_seq(&self) -> Seq {
        self.durability().durable
    }

    /// The random id that is in every file of this log.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        self.identity.id
    }

    /// The id of the log in a folder, without opening it; `None` if there is none, or its manifests are damaged.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn id_in(dir: &dyn Dir) -> Result<Option<[u8; 16]>> {
        Ok(crate::manifest::identity(dir)?.map(|identity| identity.id))
    }

    /// The term in which this holder writes the log ([`Hold`]).
    #[must_use]
    pub fn term(&self) -> u32 {
        self.syncs.holder.term()
    }

    /// Looks for a newer holder, and fails if one has taken the log over.
    fn check_holder(&self) -> Result<()> {
        self.syncs.holder.look_now(&*self.dir, &*self.clock)
    }

    /// The error to return after `error`: what another holder has removed since looks like damage to this one.
    fn unless_superseded(&self, error: Error) -> Error {
        let is_damage = matches!(error, Error::Damaged { .. });
        match is_damage.then(|| self.check_holder()) {
            Some(Err(superseded @ Error::Superseded { .. })) => superseded,
            _ => error,
        }
    }

    /// The current catalog, shared instead of copied.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.sequencer().catalog.clone()
    }

    /// The time of the last record at the time of opening.
    #[must_use]
    pub fn found_last(&self) -> Micros {
        self.found_last
    }

    /// The damage that was found when the log was opened; the rest is usable.
    #[must_use]
    pub fn damage_at_open(&self) -> &[(Place, crate::Damage)] {
        &self.damage_at_open
    }

    /// A flush failed, or a thread panicked while it wrote: nothing is acknowledged any more (I4).
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.syncs.is_poisoned()
    }

    /// Fails if nothing may be acknowledged any more.
    fn check_poison(&self) -> Result<()> {
        self.syncs.check()?;
        self.syncs.holder.check_or_look(&*self.dir, &*self.clock)
    }

    /// The wall clock of the log's environment.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.clock.wall()
    }
}

/// A checkpoint is due when this many events are in memory only.
const EVENTS_MAX: usize = 4096;

type Events = Vec<StoredEvent>;

//! A file system in memory on a medium with a volatile write cache, with fault injection.
//!
//! - A write is visible at once. It is durable after `File::sync` (data, length) and `Dir::sync` (names).
//! - A *kill* ends the process: everything written stays visible, but is no more durable than before.
//! - A *power cut* keeps any subset of the sectors, lengths and names that were not durable.
//! - *Rot* flips bits in place, durably. The medium remembers the original ([`Medium::rot`]) or does not
//!   ([`Medium::flip`]).
//! - A *failed sync* reports its error once; data that was not durable may be lost, and the next sync succeeds.

mod node;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, IoSlice},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bygone_store::env::{Dir, File, FileId};

use crate::rng::Rng;
use node::Node;

/// The faults to inject, and how often (per 1000 operations).
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A sync fails.
    pub sync_fails: u64,
    /// A read fails.
    pub read_fails: u64,
    /// A write finds no room, whatever the limit of the room.
    pub full: u64,
    /// A read that may not wait fails because it would have to.
    pub would_block: u64,
}

/// Counters of the medium.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Syncs of files and folders.
    pub syncs: u64,
    /// Faults that were injected.
    pub faults: u64,
    /// Reads that may wait, made while [`Medium::forbid_reads`] was on.
    pub reads_while_forbidden: u64,
}

#[derive(Clone)]
struct State {
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: Vec<(String, Option<usize>)>,
    /// The names of files that took another one's place.
    replaced: BTreeSet<String>,
    rng: Rng,
    faults: Faults,
    room: Option<u64>,
    /// It is copy-on-write: every write needs room, and data that a failed sync lost is not visible afterwards.
    copies: bool,
    /// How many files were published; each attempt has a temporary name of its own.
    parts: u64,
    life: u64,
    dies_in: Option<u64>,
    dead: bool,
    sync_failed: bool,
    forbid_reads: bool,
    counters: Counters,
}

/// The medium; it survives the processes that use it.
pub struct Medium {
    state: Mutex<State>,
    meanwhile: Mutex<Option<(u64, Meanwhile)>>,
}

/// What another process does.
type Meanwhile = Box<dyn FnOnce() + Send>;

/// A saved state of the medium.
pub struct Snapshot(State);

impl Medium {
    /// An empty medium.
    #[must_use]
    pub fn new(seed: u64) -> Arc<Medium> {
        let mut rng = Rng::new(seed);
        let state = State {
            copies: rng.chance(300),
            nodes: Vec::new(),
            names: BTreeMap::new(),
            replaced: BTreeSet::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            rng,
            faults: Faults::default(),
            room: None,
            parts: 0,
            life: 0,
            dies_in: None,
            dead: false,
            sync_failed: false,
            forbid_reads: false,
            counters: Counters::default(),
        };
        Arc::new(Medium { state: Mutex::new(state), meanwhile: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets another process act after `steps` more steps of whoever uses the medium: listings and changing operations.
    pub fn interrupt(&self, steps: u64, act: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock().unwrap_or_else(PoisonError::into_inner) = Some((steps, Box::new(act)));
    }

    /// Takes back an interruption that has not come; returns whether it has.
    pub fn was_interrupted(&self) -> bool {
        self.meanwhile.lock().unwrap_or_else(PoisonError::into_inner).take().is_none()
    }

    /// A step begins.
    fn pass(&self) {
        let mut meanwhile = self.meanwhile.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *meanwhile {
            None => {}
            Some((0, _)) => {
                let act = meanwhile.take();
                // The act has steps as well.
                drop(meanwhile);
                act.into_iter().for_each(|(_, act)| act());
            }
            Some((left, _)) => *left -= 1,
        }
    }

    /// The directory for a new process. It becomes unusable when the process ends.
    #[must_use]
    pub fn dir(self: &Arc<Self>) -> Arc<dyn Dir> {
        let life = self.state().life;
        Arc::new(SimDir { medium: self.clone(), life })
    }

    /// Sets the faults from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Sets the room that is left, in bytes (`None`: unlimited).
    pub fn set_room(&self, bytes: Option<u64>) {
        self.state().room = bytes;
    }

    /// Makes the machine die in the middle of a changing operation, after `operations` more of them.
    pub fn die_in(&self, operations: Option<u64>) {
        self.state().dies_in = operations;
    }

    /// The machine died: every operation fails until a kill or a power cut.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// A sync failed since the last kill or power cut.
    #[must_use]
    pub fn sync_failed(&self) -> bool {
        self.state().sync_failed
    }

    /// Sets whether reads that may wait are counted.
    pub fn forbid_reads(&self, forbid: bool) {
        self.state().forbid_reads = forbid;
    }

    /// The counters so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.state().counters
    }

    fn end_life(state: &mut State) {
        state.life += 1;
        state.dead = false;
        state.dies_in = None;
        state.faults = Faults::default();
        state.room = None;
        state.forbid_reads = false;
        state.sync_failed = false;
    }

    /// Kills the process. Nothing that it wrote is lost.
    pub fn kill(&self) {
        Self::end_life(&mut self.state());
    }

    /// Cuts the power and restores it.
    pub fn power_cut(&self) {
        let state = &mut *self.state();
        Self::end_life(state);
        let mut rng = state.rng.clone();
        let common = rng.chance(400).then(|| rng.below(6));
        for node in &mut state.nodes {
            node.power_cut(&mut rng, common);
        }
        // Each name gets one of the states that it had since the folder was last durable.
        let mut by_name: BTreeMap<String, Vec<Option<usize>>> = BTreeMap::new();
        for (name, node) in std::mem::take(&mut state.pending_names) {
            let before = state.durable_names.get(&name).copied();
            by_name.entry(name).or_insert_with(|| vec![before]).push(node);
        }
        for (name, states) in by_name {
            match states[rng.below(states.len() as u64) as usize] {
                Some(node) => state.durable_names.insert(name, node),
                None => state.durable_names.remove(&name),
            };
        }
        state.names = state.durable_names.clone();
        state.rng = rng;
    }

    /// Saves the state. No process may be running.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.state().clone())
    }

    /// Restores a snapshot.
    pub fn restore(&self, snapshot: &Snapshot) {
        let mut state = self.state();
        let (life, counters, rng) = (state.life, state.counters, state.rng.clone());
        *state = State { life: life + 1, counters, rng, ..snapshot.0.clone() };
    }

    /// The names of all files.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.state().names.keys().cloned().collect()
    }

    /// Whether a file took the place of another one of its name.
    #[must_use]
    pub fn is_replaced(&self, name: &str) -> bool {
        self.state().replaced.contains(name)
    }

    /// What readers see in a file.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(name).map(|&node| {
            let mut bytes = vec![0; state.nodes[node].seen.len()];
            state.nodes[node].read(0, &mut bytes);
            bytes
        })
    }

    /// What a file would hold without the bits that [`Medium::rot`] flipped.
    #[must_use]
    pub fn sound_bytes(&self, name: &str) -> Option<Vec<u8>> {
        let state = self.state();
        state.names.get(name).map(|&node| state.nodes[node].seen.clone())
    }

    /// Flips a bit and remembers the original, until the byte is overwritten.
    pub fn rot(&self, name: &str, offset: usize, bit: u32) {
        let state = &mut *self.state();
        if let Some(&node) = state.names.get(name) {
            state.nodes[node].rot(offset, bit);
        }
    }

    /// The bytes of a file in which [`Medium::rot`] flipped something.
    #[must_use]
    pub fn rotten(&self, name: &str) -> Vec<usize> {
        let state = self.state();
        state.names.get(name).map_or_else(Vec::new, |&node| state.nodes[node].rotten())
    }

    /// Flips a bit on the medium.
    pub fn flip(&self, name: &str, offset: usize, bit: u32) {
        let state = &mut *self.state();
        if let Some(&node) = state.names.get(name) {
            state.nodes[node].flip(offset, bit);
        }
    }

    /// Truncates a file on the medium.
    pub fn truncate(&self, name: &str, len: usize) {
        let state = &mut *self.state();
        if let Some(&node) = state.names.get(name) {
            state.nodes[node].truncate(len);
        }
    }

    /// Removes a file from the medium.
    pub fn erase(&self, name: &str) {
        let state = &mut *self.state();
        state.names.remove(name);
        state.durable_names.remove(name);
        state.pending_names.retain(|(other, _)| other != name);
    }

    /// Creates a file durably, for tests that forge one.
    pub fn forge(&self, name: &str, bytes: &[u8]) {
        let state = &mut *self.state();
        let mut node = Node::default();
        node.write(0, bytes);
        node.sync();
        state.nodes.push(node);
        let id = state.nodes.len() - 1;
        state.names.insert(name.to_owned(), id);
        state.durable_names.insert(name.to_owned(), id);
    }

    /// Whether everything written is durable.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        let state = self.state();
        state.pending_names.is_empty() && state.names.values().all(|&node| state.nodes[node].is_durable())
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "this process is dead")
}

fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

impl State {
    fn alive(&self, life: u64) -> io::Result<()> {
        if self.dead || life != self.life { Err(gone()) } else { Ok(()) }
    }

    /// Whether the machine dies during this operation.
    fn step(&mut self, life: u64) -> io::Result<bool> {
        self.alive(life)?;
        match &mut self.dies_in {
            Some(0) => {
                self.dead = true;
                Ok(true)
            }
            Some(left) => {
                *left -= 1;
                Ok(false)
            }
            None => Ok(false),
        }
    }

    fn is_full_now(&mut self) -> bool {
        let full = self.faults.full > 0 && self.rng.chance(self.faults.full);
        self.counters.faults += u64::from(full);
        full
    }

    /// Takes `bytes` of the remaining room.
    fn take_room(&mut self, bytes: u64) -> bool {
        match &mut self.room {
            Some(room) if *room < bytes => {
                self.counters.faults += 1;
                false
            }
            Some(room) => {
                *room -= bytes;
                true
            }
            None => true,
        }
    }

    fn sync_fails(&mut self) -> bool {
        let fails = self.faults.sync_fails > 0 && self.rng.chance(self.faults.sync_fails);
        self.counters.faults += u64::from(fails);
        self.sync_failed |= fails;
        fails
    }
}

struct SimDir {
    medium: Arc<Medium>,
    life: u64,
}

impl SimDir {
    fn file(&self, node: usize) -> Arc<dyn File> {
        Arc::new(SimFile { medium: self.medium.clone(), life: self.life, node })
    }

    fn rename_new(&self, from: &str, to: &str) -> io::Result<()> {
        self.medium.pass();
        let state = &mut *self.medium.state();
        let dies = state.step(self.life)?;
        if dies && state.rng.chance(500) {
            return Err(gone());
        }
        if state.names.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), node);
        state.pending_names.push((from.to_owned(), None));
        state.pending_names.push((to.to_owned(), Some(node)));
        state.replaced.insert(to.to_owned());
        if dies { Err(gone()) } else { Ok(()) }
    }
}

impl Dir for SimDir {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.medium.pass();
        let state = &mut *self.medium.state();
        let dies = state.step(self.life)?;
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if state.is_full_now() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if dies && state.rng.chance(500) {
            return Err(gone());
        }
        let node = state.nodes.len();
        state.nodes.push(Node::default());
        state.names.insert(name.to_owned(), node);
        state.pending_names.push((name.to_owned(), Some(node)));
        if dies { Err(gone()) } else { Ok(self.file(node)) }
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let part = {
            let state = &mut *self.medium.state();
            state.parts += 1;
            format!("{name}.{:016x}.part", state.parts)
        };
        let file = self.create(&part)?;
        let written = file.write_at(&mut [IoSlice::new(bytes)], 0).and_then(|()| file.sync());
        if let Err(e) = written.and_then(|()| self.rename_new(&part, name)) {
            let _ = self.remove(&part);
            return Err(e);
        }
        self.sync(folder_of(name))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let state = self.medium.state();
        state.alive(self.life)?;
        state.names.get(name).map(|&node| self.file(node)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        self.medium.pass();
        let state = self.medium.state();
        state.alive(self.life)?;
        let in_folder = |name: &&String| folder_of(name) == folder;
        Ok(state.names.keys().filter(in_folder).map(|n| n[folder.len() + 1..].to_owned()).collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.medium.pass();
        let state = &mut *self.medium.state();
        let dies = state.step(self.life)?;
        if dies && state.rng.chance(500) {
            return Err(gone());
        }
        let node = state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        state.pending_names.push((name.to_owned(), None));
        let allocated = state.nodes[node].allocated;
        if let Some(room) = &mut state.room {
            *room += allocated;
        }
        if dies { Err(gone()) } else { Ok(()) }
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        self.medium.pass();
        let state = &mut *self.medium.state();
        let dies = state.step(self.life)?;
        if dies && state.rng.chance(500) {
            return Err(gone());
        }
        let node = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        // A segment is copied with its damage. Of a checkpoint what is damaged is made anew.
        let segment = to.split('-').next().filter(|name| name.starts_with("log/"));
        let is_other = |name: &str| segment.is_some_and(|segment| name.starts_with(segment));
        let others = state.names.iter().filter(|(name, _)| is_other(name));
        for other in others.map(|(_, &other)| other).collect::<Vec<_>>() {
            let other = state.nodes[other].clone();
            state.nodes[node].carry_rot(&other);
        }
        if let Some(replaced) = state.names.insert(to.to_owned(), node)
            && let Some(room) = &mut state.room
        {
            *room += state.nodes[replaced].allocated;
        }
        state.pending_names.push((from.to_owned(), None));
        state.pending_names.push((to.to_owned(), Some(node)));
        state.replaced.insert(to.to_owned());
        if dies { Err(gone()) } else { Ok(()) }
    }

    fn sync(&self, folder: &str) -> io::Result<()> {
        self.medium.pass();
        let state = &mut *self.medium.state();
        let dies = state.step(self.life)?;
        state.counters.syncs += 1;
        if dies && state.rng.chance(500) {
            return Err(gone());
        }
        if state.sync_fails() {
            return Err(io::Error::other("the folder cannot be synced"));
        }
        let (mut now, later) = std::mem::take(&mut state.pending_names)
            .into_iter()
            .partition::<Vec<_>, _>(|(name, _)| folder_of(name) == folder);
        state.pending_names = later;
        for (name, node) in now.drain(..) {
            match node {
                Some(node) => state.durable_names.insert(name, node),
                None => state.durable_names.remove(&name),
            };
        }
        if dies { Err(gone()) } else { Ok(()) }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(self.medium.state().room.unwrap_or(u64::MAX))
    }
}

/// Linux's number of the error that a bad sector causes.
const EIO: i32 = 5;

struct SimFile {
    medium: Arc<Medium>,
    life: u64,
    node: usize,
}

impl SimFile {
    fn read(&self, state: &mut State, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if state.faults.read_fails > 0 && state.rng.chance(state.faults.read_fails) {
            state.counters.faults += 1;
            // Now a bad sector, now something that says nothing of what is stored.
            return Err(match state.counters.faults % 2 {
                0 => io::Error::from_raw_os_error(EIO),
                _ => io::Error::other("the medium cannot be read"),
            });
        }
        let node = &state.nodes[self.node];
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(node.seen.len());
        let n = buf.len().min(node.seen.len() - from);
        node.read(from, &mut buf[..n]);
        state.counters.read_bytes += n as u64;
        Ok(n)
    }
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = &mut *self.medium.state();
        state.alive(self.life)?;
        state.counters.reads_while_forbidden += u64::from(state.forbid_reads);
        self.read(state, buf, offset)
    }

    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = &mut *self.medium.state();
        state.alive(self.life)?;
        if state.faults.would_block > 0 && state.rng.chance(state.faults.would_block) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.read(state, buf, offset)
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.medium.pass();
        let state = &mut *self.medium.state();
        let dies = state.step(self.life)?;
        let data: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let end = offset + data.len() as u64;
        let grows = end.saturating_sub(state.nodes[self.node].allocated);
        let full = (grows > 0 || state.copies) && state.is_full_now() || !state.take_room(grows);
        let written = if full || dies {
            // Some of it may have been written.
            if state.rng.chance(300) { 0 } else { state.rng.below(data.len() as u64 + 1) as usize }
        } else {
            data.len()
        };
        state.counters.written_bytes += written as u64;
        state.nodes[self.node].write(offset as usize, &data[..written]);
        match (dies, full) {
            (true, _) => Err(gone()),
            (_, true) => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.medium.pass();
        let state = &mut *self.medium.state();
        let dies = state.step(self.life)?;
        state.counters.syncs += 1;
        if dies && state.rng.chance(500) {
            return Err(gone());
        }
        if state.sync_fails() {
            let mut rng = state.rng.clone();
            if rng.chance(700) {
                let show = !state.copies && rng.chance(700);
                state.nodes[self.node].lose(&mut rng, show);
            }
            state.rng = rng;
            return Err(io::Error::other("the file cannot be synced"));
        }
        state.nodes[self.node].sync();
        if dies { Err(gone()) } else { Ok(()) }
    }

    fn id(&self) -> io::Result<Option<FileId>> {
        Ok(Some((0, self.node as u64)))
    }

    fn len_bytes(&self) -> io::Result<u64> {
        let state = self.medium.state();
        state.alive(self.life)?;
        Ok(state.nodes[self.node].seen.len() as u64)
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.medium.pass();
        let state = &mut *self.medium.state();
        let dies = state.step(self.life)?;
        if dies && state.rng.chance(500) {
            return Err(gone());
        }
        let before = state.nodes[self.node].allocated;
        state.nodes[self.node].set_len(len_bytes as usize);
        let freed = before.saturating_sub(state.nodes[self.node].allocated);
        if let Some(room) = &mut state.room {
            *room += freed;
        }
        if dies { Err(gone()) } else { Ok(()) }
    }

    fn reserve(&self, len_bytes: u64) -> io::Result<()> {
        self.medium.pass();
        let state = &mut *self.medium.state();
        let dies = state.step(self.life)?;
        let grows = len_bytes.saturating_sub(state.nodes[self.node].allocated);
        if state.is_full_now() || !state.take_room(grows) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let node = &mut state.nodes[self.node];
        node.allocated = node.allocated.max(len_bytes);
        if dies { Err(gone()) } else { Ok(()) }
    }

    fn prefetch(&self, _: u64, _: u64) {}
}

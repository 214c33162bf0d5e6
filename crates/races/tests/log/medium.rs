//! A medium in memory, whose writes and syncs are scheduling points.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io::{self, IoSlice},
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicU32, atomic::Ordering},
};

use bygone_model::Micros;
use bygone_store::env::{Clock, Dir, File};

/// A file: what readers see, the writes that are not durable yet, and what is on the medium.
#[derive(Clone, Default)]
struct Node {
    seen: Vec<u8>,
    dirty: Vec<(usize, Vec<u8>)>,
    durable: Vec<u8>,
}

impl Node {
    fn write(&mut self, at: usize, data: &[u8]) {
        write_at(&mut self.seen, at, data);
        self.dirty.push((at, data.to_vec()));
    }

    /// As on Linux: a failure is reported once, and the lost data counts as clean from then on.
    fn sync(&mut self, fails: bool) -> io::Result<()> {
        let dirty = std::mem::take(&mut self.dirty);
        if fails && !dirty.is_empty() {
            return Err(io::Error::other("the medium lost what was written"));
        }
        dirty.iter().for_each(|(at, data)| write_at(&mut self.durable, *at, data));
        self.durable.resize(self.seen.len(), 0);
        Ok(())
    }
}

fn write_at(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

type Nodes = BTreeMap<String, Arc<Mutex<Node>>>;

/// A folder in memory.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    nodes: Arc<Mutex<Nodes>>,
    /// Counts down at each sync; the one that takes it from 1 to 0 fails. 0: none fails.
    good_syncs: Arc<AtomicU32>,
}

impl Memory {
    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap()
    }

    pub(crate) fn fail_a_sync_after(&self, good: u32) {
        self.good_syncs.store(good + 1, Ordering::Relaxed);
    }

    /// The state after a power cut in which only durable data survived.
    pub(crate) fn after_a_power_cut(&self) -> Memory {
        let nodes = self.nodes();
        let left = nodes.iter().map(|(name, node)| {
            let durable = node.lock().unwrap().durable.clone();
            (name.clone(), Arc::new(Mutex::new(Node { seen: durable.clone(), durable, dirty: Vec::new() })))
        });
        Memory { nodes: Arc::new(Mutex::new(left.collect())), good_syncs: Arc::default() }
    }

    fn fails_now(&self) -> bool {
        let count = |left: u32| left.checked_sub(1);
        self.good_syncs.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count) == Ok(1)
    }

    fn file(&self, node: &Arc<Mutex<Node>>) -> Arc<dyn File> {
        Arc::new(Open { node: node.clone(), of: self.clone() })
    }
}

impl Dir for Memory {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut nodes = self.nodes();
        if nodes.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let node = nodes.entry(name.to_owned()).or_default();
        Ok(self.file(node))
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        // Other threads may run before the name is there, and before its publisher knows.
        shuttle::thread::yield_now();
        let published = match self.nodes().entry(name.to_owned()) {
            Entry::Occupied(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Entry::Vacant(place) => {
                let (seen, durable) = (bytes.to_vec(), bytes.to_vec());
                place.insert(Arc::new(Mutex::new(Node { seen, durable, dirty: Vec::new() })));
                Ok(())
            }
        };
        shuttle::thread::yield_now();
        published
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.nodes().get(name).map(|node| self.file(node)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let inside = |name: &String| Some(name.strip_prefix(folder)?.strip_prefix('/')?.to_owned());
        Ok(self.nodes().keys().filter_map(inside).collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.nodes().remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        let mut nodes = self.nodes();
        let node = nodes.remove(from).ok_or(io::ErrorKind::NotFound)?;
        nodes.insert(to.to_owned(), node);
        Ok(())
    }

    fn sync(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

struct Open {
    node: Arc<Mutex<Node>>,
    of: Memory,
}

impl File for Open {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let node = self.node.lock().unwrap();
        let from = (offset as usize).min(node.seen.len());
        let len = buf.len().min(node.seen.len() - from);
        buf[..len].copy_from_slice(&node.seen[from..from + len]);
        Ok(len)
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let data: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.node.lock().unwrap().write(offset as usize, &data);
        shuttle::thread::yield_now();
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        // Other threads may run before the sync and between the sync and its return.
        shuttle::thread::yield_now();
        let fails = self.of.fails_now();
        let done = self.node.lock().unwrap().sync(fails);
        shuttle::thread::yield_now();
        done
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.node.lock().unwrap().seen.len() as u64)
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        let mut node = self.node.lock().unwrap();
        node.seen.resize(len_bytes as usize, 0);
        Ok(())
    }

    fn reserve(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn prefetch(&self, _: u64, _: u64) {}
}

/// A clock that advances at each reading.
#[derive(Default)]
pub(crate) struct Ticks(AtomicU32);

impl Clock for Ticks {
    fn wall(&self) -> Micros {
        Micros(1_700_000_000_000_000 + i64::from(self.0.fetch_add(1, Ordering::Relaxed)))
    }
    fn monotonic(&self) -> Micros {
        Micros(i64::from(self.0.fetch_add(1, Ordering::Relaxed)))
    }
}

//! A folder of files in memory, and a clock that never goes back. The plainest medium: nothing is ever lost, and a copy
//! of it can be damaged at will.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
};

use bygone_model::Micros;
use bygone_store::env::{Clock, Dir, File, Random};

/// Always the same, so that a log can be reproduced.
#[derive(Debug)]
pub(crate) struct NoChance;

impl Random for NoChance {
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()> {
        bytes.fill(0x5a);
        Ok(())
    }
}

/// The bytes of files, by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

#[derive(Clone, Default)]
struct Node(Arc<Mutex<Vec<u8>>>);

impl Node {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module's comment. A removed file stays readable through open handles.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<BTreeMap<String, Node>>>);

impl Memory {
    pub(crate) fn of(files: &Files) -> Memory {
        let node = |bytes: &Vec<u8>| Node(Arc::new(Mutex::new(bytes.clone())));
        let nodes = files.iter().map(|(name, bytes)| (name.clone(), node(bytes))).collect();
        Memory(Arc::new(Mutex::new(nodes)))
    }

    pub(crate) fn files(&self) -> Files {
        self.nodes().iter().map(|(name, node)| (name.clone(), node.bytes().clone())).collect()
    }

    pub(crate) fn dir(&self) -> Arc<dyn Dir> {
        Arc::new(self.clone())
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Node>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dir for Memory {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut nodes = self.nodes();
        if nodes.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(Arc::new(nodes.entry(name.to_owned()).or_default().clone()))
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.create(name)?.write_at(&mut [IoSlice::new(bytes)], 0)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let node = self.nodes().get(name).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(node))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let inside = |name: &String| {
            let rest = name.strip_prefix(folder)?.strip_prefix('/')?;
            (!rest.contains('/')).then(|| rest.to_owned())
        };
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

impl File for Node {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let bytes = self.bytes();
        let rest = usize::try_from(offset).ok().and_then(|from| bytes.get(from..)).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut bytes = self.bytes();
        let mut at = usize::try_from(offset).map_err(io::Error::other)?;
        for part in parts {
            let end = at + part.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[at..end].copy_from_slice(part);
            at = end;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.bytes().resize(usize::try_from(len_bytes).map_err(io::Error::other)?, 0);
        Ok(())
    }

    fn reserve(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn prefetch(&self, _: u64, _: u64) {}
}

/// A clock that advances by a millisecond at each reading.
pub(crate) struct Ticks(AtomicI64);

impl Ticks {
    pub(crate) fn from(micros: i64) -> Arc<Ticks> {
        Arc::new(Ticks(AtomicI64::new(micros)))
    }
}

impl Clock for Ticks {
    fn wall(&self) -> Micros {
        Micros(self.0.fetch_add(1000, Ordering::Relaxed))
    }

    fn monotonic(&self) -> Micros {
        Micros(self.0.load(Ordering::Relaxed))
    }
}

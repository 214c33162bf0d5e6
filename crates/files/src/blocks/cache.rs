//! What was read lately is kept in memory, and a run of reads that follow one another is read ahead.
//!
//! - Memory is bounded by the capacity given, whatever is read.
//! - What is returned is what a direct read would have returned: a read ahead that fails costs nothing but itself.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{Blocks, ReadError, check};

/// The unit of the cache.
const CHUNK: u64 = 16 << 10;
/// The most that one miss reads, in chunks.
const AHEAD_MAX: u64 = 16;

/// A [`Blocks`] that remembers what was read lately.
#[derive(Debug)]
pub struct Cached<B> {
    blocks: B,
    chunks_max: usize,
    state: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    /// By number: the bytes, and when they were used last.
    chunks: HashMap<u64, (Arc<[u8]>, u64)>,
    /// The least recently used ones first.
    order: BTreeMap<u64, u64>,
    uses: u64,
    /// The chunk at which the next miss is taken for the continuation of a run.
    next: u64,
    /// How many chunks the last miss read.
    ahead: u64,
}

impl Recent {
    fn get(&mut self, chunk: u64) -> Option<Arc<[u8]>> {
        let (bytes, used) = self.chunks.get_mut(&chunk)?;
        self.uses += 1;
        self.order.remove(used);
        self.order.insert(self.uses, chunk);
        *used = self.uses;
        Some(Arc::clone(bytes))
    }

    fn put(&mut self, chunk: u64, bytes: &[u8], chunks_max: usize) {
        self.uses += 1;
        if let Some((_, used)) = self.chunks.insert(chunk, (bytes.into(), self.uses)) {
            self.order.remove(&used);
        }
        self.order.insert(self.uses, chunk);
        while self.chunks.len() > chunks_max {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.chunks.remove(&oldest);
        }
    }

    /// How many chunks a miss at `chunk` should read.
    fn plan(&mut self, chunk: u64, chunks_max: usize) -> u64 {
        self.ahead = if chunk == self.next { (self.ahead * 2).clamp(1, AHEAD_MAX) } else { 1 };
        self.ahead = self.ahead.min(chunks_max as u64).max(1);
        self.next = chunk.saturating_add(self.ahead);
        self.ahead
    }
}

impl<B: Blocks> Cached<B> {
    /// Keeps up to `capacity_bytes`, but at least 64 KiB.
    pub fn new(blocks: B, capacity_bytes: usize) -> Cached<B> {
        let chunks_max = (capacity_bytes / CHUNK as usize).max(4);
        Cached { blocks, chunks_max, state: Mutex::default() }
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        // Whatever a panic left is still true: a chunk is put in whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn recent_bytes(&self) -> usize {
        self.recent().chunks.values().map(|(bytes, _)| bytes.len()).sum()
    }

    /// Reads `chunk` and, in a run, those after it.
    fn load(&self, chunk: u64) -> Result<Arc<[u8]>, ReadError> {
        let wanted = self.recent().plan(chunk, self.chunks_max);
        let start = chunk.saturating_mul(CHUNK);
        let len = self.blocks.size_bytes().saturating_sub(start).min(wanted * CHUNK) as usize;
        let mut bytes = vec![0; len];
        if let Err(error) = self.blocks.read_at(start, &mut bytes) {
            if wanted == 1 || error.is_final() {
                return Err(error);
            }
            bytes.truncate(CHUNK as usize);
            self.blocks.read_at(start, &mut bytes)?;
        }
        let mut recent = self.recent();
        for (i, part) in bytes.chunks(CHUNK as usize).enumerate().rev() {
            recent.put(chunk + i as u64, part, self.chunks_max);
        }
        bytes.truncate(CHUNK as usize);
        Ok(bytes.into())
    }
}

impl<B: Blocks> Blocks for Cached<B> {
    fn size_bytes(&self) -> u64 {
        self.blocks.size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        self.blocks.sector_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        check(self.size_bytes(), offset, buf.len())?;
        // A large read would only drive out what is wanted again.
        if buf.len() as u64 >= AHEAD_MAX * CHUNK {
            return self.blocks.read_at(offset, buf);
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let (chunk, within) = (at / CHUNK, (at % CHUNK) as usize);
            let part = (CHUNK as usize - within).min(buf.len() - done);
            let rest = &mut buf[done..done + part];
            let kept = self.recent().get(chunk);
            match kept.map_or_else(|| self.load(chunk), Ok) {
                Ok(bytes) => rest.copy_from_slice(&bytes[within..within + part]),
                Err(error) if error.is_final() => return Err(error),
                // A neighbour may be what cannot be read.
                Err(_) => self.blocks.read_at(at, rest)?,
            }
            done += part;
        }
        Ok(())
    }
}

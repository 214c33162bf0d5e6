//! The devices, and what is read of them by address. Where a copy is bad, the next one is tried.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    chunks::{Chunks, Copy},
    damaged,
    superblock::Superblock,
    tree::{Key, Node, Root},
};
use crate::{
    blocks::{Blocks, ReadError},
    tree::{Budget, TreeError},
};

const CHUNK_OBJECT: u64 = 256;
const CHUNK_ITEM: u8 = 228;
/// Nodes that are kept, in bytes.
const CACHE_BYTES: usize = 8 << 20;
const SUMS_OBJECT: u64 = -10_i64 as u64;
const SUMS_ITEM: u8 = 128;

pub(super) struct Volume<B> {
    devices: Vec<B>,
    chunks: Chunks,
    pub superblock: Superblock,
    nodes: Mutex<HashMap<u64, Arc<Node>>>,
    pub budget: Budget,
}

impl<B: Blocks> Volume<B> {
    /// Reads the chunks. `ids` are the numbers and identifiers of the devices.
    pub(super) fn new(
        devices: Vec<B>,
        ids: Vec<(u64, [u8; 16])>,
        superblock: Superblock,
    ) -> Result<Volume<B>, TreeError> {
        let sector_bytes = superblock.sector_bytes as u64;
        let mut chunks = Chunks::new(ids);
        superblock.each_system_chunk(|key, bytes| {
            if (key.object, key.kind) != (CHUNK_OBJECT, CHUNK_ITEM) {
                return Err(damaged(0, "a chunk in its superblock makes no sense"));
            }
            chunks.add(key.offset, bytes, sector_bytes)
        })?;
        let nodes = Mutex::default();
        let mut volume = Volume { devices, chunks, superblock, nodes, budget: Budget::default() };
        let mut all = volume.chunks.clone();
        let (from, to) =
            (Key::new(CHUNK_OBJECT, CHUNK_ITEM, 0), Key::new(CHUNK_OBJECT, CHUNK_ITEM, u64::MAX));
        volume.items(&volume.superblock.chunks, from, to, &mut |key, bytes| {
            all.add(key.offset, bytes, sector_bytes).map(|_| true)
        })?;
        volume.chunks = all;
        Ok(volume)
    }

    pub(super) fn chunks(&self) -> &Chunks {
        &self.chunks
    }

    /// Where a copy lies, as if the devices lay one behind the other, in the order in which they were given.
    pub(super) fn place(&self, copy: &Copy) -> u64 {
        let before = self.devices[..copy.device].iter().map(Blocks::size_bytes);
        before.fold(copy.place, u64::saturating_add)
    }

    /// Fills `buf` from one of the copies of what lies at an address; false if that copy is not here.
    fn read_copy(&self, mut address: u64, mut buf: &mut [u8], copy: usize) -> Result<bool, ReadError> {
        while !buf.is_empty() {
            let Some(found) = self.chunks.copy(address, copy).filter(|found| found.len_bytes > 0) else {
                return Ok(false);
            };
            let len = found.len_bytes.min(buf.len() as u64) as usize;
            let (part, rest) = buf.split_at_mut(len);
            self.devices[found.device].read_at(found.place, part)?;
            address = address.saturating_add(len as u64);
            buf = rest;
        }
        Ok(true)
    }

    /// A node that passes a check, from whichever copy.
    pub(super) fn node(
        &self,
        place: u64,
        check: &dyn Fn(&Node) -> Result<(), &'static str>,
    ) -> Result<Arc<Node>, TreeError> {
        let known = self.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(&place).cloned();
        if let Some(node) = known.filter(|node| check(node).is_ok()) {
            return Ok(node);
        }
        let mut error = damaged(0, "a tree leads to where there is nothing");
        for copy in 0..self.chunks.copies(place) {
            let len = self.superblock.node_bytes;
            self.budget.take(len as u64)?;
            let mut bytes = vec![0; len];
            match self.read_copy(place, &mut bytes, copy) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(failed) if failed.is_final() => return Err(failed.into()),
                Err(failed) => {
                    error = failed.into();
                    continue;
                }
            }
            match Node::parse(bytes, place, &self.superblock).and_then(|node| check(&node).map(|()| node)) {
                Ok(node) => {
                    let node = Arc::new(node);
                    let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
                    if nodes.len() >= CACHE_BYTES / len {
                        nodes.clear();
                    }
                    nodes.insert(place, Arc::clone(&node));
                    return Ok(node);
                }
                Err(what) => error = damaged(0, what),
            }
        }
        Err(error)
    }

    /// Whole sectors of content. With a tree of sums each sector is taken from a copy for which its sum holds; a sector
    /// without a sum is not believed, as Linux does not.
    pub(super) fn content(
        &self,
        address: u64,
        len: usize,
        inode: u64,
        sums: Option<&[Root]>,
    ) -> Result<Vec<u8>, TreeError> {
        let sector = self.superblock.sector_bytes;
        let sums = sums.map(|roots| self.sums(roots, address, len / sector)).transpose()?;
        let mut content = vec![0; len];
        let mut good = vec![false; len / sector];
        let mut error = damaged(inode, "its content lies where there is nothing");
        let mut copy_bytes = vec![0; len];
        for copy in 0..self.chunks.copies(address) {
            match self.read_copy(address, &mut copy_bytes, copy) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(failed) if failed.is_final() => return Err(failed.into()),
                Err(failed) => {
                    error = failed.into();
                    continue;
                }
            }
            let Some(sums) = &sums else { return Ok(copy_bytes) };
            let sectors = copy_bytes.chunks_exact(sector).zip(content.chunks_exact_mut(sector));
            for (((from, to), good), sum) in sectors.zip(&mut good).zip(sums) {
                if !*good && sum.as_ref().is_some_and(|sum| self.superblock.sums.holds(from, sum)) {
                    to.copy_from_slice(from);
                    *good = true;
                }
            }
            if good.iter().all(|good| *good) {
                return Ok(content);
            }
            error = damaged(inode, "the checksum of its content does not hold");
        }
        Err(error)
    }

    /// The sums of some sectors, of those that have one; the last of the trees that has one counts.
    fn sums(&self, roots: &[Root], address: u64, sectors: usize) -> Result<Vec<Option<Vec<u8>>>, TreeError> {
        let mut all = vec![None; sectors];
        let (sector, len) = (self.superblock.sector_bytes as u64, self.superblock.sums.len());
        let end = address.saturating_add(sectors as u64 * sector);
        let (from, to) = (
            Key::new(SUMS_OBJECT, SUMS_ITEM, address),
            Key::new(SUMS_OBJECT, SUMS_ITEM, end.saturating_sub(1)),
        );
        let mut each = |key: Key, bytes: &[u8]| {
            if (key.object, key.kind) != (SUMS_OBJECT, SUMS_ITEM) {
                return Ok(true);
            }
            // Those before the address are passed over.
            let skipped = address.saturating_sub(key.offset) / sector;
            let first = key.offset.saturating_sub(address) / sector;
            let known = bytes.chunks_exact(len).skip(usize::try_from(skipped).unwrap_or(usize::MAX));
            for (to, sum) in all.iter_mut().skip(usize::try_from(first).unwrap_or(usize::MAX)).zip(known) {
                *to = Some(sum.to_vec());
            }
            Ok(true)
        };
        for root in roots {
            self.items_from_before(root, from, to, &mut each)?;
        }
        Ok(all)
    }
}

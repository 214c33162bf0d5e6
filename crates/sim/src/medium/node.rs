//! One file: what readers see, what is on the medium, and the pending changes between the two.

use std::collections::BTreeMap;

use crate::rng::Rng;

/// The unit in which the medium writes.
pub(super) const SECTOR: usize = 512;

/// A change to a file that is not durable.
#[derive(Clone, Debug)]
enum Pending {
    /// Whole sectors from this one on, as they were in memory after a write.
    Sectors(usize, Vec<u8>),
    /// The length.
    Len(usize),
}

/// A file.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    /// What readers see.
    pub seen: Vec<u8>,
    /// Whole sectors on the medium; those behind `durable_len` cannot be seen.
    durable: Vec<u8>,
    durable_len: usize,
    pending: Vec<Pending>,
    /// Bits that are flipped for readers, by offset. All other fields hold the original, so that a world can tell what
    /// its damage may cost. A write clears the rot it covers, unless it writes back exactly what was read.
    rot: BTreeMap<usize, u8>,
    /// Bytes allocated to it.
    pub allocated: u64,
}

impl Node {
    pub(super) fn write(&mut self, offset: usize, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len();
        let known = self.seen.len().clamp(offset, end) - offset;
        let mut data = data.to_vec();
        let mut there = vec![0; data.len()];
        self.read(offset, &mut there[..known]);
        if there == data {
            // Written back as it was read, damage included.
            data[..known].copy_from_slice(self.seen.get(offset..offset + known).unwrap_or_default());
        } else {
            self.rot.retain(|at, _| !(offset..end).contains(at));
        }
        if end > self.seen.len() {
            self.seen.resize(end, 0);
            self.pending.push(Pending::Len(end));
        }
        self.seen[offset..end].copy_from_slice(&data);
        let first = offset / SECTOR;
        let mut image = self.seen[first * SECTOR..end.next_multiple_of(SECTOR).min(self.seen.len())].to_vec();
        image.resize(image.len().next_multiple_of(SECTOR), 0);
        self.pending.push(Pending::Sectors(first, image));
        self.allocated = self.allocated.max(end as u64);
    }

    pub(super) fn set_len(&mut self, len: usize) {
        if len < self.seen.len() {
            self.allocated = self.allocated.min(len as u64);
        }
        self.seen.resize(len, 0);
        self.rot.split_off(&len);
        self.pending.push(Pending::Len(len));
    }

    fn harden(&mut self, pending: &Pending, mut keep: impl FnMut(usize) -> bool) {
        match pending {
            Pending::Sectors(first, image) => {
                let end = first * SECTOR + image.len();
                if self.durable.len() < end {
                    self.durable.resize(end, 0);
                }
                for (i, sector) in image.chunks_exact(SECTOR).enumerate() {
                    let at = (first + i) * SECTOR;
                    if keep(i) {
                        self.durable[at..at + SECTOR].copy_from_slice(sector);
                    }
                }
            }
            Pending::Len(len) => {
                if *len < self.durable_len && self.durable.len() > *len {
                    self.durable[*len..].fill(0);
                }
                self.durable_len = *len;
            }
        }
    }

    /// Makes everything durable.
    pub(super) fn sync(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            self.harden(&pending, |_| true);
        }
    }

    /// Fails a sync: some of the pending changes are on the medium, and the kernel considers all of them done. With
    /// `show`, readers go on seeing the lost ones; otherwise they see what is on the medium.
    pub(super) fn lose(&mut self, rng: &mut Rng, show: bool) {
        let len = self.seen.len();
        self.settle(rng, 6);
        if !show {
            self.reread();
            self.seen.resize(len, 0);
        }
        // Lengths are metadata: the kernel still knows that they are not durable.
        self.pending.push(Pending::Len(len));
    }

    /// Decides which pending changes are on the medium.
    fn settle(&mut self, rng: &mut Rng, mode: u64) {
        let pending = std::mem::take(&mut self.pending);
        let middle = rng.below(pending.len() as u64 + 1) as usize;
        for (i, one) in pending.iter().enumerate() {
            match mode {
                0 => {}
                1 => self.harden(one, |_| true),
                // Whole writes, any subset.
                2 if rng.chance(500) => self.harden(one, |_| true),
                // A prefix of the writes, the last one torn.
                3 if i < middle => self.harden(one, |_| true),
                3 if i == middle => {
                    let sectors = if let Pending::Sectors(_, image) = one { image.len() / SECTOR } else { 1 };
                    let torn = rng.below(sectors as u64 + 1) as usize;
                    self.harden(one, |sector| sector < torn);
                }
                // The later writes without the earlier ones.
                4 if i >= middle => self.harden(one, |_| true),
                // Any sectors.
                5 | 6 => {
                    let kept = if rng.chance(300) { 950 } else { rng.pick(&[0, 100, 500, 900, 1000]) };
                    if let Pending::Len(_) = one
                        && !rng.chance(700)
                    {
                        continue;
                    }
                    self.harden(one, |_| rng.chance(kept));
                }
                _ => {}
            }
        }
    }

    fn reread(&mut self) {
        self.seen.clear();
        let len = self.durable_len.min(self.durable.len());
        self.seen.extend_from_slice(&self.durable[..len]);
        self.seen.resize(self.durable_len, 0);
        self.rot.split_off(&self.seen.len());
    }

    /// Cuts the power.
    pub(super) fn power_cut(&mut self, rng: &mut Rng, mode: Option<u64>) {
        let mode = mode.unwrap_or_else(|| rng.below(6));
        self.settle(rng, mode);
        self.reread();
        self.allocated = self.seen.len() as u64;
    }

    /// Flips a bit, on the medium and for readers.
    pub(super) fn flip(&mut self, offset: usize, bit: u32) {
        for bytes in [&mut self.seen, &mut self.durable] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= 1 << bit;
            }
        }
    }

    /// Flips a bit for readers and remembers the original.
    pub(super) fn rot(&mut self, offset: usize, bit: u32) {
        if offset < self.seen.len() {
            let mask = self.rot.entry(offset).or_insert(0);
            *mask ^= 1 << bit;
            if *mask == 0 {
                self.rot.remove(&offset);
            }
        }
    }

    /// Takes over the rot of a file of which this one was copied, where it has what that one showed to readers.
    pub(super) fn carry_rot(&mut self, from: &Node) {
        for (&at, mask) in &from.rot {
            let shown = from.seen.get(at).map(|byte| byte ^ mask);
            if shown.is_some() && self.seen.get(at).copied() == shown && !self.rot.contains_key(&at) {
                self.seen[at] ^= mask;
                if let Some(byte) = self.durable.get_mut(at) {
                    *byte ^= mask;
                }
                self.rot.insert(at, *mask);
            }
        }
    }

    /// The offsets at which readers see something other than what was written.
    pub(super) fn rotten(&self) -> Vec<usize> {
        self.rot.keys().copied().collect()
    }

    /// Fills `buf` with what readers see from `offset` on. All of it must exist.
    pub(super) fn read(&self, offset: usize, buf: &mut [u8]) {
        if buf.is_empty() {
            return;
        }
        buf.copy_from_slice(&self.seen[offset..offset + buf.len()]);
        for (at, mask) in self.rot.range(offset..offset + buf.len()) {
            buf[at - offset] ^= mask;
        }
    }

    /// Truncates the file, on the medium and for readers.
    pub(super) fn truncate(&mut self, len: usize) {
        self.seen.truncate(len);
        self.rot.split_off(&len);
        self.durable_len = self.durable_len.min(len);
        if self.durable.len() > len {
            self.durable[len..].fill(0);
        }
    }

    pub(super) fn is_durable(&self) -> bool {
        self.pending.is_empty()
    }
}

//! Chains of clusters, as the allocation table links them.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use super::{boot::Boot, damaged};
use crate::{
    blocks::Blocks,
    bytes::{le16, le32},
    tree::{Budget, TreeError},
};

/// The table is read in pieces of this length, which begin at sectors.
const PIECE_BYTES: u64 = 4096;
const SECTOR_BYTES: u64 = 512;
/// Steps that cost as much as a piece of the table.
const STEPS_PER_PIECE: u64 = 4096;

/// Where the content of a file is.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// Whose it is, for errors.
    pub inode: u64,
    /// Its first cluster.
    pub first: u32,
    /// Its length; if it is not known, it ends where its chain does.
    pub len_bytes: Option<u64>,
    /// Its clusters follow one another, and the table says nothing of them.
    pub is_contiguous: bool,
}

/// Clusters that lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The number of the first one in its file.
    pub first: u64,
    pub clusters: u64,
    /// Where it is, in bytes.
    pub place: u64,
}

/// How far a chain was followed last: its first cluster, and the number and the cluster that were reached.
type Reached = (u32, u64, u32);

/// A piece of the table.
#[derive(Default)]
struct Piece {
    at: u64,
    bytes: Vec<u8>,
}

pub(super) struct Chains<B> {
    pub blocks: B,
    pub budget: Budget,
    boot: Boot,
    /// Content is read from front to back as a rule.
    reached: Mutex<Option<Reached>>,
}

impl<B: Blocks> Chains<B> {
    pub(super) fn new(blocks: B, boot: &Boot) -> Chains<B> {
        Chains { blocks, budget: Budget::default(), boot: boot.clone(), reached: Mutex::default() }
    }

    /// The cluster after `cluster`; `None` at the end of a chain.
    fn next(&self, inode: u64, cluster: u32, piece: &mut Piece) -> Result<Option<u32>, TreeError> {
        let bits = u64::from(self.boot.bits);
        let at = u64::from(cluster) * bits / 8;
        let entry_bytes = bits.div_ceil(8);
        if at < piece.at || at + entry_bytes > piece.at + piece.bytes.len() as u64 {
            piece.at = at / SECTOR_BYTES * SECTOR_BYTES;
            let len = PIECE_BYTES.min(self.boot.table_bytes.saturating_sub(piece.at));
            piece.bytes.resize(len as usize, 0);
            self.budget.take(len)?;
            self.blocks.read_at(self.boot.table + piece.at, &mut piece.bytes)?;
        }
        let within = (at - piece.at) as usize;
        let (value, end) = match self.boot.bits {
            12 => {
                let pair = u32::from(le16(&piece.bytes, within));
                (if cluster % 2 == 1 { pair >> 4 } else { pair & 0xfff }, 0xff8)
            }
            16 => (u32::from(le16(&piece.bytes, within)), 0xfff8),
            _ if self.boot.is_exfat => (le32(&piece.bytes, within), 0xffff_fff8),
            _ => (le32(&piece.bytes, within) & 0x0fff_ffff, 0x0fff_fff8),
        };
        if value >= end {
            return Ok(None);
        }
        if self.boot.place(value).is_none() {
            return Err(damaged(inode, "its chain of clusters leads outside"));
        }
        Ok(Some(value))
    }

    /// The cluster after `cluster`, if the table links one.
    pub(super) fn linked(&self, inode: u64, cluster: u32) -> Option<u32> {
        self.next(inode, cluster, &mut Piece::default()).ok().flatten()
    }

    /// Calls `each` with the runs of a file from its cluster number `wanted.start` on, until it returns false. None is
    /// longer than what is wanted, which is all that is gathered for it.
    pub(super) fn runs(
        &self,
        stream: &Stream,
        wanted: Range<u64>,
        each: &mut dyn FnMut(Run) -> bool,
    ) -> Result<(), TreeError> {
        let &Stream { inode, first, len_bytes, is_contiguous } = stream;
        let clusters = len_bytes.map(|len| len.div_ceil(self.boot.cluster_bytes));
        if clusters.is_some_and(|clusters| wanted.start >= clusters) {
            return Ok(());
        }
        let Some(place) = self.boot.place(first) else {
            return Err(damaged(inode, "its first cluster lies outside"));
        };
        if clusters.is_some_and(|clusters| clusters > u64::from(self.boot.clusters)) {
            return Err(damaged(inode, "it is longer than the volume"));
        }
        if let Some(clusters) = clusters.filter(|_| is_contiguous) {
            if u64::from(first) - 2 + clusters > u64::from(self.boot.clusters) {
                return Err(damaged(inode, "its clusters reach beyond the end of the volume"));
            }
            let place = place + wanted.start * self.boot.cluster_bytes;
            each(Run { first: wanted.start, clusters: clusters - wanted.start, place });
            return Ok(());
        }
        self.follow(stream, clusters, wanted, each)
    }

    fn follow(
        &self,
        stream: &Stream,
        clusters: Option<u64>,
        wanted: Range<u64>,
        each: &mut dyn FnMut(Run) -> bool,
    ) -> Result<(), TreeError> {
        let Stream { inode, first, .. } = *stream;
        let lock = || self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let known = *lock();
        let (mut number, mut cluster) = known
            .filter(|(start, number, _)| *start == first && *number <= wanted.start)
            .map_or((0, first), |(_, number, cluster)| (number, cluster));
        let mut piece = Piece::default();
        let mut run = Run { first: number, clusters: 0, place: self.boot.place(cluster).unwrap_or_default() };
        loop {
            // A chain that returns to itself has more clusters than the volume.
            if number >= u64::from(self.boot.clusters) {
                return Err(damaged(inode, "its chain of clusters does not end"));
            }
            if number % STEPS_PER_PIECE == 0 {
                self.budget.take(PIECE_BYTES)?;
            }
            run.clusters += 1;
            number += 1;
            let next = if clusters == Some(number) { None } else { self.next(inode, cluster, &mut piece)? };
            let is_next_door = next.is_some_and(|next| next == cluster + 1);
            // The beginning of a run that is not wanted is left out, so that a reader comes back to its place.
            if is_next_door && number > wanted.start && number < wanted.end {
                cluster += 1;
                continue;
            }
            if number > wanted.start {
                *lock() = Some((first, run.first, cluster - (run.clusters - 1) as u32));
                if !each(run) {
                    return Ok(());
                }
            }
            match next {
                Some(next) => {
                    cluster = next;
                    let place = self.boot.place(cluster).unwrap_or_default();
                    run = Run { first: number, clusters: 0, place };
                }
                None if clusters.is_some_and(|clusters| number < clusters) => {
                    return Err(damaged(inode, "its chain of clusters ends too early"));
                }
                None => return Ok(()),
            }
        }
    }
}

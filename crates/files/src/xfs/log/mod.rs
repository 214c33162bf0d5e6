//! The log, replayed in memory. What it changes is laid over the volume; nothing is written.
//!
//! As for the kernel (`fs/xfs/xfs_log_recover.c`), a record that was written in part ends the log if it is one of the
//! last, and makes it damaged otherwise; buffers that were freed later are left alone; and what the volume already has in
//! a newer version stays. What the kernel would have to finish, and what changes more than blocks and inodes, is refused.

mod records;
mod replay;
mod transactions;

use std::{collections::BTreeMap, sync::Arc};

use super::{damaged, superblock::Superblock, unsupported};
use crate::{
    blocks::Blocks,
    tree::TreeError,
    volumes::{Probe, xfs::log_of},
};

pub(super) const SECTOR: u64 = 512;
/// Sectors that a replay changes: 512 MiB.
const PATCHES_MAX: usize = 1 << 20;

/// The volume, as it is once the log has been replayed.
pub(super) struct Volume<B> {
    blocks: Arc<B>,
    /// Sectors that are others than those on the volume, by number.
    patches: BTreeMap<u64, [u8; SECTOR as usize]>,
}

impl<B: Blocks> Volume<B> {
    pub(super) fn new(blocks: B) -> Volume<B> {
        Volume { blocks: Arc::new(blocks), patches: BTreeMap::new() }
    }

    pub(super) fn read(&self, place: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        self.blocks.read_at(place, buf)?;
        let end = place + buf.len() as u64;
        for (number, sector) in self.patches.range(place / SECTOR..end.div_ceil(SECTOR)) {
            let start = number * SECTOR;
            let (from, to) = (start.max(place), (start + SECTOR).min(end));
            if from < to {
                let part = &sector[(from - start) as usize..(to - start) as usize];
                buf[(from - place) as usize..(to - place) as usize].copy_from_slice(part);
            }
        }
        Ok(())
    }

    /// Lays some bytes over the volume.
    fn patch(&mut self, place: u64, bytes: &[u8]) -> Result<(), TreeError> {
        let (first, end) = (place / SECTOR, (place + bytes.len() as u64).div_ceil(SECTOR));
        let mut whole = vec![0; ((end - first) * SECTOR) as usize];
        self.read(first * SECTOR, &mut whole)?;
        whole[(place - first * SECTOR) as usize..][..bytes.len()].copy_from_slice(bytes);
        for (number, sector) in (first..end).zip(whole.chunks_exact(SECTOR as usize)) {
            let mut copy = [0; SECTOR as usize];
            copy.copy_from_slice(sector);
            self.patches.insert(number, copy);
        }
        if self.patches.len() > PATCHES_MAX {
            return Err(unsupported("an XFS whose log changes so much"));
        }
        Ok(())
    }
}

/// What a replay of the log changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogReplay {
    /// Complete transactions.
    pub transactions: u64,
    /// Buffers of metadata that are changed.
    pub buffers: u64,
    /// Inodes that are changed.
    pub inodes: u64,
    /// Changes to buffers that were freed later, which are not made.
    pub cancelled: u64,
    /// Changes that the volume already has.
    pub older: u64,
    /// The records reach beyond the end of the log, and go on at its beginning.
    pub went_round: bool,
}

/// Replays the log of a volume with this superblock.
pub(super) fn replay<B: Blocks>(
    volume: &mut Volume<B>,
    superblock: &Superblock,
    bytes: &[u8],
) -> Result<LogReplay, TreeError> {
    let mut replay = replay::Replay::new(superblock);
    let blocks = Arc::clone(&volume.blocks);
    let log = log_of(Probe { volume: &*blocks }, bytes).map_err(unsupported)?;
    let records = records::Records::of(&log, superblock.is_v5)?;
    replay.done.went_round = records.go_round();
    // Which buffers are freed is known only at the end.
    transactions::each(&records, &mut |_, items| replay.note_cancelled(items))?;
    transactions::each(&records, &mut |lsn, items| replay.apply(volume, lsn, items))?;
    replay.finish(volume)
}

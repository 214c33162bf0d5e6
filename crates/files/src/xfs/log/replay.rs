//! What items change: buffers of metadata, inodes, and new chunks of inodes.

use std::collections::{HashMap, HashSet};

use super::{
    super::{damaged, superblock::Superblock, unsupported},
    LogReplay, SECTOR, Volume,
    transactions::Item,
};
use crate::{
    blocks::Blocks,
    bytes::{be16, be32, be64, byte, has, id, le16, le32, le64},
    crc::crc32c_without,
    tree::TreeError,
};

const INODE: u16 = 0x123b;
const BUFFER: u16 = 0x123c;
const NEW_INODES: u16 = 0x123f;
/// Quotas, and what concerns only free space, the owners of blocks and the numbers of their references: no file is
/// another one because of it, whether it is finished or not.
const WITHOUT_FILES: [u16; 9] = [0x1236, 0x1237, 0x123d, 0x123e, 0x1240, 0x1241, 0x1242, 0x1243, 0x124a];
/// What is to be done to maps, attributes and by exchanging ranges, each with what says that it is done.
const INTENTS: [(u16, u16); 3] = [(0x1244, 0x1245), (0x1246, 0x1247), (0x1248, 0x1249)];

const OF_INODES: u16 = 1;
const CANCEL: u16 = 2;
const OF_QUOTAS: u16 = 4 | 8 | 16;
/// What is logged of a buffer comes in pieces of this length.
const PIECE: usize = 128;
const BUFFER_SECTORS_MAX: u64 = 256;

const INODE_FORMAT_BYTES: usize = 56;
const DATA: u32 = 2 | 4;
const DATA_ROOT: u32 = 8;
const DEVICE: u32 = 0x10;
const ATTRIBUTES: u32 = 0x40 | 0x80;
const ATTRIBUTES_ROOT: u32 = 0x100;
const OWNERS: u32 = 0x200 | 0x400;
const LARGE_TIMES: u64 = 8;
const LARGE_COUNTS: u64 = 0x10;

/// A buffer: its first sector, and how many there are.
type Buffer = (u64, u32);

pub(super) struct Replay<'a> {
    superblock: &'a Superblock,
    /// Buffers that are freed, and how often that is still to come.
    cancelled: HashMap<Buffer, u32>,
    /// Whose checksums have to be put right.
    changed: HashSet<Buffer>,
    /// What was to be done and is not known to be done.
    intents: HashSet<(u16, u64)>,
    pub done: LogReplay,
}

fn buffer_of(item: &Item) -> (Buffer, u16) {
    let format = item.region(0);
    ((le64(format, 8), u32::from(le16(format, 6))), le16(format, 4))
}

/// Where a buffer, or the block at its beginning, says in which record it was changed last; `None` if it does not.
fn lsn_of(bytes: &[u8], id_wanted: &[u8; 16]) -> Option<u64> {
    let short = [b"AB3B", b"AB3C", b"RMB3", b"R3FC", b"IAB3", b"FIB3"];
    let (lsn, id_at) = match bytes.get(..4)? {
        magic if short.iter().any(|short| magic == *short) => (24, 32),
        b"BMA3" => (32, 40),
        b"XDD3" | b"XDB3" | b"XDF3" => (16, 24),
        b"XSLM" => (48, 16),
        b"XFSB" => return Some(be64(bytes, 240)),
        _ if matches!(be16(bytes, 8), 0x3df1 | 0x3dff | 0x3bee | 0x3ebe) => (24, 32),
        _ => return None,
    };
    (id(bytes, id_at) == *id_wanted).then(|| be64(bytes, lsn))
}

/// Where the checksum of such a buffer is.
fn sum_at(bytes: &[u8]) -> Option<usize> {
    Some(match bytes.get(..4)? {
        b"BMA3" => 64,
        b"XDD3" | b"XDB3" | b"XDF3" => 4,
        b"XSLM" => 12,
        b"XFSB" => 224,
        _ if matches!(be16(bytes, 8), 0x3df1 | 0x3dff | 0x3bee | 0x3ebe) => 12,
        _ => return None,
    })
}

fn put_sum(bytes: &mut [u8], at: usize) {
    let sum = !crc32c_without(!0, bytes, at..at + 4);
    bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
}

impl<'a> Replay<'a> {
    pub(super) fn new(superblock: &'a Superblock) -> Replay<'a> {
        Replay {
            superblock,
            cancelled: HashMap::new(),
            changed: HashSet::new(),
            intents: HashSet::new(),
            done: LogReplay::default(),
        }
    }

    /// The first time: which buffers are freed.
    pub(super) fn note_cancelled(&mut self, items: &[Item]) -> Result<(), TreeError> {
        for item in items.iter().filter(|item| item.kind() == BUFFER) {
            let (buffer, flags) = buffer_of(item);
            if flags & CANCEL != 0 {
                *self.cancelled.entry(buffer).or_default() += 1;
            }
        }
        Ok(())
    }

    /// The second time: a transaction. Buffers come before what lies in them, and those that are freed last.
    pub(super) fn apply<B: Blocks>(
        &mut self,
        volume: &mut Volume<B>,
        lsn: u64,
        items: &[Item],
    ) -> Result<(), TreeError> {
        self.done.transactions += 1;
        let is_freed = |item: &&Item| item.kind() == BUFFER && buffer_of(item).1 & CANCEL != 0;
        for item in items.iter().filter(|item| !is_freed(item)) {
            match item.kind() {
                BUFFER => self.buffer(volume, lsn, item)?,
                NEW_INODES => self.new_inodes(volume, item)?,
                _ => {}
            }
        }
        for item in items.iter().filter(|item| !matches!(item.kind(), BUFFER | NEW_INODES)) {
            match item.kind() {
                INODE => self.inode(volume, lsn, item)?,
                kind if WITHOUT_FILES.contains(&kind) => {}
                kind => self.intent(kind, le64(item.region(0), 8))?,
            }
        }
        for item in items.iter().filter(is_freed) {
            let (buffer, _) = buffer_of(item);
            if let Some(left) = self.cancelled.get_mut(&buffer) {
                *left -= 1;
                if *left == 0 {
                    self.cancelled.remove(&buffer);
                }
            }
        }
        Ok(())
    }

    fn intent(&mut self, kind: u16, number: u64) -> Result<(), TreeError> {
        if INTENTS.iter().any(|(intent, _)| *intent == kind) {
            self.intents.insert((kind, number));
            return Ok(());
        }
        match INTENTS.iter().find(|(_, done)| *done == kind) {
            Some((intent, _)) => self.intents.remove(&(*intent, number)),
            None => return Err(unsupported(format!("an XFS whose log has items of the kind {kind:#x}"))),
        };
        Ok(())
    }

    fn is_cancelled(&mut self, buffer: Buffer) -> bool {
        let is_cancelled = self.cancelled.contains_key(&buffer);
        self.done.cancelled += u64::from(is_cancelled);
        is_cancelled
    }

    /// Reads a buffer.
    fn read<B: Blocks>(&self, volume: &Volume<B>, buffer: Buffer) -> Result<Vec<u8>, TreeError> {
        let (first, sectors) = (buffer.0, u64::from(buffer.1));
        let end = first.checked_add(sectors).and_then(|end| end.checked_mul(SECTOR));
        let on_volume = self.superblock.blocks * self.superblock.block_bytes;
        if !(1..=BUFFER_SECTORS_MAX).contains(&sectors) || end.is_none_or(|end| end > on_volume) {
            return Err(damaged(0, "its log changes what lies outside"));
        }
        let mut bytes = vec![0; (sectors * SECTOR) as usize];
        volume.read(first * SECTOR, &mut bytes)?;
        Ok(bytes)
    }

    fn buffer<B: Blocks>(&mut self, volume: &mut Volume<B>, lsn: u64, item: &Item) -> Result<(), TreeError> {
        let (buffer, flags) = buffer_of(item);
        // Of these, only the list of inodes that have no name any more is logged.
        if flags & (OF_INODES | OF_QUOTAS) != 0 || self.is_cancelled(buffer) {
            return Ok(());
        }
        let mut bytes = self.read(volume, buffer)?;
        let is_newer = |found: u64| found != 0 && found != u64::MAX && found >= lsn;
        if self.superblock.is_v5 && lsn_of(&bytes, &self.superblock.id).is_some_and(is_newer) {
            self.done.older += 1;
            return Ok(());
        }
        let wrong = || damaged(0, "a buffer in its log makes no sense");
        let format = item.region(0);
        let words = le32(format, 16) as usize;
        let is_logged = |bit: usize| le32(format, 20 + bit / 32 * 4) >> (bit % 32) & 1 == 1;
        let bits = (bytes.len() / PIECE).min(words.saturating_mul(32));
        let (mut bit, mut region) = (0, 1);
        while bit < bits {
            if !is_logged(bit) {
                bit += 1;
                continue;
            }
            let run = (bit..bits).take_while(|bit| is_logged(*bit)).count();
            let logged = item.region(region);
            let pieces = run.min(logged.len() / PIECE);
            if pieces == 0 {
                return Err(wrong());
            }
            bytes[bit * PIECE..(bit + pieces) * PIECE].copy_from_slice(&logged[..pieces * PIECE]);
            (bit, region) = (bit + pieces, region + 1);
        }
        self.changed.insert(buffer);
        self.done.buffers += 1;
        volume.patch(buffer.0 * SECTOR, &bytes)
    }

    /// A new chunk of inodes, none of which is in use yet.
    fn new_inodes<B: Blocks>(&mut self, volume: &mut Volume<B>, item: &Item) -> Result<(), TreeError> {
        let format = item.region(0);
        let (group, first, inodes) = (be32(format, 4), be32(format, 8), be32(format, 12));
        let (inode_bytes, blocks, generation) = (be32(format, 16), be32(format, 20), be32(format, 24));
        let unit = self.superblock.block_bytes;
        let len_bytes = u64::from(inodes) * u64::from(inode_bytes);
        let is_sound = inode_bytes as usize == self.superblock.inode_bytes
            && (1..=64).contains(&inodes)
            && len_bytes == u64::from(blocks) * unit;
        let block = self.superblock.block_in(u64::from(group), u64::from(first));
        let place = self.superblock.place(block, u64::from(blocks)).filter(|_| is_sound);
        let place = place.ok_or(damaged(0, "new inodes in its log make no sense"))?;
        let in_cluster = self.superblock.cluster_blocks;
        for start in (0..u64::from(blocks)).step_by(in_cluster as usize) {
            let sectors = (in_cluster * unit / SECTOR) as u32;
            if self.is_cancelled(((place + start * unit) / SECTOR, sectors)) {
                return Ok(());
            }
        }
        let mut bytes = vec![0; len_bytes as usize];
        let number = self.superblock.first_inode(block);
        for (inode, i) in bytes.chunks_exact_mut(inode_bytes as usize).zip(0..) {
            inode[..2].copy_from_slice(b"IN");
            inode[92..96].copy_from_slice(&generation.to_be_bytes());
            inode[96..100].copy_from_slice(&u32::MAX.to_be_bytes());
            if self.superblock.is_v5 {
                inode[4] = 3;
                inode[152..160].copy_from_slice(&(number + i).to_be_bytes());
                inode[160..176].copy_from_slice(&self.superblock.id);
                put_sum(inode, 100);
            } else {
                inode[4] = 2;
            }
        }
        self.done.buffers += 1;
        volume.patch(place, &bytes)
    }

    fn inode<B: Blocks>(&mut self, volume: &mut Volume<B>, lsn: u64, item: &Item) -> Result<(), TreeError> {
        let format = item.region(0);
        if format.len() != INODE_FORMAT_BYTES {
            return Err(unsupported("an XFS whose log was written by a machine of 32 bits"));
        }
        let (fields, number) = (le32(format, 4), le64(format, 16));
        let buffer = (le64(format, 40), le32(format, 48));
        if fields & OWNERS != 0 {
            return Err(unsupported("an XFS whose log exchanges the owners of blocks"));
        }
        if self.is_cancelled(buffer) {
            return Ok(());
        }
        let wrong = || damaged(number, "an inode in its log makes no sense");
        let is_v5 = self.superblock.is_v5;
        let bytes = self.read(volume, buffer)?;
        let at = le32(format, 52) as usize;
        let inode = bytes.get(at..at + self.superblock.inode_bytes).ok_or(wrong())?;
        let place = buffer.0 * SECTOR + at as u64;
        if !has(inode, 0, b"IN") || self.superblock.inode_place(number) != Some(place) {
            return Err(wrong());
        }
        let core = item.region(1);
        let core_bytes = if is_v5 { 176 } else { 96 };
        if core.len() < core_bytes || le16(core, 0) != u16::from_be_bytes(*b"IN") {
            return Err(wrong());
        }
        let found = be64(inode, 112);
        let is_newer = if is_v5 {
            // Several transactions may have been completed in one record.
            byte(inode, 4) >= 3 && found != u64::MAX && found > lsn
        } else {
            // A counter of 16 bits, which goes round.
            let (logged, found) = (le16(core, 30), be16(inode, 30));
            logged < found && !(found == u16::MAX && logged < u16::MAX >> 1)
        };
        if is_newer {
            self.done.older += 1;
            return Ok(());
        }
        let mut inode = inode.to_vec();
        put_core(&mut inode, core, is_v5);
        if is_v5 {
            inode[112..120].copy_from_slice(&lsn.to_be_bytes());
        } else {
            inode[30..32].fill(0);
        }
        self.forks(&mut inode, item, fields).ok_or(wrong())?;
        if is_v5 {
            put_sum(&mut inode, 100);
        }
        self.done.inodes += 1;
        volume.patch(place, &inode)
    }

    /// Puts the logged forks into an inode; `None` if they do not fit.
    fn forks(&self, inode: &mut [u8], item: &Item, fields: u32) -> Option<()> {
        let core_bytes = if self.superblock.is_v5 { 176 } else { 100 };
        let forks = inode.get_mut(core_bytes..)?;
        if fields & DEVICE != 0 {
            // The number is one of the machine in the log.
            forks.get_mut(..4)?.copy_from_slice(&le32(item.region(0), 24).to_be_bytes());
        }
        let split = usize::from(byte(inode, 82)) * 8;
        let forks = inode.get_mut(core_bytes..)?;
        let split = if split == 0 { forks.len() } else { split };
        let (data, attributes) = forks.split_at_mut_checked(split)?;
        let mut region = 2;
        for (fork, whole, root) in [(data, DATA, DATA_ROOT), (attributes, ATTRIBUTES, ATTRIBUTES_ROOT)] {
            if fields & (whole | root) == 0 {
                continue;
            }
            let logged = item.regions.get(region)?;
            region += 1;
            if fields & whole != 0 {
                fork.get_mut(..logged.len())?.copy_from_slice(logged);
            } else {
                self.root_of_map(fork, logged)?;
            }
        }
        Some(())
    }

    /// The root of a map is logged as a block, and kept in the inode without the block's header.
    fn root_of_map(&self, fork: &mut [u8], logged: &[u8]) -> Option<()> {
        let header = if self.superblock.is_v5 { 72 } else { 24 };
        let count = usize::from(be16(logged, 6));
        let (room, logged_room) = (fork.len().checked_sub(4)? / 16, logged.len().checked_sub(header)? / 16);
        if count > room || count > logged_room {
            return None;
        }
        fork[..4].copy_from_slice(&logged[4..8]);
        let (keys, places) = (4, 4 + room * 8);
        let (logged_keys, logged_places) = (header, header + logged_room * 8);
        fork[keys..keys + count * 8].copy_from_slice(&logged[logged_keys..logged_keys + count * 8]);
        fork[places..places + count * 8].copy_from_slice(&logged[logged_places..logged_places + count * 8]);
        Some(())
    }

    /// Puts checksums right, which are computed only when something is written to its place.
    pub(super) fn finish<B: Blocks>(self, volume: &mut Volume<B>) -> Result<LogReplay, TreeError> {
        if !self.intents.is_empty() {
            return Err(unsupported("an XFS whose log has changes to files that have to be finished"));
        }
        for buffer in self.changed.iter().filter(|_| self.superblock.is_v5) {
            let mut bytes = self.read(volume, *buffer)?;
            if let Some(at) = sum_at(&bytes) {
                put_sum(&mut bytes, at);
                volume.patch(buffer.0 * SECTOR, &bytes)?;
            }
        }
        Ok(self.done)
    }
}

/// Puts the core of an inode, logged in the byte order of the machine, into one.
fn put_core(inode: &mut [u8], core: &[u8], is_v3: bool) {
    fn swap(inode: &mut [u8], core: &[u8], at: usize, len: usize) {
        let part = &mut inode[at..at + len];
        part.copy_from_slice(&core[at..at + len]);
        part.reverse();
    }
    let flags = if is_v3 { le64(core, 120) } else { 0 };
    inode[4..6].copy_from_slice(&core[4..6]);
    inode[82..84].copy_from_slice(&core[82..84]);
    for at in [2, 6, 20, 22, 88, 90] {
        swap(inode, core, at, 2);
    }
    for at in [8, 12, 16, 72, 84, 92] {
        swap(inode, core, at, 4);
    }
    for at in [56, 64] {
        swap(inode, core, at, 8);
    }
    if flags & LARGE_COUNTS != 0 {
        swap(inode, core, 24, 8);
        swap(inode, core, 76, 4);
        inode[80..82].fill(0);
    } else {
        inode[24..30].copy_from_slice(&core[24..30]);
        swap(inode, core, 30, 2);
        swap(inode, core, 76, 4);
        swap(inode, core, 80, 2);
    }
    let times: &[usize] = if is_v3 { &[32, 40, 48, 144] } else { &[32, 40, 48] };
    for at in times.iter().copied() {
        if flags & LARGE_TIMES != 0 {
            swap(inode, core, at, 8);
        } else {
            swap(inode, core, at, 4);
            swap(inode, core, at + 4, 4);
        }
    }
    if is_v3 {
        swap(inode, core, 104, 8);
        swap(inode, core, 120, 8);
        swap(inode, core, 128, 4);
        inode[132..144].copy_from_slice(&core[132..144]);
        swap(inode, core, 152, 8);
        inode[160..176].copy_from_slice(&core[160..176]);
    }
}

//! The superblock. Of its copies only the first one counts, at 64 KiB, as for Linux: what the others say may be older.

use super::{
    damaged,
    sums::{FIELD_BYTES, Sums},
    tree::{Key, Root},
    unsupported,
};
use crate::{
    bytes::{byte, has, id, le16, le32, le64},
    tree::TreeError,
};

pub(super) const PLACE: u64 = 64 << 10;
pub(super) const BYTES: usize = 4096;
const SYSTEM_CHUNKS: usize = 0x32b;
const SYSTEM_CHUNKS_BYTES_MAX: usize = 2048;
const LEVELS: u8 = 8;

/// Incompatible features by their bits; `true` for those that are read.
const FEATURES: [(&str, bool); 18] = [
    ("mixed-backref", true),
    ("default-subvol", true),
    ("mixed-bg", true),
    ("compress-lzo", true),
    ("compress-zstd", true),
    ("big-metadata", true),
    ("extref", true),
    ("raid56", true),
    ("skinny-metadata", true),
    ("no-holes", true),
    ("metadata-uuid", true),
    ("raid1c34", true),
    ("zoned", false),
    ("extent-tree-v2", false),
    ("raid-stripe-tree", false),
    ("bit 15", false),
    ("simple-quota", true),
    ("remap-tree", false),
];
const OTHER_ID: u64 = 1 << 10;
/// A tool is in the middle of changing identifiers, the tree of block groups, or checksums.
const CHANGING: u64 = 0b1_1111 << 35 | 1 << 40;

pub(super) const CHUNK_TREE: u64 = 3;
pub(super) const ROOT_TREE: u64 = 1;
pub(super) const LOG_TREE: u64 = -6_i64 as u64;

#[derive(Clone, Debug)]
pub(super) struct Superblock {
    pub sums: Sums,
    pub fs_id: [u8; 16],
    /// The identifier in the headers of blocks.
    pub metadata_id: [u8; 16],
    pub generation: u64,
    pub roots: Root,
    pub chunks: Root,
    /// What was synced after the commit, if anything was.
    pub log: Option<Root>,
    /// The directory of the root tree that names the default subvolume.
    pub directory: u64,
    pub devices: u64,
    pub sector_bytes: usize,
    pub node_bytes: usize,
    /// The device on which this copy lies.
    pub device: u64,
    pub device_id: [u8; 16],
    /// Keys and chunks, one behind the other.
    pub system_chunks: Vec<u8>,
}

impl Superblock {
    pub(super) fn parse(bytes: &[u8]) -> Result<Superblock, TreeError> {
        let wrong = |what| Err(damaged(0, what));
        if !has(bytes, 0x40, b"_BHRfS_M") || le64(bytes, 0x30) != PLACE {
            return wrong("there is no superblock");
        }
        let Some(sums) = Sums::of_number(le16(bytes, 0xc4)) else {
            return Err(unsupported(format!("a btrfs with checksums of the kind {}", le16(bytes, 0xc4))));
        };
        if !sums.holds(&bytes[FIELD_BYTES..], &bytes[..FIELD_BYTES]) {
            return wrong("the checksum of the superblock does not hold");
        }
        let features = le64(bytes, 0xbc);
        let mut refused = Vec::new();
        for bit in (0..64).filter(|bit| features >> bit & 1 == 1) {
            match FEATURES.get(bit) {
                Some((_, true)) => {}
                Some((name, false)) => refused.push((*name).to_owned()),
                None => refused.push(format!("bit {bit}")),
            }
        }
        if !refused.is_empty() {
            return Err(unsupported(format!("a btrfs with the features {}", refused.join(", "))));
        }
        if le64(bytes, 0x38) & CHANGING != 0 {
            return Err(unsupported("a btrfs of which the format is being changed"));
        }
        let (sector_bytes, node_bytes) = (le32(bytes, 0x90) as usize, le32(bytes, 0x94) as usize);
        if !sector_bytes.is_power_of_two() || !(512..=65536).contains(&sector_bytes) {
            return wrong("its sectors have a senseless length");
        }
        if !node_bytes.is_power_of_two() || !(sector_bytes.max(4096)..=65536).contains(&node_bytes) {
            return wrong("its nodes have a senseless length");
        }
        let root = |tree, place, level, generation| {
            let root = Root { tree, place: le64(bytes, place), level, generation };
            if level >= LEVELS { Err(damaged(0, "a tree is too high")) } else { Ok(root) }
        };
        let generation = le64(bytes, 0x48);
        let roots = root(ROOT_TREE, 0x50, byte(bytes, 0xc6), generation)?;
        let chunks = root(CHUNK_TREE, 0x58, byte(bytes, 0xc7), le64(bytes, 0xa4))?;
        // It belongs to the transaction after the one that was committed.
        let log = (le64(bytes, 0x60) != 0)
            .then(|| root(LOG_TREE, 0x60, byte(bytes, 0xc8), generation.wrapping_add(1)))
            .transpose()?;
        let len = le32(bytes, 0xa0) as usize;
        let system_chunks = bytes
            .get(SYSTEM_CHUNKS..)
            .and_then(|rest| rest.get(..len))
            .filter(|_| len <= SYSTEM_CHUNKS_BYTES_MAX);
        let Some(system_chunks) = system_chunks else {
            return wrong("it has too many chunks in its superblock");
        };
        let fs_id = id(bytes, 0x20);
        Ok(Superblock {
            sums,
            fs_id,
            metadata_id: if features & OTHER_ID == 0 { fs_id } else { id(bytes, 0x23b) },
            generation,
            roots,
            chunks,
            log,
            directory: le64(bytes, 0x80),
            devices: le64(bytes, 0x88),
            sector_bytes,
            node_bytes,
            device: le64(bytes, 0xc9),
            device_id: id(bytes, 0x10b),
            system_chunks: system_chunks.to_vec(),
        })
    }

    /// The chunks of the superblock, each with its key.
    pub(super) fn each_system_chunk(
        &self,
        mut each: impl FnMut(Key, &[u8]) -> Result<usize, TreeError>,
    ) -> Result<(), TreeError> {
        let mut rest = &self.system_chunks[..];
        while !rest.is_empty() {
            let used = Key::BYTES + each(Key::parse(rest, 0), rest.get(Key::BYTES..).unwrap_or_default())?;
            rest = rest.get(used..).ok_or(damaged(0, "a chunk in its superblock makes no sense"))?;
        }
        Ok(())
    }
}

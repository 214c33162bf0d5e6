//! Boot sectors: where the allocation table and the clusters are.

use super::damaged;
use crate::{
    blocks::Blocks,
    bytes::{byte, has, le16, le32, le64},
    tree::TreeError,
};

/// Directories of a FAT have no more entries than can be counted in 16 bits.
const FAT_DIRECTORY_BYTES_MAX: u64 = 65536 * 32;
/// The limit of exFAT.
const EXFAT_DIRECTORY_BYTES_MAX: u64 = 256 << 20;
/// Sectors of the boot region of an exFAT; the last one has the checksum of those before it.
const BOOT_SECTORS: usize = 12;

/// The shape of a volume, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Boot {
    pub is_exfat: bool,
    /// Bits of an entry of the allocation table: 12, 16 or 32.
    pub bits: u32,
    pub table: u64,
    pub table_bytes: u64,
    /// Where cluster 2, the first one, is.
    pub heap: u64,
    pub cluster_bytes: u64,
    /// The number of clusters.
    pub clusters: u32,
    /// The first cluster of the root, if it is a chain.
    pub root: u32,
    /// Place and length of the root, if it is not.
    pub fixed_root: Option<(u64, u64)>,
    pub directory_bytes_max: u64,
}

impl Boot {
    pub(super) fn read(blocks: &dyn Blocks) -> Result<Boot, TreeError> {
        let mut sector = vec![0; 512];
        blocks.read_at(0, &mut sector)?;
        let mut boot = if has(&sector, 3, b"EXFAT   ") { exfat(blocks, &sector)? } else { fat(&sector)? };
        // No cluster is used that has no entry, or lies behind the end of the volume.
        let entries = boot.table_bytes * 8 / u64::from(boot.bits);
        let on_volume = blocks.size_bytes().saturating_sub(boot.heap) / boot.cluster_bytes;
        let clusters = u64::from(boot.clusters).min(entries.saturating_sub(2)).min(on_volume);
        boot.clusters = clusters as u32;
        Ok(boot)
    }

    /// Where a cluster is.
    pub(super) fn place(&self, cluster: u32) -> Option<u64> {
        let index = cluster.checked_sub(2).filter(|index| *index < self.clusters)?;
        Some(self.heap + u64::from(index) * self.cluster_bytes)
    }

    /// The cluster that a place lies in.
    pub(super) fn cluster_at(&self, place: u64) -> Option<u32> {
        let index = place.checked_sub(self.heap)? / self.cluster_bytes;
        u32::try_from(index).ok().filter(|index| *index < self.clusters).map(|index| index + 2)
    }

    /// Whether there may be directory entries at a place.
    pub(super) fn may_hold_entries(&self, place: u64) -> bool {
        let in_root = self.fixed_root.is_some_and(|(start, len)| (start..start + len).contains(&place));
        in_root || self.cluster_at(place).is_some()
    }
}

fn fat(sector: &[u8]) -> Result<Boot, TreeError> {
    let wrong = |what| Err(damaged(0, what));
    let unit = u64::from(le16(sector, 11));
    let in_cluster = u64::from(byte(sector, 13));
    let (reserved, tables) = (u64::from(le16(sector, 14)), u64::from(byte(sector, 16)));
    if !(512..=4096).contains(&unit) || !unit.is_power_of_two() || !in_cluster.is_power_of_two() {
        return wrong("its sectors or clusters have a senseless length");
    }
    if reserved == 0 || tables == 0 {
        return wrong("it has no allocation table");
    }
    let or = |small: u16, large: u32| if small != 0 { u64::from(small) } else { u64::from(large) };
    let sectors = or(le16(sector, 19), le32(sector, 32));
    let table_sectors = or(le16(sector, 22), le32(sector, 36));
    let root_bytes = u64::from(le16(sector, 17)) * 32;
    let root_sectors = root_bytes.div_ceil(unit);
    let before = reserved + tables * table_sectors + root_sectors;
    if table_sectors == 0 || sectors <= before {
        return wrong("it has no room for files");
    }
    let clusters = (sectors - before) / in_cluster;
    let bits = match (le16(sector, 22), clusters) {
        (0, _) => 32,
        (_, ..4085) => 12,
        _ => 16,
    };
    // Of several tables one may be the only one that is kept.
    let flags = le16(sector, 40);
    let active = if bits == 32 && flags & 0x80 != 0 { u64::from(flags & 15) % tables } else { 0 };
    let root_at = (reserved + tables * table_sectors) * unit;
    Ok(Boot {
        is_exfat: false,
        bits,
        table: (reserved + active * table_sectors) * unit,
        table_bytes: table_sectors * unit,
        heap: before * unit,
        cluster_bytes: in_cluster * unit,
        clusters: clusters.min(0x0fff_fff5) as u32,
        root: le32(sector, 44),
        fixed_root: (bits != 32).then_some((root_at, root_bytes)),
        directory_bytes_max: FAT_DIRECTORY_BYTES_MAX,
    })
}

fn exfat(blocks: &dyn Blocks, sector: &[u8]) -> Result<Boot, TreeError> {
    let wrong = |what| Err(damaged(0, what));
    let (unit_shift, cluster_shift) = (byte(sector, 108), byte(sector, 109));
    if !(9..=12).contains(&unit_shift) || u32::from(unit_shift) + u32::from(cluster_shift) > 25 {
        return wrong("its sectors or clusters have a senseless length");
    }
    let unit = 1_u64 << unit_shift;
    let mut region = vec![0; BOOT_SECTORS * unit as usize];
    blocks.read_at(0, &mut region)?;
    let (summed, sums) = region.split_at((BOOT_SECTORS - 1) * unit as usize);
    // The flags and the percentage in use change without it.
    let sum = summed.iter().enumerate().filter(|(i, _)| !matches!(i, 106 | 107 | 112));
    let sum = sum.fold(0_u32, |sum, (_, byte)| sum.rotate_right(1).wrapping_add(u32::from(*byte)));
    if sums.chunks_exact(4).any(|found| le32(found, 0) != sum) {
        return wrong("the checksum of its boot region does not hold");
    }
    let (table, table_sectors) = (u64::from(le32(sector, 80)), u64::from(le32(sector, 84)));
    let (heap, sectors) = (u64::from(le32(sector, 88)), le64(sector, 72));
    let tables = u64::from(byte(sector, 110));
    if table == 0 || table_sectors == 0 || !(1..=2).contains(&tables) || heap >= sectors {
        return wrong("its allocation table lies nowhere");
    }
    let active = if tables == 2 { u64::from(le16(sector, 106) & 1) } else { 0 };
    Ok(Boot {
        is_exfat: true,
        bits: 32,
        table: (table + active * table_sectors) * unit,
        table_bytes: table_sectors * unit,
        heap: heap * unit,
        cluster_bytes: unit << cluster_shift,
        clusters: le32(sector, 92).min(0xffff_fff5),
        root: le32(sector, 96),
        fixed_root: None,
        directory_bytes_max: EXFAT_DIRECTORY_BYTES_MAX,
    })
}

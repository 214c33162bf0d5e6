//! Index pages: the nodes of the trees that lead from (sector, seq) to a place in the log.
//!
//! A tree covers one stripe of one volume. Leaves and inner nodes have one form: entries that say "from `seq` on,
//! the run `lba .. lba + sectors` is at `place`", where a leaf's place is a record in a segment and an inner
//! node's place is a child page. Looking something up is the same on every level: of the entries that cover
//! a sector and are not newer than the asked moment, the newest counts.
//!
//! ```text
//! page   0 crc u32 | 4 magic u16 | 6 level u8 | 7 zero u8 | 8 entries u16 | 10 zero u16 | 12 file u32 | 16 entries
//! entry  0 lba u32 (in the stripe) | 4 sectors u32 | 8 seq u64 | 16 place u32 + u32
//! ```
//! The crc covers everything behind it; `file` is the number of the checkpoint file that the page is in.

mod newest;

use super::{Bytes, PutBytes, crc32c};

/// Sectors of a stripe: 1 GiB of a volume.
pub const STRIPE_SECTORS: u64 = (1 << 30) / 512;
/// Entries of a full page; a page takes at most 4 KiB.
pub const PAGE_ENTRIES_MAX: usize = 170;
/// Trees higher than this are not believed.
pub const LEVELS_MAX: u8 = 12;

const PAGE_HEADER_BYTES: usize = 16;
const PAGE_ENTRY_BYTES: usize = 24;
const MAGIC: u16 = u16::from_le_bytes(*b"Pg");

/// The longest page in bytes.
pub const PAGE_BYTES_MAX: usize = PAGE_HEADER_BYTES + PAGE_ENTRIES_MAX * PAGE_ENTRY_BYTES;

/// One run of sectors in a page. What `place` means depends on the page's level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageEntry {
    /// First sector, counted from the stripe's start.
    pub lba: u32,
    /// How many sectors.
    pub sectors: u32,
    /// Since when.
    pub seq: u64,
    /// Leaf: segment number, byte offset (see [`super::segment::Location`]). Inner node: byte offset, length of the child page.
    pub place: (u32, u32),
}

impl PageEntry {
    /// The sector after the last one.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.lba + self.sectors
    }
}

/// A decoded page.
#[derive(Clone, Debug)]
pub struct Page {
    /// 0 for leaves.
    pub level: u8,
    /// Its entries: leaves and inner nodes of images sorted by lba, those of deltas by seq.
    pub entries: Vec<PageEntry>,
    /// They are sorted by lba and do not overlap.
    pub is_disjoint: bool,
    by_lba: newest::Search,
}

impl Page {
    /// A page of these entries.
    #[must_use]
    pub fn new(level: u8, entries: Vec<PageEntry>) -> Page {
        let is_disjoint = entries.windows(2).all(|pair| pair[0].end() <= pair[1].lba);
        Page { level, entries, is_disjoint, by_lba: newest::Search::new() }
    }
}

/// Encodes a page that goes into checkpoint file `file`.
pub fn encode(level: u8, entries: &[PageEntry], file: u32, out: &mut Vec<u8>) {
    let start = out.len();
    out.put_u32(0);
    out.put_u16(MAGIC);
    out.put_u8(level);
    out.put_u8(0);
    out.put_u16(entries.len() as u16);
    out.put_u16(0);
    out.put_u32(file);
    for e in entries {
        out.put_u32(e.lba);
        out.put_u32(e.sectors);
        out.put_u64(e.seq);
        out.put_u32(e.place.0);
        out.put_u32(e.place.1);
    }
    let crc = crc32c(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// Decodes a page of checkpoint file `file`. `None`: damaged, or not this page.
#[must_use]
pub fn decode(bytes: &[u8], file: u32) -> Option<Page> {
    let mut b = Bytes(bytes);
    let crc = b.u32()?;
    if crc32c(b.0) != crc || b.u16()? != MAGIC {
        return None;
    }
    let (level, _, count, _, in_file) = (b.u8()?, b.u8()?, b.u16()?, b.u16()?, b.u32()?);
    let fits = usize::from(count) <= PAGE_ENTRIES_MAX && b.0.len() == usize::from(count) * PAGE_ENTRY_BYTES;
    if in_file != file || level > LEVELS_MAX || !fits {
        return None;
    }
    let mut entries = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let entry =
            PageEntry { lba: b.u32()?, sectors: b.u32()?, seq: b.u64()?, place: (b.u32()?, b.u32()?) };
        if u64::from(entry.lba) + u64::from(entry.sectors) > STRIPE_SECTORS {
            return None;
        }
        entries.push(entry);
    }
    Some(Page::new(level, entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_comes_back_and_no_flipped_bit_passes() {
        let entries = vec![
            PageEntry { lba: 0, sectors: 8, seq: 3, place: (1, 4096) },
            PageEntry { lba: 8, sectors: 100, seq: 9, place: (2, 0) },
        ];
        let mut bytes = Vec::new();
        encode(0, &entries, 5, &mut bytes);
        let page = decode(&bytes, 5).unwrap();
        assert_eq!((page.level, page.entries), (0, entries));
        assert!(decode(&bytes, 6).is_none());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, 5).is_none(), "bit {bit}");
        }
    }
}

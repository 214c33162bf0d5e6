//! Index pages: the nodes of the trees that map (sector, seq) to a record of the log.
//!
//! A tree covers one stripe of one volume. Leaves and inner pages have the same structure: entries that say "from `seq`
//! on, the run `lba .. lba + sectors` is at `place`", where a leaf's place is a record in a segment and an inner page's
//! place is a child page. A lookup is the same on every level: of the entries that cover a sector and are not newer
//! than the requested moment, the newest counts.
//!
//! ```text
//! page   0 crc u32 | 4 magic u16 | 6 level u8 | 7 zero u8 | 8 entries u16 | 10 zero u16 | 12 file u32 | 16 entries
//! leaf   0 lba u32 (in the stripe) | 4 sectors u32 | 8 seq u64 | 16 segment u32 | 20 offset u32
//! inner  0 lba u32 (in the stripe) | 4 sectors u32 | 8 seq u64 | 16 offset u64 | 24 bytes u32 | 28 crc u32
//! ```
//! The crc covers everything after it; `file` is the number of the checkpoint file that the page is in. The entry that
//! points to a page repeats its crc, so that a misplaced or stale page, whose own crc matches, is noticed.

mod newest;

use super::{Bytes, PutBytes, crc32c};
use crate::index::tree::PageRef;

/// Sectors of a stripe: 1 GiB of a volume.
pub const STRIPE_SECTORS: u64 = (1 << 30) / 512;
/// The most entries in a leaf, which has at most 4 KiB then; an inner page has fewer ([`entries_max`]).
pub const PAGE_ENTRIES_MAX: usize = 170;
/// The highest valid level of a page.
pub const LEVELS_MAX: u8 = 12;

const PAGE_HEADER_BYTES: usize = 16;
const LEAF_ENTRY_BYTES: usize = 24;
const INNER_ENTRY_BYTES: usize = 32;
const MAGIC: u16 = u16::from_le_bytes(*b"Pg");

/// The length of the longest page.
pub const PAGE_BYTES_MAX: usize = PAGE_HEADER_BYTES + PAGE_ENTRIES_MAX * LEAF_ENTRY_BYTES;
/// Pages, tables and lists begin at multiples of this.
pub const BLOCK_ALIGN_BYTES: u64 = 8;

/// The most entries in a page of this level.
#[must_use]
pub const fn entries_max(level: u8) -> usize {
    (PAGE_BYTES_MAX - PAGE_HEADER_BYTES) / entry_bytes(level)
}

const fn entry_bytes(level: u8) -> usize {
    if level == 0 { LEAF_ENTRY_BYTES } else { INNER_ENTRY_BYTES }
}

/// One run of sectors in a page. What `place` means depends on the page's level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct PageEntry {
    /// First sector, relative to the stripe's start.
    pub lba: u32,
    pub sectors: u32,
    /// The record from which on it is valid.
    pub seq: u64,
    /// In a leaf: segment number and byte offset (see [`super::segment::Location`]). In an inner page: an index into
    /// the page's children, and 0.
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
    /// Its entries: sorted by lba in an image, by seq and lba in a delta.
    pub entries: Vec<PageEntry>,
    /// The children of an inner page.
    pub children: Vec<PageRef>,
    /// The entries are sorted by lba and do not overlap.
    pub is_disjoint: bool,
    by_lba: newest::Search,
}

impl Page {
    /// A leaf with these entries, or an inner page with these entries and children.
    #[must_use]
    pub fn new(level: u8, entries: Vec<PageEntry>, children: Vec<PageRef>) -> Page {
        let is_disjoint = entries.windows(2).all(|pair| pair[0].end() <= pair[1].lba);
        Page { level, entries, children, is_disjoint, by_lba: newest::Search::new() }
    }

    /// The child to which an entry of this inner page points.
    #[must_use]
    pub fn child(&self, place: (u32, u32)) -> Option<PageRef> {
        self.children.get(place.0 as usize).copied()
    }
}

/// Appends to `out` the bytes of a page for checkpoint file `file`. The entries of an inner page point to `children`.
///
/// # Panics
/// If there are too many entries, or an entry points to a child that there is not or that is in another file.
pub fn encode(level: u8, entries: &[PageEntry], children: &[PageRef], file: u32, out: &mut Vec<u8>) {
    assert!(entries.len() <= entries_max(level), "{} entries in a page of level {level}", entries.len());
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
        if level == 0 {
            out.put_u32(e.place.0);
            out.put_u32(e.place.1);
        } else {
            let child = children[e.place.0 as usize];
            assert!(child.file == file, "a tree has all its pages in one file");
            out.put_u64(child.offset);
            out.put_u32(child.len_bytes);
            out.put_u32(child.crc);
        }
    }
    let crc = crc32c(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

/// The reference to a page or table with these bytes that is stored at `offset` of checkpoint file `file`.
#[must_use]
pub fn place_of(bytes: &[u8], file: u32, offset: u64) -> PageRef {
    let crc = Bytes(bytes).u32().unwrap_or(0);
    PageRef { file, offset, len_bytes: bytes.len() as u32, crc }
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
    let count = usize::from(count);
    let fits = count <= entries_max(level) && b.0.len() == count * entry_bytes(level);
    if in_file != file || level > LEVELS_MAX || !fits {
        return None;
    }
    let mut entries = Vec::with_capacity(count);
    let mut children = Vec::with_capacity(if level == 0 { 0 } else { count });
    for i in 0..count {
        let (lba, sectors, seq) = (b.u32()?, b.u32()?, b.u64()?);
        if u64::from(lba) + u64::from(sectors) > STRIPE_SECTORS {
            return None;
        }
        let place = if level == 0 {
            (b.u32()?, b.u32()?)
        } else {
            children.push(decode_ref(&mut b, file)?);
            (i as u32, 0)
        };
        entries.push(PageEntry { lba, sectors, seq, place });
    }
    Some(Page::new(level, entries, children))
}

/// The reference to a child page in checkpoint file `file`.
fn decode_ref(b: &mut Bytes<'_>, file: u32) -> Option<PageRef> {
    let at = PageRef { file, offset: b.u64()?, len_bytes: b.u32()?, crc: b.u32()? };
    at.is_aligned().then_some(at)
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
        encode(0, &entries, &[], 5, &mut bytes);
        let page = decode(&bytes, 5).unwrap();
        assert_eq!((page.level, page.entries), (0, entries));
        assert!(decode(&bytes, 6).is_none());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, 5).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn an_inner_page_says_where_its_children_are_and_what_they_hold() {
        let far = PageRef { file: 5, offset: 40 << 30, len_bytes: 4096, crc: 77 };
        let near = PageRef { file: 5, offset: 64, len_bytes: 40, crc: 78 };
        // Children come in any order, and one may be wanted twice.
        let entries = [(0, 1), (8, 0), (16, 1)];
        let entries = entries.map(|(lba, child)| PageEntry { lba, sectors: 8, seq: 3, place: (child, 0) });
        let mut bytes = Vec::new();
        encode(1, &entries, &[far, near], 5, &mut bytes);
        let page = decode(&bytes, 5).unwrap();
        let children: Vec<_> = page.entries.iter().map(|entry| page.child(entry.place)).collect();
        assert_eq!(children, [Some(near), Some(far), Some(near)]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, 5).is_none(), "bit {bit}");
        }
    }
}

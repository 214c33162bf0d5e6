//! The content of files: extents, in the tree itself or elsewhere, compressed or not.

use std::{
    ops::Range,
    sync::{Arc, PoisonError},
};

use super::{
    Btrfs,
    compression::{Compression, EXTENT_BYTES_MAX},
    damaged,
    inode::Inode,
    tree::{Key, Root},
    unsupported,
};
use crate::{
    blocks::Blocks,
    bytes::{byte, le16, le64},
    tree::{FileExtent, TreeError},
};

const EXTENT_DATA: u8 = 108;
const SUMS_TREE: u64 = 7;
const INLINE: u8 = 0;
const PREALLOC: u8 = 2;
const HEADER_BYTES: usize = 21;
const REGULAR_BYTES: usize = 53;
/// Content is read in pieces.
const PIECE_BYTES: u64 = 256 << 10;

/// An extent of a file.
struct Extent<'a> {
    /// Which bytes of the file it has.
    range: Range<u64>,
    compression: Option<Compression>,
    /// The length of what it was before it was compressed.
    whole_bytes: u64,
    form: Form<'a>,
}

enum Form<'a> {
    Inline(&'a [u8]),
    Hole,
    /// At an address, so many bytes; the range begins with the byte `from` of what they hold.
    Stored {
        address: u64,
        len_bytes: u64,
        from: u64,
        unwritten: bool,
    },
}

impl<B: Blocks> Btrfs<B> {
    fn extent<'a>(&self, inode: &Inode, key: Key, item: &'a [u8]) -> Result<Extent<'a>, TreeError> {
        let wrong = || damaged(inode.number, "an extent makes no sense");
        let start = key.offset;
        let whole_bytes = le64(item, 8);
        let compression = match byte(item, 16) {
            0 => None,
            1 => Some(Compression::Zlib),
            2 => Some(Compression::Lzo),
            3 => Some(Compression::Zstd),
            other => return Err(unsupported(format!("an extent with the compression {other}"))),
        };
        if byte(item, 17) != 0 || le16(item, 18) != 0 {
            return Err(unsupported("an encrypted extent"));
        }
        if compression.is_some() && whole_bytes > EXTENT_BYTES_MAX as u64 {
            return Err(wrong());
        }
        if byte(item, 20) == INLINE {
            let bytes = item.get(HEADER_BYTES..).ok_or_else(wrong)?;
            let len = if compression.is_some() { whole_bytes } else { bytes.len() as u64 };
            if start != 0 || len > EXTENT_BYTES_MAX as u64 {
                return Err(wrong());
            }
            return Ok(Extent { range: 0..len, compression, whole_bytes, form: Form::Inline(bytes) });
        }
        if item.len() < REGULAR_BYTES || byte(item, 20) > PREALLOC {
            return Err(wrong());
        }
        let sector = self.volume.superblock.sector_bytes as u64;
        let (address, len_bytes) = (le64(item, 21), le64(item, 29));
        let (from, num_bytes) = (le64(item, 37), le64(item, 45));
        let end = start.checked_add(num_bytes).filter(|end| *end <= i64::MAX as u64 && num_bytes > 0);
        let range = start..end.ok_or_else(wrong)?;
        if [start, address, len_bytes, from, num_bytes].iter().any(|number| number % sector != 0) {
            return Err(wrong());
        }
        if address == 0 {
            return Ok(Extent { range, compression: None, whole_bytes, form: Form::Hole });
        }
        let held = if compression.is_some() { whole_bytes } else { len_bytes };
        let fits = from.checked_add(num_bytes).is_some_and(|end| end <= held.next_multiple_of(sector));
        if !fits || address.checked_add(len_bytes).is_none() {
            return Err(wrong());
        }
        if compression.is_some() && (len_bytes > EXTENT_BYTES_MAX as u64 || byte(item, 20) == PREALLOC) {
            return Err(wrong());
        }
        let form = Form::Stored { address, len_bytes, from, unwritten: byte(item, 20) == PREALLOC };
        Ok(Extent { range, compression, whole_bytes, form })
    }

    /// Calls `each` with the extents that overlap `wanted`, in their order, until it returns false.
    fn each_extent(
        &self,
        inode: &Inode,
        wanted: Range<u64>,
        each: &mut dyn FnMut(Extent<'_>) -> Result<bool, TreeError>,
    ) -> Result<(), TreeError> {
        let from = Key::new(inode.object, EXTENT_DATA, wanted.start);
        let to = Key::new(inode.object, EXTENT_DATA, wanted.end.saturating_sub(1));
        let mut reached = 0;
        let mut next = |key: Key, item: &[u8]| {
            if (key.object, key.kind) != (inode.object, EXTENT_DATA) {
                return Ok(true);
            }
            let extent = self.extent(inode, key, item)?;
            if extent.range.start < reached {
                return Err(damaged(inode.number, "its extents overlap"));
            }
            reached = extent.range.end;
            if extent.range.end <= wanted.start { Ok(true) } else { each(extent) }
        };
        let Some(file) = self.log.files.get(&(inode.root.tree, inode.object)) else {
            return self.volume.items_from_before(&inode.root, from, to, &mut next);
        };
        let before = file.extents.range(..=from.offset).next_back().map_or(0, |(at, _)| *at);
        for (at, item) in file.extents.range(before..) {
            if *at > to.offset || !next(Key::new(inode.object, EXTENT_DATA, *at), item)? {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn places(
        &self,
        inode: &Inode,
        each: &mut dyn FnMut(FileExtent) -> bool,
    ) -> Result<(), TreeError> {
        self.each_extent(inode, 0..u64::MAX, &mut |extent| {
            let Form::Stored { address, len_bytes, from, unwritten } = extent.form else { return Ok(true) };
            let nowhere = || damaged(inode.number, "its content lies where there is nothing");
            let copy = |address| {
                let copies = 0..self.volume.chunks().copies(address);
                copies
                    .into_iter()
                    .find_map(|copy| self.volume.chunks().copy(address, copy))
                    .ok_or_else(nowhere)
            };
            let Range { start: mut offset, end } = extent.range;
            if extent.compression.is_some() {
                let found = copy(address)?;
                if found.len_bytes < len_bytes {
                    return Err(unsupported("the place of a compressed extent on several devices"));
                }
                let place = self.volume.place(&found);
                let encoded_bytes = Some(len_bytes);
                return Ok(each(FileExtent {
                    offset,
                    len_bytes: end - offset,
                    place,
                    unwritten,
                    encoded_bytes,
                }));
            }
            let mut address = address + from;
            while offset < end {
                let found = copy(address)?;
                let len_bytes = found.len_bytes.min(end - offset);
                let place = self.volume.place(&found);
                if !each(FileExtent { offset, len_bytes, place, unwritten, encoded_bytes: None }) {
                    return Ok(false);
                }
                offset += len_bytes;
                address += len_bytes;
            }
            Ok(true)
        })
    }

    /// Fills `buf` with what a file holds from `offset` on, as far as its extents reach; the rest is zeroes.
    pub(super) fn read_extents(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        buf.fill(0);
        let wanted = offset..offset.saturating_add(buf.len() as u64);
        self.each_extent(inode, wanted.clone(), &mut |extent| {
            let (from, to) = (extent.range.start.max(wanted.start), extent.range.end.min(wanted.end));
            if from < to {
                let within = from - extent.range.start;
                self.read_extent(
                    inode,
                    &extent,
                    within,
                    &mut buf[(from - offset) as usize..(to - offset) as usize],
                )?;
            }
            Ok(true)
        })
    }

    /// Fills `buf` with the bytes of an extent from `within` on.
    fn read_extent(
        &self,
        inode: &Inode,
        extent: &Extent<'_>,
        within: u64,
        buf: &mut [u8],
    ) -> Result<(), TreeError> {
        let fill = |bytes: &[u8], at: u64, buf: &mut [u8]| {
            let bytes = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
            let len = bytes.len().min(buf.len());
            buf[..len].copy_from_slice(&bytes[..len]);
        };
        match extent.form {
            Form::Hole | Form::Stored { unwritten: true, .. } => {}
            Form::Inline(bytes) => match extent.compression {
                None => fill(bytes, within, buf),
                Some(compression) => {
                    fill(&self.decode(inode, compression, bytes, extent.whole_bytes)?, within, buf);
                }
            },
            Form::Stored { address, len_bytes, from, .. } => {
                let Some(compression) = extent.compression else {
                    return self.read_stored(inode, address + from + within, buf);
                };
                fill(
                    &self.decoded(inode, compression, (address, len_bytes), extent.whole_bytes)?,
                    from + within,
                    buf,
                );
            }
        }
        Ok(())
    }

    fn read_stored(&self, inode: &Inode, address: u64, buf: &mut [u8]) -> Result<(), TreeError> {
        let sector = self.volume.superblock.sector_bytes as u64;
        let mut at = address;
        let mut rest = buf;
        while !rest.is_empty() {
            let first = at - at % sector;
            let skipped = (at - first) as usize;
            let len = (rest.len() as u64 + skipped as u64).next_multiple_of(sector).min(PIECE_BYTES) as usize;
            let bytes = self.stored(inode, first, len)?;
            let used = (len - skipped).min(rest.len());
            let (part, behind) = rest.split_at_mut(used);
            part.copy_from_slice(&bytes[skipped..skipped + used]);
            rest = behind;
            at += used as u64;
        }
        Ok(())
    }

    /// Whole sectors as they lie on the volume, verified if the file has checksums.
    fn stored(&self, inode: &Inode, address: u64, len: usize) -> Result<Vec<u8>, TreeError> {
        if !inode.has_sums() {
            return self.volume.content(address, len, inode.number, None);
        }
        let sums = self.tree_root(SUMS_TREE)?.ok_or(damaged(0, "there is no tree of checksums"))?;
        let sums: Vec<Root> = [sums].into_iter().chain(self.log.sums.iter().copied()).collect();
        self.volume.content(address, len, inode.number, Some(&sums))
    }

    fn decode(
        &self,
        inode: &Inode,
        compression: Compression,
        bytes: &[u8],
        whole_bytes: u64,
    ) -> Result<Vec<u8>, TreeError> {
        let sector = self.volume.superblock.sector_bytes;
        compression
            .decode(bytes, whole_bytes as usize, sector)
            .ok_or(damaged(inode.number, "what was compressed makes no sense"))
    }

    /// A compressed extent as it was. The last one is kept: who reads a file reads it in parts.
    fn decoded(
        &self,
        inode: &Inode,
        compression: Compression,
        place: (u64, u64),
        whole_bytes: u64,
    ) -> Result<Arc<Vec<u8>>, TreeError> {
        let key = (place, whole_bytes, compression, inode.has_sums());
        let known = self.decoded.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, bytes)) = known.filter(|(known, _)| *known == key) {
            return Ok(bytes);
        }
        let bytes = self.stored(inode, place.0, place.1 as usize)?;
        let bytes = Arc::new(self.decode(inode, compression, &bytes, whole_bytes)?);
        *self.decoded.lock().unwrap_or_else(PoisonError::into_inner) = Some((key, Arc::clone(&bytes)));
        Ok(bytes)
    }

    /// The target of a symbolic link, which is always in the tree.
    pub(super) fn target(&self, inode: &Inode) -> Result<Vec<u8>, TreeError> {
        let wrong = || damaged(inode.number, "the target of the link makes no sense");
        let len = usize::try_from(inode.size_bytes()).ok().filter(|len| (1..=4096).contains(len));
        let mut target = vec![0; len.ok_or_else(wrong)?];
        let mut is_whole = false;
        self.each_extent(inode, 0..1, &mut |extent| {
            if let Form::Inline(_) = extent.form {
                is_whole = extent.range.end >= target.len() as u64;
                self.read_extent(inode, &extent, 0, &mut target)?;
            }
            Ok(false)
        })?;
        if is_whole { Ok(target) } else { Err(wrong()) }
    }
}

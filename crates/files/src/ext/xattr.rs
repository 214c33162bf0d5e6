//! Extended attributes: in the rest of the inode, in a block of their own, and long values in inodes of their own.

use super::{Ext, damaged, inode::Inode};
use crate::{
    blocks::Blocks,
    bytes::{byte, le16, le32},
    crc::{crc32c, crc32c_without},
    tree::{Attribute, TreeError},
};

const MAGIC: u32 = 0xea02_0000;
/// Linux takes no longer values.
const VALUE_BYTES_MAX: usize = 64 << 10;
const HEADER_BYTES: usize = 32;
/// Of the attributes of one inode together.
const ALL_BYTES_MAX: usize = 16 << 20;

/// One attribute, as it lies there.
struct Raw<'a> {
    index: u8,
    name: &'a [u8],
    value: Vec<u8>,
}

/// The beginnings of names; the two access lists have no rest.
fn prefix(index: u8) -> Option<&'static [u8]> {
    Some(match index {
        1 => b"user.",
        2 => b"system.posix_acl_access",
        3 => b"system.posix_acl_default",
        4 => b"trusted.",
        6 => b"security.",
        7 => b"system.",
        8 => b"system.richacl",
        _ => return None,
    })
}

/// An access list as Linux shows it (`posix_acl_xattr.h`), from the shorter one that is stored.
fn access_list(stored: &[u8]) -> Option<Vec<u8>> {
    const NAMED: [u16; 2] = [2, 8];
    if le32(stored, 0) != 1 || stored.len() < 4 {
        return None;
    }
    let mut shown = 2_u32.to_le_bytes().to_vec();
    let mut rest = &stored[4..];
    while !rest.is_empty() {
        let tag = le16(rest, 0);
        let len = if NAMED.contains(&tag) { 8 } else { 4 };
        shown.extend_from_slice(rest.get(..4)?);
        shown.extend_from_slice(if len == 8 { rest.get(4..8)? } else { &[0xff; 4] });
        rest = rest.get(len..)?;
    }
    Some(shown)
}

impl<B: Blocks> Ext<B> {
    /// All attributes that Linux shows to root.
    pub(super) fn xattrs(&self, inode: &Inode) -> Result<Vec<Attribute>, TreeError> {
        let mut all = Vec::new();
        self.raw_xattrs(inode, &mut |raw| {
            // What Linux keeps for itself: the rest of inline data.
            if (raw.index, raw.name) == (7, b"data") {
                return Ok(());
            }
            let Some(prefix) = prefix(raw.index) else { return Ok(()) };
            let value = if matches!(raw.index, 2 | 3) {
                access_list(&raw.value).ok_or(damaged(inode.number, "an access list makes no sense"))?
            } else {
                raw.value
            };
            all.push(([prefix, raw.name].concat(), value));
            Ok(())
        })?;
        Ok(all)
    }

    /// What of inline data does not fit into the place of the map.
    pub(super) fn inline_rest(&self, inode: &Inode) -> Result<Option<Vec<u8>>, TreeError> {
        let mut rest = None;
        self.raw_xattrs(inode, &mut |raw| {
            if (raw.index, raw.name) == (7, b"data") {
                rest = Some(raw.value);
            }
            Ok(())
        })?;
        Ok(rest)
    }

    fn raw_xattrs(
        &self,
        inode: &Inode,
        each: &mut dyn FnMut(Raw<'_>) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let mut bytes = 0;
        let mut each = |raw: Raw<'_>| {
            bytes += raw.name.len() + raw.value.len();
            if bytes > ALL_BYTES_MAX {
                return Err(TreeError::TooLarge { inode: inode.number, what: "its attributes are too long" });
            }
            each(raw)
        };
        let start = 128 + inode.extra_bytes();
        if inode.extra_bytes() > 0 && inode.raw.len() >= start + 4 && le32(&inode.raw, start) == MAGIC {
            let area = &inode.raw[start + 4..];
            self.entries_of(inode, area, area, &mut each)?;
        }
        let place = inode.attribute_block();
        if place == 0 {
            return Ok(());
        }
        if place >= self.superblock.blocks {
            return Err(damaged(inode.number, "its attributes lie outside"));
        }
        let block = self.volume.block(place)?;
        if le32(&block, 0) != MAGIC || le32(&block, 8) != 1 {
            return Err(damaged(inode.number, "the block of its attributes makes no sense"));
        }
        if let Some(seed) = self.superblock.seed {
            let crc = crc32c_without(crc32c(seed, &place.to_le_bytes()), &block, 16..20);
            if crc != le32(&block, 16) {
                return Err(damaged(inode.number, "the checksum of its attributes does not hold"));
            }
        }
        self.entries_of(inode, &block[HEADER_BYTES..], &block, &mut each)
    }

    /// The entries in `entries`, whose values are in `values`.
    fn entries_of(
        &self,
        inode: &Inode,
        entries: &[u8],
        values: &[u8],
        each: &mut dyn FnMut(Raw<'_>) -> Result<(), TreeError>,
    ) -> Result<(), TreeError> {
        let mut at = 0;
        while at + 4 <= entries.len() && le32(entries, at) != 0 {
            let name_len = usize::from(byte(entries, at));
            let end = at + 16 + name_len;
            if end > entries.len() {
                return Err(damaged(inode.number, "an attribute has a senseless length"));
            }
            let len = le32(entries, at + 8) as usize;
            if len > VALUE_BYTES_MAX {
                return Err(TreeError::TooLarge { inode: inode.number, what: "an attribute is too long" });
            }
            let from = usize::from(le16(entries, at + 2));
            let value = match le32(entries, at + 4) {
                0 => values.get(from..from + len).map(<[u8]>::to_vec),
                elsewhere => Some(self.value_in(inode, elsewhere, len)?),
            };
            let value = value.ok_or(damaged(inode.number, "the value of an attribute lies outside"))?;
            each(Raw { index: byte(entries, at + 1), name: &entries[at + 16..end], value })?;
            at = end.next_multiple_of(4);
        }
        Ok(())
    }

    /// A value that has an inode of its own.
    fn value_in(&self, inode: &Inode, number: u32, len: usize) -> Result<Vec<u8>, TreeError> {
        let holder = self.inode(u64::from(number))?;
        if !holder.is_attribute_value() || holder.has_inline_data() || holder.size_bytes != len as u64 {
            return Err(damaged(inode.number, "the value of an attribute is not where it should be"));
        }
        self.budget.take(len as u64)?;
        let mut value = vec![0; len];
        self.read_content(&holder, 0, &mut value)?;
        Ok(value)
    }
}

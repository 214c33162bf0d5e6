//! Extended attributes: in the inode, in a leaf, or in leaves below an index; long values in blocks of their own.

use super::{
    REMOTE_HEADER_BYTES, Xfs, damaged,
    inode::{Fork, Inode},
    sum_holds,
};
use crate::{
    blocks::Blocks,
    bytes::{be16, be32, be64, byte},
    tree::{Attribute, TreeError},
};

const LEAF: [u16; 2] = [0xfbee, 0x3bee];
const NODE: [u16; 2] = [0xfebe, 0x3ebe];
const REMOTE_VALUE: u32 = u32::from_be_bytes(*b"XARM");
const LOCAL: u8 = 1;
const ROOT: u8 = 2;
const SECURE: u8 = 4;
const PARENT: u8 = 8;
const INCOMPLETE: u8 = 0x80;
/// Linux takes no longer values.
const VALUE_BYTES_MAX: usize = 64 << 10;
/// Of the attributes of one inode together.
const ALL_BYTES_MAX: usize = 16 << 20;
const LEVELS_MAX: u32 = 8;
const ACCESS_LISTS: [(&[u8], &[u8]); 2] =
    [(b"SGI_ACL_FILE", b"system.posix_acl_access"), (b"SGI_ACL_DEFAULT", b"system.posix_acl_default")];

/// An access list as Linux shows it (`posix_acl_xattr.h`), from the one that is stored.
fn access_list(stored: &[u8]) -> Option<Vec<u8>> {
    const NAMED: [u32; 2] = [2, 8];
    let count = be32(stored, 0) as usize;
    let entries = stored.get(4..).filter(|entries| entries.len() / 12 >= count)?;
    let mut shown = 2_u32.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(12).take(count) {
        let tag = be32(entry, 0);
        let number = if NAMED.contains(&tag) { be32(entry, 4) } else { u32::MAX };
        shown.extend((tag as u16).to_le_bytes());
        shown.extend(be16(entry, 8).to_le_bytes());
        shown.extend(number.to_le_bytes());
    }
    Some(shown)
}

/// Gathers the attributes that Linux shows to root.
struct Gathered<'a> {
    inode: &'a Inode,
    all: Vec<Attribute>,
    bytes: usize,
}

impl Gathered<'_> {
    fn add(&mut self, flags: u8, name: &[u8], value: &[u8]) -> Result<(), TreeError> {
        if flags & (PARENT | INCOMPLETE) != 0 {
            return Ok(());
        }
        self.bytes += name.len() + value.len();
        if self.bytes > ALL_BYTES_MAX {
            return Err(TreeError::TooLarge {
                inode: self.inode.number,
                what: "its attributes are too long",
            });
        }
        let prefix: &[u8] = match flags & (ROOT | SECURE) {
            ROOT => b"trusted.",
            SECURE => b"security.",
            _ => b"user.",
        };
        let list = ACCESS_LISTS.iter().find(|list| flags & ROOT != 0 && list.0 == name);
        if let Some((_, shown)) = list {
            let wrong = damaged(self.inode.number, "an access list makes no sense");
            self.all.push((shown.to_vec(), access_list(value).ok_or(wrong)?));
        }
        self.all.push(([prefix, name].concat(), value.to_vec()));
        Ok(())
    }
}

impl<B: Blocks> Xfs<B> {
    pub(super) fn xattrs(&self, inode: &Inode) -> Result<Vec<Attribute>, TreeError> {
        let mut gathered = Gathered { inode, all: Vec::new(), bytes: 0 };
        if !inode.has(Fork::Attributes) {
            return Ok(gathered.all);
        }
        if let Some(local) = inode.local(Fork::Attributes)? {
            local_attributes(&mut gathered, local)?;
        } else if inode.extents(Fork::Attributes) > 0 {
            self.leaves(&mut gathered)?;
        }
        Ok(gathered.all)
    }

    /// A block of the fork.
    fn attribute_block(&self, inode: &Inode, number: u32) -> Result<Vec<u8>, TreeError> {
        let unit = self.superblock.block_bytes;
        self.budget.take(unit)?;
        let mut block = vec![0; unit as usize];
        self.read_fork(inode, Fork::Attributes, u64::from(number) * unit, &mut block)?;
        let is_v5 = self.superblock.is_v5;
        let magic = be16(&block, 8);
        if magic != LEAF[usize::from(is_v5)] && magic != NODE[usize::from(is_v5)] {
            return Err(damaged(inode.number, "a block of its attributes makes no sense"));
        }
        if is_v5 && (!sum_holds(&block, 12) || be64(&block, 48) != inode.number) {
            return Err(damaged(inode.number, "the checksum of a block of its attributes does not hold"));
        }
        Ok(block)
    }

    /// Goes down to the first leaf, and then along the leaves.
    fn leaves(&self, gathered: &mut Gathered<'_>) -> Result<(), TreeError> {
        let inode = gathered.inode;
        let is_v5 = self.superblock.is_v5;
        let mut block = self.attribute_block(inode, 0)?;
        for level in 0.. {
            if be16(&block, 8) == LEAF[usize::from(is_v5)] {
                break;
            }
            let (count, first) = if is_v5 {
                (be16(&block, 56), be32(&block, 68))
            } else {
                (be16(&block, 12), be32(&block, 20))
            };
            if level == LEVELS_MAX || count == 0 || first == 0 {
                return Err(damaged(inode.number, "the index of its attributes makes no sense"));
            }
            block = self.attribute_block(inode, first)?;
        }
        let mut left = ALL_BYTES_MAX as u64 / self.superblock.block_bytes;
        loop {
            if be16(&block, 8) != LEAF[usize::from(is_v5)] {
                return Err(damaged(inode.number, "a block of its attributes makes no sense"));
            }
            self.leaf_of_attributes(gathered, &block)?;
            let next = be32(&block, 0);
            if next == 0 {
                return Ok(());
            }
            left = left.checked_sub(1).ok_or(TreeError::TooLarge {
                inode: inode.number,
                what: "its attributes have too many blocks",
            })?;
            block = self.attribute_block(inode, next)?;
        }
    }

    fn leaf_of_attributes(&self, gathered: &mut Gathered<'_>, block: &[u8]) -> Result<(), TreeError> {
        let (count, start) =
            if self.superblock.is_v5 { (be16(block, 56), 80) } else { (be16(block, 12), 32) };
        let inode = gathered.inode;
        let wrong = || damaged(inode.number, "an attribute has a senseless length");
        let entries = block.get(start..start + usize::from(count) * 8).ok_or(wrong())?;
        for entry in entries.chunks_exact(8) {
            let (at, flags) = (usize::from(be16(entry, 4)), byte(entry, 6));
            if flags & LOCAL != 0 {
                let (value_len, name_len) = (usize::from(be16(block, at)), usize::from(byte(block, at + 2)));
                let name = block.get(at + 3..at + 3 + name_len).ok_or(wrong())?;
                let value = at + 3 + name_len;
                gathered.add(flags, name, block.get(value..value + value_len).ok_or(wrong())?)?;
                continue;
            }
            let (first, len) = (be32(block, at), be32(block, at + 4) as usize);
            let name_len = usize::from(byte(block, at + 8));
            let name = block.get(at + 9..at + 9 + name_len).ok_or(wrong())?;
            // One that was not finished has no value yet.
            if flags & (INCOMPLETE | PARENT) != 0 {
                continue;
            }
            if len > VALUE_BYTES_MAX {
                return Err(TreeError::TooLarge { inode: inode.number, what: "an attribute is too long" });
            }
            gathered.add(flags, name, &self.remote_value(inode, first, len)?)?;
        }
        Ok(())
    }

    /// A value in blocks of its own, each of which has a header in version 5.
    fn remote_value(&self, inode: &Inode, first: u32, len: usize) -> Result<Vec<u8>, TreeError> {
        let wrong = || damaged(inode.number, "the value of an attribute makes no sense");
        let unit = self.superblock.block_bytes as usize;
        let header = if self.superblock.is_v5 { REMOTE_HEADER_BYTES } else { 0 };
        let blocks = len.div_ceil(unit - header);
        let mut bytes = vec![0; blocks * unit];
        self.budget.take(bytes.len() as u64)?;
        self.read_fork(inode, Fork::Attributes, u64::from(first) * unit as u64, &mut bytes)?;
        if !self.superblock.is_v5 {
            bytes.truncate(len);
            return Ok(bytes);
        }
        let mut value = Vec::new();
        for block in bytes.chunks_exact(unit) {
            let part = be32(block, 8) as usize;
            let is_sound = be32(block, 0) == REMOTE_VALUE
                && be32(block, 4) as usize == value.len()
                && be64(block, 32) == inode.number
                && sum_holds(block, 12);
            let part = block.get(header..header + part).filter(|_| is_sound).ok_or(wrong())?;
            value.extend_from_slice(part);
        }
        if value.len() == len { Ok(value) } else { Err(wrong()) }
    }
}

fn local_attributes(gathered: &mut Gathered<'_>, local: &[u8]) -> Result<(), TreeError> {
    let wrong = damaged(gathered.inode.number, "an attribute has a senseless length");
    let mut at = 4;
    for _ in 0..byte(local, 2) {
        let (name_len, value_len) = (usize::from(byte(local, at)), usize::from(byte(local, at + 1)));
        let flags = byte(local, at + 2);
        let value = at + 3 + name_len;
        let Some(both) = local.get(at + 3..value + value_len) else { return Err(wrong) };
        gathered.add(flags, &both[..name_len], &both[name_len..])?;
        at = value + value_len;
    }
    Ok(())
}

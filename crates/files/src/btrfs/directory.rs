//! Directories, extended attributes, and subvolumes by name.

use super::{
    Btrfs, damaged,
    inode::{Inode, Place},
    tree::{Key, Root, TOP_LEVEL, is_subvolume},
};
use crate::{
    blocks::Blocks,
    bytes::{byte, le16, le32, le64},
    crc::crc32c,
    tree::{Attribute, Entry, FileKind, TreeError},
};

const ROOT_ITEM: u8 = 132;
const ROOT_REF: u8 = 156;
const INODE_ITEM: u8 = 1;
const XATTR_ITEM: u8 = 24;
const DIR_ITEM: u8 = 84;
const DIR_INDEX: u8 = 96;
const NAME_BYTES_MAX: usize = 255;
const HEADER_BYTES: usize = 30;
const ROOT_BYTES: usize = 239;
/// Subvolumes that are kept in mind.
const KNOWN_MAX: usize = 64 << 10;

/// One name in an item: several have the same hash sometimes.
struct Named<'a> {
    location: Key,
    kind: u8,
    name: &'a [u8],
    data: &'a [u8],
}

fn each_name<'a>(
    inode: u64,
    mut item: &'a [u8],
    each: &mut dyn FnMut(Named<'a>) -> Result<bool, TreeError>,
) -> Result<bool, TreeError> {
    while !item.is_empty() {
        let (data, name) = (usize::from(le16(item, 25)), usize::from(le16(item, 27)));
        let end = HEADER_BYTES + name + data;
        if item.len() < end || name == 0 || name > NAME_BYTES_MAX {
            return Err(damaged(inode, "a name makes no sense"));
        }
        let (name, data) = item[HEADER_BYTES..end].split_at(name);
        if !each(Named { location: Key::parse(item, 0), kind: byte(item, 29), name, data })? {
            return Ok(false);
        }
        item = &item[end..];
    }
    Ok(true)
}

fn kind_of(number: u8) -> FileKind {
    match number {
        1 => FileKind::Regular,
        2 => FileKind::Directory,
        3 => FileKind::CharDevice,
        4 => FileKind::BlockDevice,
        5 => FileKind::Fifo,
        6 => FileKind::Socket,
        7 => FileKind::Symlink,
        _ => FileKind::Unknown,
    }
}

impl<B: Blocks> Btrfs<B> {
    /// The root of a tree, as the tree of roots has it; the newest, if there are several.
    pub(super) fn tree_root(&self, tree: u64) -> Result<Option<Root>, TreeError> {
        let known = self.roots.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get(&tree).copied();
        if known.is_some() {
            return Ok(known);
        }
        let last = Key::new(tree, ROOT_ITEM, u64::MAX);
        let mut found = None;
        self.volume.items_from_before(&self.volume.superblock.roots, last, last, &mut |key, item| {
            // A subvolume that nothing refers to was deleted.
            if (key.object, key.kind) == (tree, ROOT_ITEM) && item.len() >= ROOT_BYTES && le32(item, 216) > 0
            {
                let (place, level) = (le64(item, 176), byte(item, 238));
                found = Some(Root { tree, place, level, generation: le64(item, 160) });
            }
            Ok(false)
        })?;
        if let Some(root) = found {
            if root.level >= 8 {
                return Err(damaged(0, "a tree is too high"));
            }
            let mut roots = self.roots.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if roots.len() >= KNOWN_MAX {
                roots.clear();
            }
            roots.insert(tree, root);
        }
        Ok(found)
    }

    pub(super) fn subvolume_root(&self, subvolume: u64) -> Result<Option<Root>, TreeError> {
        if is_subvolume(subvolume) { self.tree_root(subvolume) } else { Ok(None) }
    }

    /// The subvolume that Linux shows unless it is told which.
    pub(super) fn default_subvolume(&self) -> Result<u64, TreeError> {
        const NAME: &[u8] = b"default";
        let superblock = &self.volume.superblock;
        let key = Key::new(superblock.directory, DIR_ITEM, u64::from(crc32c(!1, NAME)));
        let mut found = TOP_LEVEL;
        if let Some(item) = self.volume.item(&superblock.roots, key)? {
            each_name(0, &item, &mut |named| {
                if named.name == NAME {
                    found = named.location.object;
                }
                Ok(true)
            })?;
        }
        Ok(found)
    }

    pub(super) fn directory(
        &self,
        inode: &Inode,
        each: &mut dyn FnMut(Entry) -> bool,
    ) -> Result<(), TreeError> {
        let (from, to) = (Key::new(inode.object, DIR_INDEX, 0), Key::new(inode.object, DIR_INDEX, u64::MAX));
        let mut goes_on = true;
        let mut next = |_: Key, item: &[u8]| {
            goes_on = each_name(inode.number, item, &mut |named| {
                if named.name.contains(&b'/') || named.name.contains(&0) || matches!(named.name, b"." | b"..")
                {
                    return Err(damaged(inode.number, "a name makes no sense"));
                }
                let place = match named.location.kind {
                    INODE_ITEM => Place { subvolume: inode.root.tree, object: named.location.object },
                    ROOT_ITEM => self.below(inode, named.location.object, named.name)?,
                    _ => return Err(damaged(inode.number, "a name stands for nothing")),
                };
                if named.location.kind == INODE_ITEM && place.is_placeholder() {
                    return Err(TreeError::TooLarge { inode: inode.number, what: "the number of an inode" });
                }
                let kind = kind_of(named.kind);
                Ok(each(Entry { name: named.name.to_vec(), inode: place.number()?, kind }))
            })?;
            Ok(goes_on)
        };
        self.volume.items(&inode.root, from, to, &mut next)?;
        let added = self.log.added.get(&(inode.root.tree, inode.object));
        for item in added.iter().flat_map(|added| &added.items) {
            if !next(from, item)? {
                break;
            }
        }
        Ok(())
    }

    /// What stands for a subvolume in a directory: its root directory, if it is there and belongs there. In a snapshot of
    /// what contained it there is an empty directory instead.
    fn below(&self, directory: &Inode, subvolume: u64, name: &[u8]) -> Result<Place, TreeError> {
        let parent = directory.root.tree;
        let key = Key::new(parent, ROOT_REF, subvolume);
        let reference = self.volume.item(&self.volume.superblock.roots, key)?;
        let is_meant = reference.is_some_and(|item| {
            le64(&item, 0) == directory.object
                && usize::from(le16(&item, 16)) == name.len()
                && item.get(18..18 + name.len()) == Some(name)
        });
        if is_meant && self.subvolume_root(subvolume)?.is_some() {
            return Ok(Place::root_of(subvolume));
        }
        Ok(Place::placeholder(parent, subvolume))
    }

    pub(super) fn xattrs(&self, inode: &Inode) -> Result<Vec<Attribute>, TreeError> {
        let mut all = Vec::new();
        let (from, to) =
            (Key::new(inode.object, XATTR_ITEM, 0), Key::new(inode.object, XATTR_ITEM, u64::MAX));
        let mut next = |_: Key, item: &[u8]| {
            each_name(inode.number, item, &mut |named| {
                all.push((named.name.to_vec(), named.data.to_vec()));
                if all.len() > ATTRIBUTES_MAX {
                    return Err(TreeError::TooLarge { inode: inode.number, what: "attributes" });
                }
                Ok(true)
            })
        };
        match self.log.files.get(&(inode.root.tree, inode.object)) {
            Some(file) => file.xattrs.iter().try_for_each(|item| next(from, item).map(|_| ()))?,
            None => self.volume.items(&inode.root, from, to, &mut next)?,
        }
        Ok(all)
    }
}

/// More than anything makes.
const ATTRIBUTES_MAX: usize = 100_000;

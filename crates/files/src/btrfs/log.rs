//! The log tree: what was synced since the last commit, laid over it as Linux replays it.
//!
//! Replayed is only what can be replayed exactly: content, sizes, times and attributes of files that were there, and
//! new files in directories that were there. A log that says anything of directories, names that changed, or further links
//! is refused, since the volume without it would look older than what it was told.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    Btrfs, damaged,
    superblock::LOG_TREE,
    tree::{FIRST, Key, Root, is_subvolume},
    unsupported,
};
use crate::{
    blocks::Blocks,
    bytes::{byte, le16, le32, le64},
    crc::crc32c,
    tree::TreeError,
};

const SUMS_OBJECT: u64 = -10_i64 as u64;
const INODE_ITEM: u8 = 1;
const INODE_REF: u8 = 12;
const XATTR_ITEM: u8 = 24;
const DIR_ITEM: u8 = 84;
const DIR_INDEX: u8 = 96;
const EXTENT_DATA: u8 = 108;
const SUMS_ITEM: u8 = 128;
const ROOT_ITEM: u8 = 132;
const INODE_BYTES: usize = 160;
const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
/// A log holds what was synced in some seconds.
const LOG_BYTES_MAX: usize = 64 << 20;

/// A file as it is after the replay.
#[derive(Default)]
pub(super) struct Replayed {
    pub item: Vec<u8>,
    /// By the place in the file.
    pub extents: BTreeMap<u64, Vec<u8>>,
    pub xattrs: Vec<Vec<u8>>,
}

/// New names of a directory: their items, and what they add to its size.
#[derive(Default)]
pub(super) struct Added {
    pub items: Vec<Vec<u8>>,
    pub size_bytes: u64,
}

/// What a replay changes. Files and directories are known by subvolume and number.
#[derive(Default)]
pub(super) struct Log {
    pub files: HashMap<(u64, u64), Replayed>,
    pub added: HashMap<(u64, u64), Added>,
    /// Trees that have checksums of new content.
    pub sums: Vec<Root>,
}

/// What the log of a subvolume says of one inode.
#[derive(Default)]
struct Logged {
    item: Vec<u8>,
    refs: Vec<(u64, Vec<u8>)>,
    extents: Vec<(u64, Vec<u8>)>,
    xattrs: Vec<Vec<u8>>,
}

fn refused(what: &str) -> TreeError {
    unsupported(format!("a btrfs with a log tree that has to be replayed and holds {what}"))
}

impl<B: Blocks> Btrfs<B> {
    pub(super) fn replay(&self) -> Result<Log, TreeError> {
        let superblock = &self.volume.superblock;
        let mut log = Log::default();
        let Some(root) = superblock.log else { return Ok(log) };
        let mut roots = Vec::new();
        let (from, to) = (Key::new(LOG_TREE, ROOT_ITEM, 0), Key::new(LOG_TREE, ROOT_ITEM, u64::MAX));
        self.volume.items(&root, from, to, &mut |key, item| {
            let (place, level, generation) = (le64(item, 176), byte(item, 238), le64(item, 160));
            if level >= 8 || roots.len() > 10_000 {
                return Err(damaged(0, "its log tree makes no sense"));
            }
            roots.push((key.offset, Root { tree: LOG_TREE, place, level, generation }));
            Ok(true)
        })?;
        let mut left = LOG_BYTES_MAX;
        for (subvolume, root) in roots {
            if !is_subvolume(subvolume) {
                return Err(refused("something of another tree"));
            }
            // The subvolume may have been deleted meanwhile.
            if let Some(base) = self.subvolume_root(subvolume)? {
                self.replay_subvolume(&base, &root, &mut log, &mut left)?;
            }
        }
        Ok(log)
    }

    fn replay_subvolume(
        &self,
        base: &Root,
        root: &Root,
        log: &mut Log,
        left: &mut usize,
    ) -> Result<(), TreeError> {
        let mut inodes: BTreeMap<u64, Logged> = BTreeMap::new();
        let mut has_sums = false;
        self.volume.items(
            root,
            Key::new(0, 0, 0),
            Key::new(u64::MAX, u8::MAX, u64::MAX),
            &mut |key, item| {
                *left = left.checked_sub(item.len() + 64).ok_or(refused("more than is replayed"))?;
                if (key.object, key.kind) == (SUMS_OBJECT, SUMS_ITEM) {
                    has_sums = true;
                    return Ok(true);
                }
                if !(FIRST..1 << 39).contains(&key.object) {
                    return Err(refused("something that is no file"));
                }
                let inode = inodes.entry(key.object).or_default();
                match key.kind {
                    INODE_ITEM => inode.item = item.to_vec(),
                    INODE_REF => inode.refs.push((key.offset, item.to_vec())),
                    XATTR_ITEM => inode.xattrs.push(item.to_vec()),
                    EXTENT_DATA => inode.extents.push((key.offset, item.to_vec())),
                    60 | 72 | DIR_ITEM | DIR_INDEX => return Err(refused("changes of directories")),
                    other => return Err(refused(&format!("items of the kind {other}"))),
                }
                Ok(true)
            },
        )?;
        if has_sums {
            log.sums.push(*root);
        }
        let mut names = HashSet::new();
        for (object, logged) in &inodes {
            let (item, mode) = (&logged.item, le32(&logged.item, 52) & 0o170_000);
            // An inode of generation 0 is there only because others need it.
            if item.len() < INODE_BYTES || mode != REGULAR || le64(item, 0) == 0 || le32(item, 40) == 0 {
                return Err(refused("more than files and their content"));
            }
            let known = self.volume.item(base, Key::new(*object, INODE_ITEM, 0))?;
            if let Some(known) = &known {
                self.expect_same_names(base, *object, logged, known)?;
            } else {
                self.add_names(base, *object, logged, log, &mut names)?;
            }
            let file = self.replay_file(base, *object, logged, known.is_some())?;
            log.files.insert((base.tree, *object), file);
        }
        Ok(())
    }

    /// A file that was there has to have the names that it had.
    fn expect_same_names(
        &self,
        base: &Root,
        object: u64,
        logged: &Logged,
        known: &[u8],
    ) -> Result<(), TreeError> {
        let is_file = le32(known, 52) & 0o170_000 == REGULAR && le32(known, 40) == le32(&logged.item, 40);
        if !is_file {
            return Err(refused("changes of names"));
        }
        for (parent, names) in &logged.refs {
            if self.volume.item(base, Key::new(object, INODE_REF, *parent))?.as_ref() != Some(names) {
                return Err(refused("changes of names"));
            }
        }
        Ok(())
    }

    /// Puts a new file into the directories that its references name, if those were there and have no such name.
    fn add_names(
        &self,
        base: &Root,
        object: u64,
        logged: &Logged,
        log: &mut Log,
        names: &mut HashSet<(u64, Vec<u8>)>,
    ) -> Result<(), TreeError> {
        let mut links = 0;
        for (parent, refs) in &logged.refs {
            let directory = self.volume.item(base, Key::new(*parent, INODE_ITEM, 0))?;
            if !directory.is_some_and(|item| le32(&item, 52) & 0o170_000 == DIRECTORY && le32(&item, 40) > 0)
            {
                return Err(refused("new directories"));
            }
            let mut rest = &refs[..];
            while !rest.is_empty() {
                let (index, len) = (le64(rest, 0), usize::from(le16(rest, 8)));
                let name = rest.get(10..10 + len).ok_or(damaged(object, "a name makes no sense"))?;
                let by_name = Key::new(*parent, DIR_ITEM, u64::from(crc32c(!1, name)));
                let by_index = Key::new(*parent, DIR_INDEX, index);
                let is_free =
                    self.volume.item(base, by_name)?.is_none() && self.volume.item(base, by_index)?.is_none();
                if !is_free || !names.insert((*parent, name.to_vec())) {
                    return Err(refused("changes of names"));
                }
                let added = log.added.entry((base.tree, *parent)).or_default();
                let location = [&object.to_le_bytes()[..], &[INODE_ITEM], &[0; 8]].concat();
                let lens = [[0, 0], (len as u16).to_le_bytes()].concat();
                added.items.push([&location[..], &[0; 8], &lens, &[1], name].concat());
                added.size_bytes += 2 * len as u64;
                links += 1;
                rest = &rest[10 + len..];
            }
        }
        if links != le32(&logged.item, 40) || links == 0 {
            return Err(refused("files without names, or with other links"));
        }
        Ok(())
    }

    /// A file with its logged extents in place of those that they overlap; behind its end, only logged ones are left.
    fn replay_file(
        &self,
        base: &Root,
        object: u64,
        logged: &Logged,
        is_known: bool,
    ) -> Result<Replayed, TreeError> {
        let sector = self.volume.superblock.sector_bytes as u64;
        let mut extents = BTreeMap::new();
        if is_known {
            let (from, to) = (Key::new(object, EXTENT_DATA, 0), Key::new(object, EXTENT_DATA, u64::MAX));
            let mut bytes = 0;
            self.volume.items(base, from, to, &mut |key, item| {
                bytes += item.len() + 64;
                extents.insert(key.offset, item.to_vec());
                if bytes > LOG_BYTES_MAX { Err(refused("more than is replayed")) } else { Ok(true) }
            })?;
        }
        let size_bytes = le64(&logged.item, 16);
        let end =
            size_bytes.checked_next_multiple_of(sector).ok_or(damaged(object, "its size makes no sense"))?;
        drop_extents(&mut extents, end, u64::MAX, sector)?;
        for (start, item) in &logged.extents {
            let end = end_of(*start, item, sector).ok_or(damaged(object, "an extent makes no sense"))?;
            drop_extents(&mut extents, *start, end, sector)?;
            extents.insert(*start, item.clone());
        }
        Ok(Replayed { item: logged.item.clone(), extents, xattrs: logged.xattrs.clone() })
    }
}

/// Where an extent ends in its file.
fn end_of(start: u64, item: &[u8], sector: u64) -> Option<u64> {
    if byte(item, 20) == 0 {
        return start.checked_add(le64(item, 8))?.checked_next_multiple_of(sector);
    }
    start.checked_add(le64(item, 45)).filter(|end| *end > start)
}

/// Takes away what extents have of a range.
fn drop_extents(
    extents: &mut BTreeMap<u64, Vec<u8>>,
    start: u64,
    end: u64,
    sector: u64,
) -> Result<(), TreeError> {
    let wrong = || damaged(0, "an extent makes no sense");
    let before = extents.range(..start).next_back().map(|(at, _)| *at);
    let within = extents.range(start..end).map(|(at, _)| *at);
    for at in before.into_iter().chain(within).collect::<Vec<_>>() {
        let Some(item) = extents.get(&at).cloned() else { continue };
        let its_end = end_of(at, &item, sector).ok_or_else(wrong)?;
        if its_end <= start {
            continue;
        }
        let is_inline = byte(&item, 20) == 0;
        if is_inline && (at < start || its_end > end) {
            return Err(refused("a part of an extent in the tree"));
        }
        extents.remove(&at);
        if at < start {
            let mut left = item.clone();
            left.get_mut(45..53).ok_or_else(wrong)?.copy_from_slice(&(start - at).to_le_bytes());
            extents.insert(at, left);
        }
        if its_end > end {
            let mut right = item;
            let from = le64(&right, 37).checked_add(end - at).ok_or_else(wrong)?;
            right.get_mut(37..45).ok_or_else(wrong)?.copy_from_slice(&from.to_le_bytes());
            right.get_mut(45..53).ok_or_else(wrong)?.copy_from_slice(&(its_end - end).to_le_bytes());
            extents.insert(end, right);
        }
    }
    Ok(())
}

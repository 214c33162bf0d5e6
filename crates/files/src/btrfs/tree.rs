//! The trees: nodes of sorted items. Each node is verified where it is read: its checksum, that it belongs to this file
//! system, this place and this tree, and what the node above says of it.

use std::sync::Arc;

use super::{
    damaged,
    sums::{FIELD_BYTES, Sums},
    superblock::Superblock,
    volume::Volume,
};
use crate::{
    blocks::Blocks,
    bytes::{byte, id, le32, le64},
    tree::TreeError,
};

const HEADER_BYTES: usize = 101;
const ITEM_BYTES: usize = 25;
const POINTER_BYTES: usize = 33;
/// The subvolume that is always there.
pub(super) const TOP_LEVEL: u64 = 5;
/// The first number of an inode, and of a subvolume.
pub(super) const FIRST: u64 = 256;

/// The place of an item in its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub object: u64,
    pub kind: u8,
    pub offset: u64,
}

impl Key {
    pub(super) const BYTES: usize = 17;

    pub(super) fn new(object: u64, kind: u8, offset: u64) -> Key {
        Key { object, kind, offset }
    }

    pub(super) fn parse(bytes: &[u8], at: usize) -> Key {
        Key { object: le64(bytes, at), kind: byte(bytes, at + 8), offset: le64(bytes, at + 9) }
    }
}

/// Where a tree begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Root {
    /// Its number.
    pub tree: u64,
    pub place: u64,
    pub level: u8,
    pub generation: u64,
}

/// What is known of a node before it is read.
#[derive(Clone, Copy)]
struct Expected {
    place: u64,
    level: u8,
    generation: u64,
    tree: u64,
    first: Option<Key>,
}

/// A node whose own bytes make sense.
pub(super) struct Node {
    bytes: Vec<u8>,
    level: u8,
    count: usize,
}

impl Node {
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(bytes: Vec<u8>, place: u64, superblock: &Superblock) -> Result<Node, &'static str> {
        if !Sums::holds(superblock.sums, &bytes[FIELD_BYTES..], &bytes[..FIELD_BYTES]) {
            return Err("the checksum of a node does not hold");
        }
        if le64(&bytes, 48) != place || id(&bytes, 32) != superblock.metadata_id {
            return Err("a node belongs elsewhere");
        }
        let (count, level) = (le32(&bytes, 96) as usize, byte(&bytes, 100));
        let entry_bytes = if level == 0 { ITEM_BYTES } else { POINTER_BYTES };
        if count > (bytes.len() - HEADER_BYTES) / entry_bytes || (level > 0 && count == 0) {
            return Err("a node has a senseless number of items");
        }
        let node = Node { bytes, level, count };
        if (1..count).any(|i| node.key(i - 1) >= node.key(i)) {
            return Err("the items of a node are not in order");
        }
        let room = node.bytes.len() - HEADER_BYTES;
        let fits = |i: usize| {
            let (start, len) = node.item_place(i);
            start >= count * ITEM_BYTES && start.checked_add(len).is_some_and(|end| end <= room)
        };
        if level == 0 && !(0..count).all(fits) {
            return Err("an item lies outside of its node");
        }
        Ok(node)
    }

    fn key(&self, i: usize) -> Key {
        Key::parse(&self.bytes, HEADER_BYTES + i * if self.level == 0 { ITEM_BYTES } else { POINTER_BYTES })
    }

    /// Where an item of a leaf begins behind the header, and its length.
    fn item_place(&self, i: usize) -> (usize, usize) {
        let at = HEADER_BYTES + i * ITEM_BYTES + Key::BYTES;
        (le32(&self.bytes, at) as usize, le32(&self.bytes, at + 4) as usize)
    }

    fn item(&self, i: usize) -> &[u8] {
        let (start, len) = self.item_place(i);
        let start = HEADER_BYTES + start;
        self.bytes.get(start..start + len).unwrap_or_default()
    }

    /// How many of the keys are below, or not above, a key.
    fn count_where(&self, is_before: impl Fn(Key) -> bool) -> usize {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            if is_before(self.key(middle)) { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Whether it is the node that the one above, or the root, means.
    fn check(&self, expected: &Expected) -> Result<(), &'static str> {
        let owner = le64(&self.bytes, 88);
        // Snapshots share nodes, which keep the number of the subvolume that wrote them first.
        let is_owner = if is_subvolume(expected.tree) { is_subvolume(owner) } else { owner == expected.tree };
        if self.level != expected.level || !is_owner {
            return Err("a node belongs to another tree");
        }
        if le64(&self.bytes, 80) != expected.generation {
            return Err("a node is of another generation than its tree says");
        }
        if expected.first.is_some_and(|first| self.count == 0 || self.key(0) != first) {
            return Err("a node begins with another item than its tree says");
        }
        Ok(())
    }
}

/// Whether a tree holds files.
pub(super) fn is_subvolume(tree: u64) -> bool {
    tree == TOP_LEVEL || (FIRST..1 << 48).contains(&tree)
}

/// Takes an item and says whether to go on.
type EachItem<'a> = dyn FnMut(Key, &[u8]) -> Result<bool, TreeError> + 'a;

/// What a visit of a tree passes on.
struct Visit<'a> {
    tree: u64,
    from: Key,
    to: Key,
    /// Whether it begins with the last item that is not behind `from`.
    before: bool,
    each: &'a mut EachItem<'a>,
}

impl<B: Blocks> Volume<B> {
    /// Calls `each` with the items of a tree from one key to another, both included, in their order, until it returns
    /// false.
    pub(super) fn items(
        &self,
        root: &Root,
        from: Key,
        to: Key,
        each: &mut EachItem<'_>,
    ) -> Result<(), TreeError> {
        self.begin(root, &mut Visit { tree: root.tree, from, to, before: false, each })
    }

    /// The same, beginning with the last item that is not behind `from`, if there is one.
    pub(super) fn items_from_before(
        &self,
        root: &Root,
        from: Key,
        to: Key,
        each: &mut EachItem<'_>,
    ) -> Result<(), TreeError> {
        self.begin(root, &mut Visit { tree: root.tree, from, to, before: true, each })
    }

    /// One item.
    pub(super) fn item(&self, root: &Root, key: Key) -> Result<Option<Vec<u8>>, TreeError> {
        let mut found = None;
        self.items(root, key, key, &mut |_, item| {
            found = Some(item.to_vec());
            Ok(false)
        })?;
        Ok(found)
    }

    fn begin(&self, root: &Root, visit: &mut Visit<'_>) -> Result<(), TreeError> {
        let Root { tree, place, level, generation } = *root;
        let node = self.expected(&Expected { place, level, generation, tree, first: None })?;
        self.visit(&node, None, visit).map(|_| ())
    }

    /// Visits a node, all keys of which have to be below `end`, and returns whether it goes on. Since the parts of nodes
    /// side by side do not overlap, no node can be met twice.
    fn visit(&self, node: &Node, end: Option<Key>, visit: &mut Visit<'_>) -> Result<bool, TreeError> {
        if let Some(end) = end
            && node.count > 0
            && node.key(node.count - 1) >= end
        {
            return Err(damaged(0, "the nodes of a tree overlap"));
        }
        let goes_before = visit.before || node.level > 0;
        let first = if goes_before {
            node.count_where(|key| key <= visit.from).saturating_sub(1)
        } else {
            node.count_where(|key| key < visit.from)
        };
        for i in first..node.count {
            let key = node.key(i);
            if key > visit.to {
                return Ok(false);
            }
            if node.level == 0 {
                if !(visit.each)(key, node.item(i))? {
                    return Ok(false);
                }
                continue;
            }
            let at = HEADER_BYTES + i * POINTER_BYTES + Key::BYTES;
            let child = self.expected(&Expected {
                place: le64(&node.bytes, at),
                level: node.level - 1,
                generation: le64(&node.bytes, at + 8),
                tree: visit.tree,
                first: Some(key),
            })?;
            let end = if i + 1 < node.count { Some(node.key(i + 1)) } else { end };
            if !self.visit(&child, end, visit)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn expected(&self, expected: &Expected) -> Result<Arc<Node>, TreeError> {
        self.node(expected.place, &|node| node.check(expected))
    }
}

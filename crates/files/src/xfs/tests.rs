use super::*;
use crate::{Limits, Step, walk};

/// An XFS of version 4 by hand: one group of 256 blocks of 1 KiB with inodes of 256 bytes, a log that ends with an unmount
/// in blocks 200 to 231, and the root in inode 32, in block 8.
struct Hand(Vec<u8>);

const UNIT: usize = 1024;
const LOG: usize = 200 * UNIT;
const ROOT: u64 = 32;

impl Hand {
    fn new() -> Hand {
        let mut hand = Hand(vec![0; 256 * UNIT]);
        hand.put(0, b"XFSB");
        for (at, value) in
            [(4, UNIT as u32), (12, 256), (52, 200), (60, ROOT as u32), (84, 256), (88, 1), (96, 32)]
        {
            hand.put(at, &value.to_be_bytes());
        }
        // Version 4 with long directories, sectors, inodes; their logarithms.
        for (at, value) in [(100, 0x2004_u16), (102, 512), (104, 256), (106, 4)] {
            hand.put(at, &value.to_be_bytes());
        }
        hand.put(120, &[10, 9, 8, 2, 8]);
        hand.record(0, 1, 1, &operation(7, 0x20, b"unmount!"));
        hand
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// A record of the log with one block of data.
    fn record(&mut self, block: usize, tail: u64, operations: u32, data: &[u8]) {
        let at = LOG + block * 512;
        self.put(at, &0xfeed_babe_u32.to_be_bytes());
        let mut padded = data.to_vec();
        padded.resize(512, 0);
        for (field, value) in [(4, 1), (8, 2), (12, 512), (40, operations), (300, 1)] {
            self.put(at + field, &u32::to_be_bytes(value));
        }
        self.put(at + 16, &(1 << 32 | block as u64).to_be_bytes());
        self.put(at + 24, &(1 << 32 | tail).to_be_bytes());
        self.put(at + 44, &padded[..4]);
        padded[..4].copy_from_slice(&1_u32.to_be_bytes());
        self.put(at + 512, &padded);
    }

    /// An inode, with what its data fork has.
    fn inode(&mut self, number: u64, mode: u16, format: u8, size: u64, fork: &[u8]) {
        let at = number as usize * 256;
        self.put(at, b"IN");
        self.put(at + 2, &mode.to_be_bytes());
        self.put(at + 4, &[2, format]);
        self.put(at + 16, &1_u32.to_be_bytes());
        self.put(at + 56, &size.to_be_bytes());
        if format == 2 {
            self.put(at + 76, &(fork.len() as u32 / 16).to_be_bytes());
        }
        self.put(at + 100, fork);
    }

    fn open(&self) -> Result<Xfs<Vec<u8>>, TreeError> {
        Xfs::open(self.0.clone())
    }

    fn runs(&self, inode: u64) -> Result<Vec<(u64, u64, u64, bool)>, TreeError> {
        let mut runs = Vec::new();
        self.open()?.extents(inode, &mut |run| {
            let unit = UNIT as u64;
            runs.push((run.offset / unit, run.len_bytes / unit, run.place / unit, run.unwritten));
            true
        })?;
        Ok(runs)
    }
}

fn extent(first: u64, place: u64, blocks: u64, unwritten: bool) -> [u8; 16] {
    let high = u64::from(unwritten) << 63 | first << 9 | place >> 43;
    let low = place << 21 | blocks;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&high.to_be_bytes());
    bytes[8..].copy_from_slice(&low.to_be_bytes());
    bytes
}

/// The names of a directory that fit into its inode.
fn local_names(names: &[(&str, u32)]) -> Vec<u8> {
    let mut bytes = vec![names.len() as u8, 0, 0, 0, 0, 32];
    for (name, inode) in names {
        bytes.extend([name.len() as u8, 0, 0]);
        bytes.extend(name.as_bytes());
        bytes.extend(inode.to_be_bytes());
    }
    bytes
}

/// An operation of the log.
fn operation(transaction: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = transaction.to_be_bytes().to_vec();
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend([0x69, flags, 0, 0]);
    bytes.extend(data);
    bytes
}

#[test]
fn extents_in_the_inode_and_below_it_are_followed() {
    let mut hand = Hand::new();
    hand.inode(40, 0o100_644, 2, 5 << 10, &[extent(0, 50, 2, false), extent(3, 60, 2, true)].concat());
    assert_eq!(hand.runs(40).unwrap(), [(0, 2, 50, false), (3, 2, 60, true)]);
    hand.put(51 * UNIT, b"second");
    hand.put(60 * UNIT, b"not to be seen");
    let tree = hand.open().unwrap();
    let mut buf = [1; 12];
    assert_eq!(tree.read(40, 1021, &mut buf).unwrap(), 12);
    assert_eq!(&buf, b"\0\0\0second\0\0\0");
    assert_eq!(tree.read(40, 3 << 10, &mut buf).unwrap(), 12);
    assert_eq!(buf, [0; 12]);
    // A tree: the root has room for (156 - 4) / 16 children.
    let mut root = vec![0, 1, 0, 1];
    root.resize(4 + 9 * 16, 0);
    root[4 + 9 * 8..][..8].copy_from_slice(&70_u64.to_be_bytes());
    hand.inode(41, 0o100_644, 3, 9 << 10, &root);
    hand.put(70 * UNIT, b"BMAP\0\0\0\x02");
    hand.put(70 * UNIT + 24, &[extent(1, 80, 1, false), extent(2, 90, 1, false)].concat());
    assert_eq!(hand.runs(41).unwrap(), [(1, 1, 80, false), (2, 1, 90, false)]);
}

#[test]
fn maps_that_contradict_themselves_end_with_an_error() {
    for (what, extents) in [
        ("backwards", vec![extent(5, 50, 1, false), extent(3, 51, 1, false)]),
        ("overlapping", vec![extent(0, 50, 3, false), extent(2, 60, 1, false)]),
        ("empty", vec![extent(0, 50, 0, false)]),
        ("outside of the volume", vec![extent(0, 255, 2, false)]),
        ("in no group", vec![extent(0, 1 << 40, 1, false)]),
        ("behind the end of any file", vec![extent((1 << 54) - 1, 50, 1, false)]),
    ] {
        let mut hand = Hand::new();
        hand.inode(40, 0o100_644, 2, 5 << 10, &extents.concat());
        let found = hand.runs(40);
        assert!(matches!(found, Err(TreeError::Damaged { inode: 40, .. })), "{what}: {found:?}");
    }
    // More extents than fit, and trees that are their own children.
    let mut hand = Hand::new();
    hand.inode(40, 0o100_644, 2, 5 << 10, &extent(0, 50, 1, false));
    hand.put(40 * 256 + 76, &u32::MAX.to_be_bytes());
    assert!(matches!(hand.runs(40), Err(TreeError::Damaged { inode: 40, .. })));
    let mut root = vec![0, 2, 0, 9];
    root.resize(4 + 9 * 16, 0);
    for child in 0..9 {
        root[4 + child * 8..][..8].copy_from_slice(&(child as u64 * 100).to_be_bytes());
        root[4 + (9 + child) * 8..][..8].copy_from_slice(&70_u64.to_be_bytes());
    }
    hand.inode(40, 0o100_644, 3, 9 << 10, &root);
    hand.put(70 * UNIT, b"BMAP\0\x01\0\x3e");
    for child in 0..62 {
        hand.put(70 * UNIT + 24 + child * 8, &(child as u64).to_be_bytes());
        hand.put(70 * UNIT + 24 + (62 + child) * 8, &71_u64.to_be_bytes());
    }
    hand.put(71 * UNIT, b"BMAP\0\0\0\0");
    let found = hand.runs(40);
    assert!(matches!(found, Err(TreeError::Damaged { inode: 40, .. })), "{found:?}");
}

#[test]
fn a_cycle_of_directories_is_walked_once() {
    let mut hand = Hand::new();
    let names = local_names(&[("down", 40), ("self", 32), ("gone", 200)]);
    hand.inode(ROOT, 0o040_755, 1, names.len() as u64, &names);
    let names = local_names(&[("up", 32)]);
    hand.inode(40, 0o040_755, 1, names.len() as u64, &names);
    let (mut seen, mut unreadable) = (0, 0);
    let whole = walk(&hand.open().unwrap(), Limits::default(), &mut |step| {
        seen += usize::from(matches!(step, Step::Name(..)));
        unreadable += usize::from(matches!(step, Step::Unreadable(..)));
        true
    });
    assert!(whole.unwrap());
    assert_eq!((seen, unreadable), (4, 1));
    let mut hand = Hand::new();
    hand.inode(ROOT, 0o040_755, 1, 7, &[200, 0, 0, 0, 0, 32, 255]);
    assert!(matches!(hand.open().unwrap().entries(ROOT, &mut |_| true), Err(TreeError::Damaged { .. })));
}

/// A log that renames a file in a directory that fits into its inode.
fn with_log(logged: &[u8], is_complete: bool) -> Hand {
    let mut hand = Hand::new();
    let names = local_names(&[("old", 40)]);
    hand.inode(ROOT, 0o040_755, 1, names.len() as u64, &names);
    hand.inode(40, 0o100_644, 2, 0, &[]);
    let mut data = operation(9, 1, b"");
    data.extend(operation(9, 0, &[&b"NART"[..], &[0; 12]].concat()));
    data.extend(logged);
    let mut operations = 5;
    if is_complete {
        data.extend(operation(9, 2, b""));
        operations = 6;
    }
    hand.record(2, 2, operations, &data);
    hand
}

fn renamed(counter: u16) -> Vec<u8> {
    let names = local_names(&[("new", 40)]);
    let mut format = vec![0; 56];
    format[..8].copy_from_slice(&[0x3b, 0x12, 3, 0, 3, 0, 0, 0]);
    format[16] = ROOT as u8;
    format[40] = 16;
    format[48] = 2;
    let mut core = vec![0; 96];
    core[..6].copy_from_slice(&[b'N', b'I', 0xed, 0x41, 2, 1]);
    core[16] = 1;
    core[30..32].copy_from_slice(&counter.to_le_bytes());
    core[56] = names.len() as u8;
    let mut data = operation(9, 0, &format);
    data.extend(operation(9, 0, &core));
    data.extend(operation(9, 0, &names));
    data
}

fn name_in(hand: &Hand) -> Result<Vec<u8>, TreeError> {
    let tree = hand.open()?;
    let mut found = Vec::new();
    tree.entries(ROOT, &mut |entry| {
        found = entry.name;
        true
    })?;
    Ok(found)
}

#[test]
fn a_complete_transaction_is_seen_and_one_that_is_not_complete_is_not() {
    let hand = with_log(&renamed(5), true);
    assert_eq!(name_in(&hand).unwrap(), b"new");
    let replay = hand.open().unwrap().replay();
    assert_eq!((replay.transactions, replay.inodes), (1, 1));
    assert_eq!(name_in(&with_log(&renamed(5), false)).unwrap(), b"old");
}

#[test]
fn what_the_volume_has_in_a_newer_version_stays() {
    for (logged, found, name) in
        [(5_u16, 6_u16, &b"old"[..]), (6, 5, b"new"), (5, 5, b"new"), (1, 0xffff, b"new")]
    {
        let mut hand = with_log(&renamed(logged), true);
        hand.put(ROOT as usize * 256 + 30, &found.to_be_bytes());
        assert_eq!(name_in(&hand).unwrap(), name, "{logged} in the log, {found} on the volume");
        assert_eq!(hand.open().unwrap().replay().older, u64::from(name == b"old"));
    }
}

#[test]
fn what_cannot_be_replayed_exactly_is_refused() {
    // A change of a map that is pending, an exchange of owners, an inode of a machine of 32 bits, something unknown.
    let item = |kind: u16| operation(9, 0, &[&kind.to_le_bytes()[..], &[1, 0], &[0; 28]].concat());
    let two = |kind| [item(kind), operation(9, 0, b""), operation(9, 0, b"")].concat();
    for kind in [0x1244, 0x1246, 0x1248, 0x7777] {
        let found = with_log(&two(kind), true).open().err();
        assert!(matches!(found, Some(TreeError::Unsupported { .. })), "{kind:#x}: {found:?}");
    }
    let mut owners = renamed(5);
    owners[12 + 5] = 2;
    let found = with_log(&owners, true).open().err();
    assert!(matches!(found, Some(TreeError::Unsupported { .. })), "{found:?}");
    // What concerns only free space is no obstacle.
    assert_eq!(name_in(&with_log(&two(0x1236), true)).unwrap(), b"old");
    // An inode that lies elsewhere.
    let mut elsewhere = renamed(5);
    elsewhere[12 + 52] = 1;
    let found = with_log(&elsewhere, true).open().err();
    assert!(matches!(found, Some(TreeError::Damaged { .. })), "{found:?}");
}

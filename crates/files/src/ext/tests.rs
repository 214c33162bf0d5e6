use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::{ReadError, bytes::le32, crc::*};

/// A superblock of 100 groups of 8192 blocks of 1 KiB with these features.
fn superblock(compatible: u32, incompatible: u32, read_only: u32) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    for (at, value) in [
        (0, 100_u32 * 2000),
        (4, 100 * 8192 + 1),
        (0x14, 1),
        (0x20, 8192),
        (0x28, 2000),
        (0x38, 0x1_ef53),
        (0x4c, 1),
        (0x58, 256),
        (0x5c, compatible),
        (0x60, incompatible),
        (0x64, read_only),
    ] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

#[test]
fn checksums_are_those_of_crc_32c() {
    assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
    let bytes = *b"12345\x006789";
    assert_eq!(crc32c_without(!0, b"12345x6789", 5..6), crc32c(!0, &bytes));
    assert_eq!(crc32c_without(7, b"abc", 0..3), crc32c(7, &[0; 3]));
}

#[test]
fn superblocks_that_make_no_sense_or_are_not_known_are_refused() {
    let good = superblock(0, 2, 0);
    assert!(Superblock::parse(&good).is_ok());
    let wrong: [(usize, u32); 8] =
        [(4, 0), (0x18, 7), (0x20, 0), (0x28, 0), (0x38, 0xef54), (0x58, 64), (0x58, 200), (0x58, 2048)];
    for (at, value) in wrong {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        assert!(matches!(Superblock::parse(&bytes), Err(TreeError::Damaged { .. })), "{at:#x} {value}");
    }
    for feature in [1, 8, 0x1000, 0x8000_0000] {
        let error = Superblock::parse(&superblock(0, feature, 0)).err();
        assert!(matches!(error, Some(TreeError::Unsupported { .. })), "{feature:#x}: {error:?}");
    }
    // With checksums, any change of any bit is noticed.
    let mut summed = superblock(0, 2, 0x400);
    summed[0x175] = 1;
    let sum = crc32c(!0, &summed[..0x3fc]);
    summed[0x3fc..].copy_from_slice(&sum.to_le_bytes());
    assert!(Superblock::parse(&summed).is_ok());
    for at in (0x100..0x3fc).step_by(5) {
        let mut bytes = summed.clone();
        bytes[at] ^= 0x10;
        assert!(Superblock::parse(&bytes).is_err(), "{at:#x}");
    }
}

/// A whole file system of one group, by hand: what is written wrong on purpose has its own places.
struct Hand(Vec<u8>);

const INODE_TABLE: usize = 5 * 1024;

impl Hand {
    fn new() -> Hand {
        let mut bytes = vec![0; 256 << 10];
        bytes[1024..2048].copy_from_slice(&superblock(0, 0x42, 0));
        bytes[1024..1028].copy_from_slice(&64_u32.to_le_bytes());
        bytes[1028..1032].copy_from_slice(&256_u32.to_le_bytes());
        // The descriptor of the only group: its inodes are from block 5 on.
        bytes[2048 + 8] = 5;
        let mut hand = Hand(bytes);
        hand.inode(2, 0o040_755, 1024, &extent(0, 1, 40));
        hand
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn inode(&mut self, number: usize, mode: u16, size: u32, map: &[u8]) {
        let at = INODE_TABLE + (number - 1) * 256;
        self.put(at, &mode.to_le_bytes());
        self.put(at + 4, &size.to_le_bytes());
        self.put(at + 0x20, &0x8_0000_u32.to_le_bytes());
        self.put(at + 0x28, map);
    }

    fn name(&mut self, at: usize, inode: u32, len: u16, name: &[u8]) {
        self.put(at, &inode.to_le_bytes());
        self.put(at + 4, &len.to_le_bytes());
        self.put(at + 6, &[name.len() as u8, 0]);
        self.put(at + 8, name);
    }

    fn open(&self) -> Ext<Vec<u8>> {
        Ext::open(self.0.clone()).unwrap()
    }
}

fn node(depth: u16, entries: &[[u8; 12]]) -> Vec<u8> {
    let mut bytes = 0xf30a_u16.to_le_bytes().to_vec();
    bytes.extend((entries.len() as u16).to_le_bytes());
    bytes.extend(4_u16.to_le_bytes());
    bytes.extend(depth.to_le_bytes());
    bytes.extend([0; 4]);
    entries.iter().for_each(|entry| bytes.extend(entry));
    bytes
}

fn leaf(first: u32, len: u16, place: u32) -> [u8; 12] {
    let mut entry = [0; 12];
    entry[..4].copy_from_slice(&first.to_le_bytes());
    entry[4..6].copy_from_slice(&len.to_le_bytes());
    entry[8..].copy_from_slice(&place.to_le_bytes());
    entry
}

fn index(first: u32, place: u32) -> [u8; 12] {
    let mut entry = [0; 12];
    entry[..4].copy_from_slice(&first.to_le_bytes());
    entry[4..8].copy_from_slice(&place.to_le_bytes());
    entry
}

fn extent(first: u32, len: u16, place: u32) -> Vec<u8> {
    node(0, &[leaf(first, len, place)])
}

fn runs_of(hand: &Hand, inode: u64) -> Result<Vec<(u64, u64, u64, bool)>, TreeError> {
    let mut runs = Vec::new();
    hand.open().extents(inode, &mut |run| {
        runs.push((run.offset / 1024, run.len_bytes / 1024, run.place / 1024, run.unwritten));
        true
    })?;
    Ok(runs)
}

#[test]
fn trees_of_extents_are_followed_and_adjoining_runs_are_one() {
    let mut hand = Hand::new();
    let root = node(1, &[index(0, 50), index(10, 51)]);
    hand.inode(12, 0o100_644, 40 * 1024, &root);
    hand.put(50 * 1024, &node(0, &[leaf(0, 2, 60), leaf(2, 3, 62), leaf(7, 1, 70)]));
    hand.put(51 * 1024, &node(0, &[leaf(10, 2, 80), leaf(20, 32768 + 4, 90)]));
    let wanted = [(0, 5, 60, false), (7, 1, 70, false), (10, 2, 80, false), (20, 4, 90, true)];
    assert_eq!(runs_of(&hand, 12).unwrap(), wanted);
    hand.put(70 * 1024, b"seventy");
    hand.put(90 * 1024, b"not to be seen");
    let tree = hand.open();
    let mut buf = [1; 16];
    assert_eq!(tree.read(12, 7 * 1024 - 4, &mut buf).unwrap(), 16);
    assert_eq!(&buf, b"\0\0\0\0seventy\0\0\0\0\0");
    assert_eq!(tree.read(12, 20 * 1024, &mut buf).unwrap(), 16);
    assert_eq!(buf, [0; 16]);
    assert_eq!(tree.read(12, 40 * 1024 - 3, &mut buf).unwrap(), 3);
}

#[test]
fn trees_of_extents_that_contradict_themselves_end_with_an_error() {
    let cases: [(&str, Vec<u8>, Vec<u8>); 8] = [
        ("backwards", node(1, &[index(0, 50)]), node(0, &[leaf(5, 2, 60), leaf(3, 1, 70)])),
        ("overlapping", node(1, &[index(0, 50)]), node(0, &[leaf(0, 9, 60), leaf(3, 1, 70)])),
        (
            "outside of the node",
            node(1, &[index(0, 50), index(4, 50)]),
            node(0, &[leaf(0, 1, 60), leaf(5, 1, 61)]),
        ),
        ("a node in itself", node(1, &[index(0, 50)]), node(1, &[index(0, 50)])),
        ("outside of the volume", node(1, &[index(0, 50)]), node(0, &[leaf(0, 2, 255)])),
        ("empty", node(1, &[index(0, 50)]), node(0, &[leaf(0, 0, 60)])),
        ("node outside", node(1, &[index(0, 256)]), Vec::new()),
        ("out of order", node(1, &[index(4, 50), index(4, 51)]), node(0, &[leaf(4, 1, 60)])),
    ];
    for (what, root, child) in cases {
        let mut hand = Hand::new();
        hand.inode(12, 0o100_644, 40 * 1024, &root);
        hand.put(50 * 1024, &child);
        let found = runs_of(&hand, 12);
        assert!(matches!(found, Err(TreeError::Damaged { inode: 12, .. })), "{what}: {found:?}");
    }
}

#[test]
fn a_cycle_of_directories_is_walked_once_and_told() {
    let mut hand = Hand::new();
    hand.name(40 * 1024, 12, 1024, b"down");
    hand.inode(12, 0o040_755, 1024, &extent(0, 1, 41));
    hand.name(41 * 1024, 2, 512, b"up");
    hand.name(41 * 1024 + 512, 12, 512, b"self");
    let (mut names, mut refused) = (Vec::new(), Vec::new());
    let whole = crate::walk(&hand.open(), crate::Limits::default(), &mut |step| {
        match step {
            crate::Step::Name(path, _) => names.push(path.to_vec()),
            crate::Step::NotEntered(path, _) => refused.push(path.to_vec()),
            crate::Step::Unreadable(path, error) => panic!("{path:?}: {error}"),
        }
        true
    });
    assert!(whole.unwrap());
    assert_eq!(names, [&b"/down"[..], b"/down/up", b"/down/self"]);
    assert_eq!(refused, [&b"/down/up"[..], b"/down/self"]);
    let limits = crate::Limits { entries_max: 2, ..crate::Limits::default() };
    let mut seen = 0;
    let whole = crate::walk(&hand.open(), limits, &mut |step| {
        seen += usize::from(matches!(step, crate::Step::Name(..)));
        true
    });
    assert_eq!((seen, whole.unwrap()), (2, false));
}

#[test]
fn a_name_that_says_it_is_a_file_hides_no_directory() {
    let mut hand = Hand::new();
    hand.name(40 * 1024, 12, 1024, b"plain");
    hand.put(40 * 1024 + 7, &[1]);
    hand.inode(12, 0o040_755, 1024, &extent(0, 1, 41));
    hand.name(41 * 1024, 13, 1024, b"within");
    hand.put(41 * 1024 + 7, &[2]);
    hand.inode(13, 0o100_644, 0, &[]);
    let mut seen = Vec::new();
    let whole = crate::walk(&hand.open(), crate::Limits::default(), &mut |step| {
        let crate::Step::Name(path, entry) = step else { panic!("{step:?}") };
        seen.push((path.to_vec(), entry.kind));
        true
    });
    assert!(whole.unwrap());
    let wanted = [(&b"/plain"[..], FileKind::Directory), (b"/plain/within", FileKind::Regular)];
    assert_eq!(seen, wanted.map(|(path, kind)| (path.to_vec(), kind)));
}

#[test]
fn a_second_has_no_more_than_a_thousand_million_nanoseconds() {
    let mut hand = Hand::new();
    hand.inode(12, 0o100_644, 0, &[]);
    let at = INODE_TABLE + 11 * 256;
    hand.put(at + 0x80, &32_u16.to_le_bytes());
    hand.put(at + 0x88, &u32::MAX.to_le_bytes());
    let nanos = hand.open().metadata(12).unwrap().modified.nanos;
    assert_eq!(nanos, 999_999_999);
}

/// A volume that counts what is read of it.
struct Counted(Vec<u8>, AtomicU64);

impl Blocks for &Counted {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.0.read_at(offset, buf)
    }
}

/// A file without extents whose map of three levels leads to the same block again and again.
fn with_endless_map(hand: &mut Hand, inode: usize, mode: u16) {
    let mut map = [0; 60];
    map[56] = 50;
    hand.inode(inode, mode, u32::MAX, &map);
    hand.put(INODE_TABLE + (inode - 1) * 256 + 0x20, &0_u32.to_le_bytes());
    for pointer in 0..256 {
        hand.put(50 * 1024 + pointer * 4, &51_u32.to_le_bytes());
        hand.put(51 * 1024 + pointer * 4, &52_u32.to_le_bytes());
    }
}

#[test]
fn a_map_that_leads_to_the_same_blocks_again_and_again_ends_with_the_volume() {
    for last in [0, 60_u32] {
        let mut hand = Hand::new();
        with_endless_map(&mut hand, 12, 0o100_644);
        for pointer in 0..256 {
            hand.put(52 * 1024 + pointer * 4, &last.to_le_bytes());
        }
        let counted = Counted(hand.0, AtomicU64::new(0));
        let tree = Ext::open(&counted).unwrap();
        let found = tree.extents(12, &mut |_| true);
        assert!(matches!(found, Err(TreeError::TooLarge { inode: 12, .. })), "{found:?}");
        let read = counted.1.load(Ordering::Relaxed);
        assert!(read < 300 << 10, "{read} bytes were read");
    }
}

#[test]
fn a_walk_reads_no_more_than_its_limits_allow_whatever_is_asked_meanwhile() {
    let mut hand = Hand::new();
    hand.put(40 * 1024, &[0; 1024]);
    for i in 0..40 {
        hand.name(
            40 * 1024 + i * 24,
            12 + i as u32 % 50,
            if i == 39 { 88 } else { 24 },
            format!("n{i}").as_bytes(),
        );
        with_endless_map(&mut hand, 12 + i, if i % 2 == 0 { 0o100_644 } else { 0o040_755 });
    }
    let counted = Counted(hand.0, AtomicU64::new(0));
    let tree = Ext::open(&counted).unwrap();
    let limits = crate::Limits { read_bytes_max: 4 << 20, ..crate::Limits::default() };
    let mut exhausted = 0;
    let whole = crate::walk(&tree, limits, &mut |step| {
        if let crate::Step::Name(_, entry) = step {
            let found = tree.extents(entry.inode, &mut |_| true);
            exhausted += usize::from(matches!(found, Err(TreeError::Exhausted)));
        }
        true
    });
    assert!(!whole.unwrap() && exhausted > 0, "{exhausted}");
    let read = counted.1.load(Ordering::Relaxed);
    assert!(read < 2 << 20, "{read} bytes were read");
    // Afterwards there is no limit any more.
    assert!(matches!(tree.extents(12, &mut |_| true), Err(TreeError::TooLarge { .. })));
}

#[test]
fn blocks_behind_the_end_of_the_volume_are_outside_whatever_the_superblock_says() {
    let mut hand = Hand::new();
    hand.put(1028, &u32::MAX.to_le_bytes());
    hand.inode(12, 0o100_644, 4096, &extent(0, 2, 255));
    let found = runs_of(&hand, 12);
    assert!(matches!(found, Err(TreeError::Damaged { inode: 12, .. })), "{found:?}");
}

/// A journal of 1024 blocks of 1 KiB from block 60 on, in a file whose map goes on for ever.
fn with_journal(length: u32, start: u32) -> Hand {
    let mut hand = Hand::new();
    hand.put(1024 + 0x5c, &4_u32.to_le_bytes());
    hand.put(1024 + 0x60, &0x46_u32.to_le_bytes());
    hand.put(1024 + 0xe0, &8_u32.to_le_bytes());
    with_endless_map(&mut hand, 8, 0o100_600);
    for i in 0..12 {
        hand.put(INODE_TABLE + 7 * 256 + 0x28 + i * 4, &(60 + i as u32).to_le_bytes());
    }
    hand.put(60 * 1024, &journal::MAGIC.to_be_bytes());
    for (at, value) in [(4, 4), (0xc, 1024), (0x10, length), (0x14, 1), (0x18, 7), (0x1c, start)] {
        hand.put(60 * 1024 + at, &u32::to_be_bytes(value));
    }
    hand
}

#[test]
fn no_more_of_a_journal_is_mapped_than_its_superblock_says() {
    for (length, start) in [(10, 0), (10, 3)] {
        let counted = Counted(with_journal(length, start).0, AtomicU64::new(0));
        assert_eq!(Ext::open(&counted).map(|tree| tree.replay()).ok(), Some(Replay::default()));
        let read = counted.1.load(Ordering::Relaxed);
        assert!(read < 8 << 10, "{read} bytes were read");
    }
    // Longer than the volume.
    let counted = Counted(with_journal(300, 3).0, AtomicU64::new(0));
    assert!(matches!(Ext::open(&counted).err(), Some(TreeError::Damaged { inode: 8, .. })));
    let read = counted.1.load(Ordering::Relaxed);
    assert!(read < 8 << 10, "{read} bytes were read");
}

#[test]
fn names_that_make_no_sense_are_damage() {
    for (len, name) in [(7, &b"x"[..]), (1028, b"x"), (1024, b""), (1024, b"a/b"), (1024, b"a\0b"), (8, b"x")]
    {
        let mut hand = Hand::new();
        hand.name(40 * 1024, 12, len, name);
        let found = hand.open().entries(2, &mut |_| true);
        assert!(matches!(found, Err(TreeError::Damaged { inode: 2, .. })), "{len} {name:?}: {found:?}");
    }
}

#[test]
fn inodes_that_are_not_there_are_errors() {
    let hand = Hand::new();
    let tree = hand.open();
    for number in [0, 65, u64::from(u32::MAX), u64::MAX] {
        assert!(matches!(tree.metadata(number), Err(TreeError::Damaged { .. })), "{number}");
    }
    assert!(tree.metadata(64).is_ok());
    assert_eq!(le32(&hand.0, 1024), 64);
}

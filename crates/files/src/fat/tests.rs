use super::*;
use crate::{Limits, Step, walk};

/// A FAT12 by hand: 97 clusters of 512 bytes behind a root of 16 entries.
struct Hand(Vec<u8>);

const TABLE: usize = 512;
const ROOT_AT: usize = 1024;
const HEAP: usize = 1536;

impl Hand {
    fn new() -> Hand {
        let mut hand = Hand(vec![0; 100 * 512]);
        hand.put(0, b"\xeb\x3c\x90");
        hand.put(11, &[0, 2, 1, 1, 0, 1, 16, 0, 100, 0, 0xf8, 1, 0]);
        hand
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn link(&mut self, cluster: usize, next: u16) {
        let at = TABLE + cluster * 3 / 2;
        let pair = u16::from_le_bytes([self.0[at], self.0[at + 1]]);
        let pair = if cluster % 2 == 1 { pair & 15 | next << 4 } else { pair & 0xf000 | next };
        self.put(at, &pair.to_le_bytes());
    }

    /// Puts an entry at a place; returns its number as an inode.
    fn entry(&mut self, at: usize, name: &[u8; 11], attributes: u8, first: u16, size: u32) -> u64 {
        self.put(at, name);
        self.put(at + 11, &[attributes]);
        self.put(at + 26, &first.to_le_bytes());
        self.put(at + 28, &size.to_le_bytes());
        at as u64 / 32
    }

    /// Puts the parts of a long name of up to 26 units at a place.
    fn long(&mut self, at: usize, name: &str, short: &[u8; 11]) {
        let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        let mut units: Vec<u16> = name.encode_utf16().chain([0]).collect();
        units.resize(26, 0xffff);
        for (i, order) in [(0, 0x42), (1, 1)] {
            let part = &units[(1 - i) * 13..][..13];
            self.put(at + i * 32, &[order]);
            self.put(at + i * 32 + 11, &[0x0f, 0, sum]);
            for (unit, place) in part.iter().zip([1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30]) {
                self.put(at + i * 32 + place, &unit.to_le_bytes());
            }
        }
    }

    fn open(&self) -> Fat<Vec<u8>> {
        Fat::open(self.0.clone()).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let tree = self.open();
        tree.entries(tree.root(), &mut |entry| {
            names.push(String::from_utf8(entry.name).unwrap());
            true
        })
        .unwrap();
        names
    }
}

#[test]
fn chains_are_followed_and_what_adjoins_is_one_run() {
    let mut hand = Hand::new();
    for (cluster, next) in [(5, 6), (6, 7), (7, 20), (20, 21), (21, 0xfff)] {
        hand.link(cluster, next);
    }
    let inode = hand.entry(ROOT_AT, b"A       BIN", 0, 5, 2300);
    let content: Vec<u8> = (0..2300).map(|i| (i % 251) as u8).collect();
    hand.put(HEAP + 3 * 512, &content[..1536]);
    hand.put(HEAP + 18 * 512, &content[1536..]);
    let tree = hand.open();
    let mut runs = Vec::new();
    tree.extents(inode, &mut |run| {
        runs.push((run.offset, run.len_bytes, run.place as usize));
        true
    })
    .unwrap();
    assert_eq!(runs, [(0, 1536, HEAP + 3 * 512), (1536, 1024, HEAP + 18 * 512)]);
    // In any order, in pieces of any length.
    for (at, len) in [(0, 2300), (1500, 100), (100, 5), (2299, 10), (600, 1700), (0, 1), (2300, 5)] {
        let mut buf = vec![0xaa; len];
        let got = tree.read(inode, at as u64, &mut buf).unwrap();
        assert_eq!(buf[..got], content[at..content.len().min(at + len)], "{len} at {at}");
    }
}

#[test]
fn chains_that_contradict_themselves_end_with_an_error() {
    for (what, links, first, size) in [
        ("returns to itself", &[(5, 6), (6, 5)][..], 5, 60_000),
        ("is longer than the volume", &[(5, 5)], 5, 50_000),
        ("ends too early", &[(5, 6), (6, 0xfff)], 5, 1025),
        ("leads to a free cluster", &[(5, 0)], 5, 1000),
        ("leads outside", &[(5, 99)], 5, 1000),
        ("is marked as bad", &[(5, 0xff7)], 5, 1000),
        ("begins outside", &[], 99, 1),
        ("begins nowhere", &[], 0, 1),
    ] {
        let mut hand = Hand::new();
        links.iter().for_each(|(cluster, next)| hand.link(*cluster, *next));
        let inode = hand.entry(ROOT_AT, b"A       BIN", 0, first, size);
        let found = hand.open().extents(inode, &mut |_| true);
        assert!(matches!(found, Err(TreeError::Damaged { .. })), "{what}: {found:?}");
        // A directory has no length of its own.
        if what != "ends too early" {
            let inode = hand.entry(ROOT_AT + 32, b"D          ", 0x10, first, 0);
            hand.put(HEAP + 3 * 512, &[DELETED; 1024]);
            let found = hand.open().entries(inode, &mut |_| true);
            assert!(matches!(found, Err(TreeError::Damaged { .. })), "{what}: {found:?}");
        }
    }
}

const DELETED: u8 = 0xe5;

#[test]
fn long_names_count_where_they_belong_to_their_entry_and_deleted_ones_do_not() {
    let mut hand = Hand::new();
    let short = b"LONGNA~1TXT";
    hand.entry(ROOT_AT, b"LABEL      ", 8, 0, 0);
    hand.long(ROOT_AT + 32, "Ein längerer Name.txt", short);
    hand.entry(ROOT_AT + 96, short, 0, 0, 0);
    hand.long(ROOT_AT + 128, "belongs to no other", short);
    hand.entry(ROOT_AT + 192, b"OTHER   TXT", 0, 0, 0);
    hand.entry(ROOT_AT + 224, b"\xe5ONE    TXT", 0, 0, 0);
    hand.entry(ROOT_AT + 256, b"\x05\x84\x99     X  ", 0, 0, 0);
    hand.entry(ROOT_AT + 288, b"LOWER   EXT", 0, 0, 0);
    hand.put(ROOT_AT + 288 + 12, &[0x18]);
    hand.entry(ROOT_AT + 352, b"BEHIND  END", 0, 0, 0);
    assert_eq!(hand.names(), ["Ein längerer Name.txt", "OTHER.TXT", "σäÖ.X", "lower.ext"]);
    let tree = hand.open();
    assert_eq!(tree.find(b"/EIN L\xc3\x84NGERER name.TXT").unwrap(), (ROOT_AT as u64 + 96) / 32);
    hand.entry(ROOT_AT + 192, b"A/B        ", 0, 0, 0);
    let found = hand.open().entries(ROOT, &mut |_| true);
    assert!(matches!(found, Err(TreeError::Damaged { .. })), "{found:?}");
}

#[test]
fn only_places_that_can_hold_entries_are_files() {
    let mut hand = Hand::new();
    hand.put(64, &[0x41; 32]);
    let tree = hand.open();
    for inode in [0, 2, HEAP as u64 / 32, 99 * 512 / 32, 100 * 512 / 32, u64::MAX / 32, u64::MAX] {
        assert!(matches!(tree.metadata(inode), Err(TreeError::Damaged { .. })), "{inode}");
    }
    assert_eq!(tree.metadata(ROOT).unwrap().size_bytes, 512);
}

#[test]
fn a_cycle_of_directories_is_walked_once() {
    let mut hand = Hand::new();
    hand.link(5, 0xfff);
    hand.entry(ROOT_AT, b"D          ", 0x10, 5, 0);
    hand.entry(HEAP + 3 * 512, b".          ", 0x10, 5, 0);
    hand.entry(HEAP + 3 * 512 + 32, b"AGAIN      ", 0x10, 5, 0);
    let mut names = 0;
    let limits = Limits { depth_max: 50, ..Limits::default() };
    let whole = walk(&hand.open(), limits, &mut |step| {
        names += usize::from(matches!(step, Step::Name(..)));
        true
    });
    assert!(whole.unwrap());
    assert_eq!(names, 3, "the entry within is another one than that in the root, and is entered once");
}

/// An exFAT by hand: 60 clusters of 512 bytes from sector 32 on, with the root in the first one.
fn exfat() -> Vec<u8> {
    let mut bytes = vec![0; 92 * 512];
    bytes[3..11].copy_from_slice(b"EXFAT   ");
    for (at, value) in [(72, 92_u32), (80, 24), (84, 4), (88, 32), (92, 60), (96, 2)] {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    bytes[108..111].copy_from_slice(&[9, 0, 1]);
    bytes[24 * 512 + 8..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let summed = (0..11 * 512).filter(|at| !matches!(at, 106 | 107 | 112));
    let sum = summed.fold(0_u32, |sum, at| sum.rotate_right(1).wrapping_add(u32::from(bytes[at])));
    for at in (11 * 512..12 * 512).step_by(4) {
        bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    }
    bytes
}

/// A file in the root whose name is one letter.
fn exfat_file(bytes: &mut [u8], at: usize, first: u32, (written, len): (u64, u64), flags: u8) {
    let mut set = [0; 96];
    set[..2].copy_from_slice(&[0x85, 2]);
    (set[32], set[33], set[35]) = (0xc0, flags, 1);
    set[40..48].copy_from_slice(&written.to_le_bytes());
    set[52..56].copy_from_slice(&first.to_le_bytes());
    set[56..64].copy_from_slice(&len.to_le_bytes());
    (set[64], set[66]) = (0xc1, b'f');
    let summed = (0..96).filter(|at| !matches!(at, 2 | 3));
    let sum = summed.fold(0_u16, |sum, at| sum.rotate_right(1).wrapping_add(u16::from(set[at])));
    set[2..4].copy_from_slice(&sum.to_le_bytes());
    bytes[at..at + 96].copy_from_slice(&set);
}

#[test]
fn what_an_exfat_has_reserved_and_not_written_reads_as_zeroes() {
    let mut bytes = exfat();
    exfat_file(&mut bytes, 32 * 512, 5, (600, 2000), 3);
    bytes[35 * 512..39 * 512].fill(7);
    let tree = Fat::open(bytes.clone()).unwrap();
    let inode = tree.find(b"f").unwrap();
    let mut buf = [1; 2100];
    assert_eq!(tree.read(inode, 0, &mut buf).unwrap(), 2000);
    assert!(buf[..600].iter().all(|byte| *byte == 7) && buf[600..2000].iter().all(|byte| *byte == 0));
    let mut runs = Vec::new();
    tree.extents(inode, &mut |run| {
        runs.push((run.offset, run.len_bytes, run.place, run.unwritten));
        true
    })
    .unwrap();
    assert_eq!(runs, [(0, 600, 35 * 512, false), (600, 1448, 35 * 512 + 600, true)]);
    // A changed bit of its entries is noticed where they are asked for.
    bytes[32 * 512 + 40] ^= 1;
    let tree = Fat::open(bytes).unwrap();
    assert!(matches!(tree.metadata(inode), Err(TreeError::Damaged { .. })));
}

#[test]
fn lengths_of_an_exfat_that_make_no_sense_are_damage() {
    for (first, sizes, flags) in [
        (5, (10, 9), 3),
        (5, (0, u64::MAX), 3),
        (5, (61 * 512, 61 * 512), 3),
        (50, (20 * 512, 20 * 512), 3),
        (62, (1, 1), 3),
        (1, (1, 1), 1),
        (5, (600, 600), 1),
    ] {
        let mut bytes = exfat();
        exfat_file(&mut bytes, 32 * 512, first, sizes, flags);
        let tree = Fat::open(bytes).unwrap();
        let found = tree.extents(32 * 16, &mut |_| true);
        assert!(matches!(found, Err(TreeError::Damaged { .. })), "{first} {sizes:?}: {found:?}");
    }
    let mut bytes = exfat();
    bytes[200] ^= 1;
    assert!(matches!(Fat::open(bytes).err(), Some(TreeError::Damaged { inode: 0, .. })));
}

#[test]
fn moments_are_those_of_the_calendar() {
    for (date, time, hundredths, seconds, nanos) in [
        (0x21, 0, 0, 315_532_800, 0),
        (0, 0, 0, 315_532_800, 0),
        ((20 << 9) | (2 << 5) | 29, (23 << 11) | (59 << 5) | 29, 199, 951_868_799, 990_000_000),
        ((127 << 9) | (12 << 5) | 31, 0, 5, 4_354_732_800, 50_000_000),
    ] {
        assert_eq!(time::moment(date, time, hundredths), FileTime { seconds, nanos }, "{date:#x}");
    }
    let stamp = 0x21_0000;
    assert_eq!(time::with_offset(stamp, 0, 0x80 | 4).seconds, 315_532_800 - 3600);
    assert_eq!(time::with_offset(stamp, 0, 0x80 | 0x7c).seconds, 315_532_800 + 3600);
    assert_eq!(time::with_offset(stamp, 0, 4).seconds, 315_532_800);
}

/// A volume that counts what is read of it.
struct Counted(Vec<u8>, std::sync::atomic::AtomicU64);

impl Blocks for &Counted {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), crate::ReadError> {
        self.1.fetch_add(buf.len() as u64, std::sync::atomic::Ordering::Relaxed);
        self.0.read_at(offset, buf)
    }
}

#[test]
fn a_walk_over_directories_that_share_their_clusters_reads_no_more_than_its_limits_allow() {
    let mut hand = Hand::new();
    // Each directory is a chain of 80 clusters, and each of their entries is such a directory again.
    for cluster in 5..84 {
        hand.link(cluster, cluster as u16 + 1);
    }
    hand.link(84, 0xfff);
    hand.entry(ROOT_AT, b"D          ", 0x10, 5, 0);
    for at in (HEAP + 3 * 512..HEAP + 83 * 512).step_by(32) {
        hand.entry(at, b"AGAIN      ", 0x10, 5, 0);
    }
    let counted = Counted(hand.0, std::sync::atomic::AtomicU64::new(0));
    let tree = Fat::open(&counted).unwrap();
    let limits = Limits { read_bytes_max: 4 << 20, ..Limits::default() };
    let mut names = 0;
    let whole = walk(&tree, limits, &mut |step| {
        names += usize::from(matches!(step, Step::Name(..)));
        true
    });
    assert!(!whole.unwrap() && names > 50, "{names}");
    let read = counted.1.load(std::sync::atomic::Ordering::Relaxed);
    assert!(read < 8 << 20, "{read} bytes were read");
}

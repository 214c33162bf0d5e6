use super::{
    compression::EXTENT_BYTES_MAX,
    sums::{FIELD_BYTES, Sums},
    *,
};
use crate::{Limits, Step, crc::crc32c, walk};

const NODE: usize = 4096;
/// Where the one chunk lies, on the device as in the file system.
const CHUNK: usize = 1 << 20;
const ID: [u8; 16] = *b"a file system...";
const DEVICE: [u8; 16] = *b"a device of it..";
const HEADER: usize = 101;
const ITEM: usize = 25;

type Item = ((u64, u8, u64), Vec<u8>);

/// A btrfs by hand: one chunk, in which the trees have one leaf each.
struct Hand(Vec<u8>);

impl Hand {
    fn new(files: &[Item]) -> Hand {
        let mut hand = Hand(vec![0; 2 * CHUNK]);
        let mut chunk = Vec::new();
        for number in [CHUNK as u64, 2, 64 << 10, 0b111] {
            chunk.extend(number.to_le_bytes());
        }
        chunk.resize(44, 0);
        chunk.extend([1, 0, 0, 0]);
        chunk.extend([1_u64.to_le_bytes(), (CHUNK as u64).to_le_bytes()].concat());
        chunk.extend(DEVICE);
        let key = (256, 228, CHUNK as u64);
        for (at, bytes) in [(0x20, &ID[..]), (0x40, b"_BHRfS_M"), (0x10b, &DEVICE)] {
            hand.put_superblock(at, bytes);
        }
        for (at, number) in [
            (0x30, superblock::PLACE),
            (0x48, 7),
            (0x50, CHUNK as u64 + 4096),
            (0x58, CHUNK as u64),
            (0x80, 6),
            (0x88, 1),
            (0x90, 4096 | 4096 << 32),
            (0xa4, 7),
            (0xc9, 1),
        ] {
            hand.put_superblock(at, &u64::to_le_bytes(number));
        }
        hand.put_superblock(0xa0, &((17 + chunk.len()) as u32).to_le_bytes());
        hand.put_superblock(0x32b, &[&key_bytes(key)[..], &chunk].concat());
        hand.leaf(CHUNK, 3, &[(key, chunk)]);
        let mut root = vec![0; 439];
        root[160..168].copy_from_slice(&7_u64.to_le_bytes());
        root[176..184].copy_from_slice(&(CHUNK as u64 + 8192).to_le_bytes());
        root[216] = 1;
        hand.leaf(CHUNK + 4096, 1, &[((5, 132, 0), root)]);
        hand.leaf(CHUNK + 8192, 5, files);
        hand.repair();
        hand
    }

    fn put_superblock(&mut self, at: usize, bytes: &[u8]) {
        let at = superblock::PLACE as usize + at;
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn leaf(&mut self, place: usize, tree: u64, items: &[Item]) {
        let node = &mut self.0[place..place + NODE];
        node[32..48].copy_from_slice(&ID);
        for (at, number) in [(48, place as u64), (80, 7), (88, tree), (96, items.len() as u64)] {
            node[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        node[100] = 0;
        let mut end = NODE - HEADER;
        for (i, (key, bytes)) in items.iter().enumerate() {
            end -= bytes.len();
            let at = HEADER + i * ITEM;
            node[at..at + 17].copy_from_slice(&key_bytes(*key));
            node[at + 17..at + 21].copy_from_slice(&(end as u32).to_le_bytes());
            node[at + 21..at + 25].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
            node[HEADER + end..HEADER + end + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Makes all checksums hold.
    fn repair(&mut self) {
        for at in [CHUNK, CHUNK + 4096, CHUNK + 8192, superblock::PLACE as usize] {
            let bytes = &mut self.0[at..at + NODE];
            let sum = !crc32c(!0, &bytes[FIELD_BYTES..]);
            bytes[..4].copy_from_slice(&sum.to_le_bytes());
        }
    }
}

fn key_bytes((object, kind, offset): (u64, u8, u64)) -> Vec<u8> {
    [&object.to_le_bytes()[..], &[kind], &offset.to_le_bytes()].concat()
}

fn inode(object: u64, mode: u32, size: u64) -> Item {
    let mut item = vec![0; 160];
    item[16..24].copy_from_slice(&size.to_le_bytes());
    item[40] = 1;
    item[52..56].copy_from_slice(&mode.to_le_bytes());
    // Without checksums of content.
    item[64] = 1;
    ((object, 1, 0), item)
}

fn name(directory: u64, index: u64, object: u64, name: &[u8]) -> Item {
    let location = key_bytes((object, 1, 0));
    let item = [&location[..], &[0; 8], &[0, 0, name.len() as u8, 0, 1], name].concat();
    ((directory, 96, index), item)
}

fn inline(object: u64, compression: u8, whole: u64, bytes: &[u8]) -> Item {
    let item = [&[0; 8][..], &whole.to_le_bytes(), &[compression, 0, 0, 0, 0], bytes].concat();
    ((object, 108, 0), item)
}

fn stored(object: u64, offset: u64, numbers: [u64; 4], kind: u8, compression: u8) -> Item {
    let numbers = numbers.map(u64::to_le_bytes).concat();
    let item = [&[0; 8][..], &8192_u64.to_le_bytes(), &[compression, 0, 0, 0, kind], &numbers].concat();
    ((object, 108, offset), item)
}

fn files() -> Vec<Item> {
    let data = CHUNK as u64 + 65536;
    let attribute = [&key_bytes((0, 0, 0))[..], &[0; 8], &[5, 0, 6, 0, 8], b"user.a", b"value"].concat();
    vec![
        inode(256, 0o40_755, 0),
        ((256, 24, 99), attribute),
        name(256, 2, 257, b"inline"),
        name(256, 3, 258, b"stored"),
        name(256, 4, 259, b"lzo"),
        name(256, 5, 260, b"link"),
        inode(257, 0o100_644, 5),
        inline(257, 0, 5, b"short"),
        inode(258, 0o100_600, 30_000),
        stored(258, 0, [data, 8192, 4096, 4096], 1, 0),
        stored(258, 8192, [data, 8192, 0, 8192], 2, 0),
        inode(259, 0o100_644, 24),
        inline(259, 2, 24, &lzo()),
        inode(260, 0o120_777, 6),
        inline(260, 0, 6, b"inline"),
    ]
}

/// "abcd" six times.
fn lzo() -> Vec<u8> {
    // Four literals, a match of 20 bytes at distance 4, the end.
    let stream = [17 + 4, b'a', b'b', b'c', b'd', 0x20 | 18, 3 << 2, 0, 0x11, 0, 0];
    [&((stream.len() + 8) as u32).to_le_bytes()[..], &(stream.len() as u32).to_le_bytes(), &stream].concat()
}

fn random(seed: &mut u64) -> usize {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as usize
}

#[test]
fn what_was_made_by_hand_is_read() {
    let mut hand = Hand::new(&files());
    hand.0[CHUNK + 65536..CHUNK + 65536 + 8192].fill(b'z');
    let tree = Btrfs::open(hand.0).unwrap();
    let read = |path: &[u8]| {
        let mut bytes = vec![1; 40_000];
        let len = tree.read(tree.find(path).unwrap(), 0, &mut bytes).unwrap();
        bytes.truncate(len);
        bytes
    };
    assert_eq!(read(b"/inline"), b"short");
    assert_eq!(read(b"/lzo"), b"abcd".repeat(6));
    let stored = read(b"/stored");
    assert!(stored.len() == 30_000 && stored[..4096].iter().all(|byte| *byte == b'z'));
    assert!(stored[4096..].iter().all(|byte| *byte == 0));
    assert_eq!(tree.link_target(tree.find(b"link").unwrap()).unwrap(), b"inline");
    assert_eq!(tree.attributes(tree.root()).unwrap(), [(b"user.a".to_vec(), b"value".to_vec())]);
    let mut extents = Vec::new();
    tree.extents(tree.find(b"stored").unwrap(), &mut |extent| {
        extents.push((extent.offset, extent.len_bytes, extent.place, extent.unwritten));
        true
    })
    .unwrap();
    let data = CHUNK as u64 + 65536;
    assert_eq!(extents, [(0, 4096, data + 4096, false), (8192, 8192, data, true)]);
}

#[test]
fn what_is_not_read_is_refused_by_name() {
    for (at, bytes, wanted) in [
        (0xbc, &(1_u64 << 12 | 1 << 13).to_le_bytes()[..], "zoned, extent-tree-v2"),
        (0xbc, &(1_u64 << 14).to_le_bytes(), "raid-stripe-tree"),
        (0xbc, &(1_u64 << 40).to_le_bytes(), "bit 40"),
        (0x10b, b"another device..", "devices"),
        (0x38, &(1_u64 << 40).to_le_bytes(), "being changed"),
    ] {
        let mut hand = Hand::new(&files());
        hand.put_superblock(at, bytes);
        if wanted == "devices" {
            hand.put_superblock(0x88, &[2]);
        }
        hand.repair();
        match Btrfs::open(hand.0).map(|_| ()) {
            Err(TreeError::Unsupported { what }) => assert!(what.contains(wanted), "{what}"),
            other => panic!("{wanted}: {other:?}"),
        }
    }
}

#[test]
fn a_superblock_whose_sum_does_not_hold_does_not_count() {
    let mut hand = Hand::new(&files());
    hand.put_superblock(0x12b, b"a label");
    assert!(matches!(Btrfs::open(hand.0).map(|_| ()), Err(TreeError::Damaged { .. })));
}

/// Numbers that hold their checksums and make no sense otherwise.
#[test]
fn damage_under_sums_that_hold_costs_errors_and_nothing_else() {
    let good = Hand::new(&files());
    let superblock = superblock::PLACE as usize;
    let used: Vec<usize> = (0..good.0.len()).filter(|at| good.0[*at] != 0).collect();
    let (mut seed, mut opened, mut names) = (4711, 0, 0);
    for round in 0..6000 {
        let mut hand = Hand(good.0.clone());
        for _ in 0..=random(&mut seed) % 4 {
            let near = used[random(&mut seed) % used.len()] + random(&mut seed) % 9;
            let at = if round % 3 == 0 { superblock + random(&mut seed) % 0x400 } else { near };
            hand.0[at] = [0, 0xff, random(&mut seed) as u8, 1][random(&mut seed) % 4];
        }
        hand.repair();
        let Ok(tree) = Btrfs::open(hand.0) else { continue };
        opened += 1;
        let limits =
            Limits { entries_max: 1000, depth_max: 20, path_bytes_max: 4096, read_bytes_max: 8 << 20 };
        let mut buf = vec![0; 100_000];
        walk(&tree, limits, &mut |step| {
            if let Step::Name(_, entry) = step {
                names += 1;
                let _ = (tree.attributes(entry.inode), tree.link_target(entry.inode));
                let _ = tree.extents(entry.inode, &mut |extent| extent.len_bytes > 0);
                for at in [0, 5000, 1 << 40, i64::MAX as u64, u64::MAX] {
                    let _ = tree.read(entry.inode, at, &mut buf);
                }
            }
            true
        })
        .unwrap();
    }
    assert!(opened > 2000 && names > 5000, "{opened} opened, {names} names");
}

#[test]
fn nothing_compressed_makes_more_than_was_asked_for() {
    let zlib = [0x78, 0x9c, 0x4b, 0x4c, 0x4a, 0x4e, 0x49, 0x24, 0x02, 0x00, 0x6d, 0x6d, 0x09, 0x31];
    let zstd = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x05, 0x29, 0x00, 0x00, b's', b'h', b'o', b'r', b't'];
    assert_eq!(Compression::Zstd.decode(&zstd, 100, 4096).unwrap(), b"short");
    assert_eq!(Compression::Lzo.decode(&lzo(), 10, 4096).unwrap(), b"abcdabcdab");
    assert!(Compression::Zstd.decode(&zstd, EXTENT_BYTES_MAX + 1, 4096).is_none());
    let mut seed = 1;
    for _ in 0..20_000 {
        for (kind, good) in
            [(Compression::Zlib, &zlib[..]), (Compression::Zstd, &zstd), (Compression::Lzo, &lzo())]
        {
            let mut bytes = good.to_vec();
            for _ in 0..=random(&mut seed) % 3 {
                let at = random(&mut seed) % bytes.len();
                bytes[at] = random(&mut seed) as u8;
            }
            let len = random(&mut seed) % 5000;
            assert!(kind.decode(&bytes, len, 4096).is_none_or(|out| out.len() <= len));
        }
    }
}

#[test]
fn the_sums_are_those_of_their_definitions() {
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    };
    for (number, sum) in
        [(0, "839206e3"), (2, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225")]
    {
        let sums = Sums::of_number(number).unwrap();
        assert!(sums.holds(b"123456789", &hex(sum)) && !sums.holds(b"123456788", &hex(sum)), "{sums:?}");
    }
    assert!(Sums::of_number(4).is_none());
}

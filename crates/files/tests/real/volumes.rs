use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use bygone_files::{Blocks, Kind, State, recognise, survey};

use crate::image::{Image, Mounted, blank, can_mount, patch, run, scratch, text};

fn look(path: &Path) -> (Kind, State, String) {
    recognise(&Image::open(path)).unwrap()
}

#[track_caller]
fn expect(path: &Path, kind: Kind, state: State) {
    let (found, how, evidence) = look(path);
    assert_eq!((found, how), (kind, state), "{evidence}");
}

fn write_and_sync(folder: &Path, name: &str) {
    let mut file = File::create(folder.join(name)).unwrap();
    file.write_all(&[7; 10_000]).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn ext_says_that_it_is_mounted_until_it_is_unmounted() {
    let folder = scratch();
    for (name, kind, options) in [
        ("ext2", Kind::Ext2, &["-t", "ext2"][..]),
        ("ext3", Kind::Ext3, &["-t", "ext3"][..]),
        ("ext4", Kind::Ext4, &["-t", "ext4", "-b", "1024"][..]),
        ("plain", Kind::Ext4, &["-t", "ext4", "-O", "^has_journal,^metadata_csum"][..]),
    ] {
        let path = blank(folder.path(), name, 8);
        run("mke2fs", &[&["-q", "-F"], options, &[text(&path)]].concat());
        expect(&path, kind, State::Clean);
        if can_mount("ext_says_that_it_is_mounted_until_it_is_unmounted") {
            let mounted = Mounted::new(&path, "");
            write_and_sync(mounted.path(), "a");
            expect(&path, kind, State::Dirty);
            drop(mounted);
            expect(&path, kind, State::Clean);
            let mounted = Mounted::new(&path, "");
            write_and_sync(mounted.path(), "b");
            mounted.cut_off();
            drop(mounted);
            expect(&path, kind, State::Dirty);
        } else {
            run("debugfs", &["-w", "-R", "set_super_value state 0", text(&path)]);
            expect(&path, kind, State::Dirty);
        }
        run("debugfs", &["-w", "-R", "set_super_value state 1", text(&path)]);
        run("debugfs", &["-w", "-R", "feature -needs_recovery", text(&path)]);
        expect(&path, kind, State::Clean);
        run("debugfs", &["-w", "-R", "set_super_value state 3", text(&path)]);
        run("debugfs", &["-w", "-R", "set_super_value error_count 5", text(&path)]);
        expect(&path, kind, State::Dirty);
        assert!(look(&path).2.contains("(5 counted)"), "{}", look(&path).2);
    }
}

#[test]
fn an_ext4_superblock_whose_checksum_does_not_hold_is_not_believed_to_be_clean() {
    let folder = scratch();
    let path = blank(folder.path(), "ext4", 8);
    run("mke2fs", &["-q", "-F", "-t", "ext4", "-O", "metadata_csum", text(&path)]);
    expect(&path, Kind::Ext4, State::Clean);
    patch(&path, 1024 + 0x2c, |bytes| bytes[0] ^= 1);
    expect(&path, Kind::Ext4, State::Unknown);
}

#[test]
fn xfs_is_dirty_from_its_first_record_to_its_unmount() {
    let folder = scratch();
    for (name, options) in
        [("default", &[][..]), ("v4", &["-m", "crc=0"][..]), ("wide", &["-l", "version=2,sunit=512"][..])]
    {
        let path = blank(folder.path(), name, 320);
        run("mkfs.xfs", &[&["-q", "-f"], options, &[text(&path)]].concat());
        expect(&path, Kind::Xfs, State::Clean);
        if name == "v4" || !can_mount("xfs_is_dirty_from_its_first_record_to_its_unmount") {
            continue;
        }
        // The log becomes longer with each round.
        for round in 0..4 {
            let mounted = Mounted::new(&path, if name == "wide" { "logbsize=256k" } else { "" });
            for i in 0..round * 40 + 1 {
                write_and_sync(mounted.path(), &format!("{round}-{i}"));
            }
            expect(&path, Kind::Xfs, State::Dirty);
            drop(mounted);
            expect(&path, Kind::Xfs, State::Clean);
        }
        let mounted = Mounted::new(&path, "");
        write_and_sync(mounted.path(), "last");
        mounted.cut_off();
        drop(mounted);
        expect(&path, Kind::Xfs, State::Dirty);
    }
}

#[test]
fn btrfs_is_dirty_with_a_log_tree_and_never_clean_for_certain() {
    let folder = scratch();
    let path = blank(folder.path(), "btrfs", 128);
    run("mkfs.btrfs", &["-q", text(&path)]);
    expect(&path, Kind::Btrfs, State::Unknown);
    if can_mount("btrfs_is_dirty_with_a_log_tree_and_never_clean_for_certain") {
        let mounted = Mounted::new(&path, "commit=300");
        fs::create_dir(mounted.path().join("sub")).unwrap();
        run("sync", &["-f", text(mounted.path())]);
        write_and_sync(mounted.path(), "a");
        expect(&path, Kind::Btrfs, State::Dirty);
        drop(mounted);
    } else {
        patch(&path, (64 << 10) + 0x60, |log_root| *log_root = 4096_u64.to_le_bytes());
        return expect(&path, Kind::Btrfs, State::Dirty);
    }
    expect(&path, Kind::Btrfs, State::Unknown);
    patch(&path, (64 << 10) + 0x48, |generation| generation[0] ^= 1);
    assert!(look(&path).2.contains("checksum"), "{}", look(&path).2);
}

#[test]
fn each_fat_has_its_own_marks() {
    let folder = scratch();
    for (bits, mib, kind, state_at) in
        [("12", 4, Kind::Fat12, 0x25), ("16", 16, Kind::Fat16, 0x25), ("32", 64, Kind::Fat32, 0x41)]
    {
        let path = blank(folder.path(), bits, mib);
        run("mkfs.fat", &["-F", bits, text(&path)]);
        // Windows marks no FAT12, so one without a mark may have been in use.
        let unmarked = if kind == Kind::Fat12 { State::Unknown } else { State::Clean };
        expect(&path, kind, unmarked);
        // Linux marks the boot sector.
        patch(&path, state_at, |bytes| bytes[0] |= 1);
        expect(&path, kind, State::Dirty);
        patch(&path, state_at, |bytes| bytes[0] &= !1);
        expect(&path, kind, unmarked);
        // Windows marks the entry of cluster 1.
        let mut boot = [0; 512];
        Image::open(&path).read_at(0, &mut boot).unwrap();
        let table = u64::from(u16::from_le_bytes([boot[14], boot[15]])) * 512;
        let (at, bits) = match kind {
            Kind::Fat16 => (table + 3, [0x80, 0x40]),
            Kind::Fat32 => (table + 7, [0x08, 0x04]),
            _ => continue,
        };
        for bit in bits {
            patch(&path, at, |bytes| bytes[0] &= !bit);
            expect(&path, kind, State::Dirty);
            patch(&path, at, |bytes| bytes[0] |= bit);
            expect(&path, kind, State::Clean);
        }
    }
}

#[test]
fn exfat_has_its_flags_in_the_boot_sector() {
    let folder = scratch();
    let path = blank(folder.path(), "exfat", 16);
    run("mkfs.exfat", &[text(&path)]);
    expect(&path, Kind::Exfat, State::Clean);
    for flag in [2, 4] {
        patch(&path, 106, |bytes| bytes[0] |= flag);
        expect(&path, Kind::Exfat, State::Dirty);
        patch(&path, 106, |bytes| bytes[0] &= !flag);
    }
    expect(&path, Kind::Exfat, State::Clean);
}

/// The offset of the record of a file of an NTFS.
fn record_at(path: &Path, number: u64) -> u64 {
    let mut boot = [0; 512];
    Image::open(path).read_at(0, &mut boot).unwrap();
    let cluster = u64::from(boot[13]) * 512;
    u64::from_le_bytes(boot[48..56].try_into().unwrap()) * cluster + number * 1024
}

#[test]
fn ntfs_is_dirty_by_its_volume_or_its_log() {
    let folder = scratch();
    for (name, options) in [("default", &["-c", "4096"][..]), ("small", &["-c", "512"][..])] {
        let path = blank(folder.path(), name, 16);
        run("mkntfs", &[&["-q", "-F", "-f"], options, &[text(&path)]].concat());
        // Its log is empty, as it is while ntfs-3g has it mounted.
        expect(&path, Kind::Ntfs, State::Unknown);
        // The value of $VOLUME_INFORMATION is 12 bytes long: zeroes, version 3.1, flags.
        let record = record_at(&path, 3);
        let mut bytes = vec![0; 1024];
        Image::open(&path).read_at(record, &mut bytes).unwrap();
        let flags = bytes.windows(10).position(|w| w == b"\0\0\0\0\0\0\0\0\x03\x01").unwrap() as u64 + 10;
        patch(&path, record + flags, |bytes| bytes[0] |= 1);
        expect(&path, Kind::Ntfs, State::Dirty);
        patch(&path, record + flags, |bytes| bytes[0] &= !1);
        expect(&path, Kind::Ntfs, State::Unknown);
        // A record that was written in part says nothing.
        patch(&path, record + 1022, |bytes| bytes[0] ^= 0xff);
        expect(&path, Kind::Ntfs, State::Unknown);
        patch(&path, record + 1022, |bytes| bytes[0] ^= 0xff);
        // A log in use, whose restart page names a client.
        let run = record_at(&path, 2);
        let mut bytes = vec![0; 1024];
        Image::open(&path).read_at(run, &mut bytes).unwrap();
        let data =
            bytes.windows(8).position(|w| w[..4] == [0x80, 0, 0, 0] && w[4] > 0x40 && w[5..] == [0; 3]);
        let runs = data.unwrap() + 0x40;
        let (length, offset) = (usize::from(bytes[runs] & 15), usize::from(bytes[runs] >> 4));
        let cluster =
            bytes[runs + 1 + length..][..offset].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let log = cluster * options[1].parse::<u64>().unwrap();
        let write = |at: u64, page: &[u8]| {
            let file = File::options().write(true).open(&path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, page, at).unwrap();
        };
        let torn = {
            let mut page = restart_page(30, 0, 2);
            page[1022] ^= 1;
            page
        };
        let (in_use, closed, older) =
            (restart_page(20, 0, 0), restart_page(20, 0, 2), restart_page(10, 0, 2));
        let empty = vec![0xff; 4096];
        for (what, first, second, state) in [
            ("one page, in use", &in_use, &empty, State::Dirty),
            ("one page, closed", &closed, &empty, State::Clean),
            ("one page, without clients", &restart_page(20, 0xffff, 0), &empty, State::Clean),
            ("the first is newer", &in_use, &older, State::Dirty),
            ("the second is newer", &older, &in_use, State::Dirty),
            ("the second is newer, closed", &restart_page(10, 0, 0), &closed, State::Clean),
            (
                "the second is newer, by all bits",
                &restart_page(0x2_0000_0000, 0, 2),
                &restart_page(0x2_0000_0001, 0, 0),
                State::Dirty,
            ),
            ("a stop between two writes", &closed, &in_use, State::Dirty),
            ("a stop between two writes, the other way", &in_use, &closed, State::Dirty),
            ("the first was written in part", &torn, &closed, State::Unknown),
            ("the second was written in part", &closed, &torn, State::Unknown),
            ("one in part and one in use", &torn, &in_use, State::Dirty),
            ("both in part", &torn, &torn, State::Unknown),
        ] {
            write(log, first);
            write(log + 4096, second);
            let (kind, found, evidence) = look(&path);
            assert_eq!((kind, found), (Kind::Ntfs, state), "{name}: {what}: {evidence}");
        }
    }
}

/// A page of the log of an NTFS that says up to where it was written, which client it has, and how it was left.
fn restart_page(lsn: u64, client: u16, flags: u16) -> Vec<u8> {
    let mut page = vec![0_u8; 4096];
    page[..4].copy_from_slice(b"RSTR");
    page[4..8].copy_from_slice(&[0x1e, 0, 9, 0]);
    page[16..20].copy_from_slice(&4096_u32.to_le_bytes());
    page[24] = 0x30;
    page[0x30..0x38].copy_from_slice(&lsn.to_le_bytes());
    page[0x30 + 12..][..2].copy_from_slice(&client.to_le_bytes());
    page[0x30 + 14..][..2].copy_from_slice(&flags.to_le_bytes());
    page[0x1e] = 1;
    for end in (510..4096).step_by(512) {
        page[end] = 1;
    }
    page
}

#[test]
fn swap_is_clean_unless_a_system_sleeps_in_it() {
    let folder = scratch();
    let path = blank(folder.path(), "swap", 1);
    run("mkswap", &[text(&path)]);
    expect(&path, Kind::Swap, State::Clean);
    patch(&path, 4086, |bytes| *bytes = *b"S1SUSPEN");
    patch(&path, 4088, |bytes| *bytes = *b"SUSPEND\0");
    expect(&path, Kind::Swap, State::Dirty);
}

/// A disk as an installer makes it, whole: each partition is named with its own state.
#[test]
fn a_disk_with_many_partitions_is_surveyed_whole() {
    let folder = scratch();
    let disk = blank(folder.path(), "disk", 512);
    let script = "label: gpt\nsize=2048, type=21686148-6449-6E6F-744E-656564454649\nsize=64M\nsize=32M\nsize=320M\nsize=4M\n";
    let path = folder.path().join("script");
    fs::write(&path, script).unwrap();
    run("sh", &["-c", &format!("sfdisk -q {} < {}", text(&disk), text(&path))]);
    let table = survey(&Image::open(&disk)).unwrap().table;
    let makers: [(&str, &[&str]); 4] = [
        ("mkfs.fat", &["-F", "32"]),
        ("mke2fs", &["-q", "-F", "-t", "ext4"]),
        ("mkfs.xfs", &["-q", "-f"]),
        ("mkswap", &[]),
    ];
    for (part, (program, args)) in table.partitions[1..].iter().zip(makers) {
        let one = blank(folder.path(), "one", part.len_bytes >> 20);
        run(program, &[args, &[text(&one)]].concat());
        let seek = format!("seek={}", part.start >> 20);
        let of = format!("of={}", text(&disk));
        let input = format!("if={}", text(&one));
        run("dd", &[&input, &of, "bs=1M", &seek, "conv=notrunc,sparse", "status=none"]);
    }
    let found = survey(&Image::open(&disk)).unwrap();
    let seen: Vec<_> = found.volumes.iter().map(|v| (v.partition, v.kind, v.state)).collect();
    let want = [
        (Some(1), Kind::Empty, State::Unknown),
        (Some(2), Kind::Fat32, State::Clean),
        (Some(3), Kind::Ext4, State::Clean),
        (Some(4), Kind::Xfs, State::Clean),
        (Some(5), Kind::Swap, State::Clean),
    ];
    assert_eq!(seen, want, "{found:?}");
    assert!(!found.is_incomplete() && found.table.notes.is_empty());
}

use std::{fs, io::Write, process::Command};

use super::*;

pub(crate) const LINUX: [u8; 16] =
    [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

/// A disk in memory with sectors of any size.
pub(crate) struct Disk {
    pub bytes: Vec<u8>,
    pub sector_bytes: u32,
}

impl Blocks for Disk {
    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.bytes.read_at(offset, buf)
    }
}

/// The checksum of a GPT, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

fn put(bytes: &mut [u8], at: u64, what: &[u8]) {
    bytes[at as usize..at as usize + what.len()].copy_from_slice(what);
}

pub(crate) fn mbr_entry(bytes: &mut [u8], record: u64, index: u64, kind: u8, (first, sectors): (u32, u32)) {
    let at = record + 446 + index * 16;
    put(bytes, at + 4, &[kind]);
    put(bytes, at + 8, &first.to_le_bytes());
    put(bytes, at + 12, &sectors.to_le_bytes());
    put(bytes, record + 510, &[0x55, 0xaa]);
}

/// Writes both copies of a GPT with partitions of these first and last sectors.
pub(crate) fn write_gpt(bytes: &mut [u8], unit: u64, parts: &[(u64, u64)]) {
    let last = bytes.len() as u64 / unit - 1;
    let table_sectors = (128 * 128_u64).div_ceil(unit);
    let mut table = vec![0; 128 * 128];
    for (i, (first, end)) in parts.iter().enumerate() {
        let at = i as u64 * 128;
        put(&mut table, at, &LINUX);
        put(&mut table, at + 16, &[i as u8 + 1; 16]);
        put(&mut table, at + 32, &first.to_le_bytes());
        put(&mut table, at + 40, &end.to_le_bytes());
        put(&mut table, at + 56, &[b'p', 0, b'0' + i as u8, 0]);
    }
    for (lba, other, entries_at) in [(1, last, 2), (last, 1, last - table_sectors)] {
        put(bytes, entries_at * unit, &table);
        let mut header = [0; 92];
        put(&mut header, 0, b"EFI PART\0\0\x01\0");
        put(&mut header, 12, &92_u32.to_le_bytes());
        put(&mut header, 24, &lba.to_le_bytes());
        put(&mut header, 32, &u64::to_le_bytes(other));
        put(&mut header, 72, &u64::to_le_bytes(entries_at));
        put(&mut header, 80, &128_u32.to_le_bytes());
        put(&mut header, 84, &128_u32.to_le_bytes());
        put(&mut header, 88, &crc(&table).to_le_bytes());
        let sum = crc(&header);
        put(&mut header, 16, &sum.to_le_bytes());
        put(bytes, lba * unit, &header);
    }
    mbr_entry(bytes, 0, 0, 0xee, (1, u32::MAX));
}

fn table_of(bytes: &[u8], sector_bytes: u32) -> Table {
    partitions(&Disk { bytes: bytes.to_vec(), sector_bytes }).unwrap()
}

fn places(table: &Table) -> Vec<(u32, u64, u64)> {
    table.partitions.iter().map(|p| (p.number, p.start, p.len_bytes)).collect()
}

#[test]
fn a_gpt_is_read_with_either_sector_whatever_the_disk_says() {
    for (unit, said) in [(512, 512), (4096, 4096), (512, 4096), (4096, 512)] {
        let mut bytes = vec![0; 4 << 20];
        write_gpt(&mut bytes, unit, &[(40, 99), (100, 200)]);
        let table = table_of(&bytes, said);
        assert_eq!((table.scheme, u64::from(table.sector_bytes)), (Scheme::Gpt, unit));
        assert_eq!(places(&table), [(1, 40 * unit, 60 * unit), (2, 100 * unit, 101 * unit)]);
        assert_eq!((table.partitions[1].name.as_str(), table.partitions[1].id), ("p1", [2; 16]));
        assert_eq!(table.partitions[0].kind, Type::Gpt(LINUX));
        let other = (unit != u64::from(said)).then_some(Note::OtherSectors { bytes: unit as u32 });
        assert_eq!(table.notes, Vec::from_iter(other));
        // Linux asks a protecting MBR for nothing but the entry that protects.
        (bytes[3..11]).copy_from_slice(b"NTFS    ");
        bytes[446] = 1;
        assert_eq!(places(&table_of(&bytes, said)), places(&table));
    }
}

#[test]
fn the_backup_stands_in_for_a_damaged_primary_and_both_damaged_are_none() {
    for unit in [512_u64, 4096] {
        let mut good = vec![0; 4 << 20];
        write_gpt(&mut good, unit, &[(40, 99)]);
        let want = places(&table_of(&good, unit as u32));
        // In the header, in the entries, and all of it.
        for range in [unit + 60..unit + 61, 2 * unit + 33..2 * unit + 34, unit..unit + 512] {
            let mut bytes = good.clone();
            bytes[range.start as usize..range.end as usize].iter_mut().for_each(|byte| *byte = !*byte);
            let table = table_of(&bytes, unit as u32);
            assert_eq!((table.scheme, places(&table)), (Scheme::Gpt, want.clone()));
            assert!(
                matches!(table.notes[..], [Note::DamagedGpt { copy: GptCopy::Primary, .. }]),
                "{:?}",
                table.notes
            );
            let last = bytes.len() - unit as usize;
            bytes[last + 17] ^= 1;
            let table = table_of(&bytes, unit as u32);
            assert_eq!((table.scheme, table.partitions.len()), (Scheme::None, 0));
            assert!(table.notes.contains(&Note::NoUsableGpt) && Note::NoUsableGpt.may_hide_partitions());
        }
        let mut bytes = good.clone();
        let last = bytes.len() - unit as usize;
        bytes[last..last + 8].fill(0);
        let table = table_of(&bytes, unit as u32);
        assert!(
            matches!(table.notes[..], [Note::DamagedGpt { copy: GptCopy::Backup, .. }]),
            "{:?}",
            table.notes
        );
        assert_eq!(places(&table), want);
    }
}

#[test]
fn copies_that_hold_and_differ_are_told_and_the_primary_counts() {
    let (mut old, mut new) = (vec![0; 2 << 20], vec![0; 2 << 20]);
    write_gpt(&mut old, 512, &[(40, 99)]);
    write_gpt(&mut new, 512, &[(60, 99)]);
    let backup = new.len() - 33 * 512;
    new[backup..].copy_from_slice(&old[backup..]);
    let table = table_of(&new, 512);
    assert_eq!((places(&table)[0].1, &table.notes[..]), (60 * 512, &[Note::CopiesDiffer][..]));
}

#[test]
fn a_backup_where_the_disk_ended_before_it_grew_is_found() {
    let mut bytes = vec![0; 2 << 20];
    write_gpt(&mut bytes, 512, &[(40, 99)]);
    bytes.resize(4 << 20, 0);
    let table = table_of(&bytes, 512);
    assert_eq!((table.partitions.len(), table.notes.len()), (1, 0), "{:?}", table.notes);
}

#[test]
fn a_gpt_counts_only_if_the_mbr_says_so_or_there_is_none() {
    let mut bytes = vec![0; 4 << 20];
    write_gpt(&mut bytes, 512, &[(40, 99)]);
    mbr_entry(&mut bytes, 0, 1, 0x0c, (40, 60));
    let table = table_of(&bytes, 512);
    assert_eq!((table.scheme, &table.notes[..]), (Scheme::Gpt, &[Note::HybridMbr][..]));
    mbr_entry(&mut bytes, 0, 0, 0x83, (200, 60));
    let table = table_of(&bytes, 512);
    assert_eq!((table.scheme, &table.notes[..]), (Scheme::Mbr, &[Note::UnusedGpt][..]));
    assert_eq!(places(&table), [(1, 200 * 512, 60 * 512), (2, 40 * 512, 60 * 512)]);
    bytes[..512].fill(0);
    let table = table_of(&bytes, 512);
    assert_eq!((table.scheme, &table.notes[..]), (Scheme::Gpt, &[Note::NoProtectiveMbr][..]));
}

#[test]
fn logical_partitions_are_followed_in_both_sector_sizes() {
    for unit in [512, 4096] {
        let mut bytes = vec![0; 16 << 20];
        mbr_entry(&mut bytes, 0, 0, 0x83, (8, 100));
        mbr_entry(&mut bytes, 0, 1, 0x0f, (1000, 900));
        mbr_entry(&mut bytes, 1000 * unit, 0, 0x82, (8, 50));
        mbr_entry(&mut bytes, 1000 * unit, 1, 0x05, (200, 100));
        mbr_entry(&mut bytes, 1200 * unit, 0, 0x83, (16, 70));
        let table = table_of(&bytes, unit as u32);
        assert_eq!(table.notes, []);
        let sectors = [(1, 8, 100), (5, 1008, 50), (6, 1216, 70)];
        assert_eq!(places(&table), sectors.map(|(number, first, n)| (number, first * unit, n * unit)));
        assert_eq!(table.partitions[1].kind, Type::Mbr(0x82));
    }
}

#[test]
fn chains_that_return_or_break_off_end_with_a_note() {
    let mut bytes = vec![0; 2 << 20];
    mbr_entry(&mut bytes, 0, 0, 0x05, (1000, 900));
    mbr_entry(&mut bytes, 1000 * 512, 0, 0x83, (8, 50));
    let mut itself = bytes.clone();
    mbr_entry(&mut itself, 1000 * 512, 1, 0x05, (0, 100));
    let table = table_of(&itself, 512);
    assert_eq!((table.partitions.len(), &table.notes[..]), (1, &[Note::Loop { number: 5 }][..]));
    let mut circle = bytes.clone();
    mbr_entry(&mut circle, 1000 * 512, 1, 0x05, (100, 100));
    mbr_entry(&mut circle, 1100 * 512, 1, 0x05, (0, 100));
    assert_eq!(table_of(&circle, 512).notes, [Note::Loop { number: 5 }]);
    for next in [300, 100_000, u32::MAX] {
        let mut broken = bytes.clone();
        mbr_entry(&mut broken, 1000 * 512, 1, 0x05, (next, 100));
        assert_eq!(table_of(&broken, 512).notes, [Note::DamagedLogical { number: 6 }]);
    }
    // As many records as there is room for, each naming the next.
    let mut long = vec![0; 2 << 20];
    mbr_entry(&mut long, 0, 0, 0x05, (1, 4000));
    for at in 1..4000 {
        mbr_entry(&mut long, u64::from(at) * 512, 0, 0x83, (1, 1));
        mbr_entry(&mut long, u64::from(at) * 512, 1, 0x05, (at, 1));
    }
    let table = table_of(&long, 512);
    assert_eq!(table.partitions.len(), 256);
    assert!(table.notes.contains(&Note::TooMany), "{:?}", table.notes);
}

/// As for Linux (`block/partitions/msdos.c`), which asks only for a size.
#[test]
fn an_entry_of_type_0_that_has_a_size_is_a_partition() {
    let mut bytes = vec![0; 4 << 20];
    // A hybrid ISO image: the first partition is the whole disk, boot record included.
    mbr_entry(&mut bytes, 0, 0, 0, (0, 8192));
    mbr_entry(&mut bytes, 0, 1, 0xef, (100, 50));
    mbr_entry(&mut bytes, 0, 2, 0x0f, (1000, 900));
    mbr_entry(&mut bytes, 0, 3, 0, (200, 0));
    mbr_entry(&mut bytes, 1000 * 512, 0, 0, (8, 50));
    let table = table_of(&bytes, 512);
    assert_eq!(places(&table), [(1, 0, 4 << 20), (2, 51_200, 25_600), (5, 1008 * 512, 25_600)]);
    assert!(!table.notes.iter().any(Note::may_hide_partitions), "{:?}", table.notes);
}

#[test]
fn garbage_behind_the_two_entries_of_an_extended_boot_record_is_no_partition() {
    let mut bytes = vec![0; 4 << 20];
    mbr_entry(&mut bytes, 0, 0, 0x0f, (1000, 900));
    mbr_entry(&mut bytes, 1000 * 512, 0, 0x83, (8, 50));
    mbr_entry(&mut bytes, 1000 * 512, 1, 0x05, (200, 100));
    mbr_entry(&mut bytes, 1200 * 512, 0, 0x83, (8, 50));
    let want = places(&table_of(&bytes, 512));
    assert_eq!(want, [(5, 1008 * 512, 25_600), (6, 1208 * 512, 25_600)]);
    for (record, garbage) in [
        (1000, (u32::MAX, 77)),
        (1000, (500, u32::MAX)),
        (1000, (10, 5000)),
        (1200, (10, 91)),
        (1200, (101, 1)),
    ] {
        for slot in [2, 3] {
            let mut bytes = bytes.clone();
            mbr_entry(&mut bytes, record * 512, slot, 0x44, garbage);
            let table = table_of(&bytes, 512);
            assert_eq!((places(&table), &table.notes[..]), (want.clone(), &[][..]), "{garbage:?}");
        }
    }
    // OS/2 uses all four.
    mbr_entry(&mut bytes, 1000 * 512, 2, 0x83, (60, 20));
    assert_eq!(
        places(&table_of(&bytes, 512)),
        [(5, 1008 * 512, 25_600), (6, 1060 * 512, 10_240), (7, 1208 * 512, 25_600)]
    );
}

#[test]
fn partitions_outside_the_disk_are_left_out_and_overlapping_ones_are_told() {
    let mut bytes = vec![0; 1 << 20];
    write_gpt(
        &mut bytes,
        512,
        &[(40, 99), (90, 120), (4000, 5000), (1500, 9999), (50, 49), (u64::MAX, u64::MAX), (0, 9)],
    );
    let table = table_of(&bytes, 512);
    assert_eq!(
        places(&table),
        [(1, 40 * 512, 60 * 512), (2, 90 * 512, 31 * 512), (4, 1500 * 512, 548 * 512)]
    );
    let outside = [3, 5, 6, 7].map(|number| Note::OutsideDisk { number });
    assert!(outside.iter().all(|note| table.notes.contains(note)), "{:?}", table.notes);
    assert!(table.notes.contains(&Note::BeyondEnd { number: 4 }));
    assert!(table.notes.contains(&Note::Overlap { number: 1, other: 2 }));
    assert_eq!(table.notes.len(), 6);
}

#[test]
fn boot_sectors_of_file_systems_are_no_tables() {
    for name in [b"NTFS    ", b"EXFAT   ", b"-FVE-FS-"] {
        let mut bytes = vec![0; 1 << 20];
        mbr_entry(&mut bytes, 0, 0, 0x83, (8, 100));
        bytes[3..11].copy_from_slice(name);
        assert_eq!(table_of(&bytes, 512).scheme, Scheme::None);
    }
    let mut bytes = vec![0; 1 << 20];
    mbr_entry(&mut bytes, 0, 0, 0x83, (8, 100));
    bytes[446] = 0x4f;
    assert_eq!(table_of(&bytes, 512).scheme, Scheme::None);
}

#[test]
fn small_and_senseless_disks_have_no_partitions() {
    for size in [0, 1, 511, 512, 513, 4096] {
        for fill in [0, 0xee, 0xff, 0x55] {
            let table = table_of(&vec![fill; size], 512);
            assert_eq!((table.scheme, table.partitions.len()), (Scheme::None, 0));
        }
    }
}

/// Tables that a real program wrote, among them a chain of logical partitions.
#[test]
fn what_sfdisk_writes_is_read_as_sfdisk_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk");
    let scripts = [
        "label: gpt\nsize=2048, name=\"boot é\", type=21686148-6449-6E6F-744E-656564454649\nsize=8192\nsize=4096\n",
        "label: dos\nsize=2048,type=83\nsize=3000,type=c\nsize=30000,type=5\nstart=40000,size=2000\nsize=3000\nsize=1000\n",
        "label: dos\nsize=30000,type=f\nsize=2048,type=83\nsize=3000\nsize=1000\n",
    ];
    for script in scripts {
        fs::write(&path, vec![0; 32 << 20]).unwrap();
        let mut child = Command::new("sfdisk")
            .arg("--quiet")
            .arg(&path)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("sfdisk is needed (scripts/setup)");
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        let dump = Command::new("sfdisk").arg("--dump").arg(&path).output().unwrap();
        let dump = String::from_utf8(dump.stdout).unwrap();
        let field = |line: &str, name: &str| -> u64 {
            let rest = &line[line.find(name).unwrap() + name.len()..];
            rest.trim_start().chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
        };
        let lines = dump.lines().filter(|line| line.contains("start="));
        let plain = lines.filter(|line| !line.ends_with("type=5") && !line.ends_with("type=f"));
        let want: Vec<_> = plain
            .map(|line| {
                let number = field(line, path.to_str().unwrap()) as u32;
                (number, field(line, "start=") * 512, field(line, "size=") * 512)
            })
            .collect();
        let table = table_of(&fs::read(&path).unwrap(), 512);
        assert_eq!((places(&table), &table.notes[..]), (want, &[][..]), "{dump}");
        if table.scheme == Scheme::Gpt {
            assert_eq!(table.partitions[0].name, "boot é");
        }
    }
}

use std::io;

use super::*;
use crate::{
    Note,
    partitions::tests::{Disk, mbr_entry, write_gpt},
};

fn ext(clean: bool) -> Vec<u8> {
    let mut bytes = vec![0; 8192];
    bytes[1024 + 0x38..][..2].copy_from_slice(&0xef53_u16.to_le_bytes());
    bytes[1024 + 0x3a] = u8::from(clean);
    bytes
}

fn kind_of(bytes: impl Blocks) -> (Kind, State) {
    let (kind, state, _) = recognise(&bytes).unwrap();
    (kind, state)
}

/// Bytes at places.
type Places<'a> = &'a [(usize, &'a [u8])];

fn with(size: usize, places: Places<'_>) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for (at, what) in places {
        bytes[*at..*at + what.len()].copy_from_slice(what);
    }
    bytes
}

#[test]
fn what_is_not_looked_into_is_named() {
    let md = 0xa92b_4efc_u32.to_le_bytes();
    let end = (1 << 20) - 8192;
    let sector = (end as u64 / 512).to_le_bytes();
    let cases: [(Kind, Places<'_>); 22] = [
        (Kind::Luks, &[(0, b"LUKS\xba\xbe\0\x02")]),
        (Kind::BitLocker, &[(3, b"-FVE-FS-")]),
        (Kind::Refs, &[(3, b"ReFS")]),
        (Kind::LvmPv, &[(512, b"LABELONE"), (512 + 24, b"LVM2 001")]),
        (Kind::MdMember, &[(4096, &md), (4100, &[1]), (4096 + 144, &[8])]),
        (Kind::MdMember, &[(0, &md), (4, &[1])]),
        (Kind::MdMember, &[(end, &md), (end + 4, &[1]), (end + 144, &sector)]),
        (Kind::MdMember, &[((1 << 20) - 65536, &md)]),
        (Kind::Zfs, &[((128 << 10) + 5 * 1024, &0x00ba_b10c_u64.to_be_bytes())]),
        (Kind::Zfs, &[((128 << 10) + 4096, &0x00ba_b10c_u64.to_le_bytes())]),
        (Kind::Apfs, &[(32, b"NXSB")]),
        (Kind::F2fs, &[(1024, b"\x10\x20\xf5\xf2")]),
        (Kind::HfsPlus, &[(1024, b"H+\0\x04")]),
        (Kind::Ufs, &[(65536 + 1372, &0x1954_0119_u32.to_le_bytes())]),
        (Kind::Ufs, &[(8192 + 1372, &0x0001_1954_u32.to_le_bytes())]),
        (Kind::Jfs, &[(32768, b"JFS1")]),
        (Kind::Reiserfs, &[(65536 + 52, b"ReIsEr2Fs")]),
        (Kind::Udf, &[(36865, b"NSR03")]),
        (Kind::Squashfs, &[(0, b"hsqs")]),
        (Kind::Erofs, &[(1024, b"\xe2\xe1\xf5\xe0")]),
        (Kind::Iso9660, &[(32769, b"CD001")]),
        (Kind::Bcache, &[(4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81")]),
    ];
    for (kind, places) in cases {
        let state = if kind.can_be_dirty() { State::Unknown } else { State::Clean };
        assert_eq!(kind_of(with(1 << 20, places)), (kind, state));
    }
}

#[test]
fn a_raid_member_hides_the_file_system_at_its_beginning_but_not_that_it_is_in_use() {
    let md = 0xa92b_4efc_u32.to_le_bytes();
    for (clean, state) in [(true, State::Unknown), (false, State::Dirty)] {
        let mut bytes = ext(clean);
        bytes.resize(1 << 20, 0);
        let at = (1 << 20) - 65536;
        bytes[at..at + 4].copy_from_slice(&md);
        assert_eq!(kind_of(bytes), (Kind::MdMember, state));
        // This one's data is elsewhere: what lies here is left from the time before.
        let mut bytes = ext(clean);
        bytes[4096..4100].copy_from_slice(&md);
        (bytes[4100], bytes[4096 + 144]) = (1, 8);
        assert_eq!(kind_of(bytes), (Kind::MdMember, State::Unknown));
    }
}

#[test]
fn two_superblocks_are_ambiguous_and_neither_is_believed() {
    let mut bytes = ext(true);
    bytes[..6].copy_from_slice(b"LUKS\xba\xbe");
    let (kind, state, evidence) = recognise(&bytes).unwrap();
    assert_eq!((kind, state), (Kind::Ambiguous, State::Unknown));
    assert!(evidence.ends_with("LUKS, ext2"), "{evidence}");
    let mut bytes = ext(false);
    bytes[..6].copy_from_slice(b"LUKS\xba\xbe");
    assert_eq!(kind_of(bytes), (Kind::Ambiguous, State::Dirty));
}

#[test]
fn a_boot_sector_of_ntfs_with_absurd_clusters_is_refused() {
    let mut bytes = vec![0; 8192];
    bytes[3..11].copy_from_slice(b"NTFS    ");
    bytes[11..13].copy_from_slice(&4096_u16.to_le_bytes());
    (bytes[13], bytes[64]) = (0xcd, 2);
    assert_eq!(kind_of(bytes), (Kind::Ntfs, State::Unknown));
}

#[test]
fn zeroes_are_empty_and_anything_else_is_unknown() {
    assert_eq!(kind_of(vec![0; 1 << 20]), (Kind::Empty, State::Unknown));
    assert_eq!(kind_of(Vec::new()), (Kind::Empty, State::Unknown));
    for fill in [0x55, 0xee, 0xff] {
        assert_eq!(kind_of(vec![fill; 1 << 20]), (Kind::Unknown, State::Unknown));
    }
}

#[test]
fn partitions_are_surveyed_and_not_what_lies_around_them() {
    for unit in [512, 4096] {
        let mut bytes = vec![0; 4 << 20];
        let (first, second) = (300_000 / unit * unit, 600_000 / unit * unit);
        bytes[first..first + 8192].copy_from_slice(&ext(true));
        bytes[second..second + 8192].copy_from_slice(&ext(false));
        let at = |byte: usize| (byte / unit) as u64;
        write_gpt(&mut bytes, unit as u64, &[(at(first), at(first) + 63), (at(second), at(second) + 63)]);
        for said in [512, 4096] {
            let found = survey(&Disk { bytes: bytes.clone(), sector_bytes: said }).unwrap();
            let states: Vec<_> = found.volumes.iter().map(|v| (v.partition, v.kind, v.state)).collect();
            let want = [(Some(1), Kind::Ext2, State::Clean), (Some(2), Kind::Ext2, State::Dirty)];
            assert_eq!(states, want, "sectors of {unit}, said to be {said}");
        }
    }
}

#[test]
fn an_mbr_that_counts_in_other_sectors_than_its_disk_is_understood_by_what_it_holds() {
    for (unit, said) in [(512, 512), (512, 4096), (4096, 512), (4096, 4096)] {
        let mut bytes = vec![0; 4 << 20];
        mbr_entry(&mut bytes, 0, 0, 0x83, (64, 32));
        bytes[64 * unit..64 * unit + 8192].copy_from_slice(&ext(false));
        let found = survey(&Disk { bytes, sector_bytes: said }).unwrap();
        assert_eq!((found.table.sector_bytes, found.volumes[0].start), (unit as u32, 64 * unit as u64));
        assert_eq!(found.volumes[0].state, State::Dirty);
    }
}

#[test]
fn a_file_system_under_a_table_of_the_past_is_found() {
    let mut bytes = ext(false);
    bytes.resize(1 << 20, 0);
    mbr_entry(&mut bytes, 0, 0, 0x83, (1000, 500));
    let found = survey(&bytes).unwrap();
    assert_eq!((found.volumes.len(), found.volumes[0].partition), (1, None));
    assert_eq!((found.volumes[0].kind, found.volumes[0].state), (Kind::Ext2, State::Dirty));
    // Once the partition holds something, that is what is in use.
    bytes[1000 * 512..1000 * 512 + 8192].copy_from_slice(&ext(true));
    let found = survey(&bytes).unwrap();
    assert_eq!((found.volumes[0].partition, found.volumes[0].state), (Some(1), State::Clean));
}

/// A disk of which a range cannot be read.
struct Damaged(Vec<u8>, std::ops::Range<u64>);

impl Blocks for Damaged {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        if offset < self.1.end && self.1.start < offset + buf.len() as u64 {
            return Err(ReadError::failed(offset, buf.len(), io::Error::other("damaged")));
        }
        self.0.read_at(offset, buf)
    }
}

#[test]
fn a_volume_that_cannot_be_read_makes_a_survey_incomplete_and_costs_no_other() {
    let mut bytes = vec![0; 4 << 20];
    write_gpt(&mut bytes, 512, &[(400, 599), (800, 999)]);
    bytes[800 * 512..800 * 512 + 8192].copy_from_slice(&ext(true));
    let place = 400 * 512 + 1024;
    let found = survey(&Damaged(bytes.clone(), place..place + 1)).unwrap();
    assert_eq!((found.volumes[0].kind, found.volumes[1].kind), (Kind::Unreadable, Kind::Ext2));
    assert!(found.volumes[0].evidence.contains("damaged"), "{}", found.volumes[0].evidence);
    assert!(found.is_incomplete());
    assert!(survey(&Damaged(bytes.clone(), 0..1)).is_err());
    bytes[512 + 20] ^= 1;
    let last = bytes.len() - 512;
    bytes[last..].fill(0);
    let found = survey(&bytes).unwrap();
    assert!(found.table.notes.contains(&Note::NoUsableGpt) && found.is_incomplete());
}

/// As many partitions as fit, each with an XFS whose log has to be searched: the survey ends, with a bounded number of
/// bytes read.
#[test]
fn a_disk_made_to_be_read_for_ever_is_not() {
    let mut bytes = vec![0; 16 << 20];
    for at in (0..16_usize << 20).step_by(8192) {
        let superblock = &mut bytes[at..at + 512];
        superblock[..4].copy_from_slice(b"XFSB");
        superblock[4..8].copy_from_slice(&512_u32.to_be_bytes());
        superblock[48..56].copy_from_slice(&1_u64.to_be_bytes());
        superblock[96..100].copy_from_slice(&8192_u32.to_be_bytes());
        superblock[124] = 31;
        for block in (at + 512..at + 8192).step_by(512) {
            bytes[block..block + 4].copy_from_slice(&1_u32.to_be_bytes());
        }
    }
    let parts: Vec<(u64, u64)> = (0..128).map(|i| (64 + i * 16, 32_000)).collect();
    write_gpt(&mut bytes, 512, &parts);
    let found = survey(&bytes).unwrap();
    assert_eq!(found.volumes.len(), 128);
    assert!(found.volumes.iter().all(|volume| volume.state != State::Clean));
}

//! What is named and not looked into: encryption, volume managers, RAID, swap, and file systems that have no reader here.

use super::{Found, Kind, Probe, State};
use crate::{
    blocks::ReadError,
    bytes::{be16, has, le16, le32, le64},
};

const OPAQUE: &str = "it is not looked into";

/// A signature at a fixed place, and a kind that it names.
struct Signature {
    kind: Kind,
    at: usize,
    bytes: &'static [u8],
}

const fn signature(kind: Kind, at: usize, bytes: &'static [u8]) -> Signature {
    Signature { kind, at, bytes }
}

const MD_MAGIC: u32 = 0xa92b_4efc;
const MD_SECTOR: u64 = 512;

/// Within the first 8 KiB.
const HEADERS: [Signature; 17] = [
    signature(Kind::Luks, 0, b"LUKS\xba\xbe"),
    signature(Kind::BitLocker, 3, b"-FVE-FS-"),
    // The GUID of "BitLocker To Go", in a boot sector that is a FAT's otherwise.
    signature(Kind::BitLocker, 424, b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01"),
    signature(Kind::Refs, 3, b"ReFS\0\0\0\0"),
    signature(Kind::LvmPv, 0, b"LABELONE"),
    signature(Kind::LvmPv, 512, b"LABELONE"),
    signature(Kind::LvmPv, 1024, b"LABELONE"),
    signature(Kind::LvmPv, 1536, b"LABELONE"),
    signature(Kind::Bcache, 4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    signature(Kind::Bcachefs, 4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
    signature(Kind::Apfs, 32, b"NXSB"),
    signature(Kind::F2fs, 1024, b"\x10\x20\xf5\xf2"),
    signature(Kind::HfsPlus, 1024, b"H+\0\x04"),
    signature(Kind::HfsPlus, 1024, b"HX\0\x05"),
    signature(Kind::Squashfs, 0, b"hsqs"),
    signature(Kind::Erofs, 1024, b"\xe2\xe1\xf5\xe0"),
    signature(Kind::Nilfs2, 1024 + 6, b"\x34\x34"),
];

/// Further in, where other formats leave room for them or leave them behind.
const LEFTOVERS: [Signature; 8] = [
    // The BSDs' own, which begin with zeroes. Their magic numbers end the superblock.
    signature(Kind::Ufs, (64 << 10) + 1372, b"\x19\x01\x54\x19"),
    signature(Kind::Ufs, (8 << 10) + 1372, b"\x54\x19\x01\x00"),
    signature(Kind::Jfs, 32 << 10, b"JFS1"),
    signature(Kind::Reiserfs, (64 << 10) + 52, b"ReIsEr"),
    signature(Kind::Udf, (34 << 10) + 1, b"NSR0"),
    signature(Kind::Udf, (36 << 10) + 1, b"NSR0"),
    signature(Kind::Udf, (38 << 10) + 1, b"NSR0"),
    signature(Kind::Iso9660, (32 << 10) + 1, b"CD001"),
];

fn named(kind: Kind, bytes: &[u8]) -> Found {
    match kind {
        Kind::Luks => {
            let evidence = format!("it is encrypted (LUKS version {}), so {OPAQUE}", be16(bytes, 6));
            Found::new(kind, State::Unknown, evidence)
        }
        Kind::BitLocker => Found::new(kind, State::Unknown, format!("it is encrypted, so {OPAQUE}")),
        Kind::LvmPv => Found::new(kind, State::Unknown, "it is a part of a volume group"),
        Kind::Squashfs | Kind::Erofs | Kind::Iso9660 => Found::new(kind, State::Clean, "it is never written"),
        _ => Found::new(kind, State::Unknown, OPAQUE),
    }
}

pub(super) fn headers(probe: Probe<'_>) -> Result<Option<Found>, ReadError> {
    let head = probe.bytes(0, probe.size().min(8192) as usize)?.unwrap_or_default();
    let is_there = |s: &&Signature| match s.kind {
        Kind::LvmPv => has(&head, s.at, s.bytes) && has(&head, s.at + 24, b"LVM2 001"),
        // Two bytes are not much: its superblock says how long it is as well.
        Kind::Nilfs2 => has(&head, s.at, s.bytes) && (240..=1024).contains(&le16(&head, 1024 + 8)),
        _ => has(&head, s.at, s.bytes),
    };
    Ok(HEADERS.iter().find(is_there).map(|s| named(s.kind, &head)))
}

pub(super) fn leftovers(probe: Probe<'_>) -> Result<Option<Found>, ReadError> {
    for s in &LEFTOVERS {
        if let Some(bytes) = probe.bytes(s.at as u64, s.bytes.len())?
            && bytes == s.bytes
        {
            return Ok(Some(named(s.kind, &bytes)));
        }
    }
    Ok(None)
}

/// A member of a RAID of Linux (md(4); the kernel's `md_p.h`) with its superblock at the beginning, and its data
/// somewhere behind.
pub(super) fn md(probe: Probe<'_>) -> Result<Option<Found>, ReadError> {
    Ok(match md_at(probe, 0)? {
        true => Some(member("1.1")),
        false => md_at(probe, 8)?.then(|| member("1.2")),
    })
}

/// The same with its superblock at the end: a file system may begin at the beginning.
pub(super) fn md_at_end(probe: Probe<'_>) -> Result<Option<Found>, ReadError> {
    let size = probe.size();
    if md_at(probe, (size / MD_SECTOR).saturating_sub(16) & !7)? {
        return Ok(Some(member("1.0")));
    }
    let Some(at) = (size & !0xffff).checked_sub(0x10000) else { return Ok(None) };
    let sb = probe.bytes(at, 64)?;
    Ok(sb.is_some_and(|sb| (le32(&sb, 0), le32(&sb, 4)) == (MD_MAGIC, 0)).then(|| member("0.90")))
}

fn md_at(probe: Probe<'_>, sector: u64) -> Result<bool, ReadError> {
    let sb = probe.bytes(sector * MD_SECTOR, 256)?;
    Ok(sb.is_some_and(|sb| (le32(&sb, 0), le32(&sb, 4)) == (MD_MAGIC, 1) && le64(&sb, 144) == sector))
}

fn member(version: &str) -> Found {
    let evidence = format!("it is part of a RAID (md {version}): {OPAQUE}");
    Found::new(Kind::MdMember, State::Unknown, evidence)
}

/// Swap has its signature at the end of the first page, and pages have many sizes.
pub(super) fn swap(probe: Probe<'_>) -> Result<Option<Found>, ReadError> {
    const ASLEEP: [&[u8]; 4] = [b"S1SUSPEND\0", b"S2SUSPEND\0", b"ULSUSPEND\0", b"LINHIB0001"];
    for page in [4096_u64, 8192, 16384, 65536] {
        let Some(signature) = probe.bytes(page - 10, 10)? else { break };
        if signature == b"SWAPSPACE2" || signature == b"SWAP-SPACE" {
            let evidence = "nothing in it outlives a stop";
            return Ok(Some(Found::new(Kind::Swap, State::Clean, evidence)));
        }
        if ASLEEP.contains(&&signature[..]) {
            let evidence = "a hibernated system is in it, which still uses its file systems";
            return Ok(Some(Found::new(Kind::Swap, State::Dirty, evidence)));
        }
    }
    Ok(None)
}

/// A ZFS has rings of uberblocks in its labels.
pub(super) fn zfs(probe: Probe<'_>) -> Result<Option<Found>, ReadError> {
    const MAGIC: u64 = 0x00ba_b10c;
    let Some(ring) = probe.bytes(128 << 10, 128 << 10)? else { return Ok(None) };
    let is_one = |block: &[u8]| le64(block, 0) == MAGIC || le64(block, 0).swap_bytes() == MAGIC;
    Ok(ring.chunks_exact(1024).any(is_one).then(|| Found::new(Kind::Zfs, State::Unknown, OPAQUE)))
}

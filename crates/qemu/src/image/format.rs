//! Recognises a file by its first and last bytes. Pure, and bounded by its input.
//!
//! Invariants: no input panics. A file that is not recognised is taken for raw, so every format with a signature of its
//! own has to be in the list.

/// How much of the beginning of a file is examined, in bytes.
pub const HEAD_BYTES: usize = 64 << 10;
/// How much of the end of a file is examined, in bytes.
pub const TAIL_BYTES: usize = 512;

/// The format of a file that is not a raw disk image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the variants are names")]
pub enum Format {
    Qcow,
    Qcow2,
    Vmdk,
    Vhdx,
    Vdi,
    /// VHD, which QEMU calls by the name of its original product (Virtual PC).
    Vpc,
    Qed,
    Parallels,
    Luks,
    Bochs,
    Cloop,
    Dmg,
    Gzip,
    Xz,
    Zstd,
    Bzip2,
    Lz4,
    Zip,
    SevenZip,
    Tar,
}

/// Why an image cannot be imported as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It has a backing file, which it names itself.
    #[error("it is based on another image{}", in_quotes(.0))]
    Based(String),
    /// Its data is in other files, which it names itself.
    #[error("its data are in other files")]
    Elsewhere,
    /// It is encrypted.
    #[error("it is encrypted")]
    Encrypted,
    /// It is compressed or an archive; a disk may be in it once it is unpacked.
    #[error("it is compressed or packed ({})", .0.name())]
    Packed(Format),
    /// QEMU's tools do not read this format, or are not trusted to.
    #[error("images of the format {} are not read", .0.name())]
    Unread(Format),
    /// The file ends before its data does.
    #[error("it is truncated: its content reaches to byte {needed}, and the file has {found}")]
    Truncated {
        /// Where the data ends, in bytes.
        needed: u64,
        /// Where the file ends, in bytes.
        found: u64,
    },
    /// Its own structures contradict one another.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

fn in_quotes(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" ({name:?})") }
}

/// Signatures at the beginning of a file.
const MARKS: [(&[u8], Format); 20] = [
    (b"QED\0", Format::Qed),
    (b"KDMV", Format::Vmdk),
    (b"COWD", Format::Vmdk),
    (b"# Disk DescriptorFile", Format::Vmdk),
    (b"vhdxfile", Format::Vhdx),
    (b"conectix", Format::Vpc),
    (b"WithoutFreeSpace", Format::Parallels),
    (b"WithouFreSpacExt", Format::Parallels),
    (b"LUKS\xba\xbe", Format::Luks),
    (b"Bochs Virtual HD Image", Format::Bochs),
    (b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop", Format::Cloop),
    (b"\x1f\x8b\x08", Format::Gzip),
    (b"\xfd7zXZ\0", Format::Xz),
    (b"\x28\xb5\x2f\xfd", Format::Zstd),
    (b"\x04\x22\x4d\x18", Format::Lz4),
    (b"PK\x03\x04", Format::Zip),
    (b"PK\x05\x06", Format::Zip),
    (b"7z\xbc\xaf\x27\x1c", Format::SevenZip),
    (b"QFI\xfb\0\0\0\x01", Format::Qcow),
    // Any later version.
    (b"QFI\xfb", Format::Qcow2),
];

/// The format of a file with these first [`HEAD_BYTES`] and last [`TAIL_BYTES`] (or as many as there are). `None`: raw.
#[must_use]
pub fn recognise(head: &[u8], tail: &[u8]) -> Option<Format> {
    if let Some((_, format)) = MARKS.iter().find(|(mark, _)| head.starts_with(mark)) {
        return Some(*format);
    }
    let at = |offset: usize, mark: &[u8]| bytes(head, offset, mark.len()) == Some(mark);
    // Bzip2's signature is short, so what follows it is examined as well: its first block, or its end.
    let block = [b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90"];
    if head.starts_with(b"BZh")
        && matches!(head.get(3), Some(b'1'..=b'9'))
        && block.iter().any(|mark| at(4, *mark))
    {
        return Some(Format::Bzip2);
    }
    if at(0x40, &0xbeda_107f_u32.to_le_bytes()) {
        return Some(Format::Vdi);
    }
    if at(257, b"ustar") {
        return Some(Format::Tar);
    }
    // The footer is the last sector; old files lack its last byte.
    let ends = |len: usize, mark| tail.len().checked_sub(len).is_some_and(|at| tail[at..].starts_with(mark));
    if ends(TAIL_BYTES, b"conectix") || ends(TAIL_BYTES - 1, b"conectix") {
        return Some(Format::Vpc);
    }
    ends(TAIL_BYTES, b"koly").then_some(Format::Dmg)
}

impl Format {
    /// The name that QEMU or the format's own tool uses.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Format::Qcow => "qcow",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Vhdx => "vhdx",
            Format::Vdi => "vdi",
            Format::Vpc => "vpc",
            Format::Qed => "qed",
            Format::Parallels => "parallels",
            Format::Luks => "luks",
            Format::Bochs => "bochs",
            Format::Cloop => "cloop",
            Format::Dmg => "dmg",
            Format::Gzip => "gzip",
            Format::Xz => "xz",
            Format::Zstd => "zstd",
            Format::Bzip2 => "bzip2",
            Format::Lz4 => "lz4",
            Format::Zip => "zip",
            Format::SevenZip => "7z",
            Format::Tar => "tar",
        }
    }

    /// Whether `qemu-img` reads this format, if the image is one self-contained file (which [`unfit`] checks).
    #[must_use]
    pub fn is_read(self) -> bool {
        use Format::*;
        matches!(self, Qcow | Qcow2 | Vmdk | Vhdx | Vdi | Vpc | Qed | Parallels)
    }

    fn is_packed(self) -> bool {
        use Format::*;
        matches!(self, Gzip | Xz | Zstd | Bzip2 | Lz4 | Zip | SevenZip | Tar)
    }
}

/// Why a file of this format cannot be read by itself, as far as its ends show. Checked before QEMU's tools open the
/// file, because an image may name any file of this computer and they would open it.
#[must_use]
pub fn unfit(format: Format, head: &[u8], tail: &[u8]) -> Option<Unfit> {
    if format.is_packed() {
        return Some(Unfit::Packed(format));
    }
    let be32 =
        |offset| bytes(head, offset, 4).map_or(0, |b| b.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b)));
    let be64 = |offset| u64::from(be32(offset)) << 32 | u64::from(be32(offset + 4));
    let le64 = |offset| be64(offset).swap_bytes();
    let based_on = |offset: u64, len: u32| {
        let name = usize::try_from(offset).ok().and_then(|at| bytes(head, at, len.min(1023) as usize));
        Some(Unfit::Based(String::from_utf8_lossy(name.unwrap_or_default()).into_owned()))
    };
    match format {
        Format::Luks => Some(Unfit::Encrypted),
        Format::Qcow | Format::Qcow2 if be64(8) != 0 => based_on(be64(8), be32(16)),
        Format::Qcow if be32(36) != 0 => Some(Unfit::Encrypted),
        Format::Qcow2 if be32(32) != 0 => Some(Unfit::Encrypted),
        Format::Qcow2 if be32(4) >= 3 && be64(72) & 4 != 0 => Some(Unfit::Elsewhere),
        Format::Qed if le64(16) & 1 != 0 => Some(Unfit::Based(String::new())),
        Format::Vmdk if head.starts_with(b"#") => Some(Unfit::Elsewhere),
        // Without data of its own it only describes other files too.
        Format::Vmdk if head.starts_with(b"KDMV") && le64(12) == 0 => Some(Unfit::Elsewhere),
        Format::Vmdk if find(head, b"parentFileNameHint").is_some() => Some(Unfit::Based(String::new())),
        Format::Vpc => {
            let at = if tail.starts_with(b"conectix") { 0 } else { 1 };
            let footer = if head.starts_with(b"conectix") { head } else { tail.get(at..)? };
            (bytes(footer, 60, 4) == Some(&[0, 0, 0, 4])).then(|| Unfit::Based(String::new()))
        }
        format => (!format.is_read()).then_some(Unfit::Unread(format)),
    }
}

/// The block size of a raw disk, if its partition table shows it: 4096 where the second block of that size has a GPT
/// and the second block of 512 bytes has none.
#[must_use]
pub fn block_bytes(head: &[u8]) -> Option<u32> {
    [512, 4096].into_iter().find(|size| bytes(head, *size as usize, 8) == Some(b"EFI PART"))
}

fn bytes(from: &[u8], offset: usize, len: usize) -> Option<&[u8]> {
    from.get(offset..offset.checked_add(len)?)
}

fn find(within: &[u8], what: &[u8]) -> Option<usize> {
    within.windows(what.len()).position(|window| window == what)
}

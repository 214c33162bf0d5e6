//! Image recognition: a recognised file has the signature of its format, a raw one has none, and an image that names
//! other files is refused.

use bygone_qemu::image::{Format, HEAD_BYTES, TAIL_BYTES, block_bytes, recognise, unfit};

/// See the module's comment. Input: the file; only the ends of a long one are examined.
pub fn image(file: &[u8]) {
    let head = &file[..file.len().min(HEAD_BYTES)];
    let tail = &file[file.len().saturating_sub(TAIL_BYTES)..];
    let found = recognise(head, tail);
    let has = |at: usize, mark: &[u8]| file.len() >= at + mark.len() && file[at..at + mark.len()] == *mark;
    let from_end =
        |back: usize, mark: &[u8]| file.len() >= back && file[file.len() - back..].starts_with(mark);
    // The signatures of the formats that QEMU itself writes, and their offsets.
    let marked = [
        (Format::Vmdk, has(0, b"KDMV") || has(0, b"COWD") || has(0, b"# Disk DescriptorFile")),
        (Format::Vhdx, has(0, b"vhdxfile")),
        (Format::Vdi, has(64, &[0x7f, 0x10, 0xda, 0xbe])),
        (Format::Qed, has(0, b"QED\0")),
        (Format::Luks, has(0, &[b'L', b'U', b'K', b'S', 0xba, 0xbe])),
        (Format::Vpc, has(0, b"conectix") || from_end(512, b"conectix") || from_end(511, b"conectix")),
        (Format::Gzip, has(0, &[0x1f, 0x8b, 8])),
        (Format::Xz, has(0, &[0xfd, b'7', b'z', b'X', b'Z', 0])),
    ];
    for (format, is_marked) in marked {
        assert!(found != Some(format) || is_marked, "{format:?} without its mark");
        assert!(!is_marked || found.is_some(), "{format:?} is taken for raw");
    }
    let is_qcow = has(0, b"QFI\xfb");
    assert_eq!(is_qcow, matches!(found, Some(Format::Qcow | Format::Qcow2)));
    assert!(matches!(block_bytes(head), None | Some(512 | 4096)));
    let Some(format) = found else { return };
    let refused = unfit(format, head, tail);
    assert!(format.is_read() || refused.is_some(), "{format:?} cannot be read, and is not refused");
    if format == Format::Qcow2 && refused.is_none() {
        let word = |at: usize| {
            file.get(at..at + 8).map_or(0, |b| u64::from_be_bytes(b.try_into().unwrap_or_default()))
        };
        assert_eq!(word(8), 0, "a backing file");
        assert_eq!(word(28) & 0xffff_ffff, 0, "encrypted");
        let version = word(0) & 0xffff_ffff;
        assert!(version < 3 || word(72) & 4 == 0, "an external data file");
    }
}

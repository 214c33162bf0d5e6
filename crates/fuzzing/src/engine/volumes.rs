//! What is on a disk with arbitrary content. The survey ends with a bounded number of bytes read, whatever it names lies
//! on the disk, the logical volumes of a group are no longer than the disk together, no ext file system that a plain table leads to is missed, and none is clean unless its superblock says
//! so. Each disk is tried in both sizes of sectors, as it is and with the checksums of its GPT and its LVM put right.

use bygone_files::{Kind, State, Survey, Volume, survey, volumes_with_blocks};

use super::disk::{Content, Disk};
use crate::input::Input;

/// The bound of the survey, and one read ahead that exceeds it.
const READ_BYTES_MAX: u64 = (64 << 20) + (256 << 10);

/// See the module's comment. Input: the size of the disk in sectors, then pieces: a sector, an offset in it, and bytes.
pub fn volumes(bytes: &[u8]) {
    let mut input = Input(bytes);
    let size_bytes = u64::from(input.u32()) * 512;
    let content = Content::of(&mut input);
    for sector_bytes in [512, 4096] {
        let mut disk = Disk::new(content.clone(), size_bytes, sector_bytes);
        look(&disk);
        disk.content.repair(size_bytes, u64::from(sector_bytes));
        disk.content.repair_lvm();
        look(&disk);
    }
}

fn look(disk: &Disk) {
    let found = survey(disk).unwrap();
    let read = disk.take_read_bytes();
    assert!(read <= READ_BYTES_MAX, "{read} bytes were read");
    assert!(!found.volumes.is_empty() && found.volumes.len() <= 2048);
    let with_blocks = volumes_with_blocks(disk).unwrap();
    disk.take_read_bytes();
    let mut logical_bytes = 0;
    for (volume, blocks) in with_blocks {
        let Some(blocks) = blocks.filter(|_| volume.logical.is_some()) else { continue };
        logical_bytes += blocks.size_bytes();
        for at in [0, blocks.size_bytes() / 2, blocks.size_bytes() - 1] {
            blocks.read_at(at, &mut [0]).unwrap();
        }
        let most = if found.table.partitions.is_empty() { disk.size_bytes } else { u64::MAX };
        assert!(volume.len_bytes == blocks.size_bytes() && logical_bytes <= most);
    }
    for volume in &found.volumes {
        if volume.logical.is_some() {
            assert!(volume.start < disk.size_bytes && !volume.evidence.is_empty());
            continue;
        }
        let end = volume.start.checked_add(volume.len_bytes).unwrap();
        assert!(end <= disk.size_bytes && !volume.evidence.is_empty());
        if matches!(volume.kind, Kind::Ext2 | Kind::Ext3 | Kind::Ext4) {
            let (kind, state) = disk.content.ext(volume.start).unwrap();
            assert_eq!(volume.kind, kind);
            let is_doubted = volume.state == State::Unknown && disk.content.has_sum(volume.start);
            assert!(volume.state == state || (is_doubted && state == State::Clean), "{volume:?}");
        }
    }
    for (start, len_bytes) in disk.starts() {
        if len_bytes >= 2048 && disk.content.ext(start).is_some() {
            assert!(is_seen(&found, start), "nothing at {start}: {found:?}");
        }
    }
}

/// Whether a superblock at `start` was found, or one that hides it.
fn is_seen(found: &Survey, start: u64) -> bool {
    let hides = |kind| {
        matches!(
            kind,
            Kind::Ext2
                | Kind::Ext3
                | Kind::Ext4
                | Kind::ExtJournal
                | Kind::Ambiguous
                | Kind::MdMember
                | Kind::Unreadable
        )
    };
    found.volumes.iter().any(|volume: &Volume| volume.start == start && hides(volume.kind))
}

impl Disk {
    /// Where partitions begin that a plain table names, with their lengths; the whole disk if there is none.
    fn starts(&self) -> Vec<(u64, u64)> {
        let (content, unit) = (&self.content, u64::from(self.sector_bytes));
        let on_disk = |(first, sectors): (u64, u64)| {
            let start = first.checked_mul(unit).filter(|start| *start < self.size_bytes)?;
            (sectors > 0).then(|| (start, sectors.saturating_mul(unit).min(self.size_bytes - start)))
        };
        let is_boot_sector =
            [&b"NTFS    "[..], b"EXFAT   ", b"-FVE-FS-"].iter().any(|name| content.bytes(3, 8) == **name);
        let entries: Vec<u64> = (0..4).map(|i| 446 + i * 16).collect();
        let is_table = self.size_bytes >= 512
            && content.number(510, 2) == 0xaa55
            && !is_boot_sector
            && entries.iter().all(|at| content.byte(*at) & 0x7f == 0);
        let announces = |at: u64| self.size_bytes >= at + 512 && content.bytes(at, 8) == b"EFI PART";
        if !is_table {
            let has_gpt = (announces(512) || announces(4096)) && content.number(510, 2) != 0xaa55;
            return if has_gpt { Vec::new() } else { vec![(0, self.size_bytes)] };
        }
        if entries.iter().any(|at| content.byte(at + 4) == 0xee) {
            let gpt = content.gpt(self.size_bytes, unit).unwrap_or_default();
            return gpt.into_iter().filter(|(first, _)| *first > 0).filter_map(on_disk).collect();
        }
        let used = entries.into_iter().filter(|at| !matches!(content.byte(at + 4), 5 | 0x0f | 0x85));
        let found = used.filter_map(|at| on_disk((content.number(at + 8, 4), content.number(at + 12, 4))));
        found.collect()
    }
}

impl Content {
    /// The entries of the primary GPT as they lie there, if they are few enough and on the disk.
    fn entries(&self, size_bytes: u64, unit: u64) -> Option<(u64, u64, u64)> {
        let (table, count, each) =
            (self.number(unit + 72, 8), self.number(unit + 80, 4), self.number(unit + 84, 4));
        let is_short = (128..=4096).contains(&each) && each.is_power_of_two() && count <= (1 << 20) / each;
        let at = table.checked_mul(unit)?;
        let fits = is_short && at.checked_add(count * each)? <= size_bytes && size_bytes >= 2 * unit;
        fits.then_some((at, count, each))
    }

    /// Puts right what a primary GPT says of itself.
    fn repair(&mut self, size_bytes: u64, unit: u64) {
        let Some((at, count, each)) = self.entries(size_bytes, unit) else { return };
        if self.bytes(unit, 8) != b"EFI PART" {
            return;
        }
        let sum = crc(&self.bytes(at, (count * each) as usize));
        self.put(unit + 12, &92_u32.to_le_bytes());
        self.put(unit + 24, &1_u64.to_le_bytes());
        self.put(unit + 88, &sum.to_le_bytes());
        self.put(unit + 16, &[0; 4]);
        let sum = crc(&self.bytes(unit, 92));
        self.put(unit + 16, &sum.to_le_bytes());
    }

    /// Puts right the checksums of a physical volume of LVM that is the whole disk.
    fn repair_lvm(&mut self) {
        let raw = |bytes: &[u8]| {
            bytes.iter().fold(0xf597_a6cf_u32, |crc, byte| {
                let mixed = crc ^ u32::from(*byte);
                (0..8).fold(mixed, |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
            })
        };
        if self.bytes(512, 8) != b"LABELONE" {
            return;
        }
        let sum = raw(&self.bytes(512 + 20, 492));
        self.put(512 + 16, &sum.to_le_bytes());
        let (size, offset, len) =
            (self.number(4096 + 32, 8), self.number(4096 + 40, 8), self.number(4096 + 48, 8));
        if offset < size && len <= 1 << 16 && size < 1 << 30 {
            let first = len.min(size - offset);
            let mut text = self.bytes(4096 + offset, first as usize);
            text.extend(self.bytes(4096 + 512, (len - first) as usize));
            self.put(4096 + 56, &raw(&text).to_le_bytes());
        }
        let sum = raw(&self.bytes(4096 + 4, 508));
        self.put(4096, &sum.to_le_bytes());
    }

    /// First sectors and numbers of sectors, if the primary GPT holds.
    fn gpt(&self, size_bytes: u64, unit: u64) -> Option<Vec<(u64, u64)>> {
        let (at, count, each) = self.entries(size_bytes, unit)?;
        let header_bytes = self.number(unit + 12, 4);
        if self.bytes(unit, 8) != b"EFI PART" || !(92..=unit).contains(&header_bytes) {
            return None;
        }
        let mut header = self.bytes(unit, header_bytes as usize);
        header[16..20].fill(0);
        let holds = u64::from(crc(&header)) == self.number(unit + 16, 4)
            && u64::from(crc(&self.bytes(at, (count * each) as usize))) == self.number(unit + 88, 4)
            && self.number(unit + 24, 8) == 1;
        let used = (0..count).map(|i| at + i * each).filter(|at| self.bytes(*at, 16) != [0; 16]);
        let place = |at: u64| {
            let (first, last) = (self.number(at + 32, 8), self.number(at + 40, 8));
            (first, last.checked_sub(first).and_then(|n| n.checked_add(1)).unwrap_or(0))
        };
        holds.then(|| used.map(place).take(1024).collect())
    }

    /// What the superblock of an ext file system says ("Linux kernel documentation, ext4, super block").
    fn ext(&self, start: u64) -> Option<(Kind, State)> {
        let at = start + 1024;
        let number = |field, bytes| self.number(at + field, bytes);
        if number(0x38, 2) != 0xef53 || number(0x18, 4) > 6 || number(0x60, 4) & 8 != 0 {
            return None;
        }
        let dirty = number(0x3a, 2) & 1 == 0 || number(0x3a, 2) & 0x22 != 0 || number(0x60, 4) & 4 != 0;
        let kind = if number(0x60, 4) & !0x16 != 0 || number(0x64, 4) & !0x7 != 0 {
            Kind::Ext4
        } else if number(0x5c, 4) & 4 != 0 {
            Kind::Ext3
        } else {
            Kind::Ext2
        };
        Some((kind, if dirty { State::Dirty } else { State::Clean }))
    }

    fn has_sum(&self, start: u64) -> bool {
        self.number(start + 1024 + 0x64, 4) & 0x400 != 0
    }
}

/// CRC-32, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    })
}

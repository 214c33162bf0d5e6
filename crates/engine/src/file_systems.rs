//! What the file systems on a machine's disks tell about how it stopped.

use bygone_block::{BlockDevice, Reading};
use bygone_files::{Blocks, Cause, Kind, ReadError, State, Survey, Volume};
#[cfg(test)]
use bygone_files::{Scheme, Table};

use crate::{child::Surveyor, error::or_panicked};

/// At most so many volumes are named in an event.
const NAMED_MAX: usize = 8;

/// The one way in which `files` reads a device.
pub(crate) struct Device<'a>(pub(crate) &'a dyn BlockDevice);

impl Blocks for Device<'_> {
    fn size_bytes(&self) -> u64 {
        self.0.geometry().size_bytes
    }

    fn sector_bytes(&self) -> u32 {
        self.0.geometry().block_bytes
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        let len_bytes = buf.len();
        if offset.checked_add(len_bytes as u64).is_none_or(|end| end > self.size_bytes()) {
            return Err(ReadError { offset, len_bytes, cause: Cause::Outside });
        }
        self.0.read(offset, buf, Reading::MayWait).map_err(|e| ReadError::failed(offset, len_bytes, e))
    }
}

/// What the volumes of some disks say.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileSystems {
    clean: Vec<String>,
    dirty: Vec<String>,
    unknown: Vec<String>,
    /// What may hide further volumes.
    unseen: Vec<String>,
}

impl FileSystems {
    /// A disk with these volumes.
    #[cfg(test)]
    pub(crate) fn of(volumes: &[(Kind, State)]) -> FileSystems {
        let volume = |(kind, state): &(Kind, State)| {
            let evidence = "it says so".to_owned();
            Volume {
                partition: None,
                logical: None,
                start: 0,
                len_bytes: 1,
                kind: *kind,
                state: *state,
                evidence,
            }
        };
        let table =
            Table { scheme: Scheme::None, sector_bytes: 512, partitions: Vec::new(), notes: Vec::new() };
        let mut found = FileSystems::default();
        found.add_survey("vda", &Survey { table, volumes: volumes.iter().map(volume).collect() });
        found
    }

    /// Adds those of a disk.
    pub(crate) fn add(&mut self, surveyor: &mut Surveyor<'_>, name: &str, disk: &dyn BlockDevice) {
        // The stop itself has happened, whatever comes of it. A child decides which places are read.
        let why = match or_panicked("reading the file systems", || Ok(surveyor.survey(&Device(disk)))) {
            Ok(Ok(found)) => return self.add_survey(name, &found),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(disk = name, why, "its file systems cannot be looked at");
        self.add_unseen(name, &why);
    }

    /// Adds a disk that cannot be opened.
    pub(crate) fn add_unseen(&mut self, name: &str, why: &dyn std::fmt::Display) {
        self.unseen.push(format!("{name}: {why}"));
    }

    fn add_survey(&mut self, name: &str, found: &Survey) {
        let hiding = found.table.notes.iter().filter(|note| note.may_hide_partitions());
        self.unseen.extend(hiding.map(|note| format!("{name}: {note}")));
        for volume in &found.volumes {
            let Volume { kind, state, evidence, .. } = volume;
            let place = match (&volume.logical, volume.partition) {
                (Some(logical), _) => format!("logical volume {logical} of {name}"),
                (None, Some(number)) => format!("partition {number} of {name}"),
                (None, None) => name.to_owned(),
            };
            let holds_no_files = found
                .table
                .partitions
                .iter()
                .any(|part| Some(part.number) == volume.partition && part.kind.holds_no_files());
            match state {
                State::Dirty => self.dirty.push(format!("{} on {place}: {evidence}", kind.name())),
                _ if *kind == Kind::Unreadable => self.unseen.push(format!("{place}: {evidence}")),
                // What it holds is named beside it.
                State::Clean if kind.is_container() => {}
                State::Clean if kind.can_be_dirty() => self.clean.push(format!("{} on {name}", kind.name())),
                // What is not recognised may be a file system as well.
                State::Unknown if kind.can_be_dirty() || (*kind == Kind::Unknown && !holds_no_files) => {
                    self.unknown.push(format!("{} on {place}: {evidence}", kind.name()));
                }
                State::Clean | State::Unknown => {}
            }
        }
    }

    /// Nothing is in use, and nothing can have been overlooked.
    pub(crate) fn none_is_dirty(&self) -> bool {
        self.dirty.is_empty() && self.unseen.is_empty()
    }

    /// There are file systems, and each says that it was closed in order.
    pub(crate) fn all_are_clean(&self) -> bool {
        self.none_is_dirty() && self.unknown.is_empty() && !self.clean.is_empty()
    }

    /// This in words.
    pub(crate) fn signals(&self) -> Vec<String> {
        let mut signals = Vec::new();
        let cases = [
            ("file systems are marked clean", &self.clean, self.none_is_dirty()),
            ("file systems are in use", &self.dirty, true),
            ("file systems of which it is not known", &self.unknown, true),
            ("what may be there cannot be seen", &self.unseen, true),
        ];
        for (what, volumes, counts) in cases {
            if counts && !volumes.is_empty() {
                let named = volumes[..volumes.len().min(NAMED_MAX)].join(", ");
                let more = if volumes.len() > NAMED_MAX { ", …" } else { "" };
                signals.push(format!("{what} ({named}{more})"));
            }
        }
        signals
    }
}

#[cfg(test)]
mod tests {
    use bygone_block::{Extent, Geometry, IoError, Writing};

    use super::*;
    use crate::child::Children;

    const BLOCK: usize = 4096;

    /// A disk of which only the first bytes can be read.
    struct Disk(Vec<u8>, u64);

    impl BlockDevice for Disk {
        fn geometry(&self) -> Geometry {
            let size_bytes = self.0.len() as u64;
            Geometry { size_bytes, block_bytes: BLOCK as u32, read_only: true, can_trim: false }
        }

        fn read(&self, offset: u64, buf: &mut [u8], _: Reading) -> Result<(), IoError> {
            let end = offset + buf.len() as u64;
            if end > self.1 {
                return Err(IoError::Medium(std::io::ErrorKind::Other.into()));
            }
            buf.copy_from_slice(&self.0[offset as usize..end as usize]);
            Ok(())
        }

        fn write(&self, _: &[Writing<'_>]) -> Result<(), IoError> {
            Err(IoError::ReadOnly)
        }

        fn flush(&self) -> Result<(), IoError> {
            Ok(())
        }

        fn extents(&self, _: u64, _: u64, _: &mut dyn FnMut(Extent) -> bool) -> Result<(), IoError> {
            Ok(())
        }

        fn prefetch(&self, _: u64, _: u64) {}
    }

    /// A disk with a partition at block 16 that has this in it.
    fn partitioned(content: &[u8]) -> Vec<u8> {
        let mut disk = vec![0; 64 * BLOCK];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        (disk[446 + 4], disk[446 + 8], disk[446 + 12]) = (0x83, 16, 48);
        disk[16 * BLOCK..16 * BLOCK + content.len()].copy_from_slice(content);
        disk
    }

    fn ext(needs_recovery: bool) -> Vec<u8> {
        let mut bytes = vec![0; 2048];
        bytes[1024 + 0x38..][..2].copy_from_slice(&0xef53_u16.to_le_bytes());
        bytes[1024 + 0x3a] = 1;
        bytes[1024 + 0x60] = 0x40 | if needs_recovery { 4 } else { 0 };
        bytes
    }

    fn look(disks: &[&Disk]) -> FileSystems {
        let children = Children::default();
        let (mut found, mut surveyor) = (FileSystems::default(), children.surveyor());
        for (disk, name) in disks.iter().zip(["vda", "vdb", "vdc"]) {
            found.add(&mut surveyor, name, *disk);
        }
        found
    }

    fn whole(bytes: Vec<u8>) -> Disk {
        let len = bytes.len() as u64;
        Disk(bytes, len)
    }

    #[test]
    fn all_are_clean_only_if_each_says_so() {
        let clean = whole(partitioned(&ext(false)));
        let dirty = whole(partitioned(&ext(true)));
        let locked = whole(partitioned(b"LUKS\xba\xbe\0\x02"));
        let blank = whole(vec![0; 64 * BLOCK]);
        let strange = whole(partitioned(b"what nobody here knows"));
        let mut ufs = vec![0; 68 << 10];
        ufs[(64 << 10) + 1372..][..4].copy_from_slice(&0x1954_0119_u32.to_le_bytes());
        let bsd = whole(partitioned(&ufs));
        for (disks, none_is_dirty, all_are_clean) in [
            (&[&clean][..], true, true),
            (&[&clean, &blank][..], true, true),
            (&[&blank][..], true, false),
            (&[&clean, &dirty][..], false, false),
            (&[&clean, &locked][..], true, false),
            (&[&clean, &strange][..], true, false),
            (&[&clean, &bsd][..], true, false),
        ] {
            let found = look(disks);
            assert_eq!(
                (found.none_is_dirty(), found.all_are_clean()),
                (none_is_dirty, all_are_clean),
                "{found:?}"
            );
        }
        assert_eq!(look(&[&clean]).signals(), ["file systems are marked clean (ext4 on vda)"]);
        let said = look(&[&clean, &dirty]).signals();
        let wanted = "file systems are in use (ext4 on partition 1 of vdb: its journal has to be replayed (needs_recovery))";
        assert_eq!(said, [wanted]);
    }

    #[test]
    fn the_file_systems_of_logical_volumes_decide_and_not_the_physical_volume() {
        use State::{Clean, Dirty, Unknown};
        for (volumes, none_is_dirty, all_are_clean) in [
            (&[(Kind::LvmPv, Clean), (Kind::Ext4, Clean)][..], true, true),
            (&[(Kind::LvmPv, Clean), (Kind::Ext4, Dirty)], false, false),
            (&[(Kind::LvmPv, Clean), (Kind::Ext4, Clean), (Kind::LvmLv, Unknown)], true, false),
            (&[(Kind::LvmPv, Unknown), (Kind::Ext4, Clean)], true, false),
            (&[(Kind::LvmPv, Clean)], true, false),
        ] {
            let found = FileSystems::of(volumes);
            assert_eq!((found.none_is_dirty(), found.all_are_clean()), (none_is_dirty, all_are_clean));
        }
    }

    #[test]
    fn what_a_survey_may_have_overlooked_may_be_dirty() {
        let clean = Volume {
            partition: None,
            logical: None,
            start: 0,
            len_bytes: 1,
            kind: Kind::Ext4,
            state: State::Clean,
            evidence: "it says so".to_owned(),
        };
        let survey = |notes: Vec<bygone_files::Note>, volumes: &[&Volume]| {
            let table = Table { scheme: Scheme::None, sector_bytes: 512, partitions: Vec::new(), notes };
            Survey { table, volumes: volumes.iter().map(|volume| (*volume).clone()).collect() }
        };
        let unreadable = Volume { kind: Kind::Unreadable, state: State::Unknown, ..clean.clone() };
        for (survey, whole) in [
            (survey(vec![], &[&clean]), true),
            (survey(vec![bygone_files::Note::HybridMbr], &[&clean]), true),
            (survey(vec![bygone_files::Note::TooMany], &[&clean]), false),
            (survey(vec![], &[&clean, &unreadable]), false),
        ] {
            let mut found = FileSystems::default();
            found.add_survey("vda", &survey);
            assert_eq!((found.none_is_dirty(), found.all_are_clean()), (whole, whole), "{survey:?}");
            assert_eq!(survey.is_incomplete(), !whole);
        }
    }

    #[test]
    fn what_cannot_be_read_may_be_dirty() {
        let bytes = partitioned(&ext(false));
        let len = bytes.len() as u64;
        assert!(look(&[&Disk(bytes.clone(), len)]).all_are_clean());
        for readable in [0, 4096, 16 * 4096] {
            let found = look(&[&Disk(bytes.clone(), readable)]);
            assert!(!found.none_is_dirty() && !found.all_are_clean(), "{readable}: {found:?}");
        }
    }
}

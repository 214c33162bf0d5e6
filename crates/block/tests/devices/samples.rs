//! Block devices, which have no time of change: a change from outside is found by samples of their content.

use std::{fs, io, os::unix::fs::FileExt, path::Path, sync::Arc};

use bygone_block::{BlockDevice, Change, OsDisk, RawDisk, TapDevice, TapState, WhenFull, Writing, samples};
use bygone_model::{Details, VolumeId};
use bygone_store::{Log, catalog::TapMark, env::File};

use super::{
    open_log,
    tap::{SIZE, world},
};

/// A file that says of itself what a block device can say.
struct Device(OsDisk);

impl RawDisk for Device {
    fn file(&self) -> &dyn File {
        self.0.file()
    }
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn zero(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.0.zero(offset, len_bytes)
    }
    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.0.punch(offset, len_bytes)
    }
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        self.0.next_data(offset)
    }
    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        self.0.next_hole(offset)
    }
    fn identity(&self) -> io::Result<Details> {
        let mut identity = Details::new();
        identity.insert("size_bytes".into(), self.size_bytes().into());
        identity.insert("device".into(), 7.into());
        identity.insert("samples".into(), samples(self.file(), self.size_bytes())?.into());
        Ok(identity)
    }
}

fn open_device(log: &Arc<Log>, volume: VolumeId, disk: &Path) -> (Arc<TapDevice>, TapState) {
    let device = Device(OsDisk::open(disk).unwrap());
    TapDevice::open(log.clone(), volume, Box::new(device), WhenFull::Fail).unwrap()
}

fn write(tap: &TapDevice, copy: &mut [u8], offset: u64, len_bytes: usize, byte: u8) {
    let data = vec![byte; len_bytes];
    tap.write(&[Writing { offset, change: Change::Data(&data) }]).unwrap();
    copy[offset as usize..offset as usize + len_bytes].fill(byte);
}

/// A device that was read completely, and a manager that was killed while some writes were on it and others not yet.
/// Returns what it should read as.
fn killed(dir: &Path) -> (VolumeId, std::path::PathBuf, Vec<u8>) {
    let (log, volume, disk, mut copy) = world(dir);
    let (tap, state) = open_device(&log, volume, &disk);
    assert_eq!(state, TapState::New);
    tap.reread(&mut |_, _| true).unwrap();
    tap.close().unwrap();
    drop(tap);
    let (tap, state) = open_device(&log, volume, &disk);
    assert_eq!(state, TapState::Known);
    write(&tap, &mut copy, 0, 8192, 1);
    write(&tap, &mut copy, 3 << 20, 20 << 10, 2);
    tap.write(&[Writing { offset: 7 << 20, change: Change::Trim { len_bytes: 1 << 20 } }]).unwrap();
    copy[7 << 20..].fill(0);
    tap.destage().unwrap();
    write(&tap, &mut copy, 5 << 20, 4096, 3);
    tap.flush().unwrap();
    (volume, disk, copy)
}

#[test]
fn a_device_is_known_after_a_kill_whatever_was_on_its_way_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let (volume, disk, copy) = killed(dir.path());
    for _ in 0..2 {
        let log = open_log(&dir.path().join("log"));
        assert_eq!(open_device(&log, volume, &disk).1, TapState::Known);
    }
    let log = open_log(&dir.path().join("log"));
    let (tap, _) = open_device(&log, volume, &disk);
    tap.close().unwrap();
    assert!(fs::read(&disk).unwrap() == copy);
}

#[test]
fn a_device_changed_after_a_kill_is_noticed_wherever_a_sample_is_and_only_the_change_is_taken() {
    // At its beginning right behind what was written, at its very end but for what was trimmed, and in the middle.
    for place in [8 << 10, 16 << 10, (6 << 20) + 512, 4 << 20, (4 << 20) + (32 << 10)] {
        let dir = tempfile::tempdir().unwrap();
        let (volume, disk, mut copy) = killed(dir.path());
        copy[place..place + 512].fill(0x77);
        fs::OpenOptions::new()
            .write(true)
            .open(&disk)
            .unwrap()
            .write_all_at(&[0x77; 512], place as u64)
            .unwrap();
        let log = open_log(&dir.path().join("log"));
        let (tap, state) = open_device(&log, volume, &disk);
        assert!(matches!(state, TapState::Changed { waiting_bytes_max: 4096.. }), "{place}: {state:?}");
        // Not even a crash makes it forget that.
        drop((tap, log));
        let log = open_log(&dir.path().join("log"));
        let (tap, state) = open_device(&log, volume, &disk);
        assert_eq!(state, TapState::Unfinished, "{place}");
        // What the store believes of this block otherwise is what stands there: all of the block is compared.
        let found = tap.reread(&mut |_, _| true).unwrap();
        assert!((512..=4096).contains(&found.changed_bytes), "{place}: {found:?}");
        tap.close().unwrap();
        assert!(fs::read(&disk).unwrap() == copy, "{place}");
    }
}

#[test]
fn a_device_whose_mark_has_no_samples_of_this_kind_is_read_again() {
    for clean in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (log, volume, disk, _) = world(dir.path());
        let device = Device(OsDisk::open(&disk).unwrap());
        let mark = |samples: Option<&str>| {
            let mut identity = device.identity().unwrap();
            let now = identity.remove("samples").unwrap();
            identity.insert("fingerprint".into(), 1.into());
            let samples = samples.map(|choice| now.as_str().unwrap().replacen("2:", choice, 1));
            identity.extend(samples.map(|samples| ("samples".into(), samples.into())));
            TapMark { applied: log.head_seq(), clean, complete: true, identity }
        };
        for (samples, is_known) in [(Some("2:"), true), (None, false), (Some("1:"), false)] {
            log.mark_tap(volume, &mark(samples)).unwrap();
            let (_, state) = open_device(&log, volume, &disk);
            let wanted = if is_known { TapState::Known } else { TapState::Changed { waiting_bytes_max: 0 } };
            assert_eq!(state, wanted, "{samples:?}, {clean}");
        }
        assert_eq!(device.size_bytes(), SIZE);
    }
}

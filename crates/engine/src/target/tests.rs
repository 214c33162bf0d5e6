use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bygone_block::{BlockDevice, Extent, Geometry, IoError, LogDevice, Reading, WhenFull, Writing};
use bygone_model::{BranchId, Kind, Seq, VolumeId};
use bygone_store::{CACHE_BYTES, index::cache::PageCache};

use super::{Target, lock};
use crate::{
    Error,
    config::{DiskConfig, TargetConfig},
    restore,
    serve::Nobody,
    store_dir::StorePaths,
};

/// A target with one disk of 1 MiB, tapped if there is a `path`, which then says how large it is.
fn target(store: &Path, path: Option<&Path>) -> Arc<Target> {
    let paths = StorePaths::new(store);
    paths.make().unwrap();
    let mut config = TargetConfig::new("web");
    let size_bytes = path.map_or(1 << 20, |path| std::fs::metadata(path).unwrap().len());
    let path = path.map(Path::to_owned);
    config.disks.push(DiskConfig { id: "vda".into(), path, block_bytes: 512, size_bytes });
    Target::make(&paths, &config, &PageCache::new(CACHE_BYTES), |_| Ok(())).unwrap()
}

/// A device that says, when it goes, whether the target still counts it as open.
struct Last {
    below: Arc<dyn BlockDevice>,
    target: Arc<Target>,
    volume: VolumeId,
    was_open: Arc<AtomicBool>,
}

impl BlockDevice for Last {
    fn geometry(&self) -> Geometry {
        self.below.geometry()
    }
    fn read(&self, offset: u64, buf: &mut [u8], reading: Reading) -> Result<(), IoError> {
        self.below.read(offset, buf, reading)
    }
    fn write(&self, writings: &[Writing<'_>]) -> Result<(), IoError> {
        self.below.write(writings)
    }
    fn flush(&self) -> Result<(), IoError> {
        self.below.flush()
    }
    fn extents(
        &self,
        offset: u64,
        len_bytes: u64,
        each: &mut dyn FnMut(Extent) -> bool,
    ) -> Result<(), IoError> {
        self.below.extents(offset, len_bytes, each)
    }
    fn prefetch(&self, offset: u64, len_bytes: u64) {
        self.below.prefetch(offset, len_bytes);
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        let open = lock(&self.target.live).contains_key(&self.volume);
        self.was_open.store(open, Ordering::Release);
    }
}

#[test]
fn a_lease_lets_go_of_its_device_before_the_disk_may_be_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(&dir.path().join("store"), None);
    let volume = target.volume(target.present(), None).unwrap();
    let was_open = Arc::new(AtomicBool::new(false));
    let mut lease = target.lease(volume).unwrap();
    let below = lease.device.clone();
    lease.device = Arc::new(Last { below, target: target.clone(), volume, was_open: was_open.clone() });
    drop(lease);
    // A device that went later would take the head map of the one that was opened meanwhile.
    assert!(was_open.load(Ordering::Acquire));
    assert!(lock(&target.live).is_empty());
}

/// Waits until nothing uses the target any more.
fn wait_idle(target: &Target) {
    let end = Instant::now() + Duration::from_secs(30);
    while target.is_busy() {
        assert!(Instant::now() < end, "waited too long for the target to be idle");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A target whose disk outside was read completely, and the moment after that.
fn tapped(dir: &Path) -> (Arc<Target>, VolumeId, std::path::PathBuf, Seq) {
    tapped_of(dir, 1 << 20)
}

fn tapped_of(dir: &Path, size: usize) -> (Arc<Target>, VolumeId, std::path::PathBuf, Seq) {
    let disk = dir.join("disk.raw");
    std::fs::write(&disk, vec![1; size]).unwrap();
    let target = target(&dir.join("store"), Some(&disk));
    target.read_disks().unwrap();
    wait_idle(&target);
    let volume = target.volume(target.present(), None).unwrap();
    let seq = target.log.head_seq();
    assert!(target.log.catalog().is_exact(volume, seq));
    (target, volume, disk, seq)
}

#[test]
fn a_thread_that_panics_does_not_keep_its_target_busy() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(&dir.path().join("store"), None);
    target.in_background("panics", |_| panic!("as it is meant to")).unwrap();
    wait_idle(&target);
}

fn write(device: &dyn BlockDevice, offset: u64, byte: u8) {
    device.write(&[Writing { offset, change: bygone_block::Change::Data(&[byte; 4096]) }]).unwrap();
}

fn restore_in_place(target: &Arc<Target>, seq: Seq, discard_later: bool) -> crate::Result<()> {
    let to = crate::api::call::RestoreTo::InPlace;
    restore::restore(target, &format!("seq:{}", seq.0), None, &to, discard_later, &mut Nobody).map(drop)
}

#[test]
fn a_disk_that_was_never_read_is_not_filled_over() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.raw");
    std::fs::write(&disk, vec![1; 1 << 20]).unwrap();
    let target = target(&dir.path().join("store"), Some(&disk));
    let promoted = restore::promote(&target, "main", false, &mut Nobody);
    assert!(matches!(promoted, Err(Error::BaseIncomplete { .. })), "{promoted:?}");
    assert!(std::fs::read(&disk).unwrap().iter().all(|b| *b == 1));
}

#[test]
fn what_was_not_read_of_a_changed_disk_is_not_filled_over_unless_it_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (target, volume, disk, seq) = tapped(dir.path());
    std::thread::sleep(Duration::from_millis(20));
    std::fs::write(&disk, vec![2; 1 << 20]).unwrap();
    // It is opened, found changed, and not read to the end.
    target.begin_closing();
    drop(target.lease(volume).unwrap());
    wait_idle(&target);
    let restored = restore_in_place(&target, seq, false);
    assert!(matches!(restored, Err(Error::BaseIncomplete { .. })), "{restored:?}");
    assert!(std::fs::read(&disk).unwrap().iter().all(|b| *b == 2));
    assert_eq!(target.log.catalog().head, BranchId(0));

    restore_in_place(&target, seq, true).unwrap();
    assert!(std::fs::read(&disk).unwrap().iter().all(|b| *b == 1));
}

#[test]
fn a_change_behind_our_back_that_nobody_noticed_yet_is_not_filled_over() {
    let dir = tempfile::tempdir().unwrap();
    let (target, volume, disk, seq) = tapped(dir.path());
    std::thread::sleep(Duration::from_millis(20));
    std::fs::write(&disk, vec![2; 1 << 20]).unwrap();
    let changed = target.log.head_seq();
    let restored = restore_in_place(&target, seq, false);
    assert!(matches!(restored, Err(Error::BaseIncomplete { .. })), "{restored:?}");
    wait_idle(&target);
    assert!(std::fs::read(&disk).unwrap().iter().all(|b| *b == 2));
    // Once it was read there is a moment to come back to, and the past may take its place.
    let read = target.log.head_seq();
    assert!(read > changed);
    restore_in_place(&target, seq, false).unwrap();
    assert!(std::fs::read(&disk).unwrap().iter().all(|b| *b == 1));
    assert!(target.log.catalog().is_exact(volume, read));
    let mut was = vec![0; 1 << 20];
    target
        .log
        .view(volume, read)
        .unwrap()
        .read(bygone_model::Lba(0), &mut was, bygone_store::Wait::Yes)
        .unwrap();
    assert!(was.iter().all(|b| *b == 2));
}

#[test]
fn a_disk_that_is_still_being_read_again_can_be_given_up() {
    const SIZE: usize = 64 << 20;
    let dir = tempfile::tempdir().unwrap();
    let (target, _, disk, seq) = tapped_of(dir.path(), SIZE);
    std::thread::sleep(Duration::from_millis(20));
    std::fs::write(&disk, vec![2; SIZE]).unwrap();
    // This finds it changed and begins to read it again.
    let restored = restore_in_place(&target, seq, false);
    assert!(matches!(restored, Err(Error::BaseIncomplete { .. })), "{restored:?}");
    assert!(target.is_busy());
    restore_in_place(&target, seq, true).unwrap();
    assert!(std::fs::read(&disk).unwrap().iter().all(|b| *b == 1));
}

#[test]
fn a_disk_that_is_changed_after_it_was_filled_is_noticed_however_much_was_logged_since() {
    let dir = tempfile::tempdir().unwrap();
    let (target, volume, disk, seq) = tapped(dir.path());
    let lease = target.lease(volume).unwrap();
    write(&lease, 0, 7);
    drop(lease);
    // As with a machine that runs on a branch which is promoted: the store serves it while the disk is filled.
    let name = restore::new_branch(&target, BranchId(0), seq, None, "try").unwrap();
    target.log.promote_branch(&name).unwrap();
    let volume = target.volume(target.present(), None).unwrap();
    let lease = Arc::new(LogDevice::open(target.log.clone(), volume, WhenFull::Fail).unwrap());
    restore::fill_disk(&target, volume, &mut |_, _| true).unwrap();
    let mut bytes = std::fs::read(&disk).unwrap();
    assert!(bytes.iter().all(|b| *b == 1));
    std::thread::sleep(Duration::from_millis(20));
    bytes[512 << 10] = 9;
    std::fs::write(&disk, bytes).unwrap();
    write(&*lease, 4096, 8);
    lease.flush().unwrap();
    let (paths, cache) = (target.paths.clone(), PageCache::new(CACHE_BYTES));
    drop((lease, target));

    let target = Target::open(&paths, "web", &cache).unwrap();
    drop(target.lease(volume).unwrap());
    wait_idle(&target);
    assert!(has_gap(&target));
}

fn has_gap(target: &Target) -> bool {
    let mut found = false;
    let mut look = |event: &bygone_store::Event| {
        found |= event.event.kind == Kind::Gap;
        !found
    };
    target.log.events(Seq::ZERO, target.log.head_seq(), &mut look).unwrap();
    found
}

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bygone_block::{BlockDevice, Extent, Geometry, IoError, LogDevice, RawDisk, Reading, WhenFull, Writing};
use bygone_model::{BranchId, Kind, Place, Seq, VolumeId};

use super::{Lease, Shared, Target, Use, lock};
use crate::{
    Error,
    config::{DiskConfig, TargetConfig},
    lifecycle::{Change, Request},
    restore,
    serve::Nobody,
    store_dir::StorePaths,
};

fn shared(paths: &StorePaths) -> Arc<Shared> {
    Shared::new(paths, Arc::new(crate::runner::Qemu::default()))
}

/// A target with one store-only disk of 1 MiB, or with the tapped disk at `path`.
fn target(store: &Path, path: Option<&Path>) -> Arc<Target> {
    let paths = StorePaths::new(store);
    paths.make().unwrap();
    let mut config = TargetConfig::new("web");
    let size_bytes = path.map_or(1 << 20, |path| std::fs::metadata(path).unwrap().len());
    let path = path.map(Path::to_owned);
    config.disks.push(DiskConfig { id: "vda".into(), path, block_bytes: 512, size_bytes });
    Target::make(&shared(&paths), &config, |_| Ok(Vec::new())).unwrap()
}

/// A device that notes, when it is dropped, whether the target still counts the disk as open.
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
    let mut lease = target.lease(volume, Use::Upkeep).unwrap();
    let below = lease.device.clone();
    lease.device = Arc::new(Last { below, target: target.clone(), volume, was_open: was_open.clone() });
    drop(lease);
    // A device dropped later would take the head map of a newly opened one.
    assert!(was_open.load(Ordering::Acquire));
    assert!(lock(&target.live).is_empty());
}

fn wait_for(done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "waited too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until the target is not busy.
fn wait_idle(target: &Target) {
    wait_for(|| !target.is_busy());
}

/// A target whose tapped disk was read completely, and the moment after that.
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
    let (at, now) = (format!("seq:{}", seq.0), jiff::Zoned::now());
    restore::restore(target, &at, None, &to, discard_later, &now, &mut Nobody).map(drop)
}

fn is_all(disk: &Path, byte: u8) -> bool {
    std::fs::read(disk).unwrap().iter().all(|b| *b == byte)
}

/// The content of the volume at a moment, from the store.
fn content(target: &Target, volume: VolumeId, seq: Seq) -> Vec<u8> {
    let mut was = vec![0; target.log.catalog().disk_of(volume).unwrap().sectors.bytes() as usize];
    let view = target.log.view(volume, seq).unwrap();
    view.read(bygone_model::Lba(0), &mut was, bygone_store::Wait::Yes).unwrap();
    was
}

#[test]
fn a_disk_that_was_never_read_is_read_before_it_is_filled() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk.raw");
    std::fs::write(&disk, vec![1; 1 << 20]).unwrap();
    let target = target(&dir.path().join("store"), Some(&disk));
    let op = target.begin_change(Change::Promoting, Request::Branches).unwrap();
    restore::promote(&op, BranchId(0), &mut Nobody).unwrap();
    assert!(is_all(&disk, 1));
    let volume = target.volume(BranchId(0), None).unwrap();
    assert!(content(&target, volume, target.log.head_seq()).iter().all(|b| *b == 1));
}

#[test]
fn what_cannot_be_read_of_a_changed_disk_is_not_filled_over_unless_it_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let (target, volume, disk, seq) = tapped(dir.path());
    std::thread::sleep(Duration::from_millis(20));
    std::fs::write(&disk, vec![2; 1 << 20]).unwrap();
    // It is opened, found changed, and not read completely.
    target.begin_closing();
    drop(target.lease(volume, Use::Upkeep).unwrap());
    wait_idle(&target);
    let restored = restore_in_place(&target, seq, false);
    assert!(matches!(restored, Err(Error::BaseIncomplete { .. })), "{restored:?}");
    assert!(is_all(&disk, 2));
    assert_eq!(target.log.catalog().head, BranchId(0));
    assert_eq!(target.log.catalog().branches.len(), 1, "a branch was left behind");

    target.go_on();
    restore_in_place(&target, seq, true).unwrap();
    assert!(is_all(&disk, 1));
    assert!(has_gap(&target));
}

#[test]
fn what_was_changed_behind_our_back_is_recorded_before_it_is_filled_over() {
    let dir = tempfile::tempdir().unwrap();
    let (target, volume, disk, seq) = tapped(dir.path());
    std::thread::sleep(Duration::from_millis(20));
    std::fs::write(&disk, vec![2; 1 << 20]).unwrap();
    // At the first attempt: the caller need not know that the disk was changed.
    restore_in_place(&target, seq, false).unwrap();
    assert!(is_all(&disk, 1));
    assert!(has_gap(&target));
    let catalog = target.log.catalog();
    assert_eq!(catalog.branches.len(), 2);
    let before = Seq(catalog.branches[1].made.0 - 1);
    assert!(catalog.is_exact(volume, before));
    assert!(content(&target, volume, before).iter().all(|b| *b == 2));
}

#[test]
fn what_is_given_up_together_with_its_branch_is_said_although_nobody_has_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let (target, _, disk, seq) = tapped(dir.path());
    // Giving up what the store has read is no gap.
    restore_in_place(&target, seq, true).unwrap();
    assert!(!has_gap(&target));
    std::thread::sleep(Duration::from_millis(20));
    std::fs::write(&disk, vec![2; 1 << 20]).unwrap();
    restore_in_place(&target, seq, true).unwrap();
    assert!(is_all(&disk, 1));
    assert!(has_gap(&target));
}

#[test]
fn a_disk_that_is_still_being_read_again_can_be_given_up() {
    const SIZE: usize = 64 << 20;
    let dir = tempfile::tempdir().unwrap();
    let (target, volume, disk, seq) = tapped_of(dir.path(), SIZE);
    std::thread::sleep(Duration::from_millis(20));
    std::fs::write(&disk, vec![2; SIZE]).unwrap();
    // Opening it finds it changed and starts to read it again.
    drop(target.lease(volume, Use::Upkeep).unwrap());
    assert!(target.is_busy());
    restore_in_place(&target, seq, true).unwrap();
    assert!(is_all(&disk, 1));
}

#[test]
fn a_restore_that_cannot_have_the_disk_outside_has_changed_nothing() {
    for discard_later in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (target, _, disk, seq) = tapped(dir.path());
        let other = restore::new_branch(&target, Place::new(BranchId(0), seq), Some("other"), "try").unwrap();
        let before = target.log.catalog();
        let away = dir.path().join("away");
        type Harm<'a> = (&'a str, &'a dyn Fn() -> Box<dyn std::any::Any>, &'a dyn Fn());
        let locked = || {
            let file = std::fs::File::options().read(true).write(true).open(&disk).unwrap();
            Box::new((bygone_sys::ImageLock::take_exclusive(&file).unwrap(), file)) as Box<dyn std::any::Any>
        };
        let nothing = || Box::new(()) as Box<dyn std::any::Any>;
        let absent = || {
            std::fs::rename(&disk, &away).unwrap();
            nothing()
        };
        let resize = |len| std::fs::File::options().write(true).open(&disk).unwrap().set_len(len).unwrap();
        let resized = || {
            resize(2 << 20);
            nothing()
        };
        let harms: [Harm<'_>; 3] = [
            ("locked", &locked, &|| {}),
            ("absent", &absent, &|| std::fs::rename(&away, &disk).unwrap()),
            ("resized", &resized, &|| resize(1 << 20)),
        ];
        for (what, harm, mend) in harms {
            let held = harm();
            restore_in_place(&target, seq, discard_later).unwrap_err();
            let op = target.begin_change(Change::Promoting, Request::Branches).unwrap();
            restore::promote(&op, other, &mut Nobody).unwrap_err();
            drop((op, held));
            mend();
            let now = target.log.catalog();
            assert_eq!((now.head, now.branches.len()), (before.head, before.branches.len()), "{what}");
            assert_eq!(now.branches[0].dropped, None, "{what}");
            assert_eq!(now.shows, before.shows, "{what}");
        }
        restore_in_place(&target, seq, discard_later).unwrap();
        assert!(is_all(&disk, 1));
    }
}

#[test]
fn what_was_taken_back_can_be_taken_back_again() {
    let dir = tempfile::tempdir().unwrap();
    let (target, volume, disk, seq) = tapped(dir.path());
    let lease = target.lease(volume, Use::Upkeep).unwrap();
    write(&lease, 0, 7);
    drop(lease);
    let written = std::fs::read(&disk).unwrap();
    let undo = || {
        let op = target.begin_change(Change::Undoing, Request::Branches).unwrap();
        restore::undo(&op, &mut Nobody)
    };
    undo().unwrap_err();
    restore_in_place(&target, seq, true).unwrap();
    assert!(is_all(&disk, 1));
    assert!(target.log.catalog().branch_named("main").is_err());
    undo().unwrap();
    assert_eq!(std::fs::read(&disk).unwrap(), written);
    assert_eq!(target.log.catalog().head, target.log.catalog().branch_named("main").unwrap().id);
    undo().unwrap();
    assert!(is_all(&disk, 1));
    assert!(target.log.catalog().branch_named("main").is_err());
    undo().unwrap();
    assert_eq!(std::fs::read(&disk).unwrap(), written);
}

#[test]
fn a_disk_that_is_changed_after_it_was_filled_is_noticed_however_much_was_logged_since() {
    let dir = tempfile::tempdir().unwrap();
    let (target, volume, disk, seq) = tapped(dir.path());
    let lease = target.lease(volume, Use::Upkeep).unwrap();
    write(&lease, 0, 7);
    drop(lease);
    // As with a machine that runs on a branch that is promoted: the store serves it while the disk is filled.
    let branch = restore::new_branch(&target, Place::new(BranchId(0), seq), None, "try").unwrap();
    target.log.promote_branch(branch).unwrap();
    let volume = target.volume(target.present(), None).unwrap();
    let lease = Arc::new(LogDevice::open(target.log.clone(), volume, WhenFull::Fail).unwrap());
    restore::fill_unasked(&target, volume).unwrap();
    let mut bytes = std::fs::read(&disk).unwrap();
    assert!(bytes.iter().all(|b| *b == 1));
    std::thread::sleep(Duration::from_millis(20));
    bytes[512 << 10] = 9;
    std::fs::write(&disk, bytes).unwrap();
    write(&*lease, 4096, 8);
    lease.flush().unwrap();
    let shared = target.shared.clone();
    drop((lease, target));

    let target = Target::open(&shared, "web").unwrap();
    drop(target.lease(volume, Use::Upkeep).unwrap());
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

/// A disk that does something else before each sync.
struct Syncing<F> {
    below: bygone_block::OsDisk,
    first: F,
}

impl<F: Fn() + Send + Sync> RawDisk for Syncing<F> {
    fn file(&self) -> &dyn bygone_store::env::File {
        self.below.file()
    }
    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }
    fn sync(&self) -> std::io::Result<()> {
        (self.first)();
        self.below.sync()
    }
    fn zero(&self, offset: u64, len_bytes: u64) -> std::io::Result<()> {
        self.below.zero(offset, len_bytes)
    }
    fn punch(&self, offset: u64, len_bytes: u64) -> std::io::Result<()> {
        self.below.punch(offset, len_bytes)
    }
    fn next_data(&self, offset: u64) -> std::io::Result<Option<u64>> {
        self.below.next_data(offset)
    }
    fn next_hole(&self, offset: u64) -> std::io::Result<u64> {
        self.below.next_hole(offset)
    }
    fn identity(&self) -> std::io::Result<bygone_model::Details> {
        self.below.identity()
    }
}

/// Opens a tapped disk that does something else before each sync.
fn lease_with(target: &Arc<Target>, volume: VolumeId, first: impl Fn() + Send + Sync + 'static) -> Lease {
    let opened = target.lease_by(volume, Use::Upkeep, false, |target| {
        let disk = target.log.catalog().disk_of(volume)?.clone();
        let (below, lock) = target.take_disk(&disk)?;
        target.open_tap_on(volume, Box::new(Syncing { below, first }), lock)
    });
    opened.unwrap()
}

#[test]
fn a_status_does_not_wait_for_a_disk_that_closes() {
    let dir = tempfile::tempdir().unwrap();
    let (target, volume, ..) = tapped(dir.path());
    let (go_on, waits) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (may_sync, is_asked) = (go_on.clone(), waits.clone());
    let lease = lease_with(&target, volume, move || {
        while !may_sync.load(Ordering::Acquire) {
            is_asked.store(true, Ordering::Release);
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    write(&lease, 0, 7);
    go_on.store(false, Ordering::Release);
    std::thread::scope(|scope| {
        let closing = scope.spawn(move || drop(lease));
        let end = Instant::now() + Duration::from_secs(20);
        while !waits.load(Ordering::Acquire) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let asked = scope.spawn(|| (target.status().unwrap(), target.is_busy(), target.is_paused()));
        let end = Instant::now() + Duration::from_secs(20);
        while !asked.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (answered, closed) = (asked.is_finished(), closing.is_finished());
        go_on.store(true, Ordering::Release);
        assert!(answered && !closed);
        assert!(asked.join().unwrap().1, "it is not closed yet");
    });
    wait_idle(&target);
}

#[test]
fn what_is_durable_is_never_said_to_be_more_than_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(&dir.path().join("store"), None);
    let lease = target.lease(target.volume(target.present(), None).unwrap(), Use::Client).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..300 {
                write(&lease, 0, 7);
                lease.flush().unwrap();
            }
            done.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let status = target.status().unwrap();
            assert!(status.durable_seq <= status.head_seq, "{} > {}", status.durable_seq, status.head_seq);
        }
    });
}

#[test]
fn a_status_opens_no_file_of_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(&dir.path().join("store"), None);
    let lease = target.lease(target.volume(target.present(), None).unwrap(), Use::Client).unwrap();
    write(&lease, 0, 7);
    drop(lease);
    let before = target.status().unwrap();
    assert!(before.used_bytes > 4096);
    for folder in ["log", "index"] {
        let _ = std::fs::rename(target.dir().join(folder), dir.path().join(folder));
    }
    let after = target.status().unwrap();
    assert_eq!((after.used_bytes, after.head_seq), (before.used_bytes, before.head_seq));
    assert_eq!(after.problems, before.problems);
}

#[test]
fn a_panic_while_a_disk_is_opened_is_told_to_its_caller_and_leaves_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(&dir.path().join("store"), None);
    let volume = target.volume(target.present(), None).unwrap();
    let (is_opening, waits) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let opening = scope.spawn(|| {
            target.lease_by(volume, Use::Upkeep, false, |_| {
                is_opening.store(true, Ordering::Release);
                wait_for(|| waits.load(Ordering::Acquire));
                panic!("as it was told to")
            })
        });
        wait_for(|| is_opening.load(Ordering::Acquire));
        let waiting = scope.spawn(|| {
            waits.store(true, Ordering::Release);
            target.lease(volume, Use::Client).map(|lease| write(&lease, 0, 7))
        });
        let told = opening.join().expect("the panic goes no further").unwrap_err();
        assert!(matches!(told, Error::Panicked { .. }), "{told:?}");
        wait_for(|| waiting.is_finished());
        waiting.join().unwrap().unwrap();
    });
    assert!(!target.is_busy());
}

#[test]
fn a_panic_while_a_disk_is_closed_does_not_keep_it_from_being_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let (target, volume, disk, _) = tapped(dir.path());
    let is_due = Arc::new(AtomicBool::new(false));
    let panics = is_due.clone();
    let lease = lease_with(&target, volume, move || {
        assert!(!panics.load(Ordering::Acquire), "as it was told to");
    });
    write(&lease, 0, 7);
    is_due.store(true, Ordering::Release);
    // In a thread of its own, which the panic would end.
    std::thread::scope(|scope| scope.spawn(move || drop(lease)).join().expect("the panic goes no further"));
    assert!(!lock(&target.live).contains_key(&volume));
    drop(target.lease(volume, Use::Upkeep).unwrap());
    wait_idle(&target);
    assert_eq!(std::fs::read(disk).unwrap()[0], 7, "it is complete without Bygone");
}

#[test]
fn a_panic_while_a_disk_of_the_store_is_closed_does_not_keep_it_open() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(&dir.path().join("store"), None);
    let volume = target.volume(target.present(), None).unwrap();
    let lease = target.lease(volume, Use::Client).unwrap();
    write(&lease, 0, 7);
    target.panic_at_syncs(true);
    std::thread::scope(|scope| scope.spawn(move || drop(lease)).join().expect("the panic goes no further"));
    assert!(!lock(&target.live).contains_key(&volume));
    assert!(!target.is_busy());
}

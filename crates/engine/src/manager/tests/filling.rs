//! Disks outside the store that are filled with a new present.

use bygone_block::{BlockDevice, Change, LogDevice, WhenFull, Writing};
use bygone_sys::ImageLock;

use super::{machines::stop, *};
use crate::{
    api::{Answers, Items, Nothing, Progress, call::RestoreTo},
    target::{Lease, Target, Use},
};

fn write(disk: &dyn BlockDevice, byte: u8) {
    disk.write(&[Writing { offset: 0, change: Change::Data(&[byte; 4096]) }]).unwrap();
}

/// The first byte of each half of a disk outside, once no thread works on it.
fn shown(target: &Target, disk: &Path) -> [u8; 2] {
    wait_for("the target to be quiet", || target.is_quiet());
    let bytes = std::fs::read(disk).unwrap();
    [bytes[0], bytes[bytes.len() / 2]]
}

fn promote(manager: &Manager, branch: &str, answers: &mut dyn Items<Nothing>) -> Result<()> {
    let promote = call::BranchPromote { name: "web".into(), branch: Some(branch.into()) };
    manager.handle(&promote, answers).map(drop)
}

/// Runs a closure once, when a disk begins to be filled.
struct AtFilling<F>(Option<F>);

impl<F: FnOnce()> Answers for AtFilling<F> {
    fn progress(&mut self, progress: Progress) -> bool {
        if progress.doing.starts_with("filling")
            && let Some(work) = self.0.take()
        {
            work();
        }
        true
    }
    fn note(&mut self, _: String) {}
    fn wanted(&mut self) -> bool {
        true
    }
}

/// Runs a closure when a disk is filled and still locked.
struct AtEnd<F>(F);

impl<F: FnMut()> Answers for AtEnd<F> {
    fn progress(&mut self, progress: Progress) -> bool {
        if progress.doing.starts_with("filling") && progress.done_bytes == progress.total_bytes {
            (self.0)();
        }
        true
    }
    fn note(&mut self, _: String) {}
    fn wanted(&mut self) -> bool {
        true
    }
}

impl<F: FnMut()> Items<Nothing> for AtEnd<F> {
    fn item(&mut self, _: Nothing) -> bool {
        true
    }
}

impl<F: FnOnce()> Items<Nothing> for AtFilling<F> {
    fn item(&mut self, _: Nothing) -> bool {
        true
    }
}

#[test]
fn a_disk_shows_what_its_machine_wrote_after_its_branch_became_the_present() {
    let (world, manager) = World::with(&[]);
    let disk = world.tapped(&manager, "web");
    let target = manager.target("web").unwrap();
    let at = Some(format!("seq:{}", target.log.head_seq()));
    let run = call::Run { name: "web".into(), at, branch: None, display: None };
    let branch = manager.handle(&run, &mut Nobody).unwrap().branch;
    promote(&manager, &branch, &mut Nobody).unwrap();
    wait_for("the disk to be filled", || target.is_quiet());
    let volume = target.volume(target.present(), None).unwrap();
    write(&target.lease(volume, Use::Guest).unwrap(), 7);
    stop(&manager, "web").unwrap();
    assert_eq!(shown(&target, &disk), [7, 1]);
    assert!(status(&manager).problems.is_empty(), "{:?}", status(&manager).problems);
}

#[test]
fn what_a_machine_wrote_to_its_new_present_before_all_was_killed_is_carried_to_the_disk_by_the_next_manager()
{
    let (world, manager) = World::with(&[]);
    let disk = world.tapped(&manager, "web");
    let target = manager.target("web").unwrap();
    let branch = target.log.add_branch("try-1", BranchId(0), target.log.head_seq()).unwrap();
    let volume = target.volume(branch, None).unwrap();
    promote(&manager, "try-1", &mut Nobody).unwrap();
    // Not closed, as by a kill.
    write(&LogDevice::open(target.log.clone(), volume, WhenFull::Pause).unwrap(), 7);
    assert_eq!(shown(&target, &disk), [1, 1]);
    drop(target);
    world.kill(manager);

    let manager = world.serving();
    let target = manager.target("web").unwrap();
    target.catch_up();
    assert_eq!(shown(&target, &disk), [7, 1]);
    // Nothing is left to do.
    let head = target.log.head_seq();
    target.catch_up();
    assert_eq!((shown(&target, &disk), target.log.head_seq()), ([7, 1], head));
}

#[test]
fn a_disk_shows_what_was_written_to_its_branch_while_it_was_filled() {
    let (world, manager) = World::with(&[]);
    let disk = world.tapped(&manager, "web");
    let target = manager.target("web").unwrap();
    let branch = target.log.add_branch("try-1", BranchId(0), target.log.head_seq()).unwrap();
    let served: Lease = target.serve(target.volume(branch, None).unwrap(), false).unwrap();
    // The client leaves before the disk is filled.
    let mut answers = AtFilling(Some(move || write(&served, 7)));
    promote(&manager, "try-1", &mut answers).unwrap();
    assert!(answers.0.is_none());
    assert_eq!(shown(&target, &disk), [7, 1]);
}

#[test]
fn what_was_done_before_a_disk_failed_is_said_and_stays_done() {
    let (world, manager) = World::with(&[]);
    let disk = world.tapped(&manager, "web");
    let target = manager.target("web").unwrap();
    let early = target.log.head_seq();
    write(&target.serve(target.volume(BranchId(0), None).unwrap(), true).unwrap(), 5);
    let whole = std::fs::File::options().write(true).open(&disk).unwrap();
    let size = whole.metadata().unwrap().len();

    // Filling compares with the disk, which cannot be read any more.
    let mut answers = AtFilling(Some(|| whole.set_len(0).unwrap()));
    let (at, to) = (format!("seq:{early}"), RestoreTo::InPlace);
    let restore = call::Restore { name: "web".into(), at, disk: None, to, discard_later: false };
    let partly = manager.handle(&restore, &mut answers).unwrap_err();
    let Error::Partly { done, why } = &partly else { panic!("{partly:?}") };
    assert!(done.contains("restored") && done.ends_with("on branch restored-1"), "{done}");
    assert!(matches!(&**why, Error::Disk { path, .. } if *path == disk), "{why:?}");
    let present = |of: &Target| of.log.catalog().branch(of.present()).unwrap().name.clone();
    assert_eq!(present(&target), "restored-1");
    // The disk cannot be used, and what was filled so far is not taken for a change by others.
    assert!(!status(&manager).problems.is_empty());
    let mut answers = AtFilling(None::<fn()>);
    assert!(matches!(promote(&manager, "main", &mut answers), Err(Error::DiskResized { .. })));
    assert_eq!(present(&target), "restored-1");

    whole.set_len(size).unwrap();
    drop(target.lease(target.volume(target.present(), None).unwrap(), Use::Guest).unwrap());
    assert_eq!(shown(&target, &disk), [1, 1]);
    assert!(status(&manager).problems.is_empty(), "{:?}", status(&manager).problems);
    manager.handle(&call::Undo { name: "web".into() }, &mut Nobody).unwrap();
    assert_eq!((present(&target).as_str(), shown(&target, &disk)), ("main", [5, 1]));
}

#[test]
fn whoever_has_waited_for_a_disk_to_be_filled_never_finds_it_locked() {
    let (world, manager) = World::with(&[]);
    let disk = world.tapped(&manager, "web");
    let target = manager.target("web").unwrap();
    target.log.add_branch("try-1", BranchId(0), target.log.head_seq()).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&disk).unwrap();
    for branch in ["try-1", "main"].repeat(40) {
        std::thread::scope(|scope| {
            let mut waiting = None;
            let mut answers = AtEnd(|| {
                let waits = || {
                    while target.is_claimed(0) {
                        std::hint::spin_loop();
                    }
                    ImageLock::take_exclusive(&file).map(drop)
                };
                waiting = Some(scope.spawn(waits));
                std::thread::sleep(Duration::from_millis(1));
            });
            promote(&manager, branch, &mut answers).unwrap();
            waiting.unwrap().join().unwrap().unwrap();
        });
    }
}

#[test]
fn whoever_looks_at_a_disk_for_a_moment_keeps_no_present_from_being_moved() {
    let (world, manager) = World::with(&[]);
    let disk = world.tapped(&manager, "web");
    let target = manager.target("web").unwrap();
    let branch = target.log.add_branch("try-1", BranchId(0), target.log.head_seq()).unwrap();
    // The store serves it while the disk is filled, and this lease remains from then.
    let looking = target.lease(target.volume(branch, None).unwrap(), Use::Upkeep).unwrap();
    promote(&manager, "try-1", &mut Nobody).unwrap();
    write(&looking, 7);
    let asked = Instant::now();
    std::thread::scope(|scope| {
        let promoting = scope.spawn(|| promote(&manager, "main", &mut Nobody));
        wait_for("the promotion to begin", || promoting.is_finished() || target.doing().is_some());
        std::thread::sleep(Duration::from_millis(20));
        drop(looking);
        promoting.join().unwrap().unwrap();
    });
    // Neither waits until the other times out.
    assert!(asked.elapsed() < Duration::from_secs(20));
    assert_eq!(shown(&target, &disk), [1, 1]);
    promote(&manager, "try-1", &mut Nobody).unwrap();
    assert_eq!(shown(&target, &disk), [7, 1]);
}

#[test]
fn what_was_written_outside_since_an_undo_is_kept_when_that_is_taken_back() {
    let (world, manager) = World::with(&[]);
    let disk = world.tapped(&manager, "web");
    let target = manager.target("web").unwrap();
    let (at, to) = (format!("seq:{}", target.log.head_seq()), RestoreTo::InPlace);
    let restore = call::Restore { name: "web".into(), at, disk: None, to, discard_later: true };
    let undo = || manager.handle(&call::Undo { name: "web".into() }, &mut Nobody).unwrap();
    manager.handle(&restore, &mut Nobody).unwrap();
    undo();
    assert_eq!(shown(&target, &disk), [1, 1]);
    std::thread::sleep(Duration::from_millis(20));
    std::fs::write(&disk, vec![9; 1 << 20]).unwrap();
    // The discarded branch is dropped again, and comes back with what was written outside.
    undo();
    assert_eq!(shown(&target, &disk), [1, 1]);
    undo();
    assert_eq!(shown(&target, &disk), [9, 9]);
}

#[test]
fn a_disk_that_another_has_filled_by_now_is_not_waited_for() {
    let (world, manager) = World::with(&[]);
    let disk = world.tapped(&manager, "web");
    let target = manager.target("web").unwrap();
    let branch = target.log.add_branch("try-1", BranchId(0), target.log.head_seq()).unwrap();
    let volume = target.volume(branch, None).unwrap();
    // Open since the store served it, for as long as the client likes.
    let _served = target.serve(volume, false).unwrap();
    promote(&manager, "try-1", &mut Nobody).unwrap();
    assert_eq!(shown(&target, &disk), [1, 1]);
    let begun = Instant::now();
    crate::restore::fill_unasked(&target, volume).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

/// Gives a call up when a disk begins to be filled.
#[derive(Default)]
struct GivingUp(bool);

impl Answers for GivingUp {
    fn progress(&mut self, progress: Progress) -> bool {
        // The first piece is still filled.
        self.0 |= progress.doing.starts_with("filling") && progress.done_bytes > 0;
        !self.0
    }
    fn note(&mut self, _: String) {}
    fn wanted(&mut self) -> bool {
        !self.0
    }
}

impl Items<Nothing> for GivingUp {
    fn item(&mut self, _: Nothing) -> bool {
        true
    }
}

#[test]
fn filling_that_is_given_up_ends_within_a_piece_and_goes_on_at_the_next_use() {
    let (world, manager) = World::with(&[]);
    let disk = world.dir.path().join("web.raw");
    std::fs::write(&disk, vec![1; 16 << 20]).unwrap();
    let new = NewDisk { id: None, source: NewSource::Tap(disk.clone()), block_bytes: None };
    let add = call::TargetAdd { config: TargetConfig::new("web"), disks: vec![new], wait: true };
    manager.handle(&add, &mut Nobody).unwrap();
    let target = manager.target("web").unwrap();
    let early = target.log.head_seq();
    let lease = target.serve(target.volume(BranchId(0), None).unwrap(), true).unwrap();
    for mib in 0..16 {
        lease.write(&[Writing { offset: mib << 20, change: Change::Data(&[2; 1 << 20]) }]).unwrap();
    }
    drop(lease);
    assert_eq!(shown(&target, &disk), [2, 2]);

    let (at, to) = (format!("seq:{early}"), RestoreTo::InPlace);
    let restore = call::Restore { name: "web".into(), at, disk: None, to, discard_later: false };
    let partly = manager.handle(&restore, &mut GivingUp::default()).unwrap_err();
    let Error::Partly { done, why } = &partly else { panic!("{partly:?}") };
    assert!(done.ends_with("on branch restored-1"), "{done}");
    assert!(matches!(&**why, Error::NotFilled { disk } if disk == "vda"), "{why:?}");
    assert_eq!(shown(&target, &disk), [1, 2]);
    // It is taken back whole, …
    manager.handle(&call::Undo { name: "web".into() }, &mut Nobody).unwrap();
    assert_eq!(std::fs::read(&disk).unwrap(), vec![2; 16 << 20]);
    // … and filled when it is used.
    manager.handle(&restore, &mut GivingUp::default()).unwrap_err();
    drop(target.lease(target.volume(target.present(), None).unwrap(), Use::Guest).unwrap());
    wait_for("the disk to be filled", || target.is_quiet());
    assert_eq!(std::fs::read(&disk).unwrap(), vec![1; 16 << 20]);
    assert!(status(&manager).problems.is_empty(), "{:?}", status(&manager).problems);
}

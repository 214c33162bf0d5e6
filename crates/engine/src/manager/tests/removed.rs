use std::sync::atomic::{AtomicBool, Ordering};

use bygone_block::{BlockDevice, Change, Writing};
use bygone_store::LogOptions;
use serde_json::Value;

use super::*;
use crate::{
    api::{
        Caller,
        call::{Plannable, RestoreTo},
    },
    lifecycle,
    store_dir::faults::{self, Step},
    target::Use,
};

fn remove(manager: &Manager, name: &str) -> Result<()> {
    let remove = call::TargetRemove { name: name.into(), delete_history: false };
    manager.handle(&remove, &mut Nobody).map(drop)
}

fn bring_back(manager: &Manager, name: &str) -> Result<()> {
    manager.handle(&call::TargetRestore::of(name), &mut Nobody).map(drop)
}

#[test]
fn what_is_removed_is_the_target_that_is_meant_and_not_another_one_of_that_name() {
    let (_world, manager) = World::with(&["web"]);
    let meant = manager.target("web").unwrap();
    remove(&manager, "web").unwrap();
    add(&manager, "web").unwrap();
    let other = manager.target("web").unwrap().log.id();
    assert_ne!(meant.log.id(), other);
    // As a failing `add` does when its disk was taken meanwhile.
    let refused = manager.remove(&meant, true, &mut Nobody);
    assert!(matches!(refused, Err(Error::NoTarget(_))), "{refused:?}");
    assert_eq!(manager.target("web").unwrap().log.id(), other);
}

#[test]
fn what_was_removed_can_be_brought_back() {
    let (_world, manager) = World::with(&["web"]);
    let id = manager.target("web").unwrap().log.id();
    remove(&manager, "web").unwrap();
    assert!(matches!(manager.target("web"), Err(Error::NoTarget(_))));
    add(&manager, "web").unwrap();
    assert!(matches!(bring_back(&manager, "web"), Err(Error::TargetExists(_))));
    remove(&manager, "web").unwrap();
    // The last one, unless another is named by its folder.
    bring_back(&manager, "web").unwrap();
    assert_ne!(manager.target("web").unwrap().log.id(), id);
    remove(&manager, "web").unwrap();
    bring_back(&manager, "web-1").unwrap();
    assert_eq!(manager.target("web").unwrap().log.id(), id);
    assert!(matches!(bring_back(&manager, "db"), Err(Error::NotRemoved(_))));
    bring_back(&manager, "../web").unwrap_err();
}

#[test]
fn the_one_that_was_removed_last_is_brought_back_whichever_were_brought_back_before() {
    let (_world, manager) = World::with(&["web"]);
    let first = manager.target("web").unwrap().log.id();
    remove(&manager, "web").unwrap();
    add(&manager, "web").unwrap();
    remove(&manager, "web").unwrap();
    bring_back(&manager, "web-1").unwrap();
    remove(&manager, "web").unwrap();
    bring_back(&manager, "web").unwrap();
    assert_eq!(manager.target("web").unwrap().log.id(), first);
}

/// Restores a removed target as a job, as clients do; returns the notes.
fn answer_restore(manager: &Manager, call: call::TargetRestore) -> Result<Vec<String>> {
    let mut told = Collected::<Value>::default();
    manager.answer(&call.into(), &mut told).map(|_| told.notes)
}

#[test]
fn a_target_is_brought_back_however_long_its_name_is() {
    let (_world, manager) = World::with(&[]);
    for name in ["n".repeat(63), "n".repeat(64)] {
        add(&manager, &name).unwrap();
        let first = manager.target(&name).unwrap().log.id();
        remove(&manager, &name).unwrap();
        add(&manager, &name).unwrap();
        remove(&manager, &name).unwrap();
        answer_restore(&manager, call::TargetRestore::of(&format!("{name}-1"))).unwrap();
        assert_eq!(manager.target(&name).unwrap().log.id(), first);
        remove(&manager, &name).unwrap();
        answer_restore(&manager, call::TargetRestore::of(&name)).unwrap();
        assert_eq!(manager.target(&name).unwrap().log.id(), first);
    }
}

#[test]
fn what_is_brought_back_is_the_target_that_was_meant_when_the_call_began() {
    let (_world, manager) = World::with(&["web", "web-1"]);
    remove(&manager, "web").unwrap();
    remove(&manager, "web-1").unwrap();
    let as_named =
        |name: &str| call::TargetRestore { new_name: Some(name.into()), ..call::TargetRestore::of("web") };
    // The folder of `web` is called `web-1`, which is the name of the other one. That is not the caller's concern.
    assert_eq!(answer_restore(&manager, call::TargetRestore::of("web")).unwrap(), [] as [&str; 0]);
    let meant = manager.target("web").unwrap().log.id();
    remove(&manager, "web").unwrap();

    let began = manager.meant(&as_named("old").into()).unwrap();
    answer_restore(&manager, as_named("site")).unwrap();
    assert_eq!(manager.target("site").unwrap().log.id(), meant);
    let go_on = || manager.do_now(&began, &mut Collected::<Value>::default());
    let refused = go_on();
    assert!(matches!(refused, Err(Error::NotRemoved(_))), "{refused:?}");
    // Nor is it another target that was removed since, although its folder has the same name.
    add(&manager, "web").unwrap();
    remove(&manager, "web").unwrap();
    let refused = go_on();
    assert!(matches!(refused, Err(Error::NotRemoved(_))), "{refused:?}");
    assert!(matches!(manager.target("old"), Err(Error::NoTarget(_))));
}

#[test]
fn whoever_brings_back_while_another_removes_gets_what_was_removed_last() {
    let (_world, manager) = World::with(&["web"]);
    remove(&manager, "web").unwrap();
    for _ in 0..60 {
        add(&manager, "web").unwrap();
        let id = manager.target("web").unwrap().log.id();
        let (start, back) = (std::sync::Barrier::new(3), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    start.wait();
                    let end = Instant::now() + Duration::from_secs(30);
                    while !back.load(Ordering::Acquire) && Instant::now() < end {
                        if bring_back(&manager, "web").is_ok() {
                            back.store(true, Ordering::Release);
                        }
                    }
                });
            }
            start.wait();
            remove(&manager, "web").unwrap();
        });
        assert_eq!(manager.target("web").unwrap().log.id(), id);
        remove(&manager, "web").unwrap();
    }
}

#[test]
fn what_was_removed_does_not_come_back_to_a_disk_that_another_target_has_by_now() {
    let (world, manager) = World::with(&[]);
    let disk = world.dir.path().join("disk.raw");
    std::fs::write(&disk, vec![1; 1 << 20]).unwrap();
    let tapped = |name: &str| {
        let disks = vec![NewDisk { id: None, source: NewSource::Tap(disk.clone()), block_bytes: None }];
        let add = call::TargetAdd { config: TargetConfig::new(name), disks, wait: true };
        manager.handle(&add, &mut Nobody).map(drop)
    };
    tapped("a").unwrap();
    remove(&manager, "a").unwrap();
    tapped("b").unwrap();
    let refused = bring_back(&manager, "a");
    assert!(matches!(&refused, Err(Error::DiskTaken { target, .. }) if target == "b"), "{refused:?}");
    assert!(matches!(manager.target("a"), Err(Error::NoTarget(_))));
    remove(&manager, "b").unwrap();
    bring_back(&manager, "a").unwrap();
}

#[test]
fn a_disk_that_is_away_is_still_that_of_its_target() {
    let (world, manager) = World::with(&[]);
    let disk = world.dir.path().join("disk.raw");
    std::fs::write(&disk, vec![1; 1 << 20]).unwrap();
    let tapped = |name: &str| {
        let disks = vec![NewDisk { id: None, source: NewSource::Tap(disk.clone()), block_bytes: None }];
        let add = call::TargetAdd { config: TargetConfig::new(name), disks, wait: true };
        manager.handle(&add, &mut Nobody).map(drop)
    };
    tapped("a").unwrap();
    remove(&manager, "a").unwrap();
    tapped("b").unwrap();
    std::fs::rename(&disk, world.dir.path().join("away")).unwrap();
    let refused = bring_back(&manager, "a");
    assert!(matches!(&refused, Err(Error::DiskTaken { target, .. }) if target == "b"), "{refused:?}");
    add(&manager, "c").unwrap();
    let restore = |name: &str| {
        let to = RestoreTo::Path(disk.clone());
        let restore =
            call::Restore { name: name.into(), at: "now".into(), disk: None, to, discard_later: false };
        manager.handle(&restore, &mut Nobody).map(drop)
    };
    let refused = restore("c");
    assert!(matches!(&refused, Err(Error::Tapped { target, .. }) if target == "b"), "{refused:?}");
    assert!(!disk.exists());
    // Its own content may be restored there: that is how a lost disk comes back.
    restore("b").unwrap();
    assert_eq!(std::fs::read(&disk).unwrap(), vec![1; 1 << 20]);
}

#[test]
fn what_is_brought_back_meanwhile_is_told_of_whole_or_not_at_all() {
    let (_world, manager) = World::with(&["web"]);
    remove(&manager, "web").unwrap();
    for _ in 0..100 {
        let back = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let mut told = Vec::new();
                while !back.load(Ordering::Acquire) {
                    told.extend(Collected::of(&manager, &call::TargetRemoved {}).items);
                }
                told
            });
            bring_back(&manager, "web").unwrap();
            back.store(true, Ordering::Release);
            let told = looking.join().unwrap();
            assert!(told.iter().all(|info| info.disks.len() == 1 && info.used_bytes > 0), "{told:?}");
        });
        remove(&manager, "web").unwrap();
    }
}

#[test]
fn a_target_of_which_a_moment_is_read_is_not_removed() {
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    let volume = target.volume(BranchId(0), None).unwrap();
    let past = target.as_of(volume, target.log.head_seq()).unwrap();
    assert!(matches!(remove(&manager, "web"), Err(Error::Served(_))));
    drop(past);
    remove(&manager, "web").unwrap();
    assert!(target.dir().join("log").exists() || !target.dir().exists());
}

/// A client that runs a closure as soon as the target was found.
pub(super) struct Meanwhile<F: Fn()>(F, AtomicBool, Caller);

impl<F: Fn()> Meanwhile<F> {
    pub(super) fn new(work: F) -> Meanwhile<F> {
        Meanwhile(work, AtomicBool::new(false), Caller::default())
    }

    fn once(&self) {
        if !self.1.swap(true, Ordering::AcqRel) {
            (self.0)();
        }
    }
}

impl<F: Fn()> Answers for Meanwhile<F> {
    fn caller(&self) -> &Caller {
        self.once();
        &self.2
    }
    fn progress(&mut self, _: Progress) -> bool {
        self.once();
        true
    }
    fn note(&mut self, _: String) {}
    fn wanted(&mut self) -> bool {
        true
    }
}

impl<F: Fn(), I> Items<I> for Meanwhile<F> {
    fn item(&mut self, _: I) -> bool {
        true
    }
}

#[test]
fn of_a_target_that_is_removed_meanwhile_only_that_is_told() {
    let world = World::new();
    let options = LogOptions { segment_bytes: 256 << 10, ..LogOptions::default() };
    let shared = Shared::with_options(&world.paths(), world.fake, options);
    let manager = Manager::open_shared(shared, false).unwrap();
    // Its log has several files, of which not all are open.
    let fresh = || {
        add(&manager, "web").unwrap();
        let target = manager.target("web").unwrap();
        let disk = target.lease(target.volume(BranchId(0), None).unwrap(), Use::Upkeep).unwrap();
        for _ in 0..4 {
            disk.write(&[Writing { offset: 0, change: Change::Data(&[7; 200 << 10]) }]).unwrap();
        }
        drop(disk);
        target.log.flush().unwrap();
        while target.log.maintain().unwrap() {}
    };
    let gone = || Meanwhile::new(|| remove(&manager, "web").unwrap());
    fn told<T: std::fmt::Debug>(refused: &Result<T>) {
        assert!(matches!(refused, Err(Error::NoTarget(name)) if name == "web"), "{refused:?}");
    }
    fresh();
    told(&manager.handle(&call::When { name: "web".into(), at: "seq:8".into() }, &mut gone()));
    fresh();
    let (at, to) = ("seq:8".to_owned(), RestoreTo::InPlace);
    let restore = call::Restore { name: "web".into(), at, disk: None, to, discard_later: true };
    told(&manager.handle(&call::Plan { of: Plannable::Restore(restore) }, &mut gone()));
    fresh();
    let verify =
        |name: Option<&str>| call::Verify { name: name.map(str::to_owned), newest_first: false, for_s: None };
    told(&manager.handle(&verify(Some("web")), &mut gone()));
    fresh();
    let verified = manager.handle(&verify(None), &mut gone()).unwrap();
    assert!(verified.damaged.is_empty(), "{verified:?}");
}

#[test]
fn whoever_wants_a_disk_of_a_target_that_goes_is_told_that_it_is_gone() {
    let (world, manager) = World::with(&[]);
    // Opening a tapped disk writes to the log.
    world.tapped(&manager, "web");
    for _ in 0..15 {
        let start = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            let open = |what: &'static str| {
                let (start, manager) = (&start, &manager);
                scope.spawn(move || {
                    start.wait();
                    let ends = (0..20).map(|_| manager.open_device(what, &jiff::Zoned::now()).map(drop));
                    ends.filter_map(Result::err).collect::<Vec<_>>()
                })
            };
            let opening = [open("web#main"), open("web"), open("web@now")];
            start.wait();
            while remove(&manager, "web").is_err() {}
            for error in opening.into_iter().flat_map(|opening| opening.join().unwrap()) {
                assert!(matches!(error, Error::NoTarget(_) | Error::Busy { .. }), "{error:?}");
            }
        });
        bring_back(&manager, "web").unwrap();
    }
}

#[test]
fn a_target_of_which_a_branch_is_served_is_not_removed_and_says_so_at_once() {
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    let branch = target.log.add_branch("try-1", BranchId(0), target.log.head_seq()).unwrap();
    let served = target.serve(target.volume(branch, None).unwrap(), false).unwrap();
    std::thread::scope(|scope| {
        let removing = scope.spawn(|| remove(&manager, "web"));
        while !removing.is_finished() {
            // Its threads are not stopped for a removal that is refused.
            assert!(!target.is_closing());
            std::thread::yield_now();
        }
        let refused = removing.join().unwrap();
        assert!(matches!(refused, Err(Error::Served(_))), "{refused:?}");
    });
    drop(served);
    remove(&manager, "web").unwrap();
}

#[test]
fn while_a_target_goes_nothing_is_begun_with_it() {
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    let op = target.begin_change(lifecycle::Change::Removing, lifecycle::Request::Remove).unwrap();
    let volume = target.volume(BranchId(0), None).unwrap();
    assert!(matches!(target.serve(volume, true), Err(Error::Busy { .. })));
    assert!(matches!(target.as_of(volume, target.log.head_seq()), Err(Error::Busy { .. })));
    drop(op);
    target.serve(volume, true).unwrap();
}

#[test]
fn a_damaged_configuration_is_repaired_from_the_log() {
    let (world, manager) = World::with(&["web"]);
    let settings = vec![("memory".to_owned(), "3G".to_owned())];
    manager.handle(&call::TargetSet { name: "web".into(), settings }, &mut Nobody).unwrap();
    let before = manager.target("web").unwrap().config();
    drop(manager);
    for file in ["000001.json", "000002.json"] {
        std::fs::write(world.target_dir("web").join("config").join(file), "{").unwrap();
    }
    let manager = world.manager();
    let repair = call::TargetRepair { name: "web".into() };
    let said = manager.handle(&repair, &mut Nobody).unwrap();
    assert!(said.from.contains("log"), "{said:?}");
    assert_eq!(manager.target("web").unwrap().config(), before);
    manager.handle(&repair, &mut Nobody).unwrap_err();
}

#[test]
fn what_cannot_be_used_can_be_put_aside_and_not_be_deleted() {
    let (world, manager) = World::with(&["web"]);
    drop(manager);
    std::fs::rename(world.target_dir("web").join("log"), world.target_dir("web").join("away")).unwrap();
    let manager = world.manager();
    let delete = call::TargetRemove { name: "web".into(), delete_history: true };
    assert!(matches!(manager.handle(&delete, &mut Nobody), Err(Error::Unavailable { .. })));
    remove(&manager, "web").unwrap();
    add(&manager, "web").unwrap();
}

fn delete(manager: &Manager, name: &str) -> Result<()> {
    let delete = call::TargetRemove { name: name.into(), delete_history: true };
    manager.handle(&delete, &mut Nobody).map(drop)
}

#[test]
fn deleting_a_target_touches_nothing_of_the_next_one_of_its_name() {
    let (world, manager) = World::with(&["web"]);
    let run_dir = world.paths().run_dir("web");
    std::fs::create_dir_all(&run_dir).unwrap();
    std::fs::write(run_dir.join("uefi-vars.fd"), "of the first").unwrap();
    // While the folder of its machine is deleted the name is not free yet.
    let early = manager.clone();
    faults::plan(Step::DeleteDir, &run_dir, move || {
        assert!(matches!(add(&early, "web"), Err(Error::TargetExists(_) | Error::Busy { .. })));
        Ok(())
    });
    let next = manager.clone();
    let here = world.paths();
    // While the history of the first one is deleted, which may take minutes.
    faults::plan(Step::DeleteDir, &world.paths().root().join("targets"), move || {
        add(&next, "web").unwrap();
        assert!(!here.run_dir("web").join("uefi-vars.fd").exists(), "the second begins with nothing");
        machines::run(&next, "web").unwrap();
        Ok(())
    });
    delete(&manager, "web").unwrap();
    let machine = status(&manager).targets[0].machine.clone().unwrap();
    world.kill(manager);
    let manager = world.manager();
    let found = status(&manager).targets[0].machine.clone().unwrap();
    assert_eq!((found.pid, found.branch), (machine.pid, machine.branch));
    assert!(run_dir.join("engine.json").exists());
    machines::run(&manager, "web").unwrap();
    machines::stop(&manager, "web").unwrap();
}

#[test]
fn what_cannot_be_deleted_is_told_and_is_in_nobodys_way() {
    let (world, manager) = World::with(&["web"]);
    let targets = world.paths().root().join("targets");
    for _ in 0..2 {
        faults::plan(Step::DeleteDir, &targets, || Err(std::io::Error::other("injected fault")));
        let partly = delete(&manager, "web");
        assert!(matches!(&partly, Err(Error::Partly { done, .. }) if done.contains("web")), "{partly:?}");
        assert!(matches!(manager.target("web"), Err(Error::NoTarget(_))));
        add(&manager, "web").unwrap();
    }
    delete(&manager, "web").unwrap();
    let left = || std::fs::read_dir(&targets).unwrap().count();
    assert_eq!(left(), 2);
    drop(manager);
    let manager = world.manager();
    assert_eq!((left(), served(&manager).len()), (0, 0));
}

#[test]
fn a_target_whose_removal_may_not_last_is_gone_all_the_same() {
    let (world, manager) = World::with(&["web"]);
    let run_dir = world.paths().run_dir("web");
    for (folder, deletes) in [("targets", false), ("removed", false), ("targets", true)] {
        std::fs::create_dir_all(&run_dir).unwrap();
        std::fs::write(run_dir.join("uefi-vars.fd"), "its own").unwrap();
        let folder = world.paths().root().join(folder);
        faults::plan(Step::SyncDir, &folder, || Err(std::io::Error::other("injected fault")));
        let log = manager.target("web").unwrap().log.id();
        let partly = if deletes { delete(&manager, "web") } else { remove(&manager, "web") };
        assert!(matches!(&partly, Err(Error::Partly { .. })), "{partly:?}");
        // After a power cut it could be there under its name, so it is there as a whole.
        let history = world.paths().deleting_dir("web", log).join("log");
        assert_eq!(history.exists(), deletes);
        assert!(matches!(manager.target("web"), Err(Error::NoTarget(_))));
        assert_eq!(problems(&manager), "");
        assert!(!run_dir.join("uefi-vars.fd").exists());
        add(&manager, "web").unwrap();
    }
}

#[test]
fn a_target_that_is_back_and_may_not_last_is_said_to_be_so() {
    let (world, manager) = World::with(&["web"]);
    for folder in ["targets", "removed"] {
        remove(&manager, "web").unwrap();
        let folder = world.paths().root().join(folder);
        faults::plan(Step::SyncDir, &folder, || Err(std::io::Error::other("injected fault")));
        let partly = bring_back(&manager, "web");
        let Err(Error::Partly { done, .. }) = &partly else { panic!("{partly:?}") };
        assert_eq!(done, "target web is back");
        assert_eq!(served(&manager), ["web"]);
    }
}

#[test]
fn of_two_that_bring_one_target_back_under_two_names_one_gets_it() {
    let (_world, manager) = World::with(&["web"]);
    let id = manager.target("web").unwrap().log.id();
    let mut name = "web";
    for _ in 0..30 {
        remove(&manager, name).unwrap();
        let start = std::sync::Barrier::new(2);
        let back = &|new_name: &str| {
            let call =
                call::TargetRestore { new_name: Some(new_name.into()), ..call::TargetRestore::of(name) };
            start.wait();
            manager.handle(&call, &mut Nobody)
        };
        let [a, b] = std::thread::scope(|scope| {
            ["a", "b"].map(|name| scope.spawn(move || back(name))).map(|thread| thread.join().unwrap())
        });
        name = if a.is_ok() { "a" } else { "b" };
        let (got, lost) = if a.is_ok() { (a, b) } else { (b, a) };
        assert_eq!(got.unwrap().config.name, name);
        assert!(matches!(lost, Err(Error::NotRemoved(_))), "{lost:?}");
        assert_eq!(manager.target(name).unwrap().log.id(), id);
        assert_eq!(served(&manager), [name]);
    }
}

#[test]
fn the_history_of_removed_targets_counts_in_what_the_store_takes() {
    let (_world, manager) = World::with(&["web"]);
    let before = status(&manager).store;
    assert!(before.used_bytes > 0 && before.removed_bytes == 0, "{before:?}");
    let remove = call::TargetRemove { name: "web".into(), delete_history: false };
    manager.handle(&remove, &mut Nobody).unwrap();
    let after = status(&manager).store;
    assert!(after.removed_bytes > 0 && after.used_bytes == after.removed_bytes, "{after:?}");
}

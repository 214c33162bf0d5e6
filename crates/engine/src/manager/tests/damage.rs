//! A target with a damaged segment or a failing log: requests to it and to others go on.

use bygone_block::{BlockDevice as _, Change, Writing};
use bygone_store::LogOptions;

use super::{
    machines::{run, run_call, stop},
    told::{flip, with_sevens},
    *,
};
use crate::{
    api::call::RestoreTo,
    runner::fake::Next,
    serve::Keeper,
    target::{Target, Use, lock},
};

#[test]
fn one_damaged_block_of_the_newest_segment_is_in_the_way_of_nothing_that_is_asked() {
    let (world, manager) = with_sevens();
    add(&manager, "db").unwrap();
    let early = manager.target("web").unwrap().log.head_seq();
    flip(&manager.target("web").unwrap(), 7);
    drop(manager);

    let manager = world.manager();
    assert_eq!(served(&manager), ["db", "web"]);
    let said = problems(&manager);
    assert!(said.contains("web") && said.contains("damage in log/") && !said.contains("db"), "{said}");
    let set = |key: &str, text: &str| {
        let settings = vec![(key.to_owned(), text.to_owned())];
        manager.handle(&call::TargetSet { name: "web".into(), settings }, &mut Nobody).unwrap()
    };
    assert_eq!(set("memory", "3G").config.memory_mib, 3072);
    for at in ["now".to_owned(), format!("seq:{early}"), "point:one".to_owned()] {
        let to = world.dir.path().join("out.raw");
        let to_file = RestoreTo::Path(to.clone());
        let call = call::Restore { name: "web".into(), at, disk: None, to: to_file, discard_later: false };
        let restored = manager.handle(&call, &mut Nobody).unwrap();
        assert_eq!(restored.disks[0].unreadable.len(), 1, "{}", call.at);
        std::fs::remove_file(to).unwrap();
    }
    // It boots and stops, and a waiting client is told.
    run(&manager, "web").unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| manager.handle(&call::Wait { name: "web".into() }, &mut Nobody));
        std::thread::sleep(Duration::from_millis(20));
        stop(&manager, "web").unwrap();
        wait_for("whoever waits for the stop to be told", || waiting.is_finished());
        assert_eq!(waiting.join().unwrap().unwrap().kind, Kind::Shutdown);
    });
}

#[test]
fn a_status_says_what_keeps_upkeep_from_its_work_until_it_works_again() {
    let world = World::new();
    let options = LogOptions { checkpoint_entries: 1, ..LogOptions::default() };
    let shared = Shared::with_options(&world.paths(), world.fake, options);
    let manager = Manager::open_shared(shared, false).unwrap();
    add(&manager, "web").unwrap();
    let target = manager.target("web").unwrap();
    let write = || {
        let disk = target.lease(target.volume(BranchId(0), None).unwrap(), Use::Client).unwrap();
        disk.write(&[Writing { offset: 0, change: Change::Data(&[7; 4096]) }]).unwrap();
        target.log.flush().unwrap();
    };
    while target.log.maintain().unwrap() {}
    write();
    target.fail_after_syncs(0);
    let failed = (0..10).any(|_| target.log.maintain().is_err());
    assert!(failed);
    let said = problems(&manager);
    assert!(said.contains("web: ") && said.contains("injected fault"), "{said}");
    target.fail_after_syncs(u64::MAX);
    while target.log.maintain().unwrap() {}
    assert_eq!(problems(&manager), "");
}

#[test]
fn a_defect_in_the_upkeep_of_one_log_keeps_no_other_from_its_own() {
    let world = World::new();
    let options = LogOptions { checkpoint_entries: 1, ..LogOptions::default() };
    let shared = Shared::with_options(&world.paths(), world.fake.clone(), options);
    let manager = Manager::open_shared(shared, false).unwrap();
    for name in ["a", "b"] {
        add(&manager, name).unwrap();
        let target = manager.target(name).unwrap();
        while target.log.maintain().unwrap() {}
        let disk = target.lease(target.volume(BranchId(0), None).unwrap(), Use::Client).unwrap();
        disk.write(&[Writing { offset: 0, change: Change::Data(&[7; 4096]) }]).unwrap();
    }
    let index = world.target_dir("b").join("index");
    assert!(!index.exists());
    manager.target("a").unwrap().panic_at_syncs(true);
    let keeper = Keeper::start(manager).unwrap();
    wait_for("the upkeep of the other", || index.exists());
    drop(keeper);
}

fn is_partly(result: &Result<impl std::fmt::Debug>, done: &str) -> bool {
    matches!(result, Err(Error::Partly { done: was, .. }) if was.contains(done))
}

#[test]
fn what_was_done_before_the_log_failed_is_said() {
    // The act's record becomes durable, but its event does not.
    let failing = || {
        let (world, manager) = World::with(&["web"]);
        let target = manager.target("web").unwrap();
        target.log.add_branch("try-1", BranchId(0), target.log.head_seq()).unwrap();
        (world, manager, target)
    };
    let drop_it = call::BranchDrop { name: "web".into(), branch: "try-1".into() };

    let (_world, manager, target) = failing();
    target.fail_after_syncs(1);
    let dropped = manager.handle(&drop_it, &mut Nobody);
    assert!(is_partly(&dropped, "branch try-1 was dropped"), "{dropped:?}");
    assert!(target.log.catalog().branch_named("try-1").is_err());

    let (_world, manager, target) = failing();
    manager.handle(&drop_it, &mut Nobody).unwrap();
    target.fail_after_syncs(1);
    let undone = manager.handle(&call::Undo { name: "web".into() }, &mut Nobody);
    assert!(is_partly(&undone, "branch try-1 is back"), "{undone:?}");
    assert!(target.log.catalog().branch_named("try-1").is_ok());

    let (world, manager, target) = failing();
    target.fail_after_syncs(0);
    let settings = vec![("memory".to_owned(), "3G".to_owned())];
    let set = manager.handle(&call::TargetSet { name: "web".into(), settings }, &mut Nobody);
    assert!(is_partly(&set, "its settings were changed"), "{set:?}");
    assert_eq!(target.config().memory_mib, 3072);
    drop((target, manager));
    assert_eq!(world.manager().target("web").unwrap().config().memory_mib, 3072);
}

#[test]
fn a_log_that_fails_keeps_no_machine_from_being_ended() {
    let (world, manager) = World::with(&["web"]);
    *lock(&world.fake.next) = Next::Stubborn;
    run(&manager, "web").unwrap();
    let target = manager.target("web").unwrap();
    target.fail_after_syncs(0);
    target.log.event(BranchId(0), &Event::new(Kind::Manager, "here")).unwrap();
    target.log.flush().unwrap_err();
    // There is no stop event to answer with.
    let told = std::thread::scope(|scope| {
        let stopping = scope.spawn(|| stop(&manager, "web"));
        wait_for("the machine to end", || stopping.is_finished());
        stopping.join().unwrap()
    });
    assert!(told.is_err(), "{told:?}");
    assert!(world.fake.machine(&world.paths().run_dir("web")).is_none());
    assert!(target.machine().is_none());
}

#[test]
fn a_machine_that_runs_is_not_called_failed_because_the_log_cannot_say_on_what() {
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    // The syncs for the branch and the boot succeed.
    target.fail_after_syncs(2);
    let at = call::Run { at: Some("now".into()), branch: Some("try".into()), ..run_call("web") };
    let started = manager.handle(&at, &mut Nobody).unwrap();
    assert_eq!(started.branch, "try");
    assert!(target.is_running());
    assert!(target.log.is_poisoned());
    let _ = stop(&manager, "web");
}

#[test]
fn one_target_that_fails_keeps_no_other_from_being_listed_verified_or_compacted() {
    let (world, manager) = World::with(&["a", "b", "c"]);
    let mut told = Collected::default();
    let fails_for_b = |target: &Target| match target.name.as_str() {
        "b" => Err(Error::Missing("/log".into())),
        _ => super::super::store::info(target),
    };
    assert!(super::super::targets::list(&manager.targets().unwrap(), fails_for_b, &mut told));
    let names: Vec<&str> = told.items.iter().map(|info| info.status.name.as_str()).collect();
    assert_eq!((names, told.notes), (vec!["a", "c"], vec!["b cannot be listed: /log is missing".to_owned()]));

    for name in ["a", "b", "c"] {
        let target = manager.target(name).unwrap();
        let disk = target.lease(target.volume(BranchId(0), None).unwrap(), Use::Client).unwrap();
        disk.write(&[Writing { offset: 0, change: Change::Data(&[7; 4096]) }]).unwrap();
    }
    let index = || files_below(&world.target_dir("c"));
    let before = index();
    manager.target("b").unwrap().fail_after_syncs(0);
    let mut told = Collected::default();
    let failed = manager.handle(&call::Compact { dry_run: false }, &mut told).unwrap_err();
    assert_eq!(failed.failure().code(), "medium-failed");
    assert!(
        told.notes.len() == 1 && told.notes[0].starts_with("b cannot be compacted: "),
        "{:?}",
        told.notes
    );
    assert_ne!(index(), before);

    std::fs::rename(world.target_dir("b").join("log"), world.dir.path().join("away")).unwrap();
    let verify = call::Verify { name: None, for_s: None, newest_first: false };
    let verified = manager.handle(&verify, &mut told).unwrap();
    let places: Vec<&str> = verified.damaged.iter().map(|at| at.place.as_str()).collect();
    assert!(!places.is_empty() && places.iter().all(|place| place.starts_with('b')), "{places:?}");

    // Nor if nothing of it can be looked at.
    std::fs::write(world.target_dir("b").join("log"), "").unwrap();
    let alone = call::Verify { name: Some("b".into()), ..verify.clone() };
    manager.handle(&alone, &mut told).unwrap_err();
    let verified = manager.handle(&verify, &mut told).unwrap();
    let places: Vec<&str> = verified.damaged.iter().map(|at| at.place.as_str()).collect();
    assert_eq!((places, verified.complete), (vec!["b"], false));
    assert!(verified.checked_bytes > 0);
}

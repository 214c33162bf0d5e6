//! Starts that fail, and what becomes of the branches that were made for them.

use std::sync::atomic::Ordering;

use bygone_block::{BlockDevice, Change, Writing};

use super::{
    machines::{run, run_call, stop},
    *,
};
use crate::{
    api::Failure,
    config::Display,
    lifecycle,
    machine::{Boot, Machine},
    runner::fake::Next,
    target::{Target, lock},
};

fn run_at(branch: &str) -> call::Run {
    call::Run { at: Some("now".into()), branch: Some(branch.into()), ..run_call("web") }
}

fn has_branch(target: &Target, name: &str) -> bool {
    target.log.catalog().branch_named(name).is_ok()
}

/// Starts a machine that does not answer on a new branch `try`; `then` is done meanwhile, and lets it end.
fn while_starting(world: &World, manager: &Manager, then: impl FnOnce(&Arc<Target>, BranchId)) -> Error {
    let target = manager.target("web").unwrap();
    *lock(&world.fake.next) = Next::Slow;
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| manager.handle(&run_at("try"), &mut Nobody));
        wait_for("the machine to start", || target.machine().is_some() && target.doing().is_none());
        let branch = target.running_branch().unwrap();
        then(&target, branch);
        starting.join().unwrap().unwrap_err()
    })
}

fn die(world: &World, target: &Target) {
    world.fake.machine(&target.run_dir()).unwrap().die();
    wait_for("the machine to end", || !target.is_running());
}

#[test]
fn the_branch_of_a_start_that_failed_is_not_dropped_under_the_machine_of_another() {
    let (world, manager) = World::with(&["web"]);
    let mut at = None;
    let failed = while_starting(&world, &manager, |target, branch| {
        // Another request takes the turn before the first one knows that its machine has ended.
        let moving = lifecycle::Request::MoveToRunning;
        let op = target.begin_change(lifecycle::Change::Promoting, moving).unwrap();
        die(&world, target);
        let boot =
            Boot { branch, from: None, display: Display::None, accelerator: crate::api::Accelerator::Tcg };
        Machine::boot(&op, &boot).unwrap();
        drop(op);
        at = Some(branch);
    });
    assert!(matches!(failed, Error::Told(Failure::ProgramFailed { .. })), "{failed:?}");
    let target = manager.target("web").unwrap();
    assert_eq!(target.running_branch(), at);
    assert!(has_branch(&target, "try"));
    stop(&manager, "web").unwrap();
}

#[test]
fn the_branch_of_a_start_that_failed_stays_if_it_was_used_meanwhile() {
    let (world, manager) = World::with(&["web"]);
    while_starting(&world, &manager, |target, branch| {
        let served = target.serve(target.volume(branch, None).unwrap(), false).unwrap();
        served.write(&[Writing { offset: 0, change: Change::Data(&[7; 4096]) }]).unwrap();
        drop(served);
        die(&world, target);
    });
    let target = manager.target("web").unwrap();
    assert!(has_branch(&target, "try"));
    // So does one on which something was noted.
    target.log.drop_branch(target.log.catalog().branch_named("try").unwrap().id).unwrap();
    while_starting(&world, &manager, |target, branch| {
        target.log.event(branch, &Event::new(Kind::Package, "noted")).unwrap();
        die(&world, target);
    });
    assert!(has_branch(&target, "try"));
    // What nobody has used is gone.
    let failed = call::Run { branch: Some("other".into()), ..run_at("try") };
    *lock(&world.fake.next) = Next::Fails;
    manager.handle(&failed, &mut Nobody).unwrap_err();
    assert!(!has_branch(&manager.target("web").unwrap(), "other"));
}

#[test]
fn the_branch_of_a_start_that_failed_is_not_dropped_under_a_machine_that_has_done_nothing_yet() {
    let (world, manager) = World::with(&["web"]);
    let mut at = None;
    while_starting(&world, &manager, |target, branch| {
        let moving = lifecycle::Request::MoveToRunning;
        let op = target.begin_change(lifecycle::Change::Promoting, moving).unwrap();
        die(&world, target);
        let boot =
            Boot { branch, from: None, display: Display::None, accelerator: crate::api::Accelerator::Tcg };
        // Neither a write nor an event shows that it uses the branch.
        *lock(&world.fake.next) = Next::Slow;
        Machine::boot(&op, &boot).unwrap();
        at = Some(branch);
    });
    let target = manager.target("web").unwrap();
    assert_eq!(target.running_branch(), at);
    assert!(has_branch(&target, "try"));
    die(&world, &target);
}

#[test]
fn everyone_who_waits_for_a_start_is_told_why_it_failed() {
    let (world, manager) = World::with(&["web"]);
    let failed = while_starting(&world, &manager, |target, _| {
        let machine = target.machine().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| machine.wait_started(&mut || true));
            die(&world, target);
            let told = waiting.join().unwrap().unwrap_err();
            assert_eq!(told.failure().code(), "program-failed");
        });
    });
    assert_eq!(failed.failure().code(), "program-failed");
    assert!(!has_branch(&manager.target("web").unwrap(), "try"));
}

#[test]
fn a_machine_that_cannot_be_supervised_does_not_run_and_its_branch_is_gone() {
    let (world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    target.shared.has_no_threads.store(true, Ordering::Release);
    target.shared.holds_threads.store(true, Ordering::Release);
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| manager.handle(&run_at("try"), &mut Nobody));
        wait_for("the machine", || world.fake.machine(&target.run_dir()).is_some());
        // Nobody finds it who would have to be told that it does not run.
        assert_eq!(status(&manager).targets[0].life.to_string(), "starting");
        assert!(target.machine().is_none());
        target.shared.holds_threads.store(false, Ordering::Release);
        starting.join().unwrap().unwrap_err();
    });
    assert_eq!(target.machine_state(), lifecycle::Machine::Stopped);
    assert!(world.fake.machine(&target.run_dir()).is_none());
    assert!(!has_branch(&target, "try"));
    assert_eq!(files_below(&world.paths().root().join("run")), [] as [std::path::PathBuf; 0]);
    target.shared.has_no_threads.store(false, Ordering::Release);
    manager.handle(&run_at("try"), &mut Nobody).unwrap();
    stop(&manager, "web").unwrap();
}

#[test]
fn a_defect_in_supervising_a_machine_leaves_nobody_waiting_and_the_machine_to_be_adopted() {
    let (world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    world.fake.is_unmarkable.store(true, Ordering::Release);
    let lost = run(&manager, "web").unwrap_err();
    assert_eq!(lost.failure().code(), "internal", "{lost}");
    wait_for("the machine to count as left running", || target.is_unsupervised());
    let machine = world.fake.machine(&target.run_dir()).unwrap();
    world.fake.is_unmarkable.store(false, Ordering::Release);
    run(&manager, "web").unwrap();
    assert!(target.machine().unwrap().adopted);
    // The same while somebody waits for its end.
    world.fake.is_unmarkable.store(true, Ordering::Release);
    let watched = target.machine().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| target.wait_ended(&watched, &mut || true));
        machine.reset();
        let lost = waiting.join().unwrap().unwrap_err();
        assert_eq!(lost.failure().code(), "internal", "{lost}");
    });
    world.fake.is_unmarkable.store(false, Ordering::Release);
    wait_for("the machine to count as left running", || target.is_unsupervised());
    stop(&manager, "web").unwrap();
    assert!(world.fake.machine(&target.run_dir()).is_none());
}

#[test]
fn where_no_machine_can_start_no_branch_is_made_for_one() {
    let (world, manager) = World::with(&["db", "web"]);
    run(&manager, "db").unwrap();
    world.fake.is_missing.store(true, Ordering::Release);
    let target = manager.target("web").unwrap();
    let head = target.log.head_seq();
    for _ in 0..2 {
        let refused = manager.handle(&run_at("try"), &mut Nobody).unwrap_err();
        assert_eq!(refused.failure().code(), "qemu-missing");
    }
    assert_eq!((target.log.head_seq(), target.log.catalog().branches.len()), (head, 1));
    // What is wrong with the request comes first.
    assert!(matches!(run(&manager, "db"), Err(Error::TargetRunning(_))));
    stop(&manager, "db").unwrap();
}

#[test]
fn a_guest_is_the_same_machine_whatever_its_target_is_called() {
    let (world, manager) = World::with(&["db", "web"]);
    let run_once = |name: &str| {
        run(&manager, name).unwrap();
        stop(&manager, name).unwrap();
    };
    run_once("db");
    run_once("web");
    let remove = call::TargetRemove { name: "web".into(), delete_history: false };
    manager.handle(&remove, &mut Nobody).unwrap();
    let back = call::TargetRestore { new_name: Some("site".into()), ..call::TargetRestore::of("web") };
    manager.handle(&back, &mut Nobody).unwrap();
    run_once("site");
    // Another target may have the name by now.
    add(&manager, "web").unwrap();
    run_once("web");
    let started = lock(&world.fake.identities).clone();
    let [db, web, site, other] = started.as_slice() else { panic!("{started:?}") };
    assert_eq!((site.0.as_str(), &site.1), ("site", &web.1));
    assert!(db.1 != web.1 && other.1 != web.1 && other.1 != db.1, "{started:?}");
}

#[test]
fn a_machine_that_was_left_running_and_cannot_be_supervised_goes_on() {
    let (world, manager) = World::with(&["web"]);
    run(&manager, "web").unwrap();
    world.kill(manager);
    let manager = world.manager();
    let target = manager.target("web").unwrap();
    target.shared.has_no_threads.store(true, Ordering::Release);
    for _ in 0..2 {
        run(&manager, "web").unwrap_err();
        assert!(world.fake.machine(&target.run_dir()).is_some());
        target.look_for_machine();
        assert_eq!(target.machine_state(), lifecycle::Machine::LeftRunning);
        assert_eq!(target.running_branch(), Some(BranchId(0)));
    }
    target.shared.has_no_threads.store(false, Ordering::Release);
    run(&manager, "web").unwrap();
    assert_eq!(target.machine_state(), lifecycle::Machine::Running);
    stop(&manager, "web").unwrap();
}

use std::{path::PathBuf, sync::atomic::Ordering};

use bygone_block::{BlockDevice, Change, Writing};
use bygone_model::Seq;

use super::*;
use crate::{
    api::{MomentInfo, call::RestoreTo},
    lifecycle,
    runner::fake::Next,
    serve::Caretaker,
    target::{Target, Use, lock},
};

impl World {
    /// A target with one tapped disk of 1 MiB, filled with ones, that was read completely.
    pub(super) fn tapped(&self, manager: &Manager, name: &str) -> PathBuf {
        let disk = self.dir.path().join(format!("{name}.raw"));
        std::fs::write(&disk, vec![1; 1 << 20]).unwrap();
        let new = NewDisk { id: None, source: NewSource::Tap(disk.clone()), block_bytes: None };
        let add = call::TargetAdd { config: TargetConfig::new(name), disks: vec![new], wait: true };
        manager.handle(&add, &mut Nobody).unwrap();
        disk
    }

    fn kept(&self, name: &str) -> PathBuf {
        self.paths().run_dir(name).join("engine.json")
    }
}

pub(super) fn run_call(name: &str) -> call::Run {
    call::Run { name: name.into(), at: None, branch: None, display: None }
}

pub(super) fn run(manager: &Manager, name: &str) -> Result<()> {
    manager.handle(&run_call(name), &mut Nobody).map(drop)
}

pub(super) fn stop(manager: &Manager, name: &str) -> Result<()> {
    let stop = call::Stop { name: name.into(), force: false, deadline_s: Some(1) };
    manager.handle(&stop, &mut Nobody).map(drop)
}

fn force_stop(manager: &Manager, name: &str) -> Result<MomentInfo> {
    let force = call::Stop { name: name.into(), force: true, deadline_s: None };
    manager.handle(&force, &mut Nobody)
}

fn wait(manager: &Manager, name: &str) -> Result<MomentInfo> {
    manager.handle(&call::Wait { name: name.into() }, &mut Nobody)
}

fn restore(manager: &Manager, name: &str, seq: Seq) -> Result<()> {
    let (at, to) = (format!("seq:{}", seq.0), RestoreTo::InPlace);
    let restore = call::Restore { name: name.into(), at, disk: None, to, discard_later: false };
    manager.handle(&restore, &mut Nobody).map(drop)
}

/// Restores the newest moment in place.
fn restore_now(manager: &Manager) -> Result<()> {
    restore(manager, "web", manager.target("web").unwrap().log.head_seq())
}

fn kinds(target: &Target) -> Vec<Kind> {
    let mut kinds = Vec::new();
    let mut each = |event: &bygone_store::Event| {
        kinds.push(event.event.kind.clone());
        true
    };
    target.log.events(Seq::ZERO, target.log.head_seq(), &mut each).unwrap();
    kinds
}

fn count(target: &Target, kind: &Kind) -> usize {
    kinds(target).iter().filter(|k| *k == kind).count()
}

fn life(manager: &Manager) -> String {
    status(manager).targets[0].life.to_string()
}

#[test]
fn a_machine_that_was_left_running_is_adopted_by_run() {
    let (world, manager) = World::with(&["web"]);
    run(&manager, "web").unwrap();
    let pid = status(&manager).targets[0].machine.as_ref().unwrap().pid;
    world.kill(manager);

    let manager = world.manager();
    assert_eq!(
        (life(&manager).as_str(), status(&manager).targets[0].state.word()),
        ("left-running", "unknown")
    );
    let refused = restore_now(&manager);
    assert!(matches!(refused, Err(Error::LeftRunning { .. })), "{refused:?}");
    run(&manager, "web").unwrap();
    let machine = status(&manager).targets[0].machine.clone().unwrap();
    assert_eq!((machine.pid, machine.branch.as_deref()), (pid, Some("main")));
    assert_eq!(count(&manager.target("web").unwrap(), &Kind::Boot), 1);
    assert!(matches!(run(&manager, "web"), Err(Error::TargetRunning(_))));
    stop(&manager, "web").unwrap();
    assert_eq!(life(&manager), "stopped");
    assert!(!world.kept("web").exists());
}

#[test]
fn a_machine_is_told_by_what_it_was_started_with_whoever_looks_after_it() {
    let (world, manager) = World::with(&["web"]);
    let set = |net: &str| {
        let settings = vec![("net".to_owned(), net.to_owned())];
        manager.handle(&call::TargetSet { name: "web".into(), settings }, &mut Nobody).unwrap();
    };
    set("user,hostfwd=tcp::2222-:22");
    let display = Some(crate::config::Display::Vnc("127.0.0.1:1".to_owned()));
    manager.handle(&call::Run { display: display.clone(), ..run_call("web") }, &mut Nobody).unwrap();
    // It applies from the next start on.
    set("none");
    let said = |manager: &Manager| status(manager).targets[0].machine.clone().unwrap();
    let before = said(&manager);
    assert_eq!(
        (&before.forwards[..], Some(&before.display)),
        (&["tcp::2222-:22".to_owned()][..], display.as_ref())
    );
    world.kill(manager);
    let manager = world.manager();
    assert_eq!(life(&manager), "left-running");
    assert_eq!(said(&manager), before);
    stop(&manager, "web").unwrap();
}

#[test]
fn a_machine_whose_disk_is_away_is_not_forgotten_and_adopted_once_it_is_back() {
    let (world, manager) = World::with(&[]);
    let disk = world.tapped(&manager, "web");
    let seq = manager.target("web").unwrap().log.head_seq();
    run(&manager, "web").unwrap();
    world.kill(manager);
    let away = world.dir.path().join("away");
    std::fs::rename(&disk, &away).unwrap();

    let manager = world.manager();
    for _ in 0..2 {
        run(&manager, "web").unwrap_err();
        assert!(world.kept("web").exists());
        assert_eq!(life(&manager), "left-running");
        let refused = restore(&manager, "web", seq);
        assert!(matches!(refused, Err(Error::LeftRunning { .. })), "{refused:?}");
        let remove = call::TargetRemove { name: "web".into(), delete_history: true };
        assert!(matches!(manager.handle(&remove, &mut Nobody), Err(Error::LeftRunning { .. })));
    }
    let said = format!("{:?}", status(&manager).problems);
    assert!(said.contains("web.raw"), "{said}");
    std::fs::rename(&away, &disk).unwrap();
    run(&manager, "web").unwrap();
    assert_eq!(life(&manager), "running");
    assert_eq!(manager.target("web").unwrap().present(), BranchId(0));
    stop(&manager, "web").unwrap();
}

#[test]
fn adopting_a_machine_is_tried_again_until_its_disk_is_back() {
    let (world, manager) = World::with(&[]);
    let disk = world.tapped(&manager, "web");
    run(&manager, "web").unwrap();
    world.kill(manager);
    let away = world.dir.path().join("away");
    std::fs::rename(&disk, &away).unwrap();

    let manager = world.serving();
    manager.open_all();
    let target = manager.target("web").unwrap();
    let caretaker = Caretaker::start(manager.clone(), None).unwrap();
    wait_for("the first try", || target.is_not_adopted());
    assert_eq!(life(&manager), "left-running");
    std::fs::rename(&away, &disk).unwrap();
    wait_for("it to be adopted", || life(&manager) == "running");
    drop(caretaker);
    stop(&manager, "web").unwrap();
}

#[test]
fn whoever_waits_for_a_machine_that_was_left_running_is_answered_when_it_stops() {
    let (world, manager) = World::with(&[]);
    let disk = world.tapped(&manager, "web");
    world.kill(manager);
    let away = world.dir.path().join("away");
    for adopted in [true, false] {
        let manager = world.manager();
        run(&manager, "web").unwrap();
        world.kill(manager);
        std::fs::rename(&disk, &away).unwrap();
        let manager = world.manager();
        let (target, machine) =
            (manager.target("web").unwrap(), world.fake.machine(&world.paths().run_dir("web")).unwrap());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| wait(&manager, "web"));
            wait_for("the first try to adopt it", || target.is_not_adopted() || waiting.is_finished());
            assert!(!waiting.is_finished(), "it runs: {:?}", waiting.join());
            if adopted {
                std::fs::rename(&away, &disk).unwrap();
                wait_for("it to be adopted", || target.is_running());
                machine.shut_down();
            } else {
                machine.die();
            }
            let stop = waiting.join().unwrap().unwrap();
            assert_eq!(stop.kind, Kind::Shutdown);
            let seen = !stop.label.contains("while no manager was watching");
            assert_eq!(seen, adopted, "{}", stop.label);
        });
        // Whoever asks later is told the same.
        assert_eq!(wait(&manager, "web").unwrap().kind, Kind::Shutdown);
        if !adopted {
            std::fs::rename(&away, &disk).unwrap();
        }
        drop(target);
        world.kill(manager);
    }
}

#[test]
fn a_machine_is_known_by_its_process_even_if_nothing_else_is_left_that_says_so() {
    let (world, manager) = World::with(&["web"]);
    run(&manager, "web").unwrap();
    world.kill(manager);
    std::fs::remove_file(world.kept("web")).unwrap();
    let manager = world.manager();
    assert_eq!(life(&manager), "left-running");
    assert!(matches!(restore_now(&manager), Err(Error::LeftRunning { .. })));
    stop(&manager, "web").unwrap();
    assert_eq!(life(&manager), "stopped");
}

#[test]
fn as_long_as_nobody_knows_whether_a_machine_runs_nothing_is_done_that_it_would_forbid() {
    let (world, manager) = World::with(&["web"]);
    let seq = manager.target("web").unwrap().log.head_seq();
    run(&manager, "web").unwrap();
    let pid = status(&manager).targets[0].machine.as_ref().unwrap().pid;
    world.kill(manager);
    let kept = std::fs::read(world.kept("web")).unwrap();
    world.fake.is_unknown.store(true, Ordering::Release);

    let manager = world.manager();
    let target = manager.target("web").unwrap();
    let remove = call::TargetRemove { name: "web".into(), delete_history: true };
    let (volume, head) = (target.volume(BranchId(0), None).unwrap(), target.log.head_seq());
    for refused in [
        run(&manager, "web"),
        stop(&manager, "web"),
        restore(&manager, "web", seq),
        manager.handle(&remove, &mut Nobody).map(drop),
        wait(&manager, "web").map(drop),
        target.serve(volume, true).map(drop),
    ] {
        assert!(matches!(refused, Err(Error::MachineUnknown { .. })), "{refused:?}");
    }
    assert_eq!((life(&manager).as_str(), target.log.head_seq()), ("unknown", head));
    assert!(problems(&manager).contains("whether its machine runs: reading /proc"), "{}", problems(&manager));
    assert_eq!(std::fs::read(world.kept("web")).unwrap(), kept);
    // What no machine forbids is done.
    let point = call::Point { name: "web".into(), at: None, label: "here".into(), hold: None };
    manager.handle(&point, &mut Nobody).unwrap();

    world.fake.is_unknown.store(false, Ordering::Release);
    run(&manager, "web").unwrap();
    assert_eq!(status(&manager).targets[0].machine.as_ref().unwrap().pid, pid);
    stop(&manager, "web").unwrap();
    // What was seen to end does not run, until another look fails.
    world.fake.is_unknown.store(true, Ordering::Release);
    assert_eq!(life(&manager), "stopped");
    assert!(matches!(run(&manager, "web"), Err(Error::MachineUnknown { .. })));
    world.fake.is_unknown.store(false, Ordering::Release);
    run(&manager, "web").unwrap();
    stop(&manager, "web").unwrap();
}

#[test]
fn a_manager_that_serves_looks_again_until_it_knows_what_runs() {
    let (world, manager) = World::with(&["db", "web"]);
    let settings = vec![("autostart".to_owned(), "true".to_owned())];
    manager.handle(&call::TargetSet { name: "db".into(), settings }, &mut Nobody).unwrap();
    run(&manager, "web").unwrap();
    world.kill(manager);
    world.fake.is_unknown.store(true, Ordering::Release);

    let manager = world.serving();
    manager.open_all();
    let targets = ["db", "web"].map(|name| manager.target(name).unwrap());
    let before = world.fake.prepared.load(Ordering::Acquire);
    let caretaker = Caretaker::start(manager.clone(), None).unwrap();
    // Once it was refused, and again.
    wait_for("db to be started", || world.fake.prepared.load(Ordering::Acquire) > before + 1);
    assert!(targets.iter().all(|target| target.machine_state() == lifecycle::Machine::Unknown));
    world.fake.is_unknown.store(false, Ordering::Release);
    wait_for("both to be supervised", || targets.iter().all(|target| target.is_running()));
    assert!(targets[1].machine().unwrap().adopted && !targets[0].machine().unwrap().adopted);
    drop(caretaker);
    for name in ["db", "web"] {
        stop(&manager, name).unwrap();
    }
}

#[test]
fn a_machine_that_ended_while_no_manager_was_there_is_noted_once() {
    let (world, manager) = World::with(&["web"]);
    run(&manager, "web").unwrap();
    world.kill(manager);
    world.fake.machine(&world.paths().run_dir("web")).unwrap().die();
    for _ in 0..2 {
        let manager = world.manager();
        assert_eq!(life(&manager), "stopped");
        assert_eq!(count(&manager.target("web").unwrap(), &Kind::Shutdown), 1);
        drop(manager);
    }
}

#[test]
fn a_machine_that_ended_together_with_the_host_is_noted_even_if_its_file_is_damaged() {
    let (world, manager) = World::with(&["web"]);
    let at = call::Run { at: Some("now".into()), branch: Some("try".into()), ..run_call("web") };
    manager.handle(&at, &mut Nobody).unwrap();
    world.kill(manager);
    world.fake.machine(&world.paths().run_dir("web")).unwrap().die();
    std::fs::write(world.kept("web"), "").unwrap();
    for _ in 0..2 {
        let manager = world.manager();
        assert_eq!(life(&manager), "stopped");
        let target = manager.target("web").unwrap();
        let mut ends = Vec::new();
        let mut each = |event: &bygone_store::Event| {
            ends.extend((event.event.kind == Kind::Shutdown).then_some(event.branch));
            true
        };
        target.log.events(Seq::ZERO, target.log.head_seq(), &mut each).unwrap();
        assert_eq!(ends, [target.log.catalog().branch_named("try").unwrap().id]);
        assert!(!world.kept("web").exists());
    }
}

#[test]
fn a_turn_that_somebody_has_is_not_taken_by_what_may_be_done_meanwhile() {
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    run(&manager, "web").unwrap();
    // A stop is legal during a change, and needs no turn while the machine is supervised.
    let moving = lifecycle::Request::MoveToRunning;
    let held = target.begin_change(lifecycle::Change::Promoting, moving).unwrap();
    std::thread::scope(|scope| {
        let begun = scope.spawn(|| target.begin(lifecycle::Change::Starting, lifecycle::Request::Stop));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!begun.is_finished());
        assert_eq!(target.doing().map(|doing| doing.change), Some(lifecycle::Change::Promoting));
        drop(held);
        begun.join().unwrap().unwrap();
    });
    assert!(target.doing().is_none());
    stop(&manager, "web").unwrap();
}

#[test]
fn a_machine_that_ends_while_somebody_looks_for_it_is_no_machine_that_was_left_running() {
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    run(&manager, "web").unwrap();
    let found = status(&manager).targets[0].machine.as_ref().map(|machine| machine.pid);
    stop(&manager, "web").unwrap();
    target.note_machine(&Ok(found));
    assert_eq!(life(&manager), "stopped");
    run(&manager, "web").unwrap();
    target.note_machine(&Ok(None));
    assert_eq!(life(&manager), "running");
    stop(&manager, "web").unwrap();
    assert_eq!(count(&target, &Kind::Shutdown), 2);
}

#[test]
fn a_start_that_failed_leaves_no_boot_no_branch_and_nothing_in_its_place() {
    let (world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    let before = kinds(&target);
    *lock(&world.fake.next) = Next::Fails;
    run(&manager, "web").unwrap_err();
    *lock(&world.fake.next) = Next::Fails;
    let at = call::Run { at: Some("now".into()), branch: Some("try".into()), ..run_call("web") };
    manager.handle(&at, &mut Nobody).unwrap_err();
    assert_eq!(kinds(&target), before);
    assert!(target.log.catalog().branch_named("try").is_err());
    assert!(!world.kept("web").exists());
    assert_eq!(life(&manager), "stopped");
    manager.handle(&at, &mut Nobody).unwrap();
    assert_eq!(count(&target, &Kind::Boot), 1);
    stop(&manager, "web").unwrap();
}

#[test]
fn while_a_machine_does_not_answer_yet_it_can_be_looked_at_and_stopped() {
    let (world, manager) = World::with(&["web"]);
    *lock(&world.fake.next) = Next::Slow;
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| run(&manager, "web"));
        let target = manager.target("web").unwrap();
        wait_for("the machine to start", || target.machine().is_some() && target.doing().is_none());
        assert_eq!(life(&manager), "starting");
        assert!(matches!(run(&manager, "web"), Err(Error::TargetRunning(_) | Error::Busy { .. })));
        let head = target.log.head_seq();
        let stop = force_stop(&manager, "web").unwrap();
        assert!(stop.label.contains("before it answered"), "{}", stop.label);
        assert_eq!((stop.branch_id, stop.seq), (0, target.log.head_seq().0));
        starting.join().unwrap().unwrap_err();
        assert_eq!(target.log.head_seq(), head, "it leaves no event");
    });
    assert_eq!(life(&manager), "stopped");
    assert!(matches!(stop(&manager, "web"), Err(Error::TargetStopped(_))));
}

#[test]
fn a_machine_that_cannot_be_adopted_can_be_ended() {
    let (world, mut manager) = World::with(&[]);
    let disk = world.tapped(&manager, "web");
    let away = world.dir.path().join("away");
    for booted in [true, false] {
        // That manager dies before the machine's first answer.
        *lock(&world.fake.next) = if booted { Next::Good } else { Next::Slow };
        let _ = manager.handle(&run_call("web"), &mut events::Impatient(&mut 0));
        world.kill(manager);
        std::fs::rename(&disk, &away).unwrap();
        manager = world.manager();
        let target = manager.target("web").unwrap();
        let stops = count(&target, &Kind::Shutdown);
        stop(&manager, "web").unwrap_err();
        assert_eq!(life(&manager), "left-running");
        let cut = force_stop(&manager, "web").unwrap();
        assert_eq!(
            (cut.kind == Kind::Shutdown, cut.label.contains("power was cut")),
            (booted, booted),
            "{}",
            cut.label
        );
        assert_eq!(count(&target, &Kind::Shutdown), stops + usize::from(booted));
        assert!(world.fake.machine(&world.paths().run_dir("web")).is_none() && !world.kept("web").exists());
        assert_eq!(life(&manager), "stopped");
        std::fs::rename(&away, &disk).unwrap();
    }
    run(&manager, "web").unwrap();
    stop(&manager, "web").unwrap();
}

#[test]
fn a_stop_waits_for_the_machine_that_it_stopped_and_for_no_later_one() {
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    run(&manager, "web").unwrap();
    let first = target.machine().unwrap();
    stop(&manager, "web").unwrap();
    // It is started again before the client that stopped it looks.
    run(&manager, "web").unwrap();
    let stopped = target.wait_ended(&first, &mut || false).unwrap();
    assert_eq!(stopped.kind, Kind::Shutdown);
    assert!(target.is_running());
    stop(&manager, "web").unwrap();
}

#[test]
fn a_status_waits_for_no_change_and_a_change_for_no_other() {
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    let op = target.begin_change(lifecycle::Change::Restoring, lifecycle::Request::Move).unwrap();
    // A status that waited for the change would wait for ever: the test holds the turn.
    assert_eq!(life(&manager), "restoring");
    assert!(status(&manager).targets[0].life_since.is_some());
    let refused = run(&manager, "web").unwrap_err().failure();
    assert!(refused.to_string().contains("is being restored, since "), "{refused}");
    for refused in [
        restore_now(&manager),
        manager.handle(&call::Undo { name: "web".into() }, &mut Nobody).map(drop),
        manager
            .handle(&call::TargetRemove { name: "web".into(), delete_history: false }, &mut Nobody)
            .map(drop),
    ] {
        assert!(matches!(refused, Err(Error::Busy { .. })), "{refused:?}");
    }
    // A request that changes nothing else is legal.
    let point = call::Point { name: "web".into(), at: None, label: "here".into(), hold: None };
    manager.handle(&point, &mut Nobody).unwrap();
    drop(op);
    run(&manager, "web").unwrap();
    stop(&manager, "web").unwrap();
}

#[test]
fn nothing_moves_the_present_under_a_machine() {
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    let seq = target.log.head_seq();
    let at = call::Run { at: Some("now".into()), branch: Some("try".into()), ..run_call("web") };
    manager.handle(&at, &mut Nobody).unwrap();
    assert!(matches!(restore(&manager, "web", seq), Err(Error::TargetRunning(_))));
    let drop_it = call::BranchDrop { name: "web".into(), branch: "try".into() };
    assert!(matches!(manager.handle(&drop_it, &mut Nobody), Err(Error::BranchUsed(_))));
    let promote = |branch: &str| call::BranchPromote { name: "web".into(), branch: Some(branch.into()) };
    assert!(matches!(manager.handle(&promote("main"), &mut Nobody), Err(Error::TargetRunning(_))));
    // Its own branch may become the present, and that cannot be undone while it runs.
    manager.handle(&promote("try"), &mut Nobody).unwrap();
    let undone = manager.handle(&call::Undo { name: "web".into() }, &mut Nobody);
    assert!(matches!(undone, Err(Error::TargetRunning(_))), "{undone:?}");
    stop(&manager, "web").unwrap();
    manager.handle(&call::Undo { name: "web".into() }, &mut Nobody).unwrap();
    assert_eq!(target.present(), BranchId(0));
}

#[test]
fn who_has_the_present_open_keeps_it_from_being_moved() {
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    let volume = target.volume(BranchId(0), None).unwrap();
    let seq = target.log.head_seq();
    let served = target.serve(volume, true).unwrap();
    assert!(matches!(restore(&manager, "web", seq), Err(Error::Served(_))));
    drop(served);
    restore(&manager, "web", seq).unwrap();
    assert!(matches!(target.serve(volume, true), Err(Error::Moved(_))));
}

#[test]
fn a_branch_that_is_dropped_while_somebody_asks_for_it_is_not_served() {
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    let branch = target.log.add_branch("try-1", BranchId(0), target.log.head_seq()).unwrap();
    // The branch existed when its name was looked up.
    let volume = target.volume(branch, None).unwrap();
    let drop_it = call::BranchDrop { name: "web".into(), branch: "try-1".into() };
    manager.handle(&drop_it, &mut Nobody).unwrap();
    assert!(matches!(target.serve(volume, false), Err(Error::Store(bygone_store::Error::NoBranch(_)))));
    // Nor is it kept open.
    assert!(!target.is_served());
}

#[test]
fn a_block_that_stays_unreadable_is_counted_and_not_told_again_and_again() {
    let (world, manager) = World::with(&["web"]);
    run(&manager, "web").unwrap();
    let target = manager.target("web").unwrap();
    let before = count(&target, &Kind::Manager);
    let machine = world.fake.machine(&world.paths().run_dir("web")).unwrap();
    for _ in 0..50 {
        // In turn, as when a controller fails that several disks have.
        machine.fail_to_read("vda");
        machine.fail_to_read("vdb");
    }
    stop(&manager, "web").unwrap();
    assert_eq!(count(&target, &Kind::Manager) - before, 4);
    let mut times = Vec::new();
    let mut each = |event: &bygone_store::Event| {
        times.extend(event.event.details.get("times").and_then(serde_json::Value::as_u64));
        true
    };
    target.log.events(Seq::ZERO, target.log.head_seq(), &mut each).unwrap();
    assert_eq!(times, [50, 50]);
}

#[test]
fn what_is_written_and_taken_is_counted_without_opening_a_file() {
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    let lease = target.lease(target.volume(BranchId(0), None).unwrap(), Use::Client).unwrap();
    lease.write(&[Writing { offset: 0, change: Change::Data(&[7; 8192]) }]).unwrap();
    drop(lease);
    let status = &status(&manager).targets[0];
    assert_eq!(status.written_bytes, 8192);
    assert!(status.used_bytes > 0);
    assert!(status.durable_seq <= status.head_seq);
}

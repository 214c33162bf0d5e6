//! Machines that run, or have run, without anybody supervising them.

use std::{
    fs,
    os::unix::net::UnixStream,
    sync::atomic::{AtomicU32, Ordering},
};

use bygone_block::{BlockDevice, Change, Writing};
use bygone_model::{Grade, Seq};

use super::{
    events::Impatient,
    jobs::{Asker, ask_with},
    machines::{run, run_call, stop},
    *,
};
use crate::{
    api::MomentInfo,
    lifecycle,
    machine::Machine,
    runner::fake::{FakeMachine, Next},
    serve::{Caretaker, Look, Starting, Visits, visit},
    target::{Begun, Lease, Target, Use, lock},
};

/// The kinds and moments of all boots and stops.
fn lives(target: &Target) -> Vec<(Kind, Seq)> {
    let mut found = Vec::new();
    let mut each = |event: &bygone_store::Event| {
        if matches!(event.event.kind, Kind::Boot | Kind::Shutdown) {
            found.push((event.event.kind.clone(), event.place().seq));
        }
        true
    };
    target.log.events(Seq::ZERO, target.log.head_seq(), &mut each).unwrap();
    found
}

fn kinds(target: &Target) -> Vec<Kind> {
    lives(target).into_iter().map(|(kind, _)| kind).collect()
}

fn machine(world: &World) -> Arc<FakeMachine> {
    let dir = world.paths().run_dir("web");
    wait_for("the machine", || world.fake.machine(&dir).is_some());
    world.fake.machine(&dir).unwrap()
}

fn is_served(world: &World) -> bool {
    UnixStream::connect(world.paths().run_dir("web").join("nbd-0.sock")).is_ok()
}

fn force_stop(manager: &Manager) -> Result<MomentInfo> {
    let force = call::Stop { name: "web".into(), force: true, deadline_s: None };
    manager.handle(&force, &mut Nobody)
}

fn lease(target: &Arc<Target>, used: Use) -> Lease {
    target.lease(target.volume(BranchId(0), None).unwrap(), used).unwrap()
}

fn write(disk: &Lease) {
    disk.write(&[Writing { offset: 0, change: Change::Data(&[7; 4096]) }]).unwrap();
}

/// A target whose machine runs, with the next manager.
fn left() -> (World, Arc<Manager>, Arc<Target>) {
    let (world, manager) = World::with(&["web"]);
    run(&manager, "web").unwrap();
    world.kill(manager);
    let manager = world.manager();
    let target = manager.target("web").unwrap();
    (world, manager, target)
}

/// Starts a machine that does not answer, for which nobody waits.
fn start_slowly(world: &World, manager: &Manager) {
    *lock(&world.fake.next) = Next::Slow;
    let mut asked = 0;
    let _ = manager.handle(&run_call("web"), &mut Impatient(&mut asked));
    machine(world);
}

#[test]
fn a_machine_that_cannot_be_supervised_is_still_served_and_is_left_running() {
    let (world, manager, target) = left();
    let head = target.log.head_seq();
    target.shared.has_no_threads.store(true, Ordering::Release);
    for _ in 0..2 {
        run(&manager, "web").unwrap_err();
        // Nobody has looked for it meanwhile.
        assert_eq!(target.machine_state(), lifecycle::Machine::LeftRunning);
        assert!(target.is_not_adopted() && is_served(&world));
    }
    assert_eq!(target.log.head_seq(), head, "what did not happen is not in the log");
    target.shared.has_no_threads.store(false, Ordering::Release);
    run(&manager, "web").unwrap();
    stop(&manager, "web").unwrap();
}

#[test]
fn a_machine_whose_supervision_has_ended_is_served_and_adopted_again() {
    let (world, manager) = World::with(&["web"]);
    run(&manager, "web").unwrap();
    let target = manager.target("web").unwrap();
    let watched = target.machine().unwrap();
    // As when the thread has ended that watches its process.
    world.fake.manager_is_killed();
    wait_for("it to count as left running", || target.is_unsupervised());
    assert!(is_served(&world));
    let told = target.wait_ended(&watched, &mut || true).unwrap_err();
    assert_eq!(told.failure().code(), "manager-gone");
    run(&manager, "web").unwrap();
    assert!(target.machine().unwrap().adopted);
    stop(&manager, "web").unwrap();
    assert_eq!(kinds(&target), [Kind::Boot, Kind::Shutdown]);
    // The end of one that has ended as well is in the log before anybody asks.
    run(&manager, "web").unwrap();
    machine(&world).vanish();
    wait_for("its stop", || kinds(&target).len() == 4);
    assert_eq!(target.machine_state(), lifecycle::Machine::Stopped);
}

#[test]
fn a_machine_whose_supervision_has_ended_is_served_until_it_is_known_to_have_ended() {
    let (world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    run(&manager, "web").unwrap();
    world.fake.is_unknown.store(true, Ordering::Release);
    world.fake.manager_is_killed();
    wait_for("it to count as left running", || target.is_unsupervised());
    assert!(is_served(&world));
    assert_eq!(target.machine_state(), lifecycle::Machine::LeftRunning);
    world.fake.is_unknown.store(false, Ordering::Release);
    run(&manager, "web").unwrap();
    let mut told = Vec::new();
    let mut each = |event: &bygone_store::Event| {
        told.push(event.event.label.clone());
        true
    };
    target.log.events(Seq::ZERO, target.log.head_seq(), &mut each).unwrap();
    assert!(told.iter().any(|label| label.contains("supervised again")), "{told:?}");
    assert!(!told.iter().any(|label| label.contains("manager was started again")), "{told:?}");

    // What it still writes comes before its stop.
    let disk = lease(&target, Use::Guest);
    machine(&world).vanish();
    wait_for("it to be left", || !target.is_running());
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(kinds(&target), [Kind::Boot]);
    write(&disk);
    let written = target.log.head_seq();
    drop(disk);
    wait_for("its stop", || kinds(&target).len() == 2);
    assert!(lives(&target)[1].1 > written);
    assert_eq!(target.machine_state(), lifecycle::Machine::Stopped);
}

#[test]
fn a_run_that_was_interrupted_and_whose_machine_has_ended_since_has_run() {
    let (world, manager) = World::with(&["web"]);
    let call: crate::api::Request = run_call("web").into();
    manager.begin_only(&call, &Asker::with("k"));
    start_slowly(&world, &manager);
    write(&lease(&manager.target("web").unwrap(), Use::Guest));
    world.kill(manager);
    machine(&world).die();
    let manager = world.manager();
    let told = ask_with(&manager, "k", call);
    let Err(Error::NotRepeated { changed: Some(changed), .. }) = told else { panic!("{told:?}") };
    assert!(!changed.is_empty());
    assert_eq!(kinds(&manager.target("web").unwrap()), [Kind::Boot, Kind::Shutdown]);
}

#[test]
fn a_look_that_is_out_of_date_ends_no_machine() {
    let (world, manager, target) = left();
    let kept = world.paths().run_dir("web").join("engine.json");
    for adopted in [false, true] {
        if adopted {
            run(&manager, "web").unwrap();
            target.abandon_machine();
        }
        target.note_machine(&Ok(None));
        assert!(kept.exists());
        assert_eq!(kinds(&target), [Kind::Boot]);
    }
    run(&manager, "web").unwrap();
    stop(&manager, "web").unwrap();
}

#[test]
fn a_stop_that_nobody_supervised_comes_after_the_last_write() {
    // Forced, or by itself and noticed at a look, or by whoever is about to adopt it.
    for way in ["forced", "seen", "adopted"] {
        let (world, manager, target) = left();
        let disk = lease(&target, Use::Guest);
        target.shared.has_no_threads.store(true, Ordering::Release);
        let (machine, head) = (machine(&world), target.log.head_seq());
        std::thread::scope(|scope| {
            let ending = scope.spawn(|| match way {
                "forced" => drop(force_stop(&manager).unwrap()),
                "seen" => {
                    machine.die();
                    target.look_for_machine();
                }
                _ => {
                    let begun = target.begin(lifecycle::Change::Starting, lifecycle::Request::Run);
                    let Ok(Begun::Adopt(op)) = begun else { panic!("it was left running") };
                    machine.die();
                    Machine::adopt(&op).unwrap_err();
                }
            });
            wait_for("the machine to end", || world.fake.machine(&world.paths().run_dir("web")).is_none());
            // Whoever does not wait has written the stop by now.
            std::thread::sleep(Duration::from_millis(100));
            assert!(!ending.is_finished());
            assert_eq!(target.log.head_seq(), head);
            write(&disk);
            let written = target.log.head_seq();
            drop(disk);
            ending.join().unwrap();
            let stopped = lives(&target).pop().unwrap();
            assert!(stopped.0 == Kind::Shutdown && stopped.1 > written, "{stopped:?} {written}");
        });
        assert_eq!(target.machine_state(), lifecycle::Machine::Stopped);
    }
}

#[test]
fn while_it_is_not_known_on_which_branch_a_machine_runs_none_is_dropped() {
    let (world, manager) = World::with(&["web"]);
    let at = call::Run { at: Some("now".into()), branch: Some("try".into()), ..run_call("web") };
    manager.handle(&at, &mut Nobody).unwrap();
    world.kill(manager);
    let run_dir = world.paths().run_dir("web");
    for file in files_below(&run_dir) {
        fs::remove_file(file).unwrap();
    }
    let manager = world.manager();
    let target = manager.target("web").unwrap();
    assert_eq!((target.is_left_running(), target.running_branch()), (true, None));
    let drop_it = call::BranchDrop { name: "web".into(), branch: "try".into() };
    for refused in [
        manager.handle(&drop_it, &mut Nobody).map(drop),
        manager.handle(&call::Plan { of: drop_it.clone().into() }, &mut Nobody).map(drop),
    ] {
        assert!(matches!(refused, Err(Error::UnknownBranch { .. })), "{refused:?}");
    }
    world.fake.machine(&run_dir).unwrap().die();
    manager.handle(&drop_it, &mut Nobody).unwrap();
}

#[test]
fn a_machine_is_served_by_whoever_has_the_turn() {
    let (world, manager, target) = left();
    let Ok(Begun::Adopt(op)) = target.begin(lifecycle::Change::Starting, lifecycle::Request::Run) else {
        panic!("it was left running")
    };
    target.serve_left_early();
    assert!(!is_served(&world));
    drop(op);
    target.serve_left_early();
    assert!(is_served(&world));
    stop(&manager, "web").unwrap();
}

#[test]
fn a_machine_that_ran_without_being_answered_was_booted() {
    let (world, manager) = World::with(&["web"]);
    start_slowly(&world, &manager);
    let before = manager.target("web").unwrap().log.head_seq();
    write(&lease(&manager.target("web").unwrap(), Use::Guest));
    world.kill(manager);
    machine(&world).die();
    for _ in 0..2 {
        let manager = world.manager();
        let target = manager.target("web").unwrap();
        // The boot is from before the write, and the stop from after it.
        let [(Kind::Boot, boot), (Kind::Shutdown, stopped)] = lives(&target)[..] else {
            panic!("{:?}", lives(&target))
        };
        assert!(boot <= before && stopped > before, "{boot} {before} {stopped}");
    }

    // The same under the manager that started it, whose caller is told that it ended.
    let (world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    *lock(&world.fake.next) = Next::Slow;
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| run(&manager, "web"));
        let machine = machine(&world);
        wait_for("it to be supervised", || target.is_running());
        write(&lease(&target, Use::Guest));
        machine.die();
        wait_for("whoever waits for it to be told", || starting.is_finished());
        assert_eq!(starting.join().unwrap().unwrap_err().failure().code(), "machine-ended");
    });
    assert_eq!(kinds(&target), [Kind::Boot, Kind::Shutdown]);
    // What another client wrote is no sign of it.
    *lock(&world.fake.next) = Next::Slow;
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| run(&manager, "web"));
        let machine = machine(&world);
        wait_for("it to be supervised", || target.is_running());
        write(&lease(&target, Use::Client));
        machine.die();
        starting.join().unwrap().unwrap_err();
    });
    assert_eq!(kinds(&target), [Kind::Boot, Kind::Shutdown]);
}

#[test]
fn a_boot_is_noted_once_whatever_its_file_says() {
    let (world, manager) = World::with(&["web"]);
    run(&manager, "web").unwrap();
    world.kill(manager);
    // The manager was killed between the event and the file.
    let kept = world.paths().run_dir("web").join("engine.json");
    let text = fs::read_to_string(&kept).unwrap();
    fs::write(&kept, text.replace("\"noted\": true", "\"noted\": false")).unwrap();
    let manager = world.manager();
    run(&manager, "web").unwrap();
    stop(&manager, "web").unwrap();
    assert_eq!(kinds(&manager.target("web").unwrap()), [Kind::Boot, Kind::Shutdown]);
}

/// Counts what is logged as a warning or an error.
struct Counting(Arc<AtomicU32>);

impl tracing::Subscriber for Counting {
    fn enabled(&self, meta: &tracing::Metadata<'_>) -> bool {
        *meta.level() <= tracing::Level::WARN
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn what_stays_wrong_with_a_machine_is_logged_once() {
    let (world, manager, target) = left();
    let logged = Arc::<AtomicU32>::default();
    let unsupervised = || {
        target.look_for_machine();
        run(&manager, "web").unwrap_err();
    };
    tracing::subscriber::with_default(Counting(logged.clone()), || {
        target.shared.has_no_threads.store(true, Ordering::Release);
        (0..3).for_each(|_| unsupervised());
        assert_eq!(logged.swap(0, Ordering::AcqRel), 1);
        for _ in 0..2 {
            world.fake.is_unknown.store(true, Ordering::Release);
            (0..3).for_each(|_| target.look_for_machine());
            assert_eq!(logged.swap(0, Ordering::AcqRel), 1);
            // What is over is logged again when it comes back.
            world.fake.is_unknown.store(false, Ordering::Release);
            target.look_for_machine();
        }
        let visits = Visits::default();
        for _ in 0..2 {
            (0..3).for_each(|_| visits.note(&target, Err(Error::Panicked { what: "this" })));
            assert_eq!(logged.swap(0, Ordering::AcqRel), 1);
            visits.note(&target, Ok(()));
        }
    });
    target.shared.has_no_threads.store(false, Ordering::Release);
    stop(&manager, "web").unwrap();
}

#[test]
fn a_target_that_hangs_or_is_defective_keeps_no_other_from_being_taken_care_of() {
    for hangs in [true, false] {
        let (world, manager) = World::with(&["a", "b"]);
        for name in ["a", "b"] {
            run(&manager, name).unwrap();
        }
        world.kill(manager);
        let manager = world.serving();
        manager.open_all();
        let [a, b] = ["a", "b"].map(|name| manager.target(name).unwrap());
        let dir = world.paths().run_dir("a");
        *lock(if hangs { &world.fake.hangs } else { &world.fake.haunted }) = Some(dir);
        let caretaker = Caretaker::start(manager.clone(), None).unwrap();
        wait_for("the other to be adopted", || b.is_running());
        assert!(!a.is_running());
        if !hangs {
            // Whichever thread it is done in.
            let look = Look { is_new: false, starts: false };
            let told = visit(&manager, &a, look, &Starting::default());
            assert!(matches!(told, Err(Error::Panicked { .. })), "{told:?}");
        }
        *lock(&world.fake.hangs) = None;
        *lock(&world.fake.haunted) = None;
        wait_for("it to be adopted", || a.is_running());
        drop(caretaker);
        for name in ["a", "b"] {
            stop(&manager, name).unwrap();
        }
    }
}

/// An ext4 file system that fills the disk, in use or not.
fn ext4(is_in_use: bool) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[1024 + 0x38..][..2].copy_from_slice(&0xef53_u16.to_le_bytes());
    bytes[1024 + 0x3a] = 1;
    bytes[1024 + 0x60] = 0x40 | if is_in_use { 4 } else { 0 };
    bytes
}

#[test]
fn the_stop_of_a_machine_that_ended_unsupervised_is_as_good_as_its_disks_are() {
    for (is_in_use, is_forced, grade) in [
        (false, false, Grade::Stopped),
        (true, false, Grade::Crash),
        (false, true, Grade::Clean),
        (true, true, Grade::Crash),
    ] {
        let (world, manager) = World::with(&["web"]);
        run(&manager, "web").unwrap();
        let target = manager.target("web").unwrap();
        let disk = lease(&target, Use::Machine);
        disk.write(&[Writing { offset: 0, change: Change::Data(&ext4(is_in_use)) }]).unwrap();
        let stopping = call::Stop { name: "web".into(), force: is_forced, deadline_s: None }.into();
        manager.begin_only(&stopping, &Asker::with("stop"));
        machine(&world).press();
        wait_for("the button", || newest_label(&target).contains("power button"));
        drop((disk, target));
        world.kill(manager);
        if !is_forced {
            machine(&world).die();
        }
        let manager = world.manager();
        let target = manager.target("web").unwrap();
        if is_forced {
            let op = match target.begin(crate::lifecycle::Change::Starting, lifecycle::Request::Stop).unwrap()
            {
                Begun::Adopt(op) => op,
                Begun::Go(op) => op,
            };
            Machine::end_left(&op).unwrap();
        }
        let stop = super::events::newest(&target, Kind::Shutdown);
        assert_eq!((stop.event.grade, target.machine_state()), (grade, lifecycle::Machine::Stopped));
        assert_eq!(stop.event.details.get("verified"), Some(&(grade == Grade::Stopped).into()));
        assert_eq!(stop.event.label.contains("in order"), grade == Grade::Stopped, "{}", stop.event.label);
        // What the stop that was interrupted had done is said, whether or not the machine had ended by then.
        let jobs = Collected::of(&manager, &call::Jobs {});
        let changed = jobs.items.last().unwrap().changed.clone().unwrap();
        assert!(changed[0].contains("power button"), "{changed:?}");
        assert_eq!(changed.get(1).is_some(), !is_forced, "{changed:?}");
        drop(target);
        world.kill(manager);
    }
}

fn newest_label(target: &Target) -> String {
    let mut label = String::new();
    let mut each = |event: &bygone_store::Event| {
        label.clone_from(&event.event.label);
        true
    };
    target.log.events(Seq::ZERO, target.log.head_seq(), &mut each).unwrap();
    label
}

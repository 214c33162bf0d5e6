//! Stops that are given up, and stops that cannot be written.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    machines::{run, stop},
    *,
};
use crate::{
    api::{Answers, Items, Nothing, Progress},
    lifecycle,
    runner::fake::Next,
    target::lock,
};

/// A caller that waits until the flag is set.
struct Until<'a>(&'a AtomicBool);

impl Answers for Until<'_> {
    fn progress(&mut self, _: Progress) -> bool {
        self.wanted()
    }
    fn note(&mut self, _: String) {}
    fn wanted(&mut self) -> bool {
        !self.0.load(Ordering::Acquire)
    }
}

impl Items<Nothing> for Until<'_> {
    fn item(&mut self, _: Nothing) -> bool {
        self.wanted()
    }
}

fn stop_call(deadline_s: u32) -> call::Stop {
    call::Stop { name: "web".into(), force: false, deadline_s: Some(deadline_s) }
}

#[test]
fn a_stop_that_everyone_has_given_up_is_taken_back() {
    let (world, manager) = World::with(&["web"]);
    *lock(&world.fake.next) = Next::Lingers;
    run(&manager, "web").unwrap();
    let target = manager.target("web").unwrap();
    let given_up = [AtomicBool::new(false), AtomicBool::new(false)];
    std::thread::scope(|scope| {
        let stopping = given_up.each_ref().map(|given_up| {
            let asked = target.machine().unwrap();
            let before = asked.stop_callers();
            let manager = &manager;
            let stopping = scope.spawn(move || manager.handle(&stop_call(4000), &mut Until(given_up)));
            wait_for("the machine to be asked", || asked.stop_callers() > before);
            stopping
        });
        for (given_up, stopping) in given_up.iter().zip(stopping) {
            // Also while another one wants it to stop.
            assert_eq!(target.machine_state(), lifecycle::Machine::Stopping);
            given_up.store(true, Ordering::Release);
            let told = stopping.join().unwrap();
            assert!(matches!(told, Err(Error::Abandoned)), "{told:?}");
        }
    });
    assert_eq!(target.machine_state(), lifecycle::Machine::Running);
    assert!(matches!(run(&manager, "web"), Err(Error::TargetRunning(_))));
    let force = call::Stop { force: true, deadline_s: None, ..stop_call(0) };
    manager.handle(&force, &mut Nobody).unwrap();
}

#[test]
fn a_stop_that_was_forced_is_not_taken_back() {
    let (world, manager) = World::with(&["web"]);
    *lock(&world.fake.next) = Next::Lingers;
    run(&manager, "web").unwrap();
    let target = manager.target("web").unwrap();
    let machine = target.machine().unwrap();
    // One asks, another forces, and the first gives up before the machine has ended.
    machine.ask_stop();
    machine.force_stop("force");
    machine.take_back_stop();
    assert_eq!(target.machine_state(), lifecycle::Machine::Stopping);
    world.fake.machine(&target.run_dir()).unwrap().die();
    let stopped = target.wait_ended(&machine, &mut || true).unwrap();
    assert_eq!(stopped.label, "the power was cut, as asked");
}

#[test]
fn no_stop_waits_for_ever() {
    let (_world, manager) = World::with(&["web"]);
    run(&manager, "web").unwrap();
    let refused = manager.handle(&stop_call(86_401), &mut Nobody).unwrap_err();
    assert_eq!(refused.failure().code(), "bad-setting");
    assert_eq!(manager.target("web").unwrap().machine_state(), lifecycle::Machine::Running);
    manager.handle(&stop_call(86_400), &mut Nobody).unwrap();
}

#[test]
fn a_machine_that_has_stopped_is_not_said_not_to_run_because_its_stop_cannot_be_written() {
    let (_world, manager) = World::with(&["web"]);
    run(&manager, "web").unwrap();
    let target = manager.target("web").unwrap();
    target.fail_after_syncs(0);
    let partly = stop(&manager, "web").unwrap_err();
    let Error::Partly { done, why } = &partly else { panic!("{partly:?}") };
    assert_eq!(done, "target web has stopped");
    assert!(matches!(why.failure().code().as_str(), "medium-failed" | "log-poisoned"), "{why:?}");
    assert_eq!(target.machine_state(), lifecycle::Machine::Stopped);
    // By now it is so.
    assert!(matches!(stop(&manager, "web"), Err(Error::TargetStopped(_))));
}

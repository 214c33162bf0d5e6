//! The manager dies under a running machine.

use std::time::Duration;

use crate::world::{World, make_disk, until};

#[test]
fn a_manager_killed_twenty_times_costs_no_write_and_no_guest_error() {
    let mut world = World::new();
    make_disk(&world.path("d.raw"), 128 << 20);
    let disk = format!("vda={}", world.path("d.raw").display());
    world.add_mini("m", "bygone.run=verified-io bygone.seconds=0", &[&disk]);
    world.serve();
    world.ok(&["run", "m"]);
    world.wait_console("m", "ok ");
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        let before = world.last_number("m", "ok ").unwrap_or(0);
        slowest = slowest.max(world.kill_and_restart());
        until(&format!("I/O after kill {round}\n{}", world.console("m")), || {
            let console = world.console("m");
            assert!(!console.contains("IOERROR") && !console.contains("MISMATCH"), "{console}");
            world.last_number("m", "ok ").filter(|now| *now > before)
        });
    }
    // At the end the guest reads everything again and compares.
    let stop = world.json(&["stop", "m"]);
    let console = world.console("m");
    assert!(console.contains("finished ok"), "{console}");
    assert_eq!(stop["kind"], "shutdown");
    println!("slowest return of the manager: {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    world.ok(&["verify"]);
}

#[test]
fn a_machine_that_ended_without_a_manager_is_told_in_the_timeline() {
    let mut world = World::new();
    make_disk(&world.path("d.raw"), 32 << 20);
    let disk = format!("vda={}", world.path("d.raw").display());
    world.add_mini("m", "bygone.run=idle", &[&disk]);
    world.serve();
    let started = world.json(&["run", "m"]);
    world.wait_console("m", "bygone-guest: ready");
    let pid =
        started["pid"].as_i64().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)).expect("a pid");
    world.kill_and_restart();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    let stop = until("the stop", || {
        let timeline = world.json_lines(&["timeline", "m", "--kind", "shutdown"]);
        timeline.last().cloned()
    });
    assert_eq!(stop["grade"], "crash", "{stop}");
}

#[test]
fn run_without_a_manager_takes_over_what_was_left_running_and_says_so() {
    let mut world = World::new();
    make_disk(&world.path("d.raw"), 32 << 20);
    let disk = format!("vda={}", world.path("d.raw").display());
    world.add_mini("m", "bygone.run=idle", &[&disk]);
    world.serve();
    let started = world.json(&["run", "m"]);
    world.wait_console("m", "bygone-guest: ready");
    world.kill();
    let again = world.run(&["run", "m", "--json"]);
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.success() && said.contains("it was running already"), "{said}");
    let again: serde_json::Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!(again["pid"], started["pid"]);
    // This time `run` finds a manager that it did not start itself, so it fails.
    world.fails(1, &["run", "m"]);
    let stop = world.json(&["stop", "m"]);
    assert_eq!(stop["kind"], "shutdown");
    let boots = world.json_lines(&["timeline", "m", "--kind", "boot"]);
    assert_eq!(boots.len(), 1);
}

#[test]
fn what_comes_up_with_the_manager_is_not_in_the_way_of_the_run_that_starts_it() {
    let world = World::new();
    for name in ["m", "n"] {
        world.ok(&["target", "add", name, "--disk", "store:8M", "--memory", "64M", "--autostart"]);
    }
    world.ok(&["point", "m", "--label", "here"]);
    let started = world.json(&["run", "m", "--at", "point:here", "--branch", "try"]);
    assert_eq!(started["branch"], "try");
    until("the other one to come up", || {
        let targets = world.json(&["status"])["targets"].clone();
        (targets[1]["name"] == "n" && targets[1]["state"] == "running").then_some(())
    });
    for name in ["m", "n"] {
        world.ok(&["stop", name, "--force"]);
    }
}

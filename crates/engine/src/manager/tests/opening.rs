//! Opening many targets.

use std::{fs, path::PathBuf, process::Command};

use super::*;
use crate::api::Trouble;

/// The file of a target's newest configuration. A pipe in its place makes opening the target wait until something is
/// written to it.
fn configuration(world: &World, name: &str) -> PathBuf {
    let folder = world.target_dir(name).join("config");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.pop().unwrap()
}

fn is_opening(manager: &Manager, name: &str) -> bool {
    let of = |problem: &crate::api::Problem| {
        problem.target.as_deref() == Some(name) && problem.trouble == Trouble::Opening
    };
    status(manager).problems.iter().any(of)
}

#[test]
fn a_target_is_served_as_soon_as_it_is_open_however_long_another_takes() {
    let names = ["a", "slow", "b", "c", "d", "e", "f", "g"];
    let (world, manager) = World::with(&names);
    world.kill(manager);
    let path = configuration(&world, "slow");
    let text = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());

    let manager = world.serving();
    assert!(manager.is_opening());
    std::thread::scope(|threads| {
        let opener = threads.spawn(|| manager.open_all());
        wait_for("all others to be served", || manager.served().len() == names.len() - 1);
        for name in names.iter().filter(|name| **name != "slow") {
            assert!(!is_opening(&manager, name), "{name}");
            manager.target(name).unwrap();
        }
        assert!(is_opening(&manager, "slow"));
        assert!(manager.is_opening());
        let asked =
            [(); 3].map(|()| threads.spawn(|| manager.target("slow").map(|target| target.name.clone())));
        let all = threads.spawn(|| manager.targets().unwrap().len());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!opener.is_finished() && !all.is_finished());
        assert!(asked.iter().all(|asked| !asked.is_finished()), "what is not open yet is waited for");
        fs::write(&path, &text).unwrap();
        for asked in asked {
            assert_eq!(asked.join().unwrap().unwrap(), "slow");
        }
        assert_eq!(all.join().unwrap(), names.len());
        opener.join().unwrap();
    });
    assert!(!manager.is_opening());
    assert!(!is_opening(&manager, "slow"));
}

#[test]
fn one_broken_target_of_many_leaves_the_others_served_and_is_named() {
    let names: Vec<String> = (0..40).map(|i| format!("t{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (world, manager) = World::with(&names);
    world.kill(manager);
    fs::write(configuration(&world, "t17"), b"{").unwrap();
    let manager = world.serving();
    manager.open_all();
    assert_eq!(manager.served().len(), names.len() - 1);
    let problems = problems(&manager);
    assert!(problems.starts_with("t17: cannot be used: ") && problems.lines().count() == 1, "{problems}");
}

#[test]
fn a_defect_in_opening_one_target_is_a_defect_of_that_one() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let (world, manager) = World::with(&names);
    world.kill(manager);
    *world.fake.haunted.lock().unwrap() = Some(world.paths().run_dir("c"));
    let manager = world.serving();
    manager.open_all();
    assert_eq!(manager.served().len(), names.len() - 1);
    assert!(!manager.is_opening());
    let refused = manager.target("c").err();
    assert!(matches!(refused, Some(Error::Unavailable { .. })), "{refused:?}");
    // Each request tries to open it again.
    *world.fake.haunted.lock().unwrap() = None;
    manager.target("c").unwrap();
}

#[test]
fn a_request_without_a_manager_opens_the_target_that_it_is_about_and_no_other() {
    let (world, manager) = World::with(&["a", "b"]);
    world.kill(manager);
    let manager = world.manager();
    manager.target("b").unwrap();
    let open: Vec<String> = manager.served().iter().map(|target| target.name.clone()).collect();
    assert_eq!(open, ["b"]);
    drop(manager);

    let manager = world.manager();
    let to = call::RestoreTo::Path(world.dir.path().join("b.raw"));
    let restore = call::Restore { name: "b".into(), at: "now".into(), disk: None, to, discard_later: false };
    manager.handle(&restore, &mut Nobody).unwrap();
    world.tapped(&manager, "c");
    let remove = call::TargetRemove { name: "c".into(), delete_history: false };
    manager.handle(&remove, &mut Nobody).unwrap();
    manager.handle(&call::TargetRestore::of("c"), &mut Nobody).unwrap();
    let open: Vec<String> = manager.served().iter().map(|target| target.name.clone()).collect();
    assert_eq!(open, ["b", "c"]);
    assert_eq!(status(&manager).targets.len(), 3, "whoever asks for all gets all");
}

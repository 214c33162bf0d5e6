//! Completions know what is in the store.

use crate::world::World;

/// What a shell is offered after these words; the last one is being typed.
fn offered(world: &World, words: &[&str]) -> Vec<String> {
    let output =
        world.command().env("COMPLETE", "fish").arg("--").arg("bygone").args(words).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{words:?}: {output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    said.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
}

#[test]
fn targets_branches_moments_and_disks_are_completed() {
    let world = World::new();
    world.done(&["target", "add", "web", "--disk", "root=store:8M", "--disk", "data=store:8M"]);
    world.done(&["target", "add", "db", "--disk", "store:8M"]);
    world.done(&["point", "web", "--label", "good one"]);
    world.done(&["restore", "web", "--at", "now", "--in-place"]);
    for command in [&["run", ""][..], &["target", "show", ""], &["branch", "promote", ""], &["restore", ""]] {
        let offered = offered(&world, command);
        assert!(offered.contains(&"web".to_owned()) && offered.contains(&"db".to_owned()), "{offered:?}");
    }
    assert_eq!(offered(&world, &["timeline", "w"]), ["web"]);
    assert_eq!(offered(&world, &["branch", "promote", "web", ""])[..2], ["main", "restored-1"]);
    let moments = offered(&world, &["restore", "web", "--at", ""]);
    for moment in ["point:good one", "branch:main", "last shutdown"] {
        assert!(moments.contains(&moment.to_owned()), "{moments:?}");
    }
    assert_eq!(offered(&world, &["restore", "web", "--disk", ""]), ["root", "data"]);
    assert_eq!(offered(&world, &["export", "w"]), ["web/root", "web/data"]);
    assert!(offered(&world, &["ta"]).contains(&"target".to_owned()));
}

#[test]
fn where_there_is_no_store_nothing_is_completed_and_nothing_is_said() {
    let world = World::empty();
    assert!(!offered(&world, &["run", ""]).contains(&"web".to_owned()));
    assert!(!world.store().exists());
}

#[test]
fn each_shell_gets_a_script() {
    let world = World::empty();
    for shell in ["bash", "zsh", "fish"] {
        let script = world.done(&["completions", shell]);
        assert!(script.contains("COMPLETE") && script.contains("bygone"), "{shell}: {script}");
    }
}

//! Adding, running and restoring targets.

use std::fs;

use crate::world::{World, counter_in, guest, make_disk};

#[test]
fn a_tapped_machine_is_run_stopped_verified_and_brought_back() {
    let world = World::new();
    let disk = world.path("web1.raw");
    make_disk(&disk, 64 << 20);
    world.add_mini(
        "web1",
        "bygone.run=counter bygone.count=60 bygone.delay_ms=20",
        &[&format!("vda={}", disk.display())],
    );
    world.ok(&["run", "web1", "--wait"]);
    let timeline = world.json_lines(&["timeline", "web1"]);
    let kinds: Vec<&str> = timeline.iter().filter_map(|m| m["kind"].as_str()).collect();
    assert!(kinds.contains(&"base") && kinds.contains(&"boot"), "{kinds:?}");
    let stop = timeline.iter().rfind(|m| m["kind"] == "shutdown").expect("a shutdown");
    assert_eq!(stop["grade"], "stopped", "{stop}");
    assert_eq!(stop["details"]["by"], "the target", "{stop}");
    assert_eq!(stop["truth"], "observed");

    // The disk is complete without Bygone, and the store has the same content.
    assert_eq!(counter_in(&disk, 0), Some(60));
    let back = world.path("back.raw");
    world.restore("web1", "last shutdown", &back);
    assert!(fs::read(&disk).expect("disk") == fs::read(&back).expect("restored"));

    // Before the first boot it was empty.
    let first =
        timeline.iter().find(|m| m["kind"] == "boot").and_then(|m| m["seq"].as_u64()).expect("a boot");
    let empty = world.path("empty.raw");
    world.restore("web1", &format!("seq:{first}"), &empty);
    assert_eq!(counter_in(&empty, 0), None);
    world.ok(&["verify"]);
}

#[test]
fn the_past_is_run_changed_and_promoted_and_the_tapped_disk_follows() {
    let world = World::new();
    let disk = world.path("d.raw");
    make_disk(&disk, 64 << 20);
    world.add_mini(
        "m",
        "bygone.run=counter bygone.count=30 bygone.delay_ms=10",
        &[&format!("vda={}", disk.display())],
    );
    world.ok(&["run", "m", "--wait"]);
    world.ok(&["point", "m", "--label", "thirty"]);
    world.ok(&["run", "m", "--wait"]);
    assert_eq!(counter_in(&disk, 0), Some(60));

    // A run from the past counts on from 30, and the present is not affected.
    let started = world.json(&["run", "m", "--at", "point:thirty", "--branch", "again"]);
    assert_eq!(started["branch"], "again");
    world.wait_console("m", "begin 3");
    let stop = world.json(&["stop", "m"]);
    assert_eq!(stop["kind"], "shutdown");
    assert_eq!(counter_in(&disk, 0), Some(60));
    let branch_disk = world.path("b.raw");
    let exported = counter_on_branch(&world, &branch_disk);
    assert!((30..=60).contains(&exported), "{exported}");

    world.ok(&["branch", "promote", "m", "again"]);
    assert_eq!(counter_in(&disk, 0), Some(exported), "the tapped disk shows the promoted branch");
    world.ok(&["run", "m", "--wait"]);
    assert_eq!(counter_in(&disk, 0), Some(exported + 30));
    // The previous present still exists.
    let old = world.path("old.raw");
    world.restore("m", "branch:main", &old);
    assert_eq!(counter_in(&old, 0), Some(60));
}

fn counter_on_branch(world: &World, to: &std::path::Path) -> u64 {
    world.restore("m", "branch:again", to);
    counter_in(to, 0).expect("a counter")
}

#[test]
fn a_machine_that_boots_from_its_own_disk_runs_from_the_store() {
    let world = World::new();
    let image = guest("debian-disk").join("disk.raw");
    let import = format!("vda=import:{}", image.display());
    world.ok(&["target", "add", "own", "--memory", "512M", "--cpus", "1", "--disk", &import]);
    world.ok(&["run", "own"]);
    world.wait_console("own", "bygone-guest: ready");
    let stop = world.json(&["stop", "own"]);
    assert_eq!(stop["grade"], "stopped", "{stop}\n{}", world.console("own"));
    let points = world.json_lines(&["points", "own"]);
    assert!(points.iter().any(|m| m["kind"] == "boot") && points.iter().any(|m| m["kind"] == "shutdown"));
}

#[test]
fn a_direct_kernel_debian_on_a_tapped_disk_shuts_down_clean() {
    let world = World::new();
    let files = guest("debian");
    let disk = world.path("deb.raw");
    let copied = std::process::Command::new("cp")
        .arg("--sparse=always")
        .arg(files.join("disk.raw"))
        .arg(&disk)
        .status();
    assert!(copied.expect("cp").success());
    let append = fs::read_to_string(files.join("append")).expect("append");
    let text = |name: &str| files.join(name).display().to_string();
    world.ok(&[
        "target",
        "add",
        "deb",
        "--memory",
        "512M",
        "--cpus",
        "1",
        "--kernel",
        &text("vmlinuz"),
        "--initrd",
        &text("initrd"),
        "--append",
        append.trim(),
        "--disk",
        &format!("vda={}", disk.display()),
    ]);
    world.ok(&["run", "deb"]);
    world.wait_console("deb", "bygone-guest: ready");
    let stop = world.json(&["stop", "deb"]);
    assert_eq!(stop["grade"], "stopped", "{stop}");
    assert!(stop["details"]["signals"].to_string().contains("ext4"), "{stop}");
    let fsck = std::process::Command::new("e2fsck").arg("-fn").arg(&disk).output().expect("e2fsck");
    assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stdout));
}

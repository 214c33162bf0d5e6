//! A part of the history is lost, and no index knows what was in it: whoever asks for a moment behind it is told.

use std::{
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::world::World;

const BLOCK_BYTES: usize = 4096;
/// More than two segments.
const BLOCKS: usize = (150 << 20) / BLOCK_BYTES;

/// Each block has its number in it.
fn content() -> Vec<u8> {
    (1..=BLOCKS as u64).flat_map(|number| number.to_le_bytes().repeat(BLOCK_BYTES / 8)).collect()
}

/// The files of a target's segments, in order.
fn segments(world: &World) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(world.store().join("targets/web/log")).unwrap();
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// A target whose second segment was removed before a checkpoint took over what it wrote.
fn with_a_lost_segment() -> World {
    let world = World::new();
    std::fs::write(world.path("image.raw"), content()).unwrap();
    world.done(&["target", "add", "web", "--disk", "import:image.raw"]);
    world.done(&["point", "web", "--label", "after"]);
    let segments = segments(&world);
    assert!(segments.len() > 2, "{segments:?}");
    assert!(!world.store().join("targets/web/index").exists(), "a checkpoint");
    std::fs::remove_file(&segments[1]).unwrap();
    world
}

fn ended(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_restore_behind_lost_records_says_so_and_exits_with_3() {
    let world = with_a_lost_segment();
    let status: Value = serde_json::from_str(&world.done(&["status", "--json"])).unwrap();
    let problems = status["problems"].as_array().unwrap();
    let lost = problems.iter().find(|problem| problem["code"] == "records-lost").unwrap();
    let (first, last) = (lost["first_seq"].as_u64().unwrap(), lost["last_seq"].as_u64().unwrap());
    assert!(first > 1 && last > first, "{lost}");

    for at in ["now", "point:after"] {
        let output = world.run(&["restore", "web", "--at", at, "--to", "out.raw", "--json"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{at}: {said}");
        assert!(said.contains("records before this moment are lost") && said.contains("hint:"), "{said}");
        let restored: Value = serde_json::from_slice(&output.stdout).unwrap();
        let lost = &restored["moment"]["lost"];
        assert_eq!(
            (&lost[0]["first_seq"], &lost[0]["last_seq"]),
            (&first.into(), &last.into()),
            "{restored}"
        );
        // What is not right is within what is said to be uncertain.
        let (got, wanted) = (std::fs::read(world.path("out.raw")).unwrap(), content());
        let blocks = got.chunks(BLOCK_BYTES).zip(wanted.chunks(BLOCK_BYTES));
        let wrong_bytes = blocks.filter(|(got, wanted)| got != wanted).count() as u64 * BLOCK_BYTES as u64;
        let uncertain_bytes = restored["disks"][0]["uncertain_bytes"].as_u64().unwrap();
        assert!(wrong_bytes > 0 && wrong_bytes <= uncertain_bytes, "{wrong_bytes} of {uncertain_bytes}");
        std::fs::remove_file(world.path("out.raw")).unwrap();
    }

    let output = world.run(&["restore", "web", "--at", "now", "--to", "out.raw"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(&format!("seq:{first} to seq:{last}")), "{said}");
    assert!(said.contains("of vda may be older than this moment"), "{said}");
}

#[test]
fn an_export_and_a_restore_in_place_behind_lost_records_say_so_and_exit_with_3() {
    let world = with_a_lost_segment();
    for what in ["web@now", "web"] {
        let socket = world.path("served.sock");
        let words = ["export", what, "--nbd", "unix:served.sock"];
        let child =
            world.command().args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(60);
        while !socket.exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Its first line comes when it is served.
        std::thread::sleep(Duration::from_millis(300));
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let (code, out, err) = ended(child);
        assert_eq!(code, Some(3), "{what}: {out}{err}");
        assert!(out.contains("is served") && out.contains("Records before it are lost"), "{out}");
        let _ = std::fs::remove_file(socket);
    }
    let output = world.run(&["restore", "web", "--at", "point:after", "--in-place"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("The present is branch restored-1 now.") && said.contains("are lost"), "{said}");
}

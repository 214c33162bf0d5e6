//! Every moment of a running machine is exact.

use std::{path::Path, process::Command};

use crate::world::{World, counter_in, make_disk, make_ext4, until};

/// What must be on the disk at a moment, and what may be.
struct Sample {
    seq: u64,
    done: u64,
    begun: u64,
}

fn sample(world: &World, count: usize) -> Vec<Sample> {
    let mut samples = Vec::new();
    while samples.len() < count {
        let done = world.last_number("m", "done ").unwrap_or(0);
        let seq = world.head_seq("m");
        // Nothing later than this can be in the content at `seq`.
        let begun = until("a begun write", || world.last_number("m", "begin "));
        samples.push(Sample { seq, done, begun });
        std::thread::sleep(std::time::Duration::from_millis(37 + samples.len() as u64 * 7 % 61));
    }
    samples
}

#[test]
fn at_fifty_moments_the_disk_holds_what_was_acknowledged_and_nothing_from_the_future() {
    let world = World::new();
    make_disk(&world.path("d.raw"), 64 << 20);
    let disk = format!("vda={}", world.path("d.raw").display());
    world.add_mini("m", "bygone.run=counter bygone.delay_ms=5", &[&disk]);
    world.ok(&["run", "m"]);
    world.wait_console("m", "done 5");
    let samples = sample(&world, 50);
    world.ok(&["stop", "m"]);
    for (i, s) in samples.iter().enumerate() {
        let to = world.path(&format!("at-{i}.raw"));
        world.restore("m", &format!("seq:{}", s.seq), &to);
        let counter = counter_in(&to, 0).unwrap_or(0);
        assert!(
            s.done <= counter && counter <= s.begun,
            "seq {}: {counter} is not in {}..={}",
            s.seq,
            s.done,
            s.begun
        );
        std::fs::remove_file(to).expect("removed");
    }
}

fn fsck_after_replay(path: &Path) {
    let replayed =
        Command::new("e2fsck").args(["-E", "journal_only", "-y"]).arg(path).output().expect("e2fsck");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(replayed.status.code().is_some_and(|code| code <= 1), "replay: {}", text(&replayed.stdout));
    let checked = Command::new("e2fsck").arg("-fn").arg(path).output().expect("e2fsck");
    assert!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
}

#[test]
fn at_fifty_moments_the_file_system_is_whole_after_its_journal_is_replayed() {
    let world = World::new();
    make_ext4(&world.path("d.raw"), 64 << 20);
    let disk = format!("vda={}", world.path("d.raw").display());
    world.add_mini("m", "bygone.run=ext4-counter bygone.delay_ms=5", &[&disk]);
    world.ok(&["run", "m"]);
    world.wait_console("m", "done 5");
    let samples = sample(&world, 50);
    world.ok(&["stop", "m"]);
    for (i, s) in samples.iter().enumerate() {
        let to = world.path(&format!("at-{i}.raw"));
        world.restore("m", &format!("seq:{}", s.seq), &to);
        fsck_after_replay(&to);
        std::fs::remove_file(to).expect("removed");
    }
}

#[test]
fn two_disks_come_back_to_one_moment() {
    let world = World::new();
    let disks = ["a.raw", "b.raw"].map(|name| {
        make_disk(&world.path(name), 32 << 20);
        world.path(name).display().to_string()
    });
    let (a, b) = (format!("vda={}", disks[0]), format!("vdb={}", disks[1]));
    world.add_mini("m", "bygone.run=two-disks bygone.delay_ms=5", &[&a, &b]);
    world.ok(&["run", "m"]);
    world.wait_console("m", "done 5");
    let samples = sample(&world, 20);
    world.ok(&["stop", "m"]);
    for (i, s) in samples.iter().enumerate() {
        let to = world.path(&format!("at-{i}/"));
        world.restore("m", &format!("seq:{}", s.seq), &to);
        let first = counter_in(&to.join("vda.raw"), 0).unwrap_or(0);
        let second = counter_in(&to.join("vdb.raw"), 0).unwrap_or(0);
        assert!(
            s.done <= second && second <= first && first <= second + 1 && first <= s.begun,
            "{first} and {second}"
        );
        std::fs::remove_dir_all(to).expect("removed");
    }
}

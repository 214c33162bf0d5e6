//! A full file system under the store, or under a disk outside it (I6).

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::world::{World, counter_in, make_disk, until};

const MIB: u64 = 1 << 20;

/// What must be on the disk at a moment, and what may be.
struct Sample {
    seq: u64,
    done: u64,
    begun: u64,
}

fn sample(world: &World) -> Sample {
    let done = world.last_number("m", "done ").unwrap_or(0);
    let seq = world.head_seq("m");
    Sample { seq, done, begun: world.last_number("m", "begin ").unwrap_or(0) }
}

fn assert_exact(world: &World, sample: &Sample) {
    let to = world.path(&format!("at-{}.raw", sample.seq));
    world.ok(&[
        "restore",
        "m",
        "--at",
        &format!("seq:{}", sample.seq),
        "--disk",
        "vda",
        "--to",
        &to.display().to_string(),
    ]);
    let counter = counter_in(&to, 0).unwrap_or(0);
    let Sample { seq, done, begun } = sample;
    assert!(*done <= counter && counter <= *begun, "seq {seq}: {counter} is not in {done}..={begun}");
    fs::remove_file(to).expect("removed");
}

/// Writes to a disk of the target over NBD until the store accepts no more.
fn flood(world: &World, disk: &str, mib: u64) -> std::process::Child {
    let export = format!("nbd+unix:///m/{disk}?socket={}", world.store().join("run/nbd.sock").display());
    let commands: Vec<String> = (0..mib).map(|i| format!("write -P {} {i}M 1M", i % 200 + 1)).collect();
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw", &export]);
    for one in &commands {
        command.args(["-c", one]);
    }
    command.stdout(Stdio::null()).spawn().expect("qemu-io; run scripts/setup")
}

fn problems(of: &Value) -> String {
    of["problems"].to_string()
}

/// The status text of a target whose writes wait.
const STANDS_STILL: &str = "the target stands still";

/// Waits until the target's writes wait and the store reports it.
fn wait_paused(world: &World) -> Value {
    until("the pause", || {
        let status = world.json(&["status"]);
        // A manager that has just started serves the disks before it adopts the machine.
        let stands = status["store"]["state"] == "full" && problems(&status).contains(STANDS_STILL);
        (stands && status["targets"][0]["state"] == "running").then_some(status)
    })
}

#[test]
fn a_full_store_pauses_the_guest_which_goes_on_by_itself_when_there_is_room() {
    let mut world = World::on_small_fs(400 * MIB);
    world.add_mini("m", "bygone.run=counter bygone.delay_ms=5", &["vda=store:64M", "vdb=store:256M"]);
    world.serve();
    world.ok(&["run", "m"]);
    world.wait_console("m", "done 5");
    let mut samples = vec![sample(&world)];
    world.fs().leave(100 * MIB);
    let mut flood = flood(&world, "vdb", 200);
    let status = wait_paused(&world);
    assert_eq!(status["targets"][0]["state"], "running", "{status}");
    assert!(problems(&status).contains("free space"), "{status}");
    let shown = world.json(&["target", "show", "m"]);
    assert!(problems(&shown["status"]).contains("free space"), "{shown}");
    for args in [&["status"][..], &["target", "show", "m"]] {
        let said = world.ok(args);
        assert!(said.contains("writes wait because the store is full"), "{said}");
    }
    // The guest stands still as long as the store is full, and sees no error.
    let stuck_at = until("the guest to stand still", || {
        let before = world.last_number("m", "done ");
        std::thread::sleep(std::time::Duration::from_millis(1200));
        (before == world.last_number("m", "done ")).then_some(before).flatten()
    });
    samples.push(sample(&world));

    // The log's own records still find room, and reads need none, even with no block left.
    world.fs().brim();
    world.ok(&["point", "m", "--label", "when it was full"]);
    samples.push(sample(&world));
    world.fs().brim();
    assert_eq!(world.last_number("m", "done "), Some(stuck_at));
    for args in
        [&["points", "m"][..], &["timeline", "m"], &["verify"], &["target", "list"], &["branch", "list", "m"]]
    {
        world.ok(args);
    }
    for sample in &samples {
        assert_exact(&world, sample);
    }
    assert!(!world.console("m").contains("IOERROR"), "{}", world.console("m"));

    world.fs().make_room();
    until("the guest to go on", || world.last_number("m", "done ").filter(|done| *done > stuck_at + 5));
    assert!(flood.wait().expect("ended").success(), "the other writer saw an error");
    let status = world.json(&["status"]);
    assert!(!problems(&status).contains(STANDS_STILL), "{status}");
    samples.push(sample(&world));
    let stop = world.json(&["stop", "m"]);
    assert_eq!(stop["kind"], "shutdown");
    let console = world.console("m");
    assert!(console.contains("finished ok") && !console.contains("IOERROR"), "{console}");
    samples.push(sample(&world));
    for sample in &samples {
        assert_exact(&world, sample);
    }
    world.ok(&["verify"]);
}

#[test]
fn a_manager_killed_while_the_store_is_full_is_back_while_it_is_full_and_loses_nothing() {
    let mut world = World::on_small_fs(400 * MIB);
    world.add_mini("m", "bygone.run=verified-io bygone.seconds=0 bygone.mib=32", &["vda=store:64M"]);
    world.serve();
    world.fs().leave(90 * MIB);
    world.ok(&["run", "m"]);
    world.wait_console("m", "ok ");
    wait_paused(&world);
    for round in 0..3 {
        world.fs().brim();
        world.kill();
        world.fs().brim();
        world.serve();
        let status = wait_paused(&world);
        assert_eq!(status["targets"][0]["state"], "running", "round {round}: {status}");
        let last = world.json_lines(&["timeline", "m"]).pop().expect("an event");
        assert_eq!(last["kind"], "manager", "round {round}: {last}");
    }
    world.fs().make_room();
    let before = world.last_number("m", "ok ").expect("a number");
    until("the guest to go on", || world.last_number("m", "ok ").filter(|now| *now > before + 50));
    let stop = world.json(&["stop", "m"]);
    assert_eq!(stop["kind"], "shutdown");
    let console = world.console("m");
    assert!(console.contains("finished ok"), "{console}");
    assert!(!console.contains("IOERROR") && !console.contains("MISMATCH"), "{console}");
    world.ok(&["verify"]);
}

#[test]
fn a_target_that_waits_for_room_can_be_stopped_and_run_again() {
    let mut world = World::on_small_fs(400 * MIB);
    world.add_mini("m", "bygone.run=verified-io bygone.seconds=0 bygone.mib=32", &["vda=store:64M"]);
    world.add_mini("new", "bygone.run=idle", &["vda=store:1M"]);
    world.serve();
    world.fs().leave(90 * MIB);
    world.ok(&["run", "m"]);
    wait_paused(&world);
    let stop = world.json(&["stop", "m", "--force"]);
    assert_eq!(stop["kind"], "shutdown", "{stop}");
    // No write waits any more, and the disk is released.
    let status = world.json(&["status"]);
    assert_eq!(status["targets"][0]["state"], "stopped", "{status}");
    until("nobody waits", || (!problems(&world.json(&["status"])).contains(STANDS_STILL)).then_some(()));
    // Without room for the machine's few files it is not started, and nothing is left of the attempt.
    world.fs().brim();
    let before = tree(&world.store().join("run"));
    let said = world.fails(1, &["run", "new"]);
    assert!(said.contains("free space"), "{said}");
    assert_eq!(tree(&world.store().join("run")), before);
    assert!(world.json_lines(&["timeline", "new", "--kind", "boot"]).is_empty());
    // With a little room it starts, and waits again. It cannot shut down on request, and says why.
    world.fs().make_room();
    world.fs().leave(8 * MIB);
    world.ok(&["run", "m"]);
    world.wait_console("m", "bygone-guest: ready");
    wait_paused(&world);
    let stop = world.run(&["stop", "m", "--deadline", "4"]);
    let said = String::from_utf8_lossy(&stop.stderr).into_owned();
    assert!(stop.status.success() && said.contains("its writes wait for room"), "{said}");
    world.fs().make_room();
    world.ok(&["run", "m"]);
    world.wait_console("m", "ok ");
    let stop = world.json(&["stop", "m"]);
    assert_eq!(stop["details"]["by"], "the target", "{stop}");
    assert!(world.console("m").contains("finished ok"), "{}", world.console("m"));
    world.ok(&["verify"]);
}

/// All files below a folder with their sizes, and all folders.
fn tree(at: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let mut folders = vec![at.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let path = entry.path();
            let meta = entry.metadata().expect("what it is");
            if meta.is_dir() {
                out.push(path.display().to_string());
                folders.push(path);
            } else {
                out.push(format!("{}: {} bytes", path.display(), meta.len()));
            }
        }
    }
    out.sort();
    out
}

/// A target `m` whose disk is the image, on a file system of its own.
fn imported() -> (World, PathBuf) {
    let world = World::on_small_fs(200 * MIB);
    let image = world.path("i.raw");
    fs::write(&image, vec![0x5a; 8 << 20]).expect("written");
    world.ok(&["target", "add", "m", "--disk", &format!("vda=import:{}", image.display())]);
    (world, image)
}

#[test]
fn a_moment_is_exported_without_room_for_anything() {
    let (world, image) = imported();
    world.ok(&["point", "m", "--label", "before"]);
    world.fs().brim();
    let socket = world.path("e.sock");
    let at = format!("unix:{}", socket.display());
    let mut export = world
        .command(&["export", "m@point:before", "--nbd", &at])
        .stdout(Stdio::null())
        .spawn()
        .expect("runs");
    until("the export", || std::os::unix::net::UnixStream::connect(&socket).ok());
    let copy = world.path("e.raw");
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let copied = Command::new("qemu-img").args(["convert", "-O", "raw", &uri]).arg(&copy).status();
    assert!(copied.expect("qemu-img").success());
    let pid = rustix::process::Pid::from_child(&export);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("told to end");
    assert!(export.wait().expect("ended").success());
    assert!(fs::read(copy).expect("read") == fs::read(image).expect("read"));
}

/// One disk of two would look like the complete result.
#[test]
fn two_disks_are_restored_together_or_not_at_all() {
    let (world, image) = imported();
    let import = |id: &str| format!("{id}=import:{}", image.display());
    world.ok(&["target", "add", "two", "--disk", &import("vda"), "--disk", &import("vdb")]);
    world.ok(&["status"]);
    world.fs().leave(12 * MIB);
    let folder = world.fs().path().join("both");
    let to = format!("{}/", folder.display());
    let said = world.fails(1, &["restore", "two", "--at", "now", "--to", &to]);
    assert!(said.contains("free space") && !folder.exists(), "{said}");
    // The remains of a killed restore do not block another one.
    let to = world.path("vdb.raw");
    fs::write(world.path("vdb.raw.bygone-part"), "half").expect("written");
    world.ok(&["restore", "two", "--at", "now", "--disk", "vdb", "--to", &to.display().to_string()]);
    assert!(fs::read(to).expect("read") == fs::read(image).expect("read"));
    assert!(!world.path("vdb.raw.bygone-part").exists());
}

#[test]
fn commands_on_a_full_store_say_so_and_leave_nothing_behind() {
    let (world, image) = imported();
    world.ok(&["point", "m", "--label", "before"]);
    // The next life frees what the previous one had preallocated and not used.
    world.ok(&["status"]);
    world.fs().brim();
    let text = |path: &Path| path.display().to_string();
    let before = tree(&world.store());
    let out_of_room = |args: &[&str]| {
        let said = world.fails(1, args);
        assert!(said.contains("free space"), "bygone {args:?}: {said}");
    };
    out_of_room(&["target", "add", "n", "--disk", "store:1G"]);
    out_of_room(&["target", "add", "n", "--disk", &format!("import:{}", image.display())]);
    out_of_room(&["target", "set", "m", "memory=2G"]);
    out_of_room(&["compact"]);
    assert_eq!(tree(&world.store()), before, "something was left behind");
    let inside = world.fs().path().join("r.raw");
    out_of_room(&["restore", "m", "--at", "point:before", "--to", &text(&inside)]);
    let other = world.fs().path().join("other");
    let done = Command::new(world.command(&[]).get_program())
        .args(["--store", &text(&other), "init"])
        .output()
        .expect("runs");
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.code() == Some(1) && said.contains("free space"), "{said}");
    let names: Vec<_> = fs::read_dir(world.fs().path()).expect("a folder").flatten().collect();
    assert!(
        names.iter().all(|e| ["ballast", "store", "lost+found"].iter().any(|n| e.file_name() == *n)),
        "{names:?}"
    );

    // Commands that only read work, and those that need a few bytes find them.
    for args in [
        &["status"][..],
        &["target", "show", "m"],
        &["target", "list"],
        &["timeline", "m"],
        &["points", "m"],
        &["branch", "list", "m"],
        &["verify"],
        &["point", "m", "--label", "full"],
        &["restore", "m", "--at", "point:before", "--to", &text(&world.path("out.raw"))],
        &["restore", "m", "--at", "point:full", "--to", &text(&world.path("out2.raw"))],
        &["restore", "m", "--at", "point:before", "--in-place"],
        &["branch", "promote", "m", "main"],
        &["branch", "drop", "m", "restored-1", "--yes"],
    ] {
        world.ok(args);
    }
    let wanted = fs::read(&image).expect("read");
    for name in ["out.raw", "out2.raw"] {
        assert!(fs::read(world.path(name)).expect("read") == wanted, "{name}");
    }
    assert_eq!(world.json(&["status"])["store"]["state"], "full");
    world.fs().brim();
    let stopped = world.fails(1, &["stop", "m"]);
    assert!(stopped.contains("not running"), "{stopped}");
    world.fs().make_room();
    for args in [
        &["compact"][..],
        &["target", "set", "m", "memory=2G"],
        &["target", "add", "n", "--disk", "store:1G"],
    ] {
        world.ok(args);
    }
    world.ok(&["verify"]);
    assert_eq!(world.json_lines(&["points", "m"]).iter().filter(|p| p["kind"] == "point").count(), 2);
}

#[test]
fn a_tapped_disk_without_room_loses_nothing_and_is_whole_once_it_has_some() {
    let mut world = World::new();
    let disk = world.mount(100 * MIB).join("d.raw");
    make_disk(&disk, 64 << 20);
    world.add_mini(
        "m",
        "bygone.run=verified-io bygone.seconds=0 bygone.mib=64",
        &[&format!("vda={}", disk.display())],
    );
    world.serve();
    world.fs().leave(4 * MIB);
    world.ok(&["run", "m"]);
    let status = until("the trouble to be told", || {
        let status = world.json(&["status"]);
        problems(&status).contains("the file system of the disk outside the store is full").then_some(status)
    });
    assert!(problems(&status).contains("free space there"), "{status}");
    assert!(problems(&world.json(&["target", "show", "m"])["status"]).contains("free space there"));
    // The guest goes on, because the log has everything.
    let before = world.last_number("m", "ok ").unwrap_or(0);
    until("I/O without room on the disk", || world.last_number("m", "ok ").filter(|now| *now > before + 50));
    world.kill_and_restart();
    until("the trouble to be told again", || {
        problems(&world.json(&["status"])).contains("disk outside the store is full").then_some(())
    });
    // It can be stopped; then the disk is incomplete, which is reported.
    let stop = world.json(&["stop", "m"]);
    assert_eq!(stop["kind"], "shutdown");
    let console = world.console("m");
    assert!(console.contains("finished ok"), "{console}");
    assert!(!console.contains("IOERROR") && !console.contains("MISMATCH"), "{console}");
    let status = world.json(&["status"]);
    assert!(problems(&status).contains("not up to date"), "{status}");

    world.fs().make_room();
    world.kill_and_restart();
    until("the disk to be brought up to date", || {
        (!problems(&world.json(&["status"])).contains("not up to date")).then_some(())
    });
    let then = world.path("then.raw");
    world.restore("m", "now", &then);
    assert!(
        fs::read(&then).expect("read") == fs::read(&disk).expect("read"),
        "the disk is not what was written"
    );
    world.ok(&["verify"]);
}

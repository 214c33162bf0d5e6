//! Invalid input: what is refused, and with which message.

use std::{
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
};

use crate::world::{World, make_disk, until};

fn add(world: &World, name: &str, disk: &str) -> Vec<String> {
    let _ = world;
    ["target", "add", name, "--disk", disk].map(str::to_owned).to_vec()
}

/// The largest segment of a target.
fn largest_segment(world: &World, target: &str) -> std::path::PathBuf {
    let log = world.store().join("targets").join(target).join("log");
    let entries = fs::read_dir(log).expect("a log").map(|entry| entry.expect("an entry"));
    let segments = entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "seg"));
    segments.max_by_key(|entry| entry.metadata().expect("length").len()).expect("a segment").path()
}

fn refused(world: &World, args: &[String]) -> String {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    world.fails(1, &args)
}

#[test]
fn disks_that_cannot_be_protected_are_refused_and_leave_nothing_behind() {
    let world = World::new();
    let disk = world.path("d.raw");
    let name = disk.display().to_string();
    assert!(refused(&world, &add(&world, "a", &name)).contains("d.raw"));
    make_disk(&disk, 0);
    refused(&world, &add(&world, "a", &name));
    fs::OpenOptions::new().write(true).open(&disk).and_then(|f| f.set_len(1000)).expect("sized");
    refused(&world, &add(&world, "a", &name));
    fs::OpenOptions::new().write(true).open(&disk).and_then(|f| f.set_len(1 << 20)).expect("sized");
    // In use: qemu-io holds it open.
    let mut holder = std::process::Command::new("qemu-io")
        .args(["-f", "raw", &name])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("qemu-io; run scripts/setup");
    // Its locks are listed with its open files.
    let open = format!("/proc/{}/fdinfo", holder.id());
    until("qemu-io to lock the disk", || {
        let entries = fs::read_dir(&open).ok()?.filter_map(Result::ok);
        let mut infos = entries.filter_map(|entry| fs::read_to_string(entry.path()).ok());
        infos.any(|info| info.contains("lock:")).then_some(())
    });
    let said = refused(&world, &add(&world, "a", &name));
    assert!(said.contains("in use"), "{said}");
    holder.kill().expect("killed");
    holder.wait().expect("ended");
    let left = world.json_lines(&["target", "list"]);
    assert!(left.is_empty(), "{left:?}");
    let args = add(&world, "a", &name);
    world.ok(&args.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn a_store_that_cannot_be_used_is_refused_with_a_hint() {
    let world = World::new();
    world.fails(1, &["init"]);
    let description = world.store().join("bygone.json");
    let text = fs::read_to_string(&description).expect("read");
    fs::write(&description, text.replace("\"format\": 3", "\"format\": 99")).expect("written");
    assert!(world.fails(1, &["status"]).contains("newer version"));
    fs::write(&description, "{").expect("written");
    world.fails(1, &["status"]);
    fs::write(&description, text).expect("written");
    world.ok(&["status"]);
    let nowhere = world.path("nowhere").display().to_string();
    let done = std::process::Command::new(world.command(&[]).get_program())
        .args(["--store", &nowhere, "status"])
        .output()
        .expect("runs");
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).contains("bygone init"));
}

#[test]
fn a_store_that_is_in_use_is_shared_through_its_manager() {
    let mut world = World::new();
    world.serve();
    let status = world.json(&["status"]);
    assert_eq!(status["store"]["state"], "ok");
    let second = world.run(&["serve"]);
    assert_eq!(second.status.code(), Some(1), "a second manager must be refused");
}

#[test]
fn moments_that_there_are_not_are_refused_with_what_there_is() {
    let world = World::new();
    world.ok(&["target", "add", "a", "--disk", "store:64M"]);
    world.ok(&["point", "a", "--label", "here"]);
    let to = world.path("x.raw").display().to_string();
    for (code, at) in
        [(1, "3 years ago"), (1, "point:there"), (2, "the day after"), (1, "seq:99999999"), (1, "last boot")]
    {
        world.fails(code, &["restore", "a", "--at", at, "--to", &to]);
    }
    world.fails(1, &["timeline", "nobody"]);
    assert!(!world.path("x.raw").exists());
    world.restore("a", "point:here", &world.path("x.raw"));
    // Never over an existing file.
    world.fails(1, &["restore", "a", "--at", "now", "--to", &to]);
}

#[test]
fn flipped_bits_are_found_named_and_never_served() {
    let world = World::new();
    let image = world.path("i.raw");
    fs::write(&image, vec![0x5a; 4 << 20]).expect("written");
    world.ok(&["target", "add", "a", "--disk", &format!("import:{}", image.display())]);
    world.ok(&["verify"]);
    let segment = largest_segment(&world, "a");
    // Damage is told of the segment, whichever holder's file it is in.
    let name =
        segment.file_name().and_then(|name| name.to_str()?.split('-').next()).expect("a name").to_owned();
    let file = fs::OpenOptions::new().read(true).write(true).open(&segment).expect("a segment");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1 << 20).expect("read");
    file.write_all_at(&[byte[0] ^ 4], 1 << 20).expect("written");
    let done = world.run(&["--json", "verify"]);
    assert_eq!(done.status.code(), Some(3), "{}", String::from_utf8_lossy(&done.stderr));
    let found: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert!(found["damaged"][0]["where"].as_str().is_some_and(|w| w.contains(&name)), "{found}");
    // One damaged block costs only that block: the rest is restored, and the missing part is named.
    let y = world.path("y.raw");
    let said = world.fails(3, &["restore", "a", "--at", "now", "--to", &y.display().to_string()]);
    assert!(said.contains("damage"), "{said}");
    let restored = fs::read(&y).expect("what could be read");
    let missing = restored.chunks(4096).filter(|block| block.iter().all(|byte| *byte == 0)).count();
    let whole = restored.chunks(4096).filter(|block| block.iter().all(|byte| *byte == 0x5a)).count();
    assert_eq!((missing, whole), (1, 1023));
}

#[test]
fn a_truncated_segment_is_reported_and_the_rest_still_works() {
    let world = World::new();
    let image = world.path("i.raw");
    fs::write(&image, vec![0x5a; 4 << 20]).expect("written");
    world.ok(&["target", "add", "a", "--disk", &format!("import:{}", image.display())]);
    world.ok(&["point", "a", "--label", "x"]);
    let segment = largest_segment(&world, "a");
    let file = fs::OpenOptions::new().write(true).open(&segment).expect("a segment");
    let len = file.metadata().expect("length").len();
    file.set_len(len / 2).expect("cut");
    let done = world.run(&["--json", "verify"]);
    assert_eq!(done.status.code(), Some(3), "{}", String::from_utf8_lossy(&done.stderr));
    world.ok(&["status"]);
}

#[test]
fn a_segment_removed_under_a_running_manager_is_named_now_and_after_restarts() {
    let mut world = World::new();
    let image = world.path("i.raw");
    fs::write(&image, vec![0x5a; 4 << 20]).expect("written");
    world.ok(&["target", "add", "a", "--disk", &format!("import:{}", image.display())]);
    world.serve();
    let segment = largest_segment(&world, "a");
    world.ok(&["point", "a", "--label", "before"]);
    // The active segment: nothing is lost when its name is removed.
    let folder = segment.parent().expect("a folder");
    let entries = fs::read_dir(folder).expect("a log").map(|entry| entry.expect("an entry").path());
    let open = entries.filter(|path| path.extension().is_some_and(|e| e == "seg")).max().expect("a segment");
    assert_ne!(open, segment);
    fs::remove_file(&open).expect("removed");
    world.ok(&["point", "a", "--label", "into-no-file"]);
    until("the open segment to have a name again", || open.exists().then_some(()));
    world.ok(&["point", "a", "--label", "after"]);
    // A sealed segment.
    fs::remove_file(&segment).expect("removed");
    let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
    // Reports name the segment, whoever made its file.
    let name = name.split('-').next().expect("a number").to_owned();
    until("status to name it", || world.json(&["status"]).to_string().contains(&name).then_some(()));
    for _ in 0..2 {
        world.kill_and_restart();
        // Before the target is open, status says just that.
        until("status to name it again", || {
            world.json(&["status"]).to_string().contains(&name).then_some(())
        });
        let done = world.run(&["--json", "verify"]);
        assert_eq!(done.status.code(), Some(3), "{}", String::from_utf8_lossy(&done.stderr));
        assert!(String::from_utf8_lossy(&done.stdout).contains(&name));
        let points = world.ok(&["points", "a"]);
        for label in ["before", "into-no-file", "after"] {
            assert!(points.contains(label), "{label} is not in {points}");
        }
    }
}

#[test]
fn a_read_only_disk_is_refused() {
    let world = World::new();
    let disk = world.path("d.raw");
    make_disk(&disk, 1 << 20);
    if !rustix::process::geteuid().is_root() {
        fs::set_permissions(&disk, fs::Permissions::from_mode(0o444)).expect("restricted");
        let said = refused(&world, &add(&world, "a", &disk.display().to_string()));
        assert!(said.contains("Permission denied"), "{said}");
        return;
    }
    // Permissions do not stop root; a device that cannot be written to does.
    let made = std::process::Command::new("losetup").args(["-r", "-f", "--show"]).arg(&disk).output();
    let made = made.expect("losetup");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let device = String::from_utf8_lossy(&made.stdout).trim().to_owned();
    let args = add(&world, "a", &device);
    let done = world.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    let _ = std::process::Command::new("losetup").args(["-d", &device]).status();
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("mounted read-only") && world.json_lines(&["target", "list"]).is_empty(), "{said}");
}

/// Half an imported disk looks like a complete one.
#[test]
fn an_import_that_was_killed_leaves_no_target() {
    let world = World::new();
    let image = world.path("i.raw");
    fs::write(&image, vec![0x5a; 512 << 20]).expect("written");
    let import = format!("vda=import:{}", image.display());
    let add = ["target", "add", "m", "--disk", &import];
    let mut adding = world.command(&add).spawn().expect("started");
    // It has another name until it is complete.
    let log = world.store().join("targets/.adding-m/log");
    until("some of it is imported", || {
        assert!(adding.try_wait().expect("a state").is_none(), "it was through before it was killed");
        fs::read_dir(&log).ok()?.nth(3)?.ok()
    });
    adding.kill().expect("killed");
    adding.wait().expect("ended");
    assert!(log.exists(), "it was through before it was killed");
    assert!(world.json_lines(&["target", "list"]).is_empty());
    world.ok(&add);
    world.restore("m", "now", &world.path("back.raw"));
    assert!(fs::read(world.path("back.raw")).expect("read") == fs::read(&image).expect("read"));
}

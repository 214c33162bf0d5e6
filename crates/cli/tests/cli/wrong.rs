//! Wrong inputs of every command, as a person makes them. The snapshots are what people read: each says what is wrong
//! in plain words and ends in a next step.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStringExt as _,
    process::Stdio,
    time::{Duration, Instant},
};

use insta::assert_snapshot;

use crate::world::World;

/// `web` has one disk, two points and the branches `main` and `restored-1`; `db` has two disks.
fn world() -> World {
    let world = World::new();
    world.done(&["target", "add", "web", "--disk", "store:64M"]);
    world.done(&["target", "add", "db", "--disk", "root=store:8M", "--disk", "data=store:8M"]);
    world.done(&["point", "web", "--label", "good"]);
    world.done(&["point", "web", "--label", "later"]);
    world.done(&["restore", "web", "--at", "point:good", "--in-place"]);
    fs::create_dir(world.path("folder")).unwrap();
    fs::write(world.path("folder/file"), "x").unwrap();
    fs::write(world.path("notes.txt"), "not a disk").unwrap();
    fs::write(world.path("odd.img"), [0; 700]).unwrap();
    world
}

/// What a person sees of each of these, and the checks that hold for all of them.
fn refusals<const N: usize>(world: &World, commands: [&str; N]) -> String {
    let words = commands.map(|command| words(command).into_iter().map(OsString::from).collect());
    refusals_of(world, &words)
}

/// Words apart at spaces, with `'…'` around those that have some.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (i, part) in command.split('\'').enumerate() {
        if i % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

fn refusals_of(world: &World, commands: &[Vec<OsString>]) -> String {
    let state = || {
        let files = fs::read_dir(world.dir.path()).unwrap().count();
        (world.lines(&["target", "list"]).len(), world.lines(&["branch", "list", "web"]), files)
    };
    let has_targets = world.run(&["target", "show", "web"]).status.success();
    let before = has_targets.then(state);
    let mut all = String::new();
    for command in commands {
        let output = world.run(command);
        let said = String::from_utf8(output.stderr).unwrap();
        let code = output.status.code().unwrap();
        let shown: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
        let shown = shown.join(" ");
        assert!(code == 1 || code == 2, "{shown}: {code}: {said}");
        assert!(output.stdout.is_empty(), "{shown}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(said.starts_with("error: "), "{shown}: {said}");
        assert!(said.contains("\nhint: "), "{shown}: {said}");
        assert!(!said.contains("os error") && !said.contains("--help'"), "{shown}: {said}");

        let in_json = world.run(&[command.as_slice(), &["--json".into()]].concat());
        let json: serde_json::Value = serde_json::from_slice(&in_json.stdout).unwrap();
        assert_eq!(json["error"]["exit"], code, "{shown}");
        let machine = json["error"]["code"].as_str().unwrap();
        assert!(machine.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{machine}");
        all.push_str(&format!("$ bygone {shown}\n{code} {machine}\n{}\n", plain(world, &said)));
    }
    if let Some(before) = before {
        assert_eq!(state(), before, "what is refused has changed nothing");
    }
    all.replace(world.dir.path().to_str().unwrap(), "DIR")
}

/// Without what differs from run to run: the folder, and the times of candidates.
fn plain(world: &World, said: &str) -> String {
    let said = said.replace(world.dir.path().to_str().unwrap(), "DIR");
    let line = |line: &str| match line.strip_prefix("  ").map(|rest| rest.split(", ").collect::<Vec<_>>()) {
        Some(parts) if parts.len() > 2 && parts[2].contains("as of") => {
            format!("  {}, TIME, {} TIME, {}\n", parts[0], &parts[2][..parts[2].len() - 20], parts[3])
        }
        Some(parts) if parts.len() > 2 && parts[0].contains("seq:") => {
            format!("  {}, TIME, {}\n", parts[0], parts[2..].join(", "))
        }
        _ => format!("{line}\n"),
    };
    said.lines().map(line).collect()
}

#[test]
fn wrong_command_lines() {
    assert_snapshot!(refusals(
        &world(),
        [
            "statsu",
            "--frobnicate status",
            "status extra",
            "status -q -v",
            "target ad web",
            "target add",
            "target add web",
            "target add x --disk store:1M --cpus 0",
            "target add x --disk store:1M --cpus many",
            "target add x --disk store:1M --memory 0",
            "target add x --disk store:1M --memory lots",
            "target add x --disk store:1M --initrd initrd.img",
            "target add x --disk store:1M --net usr",
            "target add x --disk store:1M --firmware efi",
            "target add x --disk store:1M --block-size 1000",
            "target set web memory",
            "point web",
            "point web --label x --hold soon",
            "timeline web --kind boots",
            "restore web --at now",
            "restore web --at now --in-place --to out.raw",
            "restore web --at now --to out.raw --discard-later",
            "export web",
            "export web --nbd 127.0.0.1 --file f",
            "export web --nbd localhost",
            "export web --nbd 127.0.0.1:99999",
            "run web --display sdl",
            "stop web --force --deadline 3",
            "stop web --deadline soon",
            "verify --all --for 10m",
            "verify --for soon",
            "serve --listen 10809",
            "completions tcsh",
        ]
    ));
}

#[test]
fn wrong_stores() {
    let world = World::empty();
    fs::write(world.path("file"), "x").unwrap();
    fs::create_dir(world.path("full")).unwrap();
    fs::write(world.path("full/x"), "x").unwrap();
    fs::create_dir(world.path("damaged")).unwrap();
    fs::write(world.path("damaged/bygone.json"), "{").unwrap();
    fs::create_dir(world.path("newer")).unwrap();
    fs::write(world.path("newer/bygone.json"), r#"{"format": 99, "made_by": "bygone 9.0"}"#).unwrap();
    fs::create_dir(world.path("older")).unwrap();
    fs::write(world.path("older/bygone.json"), r#"{"format": 1, "made_by": "bygone 0.1.0"}"#).unwrap();
    assert_snapshot!(refusals(
        &world,
        [
            "status",
            "target list",
            "serve",
            "run web",
            "point web --label x",
            "init --store full",
            "init --store file",
            "init --store damaged",
            "init --store /proc/store",
            "status --store file",
            "status --store damaged",
            "status --store newer",
            "status --store older",
        ]
    ));
    world.done(&["init"]);
    assert_snapshot!("wrong_stores_made_twice", refusals(&world, ["init"]));
}

#[test]
fn wrong_targets_and_disks() {
    assert_snapshot!(refusals(
        &world(),
        [
            "target add web --disk store:1M",
            "target add 'a b' --disk store:1M",
            "target add ../x --disk store:1M",
            "target add x --disk ''",
            "target add x --disk store:0",
            "target add x --disk store:1000",
            "target add x --disk store:20XB",
            "target add x --disk store:9999999P",
            "target add x --disk store:2P",
            "target add x --disk missing.img",
            "target add x --disk folder",
            "target add x --disk odd.img",
            "target add x --disk import:missing.qcow2",
            "target add x --disk import:folder",
            "target add x --disk a=store:1M --disk a=store:1M",
            "target add x --disk @=store:1M",
            "target add x --disk store:1M --kernel missing",
            "target show nope",
            "target set nope memory=1G",
            "target set web colour=blue",
            "target set web memory=lots",
            "target set web cpus=0",
            "target set web autostart=maybe",
            "target set web firmware=efi",
            "target remove nope",
            "target remove web --delete-history",
            "target restore nope",
            "target restore nope --as web",
            "target repair nope",
            "target repair web",
        ]
    ));
}

#[test]
fn disks_that_are_another_targets_or_not_as_they_were() {
    let world = world();
    let disk = |name: &str| {
        let path = world.path(name);
        fs::write(&path, vec![1; 1 << 20]).unwrap();
        world.done(&["target", "add", name, "--disk", path.to_str().unwrap()]);
        path
    };
    let (grown, cut, away) = (disk("grown"), disk("cut"), disk("away"));
    for (path, bytes) in [(grown, 2 << 20), (cut, 1 << 19)] {
        fs::File::options().write(true).open(path).unwrap().set_len(bytes).unwrap();
    }
    fs::remove_file(&away).unwrap();
    assert_snapshot!(refusals(
        &world,
        [
            "target add x --disk grown",
            "restore web --at now --to grown",
            "export grown --nbd unix:sock",
            "export cut --nbd unix:sock",
            "export away --nbd unix:sock",
        ]
    ));
    let said = plain(&world, &world.done(&["status"]));
    let said: Vec<&str> =
        said.lines().filter(|line| line.contains("hint") || line.starts_with('!')).collect();
    let text = said.join("\n");
    for part in ["! grown/vda", "! cut/vda", "! away/vda", "truncate -s 1048576", "--to DIR/away"] {
        assert!(text.replace(world.dir.path().to_str().unwrap(), "DIR").contains(part), "{part}: {text}");
    }
    // What the hint says of a disk that is lost is so.
    let to = away.to_str().unwrap();
    world.done(&["restore", "away", "--at", "now", "--disk", "vda", "--to", to]);
    assert_eq!(fs::read(&away).unwrap(), vec![1; 1 << 20]);
    // It is another file now, so what it holds is looked at when it is used next.
    let said = plain(&world, &world.done(&["status"]));
    assert!(said.contains("! away/vda: the disk outside the store may hold changes"), "{said}");
    assert!(!said.contains("away: No such file"), "{said}");
}

#[test]
fn what_is_wrong_with_a_target_is_told_once_and_not_logged_before() {
    let world = world();
    let folder = |name: &str| world.store().join("targets").join(name);
    fs::rename(folder("db").join("log"), folder("db").join("away")).unwrap();
    // In the label of a point, with records after it that say that it was durable.
    for entry in fs::read_dir(folder("web").join("log")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(6).position(|part| part == b"\"good\"") {
            bytes[at + 2] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
    assert_snapshot!(refusals_of(
        &world,
        &["timeline db", "point db --label x", "restore web --at point:none --in-place"]
            .map(|command| words(command).into_iter().map(OsString::from).collect())
    ));
    let status = world.run(&["status"]);
    let said = String::from_utf8(status.stdout).unwrap();
    assert!(said.contains("! db: cannot be used: ") && said.contains("! web: damage in log/"), "{said}");
    assert!(status.stderr.is_empty(), "{}", String::from_utf8_lossy(&status.stderr));
}

#[test]
fn wrong_moments() {
    assert_snapshot!(refusals(
        &world(),
        [
            "timeline nope",
            "timeline web --since 'quarter past'",
            "timeline web --since 25:99",
            "timeline web --until '3 days'",
            "points nope",
            "point web --label ''",
            "point web --label later",
            "point web --label new --at 'last shutdown'",
            "point nope --label new",
            "restore web --at '' --to out.raw",
            "restore web --at seq:999999 --to out.raw",
            "restore web --at '1999-01-01 00:00 UTC' --to out.raw",
            "restore web --at '2999-01-01 00:00 UTC' --to out.raw",
            "restore web --at point:gut --to out.raw",
            "restore web --at branch:nope --to out.raw",
            "restore web --at 'last shutdown' --to out.raw",
            "restore web --at 'before install nginx' --to out.raw",
            "restore web --at today --to out.raw",
        ]
    ));
}

#[test]
fn wrong_branches_restores_and_exports() {
    let world = world();
    let long = format!("export web@now --nbd unix:{}", "x".repeat(120));
    assert_snapshot!(refusals(
        &world,
        [
            "branch list nope",
            "branch promote web nope",
            "branch promote db",
            "branch drop web",
            "branch drop web nope --yes",
            "branch drop web main",
            "branch drop web restored-1 --yes",
            "undo db",
            "restore nope --at now --in-place",
            "restore web --at now --in-place --disk vda",
            "restore web --at now --in-place --discard-later",
            "restore db --at now --disk nope --to out.raw",
            "restore db --at now --to notes.txt",
            "restore db --at now --to new.img",
            "restore web --at now --to notes.txt",
            "restore web --at restored-1@point:later --to out.raw",
            "restore web --at now --to missing/out.raw",
            "export '' --file f",
            "export /vda@now --file f",
            "export nope@now --file f",
            "export db@now --file f",
            "export web/vdz@now --file f",
            "export web@point:nope --file f",
            "export 'web/vda#nope' --file f",
            "export web@now --file notes.txt",
            "export web@now --file folder",
            "export web@now --file missing/f",
            "export web@now --nbd unix:notes.txt",
            "export web@now --nbd unix:missing/sock",
            &long,
        ]
    ));
}

#[test]
fn wrong_machines_and_checks() {
    assert_snapshot!(refusals(
        &world(),
        ["stop nope", "stop web", "console nope", "console web", "verify nope", "man --dir notes.txt",]
    ));
}

#[test]
fn texts_that_are_not_utf_8() {
    let world = world();
    let odd = |prefix: &str| OsString::from_vec([prefix.as_bytes(), b"\xff.img"].concat());
    fs::write(world.dir.path().join(odd("")), [0; 1 << 20]).unwrap();
    let command = |words: &[&str], last: OsString| -> Vec<OsString> {
        words.iter().map(|word| OsStr::new(word).to_owned()).chain([last]).collect()
    };
    assert_snapshot!(refusals_of(
        &world,
        &[
            command(&["target", "add", "x", "--disk"], odd("")),
            command(&["target", "show"], odd("")),
            command(&["target", "add", "x", "--disk", "store:1M", "--kernel"], odd("")),
            command(&["restore", "web", "--at", "now", "--to"], odd("")),
            command(&["export", "web@now", "--file"], odd("new")),
            command(&["point", "web", "--label"], odd("new")),
        ]
    ));
}

#[test]
fn who_finds_the_store_kept_by_an_export_is_told_at_once_and_how_both_would_go() {
    let world = World::new();
    world.done(&["target", "add", "web", "--disk", "store:1M"]);
    let socket = world.path("export.sock");
    let mut exporting = world
        .command()
        .args(["export", "web@now", "--nbd", &format!("unix:{}", socket.display())])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(Instant::now() < end, "nothing was exported");
        std::thread::sleep(Duration::from_millis(20));
    }
    let begun = Instant::now();
    let refused = world.run(&["status"]);
    let waited = begun.elapsed();
    exporting.kill().unwrap();
    exporting.wait().unwrap();
    let said = plain(&world, &String::from_utf8_lossy(&refused.stderr));
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("which exports from it") && said.contains("`bygone serve`"), "{said}");
    // Others are waited for, for a minute.
    assert!(waited < Duration::from_secs(30), "{waited:?}");
    world.done(&["status"]);
}

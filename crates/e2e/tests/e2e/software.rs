//! What is installed in a machine is noticed from its disk, and the moment before it can be had back.

use std::{fs, io::Write, os::unix::net::UnixStream, path::Path, process::Command, time::Duration};

use serde_json::Value;

use crate::world::{World, guest, until};

/// Builds a package in the guest, with a script that runs when it is configured.
fn package(name: &str, version: &str, script: &str) -> String {
    let (control, postinst) =
        (format!("/root/{name}/DEBIAN/control"), format!("/root/{name}/DEBIAN/postinst"));
    format!(
        "mkdir -p /root/{name}/DEBIAN /root/{name}/usr/share/{name}\n\
        echo {version} > /root/{name}/usr/share/{name}/version\n\
        printf 'Package: {name}\\nVersion: {version}\\nArchitecture: all\\nMaintainer: x <x@x>\\nDescription: x\\n' > {control}\n\
        printf '#!/bin/sh\\n{script}\\n' > {postinst}\n\
        chmod 755 {postinst}\n\
        dpkg-deb --build /root/{name} /root/{name}.deb\n\
        sync\n"
    )
}

fn events(world: &World, name: &str) -> Vec<Value> {
    let timeline = world.json_lines(&["timeline", name]);
    timeline.into_iter().filter(|moment| moment["kind"] == "package").collect()
}

/// Waits for the n-th package event.
fn event(world: &World, name: &str, n: usize) -> Value {
    until(&format!("package event {n}"), || events(world, name).get(n).cloned())
}

/// What a restored image has in its database and its files.
fn has(image: &Path, package: &str) -> (bool, bool) {
    let debugfs = |request: String| {
        let done = Command::new("debugfs").args(["-R", &request]).arg(image).output().expect("debugfs");
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    // The journal, as a boot would do it.
    let repaired = Command::new("e2fsck").args(["-fy"]).arg(image).output().expect("e2fsck");
    assert!(
        repaired.status.code().is_some_and(|code| code <= 1),
        "{}",
        String::from_utf8_lossy(&repaired.stdout)
    );
    let status = debugfs("cat /var/lib/dpkg/status".to_owned());
    assert!(status.contains("Package: dpkg\n"), "no database of dpkg");
    let file = debugfs(format!("cat /usr/share/{package}/version"));
    (status.contains(&format!("Package: {package}\n")), !file.is_empty())
}

/// A person at a guest's console.
struct Console(UnixStream);

impl Console {
    fn open(world: &World, name: &str) -> Console {
        let console = UnixStream::connect(world.store().join("run").join(name).join("console.sock"));
        let console = console.expect("the console");
        // What nobody reads would hold the guest up.
        let mut reader = console.try_clone().expect("cloned");
        std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        let mut console = Console(console);
        // A shell that has just begun throws away what was typed before.
        until("an answer of the shell", || {
            console.types("\n");
            std::thread::sleep(Duration::from_millis(500));
            (world.console(name).matches("bygone-guest:~#").count() > 2).then_some(())
        });
        console
    }

    fn types(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).expect("typed");
    }
}

#[test]
fn installs_in_a_debian_are_noticed_from_its_disk_and_each_has_the_moment_before_it() {
    let world = World::new();
    let files = guest("debian");
    let text = |name: &str| files.join(name).display().to_string();
    let append = fs::read_to_string(files.join("append")).expect("append");
    let (kernel, initrd, disk) =
        (text("vmlinuz"), text("initrd"), format!("vda=import:{}", text("disk.raw")));
    world.ok(&[
        "target",
        "add",
        "deb",
        "--memory",
        "512M",
        "--cpus",
        "1",
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--append",
        append.trim(),
        "--disk",
        &disk,
    ]);
    world.ok(&["run", "deb"]);
    world.wait_console("deb", "bygone-guest:~#");
    let mut console = Console::open(&world, "deb");
    let mut does = |script: &str, done: &str| {
        // The word is in two pieces where it is typed.
        console.types(&format!("{script}\necho {}'-'{}\n", &done[..4], &done[5..]));
        world.wait_console("deb", done);
    };

    does(&format!("{}dpkg -i /root/alpha.deb", package("alpha", "1.0", "sleep 5")), "both-installed");
    let installed = event(&world, "deb", 0);
    assert_eq!(installed["label"], "install alpha 1.0", "{installed}");
    assert_eq!((&installed["truth"], &installed["details"]["complete"]), (&"observed".into(), &true.into()));

    does(&format!("{}dpkg -i /root/alpha.deb", package("alpha", "1.10", "exit 0")), "once-upgraded");
    let upgraded = event(&world, "deb", 1);
    assert_eq!(upgraded["label"], "upgrade alpha 1.0 to 1.10", "{upgraded}");

    // dpkg is killed while it configures the package.
    does(
        &format!("{}dpkg -i /root/beta.deb", package("beta", "2", "kill -9 $PPID; sleep 1")),
        "half-installed",
    );
    let stop = world.json(&["stop", "deb"]);
    assert_eq!(stop["grade"], "stopped", "{stop}");
    let killed = event(&world, "deb", 2);
    assert_eq!(killed["label"], "install beta 2 (not completed)", "{killed}");
    assert_eq!(events(&world, "deb").len(), 3);

    let image = world.path("then.raw");
    for (event, name, expected) in [
        (&installed, "alpha", (false, false)),
        (&upgraded, "alpha", (true, true)),
        (&killed, "alpha", (true, true)),
        (&killed, "beta", (false, false)),
    ] {
        world.restore("deb", event["when"].as_str().expect("a moment"), &image);
        assert_eq!(has(&image, name), expected, "{name} before {event}");
        fs::remove_file(&image).expect("removed");
    }
    // The last of them by its kind.
    world.restore("deb", "last package", &image);
    assert_eq!((has(&image, "alpha"), has(&image, "beta")), ((true, true), (false, false)));
}

//! What the databases of real package managers say, compared with what those say themselves: in order, and cut off in
//! the middle.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bygone_files::{
    Action, Blocks, Cached, Database, Glance, PackageManager, PackageState, ReadError, changes, databases,
    open,
};

use crate::image::{Image, blank, run, scratch, text};

/// An ext4 image with the content of a folder.
fn image_of(folder: &Path, name: &str) -> PathBuf {
    let image = blank(folder.parent().unwrap(), name, 64);
    run("mkfs.ext4", &["-q", "-F", "-d", text(folder), text(&image)]);
    image
}

/// The only database on an image of a folder, and what is there at a glance.
fn database(folder: &Path, name: &str) -> (Database, Glance) {
    let image = Image::open(&image_of(folder, name));
    let tree = open(Cached::new(image, 4 << 20)).unwrap();
    let mut found = databases(&*tree);
    assert_eq!(found.len(), 1, "{name}");
    (found.remove(0).1.unwrap(), Glance::of(&*tree).unwrap())
}

fn output(command: &mut Command) -> String {
    let done = command.stdin(Stdio::null()).output().unwrap();
    String::from_utf8(done.stdout).unwrap()
}

/// Each package as the package manager's own tool lists it: name, architecture and version.
fn lines(database: &Database) -> Vec<String> {
    let there = database.packages.iter().filter(|package| package.state == PackageState::Installed);
    let mut lines: Vec<_> = there.map(|p| format!("{} {} {}", p.name, p.arch, p.version)).collect();
    lines.sort();
    lines
}

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// An image of which one byte is another one.
struct Damaged {
    image: Image,
    at: u64,
    mask: u8,
}

impl Blocks for Damaged {
    fn size_bytes(&self) -> u64 {
        self.image.size_bytes()
    }

    fn sector_bytes(&self) -> u32 {
        self.image.sector_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        self.image.read_at(offset, buf)?;
        let place = self.at.checked_sub(offset).and_then(|at| buf.get_mut(at as usize));
        if let Some(byte) = place {
            *byte ^= self.mask;
        }
        Ok(())
    }
}

/// Damages files of an image, byte by byte, and reads the database again and again. Returns how often it was refused.
fn damage(image: &Path, files: &[&str], times: u64) -> u64 {
    let whole = open(Cached::new(Image::open(image), 4 << 20)).unwrap();
    let mut places = Vec::new();
    for file in files {
        let inode = whole.find(file.as_bytes()).unwrap();
        let each = &mut |extent: bygone_files::FileExtent| {
            places.push((extent.place, extent.len_bytes));
            true
        };
        whole.extents(inode, each).unwrap();
    }
    let bytes: u64 = places.iter().map(|(_, len)| len).sum();
    let mut refused = 0;
    for round in 0..times {
        let mut at = round * 0x9e37_79b9 % bytes;
        let mut place = 0;
        for (start, len) in &places {
            if at < *len {
                place = start + at;
                break;
            }
            at -= len;
        }
        let damaged = Damaged { image: Image::open(image), at: place, mask: 1 << (round % 8) };
        let tree = open(Cached::new(damaged, 4 << 20)).unwrap();
        refused += u64::from(databases(&*tree).iter().any(|(_, found)| found.is_err()));
    }
    refused
}

/// Waits until a file is there, and then kills a process without a warning.
fn kill_when(mut process: Child, is_reached: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !is_reached() {
        assert!(Instant::now() < until && process.try_wait().unwrap().is_none(), "it was not reached");
        std::thread::sleep(Duration::from_millis(20));
    }
    process.kill().unwrap();
    process.wait().unwrap();
}

fn states(database: &Database) -> Vec<(&str, &str, PackageState)> {
    database.packages.iter().map(|p| (p.name.as_str(), p.version.as_str(), p.state)).collect()
}

/// A package of dpkg with a script that runs when it is configured.
fn deb(folder: &Path, name: &str, version: &str, script: &str) -> PathBuf {
    let root = folder.join(format!("{name}-{version}"));
    fs::create_dir_all(root.join("DEBIAN")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join(format!("etc/{name}.conf")), version).unwrap();
    fs::write(root.join("DEBIAN/conffiles"), format!("/etc/{name}.conf\n")).unwrap();
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
    );
    fs::write(root.join("DEBIAN/control"), control).unwrap();
    if !script.is_empty() {
        let path = root.join("DEBIAN/postinst");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        run("chmod", &["755", text(&path)]);
    }
    let package = folder.join(format!("{name}-{version}.deb"));
    run("dpkg-deb", &["--root-owner-group", "--build", text(&root), text(&package)]);
    package
}

#[test]
fn dpkg_has_what_dpkg_says_and_an_install_that_was_killed_is_half_done() {
    let scratch = scratch();
    let root = scratch.path().join("root");
    fs::create_dir_all(root.join("var/lib/dpkg/info")).unwrap();
    fs::create_dir_all(root.join("var/lib/dpkg/updates")).unwrap();
    fs::write(root.join("var/lib/dpkg/status"), "").unwrap();
    // Scripts run as they are, and not in a root of their own, in which there is no shell.
    let dpkg = |args: &[&str]| {
        let mut command = Command::new("dpkg");
        command.args(["--root", text(&root), "--force-not-root", "--force-script-chrootless"]).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let does = |args: &[&str]| assert!(dpkg(args).status().unwrap().success(), "dpkg {args:?}");
    let (old, new) = (deb(scratch.path(), "alpha", "1.0", ""), deb(scratch.path(), "alpha", "1.10", ""));
    let (empty, at_empty) = database(&root, "empty");
    assert_eq!(empty, Database { manager: PackageManager::Dpkg, packages: Vec::new() });
    does(&["-i", text(&old)]);
    let (installed, at_installed) = database(&root, "installed");
    assert_ne!(at_empty, at_installed, "an installation shows at a glance");
    does(&["-i", text(&deb(scratch.path(), "beta", "2:1-1", "")), text(&new)]);
    let (upgraded, _) = database(&root, "upgraded");
    let listed = output(Command::new("dpkg-query").args([
        "--root",
        text(&root),
        "-Wf",
        "${Package} ${Architecture} ${Version}\n",
    ]));
    assert_eq!(lines(&upgraded), sorted(&listed));
    assert_eq!(lines(&upgraded).len(), 2);
    let said: Vec<_> = changes(&installed, &upgraded).into_iter().map(|c| (c.action, c.name)).collect();
    assert_eq!(said, [(Action::Upgraded, "alpha".to_owned()), (Action::Installed, "beta".to_owned())]);

    does(&["-r", "alpha"]);
    does(&["-P", "beta"]);
    let (removed, _) = database(&root, "removed");
    assert_eq!(states(&removed), [("alpha", "1.10", PackageState::Removed)]);

    // While a package is configured, what happened to it is in the journal only.
    let reached = scratch.path().join("reached");
    let script = format!("touch {}; exec sleep 60", text(&reached));
    let process = dpkg(&["-i", text(&deb(scratch.path(), "torn", "1", &script))]).spawn().unwrap();
    kill_when(process, || reached.exists());
    let journal = fs::read_dir(root.join("var/lib/dpkg/updates")).unwrap().count();
    assert!(journal > 0, "dpkg left no journal");
    let (torn, _) = database(&root, "torn");
    let expected = [("alpha", "1.10", PackageState::Removed), ("torn", "1", PackageState::Incomplete)];
    assert_eq!(states(&torn), expected);
    let change = changes(&removed, &torn).remove(0);
    assert_eq!((change.action, change.state), (Action::Installed, PackageState::Incomplete));
}

/// A package of rpm with a script in its own language, so that no shell is needed where it is installed.
fn rpm_package(folder: &Path, name: &str, version: &str, script: &str) -> PathBuf {
    let spec = folder.join(format!("{name}-{version}.spec"));
    let script = if script.is_empty() { String::new() } else { format!("%post -p <lua>\n{script}\n") };
    let says = format!(
        "Name: {name}\nVersion: {version}\nRelease: 1\nEpoch: 2\nSummary: x\nLicense: MIT\nBuildArch: noarch\n\
        %description\nx\n{script}%files\n"
    );
    fs::write(&spec, says).unwrap();
    run("rpmbuild", &["--quiet", "-bb", "--define", &format!("_topdir {}", text(folder)), text(&spec)]);
    folder.join(format!("RPMS/noarch/{name}-{version}-1.noarch.rpm"))
}

#[test]
fn rpm_has_what_rpm_says_in_the_middle_of_a_transaction_too() {
    let scratch = scratch();
    let root = scratch.path().join("root");
    fs::create_dir_all(root.join("var/lib/rpm")).unwrap();
    let rpm = |args: &[&str]| {
        let mut command = Command::new("rpm");
        command.args(["--root", text(&root), "--dbpath", "/var/lib/rpm"]).args(args);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    };
    let does = |args: &[&str]| assert!(rpm(args).status().unwrap().success(), "rpm {args:?}");
    let package = |name: &str, version: &str| rpm_package(scratch.path(), name, version, "");
    // More than a page of the table holds, so that it has pages that lead to others.
    let many: Vec<_> = (0..40).map(|at| package(&format!("many{at}"), "1")).collect();
    does(&[&["--nodeps", "-i"], &many.iter().map(|path| text(path)).collect::<Vec<_>>()[..]].concat());
    does(&["--nodeps", "-i", text(&package("alpha", "1.0"))]);
    let (before, at_before) = database(&root, "before");
    // The tool that makes the image keeps whole seconds only.
    std::thread::sleep(Duration::from_millis(1100));
    does(&["--nodeps", "-U", text(&package("alpha", "1.10"))]);
    does(&["-e", "many7"]);
    let listed =
        || sorted(&output(&mut rpm(&["-qa", "--qf", "%{NAME} %{ARCH} %{EPOCH}:%{VERSION}-%{RELEASE}\\n"])));
    let (after, at_after) = database(&root, "after");
    assert_eq!(lines(&after), listed());
    assert_eq!(after.packages.len(), 40);
    assert_ne!(at_before, at_after, "a transaction shows at a glance");
    let said: Vec<_> = changes(&before, &after).into_iter().map(|c| (c.action, c.name)).collect();
    assert_eq!(said, [(Action::Upgraded, "alpha".to_owned()), (Action::Removed, "many7".to_owned())]);

    // Killed while a script runs: what was written since is in the write-ahead log only.
    let log = root.join("var/lib/rpm/rpmdb.sqlite-wal");
    let endless = rpm_package(scratch.path(), "torn", "3", "for i = 1, 1e12 do end");
    let process = rpm(&["--nodeps", "-i", text(&endless)]).stdout(Stdio::null()).spawn().unwrap();
    kill_when(process, || {
        // The script runs once the header is in the log, and the log does not grow any more.
        let size = || fs::metadata(&log).map_or(0, |said| said.len());
        let first = size();
        std::thread::sleep(Duration::from_millis(500));
        first > 0 && first == size()
    });
    assert!(fs::metadata(&log).unwrap().len() > 0, "rpm left no log");
    let (torn, _) = database(&root, "torn");
    // rpm itself writes the log back when it looks, so it is asked last.
    assert_eq!(lines(&torn), listed());
    assert!(torn.packages.iter().any(|package| package.name == "torn"));

    let image = scratch.path().join("torn");
    let refused = damage(&image, &["var/lib/rpm/rpmdb.sqlite", "var/lib/rpm/rpmdb.sqlite-wal"], 2000);
    assert!(refused > 20, "{refused} of 2000");
}

#[test]
fn pacman_has_what_pacman_says() {
    let scratch = scratch();
    let root = scratch.path().join("root");
    fs::create_dir_all(root.join("var/lib/pacman")).unwrap();
    let pacman = |args: &[&str]| {
        let mut command = Command::new("pacman");
        let (root, base) = (text(&root), root.join("var/lib/pacman"));
        command
            .args(["--noconfirm", "--config", "/dev/null", "--root", root, "--dbpath", text(&base)])
            .args(args);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    };
    let package = |name: &str, version: &str| {
        let folder = scratch.path().join(format!("{name}-{version}"));
        fs::create_dir_all(folder.join("usr/share")).unwrap();
        fs::write(folder.join("usr/share").join(name), version).unwrap();
        let info = format!("pkgname = {name}\npkgver = {version}\narch = any\nsize = 1\n");
        fs::write(folder.join(".PKGINFO"), info).unwrap();
        let path = scratch.path().join(format!("{name}-{version}-any.pkg.tar.zst"));
        run("tar", &["--zstd", "-cf", text(&path), "-C", text(&folder), ".PKGINFO", "usr"]);
        path
    };
    let does =
        |args: &[&str]| assert!(pacman(args).stdout(Stdio::null()).status().unwrap().success(), "{args:?}");
    does(&["-U", text(&package("alpha", "1.9-1")), text(&package("beta-tools", "2:1.0-1"))]);
    let (before, _) = database(&root, "before");
    does(&["-U", text(&package("alpha", "1.10-1"))]);
    does(&["-R", "beta-tools"]);
    let (after, _) = database(&root, "after");
    let listed = |database: &Database| -> Vec<String> {
        let said = database.packages.iter().map(|p| format!("{} {}", p.name, p.version)).collect::<Vec<_>>();
        sorted(&said.join("\n"))
    };
    assert_eq!(listed(&after), sorted(&output(&mut pacman(&["-Q"]))));
    assert_eq!(listed(&before), ["alpha 1.9-1", "beta-tools 2:1.0-1"]);
    let said: Vec<_> = changes(&before, &after).into_iter().map(|c| (c.action, c.name)).collect();
    assert_eq!(said, [(Action::Upgraded, "alpha".to_owned()), (Action::Removed, "beta-tools".to_owned())]);
}

//! File systems as the drivers of another kernel show them: that of the guest `drivers`, which has those that this
//! machine's kernel may be built without.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    image::text,
    snapshot::{Shown, Snapshot, add_extent},
};

/// What the guest is to do with an image.
pub(crate) enum Task {
    /// Fill it.
    Fill,
    /// Fill it, change it under load, and take it away from its driver.
    Cut,
    /// Show what is in it.
    Show,
}

/// Whether there is what a guest needs. If not, the test says so.
pub(crate) fn can_boot(test: &str) -> bool {
    let there = Command::new("qemu-system-x86_64").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !there {
        eprintln!("{test}: there is no qemu-system-x86_64 (scripts/setup); nothing was compared");
    }
    there
}

/// Boots a guest with these images, each of which has a driver's name, and lets it do some tasks with them, by number.
/// Returns what was shown, one for each such task; nothing for one that the driver refuses.
pub(crate) fn run(
    folder: &Path,
    images: &[(PathBuf, &str)],
    tasks: &[(Task, usize)],
) -> Vec<Option<Snapshot>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/guest");
    let built = Command::new(script).arg("drivers").stderr(Stdio::inherit()).output().unwrap();
    assert!(built.status.success(), "the guest cannot be built");
    let guest = PathBuf::from(String::from_utf8(built.stdout).unwrap().trim());
    let shown = folder.join("shown");
    File::create(&shown).unwrap().set_len(256 << 20).unwrap();
    let disk = |number: usize| char::from(b'b' + number as u8);
    let verb = |task: &Task| match task {
        Task::Fill => "fill",
        Task::Cut => "cut",
        Task::Show => "show",
    };
    let list: Vec<String> = tasks
        .iter()
        .map(|(task, image)| format!("{}:vd{}:{}", verb(task), disk(*image), images[*image].1))
        .collect();
    let append = fs::read_to_string(guest.join("append")).unwrap();
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", "1", "-m", "512", "-nodefaults"])
        .args(["-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", text(&guest.join("vmlinuz"))])
        .args(["-initrd", text(&guest.join("initrd"))])
        .args(["-append", &format!("{} bygone.do={}", append.trim(), list.join(","))]);
    for path in std::iter::once(&shown).chain(images.iter().map(|(path, _)| path)) {
        qemu.args(["-drive", &format!("file={},format=raw,if=virtio,cache=unsafe", text(path))]);
    }
    let done = qemu.stdin(Stdio::null()).output().unwrap();
    let console = String::from_utf8_lossy(&done.stdout);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && console.contains("bygone-guest: power off"), "{console}{said}");
    let failed = console.lines().find(|line| line.contains("failed fill") || line.contains("failed cut"));
    assert!(failed.is_none(), "{console}");
    let lines = fs::read_to_string(&shown).unwrap();
    let mut all = Vec::new();
    for line in lines.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["end"] => {
                let shows = tasks.iter().map(|(task, _)| matches!(task, Task::Show));
                return all
                    .into_iter()
                    .zip(shows)
                    .filter(|(_, shows)| *shows)
                    .map(|(shown, _)| shown)
                    .collect();
            }
            ["disk", _] => all.push(Some(Snapshot::new())),
            ["refused"] => *all.last_mut().unwrap() = None,
            ref fields => {
                let (path, shown) = parse(fields);
                let snapshot = all.last_mut().unwrap().as_mut().unwrap();
                assert!(snapshot.insert(path, shown).is_none(), "{line} twice");
            }
        }
    }
    panic!("the guest did not come to its end: {console}");
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.trim_start_matches('-').as_bytes();
    digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn list(joined: &str) -> impl Iterator<Item = &str> {
    joined.split(',').filter(|one| *one != "-")
}

/// A line of the guest's `tree show`, which says what its fields are.
fn parse(fields: &[&str]) -> (Vec<u8>, Shown) {
    let number = |i: usize| fields[i].parse::<u64>().unwrap();
    let time = |i: usize| -> (i64, i64) {
        let (seconds, nanos) = fields[i].split_once('.').unwrap();
        (seconds.parse().unwrap(), nanos.parse().unwrap())
    };
    let mode = number(2) as u32;
    let is_regular = mode & 0o170_000 == 0o100_000;
    let is_device = matches!(mode & 0o170_000, 0o020_000 | 0o060_000);
    let (major, minor) = fields[11].split_once(':').unwrap();
    let mut extents = Vec::new();
    for extent in list(fields[14]) {
        let parts: Vec<u64> = extent.split(':').map(|part| part.parse().unwrap()).collect();
        add_extent(&mut extents, (parts[0], parts[1], parts[2], parts[3] == 1));
    }
    let mut attributes: Vec<_> = list(fields[15])
        .map(|attribute| attribute.split_once(':').map(|(name, value)| (bytes(name), bytes(value))).unwrap())
        .collect();
    attributes.sort();
    let shown = Shown {
        inode: number(1),
        mode,
        owner: (number(3) as u32, number(4) as u32),
        links: number(5),
        size: number(6),
        times: [time(7), time(8), time(9)],
        created: (fields[10] != "-").then(|| time(10)),
        device: is_device.then(|| (major.parse().unwrap(), minor.parse().unwrap())),
        target: (mode & 0o170_000 == 0o120_000).then(|| bytes(fields[12])),
        content: is_regular.then(|| u64::from_str_radix(fields[13], 16).unwrap()),
        extents: is_regular.then_some(extents),
        attributes,
    };
    (bytes(fields[0]), shown)
}

//! Logical volumes as LVM's own tools make them. The kernel of this machine need not know them: LVM is told that there is
//! no device mapper, and says itself where they lie.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bygone_files::{Blocks, Cached, Kind, State, open, survey, volumes_with_blocks};

use crate::{
    image::{Image, blank, can_mount, run, scratch, text},
    snapshot::Random,
};

const MIB: u64 = 1 << 20;
/// Where the partitions of the disk begin and how long they are, in MiB.
const PARTS: [(u64, u64); 2] = [(1, 30), (31, 30)];

/// Two partitions of a disk as devices of their own, and nothing else that LVM could see.
struct Devices {
    loops: Vec<String>,
    config: String,
}

impl Devices {
    fn new(folder: &Path, disk: &Path) -> Devices {
        let attach = |(start, len): (u64, u64)| {
            let (offset, size) = (format!("{}", start * MIB), format!("{}", len * MIB));
            said("losetup", &["--find", "--show", "--offset", &offset, "--sizelimit", &size, text(disk)])
                .trim()
                .to_owned()
        };
        let loops: Vec<String> = PARTS.into_iter().map(attach).collect();
        let accepted: Vec<String> = loops.iter().map(|device| format!("\"a|^{device}$|\"")).collect();
        let folder = text(folder);
        let config = format!(
            "devices {{ use_devicesfile=0 scan_lvs=0 filter=[ {}, \"r|.*|\" ] }} \
             global {{ use_lvmpolld=0 locking_dir=\"{folder}/lock\" }} \
             activation {{ udev_sync=0 udev_rules=0 monitoring=0 }} \
             backup {{ backup=0 archive=0 backup_dir=\"{folder}/b\" archive_dir=\"{folder}/a\" }}",
            accepted.join(", ")
        );
        Devices { loops, config }
    }

    /// Runs a command of LVM and returns what it says.
    fn lvm(&self, command: &str, args: &[&str]) -> String {
        let args = [&[command, "--config", &self.config, "--driverloaded", "n", "-y"][..], args].concat();
        said("lvm", &args)
    }
}

impl Drop for Devices {
    fn drop(&mut self) {
        for device in &self.loops {
            let done = Command::new("losetup").args(["--detach", device]).status();
            assert!(done.is_ok() || std::thread::panicking());
        }
    }
}

fn said(program: &str, args: &[&str]) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.args(args).env("PATH", format!("{path}:/usr/sbin:/sbin")).stdin(Stdio::null());
    let done = command.output().unwrap_or_else(|e| panic!("{program} is needed (scripts/setup): {e}"));
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

fn disk(folder: &Path) -> PathBuf {
    let disk = blank(folder, "disk", 64);
    let script = folder.join("script");
    fs::write(&script, "label: gpt\nstart=1MiB, size=30MiB\nstart=31MiB, size=30MiB\n").unwrap();
    run("sh", &["-c", &format!("sfdisk -q {} < {}", text(&disk), text(&script))]);
    disk
}

/// Where the pieces of a logical volume lie on the disk, in the order of its content, by what LVM reports: places of
/// 64 KiB, the size of a stripe and a divisor of an extent.
fn places(devices: &Devices, name: &str) -> Vec<u64> {
    const PIECE: u64 = 64 << 10;
    let begins = devices.lvm("pvs", &["--noheadings", "--units", "b", "--nosuffix", "-o", "pe_start"]);
    let begin: u64 = begins.lines().next().unwrap().trim().parse().unwrap();
    let options = ["--noheadings", "--segments", "--sort", "seg_start", "-o", "seg_pe_ranges", name];
    let mut places = Vec::new();
    for line in devices.lvm("lvs", &options).lines() {
        let runs: Vec<Vec<u64>> = line
            .split_whitespace()
            .map(|run| {
                let (device, range) = run.split_once(':').unwrap();
                let (first, last) = range.split_once('-').unwrap();
                let part = devices.loops.iter().position(|one| one == device).unwrap();
                let byte = |extent: u64| PARTS[part].0 * MIB + begin + extent * MIB;
                let (first, last) = (byte(first.parse().unwrap()), byte(last.parse::<u64>().unwrap() + 1));
                (first..last).step_by(PIECE as usize).collect()
            })
            .collect();
        places
            .extend((0..runs[0].len()).flat_map(|i| runs.iter().map(move |run| run[i]).collect::<Vec<_>>()));
    }
    places
}

fn write(disk: &Path, places: &[u64], content: &[u8]) {
    let disk = File::options().write(true).open(disk).unwrap();
    for (place, part) in places.iter().zip(content.chunks(64 << 10)) {
        disk.write_all_at(part, *place).unwrap();
    }
}

/// What is there of a logical volume.
fn look(disk: &Path, name: &str) -> Option<(Kind, State)> {
    let found = survey(&Image::open(disk)).unwrap();
    found.volumes.iter().find(|v| v.logical.as_deref() == Some(name)).map(|v| (v.kind, v.state))
}

#[test]
fn logical_volumes_lie_where_lvm_says_and_their_file_systems_are_read() {
    if !can_mount("logical_volumes_lie_where_lvm_says_and_their_file_systems_are_read") {
        return;
    }
    let folder = scratch();
    let disk = disk(folder.path());
    let devices = Devices::new(folder.path(), &disk);
    let loops: Vec<&str> = devices.loops.iter().map(String::as_str).collect();
    // A small ring, which texts go round soon.
    devices.lvm("pvcreate", &[&["--metadatasize", "64k"][..], &loops].concat());
    let found = survey(&Image::open(&disk)).unwrap();
    assert!(found.volumes.iter().all(|v| (v.kind, v.state) == (Kind::LvmPv, State::Clean)), "{found:?}");
    devices.lvm("vgcreate", &[&["-s", "1M", "g"][..], &loops].concat());
    let create = |args: &[&str]| devices.lvm("lvcreate", &[&["-an", "-Zn", "-Wn"][..], args].concat());
    create(&["-l", "5", "-n", "linear", "g", loops[0]]);
    create(&["-l", "8", "-i", "2", "-I", "64", "-n", "striped", "g"]);
    devices.lvm("lvextend", &["-l", "+4", "g/linear", loops[1]]);
    devices.lvm("lvextend", &["-l", "+3", "g/linear", loops[0]]);
    for (name, mib) in [("linear", 12), ("striped", 8)] {
        let (image, name) = (blank(folder.path(), name, mib), format!("g/{name}"));
        let tree = folder.path().join("tree");
        fs::create_dir_all(&tree).unwrap();
        let mut content = vec![0; 3 << 20];
        let mut random = Random(mib);
        content.iter_mut().for_each(|byte| *byte = random.below(256) as u8);
        fs::write(tree.join("file"), &content).unwrap();
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", text(&tree), text(&image)]);
        let image = fs::read(image).unwrap();
        write(&disk, &places(&devices, &name), &image);
        assert_eq!(look(&disk, &name), Some((Kind::Ext4, State::Clean)));
        let shown = Image::open(&disk);
        let all = volumes_with_blocks(&shown).unwrap();
        let (_, blocks) = all.into_iter().find(|(v, _)| v.logical.as_deref() == Some(&name)).unwrap();
        let blocks = blocks.unwrap();
        let mut whole = vec![0; blocks.size_bytes() as usize];
        blocks.read_at(0, &mut whole).unwrap();
        assert!(whole == image, "{name} reads as something else");
        let tree = open(Cached::new(blocks, 1 << 20)).unwrap();
        let inode = tree.find(b"/file").unwrap();
        let mut read = vec![0; content.len()];
        assert_eq!(tree.read(inode, 0, &mut read).unwrap(), read.len());
        assert!(read == content);
    }
    // So many changes that the texts go round their ring more than once.
    for i in 0..60 {
        let (to, from) = ([format!("@t{i}")], [format!("@t{}", i - 1)]);
        let add = ["--addtag", &to[0], "g"];
        let del = ["--deltag", &from[0]];
        devices.lvm("vgchange", &if i == 0 { add.to_vec() } else { [&del[..], &add].concat() });
    }
    assert_eq!(look(&disk, "g/linear"), Some((Kind::Ext4, State::Clean)));
    // What LVM's own check of a restored text lets pass, and is not looked into here.
    let saved = folder.path().join("saved");
    devices.lvm("vgcfgbackup", &["-f", text(&saved), "g"]);
    let with_errors =
        fs::read_to_string(&saved).unwrap().replacen("type = \"striped\"", "type = \"error\"", 1);
    fs::write(&saved, with_errors).unwrap();
    devices.lvm("vgcfgrestore", &["-f", text(&saved), "g"]);
    let kinds = (look(&disk, "g/linear"), look(&disk, "g/striped"));
    assert_eq!(kinds.0, Some((Kind::LvmLv, State::Unknown)));
    assert_eq!(kinds.1, Some((Kind::Ext4, State::Clean)));
    // The first copy is damaged: LVM goes on with the second, and so does the survey.
    let names = |devices: &Devices| devices.lvm("lvs", &["--noheadings", "-o", "lv_name"]);
    let before = names(&devices);
    let patched = File::options().write(true).open(&disk).unwrap();
    patched.write_all_at(&[0xff; 8], PARTS[0].0 * MIB + 4096 + 24).unwrap();
    assert_eq!((look(&disk, "g/striped"), names(&devices)), (kinds.1, before));
    // One of two physical volumes is gone.
    patched.write_all_at(&[0; 4096], PARTS[0].0 * MIB).unwrap();
    assert_eq!(look(&disk, "g/striped"), None);
    let found = survey(&Image::open(&disk)).unwrap();
    assert!(found.volumes[1].state == State::Unknown, "{found:?}");
    assert!(found.volumes[1].evidence.contains("missing"), "{found:?}");
}

//! Disks that are not raw, disks in use by others, and disks with other block sizes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::world::{World, make_disk};

fn tool(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).stdin(Stdio::null()).output();
    assert!(done.is_ok(), "{program}: {done:?}; run scripts/setup");
    let done = done.expect("it ran");
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).trim().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// Creates a raw disk with some content.
fn make_content(path: &Path) -> Vec<u8> {
    let mut content = vec![0; 2 << 20];
    content[4096..8192].fill(0x17);
    content[(2 << 20) - 512..].fill(0x42);
    fs::write(path, &content).expect("written");
    content
}

fn image(world: &World, format: &str) -> PathBuf {
    let (raw, image) = (world.path("content.raw"), world.path(&format!("image.{format}")));
    make_content(&raw);
    tool("qemu-img", &["convert", "-f", "raw", "-O", format, text(&raw), text(&image)]);
    image
}

/// A loop device, detached when dropped.
struct Loop(String);

impl Loop {
    fn on(file: &Path, block_bytes: u32) -> Loop {
        Loop(tool("losetup", &["-f", "--show", "-b", &block_bytes.to_string(), text(file)]))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["-d", &self.0]).status();
    }
}

#[test]
fn an_image_that_is_not_raw_is_not_tapped_but_imported() {
    let world = World::new();
    for format in ["qcow2", "vmdk", "vhdx", "vdi", "vpc", "qed", "parallels"] {
        let image = image(&world, format);
        let before = fs::read(&image).expect("read");
        let said = world.fails(1, &["target", "add", format, "--disk", text(&image)]);
        assert!(said.contains(&format!("it looks like {format}")), "{said}");
        assert!(said.contains(&format!("--disk import:{}", image.display())), "{said}");
        assert!(fs::read(&image).expect("read") == before, "{format}: it was written to");

        world.ok(&["target", "add", format, "--disk", &format!("import:{}", image.display())]);
        let back = world.path(&format!("{format}.raw"));
        world.restore(format, "now", &back);
        let mut content = fs::read(world.path("content.raw")).expect("read");
        let restored = fs::read(&back).expect("read");
        // A VHD's size is rounded to a CHS geometry.
        content.resize(restored.len(), 0);
        assert!(restored == content, "{format}");
    }
    let packed = world.path("content.raw.gz");
    tool("gzip", &["-k", text(&world.path("content.raw"))]);
    let said = world.fails(1, &["target", "add", "gz", "--disk", text(&packed)]);
    assert!(said.contains("it looks like gzip") && said.contains("unpack"), "{said}");
    let said = world.fails(1, &["target", "add", "gz", "--disk", &format!("import:{}", packed.display())]);
    assert!(said.contains("it is compressed or packed (gzip)") && said.contains("gunzip"), "{said}");
    assert_eq!(world.json_lines(&["target", "list"]).len(), 7, "nothing is left of what was refused");
}

#[test]
fn a_raw_disk_that_begins_like_an_image_is_tapped_when_that_is_said() {
    let world = World::new();
    let disk = world.path("odd.raw");
    let mut content = make_content(&disk);
    content[..4].copy_from_slice(b"QFI\xfb");
    fs::write(&disk, &content).expect("written");
    let said = world.fails(1, &["target", "add", "odd", "--disk", text(&disk)]);
    assert!(said.contains(&format!("--disk raw:{}", disk.display())), "{said}");
    world.ok(&["target", "add", "odd", "--disk", &format!("raw:{}", disk.display())]);
    world.restore("odd", "now", &world.path("back.raw"));
    assert!(fs::read(world.path("back.raw")).expect("read") == content);
    world.ok(&["target", "add", "odd-too", "--disk", &format!("import:raw:{}", disk.display())]);
    world.restore("odd-too", "now", &world.path("back-too.raw"));
    assert!(fs::read(world.path("back-too.raw")).expect("read") == content);
}

#[test]
fn no_file_but_the_named_one_gets_into_a_disk_and_what_is_left_out_is_said() {
    let world = World::new();
    let secret = world.path("secret");
    fs::write(&secret, vec![0x53; 1 << 20]).expect("written");
    let based = world.path("based.qcow2");
    tool("qemu-img", &["create", "-f", "qcow2", "-b", text(&secret), "-F", "raw", text(&based)]);
    let apart = world.path("apart.qcow2");
    let data = format!("data_file={},data_file_raw=on", world.path("data").display());
    tool("qemu-img", &["create", "-f", "qcow2", "-o", &data, text(&apart), "1M"]);
    fs::rename(&secret, world.path("data")).expect("renamed");
    let flat = world.path("flat.vmdk");
    tool("qemu-img", &["create", "-f", "vmdk", "-o", "subformat=monolithicFlat", text(&flat), "1M"]);
    for (image, says) in
        [(based, "based on another image"), (apart, "in other files"), (flat, "in other files")]
    {
        let import = format!("import:{}", image.display());
        let said = world.fails(1, &["target", "add", "t", "--disk", &import]);
        assert!(said.contains(says), "{said}");
    }
    let cut = image(&world, "qcow2");
    let len = fs::metadata(&cut).expect("length").len();
    fs::File::options().write(true).open(&cut).and_then(|f| f.set_len(len - (128 << 10))).expect("cut");
    let said = world.fails(1, &["target", "add", "t", "--disk", &format!("import:{}", cut.display())]);
    assert!(said.contains("damaged") || said.contains("truncated"), "{said}");
    assert!(world.json_lines(&["target", "list"]).is_empty());

    let snapshots = image(&world, "qcow2");
    tool("qemu-img", &["snapshot", "-c", "before the update", text(&snapshots)]);
    let done = world.run(&["target", "add", "t", "--disk", &format!("import:{}", snapshots.display())]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("before the update"), "{said}");
    let base = world.json_lines(&["timeline", "t", "--kind", "base"]);
    assert_eq!(base[0]["details"]["snapshots_left_out"], serde_json::json!(["before the update"]));
}

#[test]
fn what_the_kernel_uses_is_neither_tapped_nor_restored_to() {
    let world = World::new();
    let (file, at) = (world.path("fs.raw"), world.path("mnt"));
    make_disk(&file, 16 << 20);
    tool("mkfs.ext4", &["-q", text(&file)]);
    world.ok(&["target", "add", "m", "--disk", "store:16M"]);
    let device = Loop::on(&file, 512);
    // A file behind a loop device.
    let said = world.fails(1, &["target", "add", "t", "--disk", text(&file)]);
    assert!(said.contains(&format!("{} is set up on it", device.0)), "{said}");

    fs::create_dir(&at).expect("a folder");
    tool("mount", &[&device.0, text(&at)]);
    let add = world.run(&["target", "add", "t", "--disk", &device.0]);
    let restore = world.run(&["restore", "m", "--at", "now", "--to", &device.0]);
    tool("umount", &[text(&at)]);
    for done in [add, restore] {
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("it is mounted at {}", at.display())) && said.contains("hint:"),
            "{said}"
        );
    }
    // Once it is free, both work.
    world.ok(&["restore", "m", "--at", "now", "--to", &device.0]);
    world.ok(&["target", "add", "t", "--disk", &device.0]);
    // It is a target's disk now, under this path and any other.
    let other = world.path("by-another-name");
    std::os::unix::fs::symlink(&device.0, &other).expect("a link");
    for path in [device.0.as_str(), text(&other)] {
        let said = world.fails(1, &["restore", "m", "--at", "now", "--to", path]);
        assert!(said.contains("is a disk of target \"t\""), "{said}");
        let said = world.fails(1, &["target", "add", "u", "--disk", path]);
        assert!(said.contains("is a disk of target \"t\""), "{said}");
    }
    // Its device node stays when the device is detached. Status does not open it.
    assert_eq!(world.json(&["status"])["problems"], serde_json::json!([]));
    drop(device);
    let problems = world.json(&["status"])["problems"].clone();
    assert_eq!(problems[0]["why"]["code"], "disk-away", "{problems}");
    assert!(problems[0]["hint"].as_str().is_some_and(|hint| hint.contains("attached")), "{problems}");
}

#[test]
fn nothing_is_restored_into_the_stores_own_folder() {
    let world = World::new();
    world.ok(&["target", "add", "m", "--disk", "store:1M"]);
    let link = world.path("link");
    std::os::unix::fs::symlink(world.store(), &link).expect("a link");
    for to in [world.store().join("x.raw"), world.store().join("targets/m/log/x"), link.join("x.raw")] {
        let said = world.fails(1, &["restore", "m", "--at", "now", "--to", text(&to)]);
        assert!(said.contains("in the store's own folder"), "{said}");
        assert!(!to.exists());
    }
    let inside = world.store().join("disk.raw");
    make_disk(&inside, 1 << 20);
    let said = world.fails(1, &["target", "add", "t", "--disk", text(&inside)]);
    assert!(said.contains("in the store's own folder"), "{said}");
    // Nor over an existing image.
    let there = image(&world, "qcow2");
    let before = fs::read(&there).expect("read");
    world.fails(1, &["restore", "m", "--at", "now", "--to", text(&there)]);
    assert!(fs::read(&there).expect("read") == before);
}

#[test]
fn a_disk_of_large_blocks_is_shown_as_one() {
    let world = World::new();
    let file = world.path("4k.raw");
    make_disk(&file, 64 << 20);
    let blocks =
        |target: &str| world.json(&["target", "show", target])["config"]["disks"][0]["block_bytes"].clone();
    {
        let device = Loop::on(&file, 4096);
        let script =
            Command::new("sh").arg("-c").arg(format!("echo ',,L' | sfdisk -q -X gpt {}", device.0)).output();
        let script = script.expect("sfdisk");
        assert!(script.status.success(), "{}", String::from_utf8_lossy(&script.stderr));
        world.ok(&["target", "add", "device", "--disk", &device.0]);
        assert_eq!(blocks("device"), 4096);
        world.ok(&["target", "remove", "device"]);
    }
    // A copy of such a disk has its partition table where only 4096-byte blocks find it.
    world.ok(&["target", "add", "file", "--disk", text(&file)]);
    assert_eq!(blocks("file"), 4096);
    world.ok(&["target", "add", "imported", "--disk", &format!("import:{}", file.display())]);
    assert_eq!(blocks("imported"), 4096);
    world.ok(&[
        "target",
        "add",
        "told",
        "--block-size",
        "512",
        "--disk",
        &format!("import:{}", file.display()),
    ]);
    assert_eq!(blocks("told"), 512);
}

#[test]
fn absurd_sizes_and_paths_are_refused_with_words() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let world = World::new();
    let said = world.fails(1, &["target", "add", "m", "--disk", "store:2P"]);
    assert!(said.contains("at most 1 PiB"), "{said}");
    world.fails(2, &["target", "add", "m", "--disk", "store:99999999P"]);
    world.ok(&["target", "add", "m", "--disk", "store:1M"]);
    let odd = OsStr::from_bytes(b"/tmp/\xff\xfe");
    for args in [
        &["target", "add", "n", "--disk"][..],
        &["target", "add", "n", "--disk", "store:1M", "--kernel"],
        &["restore", "m", "--at", "now", "--to"],
        &["export", "m", "--file"],
    ] {
        let done = world.command(args).arg(odd).output().expect("the program runs");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(matches!(done.status.code(), Some(1 | 2)), "{args:?}: {said}");
        assert!(said.contains("UTF-8"), "{args:?}: {said}");
    }
    assert!(!Path::new(odd).exists());
}

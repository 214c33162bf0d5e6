//! Images made by `qemu-img` itself, and files that only resemble images.

use std::{path::PathBuf, process::Stdio};

use super::*;

struct Lab(tempfile::TempDir);

impl Lab {
    fn new() -> Lab {
        Lab(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, program: &str, args: &[&str]) {
        let done = Command::new(program).current_dir(self.0.path()).args(args).stdin(Stdio::null()).output();
        let done = done.unwrap_or_else(|e| panic!("{program}: {e}; run scripts/setup"));
        assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// A raw disk of 3 MiB with data at its beginning, in the middle and at its end.
    fn raw(&self) -> Vec<u8> {
        let mut disk = vec![0; 3 << 20];
        for (at, byte) in [(0, 1), (1 << 20, 2), ((3 << 20) - 4096, 3)] {
            disk[at..at + 4096].fill(byte);
        }
        std::fs::write(self.path("disk.raw"), &disk).unwrap();
        disk
    }

    fn found(&self, name: &str) -> Option<Format> {
        let file = std::fs::File::open(self.path(name)).unwrap();
        let (head, tail) = ends(&file, file.metadata().unwrap().len()).unwrap();
        recognise(&head, &tail)
    }

    fn look(&self, name: &str, format: Format) -> Result<Looked> {
        look(&self.path(name), format, &mut || true)
    }

    fn refused(&self, name: &str, format: Format) -> String {
        assert_eq!(self.found(name), Some(format), "{name}");
        self.look(name, format).unwrap_err().to_string()
    }
}

#[test]
fn each_format_that_qemu_writes_is_recognised_and_comes_out_as_it_went_in() {
    let lab = Lab::new();
    let disk = lab.raw();
    for (format, options) in [
        (Format::Qcow2, "compat=1.1"),
        (Format::Qcow2, "compat=0.10"),
        (Format::Qcow, ""),
        (Format::Vmdk, "subformat=monolithicSparse"),
        (Format::Vmdk, "subformat=streamOptimized"),
        (Format::Vhdx, ""),
        (Format::Vdi, ""),
        (Format::Vpc, "subformat=dynamic,force_size=on"),
        (Format::Vpc, "subformat=fixed,force_size=on"),
        (Format::Qed, ""),
        (Format::Parallels, ""),
    ] {
        let mut args = vec!["convert", "-f", "raw", "-O", format.name()];
        if !options.is_empty() {
            args.extend(["-o", options]);
        }
        lab.run("qemu-img", &[args.as_slice(), &["disk.raw", "image"]].concat());
        assert_eq!(lab.found("image"), Some(format), "{options}");
        assert!(format.is_read());
        let looked = lab.look("image", format).unwrap();
        assert_eq!(
            (looked.size_bytes, looked.snapshots.len()),
            (disk.len() as u64, 0),
            "{format:?} {options}"
        );
        let mut seen = 0;
        convert(&lab.path("image"), format, &lab.path("out"), &mut |reached| {
            seen = seen.max(reached);
            true
        })
        .unwrap();
        assert!(std::fs::read(lab.path("out")).unwrap() == disk, "{format:?} {options}");
        assert_eq!(seen, 10_000, "it says how far it is");
        std::fs::remove_file(lab.path("out")).unwrap();
    }
    lab.run("qemu-img", &["convert", "-f", "raw", "-O", "raw", "disk.raw", "x"]);
    assert_eq!(lab.found("x"), None, "raw is nothing else");
}

#[test]
fn what_is_packed_or_encrypted_is_recognised_and_refused() {
    let lab = Lab::new();
    lab.raw();
    for (program, args, name, format) in [
        ("gzip", &["-k", "disk.raw"][..], "disk.raw.gz", Format::Gzip),
        ("xz", &["-k", "-0", "disk.raw"], "disk.raw.xz", Format::Xz),
        ("bzip2", &["-k", "disk.raw"], "disk.raw.bz2", Format::Bzip2),
        ("tar", &["cf", "disk.tar", "disk.raw"], "disk.tar", Format::Tar),
    ] {
        lab.run(program, args);
        assert!(lab.refused(name, format).contains("it is compressed or packed"), "{name}");
    }
    for (start, format) in [
        (&b"\x28\xb5\x2f\xfd rest"[..], Format::Zstd),
        (b"PK\x03\x04 rest", Format::Zip),
        (b"\x04\x22\x4d\x18 rest", Format::Lz4),
        (b"7z\xbc\xaf\x27\x1c rest", Format::SevenZip),
    ] {
        std::fs::write(lab.path("packed"), start).unwrap();
        assert!(lab.refused("packed", format).contains("it is compressed or packed"), "{format:?}");
    }
    let secret = ["--object", "secret,id=s,data=abc"];
    let luks = ["create", "-f", "luks", "-o", "key-secret=s,iter-time=10", "luks", "1M"];
    lab.run("qemu-img", &[&luks[..1], &secret, &luks[1..]].concat());
    assert!(lab.refused("luks", Format::Luks).contains("it is encrypted"));
    let inside = [
        "create",
        "-f",
        "qcow2",
        "-o",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
        "q",
        "1M",
    ];
    lab.run("qemu-img", &[&inside[..1], &secret, &inside[1..]].concat());
    assert!(lab.refused("q", Format::Qcow2).contains("it is encrypted"));
}

#[test]
fn an_image_that_names_other_files_is_refused_before_they_are_opened() {
    let lab = Lab::new();
    lab.raw();
    // Must never be read into a disk. It is a pipe, so a tool that opens it hangs and is noticed.
    lab.run("mkfifo", &["secret"]);
    lab.run("qemu-img", &["create", "-f", "qcow2", "-u", "-b", "secret", "-F", "raw", "based.qcow2", "1M"]);
    assert!(lab.refused("based.qcow2", Format::Qcow2).contains("based on another image (\"secret\")"));
    lab.run("qemu-img", &["create", "-f", "qed", "-u", "-b", "secret", "-F", "raw", "based.qed", "1M"]);
    assert!(lab.refused("based.qed", Format::Qed).contains("based on another image"));
    lab.run("qemu-img", &["create", "-f", "vmdk", "parent.vmdk", "1M"]);
    lab.run("qemu-img", &["create", "-f", "vmdk", "-b", "parent.vmdk", "-F", "vmdk", "based.vmdk"]);
    assert!(lab.refused("based.vmdk", Format::Vmdk).contains("based on another image"));
    let data = ["create", "-f", "qcow2", "-o", "data_file=data,data_file_raw=on", "apart.qcow2", "1M"];
    lab.run("qemu-img", &data);
    std::fs::remove_file(lab.path("data")).unwrap();
    std::fs::rename(lab.path("secret"), lab.path("data")).unwrap();
    assert!(lab.refused("apart.qcow2", Format::Qcow2).contains("its data are in other files"));
    lab.run("qemu-img", &["create", "-f", "vmdk", "-o", "subformat=monolithicFlat", "flat.vmdk", "1M"]);
    assert!(lab.refused("flat.vmdk", Format::Vmdk).contains("its data are in other files"));
    // A description of other files inside an otherwise ordinary image.
    let mut hidden = std::fs::read(lab.path("parent.vmdk")).unwrap();
    hidden[12..20].fill(0);
    std::fs::write(lab.path("hidden.vmdk"), hidden).unwrap();
    assert!(lab.refused("hidden.vmdk", Format::Vmdk).contains("its data are in other files"));
    // A differencing VHD.
    lab.run("qemu-img", &["create", "-f", "vpc", "child.vhd", "1M"]);
    let mut child = std::fs::read(lab.path("child.vhd")).unwrap();
    child[63] = 4;
    std::fs::write(lab.path("child.vhd"), child).unwrap();
    assert!(lab.refused("child.vhd", Format::Vpc).contains("based on another image"));
}

#[test]
fn a_truncated_or_damaged_image_is_refused_and_snapshots_inside_are_named() {
    let lab = Lab::new();
    lab.raw();
    for format in
        [Format::Qcow2, Format::Vmdk, Format::Vdi, Format::Vhdx, Format::Vpc, Format::Qed, Format::Parallels]
    {
        lab.run("qemu-img", &["convert", "-f", "raw", "-O", format.name(), "disk.raw", "image"]);
        lab.look("image", format).unwrap();
        let len = std::fs::metadata(lab.path("image")).unwrap().len();
        let image = std::fs::OpenOptions::new().write(true).open(lab.path("image")).unwrap();
        // The last quarter may be allocated without data.
        image.set_len(len / 2).unwrap();
        let refused = lab.look("image", format);
        assert!(refused.is_err(), "{format:?}: {refused:?}");
    }
    lab.run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "disk.raw", "image"]);
    lab.run("qemu-img", &["snapshot", "-c", "before the update", "image"]);
    lab.run("qemu-img", &["snapshot", "-c", "after", "image"]);
    assert_eq!(lab.look("image", Format::Qcow2).unwrap().snapshots, ["before the update", "after"]);
    // A cluster with two users.
    let mut damaged = std::fs::read(lab.path("image")).unwrap();
    let l1 = u64::from_be_bytes(damaged[40..48].try_into().unwrap()) as usize;
    let l2 = (u64::from_be_bytes(damaged[l1..l1 + 8].try_into().unwrap()) & 0x00ff_ffff_ffff_fe00) as usize;
    let entry: [u8; 8] = damaged[l2..l2 + 8].try_into().unwrap();
    damaged[l2 + 8 * 5..l2 + 8 * 6].copy_from_slice(&entry);
    std::fs::write(lab.path("image"), damaged).unwrap();
    let said = lab.look("image", Format::Qcow2).unwrap_err().to_string();
    assert!(said.contains("it is damaged"), "{said}");
    // The message of qemu-img is passed on.
    let mut unknown = b"QFI\xfb\0\0\0\x63".to_vec();
    unknown.resize(512, 0);
    std::fs::write(lab.path("image"), unknown).unwrap();
    let said = lab.look("image", Format::Qcow2).unwrap_err().to_string();
    assert!(said.contains("qemu-img failed: ") && said.contains("version"), "{said}");
}

#[test]
fn whoever_gives_up_waiting_ends_the_tool() {
    let lab = Lab::new();
    lab.raw();
    lab.run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "disk.raw", "image"]);
    assert!(matches!(look(&lab.path("image"), Format::Qcow2, &mut || false), Err(Error::GivenUp)));
    let given_up = convert(&lab.path("image"), Format::Qcow2, &lab.path("out"), &mut |_| false);
    assert!(matches!(given_up, Err(Error::GivenUp)));
}

#[test]
fn a_short_mark_alone_does_not_make_a_raw_disk_something_else() {
    // A boot sector that begins with a jump, an empty disk, one with half a signature.
    for head in [&[0xeb, 0x3c, 0x90][..], &[0; 4096], b"BZh9 and no block", b"PK", b"QFI", b""] {
        assert_eq!(recognise(head, head), None);
    }
    assert_eq!(block_bytes(&[0; 8192]), None);
    let mut head = vec![0; 8192];
    head[4096..4104].copy_from_slice(b"EFI PART");
    assert_eq!(block_bytes(&head), Some(4096));
    head[512..520].copy_from_slice(b"EFI PART");
    assert_eq!(block_bytes(&head), Some(512));
}

#[test]
fn the_map_and_the_progress_are_read() {
    assert_eq!(reach_of(r#"[{ "start": 0, "length": 512, "data": true, "offset": 1024},"#), 1536);
    assert_eq!(reach_of(r#"{ "start": 0, "length": 512, "compressed": true, "offset": 1024}]"#), 0);
    assert_eq!(reach_of(r#"{ "start": 0, "length": 512, "zero": true}"#), 0);
    assert_eq!(reach_of("]"), 0);
    assert_eq!(hundredths("    (12.34/100%)"), Some(1234));
    assert_eq!(hundredths("(100.00/100%)"), Some(10_000));
    assert_eq!(hundredths("nonsense"), None);
}

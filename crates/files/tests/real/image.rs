//! Disk images: made, mounted, read.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use bygone_files::{Blocks, Cause, ReadError};
use tempfile::TempDir;

/// A file that is a disk.
pub(crate) struct Image {
    file: File,
    size_bytes: u64,
}

impl Image {
    pub(crate) fn open(path: &Path) -> Image {
        let file = File::open(path).unwrap();
        let size_bytes = file.metadata().unwrap().len();
        Image { file, size_bytes }
    }
}

impl Blocks for Image {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn sector_bytes(&self) -> u32 {
        512
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size_bytes) {
            return Err(ReadError { offset, len_bytes: buf.len(), cause: Cause::Outside });
        }
        self.file.read_exact_at(buf, offset).map_err(|e| ReadError::failed(offset, buf.len(), e))
    }
}

/// Runs a tool, which has to succeed.
pub(crate) fn run(program: &str, args: &[&str]) {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.args(args).env("PATH", format!("{path}:/usr/sbin:/sbin")).stdin(Stdio::null());
    let done = command.output().unwrap_or_else(|e| panic!("{program} is needed (scripts/setup): {e}"));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {args:?}: {said}{}", String::from_utf8_lossy(&done.stdout));
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder for images, in memory if there is one.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.unwrap()
}

/// An empty image of a size in MiB.
pub(crate) fn blank(folder: &Path, name: &str, mib: u64) -> PathBuf {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(mib << 20).unwrap();
    path
}

/// Whether images can be mounted here. If not, the test says so.
pub(crate) fn can_mount(test: &str) -> bool {
    let is_root = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    let has_loops = Path::new("/dev/loop-control").exists();
    if !is_root || !has_loops {
        eprintln!(
            "{test}: nothing can be mounted here (root: {is_root}, loop devices: {has_loops}); \
            the image is made without the kernel"
        );
    }
    is_root && has_loops
}

/// A mounted image; dropping it unmounts it.
pub(crate) struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// Mounts an image, with its own file system.
    pub(crate) fn new(image: &Path, options: &str) -> Mounted {
        let at = image.with_extension("mnt");
        fs::create_dir_all(&at).unwrap();
        let options = if options.is_empty() { "loop".to_owned() } else { format!("loop,{options}") };
        run("mount", &["-o", &options, text(image), text(&at)]);
        Mounted { at }
    }

    /// Mounts a file system on several devices at a folder beside its images.
    pub(crate) fn devices(at: PathBuf, devices: &Loops, options: &str) -> Mounted {
        fs::create_dir_all(&at).unwrap();
        let others = devices.0.iter().map(|device| format!("device={device}"));
        let all: Vec<String> = others.chain([options.to_owned()]).collect();
        run("mount", &["-t", "btrfs", "-o", &all.join(","), &devices.0[0], text(&at)]);
        Mounted { at }
    }

    /// Mounts an image that may be refused.
    pub(crate) fn attempt(image: &Path, options: &str) -> Option<Mounted> {
        let at = image.with_extension("mnt");
        fs::create_dir_all(&at).unwrap();
        let done = Command::new("mount").arg("-o").arg(format!("loop,{options}")).args([image, &at]).output();
        done.unwrap().status.success().then_some(Mounted { at })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// Cuts the file system off from its disk, as a power cut would.
    pub(crate) fn cut_off(&self) {
        run("xfs_io", &["-x", "-c", "shutdown", text(&self.at)]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.at).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("{} cannot be unmounted", self.at.display());
            let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
        }
    }
}

/// Images that are block devices, until it is dropped.
pub(crate) struct Loops(Vec<String>);

impl Loops {
    pub(crate) fn new(images: &[PathBuf]) -> Loops {
        let device = |image: &PathBuf| {
            let done = Command::new("losetup").args(["-f", "--show", text(image)]).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
            String::from_utf8_lossy(&done.stdout).trim().to_owned()
        };
        Loops(images.iter().map(device).collect())
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        for device in &self.0 {
            // Linux remembers it as a part of the file system otherwise.
            let _ = Command::new("btrfs").args(["device", "scan", "--forget", device]).output();
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
    }
}

/// Changes bytes of an image.
pub(crate) fn patch(path: &Path, at: u64, change: impl FnOnce(&mut [u8; 8])) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, at).unwrap();
    change(&mut bytes);
    file.write_all_at(&bytes, at).unwrap();
}

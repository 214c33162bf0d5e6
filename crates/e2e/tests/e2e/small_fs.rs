//! A small file system that can be filled completely. Needs root to mount it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::fs::FallocateFlags;

/// A mounted ext4 in a file, or a tmpfs where there are no loop devices. Unmounted when dropped, also by a failing
/// test.
pub(crate) struct SmallFs {
    at: PathBuf,
}

impl SmallFs {
    pub(crate) fn mount(image: &Path, at: &Path, bytes: u64) -> SmallFs {
        fs::create_dir(at).expect("a folder");
        fs::File::create_new(image).and_then(|f| f.set_len(bytes)).expect("an image");
        // No blocks are reserved for root.
        let made = run("mkfs.ext4", &["-q".as_ref(), "-m".as_ref(), "0".as_ref(), image.as_os_str()]);
        let mounted = made.and_then(|()| {
            run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), at.as_os_str()])
        });
        if let Err(why) = mounted {
            eprintln!("{why}; a tmpfs takes its place, so the test shows less than it could");
            let size = format!("size={bytes}");
            let options: [&std::ffi::OsStr; 6] = [
                "-t".as_ref(),
                "tmpfs".as_ref(),
                "-o".as_ref(),
                size.as_ref(),
                "small".as_ref(),
                at.as_os_str(),
            ];
            run("mount", &options)
                .map_err(|also| format!("{why}; {also}"))
                .expect("a loop device or a tmpfs; run as root");
        }
        SmallFs { at: at.to_owned() }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.at).expect("statvfs");
        stat.f_bavail * stat.f_frsize
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    /// Uses up space until only this much is free; space taken before stays taken.
    pub(crate) fn leave(&self, free_bytes: u64) {
        let file = fs::File::options().create(true).append(true).open(self.ballast()).expect("ballast");
        // Allocating costs a little more than requested, so this goes in steps, down to one block of a small ext4.
        let mut step = 64_u64 << 20;
        while step >= 1024 {
            let len = file.metadata().expect("a length").len();
            let fits = self.free_bytes() >= free_bytes + step;
            if !fits || rustix::fs::fallocate(&file, FallocateFlags::empty(), len, step).is_err() {
                step /= 2;
            }
        }
        file.sync_all().expect("synced");
    }

    /// Uses up every block.
    pub(crate) fn brim(&self) {
        self.leave(0);
    }

    /// Frees everything that was taken.
    pub(crate) fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("removed");
        run("sync", &["-f".as_ref(), self.at.as_os_str()]).expect("synced");
    }
}

impl Drop for SmallFs {
    fn drop(&mut self) {
        // A process that was just killed may still have a file open there.
        for _ in 0..50 {
            if run("umount", &[self.at.as_os_str()]).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let _ = run("umount", &["-l".as_ref(), self.at.as_os_str()]);
    }
}

fn run(program: &str, arguments: &[&std::ffi::OsStr]) -> Result<(), String> {
    let done = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&done.stderr)))
}

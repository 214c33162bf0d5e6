//! Devices as files, with the real kernel. Needs root and `/dev/fuse`; without them the tests fail and say so.

#![expect(clippy::unwrap_used, reason = "a helper of a test may panic as the test itself may")]

mod ext4;
mod files;
mod memory;
mod mounts;

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use bygone_block::{
    BlockDevice, Change, Extent, FileExport, FuseError, Geometry, IoError, Reading, Writing, serve_file,
};
use memory::Memory;

const LIMIT: Duration = Duration::from_secs(90);

/// Runs a test in a folder of its own. Undoes its mounts and loop devices, however it ends, and ends the process if it
/// hangs (a thread that waits for its own file system cannot be ended otherwise).
fn with_folder(test: impl FnOnce(&Path) + Send + 'static) {
    if !rustix::process::geteuid().is_root() || fs::File::open("/dev/fuse").is_err() {
        eprintln!("skipped: only root can run this, on a kernel with FUSE");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    let (done, wait) = mpsc::channel::<()>();
    let test_path = path.clone();
    let thread = thread::spawn(move || {
        let _done = done;
        test(&test_path);
    });
    let hung = wait.recv_timeout(LIMIT) == Err(mpsc::RecvTimeoutError::Timeout);
    undo(&path);
    if hung {
        eprintln!("the test hung");
        std::process::abort();
    }
    let result = thread.join();
    undo(&path);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Unmounts everything below `folder`, innermost first, and detaches loop devices over files in it.
fn undo(folder: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let mut ours: Vec<&str> = places.filter(|place| Path::new(place).starts_with(folder)).collect();
    ours.reverse();
    for place in ours {
        let _ = Command::new("umount").args(["-l", place]).status();
    }
    let Ok(blocks) = fs::read_dir("/sys/block") else { return };
    for block in blocks.flatten() {
        let backing = fs::read_to_string(block.path().join("loop/backing_file")).unwrap_or_default();
        if Path::new(backing.trim()).starts_with(folder) {
            let _ = Command::new("losetup").arg("-d").arg(Path::new("/dev").join(block.file_name())).status();
        }
    }
}

/// Runs a command for a minute at most; its standard output.
fn run(words: &[&str]) -> String {
    let (ok, output) = try_run(words);
    assert!(ok, "{words:?}: {output}");
    output
}

fn try_run(words: &[&str]) -> (bool, String) {
    let output = Command::new("timeout").args(["-k", "5", "60"]).args(words).output().unwrap();
    let text = if output.status.success() { &output.stdout } else { &output.stderr };
    (output.status.success(), String::from_utf8_lossy(text).into_owned())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn serve(device: &Arc<Memory>, path: &Path) -> FileExport {
    serve_file(Arc::clone(device) as _, path).unwrap()
}

/// Deterministic pseudo-random bytes.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = (0..len.div_ceil(8)).flat_map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state ^ (state >> 29)).to_le_bytes()
    });
    words.take(len).collect()
}

//! Against the real tools of QEMU (`scripts/setup` installs them).

use std::{
    fs::{File, OpenOptions},
    io::Read,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::*;

fn image(dir: &tempfile::TempDir) -> PathBuf {
    let path = dir.path().join("disk.img");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    path
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

fn tool(name: &str) -> Command {
    let mut command = Command::new(name);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs one of QEMU's tools to its end. Returns whether it succeeded, and its output.
fn run(name: &str, args: &[&str]) -> (bool, String) {
    let output = tool(name).args(args).output().unwrap_or_else(|e| panic!("{name}: {e}; run scripts/setup"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// A program that is killed at the end of the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `qemu-nbd` on the image and waits until it has it open.
fn serve(path: &Path, read_only: bool) -> Running {
    let socket = path.with_extension("sock");
    let mut command = tool("qemu-nbd");
    command.args(["-t", "-f", "raw", "-k"]).arg(&socket);
    if read_only {
        command.arg("-r");
    }
    let server =
        Running(command.arg(path).spawn().unwrap_or_else(|e| panic!("qemu-nbd: {e}; run scripts/setup")));
    for _ in 0..500 {
        if socket.exists() {
            return server;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("qemu-nbd did not come up within 10 s");
}

#[test]
fn tools_of_qemu_refuse_an_image_we_hold_and_open_it_again_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(&dir);
    let name = path.to_str().unwrap();
    let file = open(&path);
    let lock = ImageLock::take_exclusive(&file).unwrap();
    drop(file);

    for args in [
        ["-f", "raw", "-c", "write 0 4096", name].as_slice(),
        &["-r", "-f", "raw", "-c", "read 0 4096", name],
    ] {
        let (ok, said) = run("qemu-io", args);
        assert!(!ok && said.contains("lock"), "{args:?}: {said}");
    }
    let (ok, said) = run("qemu-nbd", &["-k", dir.path().join("s").to_str().unwrap(), "-f", "raw", name]);
    assert!(!ok && said.contains("lock"), "{said}");
    let (ok, said) = run("qemu-img", &["convert", "-f", "raw", "-O", "raw", name, &format!("{name}.copy")]);
    assert!(!ok && said.contains("lock"), "{said}");
    let (ok, said) = run(
        "qemu-system-x86_64",
        &["-S", "-nodefaults", "-display", "none", "-drive", &format!("if=virtio,format=raw,file={name}")],
    );
    assert!(!ok && said.contains("lock"), "{said}");
    // Not even with force (`-U`), which only shares what the other holder shares too.
    let (ok, said) = run("qemu-io", &["-U", "-r", "-f", "raw", "-c", "read 0 4096", name]);
    assert!(!ok && said.contains("lock"), "{said}");

    drop(lock);
    let (ok, said) = run("qemu-io", &["-f", "raw", "-c", "write 0 4096", name]);
    assert!(ok, "{said}");
}

#[test]
fn an_image_that_qemu_has_open_is_refused_with_what_it_does_there() {
    for (read_only, expected) in [(false, ImageUse::Writes), (true, ImageUse::Reads)] {
        let dir = tempfile::tempdir().unwrap();
        let path = image(&dir);
        let server = serve(&path, read_only);
        match ImageLock::take_exclusive(&open(&path)) {
            Err(error @ ImageLockError::InUse(found)) => {
                assert_eq!(found, expected);
                assert!(error.to_string().contains("in use"), "{error}");
            }
            other => panic!("{other:?}"),
        }
        drop(server);
        ImageLock::take_exclusive(&open(&path)).unwrap();
    }
}

#[test]
fn an_image_is_read_under_a_shared_lock_only_while_nobody_writes_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(&dir);
    let name = path.to_str().unwrap();
    let reading = || File::open(&path).unwrap();
    let shared = ImageLock::take_shared(&reading()).unwrap();
    // Others read it too, QEMU's tools and we.
    let also = ImageLock::take_shared(&reading()).unwrap();
    let (ok, said) = run("qemu-img", &["convert", "-f", "raw", "-O", "raw", name, &format!("{name}.copy")]);
    assert!(ok, "{said}");
    drop(also);
    for args in
        [["-f", "raw", "-c", "write 0 4096", name].as_slice(), &["-f", "raw", "-c", "truncate 4096", name]]
    {
        let (ok, said) = run("qemu-io", args);
        assert!(!ok && said.contains("lock"), "{args:?}: {said}");
    }
    ImageLock::take_exclusive(&open(&path)).unwrap_err();
    drop(shared);
    let exclusive = ImageLock::take_exclusive(&open(&path)).unwrap();
    ImageLock::take_shared(&reading()).unwrap_err();
    drop(exclusive);
    for read_only in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let path = image(&dir);
        let server = serve(&path, read_only);
        match ImageLock::take_shared(&File::open(&path).unwrap()) {
            Ok(_) => assert!(read_only),
            Err(ImageLockError::InUse(ImageUse::Writes)) => assert!(!read_only),
            Err(other) => panic!("{other}"),
        }
        drop(server);
    }
}

#[test]
fn a_second_lock_is_refused_until_the_first_is_dropped_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = image(&dir);
    let first = ImageLock::take_exclusive(&open(&path)).unwrap();
    assert!(matches!(ImageLock::take_exclusive(&open(&path)), Err(ImageLockError::InUse(ImageUse::Writes))));
    drop(first);
    let (ok, said) = run("qemu-io", &["-f", "raw", "-c", "write 0 4096", path.to_str().unwrap()]);
    assert!(ok, "{said}");
    ImageLock::take_exclusive(&open(&path)).unwrap();
}

#[test]
fn a_file_opened_only_for_writing_is_refused_as_unlockable() {
    let dir = tempfile::tempdir().unwrap();
    let file = OpenOptions::new().write(true).open(image(&dir)).unwrap();
    assert!(matches!(ImageLock::take_exclusive(&file), Err(ImageLockError::Unlockable(_))));
}

/// A loop device over an image, detached at the end of the test.
struct Loop(String);

impl Loop {
    /// `None` where loop devices cannot be created (no root, or a container without them).
    fn over(path: &Path) -> Option<Loop> {
        let output = tool("losetup").args(["--find", "--show"]).arg(path).output().ok()?;
        let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(Loop(name))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = tool("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn block_devices_are_locked_like_files() {
    let dir = tempfile::tempdir().unwrap();
    let Some(device) = Loop::over(&image(&dir)) else {
        let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
        assert!(!is_root, "root can make a loop device; are there any left?");
        eprintln!("only root can make a loop device: not tested");
        return;
    };
    let lock = ImageLock::take_exclusive(&open(Path::new(&device.0))).unwrap();
    let (ok, said) = run("qemu-io", &["-f", "raw", "-c", "write 0 4096", &device.0]);
    assert!(!ok && said.contains("lock"), "{said}");
    drop(lock);
    let (ok, said) = run("qemu-io", &["-f", "raw", "-c", "write 0 4096", &device.0]);
    assert!(ok, "{said}");
}

#[test]
fn a_detached_program_has_its_own_session_and_none_of_our_descriptors() {
    // A descriptor that would be inherited: the shell opens it and only then runs the detached program.
    let dir = tempfile::tempdir().unwrap();
    let file = File::open(image(&dir)).unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ls /proc/$$/fd; cut -d' ' -f6 /proc/$$/stat; echo $$"]).stdout(Stdio::piped());
    leak(&mut command, &file);
    detach(&mut command);
    let mut child = Running(command.spawn().unwrap());
    let mut said = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    let lines: Vec<_> = said.lines().collect();
    let [fds @ .., session, pid] = lines.as_slice() else { panic!("{said}") };
    assert_eq!(session, pid);
    assert_eq!(*fds, ["0", "1", "2"]);
}

/// Leaves a copy of `file` open in the program, as a careless library would.
fn leak(command: &mut Command, file: &File) {
    use std::os::fd::AsRawFd;
    let fd = file.as_raw_fd();
    // SAFETY: one system call on a descriptor that lives as long as the parent waits for the exec.
    #[expect(unsafe_code, reason = "the test needs a descriptor that is not close-on-exec")]
    unsafe {
        command.pre_exec(move || {
            libc::dup(fd);
            Ok(())
        });
    }
}

#[test]
fn beginning_to_write_is_for_files_and_within_their_numbers() {
    use std::io::Write as _;

    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[1; 8192]).unwrap();
    crate::begin_writing(&file, 0, 8192).unwrap();
    crate::begin_writing(&file, 1 << 40, 4096).unwrap();
    assert!(crate::begin_writing(&file, u64::MAX, 1).is_err());
    let (reading, _writing) = std::io::pipe().unwrap();
    let pipe = std::fs::File::from(std::os::fd::OwnedFd::from(reading));
    assert!(crate::begin_writing(&pipe, 0, 1).is_err());
}

#[test]
fn a_file_is_replaced_whole_or_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    for text in ["one", "", "two"] {
        crate::write_whole(&path, text.as_bytes()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    let mut part = None;
    let refused = crate::write_whole_by(&path, b"three", |written| {
        // It is complete before it gets its name.
        part = Some(std::fs::read_to_string(written)?);
        Err(std::io::ErrorKind::AlreadyExists.into())
    });
    assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(part.as_deref(), Some("three"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "two");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [path]);
    assert!(crate::write_whole(&dir.path().join("missing/x"), b"").is_err());
}

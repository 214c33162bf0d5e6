//! A test's own store, the program under test, and guests.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::small_fs::SmallFs;

/// The longest wait of a test for any one thing; guests are emulated, and the host may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("BYGONE_BIN") {
        return path.into();
    }
    // target/PROFILE/deps/e2e-… → target/PROFILE/bygone
    let exe = std::env::current_exe().expect("this test's path");
    exe.parent().and_then(Path::parent).expect("target folder").join("bygone")
}

/// The folder of a guest; builds it if missing.
pub(crate) fn guest(name: &str) -> PathBuf {
    let done = Command::new(root().join("scripts/guest"))
        .arg(name)
        .stderr(Stdio::null())
        .output()
        .expect("scripts/guest");
    assert!(done.status.success(), "scripts/guest {name} failed; run scripts/setup");
    PathBuf::from(String::from_utf8(done.stdout).expect("a path").trim())
}

pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "waited too long for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A store in a folder of its own, and everything that runs in it. Both are removed when it is dropped.
pub(crate) struct World {
    /// The store's own file system, if it has one. Unmounted after all processes have ended, and before the folder is
    /// removed.
    pub(crate) small: Option<SmallFs>,
    store: PathBuf,
    pub(crate) dir: tempfile::TempDir,
    manager: Option<Child>,
    /// The length of each machine's console log that is from earlier boots.
    read: RefCell<HashMap<String, usize>>,
}

impl World {
    pub(crate) fn new() -> World {
        let world = World::without_store();
        world.ok(&["init"]);
        world
    }

    /// A store on a file system of its own of this size.
    pub(crate) fn on_small_fs(bytes: u64) -> World {
        let mut world = World::without_store();
        world.store = world.mount(bytes).join("store");
        world.ok(&["init"]);
        world
    }

    fn without_store() -> World {
        // A short path: those of unix sockets have at most 107 bytes.
        let dir = tempfile::Builder::new().prefix("bg-").tempdir().expect("a folder");
        let store = dir.path().join("store");
        World { small: None, store, dir, manager: None, read: RefCell::default() }
    }

    /// Mounts a file system of its own; returns its path.
    pub(crate) fn mount(&mut self, bytes: u64) -> PathBuf {
        let at = self.path("fs");
        self.small = Some(SmallFs::mount(&self.path("fs.img"), &at, bytes));
        at
    }

    /// The file system of its own.
    pub(crate) fn fs(&self) -> &SmallFs {
        self.small.as_ref().expect("mounted")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.store.clone()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.arg("--store").arg(self.store()).args(args).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        if let ["run", name, ..] | ["--json", "run", name, ..] = args {
            let read = self.console(name).len();
            self.read.borrow_mut().insert((*name).to_owned(), read);
        }
        self.command(args).output().expect("the program runs")
    }

    /// Runs a command that must succeed; returns what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let done = self.run(args);
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "bygone {args:?}\n{out}\n{err}\n{}", self.manager_log());
        out.into_owned()
    }

    /// Runs a command that must fail with this exit code; returns its message.
    pub(crate) fn fails(&self, code: i32, args: &[&str]) -> String {
        let done = self.run(args);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(code), "bygone {args:?}: {said}");
        assert!(said.contains("hint:"), "a refusal without a hint: {said}");
        said
    }

    /// One JSON document.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let all: Vec<&str> = ["--json"].iter().chain(args).copied().collect();
        serde_json::from_str(&self.ok(&all)).expect("JSON")
    }

    /// One JSON object a line.
    pub(crate) fn json_lines(&self, args: &[&str]) -> Vec<Value> {
        let all: Vec<&str> = ["--json"].iter().chain(args).copied().collect();
        self.ok(&all).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    pub(crate) fn manager_log(&self) -> String {
        fs::read_to_string(self.store().join("run/manager.log")).unwrap_or_default()
    }

    /// Starts a manager; returns once it answers.
    pub(crate) fn serve(&mut self) {
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.path("serve.log")).expect("a log");
        let child =
            self.command(&["serve"]).stdout(Stdio::null()).stderr(log).spawn().expect("the program runs");
        self.manager = Some(child);
        until("the manager", || {
            std::os::unix::net::UnixStream::connect(self.store().join("run/api.sock")).ok()
        });
    }

    /// Kills the manager with SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut old = self.manager.take().expect("a manager");
        old.kill().expect("killed");
        old.wait().expect("ended");
    }

    /// Kills the manager with SIGKILL; returns how long a new one takes to answer.
    pub(crate) fn kill_and_restart(&mut self) -> Duration {
        self.kill();
        let start = Instant::now();
        self.serve();
        start.elapsed()
    }

    pub(crate) fn add_mini(&self, name: &str, append: &str, disks: &[&str]) {
        let guest = guest("mini");
        let text = |file: &str| guest.join(file).display().to_string();
        let base = fs::read_to_string(guest.join("append")).expect("append");
        let (kernel, initrd, append) = (text("vmlinuz"), text("initrd"), format!("{} {append}", base.trim()));
        let mut args = vec!["target", "add", name, "--memory", "192M", "--cpus", "1"];
        args.extend(["--kernel", &kernel, "--initrd", &initrd, "--append", &append]);
        for disk in disks {
            args.extend(["--disk", disk]);
        }
        self.ok(&args);
    }

    pub(crate) fn console(&self, name: &str) -> String {
        let log = self.store().join("run").join(name).join("console.log");
        String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned()
    }

    /// The number in the last line of the console that begins with `word`.
    pub(crate) fn last_number(&self, name: &str, word: &str) -> Option<u64> {
        let console = self.console(name);
        // An incomplete line would give a smaller number.
        let whole = console.rfind('\n').map_or("", |end| &console[..end]);
        let mut lines = whole.lines().rev();
        lines.find_map(|line| line.trim().strip_prefix(word)?.trim().parse().ok())
    }

    /// Waits until the current boot of the machine has printed a text.
    pub(crate) fn wait_console(&self, name: &str, text: &str) {
        until(&format!("{text:?} on the console of {name}:\n{}", self.console(name)), || {
            let console = self.console(name);
            assert!(!console.contains("IOERROR") && !console.contains("MISMATCH"), "{console}");
            let read = self.read.borrow().get(name).copied().unwrap_or(0);
            console.get(read..)?.contains(text).then_some(())
        });
    }

    pub(crate) fn head_seq(&self, name: &str) -> u64 {
        let status = self.json(&["status"]);
        let targets = status["targets"].as_array().expect("targets");
        targets.iter().find(|t| t["name"] == name).and_then(|t| t["head_seq"].as_u64()).expect("head_seq")
    }

    pub(crate) fn restore(&self, name: &str, at: &str, to: &Path) {
        self.ok(&["restore", name, "--at", at, "--to", &to.display().to_string()]);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Ends what this store runs, and nothing else: QEMU is found by the pid that it wrote itself.
        if let Some(mut manager) = self.manager.take() {
            let _ = manager.kill();
            let _ = manager.wait();
        }
        let run = self.store().join("run");
        for entry in fs::read_dir(&run).into_iter().flatten().flatten() {
            let file = entry.path().join("qemu.pid");
            let pid = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        if std::thread::panicking() {
            eprintln!(
                "--- the manager said:\n{}{}",
                self.manager_log(),
                fs::read_to_string(self.path("serve.log")).unwrap_or_default()
            );
        }
    }
}

pub(crate) fn make_disk(path: &Path, bytes: u64) {
    fs::File::create_new(path).and_then(|f| f.set_len(bytes)).expect("a disk");
}

pub(crate) fn make_ext4(path: &Path, bytes: u64) {
    make_disk(path, bytes);
    let done = Command::new("mkfs.ext4").arg("-q").arg(path).output().expect("mkfs.ext4");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// The counter in a block that the guest wrote.
pub(crate) fn counter_in(path: &Path, block: u64) -> Option<u64> {
    use std::os::unix::fs::FileExt;
    let mut bytes = [0; 4096];
    fs::File::open(path).ok()?.read_exact_at(&mut bytes, block * 4096).ok()?;
    let line = bytes.split(|b| *b == b'\n').next()?;
    std::str::from_utf8(line).ok()?.strip_prefix("bygone-counter ")?.split_whitespace().next()?.parse().ok()
}

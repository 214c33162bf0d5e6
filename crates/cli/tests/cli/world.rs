//! A real store, and the real binary with it.

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags};
use serde_json::Value;

/// A command here takes a moment; this is for computers under load.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a store in it.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
}

impl World {
    /// A folder without a store.
    pub(crate) fn empty() -> World {
        World { dir: tempfile::tempdir().unwrap() }
    }

    /// A store with nothing in it.
    pub(crate) fn new() -> World {
        let world = World::empty();
        world.done(&["init"]);
        world
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The binary with this store, in a time zone of its own, and without a terminal.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bygone"));
        command
            .current_dir(self.dir.path())
            .env_remove("RUST_LOG")
            .env("BYGONE_STORE", self.store())
            .env("TZ", "UTC")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Output {
        self.command().args(words).output().unwrap()
    }

    /// What it writes to standard output; it must succeed.
    pub(crate) fn done(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Its objects of JSON, one a line.
    pub(crate) fn lines(&self, words: &[&str]) -> Vec<Value> {
        let said = self.done(&[words, &["--json"]].concat());
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// All that is recorded of a target.
    pub(crate) fn history(&self, target: &str) -> Vec<Value> {
        self.lines(&["timeline", target])
    }
}

/// A command on a terminal of its own.
pub(crate) struct OnTerminal {
    child: Child,
    terminal: File,
    /// The command's side, open until it has ended: once nobody has that side open, Linux may refuse a read (EIO)
    /// although what was written last was not read yet.
    _commands: File,
    said: String,
}

impl OnTerminal {
    /// Starts it with the terminal as its standard input and error, and as its output too.
    pub(crate) fn start(world: &World, words: &[&str], stderr_too: bool, columns: u16) -> OnTerminal {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let path = Path::new(name.to_str().unwrap()).to_owned();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let size = rustix::termios::Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&controller, size).unwrap();
        let stderr = if stderr_too { Stdio::from(OwnedFd::from(open())) } else { Stdio::null() };
        let child = world.command().args(words).stdin(open()).stdout(open()).stderr(stderr).spawn().unwrap();
        rustix::io::ioctl_fionbio(&controller, true).unwrap();
        OnTerminal { child, terminal: controller.into(), _commands: open(), said: String::new() }
    }

    /// Reads until the terminal shows this, or the command has ended.
    pub(crate) fn until(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        while !self.said.contains(text) && Instant::now() < end {
            // Asked before reading: what an ended command wrote is all there.
            let ended = self.child.try_wait().unwrap().is_some();
            let mut piece = [0; 4096];
            match self.terminal.read(&mut piece) {
                Err(error) if error.kind() == ErrorKind::WouldBlock && ended => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
                    let mut waited = [PollFd::new(&self.terminal, PollFlags::IN)];
                    rustix::event::poll(&mut waited, Some(&pause)).unwrap();
                }
                read => self.said.push_str(&String::from_utf8_lossy(&piece[..read.unwrap()])),
            }
        }
        self.said.clone()
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    /// Everything that it said, and how it ended.
    pub(crate) fn end(mut self) -> (String, i32) {
        let said = self.until("\u{0}");
        let status = self.child.wait().unwrap();
        (said.replace("\r\n", "\n"), status.code().unwrap())
    }
}

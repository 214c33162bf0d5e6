//! One machine, one disk, one directory, and waits with deadlines.

use std::{
    io::Read,
    os::unix::{fs::FileExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use bygone_model::Micros;
use bygone_qemu::{Accel, Disk, Happening, Kernel, Machine, Places, Report, Running, Vm, find_qemu};

/// A guest boots in about 4 s; a busy host gets more time.
pub(crate) const BOOT_MAX: Duration = Duration::from_secs(120);
/// The limit for what follows at once.
pub(crate) const SOON: Duration = Duration::from_secs(30);
pub(crate) const DISK_BYTES: u64 = 16 << 20;

pub(crate) struct Lab {
    dir: tempfile::TempDir,
    pub(crate) places: Places,
    guest: PathBuf,
    server: Option<Child>,
}

impl Lab {
    pub(crate) fn new() -> Lab {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/guest");
        let output = Command::new(&script).arg("mini").stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|e| panic!("{}: {e}; run scripts/setup", script.display()));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "no guest to test with; run scripts/setup\n{said}");
        let guest = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());

        let dir = tempfile::tempdir().unwrap();
        std::fs::File::create(dir.path().join("disk")).unwrap().set_len(DISK_BYTES).unwrap();
        let places = Places::new(dir.path().join("run")).unwrap();
        let mut lab = Lab { dir, places, guest, server: None };
        lab.serve_disk();
        lab
    }

    /// The code to boot instead of a kernel, if the machine has none.
    pub(crate) fn write_boot_sector(&self, code: &[u8]) {
        let mut sector = [0; 512];
        sector[..code.len()].copy_from_slice(code);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        let disk = std::fs::OpenOptions::new().write(true).open(self.dir.path().join("disk")).unwrap();
        disk.write_all_at(&sector, 0).unwrap();
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("nbd.sock")
    }

    pub(crate) fn serve_disk(&mut self) {
        let socket = self.socket();
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new("qemu-nbd");
        command.args(["-t", "-e", "8", "-f", "raw", "--discard=unmap", "-x", "vm/root", "-k"]);
        command.arg(&socket).arg(self.dir.path().join("disk"));
        let server = command.stdin(Stdio::null()).spawn();
        self.server = Some(server.unwrap_or_else(|e| panic!("qemu-nbd: {e}; run scripts/setup")));
        wait_until("qemu-nbd serves the disk", || UnixStream::connect(&socket).is_ok());
    }

    /// Serves a disk that has no space left while the returned file exists.
    pub(crate) fn serve_failing_disk(&mut self) -> PathBuf {
        self.stop_disk();
        let (socket, fails) = (self.socket(), self.dir.path().join("fails"));
        std::fs::remove_file(&socket).unwrap();
        let mut command = Command::new("nbdkit");
        command.args(["-f", "-e", "vm/root", "--filter=exportname", "--filter=error", "-U"]).arg(&socket);
        command.args(["memory", "16M", "default-export=vm/root", "error=ENOSPC", "error-pwrite-rate=100%"]);
        let server = command.arg(format!("error-file={}", fails.display())).stdin(Stdio::null()).spawn();
        self.server = Some(server.unwrap_or_else(|e| panic!("nbdkit: {e}; run scripts/setup")));
        wait_until("nbdkit serves the disk", || UnixStream::connect(&socket).is_ok());
        fails
    }

    /// As if the manager were killed.
    pub(crate) fn stop_disk(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    pub(crate) fn machine(&self, run: &str) -> Machine {
        let mut machine = Machine::new("vm", Accel::Tcg);
        machine.memory_mib = 256;
        // With several processors under TCG, QEMU 10.0 aborts now and then on a busy host (iotlb_to_section: Assertion
        // `section_index < d->map.sections_nb' failed).
        machine.cpus = 1;
        let append = std::fs::read_to_string(self.guest.join("append")).unwrap();
        machine.kernel = Some(Kernel {
            image: self.guest.join("vmlinuz"),
            initrd: Some(self.guest.join("initrd")),
            append: format!("{} bygone.run={run}", append.trim()),
        });
        machine.disks = vec![Disk::new("root", &self.socket(), "vm/root")];
        machine
    }

    pub(crate) fn start(&self, run: &str) -> (Vm, Reports) {
        self.start_machine(&self.machine(run))
    }

    pub(crate) fn start_machine(&self, machine: &Machine) -> (Vm, Reports) {
        let qemu = find_qemu().unwrap_or_else(|e| panic!("{e}"));
        let (vm, reports) = Vm::start(&qemu, machine, &self.places).unwrap();
        (vm, Reports::new(reports))
    }

    pub(crate) fn console(&self) -> String {
        let bytes = std::fs::read(self.places.console_log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    pub(crate) fn wait_for_console(&self, text: &str) {
        wait_until(text, || self.console().contains(text));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("console: {}\nqemu: {}", self.console(), self.places.last_words(2000));
        }
        if let Ok(Some((_, process))) = Running::find(&self.places) {
            let _ = process.kill();
        }
        self.stop_disk();
    }
}

pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = now();
    while !done() {
        assert!(start.elapsed() < BOOT_MAX, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
fn now() -> Instant {
    Instant::now()
}

pub(crate) fn read_until(mut from: &UnixStream, text: &str) {
    from.set_read_timeout(Some(SOON)).unwrap();
    let mut seen = String::new();
    let mut buffer = [0; 1000];
    while !seen.contains(text) {
        let count = from.read(&mut buffer).unwrap_or_else(|e| panic!("{e}: only {seen}"));
        assert!(count > 0, "only {seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
}

pub(crate) struct Reports {
    receiver: Receiver<Report>,
    pub(crate) last_time: Option<Micros>,
}

impl Reports {
    pub(crate) fn new(receiver: Receiver<Report>) -> Reports {
        Reports { receiver, last_time: None }
    }

    pub(crate) fn next(&mut self, within: Duration) -> Happening {
        let report = self.receiver.recv_timeout(within).expect("a report in time");
        eprintln!("{report:?}");
        self.last_time = report.time;
        report.what
    }

    /// The next report that differs from `skipped`.
    pub(crate) fn next_but(&mut self, within: Duration, skipped: &Happening) -> Happening {
        loop {
            let what = self.next(within);
            if what != *skipped {
                return what;
            }
        }
    }

    pub(crate) fn silence(&mut self, length: Duration) {
        assert_eq!(self.receiver.recv_timeout(length), Err(RecvTimeoutError::Timeout));
    }

    pub(crate) fn end(&mut self) {
        assert_eq!(self.receiver.recv_timeout(SOON), Err(RecvTimeoutError::Disconnected));
    }
}

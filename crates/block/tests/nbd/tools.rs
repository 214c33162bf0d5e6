//! The server against common NBD tools.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bygone_block::{
    Geometry,
    nbd::{Limits, Scope, Server},
};

use crate::{EXPORT, Fixture, Table, device::Mem, eventually, pattern};

/// A command with a time limit of one minute. A missing tool fails the test rather than skipping it.
#[track_caller]
fn tool(program: &str) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    assert!(found, "{program} is not installed: run scripts/setup, which brings every tool the tests need");
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", "60", program]);
    command
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {}\n{stdout}\n{stderr}", output.status);
    stdout
}

#[test]
fn qemu_io_reads_writes_zeroes_discards_and_flushes() {
    for block_bytes in [512, 4096] {
        let device =
            Mem::shaped(Geometry { size_bytes: 64 << 20, block_bytes, read_only: false, can_trim: true });
        let fixture = Fixture::new(&device);
        let said = run(tool("qemu-io").args(["-f", "raw", &fixture.uri()]).args([
            "-c",
            "write -P 0x11 0 4M",
            "-c",
            "write -P 0x22 -f 1M 64k",
            "-c",
            "write -z -u 2M 1M",
            "-c",
            "write -z 3M 512k",
            "-c",
            "discard 5M 1M",
            "-c",
            "aio_write -P 0x33 8M 1M",
            "-c",
            "aio_write -P 0x44 9M 32k",
            "-c",
            "aio_flush",
            "-c",
            "flush",
            "-c",
            "read -P 0x11 0 1M",
            "-c",
            "read -P 0x22 1M 64k",
            "-c",
            "read -P 0 2M 1536k",
            "-c",
            "read -P 0x33 8M 1M",
            "-c",
            "write -P 0x55 20M 20M",
            "-c",
            "read -P 0x55 20M 20M",
        ]));
        assert!(!said.contains("failed") && !said.contains("rror"), "{said}");
        assert!(device.durable(1 << 20, 65536).iter().all(|byte| *byte == 0x22));
        assert!(device.durable(9 << 20, 32768).iter().all(|byte| *byte == 0x44));
    }
}

#[test]
fn qemu_img_sees_maps_compares_and_copies_an_export() {
    let device = Mem::new(64 << 20);
    let fixture = Fixture::new(&device);
    let image = fixture.folder.path().join("image.raw");
    let mut bytes = vec![0; 64 << 20];
    bytes[1 << 20..(1 << 20) + 300_000].copy_from_slice(&pattern(1, 300_000));
    bytes[40 << 20..44 << 20].copy_from_slice(&pattern(2, 4 << 20));
    std::fs::write(&image, &bytes).unwrap();
    let raw = image.to_str().unwrap();
    let uri = fixture.uri();
    assert!(run(tool("qemu-img").args(["info", &uri])).contains("virtual size: 64 MiB"));
    run(tool("qemu-img").args(["convert", "-n", "-f", "raw", "-O", "raw", raw, &uri]));
    assert!(device.bytes(0, 64 << 20) == bytes);
    run(tool("qemu-img").args(["compare", "-f", "raw", "-F", "raw", raw, &uri]));
    let map = run(tool("qemu-img").args(["map", "--output=json", "-f", "raw", &uri]));
    assert!(map.contains("\"zero\": true") && map.contains("\"data\": true"), "{map}");
    let copy = fixture.folder.path().join("copy.qcow2");
    run(tool("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2", &uri, copy.to_str().unwrap()]));
    run(tool("qemu-img").args(["compare", "-f", "raw", "-F", "qcow2", raw, copy.to_str().unwrap()]));
    // Sixteen requests of 2 MiB in flight at once.
    let bench = ["bench", "-f", "raw", "-c", "200", "-d", "16", "-s", "2M", "-t", "none"];
    run(tool("qemu-img").args(bench).arg(&uri));
    run(tool("qemu-img").args(bench).args(["-w", "--flush-interval=16"]).arg(&uri));
}

#[test]
fn nbdinfo_describes_lists_and_maps() {
    let device = Mem::new(8 << 20);
    let table = vec![(EXPORT.to_owned(), Arc::clone(&device)), ("db/data".to_owned(), Mem::new(4096))];
    let fixture = Fixture::with(table, Limits::default(), None);
    fixture.client().write(1 << 20, &[1; 65536]);
    let json = run(tool("nbdinfo").args(["--json", &fixture.uri()]));
    for expected in [
        "\"export-size\": 8388608",
        "\"description\": \"about web/root\"",
        "\"base:allocation\"",
        "\"can_multi_conn\": true",
        "\"can_fua\": true",
        "\"can_fast_zero\": true",
        "\"can_df\": true",
        "\"can_cache\": true",
        "\"is_read_only\": false",
        "\"block_size_minimum\": 512",
        "\"block_size_preferred\": 4096",
        "\"block_size_maximum\": 33554432",
    ] {
        assert!(json.contains(expected), "{expected} is missing in {json}");
    }
    let socket = format!("nbd+unix:///?socket={}", fixture.path().display());
    let list = run(tool("nbdinfo").args(["--list", "--json", &socket]));
    assert!(list.contains("web/root") && list.contains("db/data"), "{list}");
    let map = run(tool("nbdinfo").args(["--map", &fixture.uri()]));
    let lines: Vec<Vec<&str>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..3], ["0", "1048576", "3"]);
    assert_eq!(lines[1][..3], ["1048576", "65536", "0"]);
    assert_eq!(lines[2][..3], ["1114112", "7274496", "3"]);
}

#[test]
fn nbdcopy_copies_there_and_back_over_several_connections() {
    let device = Mem::new(64 << 20);
    let fixture = Fixture::new(&device);
    let there = fixture.folder.path().join("there");
    let back = fixture.folder.path().join("back");
    let bytes = [pattern(3, 20 << 20), vec![0; 24 << 20], pattern(4, 20 << 20)].concat();
    std::fs::write(&there, &bytes).unwrap();
    let uri = fixture.uri();
    run(tool("nbdcopy").args(["--connections=4", "--flush", there.to_str().unwrap(), &uri]));
    assert!(device.durable(0, 64 << 20) == bytes);
    run(tool("nbdcopy").args(["--connections=4", &uri, back.to_str().unwrap()]));
    assert!(std::fs::read(&back).unwrap() == bytes);
    assert!(fixture.server.connections().accepted >= 4, "as many as there are processors, each time");
}

#[test]
fn nbdsh_is_answered_as_libnbd_expects() {
    let fixture = Fixture::new(&Mem::new(64 << 20));
    let script = r#"
import errno
def fails(call, code):
    try:
        call()
    except nbd.Error as error:
        assert errno.errorcode[error.errnum] == code, error
    else:
        assert False, "it should have failed"
h.set_strict_mode(0)
h.pwrite(b"a" * 4096, 0, nbd.CMD_FLAG_FUA)
assert h.pread(4096, 0) == bytearray(b"a" * 4096)
h.pwrite(b"b" * (32 << 20), 1 << 20)
assert h.pread(32 << 20, 1 << 20) == bytearray(b"b" * (32 << 20))
chunks = []
def chunk(data, offset, status, error):
    chunks.append((offset, len(data)))
h.pread_structured(5 << 20, 1 << 20, chunk)
assert sum(size for _, size in chunks) == 5 << 20, chunks
chunks.clear()
h.pread_structured(5 << 20, 1 << 20, chunk, nbd.CMD_FLAG_DF)
assert chunks == [(1 << 20, 5 << 20)], chunks
h.zero(1 << 20, 1 << 20, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(1 << 20, 1 << 20) == bytearray(1 << 20)
h.trim(1 << 20, 2 << 20)
assert h.pread(512, 2 << 20) == bytearray(512)
h.cache(1 << 20, 0)
h.flush()
fails(lambda: h.pread(512, 64 << 20), "EINVAL")
fails(lambda: h.pwrite(b"x" * 512, 64 << 20), "ENOSPC")
fails(lambda: h.pread(100, 0), "EINVAL")
fails(lambda: h.pread(33 << 20, 0), "EOVERFLOW")
h.shutdown()
"#;
    // It is a script; the libnbd it wants comes with the system's own Python.
    run(tool("nbdsh").env("PATH", "/usr/bin:/bin").args([
        "--base-allocation",
        "-u",
        &fixture.uri(),
        "-c",
        script,
    ]));
}

#[test]
fn nbdkit_passes_us_on() {
    let device = Mem::new(16 << 20);
    device.preset(&pattern(9, 16 << 20));
    let fixture = Fixture::new(&device);
    let copy = fixture.folder.path().join("copy");
    let script = format!("nbdcopy \"$uri\" {}", copy.display());
    let socket = format!("socket={}", fixture.path().display());
    let export = format!("export={EXPORT}");
    run(tool("nbdkit").args(["-U", "-", "nbd", &socket, &export, "--run", &script]));
    assert!(std::fs::read(&copy).unwrap() == pattern(9, 16 << 20));
}

#[test]
fn fio_verifies_what_it_wrote() {
    let fixture = Fixture::new(&Mem::new(16 << 20));
    let uri = format!("--uri={}", fixture.uri());
    for pattern in
        [["--rw=randwrite", "--bs=4k"], ["--rw=write", "--bs=1m"], ["--rw=randrw", "--bsrange=512-256k"]]
    {
        let job = ["--name=verify", "--ioengine=nbd", "--size=12m", "--iodepth=32", "--fsync=64"];
        let check = ["--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randseed=7"];
        let mut command = tool("fio");
        run(command.args(job).args(check).args(pattern).arg(&uri).current_dir(fixture.folder.path()));
    }
}

#[test]
fn qemu_goes_on_after_the_server_was_away() {
    let device = Mem::new(16 << 20);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nbd.sock");
    let serve = || {
        let table = Table(vec![(EXPORT.to_owned(), Arc::clone(&device))]);
        Server::new(Limits::default()).serve_unix(&path, Scope::new(Arc::new(table))).unwrap()
    };
    let serving = serve();
    let options = format!(
        "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={},file.export={EXPORT},file.reconnect-delay=30",
        path.display()
    );
    let mut qemu = tool("qemu-io")
        .args(["--image-opts", &options])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = qemu.stdin.take().unwrap();
    let mut stdout = BufReader::new(qemu.stdout.take().unwrap());
    writeln!(stdin, "write -P 1 0 64k").unwrap();
    eventually("the first write arrived", || device.bytes(0, 1) == [1]);
    serving.stop(Duration::from_secs(5));
    writeln!(stdin, "write -P 2 64k 64k\nflush\nread -P 2 64k 64k\nquit").unwrap();
    // It waits for its input to become readable, not for a line of it.
    drop(stdin);
    std::thread::sleep(Duration::from_millis(500));
    let _serving = serve();
    let mut said = String::new();
    while stdout.read_line(&mut said).unwrap() > 0 {}
    assert!(qemu.wait().unwrap().success());
    assert!(!said.contains("failed") && !said.contains("rror"), "{said}");
    assert_eq!(device.durable(64 << 10, 1), [2]);
}

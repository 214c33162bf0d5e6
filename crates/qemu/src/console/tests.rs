//! With a socket in place of a machine. A real console is in `tests/qemu`.

use std::{
    fs::File,
    io::{Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    thread::JoinHandle,
};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::LocalModes;

use super::*;

/// Places with a machine that answers each line with `told: LINE` until it receives `end`.
fn place() -> (tempfile::TempDir, Places, JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let places = Places::new(dir.path()).unwrap();
    let listener = UnixListener::bind(places.console_socket()).unwrap();
    let machine = std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 100];
            loop {
                let count = stream.read(&mut buffer).unwrap();
                if count == 0 {
                    break;
                }
                stream.write_all(b"told: ").unwrap();
                stream.write_all(&buffer[..count]).unwrap();
                if buffer[..count].starts_with(b"end") {
                    return;
                }
            }
        }
    });
    (dir, places, machine)
}

fn read_some(from: &mut impl Read, wanted: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 100];
    while !text.contains(wanted) {
        let count = from.read(&mut buffer).unwrap();
        assert!(count > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    text
}

#[test]
fn without_a_terminal_everything_is_copied_until_the_machine_ends() {
    let (_dir, places, machine) = place();
    let (mut ours, input) = UnixStream::pair().unwrap();
    let (mut shown, output) = UnixStream::pair().unwrap();
    let attached = {
        let places = places.clone();
        std::thread::spawn(move || attach(&places, input, output).unwrap())
    };
    ours.write_all(b"one \x1d two").unwrap();
    assert_eq!(read_some(&mut shown, "two"), "told: one \x1d two");
    assert!(matches!(attach(&places, &ours, &ours), Err(Error::ConsoleBusy)));
    ours.write_all(b"end").unwrap();
    drop(ours);
    assert_eq!(attached.join().unwrap(), Detached::ByMachine);
    machine.join().unwrap();
    assert!(matches!(attach(&places, &shown, &shown), Err(Error::NotListening { .. })));
}

#[test]
fn a_terminal_is_raw_while_attached_and_ctrl_bracket_detaches() {
    let (_dir, places, _machine) = place();
    let user = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&user).unwrap();
    unlockpt(&user).unwrap();
    let name = ptsname(&user, Vec::new()).unwrap().into_string().unwrap();
    let terminal = fs::OpenOptions::new().read(true).write(true).open(name).unwrap();
    let mut user = File::from(user);
    let cooked = |terminal: &File| tcgetattr(terminal).unwrap().local_modes.contains(LocalModes::ICANON);
    assert!(cooked(&terminal));

    let attached = {
        let (places, input) = (places.clone(), terminal.try_clone().unwrap());
        let output = terminal.try_clone().unwrap();
        std::thread::spawn(move || attach(&places, input, output).unwrap())
    };
    user.write_all(b"hello").unwrap();
    assert!(read_some(&mut user, "told: hello").ends_with("told: hello"), "no line end was needed");
    assert!(!cooked(&terminal));
    user.write_all(b"\x1dlost").unwrap();
    assert_eq!(attached.join().unwrap(), Detached::ByUser);
    assert!(cooked(&terminal));
    // The machine still accepts the next client.
    let (mut ours, input) = UnixStream::pair().unwrap();
    ours.write_all(b"end").unwrap();
    let (mut shown, output) = UnixStream::pair().unwrap();
    assert_eq!(attach(&places, input, output).unwrap(), Detached::ByMachine);
    assert_eq!(read_some(&mut shown, "end"), "told: end");
}

#[test]
fn an_output_that_nobody_reads_ends_the_attachment() {
    let (_dir, places, _machine) = place();
    let (mut ours, input) = UnixStream::pair().unwrap();
    let (shown, output) = UnixStream::pair().unwrap();
    drop(shown);
    ours.write_all(b"x").unwrap();
    assert_eq!(attach(&places, input, output).unwrap(), Detached::OutputClosed);
}

#[test]
fn a_log_that_grows_is_put_by_and_history_spans_both() {
    let dir = tempfile::tempdir().unwrap();
    let places = Places::new(dir.path()).unwrap();
    assert_eq!(history(&places, 100).unwrap(), b"");
    let log = places.console_log();
    // As QEMU has it open.
    let mut guest = fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
    guest.write_all(b"0123456789").unwrap();
    bound_log(&log, 10).unwrap();
    assert_eq!(fs::read(&log).unwrap(), b"0123456789", "not larger than it may be");
    guest.write_all(b"abc").unwrap();
    bound_log(&log, 10).unwrap();
    guest.write_all(b"xyz").unwrap();
    assert_eq!(fs::read(&log).unwrap(), b"xyz");
    assert_eq!(history(&places, 100).unwrap(), b"3456789abcxyz");
    assert_eq!(history(&places, 5).unwrap(), b"bcxyz");
    assert_eq!(history(&places, 2).unwrap(), b"yz");
    bound_log(&dir.path().join("none"), 10).unwrap();
}

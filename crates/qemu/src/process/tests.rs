use super::*;

fn long() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn spawn(dir: &tempfile::TempDir, script: &str) -> Process {
    Process::spawn(Command::new("/bin/sh").args(["-c", script]), &dir.path().join("log")).unwrap()
}

#[test]
fn the_end_of_a_child_is_told_with_its_status() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(spawn(&dir, "exit 3").wait(long()).unwrap(), Some(Exit::Code(3)));
    let sleeper = spawn(&dir, "exec sleep 1000");
    assert_eq!(sleeper.wait(Deadline::after(Duration::from_millis(10))).unwrap(), None);
    sleeper.kill().unwrap();
    assert_eq!(sleeper.wait(long()).unwrap(), Some(Exit::Signal(9)));
    assert_eq!(sleeper.wait(long()).unwrap(), Some(Exit::Unknown));
    sleeper.kill().expect("ending what has ended is no error");
}

#[test]
fn what_it_prints_is_in_its_log() {
    let dir = tempfile::tempdir().unwrap();
    for word in ["one", "two"] {
        spawn(&dir, &format!("echo {word}; echo {word} >&2")).wait(long()).unwrap();
    }
    assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), "one\none\ntwo\ntwo\n");
}

#[test]
fn a_process_is_found_again_only_by_all_of_its_identity() {
    let dir = tempfile::tempdir().unwrap();
    let first = spawn(&dir, "exec sleep 1000");
    let identity = first.identity().clone();
    drop(first);
    let found = Process::find(&identity).unwrap().expect("it still runs");
    let other_start = Identity { start_ticks: identity.start_ticks + 1, ..identity.clone() };
    assert!(Process::find(&other_start).unwrap().is_none());
    found.terminate().unwrap();
    assert_eq!(found.wait(long()).unwrap(), Some(Exit::Signal(15)));
    assert!(Process::find(&identity).unwrap().is_none());
}

#[test]
fn a_process_of_another_boot_of_the_host_is_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let process = spawn(&dir, "exec sleep 1000");
    let other_boot = Identity { boot_id: "another".to_owned(), ..process.identity().clone() };
    assert!(Process::find(&other_boot).unwrap().is_none());
    process.kill().unwrap();
}

#[test]
fn a_process_that_nobody_has_waited_for_counts_as_ended() {
    let dir = tempfile::tempdir().unwrap();
    let process = spawn(&dir, "exit 0");
    assert!(process.has_ended(long()).unwrap());
    assert!(Process::find(process.identity()).unwrap().is_none());
}

#[test]
fn what_cannot_be_read_of_a_process_is_no_end_of_it() {
    let ended = [io::ErrorKind::NotFound.into(), io::Error::from_raw_os_error(ESRCH)];
    for error in ended {
        assert_eq!(unless_gone::<()>(Err(error)).unwrap(), None);
    }
    let many = rustix::io::Errno::MFILE.into();
    assert_eq!(
        unless_gone::<()>(Err(many)).unwrap_err().kind(),
        io::Error::from(rustix::io::Errno::MFILE).kind()
    );
    assert_eq!(read_stat(u32::MAX).unwrap(), None);
    assert!(read_stat(std::process::id()).unwrap().is_some_and(|stat| !stat.ended));
}

#[test]
fn names_with_parentheses_and_spaces_do_not_shift_the_fields() {
    let line = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 2 3\n";
    assert_eq!(parse_stat(line), Some(Stat { start_ticks: 4242, ended: false }));
    assert_eq!(parse_stat(&line.replace(" S 1", " Z 1")), Some(Stat { start_ticks: 4242, ended: true }));
    for broken in ["", "7 (a", "7 (a) S", "7 (a) S 1 2 3"] {
        assert_eq!(parse_stat(broken), None, "{broken:?}");
    }
}

#[test]
fn a_process_that_cannot_be_watched_does_not_go_on() {
    let child = Command::new("/bin/sh").args(["-c", "exec sleep 1000"]).spawn().unwrap();
    let mut seen = None;
    let failed: Result<()> = or_killed(child, |child| {
        seen = Some(Process::of_child(child)?);
        Err(Error::system("watching the new process")(rustix::io::Errno::MFILE))
    });
    failed.unwrap_err();
    assert_eq!(seen.unwrap().wait(Deadline::after(Duration::ZERO)).unwrap(), Some(Exit::Unknown));
}

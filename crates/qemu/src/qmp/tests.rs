//! Against fake peers; the real one is in `tests/qemu`.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    thread::JoinHandle,
};

use super::*;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}"#;

/// A peer that runs `talk` on its first connection.
fn peer(
    talk: impl FnOnce(BufReader<UnixStream>) + Send + 'static,
) -> (tempfile::TempDir, Result<(Qmp, Incoming)>, JoinHandle<()>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    let thread = std::thread::spawn(move || talk(BufReader::new(listener.accept().unwrap().0)));
    let ends = connect(&path);
    (dir, ends, thread)
}

fn say(stream: &BufReader<UnixStream>, text: &str) {
    // The other side may have hung up, as it should on invalid data.
    let _ = stream.get_ref().write_all(text.as_bytes());
}

fn hear(stream: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

fn greet(stream: &mut BufReader<UnixStream>) {
    say(stream, &format!("{GREETING}\r\n"));
    let asked = hear(stream);
    assert_eq!(asked["execute"], "qmp_capabilities");
    say(stream, &format!("{{\"return\": {{}}, \"id\": {}}}\r\n", asked["id"]));
}

/// Stays until the other side hangs up.
fn linger(stream: &mut BufReader<UnixStream>) {
    let _ = stream.read_line(&mut String::new());
}

/// Receives until `enough`, an error, or ten seconds.
fn receive(incoming: &mut Incoming, mut enough: impl FnMut(&[Notice]) -> bool) -> Result<Vec<Notice>> {
    let deadline = Deadline::after(Duration::from_secs(10));
    let mut notices = Vec::new();
    while !enough(&notices) {
        assert!(!deadline.passed(), "only {notices:?}");
        incoming.wait(deadline, |notice| notices.push(notice))?;
    }
    Ok(notices)
}

fn ready(incoming: &mut Incoming) {
    let notices = receive(incoming, |notices| !notices.is_empty()).unwrap();
    assert_eq!(notices, [Notice::Ready(Version { major: 10, minor: 0, micro: 2 })]);
}

#[test]
fn answers_reach_their_senders_and_events_come_in_order() {
    let (_dir, ends, thread) = peer(|mut stream| {
        greet(&mut stream);
        let [first, second] = [hear(&mut stream), hear(&mut stream)];
        assert_eq!(
            (first["execute"].as_str(), second["execute"].as_str()),
            (Some("query-status"), Some("set-action"))
        );
        assert_eq!(second["arguments"], json!({ "reboot": "reset" }));
        say(&stream, r#"{"timestamp": {"seconds": 7, "microseconds": 5}, "event": "STOP"}"#);
        say(&stream, &format!("\n{{\"return\": {{}}, \"id\": {}}}\n", second["id"]));
        say(
            &stream,
            r#"{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "RESET", "data": {"guest": true}}"#,
        );
        let status = r#"{"status": "guest-panicked", "running": false, "new": 1}"#;
        say(
            &stream,
            &format!("\n{{\"return\": {status}, \"id\": {}}}\n{{\"return\": 1, \"id\": 99}}\n", first["id"]),
        );
        linger(&mut stream);
    });
    let (qmp, mut incoming) = ends.unwrap();
    assert!(matches!(qmp.start(&QueryStatus), Err(Error::NotConnected)), "not before the greeting");
    ready(&mut incoming);
    let status = qmp.start(&QueryStatus).unwrap();
    let action = SetAction { reboot: RebootAction::Reset };
    let action = qmp.start(&action).unwrap();
    assert!(status.take().is_none());
    let notices = receive(&mut incoming, |notices| notices.len() == 2).unwrap();
    let event = |name: &str, time, data: Value| {
        let data = data.as_object().unwrap().clone();
        Notice::Event(Event { name: name.to_owned(), data, time: bygone_model::Micros(time) })
    };
    assert_eq!(notices, [event("STOP", 7_000_005, json!({})), event("RESET", 0, json!({ "guest": true }))]);
    let mut found = None;
    let _ = receive(&mut incoming, |_| {
        found = found.take().or_else(|| status.take());
        found.is_some()
    });
    assert_eq!(action.wait(Duration::ZERO).unwrap(), Nothing {});
    assert_eq!(found.unwrap().unwrap(), Status { running: false, state: RunState::GuestPanicked });
    drop(incoming);
    assert!(matches!(qmp.start(&QueryStatus), Err(Error::NotConnected)), "not after the end");
    thread.join().unwrap();
}

#[test]
fn a_refusal_carries_the_words_of_qemu() {
    let (_dir, ends, thread) = peer(|mut stream| {
        greet(&mut stream);
        let asked = hear(&mut stream);
        let error = r#"{"class": "GenericError", "desc": "Resetting the Virtual Machine is required"}"#;
        say(&stream, &format!("{{\"error\": {error}, \"id\": {}}}\n", asked["id"]));
        linger(&mut stream);
    });
    let (qmp, mut incoming) = ends.unwrap();
    ready(&mut incoming);
    let answer = qmp.start(&Cont).unwrap();
    let mut found = None;
    let _ = receive(&mut incoming, |_| {
        found = found.take().or_else(|| answer.take());
        found.is_some()
    });
    let error = found.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "QEMU refuses 'cont': Resetting the Virtual Machine is required");
    drop(incoming);
    thread.join().unwrap();
}

#[test]
fn a_command_without_answer_ends_at_its_deadline_and_a_late_answer_is_dropped() {
    let (_dir, ends, thread) = peer(|mut stream| {
        greet(&mut stream);
        let asked = hear(&mut stream);
        let next = hear(&mut stream);
        for id in [&asked["id"], &next["id"]] {
            say(&stream, &format!("{{\"return\": {{}}, \"id\": {id}}}\n"));
        }
    });
    let (qmp, mut incoming) = ends.unwrap();
    ready(&mut incoming);
    let late = qmp.execute(&Quit, Duration::from_millis(30));
    assert!(matches!(late, Err(Error::Unanswered { command: "quit", .. })), "{late:?}");
    let next = qmp.start(&SystemReset).unwrap();
    let _ = receive(&mut incoming, |_| next.take().is_some_and(|answer| answer.is_ok()));
    thread.join().unwrap();
}

#[test]
fn who_waits_is_told_of_the_end_of_the_connection() {
    let (_dir, ends, thread) = peer(|mut stream| {
        greet(&mut stream);
        hear(&mut stream);
    });
    let (qmp, mut incoming) = ends.unwrap();
    ready(&mut incoming);
    let waiting = qmp.start(&Quit).unwrap();
    let end = receive(&mut incoming, |_| false);
    assert!(matches!(end, Err(Error::NotConnected)), "{end:?}");
    assert!(matches!(waiting.wait(Duration::from_secs(10)), Err(Error::NotConnected)));
    thread.join().unwrap();
}

#[test]
fn commands_without_answers_are_bounded() {
    let (_dir, ends, thread) = peer(|mut stream| {
        greet(&mut stream);
        for _ in 0..COMMANDS_MAX {
            hear(&mut stream);
        }
    });
    let (qmp, mut incoming) = ends.unwrap();
    ready(&mut incoming);
    let waiting: Vec<_> = (0..COMMANDS_MAX).map(|_| qmp.start(&QueryStatus).unwrap()).collect();
    assert!(matches!(qmp.start(&QueryStatus), Err(Error::TooManyCommands)));
    drop(waiting);
    thread.join().unwrap();
}

#[test]
fn nonsense_ends_the_connection_with_a_clear_error() {
    let deep = "[".repeat(100_000);
    let long = format!("{{\"event\": \"{}", "x".repeat(2 * LINE_BYTES_MAX));
    let cases: [(&str, bool, &str); 10] = [
        ("SSH-2.0-OpenSSH_9.2\r\n", false, "not JSON"),
        ("{\"return\": {}, \"id\": 1}\n", false, "no greeting"),
        ("{\"QMP\": 5}\n", false, "not JSON"),
        ("{\"QMP\": {\"version\": {}}}\n", false, "not JSON"),
        (&deep, true, ""),
        ("{}\n", true, "no known kind"),
        ("[1]\n", true, "not JSON"),
        (GREETING, true, ""),
        ("\u{0}\u{1}\n", true, "not JSON"),
        (&long, true, "more than"),
    ];
    for (text, after_greeting, expected) in cases {
        let text = format!("{text}\n");
        let (_dir, ends, thread) = peer(move |mut stream| {
            if after_greeting {
                greet(&mut stream);
            }
            say(&stream, &text);
        });
        let (_qmp, mut incoming) = ends.unwrap();
        let error = receive(&mut incoming, |_| false).unwrap_err();
        assert!(matches!(error, Error::Protocol(_)) && error.to_string().contains(expected), "{error}");
        drop(incoming);
        thread.join().unwrap();
    }
}

#[test]
fn an_answer_of_another_form_is_an_error_of_that_command_only() {
    let (_dir, ends, thread) = peer(|mut stream| {
        greet(&mut stream);
        let asked = hear(&mut stream);
        say(&stream, &format!("{{\"return\": {{\"status\": 5}}, \"id\": {}}}\n", asked["id"]));
        let asked = hear(&mut stream);
        let status = r#"{"status": "quite-new", "running": true}"#;
        say(&stream, &format!("{{\"return\": {status}, \"id\": {}}}\n", asked["id"]));
    });
    let (qmp, mut incoming) = ends.unwrap();
    ready(&mut incoming);
    for expected in [None, Some(RunState::Other("quite-new".to_owned()))] {
        let answer = qmp.start(&QueryStatus).unwrap();
        let mut found = None;
        let _ = receive(&mut incoming, |_| {
            found = found.take().or_else(|| answer.take());
            found.is_some()
        });
        // The end of the connection may have come with the answer.
        let found = found.or_else(|| answer.take());
        assert_eq!(found.unwrap().ok().map(|status| status.state), expected);
    }
    thread.join().unwrap();
}

#[test]
fn a_full_queue_or_a_missing_listener_is_an_error_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("qmp");
    assert!(matches!(connect(&path), Err(Error::NotListening { .. })));
    // Room for one, as QEMU has it; the kernel lets in one more.
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&socket, 1).unwrap();
    let results: Vec<_> = (0..4).map(|_| connect(&path)).collect();
    assert!(results[0].is_ok());
    assert!(matches!(results[3], Err(Error::NotListening { .. })));
}

#[test]
fn lines_are_cut_the_same_however_they_arrive() {
    let text = b"one\r\n\n  two \nthree\n";
    for step in 1..text.len() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for part in text.chunks(step) {
            lines
                .feed(part, |line| {
                    seen.push(String::from_utf8_lossy(line).into_owned());
                    Ok::<(), ProtocolError>(())
                })
                .unwrap();
        }
        assert_eq!(seen, ["one", "two", "three"]);
    }
}

#[test]
fn no_line_makes_the_parser_panic() {
    let seeds = [
        GREETING,
        r#"{"return": null, "id": 3}"#,
        r#"{"event": "STOP", "timestamp": {"seconds": 9223372036854775807, "microseconds": -9}}"#,
    ];
    let mut state = 1_u64;
    for seed in seeds {
        for _ in 0..20_000 {
            let mut bytes = seed.as_bytes().to_vec();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 20) as u8;
            }
            let _ = Message::parse(&bytes);
        }
    }
}

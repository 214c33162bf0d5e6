use std::{
    io::{Read, Write},
    net::TcpStream,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    sync::{Arc, Mutex, atomic::Ordering},
    thread,
    time::Duration,
};

use bygone_block::{
    Geometry,
    nbd::{Address, Client as Peer, Ending, Limits, ListenError, Observer, Server, Stopped},
};

use crate::{
    EXPORT, Fixture,
    client::*,
    device::{Gate, Mem},
    eventually, only,
};

/// Records what an observer is told.
#[derive(Default)]
pub(crate) struct Diary {
    lines: Mutex<Vec<(Peer, Option<Ending>)>>,
}

impl Diary {
    pub(crate) fn endings(&self) -> Vec<Ending> {
        self.lines.lock().unwrap().iter().filter_map(|(_, ending)| *ending).collect()
    }

    fn lines(&self) -> Vec<(Peer, Option<Ending>)> {
        self.lines.lock().unwrap().clone()
    }
}

impl Observer for Diary {
    fn connected(&self, client: &Peer) {
        self.lines.lock().unwrap().push((client.clone(), None));
    }

    fn disconnected(&self, client: &Peer, ending: Ending) {
        self.lines.lock().unwrap().push((client.clone(), Some(ending)));
    }
}

fn observed(device: &Arc<Mem>) -> (Fixture, Arc<Diary>) {
    let diary = Arc::new(Diary::default());
    let table = vec![(EXPORT.to_owned(), Arc::clone(device))];
    (Fixture::with(table, Limits::default(), Some(diary.clone())), diary)
}

#[test]
fn the_observer_hears_of_every_client_and_how_it_ended() {
    let device = Mem::new(1 << 20);
    let (fixture, diary) = observed(&device);
    let ended = |count: usize| eventually("the client is gone", || diary.endings().len() == count);
    drop(Client::connect(&fixture.path()));
    fixture.client().send(&request(DISC, 0, 0, 0, 0));
    ended(1);
    drop(fixture.client());
    ended(2);
    fixture.client().send(&[0; 28]);
    ended(3);
    let mut last = fixture.client();
    last.flush();
    let stopped = fixture.serving.stop(Duration::from_secs(5));
    assert_eq!(stopped, Stopped { finished: 1, cut: 0, hanging: 0 });
    assert_eq!(diary.endings(), [Ending::Asked, Ending::Vanished, Ending::Violation, Ending::Stopped]);
    let lines = diary.lines();
    assert_eq!(lines.len(), 8);
    for pair in lines.chunks(2) {
        assert_eq!(pair[0].0, pair[1].0);
        assert_eq!(pair[0].0.export, EXPORT);
        assert!(
            pair[0].0.peer.starts_with(&format!("unix process {}", std::process::id())),
            "{}",
            pair[0].0.peer
        );
    }
    last.assert_closed();
}

#[test]
fn who_asks_about_extents_and_goes_costs_one_piece_more() {
    const BLOCK_BYTES: u32 = 4096;
    const SIZE_BYTES: u32 = 64 << 20;
    const PIECE_BYTES: u32 = 16 << 20;
    let size_bytes = u64::from(SIZE_BYTES);
    let geometry = Geometry { size_bytes, block_bytes: BLOCK_BYTES, read_only: false, can_trim: true };
    let device = Mem::shaped(geometry);
    let gate = Gate::new();
    let held = Arc::clone(&gate);
    Mem::hook(&device.on_read, move |_| {
        held.pass();
        Ok(())
    });
    let (fixture, diary) = observed(&device);
    let mut client = fixture.client();
    client.send(&request(STATUS, 0, 1, 0, SIZE_BYTES));
    eventually("it is under way", || gate.waiting.load(Ordering::SeqCst) == 1);
    drop(client);
    gate.open();
    eventually("it is gone", || diary.endings() == [Ending::Vanished]);
    let told = device.extents_told.load(Ordering::SeqCst);
    assert_eq!(told, (PIECE_BYTES / BLOCK_BYTES) as usize);
}

#[test]
fn a_client_is_gone_only_when_its_last_request_is() {
    let device = Mem::new(1 << 20);
    device.cold.store(true, Ordering::SeqCst);
    let gate = Gate::new();
    let held = Arc::clone(&gate);
    Mem::hook(&device.on_read, move |_| {
        held.pass();
        Ok(())
    });
    let held = Arc::clone(&gate);
    Mem::hook(&device.on_flush, move |()| {
        held.pass();
        Ok(())
    });
    let (fixture, diary) = observed(&device);
    let mut client = fixture.client();
    client.send(&[request(READ, 0, 1, 0, 512), request(FLUSH, 0, 2, 0, 0)].concat());
    eventually("both are under way", || gate.waiting.load(Ordering::SeqCst) == 2);
    drop(client);
    thread::sleep(Duration::from_millis(200));
    assert_eq!(diary.endings(), []);
    let holders = Arc::strong_count(&device);
    gate.open();
    eventually("it is gone", || diary.endings() == [Ending::Vanished]);
    assert!(Arc::strong_count(&device) < holders, "the device is let go of");
}

#[test]
fn stopping_answers_what_is_under_way_and_then_closes() {
    let device = Mem::new(1 << 20);
    let gate = Gate::new();
    let held = Arc::clone(&gate);
    Mem::hook(&device.on_flush, move |()| {
        held.pass();
        Ok(())
    });
    let fixture = Fixture::new(&device);
    let mut clients: Vec<Client> = (0..3).map(|_| fixture.client()).collect();
    for client in &mut clients {
        client.send(&request(FLUSH, 0, 1, 0, 0));
    }
    let mut greeting = Client::connect(&fixture.path());
    eventually("all are under way", || gate.waiting.load(Ordering::SeqCst) == 3);
    let path = fixture.path();
    let stopping = thread::spawn(move || (fixture.serving.stop(Duration::from_secs(10)), fixture.folder));
    eventually("nobody is let in any more", || !path.exists());
    greeting.assert_closed();
    gate.open();
    for client in &mut clients {
        assert_eq!(client.outcome(1).error, 0);
        client.assert_closed();
    }
    let (stopped, _folder) = stopping.join().unwrap();
    assert_eq!(stopped.cut, 0);
    assert!(stopped.finished >= 3);
}

#[test]
fn whoever_asks_during_the_handshake_while_it_is_stopping_is_told_so() {
    let fixture = Fixture::new(&Mem::new(1 << 20));
    let path = fixture.path();
    let (mut asks, mut idle, mut leaves) =
        (Client::connect(&path), Client::connect(&path), Client::connect(&path));
    eventually("all are greeted", || fixture.server.connections().greeting == 3);
    let stopping = thread::spawn(move || (fixture.serving.stop(Duration::from_secs(10)), fixture.folder));
    eventually("nobody is let in any more", || !path.exists());
    assert_eq!(asks.go(EXPORT).unwrap_err().0, ERR_SHUTDOWN);
    assert_eq!(leaves.only_answer(OPT_ABORT, b"").0, REP_ACK);
    for client in [&mut asks, &mut idle, &mut leaves] {
        client.assert_closed();
    }
    let (stopped, _folder) = stopping.join().unwrap();
    assert_eq!(stopped, Stopped { finished: 3, cut: 0, hanging: 0 });
}

#[test]
fn stopping_does_not_wait_for_ever() {
    let device = Mem::new(1 << 20);
    let gate = Gate::new();
    let held = Arc::clone(&gate);
    Mem::hook(&device.on_flush, move |()| {
        held.pass();
        Ok(())
    });
    let fixture = Fixture::new(&device);
    let mut stuck = fixture.client();
    stuck.send(&request(FLUSH, 0, 1, 0, 0));
    let mut lazy = fixture.client();
    lazy.send(&request(READ, 0, 1, 0, 1 << 20).repeat(64));
    eventually("it is under way", || gate.waiting.load(Ordering::SeqCst) == 1);
    thread::sleep(Duration::from_millis(100));
    let stopped = fixture.serving.stop(Duration::from_millis(200));
    assert_eq!(stopped, Stopped { finished: 0, cut: 2, hanging: 1 });
    gate.open();
    eventually("the stuck one is gone as well", || fixture.server.connections().serving == 0);
    assert_eq!(fixture.serving.stop(Duration::ZERO), Stopped::default());
}

#[test]
fn the_socket_is_private_and_goes_with_its_server() {
    let fixture = Fixture::new(&Mem::new(512));
    let path = fixture.path();
    assert_eq!(fixture.serving.address(), &Address::Unix(path.clone()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let Fixture { serving, folder, .. } = fixture;
    drop(serving);
    assert!(!path.exists());
    drop(folder);
}

#[test]
fn a_stale_socket_is_replaced_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let (server, scope) = (Server::new(Limits::default()), only(&Mem::new(512)));
    let path = folder.path().join("nbd.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let serving = server.serve_unix(&path, scope.clone()).unwrap();
    assert!(matches!(server.serve_unix(&path, scope.clone()), Err(ListenError::InUse { .. })));
    Client::connect(&path).go(EXPORT).unwrap();
    // Another process's socket at the same path is left alone.
    std::fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    serving.stop(Duration::from_secs(1));
    assert!(path.exists());
    drop(other);
    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(server.serve_unix(&file, scope.clone()), Err(ListenError::NotASocket { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), b"precious");
    let long = folder.path().join("x".repeat(120));
    assert!(matches!(server.serve_unix(&long, scope.clone()), Err(ListenError::PathTooLong { .. })));
    let nowhere = folder.path().join("missing/nbd.sock");
    assert!(matches!(server.serve_unix(&nowhere, scope), Err(ListenError::System { .. })));
}

#[test]
fn a_server_comes_back_on_the_same_path() {
    let device = Mem::new(1 << 20);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nbd.sock");
    for round in 0..5_u8 {
        let serving = Server::new(Limits::default()).serve_unix(&path, only(&device)).unwrap();
        let mut client = Client::connect(&path);
        client.go(EXPORT).unwrap();
        assert_eq!(client.read(0, 512), [round; 512]);
        assert_eq!(client.write(0, &[round + 1; 512]), 0);
        serving.stop(Duration::from_secs(5));
        client.assert_closed();
    }
}

#[test]
fn tcp_is_served_as_well() {
    let device = Mem::new(1 << 20);
    let server = Server::new(Limits::default());
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let serving = match server.serve_tcp(address.parse().unwrap(), only(&device)) {
            Ok(serving) => serving,
            Err(error) if address.starts_with('[') => {
                eprintln!("no IPv6 here: {error}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        let Address::Tcp(bound) = *serving.address() else { panic!("not TCP") };
        let mut stream = TcpStream::connect(bound).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        stream
            .write_all(&[&3_u32.to_be_bytes()[..], &option(OPT_EXPORT_NAME, EXPORT.as_bytes())].concat())
            .unwrap();
        let mut export = [0; 10];
        stream.read_exact(&mut export).unwrap();
        // The refusal of an oversized write arrives although its data is never read.
        stream.write_all(&request(WRITE, 0, 1, 0, u32::MAX)).unwrap();
        stream.write_all(&vec![0; 3 << 20]).unwrap();
        let mut refusal = [0; 16];
        stream.read_exact(&mut refusal).unwrap();
        assert_eq!(refusal[4..8], EINVAL.to_be_bytes());
        serving.stop(Duration::from_secs(5));
        assert!(TcpStream::connect(bound).is_err(), "nobody listens any more");
    }
}

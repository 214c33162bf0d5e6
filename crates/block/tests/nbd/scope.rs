//! What a listener offers, and to which clients.

use std::{
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixListener},
    sync::Arc,
    time::Duration,
};

use bygone_block::nbd::{Address, Limits, ListenError, Peers, Scope, Server};

use crate::{
    Table,
    client::*,
    device::{Call, Mem},
    lifecycle::Diary,
};

fn two() -> (Arc<Mem>, Scope) {
    let device = Mem::new(1 << 20);
    let table = vec![("web/root".to_owned(), Arc::clone(&device)), ("db/root".to_owned(), Mem::new(512))];
    (device, Scope::new(Arc::new(Table(table))))
}

fn uid() -> u32 {
    rustix::process::getuid().as_raw()
}

#[test]
fn a_socket_offers_its_own_exports_and_knows_no_others() {
    let (_, all) = two();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(Limits::default());
    let (wide, narrow) = (folder.path().join("wide.sock"), folder.path().join("narrow.sock"));
    let _wide = server.serve_unix(&wide, all.clone()).unwrap();
    let _narrow = server.serve_unix(&narrow, all.only(["db/root", "refused"])).unwrap();
    let names = |path| {
        let answers = Client::connect(path).option(OPT_LIST, b"");
        answers.iter().filter(|(answer, _)| *answer == REP_SERVER).count()
    };
    assert_eq!((names(&wide), names(&narrow)), (2, 1));
    Client::connect(&wide).go("web/root").unwrap();
    Client::connect(&narrow).go("db/root").unwrap();
    let mut client = Client::connect(&narrow);
    let (answer, text) = client.go("web/root").unwrap_err();
    assert_eq!(answer, ERR_UNKNOWN, "{text}");
    assert_eq!(
        client.go("nowhere").unwrap_err(),
        (answer, text),
        "nothing tells it from one that does not exist"
    );
    assert_eq!(client.go("refused").unwrap_err().0, ERR_POLICY);
    let mut old = Client::connect(&narrow);
    old.send(&option(OPT_EXPORT_NAME, b"web/root"));
    old.assert_closed();
}

#[test]
fn nothing_is_written_through_a_read_only_socket() {
    let (device, all) = two();
    device.preset(&[7; 4096]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nbd.sock");
    let _serving = Server::new(Limits::default()).serve_unix(&path, all.read_only()).unwrap();
    let mut client = Client::connect(&path);
    let (_, flags) = client.go("web/root").unwrap();
    assert_eq!(flags & 0b10, 0b10, "it says that it is read-only");
    assert_eq!(client.read(0, 4096), [7; 4096]);
    assert_eq!(client.write(0, &[1; 512]), EPERM);
    for kind in [ZEROES, TRIM] {
        assert_eq!(client.ask(kind, 0, 0, 512).error, EPERM);
    }
    assert!(!device.calls().iter().any(|call| matches!(call, Call::Write(_))));
}

#[test]
fn a_socket_for_one_user_or_address_turns_others_away() {
    let (_, all) = two();
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(Limits::default());
    for (user, welcome) in [(uid(), true), (uid() + 1, false)] {
        let path = folder.path().join(format!("{user}.sock"));
        let _serving = server.serve_unix(&path, all.clone().for_peers(Peers::User(user))).unwrap();
        if welcome {
            Client::connect(&path).go("web/root").unwrap();
        } else {
            Client::silent(&path).assert_closed();
        }
    }
    for (peers, welcome) in [
        (Peers::Address([127, 0, 0, 1].into()), true),
        (Peers::Address([127, 0, 0, 2].into()), false),
        (Peers::User(uid()), false),
    ] {
        let serving = server.serve_tcp(([127, 0, 0, 1], 0).into(), all.clone().for_peers(peers)).unwrap();
        let Address::Tcp(bound) = *serving.address() else { panic!("not TCP") };
        let mut stream = TcpStream::connect(bound).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let greeted = std::io::Read::read(&mut stream, &mut [0; 18]).is_ok_and(|len| len > 0);
        assert_eq!(greeted, welcome, "{peers:?}");
    }
}

#[test]
fn an_inherited_socket_keeps_its_name_and_its_clients_over_a_change_of_servers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nbd.sock");
    let made = UnixListener::bind(&path).unwrap();
    for _ in 0..2 {
        // It connects while no server is there, and is served later.
        let mut client = Client::silent(&path);
        let (_, all) = two();
        let handed = OwnedFd::from(made.try_clone().unwrap());
        let serving = Server::new(Limits::default()).serve_inherited(handed, all).unwrap();
        assert_eq!(serving.address(), &Address::Unix(path.clone()));
        client.greeting();
        client.send(&3_u32.to_be_bytes());
        client.go("web/root").unwrap();
        serving.stop(Duration::from_secs(1));
        assert!(path.exists());
    }
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let bound = tcp.local_addr().unwrap();
    let serving = Server::new(Limits::default()).serve_inherited(tcp.into(), two().1).unwrap();
    assert_eq!(serving.address(), &Address::Tcp(bound));
    TcpStream::connect(bound).unwrap();
}

#[test]
fn what_cannot_take_clients_is_not_inherited() {
    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(folder.path().join("file")).unwrap();
    let (connected, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    for descriptor in [OwnedFd::from(file), OwnedFd::from(connected)] {
        let refused = Server::new(Limits::default()).serve_inherited(descriptor, two().1);
        assert!(matches!(refused, Err(ListenError::NotListening)));
    }
}

#[test]
fn each_socket_has_an_observer_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::new(Limits::default());
    let diaries: Vec<Arc<Diary>> = (0..2)
        .map(|number| {
            let diary = Arc::new(Diary::default());
            let path = folder.path().join(format!("{number}.sock"));
            let serving = server.serve_unix(&path, two().1.observed(diary.clone())).unwrap();
            if number == 1 {
                Client::connect(&path).go("web/root").unwrap();
            }
            serving.stop(Duration::from_secs(5));
            diary
        })
        .collect();
    assert_eq!(diaries.iter().map(|diary| diary.endings().len()).collect::<Vec<_>>(), [0, 1]);
}

//! Which client is evicted when there are too many.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::Arc,
    thread,
    time::Duration,
};

use bygone_block::nbd::{Address, Limits, Server};

use crate::{EXPORT, Fixture, client::*, device::Mem, eventually, only};

fn few(connections_max: usize, remote_max: usize) -> Limits {
    Limits { connections_max, remote_max, greeting_max: 3, ..Limits::default() }
}

/// A client over TCP, either in transmission or silent.
fn remote(address: &Address, goes: bool) -> TcpStream {
    let Address::Tcp(bound) = *address else { panic!("not TCP") };
    let mut stream = TcpStream::connect(bound).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    if goes {
        let _may_be_refused = stream
            .write_all(&[&3_u32.to_be_bytes()[..], &option(OPT_EXPORT_NAME, EXPORT.as_bytes())].concat());
        let _may_be_refused = stream.read_exact(&mut [0; 28]);
    }
    stream
}

#[test]
fn clients_from_elsewhere_keep_no_disk_of_this_machine_from_connecting() {
    for goes in [false, true] {
        let device = Mem::new(1 << 20);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nbd.sock");
        let server = Server::new(few(4, 2));
        let tcp = server.serve_tcp(([127, 0, 0, 1], 0).into(), only(&device)).unwrap();
        let _unix = server.serve_unix(&path, only(&device)).unwrap();
        let _idle: Vec<TcpStream> = (0..12).map(|_| remote(tcp.address(), goes)).collect();
        eventually("all were accepted", || {
            let counts = server.connections();
            counts.accepted + counts.turned_away >= 12
        });
        let mut disks: Vec<Client> = (0..2)
            .map(|_| {
                let mut client = Client::connect(&path);
                client.go(EXPORT).unwrap();
                client
            })
            .collect();
        for disk in &mut disks {
            assert_eq!(disk.write(0, &[1; 512]), 0);
        }
    }
}

#[test]
fn the_handshake_that_was_silent_for_longest_gives_way_to_another() {
    let fixture = Fixture::limited(&Mem::new(512), few(4, 2));
    let mut idle: Vec<Client> = (0..3)
        .map(|_| {
            let client = Client::connect(&fixture.path());
            thread::sleep(Duration::from_millis(20));
            client
        })
        .collect();
    // The first one sends an option after all.
    idle[0].option(OPT_LIST, b"");
    fixture.client().flush();
    idle.remove(1).assert_closed();
    idle[0].option(OPT_LIST, b"");
    idle[1].option(OPT_LIST, b"");
    eventually("one gave way", || fixture.server.connections().gave_way == 1);
}

#[test]
fn the_reader_that_was_silent_for_longest_gives_way_to_a_disk_and_a_disk_to_nobody() {
    let device = Mem::new(1 << 20);
    let fixture = Fixture::limited(&device, few(3, 2));
    let reading = fixture.folder.path().join("past.sock");
    let _serving = fixture.server.serve_unix(&reading, only(&device).read_only()).unwrap();
    let mut readers: Vec<Client> = (0..3)
        .map(|_| {
            let mut client = Client::connect(&reading);
            client.go(EXPORT).unwrap();
            thread::sleep(Duration::from_millis(20));
            client
        })
        .collect();
    let mut fourth = Client::connect(&reading);
    assert_eq!(fourth.go(EXPORT).unwrap_err().0, ERR_POLICY, "a reader does not drive another out");
    readers[0].read(0, 512);
    let mut disks = vec![fixture.client()];
    readers.remove(1).assert_closed();
    readers[0].read(0, 512);
    readers[1].read(0, 512);
    disks.extend((0..2).map(|_| fixture.client()));
    eventually("all readers have gone", || fixture.server.connections().gave_way == 3);
    let mut one_too_many = Client::connect(&fixture.path());
    assert_eq!(one_too_many.go(EXPORT).unwrap_err().0, ERR_POLICY);
    for disk in &mut disks {
        assert_eq!(disk.write(0, &[1; 512]), 0);
    }
    assert!(Arc::strong_count(&device) > 0);
}

#[test]
fn a_machine_finds_a_place_on_its_own_socket_whoever_else_is_there() {
    let device = Mem::new(1 << 20);
    let fixture = Fixture::limited(&device, Limits { kept_max: 4, ..few(1, 1) });
    let machine = fixture.folder.path().join("machine.sock");
    let _serving = fixture.server.serve_unix(&machine, only(&device).kept()).unwrap();
    let mut other = fixture.client();
    let _idle: Vec<Client> = (0..3).map(|_| Client::connect(&fixture.path())).collect();
    let mut disks: Vec<Client> = (0..4)
        .map(|_| {
            let mut client = Client::connect(&machine);
            client.go(EXPORT).unwrap();
            client
        })
        .collect();
    Client::silent(&machine).assert_closed();
    for disk in disks.iter_mut().chain([&mut other]) {
        assert_eq!(disk.write(0, &[1; 512]), 0);
    }
    let counts = fixture.server.connections();
    assert_eq!((counts.serving, counts.greeting, counts.gave_way, counts.turned_away), (5, 3, 0, 1));
    disks.pop();
    eventually("a place is free", || fixture.server.connections().serving == 4);
    Client::connect(&machine).go(EXPORT).unwrap();
}

//! Requests on the manager's socket, and exports.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
};

use bygone_block::nbd;
use jiff::{SignedDuration, Timestamp, fmt::temporal::DateTimeParser};

use super::*;
use crate::{
    api::{Answers, Asked, Caller, Exported, Items, MomentMeant, Nothing, Progress, Reply, call::ExportTo},
    exports::ManagerExports,
    runner::qemu::Qemu,
    socket::{self, ApiServer},
};

/// A client that leaves as soon as it has an item.
#[derive(Default)]
struct Leaving(bool);

impl Answers for Leaving {
    fn progress(&mut self, _: Progress) -> bool {
        true
    }
    fn note(&mut self, _: String) {}
    fn wanted(&mut self) -> bool {
        !self.0
    }
}

impl Items<Exported> for Leaving {
    fn item(&mut self, _: Exported) -> bool {
        self.0 = true;
        true
    }
}

#[test]
fn an_export_is_gone_when_the_client_that_gave_it_up_returns() {
    let (world, manager) = World::with(&["web"]);
    let _api = ApiServer::start(manager).unwrap();
    let socket: PathBuf = world.dir.path().join("export.sock");
    let stream = socket::connect(&world.paths().api_socket()).unwrap();
    let export = call::Export { what: "web".into(), to: ExportTo::NbdUnix(socket.clone()) };
    let asked = socket::ask(&stream, &export, false, &mut Leaving::default());
    assert!(matches!(asked, Err(Error::Abandoned)), "{asked:?}");
    assert!(!socket.exists());
}

#[test]
fn a_client_for_whom_there_is_no_place_is_told_so() {
    let (world, manager) = World::with(&["web"]);
    let _api = ApiServer::start(manager).unwrap();
    let connect = || socket::connect(&world.paths().api_socket()).unwrap();
    let mut clients: Vec<UnixStream> = (0..128).map(|_| connect()).collect();
    let ask = |stream: &UnixStream| socket::ask(stream, &call::Status {}, false, &mut Nobody);
    for closed in [false, true] {
        let stream = connect();
        if closed {
            // The manager's side is closed before anything is written.
            let hung_up = rustix::event::PollFlags::HUP;
            let mut fds = [rustix::event::PollFd::new(&stream, hung_up)];
            rustix::event::poll(&mut fds, None).unwrap();
        }
        let refused = ask(&stream).unwrap_err().failure();
        assert_eq!(refused.code(), "too-many-clients", "{refused}");
    }
    drop(clients.pop());
    wait_for("a place", || ask(&connect()).is_ok());
}

/// The manager's answer to `at`, requested from this time zone.
fn meant(world: &World, at: &str, zone: &str) -> MomentMeant {
    let request = call::When { name: "web".into(), at: at.to_owned() }.into();
    let caller = Caller { zone: Some(zone.to_owned()), ..Caller::default() };
    let asked = Asked { request, caller };
    let mut stream = UnixStream::connect(world.paths().api_socket()).unwrap();
    stream.write_all(format!("{}\n", serde_json::to_string(&asked).unwrap()).as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    match serde_json::from_str::<Reply<Nothing, MomentMeant>>(&line).unwrap() {
        Reply::Done(meant) => meant,
        other => panic!("{at} in {zone}: {other:?}"),
    }
}

#[test]
fn a_time_of_day_is_that_of_the_client_and_asking_what_it_means_changes_nothing() {
    let (world, manager) = World::with(&["web"]);
    let point = |label: &str| {
        let point = call::Point { name: "web".into(), at: None, label: label.into(), hold: None };
        manager.handle(&point, &mut Nobody).unwrap()
    };
    let before = point("before");
    std::thread::sleep(Duration::from_millis(1100));
    let after = point("after");
    let between = before.time.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(1);
    let target = manager.target("web").unwrap();
    let head = target.log.head_seq();
    let _api = ApiServer::start(manager.clone()).unwrap();
    for zone in ["Asia/Tokyo", "America/New_York", "UTC", "+05:45"] {
        let there = DateTimeParser::new().parse_time_zone(zone).unwrap();
        let text = between.to_zoned(there).strftime("%Y-%m-%d %H:%M:%S").to_string();
        let meant = meant(&world, &text, zone);
        assert!((before.seq..after.seq).contains(&meant.moment.seq), "{text} in {zone}: {meant:?}");
        assert!(meant.exact, "{meant:?}");
    }
    assert_eq!(meant(&world, "point:before", "UTC").moment.seq, before.seq);
    assert_eq!(target.log.head_seq(), head);
}

#[test]
fn a_disk_that_a_target_does_not_have_is_an_unknown_export() {
    const ERR_UNKNOWN: u32 = 0x8000_0006;
    let (world, manager) = World::with(&["web"]);
    let path = world.dir.path().join("nbd.sock");
    let server = nbd::Server::new(nbd::Limits::default());
    let _serving = server.serve_unix(&path, nbd::Scope::new(Arc::new(ManagerExports(manager)))).unwrap();
    for name in ["web/vdz", "web/vdz@now", "web#nobody", "nobody"] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        let len = name.len() as u32;
        let mut go = 1_u32.to_be_bytes().to_vec();
        go.extend(b"IHAVEOPT");
        go.extend([7, len + 6, len].map(u32::to_be_bytes).concat());
        go.extend(name.as_bytes());
        go.extend([0; 2]);
        stream.write_all(&go).unwrap();
        let mut reply = [0; 20];
        stream.read_exact(&mut reply).unwrap();
        let kind = u32::from_be_bytes(reply[12..16].try_into().unwrap());
        assert_eq!(kind, ERR_UNKNOWN, "{name}: {kind:x}");
    }
}

#[test]
fn a_machine_whose_user_data_is_missing_is_not_started_and_nothing_is_left_of_it() {
    let world = World::new();
    let launcher = Arc::new(Qemu::with(bygone_qemu::Accel::Tcg));
    let manager = Manager::open_shared(Shared::new(&world.paths(), launcher), false).unwrap();
    let user_data = world.dir.path().join("user-data");
    std::fs::write(&user_data, "#cloud-config\n").unwrap();
    let mut request = add_request("web");
    request.config.user_data = Some(user_data.clone());
    manager.handle(&request, &mut Nobody).unwrap();
    std::fs::remove_file(&user_data).unwrap();
    let target = manager.target("web").unwrap();
    let head = target.log.head_seq();
    for _ in 0..2 {
        let run = call::Run { name: "web".into(), at: None, branch: None, display: None };
        let refused = manager.handle(&run, &mut Nobody).unwrap_err();
        let said = refused.failure();
        assert!(format!("{said:?}").contains(user_data.to_str().unwrap()), "{said:?}");
    }
    let mut events = Vec::new();
    let mut each = |event: &bygone_store::Event| {
        events.push(event.event.label.clone());
        true
    };
    target.log.events(head, target.log.head_seq(), &mut each).unwrap();
    assert_eq!((events.len(), target.log.catalog().branches.len()), (0, 1), "no boot, no branch: {events:?}");
    let left = files_below(world.paths().root());
    let of_a_machine = |file: &PathBuf| file.starts_with(world.paths().run_dir("web"));
    assert!(!left.iter().any(of_a_machine), "{left:?}");
}

//! The end of a serving manager: no machine is left behind, and no client unanswered.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bygone_block::nbd::Exports as _;
use serde_json::Value;

use super::{super::targets::wait_until_read, jobs::Asker, machines::run_call, *};
use crate::{
    api::{Call, Failure, Nothing, Request},
    exports::ManagerExports,
    lifecycle::{self, Change},
    runner::fake::Next,
    serve::{ServeOptions, serve_with},
    socket::{self, ApiServer},
    target::{Use, lock},
};

/// A manager that serves in a thread of its own.
struct Served {
    manager: Arc<Manager>,
    thread: std::thread::JoinHandle<()>,
}

impl World {
    /// Serves these targets.
    fn serve(&self, options: ServeOptions) -> Served {
        let manager = self.serving();
        let (serving, is_ready) = (manager.clone(), Arc::new(AtomicBool::new(false)));
        let ready = is_ready.clone();
        let thread = std::thread::spawn(move || {
            serve_with(&serving, &options, &mut |_| ready.store(true, Ordering::Release)).unwrap();
        });
        wait_for("the manager to serve", || is_ready.load(Ordering::Acquire) && !manager.is_opening());
        Served { manager, thread }
    }

    fn ask<C: Call<Item = Nothing>>(&self, call: &C) -> Result<C::Answer> {
        let stream = socket::connect(&self.paths().api_socket()).expect("a manager serves");
        socket::ask(&stream, call, false, &mut Nobody)
    }

    fn has_machine(&self, name: &str) -> bool {
        self.fake.machine(&self.paths().run_dir(name)).is_some()
    }
}

impl Served {
    fn life(&self, name: &str) -> lifecycle::Machine {
        self.manager.target(name).unwrap().machine_state()
    }

    fn end(self) {
        self.thread.join().unwrap();
    }
}

fn is_ending<T>(answer: &Result<T>) -> bool {
    matches!(answer, Err(Error::Told(Failure::ManagerEnding)))
}

#[test]
fn a_manager_that_ends_starts_no_machine_while_it_stops_another() {
    let (world, manager) = World::with(&["db", "web"]);
    drop(manager);
    let served = world.serve(ServeOptions::default());
    *lock(&world.fake.next) = Next::Lingers;
    world.ask(&run_call("web")).unwrap();
    served.manager.stop(false);
    wait_for("web to be asked to stop", || served.life("web") == lifecycle::Machine::Stopping);
    // Clients are still answered, and are told to look for another manager.
    let refused = world.ask(&run_call("db"));
    assert!(is_ending(&refused), "{refused:?}");
    assert!(!world.has_machine("db"));
    world.ask(&call::Status {}).unwrap();
    world.fake.machine(&world.paths().run_dir("web")).unwrap().shut_down();
    served.end();
    assert!(!world.has_machine("web") && !world.has_machine("db"));
    assert!(!world.paths().api_socket().exists());
}

#[test]
fn a_machine_that_is_being_started_when_the_manager_ends_is_stopped_too() {
    let (world, manager) = World::with(&["db", "web"]);
    let settings = vec![("autostart".to_owned(), "true".to_owned())];
    manager.handle(&call::TargetSet { name: "web".into(), settings }, &mut Nobody).unwrap();
    drop(manager);
    world.fake.holds_starts.store(true, Ordering::Release);
    let served = world.serve(ServeOptions::default());
    let world = &world;
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| world.ask(&run_call("db")));
        for name in ["db", "web"] {
            let target = served.manager.target(name).unwrap();
            let is_started = || target.doing().is_some_and(|doing| doing.change == Change::Starting);
            wait_for("both to be started", is_started);
        }
        served.manager.stop(false);
        // Whoever did not wait for them would have ended by now.
        std::thread::sleep(Duration::from_millis(300));
        world.fake.holds_starts.store(false, Ordering::Release);
        let _ = starting.join().unwrap();
        served.end();
    });
    assert!(!world.has_machine("db") && !world.has_machine("web"));
}

#[test]
fn a_manager_that_ends_waits_for_a_start_that_only_a_client_knows_of() {
    let (world, manager) = World::with(&["web"]);
    drop(manager);
    world.fake.holds_starts.store(true, Ordering::Release);
    let served = world.serve(ServeOptions::default());
    let world = &world;
    std::thread::scope(|scope| {
        let starting = scope.spawn(|| world.ask(&run_call("web")));
        let target = served.manager.target("web").unwrap();
        wait_for("it to be started", || target.doing().is_some_and(|doing| doing.change == Change::Starting));
        served.manager.stop(false);
        // A manager that did not wait for it would have gone on to its end by now.
        std::thread::sleep(Duration::from_millis(300));
        let is_served = world.paths().api_socket().exists();
        world.fake.holds_starts.store(false, Ordering::Release);
        let _ = starting.join().unwrap();
        assert!(is_served);
        served.end();
    });
    assert!(!world.has_machine("web"));
}

#[test]
fn a_start_that_an_ending_manager_does_not_begin_with_is_no_job_of_it() {
    let (world, manager) = World::with(&["web"]);
    manager.begin_stopping();
    // A job could not be recorded, and a call with a key would be refused for that.
    let jobs = world.paths().jobs_dir();
    let _ = std::fs::remove_dir_all(&jobs);
    std::fs::write(&jobs, "").unwrap();
    let refused = super::jobs::ask_with(&manager, "k", run_call("web"));
    assert!(matches!(refused, Err(Error::ManagerEnding)), "{refused:?}");
}

#[test]
fn a_manager_that_is_idle_goes_on_if_a_start_has_begun_before_it_ends() {
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    let is_used = || target.doing().is_some() || target.is_running();
    let op = target.begin_change(Change::Starting, lifecycle::Request::Run).unwrap();
    manager.stop_if_idle(&is_used);
    drop(op);
    manager.handle(&run_call("web"), &mut Nobody).unwrap();
    manager.stop_if_idle(&is_used);
    assert!(!manager.is_stopping());
    super::machines::stop(&manager, "web").unwrap();
    manager.stop_if_idle(&is_used);
    assert!(manager.is_stopping());
    let refused = manager.handle(&run_call("web"), &mut Nobody);
    assert!(matches!(refused, Err(Error::ManagerEnding)), "{refused:?}");
}

#[test]
fn a_manager_is_not_idle_while_a_client_reads_a_past_moment() {
    let (_world, manager) = World::with(&["web"]);
    assert!(!manager.is_busy());
    for name in ["web/vda@now", "web/vda", "web/vda#main"] {
        let Ok(disk) = ManagerExports(manager.clone()).open(name) else { panic!("{name} is offered") };
        manager.stop_if_idle(&|| manager.is_busy());
        assert!(!manager.is_stopping(), "{name}");
        drop(disk);
        assert!(!manager.is_busy(), "{name}");
    }
    manager.stop_if_idle(&|| manager.is_busy());
    assert!(manager.is_stopping());
}

#[test]
fn a_machine_that_is_kept_is_not_adopted_again_by_the_manager_that_ends() {
    let (world, manager) = World::with(&["web"]);
    manager.handle(&run_call("web"), &mut Nobody).unwrap();
    let target = manager.target("web").unwrap();
    manager.stop(true);
    target.abandon_machine();
    for request in [lifecycle::Request::Run, lifecycle::Request::Stop] {
        let refused = target.begin(Change::Starting, request);
        assert!(matches!(refused, Err(Error::ManagerEnding)), "{refused:?}");
    }
    assert!(world.has_machine("web"));
}

#[test]
fn whoever_has_connected_before_the_socket_goes_is_answered() {
    let (world, manager) = World::with(&["web"]);
    for _ in 0..3 {
        let api = ApiServer::start(manager.clone()).unwrap();
        // More than the manager accepts until it stops accepting.
        let connect = |_| socket::connect(&world.paths().api_socket()).unwrap();
        let streams: Vec<_> = (0..100).map(connect).collect();
        drop(api);
        for stream in &streams {
            socket::ask(stream, &call::Jobs {}, false, &mut Nobody).unwrap();
        }
    }
}

#[test]
fn a_call_that_lasts_when_the_manager_ends_is_answered() {
    let (world, manager) = World::with(&["web"]);
    drop(manager);
    let served = world.serve(ServeOptions::default());
    world.ask(&run_call("web")).unwrap();
    let world = &world;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| world.ask(&call::Wait { name: "web".into() }));
        std::thread::sleep(Duration::from_millis(100));
        world.ask(&call::Shutdown { keep_targets: true }).unwrap();
        let told = waiting.join().unwrap();
        assert!(matches!(told, Err(Error::Told(Failure::ManagerGone))), "{told:?}");
        served.end();
    });
    assert!(world.has_machine("web"));
}

#[test]
fn a_list_is_whole_although_the_calls_in_progress_are_to_end() {
    let (world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    for name in ["a", "b", "c"] {
        target.log.add_branch(name, BranchId(0), target.log.head_seq()).unwrap();
    }
    let _api = ApiServer::start(manager.clone()).unwrap();
    manager.begin_closing();
    let list = call::BranchList { name: "web".into(), dropped: false };
    let listed = loop {
        let mut listed = Collected::default();
        let stream = socket::connect(&world.paths().api_socket()).unwrap();
        match socket::ask(&stream, &list, false, &mut listed) {
            Ok(()) => break listed,
            // The request came too late to be read.
            Err(Error::ManagerEnding) => {}
            Err(other) => panic!("{other:?}"),
        }
    };
    let names: Vec<&str> = listed.items.iter().map(|branch| branch.name.as_str()).collect();
    assert_eq!(names, ["main", "a", "b", "c"]);
}

#[test]
fn who_asks_for_all_targets_gets_all_of_them_or_waits_for_the_next_manager() {
    let (world, manager) = World::with(&["db", "web"]);
    world.kill(manager);
    let manager = world.serving();
    manager.target("web").unwrap();
    manager.begin_stopping();
    let verify = call::Verify { name: None, newest_first: false, for_s: None };
    let asked: [Request; 3] =
        [verify.clone().into(), call::Compact { dry_run: true }.into(), call::TargetList {}.into()];
    for request in asked {
        let mut told = Collected::<Value>::default();
        let refused = manager.answer(&request, &mut told);
        assert!(matches!(refused, Err(Error::ManagerEnding)) && told.items.is_empty(), "{refused:?}");
    }
    // What is open can be asked for, and what is not open yet is told of.
    assert_eq!(served(&manager), ["web"]);
    assert!(problems(&manager).contains("db: is still being opened"), "{}", problems(&manager));
    manager.handle(&call::Verify { name: Some("web".into()), ..verify }, &mut Nobody).unwrap();
    manager.target("db").unwrap();
    assert_eq!(Collected::of(&manager, &call::TargetList {}).items.len(), 2);
}

#[test]
fn an_export_does_not_end_well_because_the_manager_ends() {
    let (world, manager) = World::with(&["web"]);
    let socket = world.dir.path().join("nbd.sock");
    let to = call::ExportTo::NbdUnix(socket.clone());
    let export = call::Export { what: "web@now".into(), to };
    std::thread::scope(|scope| {
        let exporting = scope.spawn(|| manager.handle(&export, &mut Nobody));
        wait_for("the export", || socket.exists());
        manager.begin_stopping();
        let ended = exporting.join().unwrap();
        assert!(matches!(ended, Err(Error::ManagerGone)), "{ended:?}");
    });
    // Nor does it begin with one.
    let mut told = Collected::default();
    let refused = manager.handle(&export, &mut told);
    assert!(matches!(refused, Err(Error::ManagerEnding)) && told.items.is_empty(), "{refused:?}");
}

#[test]
fn a_target_whose_disk_nobody_waits_for_any_more_is_not_said_to_be_read() {
    let (world, manager) = World::with(&[]);
    let disk = world.tapped(&manager, "web");
    world.kill(manager);
    // Now all of it has to be read again.
    std::fs::write(&disk, vec![2; 1 << 20]).unwrap();
    let manager = world.manager();
    let target = manager.target("web").unwrap();
    let read = || drop(target.lease(target.volume(BranchId(0), None).unwrap(), Use::Upkeep).unwrap());
    let waited = || {
        wait_for("the reading to end", || !target.has_work());
        wait_until_read(&target, &mut Asker { has_left: AtomicBool::new(true), ..Asker::default() })
    };
    target.begin_closing();
    read();
    let partly = waited().unwrap_err();
    let Error::Partly { done, why } = &partly else { panic!("{partly:?}") };
    assert_eq!(done, "target web was added");
    assert!(matches!(&**why, Error::NotRead { disk } if disk == "vda"), "{why:?}");
    target.go_on();
    read();
    waited().unwrap();
}

#[test]
fn a_client_that_finds_the_socket_is_answered_or_knows_that_nothing_was_done() {
    let (world, manager) = World::with(&["web"]);
    let world = &world;
    for _ in 0..20 {
        let api = ApiServer::start(manager.clone()).unwrap();
        let answered = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Some(stream) = socket::connect(&world.paths().api_socket()) {
                        match socket::ask(&stream, &call::Jobs {}, false, &mut Nobody) {
                            Ok(()) => {
                                answered.fetch_add(1, Ordering::AcqRel);
                            }
                            Err(Error::ManagerEnding) => {}
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                });
            }
            wait_for("answers", || answered.load(Ordering::Acquire) > 0);
            drop(api);
        });
    }
}

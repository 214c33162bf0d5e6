//! Machines of targets that cannot be opened, or that have lost their name to another target.

use std::{fs, os::unix::net::UnixStream};

use bygone_model::Seq;

use super::{
    machines::{run, stop},
    *,
};
use crate::{api::Trouble, machine::check_own, serve::Caretaker};

fn remove(manager: &Manager, name: &str) -> Result<()> {
    let remove = call::TargetRemove { name: name.into(), delete_history: false };
    manager.handle(&remove, &mut Nobody).map(drop)
}

#[test]
fn a_target_that_cannot_be_opened_is_not_removed_under_its_machine() {
    let (world, manager) = World::with(&["web"]);
    run(&manager, "web").unwrap();
    let run_dir = world.paths().run_dir("web");
    fs::write(run_dir.join("uefi-vars.fd"), "in use").unwrap();
    world.kill(manager);
    let config = world.target_dir("web").join("config/000002.json");
    fs::write(&config, "{").unwrap();

    let manager = world.manager();
    let planned = || {
        let remove = call::TargetRemove { name: "web".into(), delete_history: false };
        manager.handle(&call::Plan { of: remove.into() }, &mut Nobody).map(drop)
    };
    for refused in [planned(), remove(&manager, "web"), remove(&manager, "web")] {
        assert!(matches!(&refused, Err(Error::LeftRunning { why: Some(_), .. })), "{refused:?}");
        assert!(world.target_dir("web").exists() && run_dir.join("uefi-vars.fd").exists());
        assert!(matches!(manager.target("web"), Err(Error::Unavailable { .. })));
    }
    fs::remove_file(&config).unwrap();
    run(&manager, "web").unwrap();
    stop(&manager, "web").unwrap();
    world.kill(manager);
    fs::write(&config, "{").unwrap();
    let manager = world.manager();
    remove(&manager, "web").unwrap();
    assert!(!run_dir.join("uefi-vars.fd").exists());
    add(&manager, "web").unwrap();
}

#[test]
fn what_could_not_be_opened_and_runs_by_now_is_not_removed() {
    let (world, manager) = World::with(&["web"]);
    drop(manager);
    let (log, away) = (world.target_dir("web").join("log"), world.dir.path().join("away"));
    fs::rename(&log, &away).unwrap();
    let manager = world.manager();
    let why = manager.target("web").unwrap_err();
    // It is back, and opened, before the removal that found it missing goes on.
    fs::rename(&away, &log).unwrap();
    run(&manager, "web").unwrap();
    let refused = manager.remove_unopened("web", &why, &mut Nobody);
    assert!(matches!(refused, Err(Error::TargetRunning(_))), "{refused:?}");
    assert!(log.exists());
    stop(&manager, "web").unwrap();
    remove(&manager, "web").unwrap();
}

#[test]
fn a_machine_of_another_target_gets_no_disk_and_is_told() {
    let (world, manager) = World::with(&["web"]);
    run(&manager, "web").unwrap();
    let run_dir = world.paths().run_dir("web");
    world.kill(manager);
    let machine = world.fake.machine(&run_dir).unwrap();
    let away = world.dir.path().join("away");
    fs::rename(world.target_dir("web"), &away).unwrap();

    let manager = world.manager();
    let refused = add(&manager, "web");
    assert!(matches!(refused, Err(Error::ForeignMachine { .. })), "{refused:?}");
    assert!(!world.target_dir("web").exists());
    drop(manager);

    // A manager that does not find the machine.
    let blind = Manager::open_shared(Shared::new(&world.paths(), Arc::<Fake>::default()), false).unwrap();
    add(&blind, "web").unwrap();
    drop(blind);

    let manager = world.serving();
    manager.open_all();
    let target = manager.target("web").unwrap();
    assert_eq!(target.running_branch(), None);
    assert!(UnixStream::connect(run_dir.join("nbd-0.sock")).is_err());
    assert!(problems(&manager).contains("of another target"), "{}", problems(&manager));
    let pid = status(&manager).targets[0].machine.as_ref().unwrap().pid;
    // The caretaker does not try to adopt it, so nobody meets an attempt.
    let caretaker = Caretaker::start(manager.clone(), None).unwrap();
    wait_for("a look at all targets", || !caretaker.is_busy());
    assert!(!target.is_not_adopted());
    let waits = manager.handle(&call::Wait { name: "web".into() }, &mut Nobody).map(drop);
    for refused in [run(&manager, "web"), stop(&manager, "web"), remove(&manager, "web"), waits] {
        assert!(matches!(refused, Err(Error::ForeignMachine { .. })), "{refused:?}");
    }
    assert!(UnixStream::connect(run_dir.join("nbd-0.sock")).is_err());
    assert!(run_dir.join("engine.json").exists());
    let troubles: Vec<Trouble> =
        status(&manager).problems.into_iter().map(|problem| problem.trouble).collect();
    assert_eq!(troubles, [Trouble::ForeignMachine { pid }]);
    let attached = check_own(&world.paths(), "web", pid);
    assert!(matches!(attached, Err(Error::ForeignMachine { .. })), "{attached:?}");

    machine.die();
    wait_for("its end to be noticed", || !target.is_unsupervised());
    drop(caretaker);
    run(&manager, "web").unwrap();
    check_own(&world.paths(), "web", pid).unwrap();
    stop(&manager, "web").unwrap();
    let mut stops = 0;
    let mut each = |event: &bygone_store::Event| {
        stops += u32::from(event.event.kind == Kind::Shutdown);
        true
    };
    target.log.events(Seq::ZERO, target.log.head_seq(), &mut each).unwrap();
    assert_eq!(stops, 1, "the end of the other machine is not in this log");
}

#[test]
fn what_a_machine_of_another_target_has_left_is_not_about_this_one() {
    let (world, manager) = World::with(&["web"]);
    run(&manager, "web").unwrap();
    let run_dir = world.paths().run_dir("web");
    world.kill(manager);
    let kept = run_dir.join("engine.json");
    let own = fs::read_to_string(&kept).unwrap();
    let log = crate::target::log_id_in(&world.target_dir("web")).unwrap();
    let of_another = own.replace(&log, &"5".repeat(32));
    assert_ne!(of_another, own);
    let lives = |manager: &Manager| {
        let target = manager.target("web").unwrap();
        let mut kinds = Vec::new();
        let mut each = |event: &bygone_store::Event| {
            let is_life = matches!(event.event.kind, Kind::Boot | Kind::Shutdown);
            kinds.extend(is_life.then(|| event.event.kind.clone()));
            true
        };
        target.log.events(Seq::ZERO, target.log.head_seq(), &mut each).unwrap();
        kinds
    };
    // While it runs, what it was started with is not said to be this target's.
    fs::write(&kept, &of_another).unwrap();
    let manager = world.manager();
    let machine = status(&manager).targets[0].machine.clone().unwrap();
    assert_eq!((machine.branch, machine.accelerator.word()), (None, "unknown"));
    world.kill(manager);
    world.fake.machine(&run_dir).unwrap().die();
    // Nor is its end, which nobody saw.
    let manager = world.manager();
    assert_eq!(lives(&manager), [Kind::Boot]);
    world.kill(manager);
    fs::write(&kept, &own).unwrap();
    assert_eq!(lives(&world.manager()), [Kind::Boot, Kind::Shutdown]);
    // Where nothing was left, nothing has ended.
    assert_eq!(lives(&world.manager()), [Kind::Boot, Kind::Shutdown]);
}

#[test]
fn a_new_target_does_not_boot_with_the_variables_of_a_removed_one() {
    let (world, manager) = World::with(&[]);
    let run_dir = world.paths().run_dir("web");
    fs::create_dir_all(&run_dir).unwrap();
    fs::write(run_dir.join("uefi-vars.fd"), "could not be moved").unwrap();
    add(&manager, "web").unwrap();
    assert!(!run_dir.join("uefi-vars.fd").exists());
    assert_eq!(fs::read(run_dir.join("uefi-vars.fd.left")).unwrap(), b"could not be moved");
}

#[test]
fn variables_that_could_not_be_moved_with_their_target_are_its_own_all_the_same() {
    let (world, manager) = World::with(&["db", "web"]);
    let variables = |name: &str| world.paths().run_dir(name).join("uefi-vars.fd");
    for name in ["db", "web"] {
        fs::create_dir_all(world.paths().run_dir(name)).unwrap();
        fs::write(variables(name), name).unwrap();
    }
    // Something is in their way.
    let in_the_way = world.target_dir("web").join("uefi-vars.fd");
    fs::create_dir_all(in_the_way.join("x")).unwrap();
    let remove_web = call::TargetRemove { name: "web".into(), delete_history: false };
    let told = Collected::of(&manager, &remove_web);
    assert!(told.notes.len() == 1 && told.notes[0].contains(".uefi-vars-"), "{:?}", told.notes);
    remove(&manager, "db").unwrap();

    // Other targets of the name do not find them, and leave them.
    let back = |name: &str, new_name: &str| {
        let call = call::TargetRestore { new_name: Some(new_name.into()), ..call::TargetRestore::of(name) };
        manager.handle(&call, &mut Nobody).unwrap();
    };
    back("db", "web");
    assert_eq!(fs::read_to_string(variables("web")).unwrap(), "db");
    manager.handle(&call::TargetRemove { delete_history: true, ..remove_web }, &mut Nobody).unwrap();
    add(&manager, "web").unwrap();
    assert!(!variables("web").exists());
    back("web-1", "site");
    assert_eq!(fs::read_to_string(variables("site")).unwrap(), "web");
}

#[test]
fn a_target_that_is_not_added_moves_no_variables() {
    let (world, manager) = World::with(&[]);
    let left = world.paths().run_dir("web").join("uefi-vars.fd");
    fs::create_dir_all(left.parent().unwrap()).unwrap();
    fs::write(&left, "of a removed one").unwrap();
    let config = TargetConfig { kernel: Some("/no/such/kernel".into()), ..TargetConfig::new("web") };
    let add = call::TargetAdd { config, ..add_request("web") };
    manager.handle(&add, &mut Nobody).unwrap_err();
    assert!(left.exists());
}

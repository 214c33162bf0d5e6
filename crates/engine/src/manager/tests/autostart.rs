//! What starts with the manager.

use super::*;
use crate::{
    serve::{Caretaker, Look, Seen},
    store_dir::faults::{self, Step},
};

fn add_autostart(manager: &Manager, name: &str) {
    add(manager, name).unwrap();
    let settings = vec![("autostart".to_owned(), "true".to_owned())];
    manager.handle(&call::TargetSet { name: name.into(), settings }, &mut Nobody).unwrap();
}

fn remove(manager: &Manager, name: &str) {
    let remove = call::TargetRemove { name: name.into(), delete_history: false };
    manager.handle(&remove, &mut Nobody).unwrap();
}

fn bring_back(manager: &Manager, name: &str, new_name: &str) {
    let restore = call::TargetRestore { new_name: Some(new_name.into()), ..call::TargetRestore::of(name) };
    manager.handle(&restore, &mut Nobody).unwrap();
}

#[test]
fn only_what_was_in_the_store_starts_with_the_manager_and_once() {
    let (world, manager) = World::with(&[]);
    for name in ["web", "old"] {
        add_autostart(&manager, name);
    }
    remove(&manager, "old");
    drop(manager);

    let manager = world.serving();
    manager.open_all();
    let mut seen = Seen::default();
    let mut look = |name: &str| seen.look(&manager.target(name).unwrap());
    let (first, again, opened) = (
        Look { is_new: true, starts: true },
        Look { is_new: false, starts: false },
        Look { is_new: true, starts: false },
    );
    assert_eq!((look("web"), look("web")), (first, again));
    add_autostart(&manager, "new");
    bring_back(&manager, "old-1", "db");
    assert_eq!((look("new"), look("new"), look("db")), (opened, again, opened));

    // Another target of a name that was seen has disks to be read too, and so has one that was opened again.
    remove(&manager, "web");
    add_autostart(&manager, "web");
    assert_eq!((look("web"), look("web")), (opened, again));
    remove(&manager, "web");
    bring_back(&manager, "web-1", "web");
    assert_eq!((look("web"), look("web")), (opened, again));
}

#[test]
fn what_was_added_and_could_not_be_opened_at_once_does_not_start_with_this_manager() {
    let (world, manager) = World::with(&[]);
    faults::plan(Step::Open, &world.target_dir("web"), || Err(std::io::Error::other("injected fault")));
    let mut request = add_request("web");
    request.config.autostart = true;
    let partly = manager.handle(&request, &mut Nobody);
    assert!(matches!(partly, Err(Error::Partly { .. })), "{partly:?}");
    let target = manager.target("web").unwrap();
    assert_eq!(Seen::default().look(&target), Look { is_new: true, starts: false });
}

#[test]
fn what_cannot_be_opened_at_first_starts_once_it_can() {
    let (world, manager) = World::with(&[]);
    add_autostart(&manager, "web");
    drop(manager);
    let (log, away) = (world.target_dir("web").join("log"), world.dir.path().join("away"));
    std::fs::rename(&log, &away).unwrap();
    let manager = world.serving();
    manager.open_all();
    let caretaker = Caretaker::start(manager.clone(), None).unwrap();
    assert!(manager.target("web").is_err());
    std::fs::rename(&away, &log).unwrap();
    let target = manager.target("web").unwrap();
    wait_for("it to be started", || target.is_running());
    drop(caretaker);
    machines::stop(&manager, "web").unwrap();
}

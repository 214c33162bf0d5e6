mod asked;
mod autostart;
mod branches;
mod damage;
mod ending;
mod events;
mod filling;
mod foreign;
mod imports;
mod jobs;
mod keys;
mod kills;
mod left;
mod lost;
mod machines;
mod opening;
mod planned;
mod removed;
mod sequences;
mod settings;
mod starts;
mod stops;
mod taken;
mod told;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bygone_model::{BranchId, Event, Kind};

use super::Manager;
use crate::{
    Error, Result,
    api::{
        Answers, Call, Items, Progress, Status,
        call::{self, NewDisk, NewSource},
    },
    ask,
    calls::Handle,
    config::TargetConfig,
    runner::fake::Fake,
    serve::Nobody,
    store_dir::StorePaths,
    target::{Shared, Use},
};

/// A store in a temporary folder, with fake machines.
struct World {
    dir: tempfile::TempDir,
    fake: Arc<Fake>,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        StorePaths::new(&dir.path().join("store")).make().unwrap();
        World { dir, fake: Arc::default() }
    }

    fn paths(&self) -> StorePaths {
        StorePaths::new(&self.dir.path().join("store"))
    }

    fn manager(&self) -> Arc<Manager> {
        Manager::open_shared(Shared::new(&self.paths(), self.fake.clone()), false).unwrap()
    }

    /// A serving manager, which has opened no target yet.
    fn serving(&self) -> Arc<Manager> {
        Manager::open_shared(Shared::new(&self.paths(), self.fake.clone()), true).unwrap()
    }

    /// A store with these targets, which have one disk of 1 MiB each, and its manager.
    fn with(names: &[&str]) -> (World, Arc<Manager>) {
        let world = World::new();
        let manager = world.manager();
        for name in names {
            add(&manager, name).unwrap();
        }
        (world, manager)
    }

    /// Ends a manager as a kill does: its machines go on running.
    fn kill(&self, manager: Arc<Manager>) {
        let targets = manager.targets().unwrap();
        let left: Vec<_> = targets.iter().map(Arc::downgrade).collect();
        for target in targets {
            target.abandon_machine();
            target.begin_closing();
        }
        self.fake.manager_is_killed();
        drop(manager);
        wait_for("the manager to be gone", || left.iter().all(|target| target.upgrade().is_none()));
    }

    fn target_dir(&self, name: &str) -> std::path::PathBuf {
        self.paths().target_dir(name)
    }
}

/// A client that keeps all that it is told.
struct Collected<I> {
    items: Vec<I>,
    notes: Vec<String>,
}

impl<I> Default for Collected<I> {
    fn default() -> Collected<I> {
        Collected { items: Vec::new(), notes: Vec::new() }
    }
}

impl<I> Collected<I> {
    /// What comes with the answer to a call that succeeds.
    fn of<C: Call<Item = I>>(manager: &Manager, call: &C) -> Collected<I>
    where
        Manager: Handle<C>,
    {
        let mut collected = Collected::default();
        manager.handle(call, &mut collected).unwrap();
        collected
    }
}

impl<I> Answers for Collected<I> {
    fn progress(&mut self, _: Progress) -> bool {
        true
    }
    fn note(&mut self, text: String) {
        self.notes.push(text);
    }
    fn wanted(&mut self) -> bool {
        true
    }
}

impl<I> Items<I> for Collected<I> {
    fn item(&mut self, item: I) -> bool {
        self.items.push(item);
        true
    }
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn add_request(name: &str) -> call::TargetAdd {
    let disk = NewDisk { id: None, source: NewSource::Store(1 << 20), block_bytes: None };
    call::TargetAdd { config: TargetConfig::new(name), disks: vec![disk], wait: true }
}

fn add(manager: &Manager, name: &str) -> Result<()> {
    manager.handle(&add_request(name), &mut Nobody).map(drop)
}

fn problems(manager: &Manager) -> String {
    status(manager).problems.iter().map(|problem| format!("{problem}\n")).collect()
}

fn status(manager: &Manager) -> Status {
    manager.handle(&call::Status {}, &mut Nobody).unwrap()
}

fn served(manager: &Manager) -> Vec<String> {
    status(manager).targets.into_iter().map(|target| target.name).collect()
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[test]
fn a_missing_log_is_an_error_of_that_target_alone_and_never_a_new_log() {
    let (world, manager) = World::with(&["db", "web"]);
    drop(manager);
    let (log, away) = (world.target_dir("web").join("log"), world.dir.path().join("away"));
    std::fs::rename(&log, &away).unwrap();

    let manager = world.manager();
    assert_eq!(served(&manager), ["db"]);
    let said = problems(&manager);
    assert!(said.contains("web") && said.contains("log is missing"), "{said}");
    assert!(matches!(manager.target("web"), Err(Error::Unavailable { .. })));
    assert!(!log.exists());
    assert!(matches!(add(&manager, "web"), Err(Error::TargetExists(_))));

    // As when a file system is mounted late: no restart is needed.
    std::fs::rename(&away, &log).unwrap();
    manager.target("web").unwrap();
    assert_eq!(served(&manager), ["db", "web"]);
}

#[test]
fn a_missing_folder_of_targets_keeps_nobody_from_the_status_and_is_not_made_anew() {
    let (world, manager) = World::with(&["web"]);
    drop(manager);
    let (targets, away) = (world.paths().root().join("targets"), world.dir.path().join("away"));
    std::fs::rename(&targets, &away).unwrap();
    let manager = world.manager();
    let said = problems(&manager);
    assert!(said.contains("targets is missing"), "{said}");
    assert!(matches!(add(&manager, "db"), Err(Error::Missing(_))));
    assert!(matches!(manager.target("web"), Err(Error::Unavailable { .. })));
    assert!(!targets.exists());
    std::fs::rename(&away, &targets).unwrap();
    manager.target("web").unwrap();
}

#[test]
fn an_unreadable_newest_configuration_is_no_reason_to_use_an_older_one() {
    let (world, manager) = World::with(&["db", "web"]);
    let settings = vec![("memory".to_owned(), "2G".to_owned())];
    manager.handle(&call::TargetSet { name: "web".into(), settings }, &mut Nobody).unwrap();
    drop(manager);
    std::fs::write(world.target_dir("web").join("config/000002.json"), "{").unwrap();
    let before = files_below(&world.target_dir("web"));

    let manager = world.manager();
    assert_eq!(served(&manager), ["db"]);
    let said = problems(&manager);
    assert!(said.contains("000002.json"), "{said}");
    let refused = manager.target("web");
    assert!(
        matches!(&refused, Err(Error::Unavailable { why, .. }) if matches!(**why, Error::DamagedConfig { .. }))
    );
    assert_eq!(files_below(&world.target_dir("web")), before);
}

#[test]
fn of_two_that_add_one_name_one_gets_it() {
    let (_world, manager) = World::with(&[]);
    let added: Vec<Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| add(&manager, "web"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(added.iter().filter(|added| added.is_ok()).count(), 1, "{added:?}");
    for refused in added.iter().filter_map(|added| added.as_ref().err()) {
        assert!(matches!(refused, Error::TargetExists(_) | Error::Busy { .. }), "{refused:?}");
    }
    assert_eq!(served(&manager), ["web"]);
}

#[test]
fn of_two_that_change_settings_neither_is_lost() {
    let (_world, manager) = World::with(&["web"]);
    std::thread::scope(|scope| {
        for (key, text) in [("memory", "2G"), ("cpus", "7"), ("append", "quiet"), ("autostart", "true")] {
            let settings = vec![(key.to_owned(), text.to_owned())];
            let request = call::TargetSet { name: "web".into(), settings };
            let manager = &manager;
            scope.spawn(move || manager.handle(&request, &mut Nobody).unwrap());
        }
    });
    let config = manager.target("web").unwrap().config();
    assert_eq!((config.memory_mib, config.cpus, config.autostart), (2048, 7, true));
    assert_eq!(config.append.as_deref(), Some("quiet"));
}

#[test]
fn a_removed_target_does_not_come_back_whoever_still_holds_it() {
    let (world, manager) = World::with(&["web"]);
    let held = manager.target("web").unwrap();
    let event = Event::new(Kind::Manager, "here");
    held.log.event(BranchId(0), &event).unwrap();
    let request = call::TargetRemove { name: "web".into(), delete_history: true };
    manager.handle(&request, &mut Nobody).unwrap();
    let _ = held.log.event(BranchId(0), &event);
    held.log.checkpoint().unwrap_err();
    // Its disk may be another target's by now, and is not locked.
    let refused = held.lease(held.volume(BranchId(0), None).unwrap(), Use::Upkeep).map(drop);
    assert!(matches!(refused, Err(Error::NoTarget(_))), "{refused:?}");
    while held.log.maintain().is_ok_and(|more| more) {}
    assert!(!world.target_dir("web").exists());
}

#[test]
fn six_commands_at_once_without_a_manager_wait_for_one_another() {
    let (world, manager) = World::with(&["web"]);
    drop(manager);
    let root = world.paths().root().to_owned();
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| ask(&root, &call::Status {}, &mut Nobody).unwrap());
        }
    });
}

#[test]
fn what_a_kill_left_of_a_target_that_was_being_added_goes_and_nothing_else() {
    let (world, manager) = World::with(&["web"]);
    drop(manager);
    let before = files_below(&world.target_dir("web"));
    let left = world.paths().begin_adding("db").unwrap();
    std::fs::write(left.join("import-vda.raw"), "half").unwrap();
    let manager = world.manager();
    assert_eq!(served(&manager), ["web"]);
    assert!(!left.exists());
    let after = files_below(&world.target_dir("web"));
    assert!(before.iter().all(|file| after.contains(file)));
    add(&manager, "db").unwrap();
}

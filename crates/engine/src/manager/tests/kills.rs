//! What is left when a manager is killed, or a last step fails.

use std::{fs, os::unix::fs::symlink, path::Path};

use super::{
    machines::{run, stop},
    removed::Meanwhile,
    *,
};
use crate::{
    api::call::RestoreTo,
    runner::{Launch, Launcher as _},
    store_dir::faults::{self, Step},
};

fn remove(manager: &Manager, name: &str) -> Result<()> {
    let remove = call::TargetRemove { name: name.into(), delete_history: false };
    manager.handle(&remove, &mut Nobody).map(drop)
}

fn fault() -> std::io::Result<()> {
    Err(std::io::Error::other("injected fault"))
}

#[test]
fn wherever_a_kill_leaves_the_variables_of_a_target_its_machine_finds_them() {
    let (world, manager) = World::with(&["web"]);
    let log = crate::target::log_id_in(&world.target_dir("web")).unwrap();
    let (run_dir, folder) = (world.paths().run_dir("web"), world.target_dir("web"));
    let (used, packed) = (run_dir.join("uefi-vars.fd"), folder.join("uefi-vars.fd"));
    fs::create_dir_all(&run_dir).unwrap();
    fs::write(&used, "its own").unwrap();
    let (was_used, was_packed) = (used.clone(), packed.clone());
    faults::plan(Step::Rename, &folder, move || {
        assert!(was_packed.exists() && !was_used.exists(), "a kill now would cost them");
        Ok(())
    });
    remove(&manager, "web").unwrap();
    drop(manager);
    // Killed as soon as the target has its name again; those of another target are in its machine's folder.
    let removed = world.paths().removed_dir().join("web-1");
    fs::rename(removed, &folder).unwrap();
    fs::write(&used, "of another").unwrap();
    // Killed while it was removed; those that could not be packed are aside.
    for left_at in [packed.clone(), packed.clone(), world.paths().variables_aside(&log)] {
        if !packed.exists() {
            fs::rename(&used, &left_at).unwrap();
        }
        let manager = world.manager();
        run(&manager, "web").unwrap();
        assert_eq!(fs::read_to_string(&used).unwrap(), "its own");
        assert!(!left_at.exists());
        stop(&manager, "web").unwrap();
        world.kill(manager);
        assert_eq!(fs::read_to_string(used.with_extension("fd.left")).unwrap(), "of another");
    }
    // A target that is brought back does not get another's, whatever is killed.
    let manager = world.manager();
    remove(&manager, "web").unwrap();
    fs::write(&used, "of another").unwrap();
    let in_its_place = used.clone();
    faults::plan(Step::Rename, &world.paths().removed_dir(), move || {
        assert!(!in_its_place.exists(), "a kill now would give it another's");
        Ok(())
    });
    manager.handle(&call::TargetRestore::of("web"), &mut Nobody).unwrap();
    assert_eq!(fs::read_to_string(&used).unwrap(), "its own");
}

#[test]
fn a_target_whose_disk_is_taken_while_it_is_added_is_not_added_or_said_to_be() {
    let (world, manager) = World::with(&[]);
    let disk = world.dir.path().join("disk.raw");
    fs::write(&disk, vec![1; 1 << 20]).unwrap();
    let new = NewDisk { id: None, source: NewSource::Tap(disk.clone()), block_bytes: None };
    let add = call::TargetAdd { config: TargetConfig::new("web"), disks: vec![new], wait: true };
    // Of an earlier target of this name.
    let console = world.paths().run_dir("web").join("console.log");
    fs::create_dir_all(console.parent().unwrap()).unwrap();
    fs::write(&console, "of the first").unwrap();
    for removes in [true, false] {
        let (taken, held) = (disk.clone(), Arc::new(std::sync::Mutex::new(None)));
        let holds = held.clone();
        faults::plan(Step::Open, &world.target_dir("web"), move || {
            let file = fs::File::options().read(true).write(true).open(taken)?;
            let lock = bygone_sys::ImageLock::take_exclusive(&file).map_err(std::io::Error::other)?;
            *holds.lock().unwrap() = Some((file, lock));
            Ok(())
        });
        if !removes {
            faults::plan(Step::Rename, &world.target_dir("web"), fault);
        }
        let failed = manager.handle(&add, &mut Nobody).map(drop).unwrap_err();
        let is_said = matches!(&failed, Error::Partly { done, .. } if done == "target web was added");
        assert_eq!(is_said, !removes, "{failed:?}");
        assert_eq!(failed.failure().code(), if removes { "disk-in-use" } else { "partly" });
        assert_eq!(manager.target("web").is_ok(), !removes);
        assert_eq!(fs::read_to_string(&console).unwrap(), "of the first");
        drop(held.lock().unwrap().take());
    }
}

#[test]
fn a_target_that_cannot_be_opened_once_it_is_added_is_known_all_the_same() {
    let (world, manager) = World::with(&[]);
    faults::plan(Step::Open, &world.target_dir("web"), fault);
    let partly = add(&manager, "web");
    assert!(
        matches!(&partly, Err(Error::Partly { done, .. }) if done == "target web is in the store"),
        "{partly:?}"
    );
    assert!(problems(&manager).contains("web: "), "{}", problems(&manager));
    assert!(matches!(add(&manager, "web"), Err(Error::TargetExists(_))));
    manager.target("web").unwrap();
    assert_eq!(served(&manager), ["web"]);
    // One that was not added is not known.
    let config = TargetConfig { kernel: Some("/no/such/kernel".into()), ..TargetConfig::new("db") };
    manager.handle(&call::TargetAdd { config, ..add_request("db") }, &mut Nobody).unwrap_err();
    assert!(matches!(manager.target("db"), Err(Error::NoTarget(_))));
    // Nor is one whose folder was there before, and is not this call's.
    fs::create_dir(world.target_dir("db")).unwrap();
    let refused = add(&manager, "db");
    assert!(matches!(refused, Err(Error::TargetExists(_))), "{refused:?}");
}

#[test]
fn a_restore_that_fails_leaves_nothing_of_its_own_and_all_of_the_user_s() {
    let (world, manager) = World::with(&["web"]);
    let folder = world.dir.path().join("out");
    fs::create_dir(&folder).unwrap();
    let restore = |to: &str| {
        let (at, to) = ("now".to_owned(), RestoreTo::Path(folder.join(to)));
        let call = call::Restore { name: "web".into(), at, disk: None, to, discard_later: false };
        manager.handle(&call, &mut Nobody).map(drop)
    };
    let content = || fs::read_dir(&folder).unwrap().count();
    for to in ["web.raw", "./", "a/b/"] {
        faults::plan(Step::SyncDir, &folder, fault);
        restore(to).unwrap_err();
        assert_eq!(content(), 0, "{to}: {:?}", files_below(&folder));
    }
    // A link of the user is where the file would be until it is complete.
    let (link, precious) = (folder.join("web.raw.bygone-part"), folder.join("precious"));
    fs::write(&precious, "precious").unwrap();
    symlink("precious", &link).unwrap();
    let refused = restore("web.raw").unwrap_err();
    assert!(matches!(refused, Error::File { .. }), "{refused:?}");
    assert_eq!((fs::read_link(&link).unwrap().as_path(), content()), (Path::new("precious"), 2));
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    fs::remove_file(&link).unwrap();
    // What a killed restore left there is replaced.
    fs::write(&link, vec![1; 4096]).unwrap();
    restore("web.raw").unwrap();
    assert_eq!(content(), 2);
}

fn copy(from: &Path, to: &Path) {
    for file in files_below(from) {
        let copied = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(copied.parent().unwrap()).unwrap();
        fs::copy(file, copied).unwrap();
    }
}

#[test]
fn of_two_folders_with_one_history_none_is_brought_back() {
    let (world, manager) = World::with(&["web", "db"]);
    for name in ["web", "db"] {
        remove(&manager, name).unwrap();
    }
    let removed = world.paths().removed_dir();
    copy(&removed.join("web-1"), &removed.join("web-3"));
    let back = |name: &str| {
        let call = call::TargetRestore::of(name);
        manager.answer(&call.into(), &mut Collected::<serde_json::Value>::default()).map(drop)
    };
    for name in ["web", "web-1", "web-3"] {
        let refused = back(name).unwrap_err();
        let said = refused.failure();
        assert_eq!(said.code(), "removed-twice");
        assert!(said.to_string().contains("web-1 and web-3"), "{said}");
    }
    back("db").unwrap();
    fs::rename(removed.join("web-1"), world.dir.path().join("away")).unwrap();
    back("web").unwrap();
    assert_eq!(served(&manager), ["db", "web"]);
    // Nor while the other one is served.
    copy(&world.target_dir("web"), &removed.join("web-1"));
    let call = call::TargetRestore { new_name: Some("other".into()), ..call::TargetRestore::of("web-1") };
    let refused = manager.handle(&call, &mut Nobody).map(drop).unwrap_err().failure();
    assert!(refused.to_string().contains("web-1 and targets/web"), "{refused}");
    assert_eq!(served(&manager), ["db", "web"]);
}

#[test]
fn an_open_target_is_not_removed_under_a_machine_that_it_does_not_know_of() {
    let (world, manager) = World::with(&["web"]);
    let run_dir = world.paths().run_dir("web");
    // Between the look and the removal.
    let mut answers = Meanwhile::new(|| {
        let (config, display) = (TargetConfig::new("web"), crate::config::Display::None);
        let launch = Launch {
            config: &config,
            identity: "another",
            display: &display,
            dir: &run_dir,
            disks: Vec::new(),
        };
        drop(world.fake.start(&launch).unwrap());
    });
    let call = call::TargetRemove { name: "web".into(), delete_history: true };
    let refused = manager.handle(&call, &mut answers);
    assert!(matches!(refused, Err(Error::LeftRunning { .. })), "{refused:?}");
    assert!(world.target_dir("web").exists());
    world.fake.machine(&run_dir).unwrap().die();
    manager.handle(&call, &mut Nobody).unwrap();
}

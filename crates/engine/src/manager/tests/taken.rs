//! What belongs to a target is given to nothing else, whether the target is open and whether its disk is there.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use bygone_model::Micros;

use super::{removed::Meanwhile, *};
use crate::{
    api::{
        Answers, Items, Progress,
        call::{ExportTo, RestoreTo},
    },
    lifecycle::Change,
};

fn tap(path: &Path) -> NewDisk {
    NewDisk { id: None, source: NewSource::Tap(path.to_owned()), block_bytes: None }
}

fn add_with(manager: &Manager, name: &str, disks: Vec<NewDisk>) -> Result<()> {
    let add = call::TargetAdd { config: TargetConfig::new(name), disks, wait: true };
    manager.handle(&add, &mut Nobody).map(drop)
}

fn restore(manager: &Manager, name: &str, disk: Option<&str>, to: &Path) -> Result<()> {
    let (disk, to) = (disk.map(str::to_owned), RestoreTo::Path(to.to_owned()));
    let restore = call::Restore { name: name.into(), at: "now".into(), disk, to, discard_later: false };
    manager.handle(&restore, &mut Nobody).map(drop)
}

fn is_of(refused: &Result<()>, target: &str) -> bool {
    match refused {
        Err(Error::Tapped { target: of, .. } | Error::DiskTaken { target: of, .. }) => of == target,
        _ => false,
    }
}

/// A client that wants no answer any more.
struct Gone;

impl Answers for Gone {
    fn progress(&mut self, _: Progress) -> bool {
        false
    }
    fn note(&mut self, _: String) {}
    fn wanted(&mut self) -> bool {
        false
    }
}

impl<I> Items<I> for Gone {
    fn item(&mut self, _: I) -> bool {
        false
    }
}

#[test]
fn a_disk_of_a_target_that_cannot_be_opened_is_given_to_no_other() {
    let (world, manager) = World::with(&["db"]);
    let disk = world.tapped(&manager, "web");
    world.kill(manager);
    let (log, away) = (world.target_dir("web").join("log"), world.dir.path().join("away"));
    fs::rename(&log, &away).unwrap();

    let manager = world.manager();
    let refused = restore(&manager, "db", None, &disk);
    assert!(is_of(&refused, "web"), "{refused:?}");
    let refused = add_with(&manager, "w2", vec![tap(&disk)]);
    assert!(is_of(&refused, "web"), "{refused:?}");

    // Not even its configuration can be read: then nobody knows which disks it has.
    let config = world.target_dir("web").join("config/000001.json");
    let text = fs::read(&config).unwrap();
    fs::write(&config, "{").unwrap();
    let other = world.dir.path().join("other.raw");
    fs::write(&other, vec![0; 1 << 20]).unwrap();
    for refused in [
        restore(&manager, "db", None, &world.dir.path().join("new.raw")),
        add_with(&manager, "w2", vec![tap(&other)]),
    ] {
        assert!(
            matches!(&refused, Err(Error::DisksUnknown { name: Some(name), .. }) if name == "web"),
            "{refused:?}"
        );
    }
    add(&manager, "w2").unwrap();
    fs::write(&config, text).unwrap();
    fs::rename(&away, &log).unwrap();
    add_with(&manager, "w3", vec![tap(&other)]).unwrap();
    let refused = restore(&manager, "db", None, &disk);
    assert!(is_of(&refused, "web"), "{refused:?}");
}

/// A target with a disk outside the store, `away/vda.raw`, that is away.
fn away(world: &World, manager: &Manager) -> PathBuf {
    let folder = world.dir.path().join("away");
    fs::create_dir(&folder).unwrap();
    let disk = folder.join("vda.raw");
    fs::write(&disk, vec![1; 1 << 20]).unwrap();
    let store = NewDisk { id: None, source: NewSource::Store(1 << 20), block_bytes: None };
    add_with(manager, "web", vec![tap(&disk), store]).unwrap();
    fs::remove_file(&disk).unwrap();
    disk
}

#[test]
fn nothing_is_written_where_a_missing_disk_would_be_found() {
    let (world, manager) = World::with(&["db"]);
    let disk = away(&world, &manager);
    let dir = world.dir.path();
    symlink(dir.join("away"), dir.join("link")).unwrap();
    symlink(&disk, dir.join("to-it.raw")).unwrap();
    for to in ["away/vda.raw", "away/", "link/", "link/vda.raw", "new/../away/", "away/../link/vda.raw"] {
        let refused = restore(&manager, "db", None, &dir.join(to));
        assert!(is_of(&refused, "web"), "{to}: {refused:?}");
        // Another disk of the same target is no better.
        if !to.ends_with('/') {
            let refused = restore(&manager, "web", Some("vdb"), &dir.join(to));
            assert!(is_of(&refused, "web"), "{to}: {refused:?}");
        }
    }
    for to in [ExportTo::File(dir.join("link/vda.raw")), ExportTo::NbdUnix(disk.clone())] {
        let export = call::Export { what: "db@now".into(), to };
        let refused = manager.handle(&export, &mut Gone).map(drop);
        assert!(is_of(&refused, "web"), "{refused:?}");
    }
    assert!(!disk.exists() && !dir.join("new").exists());
    assert_eq!(fs::read_dir(dir.join("away")).unwrap().count(), 0);
    // Its own content goes there, also with others into the folder.
    restore(&manager, "web", None, &dir.join("link/")).unwrap();
    assert_eq!(fs::read(&disk).unwrap(), vec![1; 1 << 20]);
    restore(&manager, "db", Some("vda"), &dir.join("db.raw")).unwrap();
}

#[test]
fn a_missing_disk_behind_a_link_to_nothing_is_still_its_target_s() {
    let (world, manager) = World::with(&["db"]);
    let dir = world.dir.path();
    let (real, link) = (dir.join("real.raw"), dir.join("link.raw"));
    fs::write(&real, vec![1; 1 << 20]).unwrap();
    symlink("real.raw", &link).unwrap();
    add_with(&manager, "web", vec![tap(&link)]).unwrap();
    fs::remove_file(&real).unwrap();
    let refused = restore(&manager, "db", None, &real);
    assert!(is_of(&refused, "web"), "{refused:?}");
    assert!(!real.exists());
}

#[test]
fn a_target_cannot_have_one_disk_twice() {
    let (world, manager) = World::with(&[]);
    let disk = world.dir.path().join("disk.raw");
    fs::write(&disk, vec![1; 1 << 20]).unwrap();
    let refused = add_with(&manager, "web", vec![tap(&disk), tap(&world.dir.path().join("./disk.raw"))]);
    assert!(is_of(&refused, "web"), "{refused:?}");
    add_with(&manager, "web", vec![tap(&disk)]).unwrap();
}

#[test]
fn while_a_target_is_imported_others_are_added_and_its_disks_are_its_own() {
    let (world, manager) = World::with(&["db"]);
    let dir = world.dir.path();
    let (disk, image) = (dir.join("disk.raw"), dir.join("image.raw"));
    fs::write(&disk, vec![1; 1 << 20]).unwrap();
    fs::write(&image, vec![2; 1 << 20]).unwrap();
    let import = NewDisk { id: None, source: NewSource::ImportRaw(image), block_bytes: None };
    let add =
        call::TargetAdd { config: TargetConfig::new("web"), disks: vec![tap(&disk), import], wait: true };
    let mut during = Meanwhile::new(|| {
        world.tapped(&manager, "other");
        let refused = add_with(&manager, "w2", vec![tap(&disk)]);
        assert!(is_of(&refused, "web"), "{refused:?}");
        let refused = restore(&manager, "db", None, &disk);
        assert!(is_of(&refused, "web"), "{refused:?}");
    });
    manager.handle(&add, &mut during).unwrap();
    assert_eq!(served(&manager), ["db", "other", "web"]);
    // What could not be added takes nothing.
    let (free, bad) = (dir.join("free.raw"), dir.join("bad.raw"));
    fs::write(&free, vec![1; 1 << 20]).unwrap();
    fs::write(&bad, b"short").unwrap();
    add_with(&manager, "w2", vec![tap(&free), tap(&bad)]).unwrap_err();
    add_with(&manager, "w3", vec![tap(&free)]).unwrap();
}

#[test]
fn nobody_waits_for_a_target_whose_settings_are_being_written() {
    let (_world, manager) = World::with(&["db", "web"]);
    let web = manager.target("web").unwrap();
    let (changing, looked) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_for("the change", || changing.load(Ordering::Acquire));
            manager.registry.taps()
        });
        let mut answered = false;
        let changed = web.change_config(|_| {
            changing.store(true, Ordering::Release);
            // Whoever wants to know all disks waits for the settings by now.
            std::thread::sleep(Duration::from_millis(100));
            scope.spawn(|| {
                manager.target("db").unwrap();
                looked.store(true, Ordering::Release);
            });
            let end = Instant::now() + Duration::from_secs(10);
            while !answered && Instant::now() < end {
                answered = looked.load(Ordering::Acquire);
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        changed.unwrap();
        assert!(answered, "another target was waited for");
    });
}

#[test]
fn a_target_whose_folder_was_moved_by_its_removal_has_no_disks() {
    let (world, manager) = World::with(&["web"]);
    let held = manager.registry.hold_unopened("web", Change::Removing, Micros(0));
    assert!(held.unwrap().is_none(), "it is open");
    drop(manager);
    let manager = world.manager();
    let held = manager.registry.hold_unopened("web", Change::Removing, Micros(0)).unwrap().unwrap();
    let (folder, away) = (world.target_dir("web"), world.dir.path().join("away"));
    std::fs::rename(&folder, &away).unwrap();
    manager.registry.taps().1.unwrap();
    std::fs::rename(&away, &folder).unwrap();
    drop(held);
    manager.target("web").unwrap();
}

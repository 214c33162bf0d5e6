//! Imports of images that others have open.

use std::{fs::File, path::Path};

use bygone_sys::ImageLock;

use super::{
    machines::{run, stop},
    *,
};
use crate::api::{Answers, Failure, Items, Nothing, Progress};

fn import_request(name: &str, image: &Path) -> call::TargetAdd {
    let disk = NewDisk { id: None, source: NewSource::ImportRaw(image.to_owned()), block_bytes: None };
    call::TargetAdd { config: TargetConfig::new(name), disks: vec![disk], wait: true }
}

fn import(manager: &Manager, name: &str, image: &Path) -> Result<()> {
    manager.handle(&import_request(name, image), &mut Nobody).map(drop)
}

fn in_use(answer: Result<()>) -> Option<String> {
    match answer.unwrap_err().failure() {
        Failure::DiskInUse { target, .. } => target,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_image_that_is_being_written_is_not_imported() {
    let world = World::new();
    let manager = world.manager();
    let disk = world.tapped(&manager, "a");
    run(&manager, "a").unwrap();
    assert_eq!(in_use(import(&manager, "b", &disk)).as_deref(), Some("a"));
    stop(&manager, "a").unwrap();
    let target = manager.target("a").unwrap();
    wait_for("its disk to be closed", || !target.is_busy());
    import(&manager, "b", &disk).unwrap();

    let lock = ImageLock::take_exclusive(&File::open(&disk).unwrap()).unwrap();
    assert_eq!(in_use(import(&manager, "c", &disk)), None, "its target does not have it open");
    let other = world.dir.path().join("other.img");
    std::fs::copy(&disk, &other).unwrap();
    drop(lock);
    let lock = ImageLock::take_exclusive(&File::open(&other).unwrap()).unwrap();
    assert_eq!(in_use(import(&manager, "c", &other)), None);
    drop(lock);
    import(&manager, "c", &other).unwrap();
    assert_eq!(served(&manager), ["a", "b", "c"]);
}

/// Tries to write to an image while it is imported.
struct Writer<'a> {
    image: &'a Path,
    tried: u32,
}

impl Answers for Writer<'_> {
    fn progress(&mut self, _: Progress) -> bool {
        self.tried += 1;
        let file = File::options().read(true).write(true).open(self.image).unwrap();
        ImageLock::take_exclusive(&file).unwrap_err();
        true
    }
    fn note(&mut self, _: String) {}
    fn wanted(&mut self) -> bool {
        true
    }
}

impl Items<Nothing> for Writer<'_> {
    fn item(&mut self, nothing: Nothing) -> bool {
        match nothing {}
    }
}

#[test]
fn nobody_writes_to_an_image_while_it_is_imported() {
    let (world, manager) = World::with(&[]);
    let image = world.dir.path().join("a.img");
    std::fs::write(&image, [7; 1 << 20]).unwrap();
    let mut writer = Writer { image: &image, tried: 0 };
    manager.handle(&import_request("web", &image), &mut writer).unwrap();
    assert!(writer.tried > 0);
    ImageLock::take_exclusive(&File::options().read(true).write(true).open(&image).unwrap()).unwrap();
}

#[test]
fn the_moments_that_are_listed_of_an_import_of_several_disks_can_be_brought_back() {
    let (world, manager) = World::with(&[]);
    let disks = ["one.raw", "two.raw"].map(|name| {
        let image = world.dir.path().join(name);
        std::fs::write(&image, vec![7; 1 << 20]).unwrap();
        NewDisk { id: None, source: NewSource::ImportRaw(image), block_bytes: None }
    });
    let add = call::TargetAdd { config: TargetConfig::new("web"), disks: disks.into(), wait: true };
    manager.handle(&add, &mut Nobody).unwrap();
    let all = call::Timeline {
        name: "web".into(),
        since: None,
        until: None,
        kinds: vec![Kind::Base],
        branch: None,
        limit: None,
    };
    let listed = Collected::of(&manager, &all).items;
    assert_eq!(listed.len(), 2, "{listed:?}");
    for moment in listed {
        let to = call::RestoreTo::Path(world.dir.path().join(format!("{}/", moment.seq)));
        std::fs::create_dir(world.dir.path().join(moment.seq.to_string())).unwrap();
        let (name, at) = ("web".to_owned(), moment.when.clone());
        let restore = call::Restore { name, at, to, disk: None, discard_later: false };
        let restored = manager.handle(&restore, &mut Nobody).unwrap();
        assert_eq!((restored.moment.seq, restored.disks.len()), (moment.seq, 2));
    }
}

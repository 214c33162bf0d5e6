//! Logs of older versions must stay readable for ever. A fixture is made once, by the version after which it is named,
//! and never regenerated (`make_fixture` refuses to overwrite it).

use std::path::{Path, PathBuf};

use bygone_model::{BranchId, Event, Kind, Lba, Sectors, Seq, VolumeId};
use bygone_store::{BlockWrite, Content};

use crate::world::{World, mark, write};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/version-1")
}

#[test]
#[ignore = "makes the fixture of a new version; run once, by hand"]
fn make_fixture() {
    let (world, log, volume) = World::make_of(4 << 20, 12 << 10);
    for i in 0..24 {
        write(&log, volume, i % 6 * 2, 2, i + 1);
    }
    log.event(BranchId(0), &Event::new(Kind::Package, "install nginx").with("by", "apt")).unwrap();
    let fork = log.head_seq();
    let branch = log.add_branch("try", BranchId(0), fork).unwrap();
    let own = log.catalog().volumes_of(branch, Seq::MAX).next().unwrap().id;
    write(&log, own, 4, 2, 100);
    log.append(&[BlockWrite { volume, lba: Lba(0), content: Content::Trim(Sectors(4)), base: false }])
        .unwrap();
    log.append(&[BlockWrite { volume, lba: Lba(4), content: Content::Zero(Sectors(2)), base: true }])
        .unwrap();
    write(&log, volume, 3 << 20, 1, 200);
    while log.maintain().unwrap() {}
    log.checkpoint().unwrap();
    log.promote_branch(branch).unwrap();
    write(&log, own, 2 << 20, 8, 300);
    log.flush().unwrap();
    drop(log);
    for part in ["log", "index"] {
        std::fs::create_dir_all(folder().parent().unwrap()).unwrap();
        std::fs::create_dir_all(folder().join(part)).unwrap();
        for from in world.files(part) {
            let to = folder().join(part).join(from.file_name().unwrap());
            assert!(!to.exists(), "{} is there already", to.display());
            std::fs::copy(from, to).unwrap();
        }
    }
}

#[test]
fn a_log_of_version_1_is_read() {
    let world = World::copy_of(&folder());
    let log = world.open();
    assert!(log.damage_at_open().is_empty());
    assert!(log.verify(false, &mut |_, _| true).unwrap().damaged.is_empty());
    assert_eq!(log.id(), *b"sixteen bytes id");

    let catalog = log.catalog();
    let names: Vec<&str> = catalog.branches.iter().map(|branch| branch.name.as_str()).collect();
    assert_eq!(names, ["main", "try"]);
    assert_eq!(catalog.head, BranchId(1));
    assert_eq!(catalog.disks[0].name, "vda");

    let (main, own) = (VolumeId(0), VolumeId(1));
    let mut events = Vec::new();
    log.events(Seq(0), log.head_seq(), &mut |event| {
        events.push(event.clone());
        true
    })
    .unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].event, Event::new(Kind::Package, "install nginx").with("by", "apt"));
    let fork = events[0].seq;
    assert_eq!(catalog.volumes[1].parent, Some((main, fork)));

    let head = log.head_seq();
    let marks = |volume, seq| -> Vec<u64> {
        [0, 2, 4, 6, 2 << 20, 3 << 20].iter().map(|&lba| mark(&log, volume, lba, seq).unwrap()).collect()
    };
    assert_eq!(marks(main, Seq(fork.0 - 1)), [19, 20, 21, 22, 0, 0]);
    assert_eq!(marks(main, Seq(fork.0 - 7)), [13, 14, 15, 16, 0, 0]);
    assert_eq!(marks(main, head), [0, 0, 0, 22, 0, 200]);
    assert_eq!(marks(own, fork), [19, 20, 21, 22, 0, 0]);
    assert_eq!(marks(own, head), [19, 20, 100, 22, 300, 0]);
    assert_eq!(log.time_of(fork).unwrap(), events[0].time);
}

//! Branches by name and by id: what their exports show, and which can become the present.

use bygone_block::{Change, Reading, Writing};
use jiff::Zoned;

use super::*;

fn write(manager: &Manager, what: &str, byte: u8) {
    let disk = manager.open_device(what, &Zoned::now()).unwrap().device;
    disk.write(&[Writing { offset: 0, change: Change::Data(&[byte; 4096]) }]).unwrap();
}

/// The first byte of a disk, and the branch of its moment.
fn shown(manager: &Manager, what: &str) -> (u8, Option<String>) {
    let opened = manager.open_device(what, &Zoned::now()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let mut block = [0; 512];
    opened.device.read(0, &mut block, Reading::MayWait).unwrap();
    (block[0], opened.moment.map(|moment| moment.branch))
}

#[test]
fn an_export_of_a_point_on_a_branch_is_of_that_branch() {
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    write(&manager, "web", 1);
    target.log.add_branch("try-1", BranchId(0), target.log.head_seq()).unwrap();
    write(&manager, "web#try-1", 2);
    let at = Some("branch:try-1".to_owned());
    let point = call::Point { name: "web".into(), at, label: "good".into(), hold: None };
    manager.handle(&point, &mut Nobody).unwrap();
    write(&manager, "web", 3);
    write(&manager, "web#try-1", 4);
    let on = |byte, branch: &str| (byte, Some(branch.to_owned()));
    assert_eq!(shown(&manager, "web@point:good"), on(2, "try-1"));
    assert_eq!(shown(&manager, "web/vda@try-1@point:good"), on(2, "try-1"));
    assert_eq!(shown(&manager, "web@branch:try-1"), on(4, "try-1"));
    assert_eq!(shown(&manager, "web@now"), on(3, "main"));
    assert_eq!((shown(&manager, "web"), shown(&manager, "web#try-1")), ((3, None), (4, None)));
}

#[test]
fn only_a_branch_that_there_is_becomes_the_present() {
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    let head = || (target.present(), target.log.catalog().lived.len());
    let before = head();
    let promote = |branch: &str| {
        let promote = call::BranchPromote { name: "web".into(), branch: Some(branch.into()) };
        manager.handle(&promote, &mut Nobody).map(drop)
    };
    let branch = target.log.add_branch("try-1", BranchId(0), target.log.head_seq()).unwrap();
    let drop_it = call::BranchDrop { name: "web".into(), branch: "try-1".into() };
    manager.handle(&drop_it, &mut Nobody).unwrap();
    for name in ["try-1", "id:1", "id:7", "id:4294967295", "id:-1"] {
        let refused = promote(name);
        let no_branch = matches!(&refused, Err(Error::Store(bygone_store::Error::NoBranch(_))));
        assert!(no_branch, "{name}: {refused:?}");
        assert_eq!(head(), before, "{name}");
    }
    // Nor through the store directly.
    for id in [branch, BranchId(7)] {
        target.log.promote_branch(id).unwrap_err();
        assert_eq!(head(), before);
    }
    promote("id:0").unwrap();
}

#[test]
fn a_dropped_branch_is_listed_by_the_id_that_names_its_moments() {
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    target.log.add_branch("try-1", BranchId(0), target.log.head_seq()).unwrap();
    write(&manager, "web#try-1", 2);
    let drop_it = call::BranchDrop { name: "web".into(), branch: "try-1".into() };
    manager.handle(&drop_it, &mut Nobody).unwrap();
    target.log.add_branch("try-1", BranchId(0), target.log.head_seq()).unwrap();
    let list = |dropped| {
        let listed = Collected::of(&manager, &call::BranchList { name: "web".into(), dropped });
        listed.items.into_iter().map(|b| (b.id, b.name, b.dropped.is_some())).collect::<Vec<_>>()
    };
    let (main, again) = ((0, "main".to_owned(), false), (2, "try-1".to_owned(), false));
    assert_eq!(list(false), [main.clone(), again.clone()]);
    assert_eq!(list(true), [main, (1, "try-1".to_owned(), true), again]);
    assert_eq!(shown(&manager, "web/vda@id:1@now"), (2, Some("try-1".to_owned())));
}

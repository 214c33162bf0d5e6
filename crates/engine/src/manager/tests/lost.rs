//! Records are lost and no index knows what they wrote: what lies behind them says so, and if they may have moved the
//! present, nothing builds on it until a person has chosen.

use std::path::PathBuf;

use bygone_block::{BlockDevice as _, Change, Reading, Writing};
use bygone_store::LogOptions;

use super::{
    machines::{run, stop},
    *,
};
use crate::{
    api::{MomentInfo, call::RestoreTo},
    target::Target,
};

/// Small segments, so that little makes many.
fn manager(world: &World) -> Arc<Manager> {
    let options = LogOptions { segment_bytes: 24 << 10, ..LogOptions::default() };
    Manager::open_shared(Shared::with_options(&world.paths(), world.fake.clone(), options), false).unwrap()
}

/// Fills the first 64 KiB of the present with this byte, which takes several segments.
fn fill(target: &Arc<Target>, byte: u8) {
    let disk = target.lease(target.volume(target.present(), None).unwrap(), Use::Client).unwrap();
    for offset in (0..64 << 10).step_by(8 << 10) {
        disk.write(&[Writing { offset, change: Change::Data(&[byte; 8 << 10]) }]).unwrap();
    }
    target.log.flush().unwrap();
}

fn settle(target: &Target) {
    while target.log.maintain().unwrap() {}
}

/// The file of the segment that is being written.
fn newest(world: &World) -> PathBuf {
    files_below(&world.target_dir("web").join("log"))
        .into_iter()
        .rfind(|path| path.extension().is_some())
        .unwrap()
}

fn restore(manager: &Manager, at: &str, to: RestoreTo) -> Result<crate::api::Restored> {
    let call = call::Restore { name: "web".into(), at: at.into(), disk: None, to, discard_later: false };
    manager.handle(&call, &mut Nobody)
}

fn copied(world: &World, manager: &Manager, at: &str) -> (crate::api::Restored, u8) {
    let to = world.dir.path().join("out.raw");
    let restored = restore(manager, at, RestoreTo::Path(to.clone())).unwrap();
    let byte = std::fs::read(&to).unwrap()[0];
    std::fs::remove_file(to).unwrap();
    (restored, byte)
}

fn promote(manager: &Manager, branch: &str) -> Result<MomentInfo> {
    let call = call::BranchPromote { name: "web".into(), branch: Some(branch.into()) };
    manager.handle(&call, &mut Nobody)
}

fn first_byte(manager: &Manager, what: &str) -> u8 {
    let mut block = [0; 4096];
    let opened = manager.open_device(what, &jiff::Zoned::now()).unwrap();
    opened.device.read(0, &mut block, Reading::MayWait).unwrap();
    block[0]
}

/// A target that was put back to its point `one` (7 everywhere) after 8 was written, and then filled with 9; the
/// segment with the act is lost.
fn without_its_act() -> (World, Arc<Manager>) {
    let world = World::new();
    let manager = manager(&world);
    add(&manager, "web").unwrap();
    let target = manager.target("web").unwrap();
    fill(&target, 7);
    let point = call::Point { name: "web".into(), at: None, label: "one".into(), hold: None };
    manager.handle(&point, &mut Nobody).unwrap();
    fill(&target, 8);
    let before = newest(&world);
    // The act is in a segment of its own.
    while newest(&world) == before {
        target.log.event(target.present(), &Event::new(Kind::Manager, "x".repeat(1000))).unwrap();
    }
    restore(&manager, "point:one", RestoreTo::InPlace).unwrap();
    let lost = newest(&world);
    fill(&target, 9);
    fill(&target, 9);
    settle(&target);
    assert!(newest(&world) != lost && !world.target_dir("web").join("index").exists());
    drop((target, manager));
    std::fs::remove_file(lost).unwrap();
    let manager = self::manager(&world);
    (world, manager)
}

fn is_in_doubt<T>(result: &Result<T>) -> bool {
    matches!(result, Err(Error::PresentInDoubt { .. }))
}

#[test]
fn nothing_builds_on_a_present_that_may_be_another_branch_until_a_person_has_chosen() {
    let (world, manager) = without_its_act();
    let said = problems(&manager);
    assert!(said.contains("the present may be another branch than \"main\""), "{said}");
    let head = manager.target("web").unwrap().log.head_seq();

    assert!(is_in_doubt(&run(&manager, "web")));
    let at = call::Run { name: "web".into(), at: Some("now".into()), branch: None, display: None };
    assert!(is_in_doubt(&manager.handle(&at, &mut Nobody)));
    assert!(is_in_doubt(&restore(&manager, "point:one", RestoreTo::InPlace)));
    assert!(is_in_doubt(&manager.handle(&call::Undo { name: "web".into() }, &mut Nobody)));
    let drop_it = call::BranchDrop { name: "web".into(), branch: "main".into() };
    assert!(is_in_doubt(&manager.handle(&drop_it, &mut Nobody)));
    assert!(is_in_doubt(&manager.open_device("web", &jiff::Zoned::now()).map(drop)));
    assert_eq!(manager.target("web").unwrap().log.head_seq(), head, "something was written");

    // Nothing that only looks is refused, and it says what it lies behind.
    let (now, byte) = copied(&world, &manager, "now");
    assert_eq!(byte, 8);
    assert!(now.moment.lost.len() == 1 && now.moment.lost[0].in_doubt, "{now:?}");
    let (one, byte) = copied(&world, &manager, "point:one");
    assert_eq!((byte, one.moment.lost.len(), one.disks[0].uncertain_bytes), (7, 0, 0));
    manager
        .handle(&call::BranchList { name: "web".into(), dropped: true }, &mut Collected::default())
        .unwrap();
    assert_eq!(first_byte(&manager, "web@point:one"), 7);

    // A later life knows it too, also once a checkpoint was written.
    drop(manager);
    let manager = self::manager(&world);
    manager.target("web").unwrap().log.checkpoint().unwrap();
    drop(manager);
    let manager = self::manager(&world);
    assert!(is_in_doubt(&run(&manager, "web")));

    let chosen = promote(&manager, "main").unwrap();
    assert!(chosen.label.contains("branch main was chosen as the present"), "{chosen:?}");
    assert!(!problems(&manager).contains("may be another branch"));
    drop(manager);

    // From then on it is used as before. What lies behind the loss still tells of it.
    let manager = self::manager(&world);
    run(&manager, "web").unwrap();
    stop(&manager, "web").unwrap();
    let (now, byte) = copied(&world, &manager, "now");
    assert_eq!((byte, now.moment.lost.len(), now.moment.lost[0].in_doubt), (8, 1, false));
    assert!(now.disks[0].uncertain_bytes > 0);
    let restored = restore(&manager, "point:one", RestoreTo::InPlace).unwrap();
    assert_eq!((restored.branch.as_deref(), first_byte(&manager, "web")), (Some("restored-1"), 7));
    // The lost branch's numbers are not given out again: this one shows nothing of it.
    fill(&manager.target("web").unwrap(), 5);
    promote(&manager, "main").unwrap();
    assert_eq!((first_byte(&manager, "web"), first_byte(&manager, "web#restored-1")), (8, 5));
}

#[test]
fn a_loss_of_which_a_later_record_proves_that_it_moved_nothing_keeps_nobody_from_anything() {
    let world = World::new();
    let manager = manager(&world);
    add(&manager, "web").unwrap();
    fill(&manager.target("web").unwrap(), 7);
    let lost = newest(&world);
    fill(&manager.target("web").unwrap(), 8);
    // The first record of the next life.
    drop(manager);
    let manager = self::manager(&world);
    let target = manager.target("web").unwrap();
    fill(&target, 8);
    settle(&target);
    drop((target, manager));
    std::fs::remove_file(lost).unwrap();

    let manager = self::manager(&world);
    let said = problems(&manager);
    assert!(said.contains("are lost") && !said.contains("may be another branch"), "{said}");
    run(&manager, "web").unwrap();
    stop(&manager, "web").unwrap();
    let (now, byte) = copied(&world, &manager, "now");
    // All that was written first was overwritten since; what never was may have been.
    assert_eq!((byte, now.moment.lost.len(), now.disks[0].uncertain_bytes), (8, 1, (1 << 20) - (64 << 10)));
}

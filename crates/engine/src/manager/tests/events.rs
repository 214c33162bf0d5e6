//! Which moments events name, and how much is read to answer.

use bygone_block::{BlockDevice, Change, Reading, Writing};
use bygone_model::{Grade, Micros, Place};
use bygone_store::{EventOrder, EventQuery};

use super::{
    machines::{run, run_call, stop},
    *,
};
use crate::{
    api::{Planned, call::RestoreTo},
    runner::fake::{FakeMachine, Next},
    target::{Target, Use, lock},
};

const BLOCK: usize = 4096;

fn write(target: &Arc<Target>, used: Use, block: u64, fill: u8) {
    let lease = target.lease(target.volume(BranchId(0), None).unwrap(), used).unwrap();
    let offset = block * BLOCK as u64;
    lease.write(&[Writing { offset, change: Change::Data(&[fill; BLOCK]) }]).unwrap();
}

fn find(target: &Arc<Target>, text: &str) -> Place {
    target.moment(text, &jiff::Zoned::now()).unwrap().place
}

/// The first bytes of the first two blocks of the disk at a moment.
fn content(target: &Arc<Target>, text: &str) -> [u8; 2] {
    let place = find(target, text);
    let disk = target.as_of(target.volume_at(place, None).unwrap(), place.seq).unwrap();
    let mut bytes = vec![0; 2 * BLOCK];
    disk.read(0, &mut bytes, Reading::MayWait).unwrap();
    [bytes[0], bytes[BLOCK]]
}

pub(super) fn newest(target: &Target, kind: Kind) -> bygone_store::Event {
    let query = EventQuery { kinds: &[kind], ..EventQuery::default() };
    target.log.find_events(&query, EventOrder::Newest, 1, &mut |_| true).unwrap().remove(0)
}

fn machine(world: &World) -> Arc<FakeMachine> {
    let dir = world.paths().run_dir("web");
    wait_for("the machine", || world.fake.machine(&dir).is_some());
    world.fake.machine(&dir).unwrap()
}

#[test]
fn the_last_boot_is_the_disk_before_that_boot_wrote_anything() {
    let (world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    write(&target, Use::Client, 0, 1);
    run(&manager, "web").unwrap();
    stop(&manager, "web").unwrap();
    let stopped = find(&target, "last shutdown");
    *lock(&world.fake.next) = Next::Slow;
    std::thread::scope(|scope| {
        let start = scope.spawn(|| run(&manager, "web"));
        let machine = machine(&world);
        // The guest writes before the machine has answered.
        write(&target, Use::Guest, 1, 2);
        machine.answer();
        start.join().unwrap().unwrap();
    });
    assert_eq!(content(&target, "now"), [1, 2]);
    assert_eq!(content(&target, "last boot"), [1, 0]);
    assert_eq!(find(&target, "last shutdown before last boot"), stopped);
    assert!(find(&target, "last boot") > stopped, "it can be told apart from the stop before it");
    let boot = newest(&target, Kind::Boot);
    let at = boot.event.at.unwrap();
    assert_eq!(at.earliest, at.seq, "it is known exactly");
    assert!(at.seq < boot.seq && at.time <= boot.time);
    assert_eq!(target.log.time_of(at.seq).unwrap(), at.time);

    // The same through `restore`.
    let to = world.dir.path().join("then.raw");
    let restore = call::Restore {
        name: "web".into(),
        at: "last boot".into(),
        disk: None,
        to: RestoreTo::Path(to.clone()),
        discard_later: false,
    };
    manager.handle(&restore, &mut Nobody).unwrap();
    let bytes = std::fs::read(to).unwrap();
    assert_eq!([bytes[0], bytes[BLOCK]], [1, 0]);
}

#[test]
fn a_boot_that_only_the_next_manager_hears_of_tells_of_the_same_moment() {
    let (world, manager) = World::with(&["web"]);
    write(&manager.target("web").unwrap(), Use::Client, 0, 1);
    *lock(&world.fake.next) = Next::Slow;
    std::thread::scope(|scope| {
        let start = scope.spawn(|| {
            let mut asked = 0;
            let mut answers = Impatient(&mut asked);
            let _ = manager.handle(&run_call("web"), &mut answers);
        });
        machine(&world);
        start.join().unwrap();
    });
    write(&manager.target("web").unwrap(), Use::Guest, 1, 2);
    world.kill(manager);
    let manager = world.manager();
    run(&manager, "web").unwrap();
    let target = manager.target("web").unwrap();
    wait_for("the boot to be noted", || {
        let query = EventQuery { kinds: &[Kind::Boot], ..EventQuery::default() };
        !target.log.find_events(&query, EventOrder::Newest, 1, &mut |_| true).unwrap().is_empty()
    });
    assert_eq!(content(&target, "now"), [1, 2]);
    assert_eq!(content(&target, "last boot"), [1, 0]);
}

/// A client that leaves at once.
pub(super) struct Impatient<'a>(pub(super) &'a mut u32);

impl crate::api::Answers for Impatient<'_> {
    fn progress(&mut self, _: crate::api::Progress) -> bool {
        true
    }
    fn note(&mut self, _: String) {}
    fn wanted(&mut self) -> bool {
        *self.0 += 1;
        *self.0 < 2
    }
}

impl<I> crate::api::Items<I> for Impatient<'_> {
    fn item(&mut self, _: I) -> bool {
        true
    }
}

#[test]
fn a_reset_at_which_the_machine_did_not_hold_still_tells_of_a_range() {
    let (world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    run(&manager, "web").unwrap();
    write(&target, Use::Guest, 0, 1);
    let before = target.log.head_seq();
    std::thread::sleep(Duration::from_millis(2));
    let reset = Micros(jiff::Timestamp::now().as_microsecond());
    std::thread::sleep(Duration::from_millis(2));
    write(&target, Use::Guest, 1, 2);
    let after = target.log.head_seq();
    machine(&world).reset_without_holding_at(reset);
    stop(&manager, "web").unwrap();
    let at = newest(&target, Kind::Reset).event.at.unwrap();
    assert_eq!((at.earliest, at.seq), (before, after));
    let told = target.moment("last reset", &jiff::Zoned::now()).unwrap().info(&target.log.catalog());
    assert_eq!((told.earliest_seq, told.seq), (Some(before.0), after.0));
}

/// The bytes that this thread has read from files.
fn bytes_read() -> u64 {
    let counted = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    let line = counted.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap();
    line.parse().unwrap()
}

fn plan(manager: &Manager, of: impl Into<call::Plannable>) -> Planned {
    manager.handle(&call::Plan { of: of.into() }, &mut Nobody).unwrap()
}

#[test]
fn a_plan_does_not_read_all_of_history() {
    const EVENTS: usize = 6_000;
    let (_world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    let log = &target.log;
    let branch = log.add_branch("try-1", BranchId(0), log.head_seq()).unwrap();
    let filler = "x".repeat(1000);
    for n in 0..EVENTS {
        let event = Event::new(Kind::Package, format!("package {n}")).with("filler", filler.as_str());
        log.event(if n % 2 == 0 { branch } else { BranchId(0) }, &event).unwrap();
        if n % (EVENTS / 3) == 10 {
            log.event(branch, &Event::new(Kind::Point, format!("point {n}"))).unwrap();
        }
    }
    let newest = log.event(branch, &Event::new(Kind::Package, "the newest")).unwrap().last;
    let start = log.event(BranchId(0), &Event::new(Kind::Point, "start")).unwrap().last;
    log.flush().unwrap();
    log.checkpoint().unwrap();
    // The index of the blocks is read once.
    plan(&manager, call::BranchDrop { name: "web".into(), branch: "try-1".into() });

    let before = bytes_read();
    let dropped = plan(&manager, call::BranchDrop { name: "web".into(), branch: "try-1".into() });
    let removed = plan(&manager, call::TargetRemove { name: "web".into(), delete_history: true });
    let restore = call::Restore {
        name: "web".into(),
        at: "point:start".into(),
        disk: None,
        to: RestoreTo::InPlace,
        discard_later: true,
    };
    let restored = plan(&manager, restore);
    let read = bytes_read() - before;
    // Each question may read a few of the twelve blocks of 512 events.
    assert!(read < (EVENTS * 1000) as u64, "{read} bytes were read of a history of {EVENTS} KB");

    let [lost] = &dropped.loses[..] else { panic!("{dropped:?}") };
    assert_eq!((lost.points, lost.to_seq), (3, newest.0));
    assert_eq!(lost.labels, ["point 10", "point 2010", "point 4010"]);
    let lost: Vec<(&str, u64)> = removed.loses.iter().map(|l| (l.branch.as_str(), l.points)).collect();
    assert_eq!(lost, [("main", 1), ("try-1", 3)]);
    assert_eq!((restored.loses[0].after_seq, restored.loses[0].points), (start.0, 0));
}

#[test]
fn a_plan_counts_points_up_to_a_bound_and_names_the_newest() {
    let (_world, manager) = World::with(&["web"]);
    let log = &manager.target("web").unwrap().log;
    for n in 0..crate::api::POINTS_MAX + 5 {
        log.event(BranchId(0), &Event::new(Kind::Point, format!("p{n}"))).unwrap();
    }
    let planned = plan(&manager, call::TargetRemove { name: "web".into(), delete_history: true });
    let [lost] = &planned.loses[..] else { panic!("{planned:?}") };
    assert_eq!(lost.points, crate::api::POINTS_MAX as u64);
    assert_eq!(lost.labels.first().map(String::as_str), Some("p97"));
    assert_eq!(lost.labels.last().map(String::as_str), Some("p104"));
}

#[test]
fn a_file_system_that_is_in_use_is_seen_whatever_blocks_its_disk_has() {
    let (_world, manager) = World::with(&[]);
    let disk = NewDisk { id: None, source: NewSource::Store(1 << 20), block_bytes: Some(4096) };
    let add = call::TargetAdd { config: TargetConfig::new("web"), disks: vec![disk], wait: true };
    manager.handle(&add, &mut Nobody).unwrap();
    let target = manager.target("web").unwrap();
    // One partition, from block 16 on, with an ext4 that needs recovery.
    let mut bytes = vec![0; 17 * BLOCK];
    bytes[510..512].copy_from_slice(&0xaa55_u16.to_le_bytes());
    (bytes[446 + 4], bytes[446 + 8], bytes[446 + 12]) = (0x83, 16, 1);
    let superblock = 16 * BLOCK + 1024;
    bytes[superblock + 0x38..][..2].copy_from_slice(&0xef53_u16.to_le_bytes());
    bytes[superblock + 0x3a] = 1;
    for (needs_recovery, grade) in [(4, Grade::Crash), (0, Grade::Stopped)] {
        bytes[superblock + 0x60] = 0x40 | needs_recovery;
        let lease = target.lease(target.volume(BranchId(0), None).unwrap(), Use::Client).unwrap();
        lease.write(&[Writing { offset: 0, change: Change::Data(&bytes) }]).unwrap();
        drop(lease);
        run(&manager, "web").unwrap();
        stop(&manager, "web").unwrap();
        assert_eq!(newest(&target, Kind::Shutdown).event.grade, grade);
    }
}

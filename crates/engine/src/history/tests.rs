//! What a text resolves to, with a real store and no guests: the place, the answer and the content.

mod model;

use std::{path::Path, sync::Arc};

use bygone_block::{BlockDevice, Reading, Writing};
use bygone_model::{BranchId, Event, Grade, Kind, Place, Seq, when::WholeDay};
use jiff::Zoned;

use crate::{
    Error,
    api::{
        MomentInfo, Restored, Unreadable,
        call::{RestoreTo, Timeline},
    },
    config::{DiskConfig, TargetConfig},
    lifecycle::{Change, Request},
    restore,
    serve::Nobody,
    store_dir::StorePaths,
    target::{Shared, Target, Use},
    timeline,
};

const BLOCK: usize = 4096;

fn shared(paths: &StorePaths) -> Arc<Shared> {
    Shared::new(paths, Arc::new(crate::runner::Qemu::default()))
}

/// A target with one store-only disk of 1 MiB.
fn target(dir: &Path) -> Arc<Target> {
    let paths = StorePaths::new(&dir.join("store"));
    paths.make().unwrap();
    let mut config = TargetConfig::new("web");
    config.disks.push(DiskConfig { id: "vda".into(), path: None, block_bytes: 512, size_bytes: 1 << 20 });
    Target::make(&shared(&paths), &config, |_| Ok(Vec::new())).unwrap()
}

fn write(target: &Arc<Target>, branch: BranchId, byte: u8) -> Seq {
    let lease = target.lease(target.volume(branch, None).unwrap(), Use::Upkeep).unwrap();
    lease.write(&[Writing { offset: 0, change: bygone_block::Change::Data(&[byte; BLOCK]) }]).unwrap();
    target.log.head_seq()
}

fn find(target: &Target, text: &str) -> crate::Result<super::Found> {
    super::find(&target.log, text, WholeDay::Refuse, &Zoned::now())
}

/// The first byte of the disk at a moment.
fn content(target: &Arc<Target>, place: Place) -> u8 {
    let volume = target.volume_at(place, None).unwrap();
    let mut block = [0; 512];
    target.as_of(volume, place.seq).unwrap().read(0, &mut block, Reading::MayWait).unwrap();
    block[0]
}

#[track_caller]
fn means(target: &Arc<Target>, text: &str, branch: u32, byte: u8) -> super::Found {
    let found = find(target, text).unwrap_or_else(|e| panic!("{text}: {e}"));
    assert_eq!((found.place.branch, content(target, found.place)), (BranchId(branch), byte), "{text}");
    let info = found.info(&target.log.catalog());
    let again = find(target, &info.when).unwrap();
    assert_eq!(again.place, found.place, "{text} is not found again by {}", info.when);
    found
}

fn new_branch(target: &Target, from: &str, name: &str) -> BranchId {
    let place = find(target, from).unwrap().place;
    restore::new_branch(target, place, Some(name), "try").unwrap()
}

fn point(target: &Target, at: Option<&str>, label: &str) -> crate::Result<MomentInfo> {
    timeline::add_point(target, at, label, None, &Zoned::now())
}

fn restore_in_place(target: &Arc<Target>, at: &str, discard_later: bool) -> Restored {
    let (to, now) = (RestoreTo::InPlace, Zoned::now());
    restore::restore(target, at, None, &to, discard_later, &now, &mut Nobody).unwrap()
}

fn restored_byte(target: &Arc<Target>, at: &str) -> (u8, Restored) {
    let dir = tempfile::tempdir().unwrap();
    let to = RestoreTo::Path(dir.path().join("out.raw"));
    let restored = restore::restore(target, at, None, &to, false, &Zoned::now(), &mut Nobody).unwrap();
    (std::fs::read(dir.path().join("out.raw")).unwrap()[0], restored)
}

/// The time of a moment as a person writes it, to the microsecond.
fn time(target: &Target, seq: Seq) -> String {
    // The next record gets another time.
    std::thread::sleep(std::time::Duration::from_millis(2));
    timeline::rfc3339(target.log.time_of(seq).unwrap())
}

#[test]
fn a_point_on_a_branch_brings_back_that_branch() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    write(&target, BranchId(0), 1);
    let branch = new_branch(&target, "now", "try-1");
    write(&target, branch, 2);
    write(&target, BranchId(0), 3);
    let named = point(&target, Some("branch:try-1"), "good").unwrap();
    assert_eq!((named.branch.as_str(), named.branch_id), ("try-1", 1));
    means(&target, "point:good", 1, 2);
    means(&target, "try-1@point:good", 1, 2);
    means(&target, "now", 0, 3);
    means(&target, "branch:try-1", 1, 2);
    let (byte, restored) = restored_byte(&target, "point:good");
    assert_eq!(byte, 2);
    assert_eq!((restored.moment.branch.as_str(), restored.moment.kind), ("try-1", Kind::Point));
    assert_eq!(restored.moment.label, "good");
    assert!(matches!(find(&target, "main@point:good"), Err(Error::Moment { .. })));
}

#[test]
fn what_was_discarded_can_still_be_named_and_a_name_that_is_used_again_does_not_change_that() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    write(&target, BranchId(0), 1);
    let early = point(&target, None, "early").unwrap();
    let late = write(&target, BranchId(0), 2);
    point(&target, None, "late").unwrap();
    let discarded = time(&target, late);
    restore_in_place(&target, "point:early", true);
    assert_eq!(target.log.catalog().head, BranchId(1));
    means(&target, "point:early", 0, 1);
    means(&target, "point:late", 0, 2);
    means(&target, &format!("seq:{late}"), 0, 2);
    means(&target, &discarded, 0, 2);
    means(&target, "now", 1, 1);
    assert!(matches!(find(&target, "branch:main"), Err(Error::Moment { .. })));
    means(&target, "branch:id:0", 0, 2);

    // The name is free, and the point does not move to the new branch of that name.
    let again = new_branch(&target, "now", "main");
    write(&target, again, 9);
    means(&target, "point:late", 0, 2);
    means(&target, &early.when, 0, 1);
    means(&target, "branch:main", 2, 9);
    assert_eq!(restored_byte(&target, "point:early").0, 1);
    assert_eq!(restored_byte(&target, "point:late").1.moment.branch_id, 0);
}

#[test]
fn a_text_that_was_told_means_the_same_whatever_becomes_of_its_branch_and_of_that_ones_name() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    write(&target, BranchId(0), 1);
    let branch = new_branch(&target, "now", "try-1");
    write(&target, branch, 2);
    // The last record is on another branch, so its seq alone would mean something else.
    write(&target, BranchId(0), 3);
    let told = means(&target, "branch:try-1", 1, 2).info(&target.log.catalog()).when;
    let named = point(&target, Some("branch:try-1"), "good").unwrap().when;
    target.log.drop_branch(branch).unwrap();
    means(&target, &told, 1, 2);
    means(&target, &named, 1, 2);
    let again = new_branch(&target, "now", "try-1");
    write(&target, again, 9);
    means(&target, &told, 1, 2);
    means(&target, &named, 1, 2);
}

#[test]
fn a_moment_that_is_listed_is_the_one_that_is_had_whatever_is_the_present() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let first = write(&target, BranchId(0), 1);
    let second = write(&target, BranchId(0), 2);
    point(&target, None, "B").unwrap();
    let between = time(&target, second);
    restore_in_place(&target, &format!("seq:{first}"), false);
    let third = write(&target, BranchId(1), 3);
    means(&target, &format!("seq:{second}"), 0, 2);
    means(&target, "point:B", 0, 2);
    // As 14:30 on a day on which 14:00 was restored at 15:00.
    means(&target, &between, 0, 2);
    means(&target, &format!("seq:{third}"), 1, 3);
    means(&target, "restored-1@now", 1, 3);
    // On the branch's own line the only moment at that time is its start.
    means(&target, &format!("restored-1@{between}"), 0, 1);
    means(&target, &format!("main@{between}"), 0, 2);
    // A branch that was never promoted, and one that was dropped.
    let branch = new_branch(&target, "now", "try-1");
    let own = write(&target, branch, 4);
    means(&target, &format!("seq:{own}"), 2, 4);
    target.log.drop_branch(branch).unwrap();
    means(&target, &format!("seq:{own}"), 2, 4);
    let mut listed = Vec::new();
    let call =
        Timeline { name: "web".into(), since: None, until: None, kinds: vec![], branch: None, limit: None };
    let mut each = |moment| {
        listed.push(moment);
        true
    };
    timeline::timeline(&target.log, &call, &Zoned::now(), &mut each).unwrap();
    assert!(listed.len() > 2);
    for moment in listed {
        let found = find(&target, &moment.when).unwrap();
        assert_eq!((found.place.branch.0, found.place.seq.0), (moment.branch_id, moment.seq), "{moment:?}");
    }
}

#[test]
fn a_record_of_no_line_stands_on_what_was_the_present_then() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    write(&target, BranchId(0), 1);
    let branch = new_branch(&target, "now", "try-1");
    let made = target.log.catalog().branch(branch).unwrap().made;
    write(&target, branch, 2);
    let op = target.begin_change(Change::Promoting, Request::Branches).unwrap();
    restore::promote(&op, branch, &mut Nobody).unwrap();
    drop(op);
    write(&target, branch, 3);
    let later = new_branch(&target, "now", "try-2");
    let later = target.log.catalog().branch(later).unwrap().made;
    means(&target, &format!("seq:{made}"), 0, 1);
    means(&target, &format!("seq:{later}"), 1, 3);
}

#[test]
fn state_words_follow_what_was_the_present() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let stop = |branch, grade| {
        let event = Event::new(Kind::Shutdown, "shut down").graded(grade);
        target.log.event(branch, &event).unwrap();
    };
    write(&target, BranchId(0), 1);
    stop(BranchId(0), Grade::Stopped);
    let branch = new_branch(&target, "now", "try-1");
    write(&target, branch, 2);
    stop(branch, Grade::Clean);
    means(&target, "last shutdown", 0, 1);
    means(&target, "last clean", 0, 1);
    means(&target, "try-1@last shutdown", 1, 2);
    means(&target, "try-1@last stopped", 0, 1);
    let op = target.begin_change(Change::Promoting, Request::Branches).unwrap();
    restore::promote(&op, branch, &mut Nobody).unwrap();
    drop(op);
    // The branch was not the present yet when it was shut down.
    means(&target, "last shutdown", 0, 1);
    write(&target, branch, 3);
    stop(branch, Grade::Crash);
    means(&target, "last shutdown", 1, 3);
    assert_eq!(means(&target, "last stopped", 0, 1).grade, Grade::Stopped);
}

#[test]
fn an_answer_says_what_was_really_taken() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    write(&target, BranchId(0), 1);
    let event = Event::new(Kind::Shutdown, "the target shut itself down").graded(Grade::Stopped);
    target.log.event(BranchId(0), &event).unwrap();
    let later = write(&target, BranchId(0), 2);
    let (byte, restored) = restored_byte(&target, "last shutdown");
    assert_eq!(byte, 1);
    assert_eq!((restored.moment.kind, restored.moment.grade), (Kind::Shutdown, Grade::Stopped));
    assert_eq!(restored.moment.label, "the target shut itself down");
    let (_, restored) = restored_byte(&target, &format!("seq:{later}"));
    assert_eq!((restored.moment.kind, restored.moment.grade), (Kind::Moment, Grade::Crash));
    // A point has the grade of the moment that it names.
    let named = point(&target, Some("last shutdown"), "safe").unwrap();
    assert_eq!(named.grade, Grade::Stopped);
}

#[test]
fn a_label_names_one_point_and_every_label_that_is_taken_can_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    write(&target, BranchId(0), 1);
    let first = point(&target, None, "  lead ").unwrap();
    assert_eq!(first.label, "lead");
    means(&target, "point:lead", 0, 1);
    for label in ["", "  ", "\t\n"] {
        assert!(matches!(point(&target, None, label), Err(Error::Label { .. })), "{label:?}");
    }
    assert!(matches!(point(&target, None, &"x".repeat(251)), Err(Error::Label { .. })));
    point(&target, None, &"x".repeat(250)).unwrap();
    for label in ["a@b", "seq:4", "before now", "é ü"] {
        point(&target, None, label).unwrap();
        means(&target, &format!("point:{label}"), 0, 1);
    }
    let branch = new_branch(&target, "now", "try-1");
    write(&target, branch, 2);
    match point(&target, Some("branch:try-1"), "lead") {
        Err(Error::LabelTaken { name, branch, .. }) => {
            assert_eq!((name.as_str(), branch.as_str()), (format!("seq:{}", first.seq).as_str(), "main"));
        }
        other => panic!("{other:?}"),
    }
    // A label on another line than the present's is taken too.
    point(&target, Some("branch:try-1"), "on the branch").unwrap();
    assert!(matches!(point(&target, None, "on the branch"), Err(Error::LabelTaken { .. })));
}

#[test]
fn a_moment_before_the_first_content_of_a_disk_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let paths = StorePaths::new(&dir.path().join("store"));
    paths.make().unwrap();
    let mut config = TargetConfig::new("web");
    config.disks.push(DiskConfig { id: "vda".into(), path: None, block_bytes: 512, size_bytes: 1 << 20 });
    let mut half = Seq::ZERO;
    let target = Target::make(&shared(&paths), &config, |target| {
        half = write(target, BranchId(0), 1);
        write(target, BranchId(0), 2);
        Ok(Vec::new())
    })
    .unwrap();
    let tried = |at: &str| {
        let to = RestoreTo::Path(dir.path().join("out.raw"));
        restore::restore(&target, at, None, &to, false, &Zoned::now(), &mut Nobody).map(drop)
    };
    assert!(matches!(tried(&format!("seq:{half}")), Err(Error::BaseIncomplete { .. })));
    assert!(matches!(tried("seq:1"), Err(Error::BeforeDisks { .. })));
    assert!(matches!(
        point(&target, Some(&format!("seq:{half}")), "half"),
        Err(Error::BaseIncomplete { .. })
    ));
    tried("now").unwrap();
}

#[test]
fn one_damaged_block_costs_that_block_of_what_is_restored_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let target = target(dir.path());
    let lease = target.lease(target.volume(BranchId(0), None).unwrap(), Use::Upkeep).unwrap();
    let mut wanted = vec![0; 1 << 20];
    for i in 0..40 {
        let (at, data) = (i * BLOCK, [i as u8 + 1; BLOCK]);
        lease.write(&[Writing { offset: at as u64, change: bygone_block::Change::Data(&data) }]).unwrap();
        wanted[at..at + BLOCK].copy_from_slice(&data);
    }
    drop(lease);
    target.log.flush().unwrap();
    let head = target.log.head_seq();
    let files = std::fs::read_dir(target.dir().join("log")).unwrap();
    let files = files.map(|entry| entry.unwrap().path());
    let place = |bytes: &[u8]| bytes.windows(BLOCK).position(|block| block.iter().all(|byte| *byte == 21));
    let hurt = files.filter_map(|path| Some((place(&std::fs::read(&path).ok()?)?, path))).next().unwrap();
    let mut bytes = std::fs::read(&hurt.1).unwrap();
    bytes[hurt.0 + 1000] ^= 2;
    std::fs::write(&hurt.1, bytes).unwrap();

    let out = dir.path().join("out.raw");
    let (to, now) = (RestoreTo::Path(out.clone()), Zoned::now());
    let at = format!("seq:{}", head.0);
    let restored = restore::restore(&target, &at, None, &to, false, &now, &mut Nobody).unwrap();
    let damaged = 20 * BLOCK..21 * BLOCK;
    wanted[damaged.clone()].fill(0);
    assert!(std::fs::read(out).unwrap() == wanted);
    let unreadable = Unreadable { first_byte: damaged.start as u64, len_bytes: BLOCK as u64 };
    assert_eq!(restored.disks[0].unreadable, [unreadable]);
    // The target's status is not affected.
    assert!(target.status().is_ok());
}

/// The grade of each moment of the timeline, as all other answers tell it too.
fn grades(target: &Arc<Target>) -> Vec<(u64, u32, Grade)> {
    let mut listed = Vec::new();
    let name = "web".to_owned();
    let call = Timeline { name, since: None, until: None, kinds: Vec::new(), branch: None, limit: None };
    timeline::timeline(&target.log, &call, &Zoned::now(), &mut |moment| {
        listed.push(moment);
        true
    })
    .unwrap();
    for moment in &listed {
        assert_eq!(find(target, &moment.when).unwrap().grade, moment.grade, "{moment:?}");
    }
    listed.iter().map(|moment| (moment.seq, moment.branch_id, moment.grade)).collect()
}

#[test]
fn a_moment_has_the_grade_of_the_newest_graded_event_of_its_line_until_a_disk_is_written() {
    for grade in [Grade::Flushed, Grade::Clean, Grade::Stopped] {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path());
        let now = |text: &str| find(&target, text).unwrap().grade;
        let stop = |branch, grade| {
            timeline::write(&target.log, branch, Event::new(Kind::Shutdown, "off").graded(grade)).unwrap().seq
        };
        write(&target, BranchId(0), 1);
        assert_eq!(now("now"), Grade::Crash);
        let at = stop(BranchId(0), grade);
        target.log.mark_moment().unwrap();
        timeline::write(&target.log, BranchId(0), Event::new(Kind::Manager, "looked after")).unwrap();
        assert_eq!(
            (now("now"), now("last shutdown"), now(&format!("seq:{}", at + 1))),
            (grade, grade, grade)
        );
        // A worse one about the same content takes nothing back, and a better one adds.
        stop(BranchId(0), Grade::Flushed);
        assert_eq!(now("now"), grade);
        assert_eq!(point(&target, None, "same").unwrap().grade, grade);
        // Another branch is not this line.
        let branch = new_branch(&target, "now", "try-1");
        assert_eq!((now("branch:try-1"), now("now")), (grade, grade));
        write(&target, branch, 2);
        assert_eq!((now("branch:try-1"), now("now")), (Grade::Crash, grade));
        let restored = restore_in_place(&target, "now", false);
        assert_eq!((restored.moment.grade, now("now")), (grade, grade));
        let head = target.log.catalog().head;
        write(&target, head, 3);
        assert_eq!((now("now"), now("main@now")), (Grade::Crash, grade));
        stop(head, Grade::Clean);
        assert_eq!(now("now"), Grade::Clean);
        write(&target, BranchId(0), 4);
        assert_eq!(now("now"), Grade::Clean);
        assert_eq!(now("main@now"), Grade::Crash);
        let told = grades(&target);
        // From checkpoints too.
        target.log.checkpoint().unwrap();
        assert_eq!(grades(&target), told);
        write(&target, head, 5);
        assert_eq!((now("now"), now("last shutdown")), (Grade::Crash, Grade::Clean));
    }
}

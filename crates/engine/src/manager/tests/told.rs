//! What clients are told about their machines, disks and damage, and what stays known.

use std::path::PathBuf;

use bygone_block::{BlockDevice as _, Change, Writing};
use jiff::Timestamp;

use super::{
    machines::{run, run_call, stop},
    *,
};
use crate::{
    api::{
        Answers, Caller, Failure, Items, MomentInfo, Nothing, Progress, RemovedInfo, Trouble, call::RestoreTo,
    },
    lifecycle,
    machine::Machine,
    target::{Begun, Target, Use},
};

/// A client for whose call the manager was started; collects notes.
struct Began {
    caller: Caller,
    notes: Vec<String>,
    wanted: bool,
}

impl Began {
    fn new() -> Began {
        let caller = Caller { began: true, ..Caller::default() };
        Began { caller, notes: Vec::new(), wanted: true }
    }
}

impl Answers for Began {
    fn caller(&self) -> &Caller {
        &self.caller
    }
    fn progress(&mut self, _: Progress) -> bool {
        self.wanted
    }
    fn note(&mut self, text: String) {
        self.notes.push(text);
    }
    fn wanted(&mut self) -> bool {
        self.wanted
    }
}

impl Items<Nothing> for Began {
    fn item(&mut self, nothing: Nothing) -> bool {
        match nothing {}
    }
}

#[test]
fn run_says_that_the_manager_which_was_started_for_it_adopted_the_machine() {
    let (world, manager) = World::with(&["web"]);
    let started = manager.handle(&run_call("web"), &mut Nobody).unwrap();
    world.kill(manager);

    let manager = world.manager();
    let target = manager.target("web").unwrap();
    // As the manager's caretaker does.
    let Ok(Begun::Adopt(op)) = target.begin(lifecycle::Change::Starting, lifecycle::Request::Run) else {
        panic!("it was left running")
    };
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut answers = Began::new();
            (manager.handle(&run_call("web"), &mut answers), answers.notes)
        });
        std::thread::sleep(Duration::from_millis(50));
        assert!(!asked.is_finished(), "it waits for the turn");
        Machine::adopt(&op).unwrap();
        drop(op);
        let (again, notes) = asked.join().unwrap();
        assert_eq!(again.unwrap(), started);
        assert_eq!(notes, ["it was running already, and is looked after again"]);
    });
    // A request for another branch, or with a manager that ran before, is refused.
    let elsewhere = call::Run { branch: Some("main".into()), ..run_call("web") };
    assert!(matches!(manager.handle(&elsewhere, &mut Began::new()), Err(Error::TargetRunning(_))));
    assert!(matches!(run(&manager, "web"), Err(Error::TargetRunning(_))));
    stop(&manager, "web").unwrap();
}

fn point(manager: &Manager, at: Option<&str>, label: &str) -> MomentInfo {
    let point =
        call::Point { name: "web".into(), at: at.map(str::to_owned), label: label.into(), hold: None };
    manager.handle(&point, &mut Nobody).unwrap()
}

#[test]
fn a_point_without_a_moment_is_where_the_machine_is() {
    let (world, manager) = World::with(&["web"]);
    assert_eq!(point(&manager, None, "before").branch, "main");
    let try_it = call::Run { at: Some("now".into()), branch: Some("try".into()), ..run_call("web") };
    manager.handle(&try_it, &mut Nobody).unwrap();
    let here = point(&manager, None, "here");
    assert_eq!(here.branch, "try");
    assert_eq!(point(&manager, Some("now"), "present").branch, "main");
    assert_eq!(point(&manager, Some("branch:main"), "other").branch, "main");
    // Also while it is not adopted yet.
    world.kill(manager);
    let manager = world.manager();
    assert_eq!(point(&manager, None, "left").branch, "try");
    stop(&manager, "web").unwrap();
    assert_eq!(point(&manager, None, "after").branch, "main");
    // The label names the moment that was answered.
    let found =
        manager.handle(&call::When { name: "web".into(), at: "point:here".into() }, &mut Nobody).unwrap();
    assert_eq!((found.moment.branch.as_str(), found.moment.seq), ("try", here.seq));
}

#[test]
fn an_undo_says_what_it_takes_back() {
    let (_world, manager) = World::with(&["web"]);
    let undo = || manager.handle(&call::Undo { name: "web".into() }, &mut Nobody).unwrap().label;
    let (name, to) = ("web".to_owned(), RestoreTo::InPlace);
    let restore = call::Restore { name, at: "now".into(), disk: None, to, discard_later: false };
    manager.handle(&restore, &mut Nobody).unwrap();
    assert_eq!(undo(), "the restore on branch restored-1 was taken back; branch main is the present again");
    assert_eq!(undo(), "the last undo was taken back; branch restored-1 is the present again");
    let promote = call::BranchPromote { name: "web".into(), branch: Some("main".into()) };
    manager.handle(&promote, &mut Nobody).unwrap();
    assert_eq!(undo(), "the promotion of branch main was taken back; branch restored-1 is the present again");
    let drop_it = call::BranchDrop { name: "web".into(), branch: "main".into() };
    manager.handle(&drop_it, &mut Nobody).unwrap();
    assert_eq!(undo(), "the drop of branch main was taken back; branch main is back");
}

#[test]
fn one_file_is_no_place_for_several_disks() {
    let world = World::new();
    let manager = world.manager();
    let mut two = add_request("db");
    two.disks.push(two.disks[0].clone());
    manager.handle(&two, &mut Nobody).unwrap();
    add(&manager, "web").unwrap();
    let place = |name: &str| world.dir.path().join(name);
    let restore = |name: &str, disk: Option<&str>, to: PathBuf| {
        let (at, disk, to) = ("now".to_owned(), disk.map(str::to_owned), RestoreTo::Path(to));
        let call = call::Restore { name: name.to_owned(), at, disk, to, discard_later: false };
        manager.handle(&call, &mut Nobody).map(|done| done.disks.into_iter().map(|disk| disk.to).collect())
    };
    let refused = restore("db", None, place("o.img")).unwrap_err().failure();
    assert!(matches!(&refused, Failure::NoFolder { disks, .. } if disks == &["vda", "vdb"]), "{refused:?}");
    assert!(!place("o.img").exists());
    let made: Vec<PathBuf> = restore("db", None, place("new/")).unwrap();
    assert_eq!(made, [place("new/vda.raw"), place("new/vdb.raw")]);
    assert_eq!(restore("db", Some("vdb"), place("o.img")).unwrap(), [place("o.img")]);
    // In a folder each disk gets a file with its name, and nothing is overwritten.
    std::fs::create_dir(place("there")).unwrap();
    assert_eq!(restore("web", None, place("there")).unwrap(), [place("there/vda.raw")]);
    restore("web", None, place("there")).unwrap_err();
    restore("db", None, place("there")).unwrap_err();
    assert_eq!(std::fs::read_dir(place("there")).unwrap().count(), 1);
}

fn troubles(manager: &Manager) -> Vec<Trouble> {
    status(manager).problems.into_iter().map(|problem| problem.trouble).collect()
}

#[test]
fn a_tapped_disk_that_is_away_or_has_another_size_is_told_of_by_who_looks() {
    let (world, manager) = World::with(&[]);
    let disk = world.tapped(&manager, "web");
    assert_eq!(troubles(&manager), []);
    let away = world.dir.path().join("away");
    std::fs::rename(&disk, &away).unwrap();
    let unusable = |manager: &Manager| match &troubles(manager)[..] {
        [Trouble::DiskUnusable { why }] => why.clone(),
        other => panic!("{other:?}"),
    };
    let missing = unusable(&manager);
    assert!(matches!(missing, Failure::DiskAway { .. }), "{missing:?}");
    assert_eq!(run(&manager, "web").unwrap_err().failure(), missing, "whoever opens it is told the same");
    std::fs::create_dir(&disk).unwrap();
    assert!(matches!(unusable(&manager), Failure::DiskAway { .. }));
    std::fs::remove_dir(&disk).unwrap();
    std::fs::rename(&away, &disk).unwrap();
    // Moving it changes its identity as writing to it does.
    assert_eq!(troubles(&manager), [Trouble::DiskChanged]);

    let file = std::fs::File::options().write(true).open(&disk).unwrap();
    for bytes in [2 << 20, 1 << 19, 0] {
        file.set_len(bytes).unwrap();
        let resized = unusable(&manager);
        let wanted = matches!(resized, Failure::DiskResized { found_bytes, was_bytes, .. } if (found_bytes, was_bytes) == (bytes, 1 << 20));
        assert!(wanted, "{resized:?}");
        assert_eq!(run(&manager, "web").unwrap_err().failure(), resized);
    }
    file.set_len(1 << 20).unwrap();
    assert_eq!(troubles(&manager), [Trouble::DiskChanged]);
    run(&manager, "web").unwrap();
    // Not looked at while it is open.
    std::fs::rename(&disk, &away).unwrap();
    let outside = |trouble: &Trouble| matches!(trouble, Trouble::DiskUnusable { .. });
    assert!(!troubles(&manager).iter().any(outside), "{:?}", troubles(&manager));
    std::fs::rename(&away, &disk).unwrap();
    stop(&manager, "web").unwrap();
}

#[test]
fn who_asks_for_the_newest_moment_of_a_disk_that_others_wrote_to_is_told_so() {
    let (world, manager) = World::with(&[]);
    let disk = world.tapped(&manager, "web");
    let told = |at: &str, to: Option<&str>| {
        let (name, at) = ("web".to_owned(), at.to_owned());
        let mut answers = Began::new();
        match to.map(|to| world.dir.path().join(to)) {
            Some(path) => {
                let to = RestoreTo::Path(path);
                let call = call::Restore { name, at, disk: None, to, discard_later: false };
                manager.handle(&call, &mut answers).unwrap();
            }
            None => drop(manager.handle(&call::When { name, at }, &mut answers).unwrap()),
        }
        answers.notes
    };
    point(&manager, None, "before");
    assert_eq!((told("now", None), told("now", Some("a.raw"))), (vec![], vec![]));
    let file = std::fs::File::options().write(true).open(&disk).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[7; 4096], 8192).unwrap();
    assert_eq!(troubles(&manager), [Trouble::DiskChanged]);
    for notes in [told("now", None), told("now", Some("b.raw"))] {
        assert!(matches!(&notes[..], [note] if note.contains("vda may hold changes")), "{notes:?}");
    }
    point(&manager, None, "after");
    assert_eq!((told("point:before", None), told("point:before", Some("c.raw"))), (vec![], vec![]));
    // Its next use reads it.
    run(&manager, "web").unwrap();
    stop(&manager, "web").unwrap();
    assert_eq!(troubles(&manager), []);
    assert_eq!(told("now", Some("d.raw")), Vec::<String>::new());
    assert_eq!(std::fs::read(world.dir.path().join("d.raw")).unwrap()[8192..12288], [7; 4096]);
}

/// Changes one byte of a block in a target's log; a second call changes it back.
pub(super) fn flip(target: &Target, filled_with: u8) {
    let files = std::fs::read_dir(target.dir().join("log")).unwrap().map(|entry| entry.unwrap().path());
    let place =
        |bytes: &[u8]| bytes.windows(2000).position(|part| part.iter().all(|byte| *byte == filled_with));
    let found = files.filter_map(|path| Some((place(&std::fs::read(&path).ok()?)?, path)));
    let (at, path) = found.last().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    // Outside of the stretch that is searched for, so that it is found again.
    bytes[at + 2048] ^= 2;
    std::fs::write(&path, bytes).unwrap();
}

fn verify(manager: &Manager, for_s: Option<u64>) -> usize {
    // Oldest first, so that a partial verification reads intact segments.
    let verify = call::Verify { name: None, newest_first: false, for_s };
    manager.handle(&verify, &mut Nobody).unwrap().damaged.len()
}

fn known(manager: &Manager) -> Option<crate::api::Verification> {
    status(manager).targets[0].verified.clone()
}

/// A target with a block of sevens in its log, and later records that show that it was durable.
pub(super) fn with_sevens() -> (World, Arc<Manager>) {
    let (world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    let lease = target.lease(target.volume(BranchId(0), None).unwrap(), Use::Client).unwrap();
    lease.write(&[Writing { offset: 4096, change: Change::Data(&[7; 4096]) }]).unwrap();
    drop(lease);
    point(&manager, None, "one");
    point(&manager, None, "two");
    (world, manager)
}

#[test]
fn damage_that_was_found_stays_known_until_it_is_found_whole() {
    let (world, manager) = with_sevens();
    // Opening a log does not read sealed segments.
    drop(manager);
    let manager = world.manager();
    while manager.target("web").unwrap().log.maintain().unwrap() {}
    assert_eq!(known(&manager), None);
    assert_eq!(verify(&manager, None), 0);
    let whole = known(&manager).unwrap();
    assert!(whole.complete && whole.damaged.is_empty(), "{whole:?}");
    assert_eq!(troubles(&manager), []);

    flip(&manager.target("web").unwrap(), 7);
    assert_eq!(verify(&manager, None), 1);
    let damaged = known(&manager).unwrap();
    assert_eq!(damaged.damaged.len(), 1);
    drop(manager);
    let manager = world.manager();
    assert_eq!(known(&manager).unwrap(), damaged);
    let said = troubles(&manager);
    assert!(matches!(&said[..], [Trouble::DamageKnown { places: 1, .. }]), "{said:?}");
    // Places that were not reached stay known; a place found again keeps its first time.
    verify(&manager, Some(0));
    let in_part = known(&manager).unwrap();
    assert_eq!((in_part.complete, &in_part.damaged), (false, &damaged.damaged));
    verify(&manager, None);
    assert_eq!(known(&manager).unwrap().damaged, damaged.damaged);
    flip(&manager.target("web").unwrap(), 7);
    verify(&manager, None);
    let whole = known(&manager).unwrap();
    assert!(whole.complete && whole.damaged.is_empty(), "{whole:?}");
    assert_eq!(troubles(&manager), []);
}

#[test]
fn damage_that_the_log_names_by_itself_is_not_told_twice() {
    let (world, manager) = with_sevens();
    flip(&manager.target("web").unwrap(), 7);
    assert_eq!(verify(&manager, None), 1);
    drop(manager);
    let manager = world.manager();
    assert_eq!(known(&manager).unwrap().damaged.len(), 1);
    let said = troubles(&manager);
    assert!(matches!(&said[..], [Trouble::Damaged { .. }]), "{said:?}");
}

#[test]
fn a_damaged_index_is_told_as_one_and_compaction_makes_it_anew_in_a_process_of_its_own() {
    let (world, manager) = with_sevens();
    let compact = call::Compact { dry_run: false };
    let mut told = Collected::default();
    manager.handle(&compact, &mut told).unwrap();
    // Another one follows, so that this is not the newest, which opening would make anew.
    let target = manager.target("web").unwrap();
    target.log.event(BranchId(0), &Event::new(Kind::Point, "x")).unwrap();
    target.log.checkpoint().unwrap();
    let index = target.dir().join("index");
    drop((target, manager));
    let mut files: Vec<_> = std::fs::read_dir(&index).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut bytes = std::fs::read(&files[0]).unwrap();
    let page = 64 + 20;
    bytes[page] ^= 1;
    // And the trailer.
    let end = bytes.len() - 50;
    bytes[end] ^= 1;
    std::fs::write(&files[0], &bytes).unwrap();

    let read = |manager: &Manager| {
        let target = manager.target("web").unwrap();
        let (log, volume) = (target.log.clone(), target.volume(BranchId(0), None).unwrap());
        let view = log.view(volume, log.head_seq()).unwrap();
        view.read(bygone_model::Lba(8), &mut vec![0; 512], bygone_store::Wait::Yes)
    };
    let failed = Error::from(read(&world.manager()).unwrap_err()).failure();
    assert_eq!(failed.code(), "index-damaged", "{failed}");
    let manager = world.manager();
    let verified = manager.handle(&call::Verify { name: None, for_s: None, newest_first: false }, &mut told);
    let details: Vec<String> = verified.unwrap().damaged.into_iter().map(|at| at.detail).collect();
    assert!(!details.is_empty() && details.iter().all(|at| at.contains("nothing is lost")), "{details:?}");
    assert_eq!(troubles(&manager), []);
    drop(manager);
    let manager = world.manager();
    manager.handle(&compact, &mut told).unwrap();
    assert!(told.notes.iter().any(|note| note.contains("made anew")), "{:?}", told.notes);
    drop(manager);
    let manager = world.manager();
    read(&manager).unwrap();
    assert_eq!(verify(&manager, None), 0);
}

fn kept(manager: &Manager) -> Vec<RemovedInfo> {
    Collected::of(manager, &call::TargetRemoved {}).items
}

#[test]
fn removed_targets_are_listed_and_one_comes_back_beside_another_that_has_its_name() {
    let (world, manager) = World::with(&["web"]);
    assert_eq!(kept(&manager), []);
    let remove = |name: &str| {
        let remove = call::TargetRemove { name: name.into(), delete_history: false };
        manager.handle(&remove, &mut Nobody).unwrap()
    };
    let back = |name: &str, new_name: Option<&str>| {
        let call =
            call::TargetRestore { new_name: new_name.map(str::to_owned), ..call::TargetRestore::of(name) };
        manager.handle(&call, &mut Nobody).map(|info| info.config.name)
    };
    let first = manager.target("web").unwrap().log.id();
    let before = Timestamp::now();
    remove("web");
    add(&manager, "web").unwrap();
    remove("web");
    add(&manager, "web").unwrap();
    let all = kept(&manager);
    assert_eq!(all.iter().map(|kept| &*kept.kept_as).collect::<Vec<_>>(), ["web-1", "web-2"]);
    for kept in &all {
        let removed: Timestamp = kept.removed.parse().unwrap();
        // A file system's times may be coarser than the clock's.
        assert!(removed.as_second() >= before.as_second() - 1 && removed <= Timestamp::now(), "{kept:?}");
        assert!(kept.name == "web" && kept.used_bytes > 0 && kept.disks[0].size_bytes == 1 << 20, "{kept:?}");
    }

    assert!(matches!(back("web-1", None), Err(Error::TargetExists(_))));
    assert!(matches!(back("web-1", Some("web")), Err(Error::TargetExists(_))));
    back("web-1", Some("no/name")).unwrap_err();
    assert_eq!(kept(&manager).len(), 2);
    assert_eq!(back("web-1", Some("old")).unwrap(), "old");
    assert_eq!(manager.target("old").unwrap().log.id(), first);
    assert_eq!(served(&manager), ["old", "web"]);
    assert_eq!(kept(&manager).len(), 1);
    // It is an ordinary target, also for a later manager, and can be removed and restored again.
    run(&manager, "old").unwrap();
    stop(&manager, "old").unwrap();
    remove("old");
    assert_eq!(back("old", None).unwrap(), "old");
    // The name of one's folder may be the name of another target.
    let newest = manager.target("web").unwrap().log.id();
    remove("web");
    add(&manager, "web-3").unwrap();
    let other = manager.target("web-3").unwrap().log.id();
    remove("web-3");
    let all: Vec<String> = kept(&manager).into_iter().map(|kept| kept.kept_as).collect();
    assert_eq!(all, ["web-2", "web-3", "web-3-1"]);
    assert_eq!(back("web-3", None).unwrap(), "web");
    assert_eq!(manager.target("web").unwrap().log.id(), newest);
    assert_eq!(back("web-3", None).unwrap(), "web-3");
    assert_eq!(manager.target("web-3").unwrap().log.id(), other);

    drop(manager);
    let manager = world.manager();
    assert_eq!(manager.target("old").unwrap().log.id(), first);

    // As after a crash between writing the new name and moving the folder.
    let web = call::TargetRemove { name: "web".into(), delete_history: false };
    manager.handle(&web, &mut Nobody).unwrap();
    let folder = world.paths().removed_dir().join("web-3");
    let configs = crate::store_dir::Configs::of(&folder, "other");
    configs.save(&TargetConfig { name: "other".into(), ..configs.load_of_any().unwrap() }).unwrap();
    let call = call::TargetRestore::of("web");
    manager.handle(&call, &mut Nobody).unwrap();
    assert_eq!(manager.target("web").unwrap().config().name, "web");
}

#[test]
fn uefi_variables_go_with_the_target_and_not_with_its_name() {
    let (world, manager) = World::with(&["web"]);
    let variables = |name: &str| world.paths().run_dir(name).join("uefi-vars.fd");
    std::fs::create_dir_all(world.paths().run_dir("web")).unwrap();
    std::fs::write(variables("web"), "boot this").unwrap();
    let remove = call::TargetRemove { name: "web".into(), delete_history: false };
    manager.handle(&remove, &mut Nobody).unwrap();
    add(&manager, "web").unwrap();
    assert!(!variables("web").exists());
    std::fs::write(variables("web"), "boot that").unwrap();
    let back = call::TargetRestore { new_name: Some("old".into()), ..call::TargetRestore::of("web") };
    manager.handle(&back, &mut Nobody).unwrap();
    assert_eq!(std::fs::read_to_string(variables("old")).unwrap(), "boot this");
    assert_eq!(std::fs::read_to_string(variables("web")).unwrap(), "boot that");
    assert!(!world.target_dir("old").join("uefi-vars.fd").exists());
}

#[test]
fn a_client_that_leaves_does_not_wait_for_what_the_manager_cannot_give_up() {
    let (world, manager) = World::with(&["web"]);
    let target = manager.target("web").unwrap();
    let _api = crate::socket::ApiServer::start(manager).unwrap();
    // A change in progress that `branch drop` waits for.
    let op = target.begin_change(lifecycle::Change::Dropping, lifecycle::Request::Branches).unwrap();
    let stream = crate::socket::connect(&world.paths().api_socket()).unwrap();
    let drop_it = call::BranchDrop { name: "web".into(), branch: "main".into() };
    let mut leaving = Began { wanted: false, ..Began::new() };
    let asked = crate::socket::ask(&stream, &drop_it, false, &mut leaving);
    assert!(matches!(asked, Err(Error::GoesOn)), "{asked:?}");
    drop(op);
}

#[test]
fn who_lists_the_targets_is_told_of_those_that_cannot_be_used() {
    let (world, manager) = World::with(&["db", "web"]);
    drop(manager);
    std::fs::remove_dir_all(world.target_dir("db").join("log")).unwrap();
    let Collected { items, notes } = Collected::of(&world.manager(), &call::TargetList {});
    assert!(items.len() == 1 && items[0].config.name == "web", "{items:?}");
    assert!(notes.len() == 1 && notes[0].starts_with("db cannot be used: "), "{notes:?}");
}

#[test]
fn a_compaction_ends_when_nobody_waits_for_it() {
    let (_world, manager) = World::with(&["web"]);
    let mut leaving = Began { wanted: false, ..Began::new() };
    let asked = manager.handle(&call::Compact { dry_run: false }, &mut leaving);
    assert!(matches!(asked, Err(Error::Abandoned)), "{asked:?}");
}

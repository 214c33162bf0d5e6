//! Long calls, and calls that are repeated because their answer was lost.

use std::sync::atomic::{AtomicBool, Ordering};

use bygone_model::Seq;
use serde_json::Value;

use super::{machines::run_call, *};
use crate::{
    api::{
        Answers, Caller, Failure, Items, JOBS_MAX, JobInfo, JobState, Progress, Request,
        call::{RestoreTo, TargetRemove},
    },
    runner::fake::Next,
    target::lock,
};

/// A client.
#[derive(Default)]
pub(super) struct Asker {
    pub(super) caller: Caller,
    pub(super) has_left: AtomicBool,
}

impl Asker {
    pub(super) fn with(key: &str) -> Asker {
        Asker { caller: Caller { key: Some(key.to_owned()), ..Caller::default() }, ..Asker::default() }
    }

    fn detached() -> Asker {
        Asker { caller: Caller { detached: true, ..Caller::default() }, ..Asker::default() }
    }
}

impl Answers for Asker {
    fn caller(&self) -> &Caller {
        &self.caller
    }
    fn progress(&mut self, _: Progress) -> bool {
        self.wanted()
    }
    fn note(&mut self, _: String) {}
    fn wanted(&mut self) -> bool {
        !self.has_left.load(Ordering::Acquire)
    }
}

impl<I> Items<I> for Asker {
    fn item(&mut self, _: I) -> bool {
        self.wanted()
    }
}

pub(super) fn ask_with(manager: &Manager, key: &'static str, request: impl Into<Request>) -> Result<Value> {
    manager.answer(&request.into(), &mut Asker::with(key))
}

fn point(label: &str) -> call::Point {
    call::Point { name: "web".into(), at: None, label: label.into(), hold: None }
}

fn restore_in_place() -> call::Restore {
    let at = "point:good".into();
    call::Restore { name: "web".into(), at, disk: None, to: RestoreTo::InPlace, discard_later: false }
}

fn head(manager: &Manager) -> Seq {
    manager.target("web").unwrap().log.head_seq()
}

pub(super) fn jobs(manager: &Manager) -> Vec<JobInfo> {
    Collected::of(manager, &call::Jobs {}).items
}

#[test]
fn a_call_that_is_made_again_with_its_key_happens_once_also_after_a_restart() {
    let (world, manager) = World::with(&["web"]);
    let branch = |name: &str| Some(name.to_owned());
    let promote = call::BranchPromote { name: "web".into(), branch: branch("main") };
    let calls: Vec<(&'static str, Request)> = vec![
        ("1", point("good").into()),
        ("2", restore_in_place().into()),
        ("3", promote.into()),
        ("4", call::Undo { name: "web".into() }.into()),
        ("5", call::BranchDrop { name: "web".into(), branch: "main".into() }.into()),
        ("6", add_request("other").into()),
        ("7", TargetRemove { name: "other".into(), delete_history: false }.into()),
        ("8", add_request("other").into()),
        ("9", TargetRemove { name: "other".into(), delete_history: true }.into()),
    ];
    let mut manager = manager;
    for (key, request) in calls {
        let first = manager.answer(&request, &mut Asker::with(key)).unwrap();
        let (at, had) = (head(&manager), served(&manager));
        assert_eq!(manager.answer(&request, &mut Asker::with(key)).unwrap(), first, "{request:?}");
        assert_eq!((head(&manager), served(&manager)), (at, had.clone()), "{request:?}");
        world.kill(manager);
        manager = world.manager();
        let at = head(&manager);
        assert_eq!(manager.answer(&request, &mut Asker::with(key)).unwrap(), first, "{request:?}");
        manager.open_all();
        assert_eq!((head(&manager), served(&manager)), (at, had), "{request:?}");
    }
    assert!(jobs(&manager).iter().all(|job| job.state == JobState::Done));
}

#[test]
fn a_key_means_one_call_and_is_free_again_when_that_failed() {
    let (_world, manager) = World::with(&["web"]);
    // A failed call has changed nothing.
    assert!(matches!(ask_with(&manager, "k", restore_in_place()), Err(Error::Moment { .. })));
    ask_with(&manager, "p", point("good")).unwrap();
    ask_with(&manager, "k", restore_in_place()).unwrap();
    assert!(matches!(ask_with(&manager, "k", point("other")), Err(Error::KeyUsed { job: 3, .. })));
    for bad in ["", "two words", "tab\t", "\u{e4}"] {
        let mut asker = Asker::with(bad);
        let refused = manager.answer(&point("x").into(), &mut asker);
        assert!(matches!(refused, Err(Error::BadKey)), "{bad:?}");
    }
    let too_long: &'static str = Box::leak("k".repeat(129).into_boxed_str());
    assert!(matches!(ask_with(&manager, too_long, point("x")), Err(Error::BadKey)));
    // A call that only looks is executed each time.
    let show = call::TargetShow { name: "web".into() };
    ask_with(&manager, "k", show).unwrap();
}

#[test]
fn a_call_that_was_interrupted_is_done_if_nothing_had_come_of_it_and_told_of_if_something_had() {
    let (world, manager) = World::with(&["web", "other"]);
    ask_with(&manager, "p", point("good")).unwrap();
    let restore: Request = restore_in_place().into();
    manager.begin_only(&restore, &Asker::with("nothing"));
    manager.begin_only(&add_request("new").into(), &Asker::with("not-added"));
    world.kill(manager);

    let manager = world.manager();
    assert_eq!(jobs(&manager).iter().filter(|job| job.state == JobState::Interrupted).count(), 2);
    let present = || manager.target("web").unwrap().present();
    let before = present();
    ask_with(&manager, "nothing", restore.clone()).unwrap();
    assert_ne!(present(), before);
    ask_with(&manager, "not-added", add_request("new")).unwrap();

    // The next ones are executed, but their end is not written.
    manager.begin_only(&restore, &Asker::with("done"));
    manager.handle(&restore_in_place(), &mut Nobody).unwrap();
    let remove = TargetRemove { name: "other".into(), delete_history: false };
    manager.begin_only(&remove.clone().into(), &Asker::with("removed"));
    manager.handle(&remove, &mut Nobody).unwrap();
    world.kill(manager);

    let manager = world.manager();
    // Later changes are not attributed to the job.
    manager.handle(&point("later"), &mut Nobody).unwrap();
    let at = head(&manager);
    for _ in 0..2 {
        let Err(Error::NotRepeated { changed: Some(changed), state, .. }) =
            ask_with(&manager, "done", restore.clone())
        else {
            panic!("it is not told")
        };
        assert!(matches!(&changed[..], [one] if one.starts_with("restored as of")), "{changed:?}");
        assert_eq!(state, JobState::Interrupted);
        let removed = ask_with(&manager, "removed", remove.clone()).unwrap_err().failure();
        assert!(removed.to_string().contains("target other was removed"), "{removed}");
    }
    assert_eq!(head(&manager), at);
    let told = jobs(&manager).into_iter().find(|job| job.key.as_deref() == Some("done")).unwrap();
    assert_eq!((told.state, told.changed.map(|changed| changed.len())), (JobState::Interrupted, Some(1)));
}

#[test]
fn a_call_with_a_key_that_cannot_be_written_down_is_not_begun_and_others_go_on() {
    let (world, manager) = World::with(&["web"]);
    manager.handle(&point("good"), &mut Nobody).unwrap();
    let at = head(&manager);
    std::fs::write(world.paths().jobs_dir(), "no folder").unwrap();
    assert!(matches!(ask_with(&manager, "k", restore_in_place()), Err(Error::File { .. })));
    assert_eq!((head(&manager), jobs(&manager).len()), (at, 0));
    manager.answer(&restore_in_place().into(), &mut Asker::default()).unwrap();
    assert_eq!(jobs(&manager)[0].state, JobState::Done);
}

struct Leaving(Asker, Arc<AtomicBool>);
impl Answers for Leaving {
    fn caller(&self) -> &Caller {
        &self.0.caller
    }
    fn progress(&mut self, _: Progress) -> bool {
        self.wanted()
    }
    fn note(&mut self, _: String) {}
    fn wanted(&mut self) -> bool {
        !self.1.load(Ordering::Acquire)
    }
}
impl<I> Items<I> for Leaving {
    fn item(&mut self, _: I) -> bool {
        self.wanted()
    }
}

/// Runs `web`, whose machine does not answer, and calls `work` meanwhile.
fn while_it_starts(
    asker: Asker,
    work: impl FnOnce(&World, &Manager, &AtomicBool),
) -> (JobState, Result<Value>) {
    let (world, manager) = World::with(&["web"]);
    *lock(&world.fake.next) = Next::Slow;
    let left = Arc::new(AtomicBool::new(false));
    let mut asker = Leaving(asker, left.clone());
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| manager.answer(&run_call("web").into(), &mut asker));
        wait_for("the job", || jobs(&manager).iter().any(|job| job.state == JobState::Running));
        wait_for("the machine", || world.fake.machine(&world.paths().run_dir("web")).is_some());
        work(&world, &manager, &left);
        asked.join().unwrap()
    });
    (jobs(&manager)[0].state, answer)
}

fn let_it_answer(world: &World) {
    world.fake.machine(&world.paths().run_dir("web")).unwrap().answer();
}

#[test]
fn whoever_leaves_is_waited_for_no_more_unless_it_is_to_go_on() {
    let (state, answer) = while_it_starts(Asker::default(), |_, _, left| left.store(true, Ordering::Release));
    // The machine goes on.
    assert_eq!(state, JobState::Done);
    assert_eq!(answer.unwrap()["name"], "web");

    let detached = Asker::detached();
    let (state, answer) = while_it_starts(detached, |world, manager, left| {
        left.store(true, Ordering::Release);
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(jobs(manager)[0].state, JobState::Running);
        std::thread::scope(|scope| {
            // A client that comes back gets the answer.
            let back = scope.spawn(|| manager.handle(&call::Job { id: 1 }, &mut Nobody).unwrap());
            let_it_answer(world);
            let ended = back.join().unwrap();
            assert_eq!((ended.job.state, ended.answer["name"].as_str()), (JobState::Done, Some("web")));
        });
    });
    assert_eq!(state, JobState::Done);
    assert_eq!(answer.unwrap()["branch"], "main");
}

#[test]
fn a_job_is_cancelled_by_its_id() {
    let detached = Asker::detached();
    let (state, answer) = while_it_starts(detached, |_, manager, _| {
        let [job] = &jobs(manager)[..] else { panic!("one job") };
        assert_eq!((job.request.as_str(), job.target.as_deref(), job.detached), ("run", Some("web"), true));
        assert!(matches!(manager.handle(&call::JobCancel { id: 7 }, &mut Nobody), Err(Error::NoJob(7))));
        manager.handle(&call::JobCancel { id: job.id }, &mut Nobody).unwrap();
    });
    // The machine goes on.
    assert_eq!(state, JobState::Done);
    assert_eq!(answer.unwrap()["name"], "web");
}

#[test]
fn who_waits_for_a_job_keeps_it_from_being_given_up() {
    let (state, _) = while_it_starts(Asker::default(), |world, manager, left| {
        std::thread::scope(|scope| {
            let other = scope.spawn(|| manager.handle(&call::Job { id: 1 }, &mut Nobody).unwrap());
            std::thread::sleep(Duration::from_millis(100));
            left.store(true, Ordering::Release);
            std::thread::sleep(Duration::from_millis(500));
            let_it_answer(world);
            assert_eq!(other.join().unwrap().job.state, JobState::Done);
        });
    });
    assert_eq!(state, JobState::Done);
}

#[test]
fn only_so_many_jobs_are_remembered() {
    let (world, manager) = World::with(&["web"]);
    let nothing = call::Verify { name: Some("none".into()), newest_first: false, for_s: None };
    for _ in 0..JOBS_MAX + 3 {
        assert!(manager.answer(&nothing.clone().into(), &mut Asker::default()).is_err());
    }
    let all = jobs(&manager);
    assert_eq!((all.len(), all[0].id), (JOBS_MAX + 1, 3));
    assert_eq!(std::fs::read_dir(world.paths().jobs_dir()).unwrap().count(), JOBS_MAX + 1);
    assert!(all.iter().all(|job| job.state == JobState::Failed && job.failure.is_some()));
}

#[test]
fn a_plan_says_what_a_promotion_or_an_undo_does_and_does_nothing() {
    let world = World::new();
    let manager = world.manager();
    world.tapped(&manager, "web");
    manager.handle(&point("good"), &mut Nobody).unwrap();
    let plan = |of: call::Plannable| manager.handle(&call::Plan { of }, &mut Nobody);
    let undo = call::Undo { name: "web".into() };
    assert!(matches!(plan(undo.clone().into()), Err(Error::NothingToUndo(_))));
    assert_eq!(plan(restore_in_place().into()).unwrap().fills, ["vda"]);
    manager.handle(&restore_in_place(), &mut Nobody).unwrap();
    let at = head(&manager);

    let promote = call::BranchPromote { name: "web".into(), branch: Some("main".into()) };
    let promotion = plan(promote.clone().into()).unwrap();
    let undone = plan(undo.clone().into()).unwrap();
    assert_eq!(head(&manager), at);
    for planned in [&promotion, &undone] {
        assert_eq!((planned.present.as_deref(), &planned.fills[..]), (Some("main"), &["vda".to_owned()][..]));
    }
    assert_eq!(manager.handle(&undo, &mut Nobody).unwrap().label, undone.does.unwrap());
    let other = call::BranchPromote { name: "web".into(), branch: Some("restored-1".into()) };
    let planned = plan(other.clone().into()).unwrap();
    assert_eq!(manager.handle(&other, &mut Nobody).unwrap().label, planned.does.unwrap());
    assert_eq!(manager.handle(&promote, &mut Nobody).unwrap().label, promotion.does.unwrap());

    // What would be refused is refused by the plan.
    super::machines::run(&manager, "web").unwrap();
    assert!(matches!(plan(other.into()), Err(Error::TargetRunning(_))));
    assert!(matches!(plan(undo.into()), Err(Error::TargetRunning(_))));
    super::machines::stop(&manager, "web").unwrap();
}

#[test]
fn a_run_whose_asker_was_lost_has_run_and_is_not_done_again() {
    let (world, manager) = World::with(&["web"]);
    *lock(&world.fake.next) = Next::Slow;
    let run: Request = call::Run { at: Some("now".into()), ..run_call("web") }.into();
    let mut lost = Asker::with("k");
    lost.has_left = AtomicBool::new(true);
    let first = manager.answer(&run, &mut lost).unwrap();
    assert_eq!(jobs(&manager)[0].state, JobState::Done);
    let_it_answer(&world);
    let branches = manager.target("web").unwrap().log.catalog().branches.len();
    super::machines::stop(&manager, "web").unwrap();
    assert_eq!(ask_with(&manager, "k", run).unwrap(), first);
    assert_eq!(manager.target("web").unwrap().log.catalog().branches.len(), branches);
    assert!(manager.target("web").unwrap().machine().is_none());
}

#[test]
fn a_call_that_failed_with_its_log_is_not_done_again_if_its_record_stands() {
    let (world, manager) = World::with(&["web"]);
    ask_with(&manager, "p", point("good")).unwrap();
    ask_with(&manager, "r", restore_in_place()).unwrap();
    let undo: Request = call::Undo { name: "web".into() }.into();
    let target = manager.target("web").unwrap();
    target.fail_after_syncs(0);
    let failed = ask_with(&manager, "u", undo.clone()).unwrap_err();
    assert!(!matches!(failed, Error::NotRepeated { .. }), "{failed:?}");
    let again = ask_with(&manager, "u", undo.clone()).unwrap_err();
    match again.failure() {
        Failure::NotRepeated { state, why, changed, .. } => {
            // Its medium may hide what it changed.
            assert_eq!((state, changed), (JobState::Failed, None));
            assert_eq!(why, Some(Box::new(failed.failure())));
        }
        other => assert!(matches!(other, Failure::Partly { .. }), "{other:?}"),
    }
    drop(target);
    world.kill(manager);

    let manager = world.manager();
    let target = manager.target("web").unwrap();
    let before = target.present();
    let undone = before == BranchId(0);
    let again = ask_with(&manager, "u", undo);
    if undone {
        assert!(again.is_err(), "{again:?}");
        assert_eq!(target.present(), before, "the undo was undone");
    } else {
        again.unwrap();
        assert_eq!(target.present(), BranchId(0));
    }
}

fn set_memory(to: &str) -> call::TargetSet {
    call::TargetSet { name: "web".into(), settings: vec![("memory".to_owned(), to.to_owned())] }
}

#[test]
fn an_interrupted_setting_is_not_made_again_over_a_newer_one() {
    let (world, manager) = World::with(&["web"]);
    let set: Request = set_memory("2G").into();
    manager.begin_only(&set, &Asker::with("s"));
    manager.handle(&set_memory("2G"), &mut Nobody).unwrap();
    let run: Request = call::Run { at: Some("now".into()), ..run_call("web") }.into();
    manager.begin_only(&run, &Asker::with("b"));
    let target = manager.target("web").unwrap();
    // As if its manager was killed before it wrote the event.
    target.log.add_branch("run-1", BranchId(0), target.log.head_seq()).unwrap();
    target.log.flush().unwrap();
    drop(target);
    world.kill(manager);

    let manager = world.manager();
    manager.handle(&set_memory("4G"), &mut Nobody).unwrap();
    let told = ask_with(&manager, "s", set).unwrap_err().failure();
    assert!(told.to_string().contains("its settings were changed"), "{told}");
    assert_eq!(manager.target("web").unwrap().config().memory_mib, 4096);
    let told = ask_with(&manager, "b", run).unwrap_err().failure();
    assert!(told.to_string().contains("branch run-1 was made"), "{told}");
}

#[test]
fn an_interrupted_addition_under_a_taken_name_has_added_nothing() {
    let (world, manager) = World::with(&["web"]);
    manager.begin_only(&add_request("web").into(), &Asker::with("a"));
    world.kill(manager);
    let manager = world.manager();
    assert_eq!(jobs(&manager)[0].changed, Some(Vec::new()));
    assert!(matches!(ask_with(&manager, "a", add_request("web")), Err(Error::TargetExists(_))));
}

#[test]
fn an_interrupted_job_of_a_removed_target_is_not_looked_up_in_another_log() {
    let (world, manager) = World::with(&["web"]);
    ask_with(&manager, "p", point("good")).unwrap();
    manager.begin_only(&restore_in_place().into(), &Asker::with("k"));
    manager.handle(&restore_in_place(), &mut Nobody).unwrap();
    world.kill(manager);
    // The target is moved away, and another one gets its name.
    std::fs::rename(world.target_dir("web"), world.dir.path().join("away")).unwrap();
    let manager = world.manager();
    add(&manager, "web").unwrap();
    let told = ask_with(&manager, "k", restore_in_place());
    let Err(Error::NotRepeated { changed: Some(changed), .. }) = told else { unreachable!("{told:?}") };
    assert!(matches!(&changed[..], [what] if what.contains("another one now")), "{changed:?}");
}

#[test]
fn an_interrupted_restore_of_a_removed_target_is_found_under_the_name_that_it_has_then() {
    let (world, manager) = World::with(&["web", "db"]);
    let remove = |manager: &Manager, name: &str| {
        let call = TargetRemove { name: name.into(), delete_history: false };
        manager.handle(&call, &mut Nobody).unwrap();
    };
    remove(&manager, "web");
    remove(&manager, "db");
    add(&manager, "db").unwrap();
    let back = call::TargetRestore::of;
    // Killed after the rename, by either name of what is kept; a third one had not begun with it.
    manager.begin_only(&back("web-1").into(), &Asker::with("by-number"));
    manager.begin_only(&back("web").into(), &Asker::with("by-name"));
    manager.begin_only(&back("db-1").into(), &Asker::with("taken"));
    manager.handle(&back("web"), &mut Nobody).unwrap();
    world.kill(manager);

    let manager = world.manager();
    let told: Vec<_> = jobs(&manager).into_iter().map(|job| (job.target, job.changed)).collect();
    let web = (Some("web".to_owned()), Some(vec!["target web is back".to_owned()]));
    assert_eq!(told, [web.clone(), web, (Some("db".to_owned()), Some(Vec::new()))]);
    for (key, name) in [("by-number", "web-1"), ("by-name", "web")] {
        let again = ask_with(&manager, key, back(name)).unwrap_err().failure();
        assert!(again.to_string().contains("target web is back"), "{again}");
    }
}

#[test]
fn another_target_in_the_same_folder_is_another_target() {
    let (world, manager) = World::with(&["web"]);
    let (elsewhere, other) = World::with(&["web"]);
    drop(other);
    ask_with(&manager, "p", point("good")).unwrap();
    let remove = TargetRemove { name: "web".into(), delete_history: true };
    manager.begin_only(&restore_in_place().into(), &Asker::with("k"));
    manager.begin_only(&remove.clone().into(), &Asker::with("r"));
    manager.handle(&restore_in_place(), &mut Nobody).unwrap();
    world.kill(manager);
    // The number of a folder that is gone is given to another one; here it is the same folder.
    let (here, there) = (world.target_dir("web"), elsewhere.target_dir("web"));
    let content = |of: &std::path::Path| {
        let entries = std::fs::read_dir(of).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    for old in content(&here) {
        let gone = if old.is_dir() { std::fs::remove_dir_all(&old) } else { std::fs::remove_file(&old) };
        gone.unwrap();
    }
    content(&there).iter().for_each(|of| std::fs::rename(of, here.join(of.file_name().unwrap())).unwrap());
    let manager = world.manager();
    let told = ask_with(&manager, "k", restore_in_place()).unwrap_err().failure();
    assert!(told.to_string().contains("another one now"), "{told}");
    let told = ask_with(&manager, "r", remove).unwrap_err().failure();
    assert!(told.to_string().contains("target web was removed"), "{told}");
    assert_eq!(served(&manager), ["web"]);
}

#[test]
fn a_call_that_failed_after_it_had_changed_something_says_so_with_its_failure() {
    let (world, manager) = World::with(&["web"]);
    let run: Request = call::Run { at: Some("now".into()), ..run_call("web") }.into();
    *lock(&world.fake.next) = Next::Panics;
    let failed = ask_with(&manager, "k", run.clone()).unwrap_err().failure();
    let branches = manager.target("web").unwrap().log.catalog().branches.len();
    assert_eq!(branches, 2, "the panic came after the branch");
    let again = ask_with(&manager, "k", run).unwrap_err().failure();
    let Failure::NotRepeated { state, why, changed: Some(changed), .. } = again.clone() else {
        panic!("{again:?}")
    };
    assert_eq!((state, why), (JobState::Failed, Some(Box::new(failed.clone()))));
    assert!(changed.iter().any(|what| what.contains("run-1")), "{changed:?}");
    assert!(again.to_string().contains(&failed.to_string()), "{again}");
}

#[test]
fn a_handler_that_panics_ends_its_job() {
    let (world, manager) = World::with(&["web"]);
    *lock(&world.fake.haunted) = Some(world.paths().run_dir("web"));
    let failed = ask_with(&manager, "k", run_call("web"));
    *lock(&world.fake.haunted) = None;
    assert!(matches!(failed, Err(Error::Panicked { .. })), "{failed:?}");
    assert_eq!(jobs(&manager)[0].state, JobState::Failed);
}

#[test]
fn a_long_call_is_remembered_however_many_shorter_ones_ended_meanwhile() {
    let (world, manager) = World::with(&["web"]);
    *lock(&world.fake.next) = Next::Slow;
    let short = || {
        let verify = call::Verify { name: Some("nobody".into()), newest_first: false, for_s: None };
        manager.answer(&verify.into(), &mut Asker::default()).unwrap_err();
    };
    let first = std::thread::scope(|scope| {
        let asked = scope.spawn(|| ask_with(&manager, "k", run_call("web")));
        wait_for("the machine", || world.fake.machine(&world.paths().run_dir("web")).is_some());
        (0..=JOBS_MAX).for_each(|_| short());
        let_it_answer(&world);
        asked.join().unwrap().unwrap()
    });
    short();
    // Executed again, it would be refused, because the machine runs.
    assert_eq!(ask_with(&manager, "k", run_call("web")).unwrap(), first);
    super::machines::stop(&manager, "web").unwrap();
}

#[test]
fn what_no_call_needs_is_not_written_down() {
    let (world, manager) = World::with(&[]);
    let long = "x".repeat(900_000);
    for (key, code) in [(None, "no-target"), (Some("k"), "call-too-large")] {
        let asker = &mut key.map_or_else(Asker::default, Asker::with);
        let refused = manager.answer(&run_call(&long).into(), asker).unwrap_err();
        assert_eq!(refused.failure().code(), code);
    }
    assert_eq!(jobs(&manager).len(), 0);
    assert!(!world.paths().jobs_dir().exists());
}

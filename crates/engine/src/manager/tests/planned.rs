//! Calls that are made as their plans said, and what has changed since.

use std::sync::atomic::Ordering;

use serde_json::Value;

use super::{
    machines::{run, run_call, stop},
    *,
};
use crate::{
    api::{
        Answers, Caller, Failure, Items, MovedPart, Planned, Progress, Request,
        call::{Plannable, RestoreTo},
    },
    lifecycle::{self, Change},
    socket::{self, ApiServer},
    target::Use,
};

/// A client that has seen a plan.
struct Confirming(Caller);

impl Confirming {
    fn of(planned: &Planned) -> Confirming {
        Confirming(Caller { expect: planned.expect.clone(), ..Caller::default() })
    }
}

impl Answers for Confirming {
    fn caller(&self) -> &Caller {
        &self.0
    }
    fn progress(&mut self, _: Progress) -> bool {
        true
    }
    fn note(&mut self, _: String) {}
    fn wanted(&mut self) -> bool {
        true
    }
}

impl<I> Items<I> for Confirming {
    fn item(&mut self, _: I) -> bool {
        true
    }
}

fn plan(manager: &Manager, of: impl Into<Plannable>) -> Planned {
    manager.handle(&call::Plan { of: of.into() }, &mut Nobody).unwrap()
}

fn confirm(manager: &Manager, planned: &Planned, request: impl Into<Request>) -> Result<Value> {
    manager.answer(&request.into(), &mut Confirming::of(planned))
}

fn moved(answer: Result<Value>) -> MovedPart {
    match answer.unwrap_err().failure() {
        Failure::Moved { what, .. } => what,
        other => panic!("{other:?}"),
    }
}

fn remove(delete_history: bool) -> call::TargetRemove {
    call::TargetRemove { name: "web".into(), delete_history }
}

fn drop_it(branch: &str) -> call::BranchDrop {
    call::BranchDrop { name: "web".into(), branch: branch.into() }
}

fn branch(manager: &Manager, name: &str) -> BranchId {
    let log = &manager.target("web").unwrap().log;
    log.add_branch(name, BranchId(0), log.head_seq()).unwrap()
}

fn is_dropped(manager: &Manager, branch: BranchId) -> bool {
    manager.target("web").unwrap().log.catalog().branch(branch).unwrap().dropped.is_some()
}

#[test]
fn another_target_of_the_name_does_not_lose_the_history_that_was_asked_about() {
    let (_world, manager) = World::with(&["web"]);
    let planned = plan(&manager, remove(true));
    manager.handle(&remove(false), &mut Nobody).unwrap();
    add(&manager, "web").unwrap();
    assert_eq!(moved(confirm(&manager, &planned, remove(true))), MovedPart::Target);
    assert_eq!(served(&manager), ["web"]);
    // Nor does a branch that was not there when it was asked about.
    let planned = plan(&manager, remove(true));
    branch(&manager, "t");
    assert_eq!(moved(confirm(&manager, &planned, remove(true))), MovedPart::Branches);
    let planned = plan(&manager, remove(true));
    confirm(&manager, &planned, remove(true)).unwrap();
    assert_eq!(served(&manager), [""; 0]);
}

#[test]
fn another_target_of_the_name_is_not_copied_out() {
    let (world, manager) = World::with(&["web"]);
    let path = world.dir.path().join("web.raw");
    let (at, to) = ("now".to_owned(), RestoreTo::Path(path.clone()));
    let call = call::Restore { name: "web".into(), at, disk: None, to, discard_later: false };
    let planned = plan(&manager, call.clone());
    manager.handle(&remove(false), &mut Nobody).unwrap();
    add(&manager, "web").unwrap();
    assert_eq!(moved(confirm(&manager, &planned, call.clone())), MovedPart::Target);
    assert!(!path.exists());
    let planned = plan(&manager, call.clone());
    confirm(&manager, &planned, call).unwrap();
    assert!(path.exists());
}

#[test]
fn another_branch_of_the_name_is_not_dropped() {
    let (world, manager) = World::with(&["web"]);
    branch(&manager, "t");
    let planned = plan(&manager, drop_it("t"));
    manager.handle(&drop_it("t"), &mut Nobody).unwrap();
    let second = branch(&manager, "t");
    assert_eq!(moved(confirm(&manager, &planned, drop_it("t"))), MovedPart::Branches);
    assert!(!is_dropped(&manager, second));

    // The same over the socket.
    let _api = ApiServer::start(manager.clone()).unwrap();
    let ask = |planned: &Planned| {
        let stream = socket::connect(&world.paths().api_socket()).unwrap();
        socket::ask(&stream, &drop_it("t"), false, &mut Confirming::of(planned))
    };
    let refused = ask(&planned).unwrap_err().failure();
    assert!(matches!(refused, Failure::Moved { what: MovedPart::Branches, .. }), "{refused:?}");
    assert!(!is_dropped(&manager, second));
    ask(&plan(&manager, drop_it("t"))).unwrap();
    assert!(is_dropped(&manager, second));
}

#[test]
fn another_present_is_not_discarded_by_a_restore() {
    let (_world, manager) = World::with(&["web"]);
    let other = branch(&manager, "try-1");
    let (at, to) = ("now".to_owned(), RestoreTo::InPlace);
    let call = call::Restore { name: "web".into(), at, disk: None, to, discard_later: true };
    let planned = plan(&manager, call.clone());
    let promote = call::BranchPromote { name: "web".into(), branch: Some("try-1".into()) };
    manager.handle(&promote, &mut Nobody).unwrap();
    assert_eq!(moved(confirm(&manager, &planned, call.clone())), MovedPart::Present);
    let catalog = || manager.target("web").unwrap().log.catalog();
    assert_eq!(catalog().head, other);
    assert!(catalog().branches.iter().all(|branch| branch.dropped.is_none()));
    // An undo would take the promotion back by now, and not what was there before it.
    let planned = plan(&manager, call::Undo { name: "web".into() });
    let back = call::BranchPromote { name: "web".into(), branch: Some("main".into()) };
    manager.handle(&back, &mut Nobody).unwrap();
    assert_eq!(moved(confirm(&manager, &planned, call::Undo { name: "web".into() })), MovedPart::Present);
    let planned = plan(&manager, call.clone());
    confirm(&manager, &planned, call).unwrap();
    assert!(is_dropped(&manager, BranchId(0)) && !is_dropped(&manager, other));
}

#[test]
fn what_would_be_refused_is_refused_by_the_plan() {
    let world = World::new();
    let manager = world.manager();
    let tap = world.tapped(&manager, "web");
    add(&manager, "db").unwrap();
    let restore = |disk: Option<&str>, to: RestoreTo, discard_later| call::Restore {
        name: "web".into(),
        at: "now".into(),
        disk: disk.map(str::to_owned),
        to,
        discard_later,
    };
    let path = |name: &str| RestoreTo::Path(world.dir.path().join(name));
    let check = |call: call::Restore, code: &str| {
        let refused = manager.handle(&call::Plan { of: call.clone().into() }, &mut Nobody);
        assert_eq!(refused.unwrap_err().failure().code(), code, "{call:?}");
        assert_eq!(manager.handle(&call, &mut Nobody).unwrap_err().failure().code(), code, "{call:?}");
    };
    check(restore(Some("vda"), RestoreTo::InPlace, true), "disks-together");
    check(restore(None, path("o.img"), true), "discard-in-place-only");
    check(restore(None, RestoreTo::Path(tap), false), "tapped");
    check(restore(Some("vdz"), path("o.img"), false), "no-disk");
    check(restore(None, RestoreTo::Path(world.target_dir("web")), false), "inside-store");
    // A client has the present open, which would go on writing to it.
    let target = manager.target("web").unwrap();
    let lease = target.lease(target.volume(BranchId(0), None).unwrap(), Use::Client).unwrap();
    check(restore(None, RestoreTo::InPlace, false), "served");
    check(restore(None, RestoreTo::InPlace, true), "served");
    let planned = manager.handle(&call::Plan { of: remove(false).into() }, &mut Nobody);
    assert_eq!(planned.unwrap_err().failure().code(), "served");
    assert_eq!(manager.handle(&remove(false), &mut Nobody).unwrap_err().failure().code(), "served");
    drop(lease);

    let planned = plan(&manager, restore(None, path("new/"), false));
    assert_eq!(planned.writes, [world.dir.path().join("new/vda.raw")]);
    assert!(!world.dir.path().join("new").exists());
    let planned = plan(&manager, restore(None, RestoreTo::InPlace, true));
    assert_eq!(planned.present.as_deref(), Some("restored-1"));
    assert_eq!((planned.fills.len(), planned.loses.len()), (1, 1));
    assert_eq!(target.present(), BranchId(0));
    manager.handle(&restore(None, RestoreTo::InPlace, true), &mut Nobody).unwrap();
    assert_eq!(target.log.catalog().branch(target.present()).unwrap().name, "restored-1");
    // An undo that would drop a branch again says so.
    manager.handle(&call::Undo { name: "web".into() }, &mut Nobody).unwrap();
    let planned = plan(&manager, call::Undo { name: "web".into() });
    assert_eq!(planned.loses.iter().map(|loss| loss.branch.as_str()).collect::<Vec<_>>(), ["main"]);
}

#[test]
fn a_call_without_a_plan_cannot_depend_on_one() {
    let (_world, manager) = World::with(&["web"]);
    let planned = plan(&manager, remove(true));
    let point = call::Point { name: "web".into(), at: None, label: "x".into(), hold: None };
    let refused = confirm(&manager, &planned, point).unwrap_err().failure();
    assert!(matches!(refused, Failure::BadRequest { .. }), "{refused:?}");
}

#[test]
fn what_is_the_present_already_is_promoted_as_its_plan_says_in_every_state() {
    let (world, manager) = World::with(&["web"]);
    branch(&manager, "try-1");
    let promote = call::BranchPromote { name: "web".into(), branch: Some("main".into()) };
    let refused = |manager: &Manager, wanted: &str| {
        let planned = manager.handle(&call::Plan { of: promote.clone().into() }, &mut Nobody).map(drop);
        let done = manager.handle(&promote, &mut Nobody).map(drop);
        for said in [planned, done] {
            assert_eq!(said.map_or_else(|e| e.failure().code(), |()| String::new()), wanted);
        }
    };
    refused(&manager, "");
    // Its own branch may be promoted under a machine.
    run(&manager, "web").unwrap();
    refused(&manager, "");
    stop(&manager, "web").unwrap();
    let elsewhere = call::Run { branch: Some("try-1".into()), ..run_call("web") };
    manager.handle(&elsewhere, &mut Nobody).unwrap();
    refused(&manager, "target-running");
    let target = manager.target("web").unwrap();
    target.machine().unwrap().ask_stop();
    refused(&manager, "target-stopping");
    target.machine().unwrap().take_back_stop();
    drop(target);
    world.kill(manager);
    let manager = world.manager();
    refused(&manager, "left-running");
    world.fake.is_unknown.store(true, Ordering::Release);
    drop(manager);
    let manager = world.manager();
    refused(&manager, "machine-unknown");
    world.fake.is_unknown.store(false, Ordering::Release);
    stop(&manager, "web").unwrap();
    let target = manager.target("web").unwrap();
    let _turn = target.begin_change(Change::Restoring, lifecycle::Request::Move).unwrap();
    refused(&manager, "busy");
}

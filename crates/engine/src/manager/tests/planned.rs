//! Calls that are made as their plans said, and what has changed since.

use serde_json::Value;

use super::*;
use crate::{
    api::{
        Answers, Expect, Failure, Items, MovedPart, Planned, Progress, Request,
        call::{Plannable, RestoreTo},
    },
    socket::{self, ApiServer},
};

/// A client that has seen a plan.
struct Confirming(Option<Expect>);

impl Answers for Confirming {
    fn expected(&self) -> Option<&Expect> {
        self.0.as_ref()
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
    manager.answer(&request.into(), &mut Confirming(Some(planned.expect.clone())))
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
    let ask = |expect: &Expect| {
        let stream = socket::connect(&world.paths().api_socket()).unwrap();
        socket::ask(&stream, &drop_it("t"), false, &mut Confirming(Some(expect.clone())))
    };
    let refused = ask(&planned.expect).unwrap_err().failure();
    assert!(matches!(refused, Failure::Moved { what: MovedPart::Branches, .. }), "{refused:?}");
    assert!(!is_dropped(&manager, second));
    ask(&plan(&manager, drop_it("t")).expect).unwrap();
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
fn a_call_without_a_plan_cannot_depend_on_one() {
    let (_world, manager) = World::with(&["web"]);
    let planned = plan(&manager, remove(true));
    let point = call::Point { name: "web".into(), at: None, label: "x".into(), hold: None };
    let refused = confirm(&manager, &planned, point).unwrap_err().failure();
    assert!(matches!(refused, Failure::BadRequest { .. }), "{refused:?}");
}

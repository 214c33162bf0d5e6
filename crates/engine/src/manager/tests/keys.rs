//! Calls with a key that did not end as their caller wanted: what they had changed, and whether they are done again.

use std::sync::atomic::AtomicBool;

use super::{
    jobs::{Asker, ask_with, jobs},
    machines::{run, run_call, stop},
    *,
};
use crate::{
    api::{JobState, Request},
    lifecycle::Change,
    target::Use,
};

#[test]
fn a_call_that_waits_for_the_next_manager_is_no_job_of_this_one() {
    let (world, manager) = World::with(&["web"]);
    run(&manager, "web").unwrap();
    world.kill(manager);
    let manager = world.manager();
    manager.target("web").unwrap();
    manager.begin_stopping();
    let stop_it: Request = call::Stop { name: "web".into(), force: false, deadline_s: None }.into();
    // Asked without and with a key, again and again.
    for _ in 0..3 {
        for mut asker in [Asker::default(), Asker::with("k")] {
            let refused = manager.answer(&stop_it, &mut asker);
            assert!(matches!(refused, Err(Error::ManagerEnding)), "{refused:?}");
        }
    }
    assert_eq!(jobs(&manager), []);
    assert_eq!(files_below(&world.paths().jobs_dir()), [] as [std::path::PathBuf; 0]);
    world.kill(manager);
    let manager = world.manager();
    ask_with(&manager, "k", stop_it).unwrap();
}

#[test]
fn a_run_whose_target_cannot_be_used_is_done_when_it_can() {
    let (world, manager) = World::with(&["web"]);
    drop(manager);
    let (log, away) = (world.target_dir("web").join("log"), world.dir.path().join("away"));
    std::fs::rename(&log, &away).unwrap();
    let manager = world.manager();
    let call: Request = run_call("web").into();
    let refused = ask_with(&manager, "k", call.clone());
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    let held = manager.registry.hold_unopened("web", Change::Repairing, bygone_model::Micros(0)).unwrap();
    let refused = ask_with(&manager, "k", call.clone());
    assert!(matches!(refused, Err(Error::Busy { .. })), "{refused:?}");
    drop(held);
    assert!(jobs(&manager).iter().all(|job| job.changed == Some(Vec::new())));
    std::fs::rename(&away, &log).unwrap();
    ask_with(&manager, "k", call).unwrap();
    stop(&manager, "web").unwrap();
}

#[test]
fn a_stop_that_cannot_be_taken_back_any_more_is_done_once_although_its_caller_leaves() {
    for force in [false, true] {
        let (world, manager) = World::with(&["web"]);
        run(&manager, "web").unwrap();
        let target = manager.target("web").unwrap();
        // The end of the machine is not written before its client of the disk is gone.
        let client = target.lease(target.volume(BranchId(0), None).unwrap(), Use::Guest).unwrap();
        let stop_it: Request = call::Stop { name: "web".into(), force, deadline_s: None }.into();
        let first = std::thread::scope(|scope| {
            let stopping = scope.spawn(|| {
                let mut lost = Asker::with("k");
                lost.has_left = AtomicBool::new(true);
                manager.answer(&stop_it, &mut lost)
            });
            wait_for("the machine to end", || world.fake.machine(&target.run_dir()).is_none());
            // A call that looks whether it is still wanted has looked by now.
            std::thread::sleep(Duration::from_millis(50));
            drop(client);
            stopping.join().unwrap()
        });
        let first = first.unwrap();
        assert_eq!(jobs(&manager)[0].state, JobState::Done);
        // The machine that runs by now is not stopped for the first one.
        run(&manager, "web").unwrap();
        assert_eq!(ask_with(&manager, "k", stop_it).unwrap(), first);
        assert!(target.is_running());
        stop(&manager, "web").unwrap();
    }
}

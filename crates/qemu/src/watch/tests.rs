//! The reports of a machine, from events as QEMU 10.0 sends them. Real machines are in `tests/qemu`.

use bygone_model::Micros;
use serde_json::{Map, Value, json};

use super::report::*;
use crate::{
    process::Exit,
    qmp::{Event, RunState, Status},
};

fn event(name: &str, time: i64, data: &Value) -> Event {
    Event { name: name.to_owned(), data: data.as_object().cloned().unwrap_or_default(), time: Micros(time) }
}

fn status(state: RunState) -> Status {
    Status { running: state == RunState::Running, state }
}

fn running() -> Story {
    let mut story = Story::new(false);
    assert_eq!(story.status(&status(RunState::Running)), [Happening::Started { adopted: false }]);
    assert_eq!(story.phase(), Phase::Running);
    story
}

#[test]
fn a_shutdown_by_the_guest_is_told_once_and_holds() {
    let mut story = running();
    let shutdown = event("SHUTDOWN", 5, &json!({ "guest": true, "reason": "guest-shutdown" }));
    let told = Happening::ShutdownRequested { by: By::Guest, reason: Reason::GuestShutdown, held: true };
    assert_eq!(story.event(&shutdown), [told]);
    assert_eq!(story.phase(), Phase::Held(Held::Shutdown));
    let stop = event("STOP", 6, &json!({}));
    assert!(!story.is_unexplained_stop(&stop));
    assert_eq!(story.event(&stop), []);
    assert_eq!(story.status(&status(RunState::Shutdown)), []);
    let quit = event("SHUTDOWN", 9, &json!({ "guest": false, "reason": "host-qmp-quit" }));
    let told = Happening::ShutdownRequested { by: By::Host, reason: Reason::HostQmpQuit, held: false };
    assert_eq!(story.event(&quit), [told]);
    story.exited(Exit::Code(0));
    assert_eq!(story.phase(), Phase::Ended(Exit::Code(0)));
}

#[test]
fn each_reset_is_told_and_our_own_is_a_new_start() {
    let mut story = running();
    let starts_over =
        event("RESET", 1_000_000, &json!({ "guest": false, "reason": "host-qmp-system-reset" }));
    // However soon one follows the other.
    for _ in 0..3 {
        let held = event("SHUTDOWN", 1, &json!({ "guest": true, "reason": "guest-reset" }));
        let told = Happening::Reset { by: By::Guest, reason: Reason::GuestReset, held: true };
        assert_eq!(story.event(&held), [told]);
        assert_eq!(story.phase(), Phase::Held(Held::Reset));
        assert_eq!(story.status(&status(RunState::Shutdown)), []);

        assert_eq!(story.event(&starts_over), [Happening::StartsOver]);
        assert_eq!(story.phase(), Phase::Held(Held::StartsOver));
        assert_eq!(story.status(&status(RunState::Prelaunch)), []);
        assert_eq!(story.event(&event("RESUME", 1_000_100, &json!({}))), [Happening::Resumed]);
        assert_eq!(story.phase(), Phase::Running);
    }
    let held = event("SHUTDOWN", 2, &json!({ "guest": false, "reason": "host-qmp-system-reset" }));
    let told = Happening::Reset { by: By::Host, reason: Reason::HostQmpSystemReset, held: true };
    assert_eq!(story.event(&held), [told]);
    // The connection broke before the reset was reported.
    assert_eq!(story.status(&status(RunState::Prelaunch)), [Happening::StartsOver]);

    // QEMU was set not to pause.
    let mut story = running();
    let passed = event("RESET", 5, &json!({ "guest": true, "reason": "guest-reset" }));
    let told = Happening::Reset { by: By::Guest, reason: Reason::GuestReset, held: false };
    assert_eq!(story.event(&passed), [told]);
    assert_eq!(story.phase(), Phase::Running);
}

#[test]
fn what_happened_while_nobody_listened_is_told_when_it_is_seen() {
    let seen = |state| {
        let mut story = Story::new(true);
        let mut told = story.status(&status(state));
        assert_eq!(told.remove(0), Happening::Started { adopted: true });
        assert_eq!(
            story.status(&status(RunState::Running)),
            if told.is_empty() { vec![] } else { vec![Happening::Resumed] }
        );
        told
    };
    assert_eq!(seen(RunState::Running), []);
    let shutdown =
        Happening::ShutdownRequested { by: By::Unknown, reason: Reason::SeenAfterTheFact, held: true };
    assert_eq!(seen(RunState::Shutdown), [shutdown]);
    assert_eq!(seen(RunState::Prelaunch), [Happening::StartsOver]);
    assert_eq!(seen(RunState::GuestPanicked), [Happening::Panicked { info: Map::new(), held: true }]);
    let failed = Happening::IoError { disk: None, write: false, no_space: false, held: true };
    assert_eq!(seen(RunState::IoError), [failed]);
    for state in [RunState::Paused, RunState::InternalError, RunState::Other("new".to_owned())] {
        assert_eq!(seen(state.clone()), [Happening::Paused { state }]);
    }
}

#[test]
fn the_start_is_told_first_even_when_an_event_comes_before_the_answer() {
    let mut story = Story::new(true);
    let panic = event("GUEST_PANICKED", 1, &json!({ "action": "pause" }));
    let told = Happening::Panicked { info: Map::new(), held: true };
    assert_eq!(story.event(&panic), [Happening::Started { adopted: true }, told]);
    assert_eq!(story.status(&status(RunState::GuestPanicked)), []);
    assert_eq!(story.phase(), Phase::Held(Held::Panicked));
}

#[test]
fn a_failing_disk_holds_but_a_late_word_of_it_does_not() {
    let mut story = running();
    let data = json!({
        "device": "", "nospace": true, "node-name": "disk-root", "operation": "write", "action": "stop",
        "qom-path": "/machine/peripheral/virtio-root/virtio-backend", "reason": "No space left on device",
    });
    let told = |held| Happening::IoError { disk: Some("root".to_owned()), write: true, no_space: true, held };
    assert_eq!(story.event(&event("BLOCK_IO_ERROR", 10, &data)), [told(true)]);
    assert_eq!(story.phase(), Phase::Held(Held::IoError));
    assert_eq!(story.status(&status(RunState::IoError)), []);
    assert_eq!(story.event(&event("RESUME", 20, &json!({}))), [Happening::Resumed]);
    assert_eq!(story.event(&event("BLOCK_IO_ERROR", 11, &data)), [told(false)]);
    assert_eq!(story.phase(), Phase::Running);
    // The next stop comes without an event of its own, because QEMU sends one a second at most.
    let stop = event("STOP", 30, &json!({}));
    assert!(story.is_unexplained_stop(&stop));
    let failed = Happening::IoError { disk: None, write: false, no_space: false, held: true };
    assert_eq!(story.status(&status(RunState::IoError)), [failed]);
}

#[test]
fn a_panic_holds_and_a_crash_kernel_does_not() {
    let mut story = running();
    let crash = event("GUEST_CRASHLOADED", 1, &json!({ "action": "run" }));
    assert_eq!(story.event(&crash), [Happening::Panicked { info: Map::new(), held: false }]);
    assert_eq!(story.phase(), Phase::Running);
    let info = json!({ "type": "hyper-v", "arg1": 1 });
    let panic = event("GUEST_PANICKED", 2, &json!({ "action": "pause", "info": info }));
    let told = Happening::Panicked { info: info.as_object().unwrap().clone(), held: true };
    assert_eq!(story.event(&panic), [told]);
    assert_eq!(story.phase(), Phase::Held(Held::Panicked));
    assert_eq!(story.status(&status(RunState::GuestPanicked)), []);
}

#[test]
fn events_with_senseless_content_do_no_harm() {
    let mut story = running();
    for name in ["SHUTDOWN", "RESET", "GUEST_PANICKED", "BLOCK_IO_ERROR", "STOP", "RESUME", "NO_SUCH_EVENT"] {
        for data in [json!({}), json!({ "reason": 5, "guest": "x", "action": [], "node-name": {} })] {
            story.event(&event(name, i64::MAX, &data));
        }
    }
    assert_eq!(Reason::Other("x".to_owned()).to_string(), "x");
    assert_eq!(Reason::HostQmpQuit.to_string(), "host-qmp-quit");
}

#[test]
fn a_machine_that_cannot_be_supervised_does_not_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut sleep = std::process::Command::new("/bin/sleep");
    let process = crate::process::Process::spawn(sleep.arg("1000"), &dir.path().join("log")).unwrap();
    let failed: crate::error::Result<()> = Err(crate::Error::NotConnected);
    super::or_killed(&process, failed).unwrap_err();
    let now = crate::deadline::Deadline::after(std::time::Duration::ZERO);
    assert_eq!(process.wait(now).unwrap(), Some(Exit::Unknown));
    assert!(crate::process::Process::find(process.identity()).unwrap().is_none());
}

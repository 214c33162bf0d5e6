//! Real machines: the `mini` guest of `scripts/guest` in a real QEMU, its disk served by `qemu-nbd`.
#![expect(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod harness;
mod resets;

use std::{fs, io::Write, os::unix::net::UnixStream, time::Duration};

use bygone_qemu::{
    By, Happening, Held, Machine, Phase, Reason, Running, Step, Stopped, Vm,
    console::Detached,
    find_qemu,
    process::{Exit, Process},
    qmp::{QueryBlock, QueryChardev, QueryStatus, RunState},
};
use harness::{BOOT_MAX, Lab, SOON};

/// Notes the steps of a stop that is wanted to its end.
fn noted(steps: &mut Vec<Step>) -> impl FnMut(Option<Step>) -> bool {
    move |step| {
        steps.extend(step);
        true
    }
}

fn shutdown(by: By, reason: Reason, held: bool) -> Happening {
    Happening::ShutdownRequested { by, reason, held }
}

#[test]
fn a_guest_that_powers_off_holds_still_until_it_is_ended() {
    let lab = Lab::new();
    let (vm, mut reports) = lab.start("poweroff");
    assert_eq!(reports.next(BOOT_MAX), Happening::Started { adopted: false });
    assert_eq!(reports.next(BOOT_MAX), shutdown(By::Guest, Reason::GuestShutdown, true));
    assert!(reports.last_time.is_some());
    assert_eq!(vm.phase(), Phase::Held(Held::Shutdown));
    assert_eq!(vm.execute(&QueryStatus, SOON).unwrap().state, RunState::Shutdown);
    reports.silence(Duration::from_millis(500));

    let mut steps = Vec::new();
    assert_eq!(vm.stop(SOON, false, noted(&mut steps)).unwrap(), Stopped::Holding);
    assert_eq!(vm.end(|step| steps.push(step)).unwrap(), Exit::Code(0));
    assert_eq!(steps, [Step::HoldsStill, Step::ToldToEnd]);
    assert_eq!(reports.next(SOON), shutdown(By::Host, Reason::HostQmpQuit, false));
    assert!(matches!(reports.next(SOON), Happening::Exited { exit: Exit::Code(0), .. }));
    reports.end();
    assert!(lab.console().contains("bygone-guest: power off"));
    assert!(Running::find(&lab.places).unwrap().is_none());
    Running::forget(&lab.places).unwrap();
}

#[test]
fn the_power_button_shuts_a_guest_down_and_its_hardware_is_as_described() {
    let lab = Lab::new();
    let (vm, mut reports) = lab.start("idle");
    assert_eq!(reports.next(BOOT_MAX), Happening::Started { adopted: false });
    lab.wait_for_console("bygone-guest: ready");

    let drives = vm.execute(&QueryBlock, SOON).unwrap();
    let [drive] = drives.as_slice() else { panic!("{drives:?}") };
    let inserted = drive.inserted.as_ref().unwrap();
    assert_eq!(inserted.node_name.as_deref(), Some("disk-root"));
    assert_eq!(inserted.image.virtual_size, harness::DISK_BYTES);
    assert_eq!((drive.io_status.as_deref(), inserted.read_only), (Some("ok"), false));
    let labels = vm.execute(&QueryChardev, SOON).unwrap();
    assert!(labels.iter().any(|chardev| chardev.label == "console"), "{labels:?}");

    vm.pause().unwrap();
    assert_eq!(reports.next(SOON), Happening::Paused { state: RunState::Paused });
    assert_eq!(vm.phase(), Phase::Held(Held::Paused));

    // A paused machine is resumed, so that it can react to the button.
    let mut steps = Vec::new();
    assert_eq!(vm.stop(BOOT_MAX, false, noted(&mut steps)).unwrap(), Stopped::Holding);
    assert_eq!(steps[..2], [Step::Resumed, Step::PowerButtonPressed]);
    assert_eq!(steps.last(), Some(&Step::HoldsStill));
    assert_eq!(reports.next(SOON), Happening::Resumed);
    assert_eq!(reports.next(SOON), Happening::PowerButton);
    assert_eq!(
        reports.next_but(SOON, &Happening::PowerButton),
        shutdown(By::Guest, Reason::GuestShutdown, true)
    );
    assert!(lab.console().contains("bygone-guest: power button"));
    vm.end(|_| {}).unwrap();
}

#[test]
fn a_panic_is_seen_and_holds_still() {
    let lab = Lab::new();
    let (vm, mut reports) = lab.start("panic");
    assert_eq!(reports.next(BOOT_MAX), Happening::Started { adopted: false });
    assert_eq!(reports.next(BOOT_MAX), Happening::Panicked { info: serde_json::Map::new(), held: true });
    assert_eq!(vm.phase(), Phase::Held(Held::Panicked));
    reports.silence(Duration::from_millis(300));
    vm.reset().unwrap();
    assert_eq!(reports.next(SOON), Happening::StartsOver);
    vm.resume().unwrap();
    assert_eq!(reports.next(SOON), Happening::Resumed);
    vm.end(|_| {}).unwrap();
}

#[test]
fn a_killed_qemu_is_told_with_its_signal() {
    let lab = Lab::new();
    let (vm, mut reports) = lab.start("idle");
    assert_eq!(reports.next(BOOT_MAX), Happening::Started { adopted: false });
    Process::find(vm.identity()).unwrap().expect("it runs").kill().unwrap();
    assert!(matches!(reports.next(SOON), Happening::Exited { exit: Exit::Signal(9), .. }));
    reports.end();
    assert_eq!(vm.phase(), Phase::Ended(Exit::Signal(9)));
    assert!(vm.press_power_button().unwrap_err().to_string().contains("killed"));
    assert_eq!(vm.stop(SOON, true, |_| true).unwrap(), Stopped::Ended(Exit::Signal(9)));
}

#[test]
fn a_qemu_that_does_not_start_says_why() {
    let lab = Lab::new();
    let mut machine: Machine = lab.machine("idle");
    machine.disks[0].export = "no/such".to_owned();
    let (_vm, mut reports) = lab.start_machine(&machine);
    let Happening::Exited { exit: Exit::Code(1), last_words } = reports.next(SOON) else { panic!() };
    assert!(last_words.contains("no/such"), "{last_words}");
}

#[test]
fn a_machine_outlives_its_supervisor_and_is_adopted() {
    let lab = Lab::new();
    let (vm, mut reports) = lab.start("poweroff bygone.delay=3");
    assert_eq!(reports.next(BOOT_MAX), Happening::Started { adopted: false });
    let first = vm.identity().clone();
    drop(vm);
    reports.end();

    let again = Vm::start(&find_qemu().unwrap(), &lab.machine("idle"), &lab.places);
    assert!(matches!(again, Err(bygone_qemu::Error::AlreadyRunning { pid }) if pid == first.pid));

    // Adopted while it runs, even when the manager died before it could write its file.
    fs::remove_file(lab.places.state_file()).unwrap();
    harness::wait_until("QEMU writes its process number", || lab.places.pid_file().exists());
    let (vm, reports) = Vm::adopt(&lab.places).unwrap().expect("it runs");
    assert_eq!(*vm.identity(), first);
    let mut reports = harness::Reports::new(reports);
    assert_eq!(reports.next(SOON), Happening::Started { adopted: true });
    assert_eq!(vm.phase(), Phase::Running);
    drop(vm);

    // Adopted after it stopped while no supervisor was connected.
    lab.wait_for_console("bygone-guest: power off");
    std::thread::sleep(Duration::from_secs(2));
    let (vm, reports) = Vm::adopt(&lab.places).unwrap().expect("it holds still");
    let mut reports = harness::Reports::new(reports);
    assert_eq!(reports.next(SOON), Happening::Started { adopted: true });
    assert_eq!(reports.next(SOON), shutdown(By::Guest, Reason::GuestShutdown, true));
    assert!(reports.last_time.is_some(), "QEMU wrote down when");
    assert_eq!(vm.phase(), Phase::Held(Held::Shutdown));
    vm.end(|_| {}).unwrap();
    drop(vm);
    assert!(Vm::adopt(&lab.places).unwrap().is_none());
}

#[test]
fn a_disk_that_goes_away_and_comes_back_costs_a_pause_and_no_error() {
    let mut lab = Lab::new();
    let (vm, mut reports) = lab.start("counter bygone.delay_ms=20");
    assert_eq!(reports.next(BOOT_MAX), Happening::Started { adopted: false });
    lab.wait_for_console("done 5\n");
    lab.stop_disk();
    std::thread::sleep(Duration::from_secs(1));
    let before = lab.console().matches("done").count();
    lab.serve_disk();
    harness::wait_until("the guest goes on", || lab.console().matches("done").count() > before + 5);
    assert!(!lab.console().contains("IOERROR"));
    reports.silence(Duration::from_millis(100));

    // Without its disk QEMU cannot end by itself; it is killed.
    lab.stop_disk();
    std::thread::sleep(Duration::from_secs(1));
    let mut steps = Vec::new();
    let stopped = vm.stop(Duration::from_secs(2), true, noted(&mut steps)).unwrap();
    assert_eq!(stopped, Stopped::Ended(Exit::Signal(9)));
    assert_eq!(steps, [Step::PowerButtonPressed, Step::OutOfPatience, Step::Killed]);
}

#[test]
fn a_disk_that_fails_holds_the_guest_still_and_the_guest_never_hears_of_it() {
    let mut lab = Lab::new();
    let fails = lab.serve_failing_disk();
    let (vm, mut reports) = lab.start("counter bygone.delay_ms=20");
    assert_eq!(reports.next(BOOT_MAX), Happening::Started { adopted: false });
    lab.wait_for_console("done 5\n");
    fs::write(&fails, "").unwrap();
    let failed =
        Happening::IoError { disk: Some("root".to_owned()), write: true, no_space: true, held: true };
    assert_eq!(reports.next(SOON), failed);
    assert_eq!(vm.phase(), Phase::Held(Held::IoError));

    // It goes on as soon as there is space, and not before.
    vm.resume().unwrap();
    assert_eq!(reports.next(SOON), Happening::Resumed);
    assert!(matches!(reports.next(SOON), Happening::IoError { .. }));
    fs::remove_file(&fails).unwrap();
    let before = lab.console().matches("done").count();
    vm.resume().unwrap();
    harness::wait_until("the guest goes on", || lab.console().matches("done").count() > before + 5);
    assert!(!lab.console().contains("IOERROR"));
    vm.end(|_| {}).unwrap();
}

#[test]
fn the_console_of_a_real_guest_can_be_used_and_left() {
    let lab = Lab::new();
    let (vm, mut reports) = lab.start("shell");
    assert_eq!(reports.next(BOOT_MAX), Happening::Started { adopted: false });
    lab.wait_for_console("# ");
    for word in ["one", "two"] {
        let (mut ours, input) = UnixStream::pair().unwrap();
        let (shown, output) = UnixStream::pair().unwrap();
        let places = lab.places.clone();
        let attached = std::thread::spawn(move || bygone_qemu::console::attach(&places, input, output));
        ours.write_all(format!("echo heard-$((6 * 7))-{word}\n").as_bytes()).unwrap();
        harness::read_until(&shown, &format!("heard-42-{word}"));
        // The output is closed, which the next write shows.
        drop(shown);
        ours.write_all(b"\n").unwrap();
        assert_eq!(attached.join().unwrap().unwrap(), Detached::OutputClosed);
    }
    assert!(
        String::from_utf8_lossy(&bygone_qemu::console::history(&lab.places, 1 << 20).unwrap())
            .contains("heard-42-two")
    );
    vm.end(|_| {}).unwrap();
}

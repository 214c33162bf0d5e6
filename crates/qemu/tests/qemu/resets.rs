//! Resets of every kind: each is one reset and one new start, however soon the next one comes.

use std::{io::Write, os::unix::net::UnixStream, time::Duration};

use bygone_qemu::{
    By, Happening, Held, Phase, Reason, Vm,
    qmp::{QueryStatus, RunState, SystemReset},
};

use crate::harness::{self, BOOT_MAX, Lab, Reports, SOON};

/// Boot sectors that reset the machine at once, in each way that a PC has.
const BOOT_SECTORS: [(&str, &[u8]); 4] = [
    // mov al, 0xfe; out 0x64, al; hlt
    ("the keyboard controller", &[0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd]),
    // mov dx, 0xcf9; mov al, 6; out dx, al; hlt
    ("the chipset", &[0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xf4, 0xeb, 0xfd]),
    // cli; lidt [0x7c10]; int3, with an empty table of interrupts behind it
    (
        "a triple fault",
        &[0xfa, 0x0f, 0x01, 0x1e, 0x10, 0x7c, 0xcc, 0xf4, 0xeb, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ),
    // jmp 0xffff:0
    ("the firmware's own entry", &[0xea, 0x00, 0x00, 0xff, 0xff]),
];

/// Lets a machine that was reset start over.
fn start_over(vm: &Vm, reports: &mut Reports) {
    assert_eq!(vm.phase(), Phase::Held(Held::Reset));
    assert!(vm.resume().is_err(), "only a reset gets it out of here");
    vm.reset().unwrap();
    assert_eq!(reports.next(SOON), Happening::StartsOver);
    assert_eq!(vm.phase(), Phase::Held(Held::StartsOver));
    vm.resume().unwrap();
    assert_eq!(reports.next(SOON), Happening::Resumed);
    // Or it has reset once more by now.
    assert!(matches!(vm.phase(), Phase::Running | Phase::Held(Held::Reset)), "{:?}", vm.phase());
}

/// The next reset that has to be reported; skips the firmware's own ones, at most one per start.
fn next_reset(vm: &Vm, reports: &mut Reports, firmware: &mut usize) -> Happening {
    for first in [true, false] {
        match reports.next(BOOT_MAX) {
            Happening::Reset { by: By::Firmware, held: true, .. } => {
                assert!(first, "twice in one start");
                *firmware += 1;
                start_over(vm, reports);
            }
            what => return what,
        }
    }
    unreachable!()
}

fn by_guest() -> Happening {
    Happening::Reset { by: By::Guest, reason: Reason::GuestReset, held: true }
}

#[test]
fn a_storm_of_resets_is_told_one_by_one_whichever_way_they_are_made() {
    for (way, code) in BOOT_SECTORS {
        let lab = Lab::new();
        lab.write_boot_sector(code);
        let mut machine = lab.machine("");
        machine.kernel = None;
        let (vm, mut reports) = lab.start_machine(&machine);
        assert_eq!(reports.next(BOOT_MAX), Happening::Started { adopted: false });
        let mut firmware = 0;
        for boot in 1..=8 {
            assert_eq!(next_reset(&vm, &mut reports, &mut firmware), by_guest(), "{way}, boot {boot}");
            start_over(&vm, &mut reports);
        }
        // Only after a reset through its own entry point does SeaBIOS make no second one.
        assert_eq!(firmware, if way.starts_with("the firmware") { 0 } else { 7 }, "{way}");
        vm.end(|_| {}).unwrap();
    }
}

#[test]
fn a_linux_guest_that_reboots_is_told_once_a_boot_whichever_way_it_does() {
    // Through ACPI, the keyboard controller, the chipset, a triple fault.
    for way in ["a", "k", "p", "t"] {
        let lab = Lab::new();
        let (vm, mut reports) = lab.start(&format!("reboot reboot={way}"));
        assert_eq!(reports.next(BOOT_MAX), Happening::Started { adopted: false });
        let mut firmware = 0;
        for boot in 1..=2 {
            assert_eq!(next_reset(&vm, &mut reports, &mut firmware), by_guest(), "reboot={way}, boot {boot}");
            assert_eq!(lab.console().matches("bygone-guest: reboot").count(), boot);
            start_over(&vm, &mut reports);
        }
        vm.end(|_| {}).unwrap();
    }
}

#[test]
fn sysrq_and_the_reset_button_are_told_with_who_did_it() {
    let lab = Lab::new();
    let (vm, mut reports) = lab.start("shell");
    assert_eq!(reports.next(BOOT_MAX), Happening::Started { adopted: false });
    lab.wait_for_console("# ");
    let mut console = UnixStream::connect(lab.places.console_socket()).unwrap();
    console.write_all(b"echo b > /proc/sysrq-trigger\n").unwrap();
    let mut firmware = 0;
    assert_eq!(next_reset(&vm, &mut reports, &mut firmware), by_guest());
    start_over(&vm, &mut reports);
    // The button is pressed on the host while the firmware starts; the firmware's own reset before is told apart.
    let pressed = Happening::Reset { by: By::Host, reason: Reason::HostQmpSystemReset, held: true };
    assert!(matches!(reports.next(SOON), Happening::Reset { by: By::Firmware, .. }));
    start_over(&vm, &mut reports);
    vm.execute(&SystemReset, SOON).unwrap();
    assert_eq!(reports.next(SOON), pressed);
    start_over(&vm, &mut reports);
    vm.end(|_| {}).unwrap();
}

#[test]
fn a_reset_that_nobody_heard_of_is_told_to_the_next_manager_as_what_it_was() {
    let lab = Lab::new();
    let (vm, mut reports) = lab.start("reboot bygone.delay=3");
    assert_eq!(reports.next(BOOT_MAX), Happening::Started { adopted: false });
    drop(vm);
    reports.end();
    lab.wait_for_console("bygone-guest: reboot");
    std::thread::sleep(Duration::from_secs(2));

    let (vm, reports) = Vm::adopt(&lab.places).unwrap().expect("it holds still");
    let mut reports = harness::Reports::new(reports);
    assert_eq!(reports.next(SOON), Happening::Started { adopted: true });
    assert_eq!(reports.next(SOON), by_guest());
    assert!(reports.last_time.is_some(), "QEMU wrote down when");
    // A manager that dies in the middle does not leave a machine paused for ever.
    vm.reset().unwrap();
    drop(vm);
    let (vm, reports) = Vm::adopt(&lab.places).unwrap().expect("it holds still");
    let mut reports = harness::Reports::new(reports);
    assert_eq!(reports.next(SOON), Happening::Started { adopted: true });
    assert_eq!(reports.next(SOON), Happening::StartsOver);
    assert_eq!(vm.execute(&QueryStatus, SOON).unwrap().state, RunState::Prelaunch);
    vm.resume().unwrap();
    assert_eq!(reports.next(SOON), Happening::Resumed);
    let mut firmware = 0;
    assert_eq!(next_reset(&vm, &mut reports, &mut firmware), by_guest());
    vm.end(|_| {}).unwrap();
}

//! A target that reboots, once or repeatedly: its timeline and console log.

use std::{fs, os::unix::fs::FileExt, path::Path};

use serde_json::Value;

use crate::world::{World, make_disk, until};

/// Counts the boots in the second sector of its disk, and resets until there were `boots`.
fn write_counting_boot_sector(disk: &Path, boots: u16) {
    let [low, high] = boots.to_le_bytes();
    #[rustfmt::skip]
    let code = [
        0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0,       // xor ax, ax; mov ds, ax; mov es, ax
        0x8e, 0xd0, 0xbc, 0x00, 0x7c,             // mov ss, ax; mov sp, 0x7c00
        0xbb, 0x00, 0x80,                         // mov bx, 0x8000
        0xb9, 0x02, 0x00, 0xb6, 0x00,             // mov cx, 2; mov dh, 0
        0xb8, 0x01, 0x02, 0xcd, 0x13,             // mov ax, 0x0201; int 0x13 (read)
        0xff, 0x06, 0x00, 0x80,                   // inc word [0x8000]
        0xb8, 0x01, 0x03, 0xcd, 0x13,             // mov ax, 0x0301; int 0x13 (write)
        0x81, 0x3e, 0x00, 0x80, low, high,        // cmp word [0x8000], boots
        0x73, 0x04,                               // jae halt
        0xb0, 0xfe, 0xe6, 0x64,                   // mov al, 0xfe; out 0x64, al
        0xf4, 0xeb, 0xfd,                         // halt: hlt; jmp halt
    ];
    let disk = fs::OpenOptions::new().write(true).open(disk).expect("a disk");
    disk.write_all_at(&code, 0).expect("written");
    disk.write_all_at(&[0x55, 0xaa], 510).expect("written");
}

fn boots_in(disk: &Path) -> u16 {
    let mut bytes = [0; 2];
    fs::File::open(disk).expect("a disk").read_exact_at(&mut bytes, 512).expect("read");
    u16::from_le_bytes(bytes)
}

/// The boots and resets of a timeline, in order.
fn story(world: &World, name: &str) -> Vec<Value> {
    let mut moments = world.json_lines(&["timeline", name]);
    moments.retain(|m| m["kind"] == "boot" || m["kind"] == "reset");
    moments
}

fn assert_alternates(moments: &[Value]) {
    for (n, moment) in moments.iter().enumerate() {
        assert_eq!(moment["kind"], if n % 2 == 0 { "boot" } else { "reset" }, "{n}: {moments:#?}");
        if moment["kind"] == "reset" {
            assert_eq!(moment["label"], "the target was reset by the target");
            assert_eq!(moment["details"]["reason"], "guest-reset");
        }
    }
}

#[test]
fn thirty_four_boots_in_a_row_are_thirty_four_boots_and_thirty_three_resets() {
    let world = World::new();
    let disk = world.path("d.raw");
    make_disk(&disk, 1 << 20);
    write_counting_boot_sector(&disk, 34);
    let tap = format!("vda={}", disk.display());
    world.ok(&["target", "add", "storm", "--memory", "64M", "--cpus", "1", "--disk", &tap]);
    world.ok(&["run", "storm"]);
    let moments = until("34 boots", || {
        let moments = story(&world, "storm");
        (moments.iter().filter(|m| m["kind"] == "boot").count() >= 34).then_some(moments)
    });
    assert_alternates(&moments);
    assert_eq!(moments.len(), 34 + 33);

    // Each is at the right position: the guest had booted that often by then.
    for reset in [1, 2, 17, 33] {
        let at = format!("seq:{}", moments[2 * reset - 1]["seq"]);
        let back = world.path(&format!("{reset}.raw"));
        world.restore("storm", &at, &back);
        assert_eq!(boots_in(&back), reset as u16);
    }

    // Each boot has its line in the console log, with time and branch.
    let console = world.console("storm");
    let marks: Vec<&str> =
        console.lines().filter(|line| line.starts_with("=== bygone: storm boots, ")).collect();
    assert_eq!(marks.len(), 34, "{console}");
    for (mark, boot) in marks.iter().zip(moments.iter().step_by(2)) {
        let time = boot["time"].as_str().expect("a time");
        assert_eq!(*mark, format!("=== bygone: storm boots, {time}, branch main, seq:{} ===", boot["seq"]));
    }
    until("the last write on the disk", || (boots_in(&disk) == 34).then_some(()));
    world.ok(&["stop", "storm", "--force"]);
}

#[test]
fn a_reboot_is_one_reset_and_one_boot_also_while_the_manager_is_away() {
    let mut world = World::new();
    world.serve();
    world.add_mini("m", "bygone.run=reboot bygone.delay=5", &["vda=store:16M"]);
    world.ok(&["run", "m"]);
    let resets = |world: &World| story(world, "m").iter().filter(|m| m["kind"] == "reset").count();
    until("a reboot", || (resets(&world) == 1).then_some(()));
    world.wait_console("m", "bygone-guest: ready");
    // It has booted; the next reboot happens without a manager.
    until("the second boot", || {
        (world.console("m").matches("bygone-guest: ready").count() == 2).then_some(())
    });
    world.kill();
    until("the second reboot", || {
        (world.console("m").matches("bygone-guest: reboot").count() == 2).then_some(())
    });
    std::thread::sleep(std::time::Duration::from_secs(1));
    world.serve();
    until("the third boot", || {
        (world.console("m").matches("bygone-guest: ready").count() == 3).then_some(())
    });
    let moments = story(&world, "m");
    assert_alternates(&moments[..5]);
    world.ok(&["stop", "m", "--force"]);
}

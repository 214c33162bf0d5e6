//! Installation media and displays.

use std::{
    fs,
    io::Read,
    net::{TcpListener, TcpStream},
    os::unix::fs::FileExt,
    path::Path,
};

use crate::world::{World, until};

/// A bootable CD ("El Torito", no emulation), with nothing else on it.
fn make_boot_cd(path: &Path, code: &[u8]) {
    let mut cd = vec![0; 64 * 2048];
    // An ISO 9660 volume begins at sector 16; the boot record is the next one.
    cd[16 * 2048..][..7].copy_from_slice(b"\x01CD001\x01");
    cd[17 * 2048..][..7].copy_from_slice(b"\0CD001\x01");
    cd[17 * 2048 + 7..][..23].copy_from_slice(b"EL TORITO SPECIFICATION");
    cd[17 * 2048 + 0x47..][..4].copy_from_slice(&19_u32.to_le_bytes());
    cd[18 * 2048..][..7].copy_from_slice(b"\xffCD001\x01");
    // The boot catalogue: a validation entry (its words add up to zero), then the boot entry.
    let catalogue = &mut cd[19 * 2048..][..64];
    catalogue[0] = 1;
    catalogue[30..32].copy_from_slice(&[0x55, 0xaa]);
    let sum =
        catalogue[..32].chunks(2).fold(0_u16, |sum, w| sum.wrapping_add(u16::from_le_bytes([w[0], w[1]])));
    catalogue[28..30].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
    catalogue[32] = 0x88;
    catalogue[38..40].copy_from_slice(&4_u16.to_le_bytes());
    catalogue[40..44].copy_from_slice(&20_u32.to_le_bytes());
    cd[20 * 2048..][..code.len()].copy_from_slice(code);
    fs::write(path, cd).expect("written");
}

/// Writes a boot sector to the first hard disk and resets. The boot sector is at 0x100 of this code.
#[rustfmt::skip]
const INSTALLER: [u8; 36] = [
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, // xor ax, ax; mov ds, es, ss, ax; mov sp, 0x7c00
    0xbb, 0x00, 0x7d,                                                 // mov bx, 0x7d00
    0xb9, 0x01, 0x00, 0xba, 0x80, 0x00,                               // mov cx, 1; mov dx, 0x80
    0xb8, 0x01, 0x03, 0xcd, 0x13,                                     // mov ax, 0x0301; int 0x13 (write)
    0x72, 0x04,                                                       // jc halt
    0xb0, 0xfe, 0xe6, 0x64,                                           // mov al, 0xfe; out 0x64, al
    0xf4, 0xeb, 0xfd, 0x90, 0x90,                                     // halt: hlt; jmp halt
];

/// The installed system: writes its second sector, which begins with its own code, and halts.
#[rustfmt::skip]
const INSTALLED: [u8; 28] = [
    0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, 0xbc, 0x00, 0x7c,
    0xbb, 0x00, 0x7c,                                                 // mov bx, 0x7c00
    0xb9, 0x02, 0x00, 0xb6, 0x00,                                     // mov cx, 2; mov dh, 0
    0xb8, 0x01, 0x03, 0xcd, 0x13,
    0xf4, 0xeb, 0xfd, 0x90,
];

#[test]
fn a_system_is_installed_from_a_cd_onto_a_new_disk_and_booted_from_there() {
    let world = World::new();
    let iso = world.path("installer.iso");
    let mut code = [0; 2048];
    code[..INSTALLER.len()].copy_from_slice(&INSTALLER);
    code[0x100..][..INSTALLED.len()].copy_from_slice(&INSTALLED);
    code[0x100 + 510..][..2].copy_from_slice(&[0x55, 0xaa]);
    make_boot_cd(&iso, &code);
    let (iso, disk) = (iso.display().to_string(), "store:1M");
    world.ok(&["target", "add", "new", "--memory", "64M", "--cpus", "1", "--disk", disk, "--cdrom", &iso]);
    world.ok(&["run", "new"]);
    let mut tries = 0;
    until("the installed system to have been booted", || {
        tries += 1;
        let back = world.path(&format!("{tries}.raw"));
        world.restore("new", "now", &back);
        let mut second = [0; 4];
        fs::File::open(&back).and_then(|file| file.read_exact_at(&mut second, 512)).expect("read");
        std::thread::sleep(std::time::Duration::from_millis(500));
        (second == INSTALLED[..4]).then_some(())
    });
    world.ok(&["stop", "new", "--force"]);
    let boots = world.json_lines(&["timeline", "new", "--kind", "boot"]);
    assert_eq!(boots.len(), 2, "once from the CD, once from the disk: {boots:#?}");
}

#[test]
fn the_display_is_a_setting_that_run_can_override() {
    let world = World::new();
    // A free display number: VNC counts from port 5900.
    let free = (0..50).find(|n| TcpListener::bind(("127.0.0.1", 5900 + n)).is_ok()).expect("a free port");
    let vnc = format!("vnc:127.0.0.1:{free}");
    world.ok(&[
        "target",
        "add",
        "seen",
        "--memory",
        "64M",
        "--cpus",
        "1",
        "--disk",
        "store:1M",
        "--display",
        &vnc,
    ]);
    let answers = || {
        let mut greeting = [0; 4];
        let mut stream = TcpStream::connect(("127.0.0.1", 5900 + free)).ok()?;
        stream.read_exact(&mut greeting).ok()?;
        (greeting == *b"RFB ").then_some(())
    };
    world.ok(&["run", "seen"]);
    until("the screen", answers);
    world.ok(&["stop", "seen", "--force"]);
    world.ok(&["run", "seen", "--display", "none"]);
    assert_eq!(answers(), None, "it was overridden");
    world.ok(&["stop", "seen", "--force"]);
    world.ok(&["target", "set", "seen", "display="]);
    world.ok(&["run", "seen"]);
    assert_eq!(answers(), None, "it was cleared");
    world.ok(&["stop", "seen", "--force"]);
    world.fails(2, &["target", "set", "seen", "display=window"]);
}

use std::path::Path;

use super::*;
use crate::places::Places;

fn words(argv: &[String]) -> String {
    // One option a line.
    let mut text = String::new();
    for word in argv {
        let separator = if text.is_empty() {
            ""
        } else if word.starts_with('-') {
            "\n"
        } else {
            " "
        };
        text = text + separator + word;
    }
    text
}

fn places() -> Places {
    Places::new("/run/bygone/web").unwrap()
}

#[test]
fn the_command_line_of_a_usual_machine() {
    let mut machine = Machine::new("web", Accel::Tcg);
    let socket = Path::new("/run/bygone/nbd.sock");
    machine.disks = vec![Disk::new("root", socket, "web/root"), Disk::new("data", socket, "web/data")];
    machine.disks[1].block_bytes = 4096;
    machine.nets = vec![Net::parse("user,hostfwd=tcp:127.0.0.1:2222-:22").unwrap().unwrap()];
    machine.extra_args = vec!["-snapshot".to_owned()];
    assert_eq!(
        words(&machine.argv(&places()).unwrap()),
        r#"-nodefaults
-no-user-config
-name guest=web,debug-threads=on
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-machine q35
-accel tcg,thread=multi
-cpu max
-m size=1024M
-smp 2
-rtc base=utc
-chardev socket,id=console,path=/run/bygone/web/console.sock,server=on,wait=off,logfile=/run/bygone/web/console.log,logappend=on
-serial chardev:console
-chardev socket,id=qmp,path=/run/bygone/web/qmp.sock,server=on,wait=off,logfile=/run/bygone/web/qmp.log,logappend=on
-mon chardev=qmp,mode=control
-chardev ringbuf,id=firmware,size=65536
-device {"chardev":"firmware","driver":"isa-debugcon","iobase":1026}
-pidfile /run/bygone/web/qemu.pid
-action reboot=shutdown,shutdown=pause,panic=pause
-device {"driver":"VGA","id":"screen"}
-object {"id":"entropy","qom-type":"rng-builtin"}
-device {"driver":"virtio-rng-pci","id":"rng","rng":"entropy"}
-device {"driver":"pvpanic-pci","id":"panic"}
-object {"id":"disks","qom-type":"iothread"}
-blockdev {"cache":{"direct":true,"no-flush":false},"detect-zeroes":"off","discard":"unmap","driver":"nbd","export":"web/root","node-name":"disk-root","read-only":false,"reconnect-delay":4294967295,"server":{"path":"/run/bygone/nbd.sock","type":"unix"}}
-device {"bootindex":1,"discard":true,"drive":"disk-root","driver":"virtio-blk-pci","id":"virtio-root","iothread":"disks","logical_block_size":512,"physical_block_size":4096,"rerror":"stop","serial":"root","werror":"stop","write-cache":"on","write-zeroes":true}
-blockdev {"cache":{"direct":true,"no-flush":false},"detect-zeroes":"off","discard":"unmap","driver":"nbd","export":"web/data","node-name":"disk-data","read-only":false,"reconnect-delay":4294967295,"server":{"path":"/run/bygone/nbd.sock","type":"unix"}}
-device {"bootindex":2,"discard":true,"drive":"disk-data","driver":"virtio-blk-pci","id":"virtio-data","iothread":"disks","logical_block_size":4096,"physical_block_size":4096,"rerror":"stop","serial":"data","werror":"stop","write-cache":"on","write-zeroes":true}
-netdev user,id=net0,hostfwd=tcp:127.0.0.1:2222-:22
-device {"driver":"virtio-net-pci","id":"card0","mac":"52:e3:e1:2d:fb:94","netdev":"net0"}
-display none
-snapshot"#
    );
}

#[test]
fn the_command_line_of_an_unusual_machine() {
    let mut machine = Machine::new("a,b", Accel::Kvm);
    machine.firmware = Firmware::Uefi { code: "/fw/code,1.fd".into(), vars: "/fw/vars.fd".into() };
    let kernel = Kernel {
        image: "/k,1".into(),
        initrd: Some("/i,1".into()),
        append: "console=ttyS0 a=b,c -- -x".to_owned(),
    };
    machine.kernel = Some(kernel);
    machine.nets = vec![Net::parse("tap:tap0").unwrap().unwrap()];
    machine.display = "vnc:127.0.0.1:1".parse().unwrap();
    machine.cdrom = Some("/iso,1".into());
    machine.seed = Some("/seed".into());
    machine.sandbox = false;
    let places = Places::new("/run/b,c").unwrap();
    assert_eq!(
        words(&machine.argv(&places).unwrap()),
        r#"-nodefaults
-no-user-config
-name guest=a,,b,debug-threads=on
-machine q35
-accel kvm
-cpu host
-m size=1024M
-smp 2
-rtc base=utc
-drive if=pflash,format=raw,unit=0,readonly=on,file=/fw/code,,1.fd
-drive if=pflash,format=raw,unit=1,readonly=off,file=/fw/vars.fd
-kernel /k,1
-initrd /i,,1
-append console=ttyS0 a=b,c -- -x
-chardev socket,id=console,path=/run/b,,c/console.sock,server=on,wait=off,logfile=/run/b,,c/console.log,logappend=on
-serial chardev:console
-chardev socket,id=qmp,path=/run/b,,c/qmp.sock,server=on,wait=off,logfile=/run/b,,c/qmp.log,logappend=on
-mon chardev=qmp,mode=control
-chardev ringbuf,id=firmware,size=65536
-device {"chardev":"firmware","driver":"isa-debugcon","iobase":1026}
-pidfile /run/b,c/qemu.pid
-action reboot=shutdown,shutdown=pause,panic=pause
-device {"driver":"VGA","id":"screen"}
-object {"id":"entropy","qom-type":"rng-builtin"}
-device {"driver":"virtio-rng-pci","id":"rng","rng":"entropy"}
-device {"driver":"pvpanic-pci","id":"panic"}
-netdev tap,id=net0,ifname=tap0,script=no,downscript=no
-device {"driver":"virtio-net-pci","id":"card0","mac":"52:12:d4:e9:7b:5d","netdev":"net0"}
-display vnc=127.0.0.1:1
-device {"driver":"qemu-xhci","id":"usb"}
-device {"bus":"usb.0","driver":"usb-kbd","id":"keyboard"}
-device {"bus":"usb.0","driver":"usb-tablet","id":"pointer"}
-blockdev {"driver":"raw","file":{"driver":"file","filename":"/iso,1"},"node-name":"cdrom","read-only":true}
-device {"bootindex":1,"bus":"ide.0","drive":"cdrom","driver":"ide-cd","id":"cd"}
-blockdev {"driver":"raw","file":{"driver":"file","filename":"/seed"},"node-name":"seed","read-only":true}
-device {"drive":"seed","driver":"virtio-blk-pci","id":"cloud","serial":"cidata"}"#
    );
}

#[test]
fn what_qemu_could_not_be_given_is_refused() {
    let socket = Path::new("/s");
    let check = |change: &dyn Fn(&mut Machine)| {
        let mut machine = Machine::new("m", Accel::Tcg);
        machine.disks = vec![Disk::new("root", socket, "m/root")];
        change(&mut machine);
        machine.argv(&places()).unwrap_err().to_string()
    };
    assert_eq!(check(&|m| m.cpus = 0), "a machine needs at least one processor and 1 MiB of memory");
    assert_eq!(check(&|m| m.disks.push(m.disks[0].clone())), "two disks are called 'root'");
    for id in ["", "-a", "a b", "a,b", "größe", "x/y", "123456789012345678901"] {
        assert_eq!(check(&|m| m.disks[0].id = id.to_owned()), format!("'{id}' cannot be the name of a disk"));
    }
    for bytes in [0, 256, 513, 65536] {
        let expected = format!("disk 'root': {bytes} bytes cannot be a block size");
        assert_eq!(check(&|m| m.disks[0].block_bytes = bytes), expected);
    }
    let long = check(&|m| m.disks[0].socket = format!("/{}", "s".repeat(107)).into());
    assert!(long.ends_with("is longer than the 107 bytes a socket's path can have"), "{long}");
    assert!(matches!(Places::new(format!("/{}", "d".repeat(100))), Err(Error::SocketPathTooLong { .. })));
    let not_text: std::ffi::OsString = std::os::unix::ffi::OsStringExt::from_vec(vec![b'/', 0xff]);
    assert!(matches!(Places::new(not_text), Err(Error::NotUtf8 { .. })));
}

#[test]
fn words_of_the_command_line_are_read_and_written_back() {
    for word in ["user", "user,hostfwd=tcp::2222-:22,restrict=on", "tap:tap0"] {
        assert_eq!(Net::parse(word).unwrap().unwrap().to_string(), word);
    }
    assert_eq!(Net::parse("none").unwrap(), None);
    for word in [
        "",
        "bridge",
        "tap:",
        "tap:a/b",
        "tap:a,script=x",
        "tap:sixteen-letters-x",
        "user,",
        "user,x",
        "user,=1",
    ] {
        let error = Net::parse(word).unwrap_err();
        assert!(error.to_string().contains("network (user"), "{error}");
    }
    for word in ["none", "gtk", "vnc:127.0.0.1:1", "vnc:unix:/s"] {
        assert_eq!(word.parse::<Display>().unwrap().to_string(), word);
    }
    for word in ["", "sdl", "vnc", "vnc:"] {
        assert!(word.parse::<Display>().is_err(), "{word}");
    }
}

#[test]
fn qemus_names_lead_back_to_the_disk() {
    assert_eq!(Disk::id_of("disk-root"), Some("root"));
    assert_eq!(Disk::id_of("/machine/peripheral/virtio-root/virtio-backend"), Some("root"));
    assert_eq!(Disk::id_of("/machine/peripheral-anon/device[0]/virtio-backend"), None);
    assert_eq!(Disk::id_of(""), None);
}

#[test]
fn a_card_belongs_to_its_machine_whatever_that_is_called() {
    let mac = |name: &str, identity: &str| {
        let mut machine = Machine::new(name, Accel::Tcg);
        machine.identity = identity.to_owned();
        machine.nets = vec![Net::parse("user").unwrap().unwrap(); 2];
        let argv = machine.argv(&places()).unwrap();
        let macs = argv
            .iter()
            .filter_map(|word| word.split_once(r#""mac":""#).map(|(_, rest)| rest[..17].to_owned()));
        macs.collect::<Vec<_>>()
    };
    let macs = mac("web", "1");
    assert_eq!(macs, mac("site", "1"));
    let other = mac("web", "2");
    assert!(macs[0] != macs[1] && macs.iter().all(|mac| !other.contains(mac)), "{macs:?} {other:?}");
    for mac in macs.iter().chain(&other) {
        let first = u8::from_str_radix(&mac[..2], 16).unwrap();
        assert_eq!(first & 0b11, 0b10, "administered locally, of one card: {mac}");
    }
}

//! Turns a description into QEMU's command line.
//!
//! Devices and block nodes are passed as JSON, where nothing needs escaping; options without a JSON form go through
//! [`Options`], which doubles commas.

use std::path::Path;

use serde_json::{Value, json};

use super::{Disk, Display, FIRMWARE_LOG, FIRMWARE_LOG_BYTES, Firmware, Machine, Net, RECONNECT_SECONDS_MAX};
use crate::{
    accel::Accel,
    error::Result,
    places::{Places, utf8},
};

/// `-sandbox`: QEMU may not start programs, gain privileges or make system calls it does not need.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny";

impl Machine {
    /// QEMU's arguments for this machine (without the program's own name).
    ///
    /// # Errors
    /// As [`Machine::check`], and [`crate::Error::NotUtf8`].
    pub fn argv(&self, places: &Places) -> Result<Vec<String>> {
        self.check()?;
        let mut args = Args::default();
        args.word("-nodefaults").word("-no-user-config");
        args.option("-name", Options::new("guest", &self.name).flag("debug-threads=on"));
        if self.sandbox {
            // A window needs to set the priority of its own threads.
            let resources = if self.display == Display::Gtk { "allow" } else { "deny" };
            args.pair("-sandbox", format!("{SANDBOX},resourcecontrol={resources}"));
        }
        self.board(&mut args)?;
        self.boot(&mut args)?;
        control(&mut args, places)?;
        args.pair("-action", "reboot=shutdown,shutdown=pause,panic=pause");

        // The order of the devices determines their addresses. It must not change, because guests remember them.
        args.device(json!({ "driver": "VGA", "id": "screen" }));
        args.pair("-object", json!({ "qom-type": "rng-builtin", "id": "entropy" }).to_string());
        args.device(json!({ "driver": "virtio-rng-pci", "id": "rng", "rng": "entropy" }));
        args.device(json!({ "driver": "pvpanic-pci", "id": "panic" }));
        self.storage(&mut args)?;
        self.network(&mut args);
        self.screen(&mut args);
        self.media(&mut args)?;
        args.0.extend(self.extra_args.iter().cloned());
        Ok(args.0)
    }

    fn board(&self, args: &mut Args) -> Result<()> {
        args.pair("-machine", "q35");
        match self.accel {
            // The host's own processor model: targets are not migrated while they run.
            Accel::Kvm => args.pair("-accel", "kvm").pair("-cpu", "host"),
            Accel::Tcg => args.pair("-accel", "tcg,thread=multi").pair("-cpu", "max"),
        };
        args.pair("-m", format!("size={}M", self.memory_mib)).pair("-smp", self.cpus.to_string());
        args.pair("-rtc", "base=utc");
        if let Firmware::Uefi { code, vars } = &self.firmware {
            for (unit, path, read_only) in [(0, code, "on"), (1, vars, "off")] {
                let drive =
                    Options::new("if", "pflash").with("format", "raw").with("unit", &unit.to_string());
                args.option("-drive", drive.with("readonly", read_only).with("file", utf8(path)?));
            }
        }
        Ok(())
    }

    fn boot(&self, args: &mut Args) -> Result<()> {
        let Some(kernel) = &self.kernel else { return Ok(()) };
        args.pair("-kernel", utf8(&kernel.image)?);
        if let Some(initrd) = &kernel.initrd {
            // This argument is a comma-separated list of files.
            args.pair("-initrd", utf8(initrd)?.replace(',', ",,"));
        }
        args.pair("-append", &kernel.append);
        Ok(())
    }

    fn storage(&self, args: &mut Args) -> Result<()> {
        if !self.disks.is_empty() {
            // Not in the main loop, which must stay responsive while a disk is slow.
            args.pair("-object", json!({ "qom-type": "iothread", "id": "disks" }).to_string());
        }
        for (at, disk) in self.disks.iter().enumerate() {
            let node = Disk::node_name(&disk.id);
            args.pair(
                "-blockdev",
                json!({
                    "driver": "nbd",
                    "node-name": node,
                    "server": { "type": "unix", "path": utf8(&disk.socket)? },
                    "export": disk.export,
                    "reconnect-delay": RECONNECT_SECONDS_MAX,
                    "read-only": disk.read_only,
                    "discard": "unmap",
                    // The store detects zeroes itself when it handles the data.
                    "detect-zeroes": "off",
                    // QEMU caches nothing, and every flush goes through.
                    "cache": { "direct": true, "no-flush": false },
                })
                .to_string(),
            );
            args.device(json!({
                "driver": "virtio-blk-pci",
                "id": format!("virtio-{}", disk.id),
                "drive": node,
                "iothread": "disks",
                "serial": disk.id,
                // 0 is for a kernel that is started directly.
                "bootindex": at + 1,
                "logical_block_size": disk.block_bytes,
                "physical_block_size": disk.block_bytes.max(4096),
                "write-cache": "on",
                "discard": true,
                "write-zeroes": true,
                // An error pauses the machine; the request is retried when it resumes.
                "rerror": "stop",
                "werror": "stop",
            }));
        }
        Ok(())
    }

    /// Read-only media. They are on the controller that the board has anyway, and after everything else, so that no
    /// other device's address depends on them.
    fn media(&self, args: &mut Args) -> Result<()> {
        let mut node = |name: &str, path: &Path, device: Value| -> Result<()> {
            args.pair(
                "-blockdev",
                json!({
                    "driver": "raw",
                    "node-name": name,
                    "read-only": true,
                    "file": { "driver": "file", "filename": utf8(path)? },
                })
                .to_string(),
            );
            args.device(device);
            Ok(())
        };
        if let Some(path) = &self.cdrom {
            // It comes after the disks: an installer boots while the disk is empty, and the installed system boots
            // afterwards.
            let index = self.disks.len() + 1;
            let device = json!({ "driver": "ide-cd", "id": "cd", "drive": "cdrom", "bus": "ide.0", "bootindex": index });
            node("cdrom", path, device)?;
        }
        if let Some(path) = &self.seed {
            // Kernels of cloud images have a driver for this, and often none for a CD.
            let device =
                json!({ "driver": "virtio-blk-pci", "id": "cloud", "drive": "seed", "serial": "cidata" });
            node("seed", path, device)?;
        }
        Ok(())
    }

    fn network(&self, args: &mut Args) {
        for (at, net) in self.nets.iter().enumerate() {
            let id = format!("net{at}");
            match net {
                // These are QEMU's own options, as the user wrote them.
                Net::User { options } => {
                    let mut words = vec!["user".to_owned(), format!("id={id}")];
                    words.extend(options.iter().cloned());
                    args.pair("-netdev", words.join(","));
                }
                Net::Tap { interface } => {
                    args.option(
                        "-netdev",
                        Options::plain("tap")
                            .with("id", &id)
                            .with("ifname", interface)
                            .with("script", "no")
                            .with("downscript", "no"),
                    );
                }
            }
            args.device(json!({
                "driver": "virtio-net-pci",
                "id": format!("card{at}"),
                "netdev": id,
                "mac": mac_address(&self.identity, at),
            }));
        }
    }

    fn screen(&self, args: &mut Args) {
        match &self.display {
            Display::None => args.pair("-display", "none"),
            Display::Gtk => args.pair("-display", "gtk,zoom-to-fit=on"),
            // An address may carry QEMU's own options, such as `,password-secret=`.
            Display::Vnc(address) => args.pair("-display", format!("vnc={address}")),
        };
        if self.display != Display::None {
            args.device(json!({ "driver": "qemu-xhci", "id": "usb" }));
            args.device(json!({ "driver": "usb-kbd", "id": "keyboard", "bus": "usb.0" }));
            args.device(json!({ "driver": "usb-tablet", "id": "pointer", "bus": "usb.0" }));
        }
    }
}

/// The control channels: the serial console, the monitor, the pid file.
fn control(args: &mut Args, places: &Places) -> Result<()> {
    let socket = |id: &str, path: &str| {
        Options::plain("socket").with("id", id).with("path", path).flag("server=on").flag("wait=off")
    };
    let log = places.console_log();
    let console = socket("console", utf8(&places.console_socket())?);
    args.option("-chardev", console.with("logfile", utf8(&log)?).flag("logappend=on"));
    args.pair("-serial", "chardev:console");
    // Its log has the events sent while no client was connected.
    let monitor = socket("qmp", utf8(&places.qmp_socket())?);
    args.option("-chardev", monitor.with("logfile", utf8(&places.qmp_log())?).flag("logappend=on"));
    args.pair("-mon", "chardev=qmp,mode=control");
    // SeaBIOS's debug port; see `watch::firmware`.
    args.option(
        "-chardev",
        Options::plain("ringbuf").with("id", FIRMWARE_LOG).with("size", &FIRMWARE_LOG_BYTES.to_string()),
    );
    args.device(json!({ "driver": "isa-debugcon", "iobase": 0x402, "chardev": FIRMWARE_LOG }));
    args.pair("-pidfile", utf8(&places.pid_file())?);
    Ok(())
}

/// A network card's MAC address: always the same for the same machine. The first byte says that it is of one card, and
/// administered locally; the others are 40 bits of a hash, so that machines on one network have different ones.
fn mac_address(identity: &str, at: usize) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in identity.bytes().chain([0]).chain(at.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let [a, b, c, d, e, ..] = hash.to_le_bytes();
    format!("52:{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}")
}

#[derive(Default)]
struct Args(Vec<String>);

impl Args {
    fn word(&mut self, word: impl Into<String>) -> &mut Args {
        self.0.push(word.into());
        self
    }

    fn pair(&mut self, name: &str, value: impl Into<String>) -> &mut Args {
        self.word(name).word(value)
    }

    fn option(&mut self, name: &str, options: Options) -> &mut Args {
        self.pair(name, options.0)
    }

    #[expect(clippy::needless_pass_by_value, reason = "callers build the value in place")]
    fn device(&mut self, device: Value) -> &mut Args {
        self.pair("-device", device.to_string())
    }
}

/// A list of QEMU's `key=value` options.
struct Options(String);

impl Options {
    fn plain(word: &str) -> Options {
        Options(word.to_owned())
    }

    fn new(key: &str, value: &str) -> Options {
        Options(format!("{key}={}", value.replace(',', ",,")))
    }

    fn with(mut self, key: &str, value: &str) -> Options {
        self.0 += &format!(",{key}={}", value.replace(',', ",,"));
        self
    }

    fn flag(mut self, flag: &str) -> Options {
        self.0 += &format!(",{flag}");
        self
    }
}

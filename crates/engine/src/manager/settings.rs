//! The settings of a target: what can never work is refused when it is set, and what is likely not to work is said.

use std::{fs, io, net::TcpListener};

use bygone_qemu::Net;

use super::Manager;
use crate::{
    api::Answers,
    config::{BadSetting, TargetConfig},
    error::Result,
    target::Target,
};

/// Checks the settings of a target that can be wrong whatever is on this computer.
///
/// # Errors
/// [`BadSetting`], with the first one that is.
pub(super) fn check(config: &TargetConfig) -> Result<()> {
    config.check()?;
    if config.net.is_empty() {
        return Ok(());
    }
    let bad = |value: &str| BadSetting::Value { key: "net".to_owned(), value: value.to_owned() };
    match Net::parse(&config.net) {
        Err(_) => Err(bad(&config.net).into()),
        Ok(Some(Net::User { options })) => {
            let impossible = options.iter().find(|option| {
                option.strip_prefix("hostfwd=").is_some_and(|forward| Forward::parse(forward).is_none())
            });
            impossible.map_or(Ok(()), |option| Err(bad(option).into()))
        }
        Ok(_) => Ok(()),
    }
}

/// A port or socket of this computer that is forwarded to a machine: `[tcp|udp]:[ADDRESS]:PORT-[ADDRESS]:PORT`, or
/// `unix:PATH-…`.
#[derive(Debug, PartialEq, Eq)]
enum Forward<'a> {
    Tcp {
        address: &'a str,
        port: u16,
    },
    /// It is not looked at closer.
    Other,
}

impl Forward<'_> {
    /// Reads it; `None` if QEMU would refuse it.
    fn parse(text: &str) -> Option<Forward<'_>> {
        let (protocol, rest) = text.split_once(':')?;
        let (host, guest) = rest.rsplit_once('-')?;
        let guest_port: u16 = guest.rsplit_once(':')?.1.parse().ok()?;
        if guest_port == 0 {
            return None;
        }
        let host = || {
            let (address, port) = host.rsplit_once(':')?;
            Some((address, port.parse::<u16>().ok()?))
        };
        match protocol {
            "" | "tcp" => host().map(|(address, port)| Forward::Tcp { address, port }),
            "udp" => host().map(|_| Forward::Other),
            "unix" => Some(Forward::Other),
            _ => None,
        }
    }
}

impl Manager {
    /// Says which settings are likely to keep the target's machine from running on this computer as it is now.
    pub(super) fn say_doubts(&self, target: &Target, answers: &mut dyn Answers) {
        let config = target.config();
        if let Some(have) = memory_mib_of_computer().filter(|have| *have < u64::from(config.memory_mib)) {
            let wanted = config.memory_mib;
            answers.note(format!(
                "{wanted} MiB of memory are more than this computer has ({have} MiB): the machine may not start"
            ));
        }
        // What its own machine uses is in use.
        if target.machine_status().is_none() {
            for forward in config.net.split(',').filter_map(|part| part.strip_prefix("hostfwd=")) {
                if let Some(why) = Forward::parse(forward).as_ref().and_then(why_not) {
                    answers.note(format!("{forward}: {why}, so the machine may not start"));
                }
            }
        }
    }

    /// Says which disks of a new target are larger than what the store has room for.
    pub(super) fn say_disks_without_room(&self, target: &Target, answers: &mut dyn Answers) {
        let root = bygone_store::env::RealDir::new(self.shared.paths.root());
        let Ok(free_bytes) = bygone_store::env::Dir::free_bytes(&root) else { return };
        for disk in target.config().disks.iter().filter(|disk| disk.path.is_none()) {
            if disk.size_bytes > free_bytes {
                let (id, gib, free) = (&disk.id, disk.size_bytes >> 30, free_bytes >> 30);
                answers.note(format!(
                    "disk {id} has {gib} GiB, and the store's file system {free} GiB free: it cannot be filled, and \
                     writes wait once there is no room"
                ));
            }
        }
    }
}

/// Why a port cannot be listened on now.
fn why_not(forward: &Forward<'_>) -> Option<String> {
    let Forward::Tcp { address, port } = forward else { return None };
    let address = if address.is_empty() { "0.0.0.0" } else { address.trim_matches(['[', ']']) };
    match TcpListener::bind((address, *port)).err()?.kind() {
        io::ErrorKind::AddrInUse => Some(format!("port {port} of this computer is in use")),
        io::ErrorKind::PermissionDenied => Some(format!("port {port} of this computer may not be used")),
        io::ErrorKind::AddrNotAvailable => Some(format!("this computer does not have the address {address}")),
        _ => None,
    }
}

fn memory_mib_of_computer() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_that_qemu_would_refuse_is_none() {
        let tcp = |address, port| Some(Forward::Tcp { address, port });
        for (text, wanted) in [
            ("tcp::2222-:22", tcp("", 2222)),
            ("tcp:127.0.0.1:2222-10.0.2.15:22", tcp("127.0.0.1", 2222)),
            ("tcp:[::1]:2222-:22", tcp("[::1]", 2222)),
            ("::0-:22", tcp("", 0)),
            ("udp::53-:53", Some(Forward::Other)),
            ("unix:/tmp/a:b-c-:22", Some(Forward::Other)),
            ("tcp::99999-:22", None),
            ("tcp::2222-:0", None),
            ("tcp::2222-:65536", None),
            ("tcp::ssh-:22", None),
            ("sctp::2222-:22", None),
            ("tcp::2222", None),
            ("2222", None),
            ("", None),
        ] {
            assert_eq!(Forward::parse(text), wanted, "{text}");
        }
    }
}

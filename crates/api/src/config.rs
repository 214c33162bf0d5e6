//! The configuration of a target: the settings of `target add` and `target set`.
//!
//! Each change is a new numbered file in the target's folder. No file is ever overwritten, so past configurations stay
//! known.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// An invalid name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be a name")]
pub struct BadName(pub String);

/// An invalid setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSetting {
    /// There is no such key.
    #[error("there is no setting {0:?}")]
    Unknown(String),
    /// The value is invalid for this key.
    #[error("{value:?} is no value for {key:?}")]
    Value { key: String, value: String },
}

/// Targets' and disks' names: letters, digits, `-`, `_` and `.`, so that they fit file names and export names.
pub const NAME_BYTES_MAX: usize = 64;

/// How many processors a machine can have.
const CPUS: RangeInclusive<u32> = 1..=255;

/// How much memory a machine can have, in MiB: with less no firmware starts, and QEMU refuses more.
const MEMORY_MIB: RangeInclusive<u32> = 16..=(4 << 20);

/// The configuration of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetConfig {
    pub name: String,
    #[serde(default)]
    pub disks: Vec<DiskConfig>,
    /// Memory in MiB.
    #[serde(default = "default_memory")]
    pub memory_mib: u32,
    #[serde(default = "default_cpus")]
    pub cpus: u32,
    /// A kernel to boot directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Its initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Its command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub append: Option<String>,
    /// A CD image, from which it boots when none of its disks is bootable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cdrom: Option<PathBuf>,
    /// The user data for cloud-init.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<PathBuf>,
    /// Its display, unless `run` sets another one.
    #[serde(default, skip_serializing_if = "Display::is_none")]
    pub display: Display,
    /// What starts the boot loader.
    #[serde(default)]
    pub firmware: Firmware,
    /// Arguments that are passed to QEMU unchanged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub qemu_args: Vec<String>,
    /// `user[,hostfwd=…]`, `tap:IFACE` or `none`.
    #[serde(default = "default_net")]
    pub net: String,
    /// Started with the manager.
    #[serde(default)]
    pub autostart: bool,
}

/// A disk of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskConfig {
    /// Its id, such as `vda`.
    pub id: String,
    /// The disk outside the store, for a tapped one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// 512 or 4096.
    pub block_bytes: u32,
    pub size_bytes: u64,
}

/// What starts the boot loader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// SeaBIOS.
    #[default]
    Bios,
    /// OVMF.
    Uefi,
}

/// The display of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Display {
    /// Only the serial console.
    #[default]
    None,
    /// A window.
    Gtk,
    /// VNC on this address.
    Vnc(String),
}

impl Display {
    /// Only the serial console.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Display::None
    }
}

impl std::fmt::Display for Display {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Display::None => f.pad("none"),
            Display::Gtk => f.pad("gtk"),
            Display::Vnc(address) => write!(f, "vnc:{address}"),
        }
    }
}

/// Reads `none`, `gtk`, `vnc:ADDRESS`.
#[must_use]
pub fn parse_display(text: &str) -> Option<Display> {
    match (text, text.strip_prefix("vnc:")) {
        ("none", _) => Some(Display::None),
        ("gtk", _) => Some(Display::Gtk),
        (_, Some(address)) if !address.is_empty() => Some(Display::Vnc(address.to_owned())),
        _ => None,
    }
}

fn default_memory() -> u32 {
    1024
}

fn default_cpus() -> u32 {
    2
}

fn default_net() -> String {
    "none".to_owned()
}

/// Checks a name of a target, disk or branch.
///
/// # Errors
/// When it would not fit a file name or an export name.
pub fn check_name(name: &str) -> Result<(), BadName> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let starts = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if starts && name.len() <= NAME_BYTES_MAX && name.chars().all(fits) {
        Ok(())
    } else {
        Err(BadName(name.to_owned()))
    }
}

impl TargetConfig {
    /// A target with all defaults and no disks yet.
    #[must_use]
    pub fn new(name: &str) -> TargetConfig {
        TargetConfig {
            name: name.to_owned(),
            disks: Vec::new(),
            memory_mib: default_memory(),
            cpus: default_cpus(),
            kernel: None,
            initrd: None,
            append: None,
            cdrom: None,
            user_data: None,
            display: Display::None,
            firmware: Firmware::Bios,
            qemu_args: Vec::new(),
            net: default_net(),
            autostart: false,
        }
    }

    /// Applies `KEY=VALUE` of `target set`.
    ///
    /// # Errors
    /// When there is no such key or the value does not fit it.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), BadSetting> {
        let bad = || BadSetting::Value { key: key.to_owned(), value: value.to_owned() };
        let path = |value: &str| if value.is_empty() { None } else { Some(absolute(Path::new(value))) };
        match key {
            "memory" => {
                self.memory_mib = parse_mib(value).filter(|mib| MEMORY_MIB.contains(mib)).ok_or_else(bad)?;
            }
            "cpus" => self.cpus = value.parse().ok().filter(|n| CPUS.contains(n)).ok_or_else(bad)?,
            "kernel" => self.kernel = path(value),
            "initrd" => self.initrd = path(value),
            "append" => self.append = Some(value.to_owned()).filter(|s| !s.is_empty()),
            "cdrom" => self.cdrom = path(value),
            "user-data" => self.user_data = path(value),
            "display" if value.is_empty() => self.display = Display::None,
            "display" => self.display = parse_display(value).ok_or_else(bad)?,
            "firmware" => {
                self.firmware = match value {
                    "bios" => Firmware::Bios,
                    "uefi" => Firmware::Uefi,
                    _ => return Err(bad()),
                };
            }
            "net" if value.is_empty() => self.net = default_net(),
            "net" => self.net = value.to_owned(),
            "autostart" => self.autostart = value.parse().map_err(|_| bad())?,
            "qemu-arg" => self.qemu_args = value.split_whitespace().map(str::to_owned).collect(),
            _ => return Err(BadSetting::Unknown(key.to_owned())),
        }
        Ok(())
    }

    /// Checks the ranges of its numbers, and its display.
    ///
    /// # Errors
    /// When a value is one that [`TargetConfig::set`] would refuse.
    pub fn check(&self) -> Result<(), BadSetting> {
        let bad = |key: &str, value: String| Err(BadSetting::Value { key: key.to_owned(), value });
        match &self.display {
            _ if !CPUS.contains(&self.cpus) => bad("cpus", self.cpus.to_string()),
            _ if !MEMORY_MIB.contains(&self.memory_mib) => bad("memory", self.memory_mib.to_string()),
            Display::Vnc(address) if address.is_empty() => bad("display", self.display.to_string()),
            _ => Ok(()),
        }
    }

    /// The disk `id`.
    #[must_use]
    pub fn disk(&self, id: &str) -> Option<&DiskConfig> {
        self.disks.iter().find(|disk| disk.id == id)
    }
}

/// An absolute path, which does not depend on the manager's working directory.
#[must_use]
pub fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Reads `1G`, `512M`, `2048` (MiB).
#[must_use]
pub fn parse_mib(text: &str) -> Option<u32> {
    let bare = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let bytes = if bare { text.parse::<u64>().ok()?.checked_mul(1 << 20)? } else { parse_bytes(text)? };
    u32::try_from(bytes >> 20).ok().filter(|mib| *mib > 0)
}

/// Reads a size: `512`, `4K`, `20G`, `1.5T`, `20GiB` (powers of 1024).
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let shift = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    match number.split_once('.') {
        None => number.parse::<u64>().ok()?.checked_mul(1 << shift),
        Some(_) => {
            let value = number.parse::<f64>().ok()? * (1_u64 << shift) as f64;
            (value < 9e18).then_some(value as u64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(parse_bytes("20G"), Some(20 << 30));
        assert_eq!(parse_bytes("1.5T"), Some(3 << 39));
        assert_eq!(parse_bytes("512"), Some(512));
        assert_eq!(parse_bytes("64 KiB"), None);
        assert_eq!(parse_bytes("99999999999P"), None);
        assert_eq!(parse_mib("1G"), Some(1024));
        assert_eq!(parse_mib("512"), Some(512));
        assert_eq!(parse_mib("+5"), None);
    }

    #[test]
    fn names_that_would_leave_their_folder_are_refused() {
        for bad in ["", ".", "..", "a/b", "-x", "a b", "a@b", "a#b", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        check_name("web-1.example_com").unwrap();
    }
}

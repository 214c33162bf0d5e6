//! Targets: what is protected.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::TargetConfig;

/// Protects a new target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetAdd {
    /// How it is made up. Its `disks` must be empty: the call is refused otherwise.
    pub config: TargetConfig,
    pub disks: Vec<NewDisk>,
    /// Wait until its tapped disks were read.
    #[serde(default)]
    pub wait: bool,
}

/// A disk of a new target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewDisk {
    /// Given out (`vda`, `vdb`, …) unless named.
    pub id: Option<String>,
    pub source: NewSource,
    /// 512 or 4096; as the disk shows it unless given.
    pub block_bytes: Option<u32>,
}

/// Where a disk comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewSource {
    /// A raw file or block device that is protected where it is.
    Tap(PathBuf),
    /// The same, without a check of its format.
    TapRaw(PathBuf),
    /// A new, empty disk in the store, of this many bytes.
    Store(u64),
    /// An image that is read into the store once.
    Import(PathBuf),
    /// The same for a raw disk, without a check of its format.
    ImportRaw(PathBuf),
}

/// Lists the targets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetList {}

/// Shows a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetShow {
    pub name: String,
}

/// Changes a target's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetSet {
    pub name: String,
    /// Keys and values as [`TargetConfig::set`] takes them.
    pub settings: Vec<(String, String)>,
}

/// Stops protecting a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRemove {
    pub name: String,
    /// Without this, its history is kept under another name.
    pub delete_history: bool,
}

/// Lists the removed targets whose history was kept, the last removed one last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRemoved {}

/// Restores a removed target whose history was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRestore {
    /// Its name, or `NAME-N` if several targets of that name were removed; the last removed one unless given.
    pub name: String,
    /// Its new name; as before unless given.
    #[serde(default)]
    pub new_name: Option<String>,
    /// The id of its log: this removed target and no other one, whatever `name` means by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

impl TargetRestore {
    /// Of the target that this name means, under its own name.
    #[must_use]
    pub fn of(name: &str) -> TargetRestore {
        TargetRestore { name: name.to_owned(), new_name: None, log: None }
    }
}

/// Repairs a target whose newest configuration cannot be read, from its log or from an older configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRepair {
    pub name: String,
}

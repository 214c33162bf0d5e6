//! The file `engine.json` of a machine: what a later manager needs to adopt it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use bygone_model::{At, BranchId};
use serde::{Deserialize, Serialize};

use super::Boot;
use crate::{
    api::{Accelerator, Started},
    config::Display,
    error::{Error, Result},
    store_dir::{StorePaths, write_over},
    target::{Target, log_id_in},
};

/// See the module's comment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The id of the log of the target that started it: a target's name may be another target's by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
    pub branch: BranchId,
    #[serde(default)]
    pub display: Display,
    /// Ports of this computer that are forwarded to it. The configuration may have different ones for the next start.
    #[serde(default)]
    pub forwards: Vec<String>,
    /// The moment of its branch at which it was started; all of its writes come later.
    #[serde(default)]
    pub boots_at: Option<At>,
    /// Its boot is in the log.
    #[serde(default)]
    pub noted: bool,
    /// The answer to `run`.
    pub started: Started,
}

const FILE: &str = "engine.json";

fn file(target: &Target) -> PathBuf {
    target.run_dir().join(FILE)
}

/// Checks that the machine which runs as this process in the folder of a target's machine is the target's own, as far
/// as that can be read. The target need not be open.
///
/// # Errors
/// [`Error::ForeignMachine`] when another target started it.
pub(crate) fn check_own(paths: &StorePaths, target: &str, pid: u32) -> Result<()> {
    match (Kept::read(&paths.run_dir(target)), log_id_in(&paths.target_dir(target))) {
        (Some(kept), Some(log)) if !kept.is_of(&log) => {
            Err(Error::ForeignMachine { name: target.to_owned(), pid })
        }
        _ => Ok(()),
    }
}

impl Kept {
    /// The description of a machine whose process is not started yet.
    pub(super) fn of(target: &Target, boot: &Boot) -> Kept {
        let started = Started {
            name: target.name.clone(),
            branch: target.log.catalog().branch(boot.branch).map_or("main", |b| &b.name).to_owned(),
            from_seq: boot.from.as_ref().map(|from| from.seq),
            from: boot.from.clone(),
            pid: 0,
            accelerator: boot.accelerator,
            lost: Vec::new(),
            console: target.shared.launcher.console(&target.run_dir()),
        };
        let net = target.config().net;
        let forwards = net.split(',').filter_map(|part| part.strip_prefix("hostfwd=")).map(str::to_owned);
        Kept {
            log: Some(target.log_id()),
            branch: boot.branch,
            display: boot.display.clone(),
            forwards: forwards.collect(),
            boots_at: None,
            noted: false,
            started,
        }
    }

    /// A substitute for the lost file of a machine that runs.
    pub(super) fn found(target: &Target, branch: BranchId, pid: u32) -> Kept {
        let boot = Boot { branch, from: None, display: Display::None, accelerator: Accelerator::Unknown };
        let mut kept = Kept { noted: true, ..Kept::of(target, &boot) };
        kept.started.pid = pid;
        kept
    }

    fn read(run_dir: &Path) -> Option<Kept> {
        serde_json::from_slice(&fs::read(run_dir.join(FILE)).ok()?).ok()
    }

    fn is_of(&self, target_log: &str) -> bool {
        self.log.as_ref().is_none_or(|log| log == target_log)
    }

    /// Reads the file; `None` if it is missing or damaged, or is about a machine of another target.
    pub(super) fn load(target: &Target) -> Option<Kept> {
        Kept::read(&target.run_dir()).filter(|kept| kept.is_of(&target.log_id()))
    }

    /// Whether the file is about a machine of another target.
    pub(super) fn is_foreign(target: &Target) -> bool {
        Kept::read(&target.run_dir()).is_some_and(|kept| !kept.is_of(&target.log_id()))
    }

    /// Writes or replaces the file, atomically and durably: after a power cut it says that a machine ran.
    pub(super) fn save(&self, target: &Target) -> Result<()> {
        write_over(&file(target), self)
    }

    /// Whether there is a file, readable or not.
    pub(super) fn is_left(target: &Target) -> bool {
        file(target).exists()
    }

    /// Removes the file, once the process has ended.
    pub(super) fn remove(target: &Target) {
        let _ = fs::remove_file(file(target));
    }
}

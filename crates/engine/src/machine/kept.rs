//! What a later manager has to know of a machine that it takes over.

use std::{fs, path::PathBuf};

use bygone_model::{At, BranchId};
use serde::{Deserialize, Serialize};

use super::Boot;
use crate::{
    api::Started,
    config::Display,
    error::{Error, Result},
    target::Target,
};

/// See the module's comment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// On which branch it runs.
    pub branch: BranchId,
    /// What its user sees.
    #[serde(default)]
    pub display: Display,
    /// Ports of this computer that are forwarded to it; its configuration may have others for its next start.
    #[serde(default)]
    pub forwards: Vec<String>,
    /// How it found its disks: nothing that it did to them is before this moment of its branch.
    #[serde(default)]
    pub boots_at: Option<At>,
    /// Its boot stands in the log.
    #[serde(default)]
    pub noted: bool,
    /// What `run` said.
    pub started: Started,
}

fn file(target: &Target) -> PathBuf {
    target.run_dir().join("engine.json")
}

impl Kept {
    /// What is known of a machine before its process is there.
    pub(super) fn of(target: &Target, boot: &Boot) -> Kept {
        let started = Started {
            name: target.name.clone(),
            branch: target.log.catalog().branch(boot.branch).map_or("main", |b| &b.name).to_owned(),
            from_seq: boot.from.as_ref().map(|from| from.seq),
            from: boot.from.clone(),
            pid: 0,
            accelerator: boot.accelerator.clone(),
            console: target.shared.launcher.console(&target.run_dir()),
        };
        let net = target.config().net;
        let forwards = net.split(',').filter_map(|part| part.strip_prefix("hostfwd=")).map(str::to_owned);
        let (branch, display) = (boot.branch, boot.display.clone());
        Kept { branch, display, forwards: forwards.collect(), boots_at: None, noted: false, started }
    }

    /// What is known of a machine whose file is lost.
    pub(super) fn found(target: &Target, branch: BranchId, pid: u32) -> Kept {
        let boot = Boot { branch, from: None, display: Display::None, accelerator: "unknown".to_owned() };
        let mut kept = Kept { noted: true, ..Kept::of(target, &boot) };
        kept.started.pid = pid;
        kept
    }

    /// Reads it; `None` when there is none, or it is damaged.
    pub(super) fn load(target: &Target) -> Option<Kept> {
        serde_json::from_slice(&fs::read(file(target)).ok()?).ok()
    }

    /// Writes it down, whole or not at all.
    pub(super) fn save(&self, target: &Target) -> Result<()> {
        let path = file(target);
        let part = path.with_extension("part");
        let text = serde_json::to_vec(self).map_err(std::io::Error::other);
        let written = text.and_then(|text| fs::write(&part, text)).and_then(|()| fs::rename(&part, &path));
        written.map_err(|e| {
            let _ = fs::remove_file(&part);
            Error::file("writing", path, e)
        })
    }

    /// Removes it. The process it speaks of has ended.
    pub(super) fn remove(target: &Target) {
        let _ = fs::remove_file(file(target));
    }
}

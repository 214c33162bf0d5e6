//! The socket of one machine: it offers the disks of the branch on which the machine runs, and nothing else.
//!
//! Invariant: what a name means here never changes, whatever becomes the present. The branch stands in the socket's name, so a machine
//! that was left running is found together with its branch even if nothing else is left that says so.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Weak},
};

use bygone_block::{
    BlockDevice,
    nbd::{ExportInfo, Exports, OpenError, Scope, Serving},
};
use bygone_model::BranchId;

use crate::{
    error::{Error, Result},
    target::{Target, Use},
};

const PREFIX: &str = "nbd-";
const SUFFIX: &str = ".sock";

struct MachineExports {
    target: Weak<Target>,
    branch: BranchId,
}

/// The name of a disk on the socket of its machine.
pub(super) fn name(target: &Target, disk: &str) -> String {
    format!("{}/{disk}", target.name)
}

fn socket(target: &Target, branch: BranchId) -> PathBuf {
    target.run_dir().join(format!("{PREFIX}{}{SUFFIX}", branch.0))
}

/// The branch in the name of the only socket of this kind.
pub(super) fn branch_of_socket(target: &Target) -> Option<BranchId> {
    let mut found = None;
    for entry in fs::read_dir(target.run_dir()).ok()?.flatten() {
        let name = entry.file_name();
        let number =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok());
        if let Some(number) = number
            && found.replace(BranchId(number)).is_some()
        {
            return None;
        }
    }
    found
}

/// A socket whose server was killed.
#[cfg(test)]
pub(super) fn leave_socket(target: &Target, branch: BranchId) {
    drop(std::os::unix::net::UnixListener::bind(socket(target, branch)));
}

/// Removes the socket of a machine that has ended without anybody serving it.
pub(super) fn remove_socket(target: &Target, branch: BranchId) {
    let _ = fs::remove_file(socket(target, branch));
}

/// Begins to serve the disks of a branch to the machine that runs on it.
pub(super) fn serve(target: &Arc<Target>, branch: BranchId) -> Result<(PathBuf, Serving)> {
    let path = socket(target, branch);
    let exports = Arc::new(MachineExports { target: Arc::downgrade(target), branch });
    let serving = target.shared.nbd.serve_unix(&path, Scope::new(exports).kept());
    let serving = serving
        .map_err(|e| Error::file("listening on", path.clone(), std::io::Error::other(e.to_string())))?;
    Ok((path, serving))
}

impl Exports for MachineExports {
    fn list(&self) -> Vec<ExportInfo> {
        let Some(target) = self.target.upgrade() else { return Vec::new() };
        let catalog = target.log.catalog();
        let info = |disk: &bygone_store::catalog::Disk| ExportInfo {
            name: name(&target, &disk.name),
            description: format!("disk {} of {}", disk.name, target.name),
        };
        catalog.disks.iter().map(info).collect()
    }

    fn open(&self, asked: &str) -> std::result::Result<Arc<dyn BlockDevice>, OpenError> {
        let Some(target) = self.target.upgrade() else { return Err(OpenError::Closing) };
        let catalog = target.log.catalog();
        let disk = catalog.disks.iter().find(|disk| name(&target, &disk.name) == asked);
        let Some(disk) = disk else {
            return Err(OpenError::Unknown { hint: "this is the socket of one machine".to_owned() });
        };
        let opened = catalog
            .volume_of(self.branch, &disk.name)
            .map_err(Error::from)
            .and_then(|volume| target.lease(volume.id, Use::Guest));
        match opened {
            Ok(lease) => Ok(Arc::new(lease)),
            Err(e) => Err(OpenError::Refused { why: e.to_string() }),
        }
    }
}

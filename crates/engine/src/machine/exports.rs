//! The socket of one machine: it offers the disks of the branch on which the machine runs, and nothing else.
//!
//! Invariant: the meaning of a name never changes, whichever branch becomes the present. The socket's name contains the
//! branch, so the branch of a machine that was left running is known even if its file is lost.

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

/// The branch in the name of the machine's socket; `None` unless there is exactly one.
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

/// Leaves a socket behind, as a killed server does.
#[cfg(test)]
pub(super) fn leave_socket(target: &Target, branch: BranchId) {
    drop(std::os::unix::net::UnixListener::bind(socket(target, branch)));
}

/// Removes the socket of a machine that ended unsupervised.
pub(super) fn remove_socket(target: &Target, branch: BranchId) {
    let _ = fs::remove_file(socket(target, branch));
}

/// Starts serving the disks of a branch to its machine.
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

#[cfg(test)]
mod tests {
    use bygone_block::{Change, Reading, Writing};

    use super::*;
    use crate::{
        config::{DiskConfig, TargetConfig},
        lifecycle, restore,
        runner::Qemu,
        serve::Nobody,
        store_dir::StorePaths,
        target::Shared,
    };

    #[test]
    fn what_a_machine_gets_is_the_disk_of_its_branch_whatever_becomes_the_present() {
        let dir = tempfile::tempdir().unwrap();
        let paths = StorePaths::new(&dir.path().join("store"));
        paths.make().unwrap();
        let mut config = TargetConfig::new("web");
        let disk = DiskConfig { id: "vda".into(), path: None, block_bytes: 512, size_bytes: 1 << 20 };
        config.disks.push(disk);
        let shared = Shared::new(&paths, Arc::new(Qemu::default()));
        let target = Target::make(&shared, &config, |_| Ok(Vec::new())).unwrap();
        let main = target.present();
        let branch = target.log.add_branch("try-1", main, target.log.head_seq()).unwrap();
        let exports = MachineExports { target: Arc::downgrade(&target), branch };
        let write = |byte| {
            let disk = exports.open("web/vda").unwrap();
            disk.write(&[Writing { offset: 0, change: Change::Data(&[byte; 4096]) }]).unwrap();
        };
        let shows = |branch| {
            let lease = target.lease(target.volume(branch, None).unwrap(), Use::Upkeep).unwrap();
            let mut block = [0; 512];
            lease.read(0, &mut block, Reading::MayWait).unwrap();
            block[0]
        };
        write(1);
        assert_eq!((shows(branch), shows(main)), (1, 0));
        for (byte, next) in [(2, branch), (3, main), (4, branch)] {
            let (change, request) = (lifecycle::Change::Promoting, lifecycle::Request::Branches);
            let op = target.begin_change(change, request).unwrap();
            restore::promote(&op, next, &mut Nobody).unwrap();
            drop(op);
            write(byte);
            assert_eq!((shows(branch), shows(main)), (byte, 0), "{next} is the present");
        }
        // No other name is offered.
        for name in ["web/vda@now", "web/vda#main", "web", "db/vda", ""] {
            assert!(matches!(exports.open(name), Err(OpenError::Unknown { .. })), "{name}");
        }
    }
}

//! The exports of a manager, by name: `NAME/DISK` (the present), `NAME/DISK@WHEN` (a moment, read-only),
//! `NAME/DISK#BRANCH` (a branch), `NAME/DISK#id:N` (a branch by its id). If the target has one disk, `/DISK` can be
//! omitted.
//!
//! `NAME/DISK` means another disk after a promotion, and a branch's name may be given to another branch; only the id
//! never changes its meaning. Machines do not use these exports: each has a socket of its own, for the disks of its
//! branch.

use std::{sync::Arc, time::Duration};

use bygone_block::{
    BlockDevice,
    nbd::{ExportInfo, Exports, OpenError},
};
use jiff::Zoned;

use crate::{
    api::{LostRecords, MomentInfo},
    calls,
    error::{Error, Result, Usage},
    history,
    manager::Manager,
    target::Target,
};

/// How long the clients of a socket get to end when it is stopped.
pub(crate) const NBD_STOP_MAX: Duration = Duration::from_secs(5);

/// A device that was opened by name.
pub(crate) struct Opened {
    pub device: Arc<dyn BlockDevice>,
    /// The moment, for a past one.
    pub moment: Option<MomentInfo>,
    /// What is lost of the history that it shows.
    pub lost: Vec<LostRecords>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("moment", &self.moment).finish_non_exhaustive()
    }
}

/// The part of a target's history that a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    Present,
    Past(String),
    Branch(String),
}

fn split(what: &str) -> (&str, Which) {
    match what.find(['@', '#']) {
        None => (what, Which::Present),
        Some(i) if what.as_bytes()[i] == b'@' => (&what[..i], Which::Past(what[i + 1..].to_owned())),
        Some(i) => (&what[..i], Which::Branch(what[i + 1..].to_owned())),
    }
}

impl Manager {
    /// Opens the device that `what` names.
    ///
    /// # Errors
    /// When there is no such device or moment, or it cannot be opened.
    pub(crate) fn open_device(&self, what: &str, now: &Zoned) -> Result<Opened> {
        let (device, which) = split(what);
        let (name, disk) = match device.split_once('/') {
            Some((name, disk)) => (name, Some(disk)),
            None => (device, None),
        };
        if name.is_empty() {
            return Err(Usage::BadDevice(what.to_owned()).into());
        }
        let target = self.target(name)?;
        target.unless_gone(Manager::open_part(&target, disk, which, now))
    }

    fn open_part(target: &Arc<Target>, disk: Option<&str>, which: Which, now: &Zoned) -> Result<Opened> {
        let catalog = target.log.catalog();
        match which {
            Which::Present => {
                let volume = target.volume(catalog.head, disk)?;
                let device = Arc::new(target.serve(volume, true)?);
                Ok(Opened { device, moment: None, lost: target.lost_now(catalog.head) })
            }
            Which::Branch(branch) => {
                let branch = history::branch_named(&catalog, &branch)?;
                // A dropped branch takes no writes.
                let volume = target.volume(catalog.live_branch(branch)?.id, disk)?;
                let device = Arc::new(target.serve(volume, false)?);
                Ok(Opened { device, moment: None, lost: target.lost_now(branch) })
            }
            Which::Past(when) => {
                let found = target.moment(&when, now)?;
                let volume = target.volume_at(found.place, disk)?;
                let device = Arc::new(target.as_of(volume, found.place.seq)?);
                let moment = found.info(&target.log.catalog());
                Ok(Opened { device, lost: moment.lost.clone(), moment: Some(moment) })
            }
        }
    }
}

/// The exports of a manager.
pub(crate) struct ManagerExports(pub(crate) Arc<Manager>);

impl Exports for ManagerExports {
    fn list(&self) -> Vec<ExportInfo> {
        let mut out = Vec::new();
        for target in self.0.served() {
            let catalog = target.log.catalog();
            for disk in &catalog.disks {
                let name = format!("{}/{}", target.name, disk.name);
                let description = format!("the present of {}", target.name);
                out.push(ExportInfo { name: name.clone(), description });
                for branch in catalog.branches.iter().filter(|b| b.dropped.is_none() && b.id != catalog.head)
                {
                    let description = format!("branch {} of {}", branch.name, target.name);
                    out.push(ExportInfo { name: format!("{name}#{}", branch.name), description });
                }
            }
        }
        out
    }

    fn open(&self, name: &str) -> std::result::Result<Arc<dyn BlockDevice>, OpenError> {
        if self.0.is_stopping() {
            return Err(OpenError::Closing);
        }
        // NBD has no field for the client's time zone, so the manager's is used; a time can include its zone.
        match self.0.open_device(name, &calls::now(self.0.clock())) {
            Ok(opened) => Ok(opened.device),
            Err(
                e @ (Error::NoTarget(_)
                | Error::Usage(_)
                | Error::When { .. }
                | Error::Moment { .. }
                | Error::BeforeDisks { .. }
                | Error::Store(bygone_store::Error::NoDisk(_) | bygone_store::Error::NoBranch(_))),
            ) => Err(OpenError::Unknown { hint: e.to_string() }),
            Err(e) => Err(OpenError::Refused { why: e.to_string() }),
        }
    }
}

/// One device, under its name and as the default export, for the call `export`.
pub(crate) struct OneExport {
    pub(crate) name: String,
    pub(crate) device: Arc<dyn BlockDevice>,
}

impl Exports for OneExport {
    fn list(&self) -> Vec<ExportInfo> {
        vec![ExportInfo { name: self.name.clone(), description: String::new() }]
    }

    fn open(&self, name: &str) -> std::result::Result<Arc<dyn BlockDevice>, OpenError> {
        if name.is_empty() || name == self.name {
            return Ok(self.device.clone());
        }
        Err(OpenError::Unknown { hint: format!("ask for {:?}, or for the default export", self.name) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_may_hold_what_names_may_not() {
        assert_eq!(split("web1/vda@3 days ago 15:00"), ("web1/vda", Which::Past("3 days ago 15:00".into())));
        assert_eq!(split("web1@point:a#b"), ("web1", Which::Past("point:a#b".into())));
        assert_eq!(split("web1/vda@try-1@15:04"), ("web1/vda", Which::Past("try-1@15:04".into())));
        assert_eq!(split("web1/vda#try-1"), ("web1/vda", Which::Branch("try-1".into())));
        assert_eq!(split("web1/vda#id:3"), ("web1/vda", Which::Branch("id:3".into())));
        assert_eq!(split("web1"), ("web1", Which::Present));
    }
}

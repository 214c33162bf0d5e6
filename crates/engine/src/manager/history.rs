//! Moments: listing them, naming one, restoring one.

use bygone_store::catalog::Disk;

use super::Manager;
use crate::{
    api::{Items, MomentInfo, MomentMeant, Nothing, Restored, call},
    calls::{Handle, asked_at},
    error::Result,
    lifecycle::Request,
    restore,
    target::Target,
    timeline,
};

impl Handle<call::Timeline> for Manager {
    fn handle(&self, call: &call::Timeline, answers: &mut dyn Items<MomentInfo>) -> Result<()> {
        let target = self.target(&call.name)?;
        let now = asked_at(&*self.shared.clock, answers);
        let told = timeline::timeline(&target.log, call, &now, &mut |moment| answers.item(moment));
        target.unless_gone(told)
    }
}

impl Handle<call::Points> for Manager {
    fn handle(&self, call: &call::Points, answers: &mut dyn Items<MomentInfo>) -> Result<()> {
        let target = self.target(&call.name)?;
        target.unless_gone(timeline::points(&target.log, &mut |moment| answers.item(moment)))
    }
}

impl Handle<call::When> for Manager {
    fn handle(&self, call: &call::When, answers: &mut dyn Items<Nothing>) -> Result<MomentMeant> {
        let target = self.target(&call.name)?;
        let found = target.moment(&call.at, &asked_at(&*self.shared.clock, answers))?;
        let why = target.volumes_at(found.place).err().map(|e| e.to_string());
        let moment = found.info(&target.log.catalog());
        target.say_unseen(found.place, answers);
        Ok(MomentMeant { moment, exact: why.is_none(), why })
    }
}

impl Handle<call::Point> for Manager {
    fn handle(&self, call: &call::Point, answers: &mut dyn Items<Nothing>) -> Result<MomentInfo> {
        let target = self.target(&call.name)?;
        let (at, hold) = (call.at.as_deref(), call.hold.as_deref());
        target.check(Request::Note)?;
        target.unless_gone(timeline::add_point(
            &target,
            at,
            &call.label,
            hold,
            &asked_at(&*self.shared.clock, answers),
        ))
    }
}

impl Handle<call::Restore> for Manager {
    fn handle(&self, call: &call::Restore, answers: &mut dyn Items<Nothing>) -> Result<Restored> {
        let target = self.target(&call.name)?;
        self.check_destination(&target, call)?;
        let (disk, now) = (call.disk.as_deref(), asked_at(&*self.shared.clock, answers));
        let done = restore::restore(&target, &call.at, disk, &call.to, call.discard_later, &now, answers);
        target.unless_gone(done)
    }
}

impl Manager {
    /// Checks that a restore of this target does not write to what belongs to the store or is another disk of a target.
    ///
    /// # Errors
    /// When it would.
    pub(super) fn check_destination(&self, target: &Target, call: &call::Restore) -> Result<()> {
        let call::RestoreTo::Path(path) = &call.to else { return Ok(()) };
        let catalog = target.log.catalog();
        let taken = self.taken()?;
        let is_meant = |disk: &&Disk| call.disk.as_ref().is_none_or(|only| *only == disk.name);
        for disk in catalog.disks.iter().filter(is_meant) {
            let of = Some((target.name.as_str(), disk.name.as_str()));
            for path in restore::paths_of(path, &disk.name) {
                taken.check_free(&path, of)?;
            }
        }
        Ok(())
    }
}

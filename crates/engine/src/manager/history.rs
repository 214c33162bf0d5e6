//! Moments: listing them, naming one, restoring one.

use super::Manager;
use crate::{
    api::{Items, MomentInfo, MomentMeant, Nothing, Restored, call},
    calls::{Handle, asked_at},
    error::Result,
    lifecycle::Request,
    outside, restore, timeline,
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
        if let call::RestoreTo::Path(path) = &call.to {
            outside::check_free(self.paths(), &self.targets(), path, Some(&call.name))?;
        }
        let (disk, now) = (call.disk.as_deref(), asked_at(&*self.shared.clock, answers));
        let done = restore::restore(&target, &call.at, disk, &call.to, call.discard_later, &now, answers);
        target.unless_gone(done)
    }
}

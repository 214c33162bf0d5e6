//! Branches: listing, promoting and dropping them, and `undo`.

use bygone_model::BranchId;

use super::Manager;
use crate::{
    api::{BranchInfo, Items, MomentInfo, Nothing, call},
    calls::Handle,
    error::{Result, Usage},
    history,
    lifecycle::{Change, Request},
    restore,
    target::Target,
    timeline,
};

impl Handle<call::BranchList> for Manager {
    fn handle(&self, call: &call::BranchList, answers: &mut dyn Items<BranchInfo>) -> Result<()> {
        let target = self.target(&call.name)?;
        for branch in target.unless_gone(branches(&target, call.dropped))? {
            if !answers.item(branch) {
                break;
            }
        }
        Ok(())
    }
}

impl Handle<call::BranchPromote> for Manager {
    fn handle(&self, call: &call::BranchPromote, answers: &mut dyn Items<Nothing>) -> Result<MomentInfo> {
        let target = self.target(&call.name)?;
        let op = target.begin_change(Change::Promoting, Request::Promote)?;
        let branch = which_branch(&target, call.branch.as_deref())?;
        restore::promote(&op, branch, answers)
    }
}

impl Handle<call::BranchDrop> for Manager {
    fn handle(&self, call: &call::BranchDrop, answers: &mut dyn Items<Nothing>) -> Result<MomentInfo> {
        let target = self.target(&call.name)?;
        let op = target.begin_change(Change::Dropping, Request::Branches)?;
        let branch = history::branch_named(&target.log.catalog(), &call.branch)?;
        restore::drop_branch(&op, branch, answers)
    }
}

impl Handle<call::Undo> for Manager {
    fn handle(&self, call: &call::Undo, answers: &mut dyn Items<Nothing>) -> Result<MomentInfo> {
        let op = self.target(&call.name)?.begin_change(Change::Undoing, Request::Branches)?;
        restore::undo(&op, answers)
    }
}

fn branches(target: &Target, with_dropped: bool) -> Result<Vec<BranchInfo>> {
    let catalog = target.log.catalog();
    let running = target.running_branch();
    let mut out = Vec::new();
    for branch in catalog.branches.iter().filter(|b| with_dropped || b.dropped.is_none()) {
        let from_time = branch.parent.map(|(_, seq)| target.log.time_of(seq)).transpose()?;
        let dropped = branch.dropped.map(|seq| target.log.time_of(seq)).transpose()?;
        out.push(BranchInfo {
            id: branch.id.0,
            name: branch.name.clone(),
            present: branch.id == catalog.head,
            parent: branch.parent.and_then(|(id, _)| catalog.branch(id)).map(|b| b.name.clone()),
            parent_id: branch.parent.map(|(id, _)| id.0),
            from_seq: branch.parent.map(|(_, seq)| seq.0),
            from_time: from_time.map(timeline::rfc3339),
            made: timeline::rfc3339(branch.made_at),
            dropped: dropped.map(timeline::rfc3339),
            running: running == Some(branch.id),
        });
    }
    Ok(out)
}

pub(super) fn which_branch(target: &Target, named: Option<&str>) -> Result<BranchId> {
    let catalog = target.log.catalog();
    if let Some(name) = named {
        return Ok(history::branch_named(&catalog, name)?);
    }
    let others: Vec<_> =
        catalog.branches.iter().filter(|b| b.dropped.is_none() && b.id != catalog.head).collect();
    match others.as_slice() {
        [only] => Ok(only.id),
        [] => Err(Usage::NoOtherBranch.into()),
        many => Err(Usage::WhichBranch(many.iter().map(|b| b.name.clone()).collect()).into()),
    }
}

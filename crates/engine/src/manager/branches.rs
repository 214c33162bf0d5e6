//! Lines of history: listing them, promoting and dropping one.

use bygone_model::{Event, Kind, Moment};

use super::Manager;
use crate::{
    api::{BranchInfo, Items, MomentInfo, Nothing, call},
    calls::Handle,
    error::{Error, Result, Usage},
    restore,
    target::{Target, lock},
    timeline,
};

impl Handle<call::BranchList> for Manager {
    fn handle(&self, call: &call::BranchList, answers: &mut dyn Items<BranchInfo>) -> Result<()> {
        for branch in branches(&*self.target(&call.name)?)? {
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
        let branch = which_branch(&target, call.branch.as_deref())?;
        restore::promote(&target, &branch, false, answers)
    }
}

impl Handle<call::BranchDrop> for Manager {
    fn handle(&self, call: &call::BranchDrop, _: &mut dyn Items<Nothing>) -> Result<MomentInfo> {
        drop_branch(&*self.target(&call.name)?, &call.branch)
    }
}

fn branches(target: &Target) -> Result<Vec<BranchInfo>> {
    let catalog = target.log.catalog();
    let running = lock(&target.machine).as_ref().map(|m| m.branch);
    let mut out = Vec::new();
    for branch in catalog.branches.iter().filter(|b| b.dropped.is_none()) {
        let from_time = branch.parent.map(|(_, seq)| target.log.time_of(seq)).transpose()?;
        out.push(BranchInfo {
            name: branch.name.clone(),
            present: branch.id == catalog.head,
            parent: branch.parent.and_then(|(id, _)| catalog.branch(id)).map(|b| b.name.clone()),
            from_seq: branch.parent.map(|(_, seq)| seq.0),
            from_time: from_time.map(timeline::rfc3339),
            made: timeline::rfc3339(branch.made_at),
            running: running == Some(branch.id),
        });
    }
    Ok(out)
}

fn which_branch(target: &Target, named: Option<&str>) -> Result<String> {
    if let Some(name) = named {
        return Ok(name.to_owned());
    }
    let catalog = target.log.catalog();
    let others: Vec<String> = catalog
        .branches
        .iter()
        .filter(|b| b.dropped.is_none() && b.id != catalog.head)
        .map(|b| b.name.clone())
        .collect();
    match others.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Usage::NoOtherBranch.into()),
        many => Err(Usage::WhichBranch(many.to_vec()).into()),
    }
}

fn drop_branch(target: &Target, name: &str) -> Result<MomentInfo> {
    let catalog = target.log.catalog();
    let branch = catalog.branch_named(name)?.id;
    if lock(&target.machine).as_ref().is_some_and(|m| m.branch == branch) {
        return Err(Error::TargetRunning(target.name.clone()));
    }
    target.log.drop_branch(name)?;
    let event = Event::new(Kind::Branch, format!("branch {name} was given up")).with("dropped", name);
    let done = target.log.event(catalog.head, &event)?;
    target.log.flush()?;
    let present = catalog.branch(catalog.head).map_or("main", |b| &b.name).to_owned();
    Ok(timeline::info(Moment { seq: done.last, time: done.time, branch: present, event }))
}

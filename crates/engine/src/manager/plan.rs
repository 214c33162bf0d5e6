//! Plans: what a call would do, after its checks that need no disk. Nothing is done.

use std::sync::Arc;

use bygone_model::{BranchId, Kind, Seq};
use bygone_store::{EventOrder, EventQuery, catalog::Catalog};
use jiff::Zoned;

use super::{Manager, branches::which_branch, removed::check_unserved};
use crate::{
    api::{
        Items, LABELS_MAX, Loss, Nothing, POINTS_MAX, Planned,
        call::{self, Plannable},
    },
    calls::{Handle, asked_at},
    error::{Error, Result},
    history,
    lifecycle::Request,
    restore::{self, Outlook},
    target::Target,
    timeline,
};

impl Handle<call::Plan> for Manager {
    fn handle(&self, call: &call::Plan, answers: &mut dyn Items<Nothing>) -> Result<Planned> {
        let (Plannable::TargetRemove(call::TargetRemove { name, .. })
        | Plannable::BranchDrop(call::BranchDrop { name, .. })
        | Plannable::Restore(call::Restore { name, .. })
        | Plannable::BranchPromote(call::BranchPromote { name, .. })
        | Plannable::Undo(call::Undo { name })) = &call.of;
        let target = match (self.target(name), &call.of) {
            // It is put aside as it is.
            (Err(Error::Unavailable { why, .. }), Plannable::TargetRemove(remove))
                if !remove.delete_history =>
            {
                self.check_no_machine(name, Some(why.to_string()))?;
                return Ok(Planned { target: name.clone(), ..Planned::default() });
            }
            (target, _) => target?,
        };
        target.unless_gone(match &call.of {
            Plannable::TargetRemove(remove) => plan_remove(&target, remove),
            Plannable::BranchDrop(drop) => plan_drop(&target, drop),
            Plannable::Restore(restore) => self
                .check_destination(&target, restore)
                .and_then(|()| plan_restore(&target, restore, &asked_at(&*self.shared.clock, answers))),
            Plannable::BranchPromote(promote) => plan_promote(&target, promote),
            Plannable::Undo(_) => plan_undo(&target),
        })
    }
}

/// A plan that takes history from these branches.
fn of_branches(target: &Target, present: BranchId, loses: &[BranchId]) -> Planned {
    let expect = Some(target.expectation(present, loses));
    Planned { target: target.name.clone(), expect, ..Planned::default() }
}

/// The branches that are lost with their target.
pub(super) fn lost_with(catalog: &Catalog, delete_history: bool) -> Vec<BranchId> {
    let live = catalog.branches.iter().filter(|branch| delete_history && branch.dropped.is_none());
    live.map(|branch| branch.id).collect()
}

fn plan_remove(target: &Arc<Target>, call: &call::TargetRemove) -> Result<Planned> {
    target.check(Request::Remove)?;
    check_unserved(target)?;
    let catalog = target.log.catalog();
    let lost = lost_with(&catalog, call.delete_history);
    let mut planned = of_branches(target, catalog.head, &lost);
    if !call.delete_history {
        return Ok(planned);
    }
    for branch in lost {
        planned.loses.push(loss(target, &catalog, branch, Seq::ZERO)?);
    }
    planned.lost_disks = target.status()?.disks.into_iter().filter(|disk| disk.path.is_none()).collect();
    planned.freed_bytes = target.log.used_bytes()?;
    Ok(planned)
}

fn plan_drop(target: &Arc<Target>, call: &call::BranchDrop) -> Result<Planned> {
    target.check(Request::Branches)?;
    let branch = history::branch_named(&target.log.catalog(), &call.branch)?;
    planned(target, restore::plan_drop(target, branch)?)
}

fn plan_restore(target: &Arc<Target>, call: &call::Restore, now: &Zoned) -> Result<Planned> {
    let (moment, outlook, writes) = restore::plan_restore(target, call, now)?;
    let planned = match outlook {
        Some(outlook) => planned(target, outlook)?,
        None => of_branches(target, target.present(), &[]),
    };
    Ok(Planned { moment: Some(moment), writes, ..planned })
}

fn plan_promote(target: &Arc<Target>, call: &call::BranchPromote) -> Result<Planned> {
    target.check(Request::Promote)?;
    let branch = which_branch(target, call.branch.as_deref())?;
    planned(target, restore::plan_promotion(target, branch)?)
}

fn plan_undo(target: &Arc<Target>) -> Result<Planned> {
    target.check(Request::Branches)?;
    planned(target, restore::plan_undo(target)?)
}

fn planned(target: &Target, outlook: Outlook) -> Result<Planned> {
    let Outlook { head, present, does, drops, fills } = outlook;
    let mut planned = of_branches(target, head, drops.map(|(branch, _)| branch).as_slice());
    if let Some((branch, after)) = drops {
        planned.loses.push(loss(target, &target.log.catalog(), branch, after)?);
    }
    Ok(Planned { does: Some(does), present, fills, ..planned })
}

/// What would be lost of a branch after `after`.
fn loss(target: &Target, catalog: &Catalog, branch: BranchId, after: Seq) -> Result<Loss> {
    let log = &target.log;
    let line = catalog.stretch_of(branch);
    let query = EventQuery { line: Some(&line), after: (after, Seq::MAX), ..EventQuery::default() };
    let newest = |query: &EventQuery<'_>, limit| {
        log.find_events(query, EventOrder::Newest, limit, &mut |_| true).map_err(Error::from)
    };
    let to = match newest(&query, 1)?.first() {
        _ if branch == catalog.head => log.head_seq(),
        Some(newest) => newest.place().seq,
        None => after,
    };
    let points = newest(&EventQuery { kinds: &[Kind::Point], ..query }, POINTS_MAX)?;
    let labels = points.iter().take(LABELS_MAX).rev().map(|point| point.event.label.clone()).collect();
    let after_time = (after > Seq::ZERO).then(|| log.time_of(after)).transpose()?;
    Ok(Loss {
        branch: history::name_for_people(catalog, branch),
        after_seq: after.0,
        after_time: after_time.map(timeline::rfc3339),
        to_seq: to.0,
        to_time: timeline::rfc3339(log.time_of(to)?),
        labels,
        points: points.len() as u64,
    })
}

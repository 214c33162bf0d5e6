//! Plans: what a call would do, after its checks that need no disk. Nothing is done.

use std::sync::Arc;

use bygone_model::{BranchId, Kind, Seq};
use bygone_store::{EventOrder, EventQuery, catalog::Catalog};
use jiff::Zoned;

use super::{Manager, branches::which_branch};
use crate::{
    api::{
        Items, LABELS_MAX, Loss, Nothing, POINTS_MAX, Planned,
        call::{self, Plannable, RestoreTo},
    },
    calls::{Handle, asked_at},
    error::{Error, Result},
    history,
    lifecycle::Request,
    restore::{self, Outlook, check_moment, check_unused},
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
        let target = self.target(name)?;
        target.unless_gone(match &call.of {
            Plannable::TargetRemove(remove) => plan_remove(&target, remove),
            Plannable::BranchDrop(drop) => plan_drop(&target, drop),
            Plannable::Restore(restore) => {
                plan_restore(&target, restore, &asked_at(&*self.shared.clock, answers))
            }
            Plannable::BranchPromote(promote) => plan_promote(&target, promote),
            Plannable::Undo(_) => plan_undo(&target),
        })
    }
}

/// A plan that takes history from these branches.
fn without_loss(target: &Target, loses: &[BranchId]) -> Planned {
    Planned {
        target: target.name.clone(),
        expect: target.expectation(loses),
        moment: None,
        does: None,
        present: None,
        fills: Vec::new(),
        loses: Vec::new(),
        lost_disks: Vec::new(),
        freed_bytes: 0,
    }
}

/// The branches that are lost with their target.
pub(super) fn lost_with(catalog: &Catalog, delete_history: bool) -> Vec<BranchId> {
    let live = catalog.branches.iter().filter(|branch| delete_history && branch.dropped.is_none());
    live.map(|branch| branch.id).collect()
}

fn plan_remove(target: &Arc<Target>, call: &call::TargetRemove) -> Result<Planned> {
    target.check(Request::Remove)?;
    let catalog = target.log.catalog();
    let lost = lost_with(&catalog, call.delete_history);
    let mut planned = without_loss(target, &lost);
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
    let catalog = target.log.catalog();
    let branch = history::branch_named(&catalog, &call.branch)?;
    target.check(Request::Branches)?;
    if branch == catalog.head {
        return Err(bygone_store::Error::BranchInUse(call.branch.clone()).into());
    }
    check_unused(target, branch)?;
    let loses = vec![loss(target, &catalog, branch, start(&catalog, branch))?];
    Ok(Planned { loses, ..without_loss(target, &[branch]) })
}

fn plan_restore(target: &Arc<Target>, call: &call::Restore, now: &Zoned) -> Result<Planned> {
    let found = target.moment(&call.at, now)?;
    let catalog = target.log.catalog();
    let drop = (call.to == RestoreTo::InPlace && call.discard_later).then_some(catalog.head);
    let planned = without_loss(target, drop.as_slice());
    let mut planned = Planned { moment: Some(found.info(&catalog)), ..planned };
    if call.to != RestoreTo::InPlace {
        return Ok(planned);
    }
    target.check(Request::Move)?;
    check_moment(target, found.place)?;
    planned.fills = restore::filled_by_restore(target, found.place);
    if call.discard_later {
        check_unused(target, catalog.head)?;
        let of_present = found.place.branch == catalog.head;
        let after = if of_present { found.place.seq } else { start(&catalog, catalog.head) };
        planned.loses.push(loss(target, &catalog, catalog.head, after)?);
    }
    Ok(planned)
}

fn plan_promote(target: &Arc<Target>, call: &call::BranchPromote) -> Result<Planned> {
    target.check(Request::Branches)?;
    let branch = which_branch(target, call.branch.as_deref())?;
    Ok(planned(target, restore::plan_promotion(target, branch)?))
}

fn plan_undo(target: &Arc<Target>) -> Result<Planned> {
    target.check(Request::Branches)?;
    Ok(planned(target, restore::plan_undo(target)?))
}

fn planned(target: &Target, outlook: Outlook) -> Planned {
    let catalog = target.log.catalog();
    let present = (outlook.head != catalog.head).then(|| history::name_for_people(&catalog, outlook.head));
    let planned = without_loss(target, outlook.drops.as_slice());
    Planned { does: Some(outlook.does), present, fills: outlook.fills, ..planned }
}

/// The seq at which a branch starts, on its parent.
fn start(catalog: &Catalog, branch: BranchId) -> Seq {
    catalog.branch(branch).and_then(|b| b.parent).map_or(Seq::ZERO, |(_, seq)| seq)
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

//! Acts: moving the present, dropping a branch, and undoing the last act.
//!
//! Invariants: all obstacles are checked, and the disks locked, first; then the act is one record, so it is atomic;
//! then disks outside the store are filled. A failure after the record is reported together with what was done.

use std::sync::Arc;

use bygone_model::{BranchId, Event, Kind, Place, Seq};
use bygone_store::catalog::{Act, ActKind, Catalog, Doubt, Keeping, Shows};

use super::outside::{self, Prepared};
use crate::{
    api::{Answers, MomentInfo, Progress},
    error::{Error, Result},
    lifecycle::{self, Request},
    target::{Op, Target, Use},
    timeline,
};

/// The next present.
#[derive(Clone, Debug)]
pub(super) enum Next {
    /// An existing branch.
    Branch(BranchId),
    /// A new branch of this name, which starts at a moment of another one.
    New { name: String, parent: BranchId, at: Seq },
}

impl Next {
    /// The numbers of its disks.
    fn disks(&self, catalog: &Catalog) -> Vec<u32> {
        let (branch, at) = match self {
            Next::Branch(id) => (*id, Seq::MAX),
            Next::New { parent, at, .. } => (*parent, *at),
        };
        catalog.volumes_of(branch, at).map(|volume| volume.disk).collect()
    }
}

/// An act, with all that it does.
pub(super) struct Move {
    act: Act,
    next: Next,
    /// The event that describes it.
    event: Event,
}

impl Move {
    /// It drops branches or brings them back, and leaves the present and its disks alone.
    fn stays(&self, catalog: &Catalog) -> bool {
        matches!(self.act.kind, ActKind::Drop | ActKind::Undo) && self.act.head == catalog.head
    }
}

/// Makes a branch the present. Disks outside the store are filled with it: at once if no machine runs, otherwise in the
/// background.
///
/// # Errors
/// When there is an obstacle, or the caller expected something else; then nothing has changed. Or [`Error::Partly`].
pub(crate) fn promote(op: &Op, branch: BranchId, answers: &mut dyn Answers) -> Result<MomentInfo> {
    let catalog = op.target().log.catalog();
    if catalog.is_in_doubt() {
        return choose(op, branch, answers);
    }
    carry_out(op, promotion(&catalog, branch), answers)
}

/// Makes a branch the present as a person chose it, after records were lost that may have changed the present. Disks
/// outside the store that do not show it are filled with it.
///
/// # Errors
/// As [`promote`].
fn choose(op: &Op, branch: BranchId, answers: &mut dyn Answers) -> Result<MomentInfo> {
    let target = op.target();
    let catalog = target.log.catalog();
    let change = promotion(&catalog, branch);
    target.check_expected(answers.caller().expect.as_ref(), &[])?;
    op.allows(request(target, &change.next))?;
    check(target, &catalog, &change)?;
    let lost = |doubts: &[Doubt]| Some((doubts.first()?.first.0, doubts.last()?.last.0));
    let (first, last) = lost(&catalog.doubts).unwrap_or_default();
    target.log.choose_branch(branch)?;
    let name = name_of(&catalog, branch);
    let label = format!("branch {name} was chosen as the present; records {first} to {last} are lost");
    let event = Event::new(Kind::Branch, label.clone())
        .with("promoted", name)
        .with("lost_from_seq", first)
        .with("lost_to_seq", last);
    let moment = note(target, branch, event)?;
    let running = target.running_branch();
    let filled = prepare(target, &change.next, None, answers)
        .and_then(|prepared| fill(target, branch, prepared, running.is_some(), answers));
    filled.map_err(|why| partly(&label, why))?;
    Ok(moment)
}

fn promotion(catalog: &Catalog, branch: BranchId) -> Move {
    let name = name_of(catalog, branch);
    let act = Act { kind: ActKind::Promote, make: None, revive: None, head: branch, drop: None };
    let event = Event::new(Kind::Branch, format!("branch {name} is the present now")).with("promoted", name);
    Move { act, next: Next::Branch(branch), event }
}

/// The effect that an act would have.
#[derive(Clone, Debug)]
pub(crate) struct Outlook {
    /// The present that it was planned for.
    pub head: BranchId,
    /// The name of the present afterwards, unless it stays.
    pub present: Option<String>,
    /// The label that its event would have.
    pub does: String,
    /// The branch that would be dropped, and the last moment of it that would be left.
    pub drops: Option<(BranchId, Seq)>,
    /// The names of the disks outside the store that would be filled.
    pub fills: Vec<String>,
}

/// The effect of [`promote`], after the checks that need no disk. Changes nothing.
///
/// # Errors
/// As [`promote`].
pub(crate) fn plan_promotion(target: &Target, branch: BranchId) -> Result<Outlook> {
    let catalog = target.log.catalog();
    plan(target, &catalog, &promotion(&catalog, branch))
}

/// The effect of [`drop_branch`], after all checks. Changes nothing.
///
/// # Errors
/// As [`drop_branch`].
pub(crate) fn plan_drop(target: &Target, branch: BranchId) -> Result<Outlook> {
    let catalog = target.log.catalog();
    plan(target, &catalog, &dropping(&catalog, branch))
}

/// The effect of [`undo`], after the checks that need no disk. Changes nothing.
///
/// # Errors
/// As [`undo`].
pub(crate) fn plan_undo(target: &Target) -> Result<Outlook> {
    let catalog = target.log.catalog();
    plan(target, &catalog, &taking_back(target, &catalog)?)
}

/// The effect of [`restore_in_place`], after the checks that need no disk. Changes nothing.
///
/// # Errors
/// As [`restore_in_place`].
pub(super) fn plan_restore(target: &Target, start: Place, discard_later: bool) -> Result<Outlook> {
    let catalog = target.log.catalog();
    plan(target, &catalog, &restoration(target, &catalog, start, discard_later)?)
}

fn plan(target: &Target, catalog: &Catalog, change: &Move) -> Result<Outlook> {
    if !change.stays(catalog) {
        let state = target.machine_state();
        target.decided(lifecycle::decide(None, state, request(target, &change.next)))?;
    }
    check(target, catalog, change)?;
    let name = |disk: u32| catalog.disks.get(disk as usize).map(|disk| disk.name.clone());
    let filled = if change.stays(catalog) { Vec::new() } else { to_fill(catalog, &change.next) };
    let drops = change.act.drop.map(|dropped| {
        let start = catalog.branch(dropped).and_then(|branch| branch.parent).map_or(Seq::ZERO, |(_, at)| at);
        match change.next {
            // What the new branch begins with is not lost.
            Next::New { parent, at, .. } if parent == dropped => (dropped, at),
            _ => (dropped, start),
        }
    });
    Ok(Outlook {
        head: catalog.head,
        present: match &change.next {
            Next::New { name, .. } => Some(name.clone()),
            Next::Branch(id) => (*id != catalog.head).then(|| name_of(catalog, *id)),
        },
        does: change.event.label.clone(),
        drops,
        fills: filled.into_iter().filter_map(name).collect(),
    })
}

/// Restores a moment in place: a new branch that starts there becomes the present. With `discard_later` the previous
/// present is dropped. Returns the name of the new branch.
///
/// # Errors
/// As [`promote`].
pub(super) fn restore_in_place(
    op: &Op,
    start: Place,
    discard_later: bool,
    answers: &mut dyn Answers,
) -> Result<String> {
    let target = op.target();
    let change = restoration(target, &target.log.catalog(), start, discard_later)?;
    let name = match &change.next {
        Next::New { name, .. } => name.clone(),
        Next::Branch(branch) => name_of(&target.log.catalog(), *branch),
    };
    carry_out(op, change, answers)?;
    Ok(name)
}

fn restoration(target: &Target, catalog: &Catalog, start: Place, discard_later: bool) -> Result<Move> {
    let name = super::free_name(catalog, "restored");
    let drop = discard_later.then_some(catalog.head);
    let act = Act { kind: ActKind::Restore, make: None, revive: None, head: catalog.head, drop };
    let when = timeline::local(target.log.time_of(start.seq)?);
    let label = format!("restored as of {when}, on branch {name}");
    let mut event = Event::new(Kind::Branch, label)
        .with("promoted", name.clone())
        .with("made", name.clone())
        .with("from_seq", start.seq.0);
    if drop.is_some() {
        event = event.with("discarded", name_of(catalog, catalog.head));
    }
    let next = Next::New { name, parent: start.branch, at: start.seq };
    Ok(Move { act, next, event })
}

/// Drops a branch that is not in use.
///
/// # Errors
/// When it is the present or in use, or the caller expected something else; then nothing has changed. Or
/// [`Error::Partly`].
pub(crate) fn drop_branch(op: &Op, branch: BranchId, answers: &mut dyn Answers) -> Result<MomentInfo> {
    carry_out(op, dropping(&op.target().log.catalog(), branch), answers)
}

fn dropping(catalog: &Catalog, branch: BranchId) -> Move {
    let name = name_of(catalog, branch);
    let head = catalog.head;
    let act = Act { kind: ActKind::Drop, make: None, revive: None, head, drop: Some(branch) };
    let event = Event::new(Kind::Branch, format!("branch {name} was dropped")).with("dropped", name);
    Move { act, next: Next::Branch(head), event }
}

/// Undoes the last restore, promotion, drop or undo.
///
/// # Errors
/// When there is none; otherwise as [`promote`].
pub(crate) fn undo(op: &Op, answers: &mut dyn Answers) -> Result<MomentInfo> {
    let target = op.target();
    carry_out(op, taking_back(target, &target.log.catalog())?, answers)
}

/// The act that undoes the last one.
fn taking_back(target: &Target, catalog: &Catalog) -> Result<Move> {
    let Some((act, last)) = catalog.undo() else {
        return Err(Error::NothingToUndo(target.name.clone()));
    };
    let what = match last.kind {
        ActKind::Restore => "restore",
        ActKind::Promote => "promotion",
        ActKind::Drop => "drop",
        ActKind::Undo => "undo",
    };
    let name = |branch: Option<BranchId>| branch.map_or_else(String::new, |branch| name_of(catalog, branch));
    let which = match last.kind {
        ActKind::Restore => format!("the restore on branch {}", name(Some(last.head))),
        ActKind::Promote => format!("the promotion of branch {}", name(Some(last.head))),
        ActKind::Drop => format!("the drop of branch {}", name(last.dropped)),
        ActKind::Undo => "the last undo".to_owned(),
    };
    let mut words = vec![format!("{which} was taken back")];
    let mut event = Event::new(Kind::Branch, String::new()).with("undone", last.seq.0).with("was", what);
    if act.head != catalog.head {
        let name = act.revive.as_ref().filter(|r| r.id == act.head).map(|r| r.name.clone());
        let name = name.unwrap_or_else(|| name_of(catalog, act.head));
        words.push(format!("branch {name} is the present again"));
        event = event.with("promoted", name);
    }
    if let Some(revived) = &act.revive {
        words.push(format!("branch {} is back", revived.name));
        event = event.with("revived", revived.name.clone());
    }
    if let Some(dropped) = act.drop {
        let name = name_of(catalog, dropped);
        words.push(format!("branch {name} is dropped again"));
        event = event.with("dropped", name);
    }
    event.label = words.join("; ");
    let next = Next::Branch(act.head);
    Ok(Move { act, next, event })
}

fn name_of(catalog: &Catalog, branch: BranchId) -> String {
    catalog.branch(branch).map_or("?", |b| &b.name).to_owned()
}

/// Checks that neither the machine nor a client uses a branch.
///
/// # Errors
/// When one does, or a machine that was left running may use it.
pub(crate) fn check_unused(target: &Target, branch: BranchId) -> Result<()> {
    let used = [Use::Machine, Use::Guest, Use::Client].iter().any(|used| target.is_used(branch, *used));
    if used || target.running_branch() == Some(branch) {
        return Err(Error::BranchUsed(name_of(&target.log.catalog(), branch)));
    }
    target.check_branch_known()
}

/// The error for a failure after `done`, which stays done.
fn partly(done: &str, why: Error) -> Error {
    Error::Partly { done: done.to_owned(), why: Box::new(why) }
}

/// Writes the event of an act, durably.
fn note(target: &Target, branch: BranchId, event: Event) -> Result<MomentInfo> {
    let label = event.label.clone();
    timeline::write(&target.log, branch, event).map_err(|why| partly(&label, why))
}

fn carry_out(op: &Op, change: Move, answers: &mut dyn Answers) -> Result<MomentInfo> {
    let target = op.target();
    let catalog = target.log.catalog();
    target.check_expected(answers.caller().expect.as_ref(), change.act.drop.as_slice())?;
    if change.stays(&catalog) {
        check(target, &catalog, &change)?;
        target.log.act(change.act, None)?;
        return note(target, catalog.head, change.event);
    }
    op.allows(request(target, &change.next))?;
    check(target, &catalog, &change)?;
    let Move { act, next, event } = change;
    let running = target.running_branch();
    let moves = !matches!(&next, Next::Branch(id) if *id == catalog.head);
    // Undoing an undo may drop a branch again, but does not give up what was changed on the disks since.
    let given_up = act.drop.filter(|_| act.kind == ActKind::Restore);
    let prepared = prepare(target, &next, given_up, answers)?;
    let make = match &next {
        Next::New { name, parent, at } => Some((name.as_str(), *parent, *at)),
        Next::Branch(_) => None,
    };
    // Without a change there is nothing to record: `undo` would have nothing to undo.
    let head = if moves || act.drop.is_some() || act.revive.is_some() {
        target.log.act(act, make)?.1
    } else {
        catalog.head
    };
    let label = event.label.clone();
    let moment = note(target, head, event)?;
    fill(target, head, prepared, running.is_some(), answers).map_err(|why| partly(&label, why))?;
    Ok(moment)
}

/// The request of the contract that moving the present amounts to.
fn request(target: &Target, next: &Next) -> Request {
    let running = target.running_branch();
    let stays = matches!(next, Next::Branch(id) if Some(*id) == running);
    if stays { Request::MoveToRunning } else { Request::Move }
}

/// Checks all obstacles to an act, except for the machine and the disks.
fn check(target: &Target, catalog: &Catalog, change: &Move) -> Result<()> {
    let Move { act, next, .. } = change;
    if matches!(next, Next::Branch(_)) {
        catalog.check_act(act)?;
    }
    let moves = !matches!(next, Next::Branch(id) if *id == catalog.head);
    if moves && target.is_used(catalog.head, Use::Client) {
        // A client that has the present open would go on writing to the previous one.
        return Err(Error::Served(target.name.clone()));
    }
    if let Some(dropped) = act.drop {
        check_unused(target, dropped)?;
    }
    if let Next::Branch(id) = next
        && !change.stays(catalog)
    {
        for volume in catalog.volumes_of(*id, Seq::MAX) {
            if catalog.shows.get(&volume.disk) != Some(&Shows::Volume(volume.id)) {
                check_end(target, *id, volume.id)?;
            }
        }
    }
    Ok(())
}

/// Checks that all of a volume's current content is known, unless the volume is a tap that is still being read.
fn check_end(target: &Target, branch: BranchId, volume: bygone_model::VolumeId) -> Result<()> {
    let catalog = target.log.catalog();
    if branch == catalog.head && !catalog.shows.contains_key(&catalog.volume(volume)?.disk) {
        return Ok(());
    }
    target.check_exact(volume, target.log.head_seq())
}

/// The disks outside the store that do not show the next present.
fn to_fill(catalog: &Catalog, next: &Next) -> Vec<u32> {
    let is_shown = |disk: u32| match (catalog.shows.get(&disk), next) {
        (Some(Shows::Volume(shown)), Next::Branch(id)) => {
            catalog.volume(*shown).is_ok_and(|volume| volume.branch == *id)
        }
        _ => false,
    };
    let is_tapped = |disk: u32| catalog.disks.get(disk as usize).is_some_and(|d| d.keeping == Keeping::Tap);
    next.disks(catalog).into_iter().filter(|disk| is_tapped(*disk) && !is_shown(*disk)).collect()
}

/// Prepares the disks outside the store that do not show the next present.
fn prepare(
    target: &Arc<Target>,
    next: &Next,
    given_up: Option<BranchId>,
    answers: &mut dyn Answers,
) -> Result<Vec<Prepared>> {
    let catalog = target.log.catalog();
    let mut prepared = Vec::new();
    for disk in to_fill(&catalog, next) {
        let mut waiting: &mut dyn Answers = &mut *answers;
        prepared.push(outside::prepare(target, disk, given_up, &mut waiting)?);
    }
    Ok(prepared)
}

fn fill(
    target: &Arc<Target>,
    head: BranchId,
    prepared: Vec<Prepared>,
    runs: bool,
    answers: &mut dyn Answers,
) -> Result<()> {
    let catalog = target.log.catalog();
    let mut failed = None;
    for one in prepared {
        let Some(volume) = catalog.volumes_of(head, Seq::MAX).find(|v| v.disk == one.disk()) else {
            continue;
        };
        let volume = volume.id;
        if runs {
            target.fill_prepared(volume, one);
            continue;
        }
        let disk = catalog.disk_of(volume)?.name.clone();
        let doing = format!("filling {disk}");
        let mut is_wanted = true;
        let filled = outside::fill(target, volume, &one, &mut |done_bytes, total_bytes| {
            let progress = Progress { doing: doing.clone(), done_bytes, total_bytes };
            is_wanted = answers.progress(progress) && answers.wanted() && !target.is_closing();
            is_wanted
        });
        match filled {
            // Nor are the others. All are filled at their next use.
            Ok(false) if !is_wanted => return Err(failed.unwrap_or(Error::NotFilled { disk })),
            // Filled, or by another thread.
            Ok(_) => {}
            // The other disks are still filled.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(()), Err)
}

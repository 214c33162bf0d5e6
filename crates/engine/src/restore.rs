//! Restores moments, to a file or device or in place, and moves the present between branches.

mod branches;
mod copy;
mod outside;

use std::{path::PathBuf, sync::Arc};

use bygone_model::{BranchId, Event, Kind, Place};
use bygone_store::catalog::Catalog;

use crate::{
    api::{
        Answers, MomentInfo, Restored,
        call::{self, RestoreTo},
    },
    error::{Error, Result, Usage},
    history::Found,
    lifecycle::{Change, Request},
    target::Target,
    timeline,
};

pub(crate) use self::{
    branches::{Outlook, check_unused, drop_branch, plan_drop, plan_promotion, plan_undo, promote, undo},
    copy::paths_of,
    outside::{Prepared, fill, fill_unasked},
};

/// Disks are copied in pieces of this size.
const PIECE_BYTES: u64 = 4 << 20;

/// A restore, after the checks that need no disk.
pub(crate) struct Checked {
    found: Found,
    /// What is copied, if it is not in place.
    copied: Option<copy::Copies>,
}

/// Checks a restore, for itself and for its plan.
///
/// # Errors
/// When the moment does not exist or is not exact, or the destination does not fit what is to be restored.
fn check(
    target: &Target,
    at: &str,
    only: Option<&str>,
    to: &RestoreTo,
    discard_later: bool,
    now: &jiff::Zoned,
) -> Result<Checked> {
    let found = target.moment(at, now)?;
    let copied = match to {
        RestoreTo::Path(_) if discard_later => return Err(Usage::DiscardInPlaceOnly.into()),
        RestoreTo::Path(path) => Some(copy::choose(target, &target.volumes_at(found.place)?, only, path)?),
        RestoreTo::InPlace if only.is_some() => return Err(Usage::DisksTogether.into()),
        RestoreTo::InPlace => {
            check_moment(target, found.place)?;
            None
        }
    };
    Ok(Checked { found, copied })
}

/// Restores a moment of a target.
///
/// # Errors
/// As the checks say, or when the destination cannot be written, or the target runs and is to be restored in place.
pub(crate) fn restore(
    target: &Arc<Target>,
    at: &str,
    only: Option<&str>,
    to: &RestoreTo,
    discard_later: bool,
    now: &jiff::Zoned,
    answers: &mut dyn Answers,
) -> Result<Restored> {
    // Checked again with the turn held; here, so that nothing else is said of another target.
    let drop = discard_later.then(|| target.present());
    target.check_expected(answers.caller().expect.as_ref(), drop.as_slice())?;
    let Checked { found, copied } = check(target, at, only, to, discard_later, now)?;
    let moment = found.info(&target.log.catalog());
    if let Some(copied) = copied {
        target.say_unseen(found.place, answers);
        let disks = copy::copy_out(target, found.place.seq, &copied, answers)?;
        return Ok(Restored { moment, disks, branch: None });
    }
    let op = target.begin_change(Change::Restoring, Request::Move)?;
    let name = branches::restore_in_place(&op, found.place, discard_later, answers)?;
    Ok(Restored { moment, disks: Vec::new(), branch: Some(name) })
}

/// What a restore would do: the moment, and the act or the files and devices that would be written. Changes nothing.
///
/// # Errors
/// As [`restore`].
pub(crate) fn plan_restore(
    target: &Arc<Target>,
    call: &call::Restore,
    now: &jiff::Zoned,
) -> Result<(MomentInfo, Option<Outlook>, Vec<PathBuf>)> {
    let checked = check(target, &call.at, call.disk.as_deref(), &call.to, call.discard_later, now)?;
    let moment = checked.found.info(&target.log.catalog());
    if let Some(copied) = checked.copied {
        target.check(Request::Note)?;
        return Ok((moment, None, copied.disks.into_iter().map(|disk| disk.to).collect()));
    }
    target.check(Request::Move)?;
    let outlook = branches::plan_restore(target, checked.found.place, call.discard_later)?;
    Ok((moment, Some(outlook), Vec::new()))
}

/// Checks that the target had all of its disks at a moment, with known content.
///
/// # Errors
/// When a disk was missing, or its content is not known exactly.
pub(crate) fn check_moment(target: &Target, place: Place) -> Result<()> {
    if target.volumes_at(place)?.len() < target.log.catalog().disks.len() {
        return Err(Error::BeforeDisks { name: target.name.clone() });
    }
    Ok(())
}

/// A name that no branch ever had.
fn free_name(catalog: &Catalog, prefix: &str) -> String {
    (1..)
        .map(|n: u32| format!("{prefix}-{n}"))
        .find(|name| catalog.branches.iter().all(|b| b.name != *name))
        .unwrap_or_default()
}

/// Makes a branch that starts at a moment. Without a name it gets a new one, from `prefix`. [`note_branch`] writes its
/// event.
///
/// # Errors
/// When the name is invalid or taken, or the moment does not exist.
pub(crate) fn new_branch(
    target: &Target,
    place: Place,
    name: Option<&str>,
    prefix: &str,
) -> Result<BranchId> {
    let catalog = target.log.catalog();
    let name = match name {
        Some(name) => {
            crate::config::check_name(name)?;
            name.to_owned()
        }
        None => free_name(&catalog, prefix),
    };
    Ok(target.log.add_branch(&name, place.branch, place.seq)?)
}

/// Writes the event that a branch was made, durably.
///
/// # Errors
/// When the log cannot be written.
pub(crate) fn note_branch(target: &Target, branch: BranchId) -> Result<()> {
    let catalog = target.log.catalog();
    let Some((branch, (_, at))) = catalog.branch(branch).and_then(|b| Some((b, b.parent?))) else {
        return Ok(());
    };
    let label = format!("branch {} starts at {}", branch.name, timeline::local(target.log.time_of(at)?));
    let event = Event::new(Kind::Branch, label).with("from_seq", at.0).with("made", branch.name.clone());
    timeline::write(&target.log, branch.id, event).map(drop)
}

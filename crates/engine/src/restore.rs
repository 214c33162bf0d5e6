//! Restores moments, to a file or device or in place, and moves the present between branches.

mod branches;
mod copy;
mod outside;

use std::sync::Arc;

use bygone_model::{BranchId, Event, Kind, Place};
use bygone_store::catalog::Catalog;

use crate::{
    api::{Answers, Restored, call::RestoreTo},
    error::{Error, Result, Usage},
    lifecycle::{Change, Request},
    target::Target,
    timeline,
};

pub(crate) use self::{
    branches::{
        Outlook, check_unused, drop_branch, filled_by_restore, plan_promotion, plan_undo, promote, undo,
    },
    copy::paths_of,
    outside::{Prepared, fill, fill_unasked},
};

/// Disks are copied in pieces of this size.
const PIECE_BYTES: u64 = 4 << 20;

/// Restores a moment of a target.
///
/// # Errors
/// When the moment does not exist or is not exact, the destination cannot be written, or the target runs and is to be
/// restored in place.
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
    target.check_expected(answers.expected(), drop.as_slice())?;
    let found = target.moment(at, now)?;
    let moment = found.info(&target.log.catalog());
    match to {
        RestoreTo::Path(path) => {
            if discard_later {
                return Err(Usage::DiscardInPlaceOnly.into());
            }
            target.say_unseen(found.place, answers);
            let disks = copy::copy_out(
                target,
                &target.volumes_at(found.place)?,
                found.place.seq,
                only,
                path,
                answers,
            )?;
            Ok(Restored { moment, disks, branch: None })
        }
        RestoreTo::InPlace => {
            if only.is_some() {
                return Err(Usage::DisksTogether.into());
            }
            check_moment(target, found.place)?;
            let op = target.begin_change(Change::Restore, Request::Move)?;
            let name = branches::restore_in_place(&op, found.place, discard_later, answers)?;
            Ok(Restored { moment, disks: Vec::new(), branch: Some(name) })
        }
    }
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
    target.log.event(branch.id, &event)?;
    target.log.flush()?;
    Ok(())
}

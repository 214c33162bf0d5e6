//! The UEFI variables of a target's machine. They go with their target: it may not boot without them, and they are not
//! for another target of the same name.
//!
//! Invariant: they are in the folder of the target's machine, in the target's own folder, or aside under the id of its
//! log, and the next start of its machine finds them in each; those of whom that is not known are set aside
//! (`uefi-vars.fd.left`). So a manager may be killed at any time between.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    machine::make_dir,
    store_dir::StorePaths,
    target::log_id_in,
};

/// Their file, in the folder of a machine and in that of a target.
const UEFI_VARS: &str = "uefi-vars.fd";

/// Moves a file into a folder, if it exists; returns whether it does.
fn move_into(from: &Path, folder: &Path) -> Result<bool> {
    if !from.is_file() {
        return Ok(false);
    }
    let to = folder.join(UEFI_VARS);
    let moved = match fs::rename(from, &to) {
        // Under its name only once it is complete, and until then in its old place as well.
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
            let part = to.with_extension("fd.part");
            fs::copy(from, &part)
                .and_then(|_| fs::File::open(&part)?.sync_all())
                .and_then(|()| fs::rename(&part, &to))
                // A power cut leaves one of the two.
                .and_then(|()| fs::File::open(folder)?.sync_all())
                .and_then(|()| fs::remove_file(from))
        }
        moved => moved,
    };
    moved.map(|()| true).map_err(|e| Error::file("moving", from, e))
}

/// Moves those of a target that is about to be removed into its folder `dir`, before that is moved itself. If that
/// fails, they are set aside, where they are found again when the target is restored, and by no other target of its
/// name. Returns where they are and why, if they are not in its folder.
pub(crate) fn take_along(paths: &StorePaths, name: &str, dir: &Path) -> Option<(PathBuf, Error)> {
    let own = paths.run_dir(name).join(UEFI_VARS);
    // Without its folder, the target cannot be removed either.
    if !dir.is_dir() {
        return None;
    }
    let why = move_into(&own, dir).err()?;
    // Without a log, the target cannot be restored.
    let Some(aside) = log_id_in(dir).map(|log| paths.variables_aside(&log)) else { return Some((own, why)) };
    match fs::rename(&own, &aside) {
        Ok(()) => Some((aside, why)),
        Err(error) => {
            tracing::error!(file = %own.display(), %error, "it cannot be set aside");
            Some((own, why))
        }
    }
}

/// Moves those of a target, whose folder is `dir`, to where its machine finds them, if they are elsewhere. No machine
/// of the target may run.
///
/// # Errors
/// When they cannot be moved.
pub(crate) fn bring_back(paths: &StorePaths, name: &str, dir: &Path) -> Result<()> {
    let aside = log_id_in(dir).map(|log| paths.variables_aside(&log));
    let mut places = [Some(dir.join(UEFI_VARS)), aside].into_iter().flatten();
    let Some(own) = places.find(|place| place.is_file()) else { return Ok(()) };
    let run_dir = paths.run_dir(name);
    make_dir(&run_dir)?;
    set_strange_aside(&run_dir)?;
    move_into(&own, &run_dir)?;
    // Or the next start would find an older copy and take it for the newest.
    places.try_for_each(|older| set_aside(&older))
}

/// Sets those aside that nobody knows to be those of the target that is about to run in this folder.
///
/// # Errors
/// When they cannot be renamed.
pub(crate) fn set_strange_aside(run_dir: &Path) -> Result<()> {
    set_aside(&run_dir.join(UEFI_VARS))
}

fn set_aside(left: &Path) -> Result<()> {
    match fs::rename(left, left.with_extension("fd.left")) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("moving", left, e)),
        _ => Ok(()),
    }
}

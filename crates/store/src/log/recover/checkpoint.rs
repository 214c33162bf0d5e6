//! Finds the checkpoint to start from.

use std::io::IoSlice;

use bygone_model::Seq;

use super::super::holder::Holder;
use crate::{
    env::{Dir, read_exact_at},
    error::{Damage, Error, Place, Result, is_full},
    format::checkpoint::{self, Name},
    index::checkpoint::{Checkpoint, IndexFiles},
};

/// The newest checkpoint that can be opened and has everything that it was made upon. Those that cannot be used are
/// removed, because the log has all that they hold. So are those that were joined. One that is only unreadable now is
/// passed over; it is removed once there is a newer one that was not made upon it.
pub(super) fn newest_checkpoint(
    dir: &dyn Dir,
    index: &IndexFiles,
    holder: &Holder,
    damage: &mut Vec<(Place, Damage)>,
) -> Result<Option<Checkpoint>> {
    let mut removed = false;
    let mut remove = |name: Name| {
        holder.look(dir)?;
        removed = true;
        index.forget(name);
        let file = name.file_name();
        match dir.remove(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("removing", &file, e)),
            _ => Ok(()),
        }
    };
    let mut names = index.snapshot().names;
    names.sort_unstable_by_key(|name| (name.number, name.term, name.end));
    for name in never_finished(index, &names)? {
        remove(name)?;
        names.retain(|kept| *kept != name);
    }
    // Of those with the highest number some were never finished, and a power cut may have brought them back: that is
    // no damage.
    let last = names.last().map_or(0, |name| name.number);
    let mut found = None;
    let mut missing = None;
    while let Some(name) = names.pop() {
        let flaw = match index.open(name) {
            Ok(checkpoint) => match first_missing(&checkpoint.footer.upon, &names, name) {
                None => {
                    found = Some(checkpoint);
                    break;
                }
                // Reported once, whatever else was made upon it.
                Some(number) => {
                    missing = Some(number);
                    None
                }
            },
            Err(Error::Damaged { place, damage: what @ Damage::Unreadable }) => {
                damage.push((place, what));
                index.pass_over(name);
                continue;
            }
            Err(Error::Damaged { place, damage: what }) => (name.number < last).then_some((place, what)),
            Err(e) => return Err(e),
        };
        damage.extend(flaw);
        remove(name)?;
    }
    if let Some(number) = missing {
        let place = Place { file: format!("{}/{number:010}", checkpoint::folder()), offset: 0 };
        damage.push((place, Damage::Missing));
    }
    if let Some(found) = &found {
        // Everything but its trailer is durable. The incarnation that wrote the trailer may have ended before its
        // sync, and it has to be durable before the files that this checkpoint replaces are removed.
        let file = found.name.file_name();
        holder.look(dir)?;
        harden_trailer(dir, &file).map_err(|e| Error::io("making durable", &file, e))?;
    }
    // Joined ones, and others that it was not made upon, or that are behind another one of their number.
    let mut behind = found.as_ref().map(|found| found.name.number);
    for &name in names.iter().rev() {
        let is_upon = found.as_ref().is_some_and(|found| found.footer.is_upon(name.number));
        if !is_upon || behind == Some(name.number) {
            remove(name)?;
        }
        behind = Some(name.number);
    }
    if removed {
        // Durable before the numbers are used again: otherwise a power cut could bring these back beside their
        // successors.
        dir.sync(checkpoint::folder()).map_err(|e| Error::io("syncing", checkpoint::folder(), e))?;
    }
    Ok(found)
}

/// Those beside which another one of the same number was finished. Of several with one number at most one was: the others
/// were left by a power cut, or by a holder that was superseded while it wrote.
fn never_finished(index: &IndexFiles, names: &[Name]) -> Result<Vec<Name>> {
    let mut left = Vec::new();
    for several in names.chunk_by(|one, next| one.number == next.number).filter(|same| same.len() > 1) {
        let mut finished = None;
        for &name in several.iter().rev() {
            match index.open(name) {
                Ok(_) if finished.is_none() => finished = Some(name),
                Ok(_) | Err(Error::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if finished.is_some() {
            left.extend(several.iter().copied().filter(|name| Some(*name) != finished));
        }
    }
    Ok(left)
}

/// The first checkpoint of `upon` that is not among `names` (in order), ends before the one before it, or ends after
/// `made`.
fn first_missing(upon: &[(u32, u32)], names: &[Name], made: Name) -> Option<u32> {
    let mut numbers = upon.iter().flat_map(|range| range.0..=range.1);
    let mut reached = Seq::ZERO;
    numbers.find(|number| {
        let behind = names.partition_point(|name| name.number <= *number);
        let name = behind.checked_sub(1).map(|i| names[i]).filter(|name| name.number == *number);
        let sound = name.is_some_and(|name| name.end >= reached && name.end <= made.end);
        reached = name.map_or(reached, |name| name.end);
        !sound
    })
}

fn harden_trailer(dir: &dyn Dir, name: &str) -> std::io::Result<()> {
    let file = dir.open(name)?;
    let at = file.len_bytes()?.saturating_sub(checkpoint::FRAME_BYTES as u64);
    let mut trailer = [0; checkpoint::FRAME_BYTES];
    read_exact_at(&*file, &mut trailer, at)?;
    match file.write_at(&mut [IoSlice::new(&trailer)], at) {
        // As in `write_again`.
        Err(e) if !is_full(&e) => return Err(e),
        _ => {}
    }
    file.sync()?;
    dir.sync(checkpoint::folder())
}

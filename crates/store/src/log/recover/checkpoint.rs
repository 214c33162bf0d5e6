//! Which checkpoint counts.

use std::io::IoSlice;

use crate::{
    env::{Dir, read_exact_at},
    error::{Damage, Error, Place, Result, is_full},
    format::checkpoint::{self, Name},
    index::checkpoint::{Checkpoint, IndexFiles},
};

/// The newest checkpoint that can be opened. Those that cannot be used are removed: the log itself has all that they hold.
pub(super) fn newest_checkpoint(
    dir: &dyn Dir,
    index: &IndexFiles,
    damage: &mut Vec<(Place, Damage)>,
) -> Result<Option<Checkpoint>> {
    let mut removed = false;
    let mut remove = |name: Name| {
        removed = true;
        index.forget(name);
        let file = name.file_name();
        dir.remove(&file).map_err(|e| Error::io("removing", &file, e))
    };
    let names = index.names();
    // Of those with the last number some were never finished, and a power cut may have brought them back: no damage.
    let last = names.last().map_or(0, |name| name.number);
    let (older, mut newest): (Vec<Name>, Vec<Name>) = names.into_iter().partition(|name| name.number < last);
    newest.sort_unstable_by_key(|name| name.end);
    // Each builds upon the one before it, so behind a gap none is of use.
    let follows = |i: usize| older[i].number == i as u32 + 1 && (i == 0 || older[i].end > older[i - 1].end);
    let sound = (0..older.len()).position(|i| !follows(i)).unwrap_or(older.len());
    if sound < older.len() || sound as u32 + 1 < last {
        let place = Place { file: format!("{}/{:010}", checkpoint::folder(), sound + 1), offset: 0 };
        damage.push((place, Damage::Missing));
        for &name in newest.iter().rev().chain(older[sound..].iter().rev()) {
            remove(name)?;
        }
        newest.clear();
    }
    let mut found = None;
    for &name in newest.iter().rev().chain(older[..sound].iter().rev()) {
        if found.is_some() {
            if name.number < last {
                break;
            }
            remove(name)?;
            continue;
        }
        match index.open(name) {
            Ok(checkpoint) => found = Some(checkpoint),
            Err(Error::Damaged { place, damage: what }) => {
                if name.number < last {
                    damage.push((place, what));
                }
                remove(name)?;
            }
            Err(e) => return Err(e),
        }
    }
    if removed {
        // Durably, before their numbers are used again: else a power cut could bring them back beside those that follow.
        dir.sync(checkpoint::folder()).map_err(|e| Error::io("syncing", checkpoint::folder(), e))?;
    }
    if let Some(found) = &found {
        // All but its trailer is durable; that may have been written by a life that did not live to make it so.
        let file = found.name.file_name();
        harden_trailer(dir, &file).map_err(|e| Error::io("making durable", &file, e))?;
    }
    Ok(found)
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

//! Records that move from their segments to another container, under the same names.
//!
//! The manifest says in which container the records of a segment are; from then on the segment's own file is not looked at any more,
//! and may go. Who reads, the index and views that are open notice nothing: they hold names.

use std::{
    collections::{BTreeMap, btree_map::Entry as MapEntry},
    ops::RangeInclusive,
    sync::{Arc, PoisonError},
};

use super::Log;
use crate::{
    error::{Damage, Error, Place, Result},
    format::{
        manifest::{Entry, State},
        segment,
    },
    manifest::Known,
    place::{Containers, Moved, Records},
};

impl Log {
    /// From now on, and in all later lives, what these segments hold is read from the container of this number, which
    /// [`super::LogOptions::containers`] finds. The segments are sealed ones. When this returns it is durable, and their files are
    /// not needed any more.
    ///
    /// # Errors
    /// When there is no such container, it does not have the records of one of them, one is not sealed, or the log may or can not be
    /// written. Then nothing has changed; but if it could not be written the container has to stay, for a power cut may bring back what
    /// was written of it.
    pub fn move_records(&self, segments: RangeInclusive<u32>, container: u32) -> Result<()> {
        assert!(container > 0, "no number of a container");
        let _turn = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_poison()?;
        self.check_holder()?;
        let records = self.options.containers.open(container)?;
        let before =
            segments.clone().map(|number| self.movable(number, &*records)).collect::<Result<Vec<_>>>()?;
        let note = |container: Option<u32>| {
            let mut manifest = self.manifest();
            for entry in &before {
                manifest.note(Entry { container: container.unwrap_or(entry.container), ..*entry });
            }
        };
        note(Some(container));
        if let Err(error) = self.write_manifest() {
            note(None);
            return Err(error);
        }
        self.places.move_to(segments, &records);
        Ok(())
    }

    /// What is known of a segment whose records `to` has.
    fn movable(&self, number: u32, to: &dyn Records) -> Result<Entry> {
        let known = self.manifest().segment(number).copied().filter(|entry| entry.state == State::Lives);
        let known = match known {
            Some(known) => known,
            // It was sealed since the folder was last compared with the manifest.
            None => self
                .entry_of(number)?
                .ok_or_else(|| Error::damaged(&segment::file_name(number), 0, Damage::Missing))?,
        };
        let index = to.index(number)?;
        if (index.first_seq, index.last_seq()) != (known.first_seq, known.last_seq) {
            return Err(Error::damaged(&segment::file_name(number), 0, Damage::Misplaced));
        }
        Ok(known)
    }
}

/// The segments whose records are elsewhere, as the manifests say. What cannot be found is damage.
pub(super) fn moved(
    known: &Known,
    containers: &dyn Containers,
    damage: &mut Vec<(Place, Damage)>,
) -> Result<Moved> {
    let mut opened: BTreeMap<u32, Option<Arc<dyn Records>>> = BTreeMap::new();
    let mut moved = Moved::new();
    for entry in known.segments().filter(|entry| entry.container > 0 && entry.state != State::Dropped) {
        let found = match opened.entry(entry.container) {
            MapEntry::Occupied(opened) => opened.get().clone(),
            MapEntry::Vacant(place) => {
                let found = match containers.open(entry.container) {
                    Err(Error::Damaged { place, damage: what }) => {
                        damage.push((place, what));
                        None
                    }
                    found => Some(found?),
                };
                place.insert(found).clone()
            }
        };
        moved.extend(found.map(|container| (entry.number, container)));
    }
    Ok(moved)
}

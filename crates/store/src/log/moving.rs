//! Moves records from their segments to another container, under the same names.
//!
//! The manifest says which container has the records of a segment. From then on the segment's own file is not read
//! any more and may be removed. Readers, the index and open views notice nothing: they hold names.

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
    /// Reads the records of these sealed segments from the container of this number, from now on and in all later
    /// incarnations. [`super::LogOptions::containers`] has to find it. On return the move is durable, and the
    /// segments' files are not needed any more.
    ///
    /// # Errors
    /// When there is no such container, it lacks the records of one of the segments, one is not sealed, or the log
    /// cannot be written, or not by this holder. Then nothing has changed. But after a failed write the container has
    /// to stay: a power cut may bring the written manifest back.
    ///
    /// # Panics
    /// When `container` is 0.
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
                // Its hash may have been noted meanwhile.
                let now = manifest.segment(entry.number).copied().unwrap_or(*entry);
                manifest.note(Entry { container: container.unwrap_or(entry.container), ..now });
            }
        };
        note(Some(container));
        let is_unwritten = || {
            let manifest = self.manifest();
            before.iter().any(|entry| manifest.is_unwritten(entry.number))
        };
        // A manifest that could not be published before comes first, as it was.
        while is_unwritten() {
            if let Err(error) = self.write_manifest() {
                note(None);
                return Err(error);
            }
        }
        self.places.move_to(segments, &records);
        Ok(())
    }

    /// The manifest's entry of a segment whose records `to` has.
    fn movable(&self, number: u32, to: &dyn Records) -> Result<Entry> {
        let known = self.manifest().segment(number).copied().filter(|entry| entry.state == State::Lives);
        let known = match known {
            Some(known) => known,
            // It was sealed after the last inventory.
            None => self
                .entry_of(number)?
                .ok_or_else(|| Error::damaged(&segment::label(number), 0, Damage::Missing))?,
        };
        let index = to.index(number)?;
        if (index.first_seq, index.last_seq()) != (known.first_seq, known.last_seq) {
            return Err(Error::damaged(&segment::label(number), 0, Damage::Misplaced));
        }
        Ok(known)
    }
}

/// The segments whose records are elsewhere, according to the manifest. A container that cannot be found is damage.
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

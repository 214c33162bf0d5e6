//! Joins several small checkpoints into one, and removes them.
//!
//! Checkpoints are written early when memory is short, or when somebody asks for a moment that none covers yet. Each
//! is a file of its own, in which the pages that the next one merges remain. The joined checkpoint has all versions
//! of their span, taken from the segments, so it alone answers for every moment of that span. New readers use only
//! the joined one; the files of the others are removed once no reader holds them.

use std::sync::{Arc, PoisonError};

use bygone_model::Seq;

use super::Log;
use crate::{
    caller::Caller,
    error::{Error, Result},
    format::checkpoint::{Name, SegmentStart},
    index::{
        checkpoint::Checkpoint,
        compaction::{self, Contents, Versions},
    },
};

impl Log {
    /// Joins the newest checkpoints if there are enough small ones.
    pub(super) fn join_checkpoints(&self) -> Result<bool> {
        let mut upkeep = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        let end = self.index.end();
        if end <= upkeep.joined_upto {
            return Ok(false);
        }
        // Whatever the result, the next attempt waits for the next checkpoint.
        upkeep.joined_upto = end;
        let snapshot = self.index.snapshot();
        let first = first_to_join(&snapshot.names, self.options.checkpoint_entries as u64);
        let is_sound = || self.damage().is_empty() && self.index.mended.is_empty();
        let enough = |joined: &[Name]| joined.len() >= self.options.joined_min;
        // Where a segment is damaged, the older checkpoints still have the versions that were lost, so reading them
        // reports the damage. A checkpoint made from the segments would lack them and hide it.
        if !enough(&snapshot.names[first..]) || !is_sound() {
            return Ok(false);
        }
        match self.join_from(&snapshot.names, first, &enough) {
            Err(Error::Damaged { .. } | Error::Full { .. }) => Ok(false),
            made => made,
        }
    }

    fn join_from(&self, names: &[Name], first: usize, enough: &dyn Fn(&[Name]) -> bool) -> Result<bool> {
        self.check_holder()?;
        let opened = names[first..].iter().map(|name| self.index.open(*name)).collect::<Result<Vec<_>>>()?;
        // Only those after the last one in which damage was mended: the ones before are still damaged, and it
        // replaces them.
        let sound = opened.iter().rposition(|checkpoint| checkpoint.footer.mended).map_or(0, |i| i + 1);
        let (before, joined) = names.split_at(first + sound);
        if !enough(joined) {
            return Ok(false);
        }
        self.join(before.last().copied(), joined, &opened[sound..]).map(|()| true)
    }

    fn join(&self, before: Option<Name>, joined: &[Name], opened: &[Checkpoint]) -> Result<()> {
        let Some(base) = self.heads().base.clone() else { return Ok(()) };
        assert!(joined.last() == Some(&base.name), "the newest is what reads begin with");
        let before = before.map(|name| self.index.open(name)).transpose()?;
        let contents = self.contents_of(before.as_ref(), opened, &base)?;
        let _lent = self.share.lend(contents.versions.bytes());
        let made =
            compaction::write(&self.index, before.as_ref(), contents, None, Caller::default(), &|| {
                self.check_holder()
            })?;
        let by = made.name;
        self.heads_mut().base = Some(Arc::new(made));
        self.index.retire(joined, by);
        self.opened
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|open| !joined.contains(&open.name));
        Ok(())
    }

    /// Everything that `joined` holds. It follows `before` and ends with `base`.
    fn contents_of(
        &self,
        before: Option<&Checkpoint>,
        joined: &[Checkpoint],
        base: &Checkpoint,
    ) -> Result<Contents> {
        let start = before.map_or(Seq::ZERO, |before| before.footer.end);
        let (mut segments, mut events): (Vec<SegmentStart>, _) = (Vec::new(), Vec::new());
        for checkpoint in joined {
            segments.extend(&checkpoint.footer.segments);
            for block in &checkpoint.footer.events {
                events.extend(self.index.event_block(checkpoint.name, block)?);
            }
        }
        segments.dedup_by_key(|segment| segment.0);
        let mut versions = Versions::default();
        let numbers: Vec<u32> = segments.iter().map(|segment| segment.0).collect();
        self.versions_in(numbers, None, start, base.footer.end, &mut |entry| versions.add(entry))?;
        Ok(Contents {
            term: self.term(),
            start,
            end: base.footer.end,
            end_time: base.footer.end_time,
            versions,
            at_once: self.options.at_once(),
            page_entries_max: self.options.page_entries_max,
            events,
            segments,
            catalog: Arc::new(base.footer.catalog.clone()),
        })
    }

    /// Removes the files of joined checkpoints that no reader holds any more.
    pub(super) fn remove_retired(&self) -> Result<bool> {
        let _turn = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        self.index.remove_retired(&mut || self.check_holder())
    }
}

/// The first of the newest checkpoints that are worth joining. Each has at most twice as many records as all newer
/// ones together, so that a version is rewritten only a few times. All of them together have at most `records_max`
/// records.
fn first_to_join(names: &[Name], records_max: u64) -> usize {
    let start_of = |i: usize| i.checked_sub(1).map_or(0, |before| names[before].end.0);
    let mut first = names.len();
    let mut newer = 0;
    while let Some(i) = first.checked_sub(1) {
        let records = names[i].end.0.saturating_sub(start_of(i));
        let is_small = newer == 0 || records <= 2 * newer;
        if !is_small || newer + records > records_max {
            break;
        }
        newer += records;
        first = i;
    }
    first
}

#[cfg(test)]
mod tests {
    use bygone_model::Micros;

    use super::*;

    #[test]
    fn what_is_small_beside_the_newer_ones_is_joined_with_them() {
        let names = |ends: &[u64]| -> Vec<Name> {
            let name = |(i, end): (usize, &u64)| Name {
                number: i as u32 + 1,
                end: Seq(*end),
                end_time: Micros(0),
                term: 1,
            };
            ends.iter().enumerate().map(name).collect()
        };
        assert_eq!(first_to_join(&names(&[]), 100), 0);
        assert_eq!(first_to_join(&names(&[10, 20, 30]), 100), 0);
        assert_eq!(first_to_join(&names(&[50, 60, 70, 80]), 100), 0);
        assert_eq!(first_to_join(&names(&[70, 80, 90, 100]), 100), 1);
        assert_eq!(first_to_join(&names(&[50, 60, 70, 80]), 79), 1);
        // The newest has nothing newer to be compared with.
        assert_eq!(first_to_join(&names(&[10, 90]), 100), 0);
    }
}

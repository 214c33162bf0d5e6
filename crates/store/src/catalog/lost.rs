//! What the log lost for good: stretches of records that are in no file and whose places no index knows.
//!
//! Where a record is known and cannot be read, reading its block fails (I5). Of these nothing is known: any block may
//! have been written by one of them, and shows what it held before. So the catalog keeps the stretches, each checkpoint
//! has a copy, and whoever answers for a moment behind one says so.

use bygone_model::{Micros, Seq, VolumeId};
use serde::{Deserialize, Serialize};

use super::Catalog;

/// The most stretches that are kept apart; further ones are joined with the one before.
const LOST_MAX: usize = 1024;

/// A stretch of the log of which nothing is known but its seqs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The first lost record.
    pub first: Seq,
    /// The last one.
    pub last: Seq,
    /// A time at or before that of the first one.
    pub from: Micros,
    /// A time at or after that of the last one; equal to `from` if none is known.
    pub to: Micros,
}

/// A volume was compared with the disk outside the store that shows it, and has the disk's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Reread {
    pub volume: VolumeId,
    /// Records up to here that were lost before matter to it no more, …
    pub upto: Seq,
    /// … from this record on.
    pub from: Seq,
}

impl Catalog {
    /// Notes that the records `lost` are lost, and that no index knows their places. Stretches are noted in order.
    pub(crate) fn note_lost(&mut self, lost: Lost) {
        if lost.last < lost.first {
            return;
        }
        let full = self.lost.len() >= LOST_MAX;
        match self.lost.last_mut() {
            Some(last) if full || lost.first <= last.last.next() => {
                last.last = last.last.max(lost.last);
                last.to = last.to.max(lost.to);
            }
            _ => self.lost.push(lost),
        }
    }

    /// The lost stretches that a volume as of `seq` lies behind: records of theirs may have written to it, or to the
    /// volumes that it descends from before it began.
    #[must_use]
    pub fn lost_before(&self, volume: VolumeId, seq: Seq) -> Vec<Lost> {
        let mut out = Vec::new();
        let mut next = self.volume(volume).ok().map(|found| (found, seq));
        while let Some((found, upto)) = next {
            out.extend(self.lost_in(found.id, found.made, upto).copied());
            // A parent's id is smaller; checked so that a damaged catalog cannot make this loop.
            let parent = found.parent.filter(|(parent, _)| *parent < found.id);
            next = parent.and_then(|(id, from)| Some((self.volume(id).ok()?, from.min(upto))));
        }
        out.sort_by_key(|lost| lost.first);
        out.dedup();
        out
    }

    /// The last record up to `seq` that is lost and may have written to this volume itself; zero if there is none. What
    /// an earlier record wrote may have been overwritten since.
    pub(crate) fn lost_upto(&self, volume: VolumeId, seq: Seq) -> Seq {
        let made = self.volume(volume).map_or(Seq::ZERO, |volume| volume.made);
        self.lost_in(volume, made, seq).last().map_or(Seq::ZERO, |lost| lost.last.min(seq))
    }

    /// The stretches with records after `after`, up to and including `upto`, that were not made good for the volume by
    /// then.
    fn lost_in(&self, volume: VolumeId, after: Seq, upto: Seq) -> impl Iterator<Item = &Lost> {
        let is_good = move |done: &&Reread| done.volume == volume && done.from <= upto;
        let good = self.rereads.iter().filter(is_good).map(|done| done.upto).max().unwrap_or(Seq::ZERO);
        self.lost.iter().filter(move |lost| lost.last > after.max(good) && lost.first <= upto)
    }

    /// Notes that a volume was compared with its disk after the records up to `upto` were lost.
    pub(super) fn note_reread(&mut self, from: Seq, volume: VolumeId, upto: Seq) {
        let is_news = self.rereads.iter().all(|done| done.volume != volume || done.upto < upto);
        if is_news && self.rereads.len() < LOST_MAX {
            self.rereads.push(Reread { volume, upto, from });
        }
    }
}

#[cfg(test)]
mod tests {
    use bygone_model::BranchId;

    use super::*;
    use crate::catalog::Volume;

    fn lost(first: u64, last: u64) -> Lost {
        Lost { first: Seq(first), last: Seq(last), from: Micros(0), to: Micros(0) }
    }

    fn volume(id: u32, parent: Option<(u32, u64)>, made: u64) -> Volume {
        let parent = parent.map(|(id, seq)| (VolumeId(id), Seq(seq)));
        Volume { id: VolumeId(id), branch: BranchId(id), disk: 0, parent, made: Seq(made) }
    }

    #[test]
    fn a_moment_lies_behind_what_was_lost_on_its_own_line_and_not_behind_the_rest() {
        let mut catalog = Catalog::new(Micros(0));
        catalog.volumes = vec![volume(0, None, 1), volume(1, Some((0, 15)), 30)];
        [lost(10, 12), lost(20, 25), lost(40, 49)].into_iter().for_each(|lost| catalog.note_lost(lost));
        let before = |id: u32, seq: u64| -> Vec<u64> {
            catalog.lost_before(VolumeId(id), Seq(seq)).iter().map(|lost| lost.first.0).collect()
        };
        assert_eq!((before(0, 9), before(0, 10), before(0, 30)), (vec![], vec![10], vec![10, 20]));
        // What was lost of its parent after it began concerns it as little as what was lost before it was made.
        assert_eq!((before(1, 30), before(1, 45)), (vec![10], vec![10, 40]));
        let upto = |id: u32, seq: u64| catalog.lost_upto(VolumeId(id), Seq(seq)).0;
        assert_eq!((upto(0, 9), upto(0, 11), upto(0, 15), upto(0, 99)), (0, 11, 12, 49));
        assert_eq!((upto(1, 39), upto(1, 45)), (0, 45));
    }

    #[test]
    fn what_was_read_again_from_its_disk_is_right_from_then_on() {
        let mut catalog = Catalog::new(Micros(0));
        catalog.volumes =
            vec![volume(0, None, 1), volume(1, Some((0, 50)), 60), volume(2, Some((0, 25)), 60)];
        [lost(10, 12), lost(40, 41)].into_iter().for_each(|lost| catalog.note_lost(lost));
        catalog.note_reread(Seq(30), VolumeId(0), Seq(12));
        let before = |id: u32, seq: u64| catalog.lost_before(VolumeId(id), Seq(seq)).len();
        assert_eq!((before(0, 29), before(0, 30), before(0, 45)), (1, 0, 1));
        assert_eq!((before(1, 70), before(2, 70)), (1, 1));
        assert_eq!(catalog.lost_upto(VolumeId(0), Seq(39)), Seq::ZERO);
    }

    #[test]
    fn stretches_that_touch_are_one_and_their_number_is_bounded() {
        let mut catalog = Catalog::new(Micros(0));
        [lost(3, 5), lost(6, 8), lost(7, 9), lost(9, 8)].into_iter().for_each(|lost| catalog.note_lost(lost));
        assert_eq!(catalog.lost, [lost(3, 9)]);
        (0..5000).for_each(|i| catalog.note_lost(lost(20 + 2 * i, 20 + 2 * i)));
        assert_eq!((catalog.lost.len(), catalog.lost[LOST_MAX - 1].last), (LOST_MAX, Seq(20 + 2 * 4999)));
    }
}

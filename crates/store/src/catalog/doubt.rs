//! Whether the catalog is all that it should be.
//!
//! Lost records may have made branches or moved the present. Then the present may be another branch than the catalog
//! says, and nobody may build on it unasked: the stretch is *in doubt* until a later record proves that it held nothing
//! of that kind, or a person has chosen the present ([`Change::Chosen`]).
//!
//! The proof: each catalog record names the last one before it that changed disks, branches or the present (`moved`),
//! as far as its writer was in no doubt.

use bygone_model::{BranchId, Micros, Seq, VolumeId};
use serde::{Deserialize, Serialize};

use super::{Branch, Catalog, Change, Volume};
use crate::error::{Error, Result};

/// The most stretches that are kept apart; further ones are joined with the one before.
const DOUBTS_MAX: usize = 1024;
/// The most numbers of branches or volumes that are passed over at once.
const SKIPPED_MAX: usize = 1 << 16;

/// A stretch of the log in which records may be lost that changed disks, branches or the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Doubt {
    pub first: Seq,
    pub last: Seq,
}

/// How many branches and volumes there have been at least, as records behind a doubt tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Seen {
    pub branches: u32,
    pub volumes: u32,
}

/// A catalog record as it is stored.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ChangeRecord {
    /// The last record before it that changed disks, branches or the present; none if its writer could not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) moved: Option<Seq>,
    #[serde(flatten)]
    pub(crate) change: Change,
}

impl Change {
    /// Whether it changes disks, branches or the present.
    pub(super) fn moves(&self) -> bool {
        !matches!(self, Change::Era | Change::Opened { .. } | Change::Tap { .. } | Change::Reread { .. })
    }
}

impl Catalog {
    /// Nobody knows whether the present is what the catalog says, and no person has chosen it.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        !self.doubts.is_empty()
    }

    /// The record of a change to this catalog.
    pub(crate) fn record(&self, change: Change) -> ChangeRecord {
        ChangeRecord { moved: self.moved.filter(|_| !self.is_in_doubt()), change }
    }

    /// Notes that records of this stretch may have changed disks, branches or the present.
    pub(crate) fn doubt(&mut self, first: Seq, last: Seq) {
        if last < first {
            return;
        }
        let full = self.doubts.len() >= DOUBTS_MAX;
        match self.doubts.last_mut() {
            Some(doubt) if full || first <= doubt.last.next() => doubt.last = doubt.last.max(last),
            _ => self.doubts.push(Doubt { first, last }),
        }
    }

    /// Applies record `seq` of a log that is being opened.
    pub(crate) fn apply_record(&mut self, seq: Seq, time: Micros, record: &ChangeRecord) {
        if let Some(moved) = record.moved {
            self.doubts.retain(|doubt| doubt.last >= seq || doubt.first <= moved);
            if !self.is_in_doubt() {
                self.seen = Seen::default();
            }
        }
        self.apply(seq, time, &record.change);
    }

    /// Notes that records are about this volume or branch, which a lost record may have made.
    pub(crate) fn note_seen(&mut self, volume: Option<VolumeId>, branch: Option<BranchId>) {
        let count = |number: u32| number.saturating_add(1);
        if let Some(volume) = volume.filter(|volume| volume.0 as usize >= self.volumes.len()) {
            self.seen.volumes = self.seen.volumes.max(count(volume.0));
        }
        if let Some(branch) = branch.filter(|branch| branch.0 as usize >= self.branches.len()) {
            self.seen.branches = self.seen.branches.max(count(branch.0));
        }
    }

    /// The change by which a person chooses `head` as the present, whatever the lost records were.
    ///
    /// # Errors
    /// If there is no such branch, or too many numbers would have to be passed over.
    pub(crate) fn choice(&self, head: BranchId) -> Result<Change> {
        self.live_branch(head)?;
        let upto = self.doubts.last().map_or(Seq::ZERO, |doubt| doubt.last);
        let Seen { branches, volumes } = self.seen;
        let skipped = |seen: u32, known: usize| (seen as usize).saturating_sub(known);
        if skipped(branches, self.branches.len()) > SKIPPED_MAX
            || skipped(volumes, self.volumes.len()) > SKIPPED_MAX
        {
            return Err(Error::NoNumberLeft("branches after the lost ones"));
        }
        Ok(Change::Chosen { head, upto, branches, volumes })
    }

    /// Makes `head` the present, as a person chose after record `upto`. Numbers below `seen` are not given out again:
    /// records of lost branches and volumes have them.
    pub(super) fn apply_choice(&mut self, (seq, time): (Seq, Micros), head: BranchId, upto: Seq, seen: Seen) {
        let (branches, volumes) = (seen.branches as usize, seen.volumes as usize);
        if branches > self.branches.len() + SKIPPED_MAX || volumes > self.volumes.len() + SKIPPED_MAX {
            return;
        }
        // A lost volume belongs to a lost branch, whichever it was.
        let owner = (volumes > self.volumes.len()).then_some(self.branches.len() + 1);
        while self.branches.len() < branches.max(owner.unwrap_or(0)) {
            let id = BranchId(self.branches.len() as u32);
            let name = format!("lost-{id}");
            self.branches.push(Branch {
                id,
                name,
                parent: None,
                made: seq,
                made_at: time,
                dropped: Some(seq),
            });
        }
        while self.volumes.len() < volumes {
            let branch = BranchId((self.branches.len() - 1) as u32);
            let id = VolumeId(self.volumes.len() as u32);
            self.volumes.push(Volume { id, branch, disk: u32::MAX, parent: None, made: seq });
        }
        self.seen = Seen::default();
        self.doubts.retain(|doubt| doubt.last > upto);
        // What they took back may not be what was done last.
        self.acts.clear();
        self.set_head(seq, head);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_doubt() -> Catalog {
        let mut catalog = Catalog::new(Micros(0));
        catalog.apply(Seq(3), Micros(0), &Change::Promote { id: BranchId(0) });
        catalog.doubt(Seq(10), Seq(19));
        catalog
    }

    fn opened(moved: Option<u64>) -> ChangeRecord {
        ChangeRecord { moved: moved.map(Seq), change: Change::Opened { incarnation: 2 } }
    }

    #[test]
    fn a_later_record_proves_that_nothing_moved_in_a_lost_stretch() {
        for (at, moved, is_proof) in [
            (25, Some(3), true),
            (25, Some(10), false),
            (25, Some(22), false),
            (25, None, false),
            (5, Some(3), false),
        ] {
            let mut catalog = in_doubt();
            catalog.apply_record(Seq(at), Micros(0), &opened(moved));
            assert_eq!(catalog.is_in_doubt(), !is_proof, "record {at} that names {moved:?}");
        }
    }

    #[test]
    fn who_is_in_doubt_proves_nothing_to_a_later_life() {
        let mut catalog = in_doubt();
        let record = catalog.record(Change::Opened { incarnation: 2 });
        assert_eq!(record.moved, None);
        catalog.apply_record(Seq(30), Micros(0), &record);
        assert!(catalog.is_in_doubt());
        let json = serde_json::to_string(&record).unwrap();
        assert_eq!(json, r#"{"change":"opened","incarnation":2}"#);
        let known = Catalog { doubts: Vec::new(), ..catalog }.record(Change::Era);
        assert_eq!(serde_json::to_string(&known).unwrap(), r#"{"moved":3,"change":"era"}"#);
    }

    #[test]
    fn a_choice_ends_the_doubt_and_gives_no_number_out_that_records_of_lost_branches_have() {
        let mut catalog = in_doubt();
        catalog.note_seen(Some(VolumeId(4)), Some(BranchId(2)));
        let change = catalog.choice(BranchId(0)).unwrap();
        catalog.apply(Seq(40), Micros(0), &change);
        assert!(!catalog.is_in_doubt());
        assert_eq!((catalog.branches.len(), catalog.volumes.len()), (3, 5));
        assert!(catalog.branches[1..].iter().all(|branch| branch.dropped.is_some()));
        assert!(catalog.disk_of(VolumeId(4)).is_err());
        assert!(catalog.choice(BranchId(1)).is_err());
        // Absurd numbers take no memory.
        catalog.note_seen(Some(VolumeId(1 << 27)), None);
        assert!(catalog.choice(BranchId(0)).is_err());
    }
}

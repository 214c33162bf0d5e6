//! Lines of history: which branch a moment lies on.
//!
//! A line is a list of stretches, newest first, each a branch and a range of its records. The catalog gives three kinds
//! of lines: the lived line, a branch with its ancestors, and a branch alone.

use bygone_model::{BranchId, Place, Seq};

use crate::catalog::Catalog;

/// A branch, and the range of its records that belongs to a line; both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Stretch {
    pub branch: BranchId,
    /// The first record.
    pub from: Seq,
    /// The last record; [`Seq::MAX`] if the stretch has not ended.
    pub to: Seq,
}

/// See the module's comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    stretches: Vec<Stretch>,
}

impl Line {
    /// The stretches, newest first.
    #[must_use]
    pub fn stretches(&self) -> &[Stretch] {
        &self.stretches
    }

    /// Whether a moment lies on this line.
    #[must_use]
    pub fn has(&self, place: Place) -> bool {
        let within = |s: &Stretch| s.branch == place.branch && (s.from..=s.to).contains(&place.seq);
        self.stretches.iter().any(within)
    }

    /// The last moment of the line at or before record `seq`. If the line begins later, that seq on its first branch.
    #[must_use]
    pub fn at(&self, seq: Seq) -> Place {
        let stretch = self.stretches.iter().find(|s| s.from <= seq).or(self.stretches.last());
        stretch.map_or(Place::new(BranchId(0), seq), |s| Place::new(s.branch, seq.min(s.to)))
    }

    /// The last record of the line; [`Seq::MAX`] if the line has not ended.
    #[must_use]
    pub fn end(&self) -> Seq {
        self.stretches.first().map_or(Seq::MAX, |stretch| stretch.to)
    }
}

impl Catalog {
    /// The lived line: what the target's present was at each time.
    #[must_use]
    pub fn lived_line(&self) -> Line {
        let mut stretches = Vec::with_capacity(self.lived.len());
        let mut to = Seq::MAX;
        for lived in self.lived.iter().rev() {
            stretches.push(Stretch { branch: lived.branch, from: lived.from, to });
            to = Seq(lived.from.0.saturating_sub(1));
        }
        Line { stretches }
    }

    /// A branch, its parent up to where the branch begins, and so on down to the first branch. A dropped branch ends
    /// where it was dropped.
    #[must_use]
    pub fn line_of(&self, branch: BranchId) -> Line {
        let mut stretches = Vec::new();
        let mut next = Some((branch, Seq::MAX));
        while let Some((branch, to)) = next {
            let Some(found) = self.branch(branch) else { break };
            let to = found.dropped.map_or(to, |dropped| to.min(dropped));
            stretches.push(Stretch { branch, from: found.made, to });
            // A parent has a lower number than its branch. Without this check a damaged catalog could loop for ever.
            next =
                found.parent.filter(|(parent, _)| *parent < branch).map(|(parent, at)| (parent, at.min(to)));
        }
        Line { stretches }
    }

    /// A branch alone, without its ancestors.
    #[must_use]
    pub fn stretch_of(&self, branch: BranchId) -> Line {
        let mut line = self.line_of(branch);
        line.stretches.truncate(1);
        line
    }
}

#[cfg(test)]
mod tests {
    use bygone_model::Micros;

    use super::*;
    use crate::catalog::Change;

    /// Record 10 makes branch 1 after record 5 of main; 20 promotes it; 30 makes branch 2 after record 25 of branch 1;
    /// 40 drops main.
    fn catalog() -> Catalog {
        let mut catalog = Catalog::new(Micros(0));
        let branch = |id, parent, at| Change::Branch {
            id: BranchId(id),
            name: format!("b{id}"),
            parent: (BranchId(parent), Seq(at)),
            volumes_from: bygone_model::VolumeId(0),
        };
        for (seq, change) in [
            (10, branch(1, 0, 5)),
            (20, Change::Promote { id: BranchId(1) }),
            (30, branch(2, 1, 25)),
            (35, Change::Promote { id: BranchId(9) }),
            (40, Change::Drop { id: BranchId(0) }),
        ] {
            catalog.apply(Seq(seq), Micros(0), &change);
        }
        catalog
    }

    #[test]
    fn the_lived_line_is_what_was_the_present_then() {
        let catalog = catalog();
        let line = catalog.lived_line();
        for (seq, branch) in [(0, 0), (5, 0), (19, 0), (20, 1), (36, 1), (50, 1)] {
            let place = Place::new(BranchId(branch), Seq(seq));
            assert_eq!((line.at(Seq(seq)), catalog.lived_at(Seq(seq))), (place, place));
            assert!(line.has(place));
            assert!(!line.has(Place::new(BranchId(1 - branch), Seq(seq))));
        }
        assert_eq!(catalog.head, BranchId(1), "a branch that there is not cannot be the present");
    }

    #[test]
    fn a_branch_goes_on_from_where_it_begins() {
        let line = catalog().line_of(BranchId(2));
        for (seq, branch, at) in [(50, 2, 50), (30, 2, 30), (29, 1, 25), (11, 1, 11), (9, 0, 5), (3, 0, 3)] {
            assert_eq!(line.at(Seq(seq)), Place::new(BranchId(branch), Seq(at)), "{seq}");
        }
        assert!(line.has(Place::new(BranchId(1), Seq(25))) && !line.has(Place::new(BranchId(1), Seq(26))));
        assert!(!line.has(Place::new(BranchId(0), Seq(6))));
    }

    #[test]
    fn a_dropped_branch_ends_where_it_was_dropped() {
        let line = catalog().line_of(BranchId(0));
        assert_eq!(line.at(Seq(99)), Place::new(BranchId(0), Seq(40)));
    }
}

//! How good a moment is to restore. Nothing else decides it.
//!
//! A moment is as good as the newest graded event on its line, if no disk was written in between: then it has the same
//! content. If there are several such events, the best counts. Otherwise it is as after a power cut.

use std::{collections::HashMap, sync::Arc};

use bygone_model::{BranchId, Grade, Place, Seq};
use bygone_store::{EventOrder, EventQuery, Log, catalog::Catalog};

use crate::error::Result;

/// The grade of a moment.
///
/// # Errors
/// When the events cannot be read.
pub(crate) fn at(log: &Log, place: Place) -> Result<Grade> {
    let catalog = log.catalog();
    let line = catalog.line_of(place.branch);
    let mut best = Grade::Crash;
    loop {
        let better = match best {
            Grade::Crash => Grade::Flushed,
            Grade::Flushed => Grade::Clean,
            Grade::Clean => Grade::Stopped,
            Grade::Stopped => return Ok(best),
        };
        let before = (place.seq, Seq::MAX);
        let query = EventQuery { line: Some(&line), grade: better, before, ..EventQuery::default() };
        let newest = log.find_events(&query, EventOrder::Newest, 1, &mut |_| true)?;
        match newest.first() {
            Some(event) if !is_written_between(log, &catalog, event.place(), place) => {
                best = event.event.grade;
            }
            _ => return Ok(best),
        }
    }
}

/// Whether a disk was written between two moments of the line of the second one.
fn is_written_between(log: &Log, catalog: &Catalog, from: Place, to: Place) -> bool {
    let (mut branch, mut upto) = (to.branch, to.seq);
    while branch != from.branch {
        let Some(found) = catalog.branch(branch) else { return true };
        // A parent has a lower number than its branch; a damaged catalog may say otherwise.
        let Some((parent, at)) = found.parent.filter(|(parent, _)| *parent < branch) else { return true };
        if is_branch_written(log, catalog, branch, (found.made, upto)) {
            return true;
        }
        (branch, upto) = (parent, at.min(upto));
    }
    is_branch_written(log, catalog, branch, (from.seq, upto))
}

/// Whether a disk of a branch was written after a record, up to and including another one.
fn is_branch_written(log: &Log, catalog: &Catalog, branch: BranchId, (after, upto): (Seq, Seq)) -> bool {
    after < upto
        && catalog.volumes_of(branch, upto).any(|volume| {
            // What a disk holds that was changed outside is known once it was read again.
            let became_unknown = !catalog.is_exact(volume.id, upto) && catalog.is_exact(volume.id, after);
            let written = log.first_write(volume.id, after, upto);
            // What cannot be read may be a write.
            became_unknown || written.map_or(true, |found| found.is_some())
        })
}

/// The grades of many moments, asked for in the order of their seqs: what was found for one is used for the next.
pub(crate) struct Grades<'a> {
    log: &'a Log,
    catalog: Arc<Catalog>,
    /// All graded events up to this moment are known, …
    upto: Seq,
    /// … these, oldest first.
    graded: Vec<(Place, Grade)>,
    branches: HashMap<BranchId, Known>,
}

/// What is known of a branch.
#[derive(Clone, Copy)]
struct Known {
    /// The moment up to which this was determined.
    upto: Seq,
    /// Its grade.
    grade: Grade,
}

impl<'a> Grades<'a> {
    pub(crate) fn of(log: &'a Log) -> Grades<'a> {
        let (upto, graded, branches) = (Seq::ZERO, Vec::new(), HashMap::new());
        Grades { log, catalog: log.catalog(), upto, graded, branches }
    }

    /// Reads the graded events of a range of moments, which begins after those that were asked for before.
    ///
    /// # Errors
    /// When the events cannot be read.
    pub(crate) fn read(&mut self, from: Seq, to: Seq) -> Result<()> {
        const LIMIT: usize = 4096;
        let from = if self.branches.is_empty() { from } else { self.upto };
        let after = (Seq(from.0.saturating_sub(1)), Seq::MAX);
        let query =
            EventQuery { grade: Grade::Flushed, after, before: (to, Seq::MAX), ..EventQuery::default() };
        let found = self.log.find_events(&query, EventOrder::Oldest, LIMIT, &mut |_| true)?;
        // What is beyond the limit is looked at one by one.
        let last = found.last().filter(|_| found.len() == LIMIT);
        self.upto = last.map_or(to, |last| Seq(last.place().seq.0.saturating_sub(1)));
        self.graded = found.iter().map(|event| (event.place(), event.event.grade)).collect();
        Ok(())
    }

    /// The grade of a moment.
    ///
    /// # Errors
    /// As [`at`].
    pub(crate) fn at(&mut self, place: Place) -> Result<Grade> {
        let known = match self.branches.get(&place.branch) {
            Some(known) if place.seq <= self.upto && known.upto <= place.seq => self.go_on(*known, place),
            _ => Known { upto: place.seq, grade: at(self.log, place)? },
        };
        self.branches.insert(place.branch, known);
        Ok(known.grade)
    }

    fn go_on(&self, mut known: Known, place: Place) -> Known {
        let of_branch = self.graded.iter().filter(|(graded, _)| graded.branch == place.branch);
        let since = known.upto;
        let between = of_branch.filter(|(graded, _)| since <= graded.seq && graded.seq <= place.seq);
        for &(graded, grade) in between {
            known = self.keep(known, graded);
            known.grade = known.grade.max(grade);
        }
        self.keep(known, place)
    }

    /// The same as of a later moment without a graded event in between.
    fn keep(&self, known: Known, to: Place) -> Known {
        let written = known.grade > Grade::Crash
            && is_branch_written(self.log, &self.catalog, to.branch, (known.upto, to.seq));
        Known { upto: to.seq, grade: if written { Grade::Crash } else { known.grade } }
    }
}

//! The index: it maps (volume, sector, moment) to a record of the log.
//!
//! - [`head`]: the newest versions since the last checkpoint, in memory; answers for the present only.
//! - [`tree`]: the versions of the sectors of one stripe, on disk; answers for any moment of its span.
//! - [`checkpoint`]: a file of trees. The newest one and the head maps together answer for the present, older ones for
//!   the past.

pub mod cache;
pub mod checkpoint;
pub mod compaction;
pub mod head;
pub mod mended;
mod steps;
pub mod tree;

use bygone_model::{Lba, Sectors, Seq};

use crate::format::segment::Location;

/// A run of sectors that come from one record, or that were not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields say by their names what they are")]
pub struct Fragment {
    pub lba: Lba,
    pub sectors: Sectors,
    /// The record that wrote them, and where it is; `None`: the searched layers do not know them.
    pub found: Option<(Seq, Location)>,
}

/// A lookup of a range through layers, newest first: what was found, and what is still open.
///
/// Each layer goes through the open ranges once, in order, and leaves open those that it does not know
/// ([`Lookup::leave`]). So the cost of a lookup is proportional to the number of fragments that it finds.
#[derive(Debug, Default)]
pub struct Lookup {
    /// What was found, in no order.
    pub found: Vec<Fragment>,
    /// What no layer knew yet: disjoint, ascending `(first, end)` sectors.
    pub open: Vec<(u64, u64)>,
}

impl Lookup {
    /// A lookup in which the whole range is still open.
    #[must_use]
    pub fn new(lba: Lba, sectors: Sectors) -> Lookup {
        let open = if sectors.0 == 0 { Vec::new() } else { vec![(lba.0, lba.0 + sectors.0)] };
        Lookup { found: Vec::new(), open }
    }

    /// Notes that `first .. end` was found: record `seq` wrote it, and its content is at `at`.
    pub fn find(&mut self, first: u64, end: u64, seq: Seq, at: Location) {
        steps::count(1);
        debug_assert!(first < end, "an empty fragment");
        let found = Some((seq, at));
        self.found.push(Fragment { lba: Lba(first), sectors: Sectors(end - first), found });
    }

    /// Leaves `first .. end` open for the next layer. It must come after everything that this layer has left so far.
    pub fn leave(&mut self, first: u64, end: u64) {
        steps::count(1);
        match self.open.last_mut() {
            Some(last) if last.1 == first => last.1 = end,
            last => {
                assert!(last.is_none_or(|last| last.1 < first), "open ranges are left in order");
                self.open.push((first, end));
            }
        }
    }

    /// All fragments in order; what is still open is unknown.
    #[must_use]
    pub fn finish(mut self) -> Vec<Fragment> {
        self.found.extend(self.open.iter().map(|&(a, b)| Fragment {
            lba: Lba(a),
            sectors: Sectors(b - a),
            found: None,
        }));
        // Each layer appends in order of sector, so this mostly merges a few sorted runs.
        self.found.sort_by_key(|fragment| fragment.lba);
        self.found
    }
}

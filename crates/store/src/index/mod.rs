//! From (volume, sector, moment) to a place in the log.
//!
//! - [`head`]: what was written since the last checkpoint, in memory, the present only.
//! - [`tree`]: versions of the sectors of one stripe, on disk, any moment.
//! - [`checkpoint`]: a file of trees; the newest one and the head together are the present, an older one
//!   is the past.

pub mod cache;
pub mod checkpoint;
pub mod compaction;
pub mod head;
pub mod mended;
mod steps;
pub mod tree;

use bygone_model::{Lba, Sectors, Seq};

use crate::format::segment::Location;

/// A run of sectors that come from one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// First sector.
    pub lba: Lba,
    /// How many.
    pub sectors: Sectors,
    /// Where they are, and since when; `None`: this layer does not know them.
    pub found: Option<(Seq, Location)>,
}

/// A range being looked up through layers, newest first: what was found, and what is still open.
///
/// Each layer goes through the open ranges once, in order, and leaves those it does not know ([`Lookup::leave`]). So a
/// lookup costs in proportion to the fragments that it finds, however many there are.
#[derive(Debug, Default)]
pub struct Lookup {
    /// What was found, in no order.
    pub found: Vec<Fragment>,
    /// What no layer knew yet: disjoint, ascending `(first, end)` sectors.
    pub open: Vec<(u64, u64)>,
}

impl Lookup {
    /// Everything is still open.
    #[must_use]
    pub fn new(lba: Lba, sectors: Sectors) -> Lookup {
        let open = if sectors.0 == 0 { Vec::new() } else { vec![(lba.0, lba.0 + sectors.0)] };
        Lookup { found: Vec::new(), open }
    }

    /// `first .. end` was found at `at`.
    pub fn find(&mut self, first: u64, end: u64, seq: Seq, at: Location) {
        steps::count(1);
        debug_assert!(first < end, "an empty fragment");
        let found = Some((seq, at));
        self.found.push(Fragment { lba: Lba(first), sectors: Sectors(end - first), found });
    }

    /// A layer does not know `first .. end`, which lies behind all that it left so far.
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

    /// Everything, in order; what is still open as unknown.
    #[must_use]
    pub fn finish(mut self) -> Vec<Fragment> {
        self.found.extend(self.open.iter().map(|&(a, b)| Fragment {
            lba: Lba(a),
            sectors: Sectors(b - a),
            found: None,
        }));
        // Layers find in order of sector, so this mostly merges a few sorted runs.
        self.found.sort_by_key(|fragment| fragment.lba);
        self.found
    }
}

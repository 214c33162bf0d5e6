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

    /// Takes what is still open of `first .. end` as found at `at`.
    pub fn paint(&mut self, first: u64, end: u64, seq: Seq, at: Location) {
        let mut i = 0;
        while let Some(&(open_first, open_end)) = self.open.get(i) {
            let (a, b) = (open_first.max(first), open_end.min(end));
            if a >= b {
                i += 1;
                continue;
            }
            self.found.push(Fragment { lba: Lba(a), sectors: Sectors(b - a), found: Some((seq, at)) });
            match (open_first < a, b < open_end) {
                (false, false) => {
                    self.open.remove(i);
                }
                (true, false) => self.open[i].1 = a,
                (false, true) => self.open[i].0 = b,
                (true, true) => {
                    self.open[i].1 = a;
                    self.open.insert(i + 1, (b, open_end));
                    i += 1;
                }
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
        if self.found.len() > 1 {
            self.found.sort_unstable_by_key(|f| f.lba);
        }
        self.found
    }
}

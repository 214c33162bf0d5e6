//! A logical volume as blocks: a list of segments, each of which lies in one run or is striped over several.

use crate::blocks::{Blocks, ReadError, check};

/// A part of a logical volume, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Where it begins in the logical volume.
    pub(super) start: u64,
    pub(super) len_bytes: u64,
    /// How much lies in one run before the next of them is used; for a single run its length.
    pub(super) stripe_bytes: u64,
    /// Where its runs begin on the disk; all are equally long.
    pub(super) runs: Vec<u64>,
}

impl Segment {
    /// Where a byte of it lies on the disk, and how many follow it there.
    fn place(&self, within: u64) -> (u64, u64) {
        let (stripe, rest) = (within / self.stripe_bytes, within % self.stripe_bytes);
        let runs = self.runs.len() as u64;
        let run = self.runs[(stripe % runs) as usize];
        (run + stripe / runs * self.stripe_bytes + rest, self.stripe_bytes - rest)
    }
}

/// Where a logical volume lies. Its segments follow one another without gaps, and each of their runs lies on the disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Map {
    pub(super) segments: Vec<Segment>,
    pub(super) len_bytes: u64,
}

impl Map {
    /// Its first byte on the disk.
    pub(super) fn first(&self) -> Option<u64> {
        self.segments.first().map(|segment| segment.place(0).0)
    }
}

/// A logical volume of a disk. Its errors name places on the disk.
pub(crate) struct Logical<'a> {
    pub(crate) disk: &'a dyn Blocks,
    pub(crate) map: Map,
}

impl Blocks for Logical<'_> {
    fn size_bytes(&self) -> u64 {
        self.map.len_bytes
    }

    fn sector_bytes(&self) -> u32 {
        self.disk.sector_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        check(self.map.len_bytes, offset, buf.len())?;
        let segments = &self.map.segments;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            // It is the last one that begins before: there are no gaps.
            let segment = &segments[segments.partition_point(|segment| segment.start <= at) - 1];
            let within = at - segment.start;
            let (place, follow) = segment.place(within);
            let follow = follow.min(segment.len_bytes - within);
            let part = follow.min((buf.len() - done) as u64) as usize;
            self.disk.read_at(place, &mut buf[done..done + part])?;
            done += part;
        }
        Ok(())
    }
}

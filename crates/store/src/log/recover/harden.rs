//! Making durable what an earlier life may not have made so.

use std::{io::IoSlice, sync::Arc};

use bygone_model::Seq;

use super::super::{append::Full, roll::end_records, scan::Scanned};
use crate::{
    env::File,
    error::{Error, Result},
    format::segment,
};

/// A segment without an index.
pub(super) struct Unsealed {
    pub(super) full: Full,
    /// From this byte on it may not be durable.
    volatile_from: u64,
    /// No record of it is damaged.
    pub(super) whole: bool,
}

impl Unsealed {
    pub(super) fn of(number: u32, file: &Arc<dyn File>, scanned: Scanned, durable: Seq) -> Option<Unsealed> {
        if scanned.sealed || scanned.index.times.is_empty() {
            return None;
        }
        let (index, whole) = (scanned.index, scanned.damage.is_empty());
        let safe = durable.max(scanned.durable).0.saturating_add(1).saturating_sub(index.first_seq.0);
        let volatile_from = if safe == 0 {
            0
        } else {
            scanned.starts.get(safe as usize).copied().unwrap_or(index.records_end)
        };
        let full = Full {
            number,
            file: file.clone(),
            first_seq: index.first_seq,
            records_end: index.records_end,
            entries: Arc::new(index.entries),
            marks: index.marks,
            times: index.times,
        };
        Some(Unsealed { full, volatile_from, whole })
    }

    /// Makes its records durable, and lets nothing follow them.
    pub(super) fn harden(&self) -> Result<()> {
        let full = &self.full;
        write_again(&*full.file, full.number, self.volatile_from, full.records_end)?;
        match end_records(&*full.file, full.number, full.records_end) {
            Ok(()) | Err(Error::Full { .. }) => {}
            Err(e) => return Err(e),
        }
        sync(&*full.file, full.number)
    }
}

pub(super) fn sync(file: &dyn File, number: u32) -> Result<()> {
    file.sync().map_err(|e| Error::io("syncing", &segment::file_name(number), e))
}

/// What a sync failed for in an earlier life may be in memory only, and no sync would write it; so it is written once more,
/// the same bytes in the same place.
pub(super) fn write_again(file: &dyn File, number: u32, from: u64, end: u64) -> Result<()> {
    const CHUNK_BYTES: u64 = 1 << 20;
    /// A record is filled up with fewer zeroes than this.
    const PADDING_BYTES_END: usize = 8;
    let name = segment::file_name(number);
    let (mut at, mut chunk) = (from, Vec::new());
    while at < end {
        chunk.resize(CHUNK_BYTES.min(end - at) as usize, 0);
        let got = file.read_at(&mut chunk, at).map_err(|e| Error::io("reading", &name, e))?;
        if chunk.len() - got >= PADDING_BYTES_END {
            return Err(Error::io("reading", &name, std::io::ErrorKind::UnexpectedEof.into()));
        }
        // A process that was killed within a write may have left the last record whole but for these.
        chunk[got..].fill(0);
        match file.write_at(&mut [IoSlice::new(&chunk)], at).map_err(|e| Error::io("writing", &name, e)) {
            // Only a medium that never overwrites needs room for this, and that does not show what it lost.
            Ok(()) | Err(Error::Full { .. }) => {}
            Err(e) => return Err(e),
        }
        at += chunk.len() as u64;
    }
    Ok(())
}

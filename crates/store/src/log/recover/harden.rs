//! Makes durable what an earlier incarnation may not have made durable.

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
    /// What is before this offset is durable.
    volatile_from: u64,
    /// Nothing of it is damaged.
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

    /// Makes its records durable, and makes sure that no other record follows them. `look` is called before each change.
    pub(super) fn harden(&self, look: &dyn Fn() -> Result<()>) -> Result<()> {
        let full = &self.full;
        look()?;
        write_again(&*full.file, full.number, self.volatile_from, full.records_end)?;
        // The same bytes again do no harm; but behind them another holder may have gone on by now.
        look()?;
        match end_records(&*full.file, full.number, full.records_end) {
            Ok(()) | Err(Error::Full { .. }) => {}
            Err(e) => return Err(e),
        }
        sync(&*full.file, full.number)
    }
}

pub(super) fn sync(file: &dyn File, number: u32) -> Result<()> {
    file.sync().map_err(|e| Error::io("syncing", &segment::label(number), e))
}

/// Writes a range again, with the same bytes. After a sync that failed in an earlier incarnation the range may be in
/// the page cache only, marked as clean: another sync would not write it.
pub(super) fn write_again(file: &dyn File, number: u32, from: u64, end: u64) -> Result<()> {
    const CHUNK_BYTES: u64 = 1 << 20;
    /// A record is padded with fewer zeroes than this.
    const PADDING_BYTES_END: usize = 8;
    let name = segment::label(number);
    let (mut at, mut chunk) = (from, Vec::new());
    while at < end {
        chunk.resize(CHUNK_BYTES.min(end - at) as usize, 0);
        let got = file.read_at(&mut chunk, at).map_err(|e| Error::unread(&name, at, e))?;
        if chunk.len() - got >= PADDING_BYTES_END {
            return Err(Error::io("reading", &name, std::io::ErrorKind::UnexpectedEof.into()));
        }
        // A process that was killed during a write may have left the last record whole except for its padding.
        chunk[got..].fill(0);
        match file.write_at(&mut [IoSlice::new(&chunk)], at).map_err(|e| Error::io("writing", &name, e)) {
            // Only a medium that never overwrites in place needs room for this, and it does not show what it failed
            // to write.
            Ok(()) | Err(Error::Full { .. }) => {}
            Err(e) => return Err(e),
        }
        at += chunk.len() as u64;
    }
    Ok(())
}

//! The step from one segment to the next.

use std::{io::IoSlice, sync::Arc};

use bygone_model::Micros;

use super::{
    LogOptions,
    append::{Active, Full, Sequencer},
    room::{
        self,
        Claim::{self, Own},
    },
};
use crate::{
    env::{Dir, File},
    error::{Error, Result},
    format::{
        key::SALT_BYTES,
        record::HEADER_BYTES,
        segment::{self, SEGMENT_HEADER_BYTES, SegmentHeader},
    },
};

impl Sequencer {
    /// Ends the active segment, if there is one, and begins the next.
    pub(super) fn roll(
        &mut self,
        dir: &dyn Dir,
        options: &LogOptions,
        time: Micros,
        claim: Claim,
    ) -> Result<()> {
        self.syncs.holder.look(dir)?;
        if let Some(active) = &self.active {
            // Recovery trusts the index made from these without reading the records.
            assert_eq!(
                active.entries.len() + active.marks.len(),
                active.times.len(),
                "each record is one or the other"
            );
        }
        if let Some(active) = self.active.as_mut().filter(|active| active.was_torn) {
            if active.torn {
                // Otherwise a scan of this segment would take the records of the failed write for the log's
                // continuation.
                end_records(&*active.file, active.number, active.offset)?;
                active.torn = false;
            }
            // A power cut could bring back what the failed write left, and the next segment would seem to continue
            // that: a segment's first record does not name the one before it.
            self.syncs.sync(&*active.file, active.number)?;
            active.was_torn = false;
        }
        let (incarnation, first) = (self.catalog.incarnation, self.head.next());
        let begun = self.spare.clone().take(dir, options, self.recent_entries, claim, |next, made| {
            self.note_room(&made);
            let (file, room_bytes) = match made {
                Ok(made) => made,
                Err(Error::Full { .. }) if claim == Own => {
                    self.reserve_kept = false;
                    next.make_small(dir, options)?
                }
                Err(e) => return Err(e),
            };
            let number = next.number();
            let mut salt = [0; SALT_BYTES];
            let drawn = options.random.fill(&mut salt);
            drawn.map_err(|e| Error::io("drawing", "a salt", e))?;
            let (log, term) = (self.log, self.syncs.holder.term());
            let header =
                SegmentHeader { number, log, first_seq: first, created: time, incarnation, term, salt };
            begin(&header, file, room_bytes)
        });
        let (active, chain) = begun?;
        self.newest = active.number;
        self.chain = chain;
        let Some(full) = self.active.replace(active) else { return Ok(()) };
        self.unsynced.push((full.number, full.file.clone()));
        let (mut entries, mut marks, mut times) = (full.entries, full.marks, full.times);
        entries.shrink_to_fit();
        marks.shrink_to_fit();
        times.shrink_to_fit();
        let entries = Arc::new(entries);
        self.recent.push(entries.clone());
        self.full.push(Full {
            number: full.number,
            file: full.file,
            first_seq: full.first_seq,
            records_end: full.offset,
            entries,
            marks,
            times,
        });
        Ok(())
    }

    /// Makes the file of the next segment, unless it exists already.
    pub(super) fn prepare_next(&mut self, dir: &dyn Dir, options: &LogOptions) -> Result<()> {
        let made = self.spare.prepare((&self.syncs.holder, dir), options, self.recent_entries);
        self.note_room(&made);
        made.map(drop)
    }

    /// Remembers whether there was room when more was wanted.
    pub(super) fn note_room<T>(&mut self, made: &Result<T>) {
        self.starved = matches!(made, Err(Error::Full { .. }));
    }

    /// Reserves the rest of the space for a segment that was begun small for the log's own records.
    pub(super) fn grow(&mut self, dir: &dyn Dir, options: &LogOptions) -> Result<()> {
        let entries = self.recent_entries;
        let Some(active) = self.active.as_mut().filter(|a| a.room_bytes < options.segment_bytes) else {
            return Ok(());
        };
        let grown = room::reserve_whole(dir, options, &*active.file, active.number, entries);
        if grown.is_ok() {
            active.room_bytes = options.segment_bytes;
        }
        self.note_room(&grown);
        grown
    }
}

/// Writes a segment's header into its empty file.
fn begin(header: &SegmentHeader, file: Arc<dyn File>, room_bytes: u64) -> Result<(Active, u32)> {
    let number = header.number;
    let bytes = header.encode();
    let decoded = SegmentHeader::decode(&bytes);
    // Recovery depends on the header.
    assert!(decoded.as_ref().is_ok_and(|(read, _)| read == header), "a header reads as it was written");
    let chain = decoded.map_or(0, |(_, crc)| crc);
    file.write_at(&mut [IoSlice::new(&bytes)], 0)
        .map_err(|e| Error::io("writing", &segment::label(number), e))?;
    let offset = SEGMENT_HEADER_BYTES as u64;
    let active = Active {
        number,
        file,
        first_seq: header.first_seq,
        offset,
        written_to: offset,
        room_bytes,
        torn: false,
        was_torn: false,
        attempt: 0,
        begun_to: offset,
        entries: Vec::new(),
        marks: Vec::new(),
        times: Vec::new(),
    };
    Ok((active, chain))
}

/// Writes zeroes at `offset`, so that no record begins there.
pub(super) fn end_records(file: &dyn File, number: u32, offset: u64) -> Result<()> {
    file.write_at(&mut [IoSlice::new(&[0; HEADER_BYTES])], offset)
        .map_err(|e| Error::io("writing", &segment::label(number), e))
}

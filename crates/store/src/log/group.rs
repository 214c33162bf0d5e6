//! Writes a group of records with one call.
//!
//! All writes go through the page cache, where the next reads find them; large ones leave it once the medium has
//! them. Write-back starts as soon as there is enough for a request of its own. So the medium works while more is
//! received, and a flush finds most of it done ([decision 9](../../../../docs/decisions/0009-large-writes.md)).

use std::{io::IoSlice, ops::Range};

use bygone_model::{Micros, Seq};

use super::{
    LogOptions,
    append::{NewRecord, Sequencer},
};
use crate::{
    error::{Error, Result},
    format::{
        record::{self, HEADER_BYTES, Header, Op},
        segment::{self, Entry, Location, Mark},
    },
};

/// While flushes are small, the file is filled with zeroes this far ahead, so that the next small flushes find their
/// blocks allocated and written, and need no journal commit of the file system.
const AHEAD_BYTES: u64 = 256 << 10;
static ZEROES: [u8; AHEAD_BYTES as usize] = [0; AHEAD_BYTES as usize];

/// Where a record of a group goes, and what is between its header and its payload.
struct RecordLayout {
    start: u64,
    /// Its share of the group's checksums.
    crcs: Range<usize>,
    /// Zeroes that align the payload.
    lead_bytes: usize,
}

impl Sequencer {
    /// Writes records that fit into the active segment.
    pub(super) fn write_group(
        &mut self,
        options: &LogOptions,
        group: &[NewRecord<'_>],
        time: Micros,
        seen: &mut dyn FnMut(&Entry),
    ) -> Result<()> {
        // The caller has made sure that there is one.
        let Some(active) = &mut self.active else { return Ok(()) };
        let (mut heads, mut crcs) = (std::mem::take(&mut self.heads), std::mem::take(&mut self.crcs));
        heads.clear();
        crcs.clear();
        let (mut chain, mut end) = (self.chain, active.offset);
        let mut layouts = Vec::with_capacity(group.len());
        for (i, record) in group.iter().enumerate() {
            let header = Header {
                seq: Seq(self.head.0 + 1 + i as u64),
                time,
                lba: record.lba,
                sectors: record.sectors,
                payload_bytes: record.payload.len() as u32,
                subject: record.subject,
                op: record.op,
                flags: record.flags(options),
                attempt: active.attempt,
                previous: chain,
                incarnation: self.catalog.incarnation,
                durable: self.durable,
            };
            let mut bytes = [0; HEADER_BYTES];
            let crcs_start = crcs.len();
            chain = record::link(header.encode(&self.key, record.payload, &mut bytes, &mut crcs));
            debug_assert!(
                Header::decode(&self.key, &bytes)
                    .is_ok_and(|read| read.header == Header { durable: read.header.durable, ..header }),
                "recovery and every read know a record by what its header says: {header:?}"
            );
            heads.push(bytes);
            let behind_crcs = end + (HEADER_BYTES + crcs.len() - crcs_start) as u64;
            let lead_bytes = (header.payload_at(end) - behind_crcs) as usize;
            layouts.push(RecordLayout { start: end, crcs: crcs_start..crcs.len(), lead_bytes });
            end = header.end(end);
        }
        let bytes = end - active.offset;
        let mut parts = Vec::with_capacity(group.len() * 2 + 1);
        for ((record, head), layout) in group.iter().zip(&heads).zip(&layouts) {
            let padding = &ZEROES[..record::padding_bytes(record.payload.len())];
            let behind = [&crcs[layout.crcs.clone()], &ZEROES[..layout.lead_bytes], record.payload, padding];
            parts.push(IoSlice::new(head));
            parts.extend(behind.into_iter().filter(|part| !part.is_empty()).map(IoSlice::new));
        }
        let mut written_to = active.written_to.max(end);
        let small_flushes = self.flush_bytes < AHEAD_BYTES && self.unflushed_bytes < AHEAD_BYTES;
        if end > active.written_to && small_flushes {
            let ahead = AHEAD_BYTES.min(active.room_bytes.saturating_sub(end));
            parts.push(IoSlice::new(&ZEROES[..ahead as usize]));
            written_to = end + ahead;
        }
        let large = group.iter().map(|record| record.payload.len()).sum::<usize>() >= options.uncached_bytes;
        let written = if large {
            active.file.write_uncached_at(&mut parts, active.offset)
        } else {
            active.file.write_at(&mut parts, active.offset)
        };
        drop(parts);
        self.heads = heads;
        self.crcs = crcs;
        if let Err(e) = written {
            active.torn = true;
            active.was_torn = true;
            active.attempt = active.attempt.saturating_add(1);
            return Err(Error::io("writing", &segment::label(active.number), e));
        }

        active.written_to = written_to;
        active.torn = false;
        self.chain = chain;
        self.last_time = time;
        if active.is_empty() {
            self.segments.push((active.number, active.first_seq, time));
        }
        for (record, layout) in group.iter().zip(&layouts) {
            self.head = self.head.next();
            let offset = layout.start as u32;
            if let Some(volume) = record.subject.as_volume().filter(|_| record.op.is_block()) {
                let at = Location::of(active.number, record.op, layout.start);
                let entry = Entry { volume, lba: record.lba, sectors: record.sectors, seq: self.head, at };
                active.entries.push(entry);
                seen(&entry);
            } else {
                active.marks.push(Mark { seq: self.head, offset, op: record.op, subject: record.subject });
            }
            active.times.push(time);
        }
        if self.unflushed_bytes == 0 {
            // A flush has just covered what came before.
            active.begun_to =
                active.begun_to.max(active.offset - active.offset % record::PAYLOAD_ALIGN_BYTES);
        }
        active.offset = end;
        // Scans advance in steps of `ALIGN_BYTES`, and `times` is indexed by the distance from the first seq.
        assert!(end.is_multiple_of(record::ALIGN_BYTES), "a record ends at {end}");
        assert_eq!(active.first_seq.0 + active.times.len() as u64, self.head.0 + 1, "a seq without a time");
        // Leaves out the last block, which the next records fill up.
        let whole = end - end % record::PAYLOAD_ALIGN_BYTES;
        if large {
            // The uncached write has started its own write-back; the little before it waits for the flush.
            active.begun_to = whole;
        } else if whole.saturating_sub(active.begun_to) >= options.begin_bytes {
            active.file.begin_writing(active.begun_to, whole - active.begun_to);
            active.begun_to = whole;
        }
        self.recent_entries += group.iter().filter(|r| r.op.is_block()).count();
        self.recent_bytes += bytes;
        self.unflushed_bytes += bytes;
        self.wants_flush_mark |= group.iter().any(|r| r.op != Op::Flush);
        Ok(())
    }
}

//! Writing records that belong together, with one call.
//!
//! Everything goes through the system's memory, where the next reads find it. The medium is asked to begin with what was written
//! as soon as that is worth a request of its own, so that it works while more is received, and a flush finds most of it done
//! ([decision 9](../../../../docs/decisions/0009-large-writes.md)).

use std::io::IoSlice;

use bygone_model::{Micros, Seq, VolumeId};

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

/// After a small flush the file is written ahead with zeroes by this much, so that the next small flushes
/// find their blocks allocated and written and need no journal commit of the file system.
const AHEAD_BYTES: u64 = 256 << 10;
static ZEROES: [u8; AHEAD_BYTES as usize] = [0; AHEAD_BYTES as usize];

impl Sequencer {
    /// Writes records that fit into the active segment.
    pub(super) fn write_group(
        &mut self,
        options: &LogOptions,
        group: &[NewRecord<'_>],
        time: Micros,
        seen: &mut dyn FnMut(&Entry),
    ) -> Result<()> {
        // There is one: whoever calls has seen to it.
        let Some(active) = &mut self.active else { return Ok(()) };
        let mut places = Vec::with_capacity(group.len());
        let mut end = active.offset;
        for record in group {
            let place = record.place(end, options);
            places.push((place.0 - end, place.0));
            end = place.1;
        }
        let bytes = end - active.offset;

        let (mut heads, mut tails) = (std::mem::take(&mut self.heads), std::mem::take(&mut self.tails));
        heads.clear();
        tails.clear();
        let mut chain = self.chain;
        let mut tail_ends = Vec::with_capacity(group.len());
        for (i, record) in group.iter().enumerate() {
            let header = Header {
                seq: Seq(self.head.0 + 1 + i as u64),
                time,
                lba: record.lba,
                sectors: record.sectors,
                payload_bytes: record.payload.len() as u32,
                subject: record.subject,
                op: record.op,
                flags: record.flags,
                previous: chain,
                incarnation: self.catalog.incarnation,
                durable: self.durable,
            };
            let mut bytes = [0; HEADER_BYTES];
            chain = header.encode(&self.log_id, record.payload, &mut bytes, &mut tails);
            heads.push(bytes);
            tail_ends.push(tails.len());
        }
        let mut parts = Vec::with_capacity(group.len() * 4 + 1);
        let mut tail_start = 0;
        for (i, record) in group.iter().enumerate() {
            if places[i].0 > 0 {
                parts.push(IoSlice::new(&ZEROES[..places[i].0 as usize]));
            }
            parts.push(IoSlice::new(&heads[i]));
            if !record.payload.is_empty() {
                parts.push(IoSlice::new(record.payload));
                parts.push(IoSlice::new(&tails[tail_start..tail_ends[i]]));
            }
            tail_start = tail_ends[i];
        }
        let mut written_to = active.written_to.max(end);
        let small_flushes = self.flush_bytes < AHEAD_BYTES && self.unflushed_bytes < AHEAD_BYTES;
        if end > active.written_to && small_flushes {
            let ahead = AHEAD_BYTES.min(active.room_bytes.saturating_sub(end));
            parts.push(IoSlice::new(&ZEROES[..ahead as usize]));
            written_to = end + ahead;
        }
        let written = active.file.write_at(&mut parts, active.offset);
        drop(parts);
        self.heads = heads;
        self.tails = tails;
        if let Err(e) = written {
            active.torn = active.torn.max(Some(time));
            active.was_torn = true;
            return Err(Error::io("writing", &segment::file_name(active.number), e));
        }

        active.written_to = written_to;
        active.torn = None;
        self.chain = chain;
        self.last_time = time;
        if active.is_empty() {
            self.segments.push((active.number, active.first_seq, time));
        }
        for (record, &(_, start)) in group.iter().zip(&places) {
            self.head = self.head.next();
            let offset = start as u32;
            if record.op.is_block() {
                let at = Location::of(active.number, record.op, start);
                let volume = VolumeId(record.subject);
                let entry = Entry { volume, lba: record.lba, sectors: record.sectors, seq: self.head, at };
                active.entries.push(entry);
                seen(&entry);
            } else {
                active.marks.push(Mark { seq: self.head, offset, op: record.op });
            }
            active.times.push(time);
        }
        active.offset = end;
        // The block at the end is left out: more of it comes with the next records.
        let whole = end - end % record::BLOCK_BYTES;
        if whole.saturating_sub(active.begun_to) >= options.begin_bytes {
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

//! Follows the log: returns every record once, in order of seq, as soon as it is durable.
//!
//! Meant for detectors, replicas and packers. They are no part of the write path, which does not know of them: a
//! follower that lags delays nobody else.
//!
//! Invariants: no record is returned that a power cut could undo; every seq up to the follower's cursor was returned
//! or reported as lost; memory is bounded by the index of one segment, whatever a target writes.

use std::{ops::RangeInclusive, sync::Arc, sync::PoisonError, time::Duration};

use bygone_model::{Lba, Micros, Sectors, Seq};

use super::Log;
use crate::{
    error::{Error, Result},
    format::{
        record::{Op, Subject},
        segment::{Entry, Location, Mark},
    },
    place::{Piece, Wait},
};

/// The most records in a batch.
const BATCH_RECORDS: u64 = 4096;

/// A position in a log: everything up to and including `seq` was processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The log's id.
    pub log: [u8; 16],
    /// The last record processed; 0 for none.
    pub seq: Seq,
}

/// A record without its payload, which is read on request: [`Follower::read`], [`Follower::payload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Its position in the log.
    pub seq: Seq,
    /// When it was received.
    pub time: Micros,
    /// What it does.
    pub op: Op,
    /// What it is about.
    pub subject: Subject,
    /// The first sector, for block records.
    pub lba: Lba,
    /// The length in sectors, for block records.
    pub sectors: Sectors,
    at: Location,
}

/// The records of a range of seqs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Those that are wanted, in order.
    pub records: Vec<Followed>,
    /// Records that cannot be read any more: they are damaged, or their segment is missing.
    pub lost: Vec<RangeInclusive<Seq>>,
    /// The last seq of the range: the cursor once the batch is processed.
    pub upto: Seq,
}

/// Reads a log from a cursor on, as far as it is durable.
pub struct Follower {
    log: Arc<Log>,
    seen: Seq,
    subjects: Option<Vec<Subject>>,
    part: Option<Part>,
}

/// The records of a range of seqs within one segment.
struct Part {
    span: RangeInclusive<Seq>,
    records: Vec<Followed>,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl Followed {
    fn of_entry(entry: &Entry, time: Micros) -> Followed {
        let op = match entry.at {
            at if at.is_trimmed() => Op::Trim,
            at if at.is_zero() => Op::Zero,
            _ => Op::Write,
        };
        let (subject, at) = (Subject::volume(entry.volume), entry.at);
        Followed { seq: entry.seq, time, op, subject, lba: entry.lba, sectors: entry.sectors, at }
    }

    fn of_mark(mark: &Mark, time: Micros, segment: u32) -> Followed {
        let at = Location { segment, offset: mark.offset };
        let (lba, sectors) = (Lba(0), Sectors(0));
        Followed { seq: mark.seq, time, op: mark.op, subject: mark.subject, lba, sectors, at }
    }
}

impl Part {
    /// The records of `span` among the entries and marks of a segment, both in order of seq.
    fn of(
        number: u32,
        (first, times): (Seq, &[Micros]),
        entries: &[Entry],
        marks: &[Mark],
        span: RangeInclusive<Seq>,
    ) -> Part {
        let time = |seq: Seq| {
            let at = seq.0.checked_sub(first.0).and_then(|at| times.get(at as usize));
            at.or(times.last()).copied().unwrap_or(Micros(0))
        };
        let entries = &entries[entries.partition_point(|entry| entry.seq < *span.start())..];
        let marks = &marks[marks.partition_point(|mark| mark.seq < *span.start())..];
        let entries = entries.iter().map(|entry| Followed::of_entry(entry, time(entry.seq)));
        let marks = marks.iter().map(|mark| Followed::of_mark(mark, time(mark.seq), number));
        let inside = |record: &Followed| record.seq <= *span.end();
        let mut records: Vec<Followed> = entries.take_while(inside).chain(marks.take_while(inside)).collect();
        records.sort_unstable_by_key(|record| record.seq);
        Part { span, records }
    }
}

impl Log {
    /// Follows the log from `cursor` on. Only durable records are returned: to stay near the present, call
    /// [`Log::flush`] now and then.
    ///
    /// # Errors
    /// When the cursor belongs to another log, or is beyond the end of this one.
    pub fn follow(self: &Arc<Self>, cursor: Cursor) -> Result<Follower> {
        if cursor.log != self.id() {
            return Err(Error::OtherLog);
        }
        let head = self.head_seq();
        if cursor.seq > head {
            return Err(Error::InTheFuture { asked: cursor.seq, head });
        }
        Ok(Follower { log: self.clone(), seen: cursor.seq, subjects: None, part: None })
    }

    /// The records from `want` on, at least one and at most those of one segment. Of a segment in memory they end at
    /// `upto`, or earlier. Lost records are missing from the part.
    fn part_from(&self, want: Seq, upto: Seq) -> Result<Part> {
        let lost = |upto: Seq| Part { span: want..=upto, records: Vec::new() };
        let (number, end) = self.segment_around(want)?;
        let Some(number) = number else { return Ok(lost(end)) };
        {
            let sequencer = self.sequencer();
            let full = sequencer.full.iter().find(|full| full.number == number);
            let full = full.map(|full| (full.first_seq, &full.times, full.entries.as_slice(), &full.marks));
            let active = sequencer.active.as_ref().filter(|active| active.number == number);
            let active = active.map(|a| (a.first_seq, &a.times, a.entries.as_slice(), &a.marks));
            if let Some((first, times, entries, marks)) = full.or(active) {
                let last = Seq((first.0 + times.len() as u64).saturating_sub(1));
                // It was in a later segment, which is gone.
                if last < want {
                    return Ok(lost(end));
                }
                let span = want..=last.min(upto).min(Seq(want.0 + BATCH_RECORDS - 1));
                return Ok(Part::of(number, (first, times), entries, marks, span));
            }
        }
        let Some(mut index) = self.index_despite_damage(number)? else { return Ok(lost(end)) };
        index.entries.sort_unstable_by_key(|entry| entry.seq);
        let span = want..=index.last_seq().max(end);
        Ok(Part::of(number, (index.first_seq, &index.times), &index.entries, &index.marks, span))
    }
}

impl Follower {
    /// Returns only records about these subjects. Lost records are reported all the same.
    #[must_use]
    pub fn only(mut self, subjects: Vec<Subject>) -> Follower {
        self.subjects = Some(subjects);
        self
    }

    /// The position up to which everything was returned.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { log: self.log.id(), seq: self.seen }
    }

    /// How many durable records are not returned yet.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.log.durable_seq().0.saturating_sub(self.seen.0)
    }

    /// The next records; `None` when all durable ones were returned. A batch has no records if none of its range is
    /// wanted.
    ///
    /// # Errors
    /// When the index or the medium cannot be read; another call resumes at the same position. Damage is no error:
    /// see [`Batch::lost`].
    pub fn next_batch(&mut self) -> Result<Option<Batch>> {
        let durable = self.log.durable_seq();
        if self.seen >= durable {
            return Ok(None);
        }
        let want = self.seen.next();
        let part = match self.part.take().filter(|part| part.span.contains(&want)) {
            Some(part) => part,
            None => self.log.part_from(want, durable)?,
        };
        let upto = (*part.span.end()).min(durable).min(Seq(want.0 + BATCH_RECORDS - 1));
        assert!(want <= upto, "a part begins with what was asked for");
        let from = part.records.partition_point(|record| record.seq < want);
        let (mut records, mut lost, mut next) = (Vec::new(), Vec::new(), want);
        for record in part.records[from..].iter().take_while(|record| record.seq <= upto) {
            if next < record.seq {
                lost.push(next..=Seq(record.seq.0 - 1));
            }
            next = record.seq.next();
            if self.subjects.as_ref().is_none_or(|wanted| wanted.contains(&record.subject)) {
                records.push(*record);
            }
        }
        if next <= upto {
            lost.push(next..=upto);
        }
        if upto < *part.span.end() {
            self.part = Some(part);
        }
        self.seen = upto;
        Ok(Some(Batch { records, lost, upto }))
    }

    /// Waits for more durable records, but no longer than `at_most`; returns whether there are any.
    #[must_use]
    pub fn wait(&self, at_most: Duration) -> bool {
        let state = self.log.durability();
        if state.durable > self.seen {
            return true;
        }
        let waited = self.log.durability_changed.wait_timeout(state, at_most);
        waited.unwrap_or_else(PoisonError::into_inner).0.durable > self.seen
    }

    /// Fills `buf` with what a block record wrote from sector `from` on.
    ///
    /// # Errors
    /// When that is outside the record, cannot be read, or is damaged.
    pub fn read(&self, record: &Followed, from: Lba, buf: &mut [u8]) -> Result<()> {
        let (start, end) = (record.lba.0, record.lba.0.saturating_add(record.sectors.0));
        let inside = start <= from.0 && from.0.saturating_add(Sectors::of_bytes(buf.len() as u64).0) <= end;
        match (record.subject.as_volume(), record.op) {
            (Some(_), Op::Zero | Op::Trim) if inside => {
                buf.fill(0);
                Ok(())
            }
            (Some(_), Op::Write) if inside => {
                let piece = Piece { name: record.at, seq: record.seq, lba: from };
                self.log.places.read(piece, buf, Wait::Yes)
            }
            (volume, _) => {
                let volume = volume.unwrap_or_default();
                let sectors = Sectors::of_bytes(buf.len() as u64);
                Err(Error::OutOfRange { volume, lba: from, sectors })
            }
        }
    }

    /// The payload of a record other than a block record: an event or a catalog change as JSON, or whatever a newer
    /// program wrote.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    ///
    /// # Panics
    /// When it is a block record: use [`Follower::read`].
    pub fn payload(&self, record: &Followed) -> Result<Vec<u8>> {
        assert!(!record.op.is_block(), "blocks are read in parts");
        self.log.places.payload(record.at, record.seq)
    }
}

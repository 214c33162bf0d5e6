//! Converts between times and seqs, and lists the events between two moments.

use std::sync::{Arc, PoisonError};

use bygone_model::{Micros, Place, Seq};

use super::{Log, summaries::Span};
use crate::{
    error::{Damage, Error, Result},
    format::{
        checkpoint::{Name, StoredEvent},
        record::{Op, Subject},
        segment::{self, Entry},
    },
};

/// An event with its position in the log.
pub type Event = StoredEvent;

/// A moment found by its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeHit {
    /// The last record at or before the time.
    pub seq: Seq,
    /// The time of that record.
    pub time: Micros,
    /// The era of the clock, an index into the catalog's eras.
    pub era: usize,
    /// Whether the era lasted until the time asked for.
    pub within: bool,
}

impl Log {
    /// Calls `each` with the events recorded after `from`, up to and including `to`, in order, until it returns
    /// false. For queries over many events use [`Log::find_events`].
    ///
    /// # Errors
    /// When they cannot be read or are damaged.
    pub fn events(&self, from: Seq, to: Seq, each: &mut dyn FnMut(&Event) -> bool) -> Result<()> {
        // Memory comes first. So an event that a checkpoint takes over meanwhile is not missed.
        let recent = self.sequencer().events.clone();
        let mut reached = from;
        let snapshot = self.index.snapshot();
        let names = &snapshot.names;
        for &name in names.iter().filter(|name| name.end > from) {
            if reached >= to {
                return Ok(());
            }
            let summaries = self.summaries_of(&[name], names)?;
            let blocks = summaries.iter().flat_map(|summary| summary.events.iter());
            for block in blocks.filter(|b| b.seqs.1 > reached && b.seqs.0 <= to) {
                for event in self.events_of(name, block)? {
                    if event.seq > reached && event.seq <= to && !each(&event) {
                        return Ok(());
                    }
                }
            }
            reached = reached.max(name.end);
        }
        for event in recent.iter().filter(|e| e.seq > reached && e.seq <= to) {
            if !each(event) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The last moment at or before a time in each era of the clock that had begun by then, the newest last.
    ///
    /// # Errors
    /// When the index cannot be read or is damaged.
    pub fn at_time(&self, time: Micros) -> Result<Vec<TimeHit>> {
        let (eras, head) = {
            let sequencer = self.sequencer();
            (sequencer.catalog.eras.clone(), sequencer.head)
        };
        let mut hits = Vec::new();
        for (i, era) in eras.iter().enumerate() {
            let first = Seq(era.first.0.max(1));
            let last = eras.get(i + 1).map_or(head, |next| Seq(next.first.0.saturating_sub(1)));
            if era.from > time || first > last {
                continue;
            }
            if let Some((seq, at)) = self.last_in(first, last, time)? {
                let ended = seq == last && i + 1 < eras.len() && at < time;
                hits.push(TimeHit { seq, time: at, era: i, within: !ended });
            }
        }
        Ok(hits)
    }

    /// The time of the last record.
    #[must_use]
    pub fn last_time(&self) -> Micros {
        self.sequencer().last_time
    }

    /// The time of a record; for seq 0 that of the first.
    ///
    /// # Errors
    /// When the index cannot be read or is damaged, or there is no such record.
    pub fn time_of(&self, seq: Seq) -> Result<Micros> {
        let head = self.head_seq();
        if seq > head {
            return Err(Error::InTheFuture { asked: seq, head });
        }
        let seq = Seq(seq.0.max(1));
        let found = self.last_in(seq, seq, Micros::MAX)?;
        found.map(|(_, time)| time).ok_or(Error::BeforeHistory { asked: seq, first: Seq(1) })
    }

    /// The place of a record: on the branch that it was written on, whichever is the present now. A record of no
    /// branch (a catalog change or a flush) is on the branch that was the present then.
    ///
    /// # Errors
    /// When the index cannot be read or is damaged, or there is no such record.
    pub fn place_of(&self, seq: Seq) -> Result<Place> {
        let (head, catalog) = {
            let sequencer = self.sequencer();
            (sequencer.head, sequencer.catalog.clone())
        };
        if seq > head {
            return Err(Error::InTheFuture { asked: seq, head });
        }
        if seq == Seq::ZERO {
            return Ok(catalog.lived_at(seq));
        }
        let branch = match self.subject_of(seq)? {
            Some(subject) => match subject.as_volume() {
                Some(volume) => catalog.volume(volume)?.branch,
                None => subject.as_branch().unwrap_or_else(|| catalog.present_at(seq)),
            },
            None => catalog.present_at(seq),
        };
        Ok(Place::new(branch, seq))
    }

    /// The subject of a block record or an event; `None` for other records.
    fn subject_of(&self, seq: Seq) -> Result<Option<Subject>> {
        let number = self.segment_of(seq)?;
        let written = |entries: &[Entry], sorted: bool| {
            let found = match sorted {
                true => entries.binary_search_by_key(&seq, |e| e.seq).ok().map(|i| entries[i].volume),
                false => entries.iter().find(|e| e.seq == seq).map(|e| e.volume),
            };
            found.map(Subject::volume)
        };
        let marked = |marks: &[segment::Mark]| {
            let mark = marks.binary_search_by_key(&seq, |mark| mark.seq).ok().map(|i| marks[i]);
            mark.filter(|mark| mark.op == Op::Event).map(|mark| mark.subject)
        };
        let in_memory = {
            let sequencer = self.sequencer();
            let active = sequencer.active.as_ref().filter(|active| active.number == number);
            let full = sequencer.full.iter().find(|full| full.number == number);
            match (active, full) {
                (Some(active), _) => Some((written(&active.entries, true), marked(&active.marks))),
                (None, Some(full)) => Some((written(&full.entries, true), marked(&full.marks))),
                (None, None) => None,
            }
        };
        let (written, marked) = match in_memory {
            Some(found) => found,
            None => {
                let index = self.index_despite_reported_damage(number)?;
                (written(&index.entries, false), marked(&index.marks))
            }
        };
        Ok(written.or(marked))
    }

    /// The number of the segment that holds a record.
    fn segment_of(&self, seq: Seq) -> Result<u32> {
        self.segment_around(seq)?.0.ok_or_else(|| Error::damaged("log", 0, Damage::Truncated))
    }

    /// The number of the segment that holds a record, with the last seq that it may have: the one before the next
    /// segment, or the end of the span. `None`: the record is lost, and so is everything up to that seq; the log is
    /// not known to have a segment that begins so early.
    pub(super) fn segment_around(&self, seq: Seq) -> Result<(Option<u32>, Seq)> {
        let mut lost_upto = None;
        for span in self.spans(seq, seq, Micros::MAX)? {
            let at = span.segments.partition_point(|start| start.1 <= seq);
            let next = span.segments.get(at).map(|next| Seq(next.1.0.saturating_sub(1)));
            let end = next.unwrap_or(span.end).max(seq);
            if let Some(start) = at.checked_sub(1).and_then(|at| span.segments.get(at)) {
                return Ok((Some(start.0), end));
            }
            lost_upto = lost_upto.or(Some(end));
        }
        Ok((None, lost_upto.unwrap_or(seq)))
    }

    /// The last record in `first ..= last` (within one era) that is not later than `time`.
    fn last_in(&self, first: Seq, last: Seq, time: Micros) -> Result<Option<(Seq, Micros)>> {
        let mut before: Option<(Seq, Micros)> = None;
        for span in self.spans(first, last, time)? {
            for (i, &(number, start, start_time)) in span.segments.iter().enumerate().rev() {
                if start > last || (start >= first && start_time > time) {
                    continue;
                }
                let (start, times, lost) = self.segment_times(number)?;
                let at = |seq: Seq| times.get((seq.0.checked_sub(start.0)?) as usize).copied();
                let from = first.max(start);
                let end = span.segments.get(i + 1).map_or(span.end, |next| Seq(next.1.0.saturating_sub(1)));
                let to = last.min(span.end).min(Seq((start.0 + times.len() as u64).saturating_sub(1)));
                if to < last.min(end) {
                    return Err(Error::damaged(&segment::label(number), 0, Damage::Truncated));
                }
                if from > to {
                    continue;
                }
                let range = &times[(from.0 - start.0) as usize..=(to.0 - start.0) as usize];
                let count = range.partition_point(|t| *t <= time) as u64;
                if count > 0 {
                    let seq = Seq(from.0 + count - 1);
                    if lost.iter().any(|lost| lost.contains(&seq)) {
                        return Err(Error::damaged(&segment::label(number), 0, Damage::Checksum));
                    }
                    return Ok(at(seq).map(|t| (seq, t)));
                }
            }
            if span.end >= first && span.end <= last && span.end_time <= time {
                before = Some((span.end, span.end_time));
            }
        }
        Ok(before)
    }

    /// The spans in which the last record up to `time` can be, the likeliest first.
    fn spans(&self, first: Seq, last: Seq, time: Micros) -> Result<Vec<Arc<Span>>> {
        let recent = {
            let sequencer = self.sequencer();
            let covered = self.heads().base.as_ref().map_or(Seq::ZERO, |base| base.footer.end);
            let span = Span {
                end: sequencer.head,
                end_time: sequencer.last_time,
                segments: sequencer.segments.clone(),
            };
            (covered, span)
        };
        let snapshot = self.index.snapshot();
        let names = &snapshot.names;
        let reaches = |n: &Name| n.end >= first && (n.end >= last || n.end_time > time);
        let from = names.partition_point(|n| n.end < first);
        // Within an era times do not fall as seqs grow, so this is the first span that reaches far enough. The one
        // before it comes second.
        let at = from + names[from..].partition_point(|n| !reaches(n));
        let mut out = Vec::new();
        if at == names.len() && recent.0 < last {
            out.push(Arc::new(recent.1));
        }
        let before = at.checked_sub(1).filter(|i| names[*i].end >= first);
        let wanted: Vec<Name> = names.get(at).copied().into_iter().chain(before.map(|i| names[i])).collect();
        out.extend(self.summaries_of(&wanted, names)?.into_iter().map(|summary| summary.span));
        Ok(out)
    }

    /// The number of checkpoints kept open for readers; for tests of memory.
    #[must_use]
    pub fn open_checkpoints(&self) -> usize {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

//! What a checkpoint has of its span, taken from the segments: for readers while the checkpoint's file is damaged, and to
//! write that file again. An index is expendable: everything in it comes from the segments.
//!
//! Invariant: what cannot be read, or is missing, is an error. A part of it would look like all there was.

use std::sync::{Arc, PoisonError};

use bygone_model::{Micros, Seq, VolumeId};

use super::{Events, Layer, Log, summaries::Summary};
use crate::{
    catalog::{Catalog, Change},
    error::{Damage, Error, Result},
    format::{
        checkpoint::{Block, Name, SegmentStart, StoredEvent},
        events::{self, EventBlock},
        manifest::State,
        record::Op,
        segment::{self, Entry, Location, Mark},
    },
    index::{
        checkpoint::Checkpoint,
        compaction::{self, Again, Contents, Versions},
        mended::Lost,
    },
};

/// The records of a segment.
struct Part {
    number: u32,
    first: Seq,
    /// In order of seq.
    entries: Arc<Vec<Entry>>,
    marks: Vec<Mark>,
    times: Vec<Micros>,
}

/// What the segments have of a stretch of the log, besides the versions.
#[derive(Default)]
struct Stretch {
    segments: Vec<SegmentStart>,
    events: Events,
    changes: Vec<(Seq, Micros, Change)>,
}

impl Part {
    fn last(&self) -> Seq {
        Seq((self.first.0 + self.times.len() as u64).saturating_sub(1))
    }
}

impl Log {
    /// Reads the records after `after`, up to and including `to`, from the segments. Calls `each` with the versions, in
    /// order.
    fn stretch(&self, after: Seq, to: Seq, each: &mut dyn FnMut(&Entry) -> Result<()>) -> Result<Stretch> {
        let (mut found, mut reached) = (Stretch::default(), after);
        for number in self.segments_after(after)? {
            if reached >= to {
                break;
            }
            let part = self.part_of(number)?;
            if part.last() <= reached {
                continue;
            }
            if part.first > reached.next() {
                return Err(Error::damaged(&segment::label(number), 0, Damage::Inconsistent));
            }
            found.segments.extend(part.times.first().map(|time| (number, part.first, *time)));
            let from = part.entries.partition_point(|entry| entry.seq <= reached);
            for entry in part.entries[from..].iter().take_while(|entry| entry.seq <= to) {
                each(entry)?;
            }
            for mark in part.marks.iter().filter(|mark| mark.seq > reached && mark.seq <= to) {
                self.take_mark(&part, mark, &mut found)?;
            }
            reached = part.last();
        }
        if reached < to {
            return Err(Error::damaged("log", 0, Damage::Truncated));
        }
        Ok(found)
    }

    /// The segments that may have records after `after`, in order.
    fn segments_after(&self, after: Seq) -> Result<Vec<u32>> {
        let mut numbers = self.segments_there()?;
        {
            let sequencer = self.sequencer();
            numbers.extend(sequencer.full.iter().map(|full| full.number));
            numbers.extend(sequencer.active.iter().map(|active| active.number));
        }
        numbers.sort_unstable();
        numbers.dedup();
        let manifest = self.manifest();
        let ends_before = |number: &u32| {
            let known = manifest.segment(*number).filter(|entry| entry.state == State::Lives);
            known.is_some_and(|entry| entry.last_seq != Seq::ZERO && entry.last_seq <= after)
        };
        numbers.retain(|number| !ends_before(number));
        Ok(numbers)
    }

    fn part_of(&self, number: u32) -> Result<Part> {
        {
            let sequencer = self.sequencer();
            if let Some(full) = sequencer.full.iter().find(|full| full.number == number) {
                let (entries, marks, times) = (full.entries.clone(), full.marks.clone(), full.times.clone());
                return Ok(Part { number, first: full.first_seq, entries, marks, times });
            }
            if let Some(active) = sequencer.active.as_ref().filter(|active| active.number == number) {
                let entries = Arc::new(active.entries.clone());
                let (marks, times) = (active.marks.clone(), active.times.clone());
                return Ok(Part { number, first: active.first_seq, entries, marks, times });
            }
        }
        let mut index = self.index_with_all_that_was_known(number)?;
        index.entries.sort_unstable_by_key(|entry| entry.seq);
        let (first, entries) = (index.first_seq, Arc::new(index.entries));
        Ok(Part { number, first, entries, marks: index.marks, times: index.times })
    }

    fn take_mark(&self, part: &Part, mark: &Mark, found: &mut Stretch) -> Result<()> {
        if matches!(mark.op, Op::Flush | Op::Other(_)) {
            return Ok(());
        }
        let file = segment::label(part.number);
        let damaged = || Error::damaged(&file, u64::from(mark.offset), Damage::Inconsistent);
        let at = usize::try_from(mark.seq.0 - part.first.0).ok().and_then(|at| part.times.get(at));
        let time = *at.ok_or_else(damaged)?;
        let payload = self.places.payload(Location { segment: part.number, offset: mark.offset }, mark.seq);
        let payload = match payload {
            // What was damaged already when the log was opened was in no index either.
            Err(error)
                if error.is_lasting_damage()
                    && mark.seq > self.covered_at_open
                    && self.damaged_at_open.contains(&file) =>
            {
                return Ok(());
            }
            payload => payload?,
        };
        if mark.op == Op::Event {
            let event = serde_json::from_slice(&payload).map_err(|_| damaged())?;
            let branch = mark.subject.as_branch().unwrap_or_default();
            found.events.push(StoredEvent { seq: mark.seq, time, branch, event });
        } else {
            let change = serde_json::from_slice(&payload).map_err(|_| damaged())?;
            found.changes.push((mark.seq, time, change));
        }
        Ok(())
    }

    /// The events of one block of a checkpoint.
    ///
    /// # Errors
    /// When neither the index nor the segments can be read.
    pub(super) fn events_of(&self, name: Name, block: &EventBlock) -> Result<Events> {
        if !block.is_nowhere() {
            match self.index.event_block(name, block) {
                Err(error) if error.is_index_damage() => self.index.mended.report_file(name.number),
                read => return read,
            }
        }
        let (first, last) = block.seqs;
        Ok(self.stretch(Seq(first.0.saturating_sub(1)), last, &mut |_| Ok(()))?.events)
    }

    /// What stays in memory of a checkpoint whose file is damaged. It follows the record `after`.
    pub(super) fn summary_from_log(&self, name: Name, after: Seq) -> Result<Summary> {
        let found = self.stretch(after, name.end, &mut |_| Ok(()))?;
        let blocks = events::blocks(&found.events).map(|block| EventBlock::of(Block::NOWHERE, block));
        Ok(Summary::new(name.end, name.end_time, found.segments, blocks.collect()))
    }

    /// A volume as of `seq`, if the checkpoint for that moment is damaged: from the one before it and the segments.
    ///
    /// # Errors
    /// When they cannot be read; `damaged`, if that takes more memory than a log may have for what is in no checkpoint.
    pub(super) fn layer_from_log(&self, volume: VolumeId, seq: Seq, damaged: &Error) -> Result<Layer> {
        let snapshot = self.index.snapshot();
        let behind = snapshot.names.partition_point(|name| name.end < seq);
        let mut checkpoint = None;
        for &name in snapshot.names[..behind].iter().rev() {
            match self.open_checkpoint(name) {
                Err(error) if error.is_index_damage() => {}
                opened => {
                    checkpoint = Some(Arc::new(opened?));
                    break;
                }
            }
        }
        let covered = checkpoint.as_ref().map_or(Seq::ZERO, |checkpoint| checkpoint.footer.end);
        let mut versions = Vec::new();
        self.stretch(covered, seq, &mut |entry| {
            if versions.len() >= self.options.versions_max {
                return Err(damaged.clone());
            }
            versions.extend(Some(*entry).filter(|entry| entry.volume == volume));
            Ok(())
        })?;
        let recent = self.recents.get((volume, covered), &self.share, &|| versions.iter());
        let lost_upto = self.catalog().lost_upto(volume, seq);
        Ok(Layer { volume, seq, recent: Some(recent), checkpoint, lost_upto })
    }

    /// Opens a checkpoint, and reports it if it is damaged.
    ///
    /// # Errors
    /// As [`crate::index::checkpoint::IndexFiles::open`].
    pub(super) fn open_checkpoint(&self, name: Name) -> Result<Checkpoint> {
        let opened = self.index.open(name);
        opened.inspect_err(|error| {
            if error.is_index_damage() {
                self.index.mended.report_file(name.number);
            }
        })
    }

    /// Writes a checkpoint again of which something besides its trees is damaged, or sets it aside.
    pub(super) fn mend_checkpoint(&self, number: u32) -> Result<()> {
        let _turn = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_holder()?;
        match self.write_checkpoint_again(number).map_err(|error| self.unless_superseded(error)) {
            Err(error @ Error::Damaged { .. }) => {
                self.index.mended.set_file_aside(number, Lost::by(&error));
                Ok(())
            }
            done => done,
        }
    }

    fn write_checkpoint_again(&self, number: u32) -> Result<()> {
        let snapshot = self.index.snapshot();
        let Some(at) = snapshot.names.iter().position(|name| name.number == number) else {
            // It was joined with others.
            self.index.mended.file_mended(number);
            return Ok(());
        };
        let name = snapshot.names[at];
        let base = self.heads().base.clone().filter(|base| base.name == name);
        let footer = match self.index.open(name) {
            Ok(opened) => {
                let is_whole = |block| self.index.event_block(name, block).is_ok();
                if opened.footer.events.iter().all(is_whole) {
                    self.index.mended.file_mended(number);
                    return Ok(());
                }
                Some(opened.footer)
            }
            Err(error) if error.is_index_damage() => base.as_ref().map(|base| base.footer.clone()),
            Err(error) => return Err(error),
        };
        // What cannot be read now can be made anew as long as the log is whole.
        let (holes, id) = (self.damage().is_empty(), (name, self.term()));
        let look = || self.check_holder();
        let made = match footer {
            Some(footer) => {
                let mut events = Vec::new();
                for block in &footer.events {
                    events.extend(self.events_of(name, block)?);
                }
                compaction::write_again(&self.index, id, Again::Events(&footer, &events), holes, &look)?
            }
            None => {
                let before = at.checked_sub(1).map(|i| snapshot.names[i]);
                let previous = match before.map(|before| self.open_checkpoint(before)).transpose() {
                    Err(error) if error.is_index_damage() => {
                        let lost = before.and_then(|before| self.index.mended.why_file_aside(before.number));
                        lost.into_iter().for_each(|lost| self.index.mended.set_file_aside(number, lost));
                        // The one before it comes first.
                        return Ok(());
                    }
                    previous => previous?,
                };
                let contents = self.contents_from_log(name, previous.as_ref())?;
                let _lent = self.share.lend(contents.versions.bytes());
                let again = Again::All(previous.as_ref(), contents, self);
                compaction::write_again(&self.index, id, again, holes, &look)?
            }
        };
        self.summaries.forget(number);
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).retain(|open| open.name != name);
        if base.is_some() {
            self.heads_mut().base = Some(Arc::new(made));
        }
        self.index.mended.file_mended(number);
        Ok(())
    }

    /// The contents of a checkpoint that follows `previous`.
    fn contents_from_log(&self, name: Name, previous: Option<&Checkpoint>) -> Result<Contents> {
        let start = previous.map_or(Seq::ZERO, |previous| previous.footer.end);
        let mut versions = Versions::default();
        let found = self.stretch(start, name.end, &mut |entry| {
            versions.add(entry);
            Ok(())
        })?;
        let created = found.segments.first().map_or(Micros(0), |segment| segment.2);
        let mut catalog =
            previous.map_or_else(|| Catalog::new(created), |previous| previous.footer.catalog.clone());
        found.changes.iter().for_each(|(seq, time, change)| catalog.apply(*seq, *time, change));
        // The segments do not say what is lost of them.
        let now = self.catalog();
        catalog.lost = now.lost.iter().filter(|lost| lost.first <= name.end).copied().collect();
        catalog.doubts = now.doubts.iter().filter(|doubt| doubt.first <= name.end).copied().collect();
        Ok(Contents {
            term: self.term(),
            start,
            end: name.end,
            end_time: name.end_time,
            versions,
            at_once: self.options.at_once(),
            page_entries_max: self.options.page_entries_max,
            events: found.events,
            segments: found.segments,
            catalog: Arc::new(catalog),
        })
    }
}

//! Loads the segments of a log that is opened.

use std::{ops::Range, sync::Arc};

use bygone_model::{Micros, Seq};

use super::{
    super::{Events, LogKey, LogOptions, holder::Holder, room, scan, upkeep},
    harden::{Unsealed, sync},
    survey::Survey,
};
use crate::{
    catalog::{Catalog, ChangeRecord, Lost},
    env::{Dir, File},
    error::{Damage, Error, Place, Result},
    format::{
        checkpoint::{SegmentStart, StoredEvent},
        manifest,
        record::Op,
        segment::{self, Entry, Location, Mark, SegmentIndex},
    },
    index::{checkpoint::Checkpoint, compaction::Contents},
    manifest::Known,
    place::{Records, SegmentFiles, read_whole},
};

/// Reads the payload of a record other than a block record.
type Payload<'a> = dyn Fn(Location, Seq) -> Result<Vec<u8>> + 'a;

/// The result of loading a segment.
pub(super) enum Loaded {
    /// What it holds belongs to the log.
    Taken,
    /// It holds nothing that belongs to the log.
    Nothing,
    /// Its header is whole and names another log.
    Foreign,
    /// A power cut took records before it, so neither it nor any later segment belongs to the log.
    Stale,
}

/// What is known of the log after the newest checkpoint.
pub(super) struct Recovered {
    pub(super) catalog: Catalog,
    pub(super) head: Seq,
    /// The end of the newest checkpoint that was found.
    pub(super) covered: Seq,
    /// Who opens the log.
    pub(super) holder: Arc<Holder>,
    /// The last record that was found in a segment. `head` also counts those of lost segments and of the checkpoint.
    pub(super) reached: Seq,
    pub(super) last_time: Micros,
    pub(super) recent: Vec<Arc<Vec<Entry>>>,
    pub(super) entries: usize,
    pub(super) events: Events,
    /// The bytes of the events as they were recorded.
    event_bytes: usize,
    pub(super) segments: Vec<SegmentStart>,
    pub(super) unsealed: Vec<Unsealed>,
    /// Segments that are missing. That is damage only if the log goes on after them.
    pub(super) missing: Vec<u32>,
    /// A segment of another log is in the place of one of this log, so a later segment may belong to the log despite
    /// the hole.
    has_foreign: bool,
    pub(super) damage: Vec<(Place, Damage)>,
}

impl Recovered {
    pub(super) fn new(catalog: Catalog, last_time: Micros, holder: Arc<Holder>) -> Recovered {
        Recovered {
            catalog,
            head: Seq::ZERO,
            covered: Seq::ZERO,
            holder,
            reached: Seq::ZERO,
            last_time,
            recent: Vec::new(),
            entries: 0,
            events: Vec::new(),
            event_bytes: 0,
            segments: Vec::new(),
            unsealed: Vec::new(),
            missing: Vec::new(),
            has_foreign: false,
            damage: Vec::new(),
        }
    }

    pub(super) fn damaged(&mut self, number: u32, offset: u64, damage: Damage) {
        self.damage.push((Place { file: segment::label(number), offset }, damage));
    }

    /// About the memory that the loaded versions and events take.
    pub(super) fn held_bytes(&self) -> u64 {
        let versions = self.recent.iter().map(|chunk| chunk.len()).sum::<usize>() * size_of::<Entry>();
        let events = self.events.len() * size_of::<StoredEvent>() + self.event_bytes;
        (versions + events) as u64
    }

    /// Makes everything durable and seals the segments, in order. Those for which there is no room wait; they can be
    /// read without an index.
    pub(super) fn seal_all(&mut self, dir: &dyn Dir, log: LogKey, options: &LogOptions) -> Result<()> {
        let waiting = self.unsealed.len();
        for unsealed in &self.unsealed {
            unsealed.harden(&|| self.holder.look(dir))?;
        }
        // A damaged segment gets no index: recovery would trust it and not find the damage.
        self.unsealed.retain(|unsealed| unsealed.whole);
        while let Some(first) = self.unsealed.first() {
            self.holder.look(dir)?;
            match upkeep::seal(&first.full, log, |file| sync(file, first.full.number)) {
                Ok(()) => drop(self.unsealed.remove(0)),
                Err(Error::Full { .. }) => break,
                Err(e) => return Err(e),
            }
        }
        if self.unsealed.len() < waiting {
            // Sealing has freed reserved space that was not used; the reserve has the first claim to it.
            room::keep_reserve(dir, options);
        }
        Ok(())
    }

    /// Notes that the records after `head` up to `last` are lost, and that no index knows their places.
    fn lose(&mut self, last: Seq, to: Micros) {
        let (first, from) = (self.head.next(), self.last_time);
        self.catalog.note_lost(Lost { first, last, from, to: to.max(from) });
        self.catalog.doubt(first, last);
    }

    /// Notes that the records behind all that was found, up to `durable`, are lost.
    pub(super) fn lose_end(&mut self, durable: Seq) {
        if durable > self.head {
            self.lose(durable, self.last_time);
            self.head = durable;
        }
    }

    /// Notes the records of a segment, beyond what is known already, of which nothing can be read.
    fn lose_in(&mut self, index: &SegmentIndex, lost: &[Range<Seq>]) {
        for lost in lost.iter().filter(|lost| lost.end > self.head.next()) {
            let first = lost.start.max(self.head.next());
            let from = index.time_of(first).unwrap_or(self.last_time);
            let to = index.time_of(lost.end).unwrap_or(from).max(from);
            let last = Seq(lost.end.0 - 1);
            self.catalog.note_lost(Lost { first, last, from, to });
            self.catalog.doubt(first, last);
        }
    }

    /// Takes in what segment `number` has beyond what is known already.
    pub(super) fn load(&mut self, files: &SegmentFiles, number: u32, survey: &Survey) -> Result<Loaded> {
        let Some(file) = files.open(number)? else {
            self.missing.push(number);
            return Ok(Loaded::Nothing);
        };
        let scanned = scan::scan(&file, number, survey.context(number, self.head.next()))?;
        if scanned.index.times.is_empty() {
            if !is_foreign(&*file, number, &survey.log)? {
                return Ok(Loaded::Nothing);
            }
            self.damaged(number, 0, Damage::Misplaced);
            self.has_foreign = true;
            return Ok(Loaded::Foreign);
        }
        let first = scanned.index.first_seq;
        let durable = survey.durable.max(scanned.durable);
        if !scanned.sealed && !scanned.has_header && durable < first {
            // None of this was ever durable: a power cut took the header and left records.
            return Ok(Loaded::Nothing);
        }
        let hole = first > self.head.next();
        if hole && durable <= self.head && !self.has_foreign {
            return Ok(Loaded::Stale);
        }
        self.reached = self.reached.max(scanned.last_seq());
        for missing in std::mem::take(&mut self.missing) {
            self.damaged(missing, 0, Damage::Missing);
        }
        for &(offset, damage) in &scanned.damage {
            self.damaged(number, offset, damage);
        }
        if hole {
            // Segments before this one are missing, or lost their ends.
            self.damaged(number, 0, Damage::Inconsistent);
            let time = scanned.index.times.first().copied();
            self.lose(Seq(first.0 - 1), time.unwrap_or(self.last_time));
        } else if scanned.last_seq() <= self.head && !self.segments.is_empty() {
            // Nothing new: an earlier incarnation ended here, and the log went on elsewhere.
            return Ok(Loaded::Taken);
        }
        let payload = |at, seq| read_whole(&*file, &survey.log.header, at, seq).map(|(_, payload)| payload);
        self.lose_in(&scanned.index, &scanned.lost);
        self.take(number, &scanned.index, &payload)?;
        self.unsealed.extend(Unsealed::of(number, &file, scanned, survey.durable));
        Ok(Loaded::Taken)
    }

    /// Takes the segments of other logs out of `unused`, and reports them.
    pub(super) fn foreign(
        &mut self,
        files: &SegmentFiles,
        log: &LogKey,
        unused: &mut Vec<u32>,
    ) -> Result<Vec<u32>> {
        let mut foreign = Vec::new();
        for &number in unused.iter() {
            let Some(file) = files.open(number)? else { continue };
            if is_foreign(&*file, number, log)? {
                self.damaged(number, 0, Damage::Misplaced);
                foreign.push(number);
            }
        }
        unused.retain(|number| !foreign.contains(number));
        Ok(foreign)
    }

    /// Takes in what a segment whose records are elsewhere has beyond what is known already.
    pub(super) fn load_moved(
        &mut self,
        container: &dyn Records,
        number: u32,
        manifest: &Known,
    ) -> Result<Loaded> {
        let index = match container.index(number) {
            Ok(index) => index,
            Err(Error::Damaged { place, damage }) if damage != Damage::Unreadable => {
                self.damage.push((place, damage));
                manifest.segment(number).into_iter().for_each(|entry| self.skip_lost(entry));
                return Ok(Loaded::Taken);
            }
            Err(e) => return Err(e),
        };
        for missing in std::mem::take(&mut self.missing) {
            self.damaged(missing, 0, Damage::Missing);
        }
        if index.first_seq > self.head.next() {
            self.damaged(number, 0, Damage::Inconsistent);
            let time = index.times.first().copied();
            self.lose(Seq(index.first_seq.0 - 1), time.unwrap_or(self.last_time));
        }
        self.reached = self.reached.max(index.last_seq());
        if index.last_seq() > self.head || self.segments.is_empty() {
            self.take(number, &index, &|at, seq| container.payload(at, seq))?;
        }
        Ok(Loaded::Taken)
    }

    /// Takes in what a segment has beyond what is known already. `payload` reads records other than block records.
    fn take(&mut self, number: u32, index: &SegmentIndex, payload: &Payload<'_>) -> Result<()> {
        self.take_marks(number, index, payload)?;
        let (first, known) = (index.first_seq, self.head);
        self.head = self.head.max(index.last_seq());
        self.last_time = index.times.last().copied().unwrap_or(self.last_time);
        if let Some(time) = scan::first_time(index) {
            self.segments.push((number, first, time));
        }
        let mut fresh: Vec<Entry> = index.entries.iter().filter(|e| e.seq > known).copied().collect();
        fresh.sort_unstable_by_key(|e| e.seq);
        if self.catalog.is_in_doubt() {
            self.note_seen(index, known);
        }
        self.entries += fresh.len();
        self.recent.push(Arc::new(fresh));
        Ok(())
    }

    /// Notes the numbers of branches and volumes in records after `known`.
    fn note_seen(&mut self, index: &SegmentIndex, known: Seq) {
        for entry in index.entries.iter().filter(|entry| entry.seq > known) {
            self.catalog.note_seen(Some(entry.volume), None);
        }
        for mark in index.marks.iter().filter(|mark| mark.seq > known && mark.op == Op::Event) {
            self.catalog.note_seen(None, mark.subject.as_branch());
        }
    }

    fn take_marks(&mut self, number: u32, index: &SegmentIndex, payload: &Payload<'_>) -> Result<()> {
        let known = self.head;
        for mark in index.marks.iter().filter(|mark| mark.seq > known && mark.op != Op::Flush) {
            let Some(time) = index.time_of(mark.seq) else {
                self.damaged(number, u64::from(mark.offset), Damage::Inconsistent);
                continue;
            };
            let payload = match payload(Location { segment: number, offset: mark.offset }, mark.seq) {
                Ok(found) => found,
                // A record that is only unreadable now would be missing for good in the next checkpoint.
                Err(Error::Damaged { place, damage }) if damage != Damage::Unreadable => {
                    self.damage.push((place, damage));
                    self.doubt_mark(mark);
                    continue;
                }
                Err(e) => return Err(e),
            };
            let understood = match mark.op {
                Op::Other(_) => continue,
                Op::Event => serde_json::from_slice(&payload).map(|event| {
                    self.event_bytes += payload.len();
                    self.events.push(StoredEvent {
                        seq: mark.seq,
                        time,
                        branch: mark.subject.as_branch().unwrap_or_default(),
                        event,
                    });
                }),
                _ => serde_json::from_slice::<ChangeRecord>(&payload)
                    .map(|record| self.catalog.apply_record(mark.seq, time, &record)),
            };
            if understood.is_err() {
                self.doubt_mark(mark);
                self.damaged(number, u64::from(mark.offset), Damage::Inconsistent);
            }
        }
        Ok(())
    }

    /// Notes a record other than a block record of which only the place is known.
    fn doubt_mark(&mut self, mark: &Mark) {
        if mark.op == Op::Catalog {
            self.catalog.doubt(mark.seq, mark.seq);
        }
    }

    /// Passes over a segment that is lost: its records keep their seqs, and the index names it, so that whoever looks
    /// for one of them learns what is missing.
    pub(super) fn skip_lost(&mut self, lost: &manifest::Entry) {
        if lost.last_seq > self.head {
            if self.segments.last().is_none_or(|last| last.0 < lost.number && last.1 < lost.first_seq) {
                self.segments.push((lost.number, lost.first_seq, lost.first_time));
            }
            self.lose(lost.last_seq, lost.last_time);
            self.head = lost.last_seq;
            self.last_time = self.last_time.max(lost.last_time);
        }
    }

    pub(super) fn contents(&self, base: Option<&Checkpoint>, options: &LogOptions) -> Contents {
        Contents {
            term: self.holder.term(),
            start: base.map_or(Seq::ZERO, |b| b.footer.end),
            end: self.head,
            end_time: self.last_time,
            versions: self.recent.iter().flat_map(|chunk| chunk.iter()).collect(),
            at_once: options.at_once(),
            page_entries_max: options.page_entries_max,
            events: self.events.clone(),
            segments: self.segments.clone(),
            catalog: Arc::new(self.catalog.clone()),
        }
    }

    pub(super) fn forget_recent(&mut self) {
        self.recent.clear();
        self.entries = 0;
        self.events.clear();
        self.event_bytes = 0;
        let last = self.segments.pop();
        self.segments = last.into_iter().collect();
    }
}

/// Whether a segment's header is whole and names another log.
fn is_foreign(file: &dyn File, number: u32, log: &LogKey) -> Result<bool> {
    let header = scan::read_any_header(file, number)?;
    Ok(header.is_some_and(|(header, _)| LogKey::of(&header.log) != *log))
}

//! The sequencer: gives every record its place and writes it.

use std::sync::{Arc, atomic::Ordering};

use bygone_model::{BranchId, Lba, Micros, Sectors, Seq, VolumeId};

use super::{
    Events, Log, LogOptions,
    room::{
        self,
        Claim::{Blocks, Own},
        Spare, claim_of,
    },
    syncs::Syncs,
};
use crate::{
    catalog::{Catalog, Change},
    env::{Clock, Dir, File},
    error::{Error, Result},
    format::{
        SEQ_MAX,
        checkpoint::{SegmentStart, StoredEvent},
        key::{HeaderKey, Identity},
        record::{self, FLAG_ALIGNED, FLAG_BASE, HEADER_BYTES, Op, Subject},
        segment::{Entry, Mark},
    },
};

/// The wall clock may step back by this much without beginning a new era; times stand still meanwhile.
const STEP_BACK_MICROS_MAX: i64 = 2_000_000;

/// So many records of the log's own may come before those that are appended: a new era, and that this life began.
const OWN_RECORDS_MAX: u64 = 2;

/// What becomes of a range.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// These bytes; a multiple of 512, at most [`record::PAYLOAD_BYTES_MAX`].
    Data(&'a [u8]),
    /// Zeroes.
    Zero(Sectors),
    /// Zeroes, and the target needs no space for it.
    Trim(Sectors),
}

impl Content<'_> {
    /// How many sectors.
    #[must_use]
    pub fn sectors(&self) -> Sectors {
        match self {
            Content::Data(data) => Sectors::of_bytes(data.len() as u64),
            Content::Zero(sectors) | Content::Trim(sectors) => *sectors,
        }
    }
}

/// One change of one volume.
#[derive(Clone, Copy, Debug)]
pub struct BlockWrite<'a> {
    /// Of which volume.
    pub volume: VolumeId,
    /// From which sector on.
    pub lba: Lba,
    /// What becomes of it.
    pub content: Content<'a>,
    /// It was read from the disk while taking it over; the target did not write it now.
    pub base: bool,
}

/// Where records came to stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The first one.
    pub first: Seq,
    /// The last one.
    pub last: Seq,
    /// When.
    pub time: Micros,
}

pub(super) struct NewRecord<'a> {
    pub op: Op,
    pub flags: u8,
    pub subject: Subject,
    pub lba: Lba,
    pub sectors: Sectors,
    pub payload: &'a [u8],
}

impl NewRecord<'_> {
    /// The flags that it gets.
    pub(super) fn flags(&self, options: &LogOptions) -> u8 {
        let aligned = self.op == Op::Write && self.payload.len() >= options.aligned_payload_bytes;
        self.flags | if aligned { FLAG_ALIGNED } else { 0 }
    }

    /// Where it ends when the one before it ends at `at`.
    pub(super) fn end(&self, at: u64, options: &LogOptions) -> u64 {
        record::end(at, self.payload.len(), self.flags(options))
    }

    pub(super) fn plain(op: Op, subject: Subject, payload: &[u8]) -> NewRecord<'_> {
        NewRecord { op, flags: 0, subject, lba: Lba(0), sectors: Sectors(0), payload }
    }
}

/// The segment that takes new records.
pub(super) struct Active {
    pub number: u32,
    pub file: Arc<dyn File>,
    pub first_seq: Seq,
    /// Where the next record goes.
    pub offset: u64,
    /// The file is written (perhaps with zeroes) up to here.
    pub written_to: u64,
    /// Records may reach up to here: that much space is reserved.
    pub room_bytes: u64,
    /// A write at `offset` failed, so whole records that were never acknowledged may stand there.
    pub torn: bool,
    /// A write failed since the file was made: the medium may hold other records than those written over them since.
    pub was_torn: bool,
    /// How many failed. No two records that were ever written at one place have the same number, so their headers differ, and
    /// what a failed write left behind cannot continue what is written over its beginning.
    pub attempt: u8,
    /// The medium was asked to begin with everything up to here.
    pub begun_to: u64,
    pub entries: Vec<Entry>,
    pub marks: Vec<Mark>,
    pub times: Vec<Micros>,
}

impl Active {
    /// It has no records yet.
    pub(super) fn is_empty(&self) -> bool {
        self.times.is_empty()
    }
}

/// A segment that takes no more records and waits for its index.
pub(super) struct Full {
    pub number: u32,
    pub file: Arc<dyn File>,
    pub first_seq: Seq,
    pub records_end: u64,
    pub entries: Arc<Vec<Entry>>,
    pub marks: Vec<Mark>,
    pub times: Vec<Micros>,
}

pub(super) struct Sequencer {
    pub log: Identity,
    pub key: HeaderKey,
    pub head: Seq,
    pub last_time: Micros,
    /// Shared with whoever looks at it; a change makes it anew only while somebody does.
    pub catalog: Arc<Catalog>,
    /// `None` until the first record: a log that is only read gets no new segment.
    pub active: Option<Active>,
    /// This life of the log has said that it began.
    pub opened: bool,
    /// The last time that a segment was wanted, there was no room for one.
    pub starved: bool,
    /// The reserve for the log's own records is known to be there.
    pub reserve_kept: bool,
    /// The newest segment's number.
    pub newest: u32,
    /// What the next record names as its `previous`.
    pub chain: u32,
    /// The file of the next segment.
    pub spare: Arc<Spare>,
    pub full: Vec<Full>,
    pub syncs: Arc<Syncs>,
    /// Segments with records that may not be durable yet, apart from the active one.
    pub unsynced: Vec<(u32, Arc<dyn File>)>,
    /// What the next checkpoint will hold: versions in full segments, events, segments.
    pub recent: Vec<Arc<Vec<Entry>>>,
    pub recent_entries: usize,
    pub recent_bytes: u64,
    pub events: Events,
    pub segments: Vec<SegmentStart>,
    /// Bytes since the last flush, and between the last two.
    pub unflushed_bytes: u64,
    pub flush_bytes: u64,
    /// Records came since the last flush record.
    pub wants_flush_mark: bool,
    pub durable: Seq,
    /// Reused for encoding.
    pub heads: Vec<[u8; HEADER_BYTES]>,
    pub crcs: Vec<u8>,
}

impl Sequencer {
    /// The time for the next record, and whether the clock jumped back.
    fn next_time(&self, clock: &dyn Clock) -> (Micros, bool) {
        let wall = clock.wall();
        if wall >= self.last_time {
            (wall, false)
        } else if self.last_time.0.saturating_sub(wall.0) <= STEP_BACK_MICROS_MAX {
            (self.last_time, false)
        } else {
            (wall, true)
        }
    }

    /// Appends records; calls `seen` with each block version, in order.
    pub(super) fn append(
        &mut self,
        dir: &dyn Dir,
        clock: &dyn Clock,
        options: &LogOptions,
        records: &[NewRecord<'_>],
        seen: &mut dyn FnMut(&Entry),
    ) -> Result<Appended> {
        let last = self.head.0.saturating_add(records.len() as u64 + OWN_RECORDS_MAX);
        // Neither a record nor a segment behind the last number would be believed when it is read.
        if last >= SEQ_MAX.0 {
            return Err(Error::NoNumberLeft("records"));
        }
        match self.append_all(dir, clock, options, records, seen) {
            // Where space cannot be reserved, or what was reserved is used up, there is still the reserve.
            Err(Error::Full { .. }) if claim_of(records) == Own && room::give_up_reserve(dir) => {
                self.reserve_kept = false;
                self.append_all(dir, clock, options, records, seen)
            }
            result => result,
        }
    }

    fn append_all(
        &mut self,
        dir: &dyn Dir,
        clock: &dyn Clock,
        options: &LogOptions,
        records: &[NewRecord<'_>],
        seen: &mut dyn FnMut(&Entry),
    ) -> Result<Appended> {
        let (time, jumped_back) = self.next_time(clock);
        // Attempts that could not be told from one another any more are made elsewhere.
        if self.active.as_ref().is_none_or(|active| active.torn && active.attempt == u8::MAX) {
            self.roll(dir, options, time, claim_of(records))?;
        }
        // First of all, so that no record of the era before is later than one of this era.
        if jumped_back {
            self.append_change(dir, options, &Change::Era, time)?;
        }
        if !self.opened {
            let incarnation = self.catalog.incarnation;
            self.append_change(dir, options, &Change::Opened { incarnation }, time)?;
            self.opened = true;
        }
        self.append_at(dir, options, records, time, seen)
    }

    fn append_change(
        &mut self,
        dir: &dyn Dir,
        options: &LogOptions,
        change: &Change,
        time: Micros,
    ) -> Result<()> {
        let payload = encode_json(change)?;
        let done = self.append_at(
            dir,
            options,
            &[NewRecord::plain(Op::Catalog, Subject::LOG, &payload)],
            time,
            &mut |_| {},
        )?;
        Arc::make_mut(&mut self.catalog).apply(done.last, time, change);
        Ok(())
    }

    fn append_at(
        &mut self,
        dir: &dyn Dir,
        options: &LogOptions,
        records: &[NewRecord<'_>],
        time: Micros,
        seen: &mut dyn FnMut(&Entry),
    ) -> Result<Appended> {
        let first = self.head.next();
        let claim = claim_of(records);
        let mut rest = records;
        while !rest.is_empty() {
            if claim == Blocks {
                self.grow(dir, options)?;
            }
            let (mut end, limit, records_left) =
                self.active.as_ref().map_or((0, 0, 0), |active| room::left(active, options, claim));
            let mut fits = |record: &&NewRecord<'_>| {
                end = record.end(end, options);
                end <= limit
            };
            let mut count = rest.iter().take(records_left).take_while(&mut fits).count();
            if count == 0 && self.active.as_ref().is_some_and(Active::is_empty) {
                count = 1;
            }
            if claim == Blocks && (1..rest.len()).contains(&count) {
                // Secures the next segment first, so that a batch is written whole or not begun.
                self.prepare_next(dir, options)?;
            }
            if count == 0 {
                self.roll(dir, options, time, claim)?;
                continue;
            }
            let (group, later) = rest.split_at(count);
            self.write_group(options, group, time, seen)?;
            rest = later;
        }
        Ok(Appended { first, last: self.head, time })
    }

    /// Lets go of the versions that a checkpoint up to `end` has.
    pub(super) fn forget_covered(&mut self, end: Seq) {
        self.recent.retain(|chunk| chunk.last().is_some_and(|entry| entry.seq > end));
    }

    /// Versions that are in memory only, oldest first; some of them may be in the newest checkpoint.
    pub(super) fn recent(&self) -> impl Iterator<Item = &Entry> {
        self.recent.iter().flat_map(|chunk| chunk.iter()).chain(self.active.iter().flat_map(|a| &a.entries))
    }
}

pub(super) fn encode_json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    let invalid =
        |e| Error::io("encoding", "a record", std::io::Error::new(std::io::ErrorKind::InvalidData, e));
    let payload = serde_json::to_vec(value).map_err(|e| invalid(e.to_string()))?;
    // A longer one would not be believed when it is read, and end the log.
    if payload.len() > record::PAYLOAD_BYTES_MAX {
        return Err(invalid(format!("{} bytes are too many", payload.len())));
    }
    Ok(payload)
}

impl Log {
    /// Appends changes of blocks, in this order. When it returns, they survive the death of this process, and every
    /// later read sees them. They are durable after the next [`Log::flush`].
    ///
    /// # Errors
    /// When a range does not fit its volume, or the log cannot be written. Then each of them is done or not done.
    pub fn append(&self, writes: &[BlockWrite<'_>]) -> Result<Appended> {
        let mut sequencer = self.sequencer();
        self.append_locked(&mut sequencer, writes)
    }

    /// Appends changes if `still` says so once nothing can come in between.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub(super) fn append_locked(
        &self,
        sequencer: &mut Sequencer,
        writes: &[BlockWrite<'_>],
    ) -> Result<Appended> {
        self.check_poison()?;
        let mut records = Vec::with_capacity(writes.len());
        for write in writes {
            let sectors = write.content.sectors();
            sequencer.catalog.check_range(write.volume, write.lba, sectors)?;
            if write.volume.0 >= Subject::NUMBERS_END {
                return Err(Error::NoVolume(write.volume));
            }
            let (op, payload) = match write.content {
                Content::Data(data) => (Op::Write, data),
                Content::Zero(_) => (Op::Zero, &[][..]),
                Content::Trim(_) => (Op::Trim, &[][..]),
            };
            let whole = sectors.0 > 0
                && u32::try_from(sectors.0).is_ok()
                && payload.len() <= record::PAYLOAD_BYTES_MAX
                && (op != Op::Write || sectors.bytes() == payload.len() as u64);
            if !whole {
                return Err(Error::OutOfRange { volume: write.volume, lba: write.lba, sectors });
            }
            let flags = if write.base { FLAG_BASE } else { 0 };
            records.push(NewRecord {
                op,
                flags,
                subject: Subject::volume(write.volume),
                lba: write.lba,
                sectors,
                payload,
            });
        }
        if records.is_empty() {
            return Ok(Appended {
                first: sequencer.head.next(),
                last: sequencer.head,
                time: sequencer.last_time,
            });
        }
        let too_many = sequencer.recent_entries.saturating_add(records.len()) > self.options.versions_max;
        if too_many || !self.share.may_grow() {
            return Err(Error::Behind { versions: sequencer.recent_entries });
        }
        let mut entries = Vec::with_capacity(records.len());
        let result = sequencer
            .append(&*self.dir, &*self.clock, &self.options, &records, &mut |entry| entries.push(*entry));
        // Even if a later group failed, what is in the log is in the log.
        let mut heads = self.heads_mut();
        for entry in &entries {
            if let Some(live) = heads.live.get_mut(&entry.volume) {
                live.head.active.insert(entry);
            }
        }
        self.note_held(sequencer, &heads);
        drop(heads);
        self.head.store(sequencer.head.0, Ordering::Release);
        result
    }

    /// Appends an event on a branch. Not durable until the next [`Log::flush`].
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn event(&self, branch: BranchId, event: &bygone_model::Event) -> Result<Appended> {
        let payload = encode_json(event)?;
        let mut sequencer = self.sequencer();
        self.check_poison()?;
        if sequencer.catalog.branch(branch).is_none() || branch.0 >= Subject::NUMBERS_END {
            return Err(Error::NoBranch(branch.to_string()));
        }
        let record = NewRecord::plain(Op::Event, Subject::branch(branch), &payload);
        let done = sequencer.append(&*self.dir, &*self.clock, &self.options, &[record], &mut |_| {});
        // Even if it failed, the log's own records before it may be there.
        self.head.store(sequencer.head.0, Ordering::Release);
        let done = done?;
        sequencer.events.push(StoredEvent { seq: done.last, time: done.time, branch, event: event.clone() });
        Ok(done)
    }

    /// Appends a change of the catalog and applies it. Durable when this returns.
    pub(super) fn change(&self, make: impl FnOnce(&Catalog, Seq) -> Result<Change>) -> Result<Appended> {
        let done = {
            let mut sequencer = self.sequencer();
            self.check_poison()?;
            let change = make(&sequencer.catalog, sequencer.head)?;
            let payload = encode_json(&change)?;
            let record = NewRecord::plain(Op::Catalog, Subject::LOG, &payload);
            let done = sequencer.append(&*self.dir, &*self.clock, &self.options, &[record], &mut |_| {});
            self.head.store(sequencer.head.0, Ordering::Release);
            let done = done?;
            Arc::make_mut(&mut sequencer.catalog).apply(done.last, done.time, &change);
            done
        };
        self.flush()?;
        Ok(done)
    }
}

//! The sequencer: gives every record its seq and writes it.

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

/// A step of the wall clock back by no more than this begins no new era: times stand still until the clock has caught
/// up.
const STEP_BACK_MICROS_MAX: i64 = 2_000_000;

/// At most this many of the log's own records precede the appended ones: the start of an era, and of this
/// incarnation.
const OWN_RECORDS_MAX: u64 = 2;

/// The new content of a range.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// These bytes: a multiple of 512, at most [`record::PAYLOAD_BYTES_MAX`].
    Data(&'a [u8]),
    /// Zeroes.
    Zero(Sectors),
    /// Zeroes; the target gave the range up.
    Trim(Sectors),
}

impl Content<'_> {
    /// The length of the range.
    #[must_use]
    pub fn sectors(&self) -> Sectors {
        match self {
            Content::Data(data) => Sectors::of_bytes(data.len() as u64),
            Content::Zero(sectors) | Content::Trim(sectors) => *sectors,
        }
    }
}

/// A write to one volume.
#[derive(Clone, Copy, Debug)]
pub struct BlockWrite<'a> {
    /// The volume.
    pub volume: VolumeId,
    /// The first sector.
    pub lba: Lba,
    /// The new content, which determines the length.
    pub content: Content<'a>,
    /// It was read from the disk while taking it over, and not written by the target now.
    pub base: bool,
}

/// Where records were appended. If there were none, `last` is before `first`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The first record.
    pub first: Seq,
    /// The last record.
    pub last: Seq,
    /// The time that all of them have.
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
    /// Its flags, with [`FLAG_ALIGNED`] if the payload is large enough.
    pub(super) fn flags(&self, options: &LogOptions) -> u8 {
        let aligned = self.op == Op::Write && self.payload.len() >= options.aligned_payload_bytes;
        self.flags | if aligned { FLAG_ALIGNED } else { 0 }
    }

    /// Where it ends if the record before it ends at `at`.
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
    /// The offset of the next record.
    pub offset: u64,
    /// The file has been written up to here, perhaps with zeroes.
    pub written_to: u64,
    /// Space is reserved up to here.
    pub room_bytes: u64,
    /// A write at `offset` failed, so complete records that were never acknowledged may be there.
    pub torn: bool,
    /// A write has failed: the medium may still hold its records instead of those written over them.
    pub was_torn: bool,
    /// How many writes failed. Every header contains it, so no two headers ever written to one offset are equal, and
    /// what a failed write left behind cannot continue what is written over its beginning.
    pub attempt: u8,
    /// Write-back was started up to here.
    pub begun_to: u64,
    pub entries: Vec<Entry>,
    pub marks: Vec<Mark>,
    pub times: Vec<Micros>,
}

impl Active {
    pub(super) fn is_empty(&self) -> bool {
        self.times.is_empty()
    }
}

/// A segment that takes no more records and is not sealed yet.
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
    /// Shared with readers. A change copies it only while a reader holds it.
    pub catalog: Arc<Catalog>,
    /// `None` until the first record: a log that is only read gets no new segment.
    pub active: Option<Active>,
    /// The record with which this incarnation begins has been written.
    pub opened: bool,
    /// There was no room the last time that more was wanted.
    pub starved: bool,
    /// The reserve is known to be complete.
    pub reserve_kept: bool,
    /// The number of the newest segment.
    pub newest: u32,
    /// The `previous` of the next record.
    pub chain: u32,
    /// The file of the next segment.
    pub spare: Arc<Spare>,
    pub full: Vec<Full>,
    pub syncs: Arc<Syncs>,
    /// Segments other than the active one with records that may not be durable yet.
    pub unsynced: Vec<(u32, Arc<dyn File>)>,
    /// What the next checkpoint gets besides the active segment: versions, events, segments.
    pub recent: Vec<Arc<Vec<Entry>>>,
    pub recent_entries: usize,
    pub recent_bytes: u64,
    pub events: Events,
    pub segments: Vec<SegmentStart>,
    /// Bytes appended since the last flush, and between the last two.
    pub unflushed_bytes: u64,
    pub flush_bytes: u64,
    /// Something was appended since the last flush record.
    pub wants_flush_mark: bool,
    pub durable: Seq,
    /// Buffers for encoding, reused.
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

    /// Appends records. Calls `seen` with each version of a block record, in order.
    pub(super) fn append(
        &mut self,
        dir: &dyn Dir,
        clock: &dyn Clock,
        options: &LogOptions,
        records: &[NewRecord<'_>],
        seen: &mut dyn FnMut(&Entry),
    ) -> Result<Appended> {
        let last = self.head.0.saturating_add(records.len() as u64 + OWN_RECORDS_MAX);
        // A record or segment with a larger seq would be rejected when it is read.
        if last >= SEQ_MAX.0 {
            return Err(Error::NoNumberLeft("records"));
        }
        match self.append_all(dir, clock, options, records, seen) {
            // If the medium cannot reserve space, or the reserved space is used up, giving up the reserve still makes
            // room.
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
        // Once the attempts are used up, further ones would look alike, so the log goes on in another segment.
        if self.active.as_ref().is_none_or(|active| active.torn && active.attempt == u8::MAX) {
            self.roll(dir, options, time, claim_of(records))?;
        }
        // Comes before all other records, so that times never go back within an era.
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
        let payload = encode_json(&self.catalog.record(change.clone()))?;
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
                // The next segment is made before any of the batch is written, so that a batch without room is not
                // begun.
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

    /// Drops the versions that a checkpoint up to `end` covers.
    pub(super) fn forget_covered(&mut self, end: Seq) {
        self.recent.retain(|chunk| chunk.last().is_some_and(|entry| entry.seq > end));
    }

    /// The versions in memory, oldest first. The newest checkpoint may cover some of them.
    pub(super) fn recent(&self) -> impl Iterator<Item = &Entry> {
        self.recent.iter().flat_map(|chunk| chunk.iter()).chain(self.active.iter().flat_map(|a| &a.entries))
    }
}

pub(super) fn encode_json<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    let invalid =
        |e| Error::io("encoding", "a record", std::io::Error::new(std::io::ErrorKind::InvalidData, e));
    let payload = serde_json::to_vec(value).map_err(|e| invalid(e.to_string()))?;
    // A longer payload would be rejected when it is read, and so end the log.
    if payload.len() > record::PAYLOAD_BYTES_MAX {
        return Err(invalid(format!("{} bytes are too many", payload.len())));
    }
    Ok(payload)
}

impl Log {
    /// Appends block writes in this order. On return they survive the death of this process and every later read sees
    /// them. They are durable after the next [`Log::flush`].
    ///
    /// # Errors
    /// When a range does not fit its volume; [`Error::Behind`] when too many versions are in memory only; when the
    /// log cannot be written. In the last case each write is in the log or not, but never a part of one.
    pub fn append(&self, writes: &[BlockWrite<'_>]) -> Result<Appended> {
        let mut sequencer = self.sequencer();
        self.append_locked(&mut sequencer, writes)
    }

    /// [`Log::append`] for a caller that has locked the sequencer.
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
        // Even if a later group failed, the earlier ones are in the log.
        let mut heads = self.heads_mut();
        for entry in &entries {
            if let Some(live) = heads.live.get_mut(&entry.volume) {
                live.head.active.insert(entry);
            }
        }
        self.note_held(sequencer, &heads);
        drop(heads);
        self.head.store(sequencer.head.0, Ordering::Release);
        let done = result?;
        // It may have taken long, or the system slept meanwhile, and another holder may have taken the log over.
        self.check_poison()?;
        Ok(done)
    }

    /// Appends an event on a branch. It is durable after the next [`Log::flush`].
    ///
    /// # Errors
    /// When there is no such branch, or the log cannot be written.
    pub fn event(&self, branch: BranchId, event: &bygone_model::Event) -> Result<Appended> {
        let payload = encode_json(event)?;
        let mut sequencer = self.sequencer();
        self.check_poison()?;
        if sequencer.catalog.branch(branch).is_none() || branch.0 >= Subject::NUMBERS_END {
            return Err(Error::NoBranch(branch.to_string()));
        }
        let record = NewRecord::plain(Op::Event, Subject::branch(branch), &payload);
        let done = sequencer.append(&*self.dir, &*self.clock, &self.options, &[record], &mut |_| {});
        // Even if this failed, the log's own records may have been appended before it.
        self.head.store(sequencer.head.0, Ordering::Release);
        let done = done?;
        sequencer.events.push(StoredEvent { seq: done.last, time: done.time, branch, event: event.clone() });
        self.check_poison()?;
        Ok(done)
    }

    /// Appends the change that `make` derives from the catalog and the head, and applies it. Durable on return.
    pub(super) fn change(&self, make: impl FnOnce(&Catalog, Seq) -> Result<Change>) -> Result<Appended> {
        let done = {
            let mut sequencer = self.sequencer();
            self.check_poison()?;
            let change = make(&sequencer.catalog, sequencer.head)?;
            let record = sequencer.catalog.record(change);
            let payload = encode_json(&record)?;
            let change = record.change;
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

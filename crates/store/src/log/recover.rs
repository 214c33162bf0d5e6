//! Making a log, and opening it again after any end that the last life may have had.
//!
//! Whatever was flushed is there again. Of what was not, a prefix is there. What is recovered is sealed and durable
//! before the log takes new records, and they go to a new segment: nothing old is ever overwritten.

use std::sync::{Arc, Condvar, Mutex, RwLock};

use bygone_model::{BranchId, Micros, Seq};

use super::{
    Durability, Events, Heads, Log, LogOptions,
    append::{Full, Sequencer},
    scan::{self, Scanned},
    upkeep::{self, Upkeep},
};
use crate::{
    catalog::{Catalog, Change},
    env::{Clock, Dir, File},
    error::{Damage, Error, Place, Result},
    files::FileCache,
    format::{
        checkpoint::{SegmentStart, StoredEvent},
        record::Op,
        segment::{self, Entry},
    },
    index::{
        checkpoint::{Checkpoint, IndexFiles},
        compaction::{self, Contents},
    },
};

impl Log {
    /// Makes an empty log in `dir`; `id` is random.
    ///
    /// # Errors
    /// When there is a log already, or it cannot be written.
    pub fn make(
        dir: Arc<dyn Dir>,
        clock: Arc<dyn Clock>,
        options: LogOptions,
        id: [u8; 16],
    ) -> Result<Arc<Log>> {
        if !segment_numbers(&*dir)?.is_empty() {
            return Err(Error::LogExists);
        }
        let now = clock.wall();
        let state = Recovered::new(Catalog::new(now), now);
        let log = Log::start(dir, clock, options, id, None, state, 0)?;
        // Its first segment is what makes it a log.
        log.change(|_, _| Ok(Change::Promote { id: BranchId(0) }))?;
        Ok(log)
    }

    /// Opens the log in `dir`.
    ///
    /// # Errors
    /// When there is none, it is of a newer version, or it cannot be read or written. Damage is no error; see
    /// [`Log::damage_at_open`].
    pub fn open(dir: Arc<dyn Dir>, clock: Arc<dyn Clock>, options: LogOptions) -> Result<Arc<Log>> {
        let numbers = segment_numbers(&*dir)?;
        let (Some(&oldest), Some(&newest)) = (numbers.first(), numbers.last()) else {
            return Err(Error::NoLog);
        };
        let id = find_id(&*dir, &numbers)?;
        let index = IndexFiles::new(dir.clone(), id, options.cache.clone())?;
        let mut damage = Vec::new();
        let base = newest_checkpoint(&index, &mut damage)?;
        let mut state = match &base {
            Some(base) => {
                let mut state = Recovered::new(base.footer.catalog.clone(), base.footer.end_time);
                state.head = base.footer.end;
                state
            }
            None => {
                let created = open_segment(&*dir, oldest)?;
                let created = created.map(|f| scan::read_header(&*f, oldest)).transpose()?.flatten();
                let created = created.map_or(Micros(0), |(header, _)| header.created);
                Recovered::new(Catalog::new(created), created)
            }
        };
        state.damage = damage;
        let first = base.as_ref().and_then(|b| b.footer.segments.last()).map_or(oldest, |start| start.0);
        let mut base = base.map(Arc::new);
        let mut used = first.saturating_sub(1);
        for number in first..=newest {
            if state.load(&*dir, number)? {
                used = number;
            }
            if state.entries >= options.checkpoint_entries {
                // Only when checkpoints were lost; keeps memory bounded all the same.
                seal_all(&mut state.unsealed)?;
                let contents = state.contents(base.as_deref());
                base = Some(Arc::new(compaction::write(&*dir, &id, &index, base.as_deref(), &contents)?));
                state.forget_recent();
            }
        }
        seal_all(&mut state.unsealed)?;
        drop(index);
        for number in used + 1..=newest {
            // Prepared and never used, or cut off in its very first write: as if it had never been.
            let name = segment::file_name(number);
            dir.remove(&name).map_err(|e| Error::io("removing", &name, e))?;
        }
        Log::start(dir, clock, options, id, base, state, used)
    }

    fn start(
        dir: Arc<dyn Dir>,
        clock: Arc<dyn Clock>,
        options: LogOptions,
        id: [u8; 16],
        base: Option<Arc<Checkpoint>>,
        mut state: Recovered,
        newest: u32,
    ) -> Result<Arc<Log>> {
        let index = IndexFiles::new(dir.clone(), id, options.cache.clone())?;
        state.catalog.incarnation += 1;
        let durable = state.head;
        let found_last = state.last_time;
        let sequencer = Sequencer {
            log_id: id,
            head: state.head,
            last_time: state.last_time,
            catalog: state.catalog,
            active: None,
            newest,
            chain: 0,
            prepared: None,
            full: Vec::new(),
            unsynced: Vec::new(),
            recent: state.recent,
            recent_entries: state.entries,
            recent_bytes: 0,
            events: state.events,
            segments: state.segments,
            unflushed_bytes: 0,
            flush_bytes: 0,
            wants_flush_mark: false,
            durable,
            heads: Vec::new(),
            tails: Vec::new(),
        };
        let log = Log {
            segments: FileCache::new(dir.clone()),
            dir,
            clock,
            options,
            id,
            head: sequencer.head.0.into(),
            sequencer: Mutex::new(sequencer),
            heads: RwLock::new(Heads { base, ..Heads::default() }),
            durability: Mutex::new(Durability { durable, flushing: false }),
            durability_changed: Condvar::new(),
            poisoned: false.into(),
            index,
            opened: Mutex::default(),
            upkeep: Mutex::new(Upkeep),
            found_last,
            damage_at_open: state.damage,
        };
        Ok(Arc::new(log))
    }
}

/// The numbers of the segment files, in order.
pub(super) fn segment_numbers(dir: &dyn Dir) -> Result<Vec<u32>> {
    let names = dir.list("log").map_err(|e| Error::io("listing", "log", e))?;
    Ok(names.iter().filter_map(|name| segment::number_of(name)).collect())
}

fn open_segment(dir: &dyn Dir, number: u32) -> Result<Option<Arc<dyn File>>> {
    let name = segment::file_name(number);
    match dir.open(&name) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("opening", &name, e)),
    }
}

/// The log's id, from the first segment whose header can be read.
fn find_id(dir: &dyn Dir, numbers: &[u32]) -> Result<[u8; 16]> {
    for &number in numbers {
        if let Some(file) = open_segment(dir, number)?
            && let Some((header, _)) = scan::read_header(&*file, number)?
        {
            return Ok(header.log_id);
        }
    }
    Err(Error::damaged(&segment::file_name(numbers.first().copied().unwrap_or(1)), 0, Damage::Magic))
}

/// The newest checkpoint that can be opened. Damaged ones are forgotten: the log itself has all that they hold.
fn newest_checkpoint(index: &IndexFiles, damage: &mut Vec<(Place, Damage)>) -> Result<Option<Checkpoint>> {
    for name in index.names().into_iter().rev() {
        match index.open(name) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(Error::Damaged { place, damage: what }) => {
                damage.push((place, what));
                index.forget(name);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(None)
}

fn seal_all(unsealed: &mut Vec<Full>) -> Result<()> {
    for full in unsealed.drain(..) {
        match upkeep::seal(&full) {
            // It can be read without its index; it only takes longer.
            Ok(()) | Err(Error::Full { .. }) => {
                full.file.sync().map_err(|e| Error::io("syncing", "a segment", e))?
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// What is known of the log after the newest checkpoint, while it is being read.
struct Recovered {
    catalog: Catalog,
    head: Seq,
    last_time: Micros,
    recent: Vec<Arc<Vec<Entry>>>,
    entries: usize,
    events: Events,
    segments: Vec<SegmentStart>,
    unsealed: Vec<Full>,
    damage: Vec<(Place, Damage)>,
}

impl Recovered {
    fn new(catalog: Catalog, last_time: Micros) -> Recovered {
        Recovered {
            catalog,
            head: Seq::ZERO,
            last_time,
            recent: Vec::new(),
            entries: 0,
            events: Vec::new(),
            segments: Vec::new(),
            unsealed: Vec::new(),
            damage: Vec::new(),
        }
    }

    fn damaged(&mut self, number: u32, offset: u64, damage: Damage) {
        self.damage.push((Place { file: segment::file_name(number), offset }, damage));
    }

    /// Takes in what segment `number` has beyond what is known already. False: there is nothing in it at all.
    fn load(&mut self, dir: &dyn Dir, number: u32) -> Result<bool> {
        let Some(file) = open_segment(dir, number)? else {
            self.damaged(number, 0, Damage::Missing);
            return Ok(true);
        };
        let scanned = scan::scan(&file, number, self.head.next())?;
        let no_records = scanned.index.times.is_empty();
        if no_records && scanned.header.is_none() {
            return Ok(false);
        }
        for &(offset, damage) in &scanned.damage {
            self.damaged(number, offset, damage);
        }
        if no_records {
            return Ok(true);
        }
        let first = scanned.index.first_seq;
        if first > self.head.next() {
            // Segments before this one are missing, or lost their ends.
            self.damaged(number, 0, Damage::Inconsistent);
        } else if scanned.last_seq() <= self.head && !self.segments.is_empty() {
            // An earlier life of the log ended here, and what followed went elsewhere.
            return Ok(true);
        }
        self.take_marks(&*file, number, &scanned)?;
        let known = self.head;
        self.head = self.head.max(scanned.last_seq());
        self.last_time = scanned.index.times.last().copied().unwrap_or(self.last_time);
        if let Some(time) = scan::first_time(&scanned.index) {
            self.segments.push((number, first, time));
        }
        let sealed = scanned.sealed;
        let index = scanned.index;
        let mut fresh: Vec<Entry> = index.entries.iter().filter(|e| e.seq > known).copied().collect();
        fresh.sort_unstable_by_key(|e| e.seq);
        self.entries += fresh.len();
        self.recent.push(Arc::new(fresh));
        if !sealed {
            self.unsealed.push(Full {
                number,
                file,
                first_seq: first,
                records_end: index.records_end,
                entries: Arc::new(index.entries),
                marks: index.marks,
                times: index.times,
            });
        }
        Ok(true)
    }

    fn take_marks(&mut self, file: &dyn File, number: u32, scanned: &Scanned) -> Result<()> {
        let known = self.head;
        for mark in scanned.index.marks.iter().filter(|mark| mark.seq > known && mark.op != Op::Flush) {
            let (header, payload) = match scan::payload_at(file, number, u64::from(mark.offset), mark.seq) {
                Ok(found) => found,
                Err(Error::Damaged { place, damage }) => {
                    self.damage.push((place, damage));
                    continue;
                }
                Err(e) => return Err(e),
            };
            let understood = match mark.op {
                Op::Event => serde_json::from_slice(&payload).map(|event| {
                    self.events.push(StoredEvent {
                        seq: mark.seq,
                        time: header.time,
                        branch: header.subject,
                        event,
                    });
                }),
                _ => serde_json::from_slice::<Change>(&payload)
                    .map(|change| self.catalog.apply(mark.seq, header.time, &change)),
            };
            if understood.is_err() {
                self.damaged(number, u64::from(mark.offset), Damage::Inconsistent);
            }
        }
        Ok(())
    }

    fn contents(&self, base: Option<&Checkpoint>) -> Contents {
        Contents {
            start: base.map_or(Seq::ZERO, |b| b.footer.end),
            end: self.head,
            end_time: self.last_time,
            entries: self.recent.iter().flat_map(|chunk| chunk.iter().copied()).collect(),
            events: self.events.clone(),
            segments: self.segments.clone(),
            catalog: self.catalog.clone(),
        }
    }

    fn forget_recent(&mut self) {
        self.recent.clear();
        self.entries = 0;
        self.events.clear();
        let last = self.segments.pop();
        self.segments = last.into_iter().collect();
    }
}

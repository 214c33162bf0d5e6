//! Making a log, and opening it again after any end that the last life may have had.
//!
//! Whatever was flushed is there again. Of what was not, a prefix is there. What is recovered is sealed and durable
//! before the log takes new records, and they go to a new segment: nothing old is ever overwritten.

use std::{
    io::IoSlice,
    sync::{Arc, Condvar, Mutex, RwLock},
};

use bygone_model::{BranchId, Micros, Seq};

use super::{
    Durability, Events, Heads, Log, LogOptions,
    append::{Full, Sequencer},
    roll::end_records,
    room,
    scan::{self, Scanned},
    upkeep::{self, Upkeep},
};
use crate::{
    catalog::{Catalog, Change},
    env::{Clock, Dir, File, read_exact_at},
    error::{Damage, Error, Place, Result, is_full},
    files::FileCache,
    format::{
        checkpoint::{self, Name, SegmentStart, StoredEvent},
        record::Op,
        segment::{self, Entry},
    },
    index::{
        checkpoint::{Checkpoint, IndexFiles},
        compaction::{self, Contents},
    },
};

/// Of segments that are missing one after the other, this many are named.
pub(super) const MISSING_MAX: usize = 1024;

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
    #[expect(clippy::needless_pass_by_value, reason = "as `make`; a log keeps them")]
    pub fn open(dir: Arc<dyn Dir>, clock: Arc<dyn Clock>, options: LogOptions) -> Result<Arc<Log>> {
        // Each time round there is one index file less, and what it held is made from the log again.
        let mut damage = Vec::new();
        loop {
            match Log::open_once(&dir, &clock, &options, damage.clone()) {
                Err(Error::Damaged { place, damage: what })
                    if place.file.starts_with(checkpoint::folder()) && dir.remove(&place.file).is_ok() =>
                {
                    dir.sync(checkpoint::folder())
                        .map_err(|e| Error::io("syncing", checkpoint::folder(), e))?;
                    damage.push((place, what));
                }
                other => return other,
            }
        }
    }

    fn open_once(
        dir: &Arc<dyn Dir>,
        clock: &Arc<dyn Clock>,
        options: &LogOptions,
        mut damage: Vec<(Place, Damage)>,
    ) -> Result<Arc<Log>> {
        let (dir, clock, options) = (dir.clone(), clock.clone(), options.clone());
        let numbers = segment_numbers(&*dir)?;
        let (Some(&oldest), Some(&newest)) = (numbers.first(), numbers.last()) else {
            return Err(Error::NoLog);
        };
        let id = find_id(&*dir, &numbers)?;
        let index = IndexFiles::new(dir.clone(), id, options.cache.clone())?;
        let base = newest_checkpoint(&*dir, &index, &mut damage)?;
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
        let survey = Survey::make(&*dir, id, &numbers, first, state.head)?;
        survey.harden_newest_index(&*dir)?;
        survey.unsealed_before(&*dir, first, &mut state)?;
        let mut used = first.saturating_sub(1);
        let newest = newest.max(first);
        let mut expected = first;
        for &number in numbers.iter().filter(|number| **number >= first) {
            state.missing.extend((expected..number).take(MISSING_MAX));
            expected = number + 1;
            match state.load(&*dir, number, &survey)? {
                Loaded::Taken => used = number,
                Loaded::Nothing => {}
                Loaded::Stale => break,
            }
            if state.entries >= options.checkpoint_entries {
                // Only when checkpoints were lost; keeps memory bounded all the same.
                state.seal_all(&*dir, &options)?;
                let contents = state.contents(base.as_deref(), &options);
                match compaction::write(&*dir, &id, &index, base.as_deref(), contents) {
                    Ok(made) => {
                        base = Some(Arc::new(made));
                        state.forget_recent();
                    }
                    // What does not fit a checkpoint stays in memory. It was in memory before, and writes are refused before it grows
                    // further.
                    Err(Error::Full { .. }) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        if expected == first {
            state.missing.push(first);
        }
        state.seal_all(&*dir, &options)?;
        if state.reached < survey.durable {
            // The log once reached further than its segments do.
            let (place, what) = match state.missing.last() {
                Some(missing) => (segment::file_name(*missing), Damage::Missing),
                None => (segment::file_name(used), Damage::Truncated),
            };
            state.damage.push((Place { file: place, offset: 0 }, what));
            used = used.max(first);
        }
        drop(index);
        for &number in numbers.iter().rev().filter(|number| **number > used) {
            // Prepared and never used, or cut off in its very first write, or the continuation of what a power cut took: as
            // if it had never been.
            let name = segment::file_name(number);
            match dir.remove(&name) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("removing", &name, e));
                }
                _ => {}
            }
        }
        if used < newest {
            // Durably, before new records take their numbers.
            dir.sync("log").map_err(|e| Error::io("syncing", "log", e))?;
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
            opened: false,
            starved: false,
            reserve_kept: false,
            newest,
            chain: 0,
            spare: room::Spare::after(newest),
            full: state.unsealed.into_iter().map(|unsealed| unsealed.full).collect(),
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

/// The newest checkpoint that can be opened. Those that cannot be used are removed: the log itself has all that they hold.
fn newest_checkpoint(
    dir: &dyn Dir,
    index: &IndexFiles,
    damage: &mut Vec<(Place, Damage)>,
) -> Result<Option<Checkpoint>> {
    let mut removed = false;
    let mut remove = |name: Name| {
        removed = true;
        index.forget(name);
        let file = name.file_name();
        dir.remove(&file).map_err(|e| Error::io("removing", &file, e))
    };
    let names = index.names();
    // Of those with the last number some were never finished, and a power cut may have brought them back: no damage.
    let last = names.last().map_or(0, |name| name.number);
    let (older, mut newest): (Vec<Name>, Vec<Name>) = names.into_iter().partition(|name| name.number < last);
    newest.sort_unstable_by_key(|name| name.end);
    // Each builds upon the one before it, so behind a gap none is of use.
    let follows = |i: usize| older[i].number == i as u32 + 1 && (i == 0 || older[i].end > older[i - 1].end);
    let sound = (0..older.len()).position(|i| !follows(i)).unwrap_or(older.len());
    if sound < older.len() || sound as u32 + 1 < last {
        let place = Place { file: format!("{}/{:010}", checkpoint::folder(), sound + 1), offset: 0 };
        damage.push((place, Damage::Missing));
        for &name in newest.iter().rev().chain(older[sound..].iter().rev()) {
            remove(name)?;
        }
        newest.clear();
    }
    let mut found = None;
    for &name in newest.iter().rev().chain(older[..sound].iter().rev()) {
        if found.is_some() {
            if name.number < last {
                break;
            }
            remove(name)?;
            continue;
        }
        match index.open(name) {
            Ok(checkpoint) => found = Some(checkpoint),
            Err(Error::Damaged { place, damage: what }) => {
                if name.number < last {
                    damage.push((place, what));
                }
                remove(name)?;
            }
            Err(e) => return Err(e),
        }
    }
    if removed {
        // Durably, before their numbers are used again: else a power cut could bring them back beside those that follow.
        dir.sync(checkpoint::folder()).map_err(|e| Error::io("syncing", checkpoint::folder(), e))?;
    }
    if let Some(found) = &found {
        // All but its trailer is durable; that may have been written by a life that did not live to make it so.
        let file = found.name.file_name();
        harden_trailer(dir, &file).map_err(|e| Error::io("making durable", &file, e))?;
    }
    Ok(found)
}

fn harden_trailer(dir: &dyn Dir, name: &str) -> std::io::Result<()> {
    let file = dir.open(name)?;
    let at = file.len_bytes()?.saturating_sub(checkpoint::FRAME_BYTES as u64);
    let mut trailer = [0; checkpoint::FRAME_BYTES];
    read_exact_at(&*file, &mut trailer, at)?;
    match file.write_at(&mut [IoSlice::new(&trailer)], at) {
        // As in `write_again`.
        Err(e) if !is_full(&e) => return Err(e),
        _ => {}
    }
    file.sync()?;
    dir.sync(checkpoint::folder())
}

/// What the segments say of each other, before any is taken in.
struct Survey {
    id: [u8; 16],
    /// The segments that follow the newest checkpoint or wait for their index, with their first seqs.
    firsts: Vec<(u32, Seq)>,
    /// The newest segment that has an index.
    sealed: Option<u32>,
    /// Everything up to here was durable: a checkpoint or an index says so, which are made only then, or a later record.
    durable: Seq,
}

impl Survey {
    fn make(dir: &dyn Dir, id: [u8; 16], numbers: &[u32], first: u32, covered: Seq) -> Result<Survey> {
        let mut survey = Survey { id, firsts: Vec::new(), sealed: None, durable: covered };
        let mut from = first;
        while from > 1
            && let Some(file) = open_segment(dir, from - 1)?
        {
            if scan::sealed_end(&*file, from - 1)?.is_some() {
                survey.sealed = Some(from - 1);
                break;
            }
            from -= 1;
        }
        let mut unsealed = 0;
        for &number in numbers.iter().filter(|number| **number >= from) {
            let Some(file) = open_segment(dir, number)? else { continue };
            let header = scan::read_header(&*file, number)?;
            survey.firsts.extend(header.map(|(header, _)| (number, header.first_seq)));
            if let Some(end) = scan::sealed_end(&*file, number)? {
                survey.durable = survey.durable.max(end);
                survey.sealed = Some(number);
                continue;
            }
            // What the first one says of itself it says when it is loaded.
            if unsealed > 0 && header.is_some() {
                let scanned = scan::scan_records(&*file, number, header, scan::Context::of(id))?;
                survey.durable = survey.durable.max(scanned.durable);
            }
            unsealed += 1;
        }
        Ok(survey)
    }

    fn context(&self, number: u32, expected: Seq) -> scan::Context {
        let next = self.firsts.iter().find(|(n, _)| *n > number);
        scan::Context {
            id: self.id,
            expected,
            until: next.map_or(Seq::MAX, |(_, first)| *first),
            durable: self.durable,
        }
    }

    /// Makes the newest index durable: the life that wrote it may not have lived to do so.
    fn harden_newest_index(&self, dir: &dyn Dir) -> Result<()> {
        let Some(number) = self.sealed else { return Ok(()) };
        let Some(file) = open_segment(dir, number)? else { return Ok(()) };
        if let Some((from, end)) = scan::index_place(&*file, number)? {
            write_again(&*file, number, from, end)?;
            sync(&*file, number)?;
        }
        Ok(())
    }

    /// Segments that the newest checkpoint covers, but that were not sealed.
    fn unsealed_before(&self, dir: &dyn Dir, first: u32, state: &mut Recovered) -> Result<()> {
        for &(number, seq) in self.firsts.iter().filter(|(number, _)| *number < first) {
            if let Some(file) = open_segment(dir, number)? {
                let scanned = scan::scan(&file, number, self.context(number, seq))?;
                for &(offset, damage) in scanned.damage.iter().filter(|_| !scanned.sealed) {
                    state.damaged(number, offset, damage);
                }
                state.unsealed.extend(Unsealed::of(number, &file, scanned, self.durable));
            }
        }
        Ok(())
    }
}

/// A segment without an index.
struct Unsealed {
    full: Full,
    /// From this byte on it may not be durable.
    volatile_from: u64,
    /// No record of it is damaged.
    whole: bool,
}

impl Unsealed {
    fn of(number: u32, file: &Arc<dyn File>, scanned: Scanned, durable: Seq) -> Option<Unsealed> {
        if scanned.sealed || scanned.index.times.is_empty() {
            return None;
        }
        let (index, whole) = (scanned.index, scanned.damage.is_empty());
        let safe = durable.max(scanned.durable).0.saturating_add(1).saturating_sub(index.first_seq.0);
        let volatile_from = if safe == 0 {
            0
        } else {
            scanned.starts.get(safe as usize).copied().unwrap_or(index.records_end)
        };
        let full = Full {
            number,
            file: file.clone(),
            first_seq: index.first_seq,
            records_end: index.records_end,
            entries: Arc::new(index.entries),
            marks: index.marks,
            times: index.times,
        };
        Some(Unsealed { full, volatile_from, whole })
    }

    /// Makes its records durable, and lets nothing follow them.
    fn harden(&self) -> Result<()> {
        let full = &self.full;
        write_again(&*full.file, full.number, self.volatile_from, full.records_end)?;
        match end_records(&*full.file, full.number, full.records_end) {
            Ok(()) | Err(Error::Full { .. }) => {}
            Err(e) => return Err(e),
        }
        sync(&*full.file, full.number)
    }
}

fn sync(file: &dyn File, number: u32) -> Result<()> {
    file.sync().map_err(|e| Error::io("syncing", &segment::file_name(number), e))
}

/// What a sync failed for in an earlier life may be in memory only, and no sync would write it; so it is written once more,
/// the same bytes in the same place.
fn write_again(file: &dyn File, number: u32, from: u64, end: u64) -> Result<()> {
    const CHUNK_BYTES: u64 = 1 << 20;
    let name = segment::file_name(number);
    let (mut at, mut chunk) = (from, Vec::new());
    while at < end {
        chunk.resize(CHUNK_BYTES.min(end - at) as usize, 0);
        read_exact_at(file, &mut chunk, at).map_err(|e| Error::io("reading", &name, e))?;
        match file.write_at(&mut [IoSlice::new(&chunk)], at).map_err(|e| Error::io("writing", &name, e)) {
            // Only a medium that never overwrites needs room for this, and that does not show what it lost.
            Ok(()) | Err(Error::Full { .. }) => {}
            Err(e) => return Err(e),
        }
        at += chunk.len() as u64;
    }
    Ok(())
}

/// What a segment was good for.
enum Loaded {
    Taken,
    /// It has no records.
    Nothing,
    /// A power cut took what was before it, so neither it nor what follows it belongs to the log.
    Stale,
}

/// What is known of the log after the newest checkpoint, while it is being read.
struct Recovered {
    catalog: Catalog,
    head: Seq,
    /// The last record that a segment has.
    reached: Seq,
    last_time: Micros,
    recent: Vec<Arc<Vec<Entry>>>,
    entries: usize,
    events: Events,
    segments: Vec<SegmentStart>,
    unsealed: Vec<Unsealed>,
    /// Segments that are not there, which is damage only if the log goes on behind them.
    missing: Vec<u32>,
    damage: Vec<(Place, Damage)>,
}

impl Recovered {
    fn new(catalog: Catalog, last_time: Micros) -> Recovered {
        Recovered {
            catalog,
            head: Seq::ZERO,
            reached: Seq::ZERO,
            last_time,
            recent: Vec::new(),
            entries: 0,
            events: Vec::new(),
            segments: Vec::new(),
            unsealed: Vec::new(),
            missing: Vec::new(),
            damage: Vec::new(),
        }
    }

    fn damaged(&mut self, number: u32, offset: u64, damage: Damage) {
        self.damage.push((Place { file: segment::file_name(number), offset }, damage));
    }

    /// Makes everything durable and gives each segment its index, in order. Those that there is no room for wait for it; they
    /// can be read without.
    fn seal_all(&mut self, dir: &dyn Dir, options: &LogOptions) -> Result<()> {
        let waiting = self.unsealed.len();
        for unsealed in &self.unsealed {
            unsealed.harden()?;
        }
        // A damaged segment gets no index: it would be believed and hide the damage.
        self.unsealed.retain(|unsealed| unsealed.whole);
        while let Some(first) = self.unsealed.first() {
            match upkeep::seal(&first.full) {
                Ok(()) => drop(self.unsealed.remove(0)),
                Err(Error::Full { .. }) => break,
                Err(e) => return Err(e),
            }
        }
        if self.unsealed.len() < waiting {
            // What they had reserved and did not use is given back; the reserve has the first claim to it.
            room::keep_reserve(dir, options);
        }
        Ok(())
    }

    /// Takes in what segment `number` has beyond what is known already.
    fn load(&mut self, dir: &dyn Dir, number: u32, survey: &Survey) -> Result<Loaded> {
        let Some(file) = open_segment(dir, number)? else {
            self.missing.push(number);
            return Ok(Loaded::Nothing);
        };
        let scanned = scan::scan(&file, number, survey.context(number, self.head.next()))?;
        if scanned.index.times.is_empty() {
            return Ok(Loaded::Nothing);
        }
        let first = scanned.index.first_seq;
        let hole = first > self.head.next();
        if hole && survey.durable.max(scanned.durable) <= self.head {
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
        } else if scanned.last_seq() <= self.head && !self.segments.is_empty() {
            // An earlier life of the log ended here, and what followed went elsewhere.
            return Ok(Loaded::Taken);
        }
        self.take_marks(&*file, survey.id, number, &scanned)?;
        let known = self.head;
        self.head = self.head.max(scanned.last_seq());
        self.last_time = scanned.index.times.last().copied().unwrap_or(self.last_time);
        if let Some(time) = scan::first_time(&scanned.index) {
            self.segments.push((number, first, time));
        }
        let mut fresh: Vec<Entry> = scanned.index.entries.iter().filter(|e| e.seq > known).copied().collect();
        fresh.sort_unstable_by_key(|e| e.seq);
        self.entries += fresh.len();
        self.recent.push(Arc::new(fresh));
        self.unsealed.extend(Unsealed::of(number, &file, scanned, survey.durable));
        Ok(Loaded::Taken)
    }

    fn take_marks(&mut self, file: &dyn File, id: [u8; 16], number: u32, scanned: &Scanned) -> Result<()> {
        let known = self.head;
        for mark in scanned.index.marks.iter().filter(|mark| mark.seq > known && mark.op != Op::Flush) {
            let (header, payload) =
                match scan::payload_at(file, id, (number, u64::from(mark.offset)), mark.seq) {
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

    fn contents(&self, base: Option<&Checkpoint>, options: &LogOptions) -> Contents {
        Contents {
            start: base.map_or(Seq::ZERO, |b| b.footer.end),
            end: self.head,
            end_time: self.last_time,
            versions: self.recent.iter().flat_map(|chunk| chunk.iter()).collect(),
            at_once: options.at_once(),
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

//! Creates a log, and opens it again after any end of the previous incarnation.
//!
//! Everything that was flushed is recovered, and of the rest a prefix. What is recovered is made durable, and sealed
//! if there is room, before the log takes new records. Those go to a new segment: nothing old is ever overwritten.

mod checkpoint;
mod harden;
mod history;
mod recovered;
mod survey;
mod takeover;

use std::{collections::BTreeSet, sync::Arc};

use bygone_model::{BranchId, Micros};

use self::{
    checkpoint::newest_checkpoint,
    history::Segments,
    recovered::{Loaded, Recovered},
    survey::Survey,
};
use super::{
    Durability, EVENTS_MAX, Heads, Hold, Log, LogKey, LogOptions,
    append::Sequencer,
    holder::{Holder, TERM_FIRST, hold, newest},
    inventory::lost,
    moving::moved,
    room, scan,
    syncs::Syncs,
    upkeep::{Trouble, Upkeep},
};
use crate::{
    caller::Caller,
    catalog::{Catalog, Change},
    env::{Clock, Dir, File},
    error::{Damage, Error, Place, Result},
    format::{
        key::{Identity, SECRET_BYTES},
        manifest::State,
        segment::{self, Name, SEGMENT_HEADER_BYTES},
    },
    index::{
        checkpoint::{Checkpoint, IndexFiles},
        compaction,
    },
    manifest::{self, Flaws, Known},
    place::{self, Containers, Moved, Places, SegmentFiles},
    sync::{Condvar, Mutex, RwLock},
};

/// The most consecutive missing segments that are reported.
pub(super) const MISSING_MAX: usize = 1024;

impl Log {
    /// Creates an empty log in `dir`. `id` is random.
    ///
    /// # Errors
    /// When there is a log already, or it cannot be written.
    pub fn make(
        dir: Arc<dyn Dir>,
        clock: Arc<dyn Clock>,
        options: LogOptions,
        id: [u8; 16],
    ) -> Result<Arc<Log>> {
        // An empty one was left by an attempt that failed.
        let left = place::names(&*dir)?;
        for name in left.iter().map(|name| name.file_name()) {
            let len_bytes = dir.open(&name).and_then(|file| file.len_bytes());
            if len_bytes.map_err(|e| Error::io("reading", &name, e))? > 0 {
                return Err(Error::LogExists);
            }
        }
        let now = clock.wall();
        let mut identity = Identity { id, secret: [0; SECRET_BYTES] };
        options.random.fill(&mut identity.secret).map_err(|e| Error::io("drawing", "a secret", e))?;
        let (mut manifest, _) = Known::load(&*dir, &identity)?;
        manifest::begin(&*dir, &mut manifest, identity, TERM_FIRST, now)?;
        for name in left.iter().map(|name| name.file_name()) {
            dir.remove(&name).map_err(|e| Error::io("removing", &name, e))?;
        }
        let holder = Arc::new(Holder::new(identity, TERM_FIRST, &manifest));
        let state = Recovered::new(Catalog::new(now), now, holder);
        let index = IndexFiles::new(dir.clone(), id, options.store.cache.clone())?;
        let files = Arc::new(SegmentFiles::new(dir.clone(), TERM_FIRST, LogKey::of(&identity)));
        let known = (manifest, Moved::new());
        let log = Log::start(dir, clock, options, identity, known, index, None, state, (files, 0))?;
        // The first segment is what makes it a log.
        log.change(|_, _| Ok(Change::Promote { id: BranchId(0) }))?;
        Ok(log)
    }

    /// Opens the log in `dir`.
    ///
    /// # Errors
    /// When there is none, damage has left nothing of it or does not show which log it is, it was taken over since
    /// ([`Hold::Term`](super::Hold::Term)), it is of a newer version, or it cannot be read or written. Any other
    /// damage is no error; see [`Log::damage_at_open`].
    pub fn open(dir: Arc<dyn Dir>, clock: Arc<dyn Clock>, options: LogOptions) -> Result<Arc<Log>> {
        // Held before anything is listed or read that the holder before may still change.
        let identity = identity_of(&*dir)?;
        let key = LogKey::of(&identity);
        if options.hold == Hold::TakeOver {
            takeover::check_room(&dir, &key, newest(&*dir, &identity)?)?;
        }
        let (manifest, flaws, term) = hold(&*dir, &*clock, options.hold, &identity)?;
        let holder = Arc::new(Holder::new(identity, term, &manifest));
        manifest::remove_parts(&*dir, manifest.upto());
        let files = Arc::new(SegmentFiles::new(dir.clone(), term, key));
        files.know(manifest.segments());
        let folder = dir.clone();
        let look = || holder.look(&*folder);
        let opened = || {
            let numbers = takeover::copy_open(&files, &key, &look)?;
            let found = Found::look(numbers, &*options.containers, identity, (manifest, flaws))?;
            Log::open_found(dir, clock, options, found, &holder, files)
        };
        // What another holder has changed meanwhile looks like anything.
        opened().map_err(|error| match look() {
            Err(superseded @ Error::Superseded { .. }) => superseded,
            _ => error,
        })
    }

    fn open_found(
        dir: Arc<dyn Dir>,
        clock: Arc<dyn Clock>,
        options: LogOptions,
        found: Found,
        holder: &Arc<Holder>,
        files: Arc<SegmentFiles>,
    ) -> Result<Arc<Log>> {
        let Found { numbers, moved, identity, manifest, mut damage } = found;
        let Some(&oldest) = numbers.first() else { return Err(Error::NoLog) };
        let (id, key) = (identity.id, LogKey::of(&identity));
        let mut lost = lost(&manifest, &numbers);
        let index = IndexFiles::new(dir.clone(), id, options.store.cache.clone())?;
        index.remove_parts(holder.term());
        let base = newest_checkpoint(&*dir, &index, holder, &mut damage)?;
        let mut state = match &base {
            Some(base) => {
                let catalog = base.footer.catalog.clone();
                let mut state = Recovered::new(catalog, base.footer.end_time, holder.clone());
                state.head = base.footer.end;
                state.covered = base.footer.end;
                state
            }
            None => {
                let known = manifest.segment(oldest).filter(|_| moved.contains_key(&oldest));
                let created = match known {
                    Some(entry) => entry.first_time,
                    None => {
                        let file = files.open(oldest)?;
                        let found = file.map(|f| scan::beginning(&*f, oldest, key)).transpose()?.flatten();
                        found.map_or(Micros(0), |(_, time)| time)
                    }
                };
                Recovered::new(Catalog::new(created), created, holder.clone())
            }
        };
        state.damage = damage;
        let start = base.as_ref().and_then(|b| b.footer.segments.last()).copied();
        let first = start.map_or(oldest, |start| start.0);
        let mut base = base.map(Arc::new);
        let mut survey = Survey::make(&files, key, (&numbers, &moved, &manifest), first, start, state.head)?;
        survey.durable = survey.durable.max(manifest.durable()).max(index.passed_end());
        holder.look(&*dir)?;
        survey.harden_newest_index(&files)?;
        survey.unsealed_before(&files, first, &mut state)?;
        let mut used = first.saturating_sub(1);
        let share = options.store.share();
        let mut expected = first;
        for &number in numbers.iter().filter(|number| **number >= first) {
            let missing = (expected..number).filter(|number| !manifest.is_dropped(*number));
            state.missing.extend(missing.take(MISSING_MAX));
            // Records of segments that are known to be lost keep their seqs.
            for (_, entry) in lost.extract_if(..number, |_, _| true) {
                state.skip_lost(&entry);
            }
            expected = number + 1;
            let loaded = match moved.get(&number) {
                Some(container) => state.load_moved(&**container, number, &manifest)?,
                None => state.load(&files, number, &survey)?,
            };
            match loaded {
                Loaded::Taken => used = number,
                Loaded::Nothing => {}
                Loaded::Foreign => {
                    // Nobody knows whose it is, so it stays. The records that were there before keep their seqs.
                    used = number;
                    manifest.segment(number).into_iter().for_each(|entry| state.skip_lost(entry));
                }
                Loaded::Stale => break,
            }
            share.set(state.held_bytes(), state.held_bytes());
            let due = state.entries >= options.checkpoint_entries
                || state.events.len() >= EVENTS_MAX
                || state.held_bytes() > 0 && share.should_give();
            if due {
                // Necessary only when checkpoints were lost, or many logs are opened at once; but memory has to be
                // bounded then too.
                state.seal_all(&*dir, key, &options)?;
                let contents = state.contents(base.as_deref(), &options);
                let segments = Segments { files: &files, numbers: &numbers, moved: &moved, survey: &survey };
                let history: Option<&dyn compaction::History> = Some(&segments);
                let caller = Caller::default();
                let look = || holder.look(&*dir);
                match compaction::write(&index, base.as_deref(), contents, history, caller, &look) {
                    Ok(made) => {
                        base = Some(Arc::new(made));
                        state.forget_recent();
                    }
                    // The versions for which there is no room stay in memory. They were in memory before the restart
                    // too, and writes are refused before it grows further.
                    Err(Error::Full { .. }) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        if expected == first {
            state.missing.push(first);
        }
        if used == 0 && base.is_none() {
            refuse_unreadable(&files, &numbers)?;
        }
        // A segment that was ever sealed counts as used, so its number is not used again.
        used = used.max(manifest.segments().last().map_or(0, |entry| entry.number));
        for (number, entry) in lost {
            state.skip_lost(&entry);
            state.missing.extend((entry.state != State::Dropped).then_some(number));
        }
        state.seal_all(&*dir, key, &options)?;
        if state.reached < survey.durable {
            // The log once reached further than its segments do now.
            let (place, what) = match state.missing.last() {
                Some(missing) => (segment::label(*missing), Damage::Missing),
                None => (segment::label(used), Damage::Truncated),
            };
            state.damage.push((Place { file: place, offset: 0 }, what));
            used = used.max(first);
        }
        // They keep their seqs, as all lost records do.
        state.lose_end(survey.durable);
        drop(share);
        let known: BTreeSet<Place> = state.damage.iter().map(|(place, _)| place.clone()).collect();
        for entry in manifest.segments().filter(|entry| entry.state != State::Dropped) {
            let place = Place { file: segment::label(entry.number), offset: 0 };
            if numbers.binary_search(&entry.number).is_err() && !known.contains(&place) {
                state.damage.push((place, Damage::Missing));
            }
        }
        let mut unused: Vec<u32> = numbers.iter().copied().filter(|number| *number > used).collect();
        unused.retain(|number| !moved.contains_key(number));
        // Also behind what a power cut took: nobody knows whose they are.
        for number in state.foreign(&files, &key, &mut unused)? {
            used = used.max(number);
        }
        for &number in unused.iter().rev() {
            // Prepared but never used, torn in its very first write, or following something that a power cut took: it
            // never was part of the log.
            let name = files.name(number).file_name();
            holder.look(&*dir)?;
            match dir.remove(&name) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("removing", &name, e));
                }
                _ => {}
            }
        }
        if !unused.is_empty() {
            // Durable before new records reuse the numbers.
            files.sync()?;
        }
        // Another holder may have removed what would have been read here.
        holder.look(&*dir)?;
        Log::start(dir, clock, options, identity, (manifest, moved), index, base, state, (files, used))
    }

    #[expect(clippy::too_many_arguments, reason = "all that a log consists of")]
    fn start(
        dir: Arc<dyn Dir>,
        clock: Arc<dyn Clock>,
        options: LogOptions,
        identity: Identity,
        (manifest, moved): (Known, Moved),
        index: IndexFiles,
        base: Option<Arc<Checkpoint>>,
        mut state: Recovered,
        (files, newest): (Arc<SegmentFiles>, u32),
    ) -> Result<Arc<Log>> {
        files.begin_at(newest + 1);
        let key = LogKey::of(&identity);
        // In use the parts of a segment that were reported as damaged do not count as missing.
        index.mended.try_again();
        state.catalog.incarnation += 1;
        // What a checkpoint covers that cannot be read now was known as well.
        let (durable, passed_end) = (state.head, index.passed_end());
        let found_last = state.last_time;
        let syncs = Arc::new(Syncs::new(state.holder));
        let sequencer = Sequencer {
            log: identity,
            key: key.header,
            head: state.head,
            last_time: state.last_time,
            catalog: Arc::new(state.catalog),
            active: None,
            opened: false,
            starved: false,
            reserve_kept: false,
            newest,
            chain: 0,
            spare: room::Spare::from(files.own_name(newest + 1)),
            full: state.unsealed.into_iter().map(|unsealed| unsealed.full).collect(),
            syncs: syncs.clone(),
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
            crcs: Vec::new(),
        };
        let log = Log {
            places: Places::new(place::Segments::new(files, key.header), moved),
            dir,
            clock,
            identity,
            key,
            head: sequencer.head.0.into(),
            sequencer: Mutex::new(sequencer),
            heads: RwLock::new(Heads { base, ..Heads::default() }),
            durability: Mutex::new(Durability { durable, flushing: false }),
            durability_changed: Condvar::new(),
            syncs,
            index,
            summaries: super::summaries::Summaries::default(),
            recents: super::recent::Recents::default(),
            opened: Mutex::default(),
            upkeep: Mutex::new(Upkeep::default()),
            manifest: Mutex::new(manifest),
            trouble: Trouble::default(),
            rot: super::hashing::Rot::default(),
            found_last,
            covered_at_open: state.covered.max(passed_end),
            damaged_at_open: state.damage.iter().map(|(place, _)| place.file.clone()).collect(),
            damage_at_open: state.damage,
            next_piece: 0.into(),
            share: options.store.share(),
            options,
        };
        log.note_held(&log.sequencer(), &log.heads());
        let log = Arc::new(log);
        log.options.store.add(&log);
        Ok(log)
    }
}

/// What is known of a log before its records are read and before anything is written.
struct Found {
    /// The segments that have a file or whose records are elsewhere, in order.
    numbers: Vec<u32>,
    moved: Moved,
    identity: Identity,
    manifest: Known,
    damage: Vec<(Place, Damage)>,
}

impl Found {
    fn look(
        mut numbers: Vec<u32>,
        containers: &dyn Containers,
        identity: Identity,
        (manifest, mut damage): (Known, Flaws),
    ) -> Result<Found> {
        let moved = moved(&manifest, containers, &mut damage)?;
        // A crash may have left the files of dropped segments. Upkeep removes them.
        numbers.retain(|number| !manifest.is_dropped(*number));
        numbers.extend(moved.keys());
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.is_empty() {
            return Err(Error::NoLog);
        }
        Ok(Found { numbers, moved, identity, manifest, damage })
    }
}

/// Which log is in `dir`.
fn identity_of(dir: &dyn Dir) -> Result<Identity> {
    let names = place::names(dir)?;
    match names.is_empty() {
        true => manifest::identity(dir)?.ok_or(Error::NoLog),
        false => find_identity(dir, &names),
    }
}

fn open_named(dir: &dyn Dir, name: Name) -> Result<Option<Arc<dyn File>>> {
    let name = name.file_name();
    match dir.open(&name) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::unread(&name, 0, e)),
    }
}

/// Which log this is, according to the newest valid manifest. Without one, according to the first segment with a
/// valid header or, if there is none, with a header of which a single bit flipped.
///
/// # Errors
/// When nothing says which, or there are segments of two logs and no manifest, or only segments of another log than
/// the manifest's.
fn find_identity(dir: &dyn Dir, names: &[Name]) -> Result<Identity> {
    if let Some(log) = manifest::identity(dir)? {
        let mut other = None;
        for &name in names {
            let Some(file) = open_named(dir, name)? else { continue };
            match scan::read_any_header(&*file, name.number)? {
                Some((header, _)) if header.log == log => return Ok(log),
                Some(_) => other = other.or(Some(name.number)),
                None => {}
            }
        }
        return match other {
            Some(number) => Err(Error::damaged(&segment::label(number), 0, Damage::Misplaced)),
            None => Ok(log),
        };
    }
    let first = segment::label(names.first().map_or(1, |name| name.number));
    for read in [scan::read_any_header, scan::read_flipped_header] {
        let mut found = None;
        for &name in names {
            let Some(file) = open_named(dir, name)? else { continue };
            let Some((header, _)) = read(&*file, name.number)? else { continue };
            if *found.get_or_insert(header.log) != header.log {
                return Err(Error::damaged(&segment::label(name.number), 0, Damage::Misplaced));
            }
        }
        if let Some(log) = found {
            return Ok(log);
        }
    }
    Err(Error::damaged(&first, 0, Damage::Magic))
}

/// Refuses a log without a single valid record whose segments hold something nevertheless: a log has a record from
/// the start. Opening it would remove what somebody may still be able to read.
fn refuse_unreadable(files: &SegmentFiles, numbers: &[u32]) -> Result<()> {
    const LOOKED_AT_BYTES: usize = 64 << 10;
    for &number in numbers {
        let Some(file) = files.open(number)? else { continue };
        let name = segment::label(number);
        let mut bytes = vec![0; LOOKED_AT_BYTES];
        let got = file
            .read_at(&mut bytes, SEGMENT_HEADER_BYTES as u64)
            .map_err(|e| Error::unread(&name, SEGMENT_HEADER_BYTES as u64, e))?;
        if bytes[..got].iter().any(|byte| *byte != 0) {
            return Err(Error::damaged(&name, SEGMENT_HEADER_BYTES as u64, Damage::Magic));
        }
    }
    Ok(())
}

//! Compares the segments that there are with those that there should be.
//!
//! Upkeep does so now and then. A segment that was sealed goes into the manifest. One that was dropped has no file; if
//! it still has one, that is removed. One that is gone is damage, and the manifest remembers it. But a segment that is
//! gone, or whose name shows another file, and that is still open gets a new file with the same content, because its
//! records can still be read: otherwise records would go on being acknowledged into an unlinked file.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IoSlice,
    sync::{Arc, PoisonError},
};

use bygone_model::{Micros, Seq};

use super::{Log, append::Sequencer, holder::is_taken, scan};
use crate::{
    env::{File, read_exact_at},
    error::{Damage, Error, Place, Result},
    format::{
        manifest::{Entry, State},
        segment::{self, Name},
    },
    manifest::{self, Known},
    place,
    sync::MutexGuard,
};

/// The most segments that are read, or reported missing, at a time.
const NEWS_MAX: usize = 64;

/// A segment that is in memory because it is not sealed yet.
struct Open {
    file: Arc<dyn File>,
    end: u64,
    room_bytes: u64,
    first_seq: Seq,
    last_seq: Seq,
    times: Option<(Micros, Micros)>,
}

impl Log {
    pub(super) fn manifest(&self) -> MutexGuard<'_, Known> {
        self.manifest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The known damage: what was found when the log was opened, segments that went missing since, and what upkeep
    /// found by reading segments back. The rest is usable.
    #[must_use]
    pub fn damage(&self) -> Vec<(Place, Damage)> {
        let mut damage = self.damage_at_open.clone();
        damage.extend(self.rot());
        let known: BTreeSet<Place> = damage.iter().map(|(place, _)| place.clone()).collect();
        let is_missing = |entry: &&Entry| entry.state == State::Missing;
        let missing: Vec<u32> = self.manifest().segments().filter(is_missing).map(|e| e.number).collect();
        let missing = missing.into_iter().map(|number| Place { file: segment::label(number), offset: 0 });
        damage.extend(missing.filter(|place| !known.contains(place)).map(|place| (place, Damage::Missing)));
        damage
    }

    /// Takes the inventory if it is due, and writes a manifest if anything changed.
    pub(super) fn take_inventory(&self) -> Result<bool> {
        let mut upkeep = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.monotonic();
        let period = self.options.inventory_micros;
        if upkeep.compared.is_some_and(|at| now.0.saturating_sub(at.0) < period) {
            return Ok(false);
        }
        self.check_holder()?;
        let compared = self.compare();
        upkeep.compared = (!matches!(compared, Ok(true))).then_some(now);
        match (compared, self.write_manifest()) {
            (_, Err(superseded @ Error::Superseded { .. })) => Err(superseded),
            (compared, written) => compared.and(written),
        }
    }

    /// Compares the folder with the manifest; returns whether there is more to look at.
    fn compare(&self) -> Result<bool> {
        let (newest, open) = {
            let sequencer = self.sequencer();
            let full = sequencer.full.iter().map(|full| (full.number, full.file.clone()));
            let active = sequencer.active.iter().map(|active| (active.number, active.file.clone()));
            (sequencer.newest, full.chain(active).collect::<BTreeMap<_, _>>())
        };
        let names = place::names(&*self.dir)?;
        self.remove_dropped(&names)?;
        self.places.segments.files.know(self.manifest().segments());
        self.places.segments.files.remove_superseded(names, &|| self.check_holder())?;
        // Listed after `newest` was read: all segments up to that one had been created.
        let there = self.segments_there()?;
        let moved = self.places.moved();
        let (mut gone, mut news) = (Vec::new(), Vec::new());
        for (&number, file) in open.iter().filter(|(number, _)| there.binary_search(number).is_ok()) {
            if self.is_displaced(number, &**file)? {
                gone.push(number);
            } else {
                self.has_name(number)?;
            }
        }
        let displaced = gone.clone();
        {
            let manifest = self.manifest();
            let mut expected = 1;
            for &number in there.iter().take_while(|number| **number <= newest).chain([&(newest + 1)]) {
                let is_news = |missing: &u32| {
                    let known = manifest.segment(*missing).map(|entry| entry.state);
                    open.contains_key(missing) || !matches!(known, Some(State::Missing | State::Dropped))
                };
                gone.extend((expected..number).filter(is_news).take(NEWS_MAX - gone.len().min(NEWS_MAX)));
                let lives = manifest.segment(number).is_some_and(|entry| entry.state == State::Lives);
                if !lives && number <= newest && !displaced.contains(&number) {
                    news.push(number);
                }
                expected = number.saturating_add(1);
            }
        }
        let mut failed = None;
        for &number in &gone {
            if let Err(e) = self.note_gone(number, open.contains_key(&number)) {
                failed = failed.or(Some(e));
            }
        }
        let mut added = 0;
        for number in news {
            if added == NEWS_MAX {
                break;
            }
            let entry = match moved.contains(&number) {
                true => self.reached_again(number),
                false if open.contains_key(&number) => self.found_again(number),
                // One that cannot be read is read again by the next inventory, and must not keep others out of it.
                false => match self.entry_of(number) {
                    Err(Error::Damaged { .. }) => None,
                    entry => entry?,
                },
            };
            if let Some(entry) = entry {
                let before = self.manifest().segment(number).map(|known| known.state);
                if before == Some(State::Missing) {
                    self.index.mended.try_again();
                }
                self.manifest().note(entry);
                added += 1;
            }
        }
        failed.map_or(Ok(added == NEWS_MAX || gone.len() == NEWS_MAX), Err)
    }

    /// The entry of an unsealed segment that was reported missing and is there again: the manifest forgets it.
    fn found_again(&self, number: u32) -> Option<Entry> {
        let missing = self.manifest().segment(number).copied();
        missing.filter(|e| e.state == State::Missing).map(|e| Entry { state: State::Retired, ..e })
    }

    /// The entry of a segment whose container was unreachable and is no longer.
    fn reached_again(&self, number: u32) -> Option<Entry> {
        let known = self.manifest().segment(number).copied();
        known.map(|entry| Entry { state: State::Lives, since: Micros(0), ..entry })
    }

    /// The segments that have a file or whose records are elsewhere, in order; without those that were dropped.
    pub(super) fn segments_there(&self) -> Result<Vec<u32>> {
        let mut numbers = self.places.segments.files.list()?;
        numbers.extend(self.places.moved());
        numbers.sort_unstable();
        numbers.dedup();
        let manifest = self.manifest();
        numbers.retain(|number| !manifest.is_dropped(*number));
        Ok(numbers)
    }

    /// Removes the files of dropped segments. The manifest that drops a segment is durable before its file goes, so
    /// a crash may have left the file.
    fn remove_dropped(&self, names: &[Name]) -> Result<()> {
        let dropped: Vec<Name> = {
            let manifest = self.manifest();
            let is_durable =
                |name: &Name| manifest.is_dropped(name.number) && !manifest.is_unwritten(name.number);
            names.iter().copied().filter(is_durable).collect()
        };
        let unsure = self.manifest().perhaps_not_durable().filter(|_| !dropped.is_empty());
        if let Some(newest) = unsure {
            manifest::harden(&*self.dir, newest)?;
            self.manifest().hardened(newest);
        }
        for name in dropped {
            let file = name.file_name();
            match self.dir.remove(&file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("removing", &file, e));
                }
                _ => {}
            }
            self.places.segments.forget(name.number);
        }
        Ok(())
    }

    /// The manifest's entry of a sealed segment. Others have none: they are the tail.
    pub(super) fn entry_of(&self, number: u32) -> Result<Option<Entry>> {
        // If it was removed meanwhile, the next inventory reports it.
        let Some(file) = self.places.segments.files.open(number)? else { return Ok(None) };
        let io = |e| Error::io("reading", &segment::label(number), e);
        let len_bytes = file.len_bytes().map_err(io)?;
        let Some((_, header_crc)) = scan::read_header(&*file, number, &self.key)? else { return Ok(None) };
        let Some(index) = scan::sealed_index(&*file, number, &self.key)? else { return Ok(None) };
        let (Some(&first_time), Some(&last_time)) = (index.times.first(), index.times.last()) else {
            return Ok(None);
        };
        Ok(Some(Entry {
            state: State::Lives,
            number,
            len_bytes,
            first_seq: index.first_seq,
            last_seq: index.last_seq(),
            first_time,
            last_time,
            since: Micros(0),
            container: 0,
            header_crc,
            hash: None,
        }))
    }

    /// Whether the name of a segment no longer shows `own`, the file that this log has open: it shows none, or
    /// another one.
    pub(super) fn is_displaced(&self, number: u32, own: &dyn File) -> Result<bool> {
        let id = |file: &dyn File| file.id().map_err(|e| Error::io("reading", &segment::label(number), e));
        match self.places.segments.files.open(number)? {
            None => Ok(true),
            Some(there) => Ok(id(&*there)? != id(own)?),
        }
    }

    /// Handles a segment whose file is gone: one that is still open gets a new file with the same content, in place
    /// of any other file of that name.
    pub(super) fn note_gone(&self, number: u32, is_open: bool) -> Result<()> {
        let mut memory = None;
        let mut rescued = Ok(());
        if is_open {
            let mut sequencer = self.sequencer();
            memory = sequencer.open_segment(number);
            if let Some(open) = &memory {
                rescued = self.write_anew(&mut sequencer, number, open);
                match &rescued {
                    Ok(()) => self.syncs.has_name(number),
                    Err(error) => self.syncs.lost_name(number, error.clone()),
                }
                if rescued.is_ok() {
                    let again = self.found_again(number);
                    again.into_iter().for_each(|entry| self.manifest().note(entry));
                    return Ok(());
                }
            }
        }
        let mut manifest = self.manifest();
        let known = manifest.segment(number).copied();
        let known = known.unwrap_or_else(|| Entry::unknown(number, State::Missing));
        if known.state == State::Missing && known.since != Micros(0) {
            return rescued;
        }
        let mut entry = Entry { state: State::Missing, since: self.clock.wall(), ..known };
        if let Some(open) = memory {
            (entry.first_seq, entry.last_seq) = (open.first_seq, open.last_seq);
            (entry.first_time, entry.last_time) = open.times.unwrap_or_default();
        }
        manifest.note(entry);
        rescued
    }

    /// Notes that the file of a segment in use has its name. One that it got back is made durable first.
    pub(super) fn has_name(&self, number: u32) -> Result<()> {
        if self.syncs.is_unnamed(number) {
            self.places.segments.files.sync()?;
            self.syncs.has_name(number);
        }
        Ok(())
    }

    /// Copies a segment that is open into a new file, which gets its name once it is whole and durable. Until then the
    /// name shows what it showed before: another file there may be the only one that has the records by name. The
    /// sequencer is locked, so nothing is appended meanwhile.
    fn write_anew(&self, sequencer: &mut Sequencer, number: u32, open: &Open) -> Result<()> {
        let files = &self.places.segments.files;
        // fsync reports a write-back error only once, and only for this open file. The copy would have what the page
        // cache shows, and every later flush would sync the copy.
        self.syncs.sync(&*open.file, number)?;
        let fill = |file: &dyn File| copy(&*open.file, file, open, &segment::label(number));
        let file = files.write_anew(files.name(number), &fill, &|| self.check_holder())?;
        sequencer.replace_file(number, &file);
        self.places.segments.forget(number);
        Ok(())
    }

    /// Writes pending changes to a manifest; returns whether there were any.
    pub(super) fn write_manifest(&self) -> Result<bool> {
        let made = self.manifest().next(self.identity, self.term(), self.clock.wall());
        let Some(made) = made else { return Ok(false) };
        let hash = match self.syncs.holder.publish(&*self.dir, &made) {
            Ok(hash) => hash,
            Err(error) => {
                if !is_taken(&error) {
                    self.manifest().failed(made);
                }
                return Err(error);
            }
        };
        let unneeded = self.manifest().written(&made, hash);
        if let Some(first) = unneeded {
            manifest::remove_before(&*self.dir, first);
        }
        Ok(true)
    }
}

fn copy(from: &dyn File, to: &dyn File, open: &Open, name: &str) -> Result<()> {
    const CHUNK_BYTES: u64 = 1 << 20;
    let failed = |e| Error::io("writing anew", name, e);
    to.reserve(open.room_bytes).map_err(failed)?;
    let (mut at, mut chunk) = (0, Vec::new());
    while at < open.end {
        chunk.resize(CHUNK_BYTES.min(open.end - at) as usize, 0);
        read_exact_at(from, &mut chunk, at).map_err(|e| Error::unread(name, at, e))?;
        to.write_at(&mut [IoSlice::new(&chunk)], at).map_err(failed)?;
        at += chunk.len() as u64;
    }
    Ok(())
}

impl Sequencer {
    fn open_segment(&self, number: u32) -> Option<Open> {
        let span = |times: &[Micros]| Some((*times.first()?, *times.last()?));
        if let Some(active) = self.active.as_ref().filter(|active| active.number == number) {
            return Some(Open {
                file: active.file.clone(),
                end: active.offset,
                room_bytes: active.room_bytes,
                first_seq: active.first_seq,
                last_seq: Seq((active.first_seq.0 + active.times.len() as u64).saturating_sub(1)),
                times: span(&active.times),
            });
        }
        let full = self.full.iter().find(|full| full.number == number)?;
        Some(Open {
            file: full.file.clone(),
            end: full.records_end,
            room_bytes: full.records_end,
            first_seq: full.first_seq,
            last_seq: full.last_seq(),
            times: span(&full.times),
        })
    }

    /// Replaces the file of an open segment by `file`, which durably has the same records and nothing after them.
    fn replace_file(&mut self, number: u32, file: &Arc<dyn File>) {
        if let Some(active) = self.active.as_mut().filter(|active| active.number == number) {
            active.file = file.clone();
            (active.written_to, active.begun_to) = (active.offset, active.offset);
            (active.torn, active.was_torn) = (false, false);
        }
        if let Some(full) = self.full.iter_mut().find(|full| full.number == number) {
            full.file = file.clone();
        }
        self.unsynced.retain(|(unsynced, _)| *unsynced != number);
    }
}

/// The manifest's entries of segments that are not among `numbers`, in order.
pub(super) fn lost(known: &Known, numbers: &[u32]) -> BTreeMap<u32, Entry> {
    let lost = known.segments().filter(|entry| numbers.binary_search(&entry.number).is_err());
    lost.map(|entry| (entry.number, *entry)).collect()
}

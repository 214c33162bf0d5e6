//! The manifests of a log: which segments it should have, and what became of those that are gone.
//!
//! - A manifest is a file of its own, never written over; the highest number that holds is the newest. One that does not hold and
//!   that no later one names was never finished.
//! - Each life of a log begins with a full one, so no chain of changes reaches over what an earlier life may not have made durable.
//! - What no manifest knows yet (the *tail*) is found by listing the folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IoSlice,
};

use bygone_model::{Micros, Seq};

use crate::{
    env::{Dir, File, read_exact_at},
    error::{Damage, Error, Place, Result, is_full},
    format::{
        VERSION,
        key::Identity,
        manifest::{self, Entry, Flaw, Hash, MANIFEST_BYTES_MAX, Manifest, State},
    },
};

/// So many manifests of changes follow a full one.
const CHANGES_MAX: u32 = 63;

/// What the manifests say, and what the next one has to say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    entries: BTreeMap<u32, Entry>,
    /// Those that live, and of whose files the hash is not known and was not asked for yet.
    unhashed: BTreeSet<u32>,
    /// What changed since the newest manifest.
    unwritten: BTreeMap<u32, Entry>,
    newest: Option<(u32, Hash)>,
    /// The newest holder that they name.
    term: u32,
    /// The number of the next one. Never one that was tried before.
    next: u32,
    /// How many may follow until there has to be a full one.
    changes_left: u32,
    /// The full one that the newest builds upon.
    full: u32,
}

/// What is wrong with the manifests themselves.
pub(crate) type Flaws = Vec<(Place, Damage)>;

impl Known {
    /// Reads what there is.
    ///
    /// # Errors
    /// When the folder cannot be read, or a newer program wrote one. Damage is in the answer.
    pub(crate) fn load(dir: &dyn Dir, log: &Identity) -> Result<(Known, Flaws)> {
        let numbers = numbers(dir)?;
        let mut known =
            Known { next: numbers.last().map_or(1, |last| last.saturating_add(1)), ..Known::default() };
        let (mut chain, mut flaws, mut wanted) = (Vec::new(), Vec::new(), None::<(u32, Hash)>);
        let flaw = |number, damage| (Place { file: manifest::file_name(number), offset: 0 }, damage);
        for &number in numbers.iter().rev() {
            match wanted {
                Some((before, _)) if number > before => continue,
                Some((before, _)) if number < before => {
                    flaws.push(flaw(before, Damage::Missing));
                    wanted = None;
                }
                _ => {}
            }
            let Some((read, hash)) = read(dir, number, log)? else {
                // Of those that nothing names, it was never finished.
                if wanted.take().is_some() {
                    flaws.push(flaw(number, Damage::Checksum));
                }
                continue;
            };
            if wanted.is_some_and(|(_, named)| named != hash) {
                flaws.push(flaw(number, Damage::Misplaced));
            }
            known.newest = known.newest.or(Some((number, hash)));
            known.term = known.term.max(read.term);
            wanted = read.previous;
            let is_full = read.is_full;
            chain.push(read);
            if is_full {
                known.full = number;
                wanted = None;
                break;
            }
        }
        if let Some((before, _)) = wanted {
            flaws.push(flaw(before, Damage::Missing));
        }
        for read in chain.into_iter().rev() {
            for entry in read.entries {
                known.apply(entry);
            }
        }
        Ok((known, flaws))
    }

    fn apply(&mut self, entry: Entry) {
        match entry.state {
            State::Retired => drop(self.entries.remove(&entry.number)),
            _ => drop(self.entries.insert(entry.number, entry)),
        }
        if entry.state == State::Lives && entry.hash.is_none() {
            self.unhashed.insert(entry.number);
        } else {
            self.unhashed.remove(&entry.number);
        }
    }

    /// Takes note of a change; the next manifest says it.
    pub(crate) fn note(&mut self, entry: Entry) {
        self.apply(entry);
        self.unwritten.insert(entry.number, entry);
    }

    /// What is known of a segment.
    pub(crate) fn segment(&self, number: u32) -> Option<&Entry> {
        self.entries.get(&number)
    }

    /// A segment of whose file the hash is not known; each comes once.
    pub(crate) fn take_unhashed(&mut self) -> Option<Entry> {
        self.unhashed.pop_first().and_then(|number| self.segment(number).copied())
    }

    /// All that is known, in order.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The records of a segment were dropped on purpose.
    pub(crate) fn is_dropped(&self, number: u32) -> bool {
        self.segment(number).is_some_and(|entry| entry.state == State::Dropped)
    }

    /// No manifest of a greater number is this holder's.
    pub(crate) fn tried(&self) -> u32 {
        self.next - 1
    }

    /// Everything up to here was durable once.
    pub(crate) fn durable(&self) -> Seq {
        let lives = self.segments().filter(|entry| entry.state == State::Lives);
        lives.map(|entry| entry.last_seq).max().unwrap_or_default()
    }

    /// The next manifest, if there is something to say.
    pub(crate) fn next(&mut self, log: Identity, term: u32, time: Micros) -> Option<Manifest> {
        (!self.unwritten.is_empty()).then(|| self.make(log, term, time))
    }

    /// The next manifest, whatever there is to say.
    fn make(&mut self, log: Identity, term: u32, time: Micros) -> Manifest {
        assert!(term >= self.term, "terms never fall");
        let is_full = self.changes_left == 0 || self.newest.is_none();
        let said = if is_full { &self.entries } else { &self.unwritten };
        let entries = said.values().copied().collect();
        let number = self.next;
        // Whatever becomes of it, no other one gets its number.
        self.next += 1;
        Manifest { number, log, term, time, is_full, previous: self.newest, entries }
    }

    /// It is durable; says which older ones nobody needs any more: those before the full one that came before the newest full one.
    pub(crate) fn written(&mut self, made: &Manifest, hash: Hash) -> Option<u32> {
        self.newest = Some((made.number, hash));
        self.term = made.term;
        self.unwritten.clear();
        if !made.is_full {
            self.changes_left -= 1;
            return None;
        }
        self.changes_left = CHANGES_MAX;
        let before = std::mem::replace(&mut self.full, made.number);
        (before > 0).then_some(before)
    }
}

/// Makes the file of a manifest and makes it durable; says its hash.
///
/// # Errors
/// What the medium says. What is left of it holds nothing, or nothing that is wrong.
pub(crate) fn write(dir: &dyn Dir, made: &Manifest) -> Result<Hash> {
    let name = manifest::file_name(made.number);
    let bytes = made.encode();
    let file = dir.create(&name).map_err(|e| Error::io("making", &name, e))?;
    let written = file.write_at(&mut [IoSlice::new(&bytes)], 0).and_then(|()| file.sync());
    if let Err(e) = written.and_then(|()| dir.sync(manifest::folder())) {
        let _ = dir.remove(&name);
        return Err(Error::io("writing", &name, e));
    }
    Ok(manifest::hash(&bytes))
}

/// Writes the first manifest of a new log or of a new holder. It is a full one, as the first of each life is.
///
/// # Errors
/// As [`write`]; when another holder was quicker, that there is one of its name already.
pub(crate) fn begin(dir: &dyn Dir, known: &mut Known, log: Identity, term: u32, time: Micros) -> Result<()> {
    let made = known.make(log, term, time);
    assert!(made.is_full, "a life begins with a full one");
    let hash = write(dir, &made)?;
    if let Some(first) = known.written(&made, hash) {
        remove_before(dir, first);
    }
    Ok(())
}

/// A newer term than `term` in one of the manifests of which `wanted` says so.
///
/// # Errors
/// When they cannot be read, or a newer program wrote one.
pub(crate) fn newer_term(
    dir: &dyn Dir,
    log: &Identity,
    wanted: impl Fn(u32) -> bool,
    term: u32,
) -> Result<Option<u32>> {
    for number in numbers(dir)?.into_iter().rev().filter(|number| wanted(*number)) {
        if let Some((read, _)) = read(dir, number, log)?.filter(|(read, _)| read.term > term) {
            return Ok(Some(read.term));
        }
    }
    Ok(None)
}

/// The newest term in the manifests up to `number`, also in those that the newest one does not build upon: a holder that has not yet
/// seen that it lost the log may have written one behind that of the next holder; and the last one that names it. 0: there is none.
///
/// # Errors
/// As [`newer_term`].
pub(crate) fn newest_term(dir: &dyn Dir, log: &Identity, number: u32) -> Result<(u32, u32)> {
    let mut newest = (0, 0);
    for other in numbers(dir)?.into_iter().filter(|other| *other <= number) {
        newest = read(dir, other, log)?.map_or(newest, |(read, _)| newest.max((read.term, other)));
    }
    Ok(newest)
}

/// Makes a manifest durable that an earlier life may not have lived to make so: the same bytes in the same place, because a sync that
/// failed may have left them in memory only.
///
/// # Errors
/// What the medium says.
pub(crate) fn harden(dir: &dyn Dir, number: u32) -> Result<()> {
    let name = manifest::file_name(number);
    let again = |file: &dyn File| {
        let mut bytes = vec![0; file.len_bytes()?.min(MANIFEST_BYTES_MAX) as usize];
        read_exact_at(file, &mut bytes, 0)?;
        match file.write_at(&mut [IoSlice::new(&bytes)], 0) {
            // Only a medium that never overwrites needs room for this, and that does not show what it lost.
            Err(e) if !is_full(&e) => return Err(e),
            _ => {}
        }
        file.sync()?;
        dir.sync(manifest::folder())
    };
    dir.open(&name).and_then(|file| again(&*file)).map_err(|e| Error::io("making durable", &name, e))
}

/// Removes the manifests before `first`. Those that stay behind do no harm.
pub(crate) fn remove_before(dir: &dyn Dir, first: u32) {
    for number in numbers(dir).unwrap_or_default().into_iter().take_while(|number| *number < first) {
        let _ = dir.remove(&manifest::file_name(number));
    }
}

fn numbers(dir: &dyn Dir) -> Result<Vec<u32>> {
    let names = dir.list(manifest::folder()).map_err(|e| Error::io("listing", manifest::folder(), e))?;
    Ok(names.iter().filter_map(|name| manifest::number_of(name)).collect())
}

fn read(dir: &dyn Dir, number: u32, log: &Identity) -> Result<Option<(Manifest, Hash)>> {
    Ok(read_any(dir, number)?.filter(|(read, _)| read.log.id == log.id))
}

/// Who the log is, as the newest manifest that holds says.
///
/// # Errors
/// When they cannot be read, or a newer program wrote one.
pub(crate) fn identity(dir: &dyn Dir) -> Result<Option<Identity>> {
    for number in numbers(dir)?.into_iter().rev() {
        if let Some((read, _)) = read_any(dir, number)? {
            return Ok(Some(read.log));
        }
    }
    Ok(None)
}

/// A manifest of any log.
fn read_any(dir: &dyn Dir, number: u32) -> Result<Option<(Manifest, Hash)>> {
    let name = manifest::file_name(number);
    let io = |e| Error::io("reading", &name, e);
    let file = match dir.open(&name) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(io)?,
    };
    let len_bytes = file.len_bytes().map_err(io)?;
    if len_bytes > MANIFEST_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = vec![0; len_bytes as usize];
    read_exact_at(&*file, &mut bytes, 0).map_err(io)?;
    match Manifest::decode(&bytes, number) {
        Ok(read) => Ok(Some((read, manifest::hash(&bytes)))),
        Err(Flaw::Damaged) => Ok(None),
        Err(Flaw::Newer(found)) => Err(Error::NewerVersion { name, found, known: VERSION }),
    }
}

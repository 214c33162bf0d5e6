//! The manifests of a log: which segments it should have, and what happened to those that are gone.
//!
//! - Each manifest is a file of its own, which is never overwritten and appears under its name only when it is whole
//!   and durable ([`Dir::publish`]). So one that is invalid is damage, whichever it is. The valid one with the highest
//!   number is the newest.
//! - Numbers are published in order, and none is passed over. So whoever publishes the next number has read all that
//!   was published before.
//! - Each life of a log begins with a full manifest, so no chain of changes builds on one that an earlier life may not
//!   have made durable.
//! - Segments that no manifest names yet (the *tail*) are found by listing the folder.

use std::{
    cell::RefCell,
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

/// How many manifests of changes may follow a full one.
const CHANGES_MAX: u32 = 63;

/// What the manifests say, and what the next one will say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    entries: BTreeMap<u32, Entry>,
    /// Living segments whose file has no known hash and that [`Known::take_unhashed`] has not returned yet.
    unhashed: BTreeSet<u32>,
    /// The changes since the newest manifest.
    unwritten: BTreeMap<u32, Entry>,
    newest: Option<(u32, Hash)>,
    /// The newest one is known to be durable.
    is_durable: bool,
    /// The newest term that a manifest names.
    term: u32,
    /// The number of the next manifest.
    next: u32,
    /// The next manifest, if publishing it failed. It may be there nevertheless, so it is published again as it was
    /// before there is another one.
    unsure: Option<Manifest>,
    /// How many manifests of changes may still be written before the next full one.
    changes_left: u32,
    /// The number of the full manifest on which the newest one builds.
    full: u32,
}

/// Damage of the manifests themselves.
pub(crate) type Flaws = Vec<(Place, Damage)>;

fn flaw(number: u32, damage: Damage) -> (Place, Damage) {
    (Place { file: manifest::file_name(number), offset: 0 }, damage)
}

impl Known {
    /// Reads the manifests in `dir`, from the newest back to the last full one. Damage is returned, not an error.
    ///
    /// # Errors
    /// If the folder or a file cannot be read, or a newer program wrote one of the manifests.
    pub(crate) fn load(dir: &dyn Dir, log: &Identity) -> Result<(Known, Flaws)> {
        Known::load_with(dir, &|number| read(dir, number, log))
    }

    /// What is wrong with the manifests that count. Here what is only unreadable now is a flaw too, and no error.
    ///
    /// # Errors
    /// As [`Known::load`].
    pub(crate) fn flaws(dir: &dyn Dir, log: &Identity) -> Result<Flaws> {
        let unreadable = RefCell::new(Flaws::new());
        let (_, mut flaws) = Known::load_with(dir, &|number| match read(dir, number, log) {
            Err(Error::Damaged { place, damage }) => {
                unreadable.borrow_mut().push((place, damage));
                Ok(None)
            }
            read => read,
        })?;
        let unreadable = unreadable.into_inner();
        flaws.retain(|flaw| !unreadable.iter().any(|found| found.0 == flaw.0));
        flaws.extend(unreadable);
        Ok(flaws)
    }

    fn load_with(
        dir: &dyn Dir,
        read: &dyn Fn(u32) -> Result<Option<(Manifest, Hash)>>,
    ) -> Result<(Known, Flaws)> {
        let numbers = numbers(dir)?;
        let mut known =
            Known { next: numbers.last().map_or(1, |last| last.saturating_add(1)), ..Known::default() };
        let (mut chain, mut flaws, mut wanted) = (Vec::new(), Vec::new(), None::<(u32, Hash)>);
        for &number in numbers.iter().rev() {
            match wanted {
                Some((before, _)) if number > before => continue,
                Some((before, _)) if number < before => {
                    flaws.push(flaw(before, Damage::Missing));
                    wanted = None;
                }
                _ => {}
            }
            let Some((read, hash)) = read(number)? else {
                flaws.push(flaw(number, Damage::Checksum));
                wanted = None;
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

    /// Records a change, which the next manifest will name.
    pub(crate) fn note(&mut self, entry: Entry) {
        self.apply(entry);
        self.unwritten.insert(entry.number, entry);
    }

    /// What the manifests say about a segment.
    pub(crate) fn segment(&self, number: u32) -> Option<&Entry> {
        self.entries.get(&number)
    }

    /// A segment whose file has no known hash. Each segment is returned once.
    pub(crate) fn take_unhashed(&mut self) -> Option<Entry> {
        self.unhashed.pop_first().and_then(|number| self.segment(number).copied())
    }

    /// All segments, in order of number.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Whether the records of a segment were dropped on purpose.
    pub(crate) fn is_dropped(&self, number: u32) -> bool {
        self.segment(number).is_some_and(|entry| entry.state == State::Dropped)
    }

    /// The number of the newest manifest if whoever published it may have died before it was durable.
    pub(crate) fn perhaps_not_durable(&self) -> Option<u32> {
        self.newest.map(|(number, _)| number).filter(|_| !self.is_durable)
    }

    /// Notes that manifest `number` is durable.
    pub(crate) fn hardened(&mut self, number: u32) {
        self.is_durable |= self.newest.is_some_and(|(newest, _)| newest == number);
    }

    /// Whether no manifest names the present state of a segment yet.
    pub(crate) fn is_unwritten(&self, number: u32) -> bool {
        self.unwritten.contains_key(&number)
    }

    /// The highest number that was read or published. One with a higher number is another holder's, unless it is
    /// `unsure`.
    pub(crate) fn upto(&self) -> u32 {
        self.next - 1
    }

    /// The last record that the manifests prove to have been durable.
    pub(crate) fn durable(&self) -> Seq {
        let lives = self.segments().filter(|entry| entry.state == State::Lives);
        lives.map(|entry| entry.last_seq).max().unwrap_or_default()
    }

    /// The next manifest, if anything changed: as it was, if publishing it failed before.
    pub(crate) fn next(&self, log: Identity, term: u32, time: Micros) -> Option<Manifest> {
        let again = self.unsure.clone();
        again.or_else(|| (!self.unwritten.is_empty()).then(|| self.make(log, term, time)))
    }

    /// The next manifest, even if nothing changed.
    fn make(&self, log: Identity, term: u32, time: Micros) -> Manifest {
        assert!(term >= self.term, "terms never fall");
        let is_full = self.changes_left == 0 || self.newest.is_none();
        let said = if is_full { &self.entries } else { &self.unwritten };
        let entries = said.values().copied().collect();
        Manifest { number: self.next, log, term, time, is_full, previous: self.newest, entries }
    }

    /// Notes that a manifest could not be published, though nobody else has taken its number.
    pub(crate) fn failed(&mut self, made: Manifest) {
        self.unsure = Some(made);
    }

    /// Notes that a manifest is durable. Returns a number below which no manifest is needed any more: that of the full
    /// one before the newest full one.
    pub(crate) fn written(&mut self, made: &Manifest, hash: Hash) -> Option<u32> {
        self.newest = Some((made.number, hash));
        self.is_durable = true;
        self.next = made.number + 1;
        self.unsure = None;
        self.term = made.term;
        // More may have changed while it was written, or since it was tried first.
        self.unwritten.retain(|number, entry| {
            let said = made.entries.binary_search_by_key(number, |said| said.number);
            said.map(|i| made.entries[i]) != Ok(*entry)
        });
        if !made.is_full {
            self.changes_left -= 1;
            return None;
        }
        self.changes_left = CHANGES_MAX;
        let before = std::mem::replace(&mut self.full, made.number);
        (before > 0).then_some(before)
    }
}

/// Publishes the manifest `number` of a holder whose term a manifest names already. It may be there: because this was
/// tried before, or because a file system repeated the step that gave it its name, and only the repetition failed.
/// Nobody else has one with this content, because every holder begins with a manifest of a term of its own.
///
/// # Errors
/// `AlreadyExists` if another holder has taken the number; any other error if it cannot be written. Then it may be
/// there all the same.
pub(crate) fn publish(dir: &dyn Dir, number: u32, bytes: &[u8]) -> Result<()> {
    let name = manifest::file_name(number);
    match dir.publish(&name, bytes) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let hash = manifest::hash(bytes);
            let is_it = read_any(dir, number)?.is_some_and(|(_, found)| found == hash);
            if is_it { harden(dir, number) } else { Err(Error::io("making", &name, e)) }
        }
        published => published.map_err(|e| Error::io("making", &name, e)),
    }
}

/// Writes the first manifest of a new log or of a new holder, which is a full one.
///
/// # Errors
/// `AlreadyExists` if another holder took this number first; any other error if it cannot be written.
pub(crate) fn begin(dir: &dyn Dir, known: &mut Known, log: Identity, term: u32, time: Micros) -> Result<()> {
    let made = known.make(log, term, time);
    assert!(made.is_full, "a life begins with a full one");
    let bytes = made.encode();
    // Not `publish`: another one who takes the log over at the same time may have written the very same.
    let name = manifest::file_name(made.number);
    dir.publish(&name, &bytes).map_err(|e| Error::io("making", &name, e))?;
    if let Some(first) = known.written(&made, manifest::hash(&bytes)) {
        remove_before(dir, first);
    }
    Ok(())
}

/// The newest term in the manifests after `upto` that are not this holder's; `None` if there are none.
///
/// # Errors
/// If they cannot be read, or a newer program wrote one of them.
pub(crate) fn term_after(
    dir: &dyn Dir,
    log: &Identity,
    upto: u32,
    is_own: impl Fn(u32, &Hash) -> bool,
) -> Result<Option<u32>> {
    let mut newest = None;
    for number in numbers(dir)?.into_iter().rev().take_while(|number| *number > upto) {
        let other = read(dir, number, log)?.filter(|(_, hash)| !is_own(number, hash));
        newest = newest.max(other.map(|(read, _)| read.term));
    }
    Ok(newest)
}

/// The newest term in the manifests up to `number`, and the last manifest that names it; zeroes if there is none. All
/// manifests count, also those on which the newest one does not build: one of them may be damaged.
///
/// # Errors
/// As [`term_after`].
pub(crate) fn newest_term(dir: &dyn Dir, log: &Identity, number: u32) -> Result<(u32, u32)> {
    let mut newest = (0, 0);
    for other in numbers(dir)?.into_iter().filter(|other| *other <= number) {
        newest = read(dir, other, log)?.map_or(newest, |(read, _)| newest.max((read.term, other)));
    }
    Ok(newest)
}

/// Makes a manifest durable that an earlier life may have died without syncing. It writes the same bytes to the same
/// place first, because after a failed sync the system may count them as written although they are only in memory.
///
/// # Errors
/// If it cannot be read, written or synced.
pub(crate) fn harden(dir: &dyn Dir, number: u32) -> Result<()> {
    let name = manifest::file_name(number);
    let again = |file: &dyn File| {
        let mut bytes = vec![0; file.len_bytes()?.min(MANIFEST_BYTES_MAX) as usize];
        read_exact_at(file, &mut bytes, 0)?;
        match file.write_at(&mut [IoSlice::new(&bytes)], 0) {
            // Only a copy-on-write file system needs space to overwrite, and it does not show bytes that a failed sync
            // lost.
            Err(e) if !is_full(&e) => return Err(e),
            _ => {}
        }
        file.sync()?;
        dir.sync(manifest::folder())
    };
    dir.open(&name).and_then(|file| again(&*file)).map_err(|e| Error::io("making durable", &name, e))
}

/// Removes the manifests before `first`. One that cannot be removed does no harm.
pub(crate) fn remove_before(dir: &dyn Dir, first: u32) {
    for number in numbers(dir).unwrap_or_default().into_iter().take_while(|number| *number < first) {
        let _ = dir.remove(&manifest::file_name(number));
    }
}

/// Removes what was left of manifests whose publishers died, up to this number. Those after it may be another holder's,
/// which is about to take the log over. One that cannot be removed does no harm.
pub(crate) fn remove_parts(dir: &dyn Dir, upto: u32) {
    for name in dir.list(manifest::folder()).unwrap_or_default() {
        if manifest::part_of(&name).is_some_and(|number| number <= upto) {
            let _ = dir.remove(&format!("{}/{name}", manifest::folder()));
        }
    }
}

fn numbers(dir: &dyn Dir) -> Result<Vec<u32>> {
    let names = dir.list(manifest::folder()).map_err(|e| Error::io("listing", manifest::folder(), e))?;
    Ok(names.iter().filter_map(|name| manifest::number_of(name)).collect())
}

fn read(dir: &dyn Dir, number: u32, log: &Identity) -> Result<Option<(Manifest, Hash)>> {
    Ok(read_any(dir, number)?.filter(|(read, _)| read.log.id == log.id))
}

/// The log's id and secret, from the newest valid manifest.
///
/// # Errors
/// If they cannot be read, or a newer program wrote one of them.
pub(crate) fn identity(dir: &dyn Dir) -> Result<Option<Identity>> {
    for number in numbers(dir)?.into_iter().rev() {
        if let Some((read, _)) = read_any(dir, number)? {
            return Ok(Some(read.log));
        }
    }
    Ok(None)
}

/// Reads a manifest of any log. `None`: it is missing or invalid.
fn read_any(dir: &dyn Dir, number: u32) -> Result<Option<(Manifest, Hash)>> {
    let name = manifest::file_name(number);
    let unread = |e| Error::unread(&name, 0, e);
    let file = match dir.open(&name) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(unread)?,
    };
    let len_bytes = file.len_bytes().map_err(unread)?;
    if len_bytes > MANIFEST_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = vec![0; len_bytes as usize];
    read_exact_at(&*file, &mut bytes, 0).map_err(unread)?;
    match Manifest::decode(&bytes, number) {
        Ok(read) => Ok(Some((read, manifest::hash(&bytes)))),
        Err(Flaw::Damaged) => Ok(None),
        Err(Flaw::Newer(found)) => Err(Error::NewerVersion { name, found, known: VERSION }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_while_a_manifest_is_written_is_in_the_next_one() {
        let log = Identity { id: [1; 16], secret: [2; 32] };
        let lives = |number: u32| Entry {
            first_seq: Seq(u64::from(number)),
            last_seq: Seq(u64::from(number)),
            ..Entry::unknown(number, State::Lives)
        };
        let mut known = Known { next: 1, ..Known::default() };
        for is_full in [true, false, false] {
            let number = known.next;
            known.note(lives(number));
            let made = known.next(log, 1, Micros(0)).unwrap();
            assert_eq!((made.is_full, made.entries.contains(&lives(number))), (is_full, true));
            let hashed = Entry { hash: Some([3; 32]), ..lives(number) };
            known.note(hashed);
            known.written(&made, [4; 32]);
            let next = known.clone().next(log, 1, Micros(0)).unwrap();
            assert_eq!(next.entries, [hashed]);
            known.written(&next, [5; 32]);
            assert_eq!(known.next(log, 1, Micros(0)), None);
        }
    }
}

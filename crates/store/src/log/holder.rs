//! Which process may write the log.
//!
//! A log has one holder at a time. Another process takes it over with a manifest of a higher *term*, which is durable
//! before anything else is written in that term. A manifest appears under its name in one step, and numbers are used in
//! order, so if two take over at once, one of them fails and can read what the other one wrote.
//!
//! Invariant: a holder that has seen another holder's manifest writes, removes and acknowledges nothing any more, apart
//! from the reserve, which holds nothing. It looks for one before it creates or removes any other file or gives one
//! another name, before it seals a segment, and at each inventory; and if none of that has happened for 10 seconds,
//! because upkeep is busy or fails or the system slept, before it acknowledges anything more: it checks that before a
//! write or flush begins, and again once it is done. All of these are rare; in between the check costs one atomic load
//! and a look at the clock.

use std::sync::{PoisonError, atomic::Ordering};

use crate::{
    env::{Clock, Dir, read_exact_at},
    error::{Error, Result, is_unreadable},
    format::{
        self,
        checkpoint::{self, FRAME_BYTES, Name},
        key::Identity,
        manifest::{Hash, Manifest},
        segment,
    },
    manifest::{self, Flaws, Known},
    place,
    sync::{AtomicU64, Mutex, MutexGuard},
};

use super::{LogKey, scan};

/// The term of a log's first holder.
pub(super) const TERM_FIRST: u32 = 1;

/// The term in which a log is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// The newest term that its files name. For a log that exists in one store only, where the store's lock decides
    /// who may open it.
    #[default]
    Newest,
    /// The term in which the caller held it before ([`super::Log::term`]). Refused if it was taken over since.
    Term(u32),
    /// A new term: the caller takes the log over, and the previous holder is refused from then on.
    TakeOver,
}

/// Whoever has not looked for another holder for so long does so before it acknowledges anything more.
const LOOK_MICROS_MAX: i64 = 10_000_000;

/// What a holder knows of itself and of other holders.
#[derive(Debug)]
pub(super) struct Holder {
    log: Identity,
    term: u32,
    published: Mutex<Published>,
    /// When it last looked, by the monotonic clock; `u64::MAX`: never.
    looked: AtomicU64,
    /// The term of another holder that was seen; 0: none.
    newer: AtomicU64,
}

/// Which manifests are not another holder's.
#[derive(Debug)]
struct Published {
    /// All up to this number.
    upto: u32,
    /// The one with this hash, which this holder failed to publish but which may be there.
    unsure: Option<Hash>,
}

impl Holder {
    pub(super) fn new(log: Identity, term: u32, manifest: &Known) -> Holder {
        let published = Published { upto: manifest.upto(), unsure: None };
        Holder { log, term, published: Mutex::new(published), looked: u64::MAX.into(), newer: 0.into() }
    }

    pub(super) fn term(&self) -> u32 {
        self.term
    }

    fn published(&self) -> MutexGuard<'_, Published> {
        self.published.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes a manifest of this holder; returns its hash.
    ///
    /// # Errors
    /// When it cannot be written; when another holder has published one, and only then the log is refused from now on.
    pub(super) fn publish(&self, dir: &dyn Dir, made: &Manifest) -> Result<Hash> {
        let bytes = made.encode();
        let hash = format::manifest::hash(&bytes);
        // Before it is there: a look meanwhile has to know it.
        self.published().unsure = Some(hash);
        manifest::publish(dir, made.number, &bytes).map_err(|error| self.refused(dir, error))?;
        *self.published() = Published { upto: made.number, unsure: None };
        Ok(hash)
    }

    /// The error to return after `error`: if a name was taken, by another holder, this looks for its manifest.
    pub(super) fn refused(&self, dir: &dyn Dir, error: Error) -> Error {
        if is_taken(&error) { self.look(dir).err().unwrap_or(error) } else { error }
    }

    /// Fails once another holder was seen.
    pub(super) fn check(&self) -> Result<()> {
        match self.newer.load(Ordering::Acquire) as u32 {
            0 => Ok(()),
            newest => Err(Error::Superseded { term: self.term, newest }),
        }
    }

    /// Looks for another holder, and fails if one was seen now or before.
    pub(super) fn look(&self, dir: &dyn Dir) -> Result<()> {
        self.check()?;
        let upto = self.published().upto;
        // This holder may publish one meanwhile, so what is known of it is read after the manifest.
        let is_own = |number: u32, hash: &Hash| {
            let published = self.published();
            number <= published.upto || published.unsure.as_ref() == Some(hash)
        };
        let other = match manifest::term_after(dir, &self.log, upto, is_own) {
            // Another holder's, of a newer program. Its term is not known, but it is newer.
            Err(Error::NewerVersion { .. }) => Some(self.term.saturating_add(1)),
            other => other?,
        };
        // One of an equal term is another holder's too: damage hid its manifest from this one, or the other way round.
        if let Some(newest) = other.filter(|other| *other >= self.term) {
            self.newer.store(u64::from(newest), Ordering::Release);
        }
        self.check()
    }

    /// As [`Holder::look`], and notes when.
    pub(super) fn look_now(&self, dir: &dyn Dir, clock: &dyn Clock) -> Result<()> {
        let now = clock.monotonic();
        self.look(dir)?;
        self.looked.store(now.0.cast_unsigned(), Ordering::Relaxed);
        Ok(())
    }

    /// Fails once another holder was seen. Looks for one if that was not done for long, because upkeep is busy or
    /// fails.
    pub(super) fn check_or_look(&self, dir: &dyn Dir, clock: &dyn Clock) -> Result<()> {
        self.check()?;
        let looked = self.looked.load(Ordering::Relaxed);
        let since = clock.monotonic().0.saturating_sub(looked.cast_signed());
        if looked == u64::MAX || since >= LOOK_MICROS_MAX { self.look_now(dir, clock) } else { Ok(()) }
    }
}

/// Reads the manifests, determines the term in which a log is opened, and durably raises it for a takeover. Nothing
/// else has been written yet, and nothing that is read before this counts: until its next look the holder before may
/// still change everything but the manifests.
pub(super) fn hold(
    dir: &dyn Dir,
    clock: &dyn Clock,
    hold: Hold,
    log: &Identity,
) -> Result<(Known, Flaws, u32)> {
    // The holder before may publish manifests meanwhile, but not many: it looks for a newer holder before each.
    const TRIES_MAX: usize = 8;
    let mut tries = 1;
    loop {
        let (mut manifest, flaws) = Known::load(dir, log)?;
        match hold_upon(dir, clock, hold, log, &mut manifest) {
            Err(error) if is_taken(&error) && tries < TRIES_MAX => tries += 1,
            term => return Ok((manifest, flaws, term?)),
        }
    }
}

/// The newest term of the log in `dir`, as far as its files name it now.
pub(super) fn newest(dir: &dyn Dir, log: &Identity) -> Result<u32> {
    Ok(manifest::newest_term(dir, log, u32::MAX)?.0.max(newest_term(dir, &LogKey::of(log))?))
}

fn hold_upon(
    dir: &dyn Dir,
    clock: &dyn Clock,
    hold: Hold,
    log: &Identity,
    manifest: &mut Known,
) -> Result<u32> {
    // Manifests of higher numbers were published since; the first look finds them.
    let (named, number) = manifest::newest_term(dir, log, manifest.upto())?;
    let in_files = newest_term(dir, &LogKey::of(log))?;
    if named > in_files {
        // Its holder may have died before making it durable, and nothing may be written in a term that is not
        // durable.
        manifest::harden(dir, number)?;
    }
    let newest = named.max(in_files);
    match hold {
        Hold::Newest => Ok(newest),
        Hold::Term(term) if newest > term => Err(Error::Superseded { term, newest }),
        // The files may not name it, if nothing was written in it.
        Hold::Term(term) => Ok(term),
        Hold::TakeOver => {
            let term = newest.checked_add(1).ok_or(Error::NoNumberLeft("holders"))?;
            manifest::begin(dir, manifest, *log, term, clock.wall()).map_err(|error| {
                match manifest::term_after(dir, log, manifest.upto(), |_, _| false) {
                    // Another one was quicker.
                    Ok(Some(found)) if is_taken(&error) && found >= term => {
                        Error::Superseded { term, newest: found }
                    }
                    _ => error,
                }
            })?;
            Ok(term)
        }
    }
}

pub(super) fn is_taken(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists)
}

/// The newest term in the names of segments and checkpoints whose header can be read. Others may be no files of the log.
fn newest_term(dir: &dyn Dir, log: &LogKey) -> Result<u32> {
    let mut newest = TERM_FIRST;
    let mut names = place::names(dir)?;
    names.sort_unstable_by_key(|name| (name.term, name.number));
    for name in names.into_iter().rev() {
        let file_name = name.file_name();
        let file = match dir.open(&file_name) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            opened => opened.map_err(|e| Error::unread(&segment::label(name.number), 0, e))?,
        };
        if scan::read_header(&*file, name.number, log)?.is_some() {
            newest = newest.max(name.term);
            break;
        }
    }
    let folder = checkpoint::folder();
    let files = dir.list(folder).map_err(|e| Error::io("listing", folder, e))?;
    let mut names: Vec<Name> = files.iter().filter_map(|file| Name::parse(file)).collect();
    // A holder that was superseded may have left the highest number.
    names.sort_unstable_by_key(|name| (name.term, name.number));
    for name in names.into_iter().rev() {
        if let Some(term) = checkpoint_term(dir, name, log)? {
            newest = newest.max(term);
            break;
        }
    }
    Ok(newest)
}

/// `None`: its header cannot be read. Opening the checkpoint reports why.
fn checkpoint_term(dir: &dyn Dir, name: Name, log: &LogKey) -> Result<Option<u32>> {
    let file_name = name.file_name();
    let mut frame = [0; FRAME_BYTES];
    match dir.open(&file_name).and_then(|file| read_exact_at(&*file, &mut frame, 0)) {
        Err(e)
            if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::UnexpectedEof)
                || is_unreadable(&e) =>
        {
            return Ok(None);
        }
        read => read.map_err(|e| Error::io("reading", &file_name, e))?,
    }
    Ok(checkpoint::check_header(&frame, name.number, &log.id).ok())
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use bygone_model::{Micros, Seq};

    use super::*;
    use crate::{env::RealDir, format::key::SECRET_BYTES};

    #[test]
    fn the_newest_term_of_checkpoints_is_the_highest_and_not_that_of_the_highest_number() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RealDir::new(folder.path());
        let log = Identity { id: *b"a log for a test", secret: [0; SECRET_BYTES] };
        // The first holder wrote one more before it saw that it was superseded.
        for (number, term) in [(1, 1), (2, 2), (3, 1)] {
            let name = Name { number, end: Seq(9), end_time: Micros(0), term };
            let header = checkpoint::encode_header(number, &log.id, term);
            let file = dir.create(&name.file_name()).unwrap();
            file.write_at(&mut [IoSlice::new(&header)], 0).unwrap();
        }
        assert_eq!(newest_term(&dir, &LogKey::of(&log)).unwrap(), 2);
    }
}

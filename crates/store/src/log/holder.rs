//! Which process may write the log.
//!
//! A log has one holder at a time. Another process takes it over with a manifest of a higher *term*, which is durable
//! before anything else is written in that term. A manifest's name is created exclusively, so if two take over at
//! once, one of them fails.
//!
//! Invariant: a holder that has seen a manifest of a newer term writes, removes and acknowledges nothing any more. It
//! looks for one before it begins a segment, seals one, writes a checkpoint or a manifest, or removes a file, and at
//! each inventory. All of these are rare; in between the check costs one atomic load.

use std::{
    collections::BTreeSet,
    sync::{PoisonError, atomic::Ordering},
};

use crate::{
    env::{Clock, Dir, read_exact_at},
    error::{Error, Result},
    format::{
        checkpoint::{self, FRAME_BYTES, Name},
        key::Identity,
        segment,
    },
    manifest::{self, Known},
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

/// What a holder knows of itself and of other holders.
#[derive(Debug)]
pub(super) struct Holder {
    log: Identity,
    term: u32,
    /// Manifests up to this number need not be looked at, except those in `taken`.
    own: AtomicU64,
    /// Manifests that another holder created under a number that this one wanted. They may still be incomplete, so
    /// each look reads them again.
    taken: Mutex<BTreeSet<u32>>,
    /// A newer term that was seen; 0: none.
    newer: AtomicU64,
}

impl Holder {
    pub(super) fn new(log: Identity, term: u32, manifest: &Known) -> Holder {
        let own = u64::from(manifest.tried()).into();
        Holder { log, term, own, taken: Mutex::default(), newer: 0.into() }
    }

    pub(super) fn term(&self) -> u32 {
        self.term
    }

    /// Notes that this holder has written the manifest `number`.
    pub(super) fn wrote(&self, number: u32) {
        self.own.fetch_max(u64::from(number), Ordering::Relaxed);
    }

    /// The error to return when the manifest `number` could not be written. If its name was taken, this looks for a
    /// newer holder.
    pub(super) fn could_not_write(&self, dir: &dyn Dir, number: u32, error: Error) -> Error {
        if !is_taken(&error) {
            return error;
        }
        // Whoever created it may not have written it yet, so every later look includes it, even after this holder has
        // written later ones.
        self.taken().insert(number);
        self.look(dir).err().unwrap_or(error)
    }

    fn taken(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails once a newer term was seen.
    pub(super) fn check(&self) -> Result<()> {
        match self.newer.load(Ordering::Acquire) as u32 {
            0 => Ok(()),
            newest => Err(Error::Superseded { term: self.term, newest }),
        }
    }

    /// Looks for a newer term, and fails if one was seen now or before.
    pub(super) fn look(&self, dir: &dyn Dir) -> Result<()> {
        self.check()?;
        let own = self.own.load(Ordering::Relaxed) as u32;
        let taken = self.taken().clone();
        let wanted = |number| number > own || taken.contains(&number);
        if let Some(newest) = manifest::newer_term(dir, &self.log, wanted, self.term)? {
            self.newer.store(u64::from(newest), Ordering::Release);
        }
        self.check()
    }
}

/// Determines the term in which a log is opened, and durably raises it for a takeover. Nothing else has been written
/// yet.
pub(super) fn hold(
    dir: &dyn Dir,
    clock: &dyn Clock,
    hold: Hold,
    (log, numbers): (&Identity, &[u32]),
    manifest: &mut Known,
) -> Result<u32> {
    // Manifests of higher numbers were created since; the first look finds them.
    let (named, number) = manifest::newest_term(dir, log, manifest.tried())?;
    let in_files = newest_term(dir, &LogKey::of(log), numbers)?;
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
            let before = manifest.tried();
            manifest::begin(dir, manifest, *log, term, clock.wall()).map_err(|error| {
                // Another one was quicker.
                match manifest::newer_term(dir, log, |number| number > before, newest) {
                    Ok(Some(newest)) if is_taken(&error) => Error::Superseded { term, newest },
                    _ => error,
                }
            })?;
            Ok(term)
        }
    }
}

fn is_taken(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists)
}

/// The newest term that segments and checkpoints name. It never decreases from one file to the next, so the newest
/// readable one of each kind has it.
fn newest_term(dir: &dyn Dir, log: &LogKey, numbers: &[u32]) -> Result<u32> {
    let mut newest = TERM_FIRST;
    for &number in numbers.iter().rev() {
        let name = segment::file_name(number);
        let file = match dir.open(&name) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            opened => opened.map_err(|e| Error::io("opening", &name, e))?,
        };
        if let Some((header, _)) = scan::read_header(&*file, number, log)? {
            newest = newest.max(header.term);
            break;
        }
    }
    let folder = checkpoint::folder();
    let files = dir.list(folder).map_err(|e| Error::io("listing", folder, e))?;
    // Sorted, because the names begin with the numbers.
    for name in files.iter().rev().filter_map(|file| Name::parse(file)) {
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
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::UnexpectedEof) => {
            return Ok(None);
        }
        read => read.map_err(|e| Error::io("reading", &file_name, e))?,
    }
    Ok(checkpoint::check_header(&frame, name.number, &log.id).ok())
}

//! Who holds the log.
//!
//! A log has one holder at a time. Another one takes it over with a manifest of a higher *term*, which is durable before anything else
//! is written in that term. A manifest's name is made once, so of two who take over at the same time one is refused.
//!
//! Invariant: whoever has seen a manifest of a newer term than its own writes, removes and acknowledges nothing any more. It looks for
//! one before it begins a segment, gives one its index, writes a checkpoint or a manifest, or removes a file, and whenever the folder
//! is compared with the manifest. All of these are rare; in between it costs a flag.

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

/// The term of the first holder of a log.
pub(super) const TERM_FIRST: u32 = 1;

/// In which term a log is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    /// In the newest that its files name. For a log that is in one store only: who may open it is decided by the store's lock.
    #[default]
    Newest,
    /// In the term in which the caller held it before ([`super::Log::term`]). Refused if it was taken over since.
    Term(u32),
    /// In a term of its own: the caller takes the log over, and whoever held it is refused from then on.
    TakeOver,
}

/// What a holder knows of itself and of others.
#[derive(Debug)]
pub(super) struct Holder {
    log: Identity,
    term: u32,
    /// Of the manifests up to this number all that are another holder's were looked at, but for `taken`.
    own: AtomicU64,
    /// Manifests that another holder began before this one could write them. Nothing could be read of them yet.
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

    /// This holder has written the manifest `number`.
    pub(super) fn wrote(&self, number: u32) {
        self.own.fetch_max(u64::from(number), Ordering::Relaxed);
    }

    /// Why this holder could not write the manifest `number`: if `error` says that it is there already, somebody else has made it.
    pub(super) fn could_not_write(&self, dir: &dyn Dir, number: u32, error: Error) -> Error {
        if !is_taken(&error) {
            return error;
        }
        // Whoever made it may not have written it yet: it is looked at again and again, also when this holder has written later ones.
        self.taken().insert(number);
        self.look(dir).err().unwrap_or(error)
    }

    fn taken(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses once a newer term was seen.
    pub(super) fn check(&self) -> Result<()> {
        match self.newer.load(Ordering::Acquire) as u32 {
            0 => Ok(()),
            newest => Err(Error::Superseded { term: self.term, newest }),
        }
    }

    /// The same, and looks for one.
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

/// Decides in which term a log is opened, and raises the term if it is taken over, durably. Nothing else was written yet.
pub(super) fn hold(
    dir: &dyn Dir,
    clock: &dyn Clock,
    hold: Hold,
    (log, numbers): (&Identity, &[u32]),
    manifest: &mut Known,
) -> Result<u32> {
    // Those behind that were made since: they are seen at the first look.
    let (said, number) = manifest::newest_term(dir, log, manifest.tried())?;
    let written = newest_term(dir, &LogKey::of(log), numbers)?;
    if said > written {
        // Whoever made it may not have lived to make it durable, and nothing may be written in this term before it is.
        manifest::harden(dir, number)?;
    }
    let newest = said.max(written);
    match hold {
        Hold::Newest => Ok(newest),
        Hold::Term(term) if newest > term => Err(Error::Superseded { term, newest }),
        // Its files may be older than it is.
        Hold::Term(term) => Ok(term),
        Hold::TakeOver => {
            let term = newest.checked_add(1).ok_or(Error::NoNumberLeft("holders"))?;
            let before = manifest.tried();
            manifest::begin(dir, manifest, *log, term, clock.wall()).map_err(|error| {
                // Somebody else was quicker.
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

/// The newest term that segments and checkpoints name. It never falls from one file to the next, so the newest one of each kind that
/// can be read says it.
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
    // Their names begin with their numbers.
    for name in files.iter().rev().filter_map(|file| Name::parse(file)) {
        if let Some(term) = checkpoint_term(dir, name, log)? {
            newest = newest.max(term);
            break;
        }
    }
    Ok(newest)
}

/// `None`: its header cannot be read. What is wrong with it is said when it is opened.
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

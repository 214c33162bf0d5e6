//! Which files a log's segments are in.
//!
//! Several holders may have made a file for the same segment. [`segment::counted`] says which one counts, and only here
//! is that asked. A holder writes records only into files of its own term, so what one that was superseded goes on
//! writing goes into a file that nobody reads.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, PoisonError},
};

use crate::{
    env::{Dir, File},
    error::{Damage, Error, Result},
    format::{
        manifest::{Entry, State},
        segment::{self, Name, counted},
    },
    log::{LogKey, scan},
    sync::RwLock,
};

/// The segment files of a log, for a holder in one term.
pub(crate) struct SegmentFiles {
    dir: Arc<dyn Dir>,
    term: u32,
    log: LogKey,
    seen: RwLock<Seen>,
    /// The segments that a manifest names.
    named: RwLock<BTreeMap<u32, Named>>,
}

/// What a manifest says of a segment's file; 0: nothing.
#[derive(Clone, Copy)]
struct Named {
    len_bytes: u64,
    header_crc: u32,
}

struct Seen {
    /// The terms of the segments whose file was last seen to be of an earlier holder. One that is gone stays: it is
    /// written again under the name that it had.
    earlier: BTreeMap<u32, u32>,
    /// Segments from this number on are this holder's, whatever an earlier one has left there.
    own_from: u32,
}

impl SegmentFiles {
    /// Those of the log in `dir`; nothing is listed yet.
    pub(crate) fn new(dir: Arc<dyn Dir>, term: u32, log: LogKey) -> SegmentFiles {
        let seen = RwLock::new(Seen { earlier: BTreeMap::new(), own_from: u32::MAX });
        SegmentFiles { dir, term, log, seen, named: RwLock::default() }
    }

    /// These are the manifests' entries.
    pub(crate) fn know<'a>(&self, entries: impl Iterator<Item = &'a Entry>) {
        let live = entries.filter(|entry| entry.state == State::Lives);
        let named = live
            .map(|&Entry { number, len_bytes, header_crc, .. }| (number, Named { len_bytes, header_crc }));
        *self.named.write().unwrap_or_else(PoisonError::into_inner) = named.collect();
    }

    /// As [`segment::counted`]. But a name alone takes no file away that a manifest names: whoever took the log over
    /// found that one sealed and left it, so what seems to supersede it has to be a file of the log, and the one that
    /// the manifest means.
    fn counted(&self, names: Vec<Name>) -> Result<(Vec<Name>, Vec<Name>)> {
        let (counts, superseded) = counted(names, self.term);
        let doubtful: Vec<Name> = {
            let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
            superseded.iter().filter(|name| named.contains_key(&name.number)).copied().collect()
        };
        if doubtful.is_empty() {
            return Ok((counts, superseded));
        }
        let mut belonging = Vec::new();
        for name in counts.into_iter().chain(superseded) {
            let supersedes = doubtful.iter().any(|other| name.supersedes(*other));
            if !supersedes || self.belongs(name)? {
                belonging.push(name);
            }
        }
        Ok(counted(belonging, self.term))
    }

    /// Whether a file is one of this log, and the one of its number that the manifest means.
    fn belongs(&self, name: Name) -> Result<bool> {
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner).get(&name.number).copied();
        let unread = |e| Error::unread(&segment::label(name.number), 0, e);
        let file = match self.dir.open(&name.file_name()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened.map_err(unread)?,
        };
        let header = scan::read_any_header(&*file, name.number)?;
        if header.as_ref().is_some_and(|(header, _)| LogKey::of(&header.log) != self.log) {
            return Ok(false);
        }
        Ok(match (header, named) {
            (Some((_, crc)), Some(named)) if named.header_crc != 0 => crc == named.header_crc,
            (Some(_), _) => true,
            // Its header may be damaged.
            (None, Some(named)) => {
                named.len_bytes != 0 && file.len_bytes().map_err(unread)? == named.len_bytes
            }
            (None, None) => false,
        })
    }

    pub(crate) fn dir(&self) -> &dyn Dir {
        &*self.dir
    }

    /// This holder begins segments from `number` on.
    pub(crate) fn begin_at(&self, number: u32) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        seen.own_from = number;
        let _ = seen.earlier.split_off(&number);
    }

    /// Lists the folder; returns the numbers of the segments that have a file that counts, in order.
    pub(crate) fn list(&self) -> Result<Vec<u32>> {
        let (mut counted, _) = self.counted(names(&*self.dir)?)?;
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        counted.retain(|name| name.number < seen.own_from || name.term == self.term);
        for name in &counted {
            if name.term == self.term {
                seen.earlier.remove(&name.number);
            } else {
                seen.earlier.insert(name.number, name.term);
            }
        }
        Ok(counted.into_iter().map(|name| name.number).collect())
    }

    /// The name of a segment's file. One that no listing has shown is, or will be, this holder's.
    pub(crate) fn name(&self, number: u32) -> Name {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        Name { number, term: seen.earlier.get(&number).copied().unwrap_or(self.term) }
    }

    /// The name of the file that this holder makes for a segment.
    pub(crate) fn own_name(&self, number: u32) -> Name {
        Name { number, term: self.term }
    }

    /// Whether a segment's file is an earlier holder's.
    pub(crate) fn is_earlier(&self, number: u32) -> bool {
        self.name(number).term < self.term
    }

    /// `None`: it has no file.
    pub(crate) fn open(&self, number: u32) -> Result<Option<Arc<dyn File>>> {
        let name = self.name(number).file_name();
        match self.dir.open(&name) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::unread(&segment::label(number), 0, e)),
        }
    }

    /// Why a segment has no file: whoever took the log over removes what it superseded.
    pub(crate) fn missing(&self, number: u32) -> Result<Error> {
        let later =
            names(&*self.dir)?.into_iter().filter(|name| name.term > self.term && name.number <= number);
        Ok(match later.map(|name| name.term).max() {
            Some(newest) => Error::Superseded { term: self.term, newest },
            None => Error::damaged(&segment::label(number), 0, Damage::Missing),
        })
    }

    /// Makes a file of this holder, which `fill` writes and which is whole and durable before it takes the name `to`, in
    /// place of the file that has it, if there is one. `may` is called before it does.
    pub(crate) fn write_anew(
        &self,
        to: Name,
        fill: &dyn Fn(&dyn File) -> Result<()>,
        may: &dyn Fn() -> Result<()>,
    ) -> Result<Arc<dyn File>> {
        let (part, name) = (self.own_name(to.number).part_name(), to.file_name());
        let file = match self.dir.create(&part) {
            // An earlier attempt left it.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.dir.remove(&part).and_then(|()| self.dir.create(&part))
            }
            made => made,
        };
        let file = file.map_err(|e| Error::io("making", &part, e))?;
        let failed = |e| Error::io("writing anew", &name, e);
        // Nothing relies on this file before it has its name, so a sync that fails here costs nothing.
        let filled = fill(&*file).and_then(|()| file.sync().map_err(failed));
        let named = filled.and_then(|()| may()).and_then(|()| self.dir.replace(&part, &name).map_err(failed));
        if let Err(e) = named {
            let _ = self.dir.remove(&part);
            return Err(e);
        }
        self.sync()?;
        if to.term == self.term {
            self.seen.write().unwrap_or_else(PoisonError::into_inner).earlier.remove(&to.number);
        }
        Ok(file)
    }

    /// Removes what is superseded among `names`, which are all that the folder has. `may` is called before that.
    pub(crate) fn remove_superseded(&self, names: Vec<Name>, may: &dyn Fn() -> Result<()>) -> Result<()> {
        let (_, superseded) = self.counted(names)?;
        if superseded.is_empty() {
            return Ok(());
        }
        // What takes their place may have been given its name by a life that ended before this was durable.
        self.sync()?;
        may()?;
        for name in superseded {
            // The next inventory tries it again.
            let _ = self.dir.remove(&name.file_name());
        }
        // Before anything else goes, or these could be back after a power cut, and what superseded them gone.
        self.sync()
    }

    /// Removes what was left of files that were being written, by holders up to this one. One that cannot be removed does
    /// no harm.
    pub(crate) fn remove_parts(&self) {
        for name in self.dir.list(segment::folder()).unwrap_or_default() {
            if Name::parse_part(&name).is_some_and(|part| part.term <= self.term) {
                let _ = self.dir.remove(&format!("{}/{name}", segment::folder()));
            }
        }
    }

    /// Makes the names of the files durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.dir.sync(segment::folder()).map_err(|e| Error::io("syncing", segment::folder(), e))
    }
}

/// The names of all segment files, whether they count or not.
pub(crate) fn names(dir: &dyn Dir) -> Result<Vec<Name>> {
    let files = dir.list(segment::folder()).map_err(|e| Error::io("listing", segment::folder(), e))?;
    Ok(files.iter().filter_map(|file| Name::parse(file)).collect())
}

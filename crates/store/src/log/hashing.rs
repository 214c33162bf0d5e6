//! The hash of each sealed segment's file, by which the manifest knows it.
//!
//! Nobody who writes waits for it: a segment is read back by upkeep when there is nothing else to do, piece by piece and no faster than
//! the store's [`crate::store::Rate`], or is hashed while `verify` reads it anyhow. Both check all of it on the way ([`Whole`]): what does
//! not hold gets no hash, for by its hash a file is known to be the sound one.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    sync::{Arc, PoisonError},
};

use super::{Log, LogKey, whole::Whole};
use crate::{
    env::File,
    error::{Damage, Error, Place, Result},
    format::{
        manifest::{Entry, Hash, State},
        segment,
    },
    sync::{Mutex, MutexGuard},
};

/// So much is read at a time: a millisecond or two.
const PIECE_BYTES: u64 = 1 << 20;

/// A segment that is read back.
pub(super) struct Hashing {
    entry: Entry,
    file: Arc<dyn File>,
    whole: Whole,
}

/// What does not hold of sealed segments that were read back, by number.
#[derive(Default)]
pub(super) struct Rot(Mutex<BTreeMap<u32, (Place, Damage)>>);

impl Rot {
    fn found(&self) -> MutexGuard<'_, BTreeMap<u32, (Place, Damage)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Reads and checks the next piece of a segment whose hash is not known yet.
    pub(super) fn hash_next(&self) -> Result<bool> {
        let mut upkeep = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut hashing) = upkeep.hashing.take().or_else(|| self.begin_hashing()) else {
            return Ok(false);
        };
        let len = PIECE_BYTES.min(hashing.whole.len_bytes() - hashing.whole.upto());
        if !self.options.store.rate.take(self.clock.monotonic(), len) {
            upkeep.hashing = Some(hashing);
            return Ok(false);
        }
        match self.hash_piece(&mut hashing, len as usize) {
            Ok(true) => {}
            Ok(false) => upkeep.hashing = Some(hashing),
            Err(error) => self.note_rot(&hashing.entry, error),
        }
        Ok(true)
    }

    /// Says whether it was the last piece.
    fn hash_piece(&self, hashing: &mut Hashing, len: usize) -> Result<bool> {
        let (number, at) = (hashing.entry.number, hashing.whole.upto());
        let name = segment::file_name(number);
        let mut piece = vec![0; len];
        let got = hashing.file.read_uncached_at(&mut piece, at);
        let got = got.map_err(|e| Error::io("reading", &name, e))?;
        if got < len {
            return Err(Error::damaged(&name, at + got as u64, Damage::Truncated));
        }
        hashing.whole.take(&piece)?;
        let Some((header_crc, hash)) = hashing.whole.finish() else { return Ok(false) };
        self.check_file(number, Some(header_crc), hashing.whole.len_bytes(), Some(hash))?;
        Ok(true)
    }

    fn begin_hashing(&self) -> Option<Hashing> {
        // Each is tried once in a life.
        // The manifest is not held while the file is looked at: what is found is noted there.
        let next = || self.manifest().take_unhashed();
        while let Some(entry) = next() {
            let name = segment::file_name(entry.number);
            let is_sound = !self.damage_at_open.iter().any(|(place, _)| place.file == name);
            let Some(file) = is_sound.then(|| self.dir.open(&name).ok()).flatten() else { continue };
            match Whole::begin(&*file, entry.number, self.key) {
                Ok(whole) => return Some(Hashing { entry, file, whole }),
                Err(error) => self.note_rot(&entry, error),
            }
        }
        None
    }

    /// Reading a segment back failed. It gets no hash, and if it is damaged [`Log::damage`] says so. What cannot be read today may be
    /// tomorrow: that only verification says.
    fn note_rot(&self, of: &Entry, error: Error) {
        let Error::Damaged { place, damage } = error else { return };
        // It may have been lost meanwhile.
        if self.manifest().segment(of.number) == Some(of) {
            self.rot.found().insert(of.number, (place, damage));
        }
    }

    /// What was found damaged by reading it back, and was not found whole since.
    pub(super) fn rot(&self) -> Vec<(Place, Damage)> {
        let found = self.rot.found();
        let own = found.iter().filter(|(number, _)| self.places.elsewhere(**number).is_none());
        own.map(|(_, found)| found.clone()).collect()
    }

    /// The whole file of a segment has this hash.
    fn note_hash(&self, of: &Entry, hash: Hash) {
        let mut manifest = self.manifest();
        // It may have been lost meanwhile.
        if manifest.segment(of.number) == Some(of) {
            manifest.note(Entry { hash: Some(hash), ..*of });
        }
    }

    /// Compares a sealed segment, all of which holds in itself, with what the manifest knows of its file. `hash` is that of the
    /// whole file, if it was read.
    ///
    /// # Errors
    /// When it is another file, or was changed where no checksum of its own covers it.
    pub(super) fn check_file(
        &self,
        number: u32,
        header_crc: Option<u32>,
        len_bytes: u64,
        hash: Option<Hash>,
    ) -> Result<()> {
        let known = self.manifest().segment(number).copied().filter(|entry| entry.state == State::Lives);
        let Some(known) = known else { return Ok(()) };
        let damaged = |offset, damage| Err(Error::damaged(&segment::file_name(number), offset, damage));
        if header_crc != Some(known.header_crc) {
            return damaged(0, Damage::Misplaced);
        }
        if len_bytes < known.len_bytes {
            return damaged(len_bytes, Damage::Truncated);
        }
        if len_bytes > known.len_bytes {
            return damaged(known.len_bytes, Damage::Misplaced);
        }
        let Some(hash) = hash else { return Ok(()) };
        match known.hash {
            Some(known) if known != hash => return damaged(0, Damage::Changed),
            Some(_) => {}
            None => self.note_hash(&known, hash),
        }
        self.rot.found().remove(&number);
        Ok(())
    }
}

/// The file of a sealed segment that somebody reads from front to back, checked and hashed as a whole on the way.
pub(super) struct Hashed<'a> {
    file: &'a dyn File,
    seen: Mutex<Seen>,
}

struct Seen {
    whole: Whole,
    /// The first thing that did not hold; nothing behind it is looked at.
    flaw: Option<Error>,
}

impl<'a> Hashed<'a> {
    /// # Errors
    /// As [`Whole::begin`].
    pub(super) fn new(file: &'a dyn File, number: u32, key: LogKey) -> Result<Hashed<'a>> {
        let whole = Whole::begin(file, number, key)?;
        Ok(Hashed { file, seen: Mutex::new(Seen { whole, flaw: None }) })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hash of the file, if it is whole. What was not seen of it is read.
    ///
    /// # Errors
    /// When it is not whole, or cannot be read.
    pub(super) fn finish(&self, name: &str) -> Result<Hash> {
        let mut piece = vec![0; PIECE_BYTES as usize];
        loop {
            let (upto, len_bytes) = {
                let seen = self.seen();
                if let Some(flaw) = &seen.flaw {
                    return Err(flaw.clone());
                }
                if let Some((_, hash)) = seen.whole.finish() {
                    return Ok(hash);
                }
                (seen.whole.upto(), seen.whole.len_bytes())
            };
            let wanted = len_bytes.saturating_sub(upto).min(PIECE_BYTES) as usize;
            let got = self.read_at(&mut piece[..wanted], upto).map_err(|e| Error::io("reading", name, e))?;
            if got < wanted || wanted == 0 {
                return Err(Error::damaged(name, upto + got as u64, Damage::Truncated));
            }
        }
    }
}

impl File for Hashed<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let got = self.file.read_at(buf, offset)?;
        let mut seen = self.seen();
        // What is read again, or out of order, adds nothing.
        let known = seen.whole.upto().checked_sub(offset).map_or(usize::MAX, |known| known as usize);
        if let Some(new) = buf[..got].get(known..).filter(|new| !new.is_empty() && seen.flaw.is_none()) {
            seen.flaw = seen.whole.take(new).err();
        }
        Ok(got)
    }
    fn write_at(&self, _: &mut [IoSlice<'_>], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn len_bytes(&self) -> io::Result<u64> {
        self.file.len_bytes()
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn reserve(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
    fn prefetch(&self, offset: u64, len_bytes: u64) {
        self.file.prefetch(offset, len_bytes);
    }
}

//! Hashes the file of each sealed segment. The manifest identifies the file by its hash.
//!
//! No writer waits for it. Either upkeep reads a segment back when there is nothing else to do, piece by piece and no
//! faster than the store's [`crate::store::Rate`], or `verify` hashes it while reading it anyway. Both check the
//! whole file on the way ([`Whole`]). A file that fails gets no hash, because the hash says which file is the sound
//! one.

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

/// Read at a time; takes a millisecond or two.
const PIECE_BYTES: u64 = 1 << 20;

/// A segment that is being read back.
pub(super) struct Hashing {
    entry: Entry,
    file: Arc<dyn File>,
    whole: Whole,
}

/// The damage that was found by reading sealed segments back, by number of the segment.
#[derive(Default)]
pub(super) struct Rot(Mutex<BTreeMap<u32, (Place, Damage)>>);

impl Rot {
    fn found(&self) -> MutexGuard<'_, BTreeMap<u32, (Place, Damage)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    /// Reads and checks the next piece of a segment whose hash is not known yet; returns whether it did.
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

    /// Returns whether that was the last piece.
    fn hash_piece(&self, hashing: &mut Hashing, len: usize) -> Result<bool> {
        let (number, at) = (hashing.entry.number, hashing.whole.upto());
        let name = segment::label(number);
        let mut piece = vec![0; len];
        let got = hashing.file.read_uncached_at(&mut piece, at);
        let got = got.map_err(|e| Error::unread(&name, at, e))?;
        if got < len {
            return Err(Error::damaged(&name, at + got as u64, Damage::Truncated));
        }
        hashing.whole.take(&piece)?;
        let Some((header_crc, hash)) = hashing.whole.finish() else { return Ok(false) };
        self.check_file(number, Some(header_crc), hashing.whole.len_bytes(), Some(hash))?;
        Ok(true)
    }

    fn begin_hashing(&self) -> Option<Hashing> {
        // Each is tried once per incarnation. The manifest is not locked while the file is opened: what is found is
        // noted there.
        let next = || self.manifest().take_unhashed();
        while let Some(entry) = next() {
            let name = segment::label(entry.number);
            let is_sound = !self.damaged_at_open.contains(&name);
            let open = || self.places.segments.files.open(entry.number).ok().flatten();
            let Some(file) = is_sound.then(open).flatten() else { continue };
            match Whole::begin(&*file, entry.number, self.key) {
                Ok(whole) => return Some(Hashing { entry, file, whole }),
                Err(error) => self.note_rot(&entry, error),
            }
        }
        None
    }

    /// Handles a failure to read a segment back: it gets no hash. Damage is kept for [`Log::damage`]. An I/O error
    /// may pass, so only verification reports it.
    fn note_rot(&self, of: &Entry, error: Error) {
        let Error::Damaged { place, damage } = error else { return };
        // It may have gone missing meanwhile.
        if self.manifest().segment(of.number) == Some(of) {
            self.rot.found().insert(of.number, (place, damage));
        }
    }

    /// The damage that was found by reading segments back, unless they were found whole since or moved.
    pub(super) fn rot(&self) -> Vec<(Place, Damage)> {
        let found = self.rot.found();
        let own = found.iter().filter(|(number, _)| self.places.elsewhere(**number).is_none());
        own.map(|(_, found)| found.clone()).collect()
    }

    /// Notes the hash of a segment's whole file.
    fn note_hash(&self, of: &Entry, hash: Hash) {
        let mut manifest = self.manifest();
        // It may have gone missing meanwhile.
        if manifest.segment(of.number) == Some(of) {
            manifest.note(Entry { hash: Some(hash), ..*of });
        }
    }

    /// Compares a sealed segment that is whole in itself with what the manifest says of its file. `hash` is that of
    /// the whole file, if it was read; it is noted if the manifest has none.
    ///
    /// # Errors
    /// When it is another file, or was changed where none of its own checksums covers it.
    pub(super) fn check_file(
        &self,
        number: u32,
        header_crc: Option<u32>,
        len_bytes: u64,
        hash: Option<Hash>,
    ) -> Result<()> {
        let known = self.manifest().segment(number).copied().filter(|entry| entry.state == State::Lives);
        let Some(known) = known else { return Ok(()) };
        let damaged = |offset, damage| Err(Error::damaged(&segment::label(number), offset, damage));
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

/// The file of a sealed segment, checked and hashed as a whole while it is read from front to back.
pub(super) struct Hashed<'a> {
    file: &'a dyn File,
    seen: Mutex<Seen>,
}

struct Seen {
    whole: Whole,
    /// The first failure; nothing after it is checked.
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

    /// The hash of the file. Reads what was not read yet.
    ///
    /// # Errors
    /// When the file is not whole, or cannot be read.
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
            let got = self.read_at(&mut piece[..wanted], upto).map_err(|e| Error::unread(name, upto, e))?;
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
        // Bytes that are read again, or out of order, add nothing.
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

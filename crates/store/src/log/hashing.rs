//! The hash of each sealed segment's file, by which the manifest knows it.
//!
//! Nobody who writes waits for it: a segment is read back by upkeep when there is nothing else to do, piece by piece and no faster than
//! the store's [`crate::store::Rate`], or is hashed while `verify` reads it anyhow.

use std::{
    io::{self, IoSlice},
    sync::{Arc, PoisonError},
};

use super::Log;
use crate::{
    env::File,
    error::{Damage, Error, Result},
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
    hasher: blake3::Hasher,
    at: u64,
}

impl Log {
    /// Reads the next piece of a segment whose hash is not known yet.
    pub(super) fn hash_next(&self) -> Result<bool> {
        let mut upkeep = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut hashing) = upkeep.hashing.take().or_else(|| self.begin_hashing()) else {
            return Ok(false);
        };
        let len = PIECE_BYTES.min(hashing.entry.len_bytes - hashing.at);
        if !self.options.store.rate.take(self.clock.monotonic(), len) {
            upkeep.hashing = Some(hashing);
            return Ok(false);
        }
        let mut piece = vec![0; len as usize];
        match hashing.file.read_uncached_at(&mut piece, hashing.at) {
            Ok(got) if got as u64 == len => {}
            // It was cut, or cannot be read: verification says so.
            _ => return Ok(true),
        }
        hashing.hasher.update(&piece);
        hashing.at += len;
        if hashing.at < hashing.entry.len_bytes {
            upkeep.hashing = Some(hashing);
        } else {
            self.note_hash(&hashing.entry, *hashing.hasher.finalize().as_bytes());
        }
        Ok(true)
    }

    fn begin_hashing(&self) -> Option<Hashing> {
        // Each is tried once in a life.
        while let Some(entry) = self.manifest().take_unhashed() {
            let name = segment::file_name(entry.number);
            let is_sound = !self.damage_at_open.iter().any(|(place, _)| place.file == name);
            if let Some(file) = is_sound.then(|| self.dir.open(&name).ok()).flatten() {
                return Some(Hashing { entry, file, hasher: blake3::Hasher::new(), at: 0 });
            }
        }
        None
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
        match (known.hash, hash) {
            (Some(known), Some(hash)) if known != hash => damaged(0, Damage::Changed),
            (None, Some(hash)) => {
                self.note_hash(&known, hash);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// A file that somebody reads from front to back, hashed on the way.
pub(super) struct Hashed<'a> {
    file: &'a dyn File,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    hasher: blake3::Hasher,
    /// Everything before this was seen.
    upto: u64,
}

impl<'a> Hashed<'a> {
    pub(super) fn new(file: &'a dyn File) -> Hashed<'a> {
        Hashed { file, seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hash of the first `len_bytes`, of which those are read that were not seen.
    pub(super) fn finish(&self, len_bytes: u64) -> io::Result<Hash> {
        let mut piece = vec![0; PIECE_BYTES as usize];
        loop {
            let upto = self.seen().upto;
            let wanted = len_bytes.saturating_sub(upto).min(PIECE_BYTES) as usize;
            if wanted == 0 {
                return Ok(*self.seen().hasher.finalize().as_bytes());
            }
            if self.read_at(&mut piece[..wanted], upto)? < wanted {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl File for Hashed<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let got = self.file.read_at(buf, offset)?;
        let mut seen = self.seen();
        // What is read again, or out of order, adds nothing.
        let known = seen.upto.checked_sub(offset).map_or(usize::MAX, |known| known as usize);
        if let Some(new) = buf[..got].get(known..) {
            seen.hasher.update(new);
            seen.upto += new.len() as u64;
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

//! A file whose unreadable places are passed over, so that what follows them can be checked too.

use std::{
    collections::BTreeSet,
    io::{self, IoSlice},
    sync::PoisonError,
};

use crate::{env::File, error::is_unreadable, sync::Mutex};

/// What a medium reads, or fails to read, at a time.
const BLOCK_BYTES: u64 = 4096;
/// What is read in the place of a block that cannot be: no checksum of ours matches it.
const PATCH: u8 = 0xff;
/// The most blocks that are noted for one file. Where so many cannot be read, reading fails: a medium may take seconds
/// for each of them.
const NOTED_MAX: usize = 1024;

/// See the module's comment. Only for checking: what it reads must not be taken for content.
pub(super) struct Patched<'a> {
    file: &'a dyn File,
    unreadable: Mutex<BTreeSet<u64>>,
}

impl<'a> Patched<'a> {
    pub(super) fn new(file: &'a dyn File) -> Patched<'a> {
        Patched { file, unreadable: Mutex::default() }
    }

    /// The offsets of the unreadable blocks that were met.
    pub(super) fn unreadable(&self) -> BTreeSet<u64> {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes an unreadable block; returns false if there are too many.
    fn note(&self, offset: u64) -> bool {
        let mut noted = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.len() < NOTED_MAX {
            noted.insert(offset);
        }
        noted.contains(&offset)
    }

    fn has_too_many(&self) -> bool {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).len() >= NOTED_MAX
    }
}

impl File for Patched<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.file.read_at(buf, offset) {
            Err(e) if is_unreadable(&e) && !self.has_too_many() => {}
            read => return read,
        }
        let len_bytes = self.file.len_bytes()?.saturating_sub(offset);
        let whole = buf.len().min(usize::try_from(len_bytes).unwrap_or(usize::MAX));
        let buf = &mut buf[..whole];
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let block = at - at % BLOCK_BYTES;
            let end = buf.len().min((block + BLOCK_BYTES - offset) as usize);
            let part = &mut buf[done..end];
            match self.file.read_at(part, at) {
                Err(e) if is_unreadable(&e) => {
                    if !self.note(block) {
                        return Err(e);
                    }
                    part.fill(PATCH);
                }
                read => {
                    let got = read?;
                    if got < part.len() {
                        return Ok(done + got);
                    }
                }
            }
            done = end;
        }
        Ok(done)
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

//! What the store needs of the world: a place for files, a clock, chance. The simulator brings its own.
//!
//! What is assumed of the medium is written down in `docs/format.md`.

mod ahead;
mod real;

use std::{
    io::{self, IoSlice, IoSliceMut},
    sync::Arc,
};

use bygone_model::Micros;

pub use real::{RealDir, RealFile, SystemClock, SystemRandom};

/// A directory tree for the files of one log. Names are relative, with `/` between the parts.
pub trait Dir: Send + Sync {
    /// Makes a new file and opens it for reading and writing. Missing parent folders are made.
    /// The name is durable only after [`Dir::sync`].
    ///
    /// # Errors
    /// `AlreadyExists` when there is one: nothing is ever overwritten.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// The names of the files in `folder` (not in folders below it), sorted. A missing folder is empty.
    ///
    /// # Errors
    /// What the medium says.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Removes a file. Durable only after [`Dir::sync`].
    ///
    /// # Errors
    /// `NotFound` when there is none.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes the names in `folder` durable.
    ///
    /// # Errors
    /// What the medium says; then nothing more may be promised of this directory.
    fn sync(&self, folder: &str) -> io::Result<()>;

    /// Bytes that can still be written.
    ///
    /// # Errors
    /// What the medium says.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// One file. All calls may come from several threads at once.
pub trait File: Send + Sync {
    /// Fills `buf` from `offset`, as far as the file reaches; says how many bytes that were.
    ///
    /// # Errors
    /// What the medium says.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Like [`File::read_at`], but only as far as nothing has to be waited for.
    ///
    /// # Errors
    /// `WouldBlock` when the medium would have to be waited for.
    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buf, offset)
    }

    /// As [`File::read_at`], for much that is read once: it is kept in memory no longer than that takes, if the system can.
    ///
    /// # Errors
    /// As [`File::read_at`].
    fn read_uncached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buf, offset)
    }

    /// Fills `parts`, one after the other, with what stands from `offset` on; says how many bytes that were, which may be fewer
    /// than there are. With `cached` only as far as nothing has to be waited for.
    ///
    /// # Errors
    /// As [`File::read_at`] and [`File::read_cached_at`].
    fn read_parts_at(&self, parts: &mut [IoSliceMut<'_>], offset: u64, cached: bool) -> io::Result<usize> {
        let mut done = 0;
        for part in parts {
            let at = offset + done as u64;
            let got = if cached { self.read_cached_at(part, at)? } else { self.read_at(part, at)? };
            done += got;
            if got < part.len() {
                break;
            }
        }
        Ok(done)
    }

    /// Writes all of `parts`, one after the other, from `offset` on. Visible to reads at once, and it
    /// survives the death of this process; durable only after [`File::sync`].
    ///
    /// # Errors
    /// What the medium says; then the range holds anything.
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// As [`File::write_at`], for much that is not likely to be read soon: the medium begins with it at once, and it is kept
    /// in memory no longer than that takes, if the system can.
    ///
    /// # Errors
    /// As [`File::write_at`].
    fn write_uncached_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_at(parts, offset)
    }

    /// Asks the medium to begin with what was written to a range, without waiting for it: a later [`File::sync`] has less to
    /// wait for. Promises nothing.
    fn begin_writing(&self, _offset: u64, _len_bytes: u64) {}

    /// Makes what was written durable (data, length, allocation).
    ///
    /// # Errors
    /// What the medium says; then what was written since the last success may be gone for good.
    fn sync(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// What the medium says.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Cuts or extends (with zeroes) to `len_bytes`.
    ///
    /// # Errors
    /// What the medium says.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;

    /// Reserves space, so that writes below `len_bytes` find room. Does not change the length.
    ///
    /// # Errors
    /// `StorageFull` when there is no room. A medium that cannot reserve says nothing and does nothing.
    fn reserve(&self, len_bytes: u64) -> io::Result<()>;

    /// Asks for a range to be brought into memory soon.
    fn prefetch(&self, offset: u64, len_bytes: u64);
}

/// Tells the time.
pub trait Clock: Send + Sync {
    /// The wall clock. It may jump, in both directions.
    fn wall(&self) -> Micros;

    /// Microseconds that passed since some start; never goes back.
    fn monotonic(&self) -> Micros;
}

/// Draws what nobody can guess.
pub trait Random: Send + Sync + std::fmt::Debug {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// What the system says.
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()>;
}

/// Reads exactly `buf.len()` bytes.
///
/// # Errors
/// `UnexpectedEof` when the file ends before that.
pub fn read_exact_at(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let n = file.read_at(buf, offset)?;
    if n == buf.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

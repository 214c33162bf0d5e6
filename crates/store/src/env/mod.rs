//! What the store needs from its environment: files, a clock, randomness. The simulator has its own implementation.
//!
//! `docs/format.md` says what is assumed of the medium.

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
    /// Creates a file and opens it for reading and writing. Missing parent folders are created too.
    /// The name is durable only after [`Dir::sync`].
    ///
    /// # Errors
    /// `AlreadyExists` if there is one: no file is ever replaced.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Makes a file with this content in one step: under this name nobody ever finds less than all of it, not even
    /// after a power cut. Missing parent folders are created too. Content and name are durable on return.
    ///
    /// A process that dies meanwhile may leave a file whose name is `name` with something and `.part` after it.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one: no file is ever replaced. After any other error the file may be there, whole,
    /// or not.
    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// The names of the files in `folder` (not in folders below it), sorted. A missing folder counts as empty.
    ///
    /// # Errors
    /// If the folder cannot be read.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Removes a file. The removal is durable only after [`Dir::sync`].
    ///
    /// # Errors
    /// `NotFound` if there is none.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives the file `from` the name `to`, in place of the file that has it, if there is one. Whoever opens `to` finds
    /// one of the two at any time, also after a power cut. Durable only after [`Dir::sync`].
    ///
    /// # Errors
    /// `NotFound` if there is no file `from`.
    fn replace(&self, from: &str, to: &str) -> io::Result<()>;

    /// Makes the names in `folder`, and that of `folder` itself, durable.
    ///
    /// # Errors
    /// If the medium reports an error; no name created or removed since the last success is known to be durable then.
    fn sync(&self, folder: &str) -> io::Result<()>;

    /// The bytes of free space.
    ///
    /// # Errors
    /// If the file system cannot be asked.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// Tells a file from all others of its file system, whatever their names: its device and inode.
pub type FileId = (u64, u64);

/// One file. Every call may come from several threads at once.
pub trait File: Send + Sync {
    /// Reads from `offset` until `buf` is full or the file ends; returns the number of bytes.
    ///
    /// # Errors
    /// If the medium reports an error.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Like [`File::read_at`], but does not wait for the medium, unless the file system cannot say whether it would.
    ///
    /// # Errors
    /// `WouldBlock` if the medium would have to be waited for.
    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buf, offset)
    }

    /// Like [`File::read_at`], for large data that is read once: it does not stay in the page cache, where the system
    /// supports that.
    ///
    /// # Errors
    /// As [`File::read_at`].
    fn read_uncached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buf, offset)
    }

    /// Reads from `offset` into `parts`, one after the other; returns the number of bytes, which may be fewer than the
    /// file has. With `cached` it does not wait for the medium, like [`File::read_cached_at`].
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

    /// Writes all of `parts`, one after the other, from `offset` on. The bytes are visible to reads at once and survive
    /// the death of this process; they are durable only after [`File::sync`].
    ///
    /// # Errors
    /// If the medium reports an error; the contents of the range are undefined then.
    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;

    /// Like [`File::write_at`], for large data that is not likely to be read soon: write-back begins at once, and the
    /// data does not stay in the page cache, where the system supports that.
    ///
    /// # Errors
    /// As [`File::write_at`].
    fn write_uncached_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.write_at(parts, offset)
    }

    /// Hints that write-back of a range should begin now, so that a later [`File::sync`] has less to wait for.
    fn begin_writing(&self, _offset: u64, _len_bytes: u64) {}

    /// Makes everything durable that was written before (data, length, allocation).
    ///
    /// # Errors
    /// If the medium reports an error; what was written since the last success may be lost for good then, even if a
    /// later sync succeeds.
    fn sync(&self) -> io::Result<()>;

    /// The length in bytes.
    ///
    /// # Errors
    /// If the file system cannot be asked.
    fn len_bytes(&self) -> io::Result<u64>;

    /// Tells the file from others, even after another one got its name. `None`: the environment cannot tell.
    ///
    /// # Errors
    /// If the file system cannot be asked.
    fn id(&self) -> io::Result<Option<FileId>> {
        Ok(None)
    }

    /// Truncates or extends (with zeroes) the file to `len_bytes`.
    ///
    /// # Errors
    /// If the medium reports an error.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;

    /// Preallocates space, so that writes below `len_bytes` find room. Does not change the length. A file system that
    /// cannot preallocate does nothing.
    ///
    /// # Errors
    /// `StorageFull` if there is no room.
    fn reserve(&self, len_bytes: u64) -> io::Result<()>;

    /// Hints that a range will be read soon.
    fn prefetch(&self, offset: u64, len_bytes: u64);
}

/// The wall clock and the monotonic clock.
pub trait Clock: Send + Sync {
    /// Microseconds since 1970 by the wall clock, which may jump in both directions.
    fn wall(&self) -> Micros;

    /// Microseconds since an arbitrary start; never goes back. Time during which the system slept counts.
    fn monotonic(&self) -> Micros;
}

/// A cryptographically secure source of random bytes.
pub trait Random: Send + Sync + std::fmt::Debug {
    /// Fills `bytes`.
    ///
    /// # Errors
    /// If the system's source fails.
    fn fill(&self, bytes: &mut [u8]) -> io::Result<()>;
}

/// Reads exactly `buf.len()` bytes.
///
/// # Errors
/// `UnexpectedEof` if the file ends before that; otherwise as [`File::read_at`].
pub fn read_exact_at(file: &dyn File, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let n = file.read_at(buf, offset)?;
    if n == buf.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

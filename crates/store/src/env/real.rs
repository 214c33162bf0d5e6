//! The real environment: the operating system's files, clocks and random numbers.

use std::{
    fs, io,
    io::{IoSlice, IoSliceMut},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bygone_model::Micros;
use rustix::{
    fs::{Advice, CWD, FallocateFlags, RenameFlags},
    io::{Errno, ReadWriteFlags},
    time::{ClockId, clock_gettime},
};

use super::{Clock, Dir, File, FileId, Random, ahead};

#[cfg(test)]
mod tests;

/// The most buffers in one vectored write: the kernel's own limit (`IOV_MAX`).
const IOV_MAX: usize = 1024;

/// The most bytes in one write: enough for a record of 1 MiB, and less than 2 MiB. For larger writes Linux tries to
/// allocate folios of 2 MiB and more in the page cache, which may take six times as long (decision 9).
const WRITE_BYTES_MAX: usize = (1 << 20) + (64 << 10);

/// The page size of the page cache.
const BLOCK_BYTES: u64 = 4096;
/// `RWF_DONTCACHE` (Linux 6.14): write-back begins at once, and the pages are dropped afterwards.
const DROP_BEHIND: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDir {
    root: PathBuf,
}

impl RealDir {
    /// The directory `root`, which need not exist yet.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> RealDir {
        RealDir { root: root.into() }
    }

    /// The path of the directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn open_options() -> fs::OpenOptions {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true);
        options
    }
}

impl Dir for RealDir {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let path = self.root.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        Ok(Arc::new(RealFile::new(Self::open_options().create_new(true).open(path)?)))
    }

    fn publish(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        // Random, so that whoever else publishes under this name has a part of its own.
        let mut random = [0; 8];
        SystemRandom.fill(&mut random)?;
        let part = format!("{name}.{:016x}.part", u64::from_le_bytes(random));
        let file = self.create(&part)?;
        let written = file.write_at(&mut [IoSlice::new(bytes)], 0).and_then(|()| file.sync());
        let named = written.and_then(|()| {
            let (from, to) = (self.root.join(&part), self.root.join(name));
            rename_new(&from, &to).or_else(|e| has_name(&*file, &from, &to, e))
        });
        if let Err(e) = named {
            let _ = self.remove(&part);
            return Err(e);
        }
        self.sync(Path::new(name).parent().and_then(Path::to_str).unwrap_or_default())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(RealFile::new(Self::open_options().open(self.root.join(name))?)))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.root.join(folder)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(name))
    }

    fn replace(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn sync(&self, folder: &str) -> io::Result<()> {
        // A new folder is an entry of its parent, so every level up to the root's own parent is synced.
        let mut at = Some(Path::new(folder));
        while let Some(folder) = at {
            fs::File::open(self.root.join(folder))?.sync_all()?;
            at = folder.parent();
        }
        match self.root.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => fs::File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let mut at = self.root.as_path();
        while !at.exists() {
            at = at.parent().ok_or(io::ErrorKind::NotFound)?;
        }
        let stat = rustix::fs::statvfs(at)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

/// Renames a file to a name that does not exist yet.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Such a file system (NFS is one) refuses a second link to a name that exists.
        Err(e) if is_unknown_flag(e) => {
            fs::hard_link(from, to)?;
            // Under its other name it is a leftover like any other.
            let _ = fs::remove_file(from);
            Ok(())
        }
        done => Ok(done?),
    }
}

/// Handles the failure of a step that was to give `file` the name `to`: none, if `file` has it. A file system over a
/// network repeats a step whose answer was lost, and then only the repetition fails.
fn has_name(file: &dyn File, from: &Path, to: &Path, failed: io::Error) -> io::Result<()> {
    let there = fs::metadata(to).ok().map(|meta| (meta.dev(), meta.ino()));
    if there.is_none() || there != file.id()? {
        return Err(failed);
    }
    // Under its other name it is a leftover like any other.
    let _ = fs::remove_file(from);
    Ok(())
}

/// A file of the operating system.
#[derive(Debug)]
pub struct RealFile {
    file: Arc<fs::File>,
    can_drop_behind: AtomicBool,
}

impl RealFile {
    /// Wraps an open file.
    #[must_use]
    pub fn new(file: fs::File) -> RealFile {
        RealFile { file: Arc::new(file), can_drop_behind: AtomicBool::new(true) }
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &fs::File {
        &self.file
    }
}

/// Whether this kernel or this file system does not support a flag.
fn is_unknown_flag(error: Errno) -> bool {
    matches!(error, Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS)
}

fn len_of(parts: &[IoSlice<'_>]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

/// The first `room` bytes of `parts`, in at most [`IOV_MAX`] buffers.
fn first_of<'a>(parts: &'a [IoSlice<'a>], mut room: usize) -> Vec<IoSlice<'a>> {
    let mut first = Vec::with_capacity(parts.len().min(IOV_MAX));
    for part in parts.iter().take(IOV_MAX) {
        if room == 0 {
            break;
        }
        let len_bytes = part.len().min(room);
        first.push(IoSlice::new(&part[..len_bytes]));
        room -= len_bytes;
    }
    first
}

impl RealFile {
    /// Reads with `flags` until `buf` is full or the file ends.
    fn read_with(&self, buf: &mut [u8], offset: u64, flags: ReadWriteFlags) -> Result<usize, Errno> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let mut parts = [IoSliceMut::new(rest)];
            match rustix::io::preadv2(self.file.as_fd(), &mut parts, offset + done as u64, flags) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    /// Writes from `left` at offset `*at` up to offset `end`, and advances both.
    fn write_up_to(
        &self,
        end: u64,
        left: &mut &mut [IoSlice<'_>],
        at: &mut u64,
        flags: ReadWriteFlags,
    ) -> Result<(), Errno> {
        while *at < end {
            let room = WRITE_BYTES_MAX.min(usize::try_from(end - *at).unwrap_or(usize::MAX));
            // The usual case needs no copy of the list.
            let fits = left.len() <= IOV_MAX && len_of(left) <= room as u64;
            let wrote = if fits {
                rustix::io::pwritev2(self.file.as_fd(), left, *at, flags)
            } else {
                rustix::io::pwritev2(self.file.as_fd(), &first_of(left, room), *at, flags)
            };
            match wrote {
                Ok(0) => return Err(Errno::IO),
                Ok(n) => {
                    *at += n as u64;
                    IoSlice::advance_slices(left, n);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(self.read_with(buf, offset, ReadWriteFlags::empty())?)
    }

    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.read_with(buf, offset, ReadWriteFlags::NOWAIT) {
            // A file system without `RWF_NOWAIT` may wait.
            Err(e) if is_unknown_flag(e) => self.read_at(buf, offset),
            done => Ok(done?),
        }
    }

    fn read_uncached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.can_drop_behind.load(Ordering::Relaxed) {
            match self.read_with(buf, offset, DROP_BEHIND) {
                Err(e) if is_unknown_flag(e) => self.can_drop_behind.store(false, Ordering::Relaxed),
                done => return Ok(done?),
            }
        }
        self.read_at(buf, offset)
    }

    fn read_parts_at(&self, parts: &mut [IoSliceMut<'_>], offset: u64, cached: bool) -> io::Result<usize> {
        let flags = if cached { ReadWriteFlags::NOWAIT } else { ReadWriteFlags::empty() };
        loop {
            match rustix::io::preadv2(self.file.as_fd(), parts, offset, flags) {
                Err(Errno::INTR) => {}
                // A file system without `RWF_NOWAIT` may wait.
                Err(e) if cached && is_unknown_flag(e) => {
                    return self.read_parts_at(parts, offset, false);
                }
                done => return Ok(done?),
            }
        }
    }

    fn write_at(&self, mut parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        let end = offset + len_of(parts);
        Ok(self.write_up_to(end, &mut parts, &mut offset, ReadWriteFlags::empty())?)
    }

    fn write_uncached_at(&self, mut parts: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        let end = offset + len_of(parts);
        // The last, partial block stays in the page cache: the next write continues in it, and would have to read it
        // first.
        let whole = end - end % BLOCK_BYTES;
        if self.can_drop_behind.load(Ordering::Relaxed) {
            match self.write_up_to(whole, &mut parts, &mut offset, DROP_BEHIND) {
                Err(e) if is_unknown_flag(e) => self.can_drop_behind.store(false, Ordering::Relaxed),
                done => done?,
            }
        }
        Ok(self.write_up_to(end, &mut parts, &mut offset, ReadWriteFlags::empty())?)
    }

    fn begin_writing(&self, offset: u64, len_bytes: u64) {
        ahead::begin(&self.file, offset, len_bytes);
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn id(&self) -> io::Result<Option<FileId>> {
        let meta = self.file.metadata()?;
        Ok(Some((meta.dev(), meta.ino())))
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.file.set_len(len_bytes)
    }

    fn reserve(&self, len_bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self.file.as_fd(), FallocateFlags::KEEP_SIZE, 0, len_bytes) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn prefetch(&self, offset: u64, len_bytes: u64) {
        // Only a hint: if it fails, the read takes longer.
        let _ =
            rustix::fs::fadvise(&*self.file, offset, std::num::NonZeroU64::new(len_bytes), Advice::WillNeed);
    }
}

/// The operating system's random number generator.
#[derive(Clone, Copy, Debug)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match rustix::rand::getrandom(&mut *bytes, rustix::rand::GetRandomFlags::empty()) {
                Ok(drawn) => bytes = &mut bytes[drawn..],
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

/// The clocks of the operating system.
#[derive(Debug)]
pub struct SystemClock {
    start_micros: i64,
}

impl SystemClock {
    /// All clocks of a process share one start: the monotonic clock counts from when the first of them was made.
    #[must_use]
    pub fn new() -> SystemClock {
        static START: OnceLock<i64> = OnceLock::new();
        SystemClock { start_micros: *START.get_or_init(since_boot_micros) }
    }
}

/// The time since the system was started. Unlike `CLOCK_MONOTONIC`, which the standard library reads, it goes on while
/// the system sleeps: another computer may take the log over meanwhile.
fn since_boot_micros() -> i64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1000)
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where the environment's clock comes from")]
    fn wall(&self) -> Micros {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Micros(since.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX)))
    }

    fn monotonic(&self) -> Micros {
        Micros(since_boot_micros().saturating_sub(self.start_micros))
    }
}

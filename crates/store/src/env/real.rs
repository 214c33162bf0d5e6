//! The real world: files of the operating system.

use std::{
    fs, io,
    io::{IoSlice, IoSliceMut},
    os::{fd::AsFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use bygone_model::Micros;
use rustix::{
    fs::{Advice, FallocateFlags},
    io::{Errno, ReadWriteFlags},
};

use super::{Clock, Dir, File, Random, ahead};

/// At most this many buffers in one vectored write; the kernel's own limit (`IOV_MAX`).
const IOV_MAX: usize = 1024;

/// A directory of the operating system.
#[derive(Debug)]
pub struct RealDir {
    root: PathBuf,
}

impl RealDir {
    /// Uses `root`, which need not exist yet.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> RealDir {
        RealDir { root: root.into() }
    }

    /// Where it is.
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

    fn sync(&self, folder: &str) -> io::Result<()> {
        // A new folder is a name in its parent, so every level up to the root's own parent is synced.
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

/// A file of the operating system.
#[derive(Debug)]
pub struct RealFile(Arc<fs::File>);

impl RealFile {
    /// Uses a file that is open already.
    #[must_use]
    pub fn new(file: fs::File) -> RealFile {
        RealFile(Arc::new(file))
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &fs::File {
        &self.0
    }
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.0.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn read_cached_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let mut parts = [IoSliceMut::new(rest)];
            match rustix::io::preadv2(
                self.0.as_fd(),
                &mut parts,
                offset + done as u64,
                ReadWriteFlags::NOWAIT,
            ) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                // A file system that cannot tell is waited for.
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => return self.read_at(buf, offset),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(done)
    }

    fn read_parts_at(&self, parts: &mut [IoSliceMut<'_>], offset: u64, cached: bool) -> io::Result<usize> {
        let flags = if cached { ReadWriteFlags::NOWAIT } else { ReadWriteFlags::empty() };
        loop {
            match rustix::io::preadv2(self.0.as_fd(), parts, offset, flags) {
                Err(Errno::INTR) => {}
                // A file system that cannot tell is waited for.
                Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) if cached => {
                    return self.read_parts_at(parts, offset, false);
                }
                done => return Ok(done?),
            }
        }
    }

    fn write_at(&self, parts: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut left = parts;
        let mut at = offset;
        while !left.is_empty() {
            let batch = left.len().min(IOV_MAX);
            match rustix::io::pwritev(self.0.as_fd(), &left[..batch], at) {
                Ok(0) if left.iter().any(|part| !part.is_empty()) => {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                Ok(n) => {
                    at += n as u64;
                    IoSlice::advance_slices(&mut left, n);
                    if n == 0 {
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn begin_writing(&self, offset: u64, len_bytes: u64) {
        ahead::begin(&self.0, offset, len_bytes);
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.set_len(len_bytes)
    }

    fn reserve(&self, len_bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self.0.as_fd(), FallocateFlags::KEEP_SIZE, 0, len_bytes) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn prefetch(&self, offset: u64, len_bytes: u64) {
        // Advice only: a refusal costs nothing but time.
        let _ = rustix::fs::fadvise(&*self.0, offset, std::num::NonZeroU64::new(len_bytes), Advice::WillNeed);
    }
}

/// The operating system's source of what nobody can guess.
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
    start: Instant,
}

impl SystemClock {
    /// Starts the monotonic clock at 0.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is where the environment's clock comes from")]
    pub fn new() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
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
        Micros(i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX))
    }
}

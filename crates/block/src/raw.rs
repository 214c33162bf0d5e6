//! A disk outside the store: a raw image file or a block device.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use bygone_model::Details;
use bygone_store::env::{File, RealFile};
use rustix::fs::{FallocateFlags, SeekFrom};

use crate::{Extent, samples};

/// What a tap needs of the disk below it.
pub trait RawDisk: Send + Sync {
    /// The disk's content.
    fn file(&self) -> &dyn File;

    /// The size in bytes.
    fn size_bytes(&self) -> u64;

    /// Makes writes durable, along with what [`RawDisk::identity`] reports.
    ///
    /// # Errors
    /// The error of the medium; writes since the last successful sync may be lost then.
    fn sync(&self) -> io::Result<()>;

    /// Makes a range read as zeroes and reserves its space.
    ///
    /// # Errors
    /// The error of the medium.
    fn zero(&self, offset: u64, len_bytes: u64) -> io::Result<()>;

    /// Makes a range read as zeroes and, if the medium can, frees its space.
    ///
    /// # Errors
    /// The error of the medium.
    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()>;

    /// The offset of the next data at or after `offset`; what lies between is a hole. `None`: no more data.
    ///
    /// # Errors
    /// The error of the medium.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>>;

    /// The offset of the next hole at or after `offset`.
    ///
    /// # Errors
    /// The error of the medium.
    fn next_hole(&self, offset: u64) -> io::Result<u64>;

    /// Calls `each` with the runs of holes and data that make up a range, in order, until it returns false. Returns
    /// whether `each` accepted all of them.
    ///
    /// # Errors
    /// The error of the medium.
    fn extents(&self, offset: u64, len_bytes: u64, each: &mut dyn FnMut(Extent) -> bool) -> io::Result<bool> {
        let end = offset + len_bytes;
        let mut at = offset;
        while at < end {
            let data = self.next_data(at)?.unwrap_or(end).clamp(at, end);
            if data > at {
                if !each(Extent { len_bytes: data - at, zero: true, hole: true }) {
                    return Ok(false);
                }
                at = data;
                continue;
            }
            let hole = self.next_hole(at)?.clamp(at, end);
            // The medium may round to its own blocks; without progress the loop would never end.
            let hole = if hole == at { end } else { hole };
            if !each(Extent { len_bytes: hole - at, zero: false, hole: false }) {
                return Ok(false);
            }
            at = hole;
        }
        Ok(true)
    }

    /// Identifies the disk and its last change, so that a change behind Bygone's back is noticed.
    ///
    /// # Errors
    /// The error of the medium.
    fn identity(&self) -> io::Result<Details>;
}

/// A raw image file or a block device of the operating system.
#[derive(Debug)]
pub struct OsDisk {
    path: PathBuf,
    file: RealFile,
    size_bytes: u64,
    is_device: bool,
}

impl OsDisk {
    /// Opens `path` for reading and writing.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn open(path: &Path) -> io::Result<OsDisk> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true);
        if fs::metadata(path)?.file_type().is_block_device() {
            // O_EXCL on a block device: refused while it is mounted or otherwise in use by the kernel.
            options.custom_flags(rustix::fs::OFlags::EXCL.bits().cast_signed());
        }
        OsDisk::of_file(path, options.open(path)?)
    }

    /// Opens `path` for reading only.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn open_to_read(path: &Path) -> io::Result<OsDisk> {
        // Opening a pipe would block until it has a writer.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        OsDisk::of_file(path, fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?)
    }

    /// The disk at `path`, which `file` has open.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn of_file(path: &Path, file: fs::File) -> io::Result<OsDisk> {
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a file nor a block device"));
        }
        let size_bytes = rustix::fs::seek(&file, SeekFrom::End(0))?;
        Ok(OsDisk {
            path: path.to_owned(),
            file: RealFile::new(file),
            size_bytes,
            is_device: kind.is_block_device(),
        })
    }

    /// Evicts the disk from the page cache, so that later reads come from the medium. After a failed sync the page
    /// cache may show data that never reached the medium, and no later sync writes it.
    ///
    /// # Errors
    /// When earlier writes cannot be made durable.
    pub fn forget_cached(&self) -> io::Result<()> {
        self.file.file().sync_all()?;
        Ok(rustix::fs::fadvise(self.file.file(), 0, None, rustix::fs::Advice::DontNeed)?)
    }

    /// The block size of a block device; `None` for a file.
    ///
    /// # Errors
    /// The error of the operating system.
    pub fn block_bytes(&self) -> io::Result<Option<u32>> {
        if !self.is_device {
            return Ok(None);
        }
        Ok(Some(rustix::fs::ioctl_blksszget(self.file.file())?))
    }

    /// The path of the disk.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file, for locking.
    #[must_use]
    pub fn os_file(&self) -> &fs::File {
        self.file.file()
    }

    fn clear(&self, how: FallocateFlags, offset: u64, len_bytes: u64) -> io::Result<()> {
        match rustix::fs::fallocate(self.file.file(), how | FallocateFlags::KEEP_SIZE, offset, len_bytes) {
            Ok(()) => Ok(()),
            // `INVAL`: a block device whose own blocks are larger than the alignment of the range.
            Err(
                rustix::io::Errno::INVAL
                | rustix::io::Errno::OPNOTSUPP
                | rustix::io::Errno::NODEV
                | rustix::io::Errno::NOSYS,
            ) => write_zeroes(&self.file, offset, len_bytes),
            Err(e) => Err(e.into()),
        }
    }
}

impl RawDisk for OsDisk {
    fn file(&self) -> &dyn File {
        &self.file
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn sync(&self) -> io::Result<()> {
        // Not only the data: if the time of change were lost, the disk would look unlike its mark.
        self.file.file().sync_all()
    }

    fn zero(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.clear(FallocateFlags::ZERO_RANGE, offset, len_bytes)
    }

    fn punch(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        self.clear(FallocateFlags::PUNCH_HOLE, offset, len_bytes)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(self.file.file(), SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            // On a medium without support for holes, everything is data.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP) => {
                Ok(Some(offset).filter(|at| *at < self.size_bytes))
            }
            Err(e) => Err(e.into()),
        }
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        match rustix::fs::seek(self.file.file(), SeekFrom::Hole(offset)) {
            Ok(at) => Ok(at),
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NXIO) => {
                Ok(self.size_bytes)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn identity(&self) -> io::Result<Details> {
        let meta = self.file.file().metadata()?;
        let mut identity = Details::new();
        identity.insert("size_bytes".into(), self.size_bytes.into());
        if self.is_device {
            identity.insert("device".into(), meta.rdev().into());
            // It has no time of change.
            identity.insert(samples::KEY.into(), samples::samples(&self.file, self.size_bytes)?.into());
        } else {
            identity.extend(file_identity(&meta));
        }
        Ok(identity)
    }
}

/// What tells a regular file from others, and from itself before it was written to.
#[must_use]
pub fn file_identity(meta: &fs::Metadata) -> Details {
    // Unlike mtime, ctime cannot be set back.
    let changed = meta.ctime().saturating_mul(1_000_000).saturating_add(meta.ctime_nsec() / 1000);
    let mut identity = Details::new();
    identity.insert("size_bytes".into(), meta.len().into());
    identity.insert("device".into(), meta.dev().into());
    identity.insert("inode".into(), meta.ino().into());
    identity.insert("changed_micros".into(), changed.into());
    identity
}

/// Writes zeroes where the medium has no operation for it.
fn write_zeroes(file: &dyn File, offset: u64, len_bytes: u64) -> io::Result<()> {
    let zeroes = vec![0; (1 << 20).min(len_bytes as usize)];
    let mut at = offset;
    while at < offset + len_bytes {
        let len = (zeroes.len() as u64).min(offset + len_bytes - at);
        file.write_at(&mut [io::IoSlice::new(&zeroes[..len as usize])], at)?;
        at += len;
    }
    Ok(())
}

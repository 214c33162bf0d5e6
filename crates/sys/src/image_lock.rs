//! Locks a raw image against QEMU's tools, and detects images that they use.
//!
//! QEMU marks its use of an image by locking single bytes of it (`block/file-posix.c`, the same since QEMU 2.10): byte
//! 100 + *n* means "I have permission *n*", byte 200 + *n* means "nobody else may have permission *n*". All are *read*
//! locks of the open file description (`F_OFD_SETLK`), so several holders can mark the same byte. A conflict is found
//! by testing (`F_OFD_GETLK`) whether a *write* lock on the opposite byte would be possible. The bytes need not exist
//! in the file. The order is: first mark, then test. Of two processes that race, at least one sees the other.
//!
//! Invariants: while an [`ImageLock`] lives, every byte of both ranges is marked, or, if it is shared, those that QEMU's
//! tools mark to read an image. An [`ImageLock`] is only returned when no other process had marked a conflicting byte.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
};

/// Where the marks "I have permission *n*" start.
const HAS_BASE: i64 = 100;
/// Where the marks "nobody else may have permission *n*" start.
const DENIES_BASE: i64 = 200;
/// Permissions: 0 consistent read, 1 write, 2 write the same again, 3 resize, 4 change the graph (QEMU before 7).
const PERMISSIONS: i64 = 5;
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// What another holder of an image does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageUse {
    /// It writes to the image or changes its size.
    Writes,
    /// It only reads.
    Reads,
    /// It denies others the use of the image, but has no mark of using it itself.
    Reserves,
    /// It holds a write lock on a part of it, which QEMU never does.
    Locks,
}

/// Why an image could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum ImageLockError {
    /// QEMU, one of its tools, or another manager has it open.
    #[error("the image is in use by another process, which {}", match .0 {
        ImageUse::Writes => "writes to it",
        ImageUse::Reads => "reads it",
        ImageUse::Reserves => "reserves it for itself",
        ImageUse::Locks => "has a lock on it",
    })]
    InUse(ImageUse),
    /// The file system does not lock ranges, or the file is not open for reading.
    #[error("the image cannot be locked: {0}")]
    Unlockable(#[source] io::Error),
}

/// The right to an image (a raw file or a block device), as QEMU and its tools understand it. As long as an exclusive one
/// lives they refuse to read or write the image, even when forced to share (`-U`); as long as a shared one lives they
/// refuse to write.
///
/// The lock belongs to the *inode* that was opened: two hand-made device nodes for one device are two images to it. It
/// is released when the process ends, in whichever way.
#[derive(Debug)]
pub struct ImageLock {
    /// Shares the open file description of the caller's file, which owns the locks.
    file: File,
}

impl ImageLock {
    /// The image, through the same open file description: its user shares the lock.
    ///
    /// # Errors
    /// When this process has no descriptors left.
    pub fn file(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Locks the image `file`, which must be open for reading. Neither waits nor reads nor writes.
    ///
    /// The caller's `file`, files cloned from it and the lock share one open file description: take one lock per opened
    /// file. Closing `file` does not release the lock.
    ///
    /// # Errors
    /// [`ImageLockError::InUse`] when another process has it open under these rules, even if only for reading. Nothing
    /// stays locked then.
    pub fn take_exclusive(file: &File) -> Result<ImageLock, ImageLockError> {
        ImageLock::take(
            file,
            &[(HAS_BASE, PERMISSIONS), (DENIES_BASE, PERMISSIONS)],
            &[
                (HAS_BASE + WRITE, PERMISSIONS - WRITE, ImageUse::Writes),
                (HAS_BASE + CONSISTENT_READ, 1, ImageUse::Reads),
                (DENIES_BASE, PERMISSIONS, ImageUse::Reserves),
            ],
        )
    }

    /// Locks the image `file`, which must be open for reading, so that nobody writes to it while it is read; others may
    /// read it too. The marks are those of `qemu-img convert` on its source.
    ///
    /// # Errors
    /// [`ImageLockError::InUse`] when another process may write to it or denies others to read it. Nothing stays locked
    /// then.
    pub fn take_shared(file: &File) -> Result<ImageLock, ImageLockError> {
        ImageLock::take(
            file,
            &[(HAS_BASE + CONSISTENT_READ, 1), (DENIES_BASE + WRITE, 1), (DENIES_BASE + RESIZE, 1)],
            &[
                (HAS_BASE + WRITE, 1, ImageUse::Writes),
                (HAS_BASE + RESIZE, 1, ImageUse::Writes),
                (DENIES_BASE + CONSISTENT_READ, 1, ImageUse::Reserves),
            ],
        )
    }

    /// Marks the ranges `marks`, then tests that no other holder has marked one of `conflicts`.
    fn take(
        file: &File,
        marks: &[(i64, i64)],
        conflicts: &[(i64, i64, ImageUse)],
    ) -> Result<ImageLock, ImageLockError> {
        let lock = ImageLock { file: file.try_clone().map_err(ImageLockError::Unlockable)? };
        for &(first, count) in marks {
            set_lock(lock.file.as_raw_fd(), libc::F_RDLCK, first, count).map_err(|error| {
                match error.raw_os_error() {
                    // Another process's write lock conflicts with this one.
                    Some(libc::EAGAIN | libc::EACCES) => ImageLockError::InUse(ImageUse::Locks),
                    _ => ImageLockError::Unlockable(error),
                }
            })?;
        }
        for &(first, count, use_) in conflicts {
            let marked = is_locked_by_other(lock.file.as_raw_fd(), first, count);
            if marked.map_err(ImageLockError::Unlockable)? {
                return Err(ImageLockError::InUse(use_));
            }
        }
        Ok(lock)
    }
}

impl Drop for ImageLock {
    fn drop(&mut self) {
        for base in [HAS_BASE, DENIES_BASE] {
            // Unlocking fails only for a bad descriptor, which holds no lock.
            let _ = set_lock(self.file.as_raw_fd(), libc::F_UNLCK, base, PERMISSIONS);
        }
    }
}

fn range(kind: i32, first: i64, count: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: first,
        l_len: count,
        // The kernel refuses anything else here for locks of open file descriptions.
        l_pid: 0,
    }
}

fn set_lock(fd: RawFd, kind: i32, first: i64, count: i64) -> io::Result<()> {
    let range = range(kind, first, count);
    #[expect(unsafe_code, reason = "fcntl with a struct argument; rustix does not lock by OFD")]
    // SAFETY: F_OFD_SETLK reads one `flock` through the pointer, which is valid for the whole call.
    let result = unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &raw const range) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether a write lock would be refused. Locks of the same open file description do not count.
fn is_locked_by_other(fd: RawFd, first: i64, count: i64) -> io::Result<bool> {
    let mut range = range(libc::F_WRLCK, first, count);
    #[expect(unsafe_code, reason = "fcntl with a struct argument; rustix does not ask by OFD")]
    // SAFETY: F_OFD_GETLK reads and writes one `flock` through the pointer, which is valid and ours alone.
    let result = unsafe { libc::fcntl(fd, libc::F_OFD_GETLK, &raw mut range) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(i32::from(range.l_type) != libc::F_UNLCK) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_that_a_program_has_locked_in_its_own_way_is_in_use_and_can_be_locked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.img");
        std::fs::write(&path, [0; 512]).unwrap();
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let other = open();
        // The whole file, as many programs do. QEMU takes no write locks.
        set_lock(other.as_raw_fd(), libc::F_WRLCK, 0, 0).unwrap();
        let refused = ImageLock::take_exclusive(&open());
        assert!(matches!(refused, Err(ImageLockError::InUse(ImageUse::Locks))), "{refused:?}");
        drop(other);
        ImageLock::take_exclusive(&open()).unwrap();
    }
}

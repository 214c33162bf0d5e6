//! The FUSE requests for the one file.
//!
//! The file is opened with direct I/O: each read and write of a tool is a request to the device, and none of it is in
//! the page cache. So a write that returned survives the death of this process (the device promises that), writes
//! through another front end are visible at once, and a loop device over the file, which has a page cache of its own,
//! does not cache everything twice. The price is that small reads get no read-ahead; `st_blksize` asks tools for large
//! ones. The file can be memory-mapped where the kernel (6.6 and later) allows that for direct I/O; only mapped pages
//! are cached.
//!
//! No write extends the file, so since Linux 6.2 the kernel does not serialise writes (earlier kernels do).

use std::{
    cell::RefCell,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bygone_store::is_full;
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, OFlags};

use super::bytes::{Bytes, Clearing, Waiting};
use crate::{BlockDevice, IoError};

/// The largest read or write in one request. It is the kernel's own default limit.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Asynchronous requests in flight at a time: those of loop devices and `io_uring`.
const BACKGROUND_MAX: u16 = 64;
/// The I/O size suggested to tools (`st_blksize`).
const PREFERRED_BYTES: u32 = 128 << 10;
/// The attributes never change, and the kernel asks again after a write anyway.
const ATTR_TTL: Duration = Duration::from_secs(3600);
/// `lseek(2)`, Linux.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

thread_local! {
    /// Each thread's read buffer: at most [`REQUEST_BYTES_MAX`] and two blocks.
    static ROOM: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The file system. Its root is the device.
pub(super) struct DeviceFile {
    bytes: Bytes,
    attr: FileAttr,
}

impl DeviceFile {
    /// All times of the file are `made_at`: a device keeps none.
    pub(super) fn new(device: Arc<dyn BlockDevice>, made_at: SystemTime) -> DeviceFile {
        let bytes = Bytes::new(device);
        let geometry = bytes.geometry();
        // Tools look for holes only in files that take less space than their length.
        let used_bytes = answer(|| bytes.used_bytes()).unwrap_or(geometry.size_bytes);
        let attr = FileAttr {
            ino: INodeNo::ROOT,
            size: geometry.size_bytes,
            blocks: used_bytes.div_ceil(512),
            atime: made_at,
            mtime: made_at,
            ctime: made_at,
            crtime: made_at,
            kind: FileType::RegularFile,
            perm: if geometry.read_only { 0o400 } else { 0o600 },
            nlink: 1,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            rdev: 0,
            blksize: PREFERRED_BYTES,
            flags: 0,
        };
        DeviceFile { bytes, attr }
    }

    pub(super) fn waiting(&self) -> &Arc<Waiting> {
        self.bytes.waiting()
    }

    fn is_read_only(&self) -> bool {
        self.bytes.geometry().read_only
    }

    fn write_through(&self, offset: u64, data: &[u8], flags: OpenFlags) -> Result<u32, IoError> {
        let written = self.bytes.write(offset, data)?;
        // O_DSYNC is one of the two bits of O_SYNC, and rustix has one name for both. With direct I/O the kernel leaves
        // it to the file system.
        if OFlags::from_bits_retain(flags.0.cast_unsigned()).intersects(OFlags::SYNC) {
            self.bytes.flush()?;
        }
        Ok(u32::try_from(written).unwrap_or(u32::MAX))
    }

    fn allocate(&self, offset: u64, len_bytes: u64, mode: i32) -> Result<(), Errno> {
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        let keeps_size = mode.contains(FallocateFlags::KEEP_SIZE);
        let clearing = match mode - FallocateFlags::KEEP_SIZE {
            FallocateFlags::PUNCH_HOLE if keeps_size => Clearing::Trim,
            FallocateFlags::ZERO_RANGE => Clearing::Zero,
            // This includes reserving space (mode 0), which could not be honoured.
            _ => return Err(Errno::EOPNOTSUPP),
        };
        if self.is_read_only() {
            return Err(Errno::EROFS);
        }
        let end = offset.checked_add(len_bytes).ok_or(Errno::EFBIG)?;
        if !keeps_size && end > self.attr.size {
            return Err(Errno::ENOSPC);
        }
        answer(|| self.bytes.clear(offset, len_bytes, clearing))
    }

    fn seek(&self, offset: i64, whence: i32) -> Result<i64, Errno> {
        let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        if offset >= self.attr.size {
            return Err(Errno::ENXIO);
        }
        let found = match whence {
            SEEK_DATA => answer(|| self.bytes.next(offset, false))?.ok_or(Errno::ENXIO)?,
            // The end of a file counts as a hole.
            SEEK_HOLE => answer(|| self.bytes.next(offset, true))?.unwrap_or(self.attr.size),
            _ => return Err(Errno::EINVAL),
        };
        i64::try_from(found).map_err(|_| Errno::EOVERFLOW)
    }

    /// Refuses every change of an attribute except times, which are accepted and ignored.
    fn change(&self, mode: Option<u32>, owners: [Option<u32>; 2], size: Option<u64>) -> Result<(), Errno> {
        if size.is_some_and(|size| size != self.attr.size) {
            return Err(if self.is_read_only() { Errno::EROFS } else { Errno::EPERM });
        }
        let [user, group] = owners;
        let differs = mode.is_some_and(|mode| mode & 0o7777 != u32::from(self.attr.perm))
            || user.is_some_and(|user| user != self.attr.uid)
            || group.is_some_and(|group| group != self.attr.gid);
        if differs { Err(Errno::EPERM) } else { Ok(()) }
    }
}

/// Runs a request on the device, maps its error to an errno for the kernel, and logs the details. A panic of the device
/// counts as an I/O error.
fn answer<T>(work: impl FnOnce() -> Result<T, IoError>) -> Result<T, Errno> {
    let Ok(result) = catch_unwind(AssertUnwindSafe(work)) else {
        tracing::error!("a request to a file export panicked");
        return Err(Errno::EIO);
    };
    result.map_err(|error| match error {
        IoError::ReadOnly => Errno::EROFS,
        IoError::Invalid { .. } => Errno::EINVAL,
        IoError::Full | IoError::Paused => Errno::ENOSPC,
        IoError::Medium(ref source) if is_full(source) => Errno::ENOSPC,
        IoError::WouldBlock | IoError::Closing | IoError::Store(_) | IoError::Medium(_) => {
            tracing::warn!(%error, "a request to a file export failed");
            Errno::EIO
        }
    })
}

/// Answers a request that returns no data.
fn reply_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for DeviceFile {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Older kernels lack some of these flags; all of them are optional.
        for wanted in [InitFlags::FUSE_ASYNC_DIO, InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP] {
            let _ = config.add_capabilities(wanted);
        }
        let _ = config.set_max_write(REQUEST_BYTES_MAX);
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn getattr(&self, _req: &Request, _ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&ATTR_TTL, &self.attr);
    }

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.change(mode, [uid, gid], size) {
            Ok(()) => reply.attr(&ATTR_TTL, &self.attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _req: &Request, _ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let writes = flags.acc_mode() != OpenAccMode::O_RDONLY;
        if writes && self.is_read_only() {
            return reply.error(Errno::EROFS);
        }
        let mut how = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        // A file that was opened only to read has nothing to make durable when it is closed.
        how.set(FopenFlags::FOPEN_NOFLUSH, !writes);
        reply.opened(FileHandle(u64::from(writes)), how);
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        ROOM.with_borrow_mut(|room| {
            match answer(|| self.bytes.read(offset, size.min(REQUEST_BYTES_MAX) as usize, room)) {
                Ok(data) => reply.data(data),
                Err(errno) => reply.error(errno),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match answer(|| self.write_through(offset, data, flags)) {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply_empty(reply, if fh == FileHandle(0) { Ok(()) } else { answer(|| self.bytes.flush()) });
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply_empty(reply, answer(|| self.bytes.flush()));
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        reply_empty(reply, self.allocate(offset, length, mode));
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.seek(offset, whence) {
            Ok(found) => reply.offset(found),
            Err(errno) => reply.error(errno),
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(self.attr.size / 512, 0, 0, 1, 0, 512, 255, 512);
    }
}

//! Starts write-back early.
#![expect(unsafe_code, reason = "neither `std` nor `rustix` has sync_file_range")]

use std::{fs::File, io, os::fd::AsRawFd};

/// Starts write-back of a range of `file` (`sync_file_range`), without waiting for it or for write-back already in
/// progress. It makes nothing durable: the `fdatasync` that does will have less to write.
///
/// # Errors
/// The error of the operating system, such as that the file is not a regular one.
pub fn begin_writing(file: &File, offset: u64, len_bytes: u64) -> io::Result<()> {
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let offset = i64::try_from(offset).map_err(too_large)?;
    let len_bytes = i64::try_from(len_bytes).map_err(too_large)?;
    // SAFETY: the descriptor is open for as long as `file` is borrowed; no memory is passed.
    let done =
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len_bytes, libc::SYNC_FILE_RANGE_WRITE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

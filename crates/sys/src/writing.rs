//! Giving the medium something to do early.
#![expect(unsafe_code, reason = "neither `std` nor `rustix` has sync_file_range")]

use std::{fs::File, io, os::fd::AsRawFd};

/// Asks for what was written to a range of `file` to be taken to the medium soon (`sync_file_range`), and waits neither for that
/// nor for what is on its way already. It makes nothing durable: that is `fdatasync`'s business, which finds less to do.
///
/// # Errors
/// What the system says, such as that the file is no regular one.
pub fn begin_writing(file: &File, offset: u64, len_bytes: u64) -> io::Result<()> {
    let too_large = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let offset = i64::try_from(offset).map_err(too_large)?;
    let len_bytes = i64::try_from(len_bytes).map_err(too_large)?;
    // SAFETY: the descriptor is open for as long as `file` is borrowed; no memory of ours is passed.
    let done =
        unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len_bytes, libc::SYNC_FILE_RANGE_WRITE) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

//! Small files that are written whole: a crash or a power cut leaves the old content or the new one, and no part of it.
//!
//! This is the one way in which Bygone replaces a file, so that none of them forgets a step. Two that write the same
//! file at once must exclude each other: both write to the same file `….part` first.

use std::{
    ffi::OsString,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Writes or replaces the file `path`, atomically and durably.
///
/// # Errors
/// The error of the operating system. Then the file is as it was, unless only its folder could not be synced.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_whole_by(path, bytes, |part| fs::rename(part, path))
}

/// As [`write_whole`], with a `rename` that gives the complete file its name, and may refuse to.
///
/// # Errors
/// As [`write_whole`], and those of `rename`.
pub fn write_whole_by(
    path: &Path,
    bytes: &[u8],
    rename: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let part = part_of(path);
    let write = || {
        let mut file = fs::File::create(&part)?;
        file.write_all(bytes)?;
        // Before it has its name: otherwise a power cut can leave the name with nothing in the file.
        file.sync_all()?;
        rename(&part)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&part);
    })?;
    path.parent().map_or(Ok(()), |folder| {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        fs::File::open(folder)?.sync_all()
    })
}

/// The file is written under this name first.
fn part_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".part");
    PathBuf::from(name)
}

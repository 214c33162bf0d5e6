//! Copies the segments that the holder before may still be writing.
//!
//! That holder does not know yet that the log was taken over. Until it looks it goes on in the segment that it has open,
//! and may give one that is full its index. So nothing is recovered from these files: they are copied into files of the
//! new holder, which supersede them, and what is written to them from then on is in no file that anybody reads.
//!
//! Segments are sealed in order, so these are the newest ones, back to the first that is sealed. They are copied from the
//! last one on: a copy supersedes everything from its number on that an earlier holder made.

use std::{io::IoSlice, sync::Arc};

use super::super::{LogKey, scan};
use crate::{
    env::{Dir, File},
    error::{Error, Result},
    format::segment,
    place::{SegmentFiles, names},
};

const CHUNK_BYTES: usize = 1 << 20;

/// Fails if there is no room for the copies. This is found out before the log is taken over: afterwards it could not be
/// opened by anybody until there is room. `newest` is the term in which it is held so far.
pub(super) fn check_room(dir: &Arc<dyn Dir>, log: &LogKey, newest: u32) -> Result<()> {
    let files = SegmentFiles::new(dir.clone(), newest.saturating_add(1), *log);
    let numbers = files.list()?;
    let mut wanted = 0;
    for (number, file) in open(&files, &numbers, log)? {
        wanted += file.len_bytes().map_err(|e| Error::io("reading", &segment::label(number), e))?;
    }
    match dir.free_bytes() {
        Ok(free) if free < wanted => Err(Error::Full { name: "the segments in use".to_owned() }),
        // If the medium cannot tell, writing to it will.
        _ => Ok(()),
    }
}

/// Makes sure that nobody else writes to a segment that is not sealed; returns the segments that there are, in order.
/// `look` is called before anything is changed.
pub(super) fn copy_open(
    files: &SegmentFiles,
    log: &LogKey,
    look: &dyn Fn() -> Result<()>,
) -> Result<Vec<u32>> {
    files.remove_parts();
    // Listed once: what the holder before begins later is no part of the log.
    let numbers = files.list()?;
    for (number, from) in open(files, &numbers, log)? {
        look()?;
        let fill = |to: &dyn File| copy(&*from, to, &segment::label(number));
        files.write_anew(files.own_name(number), &fill, look)?;
    }
    files.remove_superseded(names(files.dir())?, look)?;
    Ok(numbers)
}

/// The files of earlier holders that one of them may still have open for writing, the last one first.
fn open(files: &SegmentFiles, numbers: &[u32], log: &LogKey) -> Result<Vec<(u32, Arc<dyn File>)>> {
    let mut open = Vec::new();
    for &number in numbers.iter().rev() {
        let Some(file) = files.open(number)? else { continue };
        // A power cut may have left only its trailer; then its index is made anew.
        if scan::sealed_index(&*file, number, log)?.is_some() {
            break;
        }
        if files.is_earlier(number) {
            open.push((number, file));
        }
    }
    Ok(open)
}

/// Copies a file of which another process may be writing the end.
///
/// It is read twice. A record that the first reading finds is behind others that were written before it, and the second
/// reading finds those whole; what only the second one finds is left out. In a single reading one of them could be missing
/// in front of another that proves it to have been durable, and would count as damage.
fn copy(from: &dyn File, to: &dyn File, name: &str) -> Result<()> {
    let len_bytes = from.len_bytes().map_err(|e| Error::io("reading", name, e))?;
    let failed = |e| Error::io("writing anew", name, e);
    if len_bytes == 0 {
        return Ok(());
    }
    let (mut chunk, mut at, mut end) = (vec![0; CHUNK_BYTES], 0, 0);
    while at < len_bytes {
        let got = read(from, &mut chunk, at, len_bytes).map_err(|e| Error::unread(name, at, e))?;
        end = chunk[..got].iter().rposition(|byte| *byte != 0).map_or(end, |last| at + last as u64 + 1);
        if got == 0 {
            break;
        }
        at += got as u64;
    }
    to.reserve(len_bytes).map_err(failed)?;
    at = 0;
    while at < end {
        let got = read(from, &mut chunk, at, end).map_err(|e| Error::unread(name, at, e))?;
        if got == 0 {
            break;
        }
        to.write_at(&mut [IoSlice::new(&chunk[..got])], at).map_err(failed)?;
        at += got as u64;
    }
    // The last record may end with zeroes.
    to.set_len(len_bytes).map_err(failed)
}

/// Reads from `at` on, but not beyond `end`.
fn read(from: &dyn File, chunk: &mut [u8], at: u64, end: u64) -> std::io::Result<usize> {
    let len = (end - at).min(chunk.len() as u64) as usize;
    from.read_at(&mut chunk[..len], at)
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Mutex};

    use super::*;
    use crate::env::RealDir;

    /// A file to which another process appends bytes at these offsets, some after each reading.
    struct Growing {
        bytes: Mutex<Vec<u8>>,
        writes: Mutex<Vec<Vec<usize>>>,
    }

    impl File for Growing {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
            let mut bytes = self.bytes.lock().unwrap();
            let from = (offset as usize).min(bytes.len());
            let got = buf.len().min(bytes.len() - from);
            buf[..got].copy_from_slice(&bytes[from..from + got]);
            let mut writes = self.writes.lock().unwrap();
            let now = if writes.is_empty() { Vec::new() } else { writes.remove(0) };
            now.into_iter().for_each(|at| bytes[at] = 1);
            Ok(got)
        }
        fn write_at(&self, _: &mut [IoSlice<'_>], _: u64) -> io::Result<()> {
            unreachable!("it is only read")
        }
        fn sync(&self) -> io::Result<()> {
            unreachable!("it is only read")
        }
        fn len_bytes(&self) -> io::Result<u64> {
            Ok(self.bytes.lock().unwrap().len() as u64)
        }
        fn set_len(&self, _: u64) -> io::Result<()> {
            unreachable!("it is only read")
        }
        fn reserve(&self, _: u64) -> io::Result<()> {
            unreachable!("it is only read")
        }
        fn prefetch(&self, _: u64, _: u64) {}
    }

    #[test]
    fn a_copy_of_a_file_that_grows_meanwhile_has_no_gap() {
        let mut bytes = vec![0; 2 * CHUNK_BYTES];
        bytes[8] = 1;
        // While the second chunk is read, something has come in the first one, and something behind it; more follows.
        let writes = vec![vec![100, CHUNK_BYTES + 8], vec![CHUNK_BYTES + 16], vec![CHUNK_BYTES + 24]];
        let from = Growing { bytes: Mutex::new(bytes), writes: Mutex::new(writes) };
        let folder = tempfile::tempdir().unwrap();
        let to = RealDir::new(folder.path()).create("copy").unwrap();
        copy(&from, &*to, "copy").unwrap();
        let copied = std::fs::read(folder.path().join("copy")).unwrap();
        let there: Vec<usize> = (0..copied.len()).filter(|at| copied[*at] != 0).collect();
        assert_eq!((copied.len(), there), (2 * CHUNK_BYTES, vec![8, 100, CHUNK_BYTES + 8]));
    }
}

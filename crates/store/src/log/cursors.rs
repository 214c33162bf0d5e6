//! Cursors that outlive their followers. A new one is durable before the one it replaces is removed. So a follower
//! that dies resumes where it was or a little earlier, and never skips anything that it has not processed.

use std::io::IoSlice;

use bygone_model::Seq;

use super::{Log, follow::Cursor};
use crate::{
    env::Dir,
    error::{Error, Result, is_unreadable},
    format::cursor,
};

impl Log {
    /// Saves up to where the follower `name` (lower-case letters, digits and hyphens) has processed this log. Durable
    /// on return. Only one thread at a time may do this for a name.
    ///
    /// # Errors
    /// When it cannot be written, or not by this holder; then the previous cursor still counts.
    ///
    /// # Panics
    /// When `name` is invalid: names are given by programs, not by people.
    pub fn keep_cursor(&self, name: &str, seq: Seq) -> Result<()> {
        assert!(cursor::is_name(name), "a follower's name");
        self.check_poison()?;
        self.check_holder()?;
        let older = cursor_numbers(&*self.dir, name)?;
        let next = older.last().map_or(1, |newest| newest + 1);
        let file_name = cursor::file_name(name, next);
        let io = |e| Error::io("writing", &file_name, e);
        let file = self.dir.create(&file_name).map_err(io)?;
        let bytes = cursor::encode(&self.id(), seq);
        let written = file
            .write_at(&mut [IoSlice::new(&bytes)], 0)
            .and_then(|()| file.sync())
            .and_then(|()| self.dir.sync(cursor::folder()));
        if let Err(e) = written {
            let _ = self.dir.remove(&file_name);
            return Err(io(e));
        }
        for number in older {
            // One that cannot be removed now is removed the next time.
            let _ = self.dir.remove(&cursor::file_name(name, number));
        }
        self.check_poison()
    }

    /// Up to where the follower `name` has processed this log; the beginning if nothing is saved.
    ///
    /// # Errors
    /// When it cannot be read, or belongs to another log.
    ///
    /// # Panics
    /// As [`Log::keep_cursor`].
    pub fn kept_cursor(&self, name: &str) -> Result<Cursor> {
        assert!(cursor::is_name(name), "a follower's name");
        for number in cursor_numbers(&*self.dir, name)?.into_iter().rev() {
            let file_name = cursor::file_name(name, number);
            let mut bytes = [0; cursor::CURSOR_BYTES];
            let got = match self.dir.open(&file_name).and_then(|file| file.read_at(&mut bytes, 0)) {
                // An older one, or the beginning: the follower gets some records again and misses none.
                Err(e) if is_unreadable(&e) => continue,
                got => got.map_err(|e| Error::io("reading", &file_name, e))?,
            };
            match cursor::decode(&bytes[..got]) {
                Some((log, seq)) if log == self.id() => return Ok(Cursor { log, seq }),
                Some(_) => return Err(Error::OtherLog),
                // Cut off by a power cut while it was written.
                None => {}
            }
        }
        Ok(Cursor { log: self.id(), seq: Seq::ZERO })
    }
}

/// The numbers of a follower's saved cursors, in order.
fn cursor_numbers(dir: &dyn Dir, name: &str) -> Result<Vec<u64>> {
    let files = dir.list(cursor::folder()).map_err(|e| Error::io("listing", cursor::folder(), e))?;
    let mut numbers: Vec<u64> = files.iter().filter_map(|file| cursor::number_of(file, name)).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

//! Reads a disk that is damaged in places: one damaged block costs only that block, and is recorded.
//!
//! If the medium itself has gone, every block looks unreadable. A copy of zeroes would seem to be what is left of the
//! disk, so reading ends once more blocks in a row cannot be read than a bad part of a medium explains.

use std::{io, ops::Range};

use crate::{BlockDevice, IoError, Reading};

/// The granularity of the damage that is recorded.
const BLOCK_BYTES: usize = 4096;
/// The most ranges that are listed; the last one is then extended over all later damage.
const RANGES_MAX: usize = 4096;
/// The most blocks in a row that the medium may not be able to read: 64 MiB, as much as a whole segment has.
const IN_A_ROW_MAX: usize = 16_384;

/// The ranges that could not be read so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    ranges: Vec<Range<u64>>,
    /// How many blocks the medium could not read since it last read one.
    in_a_row: usize,
}

/// Why a block is not read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// It can never be read again.
    Damaged,
    /// The medium cannot read it.
    Unreadable,
}

impl Unread {
    /// Fills `buf` from `at`; damaged parts are zeroes, and recorded.
    ///
    /// # Errors
    /// When the read fails for any reason other than damage, or the medium reads nothing at all any more.
    pub fn read(&mut self, device: &dyn BlockDevice, at: u64, buf: &mut [u8]) -> Result<(), IoError> {
        match device.read(at, buf, Reading::MayWait) {
            Err(error) if flaw_of(&error).is_some() => {}
            Ok(()) => {
                self.in_a_row = 0;
                return Ok(());
            }
            failed => return failed,
        }
        for (i, block) in buf.chunks_mut(BLOCK_BYTES).enumerate() {
            let at = at + (i * BLOCK_BYTES) as u64;
            let Err(error) = device.read(at, block, Reading::MayWait) else {
                self.in_a_row = 0;
                continue;
            };
            match flaw_of(&error) {
                Some(Flaw::Unreadable) if self.in_a_row >= IN_A_ROW_MAX => {
                    let what =
                        format!("the medium reads nothing any more, from byte {at} of the disk on: {error}");
                    return Err(IoError::Medium(io::Error::other(what)));
                }
                Some(flaw) => {
                    self.in_a_row = if flaw == Flaw::Unreadable { self.in_a_row + 1 } else { 0 };
                    block.fill(0);
                    self.note(at, block.len() as u64);
                }
                None => return Err(error),
            }
        }
        Ok(())
    }

    fn note(&mut self, first: u64, len_bytes: u64) {
        let full = self.ranges.len() >= RANGES_MAX;
        match self.ranges.last_mut() {
            Some(last) if full || last.end == first => last.end = first + len_bytes,
            _ => self.ranges.push(first..first + len_bytes),
        }
    }

    /// The ranges, in bytes, in the order in which they were found.
    #[must_use]
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }
}

fn flaw_of(error: &IoError) -> Option<Flaw> {
    let IoError::Store(source) = error else { return None };
    match source.downcast_ref::<bygone_store::Error>()? {
        bygone_store::Error::Damaged { damage: bygone_store::Damage::Unreadable, .. } => {
            Some(Flaw::Unreadable)
        }
        bygone_store::Error::Damaged { .. } => Some(Flaw::Damaged),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bygone_store::{Damage, Error, Place};

    use super::*;
    use crate::{Extent, Geometry, Writing};

    /// A disk of which nothing can be read in a range.
    struct Flawed(Range<u64>, Damage);

    impl BlockDevice for Flawed {
        fn geometry(&self) -> Geometry {
            unreachable!("only read")
        }
        fn read(&self, offset: u64, buf: &mut [u8], _: Reading) -> Result<(), IoError> {
            buf.fill(7);
            let place = Place { file: "log/0000000001".to_owned(), offset };
            match self.0.start < offset + buf.len() as u64 && offset < self.0.end {
                true => Err(IoError::Store(Arc::new(Error::Damaged { place, damage: self.1 }))),
                false => Ok(()),
            }
        }
        fn write(&self, _: &[Writing<'_>]) -> Result<(), IoError> {
            unreachable!("only read")
        }
        fn flush(&self) -> Result<(), IoError> {
            unreachable!("only read")
        }
        fn extents(&self, _: u64, _: u64, _: &mut dyn FnMut(Extent) -> bool) -> Result<(), IoError> {
            unreachable!("only read")
        }
        fn prefetch(&self, _: u64, _: u64) {}
    }

    const MIB: u64 = 1 << 20;

    /// Reads a disk of 200 MiB in pieces; how far that went, and whether it failed then.
    fn read_all(flawed: &Flawed, unread: &mut Unread) -> (u64, bool) {
        let mut piece = vec![0; MIB as usize];
        let failed = (0..200).find(|at| unread.read(flawed, at * MIB, &mut piece).is_err());
        (failed.unwrap_or(200) * MIB, failed.is_some())
    }

    #[test]
    fn a_medium_that_has_gone_is_not_taken_for_a_disk_of_damaged_blocks() {
        let gone = Flawed(8 * MIB..u64::MAX, Damage::Unreadable);
        assert_eq!(read_all(&gone, &mut Unread::default()), (72 * MIB, true));
        // A bad part of it, and damage of any length, cost what is there.
        for flawed in
            [Flawed(8 * MIB..72 * MIB, Damage::Unreadable), Flawed(8 * MIB..190 * MIB, Damage::Checksum)]
        {
            let mut unread = Unread::default();
            assert_eq!(read_all(&flawed, &mut unread), (200 * MIB, false));
            assert_eq!(unread.ranges(), std::slice::from_ref(&flawed.0));
        }
    }
}

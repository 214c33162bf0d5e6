//! Reads a disk that is damaged in places: one damaged block costs only that block, and is recorded.

use std::ops::Range;

use crate::{BlockDevice, IoError, Reading};

/// The granularity of the damage that is recorded.
const BLOCK_BYTES: usize = 4096;
/// The most ranges that are listed; the last one is then extended over all later damage.
const RANGES_MAX: usize = 4096;

/// The ranges that could not be read so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread(Vec<Range<u64>>);

impl Unread {
    /// Fills `buf` from `at`; damaged parts are zeroes, and recorded.
    ///
    /// # Errors
    /// When the read fails for any reason other than damage.
    pub fn read(&mut self, device: &dyn BlockDevice, at: u64, buf: &mut [u8]) -> Result<(), IoError> {
        match device.read(at, buf, Reading::MayWait) {
            Err(error) if is_damage(&error) => {}
            done => return done,
        }
        for (i, block) in buf.chunks_mut(BLOCK_BYTES).enumerate() {
            let at = at + (i * BLOCK_BYTES) as u64;
            match device.read(at, block, Reading::MayWait) {
                Err(error) if is_damage(&error) => {
                    block.fill(0);
                    self.note(at, block.len() as u64);
                }
                done => done?,
            }
        }
        Ok(())
    }

    fn note(&mut self, first: u64, len_bytes: u64) {
        let full = self.0.len() >= RANGES_MAX;
        match self.0.last_mut() {
            Some(last) if full || last.end == first => last.end = first + len_bytes,
            _ => self.0.push(first..first + len_bytes),
        }
    }

    /// The ranges, in bytes, in the order in which they were found.
    #[must_use]
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }
}

fn is_damage(error: &IoError) -> bool {
    let IoError::Store(source) = error else { return false };
    let damaged = source.downcast_ref::<bygone_store::Error>();
    matches!(damaged, Some(bygone_store::Error::Damaged { .. }))
}

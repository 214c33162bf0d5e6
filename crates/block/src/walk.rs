//! Walks over a whole disk in pieces: to copy it, to fill another one with it, to find its changes.
//!
//! Invariants:
//! - the pieces cover the disk from the first byte to the last, and each byte is in exactly one piece that was taken;
//! - the caller is asked before each piece whether to go on, so a cancellation takes effect within one piece;
//! - a piece that cannot be taken now is retried, and no later one is taken before it;
//! - memory is bounded by one piece and a map of [`MAP_BYTES`], however large or fragmented the disk is.

mod unread;

use std::ops::Range;

pub use self::unread::Unread;
use crate::{Extent, device::PAUSE};

/// Extents are queried in ranges of this size, which is also the largest piece of zeroes.
const MAP_BYTES: u64 = 64 << 20;
/// Zeroes are skipped in whole granules of this size: smaller ones are cheaper to read than to query.
const GRANULE_BYTES: u64 = 64 << 10;
/// At least as large as the largest block that is compared.
static ZEROES: [u8; GRANULE_BYTES as usize] = [0; GRANULE_BYTES as usize];

/// The parameters of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The size of the disk.
    pub size_bytes: u64,
    /// The largest piece with data. A multiple of 64 KiB; no piece with data crosses a multiple of it.
    pub piece_bytes: u64,
}

/// A part of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its offset in bytes.
    pub at: u64,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// It is known to read as zeroes.
    pub zero: bool,
}

/// The result of taking a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Took {
    /// It is done.
    All,
    /// Nothing was taken, for lack of room: the piece is retried after a while.
    NothingYet,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The whole disk was covered.
    Whole,
    /// The caller cancelled it.
    GivenUp,
}

/// Queries the extents of a range of a disk, as [`crate::BlockDevice::extents`] does.
pub type Map<'a, E> = &'a mut dyn FnMut(u64, u64, &mut dyn FnMut(Extent) -> bool) -> Result<(), E>;

impl Walk {
    /// Calls `take` with each piece, and with what `map` knows of it. `keep_going` gets the bytes done so far and the
    /// size.
    ///
    /// # Errors
    /// The first error of `map` or `take`.
    pub fn go<E>(
        &self,
        map: Map<'_, E>,
        take: &mut dyn FnMut(Piece) -> Result<Took, E>,
        keep_going: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<End, E> {
        let mut start = 0;
        while start < self.size_bytes {
            let end = self.size_bytes.min(start + MAP_BYTES);
            let has_data = granules_with_data(start, end - start, map)?;
            let mut at = start;
            for run in has_data.chunk_by(|one, next| one == next) {
                let len_bytes = (run.len() as u64 * GRANULE_BYTES).min(end - at);
                let run = Piece { at, len_bytes, zero: !run[0] };
                if self.take_run(run, take, keep_going)? == End::GivenUp {
                    return Ok(End::GivenUp);
                }
                at += len_bytes;
            }
            start = end;
        }
        Ok(End::Whole)
    }

    fn take_run<E>(
        &self,
        run: Piece,
        take: &mut dyn FnMut(Piece) -> Result<Took, E>,
        keep_going: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<End, E> {
        let end = run.at + run.len_bytes;
        let mut at = run.at;
        while at < end {
            if !keep_going(at, self.size_bytes) {
                return Ok(End::GivenUp);
            }
            let len =
                if run.zero { end - at } else { (self.piece_bytes - at % self.piece_bytes).min(end - at) };
            match take(Piece { at, len_bytes: len, zero: run.zero })? {
                Took::All => at += len,
                Took::NothingYet => std::thread::sleep(PAUSE),
            }
        }
        Ok(End::Whole)
    }
}

/// A map that knows nothing: everything may be data.
///
/// # Errors
/// None.
pub fn all_data<E>(_: u64, len_bytes: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<(), E> {
    each(Extent { len_bytes, zero: false, hole: false });
    Ok(())
}

/// Which granules of a range have data in them. The range starts at a granule.
fn granules_with_data<E>(start: u64, len_bytes: u64, map: Map<'_, E>) -> Result<Vec<bool>, E> {
    let mut has_data = vec![false; len_bytes.div_ceil(GRANULE_BYTES) as usize];
    let mut at = 0;
    map(start, len_bytes, &mut |extent| {
        let end = (at + extent.len_bytes).min(len_bytes);
        if !extent.zero && end > at {
            has_data[(at / GRANULE_BYTES) as usize..end.div_ceil(GRANULE_BYTES) as usize].fill(true);
        }
        at = end;
        true
    })?;
    if at < len_bytes {
        // A part that the map did not cover is not known to be zeroes.
        has_data[(at / GRANULE_BYTES) as usize..].fill(true);
    }
    Ok(has_data)
}

/// The parts of `new` that differ from `old`, in whole blocks of `block_bytes` and in as few parts as possible. Without
/// `old`, the parts that are not zeroes.
///
/// # Panics
/// When `old` is shorter than `new`, or `block_bytes` is 0 or more than 65,536.
pub fn differing<'a>(
    new: &'a [u8],
    old: Option<&'a [u8]>,
    block_bytes: usize,
) -> impl Iterator<Item = Range<usize>> + 'a {
    let block = move |start: usize| start..(start + block_bytes).min(new.len());
    let differs = move |range: Range<usize>| match old {
        Some(old) => new[range.clone()] != old[range],
        None => new[range.clone()] != ZEROES[..range.len()],
    };
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < new.len() && !differs(block(at)) {
            at += block_bytes;
        }
        let start = at;
        while at < new.len() && differs(block(at)) {
            at = block(at).end;
        }
        (start < at).then_some(start..at)
    })
}

#[cfg(test)]
mod tests;

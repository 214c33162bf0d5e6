//! Going over a whole disk in pieces: to copy it, to fill another one with it, to find out what has changed on it.
//!
//! Invariants:
//! - the pieces follow one another from the first byte to the last, and each byte is in exactly one that was taken;
//! - before each piece whoever walks is asked whether to go on, so giving up is noticed within one piece;
//! - a piece that cannot be taken now is taken later, and no other before it;
//! - what is in memory is one piece and a map of [`MAP_BYTES`], however large or fragmented the disk is.

mod unread;

use std::ops::Range;

pub use self::unread::Unread;
use crate::{Extent, device::PAUSE};

/// Extents are asked for over this much at a time. A piece of zeroes is no longer than that.
const MAP_BYTES: u64 = 64 << 20;
/// Zeroes are left out in whole granules of this size: fragments that are smaller are cheaper to read than to ask about.
const GRANULE_BYTES: u64 = 64 << 10;
/// More than the largest block that is compared.
static ZEROES: [u8; GRANULE_BYTES as usize] = [0; GRANULE_BYTES as usize];

/// How to go over a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walk {
    /// The size of the disk.
    pub size_bytes: u64,
    /// A piece with data is at most so long, and reaches over no multiple of this; itself a multiple of 64 KiB.
    pub piece_bytes: u64,
}

/// A part of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins, in bytes.
    pub at: u64,
    /// Its length in bytes.
    pub len_bytes: u64,
    /// It is known to read as zeroes.
    pub zero: bool,
}

/// What came of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Took {
    /// It is done.
    All,
    /// Nothing, for want of room: it is tried again after a while.
    NothingYet,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The whole disk was gone over.
    Whole,
    /// It was no longer wanted.
    GivenUp,
}

/// Says which extents make up a range of a disk, as [`crate::BlockDevice::extents`] does.
pub type Map<'a, E> = &'a mut dyn FnMut(u64, u64, &mut dyn FnMut(Extent) -> bool) -> Result<(), E>;

impl Walk {
    /// Gives each piece to `take`, with what `map` knows of it. `keep_going` gets the bytes that are done and the size.
    ///
    /// # Errors
    /// The first one of `map` or `take`.
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

/// A map of a disk of which nothing is known before it is read.
///
/// # Errors
/// None.
pub fn all_data<E>(_: u64, len_bytes: u64, each: &mut dyn FnMut(Extent) -> bool) -> Result<(), E> {
    each(Extent { len_bytes, zero: false, hole: false });
    Ok(())
}

/// Which granules of a range that begins with one have data in them.
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
        // What nobody spoke of is not known to be zeroes.
        has_data[(at / GRANULE_BYTES) as usize..].fill(true);
    }
    Ok(has_data)
}

/// The parts of `new` that are not as in `old`, in whole blocks of `block_bytes` and in as few parts as possible. Without `old`,
/// those that are not zeroes.
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
